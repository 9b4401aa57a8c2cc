package shouqianba

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/seal"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// A terminal that the gateway owns
//
// A terminal is activated once, with a code, and then checks in every day, which gives it a new key. A key that is lost
// costs a new code, so there is one rule: what the platform gives is stored durably before it is used. And since each
// check-in ends the time of the key before, there is one lock: Caddy's storage's, so that a fleet of servers has one
// terminal, activates it once and checks in once a day.
//
// What is stored is a record: the key, the day (in Beijing) when it was given, and how many check-ins have been sent with
// it whose answers nobody has seen. Under the lock a check-in is three steps, and a crash may come between any two:
//
//  1. the record is stored with one more unseen check-in: so the storage works, and who comes next knows;
//  2. the check-in is sent, signed with the stored key, and the answer read;
//  3. the new key is stored.
//
// A crash before 2 has changed nothing. A crash after 3 has lost nothing. A crash between 2 and 3 loses an answer, just
// as a cut connection does; the platform's documents allow for that: a check-in whose answer did not come may be sent
// again with the same key, once, and only if two answers in a row are lost its people must be called. Therefore a lost
// answer is repeated at once (an app's call waits), and what is lost then is not hammered at but tried again with growing
// pauses, while calls go on with the key that there is. An activation is handled in the same way; whether its code may be
// used twice is the platform's decision.

// credential is what signs a call.
type credential struct {
	sn, key string
	day     string    // when the key was given, in Beijing
	until   int64     // Unix time from which the key must not be used without looking
	reread  time.Time // when the platform had refused it, and the storage was asked for another; zero: never
}

// record is what is stored of a terminal.
type record struct {
	SN  string `json:"terminal_sn,omitempty"`
	Key string `json:"terminal_key,omitempty"`
	Day string `json:"day,omitempty"`
	// Unseen counts the check-ins (or activations) that have been sent with this key and not been answered.
	Unseen int `json:"unseen,omitempty"`
}

const dayLayout = "2006-01-02"

// day is the day in Beijing.
func day(now time.Time) string { return now.In(normalize.Beijing).Format(dayLayout) }

// midnight is when the day in Beijing has begun.
func midnight(now time.Time) time.Time {
	year, month, date := now.In(normalize.Beijing).Date()
	return time.Date(year, month, date, 0, 0, 0, 0, normalize.Beijing)
}

// fresh reports whether the record's key is of today. One of tomorrow is a server's whose clock is a little ahead.
func (r *record) fresh(now time.Time) bool {
	return r.Key != "" && (r.Day == day(now) || r.Day == day(now.Add(24*time.Hour)))
}

// identity is what makes a terminal at the platform. Two configurations with the same one share it.
type identity struct {
	vendorSN, appID, deviceID, activationCode string
}

// slotKey is the storage key of a terminal: another activation code is another terminal, so that no key is overwritten
// that could still be needed.
func (id *identity) slotKey() string {
	hash := sha256.New()
	for _, part := range []string{id.vendorSN, id.appID, id.deviceID, id.activationCode} {
		fmt.Fprintf(hash, "%d:%s\n", len(part), part)
	}
	return "shouqianba/terminals/" + hex.EncodeToString(hash.Sum(nil)[:16])
}

// owner is how one configuration looks after a terminal.
type owner struct {
	identity
	name      string // the configured name, for logs
	vendorKey string
	endpoint  outbound.Endpoint
	line      *outbound.Line
	slot      seal.Slot
	logger    *zap.Logger
}

// newOwner makes an owner, whose storage is still missing.
func newOwner(name string, id identity, vendorKey string, endpoint outbound.Endpoint, logger *zap.Logger) (*owner, error) {
	box, err := seal.New(vendorKey, "shouqianba terminal")
	if err != nil {
		return nil, err
	}
	return &owner{
		identity: id, name: name, vendorKey: vendorKey, endpoint: endpoint, line: new(outbound.Line), logger: logger.With(zap.String("terminal", name)),
		slot: seal.Slot{Key: id.slotKey(), Box: box},
	}, nil
}

// keeper keeps one terminal's key for as long as any configuration of this process has the terminal.
type keeper struct {
	current atomic.Pointer[credential]

	now    func() time.Time
	spread time.Duration // how long after midnight this process checks in by itself

	mu       sync.Mutex
	owners   []*owner // of the configurations that have been started; the last one is asked
	last     *owner   // the one that was taken back last
	running  *run     // nil: none
	failures int      // runs in a row that have failed
	retryAt  time.Time
	askAt    time.Time // where there is no key: from then on a call may start a run
	lastErr  error
	unsaved  *record // a key that the platform has given and the storage has not taken
	before   record  // what the storage held when it was given

	adopted chan struct{} // closed when the first configuration has been started
	known   chan struct{} // closed when there is a key
	notes   *ratelog.Limiter
	wake    chan struct{}
	ctx     context.Context // ends with the keeper, and with it the patience for a lock
	stop    context.CancelFunc
	stopped chan struct{}
}

// run is one attempt to have the day's key, which all calls that need it wait for.
type run struct {
	done chan struct{}
	err  error
}

// Limits of a run.
const (
	exchangeTimeout = 10 * time.Second // one activation or check-in
	repeatPause     = 500 * time.Millisecond
	lockPatience    = 45 * time.Second // for another server's run, and for a lock that a crash has left behind
	lockedPatience  = 2 * time.Minute  // for all that is done under the lock, a storage that hangs included
	callPatience    = 15 * time.Second // how long a call that has a key of another day waits for today's
	firstPause      = 10 * time.Second // before the next run after one that has failed
	longestPause    = 30 * time.Minute
	longestKeyless  = time.Minute // the same where there is no key, so that no call can be made
	rereadPause     = time.Minute // before a key that is refused is looked for in the storage again
	askPause        = time.Second // before a call that has no key may start a run, where the last one has not reached the platform
)

var (
	errNotStarted = errors.New("the terminal is not ready: the configuration is still being started")
	errStopped    = errors.New("the terminal has been stopped")
)

func newKeeper() *keeper {
	return &keeper{
		now: time.Now, spread: rand.N(time.Minute), notes: ratelog.New(10),
		adopted: make(chan struct{}), known: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// adopt gives the keeper a configuration to work with, and starts it if that is the first.
func (k *keeper) adopt(o *owner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owners = append(k.owners, o)
	// Another configuration may mend what has failed.
	k.failures, k.retryAt, k.lastErr = 0, time.Time{}, nil
	if k.stop == nil {
		k.ctx, k.stop = context.WithCancel(context.Background())
		k.stopped = make(chan struct{})
		go k.watch()
		k.start() // whoever has waited for the start finds it under way
		close(k.adopted)
	}
	k.wakeUp()
}

// release takes a configuration back.
func (k *keeper) release(o *owner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owners = slices.DeleteFunc(k.owners, func(other *owner) bool { return other == o })
	k.last = o
}

// Destruct implements caddy.Destructor. A run that is under way ends first: its answer may be the newest key.
func (k *keeper) Destruct() error {
	k.mu.Lock()
	stop, stopped := k.stop, k.stopped
	k.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
	k.mu.Lock()
	running := k.running
	k.mu.Unlock()
	if running != nil {
		<-running.done
	}
	return k.lastChance()
}

// lastChance stores a key that the storage has not taken so far, before it is forgotten with the process.
func (k *keeper) lastChance() error {
	k.mu.Lock()
	given, before, o := k.unsaved, k.before, k.last
	k.mu.Unlock()
	if given == nil || o == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	err := o.slot.Locked(ctx, func() error {
		stored, err := o.load(ctx)
		if err != nil || stored != before {
			return err // in the second case another server has a newer key
		}
		return o.save(ctx, *given)
	})
	if err != nil {
		o.logger.Error("the newest key could not be stored to the end and is lost; the next check-in is made with the one before",
			zap.String("terminal_sn", given.SN), zap.Error(err))
		return fmt.Errorf("terminal %s: storing its newest key: %w", o.name, err)
	}
	k.setUnsaved(nil, record{})
	return nil
}

func (k *keeper) wakeUp() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// watch checks in by itself, within a minute after midnight: before the first call where it can.
func (k *keeper) watch() {
	defer close(k.stopped)
	for {
		timer := time.NewTimer(k.tick())
		select {
		case <-k.ctx.Done():
			timer.Stop()
			return
		case <-k.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// tick starts a run if one is due, and says when to look again: at least every minute, because a clock may be set and a
// machine may sleep.
func (k *keeper) tick() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	due := k.retryAt
	if c := k.current.Load(); c != nil {
		r := record{Key: c.key, Day: c.day}
		switch start := midnight(now).Add(k.spread); {
		case k.unsaved != nil:
		case r.fresh(now):
			due = midnight(now.Add(24 * time.Hour)).Add(k.spread)
		case start.After(due):
			due = start
		}
	}
	if wait := due.Sub(now); wait > 0 {
		return min(wait, time.Minute)
	}
	k.start()
	return time.Minute
}

// start starts a run, if none is under way. k.mu is held.
func (k *keeper) start() *run {
	if k.running == nil {
		k.running = &run{done: make(chan struct{})}
		go k.execute(k.running)
	}
	return k.running
}

func (k *keeper) execute(r *run) {
	r.err = k.renew()
	k.mu.Lock()
	k.running = nil
	if r.err == nil {
		k.failures, k.retryAt, k.lastErr = 0, time.Time{}, nil
	} else {
		longest := longestPause
		if k.current.Load() == nil {
			longest = longestKeyless
		}
		now, pause := k.now(), min(firstPause<<min(k.failures, 16), longest)
		k.failures++
		k.retryAt, k.askAt, k.lastErr = now.Add(pause), now.Add(pause), r.err
		if failed, ok := errors.AsType[*exchangeError](r.err); !ok || !failed.refused && !failed.unseen {
			k.askAt = now.Add(askPause)
		}
	}
	k.mu.Unlock()
	close(r.done)
	k.wakeUp()
}

// credential returns what signs a call now. Where the day's key is not there yet it waits for it, for as long as ctx
// lasts; where there is a key of another day not longer than callPatience, and then takes that one.
//
// Where there is no key at all and the last run has failed, a call starts another one: so the first call after the platform
// is there again has its key. Not where the platform has refused the activation, or may have made it and its answer was
// lost: the code may be good for one more only, and calls do not use that up.
func (k *keeper) credential(ctx context.Context) (*credential, error) {
	if c := k.current.Load(); c != nil && k.now().Unix() < c.until {
		return c, nil
	}
	k.mu.Lock()
	c := k.current.Load()
	now := k.now()
	switch {
	case c != nil && now.Unix() < c.until: // meanwhile
		k.mu.Unlock()
		return c, nil
	case len(k.owners) == 0:
		err := errNotStarted
		if k.stop != nil {
			err = errStopped
		}
		k.mu.Unlock()
		return nil, err
	case c == nil && k.running == nil && now.Before(k.retryAt) && now.Before(k.askAt):
		err := k.lastErr
		k.mu.Unlock()
		return nil, err
	}
	r := k.start()
	k.mu.Unlock()

	var patience <-chan time.Time
	if c != nil {
		timer := time.NewTimer(callPatience)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-r.done:
	case <-patience:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the terminal's key: %w", ctx.Err())
	}
	if newest := k.current.Load(); newest != nil {
		return newest, nil
	}
	return nil, r.err
}

// serial is the terminal's number, or "" where it is not known. Where it is being looked for, serial waits for it, for as
// long as ctx lasts.
func (k *keeper) serial(ctx context.Context) string {
	if c := k.current.Load(); c != nil {
		return c.sn
	}
	k.mu.Lock()
	running := k.running
	k.mu.Unlock()
	if running != nil {
		select {
		case <-k.known: // a check-in that follows is not waited for
		case <-running.done:
		case <-ctx.Done():
		}
	}
	if c := k.current.Load(); c != nil {
		return c.sn
	}
	return ""
}

// refused hears that the platform did not accept the signature of a call that c has signed. Another server may have
// checked in: the storage is asked before the next call, once a minute.
func (k *keeper) refused(c *credential) {
	o := k.owner()
	if o == nil {
		return
	}
	now := k.now()
	if now.Sub(c.reread).Abs() < rereadPause || k.current.Load() != c {
		return // it has just been asked, or the key has changed meanwhile
	}
	suspect := *c
	suspect.until, suspect.reread = 0, now
	if k.current.CompareAndSwap(c, &suspect) {
		o.logger.Warn("the platform refuses the terminal's signature; the stored key is read again for the next call, this one is not repeated",
			zap.String("terminal_sn", c.sn))
	}
}

func (k *keeper) owner() *owner {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.owners) == 0 {
		return nil
	}
	return k.owners[len(k.owners)-1]
}

// renew has the day's key in current when it returns nil. When it returns an error, current is what it was, but to be
// used for the rest of the day without asking again.
func (k *keeper) renew() (err error) {
	o := k.owner()
	if o == nil {
		return errStopped
	}
	defer func() {
		if err == nil {
			return
		}
		switch c := k.current.Load(); {
		case c == nil:
			if suppressed, ok := k.notes.Allow("no key"); ok { // calls may ask once a second
				o.logger.Error("the terminal has no key; calls cannot be made", zap.Error(err), zap.Int("suppressed", suppressed))
			}
		case k.now().Unix() >= c.until:
			k.keepUsing(c)
			o.logger.Error("there is no key of today; calls are signed with the one that there is",
				zap.String("terminal_sn", c.sn), zap.String("key_of", c.day), zap.Error(err))
		default:
			o.logger.Error("looking after the terminal has failed; its key is good", zap.String("terminal_sn", c.sn), zap.Error(err))
		}
	}()

	// Mostly another server has been there, or this one before it was restarted: no lock is needed to read.
	ctx, cancel := context.WithTimeout(k.ctx, lockPatience)
	defer cancel()
	if k.takeUnsaved() == nil {
		stored, err := o.load(ctx)
		if err != nil {
			return err
		}
		if stored.Key != "" {
			k.take(o, stored)
		}
		if stored.fresh(k.now()) {
			return nil
		}
	}
	return o.slot.Locked(ctx, func() error {
		// The lock may have come late: what is done under it has its own time, which also ends a wait for a storage that
		// hangs. A new key that could not be put away in time is kept, and put away the next time.
		ctx, cancel := context.WithTimeout(context.Background(), lockedPatience)
		defer cancel()
		stored, err := o.load(ctx)
		if err != nil {
			return err
		}
		if given := k.takeUnsaved(); given != nil {
			if stored == k.before {
				return k.save(ctx, o, stored, *given)
			}
			// Another server has checked in since, with the key that both had: this one is no longer the newest.
			k.setUnsaved(nil, record{})
		}
		if stored.fresh(k.now()) {
			k.take(o, stored)
			return nil
		}
		return k.exchange(ctx, o, stored)
	})
}

// exchange activates the terminal or checks it in, under the lock. A lost answer is repeated once.
func (k *keeper) exchange(ctx context.Context, o *owner, stored record) error {
	for repeated := false; ; repeated = true {
		stored.Unseen++
		if err := o.save(ctx, stored); err != nil {
			return err
		}
		answer, err := o.send(ctx, &stored)
		if err == nil {
			answer.Day = day(k.now())
			if overtaken, err := k.overtaken(ctx, o, stored, answer); err != nil || overtaken {
				return err
			}
			if err = k.save(ctx, o, stored, answer); err == nil {
				o.logger.Info(map[bool]string{true: "terminal activated", false: "terminal checked in"}[stored.Key == ""],
					zap.String("terminal_sn", answer.SN), zap.String("day", answer.Day))
			}
			return err
		}
		failed, _ := errors.AsType[*exchangeError](err)
		if failed == nil || !failed.unseen {
			// The platform has said no, or has not been asked: this attempt has changed nothing.
			stored.Unseen--
			if failed != nil {
				failed.unseen = repeated // but the one before may have
			}
			if stored.Unseen > 0 && failed != nil && failed.refused {
				err = fmt.Errorf("%w; %d earlier answers were lost: if this stays, ask the platform, or activate anew with a new activation_code", err, stored.Unseen)
			}
			return errors.Join(err, o.save(ctx, stored))
		}
		if repeated {
			return err
		}
		o.logger.Warn("the answer to an activation or check-in was lost; it is repeated once", zap.Error(err))
		time.Sleep(repeatPause)
	}
}

// overtaken looks whether another server has taken over the lock, which passes on when its holder stands still for long: what
// that one was given is newer, and must not be replaced by the answer that was on its way meanwhile. Where it has no answer
// yet, this one is kept until that is known.
func (k *keeper) overtaken(ctx context.Context, o *owner, sent, answer record) (bool, error) {
	latest, err := o.load(ctx)
	switch {
	case err != nil:
		k.setUnsaved(&answer, sent)
		return false, fmt.Errorf("the platform has given a new key, which is not stored: what is stored cannot be read: %w", err)
	case latest == sent:
		return false, nil
	case latest.Key != sent.Key && latest.Key != "":
		k.take(o, latest)
		return true, nil
	}
	k.setUnsaved(&answer, latest)
	return false, errors.New("another server of the fleet looks after the terminal at the same time; the new key is not stored before that has ended")
}

// save stores a key that the platform has given, and then uses it. What cannot be stored is kept for the next run, and
// not used until then.
func (k *keeper) save(ctx context.Context, o *owner, before, given record) error {
	var err error
	for _, pause := range []time.Duration{0, 100 * time.Millisecond, time.Second, 3 * time.Second} {
		time.Sleep(pause)
		if err = o.save(ctx, given); err == nil {
			k.setUnsaved(nil, record{})
			k.take(o, given)
			return nil
		}
	}
	k.setUnsaved(&given, before)
	return fmt.Errorf("the platform has given a new key, which cannot be stored and is not used before: %w", err)
}

func (k *keeper) takeUnsaved() *record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unsaved
}

func (k *keeper) setUnsaved(given *record, before record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unsaved, k.before = given, before
}

// take makes a stored record's key the current one. One of an earlier day is to be used only after another look.
func (k *keeper) take(o *owner, r record) {
	now := k.now()
	c := &credential{sn: r.SN, key: r.Key, day: r.Day}
	old := k.current.Load()
	same := old != nil && old.sn == c.sn && old.key == c.key
	if old != nil && old.until == 0 && !old.reread.IsZero() {
		if same {
			o.logger.Error("the platform refuses the newest key that is stored; if another installation has checked the terminal in, activate a new one",
				zap.String("terminal_sn", c.sn))
		} else {
			o.logger.Warn("another server has checked the terminal in; the next call uses its key", zap.String("terminal_sn", c.sn))
		}
	}
	if same {
		c.reread = old.reread
	}
	if r.fresh(now) || !c.reread.IsZero() {
		c.until = midnight(now.Add(24 * time.Hour)).Unix()
	}
	k.current.Store(c)
	if old == nil {
		close(k.known)
	}
}

// keepUsing lets calls use a key for the rest of the day.
func (k *keeper) keepUsing(c *credential) {
	kept := *c
	kept.until = midnight(k.now().Add(24 * time.Hour)).Unix()
	k.current.CompareAndSwap(c, &kept)
}

// load reads the stored record; a zero one where there is none.
func (o *owner) load(ctx context.Context) (record, error) {
	var r record
	content, err := o.slot.Load(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if errors.Is(err, seal.ErrCannotOpen) {
		return r, fmt.Errorf("vendor_key is not the one that the terminal's key was sealed with: %w", err)
	}
	if err != nil {
		return r, err
	}
	defer clear(content)
	if err = json.Unmarshal(content, &r); err != nil {
		return r, errors.New("the stored terminal cannot be read: is this an older version of the plugin?")
	}
	return r, nil
}

func (o *owner) save(ctx context.Context, r record) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	defer clear(content)
	return o.slot.Save(ctx, content)
}

// exchangeError says why an activation or a check-in gave no key.
type exchangeError struct {
	what    string
	unseen  bool // the platform may have given a key that nobody has seen
	refused bool // the platform has said no
	cause   error
}

func (e *exchangeError) Error() string { return e.what + ": " + e.cause.Error() }
func (e *exchangeError) Unwrap() error { return e.cause }

// send activates the terminal (a record without a key) or checks it in, and returns the platform's serial number and key.
func (o *owner) send(ctx context.Context, r *record) (record, error) {
	what, path, sn, key := "check-in", checkinPath, r.SN, r.Key
	message := map[string]string{"terminal_sn": r.SN, "device_id": o.deviceID}
	if r.Key == "" {
		what, path, sn, key = "activation", activatePath, o.vendorSN, o.vendorKey
		message = map[string]string{"app_id": o.appID, "code": o.activationCode, "device_id": o.deviceID}
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	// On a new connection: one that was kept too long must not cost the answer.
	status, answer, sent, err := postSigned(ctx, o.line, o.endpoint, path, sn, key, true, message)
	if err != nil {
		return record{}, &exchangeError{what: what, unseen: sent, cause: err}
	}
	given, unseen, err := readKey(status, answer, message["code"])
	if err != nil {
		return record{}, &exchangeError{what: what, unseen: unseen, refused: !unseen, cause: err}
	}
	if given.SN == "" {
		given.SN = r.SN
	}
	if given.SN == "" { // it could sign nothing, and nothing would activate it again
		return record{}, &exchangeError{what: what, unseen: true, cause: errors.New("the answer has a terminal_key, but no terminal_sn")}
	}
	return given, nil
}

// readKey reads the platform's answer. unseen tells of an error that there may be a key all the same. secret is what was
// sent and must not be shown, "" for nothing.
func readKey(status int, answer []byte, secret string) (given record, unseen bool, err error) {
	var envelope struct {
		ResultCode   json.RawMessage `json:"result_code"`
		ErrorCode    string          `json:"error_code"`
		ErrorMessage string          `json:"error_message"`
		Business     struct {
			SN           string `json:"terminal_sn"`
			Key          string `json:"terminal_key"`
			ResultCode   string `json:"result_code"`
			ErrorCode    string `json:"error_code"`
			ErrorMessage string `json:"error_message"`
		} `json:"biz_response"`
	}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		// The cause could show a piece of the answer, which may hold a key.
		return record{}, true, fmt.Errorf("status %d, and the answer is no JSON of the platform's", status)
	}
	b := &envelope.Business
	if secret != "" {
		for _, words := range []*string{&envelope.ErrorCode, &envelope.ErrorMessage, &b.ErrorCode, &b.ErrorMessage} {
			*words = strings.ReplaceAll(*words, secret, "…")
		}
	}
	code := string(bytes.Trim(envelope.ResultCode, `"`))
	switch {
	case code == "200" && b.Key != "":
		if !inHeader(b.SN) || !inHeader(b.Key) {
			return record{}, true, errors.New("the answer's terminal_sn or terminal_key holds a character that cannot be right")
		}
		return record{SN: b.SN, Key: b.Key}, false, nil
	case code == "200" && (b.ErrorCode != "" || b.ResultCode != ""):
		return record{}, false, refusal(b.ErrorCode, b.ErrorMessage)
	case code == "400":
		return record{}, false, refusal(envelope.ErrorCode, envelope.ErrorMessage)
	}
	return record{}, true, fmt.Errorf("status %d, result_code %s: %w", status, text.Name(code), refusal(envelope.ErrorCode, envelope.ErrorMessage))
}

// refusal is the platform's no. Its words are shown shortened.
func refusal(code, message string) error {
	return fmt.Errorf("the platform answers %s (%s)", text.Name(code), text.Name(message))
}
