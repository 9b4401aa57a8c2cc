package chinaums

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// TestEventDuringReload: a call that a reload waits for, and whose fate is then unknown, is an event like any other.
func TestEventDuringReload(t *testing.T) {
	drainEvents()
	arrived, release := make(chan struct{}), make(chan struct{})
	platform := newRawPlatform(t, func(*exchange) bool {
		close(arrived)
		<-release
		return false // cuts the connection
	})
	g := startGateway(t, []string{"shop " + platform.url}, "events {\n on chinaums.call_unknown test_events\n}", "chinaums_proxy", nil)
	outcome, loaded := make(chan string, 1), make(chan error, 1)
	go func() { outcome <- g.post(t, "/v1/netpay/refund", "{}").header.Get("Gateway-Outcome") }()
	<-arrived
	go func() { loaded <- caddy.Load(emptyConfig, true) }()
	eventually(t, "the gateway no longer listens", func() bool {
		conn, err := net.Dial("tcp", g.address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	// The configuration's context would end next. That has some time: if it is too short, the test can only pass.
	time.Sleep(100 * time.Millisecond)
	close(release)
	if got := <-outcome; got != "unknown" {
		t.Errorf("outcome %q", got)
	}
	if err := <-loaded; err != nil {
		t.Error(err)
	}
	event := testutil.Receive(t, "an event", testEventsSeen)
	if event.Name() != "chinaums.call_unknown" || event.Data["path"] != "/v1/netpay/refund" {
		t.Errorf("event %s: %v", event.Name(), event.Data)
	}
}

// TestSlowEventHandler: Caddy runs the handlers of an event one after another; nobody's answer waits for them.
func TestSlowEventHandler(t *testing.T) {
	platform := newRawPlatform(t, func(*exchange) bool { return false })
	for _, test := range []struct {
		event, directive string
		status           int
		answer           string
	}{
		{"chinaums.call_unknown", "chinaums_proxy", http.StatusBadGateway, `"errCode":"GATEWAY_`},
		{"chinaums.notify_rejected", "chinaums_notify", http.StatusForbidden, "FAILED"},
	} {
		t.Run(test.directive, func(t *testing.T) {
			setKeys(t)
			drainEvents()
			for range cap(testEventsSeen) {
				testEventsSeen <- caddy.Event{} // the handler waits for room
			}
			address := freeAddress(t)
			startCaddy(t, strings.Replace(merchantOptions(platform.url), "{\n", "{\n\tevents {\n\t\ton "+test.event+" test_events\n\t}\n", 1)+
				notifySite(address, test.directive))
			t.Cleanup(drainEvents) // before Caddy stops, which waits
			answered := make(chan answer, 1)
			go func() {
				answered <- do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/refund", "{}", jsonType))
			}()
			select {
			case got := <-answered:
				if got.status != test.status || !strings.Contains(got.body, test.answer) || got.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
					t.Errorf("%d %v %q", got.status, got.header, got.body)
				}
			case <-time.After(time.Minute):
				t.Error("no answer")
				drainEvents()
				<-answered
			}
		})
	}
}

func drainEvents() {
	for len(testEventsSeen) > 0 {
		<-testEventsSeen
	}
}

// TestReloadBeforeTheBody: a call whose body comes after a reload is still signed with the old configuration's token.
func TestReloadBeforeTheBody(t *testing.T) {
	platform := newRawPlatform(t, func(x *exchange) bool {
		if x.path() == tokenPath {
			x.write(answered(`{"errCode":"0000","accessToken":"t","expiresIn":3600}`))
		} else {
			x.write(answered("{}"))
		}
		return true
	})
	setKeys(t)
	address, dir := freeAddress(t), t.TempDir()
	load := func(grace int) {
		t.Helper()
		options := fmt.Sprintf("{\n\tadmin off\n\tlog {\n\t\toutput discard\n\t}\n\tgrace_period %ds\n\tstorage file_system %s\n", grace, dir)
		config := strings.Replace(merchantOptions(platform.url), "{\n", options, 1) +
			"http://" + address + " {\n\tbind 127.0.0.1\n\tchinaums_proxy {\n\t\tauth access_token\n\t}\n}\n"
		if err := caddy.Load(adapt(t, config), true); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	load(20)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(text string) {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	send("POST /v1/x HTTP/1.1\r\nHost: " + address + "\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	in := bufio.NewReader(conn)
	// The body is being read when the client is told to go on. A reload that came before lost the connection.
	if goOn, err := http.ReadResponse(in, nil); err != nil || goOn.StatusCode != http.StatusContinue {
		t.Fatalf("%v, %v", goOn, err)
	}
	send("{")
	load(21) // has cleaned up the old configuration when it returns
	send("}")
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK || res.Header.Get("Gateway-Outcome") != "answered" {
		t.Errorf("%s %s %s", res.Status, res.Header.Get("Gateway-Outcome"), text)
	}
}
