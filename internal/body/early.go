package body

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// AnswerEarly prepares for an answer that is given before the body has been read. Without it net/http first waits for
// up to 256 KiB of the body, and for ever if they do not come: a sender who announces a body that is refused, and sends
// none, would get no answer and hold the connection. Afterwards the answer goes out at once, and what is left of the
// body is waited for, so that the sender can read the answer, but no longer than patience. Then the connection ends:
// what still came of the body would be taken for another request, which a front server has not looked at.
//
// HTTP/2 and HTTP/3 end the stream; there no other request can follow in it.
func AnswerEarly(w http.ResponseWriter, r *http.Request, patience time.Duration) {
	if r.ContentLength == 0 {
		return
	}
	if r.ProtoMajor == 1 {
		endConnection(w)
	}
	// A writer that cannot do it (a test's) has no connection to hold.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
}

// endConnection makes net/http end the connection after the answer. A header `Connection: close` alone would not do: what
// dresses the answer, a `header` directive for one, may put another in its place.
func endConnection(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// A body that passes its limit is how net/http's own writer is told. It then also gives the sender half a second to
	// read the answer before what he still sends is answered with a reset.
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("more")), 0).Read(make([]byte, 1))
}
