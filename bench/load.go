//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// aim is one server that a load goes to, and what is sent there: these requests, ready to be written, by turns.
type aim struct {
	address  string // 127.0.0.1:port
	requests [][]byte
	accept   int // the status of a right answer; 0: any, and what it tells of the call is counted
}

// load is a number of connections over which requests go, one at a time on each. With several aims every connection is
// one to each of them, and takes them by turns, so that all get the same number of requests at the same time.
type load struct {
	aims        []aim
	connections int
	rate        float64 // requests a second at random moments, whatever the answers do; 0: the next as soon as one is answered
	warm        time.Duration
	duration    time.Duration
	mark        func() // called when the warm requests have all been answered, and when the counted ones have
	midway      func() // called once in the middle, if set
}

// outcome is what one aim made of a load.
type outcome struct {
	answered  int            // all, those included that came after the time was up
	inTime    int            // before the time was up
	latencies []int64        // nanoseconds, unsorted. At a rate they count from the moment at which the request was due
	took      time.Duration  // from the first request to the end of time
	told      map[string]int // by Gateway-Outcome: how many answers, of an aim that accepts any
}

// perSecond is how many requests were answered in a second.
func (o *outcome) perSecond() float64 { return float64(o.inTime) / o.took.Seconds() }

// connection is one keep-alive HTTP/1.1 connection, on a bare non-blocking socket.
type connection struct {
	fd      int
	aim     int
	worker  int
	unsent  []byte // of the request
	buffer  []byte // of the answer
	filled  int
	due     time.Time // when the request was, or should have been, sent
	waiting bool      // for an answer
	writing bool      // the kernel's buffer is full
}

// generator is a load that runs: one thread, one epoll, as wrk does it, so that as much as can be of the machine is left
// to the server.
type generator struct {
	load
	epoll       int
	timer       int
	connections []*connection // connections[i].fd is not i; an event carries i
	sent        []int         // requests of each aim
	outcomes    []outcome
	idle        [][]*connection // at a rate: by aim
	queue       [][]time.Time   // at a rate: what is due and finds no idle connection
	inFlight    int
	counting    bool
	end         time.Time
	closing     bool // no further requests
}

// run puts a load on its aims and returns one outcome for each.
func run(l load) ([]outcome, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := &generator{load: l, sent: make([]int, len(l.aims)), idle: make([][]*connection, len(l.aims)), queue: make([][]time.Time, len(l.aims))}
	defer g.close()
	if err := g.open(); err != nil {
		return nil, err
	}
	if l.warm > 0 {
		if err := g.phase(l.warm, false); err != nil {
			return nil, err
		}
	}
	if l.mark != nil {
		l.mark()
	}
	if err := g.phase(l.duration, true); err != nil {
		return nil, err
	}
	if l.mark != nil {
		l.mark()
	}
	return g.outcomes, nil
}

func (g *generator) open() error {
	var err error
	g.timer = -1
	if g.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	for worker := range g.load.connections {
		for aim := range g.aims {
			c := &connection{fd: -1, aim: aim, worker: worker, buffer: make([]byte, 8<<10)}
			g.connections = append(g.connections, c)
			if err := g.dial(len(g.connections) - 1); err != nil {
				return fmt.Errorf("%s: %w", g.aims[aim].address, err)
			}
		}
	}
	if g.rate > 0 {
		g.timer, err = newTimer()
		if err != nil {
			return err
		}
		return syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, g.timer, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: -1})
	}
	return nil
}

func (g *generator) close() {
	for _, c := range g.connections {
		if c.fd >= 0 {
			_ = syscall.Close(c.fd)
		}
	}
	if g.timer >= 0 {
		_ = syscall.Close(g.timer)
	}
	_ = syscall.Close(g.epoll)
}

// dial connects connection i, anew if it was connected.
func (g *generator) dial(i int) error {
	c := g.connections[i]
	if c.fd >= 0 {
		_ = syscall.Close(c.fd)
		c.fd = -1
	}
	address, err := net.ResolveTCPAddr("tcp4", g.aims[c.aim].address)
	if err != nil {
		return err
	}
	c.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Connect(c.fd, &syscall.SockaddrInet4{Port: address.Port, Addr: [4]byte(address.IP.To4())}); err != nil {
		return err
	}
	if err := syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := syscall.SetNonblock(c.fd, true); err != nil {
		return err
	}
	c.filled, c.unsent, c.writing = 0, nil, false
	return syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, c.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)})
}

// patience is how long the last answers may take.
const patience = 20 * time.Second

// phase sends requests for a time, and then waits for the answers that are missing.
func (g *generator) phase(duration time.Duration, counting bool) error {
	g.outcomes = make([]outcome, len(g.aims))
	for i := range g.outcomes {
		g.outcomes[i].told = make(map[string]int)
		if counting {
			g.outcomes[i].latencies = make([]int64, 0, 1<<16)
		}
	}
	g.counting, g.closing, g.inFlight = counting, false, 0
	start := time.Now()
	g.end = start.Add(duration)
	middle := start.Add(duration / 2)
	arrival := start // at a rate: the next
	arrivals := 0
	random := rand.New(rand.NewPCG(1, uint64(duration)))
	if g.rate > 0 {
		for i := range g.idle {
			g.idle[i] = g.idle[i][:0]
		}
		for _, c := range g.connections {
			g.idle[c.aim] = append(g.idle[c.aim], c)
		}
	} else {
		for i, c := range g.connections {
			if c.aim == i/len(g.aims)%len(g.aims) { // half of the connections begin with each of two aims
				if err := g.send(i, start); err != nil {
					return err
				}
			}
		}
	}
	events := make([]syscall.EpollEvent, 256)
	for {
		now := time.Now()
		// What was due before the end is sent, also if this thread has slept until then: else it would count nothing.
		for g.rate > 0 && !arrival.After(now) && arrival.Before(g.end) {
			if err := g.arrive(arrivals%len(g.aims), arrival); err != nil {
				return err
			}
			arrivals++
			arrival = arrival.Add(time.Duration(random.ExpFloat64() / g.rate * float64(time.Second)))
		}
		if !now.Before(g.end) {
			g.closing = true
			if g.inFlight == 0 && (g.rate == 0 || !g.queued()) {
				break
			}
			if now.Sub(g.end) > patience {
				return fmt.Errorf("%d requests are not answered %s after the last was sent", g.inFlight, patience)
			}
		}
		if g.midway != nil && counting && now.After(middle) {
			g.midway()
			g.midway = nil
		}
		wait := 100
		if !g.closing {
			wait = min(wait, int(g.end.Sub(now)/time.Millisecond)+1)
		}
		if g.rate > 0 && !g.closing {
			if err := setTimer(g.timer, time.Until(arrival)); err != nil {
				return err
			}
		}
		count, err := syscall.EpollWait(g.epoll, events, wait)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		for _, event := range events[:max(count, 0)] {
			if event.Fd < 0 {
				var expirations [8]byte
				_, _ = syscall.Read(g.timer, expirations[:])
				continue
			}
			if err := g.ready(int(event.Fd), event.Events); err != nil {
				return err
			}
		}
	}
	for i := range g.outcomes {
		g.outcomes[i].took = duration
	}
	return nil
}

func (g *generator) queued() bool {
	for _, queue := range g.queue {
		if len(queue) > 0 {
			return true
		}
	}
	return false
}

// arrive sends a request that is due, or queues it.
func (g *generator) arrive(aim int, due time.Time) error {
	idle := g.idle[aim]
	if len(idle) == 0 {
		g.queue[aim] = append(g.queue[aim], due)
		return nil
	}
	c := idle[len(idle)-1]
	g.idle[aim] = idle[:len(idle)-1]
	return g.send(g.index(c), due)
}

func (g *generator) index(c *connection) int { return c.worker*len(g.aims) + c.aim }

func (g *generator) send(i int, due time.Time) error {
	c := g.connections[i]
	requests := g.aims[c.aim].requests
	c.unsent = requests[g.sent[c.aim]%len(requests)]
	c.due, c.filled, c.waiting = due, 0, true
	g.sent[c.aim]++
	g.inFlight++
	return g.write(i)
}

func (g *generator) write(i int) error {
	c := g.connections[i]
	for len(c.unsent) > 0 {
		n, err := syscall.Write(c.fd, c.unsent)
		if n > 0 {
			c.unsent = c.unsent[n:]
		}
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return g.watch(i, true)
		case err != nil && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("%s: writing: %w", g.aims[c.aim].address, err)
		}
	}
	return g.watch(i, false)
}

// watch asks to be told when the connection can take more, or no longer.
func (g *generator) watch(i int, writing bool) error {
	c := g.connections[i]
	if c.writing == writing {
		return nil
	}
	c.writing = writing
	events := uint32(syscall.EPOLLIN)
	if writing {
		events |= syscall.EPOLLOUT
	}
	return syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_MOD, c.fd, &syscall.EpollEvent{Events: events, Fd: int32(i)})
}

func (g *generator) ready(i int, events uint32) error {
	c := g.connections[i]
	if events&syscall.EPOLLOUT != 0 && c.writing {
		if err := g.write(i); err != nil {
			return err
		}
	}
	if events&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR) == 0 {
		return nil
	}
	if c.filled == len(c.buffer) {
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
	}
	n, err := syscall.Read(c.fd, c.buffer[c.filled:])
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("%s: reading: %w", g.aims[c.aim].address, err)
	case n == 0 && c.waiting:
		return fmt.Errorf("%s: closed the connection instead of answering", g.aims[c.aim].address)
	case n == 0:
		return g.dial(i)
	}
	c.filled += n
	answer, err := parseAnswer(c.buffer[:c.filled])
	if err != nil {
		return fmt.Errorf("%s: %w", g.aims[c.aim].address, err)
	}
	if answer.length == 0 {
		return nil // there is more to come
	}
	switch accept := g.aims[c.aim].accept; {
	case accept == 0 && len(answer.told) > 0:
		g.outcomes[c.aim].told[string(answer.told)]++
	case answer.status != accept:
		return fmt.Errorf("%s: answered %q", g.aims[c.aim].address, c.buffer[:min(c.filled, 400)])
	}
	return g.answered(i, answer.last)
}

func (g *generator) answered(i int, last bool) error {
	c := g.connections[i]
	now := time.Now()
	c.waiting = false
	g.inFlight--
	if g.counting {
		o := &g.outcomes[c.aim]
		o.answered++
		if now.Before(g.end) {
			o.inTime++
		}
		o.latencies = append(o.latencies, int64(now.Sub(c.due)))
	}
	if last {
		if err := g.dial(i); err != nil {
			return err
		}
	}
	if g.rate > 0 {
		if queue := g.queue[c.aim]; len(queue) > 0 {
			due := queue[0]
			g.queue[c.aim] = queue[1:]
			return g.send(i, due)
		}
		g.idle[c.aim] = append(g.idle[c.aim], c)
		return nil
	}
	if g.closing || !now.Before(g.end) {
		return nil
	}
	return g.send(c.worker*len(g.aims)+(c.aim+1)%len(g.aims), now)
}

// newRequest is a POST as it goes over the wire; extra is further header lines.
func newRequest(path, host, contentType, extra string, body []byte) []byte {
	head := "POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nContent-Type: " + contentType +
		"\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n" + extra
	return append([]byte(head+"\r\n"), body...)
}

// exchange sends one request on a connection of its own.
func exchange(address string, request []byte) (answer, error) {
	connection, err := net.Dial("tcp4", address)
	if err != nil {
		return answer{}, err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{}, err
	}
	if _, err = connection.Write(request); err != nil {
		return answer{}, err
	}
	buffer, filled := make([]byte, 64<<10), 0
	for {
		n, err := connection.Read(buffer[filled:])
		filled += n
		if a, failure := parseAnswer(buffer[:filled]); failure != nil || a.length > 0 {
			return a, failure
		}
		if err != nil {
			return answer{}, err
		}
	}
}
