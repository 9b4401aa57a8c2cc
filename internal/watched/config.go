// Package watched connects a platform's calls and notifies with its watch: it reads the options, keeps one watch for all
// configurations that name its store, and hands to the inbox what a query has found. It knows no platform.
package watched

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// Config is the watch of a platform's app.
type Config struct {
	// Where orders and refunds are kept. Default: `bolt`, a file under Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=watch.stores inline_key=store"`

	// The inbox that takes the events that a query has found; it must exist. Default: `default`.
	Inbox string `json:"inbox,omitempty"`

	// The path of such an event, where an order names no notifyUrl of its own. Default: `/notify`.
	URI string `json:"uri,omitempty"`

	// The ages at which an order that is not yet paid is asked about, or `off`: unpaid orders are not asked about at all.
	// After the ages come 1m and 10m after its expiry, 2h and 24h30m. Default: 1m 2m 5m 10m 20m.
	Orders Ages `json:"orders,omitzero"`

	// The times after an unknown outcome at which it is asked about; then daily. Default: 5s 30s 1m 3m 5m 10m 30m 1h 2h 6h 24h.
	Unknown []caddy.Duration `json:"unknown,omitempty"`

	// How long something is asked about before it is `stuck`, and a person has to look. Default: 7d.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// How many queries a second are sent for one merchant, at most 1000. Default: 2.
	Rate float64 `json:"rate,omitempty"`

	// What happens to a refund that could be a second one: `enforce` (it is not sent), `warn` (it is logged) or `off`.
	// Default: enforce.
	Refunds string `json:"refunds,omitempty"`

	// What happens to a notify whose mid or amount is not what was ordered: `warn` (it is delivered with
	// `Ce-Ordered: differs`), `reject` (it is answered 409) or `off`. Default: warn.
	Amounts string `json:"amounts,omitempty"`

	// How long what has ended is kept. Default: 400d.
	Keep caddy.Duration `json:"keep,omitempty"`
}

// Ages are ages, or none where it is empty and not nil.
type Ages []caddy.Duration

const off = "off"

// MarshalJSON implements json.Marshaler.
func (a Ages) MarshalJSON() ([]byte, error) {
	if len(a) == 0 {
		return json.Marshal(off)
	}
	return json.Marshal([]caddy.Duration(a))
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *Ages) UnmarshalJSON(content []byte) error {
	var word string
	if json.Unmarshal(content, &word) == nil && word == off {
		*a = Ages{}
		return nil
	}
	var ages []caddy.Duration
	if err := json.Unmarshal(content, &ages); err != nil {
		return locale.Errorf("orders: %w", err)
	}
	*a = ages
	return nil
}

func durations(seconds ...time.Duration) (all []caddy.Duration) {
	for _, n := range seconds {
		all = append(all, caddy.Duration(n*time.Second))
	}
	return all
}

const (
	day     = 24 * time.Hour
	longest = caddy.Duration(3650 * day)
	maxRate = 1000
)

// setDefaults sets what is not given. orders are the platform's ages.
func (c *Config) setDefaults(orders []caddy.Duration) {
	c.Inbox, c.URI = cmp.Or(c.Inbox, "default"), cmp.Or(c.URI, "/notify")
	if c.Orders == nil {
		c.Orders = orders
	}
	if c.Unknown == nil {
		c.Unknown = durations(5, 30, 60, 180, 300, 600, 1800, 3600, 7200, 21600, 86400)
	}
	c.GiveUp, c.Keep = cmp.Or(c.GiveUp, caddy.Duration(7*day)), cmp.Or(c.Keep, caddy.Duration(400*day))
	c.Rate = cmp.Or(c.Rate, 2)
	c.Refunds, c.Amounts = cmp.Or(c.Refunds, watch.Enforce), cmp.Or(c.Amounts, watch.Warn)
}

// check says what is wrong with the options.
func (c *Config) check() error {
	refunds, amounts := []string{watch.Enforce, watch.Warn, watch.Off}, []string{watch.Warn, watch.Reject, watch.Off}
	switch {
	case !strings.HasPrefix(c.URI, "/") || strings.ContainsAny(c.URI, "?# "):
		return locale.Errorf("uri: %q is no path", c.URI)
	case !rising(c.Orders):
		return locale.Errorf("orders: the ages must be positive and rise, and be at most ten years")
	case len(c.Unknown) == 0 || !rising(c.Unknown):
		return locale.Errorf("unknown: the times must be positive and rise, and be at most ten years")
	case c.GiveUp <= 0 || c.GiveUp > longest:
		return locale.Errorf("give_up: must be positive, and at most ten years")
	case c.Keep <= 0 || c.Keep > longest:
		return locale.Errorf("keep: must be positive, and at most ten years")
	case c.Rate <= 0 || c.Rate > maxRate:
		return locale.Errorf("rate: must be more than 0, and at most %d", maxRate)
	case !slices.Contains(refunds, c.Refunds):
		return locale.Errorf("refunds: %q is not one of: %s", c.Refunds, strings.Join(refunds, ", "))
	case !slices.Contains(amounts, c.Amounts):
		return locale.Errorf("amounts: %q is not one of: %s", c.Amounts, strings.Join(amounts, ", "))
	}
	return nil
}

func rising(ages []caddy.Duration) bool {
	last := caddy.Duration(0)
	for _, age := range ages {
		if age <= last || age > longest {
			return false
		}
		last = age
	}
	return true
}

func (c *Config) settings() watch.Settings {
	plain := func(ages []caddy.Duration) (all []time.Duration) {
		for _, age := range ages {
			all = append(all, time.Duration(age))
		}
		return all
	}
	return watch.Settings{
		Orders: plain(c.Orders), Unknown: plain(c.Unknown), GiveUp: time.Duration(c.GiveUp), Rate: c.Rate,
		Refunds: c.Refunds, Amounts: c.Amounts, Keep: time.Duration(c.Keep),
	}
}

// Option reads the option at the cursor, if it is `watch`.
//
//	watch {
//	    store   <module> …
//	    inbox   <name>
//	    uri     <path>
//	    orders  <age…>|off
//	    unknown <time…>
//	    give_up <duration>
//	    rate    <number>
//	    refunds enforce|warn|off
//	    amounts warn|reject|off
//	    keep    <duration>
//	}
func Option(target **Config) func(d *caddyfile.Dispenser) (known bool, err error) {
	return func(d *caddyfile.Dispenser) (bool, error) {
		if d.Val() != "watch" {
			return false, nil
		}
		if *target != nil {
			return true, d.WrapErr(locale.Errorf("watch is given twice"))
		}
		if d.NextArg() {
			return true, d.WrapErr(locale.Errorf("watch: surplus argument %q", d.Val()))
		}
		*target = new(Config)
		o := &syntax.Options{D: d, Of: "watch"}
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			if err := (*target).option(o); err != nil {
				return true, err
			}
		}
		return true, nil
	}
}

func (c *Config) option(o *syntax.Options) error {
	switch o.D.Val() {
	case "store":
		return o.Store("watch.stores", &c.StoreRaw)
	case "inbox":
		return o.One(&c.Inbox)
	case "uri":
		return o.One(&c.URI)
	case "orders":
		if c.Orders == nil && o.D.CountRemainingArgs() == 1 {
			rest := o.D.NextArg()
			word := o.D.Val()
			if o.D.Prev(); rest && word == off {
				c.Orders = Ages{}
				return o.One(&word)
			}
		}
		return o.Durations((*[]caddy.Duration)(&c.Orders))
	case "unknown":
		return o.Durations(&c.Unknown)
	case "give_up":
		return o.Duration(&c.GiveUp)
	case "rate":
		var words string
		if err := o.One(&words); err != nil {
			return err
		}
		rate, err := strconv.ParseFloat(words, 64)
		if err != nil || !(rate > 0 && rate <= maxRate) {
			return o.D.WrapErr(locale.Errorf("%s: rate: %q is not a number of queries a second, at most %d", o.Of, words, maxRate))
		}
		c.Rate = rate
		return nil
	case "refunds":
		return o.Word(&c.Refunds, watch.Enforce, watch.Warn, watch.Off)
	case "amounts":
		return o.Word(&c.Amounts, watch.Warn, watch.Reject, watch.Off)
	case "keep":
		return o.Duration(&c.Keep)
	}
	return o.Unknown("store", "inbox", "uri", "orders", "unknown", "give_up", "rate", "refunds", "amounts", "keep")
}

// Interface guards
var (
	_ json.Marshaler   = (Ages)(nil)
	_ json.Unmarshaler = (*Ages)(nil)
)
