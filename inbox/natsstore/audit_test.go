package natsstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// impatient is a gateway that looks often for what is missed.
func impatient(t *testing.T, server *server) *Nats {
	return provider(t, func(n *Nats) { n.patience = 100 * time.Millisecond }, server.url())
}

// handedOut takes what a consumer of the store has to hand out, as a gateway does, and does nothing with it.
func handedOut(t *testing.T, server *server, stream string, number int) []jetstream.Msg {
	t.Helper()
	consumer, err := jetStream(t, server).Consumer(t.Context(), stream, consumerName)
	if err != nil {
		t.Fatal(err)
	}
	var all []jetstream.Msg
	eventually(t, "the consumer hands out", func() bool {
		batch, err := consumer.Fetch(number-len(all), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			all = append(all, m)
		}
		return len(all) == number
	})
	return all
}

// acknowledge makes the server forget what it has handed out.
func acknowledge(t *testing.T, messages []jetstream.Msg) {
	t.Helper()
	for _, m := range messages {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// never fails if one of the stores hands out anything within a time.
func never(t *testing.T, within time.Duration, stores ...*store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range stores {
		all.Go(func() {
			if m, err := s.Lease(ctx); err == nil {
				t.Errorf("leased %s", m.ID)
			}
		})
	}
	all.Wait()
}

func once(t *testing.T, taken map[string]int, number int) {
	t.Helper()
	if len(taken) != number {
		t.Errorf("%d of %d were delivered", len(taken), number)
	}
	for id, times := range taken {
		if times != 1 {
			t.Errorf("%s was delivered %d times", id, times)
		}
	}
}

// TestAudit: what the consumers have forgotten is delivered all the same, and once. The tests share a server.
func TestAudit(t *testing.T) {
	t.Parallel()
	shared := oneServer(t, "")
	for name, test := range map[string]func(t *testing.T, server *server){
		"new":               testForgottenNew,
		"waiting":           testForgottenRetry,
		"while nobody asks": testForgottenUnasked,
		"in flight":         testForgottenInFlight,
		"handed out too":    testBroughtBackTwice,
		"held meanwhile":    testBroughtBackHeld,
		"half done":         testBroughtBackHalf,
		"accounted for":     testForgottenOld,
		"in parts":          testComparedInParts,
		"beside a record":   testForgottenBesideRecord,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, shared)
		})
	}
}

// The server takes for acknowledged what nobody has taken, of two gateways that both miss it.
func testForgottenNew(t *testing.T, server *server) {
	n, settings := impatient(t, server), defaults()
	settings.Lease = 2 * time.Second
	stores := []*store{openStore(t, n, "forgotten", settings), openStore(t, n, "forgotten", settings)}
	const forgotten, others = 40, 10
	for i := range forgotten {
		put(t, stores[i%2], message(fmt.Sprint(i)), inbox.Stored)
	}
	acknowledge(t, handedOut(t, server, stores[0].names.messages, forgotten))
	for i := range others {
		put(t, stores[i%2], message(fmt.Sprint("other ", i)), inbox.Stored)
	}
	taken, _ := takeAll(t, forgotten+others, stores...)
	once(t, taken, forgotten+others)
	never(t, 5*time.Second, stores...) // twice the lease
	stats, err := stores[0].Stats(t.Context())
	if err != nil || stats.Pending != 0 || stats.Delivered != forgotten+others {
		t.Errorf("stats %+v, error %v", stats, err)
	}
}

// The same with what waits for another try.
func testForgottenRetry(t *testing.T, server *server) {
	n, settings := impatient(t, server), defaults()
	settings.Lease = 2 * time.Second
	const forgotten, name = 20, "forgotten.retry"
	before := openStore(t, n, name, settings)
	for i := range forgotten {
		put(t, before, message(fmt.Sprint(i)), inbox.Stored)
		settle(t, before, take(t, before), retryIn(3*time.Second))
	}
	_ = before.Close()
	acknowledge(t, handedOut(t, server, before.names.retry, forgotten))
	stores := []*store{openStore(t, n, name, settings), openStore(t, n, name, settings)}
	m := take(t, stores[1])
	if m.Attempts != 1 {
		t.Errorf("%d attempts", m.Attempts)
	}
	settle(t, stores[1], m, isDelivered)
	taken, _ := takeAll(t, forgotten-1, stores...)
	taken[m.ID]++
	once(t, taken, forgotten)
	never(t, 5*time.Second, stores...)
	eventually(t, "nothing is left in the queue", func() bool {
		stream, err := stores[0].js.Stream(t.Context(), stores[0].names.retry)
		return err == nil && stream.CachedInfo().State.Msgs == 0
	})
}

// Nobody asks for messages, as a gateway does whose app is away: what is missed shows as pending.
func testForgottenUnasked(t *testing.T, server *server) {
	settings := defaults()
	settings.Lease = 300 * time.Millisecond
	s := openStore(t, impatient(t, server), "unasked", settings)
	first := message("first")
	first.Received = time.Now().Add(-time.Hour)
	put(t, s, first, inbox.Stored)
	acknowledge(t, handedOut(t, server, s.names.messages, 1))
	put(t, s, message("second"), inbox.Stored)
	eventually(t, "it is found", func() bool {
		stats, err := s.Stats(t.Context())
		pending, err2 := s.List(t.Context(), inbox.Query{State: inbox.Pending, Limit: 10})
		return err == nil && err2 == nil && stats.Oldest.Equal(first.Received.UTC()) && len(pending) == 2 && pending[0].ID == "first"
	})
}

// What is in flight at another gateway stays there, even if the server has forgotten it, until that one is gone.
func testForgottenInFlight(t *testing.T, server *server) {
	n, settings := impatient(t, server), defaults()
	settings.Lease = 10 * time.Second // which is not over when the first is settled
	stores := []*store{openStore(t, n, "inflight", settings), openStore(t, n, "inflight", settings)}
	put(t, stores[0], message("settled"), inbox.Stored)
	put(t, stores[0], message("abandoned"), inbox.Stored)
	held := []*inbox.Message{take(t, stores[0]), take(t, stores[0])}
	if held[0].ID != "settled" {
		slices.Reverse(held)
	}
	for _, m := range held {
		if _, err := stores[0].connection.Request(m.Lease.(*lease).ack, []byte("+ACK"), 2*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	never(t, 3500*time.Millisecond, stores[1], stores[0])
	settle(t, stores[0], held[0], isDelivered)
	if m := take(t, stores[1]); m.ID != "abandoned" {
		t.Errorf("leased %s", m.ID)
	} else {
		settle(t, stores[1], m, isDelivered)
	}
	settle(t, stores[0], held[1], isDelivered) // too late: nothing
	never(t, 6*time.Second, stores...)
}

// What waits for another try loses its place in the queue, and is older than all that is compared by now.
func testForgottenOld(t *testing.T, server *server) {
	s := quiet(t, server, "accounted")
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), retryIn(time.Second))
	book := newLedger()
	look := func() {
		t.Helper()
		s.doubt()
		book.compared = time.Time{} // it may be done again at once
		if _, err := s.look(t.Context(), book); err != nil {
			t.Fatal(err)
		}
	}
	look()
	kept, err := s.getSeq(t.Context(), s.names.messages, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.purge(t.Context(), s.names.retry, s.names.retrying(keyOf(1, kept.header))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server finds nothing to hand out", func() bool {
		now, err := s.census(t.Context())
		return err == nil && now.outstanding == 0
	})
	book.from = time.Now().Add(time.Hour)
	look() // reads nothing of it, and sees that something is missed
	if !book.from.IsZero() {
		t.Errorf("what is older than %v is not read again", book.from)
	}
	look()
	if len(book.suspects) != 1 {
		t.Fatalf("%d are missed", len(book.suspects))
	}
	for _, missed := range book.suspects {
		if got, err := s.bringBack(t.Context(), missed); got != isBack || err != nil {
			t.Fatalf("result %d, error %v", got, err)
		}
	}
	settle(t, s, take(t, s), isDelivered)
}

// More is accounted for than is kept in memory: it is compared part by part, one a look. A look takes none where the last one
// has just taken long, nor where nothing is pending.
func testComparedInParts(t *testing.T, server *server) {
	s := quiet(t, server, "parts")
	const number = 6
	for i := range number {
		put(t, s, message(fmt.Sprint("delivered ", i)), inbox.Stored)
		settle(t, s, take(t, s), isDelivered)
	}
	for i := range number {
		put(t, s, message(fmt.Sprint("missed ", i)), inbox.Stored)
	}
	missed := handedOut(t, server, s.names.messages, number)
	acknowledge(t, missed)
	book := newLedger()
	book.most = number / 2
	look := func() (compared bool) {
		t.Helper()
		before := book.compared
		if _, err := s.look(t.Context(), book); err != nil {
			t.Fatal(err)
		}
		return book.compared != before
	}
	s.doubt()
	looks := uint64(0)
	for doubts := s.doubts.Load(); s.doubts.Load() == doubts; looks++ {
		if !book.from.IsZero() {
			t.Fatal("what was compared in part is not read again")
		}
		book.took = 0
		if !look() {
			t.Fatal("nothing was compared")
		}
	}
	if looks < 2 || looks != book.parts || len(book.suspects) != number || book.from.IsZero() {
		t.Errorf("%d looks at %d parts: %d are missed; what is older than %v is not read again", looks, book.parts, len(book.suspects), book.from)
	}
	book.took = time.Hour
	if look() {
		t.Error("compared again at once")
	}
	for _, m := range missed {
		m, err := s.takeNew(t.Context(), m)
		if err != nil || m == nil {
			t.Fatalf("leased %v, error %v", m, err)
		}
		settle(t, s, m, isDelivered)
	}
	book.took = time.Minute
	book.compared = time.Now().Add(-20 * book.took)
	if look() || s.doubts.Load() == 0 {
		t.Errorf("nothing is pending: compared at %v, %d doubts", book.compared, s.doubts.Load())
	}
}

// A record is left of a message that is no more, so that the numbers say that nothing is pending.
func testForgottenBesideRecord(t *testing.T, server *server) {
	s := quiet(t, server, "beside")
	put(t, s, message("lost"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
	if err := s.ask(t.Context(), "STREAM.MSG.DELETE."+s.names.messages, map[string]any{"seq": 1}); err != nil {
		t.Fatal(err)
	}
	put(t, s, message("forgotten"), inbox.Stored)
	acknowledge(t, handedOut(t, server, s.names.messages, 1))
	eventually(t, "the server has forgotten it", func() bool {
		now, err := s.census(t.Context())
		return err == nil && now.pending == 0 && now.outstanding == 0
	})
	s.doubt()
	book := newLedger()
	more, err := s.look(t.Context(), book)
	if err != nil || !more || len(book.suspects) != 1 {
		t.Errorf("%d are missed, more %t, error %v", len(book.suspects), more, err)
	}
}

// suspected is what an audit would remember of the only message that is pending.
func suspected(t *testing.T, s *store) suspect {
	t.Helper()
	now, err := s.census(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := s.unaccounted(t.Context(), &tally{seed: maphash.MakeSeed(), parts: 1}, time.Time{}, now.handed[0], now)
	if err != nil {
		t.Fatal(err)
	}
	late, err := s.overdue(t.Context(), now.handed[1])
	if err != nil {
		t.Fatal(err)
	}
	if found = append(found, late...); len(found) != 1 {
		t.Fatalf("%d are missed", len(found))
	}
	return found[0]
}

// quiet is a gateway that does not look by itself.
func quiet(t *testing.T, server *server, name string) *store {
	return openStore(t, provider(t, func(n *Nats) { n.patience = time.Hour }, server.url()), name, defaults())
}

// The server hands out what was just brought back: whoever gets the older of the two does nothing.
func testBroughtBackTwice(t *testing.T, server *server) {
	s := quiet(t, server, "twice")
	put(t, s, message("new"), inbox.Stored)
	first := handedOut(t, server, s.names.messages, 1)[0]
	missed := suspected(t, s)
	if got, err := s.bringBack(t.Context(), missed); got != isBack || err != nil {
		t.Fatalf("result %d, error %v", got, err)
	}
	if m, err := s.takeNew(t.Context(), first); m != nil || err != nil {
		t.Fatalf("leased %v, error %v", m, err)
	}
	if got, err := s.bringBack(t.Context(), missed); got == isBack || err != nil {
		t.Fatalf("brought back again: result %d, error %v", got, err)
	}
	entry := handedOut(t, server, s.names.retry, 1)[0]
	// The entry is missed too, after the first audit's claim has ended.
	if err := s.purge(t.Context(), s.names.leases, s.names.of("lease", missed.of.key)+auditClaim); err != nil {
		t.Fatal(err)
	}
	if got, err := s.bringBack(t.Context(), suspected(t, s)); got != isBack || err != nil {
		t.Fatalf("result %d, error %v", got, err)
	}
	if m, err := s.takeRetry(t.Context(), entry); m != nil || err != nil {
		t.Fatalf("leased %v, error %v", m, err)
	}
	m := take(t, s)
	if m.ID != "new" || m.Attempts != 0 {
		t.Errorf("leased %s with %d attempts", m.ID, m.Attempts)
	}
	settle(t, s, m, isDelivered)
	nothing(t, s)
}

// Somebody has claimed a message at the moment when an audit found that nobody had: who gets what it brings back sees that.
func testBroughtBackHeld(t *testing.T, server *server) {
	for name, prepare := range map[string]func(t *testing.T, s *store){
		"new": func(*testing.T, *store) {},
		"waiting": func(t *testing.T, s *store) {
			settle(t, s, take(t, s), retryIn(0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := quiet(t, server, "held."+name)
			put(t, s, message("a"), inbox.Stored)
			prepare(t, s)
			var holder *inbox.Message
			stream, kind := s.names.messages, s.takeNew
			if name == "waiting" {
				stream, kind = s.names.retry, s.takeRetry
			}
			inHand := handedOut(t, server, stream, 1)[0]
			missed := suspected(t, s)
			// The claims of others have ended.
			if err := s.purge(t.Context(), s.names.leases, s.names.of("lease", missed.of.key)+".>"); err != nil {
				t.Fatal(err)
			}
			holder, err := kind(t.Context(), inHand)
			if err != nil || holder == nil {
				t.Fatalf("leased %v, error %v", holder, err)
			}
			if got, err := s.bringBack(t.Context(), missed); got != mayBeHeld || err != nil {
				t.Fatalf("result %d, error %v", got, err)
			}
			// An audit that has not seen the claim.
			if err := s.persist(t.Context(), s.names.retry, s.names.entering(missed.of, "another", time.Now()), -1); err != nil {
				t.Fatal(err)
			}
			brought := handedOut(t, server, s.names.retry, 1)[0]
			if m, err := s.takeRetry(t.Context(), brought); m != nil || err != nil {
				t.Fatalf("leased %v, error %v", m, err)
			}
			settle(t, s, holder, isDelivered)
		})
	}
}

// An audit that ended between its word and its deed has hidden nothing.
func testBroughtBackHalf(t *testing.T, server *server) {
	settings := defaults()
	settings.Lease = 500 * time.Millisecond
	s := openStore(t, impatient(t, server), "half", settings)
	put(t, s, message("a"), inbox.Stored)
	acknowledge(t, handedOut(t, server, s.names.messages, 1))
	kept, err := s.getSeq(t.Context(), s.names.messages, 1)
	if err != nil {
		t.Fatal(err)
	}
	note, err := s.names.noting(referenceOf(kept.Subject, 1, kept.header), &record{Time: time.Now(), Entry: "never made"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.persist(t.Context(), s.names.retry, note, 0); err != nil {
		t.Fatal(err)
	}
	settle(t, s, take(t, s), isDelivered)
}

// renumber gives everything in a stream other numbers, as an old server of a cluster did with its copy.
func renumber(t *testing.T, js jetstream.JetStream, name string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	info := stream.CachedInfo()
	var all []*nats.Msg
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		if m, err := stream.GetMsg(t.Context(), seq); err == nil {
			header := nats.Header{}
			for key, values := range m.Header { // without the conditions of its publishing
				if key != jetstream.ExpectedLastSubjSeqHeader && key != jetstream.ExpectedStreamHeader {
					header[key] = values
				}
			}
			all = append(all, &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data})
		}
	}
	if err := js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if stream, err = js.CreateStream(t.Context(), info.Config); err != nil {
		t.Fatal(err)
	}
	filler := info.Config.Subjects[0]
	for i, m := range append([]*nats.Msg{{Subject: filler[:len(filler)-1] + "filler"}}, all...) {
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := stream.DeleteMsg(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestMoved: the numbers of all messages move by one, so that each has the number of its neighbour. What is recorded is of
// the message, not of its number.
func TestMoved(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	clock := new(changingClock)
	n := provider(t, func(n *Nats) { n.clock = clock.now }, server.url())
	prepare := func(t *testing.T, name string, settings inbox.Settings) *store {
		s := openStore(t, n, name, settings)
		for i := range 12 {
			m := message(fmt.Sprint(i))
			m.Request = append(m.Request, make([]byte, 3000)...)
			put(t, s, m, inbox.Stored)
		}
		var later []*inbox.Message
		for range 12 { // in the order of their numbers
			m := take(t, s)
			switch {
			case m.ID == "7":
				settle(t, s, m, isDead)
			case m.ID == "9":
				settle(t, s, m, retryIn(time.Hour))
			case m.ID[len(m.ID)-1]%2 == 0:
				settle(t, s, m, isDelivered)
			default:
				later = append(later, m)
			}
		}
		for _, m := range later {
			settle(t, s, m, inbox.Outcome{Released: true})
		}
		_ = s.Close()
		js := jetStream(t, server)
		for _, stream := range []string{s.names.messages, s.names.delivered, s.names.dead, s.names.retry} {
			renumber(t, js, stream)
		}
		// The claims are forgotten.
		if stream, err := js.Stream(t.Context(), s.names.leases); err != nil || stream.Purge(t.Context()) != nil {
			t.Fatal(err)
		}
		s = openStore(t, n, name, settings)
		s.young = 0 // the messages are old
		return s
	}
	ids := func(t *testing.T, s *store, state inbox.State) string {
		t.Helper()
		all, err := s.List(t.Context(), inbox.Query{State: state, Limit: 20})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for i, m := range all {
			ids = append(ids, m.ID)
			if i > 0 && m.Seq <= all[i-1].Seq {
				t.Errorf("seq %d behind %d", m.Seq, all[i-1].Seq)
			}
			if got, err := s.Get(t.Context(), m.Seq); err != nil || got.ID != m.ID || got.State != m.State {
				t.Errorf("seq %d is %+v, error %v", m.Seq, got, err)
			}
		}
		return fmt.Sprint(ids)
	}
	t.Run("delivered", func(t *testing.T) {
		s := prepare(t, "moved", defaults())
		for state, want := range map[inbox.State]string{
			inbox.Delivered: "[0 2 4 6 8 10]", inbox.Dead: "[7]", inbox.Pending: "[1 3 5 9 11]", "": "[0 1 2 3 4 5 6 7 8 9 10 11]",
		} {
			if got := ids(t, s, state); got != want {
				t.Errorf("%s: %s, want %s", state, got, want)
			}
		}
		for i, want := range map[int]inbox.Receipt{0: inbox.Repeated, 1: inbox.Repeated, 10: inbox.Repeated} {
			put(t, s, message(fmt.Sprint(i)), want)
		}
		var got []string
		for range 4 {
			m := take(t, s)
			got = append(got, m.ID)
			settle(t, s, m, isDelivered)
		}
		slices.Sort(got)
		if fmt.Sprint(got) != "[1 11 3 5]" {
			t.Errorf("leased %s", got)
		}
		nothing(t, s)
		put(t, s, message("7"), inbox.Revived)
		if m := take(t, s); m.ID != "7" {
			t.Errorf("leased %s", m.ID)
		} else {
			settle(t, s, m, isDelivered)
		}
		page, err := s.List(t.Context(), inbox.Query{State: inbox.Pending, Limit: 20})
		if err != nil || len(page) != 1 || page[0].ID != "9" || page[0].Attempts != 1 {
			t.Fatalf("listed %v, error %v", page, err)
		}
		if _, err := s.Redeliver(t.Context(), page[0].Seq, false); err != nil {
			t.Fatal(err)
		}
		if m := take(t, s); m.ID != "9" || m.Attempts != 1 {
			t.Errorf("leased %s with %d attempts", m.ID, m.Attempts)
		}
	})
	t.Run("removed", func(t *testing.T) {
		s := prepare(t, "moved.removed", defaults())
		clock.jump(2 * time.Hour)
		defer clock.jump(-2 * time.Hour)
		s.wakeJanitor()
		eventually(t, "what was delivered is removed", func() bool {
			stats, err := s.Stats(t.Context())
			return err == nil && stats.Delivered == 0
		})
		if got := ids(t, s, ""); got != "[1 3 5 7 9 11]" {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("dropped", func(t *testing.T) {
		settings := defaults()
		settings.MaxBytes = 50_000
		s := prepare(t, "moved.dropped", settings)
		for i := range 4 {
			m := message(fmt.Sprint("large ", i))
			m.Request = append(m.Request, make([]byte, 4000)...)
			put(t, s, m, inbox.Stored)
		}
		all, err := s.List(t.Context(), inbox.Query{Limit: 20})
		if err != nil {
			t.Fatal(err)
		}
		dropped := 0
		for _, each := range all {
			m, err := s.Get(t.Context(), each.Seq)
			switch {
			case err != nil:
				t.Errorf("%s: %v", each.ID, err)
			case len(m.Request) > 0:
			case m.State != inbox.Delivered:
				t.Errorf("the request of %s, which is %s, was dropped", m.ID, m.State)
			default:
				dropped++
			}
		}
		if dropped == 0 || dropped > 6 {
			t.Errorf("%d were dropped", dropped)
		}
		if got := ids(t, s, inbox.Delivered); len(got) != len("[0 2 4 6 8 10]") {
			t.Errorf("delivered: %s", got)
		}
		put(t, s, message("0"), inbox.Repeated)
	})
}
