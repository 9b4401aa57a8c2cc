package natsconn

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestWhoGivesUpSaysNothingOfTheServer: before, a question that its asker gave up counted as answered, so that a server that had
// hung was taken for alive as long as askers went away.
func TestWhoGivesUpSaysNothingOfTheServer(t *testing.T) {
	var c Conn
	gone, cancel := context.WithCancel(t.Context())
	c.Heard(t.Context(), nats.ErrTimeout)
	cancel()
	c.Heard(gone, gone.Err())
	if silent := c.silent.Load(); silent != 1 {
		t.Errorf("%d questions in vain, not 1", silent)
	}
	c.Heard(t.Context(), nil)
	if silent := c.silent.Load(); silent != 0 {
		t.Errorf("%d questions in vain behind an answer", silent)
	}
}
