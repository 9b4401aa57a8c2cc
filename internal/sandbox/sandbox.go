// Package sandbox plays the payment platforms on loopback, for the example, the command `caddy chinaums sandbox` and the
// tests: one fake, not three. It uses no product code and has its own implementation of every signature, so that a
// mistake in the product cannot hide behind the same mistake here.
//
// [ChinaUMS] is an [http.Handler]; serve it, point the merchant's `upstream` at it and take the keys from
// [ChinaUMS.Options]:
//
//	platform, err := sandbox.New(sandbox.Options{Schedule: []time.Duration{10 * time.Millisecond}})
//	defer platform.Close()
//	server := httptest.NewServer(platform)
//	defer server.Close()
//	keys := platform.Options() // AppID, AppKey, NotifyKey, MID, TID, SourceCode: made afresh at each start
//	…                          // the gateway orders: keys.SourceCode + "202601010000001"
//	err = platform.Pay(order)  // as the buyer would; the notify goes out
//	err = platform.WaitDelivered(ctx, order, sandbox.KindPayment)
//
// What came in is in [ChinaUMS.Calls], what went out in [ChinaUMS.Deliveries]. [ChinaUMS.Notify] sends what the platform,
// an unlucky network or an attacker might ([Variant]); [ChinaUMS.Break] makes calls and notifies fail ([Fault]).
// [ChinaUMS.Orders] are the platform's own books. All of it can be done by HTTP too: see [ChinaUMS.UI].
//
// [Shouqianba] is the second platform, used and broken in the same way.
package sandbox

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Options of a sandbox. The zero value is a platform with fresh keys.
type Options struct {
	// AppID and AppKey authenticate the merchant's calls; NotifyKey (通讯密钥) signs notifies. Fresh if empty.
	AppID, AppKey, NotifyKey string

	// MID and TID are the one merchant and terminal known here. Fresh if empty. Any tid is taken, the mid is not.
	MID, TID string

	// SourceCode (来源编号) is what every order number must begin with, 4 characters. Fresh if empty.
	SourceCode string

	// Schedule is how long to wait before each repetition of a notify that was not answered SUCCESS; the first attempt
	// is made at once. Default: 15 repetitions within 24 hours. Empty, but not nil: none.
	Schedule []time.Duration

	// Manual sends no notify by itself; only Notify does, in whatever order the test wants.
	Manual bool

	// NotifyURL is the address configured at the platform; notifies go there and to the order's own notifyUrl.
	NotifyURL string

	// NotifyTimeout is how long a notify waits for its answer. Default: 10 seconds.
	NotifyTimeout time.Duration

	// Digest of notifies and of the return page's parameters. Default: SHA256.
	Digest Digest

	// OmitSignType leaves signType out of notifies, as older deployments do.
	OmitSignType bool

	// SmallSign writes the hexadecimal sign in small letters. The platform's own is in capitals, of MD5 and of SHA-256.
	SmallSign bool

	// OmitNotifyID leaves notifyId out of notifies; document E knows none.
	OmitNotifyID bool

	// Answers says whether the answers are signed. Default: not.
	Answers AnswerSigning

	// StringAmounts answers amounts as strings, as document A's examples have them, instead of numbers.
	StringAmounts bool

	// OrderLifetime is when an unpaid order closes that has no expireTime of its own. Default: 30 minutes.
	OrderLifetime time.Duration

	// MaxSkew is how far a call's timestamp may be off. Default: 10 minutes. (No document says it.)
	MaxSkew time.Duration

	// TokenLifetime is an access token's expiresIn. Default: 1 hour.
	TokenLifetime time.Duration

	// OmitExpiresIn answers token requests without expiresIn.
	OmitExpiresIn bool

	// Now is the platform's clock. Default: time.Now. The schedule runs on real time all the same.
	Now func() time.Time

	// RootCAs are trusted for a notifyUrl of https. Default: the system's.
	RootCAs *x509.CertPool

	// AllowRemote lets notifies and returning browsers go anywhere. Without it only to this machine: a sandbox must be
	// no tool for sending requests around the Internet.
	AllowRemote bool

	// SaveDir is a directory, made if need be, in which each notify that is sent is saved as it goes over the wire: its body,
	// as <order>-<n>.txt. The newest 1000 are kept. Default: none is saved.
	SaveDir string

	// Warn, if it is not nil, is told of calls that the sandbox takes although the documents want them otherwise, once for
	// each interface, and of notifies that could not be saved. The page shows the same lines.
	Warn func(text string)

	// UI serves a page of the orders, with a pay button, at `/`. See [ChinaUMS.UI].
	UI bool

	// MaxBody bounds a request's body, in bytes; MaxOrders, MaxCalls and MaxDeliveries how many of each are kept, the
	// oldest go first. Defaults: 1 MiB, 10000, 1000, 1000.
	MaxBody                            int64
	MaxOrders, MaxCalls, MaxDeliveries int
}

// AnswerSigning says how the platform signs its answers.
type AnswerSigning int

// The ways to sign answers.
const (
	AnswersUnsigned AnswerSigning = iota
	AnswersSigned
	AnswersFalselySigned
)

// defaultSchedule fits what the documents say, several attempts within 24 hours; its steps are those of WeChat Pay.
var defaultSchedule = []time.Duration{
	15 * time.Second, 15 * time.Second, 30 * time.Second, 3 * time.Minute, 10 * time.Minute, 20 * time.Minute,
	30 * time.Minute, 30 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 3 * time.Hour, 3 * time.Hour,
	6 * time.Hour, 6*time.Hour - 5*time.Minute,
}

// fill checks the options and puts the defaults in.
func (o *Options) fill() error {
	for _, value := range []*string{&o.AppID, &o.AppKey} {
		if *value == "" {
			*value = randomHex(16)
		}
	}
	if o.NotifyKey == "" {
		o.NotifyKey = (rand.Text() + rand.Text())[:48]
	}
	if o.MID == "" {
		o.MID = "898" + randomDigits(12)
	}
	if o.TID == "" {
		o.TID = randomDigits(8)
	}
	if o.SourceCode == "" {
		o.SourceCode = rand.Text()[:4]
	}
	if len(o.SourceCode) != 4 {
		return errors.New("sandbox: SourceCode must have 4 characters")
	}
	for name, value := range map[string]string{"AppID": o.AppID, "MID": o.MID, "TID": o.TID, "SourceCode": o.SourceCode} {
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`",\&=`, r) }) {
			return fmt.Errorf("sandbox: %s holds a character that no such number has", name)
		}
	}
	if o.Schedule == nil {
		o.Schedule = defaultSchedule
	}
	o.Schedule = slices.Clone(o.Schedule)
	if slices.ContainsFunc(o.Schedule, func(d time.Duration) bool { return d < 0 }) {
		return errors.New("sandbox: Schedule has a negative delay")
	}
	switch o.Digest {
	case "":
		o.Digest = SHA256
	case MD5, SHA256:
	default:
		return fmt.Errorf("sandbox: Digest must be %s or %s", MD5, SHA256)
	}
	for name, option := range map[string]struct {
		value    *time.Duration
		fallback time.Duration
	}{
		"NotifyTimeout": {&o.NotifyTimeout, 10 * time.Second},
		"OrderLifetime": {&o.OrderLifetime, 30 * time.Minute},
		"MaxSkew":       {&o.MaxSkew, 10 * time.Minute},
		"TokenLifetime": {&o.TokenLifetime, time.Hour},
	} {
		if *option.value < 0 {
			return fmt.Errorf("sandbox: %s is negative", name)
		}
		if *option.value == 0 {
			*option.value = option.fallback
		}
	}
	if o.MaxBody < 0 {
		return errors.New("sandbox: MaxBody is negative")
	}
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 20
	}
	for name, option := range map[string]struct {
		value    *int
		fallback int
	}{
		"MaxOrders":     {&o.MaxOrders, 10000},
		"MaxCalls":      {&o.MaxCalls, 1000},
		"MaxDeliveries": {&o.MaxDeliveries, 1000},
	} {
		if *option.value < 0 {
			return fmt.Errorf("sandbox: %s is negative", name)
		}
		if *option.value == 0 {
			*option.value = option.fallback
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// ChinaUMS is the platform 银联商务, played. Its methods may be called from any goroutine.
type ChinaUMS struct {
	*base
	options Options
	ui      http.Handler

	// base.mu guards the rest.
	orders   map[string]*order
	byTarget map[string]*order
	refunds  map[string]*refund
	cashiers map[string]*order
	ages     []*order // the oldest first
	notices  int      // being delivered
	nonces   nonces
	tokens   tokens
	outcomes []string // refundStatus of the next refunds
}

// New starts a platform. Close ends it.
func New(options Options) (*ChinaUMS, error) {
	if err := options.fill(); err != nil {
		return nil, err
	}
	shared, err := newBase(options)
	if err != nil {
		return nil, err
	}
	c := &ChinaUMS{
		base: shared, options: options, orders: make(map[string]*order), byTarget: make(map[string]*order),
		refunds: make(map[string]*refund), cashiers: make(map[string]*order),
	}
	c.ui = c.UI()
	return c, nil
}

// Options returns the options, filled in: the keys to configure a merchant with.
func (c *ChinaUMS) Options() Options {
	options := c.options
	options.Schedule = slices.Clone(options.Schedule)
	return options
}

// ServeHTTP answers the platform's interfaces, its cashier, the control interface and, if Options.UI says so, the page of
// orders.
func (c *ChinaUMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		c.serveAPI(w, r)
	case strings.HasPrefix(r.URL.Path, cashierPath):
		c.serveCashier(w, r)
	case c.options.UI, strings.HasPrefix(r.URL.Path, controlPath):
		c.ui.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

func randomHex(bytes int) string {
	random := make([]byte, bytes)
	_, _ = rand.Read(random) // never fails: it ends the program instead
	return hex.EncodeToString(random)
}

func randomDigits(count int) string {
	digits := make([]byte, count)
	_, _ = rand.Read(digits)
	for i := range digits {
		digits[i] = '0' + digits[i]%10
	}
	return string(digits)
}

// Interface guards
var _ http.Handler = (*ChinaUMS)(nil)
