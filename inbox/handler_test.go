package inbox_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// seen is a request as the app got it.
type seen struct {
	*http.Request
	content string
}

// appOf plays an app that hands what it gets to a channel and answers as answer says, or 200.
func appOf(answer func(http.ResponseWriter, *http.Request) error) (chan seen, func(http.ResponseWriter, *http.Request) error) {
	got := make(chan seen, 1000)
	return got, func(w http.ResponseWriter, r *http.Request) error {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		got <- seen{r, string(content)}
		if answer != nil {
			return answer(w, r)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
}

func TestDelivered(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app})
	g.accepted("1", `{"a":1}`, "Content-Type: application/json", "X-Many: a", "X-Many: b")
	r := testutil.Receive(t, "the delivery", got)
	if r.Method != "POST" || r.RequestURI != "/hook?a=1" || r.URL.Path != "/hook" || r.Host != "shop.example" || r.content != `{"a":1}` {
		t.Errorf("the app got %s %s of %s: %q", r.Method, r.RequestURI, r.Host, r.content)
	}
	if r.Header.Get("Content-Type") != "application/json" || strings.Join(r.Header["X-Many"], ",") != "a,b" || r.Header.Get("Content-Length") != "7" {
		t.Errorf("header %v", r.Header)
	}
	message := g.becomes("1", inbox.Delivered)
	if message.Answer.Status != 200 || message.Answer.Error != "" || message.Attempts != 0 {
		t.Errorf("%+v", message)
	}
	if lines := g.log.lines(`"logger":"http.log.access"`, `"inbox":"default"`, `"receipt":"stored"`, `"message_id":"1"`, `"status":202`); len(lines) != 1 {
		t.Errorf("%d lines of the access log tell it", len(lines))
	}
	g.noEvent()
}

func TestAnyMethod(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app})
	for _, method := range []string{"GET", "PUT", "DELETE", "POST"} {
		r := httptest.NewRequest(method, "http://shop.example/x", nil)
		r.Header.Set("Id", method)
		if w := g.serve(r); w.Code != 202 {
			t.Errorf("%s: %d", method, w.Code)
		}
		if r := testutil.Receive(t, method, got); r.Method != method || r.content != "" {
			t.Errorf("%s: the app got %s with %q", method, r.Method, r.content)
		}
	}
}

// TestSubject: a message's subject is what Ce-Subject says, as it stands there, cut where it is longer than a store takes.
func TestSubject(t *testing.T) {
	_, app := appOf(nil)
	g := start(t, options{app: app})
	for id, test := range map[string]struct{ header, want string }{
		"none":        {"", ""},
		"an order":    {"3194202611290001", "3194202611290001"},
		"encoded":     {"%E8%AE%A2%E5%8D%95-1", "%E8%AE%A2%E5%8D%95-1"},
		"not UTF-8":   {"a\xff\xfeb", "a?b"},
		"long":        {strings.Repeat("9", 300), strings.Repeat("9", 256)},
		"cut in half": {strings.Repeat("9", 255) + "单", strings.Repeat("9", 255) + "?"},
	} {
		if test.header == "" {
			g.accepted(id, "x")
		} else {
			g.accepted(id, "x", "Ce-Subject: "+test.header)
		}
		if got := g.message(id).Subject; got != test.want {
			t.Errorf("%s: %q, want %q", id, got, test.want)
		}
	}
}

// TestReceipts: a repetition is acknowledged and not delivered again; a dead one is.
func TestReceipts(t *testing.T) {
	gate := make(chan struct{})
	var status atomic.Int64
	status.Store(500)
	got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
		<-gate
		w.WriteHeader(int(status.Load()))
		return nil
	})
	g := start(t, options{app: app, handler: map[string]any{"give_up": "30ms", "retry": []string{"5ms"}}})
	g.accepted("1", "first")
	testutil.Receive(t, "the first delivery", got)
	g.accepted("1", "again, in flight")
	close(gate)
	dead := g.becomes("1", inbox.Dead)
	if event := g.event("inbox.dead_letter"); event["id"] != "1" || event["attempts"] != dead.Attempts || event["inbox"] != "default" {
		t.Errorf("event %v", event)
	}
	for len(got) > 0 {
		<-got
	}
	status.Store(200)
	g.accepted("1", "once more")
	if r := testutil.Receive(t, "the delivery of what was revived", got); r.content != "once more" {
		t.Errorf("delivered %q", r.content)
	}
	g.becomes("1", inbox.Delivered)
	if event := g.event("inbox.recovered"); event["failures"] != dead.Attempts {
		t.Errorf("event %v", event)
	}
	g.accepted("1", "delivered already")
	g.accepted("2", "another")
	if r := testutil.Receive(t, "the other one's delivery", got); r.content != "another" {
		t.Errorf("delivered %q", r.content)
	}
	for receipt, count := range map[string]int{"stored": 2, "repeated": 2, "revived": 1} {
		if lines := g.log.lines(`"receipt":"` + receipt + `"`); len(lines) != count {
			t.Errorf("%s: %d times in the access log, want %d", receipt, len(lines), count)
		}
	}
}

// TestIDs: what tells one event from another, with the id by default.
func TestIDs(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app, handler: map[string]any{"id": nil}})
	send := func(source, id, content string) {
		t.Helper()
		r := webhookRequest("", content)
		if source != "" {
			r.Header.Set("Ce-Source", source)
		}
		if id != "" {
			r.Header.Set("Ce-Id", id)
		}
		if w := g.serve(r); w.Code != 202 {
			t.Fatalf("%d", w.Code)
		}
	}
	delivered := func(want string) {
		t.Helper()
		if r := testutil.Receive(t, "the delivery of "+want, got); r.content != want {
			t.Errorf("delivered %q, want %q", r.content, want)
		}
	}
	send("/chinaums/a", "n-1", "a's first")
	delivered("a's first")
	send("/chinaums/b", "n-1", "b's first, of the same id")
	delivered("b's first, of the same id")
	send("/chinaums/a", "n-2", "another event of the same order")
	delivered("another event of the same order")
	send("/chinaums/a", "n-1", "repeated")
	send("/chinaums/a#n", "1", "cut in another way")
	delivered("cut in another way")
	send("/chinaums/a", "n#1", "cut in this way")
	delivered("cut in this way")
	send("", "n-1", "no source")
	delivered("no source")
	if g.message("/chinaums/a#n-1") == nil {
		t.Error("the id is not what the placeholders say")
	}
	if len(g.log.lines("request without an id")) != 0 {
		t.Error("warned of a missing id")
	}

	// Without either, each is one of its own.
	send("", "", "nameless")
	delivered("nameless")
	send("", "", "nameless")
	delivered("nameless")
	if lines := g.log.lines("request without an id", `"level":"warn"`); len(lines) != 2 {
		t.Errorf("%d warnings", len(lines))
	}
	for range 30 {
		send("", "", "nameless")
		delivered("nameless")
	}
	if lines := g.log.lines("request without an id"); len(lines) != 10 {
		t.Errorf("%d warnings in a minute, want 10", len(lines))
	}
}

func TestRefusedRequests(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app, handler: map[string]any{"max_size": 10}})
	for name, test := range map[string]struct {
		request func(r *http.Request)
		want    int
	}{
		"as large as may be": {func(r *http.Request) { setBody(r, strings.NewReader("0123456789"), 10) }, 202},
		"announced":          {func(r *http.Request) { setBody(r, strings.NewReader("0123456789x"), 11) }, 413},
		"a terabyte is announced": {func(r *http.Request) {
			setBody(r, iotest.ErrReader(errors.New("must not be read")), 1<<40)
		}, 413},
		"not announced": {func(r *http.Request) { setBody(r, strings.NewReader("0123456789x"), -1) }, 413},
		"broken off":    {func(r *http.Request) { setBody(r, strings.NewReader("0123"), 10) }, 400},
		"reset":         {func(r *http.Request) { setBody(r, iotest.ErrReader(errors.New("reset")), -1) }, 400},
		"slow":          {func(r *http.Request) { setBody(r, iotest.ErrReader(context.DeadlineExceeded), -1) }, 408},
		"limited before": {func(r *http.Request) {
			setBody(r, http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("01234")), 4), -1)
		}, 413},
	} {
		t.Run(name, func(t *testing.T) {
			r := webhookRequest(name, "")
			test.request(r)
			if w := g.serve(r); w.Code != test.want {
				t.Errorf("answered %d, want %d", w.Code, test.want)
			}
			if test.want == 202 {
				testutil.Receive(t, "the delivery", got)
			} else if g.message(name) != nil {
				t.Error("it was stored")
			}
		})
	}
	if len(got) != 0 {
		t.Error("the app saw what was refused")
	}
}

func setBody(r *http.Request, body io.Reader, announced int64) {
	r.Body, r.ContentLength = io.NopCloser(body), announced
}

// TestNotStored: without a safe place there is no 202.
func TestNotStored(t *testing.T) {
	const answer = 503
	for name, err := range map[string]error{
		"full":   inbox.ErrFull,
		"store":  errors.New("disk on fire"),
		"closed": inbox.ErrClosed,
		"slow":   context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			got, app := appOf(nil)
			g := start(t, options{app: app})
			g.memory().Fail("Put", err)
			for i := range 20 {
				w := g.post("1", "secret text")
				if w.Code != answer || w.Header().Get("Retry-After") == "" || w.Body.Len() != 0 {
					t.Fatalf("%d: answered %d, Retry-After %q, %q", i, w.Code, w.Header().Get("Retry-After"), w.Body)
				}
			}
			lines := g.log.lines("request not stored", `"reason":"`+name+`"`, `"inbox":"default"`)
			if len(lines) != 10 {
				t.Errorf("%d lines, want 10 of 20", len(lines))
			}
			if len(g.log.lines("secret text")) != 0 {
				t.Error("the body is logged")
			}
			g.memory().Fail("Put", nil)
			g.accepted("1", "later")
			testutil.Receive(t, "the delivery", got)
			if name == "closed" {
				g.noEvent()
				return
			}
			if event := g.event("inbox.recovered"); event["failures"] != 20 || event["inbox"] != "default" {
				t.Errorf("event %v", event)
			}
		})
	}
	t.Run("too large for the store", func(t *testing.T) {
		_, app := appOf(nil)
		g := start(t, options{app: app})
		g.memory().Fail("Put", inbox.ErrTooLarge)
		if w := g.post("1", "x"); w.Code != 413 {
			t.Errorf("answered %d", w.Code)
		}
	})
	t.Run("before the start and after the end", func(t *testing.T) {
		got, app := appOf(nil)
		g := provision(t, options{app: app})
		gone, cancel := context.WithCancel(t.Context()) // one that is still there is waited with
		cancel()
		if w := g.serve(webhookRequest("1", "x").WithContext(gone)); w.Code != answer || w.Header().Get("Retry-After") == "" {
			t.Errorf("before the start: %d", w.Code)
		}
		if err := g.app.Start(); err != nil {
			t.Fatal(err)
		}
		g.accepted("2", "x")
		testutil.Receive(t, "the delivery", got)
		if err := g.app.Stop(); err != nil {
			t.Fatal(err)
		}
		g.accepted("3", "the last requests of the old server")
		g.end()
		if w := g.post("4", "x"); w.Code != answer {
			t.Errorf("after the end: %d", w.Code)
		}
		if !g.memory().Closed() {
			t.Error("the store is still open")
		}
	})
}

// TestPutIsNotCut: a client that goes away while its request is being stored changes nothing.
func TestPutIsNotCut(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app})
	ctx, goAway := context.WithCancel(t.Context())
	g.memory().HoldPuts(goAway)
	r := webhookRequest("1", "x").WithContext(ctx)
	if w := g.serve(r); w.Code != 202 {
		t.Errorf("answered %d", w.Code)
	}
	testutil.Receive(t, "the delivery", got)
}

func TestLoadErrors(t *testing.T) {
	subroute := func(routes ...any) map[string]any { return map[string]any{"handler": "subroute", "routes": routes} }
	for name, test := range map[string]struct {
		options options
		want    string
	}{
		"no deliver":             {options{handler: map[string]any{"deliver": nil}}, "deliver: at least one handler"},
		"an empty deliver":       {options{handler: map[string]any{"deliver": subroute()}}, "deliver: at least one handler"},
		"an unknown deliver":     {options{handler: map[string]any{"deliver": map[string]any{"handler": "nonsense"}}}, "deliver: "},
		"an unknown inbox":       {options{handler: map[string]any{"inbox": "other"}}, "there is no inbox other"},
		"ack":                    {options{handler: map[string]any{"ack": "maybe"}}, `ack: "maybe" is neither word nor 2xx`},
		"an empty retry":         {options{handler: map[string]any{"retry": []string{}}}, "retry: at least one delay"},
		"a retry of nothing":     {options{handler: map[string]any{"retry": []string{"5s", "0s"}}}, "retry: every delay must be positive"},
		"a retry before":         {options{handler: map[string]any{"retry": []string{"-5s"}}}, "retry: every delay must be positive"},
		"give_up":                {options{handler: map[string]any{"give_up": "-1s"}}, "give_up: must be positive"},
		"a give_up of centuries": {options{handler: map[string]any{"give_up": "100000d"}}, "give_up: must be positive, and at most"},
		"timeout":                {options{handler: map[string]any{"timeout": "-1s"}}, "timeout: must be positive"},
		"max_size":               {options{handler: map[string]any{"max_size": -1}}, "max_size: must be positive"},
		"concurrency":            {options{handler: map[string]any{"concurrency": -1}}, "concurrency: must be from 1 to 1000"},
		"too much concurrency":   {options{handler: map[string]any{"concurrency": 1001}}, "concurrency: must be from 1 to 1000"},
		"an inbox in itself": {options{handler: map[string]any{"deliver": map[string]any{"handler": "subroute", "routes": []any{map[string]any{
			"handle": []any{map[string]any{"handler": "inbox", "deliver": map[string]any{"handler": "static_response"}}},
		}}}}}, "nobody would get them"},
		"id":       {options{handler: map[string]any{"id": "http.request.header.Ce-Id"}}, "id: "},
		"order_by": {options{handler: map[string]any{"order_by": "Ce-Subject"}}, "order_by: "},
		"order_by without order": {options{handler: map[string]any{"order_by": "{http.request.header.A}"}, inbox: map[string]any{"store": map[string]any{"store": "unordered"}}},
			"order_by: the store of inbox default cannot keep an order: it keeps no order"},
		"max_store":        {options{inbox: map[string]any{"max_store": -1}}, "inbox default: max_store: must be positive"},
		"remember":         {options{inbox: map[string]any{"remember": "-1s"}}, "inbox default: remember: must be positive"},
		"an unknown store": {options{inbox: map[string]any{"store": map[string]any{"store": "nonsense"}}}, "inbox default: store: "},
		"two that deliver differently": {options{second: map[string]any{"timeout": "7s"}},
			"two handlers of inbox default deliver differently; make their options from retry to deliver equal, or give each an inbox of its own"},
		"two that deliver to others": {options{second: map[string]any{"deliver": subroute(map[string]any{"handle": []any{map[string]any{"handler": "inbox_test_app", "name": "x"}}})}},
			"deliver differently"},
		"two that differ in what they take": {options{second: map[string]any{"id": "{http.request.header.Other}", "max_size": 5}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := loadError(t, test.options)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("error %q, want %q", got, test.want)
			}
		})
	}
}

// TestTwoHandlersShareDeliveries: no more at once than concurrency says, whichever handler a request came by.
func TestTwoHandlersShareDeliveries(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app, second: map[string]any{"max_size": 5}})
	g.accepted("1", "by the first")
	r := webhookRequest("2", "by 2")
	r.URL.Path, r.RequestURI = "/second", "/second"
	if w := g.serve(r); w.Code != 202 {
		t.Errorf("answered %d", w.Code)
	}
	r = webhookRequest("3", "too large for the second")
	r.URL.Path, r.RequestURI = "/second", "/second"
	if w := g.serve(r); w.Code != 413 {
		t.Errorf("answered %d", w.Code)
	}
	testutil.Receive(t, "one", got)
	testutil.Receive(t, "the other", got)
}

// TestValidateOpensNothing: the running gateway has the store.
func TestValidateOpensNothing(t *testing.T) {
	if got := loadError(t, options{}); got != "" {
		t.Fatal(got)
	}
	if _, ok := recall(&things.memories, nameOf(t)); ok {
		t.Error("a store was opened")
	}
}

func TestOpenFails(t *testing.T) {
	remember(&things.open, nameOf(t), errors.New("another process holds the file"))
	g := provision(t, options{})
	if err := g.app.Start(); err == nil || err.Error() != "inbox default: another process holds the file" {
		t.Errorf("error %v", err)
	}
}

// TestAccessLogOfLongIDs: an id of any length takes little room in the log.
func TestAccessLogOfLongIDs(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app})
	g.accepted(strings.Repeat("y", 1000), "x")
	testutil.Receive(t, "the delivery", got)
	if len(g.log.lines(`"message_id":"`+strings.Repeat("y", 128)+`"`, `"receipt":"stored"`)) != 1 {
		t.Error("the beginning of the id is not in the log")
	}
	g.accepted(strings.Repeat("z", 2000), "x")
	testutil.Receive(t, "the delivery", got)
	g.accepted(strings.Repeat("z", 2000), "again")
	testutil.Eventually(t, "both are told", func() bool { return len(g.log.lines(`"receipt":"repeated"`)) == 1 })
	all, err := g.memory().List(t.Context(), inbox.Query{Limit: 10})
	if err != nil || len(all) != 2 || len(all[1].ID) > 100 {
		t.Errorf("%d messages, %v", len(all), err)
	}
}

// bare is the handler `inbox_test_bare`, which hands on a request without placeholders.
type bare struct{}

func init() { caddy.RegisterModule(bare{}) }

func (bare) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_test_bare", New: func() caddy.Module { return new(bare) }}
}

func (bare) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, nil)))
}

// TestRefusedWithoutID: before, the access log did not say that the inbox had refused a request whose id could not be made.
func TestRefusedWithoutID(t *testing.T) {
	g := start(t, options{front: map[string]any{"handler": "inbox_test_bare"}})
	if w := g.post("1", ""); w.Code != http.StatusInternalServerError {
		t.Errorf("answered %d", w.Code)
	}
	if lines := g.log.lines(`"logger":"http.log.access"`, `"inbox":"default"`, `"receipt":"refused"`, `"status":500`); len(lines) != 1 {
		t.Errorf("%d lines in the access log say so", len(lines))
	}
}
