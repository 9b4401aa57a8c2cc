package watch

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// index knows of each row that is to be looked at when that is due, and nothing else: some hundred bytes a row. What it says
// is held against the row before anything is done.
type index struct {
	w     *Watch
	mu    sync.Mutex
	items map[string]*item
	lanes map[string]*lane
	rate  float64

	counts   []int // items by state, the number in allStates
	doubtful queue // items of which something is unresolved, the oldest first

	closed bool // no goroutine begins any more
}

type item struct {
	key      string
	due      int64
	revision uint64
	position [2]int32 // in its lane's heap, and in that of doubtful ones; -1: in none
	since    uint32   // seconds since 1970: since when something is unresolved; 0: nothing is
	class    Class
	state    uint8 // number in allStates
}

// lane is what is due of one merchant, by class, and how fast it may be asked.
type lane struct {
	queues  [Early + 1]queue
	limiter *rate.Limiter
	busy    int
	wake    chan struct{}
}

const (
	maxBusy  = 32               // queries on their way for one merchant
	lease    = time.Minute      // before a row is looked at again whose look came to nothing
	patience = 30 * time.Second // how long an early look waits before it gives way
)

// queue is a heap, ordered by what comes due first, or what is unresolved for longest.
type queue struct {
	items []*item
	by    int
}

const (
	byDue = iota
	bySince
)

func (q *queue) Len() int { return len(q.items) }
func (q *queue) Less(i, j int) bool {
	if q.by == bySince {
		return q.items[i].since < q.items[j].since
	}
	return q.items[i].due < q.items[j].due
}
func (q *queue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.items[i].position[q.by], q.items[j].position[q.by] = int32(i), int32(j) // there are not so many rows
}
func (q *queue) Push(x any) {
	i := x.(*item)
	i.position[q.by] = int32(len(q.items)) // there are not so many rows
	q.items = append(q.items, i)
}
func (q *queue) Pop() any {
	last := len(q.items) - 1
	i := q.items[last]
	q.items[last] = nil
	q.items = q.items[:last]
	i.position[q.by] = -1
	return i
}

// remove takes an item out, if it is there.
func (q *queue) remove(i *item) {
	if i.position[q.by] >= 0 {
		heap.Remove(q, int(i.position[q.by]))
	}
}

// burst is how many queries may be saved up: those of a second.
func burst(limit float64) int { return max(1, int(limit)) }

func (x *index) configure(limit float64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.rate = limit
	for _, l := range x.lanes {
		l.limiter.SetLimitAt(x.w.clock.Now(), rate.Limit(limit))
		l.limiter.SetBurstAt(x.w.clock.Now(), burst(limit))
	}
}

// set takes what a row says, unless something newer is known.
func (x *index) set(key string, h header, revision uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := x.items[key]
	if i != nil && i.revision > revision {
		return
	}
	if h.due == 0 && h.state != Stuck {
		x.remove(i)
		return
	}
	if i == nil {
		i = &item{key: key, position: [2]int32{-1, -1}}
		x.items[key] = i
		x.counts[i.state]++
	}
	i.revision = revision
	x.counts[i.state]--
	i.state = uint8(slices.Index(allStates, h.state))
	x.counts[i.state]++
	if since := uint32(h.since / 1000); since != i.since { // until 2106
		x.doubtful.remove(i)
		if i.since = since; since != 0 {
			heap.Push(&x.doubtful, i)
		}
	}
	x.place(i, h.due, h.class)
}

func (x *index) drop(key string, revision uint64) { x.set(key, header{}, revision) }

// forget takes out a row that is no more, whatever was said of it.
func (x *index) forget(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(x.items[key])
}

// remove takes an item out, where there is one. The caller has the lock.
func (x *index) remove(i *item) {
	if i == nil {
		return
	}
	x.lane(i.key).queues[i.class].remove(i)
	x.doubtful.remove(i)
	x.counts[i.state]--
	delete(x.items, i.key)
}

// place puts an item where it belongs. The caller has the lock.
func (x *index) place(i *item, due int64, class Class) {
	l := x.lane(i.key)
	l.queues[i.class].remove(i)
	i.due, i.class = due, class
	if due == 0 {
		return
	}
	heap.Push(&l.queues[class], i)
	if i.position[byDue] == 0 {
		l.signal()
	}
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// lane is the one of a key's merchant. The caller has the lock.
func (x *index) lane(key string) *lane {
	merchant, _ := splitKey(key)
	l := x.lanes[merchant]
	if l == nil {
		l = &lane{limiter: rate.NewLimiter(rate.Limit(x.rate), burst(x.rate)), wake: make(chan struct{}, 1)}
		x.lanes[merchant] = l
		if !x.closed {
			x.w.work.Go(func() { x.w.run(l) })
		}
	}
	return l
}

// pick chooses what is looked at now. Without a key there is nothing to do for a while. The most urgent class goes first; an
// early look that has waited in vain gives way.
func (x *index) pick(l *lane, now time.Time) (key string, giveWay bool, wait time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ms := now.UnixMilli()
	wait = time.Minute // a clock may be set, or the machine have slept
	take := func(i *item) string {
		x.place(i, ms+lease.Milliseconds(), i.class)
		return i.key
	}
	for class := Urgent; class <= Early; class++ {
		q := l.queues[class].items
		if len(q) == 0 {
			continue
		}
		if q[0].due > ms {
			wait = min(wait, time.Duration(q[0].due-ms)*time.Millisecond)
			continue
		}
		if l.busy < maxBusy && l.limiter.AllowN(now, 1) {
			l.busy++
			return take(q[0]), false, 0
		}
		if l.busy < maxBusy {
			r := l.limiter.ReserveN(now, 1)
			wait = min(wait, r.DelayFrom(now))
			r.CancelAt(now)
		}
		break
	}
	if q := l.queues[Early].items; len(q) > 0 {
		impatient := q[0].due + patience.Milliseconds()
		if impatient <= ms {
			return take(q[0]), true, 0
		}
		wait = min(wait, time.Duration(impatient-ms)*time.Millisecond)
	}
	return "", false, max(wait, time.Millisecond)
}

func (x *index) done(l *lane) {
	x.mu.Lock()
	l.busy--
	x.mu.Unlock()
	l.signal()
}

// spend counts a query that does not wait for its turn.
func (x *index) spend(merchant string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lane(merchant+"/").limiter.ReserveN(x.w.clock.Now(), 1)
}

// Stats are what is known without a look at the rows.
type Stats struct {
	States map[State]int // orders that are followed or stuck; with a stuck refund, or one that the app could not be told of, an order counts as stuck
	Oldest time.Time     // since when the oldest outcome is unresolved; zero: none is
}

// Stats counts what is followed. It visits no rows: whoever reads or changes them waits meanwhile.
func (w *Watch) Stats() Stats {
	s := Stats{States: map[State]int{}}
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	for state, count := range w.index.counts {
		if count != 0 {
			s.States[allStates[state]] = count
		}
	}
	if oldest := w.index.doubtful.items; len(oldest) > 0 {
		s.Oldest = time.Unix(int64(oldest[0].since), 0)
	}
	return s
}

// follow reads what there is, and then what changes. Where the store is away it tries again.
func (w *Watch) follow() {
	for {
		err := w.load()
		if err == nil {
			close(w.ready)
			return
		}
		if w.ctx.Err() != nil {
			return
		}
		w.config.Load().Logger.Warn("the watch cannot read its rows yet", zap.Error(err))
		select {
		case <-w.clock.After(2 * time.Second):
		case <-w.ctx.Done():
			return
		}
	}
}

func (w *Watch) load() error {
	ctx, cancel := context.WithCancel(w.ctx)
	take := func(e Entry) {
		if len(e.Value) == 0 {
			w.index.drop(e.Key, e.Revision)
			return
		}
		h, err := readHeader(e.Value)
		if err != nil {
			w.config.Load().Logger.Error("the watch cannot read a row", zap.String("key", clip(e.Key)), zap.Error(err))
			return
		}
		if h.flight && !w.store.Shared() { // of an earlier process, or it will be looked at once too often
			h.due = min(h.due, w.now())
		}
		w.index.set(e.Key, h, e.Revision)
	}
	err := w.store.Changes(ctx, take)
	if err == nil {
		err = w.store.All(ctx, func(e Entry) error { take(e); return w.ctx.Err() })
	}
	if err != nil {
		cancel()
		return err
	}
	context.AfterFunc(w.ctx, cancel)
	return nil
}

// run looks at what is due of one merchant.
func (w *Watch) run(l *lane) {
	for {
		key, giveWay, wait := w.index.pick(l, w.clock.Now())
		switch {
		case key == "":
			select {
			case <-w.clock.After(wait):
			case <-l.wake:
			case <-w.ctx.Done():
				return
			}
		case giveWay:
			w.giveWay(key)
		default:
			w.work.Go(func() {
				defer w.caught()
				defer w.index.done(l)
				w.look(key)
			})
		}
		if w.ctx.Err() != nil {
			return
		}
	}
}

// giveWay leaves an early look out.
func (w *Watch) giveWay(key string) {
	ctx, cancel := context.WithTimeout(w.ctx, storeTimeout)
	defer cancel()
	merchant, number := splitKey(key)
	o, err := w.get(ctx, merchant, number)
	if err != nil {
		return // it is tried again
	}
	now := w.now()
	for _, t := range o.tracks() {
		if t.Class == Early && t.Next <= now {
			t.Next, t.Class = w.config.Load().next(o, t, now)
		}
	}
	w.index.set(key, o.header(), o.revision)
}

// look asks about what is due of a row. Who writes first when the next look is has this one.
func (w *Watch) look(key string) {
	merchant, number := splitKey(key)
	ctx, cancel := context.WithTimeout(w.ctx, storeTimeout)
	defer cancel()
	var due []string
	o, err := w.change(ctx, merchant, number, func(o *Order, now int64) bool {
		due = nil
		for _, t := range o.tracks() {
			if t.Next != 0 && t.Next <= now && t.Flight == "" {
				due = append(due, o.name(t))
				t.Asked, t.Next = now, 0 // plan sets the next
			}
		}
		return len(due) > 0
	})
	if err != nil {
		if errors.Is(err, errFormat) {
			w.config.Load().Logger.Error("the watch cannot read a row", zap.String("key", clip(key)), zap.Error(err))
		}
		return
	}
	if o.revision == 0 {
		w.index.forget(key)
	} else if h := o.header(); h.due == 0 || h.due > w.now() {
		w.index.set(key, h, o.revision)
	}
	for n, name := range due {
		if n > 0 {
			w.index.spend(merchant)
		}
		w.ask(w.ctx, o, name, false)
	}
}

// claim takes the next look at a call, which nobody else has then. free is for how long there is none to be had: it is on its way, it
// was asked about less than a pause ago, or the platform is busy with the order.
func (w *Watch) claim(ctx context.Context, merchant, order, number string, pause time.Duration) (o *Order, free time.Duration, err error) {
	o, err = w.change(ctx, merchant, order, func(o *Order, now int64) bool {
		t := o.track(number)
		switch {
		case t == nil:
			free = time.Second
		case t.Flight != "":
			free = 5 * time.Second
		default:
			free = time.Duration(max(t.Hold, t.Asked+pause.Milliseconds())-now) * time.Millisecond
		}
		if free > busyPause { // the clock was set back
			free = 0
		}
		if free > 0 {
			return false
		}
		t.Asked, t.Next = now, 0
		return true
	})
	if err == nil && free <= 0 {
		w.index.spend(merchant)
	}
	return o, free, err
}

// guardPause is how long the guard leaves between two queries about one refund.
const guardPause = time.Second

// askAbout asks about one call now, for whoever waits for the answer: 3 s at most. What comes later is taken as well. Where it was asked
// about within a second, it waits for that to be over.
func (w *Watch) askAbout(ctx context.Context, merchant, order, number string) {
	ctx, cancel := context.WithTimeout(ctx, guardAsks)
	defer cancel()
	o, free, err := w.claim(ctx, merchant, order, number, guardPause)
	if err == nil && free > 0 && free <= guardPause {
		select {
		case <-w.clock.After(free):
			o, free, err = w.claim(ctx, merchant, order, number, guardPause)
		case <-ctx.Done():
		}
	}
	if err != nil || free > 0 {
		return
	}
	known := make(chan struct{})
	if w.spawn(func() {
		done := sync.OnceFunc(func() { close(known) })
		defer done()
		tell := w.inquire(w.ctx, o, number, false)
		done()
		tell()
	}) {
		select {
		case <-known:
		case <-ctx.Done():
		}
	}
}

// ask asks about an order, or a call of it, writes down what was found, and tells it. The caller has claimed the look.
func (w *Watch) ask(ctx context.Context, o *Order, number string, again bool) {
	w.inquire(ctx, o, number, again)()
}

// inquire asks and writes down what was found. The app is told by what it returns.
func (w *Watch) inquire(ctx context.Context, o *Order, number string, again bool) (tell func()) {
	tell = func() {}
	c := w.config.Load()
	t := o.track(number)
	if t == nil {
		return tell
	}
	asking, cancel := context.WithTimeout(ctx, queryTimeout)
	f, result := w.query(asking, c, o, t)
	cancel()
	c.count("query", result)

	writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	var (
		l             lesson
		event         *Event
		stuck, untold bool
		found         bool
		crossed       bool
	)
	asked := o
	o, err := w.change(writing, o.Merchant, o.ID, func(o *Order, now int64) bool {
		l, event, stuck, untold = lesson{}, nil, false, false
		t := o.track(number)
		if t == nil {
			return false
		}
		crossed = f != nil && f.Order == IsClosed && o.State.paid() && !asked.State.paid()
		about, f := t, f.since(asked, o, number)
		if f == nil {
			o.note(now, "query", o.name(t), result)
		} else {
			l = o.learn(t, f, "query", now)
			event = f.Event
			if f.Number != "" {
				about = o.call(f.Number)
			}
			if event == nil && t != &o.Track && f.Call == IsAbsent && t.State == Unresolved && now >= t.Sent+absentAfter.Milliseconds() {
				event = c.Platform.NotFound(o, t)
			}
		}
		if c.over(o, t, now) {
			o.become(t, isStuck, now)
			stuck = t.State == Stuck
		}
		if event != nil {
			event.Ordered = o.ordered(f, c.Amounts)
		}
		if event != nil && event.Ordered == OrderedDiffers && c.Amounts == Reject {
			event = nil
		}
		if event != nil {
			found = o.event(event.ID) == nil
			event.Again = again
			f.Event = event
			if !o.owe(about, f, "query", now, now+tellTimeout.Milliseconds()) {
				event = nil
			}
		}
		if event == nil {
			untold = c.abandon(o, t, now)
		}
		return true
	})
	if err != nil {
		return tell // the next look finds it again
	}
	w.report(o, l)
	if crossed { // it may have been asked before the payment or, as of a cancel, after it
		w.index.spend(o.Merchant)
		return w.inquire(ctx, o, number, again)
	}
	w.say(stuck && number != "" && o.track(number).Kind.Money(), "refund_stuck", "the end of a refund or capture could not be found; a person has to look", o)
	w.cannotTell(untold, o)
	if event == nil {
		return tell
	}
	event.Order = o
	return func() { w.tell(context.WithoutCancel(ctx), c, o, event, found) }
}

// tell hands an event over. found says that nobody had told of it before.
func (w *Watch) tell(ctx context.Context, c *config, o *Order, event *Event, found bool) {
	telling, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	err := c.Teller.Tell(telling, o.Merchant, event)
	if err != nil {
		c.Logger.Warn("an event that a query has found cannot be handed over yet", zap.String("merchant", o.Merchant), zap.String("order", clip(o.ID)),
			zap.String("type", event.Type), zap.Error(err))
	} else if found {
		c.count("found", event.Type)
	}
	written, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	w.taken(written, o.Merchant, o.ID, event.ID, err == nil)
}

func (c *config) count(what, label string) {
	if c.Count != nil {
		c.Count(what, label)
	}
}

// query asks the platform, in one way after the other until one has found something.
func (w *Watch) query(ctx context.Context, c *config, o *Order, t *Track) (found *Finding, result string) {
	defer w.caught()
	asked := t
	if t == &o.Track {
		asked = nil
	}
	result = "unreadable" // where the platform panics
	absent, failed := (*Finding)(nil), false
	for n, q := range c.Platform.Ask(o, asked) {
		if n > 0 {
			w.index.spend(o.Merchant)
		}
		answer, err := c.Send(ctx, o.Merchant, q)
		if err != nil {
			c.Logger.Debug("a query was not answered", zap.String("merchant", o.Merchant), zap.String("order", clip(o.ID)), zap.Error(err))
			return nil, "unanswered"
		}
		f, err := c.Platform.Read(o, asked, q, answer)
		switch {
		case err != nil:
			failed = true
		case f.Order == IsAbsent || f.Call == IsAbsent:
			absent = &f
		case f.Wait:
			return &f, "busy"
		default:
			return &f, "found"
		}
	}
	if absent != nil && !failed {
		return absent, "absent"
	}
	return nil, "unreadable"
}
