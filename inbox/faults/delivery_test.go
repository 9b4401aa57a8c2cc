package faults

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// inboxSite is one gateway with many inboxes, each with a path and a file of its own.
type inboxSite struct {
	global, site strings.Builder
}

func (s *inboxSite) add(name, options string) {
	fmt.Fprintf(&s.global, "\tinbox %s {\n\t\tstore bolt {\n\t\t\tpath $DIR/%s.db\n\t\t}\n\t}\n", name, name)
	fmt.Fprintf(&s.site, "\thandle /%s {\n\t\tinbox %s {\n%s\n\t\t}\n\t}\n", name, name, options)
}

// TestApps: what apps do, and what becomes of the messages.
func TestApps(t *testing.T) {
	t.Parallel()
	needBinary(t)
	var mu sync.Mutex
	plans := make(map[string]func(id string, attempt int) reaction)
	a := newApp(t, func(r *http.Request, id string, attempt int) reaction {
		mu.Lock()
		plan := plans[strings.TrimPrefix(r.URL.Path, "/")]
		mu.Unlock()
		if plan == nil {
			return reaction{}
		}
		return plan(id, attempt)
	})
	plan := func(name string, p func(id string, attempt int) reaction) {
		mu.Lock()
		defer mu.Unlock()
		plans[name] = p
	}
	var s inboxSite
	s.add("late", "timeout 3s\nretry 100ms\n"+a.deliver())
	s.add("broken", "retry 50ms\n"+a.deliver())
	s.add("word", "retry 50ms\n"+a.deliver())
	s.add("any", "ack 2xx\nretry 50ms\n"+a.deliver())
	s.add("poison", "timeout 500ms\nretry 100ms\nconcurrency 4\n"+a.deliver())
	s.add("ordered", "order_by {http.request.header.X-Order}\nretry 100ms\n"+a.deliver())
	s.add("orderdead", "order_by {http.request.header.X-Order}\nretry 50ms\ngive_up 300ms\n"+a.deliver())
	s.add("dead", "retry 50ms\ngive_up 5s\n"+a.deliver()) // more than one attempt
	s.add("abort", "retry 50ms\ngive_up 300ms\ndeliver {\nabort\n}")
	s.add("nobody", "retry 50ms\ngive_up 300ms\ndeliver {\nheader X-Nothing 1\n}")
	s.add("same", "retry 50ms\n"+a.deliver())
	s.add("large", "max_size 10KiB\n"+a.deliver())
	g := newGateway(t, "gateway", s.global.String(), s.site.String())
	g.start()

	t.Run("an app that answers after the timeout", func(t *testing.T) {
		plan("late", func(_ string, attempt int) reaction {
			if attempt <= 2 {
				return reaction{pause: 3500 * time.Millisecond, body: "too late"}
			}
			return reaction{}
		})
		g.wantSent("/late", "late")
		a.wantTaken("late")
		g.wantCount("late", "delivered", 1)
		if taken, attempts := a.times("late"); taken != 1 || attempts != 3 {
			t.Errorf("taken %d times in %d attempts, want 1 in 3", taken, attempts)
		}
	})
	t.Run("an app that breaks off, fails and says no", func(t *testing.T) {
		reactions := []reaction{{cut: 1}, {cut: 2}, {status: 500, body: "SUCCESS"}, {status: 404, body: "OK"}, {body: "FAILED"}, {status: 302}, {body: " fail\n"}}
		plan("broken", func(_ string, attempt int) reaction {
			if attempt <= len(reactions) {
				return reactions[attempt-1]
			}
			return reaction{}
		})
		g.wantSent("/broken", "broken")
		a.wantTaken("broken")
		g.wantCount("broken", "delivered", 1)
		if taken, attempts := a.times("broken"); taken != 1 || attempts != len(reactions)+1 {
			t.Errorf("taken %d times in %d attempts, want 1 in %d", taken, attempts, len(reactions)+1)
		}
	})
	for _, test := range []struct {
		inbox, name, body string
		status            int
		taken             bool
	}{
		{"word", "word-empty", "\n", 200, true},
		{"word", "word-ok", " oK \r\n", 201, true},
		{"word", "word-success", "success", 299, true},
		{"word", "word-other", "<html>welcome</html>", 200, false},
		{"word", "word-json", `{"result":"SUCCESS"}`, 200, false},
		{"word", "word-failed", "FAILED", 200, false},
		{"any", "any-other", "<html>welcome</html>", 200, true},
		{"any", "any-failed", "failed", 200, false},
		{"any", "any-fail", " FAIL ", 202, false},
		{"any", "any-500", "SUCCESS", 500, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan(test.inbox, func(_ string, attempt int) reaction {
				if attempt == 1 {
					return reaction{status: test.status, body: test.body}
				}
				return reaction{}
			})
			before := g.count(test.inbox, "delivered")
			g.wantSent("/"+test.inbox, test.name)
			g.wantCount(test.inbox, "delivered", max(before, 0)+1)
			want := 2
			if test.taken {
				want = 1
			}
			if _, attempts := a.times(test.name); attempts != want {
				t.Errorf("%d attempts, want %d", attempts, want)
			}
		})
	}
	t.Run("poison blocks nobody", func(t *testing.T) {
		cured := make(chan struct{})
		plan("poison", func(id string, _ int) reaction {
			if strings.HasPrefix(id, "poison") {
				select {
				case <-cured:
				default:
					if hash(id)%2 == 0 {
						return reaction{status: 500}
					}
					return reaction{hold: cured}
				}
			}
			return reaction{}
		})
		for i := range 12 {
			g.wantSent("/poison", fmt.Sprintf("poison%d", i))
		}
		for i := range 50 {
			g.wantSent("/poison", fmt.Sprintf("well%d", i))
		}
		for i := range 50 {
			a.wantTaken(fmt.Sprintf("well%d", i))
		}
		close(cured)
		g.wantCount("poison", "delivered", 62)
	})
	t.Run("order by a key", func(t *testing.T) {
		cured := make(chan struct{})
		plan("ordered", func(id string, attempt int) reaction {
			if id == "A0" {
				select {
				case <-cured:
				default:
					return reaction{status: 500}
				}
			}
			if attempt == 1 && hash(id)%3 == 0 {
				return reaction{status: 500}
			}
			return reaction{}
		})
		keys := []string{"A", "B", "C", "D"}
		for i := range 8 {
			for _, key := range keys {
				g.wantSent("/ordered", key+strconv.Itoa(i), "X-Order: "+key)
			}
			g.wantSent("/ordered", "none"+strconv.Itoa(i)) // no key, no order
		}
		for i := range 8 {
			for _, id := range []string{"B", "C", "D", "none"} {
				a.wantTaken(id + strconv.Itoa(i))
			}
		}
		if taken, _ := a.times("A1"); taken != 0 {
			t.Error("A1 overtook A0")
		}
		close(cured)
		g.wantCount("ordered", "delivered", 40)
		order := a.takenOrder()
		for _, key := range keys {
			var own []string
			for _, id := range order {
				if len(id) == 2 && id[:1] == key {
					own = append(own, id)
				}
			}
			if len(own) != 8 || !slices.IsSorted(own) {
				t.Errorf("the order of key %s: %v", key, own)
			}
		}
	})
	t.Run("a dead letter lets the rest of its key go on", func(t *testing.T) {
		plan("orderdead", func(id string, _ int) reaction {
			if id == "E0" {
				return reaction{status: 500}
			}
			return reaction{}
		})
		for i := range 4 {
			g.wantSent("/orderdead", "E"+strconv.Itoa(i), "X-Order: E")
		}
		for i := 1; i < 4; i++ {
			a.wantTaken("E" + strconv.Itoa(i))
		}
		g.wantCount("orderdead", "dead", 1)
	})
	t.Run("dead letters, and how they live again", func(t *testing.T) {
		var cured atomic.Bool
		plan("dead", func(string, int) reaction {
			if cured.Load() {
				return reaction{}
			}
			return reaction{status: 503, body: "the database is gone"}
		})
		for i := range 3 {
			g.wantSent("/dead", "dead"+strconv.Itoa(i))
		}
		g.wantCount("dead", "dead", 3)
		dead := g.list("dead", "?state=dead")
		if len(dead) != 3 {
			t.Fatalf("%d dead messages are listed, want 3", len(dead))
		}
		for i, m := range dead {
			if !strings.HasSuffix(m.ID, "dead"+strconv.Itoa(i)) || m.State != "dead" || m.Attempts < 2 || m.Answer.Status != 503 {
				t.Errorf("listed: %+v", m)
			}
			path := fmt.Sprintf("/inbox/dead/messages/%d", m.Seq)
			if status, answer := g.ask(http.MethodGet, path, ""); status != 200 || !strings.Contains(answer, "the database is gone") || strings.Contains(answer, "filler") {
				t.Errorf("%s: %d %s", path, status, answer)
			}
			if status, answer := g.ask(http.MethodGet, path+"?show=1", ""); status != 200 || !strings.Contains(answer, "filler") {
				t.Errorf("%s unmasked: %d %s", path, status, answer)
			}
		}
		if g.count("dead", "pending") != 0 || len(g.list("dead", "?state=pending")) != 0 {
			t.Error("some are pending too")
		}
		cured.Store(true)

		// The first through the admin API, the second with the command, the third by the sender, who sends it again.
		if status, answer := g.ask(http.MethodPost, fmt.Sprintf("/inbox/dead/messages/%d/redeliver", dead[0].Seq), ""); status/100 != 2 {
			t.Errorf("redeliver: %d %s", status, answer)
		}
		a.wantTaken("dead0")
		if output, code := g.run("inbox", "redeliver", "--address", g.admin, "--inbox", "dead", strconv.FormatUint(dead[1].Seq, 10)); code != 0 {
			t.Errorf("caddy inbox redeliver: exit code %d\n%s", code, output)
		}
		a.wantTaken("dead1")
		g.wantSent("/dead", "dead2")
		a.wantTaken("dead2")
		g.wantCount("dead", "delivered", 3)
		g.wantCount("dead", "dead", 0)

		// What was delivered is not delivered again, unless somebody insists.
		path := fmt.Sprintf("/inbox/dead/messages/%d/redeliver", g.list("dead", "?state=delivered")[0].Seq)
		if status, answer := g.ask(http.MethodPost, path, ""); status/100 != 4 {
			t.Errorf("redeliver what was delivered: %d %s", status, answer)
		}
		if status, answer := g.ask(http.MethodPost, path+"?force=1", ""); status/100 != 2 {
			t.Errorf("redeliver by force: %d %s", status, answer)
		}
		within(t, 2*time.Minute, "the forced delivery", func() bool { return len(a.takenOrderOf("dead")) == 4 })
	})
	t.Run("handlers that abort, and none that answers", func(t *testing.T) {
		for _, name := range []string{"abort", "nobody"} {
			g.wantSent("/"+name, name)
			g.wantCount(name, "dead", 1)
		}
	})
	t.Run("repetitions", func(t *testing.T) {
		release := make(chan struct{})
		plan("same", func(id string, _ int) reaction {
			if id == "held" {
				return reaction{hold: release}
			}
			return reaction{}
		})
		g.wantSent("/same", "held")
		within(t, 2*time.Minute, "the first attempt", func() bool { _, attempts := a.times("held"); return attempts == 1 })
		g.wantSent("/same", "held") // in flight
		close(release)
		a.wantTaken("held")
		g.wantCount("same", "delivered", 1)
		g.wantSent("/same", "held") // delivered

		// Two sources, one Ce-Id.
		g.wantSent("/same", "twin")
		if status, _, err := post(plainClient, http.MethodPost, "http://"+g.address+"/same", bodyOf("twin"), "Ce-Source: /other", "Ce-Id: twin"); status != http.StatusAccepted || err != nil {
			t.Errorf("the other source: %d, %v", status, err)
		}
		within(t, 2*time.Minute, "both deliveries", func() bool { taken, _ := a.times("twin"); return taken == 2 })

		// Sixty-four senders at once.
		start := make(chan struct{})
		var group sync.WaitGroup
		for range 64 {
			group.Go(func() {
				<-start
				g.wantSent("/same", "crowd")
			})
		}
		close(start)
		group.Wait()
		a.wantTaken("crowd")
		g.wantCount("same", "delivered", 4)
		g.wantCount("same", "pending", 0)
		for id, want := range map[string]int{"held": 1, "twin": 2, "crowd": 1} {
			if taken, attempts := a.times(id); taken != want || attempts != want {
				t.Errorf("%s was taken %d times in %d attempts, want %d", id, taken, attempts, want)
			}
		}
	})
	t.Run("without an id each is new, with a warning", func(t *testing.T) {
		for range 2 {
			if status, _, err := post(plainClient, http.MethodPost, "http://"+g.address+"/same", bodyOf(""), "X-Nothing: 1"); status != http.StatusAccepted || err != nil {
				t.Errorf("%d, %v", status, err)
			}
		}
		g.wantCount("same", "delivered", 6)
		if !strings.Contains(g.log.String(), `"level":"warn"`) && !strings.Contains(g.log.String(), "WARN") {
			t.Error("no warning")
		}
	})
	t.Run("too large", func(t *testing.T) {
		for size, want := range map[int]int{10 << 10: 202, 10<<10 + 1: 413} {
			if status, _, err := post(plainClient, http.MethodPost, "http://"+g.address+"/large", strings.Repeat("x", size), "Ce-Id: large"+strconv.Itoa(size)); status != want || err != nil {
				t.Errorf("%d bytes: %d, %v; want %d", size, status, err, want)
			}
		}
		g.wantCount("large", "delivered", 1)
	})

	g.stop()
	for _, file := range []string{"late.db", "dead.db"} {
		info, err := os.Stat(filepath.Join(g.directory, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", file, info, err)
		}
	}
}

// takenOrderOf returns the ids with a prefix, as they were taken.
func (a *app) takenOrderOf(prefix string) []string {
	return slices.DeleteFunc(a.takenOrder(), func(id string) bool { return !strings.HasPrefix(id, prefix) })
}

// TestRefusedAtStart: what a gateway does not start with, and says why.
func TestRefusedAtStart(t *testing.T) {
	t.Parallel()
	deliver := "inbox {\ndeliver {\nrespond 200\n}\n}"
	store := func(path string) string { return "\tinbox {\n\t\tstore bolt {\n\t\t\tpath " + path + "\n\t\t}\n\t}" }
	g := newGateway(t, "first", store("$DIR/inbox.db"), deliver)
	g.start()
	memory, err := os.MkdirTemp("/dev/shm", "faults-")
	if err != nil {
		memory = ""
	} else {
		t.Cleanup(func() { _ = os.RemoveAll(memory) })
	}
	for _, test := range []struct {
		name, global, site string
		words              []string
	}{
		{"the file of a running gateway", store(filepath.Join(g.directory, "inbox.db")), deliver, []string{"inbox.db"}},
		{"a file system in memory", store(filepath.Join(memory, "inbox.db")), deliver, []string{"tmpfs"}},
		{"order_by with nats", "\tinbox {\n\t\tstore nats nats://127.0.0.1:1\n\t}", "inbox {\norder_by {http.request.header.X}\ndeliver {\nrespond 200\n}\n}", []string{"order_by"}},
		{"another inbox with that file", store("$DIR/a.db") + "\n\tinbox second {\n\t\tstore bolt {\n\t\t\tpath $DIR/a.db\n\t\t}\n\t}", deliver + "\nhandle /2 {\ninbox second {\ndeliver {\nrespond 200\n}\n}\n}", []string{"a.db"}},
		{"an inbox that nobody configured", store("$DIR/a.db"), "inbox third {\ndeliver {\nrespond 200\n}\n}", []string{"third"}},
		{"a file that is no inbox", store("$DIR/Caddyfile"), deliver, []string{"Caddyfile"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.global, "path inbox.db") {
				t.Skip("no /dev/shm")
			}
			other := newGateway(t, "other", test.global, test.site)
			other.launch()
			select {
			case <-other.ended:
			case <-time.After(2 * time.Minute):
				t.Errorf("it runs\n%s", other.log.end())
				return
			}
			if other.command.ProcessState.ExitCode() <= 0 {
				t.Errorf("it ended with %v", other.command.ProcessState)
			}
			for _, word := range test.words {
				if !strings.Contains(other.log.String(), word) {
					t.Errorf("the error does not say %q:\n%s", word, other.log.end())
				}
			}
		})
	}
	// The first is unharmed.
	g.wantSent("/", "after")
	g.wantCount("default", "delivered", 1)
}
