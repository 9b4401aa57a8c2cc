package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// Delivery is one attempt to deliver a notify.
type Delivery struct {
	Time     time.Time // on the platform's clock
	Kind     Kind
	Variant  Variant
	Order    string // merOrderId
	Refund   string // refundOrderId, of a refund
	NotifyID string
	URL      string
	Attempt  int // 1 for the first

	ContentType string
	Body        []byte
	Form        url.Values // the parameters, decoded, sign included
	Signed      string     // the string that was signed, without the key
	Signature   string     // as it was sent

	Status    int    // 0 if there was no answer
	Answer    string // at most 4 KiB of it
	Err       string // why there was none
	Delivered bool   // the answer was exactly SUCCESS
	Saved     string // the file that it was saved as, if it was
}

const maxAnswer = 4 << 10

// neverSent is why a notify that NoNotify has struck was not delivered.
const neverSent = "never sent: the fault no-notify"

// notice is a notify on its way to one address: repeated until it is delivered or given up.
type notice struct {
	order    *order
	refund   *refund
	kind     Kind
	url      string
	id       string
	params   []param // as things stood when it happened
	attempts int
	last     *Message

	next      time.Time     // when it is repeated
	delivered chan struct{} // closed when it is
	done      bool          // delivered is closed
	failed    string        // why it was given up
}

var errRemote = errors.New("the sandbox calls this machine only; see Options.AllowRemote")

// newClient makes the client that sends notifies.
func newClient(options Options) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if !options.AllowRemote {
		// Here the name has been resolved: whatever it says, nothing but loopback is called.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if parsed, err := netip.ParseAddrPort(address); err != nil || !parsed.Addr().Unmap().IsLoopback() {
				return errRemote
			}
			return nil
		}
	}
	return &http.Client{
		Timeout: options.NotifyTimeout,
		Transport: &http.Transport{ // no proxy, whatever the environment says
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: options.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// announce starts the notifies of what has happened to an order, one to each address (NOTI-02). The caller holds c.mu.
func (c *ChinaUMS) announce(o *order, r *refund, kind Kind) {
	params := notifyParams(kind, o, r)
	addresses := []string{o.notifyURL, c.options.NotifyURL}
	if addresses[0] == addresses[1] {
		addresses = addresses[:1]
	}
	addresses = slices.DeleteFunc(addresses, func(address string) bool { return address == "" })
	for _, address := range addresses {
		n := c.newNotice(o, r, kind, params, address)
		o.notices = append(o.notices, n)
		withheld := subject{stage: atNotify, path: kind.String(), numbers: []string{o.number, o.billNo}}
		if r != nil {
			withheld.numbers = append(withheld.numbers, r.number)
		}
		switch {
		case c.take(withheld) != nil:
			n.failed = neverSent
		case c.options.Manual || c.ctx.Err() != nil:
		case c.notices >= c.options.MaxOrders:
			n.failed = "too many notifies are being delivered"
		default:
			c.notices++
			c.closed.Add(1)
			go c.deliver(n)
		}
	}
	if len(addresses) == 0 {
		n := c.newNotice(o, r, kind, params, "")
		n.failed = "the order has no notifyUrl"
		o.notices = append(o.notices, n)
	}
	c.wake()
}

func (c *ChinaUMS) newNotice(o *order, r *refund, kind Kind, params []param, address string) *notice {
	n := &notice{order: o, refund: r, kind: kind, url: address, params: params, delivered: make(chan struct{})}
	if !c.options.OmitNotifyID {
		n.id = randomHex(16)
		n.params = append(slices.Clip(params), param{"notifyId", n.id})
	}
	return n
}

// deliver repeats a notify on the schedule until the answer is SUCCESS.
func (c *ChinaUMS) deliver(n *notice) {
	defer c.closed.Done()
	defer func() {
		c.mu.Lock()
		c.notices--
		c.mu.Unlock()
	}()
	c.repeat(c.options.Schedule, n.delivered, &n.next, &n.failed, func() Delivery { return c.attempt(c.ctx, n, Genuine) })
}

// repeat makes attempts on a schedule until one is taken or ended is closed. It keeps when the next is due, and in the end
// why they were given up; b.mu guards both.
func (b *base) repeat(schedule []time.Duration, ended <-chan struct{}, next *time.Time, failed *string, attempt func() Delivery) {
	var last Delivery
	for _, delay := range append([]time.Duration{0}, schedule...) {
		d := b.in(delay) // before anybody sees it: Pass counts from here on
		b.mu.Lock()
		*next = d.at
		b.mu.Unlock()
		if !b.pause(b.ctx, ended, d) {
			return
		}
		if last = attempt(); last.Delivered || b.ctx.Err() != nil {
			return
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	*failed = fmt.Sprintf("given up after %d attempts; the last answer was %d %q %s", last.Attempt, last.Status, last.Answer, last.Err)
	b.wake()
}

// attempt sends a notify once and records what came of it.
func (c *ChinaUMS) attempt(ctx context.Context, n *notice, variant Variant) Delivery {
	message := c.message(n, variant)
	delivery := Delivery{
		Kind: n.kind, Variant: variant, Order: n.order.number, NotifyID: n.id, URL: n.url,
		ContentType: message.ContentType, Body: message.Body, Form: message.Form,
		Signed: message.Signed, Signature: message.Form.Get("sign"),
	}
	if n.refund != nil {
		delivery.Refund = n.refund.number
	}
	var err error
	if delivery.Saved, err = c.saved.save(cmp.Or(n.order.billNo, n.order.number), message.Body); err != nil {
		c.warnings.add(notSaved(err))
		err = nil
	}
	select {
	case c.sending <- struct{}{}:
		delivery.Time = c.now()
		delivery.Status, delivery.Answer, err = post(ctx, c.client, n.url, "chinaums-sandbox", message.Body, message.ContentType, "")
		<-c.sending
	case <-ctx.Done():
		delivery.Time, err = c.now(), ctx.Err()
	}
	if err != nil {
		delivery.Err = err.Error()
	}
	delivery.Delivered = delivery.Status == http.StatusOK && delivery.Answer == "SUCCESS"

	c.mu.Lock()
	defer c.mu.Unlock()
	n.attempts++
	delivery.Attempt = n.attempts
	c.deliveries.put(delivery)
	if delivery.Delivered && variant.True() && !n.done {
		n.done = true
		close(n.delivered)
	}
	c.wake()
	return delivery
}

// message is what an attempt sends.
func (c *ChinaUMS) message(n *notice, variant Variant) *Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if variant == Duplicate && n.last != nil {
		return n.last
	}
	message := compose(n.params, c.signing(), n.kind, variant)
	if variant.True() {
		n.last = message
	}
	return message
}

// signing is how the options say that notifies are signed.
func (c *ChinaUMS) signing() signing {
	return signing{c.options.NotifyKey, c.options.Digest, c.options.OmitSignType, c.options.SmallSign}
}

// post sends a notify and reads the beginning of the answer.
func post(ctx context.Context, client *http.Client, address, agent string, body []byte, contentType, authorization string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", agent)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return res.StatusCode, string(content), err
}

// Notify sends one notify now, whatever the schedule says, to the order's address, and waits for the answer. The
// order's own latest event of that kind is reported; where there is none, its state. The number may be a refund's.
//
// An answer SUCCESS to a variant that is true ends the repetitions.
func (c *ChinaUMS) Notify(ctx context.Context, number string, kind Kind, variant Variant) (Delivery, error) {
	if variant < 0 || int(variant) >= len(variantNames) {
		return Delivery{}, fmt.Errorf("sandbox: variant %s", variant)
	}
	c.mu.Lock()
	n, err := c.latest(number, kind)
	c.mu.Unlock()
	if err != nil {
		return Delivery{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	return c.attempt(ctx, n, variant), nil
}

// latest finds, or makes, what Notify is to send. The caller holds c.mu.
func (c *ChinaUMS) latest(number string, kind Kind) (*notice, error) {
	o, r := c.named(number)
	if o == nil {
		return nil, fmt.Errorf("sandbox: there is no order %q", number)
	}
	for _, n := range slices.Backward(o.notices) {
		if n.kind == kind && n.url != "" && (r == nil || n.refund == r) {
			return n, nil
		}
	}
	if r == nil && len(o.refunds) > 0 {
		r = o.refunds[len(o.refunds)-1]
	}
	switch {
	case kind < 0 || int(kind) >= len(kindNames):
		return nil, fmt.Errorf("sandbox: kind %s", kind)
	case kind == KindRefund && r == nil, kind == KindBill && o.billNo == "", kind == KindDeduction && o.contract == "",
		kind == KindGuarantee && o.secure == "":
		return nil, fmt.Errorf("sandbox: order %q has nothing that a %s notify could report", number, kind)
	}
	address := o.notifyURL
	if address == "" {
		address = c.options.NotifyURL
	}
	if address == "" {
		return nil, fmt.Errorf("sandbox: order %q has no notifyUrl", number)
	}
	if kind != KindRefund {
		r = nil
	}
	return c.newNotice(o, r, kind, notifyParams(kind, o, r), address), nil
}

// named finds an order by its own number or by a refund's. The caller holds c.mu.
func (c *ChinaUMS) named(number string) (*order, *refund) {
	if o := c.find(number); o != nil {
		return o, nil
	}
	if r := c.refunds[number]; r != nil {
		r.order.age(c.now())
		return r.order, r
	}
	return nil, nil
}

// WaitDelivered waits until the order's notifies of that kind, at least one, have all been answered SUCCESS. The number
// may be a refund's. It is an error if one was given up.
func (c *ChinaUMS) WaitDelivered(ctx context.Context, number string, kind Kind) error {
	return waitDelivered(ctx, c.ctx, number, kind, func() (<-chan struct{}, []Notice) {
		c.mu.Lock()
		defer c.mu.Unlock()
		o, r := c.named(number)
		if o == nil {
			return c.changed, nil
		}
		return c.changed, slices.DeleteFunc(o.public().Notifies, func(n Notice) bool { return r != nil && n.RefundOrderID != r.number })
	})
}

// waitDelivered waits for an order's notifies of a kind; look returns all that it has, and what is closed when they change.
func waitDelivered(ctx, closed context.Context, number string, kind Kind, look func() (<-chan struct{}, []Notice)) error {
	for {
		changed, notices := look()
		notices = slices.DeleteFunc(notices, func(n Notice) bool { return n.Kind != kind.String() })
		all := len(notices) > 0
		for _, n := range notices {
			if !n.Accepted && n.Failed != "" {
				return fmt.Errorf("sandbox: the %s notify of order %q: %s", kind, number, n.Failed)
			}
			all = all && n.Accepted
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("sandbox: the %s notify of order %q was not delivered: %w", kind, number, ctx.Err())
		case <-closed.Done():
			return errors.New("sandbox: closed")
		case <-changed:
		}
	}
}
