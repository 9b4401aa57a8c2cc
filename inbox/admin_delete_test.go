package inbox_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/boltstore"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/storetest"
)

// about puts messages of orders, each with a body that must not be seen where it is masked.
func about(t testing.TB, store inbox.Store, orders ...string) {
	t.Helper()
	for i, order := range orders {
		if _, err := store.Put(t.Context(), &inbox.Message{
			ID: fmt.Sprint("e", i+1), Subject: order, Received: time.Now(), Request: inbox.RequestOf("POST", "/notify?token=mask-me", "mask-me "+order),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// audited runs a Caddy with the inbox default, and returns where the admin API's own lines are logged.
func audited(t *testing.T) (admin string, store *storetest.Memory, log func() string) {
	t.Helper()
	store = onShelf(t, "default")
	path := filepath.Join(t.TempDir(), "audit.log")
	admin = runCaddy(t, "log audit {\noutput file "+path+"\ninclude admin.api.inbox\n}\ninbox {\nstore shelf\n}", "")
	return admin, store, func() string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
}

// TestAdminDeletes: one message, and a pending one with force only; who has deleted which is logged, and nothing of what
// was in it.
func TestAdminDeletes(t *testing.T) {
	admin, store, log := audited(t)
	about(t, store, "order-1", "order-2", "order-3", "order-4")
	settle(t, store, inbox.Outcome{Result: inbox.Delivered})
	settle(t, store, inbox.Outcome{Result: inbox.Dead})
	leased, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const messages = "/inbox/default/messages"
	for _, test := range []struct {
		path   string
		status int
		want   string
	}{
		{"/99", 404, "map[error:no such message]"},
		{"/first", 404, "map[error:no such message]"},
		{"/4", 409, "map[error:the message is still to be delivered; force=1 deletes it all the same]"},
		{"/4?force=0", 409, "map[error:the message is still to be delivered; force=1 deletes it all the same]"},
		{"/4?force=please", 400, `map[error:force: "please" is neither 1 nor 0]`},
		{"/4?state=dead", 400, `map[error:unknown parameter "state"; known here: force]`},
		{fmt.Sprint("/", leased.Seq, "?force=1"), 409, "map[error:the message is being delivered at this moment]"},
		{"/1", 200, "map[deleted:1]"},
		{"/1", 404, "map[error:no such message]"},
		{"/2", 200, "map[deleted:1]"},
		{"/4?force=1", 200, "map[deleted:1]"},
	} {
		status, _, answer := ask(t, "DELETE", admin, messages+test.path)
		if got := fmt.Sprint(answer); status != test.status || got != test.want {
			t.Errorf("%s: %d %s, want %d %s", test.path, status, got, test.status, test.want)
		}
	}
	if _, _, answer := ask(t, "GET", admin, messages); seqs(t, answer) != "e3:pending" {
		t.Errorf("left are %v", answer)
	}
	lines := strings.Split(strings.TrimSpace(log()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want one for each deletion:\n%s", len(lines), log())
	}
	for i, want := range []string{`"seq":1,"force":false`, `"seq":2,"force":false`, `"seq":4,"force":true`} {
		if !strings.Contains(lines[i], `"inbox":"default",`+want+`,"remote":"127.0.0.1:`) {
			t.Errorf("%s\nwant it to say %s", lines[i], want)
		}
	}
	if strings.Contains(log(), "mask-me") || strings.Contains(log(), "order-") {
		t.Errorf("the log has what was in them:\n%s", log())
	}
}

// TestAdminDeletesDead: all dead messages, or those that were given up before a time.
func TestAdminDeletesDead(t *testing.T) {
	admin, store, log := audited(t)
	put(t, store, "early", "late", "delivered", "pending")
	early := settle(t, store, inbox.Outcome{Result: inbox.Dead})
	late := settle(t, store, inbox.Outcome{Result: inbox.Dead})
	settle(t, store, inbox.Outcome{Result: inbox.Delivered})
	of := func(m *inbox.Message) string {
		got, err := store.Get(t.Context(), m.Seq)
		if err != nil {
			t.Fatal(err)
		}
		return url.QueryEscape(got.Settled.Format(time.RFC3339Nano))
	}
	const messages = "/inbox/default/messages"
	required := "map[error:state=dead is required: only dead messages are deleted together]"
	badTime := `map[error:before: "yesterday" is not a time such as 2026-01-31T08:00:00+08:00]`
	for _, test := range []struct {
		query  string
		status int
		want   string
	}{
		{"", 400, required},
		{"?state=delivered", 400, required},
		{"?state=pending&before=" + of(late), 400, required},
		{"?state=dead&before=yesterday", 400, badTime},
		{"?state=dead&before=", 400, strings.Replace(badTime, "yesterday", "", 1)},
		{"?state=dead&before=" + url.QueryEscape("0001-01-01T00:00:00Z"), 200, "map[deleted:0]"},
		{"?state=dead&search=e", 400, `map[error:unknown parameter "search"; known here: state, before]`},
		{"?state=dead&before=" + of(early), 200, "map[deleted:0]"},
		{"?state=dead&before=" + of(late), 200, "map[deleted:1]"},
		{"?state=dead", 200, "map[deleted:1]"},
		{"?state=dead", 200, "map[deleted:0]"},
	} {
		status, _, answer := ask(t, "DELETE", admin, messages+test.query)
		if got := fmt.Sprint(answer); status != test.status || got != test.want {
			t.Errorf("%s: %d %s, want %d %s", test.query, status, got, test.status, test.want)
		}
	}
	if _, _, answer := ask(t, "GET", admin, messages); seqs(t, answer) != "delivered:delivered pending:pending" {
		t.Errorf("left are %v", answer)
	}
	if got := strings.Count(log(), `"deleted":1,`); got != 2 || strings.Count(log(), `"remote":"127.0.0.1:`) != 2 {
		t.Errorf("%d lines tell it:\n%s", got, log())
	}
	store.Fail("DeleteDead", errors.New("the engine is gone"))
	if status, _, answer := ask(t, "DELETE", admin, messages+"?state=dead"); status != 503 || !strings.Contains(fmt.Sprint(answer), "the engine is gone") {
		t.Errorf("%d %v", status, answer)
	}
}

// TestAdminSearches: by a part of the id or of the order, which lists show.
func TestAdminSearches(t *testing.T) {
	admin, first, _ := twoInboxes(t)
	about(t, first, "3194-1", "3194-2", "", "订单 2")
	settle(t, first, inbox.Outcome{Result: inbox.Delivered})
	for query, want := range map[string]string{
		"?search=3194":                 "e1:delivered e2:pending",
		"?search=3194&state=pending":   "e2:pending",
		"?search=e&limit=2":            "e1:delivered e2:pending",
		"?search=e&limit=2&after=2":    "e3:pending e4:pending",
		"?search=%E5%8D%95%202":        "e4:pending",
		"?search=mask":                 "",
		"?search=":                     "e1:delivered e2:pending e3:pending e4:pending",
		"?search=e3&after=1&limit=100": "e3:pending",
	} {
		status, _, answer := ask(t, "GET", admin, "/inbox/default/messages"+query)
		if got := seqs(t, answer); status != 200 || got != want {
			t.Errorf("%s: %d %s, want %s", query, status, got, want)
		}
	}
	_, _, answer := ask(t, "GET", admin, "/inbox/default/messages")
	for i, want := range []any{"3194-1", "3194-2", nil, "订单 2"} {
		if got := answer.([]any)[i].(map[string]any)["subject"]; got != want {
			t.Errorf("the subject of %d is %v, want %v", i+1, got, want)
		}
	}
	if _, _, answer := ask(t, "GET", admin, "/inbox/default/messages/1"); answer.(map[string]any)["subject"] != "3194-1" {
		t.Errorf("%v", answer)
	}
}

// TestCommandDeletes: caddy inbox delete, stats, and list --search.
func TestCommandDeletes(t *testing.T) {
	admin, first, _ := twoInboxes(t)
	at := "--address=" + admin
	about(t, first, "3194-1", "3194-2", "3194-\x1b[31m", "3194-4", "")
	settle(t, first, inbox.Outcome{Result: inbox.Delivered})
	settle(t, first, inbox.Outcome{Result: inbox.Dead})

	output, errs, err := run("list", at, "--search", "3194-")
	if lines := strings.Split(output, "\n"); err != nil || errs != "" || len(lines) != 6 || !strings.HasSuffix(lines[0], "  SUBJECT     ID") ||
		!strings.HasSuffix(lines[1], "  3194-1      e1") || !strings.HasSuffix(lines[3], "  3194-\uFFFD[31m  e3") {
		t.Errorf("%v %s\n%q", err, errs, output)
	}
	output, _, err = run("list", at, "--search", "e5")
	if lines := strings.Split(output, "\n"); err != nil || len(lines) != 3 || !strings.HasSuffix(lines[1], "  -        e5") {
		t.Errorf("%v\n%q", err, output)
	}
	output, errs, err = run("stats", at)
	if lines := strings.Split(output, "\n"); err != nil || errs != "" || len(lines) != 3 ||
		lines[0] != "PENDING  DELIVERED  DEAD  OLDEST               BYTES" || !strings.HasPrefix(lines[1], "3        1          1     20") {
		t.Errorf("%v %s\n%q", err, errs, output)
	}
	output, _, err = run("stats", at, "--inbox=second")
	if lines := strings.Split(output, "\n"); err != nil || len(lines) != 3 || lines[1] != "0        0          0     -       0" {
		t.Errorf("%v\n%q", err, output)
	}
	output, _, err = run("stats", at, "--json")
	var stats struct{ Pending, Delivered, Dead, Bytes int }
	if err != nil || json.Unmarshal([]byte(output), &stats) != nil || stats.Pending != 3 || stats.Bytes == 0 {
		t.Errorf("%v\n%s", err, output)
	}

	output, errs, err = run("delete", at, "1", "3", "99")
	if err == nil || err.Error() != "2 of 3 messages could not be deleted" || output != "1: deleted\n" ||
		errs != "3: the message is still to be delivered; force=1 deletes it all the same\n99: no such message\n" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	if output, errs, err = run("delete", at, "--force", "3", "4"); err != nil || output != "3: deleted\n4: deleted\n" || errs != "" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	if output, errs, err = run("delete", at, "--all-dead", "--before", "2020-01-01T00:00:00Z"); err != nil || output != "0 dead messages are deleted.\n" || errs != "" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	if output, errs, err = run("delete", at, "--all-dead"); err != nil || output != "1 dead message is deleted.\n" || errs != "" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	if output, _, err = run("list", at); err != nil || strings.Count(output, "\n") != 2 || !strings.Contains(output, "e5") {
		t.Errorf("%v\n%s", err, output)
	}
	for _, test := range []struct{ name, arguments, want string }{
		{"no seq", "delete " + at, "give the seqs of messages"},
		{"a seq that is none", "delete one " + at, `"one" is not the seq of a message`},
		{"both", "delete 1 --all-dead " + at, "give either seqs or --all-dead"},
		{"force for dead ones", "delete --all-dead --force " + at, "--force is for messages that are still to be delivered"},
		{"before without all", "delete 1 --before 2020-01-01T00:00:00Z " + at, "--before goes with --all-dead"},
		{"no time", "delete --all-dead --before yesterday " + at, `before: "yesterday" is not a time`},
	} {
		output, _, err := run(strings.Fields(test.arguments)...)
		if err == nil || !strings.Contains(err.Error(), test.want) || output != "" {
			t.Errorf("%s: %v, want %s\n%s", test.name, err, test.want, output)
		}
	}
}

// exportedLine is what a line of an export has to have.
type exportedLine struct {
	Seq     uint64
	ID      string
	Subject string
	State   string
	Request *struct {
		URI  string
		Body struct{ Text string }
	}
}

func exported(t testing.TB, path string) (lines []exportedLine) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		var line exportedLine
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, scanner.Bytes())
		}
		lines = append(lines, line)
	}
	return lines
}

// TestCommandExports: all messages of several pages, whole, into a file that only its owner may read.
func TestCommandExports(t *testing.T) {
	admin, _, second := twoInboxes(t)
	const count = 1100
	orders := make([]string, count)
	for i := range orders {
		orders[i] = fmt.Sprint("order-", i+1)
	}
	about(t, second, orders...)
	settle(t, second, inbox.Outcome{Result: inbox.Delivered})
	put(t, second, "not decodable")
	path := filepath.Join(t.TempDir(), "all.jsonl")
	arguments := []string{"export", path, "--inbox=second", "--address=" + admin}

	output, errs, err := run(arguments...)
	if err != nil || output != "1101 messages are in "+path+".\n" || errs != "1101: its request is left out: the stored request cannot be read: it is of version 110, which this version of the gateway does not know\n" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	lines := exported(t, path)
	if len(lines) != count+1 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines[:count] {
		state := "pending"
		if i == 0 {
			state = "delivered"
		}
		if line.Seq != uint64(i+1) || line.Subject != orders[i] || line.State != state || line.Request == nil ||
			line.Request.URI != "/notify?token=mask-me" || line.Request.Body.Text != "mask-me "+orders[i] {
			t.Fatalf("%+v", line)
		}
	}
	if last := lines[count]; last.ID != "not decodable" || last.Request != nil {
		t.Errorf("%+v", last)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, _, err := run(arguments...); err == nil || !errors.Is(err, os.ErrExist) {
		t.Errorf("it is written over: %v", err)
	}
	if len(exported(t, path)) != count+1 {
		t.Error("the file was changed")
	}
	other := path + ".2"
	second.Fail("Get", errors.New("the engine is gone"))
	_, _, err = run("export", other, "--inbox=second", "--address="+admin)
	if err == nil || err.Error() != other+" is not complete: it has 0 messages; then, at 1: the engine is gone" {
		t.Errorf("%v", err)
	}
	if _, _, err := run("export", other+"/x/y", "--address="+admin); err == nil {
		t.Error("no error where the file cannot be made")
	}
	if _, _, err := run("export", other+".3", "--inbox=third", "--address="+admin); err == nil || !strings.Contains(err.Error(), `there is no inbox "third"`) {
		t.Errorf("%v", err)
	}
}

// TestCommandExportsAFile: of a gateway that does not run; a damaged message is left out, and the command fails.
func TestCommandExportsAFile(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "inbox.db")
	store, err := boltstore.Open(path, inbox.Settings{Remember: time.Hour, Lease: time.Minute}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	about(t, store, "order-1", "order-2")
	toAnOpenOne := filepath.Join(directory, "open.jsonl")
	if _, _, err := run("export", toAnOpenOne, "--file", path); err == nil || !strings.Contains(err.Error(), "is open: stop that Caddy") {
		t.Errorf("while it is open: %v", err)
	}
	// An empty file stayed, so that the same command failed with "file exists" when that Caddy was stopped.
	if _, err := os.Stat(toAnOpenOne); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file without a message is left: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(directory, "all.jsonl")
	output, errs, err := run("export", to, "--file", path)
	if err != nil || output != "2 messages are in "+to+".\n" || errs != "" {
		t.Errorf("%v %s\n%s", err, errs, output)
	}
	lines := exported(t, to)
	if len(lines) != 2 || lines[1].Subject != "order-2" || lines[1].State != "pending" || lines[1].Request == nil || lines[1].Request.Body.Text != "mask-me order-2" {
		t.Errorf("%+v", lines)
	}

	store, err = boltstore.Open(path, inbox.Settings{Remember: time.Hour, Lease: time.Minute}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, "not decodable")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	to = filepath.Join(directory, "damaged.jsonl")
	_, errs, err = run("export", to, "--file", path)
	if err == nil || err.Error() != "the file is damaged: not all of it could be read" || !strings.HasPrefix(errs, "3: its request is left out: it cannot be read: ") {
		t.Errorf("%v %s", err, errs)
	}
	if lines := exported(t, to); len(lines) != 3 || lines[2].Request != nil {
		t.Errorf("%+v", lines)
	}
	if _, _, err := run("export", filepath.Join(directory, "none.jsonl"), "--file", path+".none"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}
