// Package faults runs whole gateways with a watch, the built cmd/caddy, between a platform with its own books and a merchant's
// app, and treats them badly: it kills them where it hurts, loses answers and notifies, and takes their store away. What counts
// in the end is that the watch says what the platform's books say, that the app was told of each payment once, and that no more
// money went back than the app meant.
//
// The build tag faults brings the long runs; without it they are short.
//
// Longer runs: FAULTS_KILLS=200, FAULTS_ORDERS=5000.
package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// binary is the built gateway: cmd/caddy, built once, or what CADDY_BINARY names.
var binary = sync.OnceValues(func() (string, error) {
	if name := os.Getenv("CADDY_BINARY"); name != "" {
		return name, nil
	}
	name := filepath.Join(directory, "caddy")
	output, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, "../../cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return name, nil
})

// directory is for the binary alone.
var directory string

func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C") // messages are in English, whatever this machine speaks
	testutil.TempOnDisk()
	var err error
	if directory, err = os.MkdirTemp("", "watch-faults-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

func needBinary(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("the built gateway is not run with -short")
	}
	if os.Getenv("CADDY_BINARY") == "" {
		needTool(t, "go")
	}
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// needTool returns a program, by the first of these names that there is. The test skips without one, unless CHINAUMS_E2E=1
// asks for it.
func needTool(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", names[0])
	}
	t.Skip("needs " + names[0])
	return ""
}

// setting is a number from the environment, for longer runs.
func setting(t testing.TB, name string, normal int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return normal
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return number
}

// within waits for what has to happen.
func within(t testing.TB, patience time.Duration, what string, done func() bool) {
	t.Helper()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for deadline := time.Now().Add(patience); !done(); <-ticks.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}

// patience is for what takes a moment on a machine that has nothing else to do.
const patience = 5 * time.Minute

func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// point is where a gateway is killed while it calls the platform.
type point int

const (
	connected    point = iota // the line is written, and nothing is sent
	halfSent                  // the platform has half of the request, and executes nothing
	executed                  // the platform has executed the call, and its answer is on nobody's way
	halfAnswered              // half of the answer has come
	answered                  // all of it has, and the app was told at most a part
)

// trap springs once: at the next connection.
type trap struct {
	at     point
	spring func()
}

// platform is a sandbox, and what happens to the connections that gateways make to it.
type platform struct {
	*sandbox.ChinaUMS
	keys    sandbox.Options
	address string
	numbers atomic.Int64

	mu   sync.Mutex
	trap *trap
	held map[string]chan struct{} // orders whose refunds wait before they are executed
	came map[string]int           // how many refunds of them have come
}

func newPlatform(t testing.TB) *platform {
	t.Helper()
	schedule := make([]time.Duration, 60)
	for i := range schedule {
		schedule[i] = min(50*time.Millisecond<<min(i, 7), 5*time.Second)
	}
	s, err := sandbox.New(sandbox.Options{Schedule: schedule})
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{ChinaUMS: s, keys: s.Options(), held: map[string]chan struct{}{}, came: map[string]int{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	server := httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	_ = server.Listener.Close()
	server.Listener = &trapped{listener, p}
	server.Config.SetKeepAlivesEnabled(false) // a trap is for one call
	server.Start()
	t.Cleanup(func() {
		s.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return p
}

func (p *platform) url() string { return "http://" + p.address }

// number is one that no order and no refund has yet.
func (p *platform) number() string {
	return fmt.Sprintf("%s20261129%08d", p.keys.SourceCode, p.numbers.Add(1))
}

// serve lets a refund wait where that is wanted.
func (p *platform) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/netpay/refund" {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var call struct{ MerOrderID string }
		_ = json.Unmarshal(body, &call)
		p.mu.Lock()
		hold := p.held[call.MerOrderID]
		p.came[call.MerOrderID]++
		p.mu.Unlock()
		if hold != nil {
			<-hold
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		r = r.WithContext(context.WithoutCancel(r.Context())) // what has come is executed
	}
	p.ChinaUMS.ServeHTTP(w, r)
}

// hold lets the refunds of an order wait until the function that it returns is called.
func (p *platform) hold(order string) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hold := make(chan struct{})
	p.held[order] = hold
	return sync.OnceFunc(func() { close(hold) })
}

func (p *platform) refundsCame(order string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.came[order]
}

func (p *platform) set(trap *trap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = trap
}

// trapped gives a connection the trap that is set.
type trapped struct {
	net.Listener
	platform *platform
}

func (l *trapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.platform.mu.Lock()
	trap := l.platform.trap
	l.platform.trap = nil
	l.platform.mu.Unlock()
	if trap == nil {
		return c, nil
	}
	d := &doomed{Conn: c, trap: trap}
	if trap.at == connected {
		d.once.Do(trap.spring)
	}
	return d, nil
}

// doomed is a connection at which a gateway dies.
type doomed struct {
	net.Conn
	trap *trap
	once sync.Once
}

func (d *doomed) Read(p []byte) (int, error) {
	if d.trap.at != halfSent {
		return d.Conn.Read(p)
	}
	n, err := d.Conn.Read(p[:min(len(p), 300)])
	d.once.Do(d.trap.spring)
	_ = d.Conn.Close()
	return n, err
}

func (d *doomed) Write(p []byte) (int, error) {
	part := map[point]int{halfAnswered: len(p) / 2, answered: len(p)}[d.trap.at]
	if d.trap.at < executed {
		return d.Conn.Write(p)
	}
	n, _ := d.Conn.Write(p[:part])
	d.once.Do(d.trap.spring)
	if n < len(p) {
		return n, net.ErrClosed
	}
	return n, nil
}

// Close springs the trap of a call that a fault has left without an answer.
func (d *doomed) Close() error {
	d.once.Do(d.trap.spring)
	return d.Conn.Close()
}

// event is one that the app has taken.
type event struct {
	id, kind, order, refund, evidence string

	generation string // which of the gateway's processes has told it
}

// app takes events, and remembers them before it answers.
type app struct {
	address string

	mu     sync.Mutex
	events []event
	trap   func() // called at the next event
	before bool   // and then it is not taken
}

func newApp(t testing.TB) *app {
	t.Helper()
	a := new(app)
	server := httptest.NewServer(http.HandlerFunc(a.serve))
	a.address = server.Listener.Addr().String()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return a
}

func (a *app) serve(w http.ResponseWriter, r *http.Request) {
	var body struct{ RefundOrderID string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h := r.Header
	a.mu.Lock()
	trap, before := a.trap, a.before
	a.trap = nil
	if trap == nil || !before {
		a.events = append(a.events, event{h.Get("Ce-Id"), strings.TrimPrefix(h.Get("Ce-Type"), "com.chinaums."), h.Get("Ce-Subject"), body.RefundOrderID, h.Get("Ce-Evidence"), h.Get("X-Generation")})
	}
	a.mu.Unlock()
	if trap != nil {
		trap()
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, "SUCCESS")
}

func (a *app) set(trap func(), before bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trap, a.before = trap, before
}

// taken are the events of a kind, by their orders.
func (a *app) taken(kind string) map[string][]event {
	a.mu.Lock()
	defer a.mu.Unlock()
	by := map[string][]event{}
	for _, e := range a.events {
		if e.kind == kind {
			by[e.order] = append(by[e.order], e)
		}
	}
	return by
}

// gateway is a configuration and its data, and the process that runs it, one after the other.
type gateway struct {
	t              testing.TB
	binary, name   string
	address, admin string // the same ones for all generations
	directory      string
	config         string
	environment    []string
	log            *tail
	platform       *platform

	mu          sync.Mutex
	generations int
	command     *exec.Cmd
	ended       chan struct{}
	killed      map[string]bool // generations that were
}

// quick are looks in such a row that a run of minutes sees what otherwise takes a week.
var quick = func() string {
	ages := "100ms 200ms 400ms 800ms 1600ms 3s 6s"
	for s := 10; s <= 1200; s += 5 {
		ages += fmt.Sprintf(" %ds", s)
	}
	return ages
}()

// bolt is a watch on a file.
const bolt = "\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath $DIR/watch.db\n\t\t\t}\n$OPTIONS\t\t}\n"

const boltInbox = "\t\tstore bolt {\n\t\t\tpath $DIR/inbox.db\n\t\t}\n"

// newGateway makes a gateway between a platform and an app, which is not running yet. In watch, the block of its watch, $DIR is
// its directory and $OPTIONS what lets it look often. Empty: it has none. inbox is what its inbox has.
func newGateway(t testing.TB, name, watch, inbox string, p *platform, a *app) *gateway {
	t.Helper()
	g := &gateway{
		t: t, binary: needBinary(t), name: name, address: freeAddress(t), admin: freeAddress(t), directory: t.TempDir(), log: new(tail), platform: p,
		killed: map[string]bool{},
	}
	g.environment = []string{"UMS_APP_ID=" + p.keys.AppID, "UMS_APP_KEY=" + p.keys.AppKey, "UMS_NOTIFY_KEY=" + p.keys.NotifyKey}
	options := "\t\t\trate 500\n\t\t\torders " + quick + "\n\t\t\tunknown " + quick + "\n"
	g.config = "{\n\tadmin " + g.admin + `
	persist_config off
	grace_period 1s
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			upstream   ` + p.url() + `
		}
` + strings.NewReplacer("$DIR", g.directory, "$OPTIONS", options).Replace(watch) + `	}
	inbox {
` + strings.ReplaceAll(inbox, "$DIR", g.directory) + `	}
}
http://` + g.address + ` {
	bind 127.0.0.1
	chinaums_proxy /v1/netpay/*
	chinaums_notify /notify
	inbox /notify {
		retry 50ms 200ms 1s
		concurrency ` + strconv.Itoa(concurrency) + `
		deliver {
			reverse_proxy ` + a.address + ` {
				header_up X-Generation {env.GENERATION}
			}
		}
	}
}
`
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", g.name, g.log.end())
		}
	})
	return g
}

// concurrency is how many events an inbox delivers at once.
const concurrency = 4

// launch starts the process and does not wait for anything.
func (g *gateway) launch() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.generations++
	config := filepath.Join(g.directory, "Caddyfile")
	if err := os.WriteFile(config, []byte(g.config), 0o600); err != nil {
		g.t.Fatal(err)
	}
	command := exec.Command(g.binary, "run", "--adapter", "caddyfile", "--config", config)
	command.Env = append(os.Environ(), append([]string{
		"GENERATION=" + g.name + strconv.Itoa(g.generations), "HOME=" + g.directory, "XDG_DATA_HOME=" + filepath.Join(g.directory, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(g.directory, "config"), "http_proxy=", "HTTP_PROXY=",
	}, g.environment...)...)
	command.Stderr = g.log
	if err := command.Start(); err != nil {
		g.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	g.command, g.ended = command, ended
}

// start runs the gateway and waits until it listens, and its watch and inbox are open.
func (g *gateway) start() {
	g.t.Helper()
	g.launch()
	within(g.t, patience, "the start of "+g.name, func() bool {
		select {
		case <-g.ended:
			g.t.Fatalf("the gateway %s ended: %v\n%s", g.name, g.command.ProcessState, g.log.end())
		default:
		}
		status, answer, err := g.ask("/inbox")
		if err != nil || status != http.StatusOK || strings.Contains(answer, "not open yet") {
			return false
		}
		connection, err := net.Dial("tcp", g.address)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	})
}

// kill ends the process with SIGKILL: it does nothing any more.
func (g *gateway) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.command == nil {
		return
	}
	_ = g.command.Process.Kill()
	<-g.ended
	g.killed[g.name+strconv.Itoa(g.generations)] = true
	g.command = nil
}

// plain keeps no connections, so that nothing is sent again behind our back.
var plain = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// ask asks the admin API.
func (g *gateway) ask(path string) (int, string, error) {
	res, err := plain.Get("http://" + g.admin + path)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return res.StatusCode, string(content), err
}

// reply is what the app gets for a call: code is errCode; err says that no answer came.
type reply struct {
	status        int
	code, outcome string
	guard         string
	body          string
	err           error
}

func (r reply) String() string {
	if r.err != nil {
		return r.err.Error()
	}
	return fmt.Sprintf("%d %s, %s", r.status, r.body, r.outcome)
}

var china = time.FixedZone("CST", 8*60*60)

// body is that of a call.
func (g *gateway) body(fields map[string]any) string {
	all := map[string]any{"requestTimestamp": time.Now().In(china).Format(time.DateTime), "mid": g.platform.keys.MID, "tid": g.platform.keys.TID, "instMid": "APPDEFAULT"}
	maps.Copy(all, fields)
	content, err := json.Marshal(all)
	if err != nil {
		panic(err) // plain values only
	}
	return string(content)
}

// call calls an interface, as soon as the gateway listens.
func (g *gateway) call(path string, fields map[string]any) reply {
	return g.callUntil(context.Background(), path, fields)
}

// callUntil is call for an app that may give up.
func (g *gateway) callUntil(ctx context.Context, path string, fields map[string]any) (r reply) {
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for deadline := time.Now().Add(patience); ; <-ticks.C {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.address+path, strings.NewReader(g.body(fields)))
		if err != nil {
			return reply{err: err}
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := plain.Do(req)
		if refused(err) && !g.t.Failed() && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return reply{err: err}
		}
		defer res.Body.Close()
		content, err := io.ReadAll(res.Body)
		r = reply{status: res.StatusCode, outcome: res.Header.Get("Gateway-Outcome"), guard: res.Header.Get("Gateway-Guard"), body: string(content), err: err}
		var said struct{ ErrCode string }
		_ = json.Unmarshal(content, &said)
		r.code = said.ErrCode
		return r
	}
}

// refused reports whether nobody listened.
func refused(err error) bool {
	failed, ok := errors.AsType[*url.Error](err)
	return ok && errors.Is(failed.Err, syscall.ECONNREFUSED)
}

func (g *gateway) order(number string) reply {
	return g.call("/v1/netpay/trade/precreate", map[string]any{"merOrderId": number, "totalAmount": total, "notifyUrl": "http://" + g.address + "/notify"})
}

// total is what an order costs, in fen.
const total = 1000

func (g *gateway) refund(order, refund string, amount int) reply {
	return g.call("/v1/netpay/refund", refundFields(order, refund, amount))
}

func refundFields(order, refund string, amount int) map[string]any {
	return map[string]any{"merOrderId": order, "refundOrderId": refund, "refundAmount": amount}
}

// paid makes an order, and has it paid.
func (g *gateway) paid() string {
	number := g.platform.number()
	if r := g.order(number); r.code != "SUCCESS" {
		g.t.Errorf("an order: %v", r)
		return number
	}
	if err := g.platform.Pay(number); err != nil {
		g.t.Error(err)
	}
	return number
}

// row is what the watch says of an order.
type row struct {
	Order    string
	State    string
	Merchant string
	Calls    []struct{ Number, State string }
	Told     []struct {
		Type  string
		Taken int64
	}
}

// rows are all of the watch's. It may fail for a moment: while the watch is opened, or its store elects another leader.
func (g *gateway) rows() (map[string]row, error) {
	all := map[string]row{}
	for after := ""; ; {
		status, answer, err := g.ask("/chinaums/orders?limit=1000&after=" + url.QueryEscape(after))
		if err != nil {
			return nil, err
		}
		if status != http.StatusOK {
			return nil, fmt.Errorf("the watch of %s does not tell: %d %s", g.name, status, answer)
		}
		var page []row
		if err := json.Unmarshal([]byte(answer), &page); err != nil {
			return nil, fmt.Errorf("the watch of %s: %w: %s", g.name, err, answer)
		}
		for _, r := range page {
			all[r.Order] = r
			after = r.Merchant + "/" + r.Order
		}
		if len(page) < 1000 {
			return all, nil
		}
	}
}

// differs says where the watch and the platform's books are not of one mind.
func (p *platform) differs(rows map[string]row, numbers []string) (all []string) {
	differ := func(format string, arguments ...any) { all = append(all, fmt.Sprintf(format, arguments...)) }
	for _, number := range numbers {
		r := rows[number]
		book, ok := p.Order(number)
		if !ok {
			if r.State != "" && r.State != "sent" { // time proves nothing
				differ("%s is %s, and not in the books", number, r.State)
			}
			continue
		}
		want := map[string]string{"NEW_ORDER": "open", "WAIT_BUYER_PAY": "open", "TRADE_SUCCESS": "paid", "TRADE_REFUND": "refunded_part", "TRADE_CLOSED": "closed"}[book.Status]
		if want == "closed" && !book.Paid.IsZero() {
			want = "refunded"
		}
		if r.State != want {
			differ("%s is %s, and in the books %s", number, r.State, book.Status)
		}
		states := map[string]string{}
		for _, c := range r.Calls {
			states[c.Number] = c.State
		}
		for _, refund := range book.Refunds {
			want := map[string]string{"SUCCESS": "succeeded", "FAIL": "failed"}[refund.Status]
			if is := states[refund.RefundOrderID]; is != want {
				differ("the refund %s of %s is %q, and in the books %s", refund.RefundOrderID, number, is, refund.Status)
			}
			delete(states, refund.RefundOrderID)
		}
		for refund, is := range states {
			if is == "succeeded" && refund != "close" {
				differ("the refund %s of %s has succeeded, and is not in the books", refund, number)
			}
		}
	}
	return all
}

// agree waits until the watch says what the books say.
func (g *gateway) agree(numbers []string) {
	g.t.Helper()
	var left []string
	ticks := time.NewTicker(100 * time.Millisecond) // a gateway has to read all rows for it
	defer ticks.Stop()
	for deadline := time.Now().Add(patience); ; <-ticks.C {
		rows, err := g.rows()
		if err != nil {
			left = []string{err.Error()}
		} else if left = g.platform.differs(rows, numbers); len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	for i, difference := range left {
		if i < 10 {
			g.t.Error(difference)
		}
	}
	g.t.Errorf("%d differences between the watch of %s and the books", len(left), g.name)
}

// told waits until the app has taken the payment of each paid order, and then checks that it took each once: an event that was
// in flight when its gateway was killed may have come twice, and then with the same id.
func (p *platform) told(t testing.TB, a *app, numbers []string, gateways ...*gateway) (paid, twice int) {
	t.Helper()
	killed := map[string]bool{}
	for _, g := range gateways {
		maps.Copy(killed, g.killed)
	}
	var orders []string
	for _, number := range numbers {
		if book, ok := p.Order(number); ok && !book.Paid.IsZero() {
			orders = append(orders, number)
		}
	}
	within(t, patience, "the telling of all payments", func() bool {
		taken := a.taken("payment.succeeded")
		for _, number := range orders {
			if len(taken[number]) == 0 {
				return false
			}
		}
		return true
	})
	doubles := map[string]int{}
	for number, events := range a.taken("payment.succeeded") {
		// What a process has sent that is dead may reach a busy app after what the next one has sent.
		slices.SortStableFunc(events, func(one, other event) int {
			switch dead := killed[one.generation]; {
			case dead == killed[other.generation]:
				return 0
			case dead:
				return -1
			}
			return 1
		})
		for i := 1; i < len(events); i++ {
			twice++
			if events[i].id != events[i-1].id {
				t.Errorf("%s was told as two events: %+v", number, events)
			}
			if first := events[i-1].generation; first == events[i].generation || !killed[first] {
				t.Errorf("%s was told twice, and not in flight at a kill: %+v", number, events)
			} else {
				doubles[first]++
			}
		}
	}
	for generation, n := range doubles {
		if n > concurrency {
			t.Errorf("%d events of %s came twice", n, generation)
		}
	}
	return len(orders), twice
}

// tail keeps the end of what a gateway logs.
type tail struct {
	mu      sync.Mutex
	content []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.content = append(l.content, p...)
	if len(l.content) > 512<<10 {
		l.content = append([]byte(nil), l.content[len(l.content)-256<<10:]...)
	}
	return len(p), nil
}

// end returns the last lines, for an error message.
func (l *tail) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.content[max(0, len(l.content)-4000):])
}
