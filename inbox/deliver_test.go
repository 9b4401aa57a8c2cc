package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

func answering(status int, word string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(status)
		_, err := io.WriteString(w, word)
		return err
	}
}

// metric is the value of a counter or gauge, or a histogram's count.
func (g *gateway) metric(name string, labels ...string) float64 {
	g.t.Helper()
	families, err := g.ctx.GetMetricsRegistry().Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.Metric {
			var pairs []string
			for _, pair := range metric.Label {
				pairs = append(pairs, pair.GetName()+"="+pair.GetValue())
			}
			if slices.Equal(pairs, labels) {
				switch family.GetType() {
				case dto.MetricType_HISTOGRAM:
					return float64(metric.Histogram.GetSampleCount())
				case dto.MetricType_COUNTER:
					return metric.Counter.GetValue()
				default:
					return metric.Gauge.GetValue()
				}
			}
		}
	}
	return 0
}

func (g *gateway) deliveries(result string) float64 {
	return g.metric("caddy_inbox_deliveries_total", "inbox=default", "result="+result)
}

// TestVerdicts: what the app may answer, and what becomes of the message at its last attempt.
func TestVerdicts(t *testing.T) {
	for name, test := range map[string]struct {
		ack    string
		app    func(http.ResponseWriter, *http.Request) error
		taken  bool
		answer inbox.Answer
	}{
		"nothing":              {"word", answering(200, ""), true, inbox.Answer{Status: 200}},
		"SUCCESS":              {"word", answering(201, " success\n"), true, inbox.Answer{Status: 201, Body: "success\n"}},
		"another word":         {"word", answering(200, "<html>"), false, inbox.Answer{Status: 200, Body: "<html>", Error: "refused"}},
		"another word, 2xx":    {"2xx", answering(200, "<html>"), true, inbox.Answer{Status: 200, Body: "<html>"}},
		"FAIL, 2xx":            {"2xx", answering(200, "fail"), false, inbox.Answer{Status: 200, Body: "fail", Error: "refused"}},
		"a redirect":           {"2xx", answering(302, ""), false, inbox.Answer{Status: 302, Error: "refused"}},
		"500":                  {"word", answering(500, "SUCCESS"), false, inbox.Answer{Status: 500, Body: "SUCCESS", Error: "refused"}},
		"long":                 {"word", answering(500, strings.Repeat("x", 1000)), false, inbox.Answer{Status: 500, Body: strings.Repeat("x", 256), Error: "refused"}},
		"not UTF-8":            {"word", answering(500, "\xc4\xe3"), false, inbox.Answer{Status: 500, Body: "?", Error: "refused"}},
		"nobody":               {"word", nil, false, inbox.Answer{Error: "no_handler"}},
		"an error":             {"word", func(http.ResponseWriter, *http.Request) error { return errors.New("no route") }, false, inbox.Answer{Error: "no route"}},
		"a gateway's error":    {"word", func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(502, errors.New("refused")) }, false, inbox.Answer{Error: "refused"}},
		"an error of no words": {"word", func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(503, errors.New("")) }, false, inbox.Answer{Error: "HTTP 503"}},
		"a panic":              {"word", func(http.ResponseWriter, *http.Request) error { panic("secret") }, false, inbox.Answer{Error: "a handler panicked (string)"}},
		"an answer broken off": {"word", func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(200); panic(http.ErrAbortHandler) }, false, inbox.Answer{Status: 200, Error: "the answer broke off"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, options{app: test.app, handler: map[string]any{"ack": test.ack, "give_up": "1ns"}})
			taken, dead := g.deliveries("delivered"), g.deliveries("dead")
			g.accepted("1", "the body")
			if test.taken {
				if message := g.becomes("1", inbox.Delivered); message.Answer != test.answer {
					t.Errorf("answer %+v, want %+v", message.Answer, test.answer)
				}
				testutil.Eventually(t, "it is counted", func() bool { return g.deliveries("delivered") == taken+1 })
				g.noEvent()
				return
			}
			message := g.becomes("1", inbox.Dead)
			if message.Answer != test.answer || message.Attempts != 1 {
				t.Errorf("answer %+v after %d attempts, want %+v", message.Answer, message.Attempts, test.answer)
			}
			event := g.event("inbox.dead_letter")
			if event["inbox"] != "default" || event["seq"] != message.Seq || event["id"] != "1" || event["attempts"] != 1 ||
				event["answer"].(map[string]any)["status"] != test.answer.Status {
				t.Errorf("event %v", event)
			}
			if lines := g.log.lines(`"level":"error"`, "dead letter", `"inbox":"default"`, `"message_id":"1"`); len(lines) != 1 {
				t.Errorf("%d lines tell of it", len(lines))
			}
			if len(g.log.lines("the body"))+len(g.log.lines("secret")) != 0 {
				t.Error("a body or a panic's value is logged")
			}
			if g.deliveries("dead") != dead+1 || g.metric("caddy_inbox_messages", "inbox=default", "state=dead") != 1 {
				t.Error("it is not counted")
			}
		})
	}
}

// TestDeadLettersAreLoggedAtTimes: every dead letter is an event, and the log is not flooded.
func TestDeadLettersAreLoggedAtTimes(t *testing.T) {
	g := start(t, options{app: answering(500, ""), handler: map[string]any{"give_up": "1ns"}})
	const many = 15
	for i := range many {
		g.accepted(fmt.Sprint(i), "x")
	}
	for range many {
		g.event("inbox.dead_letter")
	}
	if lines := len(g.log.lines("dead letter", `"suppressed":0`)); lines != 10 {
		t.Errorf("%d lines in a minute, want 10", lines)
	}
}

// TestEncodedAnswer: an app that compresses its word is told so.
func TestEncodedAnswer(t *testing.T) {
	g := start(t, options{app: func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Encoding", "gzip")
		_, err := io.WriteString(w, "\x1f\x8b\x08")
		return err
	}, handler: map[string]any{"ack": "2xx"}})
	g.accepted("1", "x")
	testutil.Eventually(t, "it is logged", func() bool {
		return len(g.log.lines(`"level":"warn"`, "Content-Encoding", `"app_status":200`, `"message_id":"1"`)) > 0
	})
	if message := g.message("1"); message.Answer.Body != "" || message.Answer.Error != "the answer is encoded" {
		t.Errorf("answer %+v", message.Answer)
	}
}

// TestRetries: again and again until it is taken; then it is told that it works again.
func TestRetries(t *testing.T) {
	var calls atomic.Int64
	got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
		if calls.Add(1) <= 5 {
			w.WriteHeader(503)
			_, err := io.WriteString(w, "deploying, "+strings.Repeat("y", 200))
			return err
		}
		w.WriteHeader(204)
		return nil
	})
	g := start(t, options{app: app})
	failed, taken := g.deliveries("failed"), g.deliveries("delivered")
	g.accepted("1", "body")
	for range 6 {
		if r := testutil.Receive(t, "a delivery", got); r.content != "body" || r.Header.Get("Id") != "1" {
			t.Errorf("delivered %q", r.content)
		}
	}
	g.becomes("1", inbox.Delivered)
	if event := g.event("inbox.recovered"); event["failures"] != 5 || event["since"].(time.Time).IsZero() {
		t.Errorf("event %v", event)
	}
	testutil.Eventually(t, "all are counted", func() bool { return g.deliveries("failed") == failed+5 && g.deliveries("delivered") == taken+1 })
	testutil.Eventually(t, "all are logged", func() bool { // which may be after the next delivery
		return len(g.log.lines(`"level":"warn"`, "message not delivered", `"app_status":503`, `deploying, `+strings.Repeat("y", 69))) == 5
	})
	if len(g.log.lines(strings.Repeat("y", 70))) != 0 {
		t.Error("more of the answer is logged")
	}
	g.accepted("2", "body")
	g.becomes("2", inbox.Delivered)
	g.noEvent()
}

// TestHint: an app that answers 2xx with a word of its own is told about ack.
func TestHint(t *testing.T) {
	got, app := appOf(answering(200, "thank you"))
	g := start(t, options{app: app, handler: map[string]any{"retry": []string{"1h"}}})
	g.accepted("1", "x")
	testutil.Receive(t, "the delivery", got)
	testutil.Eventually(t, "it is logged", func() bool { return len(g.log.lines("app answered 2xx", "thank you", "or set ack 2xx")) == 1 })
}

// TestTimeout: an app that does not answer in time has failed; one that answers late, but whole, has taken it.
func TestTimeout(t *testing.T) {
	t.Run("no answer", func(t *testing.T) {
		var calls atomic.Int64
		got, app := appOf(func(w http.ResponseWriter, r *http.Request) error {
			if calls.Add(1) == 1 {
				<-r.Context().Done()
				return r.Context().Err()
			}
			return nil
		})
		g := start(t, options{app: app, handler: map[string]any{"timeout": "20ms", "give_up": "1ns"}})
		late := g.deliveries("dead")
		g.accepted("1", "x")
		testutil.Receive(t, "the delivery", got)
		if message := g.becomes("1", inbox.Dead); message.Answer.Error != "timeout" {
			t.Errorf("answer %+v", message.Answer)
		}
		testutil.Eventually(t, "it is counted", func() bool { return g.deliveries("dead") == late+1 })
	})
	t.Run("and again", func(t *testing.T) {
		var calls atomic.Int64
		got, app := appOf(func(w http.ResponseWriter, r *http.Request) error {
			if calls.Add(1) == 1 {
				<-r.Context().Done()
				return r.Context().Err()
			}
			w.WriteHeader(200)
			return nil
		})
		g := start(t, options{app: app, handler: map[string]any{"timeout": "1s"}}) // enough for the second
		late := g.deliveries("timeout")
		g.accepted("1", "x")
		testutil.Receive(t, "the first delivery", got)
		testutil.Receive(t, "the second", got)
		g.becomes("1", inbox.Delivered)
		testutil.Eventually(t, "it is counted", func() bool { return g.deliveries("timeout") == late+1 })
	})
	t.Run("a late answer", func(t *testing.T) {
		got, app := appOf(func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done() // and does not care
			w.WriteHeader(200)
			_, err := io.WriteString(w, "SUCCESS")
			return err
		})
		g := start(t, options{app: app, handler: map[string]any{"timeout": "20ms"}})
		g.accepted("1", "x")
		testutil.Receive(t, "the delivery", got)
		if message := g.becomes("1", inbox.Delivered); message.Attempts != 0 || message.Answer.Error != "" {
			t.Errorf("%+v", message)
		}
		g.noEvent()
	})
}

// TestUnreadable: what no version of the gateway can read is kept for people, and blocks nobody.
func TestUnreadable(t *testing.T) {
	got, app := appOf(nil)
	g := provision(t, options{app: app, handler: map[string]any{"concurrency": 1}})
	if err := g.app.Start(); err != nil {
		t.Fatal(err)
	}
	for _, message := range []*inbox.Message{
		{ID: "broken", Received: time.Now(), Request: []byte("\x01nonsense")},
		{ID: "empty", Received: time.Now()},
		{ID: "newer", Received: time.Now(), Request: []byte("\x09")},
		{ID: "good", Received: time.Now(), Request: inbox.RequestOf("PUT", "/x", "text")},
	} {
		if _, err := g.memory().Put(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	if r := testutil.Receive(t, "the good one", got); r.Method != "PUT" || r.content != "text" {
		t.Errorf("%s %q", r.Method, r.content)
	}
	for id, want := range map[string]string{"broken": "it is damaged", "empty": "it is empty", "newer": "it is of version 9"} {
		if message := g.becomes(id, inbox.Dead); !strings.Contains(message.Answer.Error, want) {
			t.Errorf("%s: %q, want %q", id, message.Answer.Error, want)
		}
		g.event("inbox.dead_letter")
	}
}

// TestConcurrency: as many at once as it says, and no more.
func TestConcurrency(t *testing.T) {
	const limit, messages = 3, 20
	var flying, most atomic.Int64
	got, release := make(chan struct{}, messages), make(chan struct{})
	app := func(w http.ResponseWriter, _ *http.Request) error {
		now := flying.Add(1)
		for {
			if old := most.Load(); now <= old || most.CompareAndSwap(old, now) {
				break
			}
		}
		got <- struct{}{} // it flies by now
		<-release
		flying.Add(-1)
		w.WriteHeader(200)
		return nil
	}
	g := start(t, options{app: app, handler: map[string]any{"concurrency": limit}})
	for i := range messages {
		g.accepted(fmt.Sprint(i), "x")
	}
	for range limit {
		testutil.Receive(t, "as many deliveries as may be", got)
	}
	for i := range messages {
		release <- struct{}{}
		if i < messages-limit {
			testutil.Receive(t, "the next", got)
		}
	}
	for i := range messages {
		g.becomes(fmt.Sprint(i), inbox.Delivered)
	}
	if most.Load() != limit {
		t.Errorf("%d at once, want %d", most.Load(), limit)
	}
}

// TestPoison: messages that the app never takes keep nobody waiting.
func TestPoison(t *testing.T) {
	app := func(w http.ResponseWriter, r *http.Request) error {
		if strings.HasPrefix(r.Header.Get("Id"), "poison") {
			w.WriteHeader(500)
			return nil
		}
		w.WriteHeader(200)
		return nil
	}
	g := start(t, options{app: app, handler: map[string]any{"concurrency": 2, "retry": []string{"1ms"}}})
	for i := range 10 {
		g.accepted(fmt.Sprint("poison", i), "x")
	}
	for i := range 50 {
		g.accepted(fmt.Sprint(i), "x")
	}
	for i := range 50 {
		g.becomes(fmt.Sprint(i), inbox.Delivered)
	}
	g.becomes("poison0", inbox.Pending)
}

// TestOrder: one key's messages go one after the other, a failing one first; other keys do not wait.
func TestOrder(t *testing.T) {
	var mu sync.Mutex
	var order []string
	var heal atomic.Bool
	app := func(w http.ResponseWriter, r *http.Request) error {
		id := r.Header.Get("Id")
		if id == "a0" && !heal.Load() {
			w.WriteHeader(500)
			return nil
		}
		mu.Lock()
		order = append(order, id)
		mu.Unlock()
		w.WriteHeader(200)
		return nil
	}
	g := start(t, options{app: app, handler: map[string]any{"order_by": "{http.request.header.Order}"}})
	for i := range 10 {
		g.accepted(fmt.Sprint("a", i), "x", "Order: a")
		g.accepted(fmt.Sprint("b", i), "x", "Order: b")
		g.accepted(fmt.Sprint("none", i), "x")
	}
	for i := range 10 {
		g.becomes(fmt.Sprint("b", i), inbox.Delivered)
		g.becomes(fmt.Sprint("none", i), inbox.Delivered)
	}
	mu.Lock()
	for _, id := range order {
		if strings.HasPrefix(id, "a") {
			t.Errorf("%s was delivered before a0", id)
		}
	}
	mu.Unlock()
	heal.Store(true)
	g.becomes("a9", inbox.Delivered)
	for _, key := range []string{"a", "b"} {
		var got []string
		for _, id := range order {
			if strings.HasPrefix(id, key) {
				got = append(got, id)
			}
		}
		if len(got) != 10 || !slices.IsSorted(got) {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// TestStoreFails: the gateway goes on when the store does, and delivers nothing twice because of it.
func TestStoreFails(t *testing.T) {
	t.Run("what became of a delivery cannot be stored", func(t *testing.T) {
		got, app := appOf(nil)
		g := start(t, options{app: app})
		g.memory().Fail("Settle", errors.New("disk full"))
		g.accepted("1", "x")
		testutil.Receive(t, "the delivery", got)
		testutil.Eventually(t, "it is logged", func() bool {
			return len(g.log.lines("what became of a delivery cannot be stored now", "disk full")) > 1
		})
		g.memory().Fail("Settle", nil)
		g.becomes("1", inbox.Delivered)
		if event := g.event("inbox.recovered"); event["inbox"] != "default" || event["failures"].(int) < 2 {
			t.Errorf("event %v", event)
		}
		if len(got) != 0 {
			t.Error("it was delivered again")
		}
	})
	t.Run("nothing can be leased", func(t *testing.T) {
		got, app := appOf(nil)
		g := start(t, options{app: app})
		g.memory().Fail("Lease", errors.New("no quorum"))
		g.accepted("1", "x")
		testutil.Eventually(t, "it is logged", func() bool { return len(g.log.lines("cannot be delivered now", "no quorum", `"level":"error"`)) > 5 })
		g.memory().Fail("Lease", nil)
		testutil.Receive(t, "the delivery", got)
		g.event("inbox.recovered")
		if lines := len(g.log.lines("no quorum")); lines > 10 {
			t.Errorf("%d lines", lines)
		}
	})
}

// TestClockJumps: neither a clock that jumps nor years without a gateway give a message up.
func TestClockJumps(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, jump := range map[string]time.Duration{"ahead": 10 * year, "back": -10 * year} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			var taken atomic.Bool
			got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
				w.WriteHeader(map[bool]int{false: 500, true: 200}[taken.Load()])
				return nil
			})
			g := start(t, options{app: app, clock: clock.Now, handler: map[string]any{"retry": []string{"1m"}, "give_up": "1h"}})
			message := &inbox.Message{ID: "1", Received: clock.Now(), Request: inbox.RequestOf("POST", "/", "")}
			if _, err := g.memory().Put(t.Context(), message); err != nil {
				t.Fatal(err)
			}
			attempts := 0
			again := func(ahead time.Duration, meanwhile ...func()) {
				t.Helper()
				testutil.Receive(t, "a delivery", got)
				attempts++
				testutil.Eventually(t, "it waits", func() bool {
					m := g.message("1")
					return m.State == inbox.Pending && m.Attempts == attempts && m.Due.After(clock.Now())
				})
				for _, do := range meanwhile {
					do()
				}
				clock.jump(ahead)
				g.memory().Wake()
			}
			again(time.Minute + 10*time.Second)
			again(jump)
			if name == "back" {
				// It was due ten years hence, which no delay is.
				again(time.Minute + 10*time.Second)
			}
			for range 19 {
				again(time.Minute + 10*time.Second)
			}
			again(time.Minute+10*time.Second, func() { taken.Store(true) })
			testutil.Receive(t, "the last delivery", got)
			g.becomes("1", inbox.Delivered)
		})
	}
}

func TestMetrics(t *testing.T) {
	block := make(chan struct{})
	got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
		<-block
		w.WriteHeader(200)
		return nil
	})
	g := start(t, options{app: app})
	stored := g.metric("caddy_inbox_store_duration_seconds", "inbox=default")
	if g.metric("caddy_inbox_oldest_seconds", "inbox=default") != 0 {
		t.Error("something is old in an empty inbox")
	}
	message := &inbox.Message{ID: "old", Received: time.Now().Add(-time.Hour), Request: inbox.RequestOf("POST", "/", "")}
	if _, err := g.memory().Put(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	g.accepted("1", "x")
	testutil.Receive(t, "one", got)
	testutil.Receive(t, "the other", got)
	if pending := g.metric("caddy_inbox_messages", "inbox=default", "state=pending"); pending != 2 {
		t.Errorf("%v pending", pending)
	}
	if oldest := g.metric("caddy_inbox_oldest_seconds", "inbox=default"); oldest < 3600 || oldest > 3700 {
		t.Errorf("the oldest is %v s old", oldest)
	}
	if now := g.metric("caddy_inbox_store_duration_seconds", "inbox=default"); now != stored+1 {
		t.Errorf("%v requests stored, before %v", now, stored)
	}
	close(block)
	g.becomes("1", inbox.Delivered)
	g.becomes("old", inbox.Delivered)
	if delivered := g.metric("caddy_inbox_messages", "inbox=default", "state=delivered"); delivered != 2 {
		t.Errorf("%v delivered", delivered)
	}
	g.memory().Fail("Stats", errors.New("no quorum"))
	if pending := g.metric("caddy_inbox_messages", "inbox=default", "state=delivered"); pending != 0 {
		t.Error("counted without the store")
	}
	if len(g.log.lines("could not be counted", "no quorum")) != 1 {
		t.Error("it is not logged")
	}
	testutil.Eventually(t, "the other metrics are not gone with it", func() bool { // the count may come after the state
		return g.metric("caddy_inbox_deliveries_total", "inbox=default", "result=delivered") > 0
	})
}

// TestContext: what the handlers of `deliver` may ask for is there.
func TestContext(t *testing.T) {
	got := make(chan string, 1)
	app := func(w http.ResponseWriter, r *http.Request) error {
		repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if !ok {
			return errors.New("no placeholders")
		}
		server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
		if server == nil || server.Listen == nil {
			return errors.New("not the server of the route")
		}
		w.Header().Set("X-Answer", "yes")
		if _, ok := r.Context().Deadline(); !ok {
			return errors.New("no deadline")
		}
		caddyhttp.SetVar(r.Context(), "a", "b")
		got <- repl.ReplaceAll("{http.request.header.Id} {http.request.host} {http.request.uri} {http.request.scheme} {http.request.remote.host} "+
			"{http.vars.a} {http.vars.client_ip} {http.response.header.X-Answer} {http.request.orig_uri} {http.vars.stays}", "-")
		w.WriteHeader(200)
		return nil
	}
	g := start(t, options{app: app})
	r := webhookRequest("1", "x")
	r.RemoteAddr = "192.0.2.7:1234"
	if w := g.serve(r); w.Code != 202 {
		t.Fatal(w.Code)
	}
	if words := testutil.Receive(t, "the delivery", got); words != "1 shop.example /hook?a=1 http 192.0.2.7 b 192.0.2.7 yes /hook?a=1 -" {
		t.Errorf("%q", words)
	}
	g.becomes("1", inbox.Delivered)
}

// TestHintOfTheApp: the line of a message that the app has not taken says what is probably wrong. Before, it had the status
// only.
func TestHintOfTheApp(t *testing.T) {
	for status, want := range map[int]string{401: "APP_SECRET", 404: "notifyUrl's path", 500: "an error in the app", 302: "the app redirects"} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			g := start(t, options{
				handler: map[string]any{"retry": []string{"1h"}},
				app: func(w http.ResponseWriter, _ *http.Request) error {
					w.WriteHeader(status)
					return nil
				},
			})
			g.accepted("a", "{}")
			testutil.Eventually(t, "the delivery is logged", func() bool {
				return len(g.log.lines("it will be tried again", `"hint":"`, want)) == 1
			})
		})
	}
}

// TestPutMetrics: what becomes of each request that is to be stored is counted, and how full the inbox is. Before, only the
// time was known.
func TestPutMetrics(t *testing.T) {
	g := start(t, options{
		handler: map[string]any{"retry": []string{"1h"}}, inbox: map[string]any{"max_store": 20000}, app: answering(http.StatusInternalServerError, ""),
	})
	puts := func(result string) float64 {
		return g.metric("caddy_inbox_puts_total", "inbox=default", "result="+result)
	}
	stored, repeated, full := puts("stored"), puts("repeated"), puts("full")
	g.accepted("a", strings.Repeat("x", 6000))
	g.accepted("a", strings.Repeat("x", 6000))
	if puts("stored") != stored+1 || puts("repeated") != repeated+1 {
		t.Errorf("stored %v, repeated %v", puts("stored")-stored, puts("repeated")-repeated)
	}
	if size, most := g.metric("caddy_inbox_bytes", "inbox=default"), g.metric("caddy_inbox_max_bytes", "inbox=default"); size < 6000 || size > most || most != 20000 {
		t.Errorf("%v of %v bytes", size, most)
	}
	g.accepted("b", strings.Repeat("x", 6000))
	if w := g.post("c", strings.Repeat("x", 9000)); w.Code != http.StatusServiceUnavailable {
		t.Fatalf("answered %d", w.Code)
	}
	if puts("full") != full+1 {
		t.Errorf("full %v", puts("full")-full)
	}
}

// lingering is a store whose first Settle of a result returns only when it is let go, although the message is settled.
type lingering struct {
	inbox.Store
	result inbox.State
	once   *sync.Once
	goOn   <-chan struct{}
}

func (s lingering) Settle(ctx context.Context, message *inbox.Message, outcome inbox.Outcome) error {
	err := s.Store.Settle(ctx, message, outcome)
	if outcome.Result == s.result {
		s.once.Do(func() { <-s.goOn })
	}
	return err
}

// TestNextDeliveryIsQuicker: what failed was noted after it had been settled, when the next delivery of the message could have
// been made already. Then the failure was told with those of another message, or that messages are taken again was not told.
func TestNextDeliveryIsQuicker(t *testing.T) {
	var refuses atomic.Bool
	app := func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(map[bool]int{false: 200, true: 500}[refuses.CompareAndSwap(true, false)])
		return nil
	}
	begin := func(t *testing.T, result inbox.State, handler map[string]any) (g *gateway, goOn chan struct{}) {
		goOn = make(chan struct{})
		remember(&things.wraps, nameOf(t), func(store inbox.Store) inbox.Store { return lingering{store, result, new(sync.Once), goOn} })
		return start(t, options{app: app, handler: handler}), goOn
	}
	t.Run("it failed once", func(t *testing.T) {
		g, goOn := begin(t, inbox.Pending, nil)
		refuses.Store(true)
		g.accepted("1", "x")
		if event := g.event("inbox.recovered"); event["failures"] != 1 {
			t.Errorf("event %v", event)
		}
		close(goOn)
		testutil.Eventually(t, "the failure is logged", func() bool { return len(g.log.lines("message not delivered", `"message_id":"1"`)) == 1 })
		refuses.Store(true)
		g.accepted("2", "x")
		if event := g.event("inbox.recovered"); event["failures"] != 1 {
			t.Errorf("event %v", event)
		}
	})
	t.Run("it was given up", func(t *testing.T) {
		g, goOn := begin(t, inbox.Dead, map[string]any{"give_up": "1ns"})
		refuses.Store(true)
		g.accepted("1", "x")
		g.becomes("1", inbox.Dead)
		g.accepted("1", "again")
		g.becomes("1", inbox.Delivered)
		close(goOn)
		told := map[string]bool{}
		for range 2 {
			told[testutil.Receive(t, "an event", g.events).Name()] = true
		}
		if !told["inbox.recovered"] || !told["inbox.dead_letter"] {
			t.Errorf("told %v", told)
		}
	})
}
