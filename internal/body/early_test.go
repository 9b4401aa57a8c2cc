package body

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// hidden hides from net/http that a body was closed, as Caddy's wrapper does.
type hidden struct{ io.ReadCloser }

// wrapped is a writer like those of Caddy's handlers.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestAnswerEarlyEndsTheConnection: the connection ends even if a handler changes the answer's headers. Before, a `header`
// directive with `Connection keep-alive` kept it open, and the rest of the body was executed as the next request.
func TestAnswerEarlyEndsTheConnection(t *testing.T) {
	const second = "POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
	for name, test := range map[string]struct{ framing, body string }{
		"announced":         {"Content-Length: 1000000", second + strings.Repeat("x", 1000000)},
		"chunked":           {"Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 1000000, strings.Repeat("x", 1000000))},
		"a broken chunk":    {"Transfer-Encoding: chunked", "xx\r\n" + second},
		"asks first":        {"Expect: 100-continue\r\nContent-Length: 1000000", second},
		"sent in part":      {"Content-Length: 1000", "x"},
		"sent just as said": {"Content-Length: 1", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					t.Errorf("a request for %s", r.URL.Path)
				}
				r.Body = hidden{r.Body}
				w = wrapped{wrapped{w}}
				AnswerEarly(w, r, 100*time.Millisecond)
				r.Body.Close()
				w.Header().Set("Connection", "keep-alive")
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}))
			defer server.Close()
			connection, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
			go func() {
				_, _ = io.WriteString(connection, "POST / HTTP/1.1\r\nHost: a\r\n"+test.framing+"\r\n\r\n"+test.body+second)
			}()
			got, err := io.ReadAll(connection)
			if errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(string(got), "HTTP/1.1 413 ") || strings.Count(string(got), "HTTP/1.1 ") != 1 {
				t.Errorf("%q, %v", got, err)
			}
			if !strings.Contains(string(got), "Connection: close\r\n") || strings.Contains(string(got), "keep-alive") {
				t.Errorf("the sender is not told: %q", got)
			}
		})
	}
}

func TestAnswerEarlyElsewhere(t *testing.T) {
	for name, test := range map[string]struct {
		major  int
		length int64
		closes bool
	}{
		"HTTP/1.1": {1, 10, true}, "chunked": {1, -1, true}, "no body": {1, 0, false}, "HTTP/2": {2, 10, false}, "HTTP/3": {3, -1, false},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil)
		r.ProtoMajor, r.ContentLength = test.major, test.length
		AnswerEarly(w, r, time.Minute)
		if closes := w.Header().Get("Connection") == "close"; closes != test.closes {
			t.Errorf("%s: Connection: %q", name, w.Header().Get("Connection"))
		}
	}
}

func TestReadRequestWithoutABody(t *testing.T) {
	for length, want := range map[int64]error{-1: nil, 0: nil, 3: io.ErrUnexpectedEOF} {
		r := &http.Request{Method: "POST", ContentLength: length}
		if b, err := ReadRequest(httptest.NewRecorder(), r, 10, time.Minute); len(b) > 0 || !errors.Is(err, want) {
			t.Errorf("length %d: %q, %v", length, b, err)
		}
	}
}

func TestStatus(t *testing.T) {
	for want, errs := range map[int][]error{
		413: {ErrTooLarge, fmt.Errorf("x: %w", ErrTooLarge)},
		408: {os.ErrDeadlineExceeded, fmt.Errorf("x: %w", os.ErrDeadlineExceeded)},
		400: {io.ErrUnexpectedEOF, errors.New("broken")},
	} {
		for _, err := range errs {
			if got := Status(err); got != want {
				t.Errorf("%v: %d, not %d", err, got, want)
			}
		}
	}
}
