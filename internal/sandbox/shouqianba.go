package sandbox

import (
	"cmp"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ShouqianbaOptions are those of a played Shouqianba. The zero value is a platform with fresh keys.
type ShouqianbaOptions struct {
	// VendorSN and VendorKey sign activations; AppID and ActivationCode are what they must name. Fresh if empty.
	VendorSN, VendorKey, AppID, ActivationCode string

	// Activations is how many terminals the code may activate. Default: 1, so that a second activation shows.
	Activations int

	// TerminalSN and TerminalKey are a terminal that is active already, for a merchant who looks after the key himself.
	// Fresh if empty.
	TerminalSN, TerminalKey string

	// PreviousKeySigns lets calls be signed with the key before the last check-in too. Without it that key is good for
	// one thing only: to check in again, when the answer to the last check-in was lost.
	PreviousKeySigns bool

	// PrivateKey signs notifies. A fresh one of 2048 bits if nil.
	PrivateKey *rsa.PrivateKey

	// SerialInHeader puts the terminal's number in front of a notify's signature, as some deployments do.
	SerialInHeader bool

	// Schedule is how long to wait before each repetition of a notify that was not answered success; the first attempt
	// is made at once. Default: 1s, 5s, 30s, 600s. Empty, but not nil: none.
	Schedule []time.Duration

	// NotifyTimeout is how long a notify waits for its answer. Default: 10 seconds.
	NotifyTimeout time.Duration

	// OrderLifetime is when a pre-created order is canceled that nobody pays. Default: 4 minutes.
	OrderLifetime time.Duration

	// Now is the platform's clock. Default: time.Now. The schedule runs on real time all the same.
	Now func() time.Time

	// RootCAs are trusted for a notify_url of https. Default: the system's.
	RootCAs *x509.CertPool

	// AllowRemote lets notifies go anywhere. Without it only to this machine.
	AllowRemote bool

	// UI serves a page of the orders, with a pay button, at `/`, as the other platform does.
	UI bool

	// SaveDir is a directory, made if need be, in which each notify that is sent is saved as it goes over the wire, as
	// <client_sn>-<n>.txt: the whole request, because the signature is in its head. The newest 1000 are kept. Default: none
	// is saved.
	SaveDir string

	// Warn, if it is not nil, is told of notifies that could not be saved.
	Warn func(text string)

	// MaxBody bounds a request's body, in bytes; MaxOrders, MaxCalls and MaxDeliveries how many of each are kept, the
	// oldest go first. Defaults: 1 MiB, 10000, 1000, 1000.
	MaxBody                            int64
	MaxOrders, MaxCalls, MaxDeliveries int
}

func (o *ShouqianbaOptions) fill() error {
	for _, value := range []struct {
		target *string
		fresh  func() string
	}{
		{&o.VendorSN, func() string { return "9" + randomDigits(7) }},
		{&o.VendorKey, func() string { return randomHex(16) }},
		{&o.AppID, func() string { return "2026" + randomDigits(12) }},
		{&o.ActivationCode, func() string { return randomDigits(8) }},
		{&o.TerminalSN, func() string { return "1" + randomDigits(17) }},
		{&o.TerminalKey, func() string { return randomHex(16) }},
	} {
		if *value.target == "" {
			*value.target = value.fresh()
		}
	}
	if o.Activations == 0 {
		o.Activations = 1
	}
	if o.PrivateKey == nil {
		var err error
		if o.PrivateKey, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return fmt.Errorf("sandbox: making a key: %w", err)
		}
	}
	if o.Schedule == nil {
		o.Schedule = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 600 * time.Second}
	}
	o.Schedule = slices.Clone(o.Schedule)
	if slices.ContainsFunc(o.Schedule, func(d time.Duration) bool { return d < 0 }) {
		return errors.New("sandbox: Schedule has a negative delay")
	}
	if o.NotifyTimeout == 0 {
		o.NotifyTimeout = 10 * time.Second
	}
	if o.OrderLifetime == 0 {
		o.OrderLifetime = 4 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 20
	}
	for target, fallback := range map[*int]int{&o.MaxOrders: 10000, &o.MaxCalls: 1000, &o.MaxDeliveries: 1000} {
		if *target == 0 {
			*target = fallback
		}
	}
	if o.MaxBody < 0 || o.MaxOrders < 0 || o.MaxCalls < 0 || o.MaxDeliveries < 0 || o.NotifyTimeout < 0 || o.OrderLifetime < 0 || o.Activations < 0 {
		return errors.New("sandbox: a limit is negative")
	}
	return nil
}

// Shouqianba is the platform 收钱吧, played. Its methods may be called from any goroutine.
type Shouqianba struct {
	*base
	options ShouqianbaOptions
	ui      http.Handler

	// base.mu guards the rest.
	terminals   map[string]*sqbTerminal
	activations int
	checkins    int
	orders      map[string]*sqbOrder // by sn and by client_sn
	ages        []*sqbOrder          // the oldest first
	nextSN      uint64
}

// sqbTerminal is an activated terminal. Its previous key is empty before the first check-in.
type sqbTerminal struct{ sn, device, key, previous string }

// NewShouqianba starts a platform. Close ends it.
func NewShouqianba(options ShouqianbaOptions) (*Shouqianba, error) {
	if err := options.fill(); err != nil {
		return nil, err
	}
	shared, err := newBase(Options{
		NotifyTimeout: options.NotifyTimeout, RootCAs: options.RootCAs, AllowRemote: options.AllowRemote, SaveDir: options.SaveDir,
		MaxCalls: options.MaxCalls, MaxDeliveries: options.MaxDeliveries, Warn: options.Warn, Now: options.Now,
	})
	if err != nil {
		return nil, err
	}
	s := &Shouqianba{
		base: shared, options: options, orders: make(map[string]*sqbOrder),
		terminals: map[string]*sqbTerminal{options.TerminalSN: {sn: options.TerminalSN, key: options.TerminalKey}},
		nextSN:    7_890_000_000_000_000 + uint64(options.Now().UnixNano())%1_000_000_000*1_000,
	}
	s.ui = s.UI()
	return s, nil
}

// Options returns the options, filled in: the keys to configure a terminal with.
func (s *Shouqianba) Options() ShouqianbaOptions {
	options := s.options
	options.Schedule = slices.Clone(options.Schedule)
	return options
}

// PublicKey is the key to verify notifies with, as PEM.
func (s *Shouqianba) PublicKey() string {
	der, err := x509.MarshalPKIXPublicKey(&s.options.PrivateKey.PublicKey)
	if err != nil {
		panic(err) // an RSA key always marshals
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Activations and Checkins count what has been executed, whether the answer was seen or not.
func (s *Shouqianba) Activations() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.activations
}

// Checkins counts the check-ins that have been executed.
func (s *Shouqianba) Checkins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkins
}

// Keys returns a terminal's current key and the one before, which may be empty; a terminal of an activation by its
// device_id too.
func (s *Shouqianba) Keys(terminal string) (current, previous string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.terminals {
		if t.sn == terminal || t.device == terminal && terminal != "" {
			return t.key, t.previous
		}
	}
	return "", ""
}

// Terminal returns the number of the terminal that was activated for a device_id, or "".
func (s *Shouqianba) Terminal(device string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.terminals {
		if t.device == device {
			return t.sn
		}
	}
	return ""
}

// sqbRefusal is an answer that is no success: of the envelope (result_code 400 or 500) or of the business (200, FAIL).
type sqbRefusal struct{ result, code, message string }

func badCall(code, message string) *sqbRefusal { return &sqbRefusal{"400", code, message} }

func noBusiness(code, message string) *sqbRefusal { return &sqbRefusal{"200", code, message} }

// ServeHTTP answers the platform's interfaces, always with HTTP status 200 as the platform does, the control interface and,
// if ShouqianbaOptions.UI says so, the page of orders.
func (s *Shouqianba) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.options.UI && (r.URL.Path == "/" || r.URL.Path == "/pay") || strings.HasPrefix(r.URL.Path, controlPath) {
		s.ui.ServeHTTP(w, r)
		return
	}
	body, recorded := s.receive(r, s.options.MaxBody)
	var fault Fault // none is one that does nothing
	if taken := s.fault(r.URL.Path, recorded.Body); taken != nil {
		fault = *taken
		if status, page, ok := fault.instead(r.Context(), s.ctx.Done()); ok {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(status)
			_, _ = w.Write(page)
			return
		}
	}
	var result map[string]any
	var refused *sqbRefusal
	switch {
	case fault.Kind == Refuse:
		refused = noBusiness(cmp.Or(fault.Code, "INTERNAL_ERROR"), "业务执行失败")
	case int64(len(body)) > s.options.MaxBody:
		refused = badCall("INVALID_PARAMS", "报文过大")
	default:
		result, refused = s.execute(r, body, fault.Kind)
	}
	if fault.Kind == RefuseExecuted && refused == nil {
		refused = noBusiness(cmp.Or(fault.Code, "UNEXPECTED_PROVIDER_ERROR"), "沙箱按要求在执行后报错")
	}
	answer, code := sqbAnswer(result, refused)
	s.mu.Lock()
	recorded.Status, recorded.ErrCode = http.StatusOK, code
	s.mu.Unlock()
	answer = fault.lose(r.Context(), s.ctx.Done(), answer, func(answer []byte, bytes int) {
		writeJSON(w, answer, bytes)
		_ = http.NewResponseController(w).Flush()
	})
	writeJSON(w, answer, len(answer))
}

// fault takes the fault that strikes a call.
func (s *Shouqianba) fault(path string, body []byte) *Fault {
	if s.healthy() {
		return nil
	}
	struck := subject{path: path, query: path == "/upay/v2/query"}
	in, err := parseFields(body)
	if err != nil {
		return s.take(struck)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{"sn", "client_sn", "refund_request_no"} {
		number := in.text(name)
		if number == "" {
			continue
		}
		struck.numbers = append(struck.numbers, number)
		if o := s.named(number); o != nil && name != "refund_request_no" {
			struck.numbers = append(struck.numbers, o.sn, o.clientSN)
			struck.age = s.now().Sub(o.created)
		}
	}
	return s.take(struck)
}

// sqbAnswer is the envelope, and the code that it says.
func sqbAnswer(result map[string]any, refused *sqbRefusal) (answer []byte, code string) {
	envelope := map[string]any{"result_code": "200", "biz_response": result}
	switch {
	case refused == nil && result["error_code"] != nil: // an answer without a business
		code, _ = result["error_code"].(string)
		envelope = result
	case refused == nil:
		code, _ = result["result_code"].(string)
	case refused.result == "200":
		code = refused.code
		envelope["biz_response"] = map[string]any{"result_code": "FAIL", "error_code": refused.code, "error_message": refused.message}
	default:
		code = refused.code
		envelope = map[string]any{"result_code": refused.result, "error_code": refused.code, "error_message": refused.message}
	}
	answer, err := json.Marshal(envelope)
	if err != nil {
		panic(err) // strings always marshal
	}
	return answer, code
}

func writeJSON(w http.ResponseWriter, answer []byte, bytes int) {
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer[:bytes])
}

// execute authenticates a call and runs it.
func (s *Shouqianba) execute(r *http.Request, body []byte, fault FaultKind) (map[string]any, *sqbRefusal) {
	if r.Method != http.MethodPost {
		return nil, badCall("INVALID_PARAMS", "请使用POST")
	}
	// A log is compressed; what type it is sent with is in no document.
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if (err != nil || media != "application/json") && r.URL.Path != "/terminal/uploadLog" {
		return nil, badCall("INVALID_PARAMS", "Content-Type应为application/json")
	}
	sn, sign, _ := strings.Cut(r.Header.Get("Authorization"), " ")

	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/terminal/activate" {
		if sn != s.options.VendorSN || !sqbSigned(sign, body, s.options.VendorKey) {
			return nil, badCall("ILLEGAL_SIGN", "签名错误")
		}
		return s.activate(body)
	}
	t := s.terminals[sn]
	if t == nil {
		return nil, badCall("INVALID_TERMINAL", "终端错误")
	}
	withPrevious := t.previous != "" && sqbSigned(sign, body, t.previous) && (s.options.PreviousKeySigns || r.URL.Path == "/terminal/checkin")
	if !withPrevious && !sqbSigned(sign, body, t.key) {
		return nil, badCall("ILLEGAL_SIGN", "签名错误")
	}
	if r.URL.Path == "/terminal/checkin" {
		return s.checkin(t, body)
	}
	if r.URL.Path == "/terminal/uploadLog" { // signed like a payment; the body is the log
		if len(body) == 0 {
			return nil, badCall("INVALID_PARAMS", "日志为空")
		}
		return map[string]any{"result_code": "200", "error_code": "SUCCESS", "error_message": "ok"}, nil
	}
	serve := map[string]func(*Shouqianba, sqbCall) (map[string]any, *sqbRefusal){
		"/upay/v2/pay":       (*Shouqianba).servePay,
		"/upay/v2/precreate": (*Shouqianba).servePrecreate,
		"/upay/v2/query":     (*Shouqianba).serveQuery,
		"/upay/v2/refund":    (*Shouqianba).serveRefund,
		"/upay/v2/cancel":    (*Shouqianba).serveCancel,
		"/upay/v2/revoke":    (*Shouqianba).serveRevoke,
	}[r.URL.Path]
	if serve == nil {
		return nil, badCall("INVALID_PARAMS", "没有这个接口")
	}
	in, refused := readCall(t, body, s.now())
	if refused != nil {
		return nil, refused
	}
	in.path, in.fault = r.URL.Path, fault
	if fault == NoOrder {
		return nil, noBusiness("UPAY_ORDER_NOT_EXISTS", "订单不存在")
	}
	return serve(s, in)
}

// sqbSigned checks sign = MD5(body + key), hexadecimal in small letters.
func sqbSigned(sign string, body []byte, key string) bool {
	digest := md5.New()
	_, _ = digest.Write(body)
	_, _ = io.WriteString(digest, key)
	return subtle.ConstantTimeCompare([]byte(sign), []byte(hex.EncodeToString(digest.Sum(nil)))) == 1
}

func (s *Shouqianba) activate(body []byte) (map[string]any, *sqbRefusal) {
	var in struct {
		AppID    string `json:"app_id"`
		Code     string `json:"code"`
		DeviceID string `json:"device_id"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.AppID == "" || in.Code == "" || in.DeviceID == "" {
		return nil, badCall("INVALID_PARAMS", "参数错误")
	}
	if in.AppID != s.options.AppID || in.Code != s.options.ActivationCode {
		return nil, badCall("INVALID_PARAMS", "激活码不存在")
	}
	if s.activations >= s.options.Activations {
		return nil, badCall("INVALID_PARAMS", "激活码已经被使用")
	}
	s.activations++
	t := &sqbTerminal{sn: "1" + randomDigits(17), device: in.DeviceID, key: randomHex(16)}
	s.terminals[t.sn] = t
	return map[string]any{"terminal_sn": t.sn, "terminal_key": t.key}, nil
}

// checkin changes the terminal's key; the one before is good for one more check-in.
func (s *Shouqianba) checkin(t *sqbTerminal, body []byte) (map[string]any, *sqbRefusal) {
	var in struct {
		SN       string `json:"terminal_sn"`
		DeviceID string `json:"device_id"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.SN != t.sn || in.DeviceID == "" {
		return nil, badCall("INVALID_PARAMS", "参数错误")
	}
	if t.device != "" && in.DeviceID != t.device {
		return nil, badCall("INVALID_TERMINAL", "设备已更换")
	}
	s.checkins++
	t.previous, t.key = t.key, randomHex(16)
	return map[string]any{"terminal_sn": t.sn, "terminal_key": t.key}, nil
}

// Interface guards
var _ http.Handler = (*Shouqianba)(nil)
