package inbox

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/internal/verdict"
)

// What is kept of an answer, and what a log line shows of texts from outside.
const (
	keptAnswer   = 256
	loggedAnswer = 80
	loggedID     = 128
)

const (
	settleTry      = 10 * time.Second       // for one try to settle
	settlePatience = time.Minute            // for all of them, beyond the delivery's own time, if the app has not taken it
	firstPause     = 100 * time.Millisecond // between tries at a store that fails; then twice as long
	longestPause   = 5 * time.Second
	stopPatience   = 2 * time.Second // for a delivery to end beyond its own time, and again when it has been cut
)

// delivery is how one inbox's messages are delivered, and the deliveries in flight.
type delivery struct {
	identity    string // equal for equal options
	handler     caddyhttp.Handler
	server      *caddyhttp.Server
	ack         string
	schedule    schedule
	concurrency int

	app     *App
	name    string
	store   *shared
	logger  *zap.Logger
	notes   *ratelog.Limiter
	now     func() time.Time
	jitter  func() float64 // from -1 to 1
	workers sync.WaitGroup

	leasing  context.Context // ends when no more messages are to be leased
	endLease context.CancelFunc
	running  context.Context // ends when deliveries in flight are cut
	cut      context.CancelFunc
	stopped  bool // whether the deliveries were waited for
}

func newDelivery(h *Handler, identity string, handler caddyhttp.MiddlewareHandler, server *caddyhttp.Server) *delivery {
	d := &delivery{
		identity: identity, server: server, ack: h.Ack, concurrency: h.Concurrency,
		schedule: schedule{giveUp: time.Duration(h.GiveUp), timeout: time.Duration(h.Timeout)},
		notes:    ratelog.New(10), now: time.Now,
		jitter: func() float64 { return 2*rand.Float64() - 1 },
	}
	for _, delay := range h.Retry {
		d.schedule.delays = append(d.schedule.delays, time.Duration(delay))
	}
	// Nothing comes behind: a chain that leaves a request to the next handler has taken nothing.
	nobody := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	d.handler = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return handler.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server), nobody)
	})
	d.leasing, d.endLease = context.WithCancel(context.Background())
	// A delivery comes in at no address; the placeholders {http.request.local…} would panic without any.
	d.running, d.cut = context.WithCancel(context.WithValue(context.Background(), http.LocalAddrContextKey, net.Addr(new(net.TCPAddr))))
	return d
}

func (d *delivery) start(app *App, b *box) {
	d.app, d.name, d.store, d.logger = app, b.name, b.store.Load(), b.logger
	for range d.concurrency {
		d.workers.Go(d.work)
	}
}

// stop leases nothing more and waits for the deliveries in flight: as long as they may take, or as grace says if that is
// not 0 and less; then it cuts them. It may be called again, and waits once.
func (d *delivery) stop(grace time.Duration) {
	d.endLease()
	if d.stopped {
		return
	}
	d.stopped = true
	ended := make(chan struct{})
	go func() {
		d.workers.Wait()
		close(ended)
	}()
	patience := d.schedule.timeout
	if grace > 0 {
		patience = min(patience, grace)
	}
	for _, patience := range []time.Duration{patience + stopPatience, stopPatience} {
		select {
		case <-ended:
			d.cut()
			return
		case <-time.After(patience):
			d.cut()
		}
	}
	d.logger.Warn("a delivery does not end at its time limit; give its handler one of its own, such as php_fastcgi's read_timeout")
}

func (d *delivery) work() {
	pause := firstPause
	for {
		message, err := d.store.Lease(d.leasing)
		if d.leasing.Err() != nil {
			if err == nil {
				d.settle(message, Outcome{Released: true})
			}
			return
		}
		if errors.Is(err, ErrClosed) {
			return
		}
		if err != nil {
			d.storeFailed("lease", "the inbox's messages cannot be delivered now", err)
			if !wait(d.leasing, pause) {
				return
			}
			pause = min(2*pause, longestPause)
			continue
		}
		pause = firstPause
		d.storePassed()
		d.deliver(message)
	}
}

// wait reports whether the time has passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *delivery) deliver(message *Message) {
	outcome, result, hint := d.attempt(message)
	// Once it is settled, the next delivery of the message may begin and end, and has to know of this one.
	if !outcome.Released && outcome.Result != Delivered {
		d.store.taking.failed(d.now())
	}
	if outcome.Result == Dead {
		d.store.died(message.ID)
	}
	if !d.settle(message, outcome) || outcome.Released {
		return
	}
	d.app.metrics.delivered(d.name, result)
	switch outcome.Result {
	case Delivered:
		d.taken(message)
	case Dead:
		d.notes.Log("given up", d.logger.Error, "message given up: it is a dead letter now",
			append(d.describe(message, outcome, hint), zap.Int("attempts", message.Attempts+1))...)
		d.app.emit("inbox.dead_letter", map[string]any{
			"inbox": d.name, "seq": message.Seq, "id": message.ID, "attempts": message.Attempts + 1,
			"answer": map[string]any{"status": outcome.Answer.Status, "body": outcome.Answer.Body, "error": outcome.Answer.Error},
		})
	default:
		d.logFailed(message, outcome, result, hint)
	}
}

// attempt runs the handlers once and says what becomes of the message. hint says what is probably wrong, for the log.
func (d *delivery) attempt(message *Message) (outcome Outcome, result, hint string) {
	stored, err := decodeRequest(message.Request)
	if err != nil {
		// No later attempt could read it either. It stays, for somebody to look at.
		return Outcome{Result: Dead, Answer: Answer{Error: text.Head("the stored request cannot be read: "+err.Error(), keptAnswer)}}, "dead", ""
	}
	ctx, cancel := context.WithTimeout(d.running, d.schedule.timeout)
	judged := verdict.Deliver(stored.restore(ctx), d.handler, d.ack, d.logger)
	cancel()
	outcome.Answer = answerOf(judged)
	switch {
	case judged.Taken || judged.Late:
		outcome.Result = Delivered
		return outcome, "delivered", ""
	case d.running.Err() != nil:
		// The gateway stops and has cut it: that is not the app's fault.
		return Outcome{Released: true}, "", ""
	}
	result = "failed"
	if judged.TimedOut {
		result = "timeout"
	}
	delay, again := d.schedule.next(message.Attempts+1, d.now().Sub(message.Received), d.jitter())
	if !again {
		outcome.Result = Dead
		return outcome, "dead", judged.Hint()
	}
	outcome.Result, outcome.Delay = Pending, delay
	return outcome, result, judged.Hint()
}

// encodedAnswer is what is said of an answer with a word that cannot be read.
const encodedAnswer = "the answer is encoded"

// answerOf is what is kept of an answer.
func answerOf(judged verdict.Verdict) Answer {
	answer := Answer{Status: judged.Status, Body: text.Head(string(judged.Answer), keptAnswer)}
	switch {
	case judged.Taken || judged.Late:
	case judged.TimedOut:
		answer.Error = "timeout"
	case errors.Is(judged.Err, verdict.ErrNoHandler):
		answer.Error = "no_handler"
	case errors.Is(judged.Err, http.ErrAbortHandler):
		answer.Error = "the answer broke off"
	case judged.Err != nil:
		said := judged.Err.Error()
		if failed, ok := errors.AsType[caddyhttp.HandlerError](judged.Err); ok && failed.Err != nil {
			said = cmp.Or(failed.Err.Error(), "HTTP "+strconv.Itoa(failed.StatusCode)) // the directive error says nothing else
		}
		answer.Error = text.Head(said, keptAnswer)
	case judged.Encoded:
		answer.Error = encodedAnswer
	default:
		answer.Error = "refused"
	}
	return answer
}

// settle stores what became of a delivery, and reports whether that has succeeded. Where it has not, the lease is given
// back, so that the message is delivered again: some stores would keep it until a restart. A message that the app has
// taken is worth more patience: as long as the gateway runs.
func (d *delivery) settle(message *Message, outcome Outcome) bool {
	patience := time.Now().Add(d.schedule.timeout + settlePatience)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := d.trySettle(message, outcome, settleTry)
		if err == nil {
			d.storePassed()
			return true
		}
		d.storeFailed("settle", "what became of a delivery cannot be stored now", err)
		patient := outcome.Result == Delivered || time.Now().Before(patience)
		if !errors.Is(err, ErrClosed) && patient && wait(d.running, pause) {
			continue
		}
		if !outcome.Released {
			_ = d.trySettle(message, Outcome{Released: true}, stopPatience) // what fails then has been told already
		}
		d.notes.Log("unsettled", d.logger.Error, "what became of a delivery could not be stored: it will be delivered again",
			append(d.describe(message, outcome, ""), zap.String("result", string(outcome.Result)), zap.Error(err))...)
		return false
	}
}

func (d *delivery) trySettle(message *Message, outcome Outcome, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return d.store.Settle(ctx, message, outcome)
}

// taken notes that the app has taken a message. Where it had not taken messages before, one that is new says nothing: it
// may never have been the others' trouble. One that was given up counts, though it looks as if it were new.
func (d *delivery) taken(message *Message) {
	if ce := d.logger.Check(zap.DebugLevel, "message delivered"); ce != nil {
		ce.Write(zap.Uint64("seq", message.Seq), zap.String("message_id", text.Head(message.ID, loggedID)), zap.Int("attempts", message.Attempts+1))
	}
	switch {
	case message.Attempts > 0:
		d.recovered("messages are taken again", d.store.taking.passedAfter(message.Received, message.Attempts))
	case d.store.wasDead(message.ID):
		d.recovered("messages are taken again", d.store.taking.passed())
	}
}

// storeFailed notes that the store has failed; storePassed that it works.
func (d *delivery) storeFailed(reason, text string, err error) {
	d.store.leasing.failed(d.now())
	d.notes.Log(reason, d.logger.Error, text, zap.Error(err))
}

func (d *delivery) storePassed() {
	d.recovered("the inbox's store works again", d.store.leasing.passed())
}

func (d *delivery) recovered(text string, from failing) {
	from.ended(d.name, text, d.logger, d.app.emit)
}

// logFailed logs a delivery that has failed, at most ten times a minute for each way.
func (d *delivery) logFailed(message *Message, outcome Outcome, result, hint string) {
	words := "message not delivered; it will be tried again"
	if outcome.Answer.Status >= 200 && outcome.Answer.Status <= 299 && outcome.Answer.Error == "refused" {
		result = "unclear"
		words = "app answered 2xx but did not take the message; answer with an empty body, SUCCESS or OK, or set ack 2xx"
	}
	if outcome.Answer.Error == encodedAnswer {
		result = "encoded"
		words = "app answered 2xx, but with a Content-Encoding, so that its word cannot be read; let it answer without"
	}
	d.notes.Log(result, d.logger.Warn, words, append(d.describe(message, outcome, hint),
		zap.Int("attempts", message.Attempts+1), zap.Duration("next", outcome.Delay))...)
}

// describe are the fields that tell which message it was and what the app said.
func (d *delivery) describe(message *Message, outcome Outcome, hint string) []zap.Field {
	fields := []zap.Field{
		zap.Uint64("seq", message.Seq), zap.String("message_id", text.Head(message.ID, loggedID)), zap.Int("app_status", outcome.Answer.Status),
		zap.String("answer", strconv.QuoteToASCII(text.Head(outcome.Answer.Body, loggedAnswer))), zap.String("reason", outcome.Answer.Error),
	}
	if hint != "" {
		fields = append(fields, zap.String("hint", hint))
	}
	return fields
}

// schedule says when a message is tried again, and when it is given up.
type schedule struct {
	delays  []time.Duration
	giveUp  time.Duration
	timeout time.Duration
}

// next returns the delay before the next attempt, after so many that have failed, age after the message was received;
// again is false where that was the last one.
//
// What counts is the schedule's own time: age, but not much less or more than the delays so far make. So neither a clock
// that jumps nor a gateway that was off for days gives messages up. The last attempt is at giveUp.
func (s schedule) next(failed int, age time.Duration, jitter float64) (delay time.Duration, again bool) {
	waited := time.Duration(0)
	for i := range min(failed-1, len(s.delays)) {
		waited = min(waited+saturate(s.delays[i], 1), longest)
	}
	last := s.delays[len(s.delays)-1]
	if more := failed - 1 - len(s.delays); more > 0 {
		waited = min(waited+saturate(last, more), longest)
	}
	elapsed := min(max(age, waited-waited/5), waited+waited/5+saturate(s.timeout, failed))
	left := s.giveUp - elapsed
	if left <= s.giveUp/100 {
		return 0, false
	}
	delay = saturate(s.delays[min(failed, len(s.delays))-1], 1)
	delay += time.Duration(float64(delay) * jitter / 10)
	return min(delay, left), true
}

// longest is longer than anybody waits, and so short that no sum here wraps around.
const longest = 50 * 365 * 24 * time.Hour

// saturate is d n times, or longest.
func saturate(d time.Duration, n int) time.Duration {
	if d > 0 && int64(n) > int64(longest/d) {
		return longest
	}
	return d * time.Duration(n)
}
