package natsstore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// dyingLease is longer than the others take while the gateway that dies is still alive.
const dyingLease = 10 * time.Second

// TestGatewayDies kills one of two gateways while it delivers: the other gets what was in flight, after the lease, and
// nothing else twice.
func TestGatewayDies(t *testing.T) {
	if url := os.Getenv("NATSSTORE_GATEWAY"); url != "" {
		dyingGateway(t, url)
		return
	}
	t.Parallel()
	server := natstest.Run(t, "")
	settings := inbox.Settings{Remember: time.Hour, Lease: dyingLease, MaxDelay: time.Hour}
	s := openStore(t, provider(t, nil, server.URL()), "pair", settings)
	const messages = 40
	for i := range messages {
		if _, err := s.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(i), Received: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGatewayDies$", "-test.v")
	command.Env = append(os.Environ(), "NATSSTORE_GATEWAY="+server.URL())
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	taken, inFlight := map[string]int{}, map[string]bool{}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "taken "); ok {
			taken[id]++
		}
		if id, ok := strings.CutPrefix(lines.Text(), "holds "); ok {
			inFlight[id] = true
		}
		if lines.Text() == "full" {
			break
		}
	}
	if len(taken) != 10 || len(inFlight) != 5 {
		_ = command.Process.Kill()
		_ = command.Wait()
		t.Fatalf("the other gateway has taken %d and holds %d", len(taken), len(inFlight))
	}
	// While it lives, nobody else gets what it holds.
	for range messages - 15 {
		m, err := s.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if inFlight[m.ID] {
			t.Errorf("%s was leased by both", m.ID)
		}
		taken[m.ID]++
		if err := s.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
			t.Fatal(err)
		}
	}
	_ = command.Process.Kill()
	_ = command.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range inFlight {
		m, err := s.Lease(ctx)
		if err != nil {
			t.Fatalf("what the dead gateway held does not come again: %v", err)
		}
		if !inFlight[m.ID] {
			t.Errorf("%s came again, and was not in flight", m.ID)
		}
		taken[m.ID]++
		if err := s.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range messages {
		if times := taken[fmt.Sprint(i)]; times != 1 {
			t.Errorf("%d was taken %d times", i, times)
		}
	}
	counted(t, s, 0, messages, 0)
	t.Logf("%d messages; the other gateway took 10, held 5 when it was killed; lost 0, delivered to the app by both: none but the 5 in flight", messages)
}

// dyingGateway takes ten messages, holds five more, and waits for its end.
func dyingGateway(t *testing.T, url string) {
	s := openStore(t, provider(t, nil, url), "pair", inbox.Settings{Remember: time.Hour, Lease: dyingLease, MaxDelay: time.Hour})
	for i := range 15 {
		m, err := s.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i < 10 {
			if err := s.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("taken %s\n", m.ID)
			continue
		}
		fmt.Printf("holds %s\n", m.ID)
	}
	fmt.Println("full")
	time.Sleep(time.Minute) // it is killed long before
	t.Fatal("nobody has killed it")
}
