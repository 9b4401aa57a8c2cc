package shouqianba

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestCleanupOfSeveralTerminals: where the newest key of one terminal could not be stored to the end, the other terminals
// were not put away: their newest keys were lost with the process.
func TestCleanupOfSeveralTerminals(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	full, good := newMemory(), newMemory()
	full.failing(func(int) error { return errors.New("disk full") })
	app := &App{flights: new(outbound.Flights), logger: zap.NewNop(), terminals: accounts.Directory[*terminal]{}}
	given := record{SN: "1", Key: "the newest key", Day: "2026-11-24"}
	for name, storage := range map[string]*memory{"a": full, "b": good} {
		o := p.owner(storage)
		o.slot.Key += name
		k := newKeeper()
		k.setUnsaved(&given, record{})
		if _, _, err := keepers.LoadOrNew(o.slot.Key, func() (caddy.Destructor, error) { return k, nil }); err != nil {
			t.Fatal(err)
		}
		app.terminals.Add(&terminal{name: name, owner: o, keeper: k})
	}
	if err := app.Cleanup(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("cleaning up: %v", err)
	}
	o := p.owner(good)
	o.slot.Key += "b"
	if stored, err := o.load(t.Context()); err != nil || stored != given {
		t.Errorf("the other terminal's newest key is lost (%v)", err)
	}
	keepers.Range(func(key, _ any) bool { t.Errorf("%v is still kept", key); return true })
}

// TestActivationWithoutANumber: an answer that had a key and no number was stored as a terminal that cannot sign, and that
// nothing would activate again.
func TestActivationWithoutANumber(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"result_code":"200","biz_response":{"terminal_key":"k"}}`))
	}))
	defer server.Close()
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	o := p.owner(storage)
	var err error
	if o.endpoint, _, err = outbound.ParseEndpoint(server.URL); err != nil {
		t.Fatal(err)
	}
	k := newKeeper()
	k.now = p.clock.Now
	k.adopt(o)
	t.Cleanup(func() { _ = k.Destruct() })
	if c, err := k.credential(t.Context()); err == nil || !strings.Contains(err.Error(), "terminal_sn") {
		t.Errorf("%+v, %v", c, err)
	}
	if r := p.stored(storage); r.Key != "" || r.Unseen != 2 {
		t.Errorf("stored: number %q, unseen %d", r.SN, r.Unseen)
	}
}

// TestLockTakenOver: a storage's lock passes to another server when its holder stands still for long, as a machine that is
// moved or sleeps. When it went on, the key that it had got before was stored in the place of the newer one, and calls were
// refused until the next day.
func TestLockTakenOver(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	first := p.start(storage)
	p.credential(first)

	second := newKeeper()
	second.now = p.clock.Now
	t.Cleanup(func() { _ = second.Destruct() })
	o := p.owner(storage)
	var stoodStill atomic.Bool
	between := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != checkinPath {
			p.platform.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		p.platform.ServeHTTP(answer, r)
		if stoodStill.CompareAndSwap(false, true) { // the first server, before it has the answer
			lock := storage.lock(o.slot.Key)
			<-lock
			second.adopt(o)
			p.newest(p.credential(second))
			lock <- struct{}{} // for the first one to give back
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}
	p.between.Store(&between)
	p.clock.set("2026-11-25 08:00:00") // from here on the first server may check in by itself
	p.newest(p.credential(first))
	p.newest(&credential{sn: p.stored(storage).SN, key: p.stored(storage).Key})
	p.counts(1, 2)
}

// TestRefusedAgainLater: once the platform had refused a key, the stored one was not looked at again until midnight, so that
// another server's check-in hours later left this one with calls that are refused.
func TestRefusedAgainLater(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	k.refused(p.credential(k)) // the platform's passing error
	mine := p.credential(k)
	p.newest(mine)

	p.clock.advance(2 * time.Hour)
	ahead := newKeeper()
	ahead.now = func() time.Time { return p.clock.Now().Add(11 * time.Hour) }
	ahead.adopt(p.owner(storage))
	t.Cleanup(func() { _ = ahead.Destruct() })
	theirs, err := ahead.credential(context.Background())
	if err != nil || theirs.key == mine.key {
		t.Fatalf("the other server did not check in (%v)", err)
	}
	k.refused(mine)
	p.newest(p.credential(k))
}
