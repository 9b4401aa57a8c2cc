package inbox

import "time"

// SetClock lets an app that has not been started go by another clock.
func (a *App) SetClock(now func() time.Time) {
	for _, b := range a.boxes {
		if b.delivery != nil {
			b.delivery.now = now
		}
	}
}

// Claim is what a handler does that names an inbox.
func (a *App) Claim(name string) error {
	_, err := a.claim(name)
	return err
}

// RequestOf is what a handler stores of a request; for tests that put messages into a store themselves.
func RequestOf(method, uri, body string) []byte {
	return (&request{Method: method, URI: uri, Proto: "HTTP/1.1", Host: "shop.example", Remote: "192.0.2.1:1", Body: []byte(body)}).encode()
}
