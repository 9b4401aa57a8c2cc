package outbound

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/wire"
)

// TestBodyOutlivesTheCall: net/http's client may still write a request when its answer has come, as where the platform has
// refused it early. What it wrote then was the body of the call that had got the buffer.
func TestBodyOutlivesTheCall(t *testing.T) {
	var late io.Reader
	s := Through(roundTripper(func(r *http.Request) (*http.Response, error) {
		late = r.Body
		return &http.Response{StatusCode: 413, Header: http.Header{}, Body: http.NoBody}, nil
	}))
	content := []byte(`{"merOrderId":"first"}`)
	_, _, _, err := s.send(testAccount{}.Endpoint(), &wire.Request{Target: "/v1/x", Host: "h", Body: content, Deadline: time.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	copy(content, `{"merOrderId":"other"}`) // as the next call does that gets the buffer
	if sent, err := io.ReadAll(late); err != nil || string(sent) != `{"merOrderId":"first"}` {
		t.Errorf("%s, %v", sent, err)
	}
}

// TestTargetIsAPath: what stood behind the platform's port, and was no path, made another host of it.
func TestTargetIsAPath(t *testing.T) {
	for _, target := range []string{"@evil.example/v1/x", "0/v1/x", "", "/v1/x?a HTTP/1.1", "/v1/x\r\nA: b"} {
		s := Through(roundTripper(func(r *http.Request) (*http.Response, error) {
			t.Errorf("%q goes to %s", target, r.URL)
			return nil, errors.New("sent")
		}))
		_, _, sent, err := s.send(testAccount{}.Endpoint(), &wire.Request{Target: target, Host: "h", Deadline: time.Now().Add(time.Minute)})
		if sent || err == nil {
			t.Errorf("%q: %v", target, err)
		}
	}
}

// keeper is a client's connection that has been given up while the answer is written: as HTTP/2's, it may still look at what
// it was given.
type keeper struct {
	*httptest.ResponseRecorder
	given []byte
}

func (k *keeper) Write(p []byte) (int, error) {
	k.given = p
	return 0, errors.New("the client has reset the stream")
}

// TestAnswerOfALostClient: the buffer of an answer that was not written whole went to the next call, whose answer could then
// go out on the first one's connection.
func TestAnswerOfALostClient(t *testing.T) {
	fill := func(content string) body.Pooled {
		p, err := body.ReadPooled(strings.NewReader(content), int64(len(content)), 100)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	call := &Call{answer: fill("the first's")}
	client := &keeper{ResponseRecorder: httptest.NewRecorder()}
	p := &Proxy{Guard: *newGuard(t, []string{"all"}, nil, nil)}
	if failure := p.pass(client, call, &http.Response{StatusCode: 200, ProtoMinor: 1, Header: http.Header{}}); failure != nil {
		t.Fatal(failure)
	}
	call.release()
	for range 10 {
		other := fill("the other's")
		if !bytes.Equal(client.given, []byte("the first's")) {
			t.Fatalf("the first's connection has %s", client.given)
		}
		defer other.Release()
	}
}

// TestFresh: a question that must not fail for an old connection goes out on a new one with net/http's client too.
func TestFresh(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	address := server.Listener.Addr().String()
	standard := new(http.Transport)
	for name, next := range map[string]http.RoundTripper{
		"net/http's": standard, "Caddy's": &reverseproxy.HTTPTransport{Versions: []string{"1.1"}, Transport: new(http.Transport)},
	} {
		connections.Store(0)
		for range 3 {
			_, answer, _, err := Through(next).Ask(t.Context(), Endpoint{"http", address, address}, &Question{Path: "/", Content: []byte("{}"), MaxAnswer: 10, Fresh: true})
			if err != nil || string(answer) != "{}" {
				t.Fatalf("%s, %v", answer, err)
			}
		}
		if n := connections.Load(); n != 3 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

// TestProxyOfTheConfiguration: network_proxy is gone from a transport that has been provisioned, so the log blamed the
// environment for it.
func TestProxyOfTheConfiguration(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	core, logs := observer.New(zap.InfoLevel)
	h := &reverseproxy.HTTPTransport{NetworkProxyRaw: []byte(`{"from":"url","url":"http://127.0.0.1:1"}`)}
	if err := setUp(ctx, h, ""); err != nil {
		t.Fatal(err)
	}
	to := testAccount{}.Endpoint()
	s := NewSender(h, []Endpoint{to}, zap.New(core))
	if client, _ := s.client(to); client != nil {
		t.Error("past the proxy")
	}
	if lines := logs.All(); len(lines) != 1 || lines[0].ContextMap()["because_of"] != "a proxy" {
		t.Errorf("%v", lines)
	}
}
