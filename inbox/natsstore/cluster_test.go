//go:build faults && unix

package natsstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// newCluster starts three servers, and waits until they keep a replicated stream.
func newCluster(t *testing.T) []*natstest.Server {
	t.Helper()
	servers, _ := newLinkedCluster(t)
	return servers
}

// newLinkedCluster also returns how they reach each other: who cuts off a server lets its links hang.
func newLinkedCluster(t *testing.T) (servers []*natstest.Server, links [3][]*proxy) {
	t.Helper()
	ports := natstest.Ports(t, 6)
	for i := range 3 {
		var routes []string
		for j := range 3 {
			if i != j {
				link := newProxy(t, &natstest.Server{Port: ports[3+j]}, nil)
				links[i], links[j] = append(links[i], link), append(links[j], link)
				routes = append(routes, fmt.Sprintf("%q", link.url()))
			}
		}
		// Nobody is told of another way.
		servers = append(servers, natstest.New(t, ports[i], fmt.Sprintf("cluster { name: fleet, listen: \"127.0.0.1:%d\", advertise: \"127.0.0.1:1\", "+
			"no_advertise: true, routes: [%s] }", ports[3+i], strings.Join(routes, ", "))))
	}
	for _, s := range servers {
		s.Start()
	}
	for _, s := range servers {
		s.Usable()
	}
	connection, err := nats.Connect(servers[0].URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "a replicated stream", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "probe", Subjects: []string{"probe"}, Replicas: 3})
		return err == nil
	})
	return servers, links
}

func urls(servers []*natstest.Server) []string {
	var all []string
	for _, s := range servers {
		all = append(all, s.URL())
	}
	return all
}

// freeze stops it, and returns when it stands still: the signal alone does not wait for that, and what a server does in
// between counts.
func freeze(t *testing.T, s *natstest.Server) {
	t.Helper()
	s.Signal(syscall.SIGSTOP)
	natstest.Eventually(t, "the server stands still", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Pid()))
		if err != nil { // no Linux
			time.Sleep(time.Second)
			return true
		}
		// The state stands behind the name, which may hold anything.
		return strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " T")
	})
}

// leader is the server that leads the inbox's stream of requests.
func leader(t *testing.T, s *store, servers []*natstest.Server) int {
	t.Helper()
	found := -1
	natstest.Eventually(t, "a leader", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		stream, err := s.js.Stream(ctx, s.names.messages)
		if err != nil || stream.CachedInfo().Cluster == nil {
			return false
		}
		for i, server := range servers {
			if stream.CachedInfo().Cluster.Leader == fmt.Sprintf("s%d", server.Port) {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// fleet is what two gateways do to a store, and what came of it.
type fleet struct {
	t      *testing.T
	lock   sync.Mutex
	acked  map[string]bool // its sender was told that it is safe
	taken  map[string]int  // how often the app has taken it
	inHand map[string]int  // deliveries in flight
	begun  map[string]time.Time
	twice  int            // deliveries that began while another one of the message was in flight and its lease lasted
	failed map[string]int // how often Put or Settle returned an error

	killed    map[string]int    // how often the app had taken it when its gateway ended
	recorded  []time.Time       // when it was known of an outcome that it is recorded
	outlasted map[string][]span // messages that the app had taken, and of which that was not recorded while the lease lasted
}

// span is the time of a lease.
type span struct{ begun, until time.Time }

func newFleet(t *testing.T) *fleet {
	return &fleet{
		t: t, acked: map[string]bool{}, taken: map[string]int{}, inHand: map[string]int{}, begun: map[string]time.Time{}, failed: map[string]int{},
		outlasted: map[string][]span{}, killed: map[string]int{},
	}
}

// send puts messages, each until it is acknowledged, until ctx ends.
func (f *fleet) send(ctx context.Context, gateway func() *store, name string, pause time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s/%d", name, i)
		for ctx.Err() == nil {
			receipt, err := gateway().Put(ctx, &inbox.Message{ID: id, Received: time.Now(), Request: []byte("request of " + id)})
			f.lock.Lock()
			if err == nil {
				f.acked[id] = true
			} else if ctx.Err() == nil {
				f.failed["put"]++
			}
			f.lock.Unlock()
			if errors.Is(err, inbox.ErrClosed) {
				time.Sleep(pause) // another one is started
			}
			if err == nil {
				if receipt == inbox.Revived {
					f.t.Errorf("%s was revived", id)
				}
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// deliver delivers until ctx ends.
func (f *fleet) deliver(ctx context.Context, s *store, timeout time.Duration) {
	for {
		m, err := s.Lease(ctx)
		if err != nil {
			return
		}
		if string(m.Request) != "request of "+m.ID {
			f.t.Errorf("%s came with the request %q", m.ID, m.Request)
		}
		outcome := inbox.Outcome{Result: inbox.Delivered, Answer: inbox.Answer{Status: 200}}
		switch rand.IntN(8) {
		case 0:
			outcome = inbox.Outcome{Result: inbox.Pending, Delay: 100 * time.Millisecond, Answer: inbox.Answer{Status: 500}}
		case 1:
			outcome = inbox.Outcome{Released: true}
		}
		f.lock.Lock()
		// Where servers stand still or the machine is busy, a lease may run out while its holder still tries to settle.
		if f.inHand[m.ID]++; f.inHand[m.ID] > 1 && time.Since(f.begun[m.ID]) < timeout {
			f.twice++
		}
		f.begun[m.ID] = time.Now()
		if outcome.Result == inbox.Delivered {
			f.taken[m.ID]++
		}
		f.lock.Unlock()
		time.Sleep(time.Millisecond) // the app
		// One that is given back may be another's before we hear that it was. One that was taken must never be.
		if outcome.Result != inbox.Delivered {
			f.note(func() { f.inHand[m.ID]-- })
		}
		until := m.Lease.(*lease).until
		held := span{until.Add(-time.Duration(s.ackWait.Load())), until}
		settling, cancel := context.WithDeadline(context.Background(), held.until)
		for {
			if err = s.Settle(settling, m, outcome); err == nil || settling.Err() != nil || errors.Is(err, inbox.ErrClosed) {
				break
			}
			f.note(func() { f.failed["settle"]++ })
		}
		cancel()
		f.note(func() {
			now := time.Now()
			if err == nil {
				f.recorded = append(f.recorded, now)
			}
			if outcome.Result == inbox.Delivered {
				f.inHand[m.ID]--
				if s.ctx.Err() != nil && err != nil {
					f.killed[m.ID]++
				} else if err != nil || now.After(held.until) {
					f.outlasted[m.ID] = append(f.outlasted[m.ID], held)
				}
			}
		})
	}
}

func (f *fleet) note(do func()) {
	f.lock.Lock()
	defer f.lock.Unlock()
	do()
}

func (f *fleet) missing() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	missing := 0
	for id := range f.acked {
		if f.taken[id] == 0 {
			missing++
		}
	}
	return missing
}

// late is how many outcomes were not recorded while the lease lasted.
func (f *fleet) late() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	late := 0
	for _, spans := range f.outlasted {
		late += len(spans)
	}
	return late
}

// stall is the longest time within a span in which no outcome of any message was recorded.
func (f *fleet) stall(s span) (longest time.Duration) {
	last := s.begun
	for _, at := range f.recorded { // in their order
		if at.After(last) && at.Before(s.until) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return max(longest, s.until.Sub(last))
}

// checkDoubles fails for each message that was taken twice, unless the lease of the earlier delivery had outlasted a time in
// which the servers could record nothing at all. Then what the app had taken is on no record, and comes again: once for each
// such lease.
func (f *fleet) checkDoubles(shortest time.Duration) {
	f.lock.Lock()
	defer f.lock.Unlock()
	for id, times := range f.taken {
		excused := 0
		for _, s := range f.outlasted[id] {
			if stall := f.stall(s); stall >= shortest {
				excused++
			} else {
				f.t.Errorf("that %s was taken was not recorded within its lease of %v, while at most %v passed between two outcomes of others",
					id, s.until.Sub(s.begun), stall)
			}
		}
		if times-1 > excused+f.killed[id] {
			f.t.Errorf("%s was taken %d times, with %d leases that outlasted a stall, and %d times in a gateway that was killed", id, times, excused, f.killed[id])
		}
	}
}

// pending are the ids that the store has still to deliver.
func (f *fleet) pending(s *store) map[string]bool {
	f.t.Helper()
	ids := map[string]bool{}
	for after := uint64(0); ; {
		messages, err := s.List(f.t.Context(), inbox.Query{State: inbox.Pending, After: after, Limit: 500})
		if err != nil {
			f.t.Fatal("listing what is pending: ", err)
		}
		if len(messages) == 0 {
			return ids
		}
		for _, m := range messages {
			ids[m.ID], after = true, m.Seq
		}
	}
}

func (f *fleet) numbers() (acked, takenTwice int) {
	f.lock.Lock()
	defer f.lock.Unlock()
	for _, times := range f.taken {
		if times > 1 {
			takenTwice++
		}
	}
	return len(f.acked), takenTwice
}

// TestCluster has two gateways send and deliver while three servers have their troubles, one after the other. Nothing that
// was acknowledged may be lost. What the app has taken may come again only where its lease ran out before the servers could
// record that, as they can record nothing without a quorum.
func TestCluster(t *testing.T) {
	t.Parallel()
	servers := newCluster(t)
	const timeout = 10 * time.Second
	settings := inbox.Settings{Remember: time.Hour, Lease: timeout, MaxDelay: time.Hour}
	n := provider(t, func(n *Nats) { n.Replicas, n.slack, n.patience = 3, 2*time.Second, 2*time.Second }, urls(servers)...)
	stores := []*store{openStore(t, n, "fleet", settings), openStore(t, n, "fleet", settings)}
	for _, s := range stores {
		select {
		case <-s.ready:
		case <-time.After(time.Minute):
			t.Fatal("not ready")
		}
	}
	f := newFleet(t)
	sending, stopSending := context.WithCancel(t.Context())
	delivering, stopDelivering := context.WithCancel(t.Context())
	defer stopDelivering()
	defer stopSending()
	var senders, deliverers sync.WaitGroup
	for i, s := range stores {
		for j := range 4 {
			senders.Go(func() { f.send(sending, func() *store { return s }, fmt.Sprintf("%d/%d", i, j), 5*time.Millisecond) })
		}
		for range 4 {
			deliverers.Go(func() { f.deliver(delivering, s, timeout) })
		}
	}
	type row struct {
		what                               string
		acked, failedPuts, failedSettles   int
		late, takenTwice, leasedTwice, due int
		took                               time.Duration
	}
	var rows []row
	phase := func(what string, do func()) {
		begun := time.Now()
		lateBefore := f.late()
		f.lock.Lock()
		ackedBefore, putsBefore, settlesBefore, twiceBefore := len(f.acked), f.failed["put"], f.failed["settle"], f.twice
		f.lock.Unlock()
		_, doubleBefore := f.numbers()
		do()
		acked, double := f.numbers()
		due, late := f.missing(), f.late()
		f.lock.Lock()
		rows = append(rows, row{what, acked - ackedBefore, f.failed["put"] - putsBefore, f.failed["settle"] - settlesBefore,
			late - lateBefore, double - doubleBefore, f.twice - twiceBefore, due, time.Since(begun)})
		f.lock.Unlock()
	}
	more := func(number int) {
		t.Helper()
		before, _ := f.numbers()
		natstest.Eventually(t, "the gateways go on", func() bool { now, _ := f.numbers(); return now >= before+number })
	}
	phase("all well", func() { more(300) })
	phase("the leader is killed", func() {
		i := leader(t, stores[0], servers)
		servers[i].Kill()
		more(300)
		servers[i].Start()
		servers[i].Usable()
		more(100)
	})
	phase("the leader is frozen, and comes back", func() {
		i := leader(t, stores[0], servers)
		freeze(t, servers[i])
		more(300)
		servers[i].Signal(syscall.SIGCONT)
		more(300)
	})
	phase("two are frozen: no quorum", func() {
		i := leader(t, stores[0], servers)
		freeze(t, servers[(i+1)%3])
		freeze(t, servers[(i+2)%3])
		for j, s := range stores {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			id := fmt.Sprint("no quorum ", j)
			if receipt, err := s.Put(ctx, &inbox.Message{ID: id, Received: time.Now(), Request: []byte("request of " + id)}); err == nil {
				t.Errorf("without a quorum, a message was acknowledged (%d)", receipt)
			}
			cancel()
		}
		servers[(i+1)%3].Signal(syscall.SIGCONT)
		servers[(i+2)%3].Signal(syscall.SIGCONT)
		more(300)
	})
	phase("no quorum for longer than a lease", func() {
		i := leader(t, stores[0], servers)
		freeze(t, servers[(i+1)%3])
		freeze(t, servers[(i+2)%3])
		time.Sleep(timeout + n.slack) // whatever is leased now has run out then
		servers[(i+1)%3].Signal(syscall.SIGCONT)
		servers[(i+2)%3].Signal(syscall.SIGCONT)
		more(300)
	})
	phase("the end", func() {
		stopSending()
		senders.Wait()
		delivered := func() bool {
			stats, err := stores[0].Stats(t.Context())
			return err == nil && stats.Pending == 0 && f.missing() == 0
		}
		// A server may not hand out everything by itself after such troubles: the rest comes when its consumer is made again.
		for until := time.Now().Add(3 * time.Minute); !delivered() && time.Now().Before(until); {
			time.Sleep(20 * time.Millisecond)
		}
		stopDelivering()
		deliverers.Wait()
	})
	t.Logf("%-40s %8s %8s %8s %8s %8s %8s %8s %8s", "", "acked", "put err", "stl err", "late", "2×taken", "2×leased", "to come", "took")
	for _, r := range rows {
		t.Logf("%-40s %8d %8d %8d %8d %8d %8d %8d %7.1fs", r.what, r.acked, r.failedPuts, r.failedSettles, r.late, r.takenTwice, r.leasedTwice, r.due, r.took.Seconds())
	}
	acked, takenTwice := f.numbers()
	t.Logf("in all: %d acknowledged, %d still to come, %d taken twice, %d leased by two at once", acked, f.missing(), takenTwice, f.twice)
	if f.missing() > 0 {
		pending := f.pending(stores[0])
		f.lock.Lock()
		for id := range f.acked {
			if f.taken[id] == 0 {
				t.Errorf("%s was acknowledged, and not delivered after minutes (pending in the store: %t)", id, pending[id])
			}
		}
		f.lock.Unlock()
	}
	f.checkDoubles(timeout / 2)
	if f.twice > 0 {
		t.Errorf("%d times two had one message at once", f.twice)
	}
}

// TestFrozen stops the process of the server that a gateway is connected to, which closes no connection. Another server is taken.
// That took 24 s, in which the platform was told FAILED.
func TestFrozen(t *testing.T) {
	t.Parallel()
	servers := newCluster(t)
	core, logs := observer.New(zapcore.WarnLevel)
	s := openLogging(t, provider(t, func(n *Nats) { n.Replicas = 3 }, urls(servers)...), "frozen", defaults(), zap.New(core))
	natstest.Eventually(t, "it is connected to one that leads nothing", func() bool {
		connected := s.connection.ConnectedUrl()
		leads := servers[leader(t, s, servers)].URL()
		if connected == leads {
			_ = s.connection.ForceReconnect()
			time.Sleep(time.Second)
		}
		return connected != leads
	})
	natstest.Eventually(t, "something is stored", func() bool {
		_, err := s.Put(t.Context(), message("before"))
		return err == nil
	})
	for _, server := range servers {
		if server.URL() == s.connection.ConnectedUrl() {
			freeze(t, server)
			defer server.Signal(syscall.SIGCONT)
		}
	}
	begun := time.Now()
	natstest.Eventually(t, "something is stored", func() bool {
		_, err := s.Put(t.Context(), message("after"))
		return err == nil
	})
	t.Logf("it took %s", time.Since(begun)) // 6 s, where the machine is not busy
	if logs.FilterMessageSnippet("the NATS server does not answer").Len() == 0 {
		t.Errorf("only the client's pings told: %v", logs.All())
	}
}

// TestStoreReplicated does the same with three servers. It takes minutes, for each inbox elects leaders of its streams.
func TestStoreReplicated(t *testing.T) {
	if os.Getenv("NATSSTORE_REPLICATED") == "" {
		t.Skip("takes minutes; NATSSTORE_REPLICATED=1 runs it")
	}
	conform(t, newCluster(t)[0], 3)
}

// TestReplicated: what is on several servers is listed, and removed, as what is on one.
func TestReplicated(t *testing.T) {
	t.Parallel()
	settings := defaults()
	settings.Remember = 2 * time.Second
	s := openStore(t, provider(t, func(n *Nats) { n.Replicas = 3 }, newCluster(t)[0].URL()), "replicated", settings)
	select {
	case <-s.ready:
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	for i := range 3 {
		natstest.Eventually(t, "it is stored", func() bool {
			_, err := s.Put(t.Context(), message(fmt.Sprint(i)))
			return err == nil
		})
	}
	// A list is read where the server likes, and a replica may be a moment behind. Once none is, all lists are the same. A server that
	// does not answer in time says nothing of that.
	complete := func() bool {
		var all []*inbox.Message
		natstest.Eventually(t, "it is listed", func() bool {
			var err error
			all, err = s.List(t.Context(), inbox.Query{State: inbox.Pending, Limit: 10})
			return err == nil
		})
		return len(all) == 3
	}
	natstest.Eventually(t, "lists are complete, wherever they are read", func() bool {
		for range 20 {
			if !complete() {
				return false
			}
		}
		return true
	})
	for range 200 {
		if !complete() {
			t.Fatal("a list is not complete")
		}
	}
	settle(t, s, take(t, s), isDelivered)
	natstest.Eventually(t, "what was delivered is removed", func() bool {
		stats, err := s.Stats(t.Context())
		return err == nil && stats.Delivered == 0 && stats.Pending == 2
	})
	for range 2 {
		settle(t, s, take(t, s), isDelivered)
	}
}

// TestServerDies kills the only server and starts it again, under load: what was acknowledged is there.
func TestServerDies(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, "")
	settings := inbox.Settings{Remember: time.Hour, Lease: 5 * time.Second, MaxDelay: time.Hour}
	s := openStore(t, provider(t, nil, server.URL()), "one", settings)
	f := newFleet(t)
	ctx, stop := context.WithCancel(t.Context())
	delivering, stopDelivering := context.WithCancel(t.Context())
	defer stopDelivering()
	defer stop()
	var senders, deliverers sync.WaitGroup
	for i := range 8 {
		senders.Go(func() { f.send(ctx, func() *store { return s }, fmt.Sprint(i), 5*time.Millisecond) })
	}
	for range 4 {
		deliverers.Go(func() { f.deliver(delivering, s, settings.Lease) })
	}
	const kills = 3
	for range kills {
		before, _ := f.numbers()
		natstest.Eventually(t, "the gateway goes on", func() bool { now, _ := f.numbers(); return now >= before+200 })
		server.Kill()
		moment, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if _, err := s.Put(moment, &inbox.Message{ID: "nobody", Received: time.Now(), Request: []byte("request of nobody")}); err == nil {
			t.Error("without a server, a message was acknowledged")
		}
		cancel()
		server.Start()
		server.Usable()
	}
	stop()
	senders.Wait()
	natstest.Eventually(t, "everything is delivered", func() bool {
		stats, err := s.Stats(t.Context())
		return err == nil && stats.Pending == 0 && f.missing() == 0
	})
	stopDelivering()
	deliverers.Wait()
	acked, takenTwice := f.numbers()
	t.Logf("%d kills: %d acknowledged, %d lost, %d taken twice, %d leased by two at once, %d outcomes too late, %d failed puts",
		kills, acked, f.missing(), takenTwice, f.twice, f.late(), f.failed["put"])
	f.checkDoubles(settings.Lease / 2)
	if f.twice > 0 {
		t.Errorf("%d times two had one message at once", f.twice)
	}
}
