package natsconn

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
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

// TestErrorsOfTheServerAreLimited: before, each error that the client library reported was a line in the log, and a
// permission that is missing causes one with each message.
func TestErrorsOfTheServerAreLimited(t *testing.T) {
	core, logged := observer.New(zap.DebugLevel)
	o := provisioned(t, nil, "nats://127.0.0.1:1") // nobody is there: it goes on trying
	c, err := o.Connect("inbox", "default", zap.New(core), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	report := c.ErrorHandler()
	for range 1000 {
		report(c.Conn, nil, errors.New("permissions violation"))
	}
	lines := logged.FilterMessage("NATS reports an error").All()
	if len(lines) != 10 {
		t.Fatalf("%d lines for 1000 errors", len(lines))
	}
	if fields := lines[9].ContextMap(); fields["error"] != "permissions violation" || fields["suppressed"] != int64(0) {
		t.Errorf("%v", fields)
	}
}
