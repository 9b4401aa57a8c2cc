package watch

import (
	"context"
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Select selects orders for a list.
type Select struct {
	State    State  // empty: all; Unresolved and Stuck also select orders with a call in this state, Stuck those with an event that is
	Merchant string // empty: all
	Search   string // only those with a number, of the order or of a call, that contains it; empty: all
	After    string // only those behind this key, which is merchant/number
	Limit    int    // at most so many; at least 1
}

func (q Select) matches(o *Order) bool {
	if q.Merchant != "" && q.Merchant != o.Merchant {
		return false
	}
	calls := func(is func(c *Track) bool) bool { return slices.ContainsFunc(o.Calls, is) }
	if q.State != "" && q.State != o.State && !(q.State == Stuck && o.tellingStuck()) && !calls(func(c *Track) bool { return c.State == q.State }) {
		return false
	}
	return q.Search == "" || strings.Contains(o.ID, q.Search) ||
		calls(func(c *Track) bool {
			return strings.Contains(c.Number, q.Search) || strings.Contains(c.Alias, q.Search)
		})
}

// List returns orders by merchant and number. It reads all there are.
func (w *Watch) List(ctx context.Context, q Select) ([]*Order, error) {
	var found []*Order
	limit := max(q.Limit, 1)
	cut := func() {
		slices.SortFunc(found, func(a, b *Order) int { return strings.Compare(a.key(), b.key()) })
		found = found[:min(len(found), limit)]
	}
	err := w.each(ctx, func(o *Order) {
		if o.key() > q.After && q.matches(o) {
			if found = append(found, o); len(found) >= 2*limit {
				cut()
			}
		}
	})
	cut()
	return found, err
}

// each calls do for every order that can be read.
func (w *Watch) each(ctx context.Context, do func(o *Order)) error {
	return w.store.All(ctx, func(e Entry) error {
		if o, err := decode(e); err == nil && o.Same == "" {
			do(o)
		}
		return ctx.Err()
	})
}

// Order returns one order. ErrNotFound.
func (w *Watch) Order(ctx context.Context, merchant, number string) (*Order, error) {
	o, err := w.get(ctx, merchant, number)
	if err == nil && o.revision == 0 {
		err = ErrNotFound
	}
	return o, err
}

// Query asks the platform about an order now, and about each of its calls whose end is not known. ErrNotFound, or a *NotNow
// where nothing could be asked.
func (w *Watch) Query(ctx context.Context, merchant, number string) (*Order, error) {
	return w.queryAll(ctx, merchant, number, false)
}

// Resend asks the platform about an order and its refunds, and tells the app again what it says, with the same ids. ErrNotFound,
// or a *NotNow where nothing could be asked.
func (w *Watch) Resend(ctx context.Context, merchant, number string) (*Order, error) {
	return w.queryAll(ctx, merchant, number, true)
}

// NotNow says that nothing was asked, because the platform is busy with the order or a call of it is on its way.
type NotNow struct {
	Wait time.Duration // how long from now it is of no use to try again
}

func (e *NotNow) Error() string {
	return "nothing was asked: the platform is busy with this order, or a call of it is on its way; try again in " + e.Wait.Round(time.Second).String()
}

func (w *Watch) queryAll(ctx context.Context, merchant, number string, again bool) (*Order, error) {
	o, err := w.Order(ctx, merchant, number)
	if err != nil {
		return nil, err
	}
	var asked bool
	wait := busyPause
	for _, t := range o.tracks() {
		name := o.name(t)
		if name != "" && !again && !o.unresolved(t) && t.State != Stuck || name != "" && t.Kind != KindRefund && again {
			continue
		}
		now, free, err := w.claim(ctx, merchant, number, name, 0)
		if err != nil {
			return nil, err
		}
		if free > 0 {
			wait = min(wait, free)
			continue
		}
		asked = true
		w.ask(ctx, now, name, again)
	}
	if !asked {
		return nil, &NotNow{Wait: max(wait, time.Second)}
	}
	return w.Order(ctx, merchant, number)
}

// sweep removes, once a day, what has ended long ago.
func (w *Watch) sweep() {
	for pause := 10 * time.Minute; ; pause = daily { // some processes live for less than a day
		select {
		case <-w.clock.After(pause):
		case <-w.ctx.Done():
			return
		}
		c := w.config.Load()
		if removed, err := w.removeOld(w.ctx, w.now()-c.Keep.Milliseconds()); err != nil && w.ctx.Err() == nil {
			c.Logger.Warn("the watch cannot remove old orders", zap.Error(err))
		} else if removed > 0 {
			c.Logger.Info("the watch has removed old orders", zap.Int("orders", removed))
		}
	}
}

// removeOld removes orders that have not changed since a time and are not followed any more. A stuck one stays, and another number of
// an order as long as the order does.
func (w *Watch) removeOld(ctx context.Context, before int64) (removed int, err error) {
	if w.config.Load().Keep <= 0 {
		return 0, nil
	}
	type old struct {
		key      string
		revision uint64
		leads    string // to the row of this key; empty: it is an order's own
	}
	stays := map[string]bool{} // lest those that lead to young orders take the places of others
	for {
		var batch []old
		enough := errors.New("enough for once")
		err := w.store.All(ctx, func(e Entry) error {
			if h, err := readHeader(e.Value); err != nil || h.due != 0 || h.state == Stuck {
				return nil
			}
			if o, err := decode(e); err == nil && o.Changed < before && !stays[e.Key] {
				leads := ""
				if o.Same != "" {
					leads = rowKey(o.Merchant, o.Same)
				}
				batch = append(batch, old{e.Key, e.Revision, leads})
			}
			if len(batch) == 10_000 {
				return enough
			}
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, enough) {
			return removed, err
		}
		for _, b := range batch {
			if b.leads != "" {
				if _, err := w.store.Get(ctx, b.leads); !errors.Is(err, ErrNotFound) {
					stays[b.key] = true
					continue
				}
			}
			if err := w.store.Delete(ctx, b.key, b.revision); err == nil {
				removed++
			} else if stays[b.key] = true; !errors.Is(err, ErrConflict) {
				return removed, err
			}
		}
		if len(batch) < 10_000 {
			return removed, nil
		}
	}
}

const disclaimer = "no settlement statement: what this gateway has seen of the day / 不是清算对账单，仅为本网关当日所见"

// Verdict is what a reconciliation says about an order or a refund.
type Verdict string

// The verdicts. Of several that apply the first one counts.
const (
	RefundUnresolved   Verdict = "refund_unresolved"    // the end of a refund that was sent is not known
	AmountDiffers      Verdict = "amount_differs"       // amount or mid is not what was ordered
	LatePaid           Verdict = "late_paid"            // the platform had called it closed
	AppNotTold         Verdict = "app_not_told"         // neither the app nor the inbox took it
	NotifyWithoutOrder Verdict = "notify_without_order" // no order call or link went through a gateway
	PaidWithoutNotify  Verdict = "paid_without_notify"  // a query, or an answer, found it
	Matched            Verdict = "matched"
)

// Record is one line of a reconciliation. Amounts are in fen.
type Record struct {
	Verdict  Verdict `json:"verdict"`
	Merchant string  `json:"merchant"`
	Order    string  `json:"order"`
	Refund   string  `json:"refund,omitempty"` // the refund's number, where the line is about one
	State    State   `json:"state"`
	Ordered  int64   `json:"ordered"`  // the amount that was ordered, or that is to be refunded; 0: not known
	Paid     int64   `json:"paid"`     // what the platform says; 0: not known
	Refunded int64   `json:"refunded"` // what is known of
	At       string  `json:"at"`       // when the payment became known, or the refund was sent: RFC 3339, Shanghai
	Told     string  `json:"told"`     // when the app was told, likewise; empty: it was not, or the platform's own answer told it
}

// Report is the reconciliation of a day.
type Report struct {
	Day     string          `json:"day"`
	Notice  string          `json:"notice"` // that it is no settlement statement
	Counts  map[Verdict]int `json:"counts"`
	Records []Record        `json:"records"`
}

var shanghai = time.FixedZone("CST", 8*60*60) // without daylight saving

// Reconcile compares what was ordered, told and taken: orders whose payment became known on a day, `2006-01-02` in Shanghai,
// and refunds that were sent on it and are unresolved.
func (w *Watch) Reconcile(ctx context.Context, day string) (*Report, error) {
	start, err := time.ParseInLocation(time.DateOnly, day, shanghai)
	if err != nil {
		return nil, errors.New("the day must be like 2026-11-28")
	}
	from, to := start.UnixMilli(), start.AddDate(0, 0, 1).UnixMilli()
	r := &Report{Day: day, Notice: disclaimer, Counts: map[Verdict]int{}, Records: []Record{}}
	err = w.each(ctx, func(o *Order) {
		if o.State.paid() && o.PaidAt >= from && o.PaidAt < to {
			r.add(Record{Verdict: o.verdict(), Merchant: o.Merchant, Order: o.ID, State: o.State, Ordered: o.Amount, Paid: o.Paid,
				Refunded: o.refunded(), At: clockText(o.PaidAt), Told: clockText(o.toldAt(""))})
		}
		for _, c := range o.Calls {
			if c.Kind == KindRefund && !c.State.ended() && c.Sent >= from && c.Sent < to {
				r.add(Record{Verdict: RefundUnresolved, Merchant: o.Merchant, Order: o.ID, Refund: c.Number, State: c.State, Ordered: c.Amount,
					Paid: o.Paid, Refunded: o.refunded(), At: clockText(c.Sent), Told: clockText(o.toldAt(c.Number))})
			}
		}
	})
	slices.SortFunc(r.Records, func(a, b Record) int {
		return strings.Compare(a.Merchant+"/"+a.Order+"/"+a.Refund, b.Merchant+"/"+b.Order+"/"+b.Refund)
	})
	return r, err
}

func (r *Report) add(record Record) {
	r.Counts[record.Verdict]++
	r.Records = append(r.Records, record)
}

// verdict is what is said about a paid order.
func (o *Order) verdict() Verdict {
	switch {
	case o.Differs:
		return AmountDiffers
	case o.Late:
		return LatePaid
	case slices.ContainsFunc(o.Told, func(e *Told) bool { return e.About == "" && e.Taken == 0 }):
		return AppNotTold
	case !o.Seen:
		return NotifyWithoutOrder
	case !o.Notified:
		return PaidWithoutNotify
	}
	return Matched
}

// toldAt is when the app took an event about a call, or the order.
func (o *Order) toldAt(about string) (at int64) {
	for _, e := range o.Told {
		if e.About == about {
			at = max(at, e.Taken)
		}
	}
	return at
}

func clockText(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).In(shanghai).Format(time.RFC3339)
}

// WriteCSV writes the report as a spreadsheet opens it: UTF-8 with a byte order mark, and a tab before each text that an app
// or a platform chose, lest a long number be rounded or a formula run. The first line says what it is not; it has as many fields as
// the others, as not every reader takes lines of several lengths.
func (r *Report) WriteCSV(to io.Writer) error {
	if _, err := io.WriteString(to, "\ufeff"); err != nil {
		return err
	}
	out := csv.NewWriter(to)
	out.UseCRLF = true
	lines := [][]string{
		{r.Day, r.Notice, "", "", "", "", "", "", "", ""},
		{"verdict", "merchant", "order", "refund", "state", "ordered_fen", "paid_fen", "refunded_fen", "at", "told"},
	}
	for _, c := range r.Records {
		refund := c.Refund
		if refund != "" {
			refund = "\t" + refund
		}
		lines = append(lines, []string{string(c.Verdict), "\t" + c.Merchant, "\t" + c.Order, refund, string(c.State), strconv.FormatInt(c.Ordered, 10),
			strconv.FormatInt(c.Paid, 10), strconv.FormatInt(c.Refunded, 10), c.At, c.Told})
	}
	return out.WriteAll(lines)
}
