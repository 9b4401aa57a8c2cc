package inbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// removing is a store whose messages are removed before they are listed, as somebody may at any moment.
type removing struct{ inbox.Store }

func (s removing) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	found, err := s.Store.List(ctx, query)
	for _, message := range found {
		if err := s.Delete(ctx, message.Seq, true); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	return s.Store.List(ctx, query)
}

// hiding is a store that lists nothing.
type hiding struct{ inbox.Store }

func (hiding) List(context.Context, inbox.Query) ([]*inbox.Message, error) { return nil, nil }

// TestRemovedBeforeItIsDeliveredAgain: a message that is to be delivered again may be removed in between. Before, the inbox said
// that it had it: nobody got it, and the watch took it for told.
func TestRemovedBeforeItIsDeliveredAgain(t *testing.T) {
	for name, test := range map[string]struct {
		wrap func(store inbox.Store) inbox.Store
		lost bool
	}{
		"removed": {func(store inbox.Store) inbox.Store { return removing{store} }, false},
		"hidden":  {func(store inbox.Store) inbox.Store { return hiding{store} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, app := appOf(nil)
			remember(&things.wraps, nameOf(t), test.wrap)
			g := start(t, options{app: app})
			take, err := g.app.Intake("default")
			if err != nil {
				t.Fatal(err)
			}
			g.accepted("1", "a notify")
			testutil.Receive(t, "the first delivery", got)
			g.becomes("1", inbox.Delivered)

			err = take(t.Context(), webhookRequest("1", ""), []byte("told again"), true)
			if test.lost {
				if !errors.Is(err, inbox.ErrNotFound) {
					t.Errorf("error %v, but nobody will get it", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r := testutil.Receive(t, "the delivery of what was told again", got); r.content != "told again" {
				t.Errorf("delivered %q", r.content)
			}
		})
	}
}

// TestDeliveredAgainWithoutItsRequest: the request of a delivered message is dropped when room is needed. Before, such a message
// could not be delivered again, although whoever wanted it had the request.
func TestDeliveredAgainWithoutItsRequest(t *testing.T) {
	got, app := appOf(nil)
	g := start(t, options{app: app})
	take, err := g.app.Intake("default")
	if err != nil {
		t.Fatal(err)
	}
	g.accepted("1", "a notify")
	testutil.Receive(t, "the first delivery", got)
	g.becomes("1", inbox.Delivered)
	g.memory().Fail("Redeliver", inbox.ErrNoRequest)

	if err := take(t.Context(), webhookRequest("1", ""), []byte("told again"), true); err != nil {
		t.Fatal(err)
	}
	if r := testutil.Receive(t, "the delivery of what was told again", got); r.content != "told again" {
		t.Errorf("delivered %q", r.content)
	}
}
