package body

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// AnswerEarly prepares for an answer that is given before the body has been read. Call it before the answer.
//
// Without it, net/http first waits for up to 256 KiB of the body, and waits forever if they do not arrive. A sender who
// announces a body and sends none would get no answer, and hold the connection. With it, the answer goes out at once. The
// rest of the body is then awaited for at most patience, so that the sender can read the answer.
//
// After that the connection ends. Otherwise the rest of the body would be read as another request, which no front server
// has checked. HTTP/2 and HTTP/3 end the stream instead, in which no other request can follow.
func AnswerEarly(w http.ResponseWriter, r *http.Request, patience time.Duration) {
	if r.ContentLength == 0 {
		return
	}
	if r.ProtoMajor == 1 {
		endConnection(w)
	}
	// A writer that cannot set a deadline, as in tests, has no connection to hold.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
}

// endConnection makes net/http end the connection after the answer. The header `Connection: close` is not enough: a
// handler in front, such as a `header` directive, may replace it.
func endConnection(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// net/http's own writer learns it from a body that exceeds its limit. It then also gives the sender half a second to
	// read the answer before the connection is reset.
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("more")), 0).Read(make([]byte, 1))
}
