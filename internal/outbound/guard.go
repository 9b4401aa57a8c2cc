package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accesslog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/recent"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

// Guard holds what every platform's guard takes from its configuration, and does what they all do.
type Guard struct {
	// Who may use the keys: IP addresses, CIDR ranges, `private_ranges` or `all`, compared with the connection's own
	// peer. Unix sockets count as loopback. Default: loopback only.
	Allow []string `json:"allow,omitempty"`

	// Secrets of which the caller must send one as `Authorization: Bearer <token>`, besides being allowed. They may be
	// placeholders such as `{env.GATEWAY_TOKEN}`. Default: none is asked for.
	Token []string `json:"token,omitempty"`

	// The platform's interfaces that may be called: exact paths, or prefixes that end in `*`. Default: all but those
	// that give out tokens.
	Paths []string `json:"paths,omitempty"`

	// The largest request body, in bytes. Default: 1 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// The largest answer, in bytes. Default: 4 MiB.
	MaxResponse int64 `json:"max_response,omitempty"`

	// How long one attempt may take, from connecting to the answer's last byte; also how long the request's body may
	// take to arrive. Default: 60s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Whether the body's fields are held against the tables of the platform's documents: `off`, `warn` (what does not
	// fit is logged) or `reject` (and not sent). Interfaces without a table, and fields that are in none, pass.
	// Default: off.
	Validate string `json:"validate,omitempty"`

	// Watch follows the calls; nil: nobody does. It is set before Provision's end, and not changed.
	Watch Watch `json:"-"`

	platform *Platform
	metrics  *Metrics
	flights  *Flights
	access   access
	paths    paths
	logger   *zap.Logger
	refusals *ratelog.Limiter
	ctx      caddy.Context
	events   *caddyevents.App
	notifies *notifyPaths
}

const (
	defaultMaxSize     = 1 << 20
	defaultMaxResponse = 4 << 20
	defaultTimeout     = 60 * time.Second
)

// Provision sets defaults, resolves the tokens and reads the lists.
func (g *Guard) Provision(ctx caddy.Context, platform *Platform, metrics *Metrics, flights *Flights) error {
	g.platform, g.metrics, g.flights = platform, metrics, flights
	g.ctx, g.logger = ctx, ctx.Logger()
	g.refusals, g.notifies = ratelog.New(10), &notifyPaths{seen: make(map[string]bool)}
	if g.MaxSize == 0 {
		g.MaxSize = defaultMaxSize
	}
	if g.MaxResponse == 0 {
		g.MaxResponse = defaultMaxResponse
	}
	if g.Timeout == 0 {
		g.Timeout = caddy.Duration(defaultTimeout)
	}
	if g.MaxSize < 0 || g.MaxResponse < 0 || g.Timeout < 0 {
		return locale.Errorf("max_size, max_response and timeout must be positive")
	}
	if err := g.provisionValidate(); err != nil {
		return err
	}
	tokens := make([]string, 0, len(g.Token))
	for _, raw := range g.Token {
		token, literal, err := secret.Resolve(raw)
		if err != nil {
			return locale.Errorf("token: %w", err)
		}
		switch {
		case secret.ShellVariable(raw):
			g.logger.Warn("a value has the form of a shell's variable, which Caddy does not replace: write {env.NAME} instead of $NAME", zap.String("option", "token"))
		case literal:
			g.logger.Warn("a token is written out in the configuration; use a placeholder such as {env.GATEWAY_TOKEN}", zap.String("option", "token"))
		}
		tokens = append(tokens, token)
	}
	var err error
	if g.access, err = newAccess(g.Allow, tokens); err != nil {
		return err
	}
	if g.paths, err = newPaths(g.Paths, platform.DeniedPaths); err != nil {
		return err
	}
	events, err := ctx.App("events")
	if err != nil {
		return locale.Errorf("getting events app: %w", err)
	}
	g.events = events.(*caddyevents.App)
	return nil
}

// Signing returns the guard of whatever handler has one.
func (g *Guard) Signing() *Guard { return g }

// Platform returns the name of the guard's platform.
func (g *Guard) Platform() string { return g.platform.Name }

// Names reports whether the user has named paths that reach one of the platform's, in whatever letter case.
func (g *Guard) Names(path string) bool {
	return slices.ContainsFunc(g.Paths, func(pattern string) bool { return matchPath(strings.ToLower(pattern), path) })
}

// Admit lets r pass or says why not. resolve names the account (nil: there is none). The returned request carries the
// Call, its body in memory, and of the client's headers only those that may go out.
func (g *Guard) Admit(w http.ResponseWriter, r *http.Request, resolve func() Account) (out *http.Request, call *Call, refusal *Error) {
	if call, refusal = g.judge(w, r, resolve, false); refusal != nil {
		return nil, call, refusal
	}
	out = withCall(r, call)
	out.Header = scrub(r.Header)
	body.Set(out, call.Body)
	return out, call, nil
}

// judge makes the call of r or says why not. pooled tells that the call is released when it has ended.
func (g *Guard) judge(w http.ResponseWriter, r *http.Request, resolve func() Account, pooled bool) (call *Call, refusal *Error) {
	defer func() {
		if v := recover(); v != nil {
			g.panicked(v)
			refusal = errInternal.because("panic", nil)
		}
		if refusal != nil && (call == nil || call.Body == nil) && refusal.Reason != brokenBody {
			// A stranger who announces a body, and sends none, is not waited for.
			body.AnswerEarly(w, r, time.Duration(g.Timeout))
		}
	}()
	if reason := g.access.check(r); reason != "" {
		return nil, forbidden[reason].because(reason, nil)
	}
	account := resolve()
	if account == nil {
		return nil, errNoMerchant.because("no_merchant", nil)
	}
	front := callFrom(r.Context())
	call = &Call{
		Account:     account,
		platform:    g.platform,
		paths:       &g.paths,
		maxResponse: g.MaxResponse,
		timeout:     time.Duration(g.Timeout),
		client:      r.Context(),
	}
	if front != nil {
		call.client = front.client // the context behind a guard does not end with the client
	}
	if r.URL.Opaque != "" { // it would be sent in place of the path
		return call, g.paths.refusal("").because("path", nil)
	}
	if !g.paths.allowed(r.URL.Path) {
		return call, g.paths.refusal(r.URL.Path).because("path", nil)
	}
	call.path = r.URL.Path
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return call, errBadRequest.status(http.StatusMethodNotAllowed).saying("只接受 POST", "only POST is accepted").because("method", nil)
	}
	// Several or invalid Early-Data fields count as a 1 (RFC 8470, 5.1), and no honest one says anything else.
	if _, early := r.Header["Early-Data"]; early || r.TLS != nil && !r.TLS.HandshakeComplete {
		return call, errBadRequest.status(http.StatusTooEarly).saying("不接受 TLS 早期数据", "TLS early data is not accepted").because("early_data", nil)
	}
	if !isJSON(r.Header["Content-Type"]) {
		return call, errBadRequest.status(http.StatusUnsupportedMediaType).saying("Content-Type 必须是 application/json", "the Content-Type must be application/json").because("content_type", nil)
	}
	if refusal := g.readBody(w, r, call, pooled); refusal != nil {
		return call, refusal
	}
	if refusal := g.validate(r, call); refusal != nil {
		return call, refusal
	}
	g.checkNotifyURL(call)
	return call, g.ask(w, r, call, front)
}

// brokenBody is the reason of a body that has been waited for already.
const brokenBody = "broken_body"

func (g *Guard) readBody(w http.ResponseWriter, r *http.Request, call *Call, pooled bool) *Error {
	var err error
	if pooled {
		call.body, err = body.ReadRequestPooled(w, r, g.MaxSize, time.Duration(g.Timeout))
		call.Body = call.body.Bytes
	} else {
		call.Body, err = body.ReadRequest(w, r, g.MaxSize, time.Duration(g.Timeout))
	}
	switch {
	case errors.Is(err, body.ErrTooLarge):
		return errBadRequest.status(http.StatusRequestEntityTooLarge).saying(
			fmt.Sprintf("请求体超过 %d 字节", g.MaxSize), fmt.Sprintf("the body is larger than %d bytes", g.MaxSize)).because("too_large", nil)
	case err != nil:
		return errBadRequest.saying("请求体未能完整读取", "the body could not be read whole").because(brokenBody, err)
	case len(call.Body) == 0:
		return errBadRequest.saying("请求体为空", "the body is empty").because("empty_body", nil)
	}
	return nil
}

// Serve admits r, runs next and makes sure that the client is told the outcome, whatever happens. It returns nil or, for
// an aborted connection, panics again with http.ErrAbortHandler: the gateway writes its answers itself.
func (g *Guard) Serve(w http.ResponseWriter, r *http.Request, resolve func() Account, next caddyhttp.Handler) error {
	start := time.Now()
	admitted, call, refusal := g.Admit(w, r, resolve)
	if refusal != nil {
		g.Answer(w, r, call, refusal, start)
		return nil
	}
	call.placeholders(r)
	g.flights.Begin()
	defer g.flights.End()
	defer call.heard(nil) // should somebody panic

	start = time.Now()
	delete(w.Header(), OutcomeHeader) // what comes in it is said by whoever is behind the guard
	type line struct {
		name   string
		values []string
	}
	before := make([]line, 0, 8) // rather than a clone of the map, which costs more
	for name, values := range w.Header() {
		before = append(before, line{name, values})
	}
	out := newOutcomeWriter(w, call)
	failure := g.run(out, admitted, call, next)
	if !out.wrote {
		// What a handler behind the guard set before it failed belongs to an answer that does not come.
		clear(w.Header())
		for _, line := range before {
			w.Header()[line.name] = line.values
		}
	}
	switch {
	case failure == nil && out.wrote:
		g.finish(w, r, call, Outcome(out.outcome[0]), call.errCode, start)
	case failure == nil:
		g.Answer(w, r, call, g.internal(call, "no_handler", fmt.Errorf("no handler answered behind the guard")), start)
	case out.wrote:
		// The head of an answer is out already; cutting the connection is the only honest end.
		g.log(r, call, failure, nil)
		g.finish(nil, r, call, call.outcome(), failure.Code, start)
		panic(http.ErrAbortHandler)
	default:
		g.Answer(w, r, call, failure, start)
	}
	return nil
}

// run calls next and turns whatever comes of it into an *Error.
func (g *Guard) run(w http.ResponseWriter, r *http.Request, call *Call, next caddyhttp.Handler) (failure *Error) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				failure = g.internal(call, "aborted", http.ErrAbortHandler)
				return
			}
			g.panicked(v)
			failure = g.internal(call, "panic", nil)
		}
	}()
	return g.classify(call, next.ServeHTTP(w, r))
}

// panicked logs a panic. The value may hold anything, a key included; its type and the stack tell enough.
func (g *Guard) panicked(v any) {
	g.logger.Error("panic while a call was judged or made", zap.String("type", fmt.Sprintf("%T", v)), zap.ByteString("stack", debug.Stack()))
}

func (g *Guard) classify(call *Call, err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := asError(err); ok {
		return e
	}
	if call.outcome() == NotSent && notDialed(err) {
		return errUnreachable.because("no_upstream", err)
	}
	if call.outcome() == NotSent && isProxyError(err) { // of a transport that is not ours, which may have sent it
		call.sent.Store(true)
	}
	return g.internal(call, "internal", err)
}

// internal is the answer to what nobody foresaw, with the outcome that is true: an answer that was lost on the way
// through the chain leaves the app in the dark.
func (g *Guard) internal(call *Call, reason string, cause error) *Error {
	e := errInternal.because(reason, cause)
	if call.outcome() != NotSent {
		e.Outcome = Unknown
		e.Chinese, e.English = "网关内部错误，结果未知，请先查询", "internal error of the gateway; the outcome is unknown, query before repeating"
	}
	return e
}

// Answer writes the gateway's own answer, and logs and counts it.
func (g *Guard) Answer(w http.ResponseWriter, r *http.Request, call *Call, e *Error, start time.Time) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http."+g.platform.Name+".reason", e.Reason)
	}
	if call != nil && e.Outcome == NotSent && call.conclude() != NotSent {
		e = g.internal(call, e.Reason, e.Cause) // it is sent elsewhere, or was before
	}
	call.heard(nil) // what the platform has answered cannot be passed on
	call.settle(e.Outcome, e.Code, 0, nil)
	g.tell(r, call, e.Outcome, e.Code) // before the answer, whose headers others may make of them
	answer := g.platform.Envelope(e)
	header := w.Header()
	header.Del("Content-Encoding")
	header.Set("Content-Length", strconv.Itoa(len(answer)))
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set(OutcomeHeader, string(e.Outcome))
	w.WriteHeader(e.Status)
	_, writeErr := w.Write(answer)

	g.log(r, call, e, writeErr)
	g.finish(w, r, call, e.Outcome, e.Code, start)
}

// Reply answers an admitted request with a link that the gateway has signed, for which nobody was called.
func (g *Guard) Reply(w http.ResponseWriter, r *http.Request, call *Call, content []byte) {
	header := w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set(OutcomeHeader, string(NotSent))
	call.settle(NotSent, "", 0, nil)
	g.note(r, call, NotSent, "", "")
	g.remember(r, call, recent.Signed, "", 0)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(content)
}

func (g *Guard) log(r *http.Request, call *Call, e *Error, writeErr error) {
	level, message := zapcore.WarnLevel, "call refused"
	switch {
	case e.Outcome == Unknown:
		message = "call outcome unknown; query before repeating"
	case e.Status >= http.StatusInternalServerError:
		level, message = zapcore.ErrorLevel, "call failed"
	}
	suppressed := 0
	if e.Status < http.StatusInternalServerError {
		var ok bool
		if suppressed, ok = g.refusals.Allow(e.Reason); !ok {
			return // before anything is made for the line: strangers cause these
		}
	}
	fields := []zap.Field{
		zap.String("errcode", e.Code), zap.String("reason", e.Reason), zap.String("outcome", string(e.Outcome)),
		zap.Int("status", e.Status), zap.String("remote", r.RemoteAddr), zap.String("path", quote(r.URL.Path)),
	}
	if call != nil {
		fields = append(fields, zap.String("merchant", call.Account.Name()))
		if order := g.platform.Order(call.Body); order != "" {
			fields = append(fields, zap.String("order", order))
		}
	}
	if e.Cause != nil {
		fields = append(fields, zap.Error(e.Cause))
	}
	if paths := g.notifies.known(); paths != nil && g.platform.LikeNotify != nil && g.platform.LikeNotify(r, e.Reason) {
		fields = append(fields, zap.String("hint", "this looks like one of the platform's notifies; they are taken elsewhere: correct the notifyUrl"),
			zap.Strings("notify_paths", paths))
	}
	if len(e.Fields) > 0 {
		fields = append(fields, misfits(e.Fields))
	}
	if writeErr != nil {
		fields = append(fields, zap.NamedError("write_error", writeErr))
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int("suppressed", suppressed))
	}
	if c := g.logger.Check(level, message); c != nil {
		c.Write(fields...)
	}
}

// finish tells everybody what became of a call. w has the answer; nil: it is to be cut.
func (g *Guard) finish(w http.ResponseWriter, r *http.Request, call *Call, outcome Outcome, errCode string, start time.Time) {
	if errCode == "" { // without one it would be a link
		errCode = "other"
	}
	call.settle(outcome, errCode, 0, nil)
	if outcome == Unknown {
		call.heard(nil) // what the client was given is not the answer
	}
	call.heard(w)
	merchant, sent := "", false
	if call != nil {
		merchant, sent = call.Account.Name(), call.sent.Load()
	}
	took := time.Since(start)
	g.metrics.called(merchant, errCode, outcome, sent, took)
	g.remember(r, call, outcome, errCode, took)
	advice := g.advise(r, call, outcome, errCode)
	g.note(r, call, outcome, errCode, advice)
	if outcome == Unknown && call != nil {
		if w != nil { // an event's handlers take their time, and a small answer is still in a buffer
			_ = http.NewResponseController(w).Flush()
		}
		ctx := g.ctx
		ctx.Context = context.WithoutCancel(ctx.Context) // it ends before the calls that a reload waits for
		g.events.Emit(ctx, g.platform.Name+".call_unknown", map[string]any{
			"merchant": merchant, "order": g.platform.Order(call.Body), "errcode": errCode, "path": quote(r.URL.Path),
		})
	}
}

// tell sets the placeholders to what became of a call.
func (g *Guard) tell(r *http.Request, call *Call, outcome Outcome, errCode string) {
	if call != nil && call.offered {
		call.told = told{outcome, errCode}
		return
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		prefix := "http." + g.platform.Name
		repl.Set(prefix+".merchant", call.merchant())
		repl.Set(prefix+".outcome", string(outcome))
		repl.Set(prefix+".err_code", errCode)
	}
}

// note tells placeholders and the access log what became of a call.
func (g *Guard) note(r *http.Request, call *Call, outcome Outcome, errCode, advice string) {
	g.tell(r, call, outcome, errCode)
	extra := accesslog.Fields(r)
	if extra == nil {
		return
	}
	order, words := "", ""
	if call != nil {
		order = g.platform.Order(call.Body) // now: the entry is written when the body's buffer is another call's
		if outcome == Answered {
			words = call.words
		}
	}
	extra.Add(zap.Inline(zapcore.ObjectMarshalerFunc(func(entry zapcore.ObjectEncoder) error {
		entry.AddString("merchant", call.merchant())
		entry.AddString("outcome", string(outcome))
		entry.AddString("errcode", errCode)
		for _, field := range [...][2]string{{"errmsg", words}, {"order", order}, {"advice", advice}} {
			if field[1] != "" {
				entry.AddString(field[0], field[1])
			}
		}
		return nil
	})))
}

// Flights counts the calls under way, so that a configuration is not torn down under them. The zero value is ready.
type Flights struct {
	mu    sync.Mutex
	count int
	idle  chan struct{} // closed when count falls to 0; nil while nobody waits
}

// Begin counts one more.
func (f *Flights) Begin() {
	f.mu.Lock()
	f.count++
	f.mu.Unlock()
}

// End counts one less. It must be called once for each Begin.
func (f *Flights) End() {
	f.mu.Lock()
	if f.count--; f.count == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
	f.mu.Unlock()
}

// Wait returns when no call is under way or ctx ends, whichever is first; it reports whether all calls have ended.
func (f *Flights) Wait(ctx context.Context) bool {
	f.mu.Lock()
	if f.count == 0 {
		f.mu.Unlock()
		return true
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// outcomeWriter puts the Gateway-Outcome header on whatever answer the chain gives, and lets nobody else set it, but for a
// guard or another gateway behind, which has made the call in this one's place.
type outcomeWriter struct {
	caddyhttp.ResponseWriterWrapper
	call    *Call
	wrote   bool
	outcome [1]string // the header's value
}

func newOutcomeWriter(w http.ResponseWriter, call *Call) *outcomeWriter {
	return &outcomeWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, call: call}
}

func (w *outcomeWriter) WriteHeader(status int) {
	if status < 200 {
		return // an interim answer tells the app nothing, and nobody has verified it
	}
	if !w.wrote {
		w.wrote = true
		w.call.madeBehind(w.Header()[OutcomeHeader])
		outcome := w.call.conclude()
		if outcome == NotSent {
			w.call.settle(NotSent, "other", 0, nil) // before the client knows, and calls again
		}
		if w.call.awaited() && w.call.clientHasGone() { // nothing of the answer is out yet
			w.call.heard(nil)
		}
		w.outcome[0] = string(outcome)
		w.Header()[OutcomeHeader] = w.outcome[:]
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *outcomeWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriterWrapper.Write(p)
}

// FlushError keeps http.ResponseController from flushing the head past this writer.
func (w *outcomeWriter) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriterWrapper.ResponseWriter).Flush()
}

func (w *outcomeWriter) ReadFrom(r io.Reader) (int64, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// passedOn are the client's headers that go out.
var passedOn = [...]string{"Content-Type", "Content-Encoding", "Accept", "User-Agent"}

// scrub keeps of the client's headers those that may go out.
func scrub(header http.Header) http.Header {
	out := make(http.Header, 8) // these, and what reverse_proxy adds: a larger map costs four times as much
	for _, name := range passedOn {
		if values, ok := header[name]; ok {
			out[name] = values
		}
	}
	return out
}

func isJSON(contentType []string) bool {
	if len(contentType) != 1 {
		return false
	}
	if contentType[0] == "application/json" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType[0])
	return err == nil && mediaType == "application/json"
}

// quote makes untrusted text fit for a log line: at most 64 bytes.
func quote(s string) string {
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

var _ http.ResponseWriter = (*outcomeWriter)(nil)
