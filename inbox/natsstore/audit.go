package natsstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// The audit finds what is pending by the records, and what no consumer will hand out any more: servers were seen (2.9.10,
// after the death of a consumer's leader, or of a quorum) that took messages for acknowledged which had never been. It puts
// them into the queue of retries.
//
// It takes a look now and then while something is pending. That costs a few questions, unless the numbers do not add up, or
// something has happened. Then it reads what there is, without the requests, and remembers what has no explanation: that may
// be in flight at this moment, or wait in a consumer. Only what is the same after a lease and some patience is brought back.
//
// That nothing is delivered twice does not rest on that patience alone. Who brings a message back leaves word first (a note
// that names the new entry), and who takes one looks for that word after its claim; who takes what was brought back looks for
// the claims of others. One of the two sees the other.

// Bounds of a look.
const (
	mostSuspects = 10_000           // missed messages that are remembered; there are more next time
	mostMarks    = 2_000_000        // of what is accounted for, in memory at once, about; eight bytes each
	unsure       = 10 * time.Minute // how far the clocks of the servers may be apart
	afterDoubt   = 3                // times that everything is compared after something has happened
	inDoubt      = 10               // that takes not more than one part of so many of the time
	atLeast      = 10               // waits between looks, after which everything is compared that is pending
	atMost       = 50               // that takes not more than one part of so many of the time
	lookTime     = 10 * time.Minute // one look
)

// suspect is a message that seems to be missed.
type suspect struct {
	of    reference
	entry string    // its entry in the queue of retries; empty: it has none
	tried string    // what was noted of its tries
	since time.Time // seen first
}

// ledger is what the audit remembers between its looks.
//
// What is accounted for may be more than is kept in memory: then it is compared in parts, by the hashes of keys, one part a
// look.
type ledger struct {
	suspects map[string]suspect // by key
	from     time.Time          // what was stored before is settled, or in the queue of retries
	seed     maphash.Seed       // of the hashes
	most     int                // marks of a part
	part     uint64             // which is compared next; 0: all have been
	parts    uint64             // how many there are, since the first was compared
	oldest   time.Time          // what was stored before is not missed, by the parts that have been compared
	short    bool               // the numbers did not add up last time
	rests    int                // looks to be left out, for the numbers do not add up and nothing is missed all the same
	rested   int                // how many were left out before
	leaders  [2]string          // of the consumers
	compared time.Time          // a part, last
	took     time.Duration      // that
	warned   bool               // that it takes too long
}

func newLedger() *ledger {
	return &ledger{suspects: map[string]suspect{}, seed: maphash.MakeSeed(), most: mostMarks, parts: 1}
}

// doubt notes that something has happened which may have cost the server its memory.
func (s *store) doubt() {
	s.doubts.Store(afterDoubt)
	s.stir()
}

// stir wakes the audit, if it sleeps because there is nothing.
func (s *store) stir() { signal(s.auditor) }

// audit looks after the consumers until the store ends.
func (s *store) audit() {
	select {
	case <-s.ready:
	case <-s.ctx.Done():
		return
	}
	s.doubt()
	book := newLedger()
	for {
		// Several gateways are not to look at once.
		if !s.sleep(s.ctx, s.config.patience*3/4+mathrand.N(s.config.patience/2)) {
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, lookTime)
		more, err := s.look(ctx, book)
		late := ctx.Err() != nil
		cancel()
		if s.ctx.Err() != nil {
			return
		}
		if late && !book.warned {
			book.warned = true
			s.logger.Warn("inbox cannot look in time for messages that NATS would not hand out any more: there are too many that are remembered, "+
				"or the servers are too slow", zap.Duration("bound", lookTime))
		}
		if err != nil {
			s.logger.Debug("inbox could not look for missed messages", zapError(s.config, err))
			continue
		}
		if !more && !s.await(0, s.auditor, nil) {
			return
		}
	}
}

// census is what the server says of numbers.
type census struct {
	stored      jetstream.StreamState
	pending     int64     // at least so many
	outstanding int64     // what the consumers still have to hand out, or to hear of
	handed      [2]uint64 // the last seq that each has handed out
	leaders     [2]string
}

// census asks in the order in which messages go: so what moves meanwhile is counted twice rather than not at all.
func (s *store) census(ctx context.Context) (*census, error) {
	state := func(stream string) (jetstream.StreamState, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		found, err := s.js.Stream(ctx, stream)
		if err != nil {
			return jetstream.StreamState{}, err
		}
		return found.CachedInfo().State, nil
	}
	c := new(census)
	var err error
	if c.stored, err = state(s.names.messages); err != nil {
		return nil, err
	}
	c.pending = int64(c.stored.Msgs)
	s.mu.Lock()
	consumers := [2]jetstream.Consumer{s.sources[0].consumer, s.sources[1].consumer}
	s.mu.Unlock()
	for i, consumer := range consumers {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		info, err := consumer.Info(ctx)
		cancel()
		if err != nil {
			return nil, err
		}
		c.outstanding += int64(info.NumPending) + int64(info.NumAckPending)
		if wait := int64(info.Config.AckWait); wait > s.ackWait.Load() { // another gateway has longer timeouts
			s.ackWait.Store(wait)
		}
		c.handed[i] = info.Delivered.Stream
		if info.Cluster != nil {
			c.leaders[i] = info.Cluster.Leader
		}
	}
	for _, stream := range []string{s.names.delivered, s.names.dead} {
		records, err := state(stream)
		if err != nil {
			return nil, err
		}
		c.pending -= int64(records.Msgs)
	}
	return c, nil
}

// look takes one look, and says whether there is reason for another.
func (s *store) look(ctx context.Context, book *ledger) (more bool, err error) {
	now, err := s.census(ctx)
	if err != nil {
		return true, err
	}
	if book.leaders != now.leaders {
		if book.leaders != [2]string{} {
			s.doubt()
		}
		book.leaders = now.leaders
	}
	// A consumer that owes us something and sends nothing has nothing, whatever it says.
	idle := [2]bool{s.waitsFor(0), s.waitsFor(1)}
	short := now.pending > now.outstanding || now.pending > 0 && idle[0] && idle[1]
	still := short && book.short
	book.short = short
	if !still {
		book.rested, book.rests = 0, 0
	}
	doubts, busy := s.doubts.Load(), time.Since(book.compared) < inDoubt*book.took
	var all bool
	switch {
	case busy:
	case now.pending <= 0 && (doubts == 0 || now.stored.Msgs == 0 || time.Since(book.compared) < atMost*book.took):
		// Nothing is missed, it seems. Where records are left of what is no more, the numbers are too low: a doubt is looked into
		// all the same.
	case doubts > 0:
		if all, err = s.compare(ctx, book, now, idle); all {
			s.doubts.CompareAndSwap(doubts, doubts-1)
		}
	case time.Since(book.compared) > max(atLeast*s.config.patience, atMost*book.took): // the numbers may be wrong
		_, err = s.compare(ctx, book, now, idle)
	case still && book.rests > 0:
		book.rests--
	case still:
		if all, err = s.compare(ctx, book, now, idle); all && len(book.suspects) == 0 {
			book.rested = min(2*book.rested+1, 31)
			book.rests = book.rested
		}
	}
	if err != nil {
		return true, err
	}
	ripe := time.Duration(s.ackWait.Load()) + s.config.patience
	var missed []suspect
	for _, each := range book.suspects {
		// Many that are due may wait for callers who are all busy: then the entries are left alone.
		if time.Since(each.since) >= ripe && (each.entry == "" || still || idle[1]) {
			missed = append(missed, each)
		}
	}
	var lock sync.Mutex
	brought := 0
	err = parallel(len(missed), func(i int) error {
		result, err := s.bringBack(ctx, missed[i])
		lock.Lock()
		defer lock.Unlock()
		if result == isBack {
			brought++
		}
		if err == nil && result != mayBeHeld {
			delete(book.suspects, missed[i].of.key)
		}
		return err
	})
	if brought > 0 {
		s.logger.Warn("inbox found messages that NATS would not have handed out any more; they are delivered", zap.Int("messages", brought))
	}
	if err != nil { // something may be half done
		s.doubt()
	}
	return now.pending > 0 || len(book.suspects) > 0 || s.doubts.Load() > 0 && now.stored.Msgs > 0, err
}

// compare reads one part of what there is, and remembers what has no explanation. It reports whether it was the last part.
func (s *store) compare(ctx context.Context, book *ledger, now *census, idle [2]bool) (all bool, err error) {
	begun := time.Now()
	defer func() { book.compared, book.took = time.Now(), time.Since(begun) }()
	upto := now.handed
	for i := range upto {
		if idle[i] {
			upto[i] = math.MaxUint64
		}
	}
	if book.part == 0 {
		book.parts, book.oldest = 1, now.stored.LastTime
	}
	known := &tally{seed: book.seed, part: book.part, parts: book.parts, most: book.most}
	open, oldest, err := s.unaccounted(ctx, known, book.from, upto[0], now)
	if err != nil {
		return false, err
	}
	late, err := s.overdue(ctx, upto[1])
	if err != nil {
		return false, err
	}
	seen := map[string]suspect{}
	for key, before := range book.suspects {
		if _, ours := known.ours(key); !ours && before.entry == "" {
			seen[key] = before
		}
	}
	for _, found := range append(open, late...) {
		if len(seen) >= mostSuspects {
			break
		}
		if before, ok := book.suspects[found.of.key]; ok && before.entry == found.entry && before.tried == found.tried {
			found.since = before.since
		}
		seen[found.of.key] = found
	}
	book.suspects = seen
	if oldest.Before(book.oldest) {
		book.oldest = oldest
	}
	book.parts = known.parts
	if book.part = (book.part + 1) % book.parts; book.part > 0 {
		return false, nil
	}
	book.from = book.oldest.Add(-unsure)
	if len(seen) == 0 && now.pending > now.outstanding { // what is missed was accounted for once, and not read
		book.from = time.Time{}
	}
	return true, nil
}

// waitsFor reports whether a source has owed messages for a while, and sent none.
func (s *store) waitsFor(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	src := s.sources[i]
	return s.connection.IsConnected() && src.asked > 0 && src.failures == 0 && time.Since(src.waits) > 3*heartbeat
}

// tally is what is accounted for, or a part of it: hashes of keys, as there may be many.
type tally struct {
	seed        maphash.Seed
	part, parts uint64
	most        int // hashes; 0: any number
	hashes      []uint64
}

func (m *tally) ours(key string) (uint64, bool) {
	hash := maphash.String(m.seed, key)
	return hash, hash%m.parts == m.part
}

// add adds a key. If the first part becomes too large, it is halved: so are those that follow.
func (m *tally) add(key string) {
	hash, ours := m.ours(key)
	if !ours {
		return
	}
	m.hashes = append(m.hashes, hash)
	if m.part == 0 && m.most > 0 && len(m.hashes) > m.most {
		m.parts *= 2
		m.hashes = slices.DeleteFunc(m.hashes, func(hash uint64) bool { return hash%m.parts != m.part })
	}
}

func (m *tally) has(hash uint64) bool {
	_, found := slices.BinarySearch(m.hashes, hash)
	return found
}

// unaccounted finds the messages of a part that were stored since a time, up to a seq, which are neither settled nor in the
// queue of retries; and when the oldest of them was stored, or the last there is.
func (s *store) unaccounted(ctx context.Context, known *tally, from time.Time, upto uint64, now *census) ([]suspect, time.Time, error) {
	oldest := now.stored.LastTime
	if upto == 0 || now.stored.Msgs == 0 {
		return nil, from.Add(unsure), nil
	}
	mark := func(m jetstream.Msg) error {
		known.add(s.names.referred(m.Subject(), nil).key)
		return nil
	}
	for stream, kind := range map[string]string{s.names.delivered: "delivered.*", s.names.dead: "dead.*"} {
		if err := s.since(ctx, stream, kind, from.Add(-unsure), mark); err != nil {
			return nil, oldest, err
		}
	}
	if err := s.since(ctx, s.names.retry, "retry.*.entry", time.Time{}, mark); err != nil {
		return nil, oldest, err
	}
	slices.Sort(known.hashes)
	type candidate struct {
		message jetstream.Msg
		of      reference
	}
	var candidates []candidate
	err := s.since(ctx, s.names.messages, "message.*", from, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		seq := meta.Sequence.Stream
		if seq > upto { // nor has anything behind it been handed out
			if meta.Timestamp.Before(oldest) {
				oldest = meta.Timestamp
			}
			return errEnough
		}
		of := referenceOf(m.Subject(), seq, m.Headers())
		hash, ours := known.ours(of.key)
		if !ours || known.has(hash) || m.Headers().Get(headerDropped) != "" {
			return nil
		}
		if _, err := decode(seq, m.Headers(), nil); err != nil {
			return nil // not ours
		}
		if meta.Timestamp.Before(oldest) {
			oldest = meta.Timestamp
		}
		if len(candidates) < mostSuspects {
			candidates = append(candidates, candidate{m, of})
		}
		return nil
	})
	if err != nil {
		return nil, oldest, err
	}
	found := make([]*suspect, len(candidates))
	err = parallel(len(candidates), func(i int) error {
		of := candidates[i].of
		st, err := s.standing(ctx, of.key, candidates[i].message.Headers())
		if err != nil || st.state != inbox.Pending {
			return err
		}
		_, err = s.getLast(ctx, s.names.retry, s.names.entry(of.key))
		if errors.Is(err, inbox.ErrNotFound) {
			found[i] = &suspect{of: of, tried: tried(st.record), since: time.Now()}
			return nil
		}
		return err
	})
	return present(found), oldest, err
}

// overdue finds the entries of the queue of retries, up to a seq, that are due.
func (s *store) overdue(ctx context.Context, upto uint64) ([]suspect, error) {
	waiting := &tally{seed: maphash.MakeSeed(), parts: 1}
	err := s.since(ctx, s.names.retry, "retry.*.note", time.Time{}, func(m jetstream.Msg) error {
		var due, delay int64
		if _, err := fmt.Sscanf(m.Headers().Get(headerDue), "%d %d", &due, &delay); err != nil {
			return nil // due at once
		}
		if s.left(&record{Due: time.Unix(0, due), Delay: time.Duration(delay)}) > 0 {
			waiting.add(s.names.referred(m.Subject(), nil).key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(waiting.hashes)
	var candidates []suspect
	err = s.since(ctx, s.names.retry, "retry.*.entry", time.Time{}, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		of := s.names.referred(m.Subject(), m.Headers())
		if hash, _ := waiting.ours(of.key); meta.Sequence.Stream <= upto && len(candidates) < mostSuspects && !waiting.has(hash) {
			candidates = append(candidates, suspect{of: of, entry: entryOf(meta.Sequence.Stream, m.Headers())})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	found := make([]*suspect, len(candidates))
	err = parallel(len(candidates), func(i int) error {
		st, err := s.standing(ctx, candidates[i].of.key, nil)
		if err != nil || st.state != inbox.Pending || s.left(st.record) > 0 {
			return err
		}
		found[i] = &candidates[i]
		found[i].tried, found[i].since = tried(st.record), time.Now()
		return nil
	})
	return present(found), err
}

func present(found []*suspect) []suspect {
	var all []suspect
	for _, f := range found {
		if f != nil {
			all = append(all, *f)
		}
	}
	return all
}

// tried tells what is noted of a message's tries from what is noted later.
func tried(r *record) string {
	if r == nil {
		return ""
	}
	return fmt.Sprint(r.Attempts, r.Time.UnixNano(), r.Due.UnixNano(), r.Entry)
}

// errEnough ends since.
var errEnough = errors.New("enough")

// since goes through the headers of what was stored since a time: all of it, unless take has had enough.
func (s *store) since(ctx context.Context, stream, kind string, from time.Time, take func(jetstream.Msg) error) error {
	config := jetstream.ConsumerConfig{FilterSubject: s.names.subject + kind, DeliverPolicy: jetstream.DeliverAllPolicy}
	if from.Unix() > 0 {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	err := s.headersOf(ctx, stream, config, 1000, func(messages []jetstream.Msg) (bool, error) {
		for _, m := range messages {
			if err := take(m); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return ignore(err, errEnough)
}

// What comes of bringing a message back.
type result int

const (
	notMissed result = iota // it is settled, or has moved
	mayBeHeld               // somebody may deliver it
	isBack
)

// bringBack puts a missed message into the queue of retries, unless somebody has it, or another gateway does it.
func (s *store) bringBack(ctx context.Context, missed suspect) (result, error) {
	kept, err := s.find(ctx, missed.of)
	if err != nil {
		return notMissed, ignore(err, inbox.ErrNotFound)
	}
	of := referenceOf(kept.Subject, kept.Sequence, kept.header)
	m, err := decode(kept.Sequence, kept.header, nil)
	if err != nil {
		return notMissed, nil // not ours
	}
	s.forgetReplaced(kept.header)
	st, err := s.standing(ctx, of.key, kept.header)
	if err != nil || st.state != inbox.Pending || tried(st.record) != missed.tried {
		return notMissed, err
	}
	expectEntry, expectNote := int64(0), int64(0)
	old, err := s.getLast(ctx, s.names.retry, s.names.entry(of.key))
	switch {
	case errors.Is(err, inbox.ErrNotFound) && missed.entry == "":
	case err != nil:
		return notMissed, ignore(err, inbox.ErrNotFound)
	case entryOf(old.Sequence, old.header) != missed.entry || s.left(st.record) > 0:
		return notMissed, nil
	default:
		expectEntry = int64(old.Sequence)
	}
	// One gateway brings it back. The claim ends by itself, later than what was brought back has come.
	mine, done := s.names.of("lease", of.key)+auditClaim, false
	if ok, err := s.claimAs(ctx, mine, noDelivery+rand.Text()); err != nil || !ok {
		return mayBeHeld, err
	}
	defer func() {
		if !done {
			s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.leases, mine) })
		}
	}()
	if left, _, err := s.claimedElsewhere(ctx, of.key, mine, s.config.slack); err != nil || left > 0 {
		return mayBeHeld, err
	}
	if err := s.unsettled(ctx, of.key); err != nil {
		return notMissed, ignore(err, errUnreadable)
	}
	if old == nil {
		// Who is handed it out for the first time, late, looks no further than for this claim.
		if err := s.bar(ctx, of.key); err != nil {
			return mayBeHeld, err
		}
	}
	r := &record{Time: s.clock()}
	note, err := s.getLast(ctx, s.names.retry, s.names.note(of.key))
	switch {
	case errors.Is(err, inbox.ErrNotFound) && missed.tried == "":
	case err != nil:
		return notMissed, ignore(err, inbox.ErrNotFound)
	default:
		if r, err = parseRecord(note.Data); err != nil || tried(r) != missed.tried {
			return notMissed, err
		}
		expectNote = int64(note.Sequence)
	}
	r.Entry = rand.Text()
	word, err := s.names.noting(of, r)
	if err != nil {
		return notMissed, err
	}
	if err := s.persist(ctx, s.names.retry, word, expectNote); err != nil {
		return notMissed, ignore(err, errMoved)
	}
	if err := s.persist(ctx, s.names.retry, s.names.entering(of, r.Entry, m.Received), expectEntry); err != nil {
		return notMissed, ignore(err, errMoved)
	}
	done = true
	if old != nil {
		s.abolish(ctx, old)
	}
	return isBack, nil
}

// auditClaim is the last part of what the audit claims.
const auditClaim = ".audit"

// claimedElsewhere says for how long, at the time of a claim, somebody else who had claimed the message may have it still; 0:
// nobody has it. slack is added to the length of leases. And whether somebody had.
//
// The claims are looked up by their subjects. There may be many of other messages, and to look for the next one of a message
// the server would go through them.
func (s *store) claimedElsewhere(ctx context.Context, key, claim string, slack time.Duration) (left time.Duration, others bool, err error) {
	mine, err := s.getLast(ctx, s.names.leases, claim)
	if err != nil {
		return 0, false, err
	}
	claims, err := s.subjects(ctx, s.names.leases, s.names.of("lease", key)+".>")
	if err != nil {
		return 0, false, err
	}
	// Any server answers that while it knows no leader. One that has this claim has all that were before it.
	if !slices.Contains(claims, claim) {
		return 0, false, errors.New("a server answered that does not know the claim yet")
	}
	for _, subject := range claims {
		if subject == claim {
			continue
		}
		other, err := s.getLast(ctx, s.names.leases, subject)
		if errors.Is(err, inbox.ErrNotFound) && s.ranOut(subject) {
			continue
		}
		if err != nil { // also if it is not found: it has run out just now, or cannot be read
			return 0, false, err
		}
		if !strings.HasPrefix(string(other.Data), noDelivery) {
			lasts := max(time.Duration(s.ackWait.Load()), claimLasts(other.Data)) + slack
			left, others = max(left, lasts-mine.Time.Sub(other.Time)), true
		}
	}
	return left, others, nil
}

// ranOut reports whether a claim that is listed has not been found for longer than any is kept: then the index alone has it. That of
// servers 2.9.15 to 2.9.21 keeps some which ran out while the server was down.
func (s *store) ranOut(claim string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, known := s.unfound[claim]
	if !known {
		if s.unfound == nil || len(s.unfound) >= mostSuspects {
			s.unfound = map[string]time.Time{}
		}
		s.unfound[claim] = time.Now()
	}
	return known && time.Since(since) > leaseAge(time.Duration(s.ackWait.Load()))
}

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
