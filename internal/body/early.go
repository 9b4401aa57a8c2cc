package body

import (
	"net/http"
	"time"
)

// AnswerEarly prepares for an answer that is given before the body has been read. Without it net/http first waits for
// up to 256 KiB of the body, and for ever if they do not come: a sender who announces a body that is refused, and sends
// none, would get no answer and hold the connection. Afterwards the answer goes out at once, and what is left of the
// body is waited for, so that the sender can read the answer, but no longer than patience. Then the connection ends:
// what still came of the body would be taken for another request, which a front server has not looked at.
func AnswerEarly(w http.ResponseWriter, r *http.Request, patience time.Duration) {
	if r.ContentLength == 0 {
		return
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	controller := http.NewResponseController(w)
	// A writer that knows neither (a test's) has no connection to hold.
	_ = controller.EnableFullDuplex()
	_ = controller.SetReadDeadline(time.Now().Add(patience))
}
