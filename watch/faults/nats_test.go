package faults

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// cluster is three NATS servers that know each other.
type cluster struct {
	t       testing.TB
	clients []string // addresses
	nodes   []*exec.Cmd
	launch  []func() *exec.Cmd
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	program := needTool(t, "nats-server")
	version, err := exec.Command(program, "--version").Output()
	var minor int
	if _, scan := fmt.Sscanf(string(version), "nats-server: v2.%d", &minor); err == nil && scan == nil && minor < 11 {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatalf("%s is older than 2.11: %s", program, version)
		}
		t.Skipf("%s is older than 2.11: %s", program, version)
	}
	c := &cluster{t: t}
	var routes []string
	for range 3 {
		c.clients, routes = append(c.clients, freeAddress(t)), append(routes, freeAddress(t))
	}
	folder := t.TempDir()
	for i := range 3 {
		_, port, _ := strings.Cut(c.clients[i], ":")
		log := new(tail)
		c.launch = append(c.launch, func() *exec.Cmd {
			command := exec.Command(program, "-js", "-a", "127.0.0.1", "-p", port, "-sd", filepath.Join(folder, fmt.Sprint(i)), "-n", fmt.Sprint("node", i),
				"--cluster_name", "fleet", "--cluster", "nats://"+routes[i], "--routes", "nats://"+strings.Join(routes, ",nats://"))
			command.Stderr = log
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			return command
		})
		c.nodes = append(c.nodes, nil)
		t.Cleanup(func() {
			c.kill(i)
			if t.Failed() {
				t.Logf("the end of the log of node %d:\n%s", i, log.end())
			}
		})
	}
	c.up()
	return c
}

// up starts all nodes, and waits until they have a leader for JetStream.
func (c *cluster) up() {
	c.t.Helper()
	for i := range c.nodes {
		c.nodes[i] = c.launch[i]()
	}
	for _, address := range c.clients {
		within(c.t, patience, "JetStream", func() bool {
			connection, err := nats.Connect("nats://"+address, nats.Timeout(time.Second))
			if err != nil {
				return false
			}
			defer connection.Close()
			answer, err := connection.Request("$JS.API.INFO", nil, time.Second)
			return err == nil && !strings.Contains(string(answer.Data), `"error"`)
		})
	}
}

func (c *cluster) kill(i int) {
	if c.nodes[i] != nil {
		_ = c.nodes[i].Process.Kill()
		_ = c.nodes[i].Wait()
		c.nodes[i] = nil
	}
}

// down kills all nodes, and waits until nobody listens.
func (c *cluster) down() {
	for i := range c.nodes {
		c.kill(i)
	}
	for _, address := range c.clients {
		within(c.t, patience, "the end of NATS", func() bool {
			connection, err := net.Dial("tcp", address)
			if err == nil {
				_ = connection.Close()
			}
			return err != nil
		})
	}
}

const unavailable = "GATEWAY_WATCH_UNAVAILABLE"

// refundNow is a refund of 300 fen as soon as the store takes it.
func (g *gateway) refundNow(order string) (r reply) {
	g.t.Helper()
	within(g.t, patience, "a store that takes a refund", func() bool {
		r = g.refund(order, g.platform.number(), 300)
		return r.code != unavailable
	})
	return r
}

// TestFleet: two gateways share a bucket of a cluster.
func TestFleet(t *testing.T) {
	t.Parallel()
	needBinary(t)
	nodes := startCluster(t)
	p, a := newPlatform(t), newApp(t)
	store := "store nats nats://" + strings.Join(nodes.clients, " nats://") + " {\n\t\t\t\treplicas 3\n\t\t\t}\n"
	member := func(name string) *gateway {
		return newGateway(t, name, "\t\twatch {\n\t\t\t"+store+"$OPTIONS\t\t}\n", "\t\t"+store, p, a)
	}
	one, two := member("one-"), member("two-")
	one.start()
	two.start()
	ready := func() { // NATS elects leaders, and the gateways find them
		for _, g := range []*gateway{one, two} {
			within(t, patience, "the watch of "+g.name, func() bool {
				r := g.refund(p.number(), p.number(), 1) // of an order that the platform does not know
				return r.outcome == "answered"
			})
		}
	}
	ready()
	var numbers []string

	// Two refund numbers at once for one order, at two gateways: one passes. On a machine that is very busy the cluster may be too
	// slow for either; that is no pair.
	pairs := 0
	for tries, want := 0, map[bool]int{false: 10, true: 100}[long]; pairs < want && tries < 2*want; tries++ {
		order := one.paid()
		numbers = append(numbers, order)
		release := p.hold(order)
		replies := make(chan reply, 2)
		for _, g := range []*gateway{one, two} {
			go func() { replies <- g.refund(order, p.number(), 300) }()
		}
		loser := <-replies // the other one waits at the platform
		release()
		winner := <-replies
		if n := p.refundsCame(order); n > 1 {
			t.Errorf("%d refunds of %s came to the platform", n, order)
		}
		switch {
		case loser.code == unavailable || winner.code == unavailable:
		case loser.status != 409 || loser.outcome != "not_sent" || loser.code != "GATEWAY_BUSY" || winner.code != "SUCCESS":
			t.Errorf("two refunds of %s at once: %v; %v", order, loser, winner)
		default:
			pairs++
		}
	}
	if pairs == 0 {
		t.Error("no pair of refunds at once")
	}
	two.agree(numbers)
	t.Logf("%d pairs of refunds at once: one of each passed", pairs)

	// One gateway dies between line and answer: the other one follows it up, and lets nothing pass until it knows.
	if long { // it takes the two minutes after which a call is taken for lost
		order := one.paid()
		numbers = append(numbers, order)
		release := p.hold(order)
		gone := make(chan reply, 1)
		go func() { gone <- one.refund(order, p.number(), 300) }()
		within(t, patience, "a refund", func() bool { return p.refundsCame(order) > 0 })
		one.kill()
		if r := <-gone; r.err == nil {
			t.Errorf("a gateway that is dead answers: %v", r)
		}
		release()
		within(t, patience, "the refund's execution", func() bool { book, _ := p.Order(order); return len(book.Returns) == 1 })
		if r := two.refundNow(order); r.code != "GATEWAY_BUSY" {
			t.Errorf("while nobody knows the end of the first refund: %v", r)
		}
		two.agree(numbers)
		if r := two.refundNow(order); r.code != "GATEWAY_REFUND_UNRESOLVED" {
			t.Errorf("while the app may not have heard of the first refund: %v", r)
		}
		book, _ := p.Order(order)
		if len(book.Returns) != 1 {
			t.Errorf("%+v", book.Returns)
		}
		within(t, patience, "the telling of the refund", func() bool { return len(a.taken("refund.succeeded")[order]) > 0 })
		one.start()
		ready()
		t.Logf("a gateway killed between line and answer: the other one has followed it, and refused another refund")
	}

	// NATS is cut off: orders pass, refunds do not. Afterwards everything is known, and told.
	before := one.paid()
	numbers = append(numbers, before)
	p.told(t, a, numbers, one, two)
	nodes.down()
	var during []string
	for _, g := range []*gateway{one, two, one} {
		during = append(during, g.paid())
		if r := g.refund(before, p.number(), 300); r.status != 503 || r.code != unavailable || r.outcome != "not_sent" {
			t.Errorf("a refund without a store: %v", r)
		}
	}
	nodes.up()
	ready()
	numbers = append(numbers, during...)
	one.agree(numbers)
	two.agree(numbers)
	paid, twice := p.told(t, a, numbers, one, two)
	r := reply{}
	within(t, patience, "what was not sent without a store to be written down", func() bool {
		r = two.refundNow(before)
		return r.code != "GATEWAY_BUSY"
	})
	if r.code != "SUCCESS" {
		t.Errorf("a refund with the store back: %v", r)
	}
	two.agree(numbers)
	t.Logf("NATS cut off: %d orders passed, %d refunds did not; then %d paid and told, %d twice after a kill", len(during), len(during), paid, twice)
}
