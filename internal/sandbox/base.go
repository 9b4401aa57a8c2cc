package sandbox

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
)

// base is what both platforms have.
type base struct {
	*trouble
	client  *http.Client
	saved   *saver
	sending chan struct{} // bounds the notifies on the wire at one time

	warnings warnings

	ctx    context.Context
	stop   context.CancelFunc
	closed sync.WaitGroup

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced whenever a notice changes
	calls      callRing
	deliveries ring[Delivery]
}

// newBase takes from the options what is not one platform's own.
func newBase(options Options) (*base, error) {
	saved, err := newSaver(options.SaveDir)
	if err != nil {
		return nil, err
	}
	b := &base{
		trouble: newTrouble(options.Now), client: newClient(options), saved: saved, sending: make(chan struct{}, 32),
		changed: make(chan struct{}), calls: callRing{newRing[*Call](options.MaxCalls)},
		deliveries: newRing[Delivery](options.MaxDeliveries), warnings: warnings{tell: options.Warn},
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// Close stops all notifies and hanging answers, and returns when their goroutines have ended.
func (b *base) Close() {
	b.mu.Lock() // whoever starts a goroutine holds it, so none starts after this
	b.stop()
	b.mu.Unlock()
	b.closed.Wait()
	b.client.CloseIdleConnections()
}

// wake tells everybody who waits that a notice has changed. The caller holds b.mu.
func (b *base) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// receive reads a call and records it; the body is longer than most if there is more.
func (b *base) receive(r *http.Request, most int64) (body []byte, recorded *Call) {
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	recorded = &Call{
		Time: b.now(), Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery,
		Header: r.Header.Clone(), Body: body[:min(int64(len(body)), most)],
	}
	b.mu.Lock()
	b.calls.record(recorded)
	b.mu.Unlock()
	if err != nil { // the client has gone
		panic(http.ErrAbortHandler)
	}
	return body, recorded
}

// Calls returns what came in, the oldest first; see Options.MaxCalls.
func (b *base) Calls() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls.copies()
}

// Deliveries returns the attempts to deliver notifies, the oldest first; see Options.MaxDeliveries.
func (b *base) Deliveries() []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	deliveries := slices.Clone(b.deliveries.items)
	for i := range deliveries {
		deliveries[i].Body = bytes.Clone(deliveries[i].Body)
	}
	return deliveries
}

// warnings are what somebody who looks at the sandbox should know; each is there once.
type warnings struct {
	tell func(text string) // may be nil

	mu    sync.Mutex
	texts []string
}

// maxWarnings bounds them.
const maxWarnings = 100

// add keeps a warning that is new, and tells it.
func (w *warnings) add(text string) {
	w.mu.Lock()
	fresh := len(w.texts) < maxWarnings && !slices.Contains(w.texts, text)
	if fresh {
		w.texts = append(w.texts, text)
	}
	w.mu.Unlock()
	if fresh && w.tell != nil {
		w.tell(text)
	}
}

// all returns the warnings, the oldest first.
func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.texts)
}
