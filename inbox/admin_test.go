package inbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/storetest"
	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

func init() { caddy.RegisterModule(new(shelf)) }

// shelf is a store that the test has put ready for an inbox.
type shelf struct{}

var shelved sync.Map // the inbox's name → *storetest.Memory

func (*shelf) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "inbox.stores.shelf", New: func() caddy.Module { return new(shelf) }}
}

func (*shelf) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*shelf) Key(name string) string { return name }

func (*shelf) Ordered() error { return nil }

func (*shelf) Open(_ context.Context, name string, settings inbox.Settings, _ *zap.Logger) (inbox.Store, error) {
	found, ok := shelved.Load(name)
	if !ok {
		return nil, fmt.Errorf("nothing on the shelf for %s", name)
	}
	store := found.(*storetest.Memory)
	return store, store.Configure(settings)
}

// onShelf makes the store of an inbox.
func onShelf(t testing.TB, name string) *storetest.Memory {
	t.Helper()
	store := storetest.NewMemory(inbox.Settings{}, time.Now)
	shelved.Store(name, store)
	t.Cleanup(func() { shelved.Delete(name) })
	return store
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

// runCaddy starts a Caddy with its admin API at a free address, which it returns. What it logs is dropped.
func runCaddy(t testing.TB, options, sites string) (admin string) {
	t.Helper()
	admin = freeAddress(t)
	t.Setenv("XDG_DATA_HOME", t.TempDir()) // where an inbox is that nobody configured
	document, err := adapt(t, "{\n\tadmin "+admin+"\n\tpersist_config off\n\tstorage file_system "+t.TempDir()+"\n\tlog {\n\t\toutput discard\n\t}\n"+options+"\n}\n"+sites)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(document, true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return admin
}

// twoInboxes runs a Caddy with the inboxes default and second, which nobody delivers.
func twoInboxes(t testing.TB) (admin string, first, second *storetest.Memory) {
	t.Helper()
	first, second = onShelf(t, "default"), onShelf(t, "second")
	return runCaddy(t, "inbox {\nstore shelf\n}\ninbox second {\nstore shelf\n}", ""), first, second
}

func put(t testing.TB, store inbox.Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		receipt, err := store.Put(t.Context(), &inbox.Message{ID: id, Received: time.Now(), Request: []byte("not decoded here")})
		if err != nil || receipt != inbox.Stored {
			t.Fatalf("%v, %v", receipt, err)
		}
	}
}

// settle leases the next message and settles it.
func settle(t testing.TB, store inbox.Store, outcome inbox.Outcome) *inbox.Message {
	t.Helper()
	message, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Settle(t.Context(), message, outcome); err != nil {
		t.Fatal(err)
	}
	return message
}

// ask calls the admin API.
func ask(t testing.TB, method, admin, path string) (status int, header http.Header, answer any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+admin+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true // a connection kept from before a reload may be closed any time
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s %s: Content-Type %q: %s", method, path, got, content)
	}
	return response.StatusCode, response.Header, decoded(t, content)
}

// seqs are those of a list, with their states.
func seqs(t testing.TB, answer any) (list string) {
	t.Helper()
	messages, ok := answer.([]any)
	if !ok {
		t.Fatalf("%v is no list", answer)
	}
	for _, message := range messages {
		message := message.(map[string]any)
		list += fmt.Sprintf("%v:%v ", message["id"], message["state"])
	}
	return strings.TrimSpace(list)
}

// TestAdminLists: what is listed of an inbox, and of which.
func TestAdminLists(t *testing.T) {
	admin, first, second := twoInboxes(t)
	put(t, second, "elsewhere")
	put(t, first, "a", "b", "c", "d", "e")
	settle(t, first, inbox.Outcome{Result: inbox.Delivered, Answer: inbox.Answer{Status: 200}})
	settle(t, first, inbox.Outcome{Result: inbox.Dead, Answer: inbox.Answer{Status: 503, Body: "what the app says", Error: "refused"}})
	settle(t, first, inbox.Outcome{Result: inbox.Pending, Delay: time.Hour, Answer: inbox.Answer{Error: "timeout"}})

	for _, test := range []struct{ query, want string }{
		{"", "a:delivered b:dead c:pending d:pending e:pending"},
		{"?state=pending", "c:pending d:pending e:pending"},
		{"?state=delivered", "a:delivered"},
		{"?state=dead", "b:dead"},
		{"?limit=2", "a:delivered b:dead"},
		{"?limit=2&after=2", "c:pending d:pending"},
		{"?after=0", "a:delivered b:dead c:pending d:pending e:pending"},
		{"?state=pending&after=3&limit=1000", "d:pending e:pending"},
		{"?after=5", ""},
	} {
		status, _, answer := ask(t, "GET", admin, "/inbox/default/messages"+test.query)
		if got := seqs(t, answer); status != 200 || got != test.want {
			t.Errorf("%s: %d %s, want %s", test.query, status, got, test.want)
		}
	}

	_, header, answer := ask(t, "GET", admin, "/inbox/default/messages?state=dead")
	dead := answer.([]any)[0].(map[string]any)
	for _, name := range []string{"received", "settled"} {
		if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(dead[name])); err != nil || time.Since(at).Abs() > time.Hour {
			t.Errorf("%s: %v", name, dead[name])
		}
		delete(dead, name)
	}
	want := `{"answer":{"error":"refused","status":503},"attempts":1,"id":"b","seq":2,"state":"dead"}`
	if got, _ := json.Marshal(dead); string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if header.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", header)
	}

	status, _, answer := ask(t, "GET", admin, "/inbox")
	counts, ok := answer.([]any)
	if status != 200 || !ok || len(counts) != 2 {
		t.Fatalf("%d %v", status, answer)
	}
	for i, want := range []string{"default pending 3 delivered 1 dead 1", "second pending 1 delivered 0 dead 0"} {
		of := counts[i].(map[string]any)
		got := fmt.Sprintf("%v pending %v delivered %v dead %v", of["name"], of["pending"], of["delivered"], of["dead"])
		if got != want || of["oldest"] == nil || of["bytes"].(float64) <= 0 {
			t.Errorf("%v, want %s", of, want)
		}
	}
	status, _, answer = ask(t, "GET", admin, "/inbox/second")
	if status != 200 || answer.(map[string]any)["pending"] != 1.0 || answer.(map[string]any)["name"] != "second" {
		t.Errorf("%d %v", status, answer)
	}
}

// TestAdminErrors: what is wrong with a call, or with the store, and how it is answered.
func TestAdminErrors(t *testing.T) {
	admin, first, _ := twoInboxes(t)
	put(t, first, "delivered", "leased", "waiting")
	settle(t, first, inbox.Outcome{Result: inbox.Delivered})
	if _, err := first.Lease(t.Context()); err != nil {
		t.Fatal(err)
	}
	const messages = "/inbox/default/messages"
	for _, test := range []struct {
		name, method, path string
		status             int
		want               string
	}{
		{"an unknown inbox", "GET", "/inbox/third/messages", 404, `there is no inbox "third"`},
		{"counts of an unknown inbox", "GET", "/inbox/third", 404, `there is no inbox "third"`},
		{"a message of an unknown inbox", "GET", "/inbox/third/messages/1", 404, `there is no inbox "third"`},
		{"redelivery in an unknown inbox", "POST", "/inbox/third/messages/1/redeliver", 404, `there is no inbox "third"`},
		{"a long unknown inbox", "GET", "/inbox/" + strings.Repeat("x", 500), 404, `there is no inbox "` + strings.Repeat("x", 64) + `"…`},
		{"an unknown seq", "GET", messages + "/99", 404, "no such message"},
		{"a seq that is none", "GET", messages + "/first", 404, "no such message"},
		{"seq 0", "GET", messages + "/0", 404, "no such message"},
		{"redelivery of an unknown seq", "POST", messages + "/99/redeliver", 404, "no such message"},
		{"another path", "GET", "/inbox/default/letters", 404, "there is nothing here"},
		{"a path too far", "GET", messages + "/1/redeliver/now", 404, "there is nothing here"},

		{"an unknown state", "GET", messages + "?state=gone", 400, `state: "gone" is not one of: pending, delivered, dead`},
		{"an empty state", "GET", messages + "?state=", 400, `state: "" is not one of`},
		{"limit 0", "GET", messages + "?limit=0", 400, `limit: "0" is not a number from 1 to 1000`},
		{"limit 1001", "GET", messages + "?limit=1001", 400, `limit: "1001" is not a number from 1 to 1000`},
		{"limit text", "GET", messages + "?limit=all", 400, `limit: "all"`},
		{"after negative", "GET", messages + "?after=-1", 400, `after: "-1" is not the seq of a message`},
		{"after text", "GET", messages + "?after=x", 400, `after: "x"`},
		{"show text", "GET", messages + "/1?show=yes", 400, `show: "yes" is neither 1 nor 0`},
		{"force text", "POST", messages + "/1/redeliver?force=please", 400, `force: "please" is neither 1 nor 0`},
		{"a parameter misspelled", "GET", messages + "?sate=dead", 400, `unknown parameter "sate"; known here: state, search, after, limit`},
		{"a parameter of another path", "GET", messages + "?force=1", 400, `unknown parameter "force"`},
		{"a parameter where there are none", "GET", "/inbox?state=dead", 400, `unknown parameter "state"; known here: none`},
		{"a parameter twice", "GET", messages + "?limit=1&limit=2", 400, "limit is given twice"},
		{"a broken query", "GET", messages + "?state=%zz", 400, "the query cannot be read"},

		{"POST to a list", "POST", messages, 405, "method not allowed; it is GET, DELETE"},
		{"PUT of a message", "PUT", messages + "/1", 405, "method not allowed; it is GET, DELETE"},
		{"DELETE of an inbox", "DELETE", "/inbox/default", 405, "method not allowed; it is GET"},
		{"GET of a redelivery", "GET", messages + "/1/redeliver", 405, "method not allowed; it is POST"},
		{"PUT of the inboxes", "PUT", "/inbox", 405, "method not allowed; it is GET"},

		{"redelivery of a delivered one", "POST", messages + "/1/redeliver", 409, "force=1 delivers it again"},
		{"redelivery of a delivered one, not forced", "POST", messages + "/1/redeliver?force=0", 409, "force=1 delivers it again"},
		{"redelivery of one in flight", "POST", messages + "/2/redeliver", 409, "is being delivered at this moment"},
		{"a request that cannot be read", "GET", messages + "/3", 500, "the stored request cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, header, answer := ask(t, test.method, admin, test.path)
			message, _ := answer.(map[string]any)["error"].(string)
			if status != test.status || !strings.Contains(message, test.want) {
				t.Errorf("%d %q, want %d %q", status, message, test.status, test.want)
			}
			_, method, _ := strings.Cut(test.want, "method not allowed; it is ")
			if header.Get("Allow") != method {
				t.Errorf("Allow %q", header.Get("Allow"))
			}
		})
	}

	first.Fail("Redeliver", inbox.ErrNoRequest)
	if status, _, answer := ask(t, "POST", admin, messages+"/1/redeliver?force=1"); status != 409 || !strings.Contains(fmt.Sprint(answer), "dropped") {
		t.Errorf("no request: %d %v", status, answer)
	}
	for _, test := range []struct{ failing, method, path string }{
		{"List", "GET", messages}, {"Get", "GET", messages + "/1"}, {"Redeliver", "POST", messages + "/1/redeliver"}, {"Stats", "GET", "/inbox/default"},
	} {
		for _, failure := range []error{errors.New("the engine is gone"), inbox.ErrClosed, context.DeadlineExceeded} {
			first.Fail(test.failing, failure)
			status, _, answer := ask(t, test.method, admin, test.path)
			if message := fmt.Sprint(answer); status != 503 || !strings.Contains(message, failure.Error()) && !strings.Contains(message, "in time") {
				t.Errorf("%s, %v: %d %v", test.failing, failure, status, answer)
			}
			first.Fail(test.failing, nil)
		}
	}
	// One inbox that cannot count does not hide the others.
	first.Fail("Stats", errors.New("the engine is gone"))
	status, _, answer := ask(t, "GET", admin, "/inbox")
	if got := fmt.Sprint(answer); status != 200 || !strings.Contains(got, "the engine is gone") || !strings.Contains(got, "second") {
		t.Errorf("%d %v", status, answer)
	}
}

// TestAdminRedelivers: what becomes pending again.
func TestAdminRedelivers(t *testing.T) {
	admin, first, _ := twoInboxes(t)
	put(t, first, "delivered", "dead", "waiting")
	settle(t, first, inbox.Outcome{Result: inbox.Delivered})
	settle(t, first, inbox.Outcome{Result: inbox.Dead})
	settle(t, first, inbox.Outcome{Result: inbox.Pending, Delay: time.Hour})
	for _, path := range []string{"2/redeliver", "3/redeliver", "1/redeliver?force=1"} {
		status, _, answer := ask(t, "POST", admin, "/inbox/default/messages/"+path)
		seq, _, _ := strings.Cut(path, "/")
		if got := fmt.Sprint(answer); status != 200 || got != "map[seq:"+seq+" state:pending]" {
			t.Errorf("%s: %d %s", path, status, got)
		}
	}
	got := make(map[string]int)
	for range 3 {
		message, err := first.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got[message.ID] = message.Attempts
	}
	if fmt.Sprint(got) != "map[dead:0 delivered:0 waiting:1]" {
		t.Errorf("due are %v", got)
	}
}

// TestAdminWhileReloading: a request that comes while a configuration is put in the place of another is answered by one of
// the two; neither is looked into while it is being built.
func TestAdminWhileReloading(t *testing.T) {
	admin, first, _ := twoInboxes(t)
	put(t, first, "one")
	document, err := adapt(t, "{\nadmin "+admin+"\npersist_config off\nlog {\noutput discard\n}\ninbox {\nstore shelf\n}\ninbox second {\nstore shelf\n}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	var answered atomic.Int64
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			response, err := http.Get("http://" + admin + "/inbox/default")
			if err != nil {
				continue // the endpoint changes hands, too
			}
			content, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				continue
			}
			if answered.Add(1); response.StatusCode != 200 || !strings.Contains(string(content), `"pending":1`) {
				t.Errorf("%s %s", response.Status, content)
			}
		}
	}()
	// A busy machine may let through none in twenty reloads.
	for i := 0; i < 20 || answered.Load() == 0 && i < 1000; i++ {
		if err := caddy.Load(document, true); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	if <-ended; answered.Load() == 0 {
		t.Error("nothing was answered")
	}
}

// app is a merchant app that takes requests or does not.
type app struct {
	*httptest.Server
	takes atomic.Bool
	asked atomic.Int64
}

func newApp(t testing.TB) *app {
	a := new(app)
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		if !a.takes.Load() {
			http.Error(w, "the stock is locked", http.StatusConflict)
			return
		}
	}))
	t.Cleanup(a.Close)
	return a
}

// send posts a request with a secret everywhere that is to be masked.
func send(t testing.TB, site, id string, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+site+"/notify?token=mask-me", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Ce-Source": "/chinaums/shop", "Ce-Id": id, "Content-Type": "application/json", "Authorization": "Bearer mask-me",
		"Webhook-Signature": "v1,mask-me", "X-Other": "mask-me", "Ce-Evidence": "query", "Ce-Ordered": "differs",
	} {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("answered %s", response.Status)
	}
}

// refusedRequest runs a Caddy whose app refuses what is sent to it, until it takes it.
func refusedRequest(t testing.TB, bodies ...[]byte) (admin string, a *app) {
	t.Helper()
	a = newApp(t)
	onShelf(t, "default")
	site := freeAddress(t)
	admin = runCaddy(t, "inbox {\nstore shelf\n}", "http://"+site+" {\nbind 127.0.0.1\ninbox {\nretry 1h\ndeliver {\nreverse_proxy "+a.Listener.Addr().String()+"\n}\n}\n}\n")
	for i, body := range bodies {
		send(t, site, strconv.Itoa(i+1), body)
	}
	testutil.Eventually(t, "every request is refused once", func() bool {
		_, _, answer := ask(t, "GET", admin, "/inbox/default/messages")
		return strings.Count(fmt.Sprint(answer), "attempts:1") == len(bodies)
	})
	return admin, a
}

// TestAdminShows: a message is shown masked, or all of it.
func TestAdminShows(t *testing.T) {
	text, binary := []byte(`{"note":"mask-me <中文>"}`), []byte("mask-me \xff\x00")
	admin, _ := refusedRequest(t, text, binary)
	for i, body := range [][]byte{text, binary} {
		path := "/inbox/default/messages/" + strconv.Itoa(i+1)
		status, _, answer := ask(t, "GET", admin, path)
		if status != 200 {
			t.Fatalf("%d %v", status, answer)
		}
		if strings.Contains(fmt.Sprint(answer), "mask-me") || strings.Contains(fmt.Sprint(answer), base64.StdEncoding.EncodeToString(body)) {
			t.Errorf("not masked: %v", answer)
		}
		message := answer.(map[string]any)
		request := message["request"].(map[string]any)
		digest := sha256.Sum256(body)
		want := map[string]any{
			"method": "POST", "uri": "/notify?REDACTED",
			"body": map[string]any{"size": float64(len(body)), "sha256": hex.EncodeToString(digest[:])},
		}
		for name, value := range want {
			if fmt.Sprint(request[name]) != fmt.Sprint(value) {
				t.Errorf("%s is %v, want %v", name, request[name], value)
			}
		}
		headers := request["headers"].(map[string]any)
		for name, value := range map[string]string{
			"Ce-Id": strconv.Itoa(i + 1), "Content-Type": "application/json", "Authorization": "REDACTED", "X-Other": "REDACTED", "Webhook-Signature": "REDACTED",
			"Ce-Evidence": "query", "Ce-Ordered": "differs",
		} {
			if fmt.Sprint(headers[name]) != "["+value+"]" {
				t.Errorf("header %s: %v", name, headers[name])
			}
		}
		if message["id"] != "/chinaums/shop#"+strconv.Itoa(i+1) || message["state"] != "pending" || message["due"] == nil {
			t.Errorf("%v", message)
		}
		if got := message["answer"].(map[string]any); got["status"] != 409.0 || !strings.Contains(fmt.Sprint(got["body"]), "the stock is locked") {
			t.Errorf("answer %v", got)
		}

		_, _, answer = ask(t, "GET", admin, path+"?show=1")
		request = answer.(map[string]any)["request"].(map[string]any)
		if request["uri"] != "/notify?token=mask-me" || fmt.Sprint(request["headers"].(map[string]any)["Authorization"]) != "[Bearer mask-me]" {
			t.Errorf("%v", request)
		}
		shown := request["body"].(map[string]any)
		if i == 0 && (shown["text"] != string(body) || shown["base64"] != nil) || i == 1 && (shown["base64"] != base64.StdEncoding.EncodeToString(body) || shown["text"] != nil) {
			t.Errorf("body %v", shown)
		}
	}
}

// TestAdminWithoutConfiguration: where nothing is configured there is no inbox, and while Caddy does not run that is said.
func TestAdminWithoutConfiguration(t *testing.T) {
	admin := runCaddy(t, "", "")
	if status, _, answer := ask(t, "GET", admin, "/inbox"); status != 200 || fmt.Sprint(answer) != "[]" {
		t.Errorf("%d %v", status, answer)
	}
	if status, _, answer := ask(t, "GET", admin, "/inbox/default/messages"); status != 404 {
		t.Errorf("%d %v", status, answer)
	}
}

// TestAdminOfAnImplicitInbox: where nothing is configured but a handler, its inbox is there all the same, in a file of its
// own under Caddy's data directory, and the same after a reload.
func TestAdminOfAnImplicitInbox(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir()) // else it would be the user's, and a second run of the test would find the first one's messages
	a, site := newApp(t), freeAddress(t)
	sites := "http://" + site + " {\nbind 127.0.0.1\ninbox {\nretry 1h\ndeliver {\nreverse_proxy " + a.Listener.Addr().String() + "\n}\n}\n}\n"
	admin := runCaddy(t, "", sites)
	send(t, site, "one", []byte("{}"))
	send(t, site, "one", []byte("{}"))
	testutil.Eventually(t, "it is refused once", func() bool {
		_, _, answer := ask(t, "GET", admin, "/inbox/default/messages")
		return seqs(t, answer) == "/chinaums/shop#one:pending" && strings.Contains(fmt.Sprint(answer), "attempts:1")
	})
	if files, err := filepath.Glob(filepath.Join(caddy.AppDataDir(), "inbox", "default.db")); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	if status, _, answer := ask(t, "GET", admin, "/inbox"); status != 200 || answer.([]any)[0].(map[string]any)["pending"] != 1.0 {
		t.Errorf("%d %v", status, answer)
	}

	admin = freeAddress(t) // at the old one, a connection may reach the configuration that is going
	document, err := adapt(t, "{\n\tadmin "+admin+"\n\tpersist_config off\n\tlog {\n\t\toutput discard\n\t}\n}\n"+strings.Replace(sites, "retry 1h", "retry 2h", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(document, true); err != nil {
		t.Fatal(err)
	}
	a.takes.Store(true)
	if status, _, answer := ask(t, "POST", admin, "/inbox/default/messages/1/redeliver"); status != 200 {
		t.Fatalf("%d %v", status, answer)
	}
	testutil.Eventually(t, "it is delivered", func() bool {
		_, _, answer := ask(t, "GET", admin, "/inbox/default/messages?state=delivered")
		return seqs(t, answer) != ""
	})
	if a.asked.Load() != 2 {
		t.Errorf("the app was asked %d times", a.asked.Load())
	}
}

// run executes `caddy inbox` with arguments.
func run(arguments ...string) (output, errorOutput string, err error) {
	cmd := &cobra.Command{Use: "inbox", SilenceUsage: true, SilenceErrors: true}
	caddycmd.Commands()["inbox"].CobraFunc(cmd)
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(arguments)
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

// TestCommand: a day of an operator: the app refuses, messages die, the app works again, they are redelivered.
func TestCommand(t *testing.T) {
	admin, a := refusedRequest(t, []byte("one"), []byte("two"), []byte("three"))
	at := "--address=" + admin

	output, errs, err := run("list", at)
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if err != nil || errs != "" || len(lines) != 4 || !strings.HasPrefix(lines[0], "SEQ  STATE    TRIED  RECEIVED") ||
		!strings.HasPrefix(lines[2], "2    pending  1      20") || !strings.Contains(lines[2], " 409 ") || !strings.HasSuffix(lines[2], "  /chinaums/shop#2") {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	output, errs, err = run("list", at, "--limit=2")
	if err != nil || strings.Contains(output, "shop#3") || errs != "There may be more: --after 2\n" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	output, errs, err = run("list", at, "--limit=2", "--after=2")
	if err != nil || !strings.Contains(output, "shop#3") || strings.Contains(output, "shop#2") || errs != "" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	output, errs, err = run("list", at, "--state", "dead")
	if err != nil || output != "" || errs != "No messages.\n" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	output, _, err = run("list", at, "--json", "--after=2")
	var messages []struct {
		Seq      uint64
		Attempts int
	}
	if err != nil || json.Unmarshal([]byte(output), &messages) != nil || len(messages) != 1 || messages[0].Seq != 3 || messages[0].Attempts != 1 {
		t.Errorf("%v\n%s", err, output)
	}
	output, _, err = run("show", at, "1")
	if err != nil || strings.Contains(output, "mask-me") || !strings.Contains(output, `"size": 3,`) {
		t.Errorf("%v\n%s", err, output)
	}
	output, _, err = run("show", at, "1", "--show")
	if err != nil || !strings.Contains(output, "Bearer mask-me") || !strings.Contains(output, `"text": "one"`) {
		t.Errorf("%v\n%s", err, output)
	}

	a.takes.Store(true)
	output, errs, err = run("redeliver", at, "1", "99", "2")
	if err == nil || err.Error() != "1 of 3 messages could not be redelivered" || output != "1: pending\n2: pending\n" || errs != "99: no such message\n" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	testutil.Eventually(t, "both are delivered", func() bool {
		output, _, err := run("list", at, "--state=delivered")
		return err == nil && strings.Contains(output, "shop#1") && strings.Contains(output, "shop#2")
	})
	if _, errs, err = run("redeliver", at, "1"); err == nil || errs != "1: the message was delivered; force=1 delivers it again\n" {
		t.Errorf("%v %s", err, errs)
	}
	asked := a.asked.Load()
	if output, _, err = run("redeliver", at, "--force", "1"); err != nil || output != "1: pending\n" {
		t.Errorf("%v\n%s", err, output)
	}
	testutil.Eventually(t, "it is delivered again", func() bool { return a.asked.Load() == asked+1 })

	for _, test := range []struct{ name, arguments, want string }{
		{"no seq", "redeliver " + at, "give the seqs of messages"},
		{"a seq that is none", "redeliver one " + at, `"one" is not the seq of a message`},
		{"both", "redeliver 1 --all-dead " + at, "give either seqs or --all-dead"},
		{"force for dead ones", "redeliver --all-dead --force " + at, "--force is for messages that were delivered"},
		{"show without seq", "show " + at, "accepts 1 arg(s)"},
		{"show of nothing", "show 77 " + at, "no such message"},
		{"an unknown state", "list --state gone " + at, "state: \"gone\" is not one of"},
		{"a limit too high", "list --limit 1001 " + at, "limit: \"1001\" is not a number"},
		{"an argument", "list dead " + at, "unknown command"},
		{"an unknown inbox", "list --inbox third " + at, `there is no inbox "third"`},
		{"an inbox that is a path", "list --inbox ../config " + at, `there is no inbox "../config"`},
		{"nobody there", "list --address " + freeAddress(t), "does not answer; is Caddy running"},
		{"no address", "list --address 127.0.0.1:1-5", "is not the address of an admin API"},
		{"no configuration", "list --config " + t.TempDir() + "/Caddyfile", "finding the admin API's address"},
	} {
		output, _, err := run(strings.Fields(test.arguments)...)
		if err == nil || !strings.Contains(err.Error(), test.want) || output != "" {
			t.Errorf("%s: %v, want %s\n%s", test.name, err, test.want, output)
		}
	}
}

// TestCommandRedeliversAllDead: every dead message of several pages, each once, though some cannot be.
func TestCommandRedeliversAllDead(t *testing.T) {
	admin, _, second := twoInboxes(t)
	const count = 2500
	for i := range count {
		put(t, second, strconv.Itoa(i))
		settle(t, second, inbox.Outcome{Result: inbox.Dead})
	}
	put(t, second, "delivered", "waiting")
	settle(t, second, inbox.Outcome{Result: inbox.Delivered})
	arguments := []string{"redeliver", "--all-dead", "--inbox=second", "--address=" + admin}

	second.Fail("Redeliver", errors.New("the engine is gone"))
	output, _, err := run(arguments...)
	if err == nil || err.Error() != "0 of 2500 messages are pending again; then, at 1: the engine is gone" || output != "" {
		t.Errorf("%v\n%s", err, output)
	}
	second.Fail("Redeliver", nil)
	output, errs, err := run(arguments...)
	if err != nil || output != "2500 of 2500 dead messages are pending again.\n" || errs != "" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	if stats, err := second.Stats(t.Context()); err != nil || stats.Pending != count+1 || stats.Delivered != 1 || stats.Dead != 0 {
		t.Errorf("%+v %v", stats, err)
	}
	output, _, err = run(arguments...)
	if err != nil || output != "0 of 0 dead messages are pending again.\n" {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestCommandFindsTheAdminAPI: by the configuration, over a socket too.
func TestCommandFindsTheAdminAPI(t *testing.T) {
	directory := t.TempDir()
	socket := "unix/" + directory + "/admin.sock|0600"
	config := directory + "/Caddyfile"
	write(t, config, "{\n\tadmin "+socket+"\n\tpersist_config off\n\tlog {\n\t\toutput discard\n\t}\n\tinbox {\n\t\tstore shelf\n\t}\n}\n")
	put(t, onShelf(t, "default"), "over the socket \x1b[31m")
	document, _, _, err := caddycmd.LoadConfig(config, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(document, true); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = caddy.Stop() }()
	output, _, err := run("list", "--config", config)
	if err != nil || !strings.Contains(output, "over the socket \uFFFD[31m\n") {
		t.Errorf("%v\n%q", err, output)
	}
}
