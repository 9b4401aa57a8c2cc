package inbox

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// Intake returns what takes requests of this process itself into an inbox, as if they had come to its first handler. It
// returns nil when the request is safely stored, or one with its id was. again delivers that one once more.
func (a *App) Intake(name string) (func(ctx context.Context, r *http.Request, content []byte, again bool) error, error) {
	b, err := a.claim(name)
	if err != nil {
		return nil, err
	}
	alone := &Handler{Inbox: name, box: b, metrics: a.metrics, events: a.emit, ended: a.ctx.Done(), logger: b.logger, notes: ratelog.New(10)}
	if err := alone.check(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, r *http.Request, content []byte, again bool) error {
		// What waits here for ever would be taken for told, and the notify of it acknowledged.
		if b.delivery == nil {
			return errNoDelivery
		}
		h := b.intake
		if h == nil {
			h = alone
		}
		return h.take(r.WithContext(ctx), content, again)
	}, nil
}

// Placeholders are those of id and order_by, by which the handler tells requests apart that takes those of this process. They
// are known when all handlers are provisioned.
func (a *App) Placeholders(name string) (names []string) {
	b := a.box(name)
	if b == nil || b.intake == nil {
		return nil
	}
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(key string) (any, bool) {
		names = append(names, key)
		return "", true
	})
	repl.ReplaceAll(b.intake.ID+" "+b.intake.OrderBy, "")
	return names
}

var errNoDelivery = errors.New("no handler delivers from this inbox; add an inbox directive to a site")

// take is ServeHTTP for a request that comes from this process. Placeholders that its context has are known to id and order_by.
func (h *Handler) take(r *http.Request, content []byte, again bool) error {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok { // it brings no placeholders of its own
		repl = caddy.NewReplacer()
	}
	r = caddyhttp.PrepareRequest(r, repl, nil, nil)
	stored, err := capture(r, content)
	if err != nil {
		return err
	}
	message := &Message{Received: time.Now(), Request: stored.encode(), Subject: text.Head(r.Header.Get("Ce-Subject"), maxSubject)}
	if message.ID, message.Key, err = h.identify(r, content); err != nil {
		return err
	}
	receipt, err := h.put(r, message)
	if err == nil && receipt == Repeated && again {
		if err = h.redeliver(r.Context(), message.ID); errors.Is(err, ErrNotFound) { // it is there no more
			if receipt, err = h.put(r, message); err == nil && receipt == Repeated {
				err = ErrNotFound
			}
		}
	}
	if err == nil {
		h.logger.Debug("request of this process stored", zap.String("message_id", text.Head(message.ID, loggedID)), zap.Stringer("receipt", receipt))
	}
	return err
}

// redeliver delivers the message of an id once more. ErrNotFound.
func (h *Handler) redeliver(ctx context.Context, id string) error {
	store := h.box.current()
	if store == nil {
		return errNotReady
	}
	query := Query{Search: id, Limit: 100}
	for {
		found, err := store.List(ctx, query)
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			return ErrNotFound
		}
		for _, message := range found {
			if message.ID != id {
				continue
			}
			_, err = store.Redeliver(ctx, message.Seq, true)
			switch {
			case errors.Is(err, ErrLeased):
				return nil
			case errors.Is(err, ErrNoRequest): // its request is here once more
				if err = store.Delete(ctx, message.Seq, false); err == nil {
					err = ErrNotFound
				}
			}
			return err
		}
		query.After = found[len(found)-1].Seq
	}
}
