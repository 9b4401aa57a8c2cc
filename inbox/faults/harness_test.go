// Package faults runs whole gateways, the built cmd/caddy, and treats them badly: it ends them without warning, cuts their
// power, fills their disk, reloads them all the time and gives them apps that misbehave. What counts is what a sender was
// told and what an app has taken: a message that was acknowledged is never lost, and taken twice only where it was in
// flight when a gateway died, or when a cluster could record nothing for longer than a lease lasts.
//
// The build tag faults brings all of that. Without it, what apps do is tested, what a gateway refuses at its start, and that
// two kills lose nothing.
//
// Longer runs: FAULTS_KILLS=200, FAULTS_RELOAD=1m, FAULTS_RELOADS=200, FAULTS_POWER=20, FAULTS_DEPTH=1000000.
package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
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
	if directory, err = os.MkdirTemp("", "faults-"); err != nil {
		panic(err)
	}
	// Most of these tests wait, for a process, a timer or a disk.
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
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

// needTool returns a program, by the first of these names or patterns that there is. The test skips without one, unless
// CHINAUMS_E2E=1 asks for it.
func needTool(t testing.TB, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if path, err := exec.LookPath(pattern); err == nil {
			return path
		}
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", patterns[0])
	}
	t.Skip("needs " + patterns[0])
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

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// within waits for what has to happen.
func within(t testing.TB, patience time.Duration, what string, done func() bool) bool {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s did not happen within %v", what, patience)
			return false
		}
	}
	return true
}

// tail keeps the end of what a gateway logs.
type tail struct {
	mu      sync.Mutex
	content []byte
}

const tailSize = 256 << 10

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.content = append(l.content, p...)
	if len(l.content) > 2*tailSize {
		l.content = slices.Clone(l.content[len(l.content)-tailSize:])
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.content)
}

// end returns the last lines, for an error message.
func (l *tail) end() string {
	content := l.String()
	return content[max(0, len(content)-3000):]
}

// gateway is a configuration and its data, and the process that runs it, one after the other.
type gateway struct {
	t              testing.TB
	binary         string
	name           string // of its generations
	address, admin string // the same ones for all generations
	directory      string // its data, and whatever files a test names
	global, site   string
	environment    []string
	log            *tail

	generations int
	command     *exec.Cmd
	ended       chan struct{}
	killed      []string // generations that were killed
}

// newGateway makes a gateway that is not running yet. In its configuration $DIR is its directory.
func newGateway(t testing.TB, name, global, site string) *gateway {
	t.Helper()
	g := &gateway{
		t: t, binary: needBinary(t), name: name, address: freeAddress(t), admin: freeAddress(t), directory: t.TempDir(),
		global: global, site: site, log: new(tail),
	}
	t.Cleanup(func() {
		if g.command != nil {
			g.kill()
		}
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", g.name, g.log.end())
		}
	})
	return g
}

// caddyfile is the configuration, with another site than the gateway's own if one is given.
func (g *gateway) caddyfile(site ...string) string {
	if len(site) == 0 {
		site = []string{g.site}
	}
	text := "{\n\tadmin " + g.admin + "\n\tpersist_config off\n" + g.global + "\n}\nhttp://" + g.address + " {\n\tbind 127.0.0.1\n" + site[0] + "\n}\n"
	return strings.ReplaceAll(text, "$DIR", g.directory)
}

// generation names the process that runs now.
func (g *gateway) generation() string { return g.name + strconv.Itoa(g.generations) }

// launch starts the process and does not wait for anything.
func (g *gateway) launch() {
	g.t.Helper()
	g.generations++
	config := filepath.Join(g.directory, "Caddyfile")
	if err := os.WriteFile(config, []byte(g.caddyfile()), 0o600); err != nil {
		g.t.Fatal(err)
	}
	command := exec.Command(g.binary, "run", "--adapter", "caddyfile", "--config", config)
	command.Env = append(os.Environ(), append([]string{
		"GENERATION=" + g.generation(), "HOME=" + g.directory, "XDG_DATA_HOME=" + filepath.Join(g.directory, "data"),
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

// start runs the gateway and waits until it listens and its inboxes are ready: until then it may answer 503.
func (g *gateway) start() {
	g.t.Helper()
	g.launch()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		if connection, err := net.Dial("tcp", g.address); err == nil {
			_ = connection.Close()
			status, answer, err := post(plainClient, http.MethodGet, "http://"+g.admin+"/inbox", "")
			if err == nil && status == http.StatusOK && !strings.Contains(answer, `"error"`) {
				return
			}
		}
		select {
		case <-g.ended:
			g.t.Fatalf("the gateway %s ended: %v\n%s", g.generation(), g.command.ProcessState, g.log.end())
		default:
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the gateway %s does not listen\n%s", g.generation(), g.log.end())
		}
	}
}

// kill ends the process with SIGKILL: it does nothing any more.
func (g *gateway) kill() {
	_ = g.command.Process.Kill()
	<-g.ended
	g.killed = append(g.killed, g.generation())
	g.command = nil
}

// stop ends the process as a service manager does, and waits until it is gone.
func (g *gateway) stop() {
	g.t.Helper()
	_ = g.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
		if code := g.command.ProcessState.ExitCode(); code != 0 {
			g.t.Errorf("the gateway %s ended with %v\n%s", g.generation(), g.command.ProcessState, g.log.end())
		}
		g.command = nil
	case <-time.After(2 * time.Minute):
		g.t.Errorf("the gateway %s does not stop\n%s", g.generation(), g.log.end())
		g.kill()
	}
}

// load gives the running process a new configuration, and returns its answer.
func (g *gateway) load(config string) (int, string) {
	g.t.Helper()
	return g.ask(http.MethodPost, "/load", config, "Content-Type: text/caddyfile")
}

// ask calls the admin API. A reload gives its port to another listener: a connection that still waits at the old one is
// closed unanswered, or refused, and then another one is made.
func (g *gateway) ask(method, path, body string, headers ...string) (int, string) {
	g.t.Helper()
	status, answer, err := post(plainClient, method, "http://"+g.admin+path, body, headers...)
	for tries := 0; (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED)) && tries < 10; tries++ {
		status, answer, err = post(plainClient, method, "http://"+g.admin+path, body, headers...)
	}
	if err != nil {
		g.t.Errorf("%s %s: %v", method, path, err)
	}
	return status, answer
}

// count is a value of the metric caddy_inbox_messages, -1 if there is none.
func (g *gateway) count(inbox, state string) int {
	g.t.Helper()
	_, metrics := g.ask(http.MethodGet, "/metrics", "")
	for line := range strings.Lines(metrics) {
		labels, ok := strings.CutPrefix(line, "caddy_inbox_messages{")
		if !ok || !strings.Contains(labels, `inbox="`+inbox+`"`) || !strings.Contains(labels, `state="`+state+`"`) {
			continue
		}
		_, value, _ := strings.Cut(strings.TrimSpace(labels), "} ")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			g.t.Errorf("%v in %s", err, line)
		}
		return int(number)
	}
	return -1
}

// wantCount waits until the metric has a value.
func (g *gateway) wantCount(inbox, state string, want int) {
	g.t.Helper()
	got := -1
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got = g.count(inbox, state); got == want {
			return
		}
	}
	g.t.Errorf("%d messages of %s are %s, want %d", got, inbox, state, want)
}

// listed is a message as the admin API shows it.
type listed struct {
	Seq      uint64
	ID       string
	State    string
	Attempts int
	Answer   struct {
		Status int
		Body   string
		Error  string
	}
}

// list asks for the messages of an inbox.
func (g *gateway) list(inbox, query string) []listed {
	g.t.Helper()
	status, answer := g.ask(http.MethodGet, "/inbox/"+inbox+"/messages"+query, "")
	var messages []listed
	if err := json.Unmarshal([]byte(answer), &messages); err != nil || status != 200 {
		g.t.Errorf("list %s: %d %s, %v", query, status, answer, err)
	}
	return messages
}

// plainClient keeps no connections.
var plainClient = &http.Client{
	Timeout:   2 * time.Minute,
	Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
}

// keepingClient makes a client that keeps its connections, as a platform's does.
func keepingClient() *http.Client {
	return &http.Client{
		Timeout:   2 * time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}
}

// post sends a request with headers given as "Name: value", and returns status and body.
func post(client *http.Client, method, url, body string, headers ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Add(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return res.StatusCode, string(content), err
}

// bodyOf is the body of the message with this id: 100 bytes to 4 KiB, different for each.
func bodyOf(id string) string {
	h := hash(id)
	return fmt.Sprintf(`{"id":%q,"filler":"%s"}`, id, strings.Repeat(fmt.Sprintf("%016x", h), 4+int(h>>8)%250))
}

func hash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64()
}

// send sends the message with this id.
func (g *gateway) send(client *http.Client, path, id string, headers ...string) (int, string, error) {
	return post(client, http.MethodPost, "http://"+g.address+path, bodyOf(id),
		append([]string{"Content-Type: application/json", "Ce-Source: /test", "Ce-Id: " + id}, headers...)...)
}

// wantSent sends one message, or its repetition, and wants it acknowledged.
func (g *gateway) wantSent(path, id string, headers ...string) {
	g.t.Helper()
	if status, answer, err := g.send(plainClient, path, id, headers...); status != http.StatusAccepted || err != nil {
		g.t.Errorf("%s %s: %d %s, %v; want 202", path, id, status, answer, err)
	}
}

// reaction is what an app does with a delivery.
type reaction struct {
	hold   <-chan struct{} // first wait for this, or until the gateway has hung up
	pause  time.Duration   // then work so long, whether or not the gateway waits
	status int             // 0: 200
	body   string          // "": SUCCESS
	cut    int             // then break off: 1 before the answer, 2 in its middle
}

// app is where messages are delivered to. It has taken a message when its answer says so, whether or not the answer
// arrives: it writes into its books before it answers.
type app struct {
	t       testing.TB
	address string
	plan    func(r *http.Request, id string, attempt int) reaction
	check   func(r *http.Request, id, body string) string // what is wrong with a delivery

	server *http.Server
	count  atomic.Int64 // messages taken

	mu       sync.Mutex
	attempts map[string]int
	taken    map[string][]string // the generations that a message was taken from
	order    []string            // as they were taken
	wrong    []string
	at       map[string][]time.Time // when

	// stalled reports whether a gateway could record nothing for longer than the lease of what the app took from it at a
	// time. nil: it always can.
	stalled func(generation string, taken time.Time) bool
}

// newApp starts an app. Without a plan it takes everything at once.
func newApp(t testing.TB, plan func(r *http.Request, id string, attempt int) reaction) *app {
	t.Helper()
	a := &app{
		t: t, plan: plan, attempts: make(map[string]int), taken: make(map[string][]string),
		at: make(map[string][]time.Time),
		check: func(_ *http.Request, id, body string) string {
			if body != bodyOf(id) {
				return "another body"
			}
			return ""
		},
	}
	a.up()
	t.Cleanup(a.down)
	return a
}

// up makes the app listen, again at its address if it has one.
func (a *app) up() {
	a.t.Helper()
	address := a.address
	if address == "" {
		address = freeAddress(a.t)
	}
	listener, err := net.Listen("tcp", address)
	// A program that another test starts at this moment has all our sockets until it is its own, also the one that has just
	// found the address free.
	for until := time.Now().Add(2 * time.Minute); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
		listener, err = net.Listen("tcp", address)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.address = address
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	go func(server *http.Server) { _ = server.Serve(listener) }(a.server)
}

// down cuts what is being delivered, too.
func (a *app) down() { _ = a.server.Close() }

// orderPrefix is in front of what was sent, in a notify's merOrderId.
const orderPrefix = "1001"

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the gateway died while it sent
	}
	id := r.Header.Get("Ce-Id")
	if order, ok := strings.CutPrefix(r.Header.Get("Ce-Subject"), orderPrefix); ok {
		id = order // of a notify, what was sent
	}
	a.mu.Lock()
	a.attempts[id]++
	attempt := a.attempts[id]
	if wrong := a.check(r, id, string(body)); wrong != "" {
		a.wrong = append(a.wrong, id+": "+wrong)
	}
	plan := a.plan
	a.mu.Unlock()
	var does reaction
	if plan != nil {
		does = plan(r, id, attempt)
	}
	if does.hold != nil {
		select {
		case <-does.hold:
		case <-r.Context().Done():
			return
		}
	}
	if does.status == 0 {
		does.status = http.StatusOK
	}
	if does.body == "" {
		does.body = "SUCCESS"
	}
	if does.cut == 0 && does.status/100 == 2 && does.body == "SUCCESS" {
		a.mu.Lock()
		if len(a.taken[id]) == 0 {
			a.count.Add(1)
		}
		a.at[id] = append(a.at[id], time.Now())
		a.taken[id] = append(a.taken[id], r.Header.Get("X-Generation"))
		a.order = append(a.order, id)
		a.mu.Unlock()
	}
	time.Sleep(does.pause)
	if does.cut == 1 {
		panic(http.ErrAbortHandler)
	}
	if does.cut == 2 {
		w.Header().Set("Content-Length", strconv.Itoa(len(does.body)+100))
	}
	w.WriteHeader(does.status)
	_, _ = io.WriteString(w, does.body)
	if does.cut == 2 {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// times tells how often a message was taken, and how often it was tried.
func (a *app) times(id string) (taken, attempts int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.taken[id]), a.attempts[id]
}

// takenOrder returns the ids in the order in which they were taken.
func (a *app) takenOrder() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.order)
}

// wantTaken waits until a message has been taken.
func (a *app) wantTaken(id string) {
	a.t.Helper()
	within(a.t, 2*time.Minute, "the delivery of "+id, func() bool { taken, _ := a.times(id); return taken > 0 })
}

// deliver is the block that delivers to the app, with other handlers before it.
func (a *app) deliver(before ...string) string {
	return "deliver {\n" + strings.Join(before, "\n") + "\nreverse_proxy " + a.address + " {\nheader_up X-Generation {env.GENERATION}\n}\n}"
}

// troubled is the plan of an app of everyday: one delivery in sixteen fails at first, in every way there is, and some
// take longer.
func troubled(_ *http.Request, id string, attempt int) reaction {
	kind := hash(id) % 64
	if attempt == 1 {
		switch kind {
		case 0:
			return reaction{status: 500}
		case 1:
			return reaction{cut: 1}
		case 2:
			return reaction{body: "FAILED"}
		case 3:
			return reaction{cut: 2}
		}
	}
	if kind < 8 {
		return reaction{pause: 20 * time.Millisecond}
	}
	return reaction{}
}

// load is many senders that do what a platform does: each sends a message until it is acknowledged, then the next.
type load struct {
	send   func(id string) (status int, err error) // 0 or an error: no answer
	prefix string
	pace   func() // between two messages

	next                       atomic.Int64
	acked                      atomic.Int64
	noAnswer, refused, repeats atomic.Int64

	mu       sync.Mutex
	ids      []string // acknowledged
	statuses map[int]int
}

func newLoad(prefix string, send func(id string) (int, error)) *load {
	return &load{prefix: prefix, send: send, statuses: make(map[int]int)}
}

// run sends from n senders until ctx ends. One message in ten is sent again, long after it was acknowledged.
func (l *load) run(ctx context.Context, n int) *sync.WaitGroup {
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			for ctx.Err() == nil {
				id := fmt.Sprintf("%s%06d", l.prefix, l.next.Add(1))
				if l.until(ctx, id) {
					l.mu.Lock()
					l.ids = append(l.ids, id)
					again := ""
					if len(l.ids)%10 == 0 {
						again = l.ids[rand.IntN(len(l.ids))]
					}
					l.mu.Unlock()
					l.acked.Add(1)
					if again != "" && l.until(ctx, again) {
						l.repeats.Add(1)
					}
				}
				if l.pace != nil {
					l.pace()
				}
			}
		})
	}
	return &group
}

// until sends one message until it is acknowledged.
func (l *load) until(ctx context.Context, id string) bool {
	for ctx.Err() == nil {
		status, err := l.send(id)
		switch {
		case err != nil:
			l.noAnswer.Add(1)
		default:
			l.mu.Lock()
			l.statuses[status]++
			l.mu.Unlock()
			if status == http.StatusAccepted {
				return true
			}
			l.refused.Add(1)
		}
		time.Sleep(10 * time.Millisecond) // so that the gateway has some time to start
	}
	return false
}

func (l *load) acknowledged() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ids)
}

// finish waits until the app has taken all that was acknowledged, as long as there is any progress. NATS takes its time:
// what a gateway had in flight when it died is handed out again half a minute after the delivery's own time.
func finish(t testing.TB, a *app, acked []string) {
	t.Helper()
	missing, last, since := 0, -1, time.Now()
	for {
		a.mu.Lock()
		missing = 0
		for _, id := range acked {
			if len(a.taken[id]) == 0 {
				missing++
			}
		}
		a.mu.Unlock()
		if missing == 0 {
			return
		}
		if missing != last {
			last, since = missing, time.Now()
		}
		if time.Since(since) > 3*time.Minute {
			t.Errorf("%d acknowledged messages are not delivered, and nothing goes on", missing)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tally is what a fault run comes to.
type tally struct {
	acked, lost, doubles, unexplained, most, stalled int
}

func (s tally) String() string {
	return fmt.Sprintf("acknowledged %d, lost %d, taken twice %d (not in flight at a kill: %d; most at one kill: %d; in a stall: %d)",
		s.acked, s.lost, s.doubles, s.unexplained, s.most, s.stalled)
}

// judge compares what was acknowledged with what the app has taken. A message may have been taken twice only if the
// generation that delivered it first was killed, and of each killed generation at most as many as were in flight; or if that
// generation could record nothing until its lease had run out.
func judge(t testing.TB, a *app, acked, killed []string, concurrency int) tally {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := tally{acked: len(acked)}
	for _, id := range acked {
		if len(a.taken[id]) == 0 {
			s.lost++
			t.Errorf("lost: %s was acknowledged, and tried %d times", id, a.attempts[id])
		}
	}
	doubles := make(map[string]int)
	for id, generations := range a.taken {
		for i := 1; i < len(generations); i++ {
			s.doubles++
			first := generations[i-1]
			if a.stalled != nil && a.stalled(first, a.at[id][i-1]) {
				s.stalled++
				continue
			}
			if first == generations[i] || !slices.Contains(killed, first) {
				s.unexplained++
				t.Errorf("%s was taken from %v; none of it was in flight when a gateway died", id, generations)
			}
			doubles[first]++
		}
	}
	for generation, n := range doubles {
		s.most = max(s.most, n)
		if n > concurrency {
			t.Errorf("%d messages of %s were taken twice, though at most %d were in flight when it died", n, generation, concurrency)
		}
	}
	for _, wrong := range a.wrong {
		t.Errorf("delivered otherwise than sent: %s", wrong)
	}
	return s
}

// run runs the binary with arguments and returns what it prints, and its exit code.
func (g *gateway) run(arguments ...string) (string, int) {
	g.t.Helper()
	var output bytes.Buffer
	command := exec.Command(g.binary, arguments...)
	command.Env = append(os.Environ(), append([]string{"HOME=" + g.directory, "XDG_DATA_HOME=" + filepath.Join(g.directory, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(g.directory, "config"), "LC_ALL=C", "LANG=C", "LANGUAGE=C"}, g.environment...)...)
	command.Stdout, command.Stderr = &output, &output
	err := command.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return output.String(), exit.ExitCode()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return output.String(), 0
}
