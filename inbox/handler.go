package inbox

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
)

// Handler answers 202 once the request is safely stored, and at once if one with the same id is pending or was
// delivered; it then runs the `deliver` handlers until they have taken the request: at least once, twice only what was
// in flight at a crash. What could not be stored is answered 503, what is larger than max_size 413.
//
// All handlers of one inbox must deliver in the same way: their options from `retry` on are equal.
type Handler struct {
	// The inbox's name. Default: `default`.
	Inbox string `json:"inbox,omitempty"`

	// What tells a request from others; placeholders. Where all of them are empty, a fresh id is made, with a WARN.
	// Default: `{http.request.header.Ce-Source}#{http.request.header.Ce-Id}`.
	ID string `json:"id,omitempty"`

	// How large a request body may be, in bytes. Default: 1 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// The delays before the second, third, … delivery; then the last one again. Each is varied by up to a tenth.
	// Default: 5s 30s 2m 10m 30m 1h.
	Retry []caddy.Duration `json:"retry,omitempty"`

	// How long a message is tried before it becomes a dead letter, counted in the schedule's own time: the time that a
	// gateway was not running does not count, nor a clock's jump. Default: 72h.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// How long one delivery may take. Default: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How many deliveries may be in flight at once. Default: 8.
	Concurrency int `json:"concurrency,omitempty"`

	// When the app has taken a request: `word`, a 2xx whose body is empty or says SUCCESS or OK, or `2xx`, any 2xx but one
	// whose body says FAILED or FAIL. Default: `word`.
	Ack string `json:"ack,omitempty"`

	// Requests for which this is the same, and not empty, are delivered one after the other; placeholders. Default: no
	// order. Not every store can do it.
	OrderBy string `json:"order_by,omitempty"`

	// The routes that deliver: as a subroute's.
	DeliverRaw json.RawMessage `json:"deliver,omitempty"`
}
