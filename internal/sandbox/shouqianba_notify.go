package sandbox

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sqbNotice is a notify on its way: repeated until it is answered success or given up.
type sqbNotice struct {
	order    *sqbOrder
	kind     Kind
	refund   string // refund_request_no
	body     []byte
	attempts int
	next     time.Time // when it is repeated
	done     bool
	failed   string // why it was given up
}

// announce starts the notify of what has happened to an order. The caller holds s.mu.
func (s *Shouqianba) announce(o *sqbOrder, kind Kind, data map[string]any) {
	body, err := json.Marshal(data)
	if err != nil {
		panic(err) // strings always marshal
	}
	n := &sqbNotice{order: o, kind: kind, body: body}
	n.refund, _ = data["refund_request_no"].(string)
	o.notices = append(o.notices, n)
	if o.notifyURL == "" {
		n.failed = "the order has no notify_url"
		return
	}
	if s.take(subject{stage: atNotify, path: kind.String(), numbers: []string{o.sn, o.clientSN, n.refund}}) != nil {
		n.failed = neverSent
		return
	}
	if s.ctx.Err() == nil {
		s.closed.Go(func() {
			s.repeat(s.options.Schedule, nil, &n.next, &n.failed, func() Delivery { return s.attempt(s.ctx, n, Genuine) })
		})
	}
}

// attempt sends a notify once and records what came of it.
func (s *Shouqianba) attempt(ctx context.Context, n *sqbNotice, variant Variant) Delivery {
	body, authorization := s.sign(n, variant)
	delivery := Delivery{
		Kind: n.kind, Variant: variant, Order: n.order.clientSN, Refund: n.refund, URL: n.order.notifyURL,
		ContentType: "application/json", Body: body, Signed: string(body), Signature: authorization,
	}
	var err error
	if delivery.Saved, err = s.saved.save(n.order.clientSN, wire(n.order.notifyURL, body, authorization)); err != nil {
		s.warnings.add(notSaved(err))
		err = nil
	}
	select {
	case s.sending <- struct{}{}:
		delivery.Time = s.now()
		delivery.Status, delivery.Answer, err = post(ctx, s.client, n.order.notifyURL, "shouqianba-sandbox", body, "application/json", authorization)
		<-s.sending
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		delivery.Err = err.Error()
	}
	delivery.Delivered = delivery.Status == http.StatusOK && delivery.Answer == "success"

	s.mu.Lock()
	defer s.mu.Unlock()
	n.attempts++
	delivery.Attempt = n.attempts
	n.done = n.done || delivery.Delivered && variant.True()
	s.deliveries.put(delivery)
	s.wake()
	return delivery
}

// wire is a notify as it goes over the wire.
func wire(address string, body []byte, authorization string) []byte {
	u, err := url.Parse(address)
	if err != nil {
		u = new(url.URL) // it will not be sent
	}
	head := "POST " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\nContent-Type: application/json\r\n"
	if authorization != "" {
		head += "Authorization: " + authorization + "\r\n"
	}
	return append([]byte(head+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))), body...)
}

// sign makes a notify's body and its Authorization: base64 of SHA256withRSA (PKCS #1 v1.5) over the body.
func (s *Shouqianba) sign(n *sqbNotice, variant Variant) (body []byte, authorization string) {
	body, key := slices.Clone(n.body), s.options.PrivateKey
	switch variant {
	case OtherKey:
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err) // the random source never fails
		}
	case Late, Reordered:
		body = reword(body, variant)
	case ForeignMID:
		body = bytes.ReplaceAll(body, []byte(n.order.terminal), []byte("9"+randomDigits(17)))
	}
	digest := sha256.Sum256(body)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		panic(err) // a key of 2048 bits has room for the digest
	}
	authorization = base64.StdEncoding.EncodeToString(signature)
	if s.options.SerialInHeader {
		authorization = n.order.terminal + " " + authorization
	}
	switch variant {
	case Unsigned:
		authorization = ""
	case Tampered:
		body = bytes.Replace(body, []byte(`"total_amount":"`), []byte(`"total_amount":"9`), 1)
	}
	return body, authorization
}

// reword writes a notify's members the other way round, or as of yesterday.
func reword(body []byte, variant Variant) []byte {
	var data map[string]string
	if err := json.Unmarshal(body, &data); err != nil {
		panic(err) // announce has written it
	}
	var params []param
	for _, name := range slices.Sorted(maps.Keys(data)) {
		value := data[name]
		if variant == Late && strings.HasSuffix(name, "time") {
			milliseconds, _ := strconv.ParseInt(value, 10, 64)
			value = strconv.FormatInt(milliseconds-(24*time.Hour).Milliseconds(), 10)
		}
		params = append(params, param{name, value})
	}
	if variant == Reordered {
		slices.Reverse(params)
	}
	return encodeJSON(params)
}

// sqbVariants are those that the platform has.
var sqbVariants = []Variant{Genuine, Duplicate, Late, Reordered, Tampered, Unsigned, OtherKey, ForeignMID}

// Notify sends the order's latest notify of that kind now, whatever the schedule says, and waits for the answer. The
// number is sn or client_sn. Of the variants there are no JSON, which all are, GBK and Recut; ForeignMID is another
// merchant's terminal here.
func (s *Shouqianba) Notify(ctx context.Context, number string, kind Kind, variant Variant) (Delivery, error) {
	if !slices.Contains(sqbVariants, variant) {
		return Delivery{}, fmt.Errorf("sandbox: this platform sends no %s notify", variant)
	}
	s.mu.Lock()
	var latest *sqbNotice
	if o := s.named(number); o != nil && o.notifyURL != "" {
		for _, n := range o.notices {
			if n.kind == kind {
				latest = n
			}
		}
	}
	s.mu.Unlock()
	if latest == nil {
		return Delivery{}, fmt.Errorf("sandbox: order %q has no %s notify, or no notify_url", number, kind)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	return s.attempt(ctx, latest, variant), nil
}

// WaitDelivered waits until the order's notifies of that kind, at least one, have all been answered success. It is an
// error if one was given up.
func (s *Shouqianba) WaitDelivered(ctx context.Context, number string, kind Kind) error {
	return waitDelivered(ctx, s.ctx, number, kind, func() (<-chan struct{}, []Notice) {
		s.mu.Lock()
		defer s.mu.Unlock()
		o := s.named(number)
		if o == nil {
			return s.changed, nil
		}
		return s.changed, o.told()
	})
}

// told are the order's notifies. The caller holds s.mu.
func (o *sqbOrder) told() (all []Notice) {
	for _, n := range o.notices {
		all = append(all, Notice{
			Kind: n.kind.String(), RefundOrderID: n.refund, URL: o.notifyURL, Attempts: n.attempts, Accepted: n.done, Failed: n.failed,
			Next: n.next,
		})
	}
	return all
}
