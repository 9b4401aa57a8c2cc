// Package inbox keeps requests safe until the app has taken them: a handler that answers 202 once a request is stored
// durably, and delivers it through other handlers until it is taken, across restarts, reloads and crashes. It is useful
// behind any webhook and knows no platform.
//
// The way of a message: handler.go encodes the request (message.go) → Store.Put → 202; deliver.go leases it, decodes it,
// runs the `deliver` handlers, and settles it. The app owns the stores, which outlive a configuration; a handler owns
// how its inbox's messages are delivered.
package inbox

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
)

// App is the `inbox` app: the inboxes and where they keep their messages. A handler names its inbox; the inbox `default`
// exists even where no app is configured.
type App struct {
	// The inboxes by name. A name is made of letters, digits, `.`, `_` and `-`, and begins with a letter or digit.
	Inboxes map[string]*Inbox `json:"inboxes,omitempty"`
}

// Inbox is one inbox.
type Inbox struct {
	// Where messages are kept. Default: `bolt`, a file under Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=inbox.stores inline_key=store"`

	// How many bytes the messages may have in all, delivered and dead ones included; when it is full, requests of
	// delivered messages are dropped, then new requests are answered 503. Default: 10 GiB.
	MaxStore int64 `json:"max_store,omitempty"`

	// How long a delivered id is known, and answered 202 without a second delivery. Default: 30d.
	Remember caddy.Duration `json:"remember,omitempty"`
}
