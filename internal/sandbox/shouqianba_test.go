package sandbox

import (
	"bytes"
	"context"
	"crypto"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// till is a played Shouqianba, and a merchant who signs for himself.
type till struct {
	*Shouqianba
	t    *testing.T
	keys ShouqianbaOptions
	url  string

	mu  sync.Mutex
	now time.Time
}

func (b *till) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *till) wait(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

var sqbTestKey = sync.OnceValue(func() *rsa.PrivateKey {
	s, err := NewShouqianba(ShouqianbaOptions{})
	if err != nil {
		panic(err)
	}
	s.Close()
	return s.Options().PrivateKey
})

func newTill(t *testing.T, options ShouqianbaOptions) *till {
	t.Helper()
	b := &till{t: t, now: time.Date(2026, 11, 24, 4, 0, 0, 0, time.UTC)} // noon in Beijing
	options.Now, options.PrivateKey = b.clock, sqbTestKey()
	s, err := NewShouqianba(options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	b.Shouqianba, b.keys, b.url = s, s.Options(), server.URL
	t.Cleanup(func() {
		s.Close()
		server.Close()
	})
	return b
}

// answered is an answer of the platform, flattened.
type answered map[string]string

func (b *till) post(path, sn, key string, body any) answered {
	b.t.Helper()
	content, ok := body.(string)
	if !ok {
		encoded, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		content = string(encoded)
	}
	sum := md5.Sum([]byte(content + key))
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url+path, strings.NewReader(content))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", sn+" "+hex.EncodeToString(sum[:]))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answered{"error": err.Error()}
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return answered{"error": err.Error()}
	}
	flat := answered{"status": fmt.Sprint(res.StatusCode)}
	var flatten func(prefix string, value any)
	flatten = func(prefix string, value any) {
		if object, ok := value.(map[string]any); ok {
			for name, member := range object {
				flatten(strings.TrimPrefix(prefix+"."+name, "."), member)
			}
			return
		}
		flat[prefix] = fmt.Sprint(value)
	}
	var document any
	if err := json.Unmarshal(raw, &document); err != nil {
		flat["error"] = err.Error()
		return flat
	}
	flatten("", document)
	return flat
}

// call calls an interface as the terminal that is active from the start.
func (b *till) call(path string, pairs ...string) answered {
	b.t.Helper()
	body := map[string]string{"terminal_sn": b.keys.TerminalSN}
	for i := 0; i+1 < len(pairs); i += 2 {
		body[pairs[i]] = pairs[i+1]
	}
	return b.post(path, b.keys.TerminalSN, b.keys.TerminalKey, body)
}

// want compares fields of an answer, given as name=value.
func (b *till) want(a answered, pairs ...string) {
	b.t.Helper()
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if a[name] != value {
			b.t.Errorf("%s is %q, want %q, in %v", name, a[name], value, a)
		}
	}
}

func (b *till) precreate(number, total, notifyURL string) answered {
	b.t.Helper()
	return b.call("/upay/v2/precreate", "client_sn", number, "total_amount", total, "payway", "3", "subject", "Pizza", "operator", "Obama", "notify_url", notifyURL)
}

func TestShouqianbaVectors(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", "shouqianba.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ SN, Key, Body, Authorization string }
	if err := json.Unmarshal(content, &vectors); err != nil || len(vectors) == 0 {
		t.Fatal(err)
	}
	for _, vector := range vectors {
		sn, sign, _ := strings.Cut(vector.Authorization, " ")
		if sn != vector.SN || !sqbSigned(sign, []byte(vector.Body), vector.Key) || sqbSigned(sign, []byte(vector.Body+" "), vector.Key) ||
			sqbSigned(strings.ToUpper(sign), []byte(vector.Body), vector.Key) {
			t.Errorf("%s does not verify, or too much does", vector.Authorization)
		}
	}
}

func TestShouqianbaTerminals(t *testing.T) {
	b := newTill(t, ShouqianbaOptions{})
	k := b.keys
	activation := map[string]string{"app_id": k.AppID, "code": k.ActivationCode, "device_id": "d"}
	b.want(b.post("/terminal/activate", k.VendorSN, "wrong", activation), "status=200", "result_code=400", "error_code=ILLEGAL_SIGN")
	b.want(b.post("/terminal/activate", k.VendorSN, k.VendorKey, map[string]string{"app_id": k.AppID, "code": "0", "device_id": "d"}), "result_code=400")
	b.want(b.post("/terminal/activate", k.VendorSN, k.VendorKey, map[string]string{"app_id": k.AppID, "code": k.ActivationCode}), "error_code=INVALID_PARAMS")

	first := b.post("/terminal/activate", k.VendorSN, k.VendorKey, activation)
	sn, key := first["biz_response.terminal_sn"], first["biz_response.terminal_key"]
	b.want(first, "result_code=200", "biz_response.terminal_sn="+b.Terminal("d"))
	b.want(b.post("/terminal/activate", k.VendorSN, k.VendorKey, activation), "result_code=400", "error_message=激活码已经被使用")

	query := map[string]string{"terminal_sn": sn, "client_sn": "1"}
	checkin := map[string]string{"terminal_sn": sn, "device_id": "d"}
	b.want(b.post("/upay/v2/query", sn, key, query), "biz_response.error_code=UPAY_ORDER_NOT_EXISTS")
	b.want(b.post("/terminal/checkin", sn, key, map[string]string{"terminal_sn": sn, "device_id": "e"}), "error_code=INVALID_TERMINAL")
	b.want(b.post("/terminal/checkin", sn, "wrong", checkin), "error_code=ILLEGAL_SIGN")
	second := b.post("/terminal/checkin", sn, key, checkin)["biz_response.terminal_key"]
	b.want(b.post("/upay/v2/query", sn, key, query), "error_code=ILLEGAL_SIGN")
	b.want(b.post("/upay/v2/query", sn, second, query), "result_code=200")

	// The answer is lost; the key before is good for one more check-in, and no more.
	b.Break(Fault{Kind: CutExecuted, Path: "/terminal/checkin"})
	if a := b.post("/terminal/checkin", sn, second, checkin); a["error"] == "" {
		t.Errorf("answer: %v", a)
	}
	third := b.post("/terminal/checkin", sn, second, checkin)["biz_response.terminal_key"]
	b.want(b.post("/upay/v2/query", sn, third, query), "result_code=200")
	b.want(b.post("/terminal/checkin", sn, second, checkin), "error_code=ILLEGAL_SIGN")
	if b.Activations() != 1 || b.Checkins() != 3 {
		t.Errorf("%d activations, %d check-ins", b.Activations(), b.Checkins())
	}
	b.want(b.post("/upay/v2/query", "1", "k", query), "error_code=INVALID_TERMINAL")
	b.want(b.post("/upay/v2/query", k.TerminalSN, k.TerminalKey, query), "error_code=INVALID_TERMINAL")

	lenient := newTill(t, ShouqianbaOptions{PreviousKeySigns: true})
	lenient.post("/terminal/checkin", lenient.keys.TerminalSN, lenient.keys.TerminalKey, map[string]string{"terminal_sn": lenient.keys.TerminalSN, "device_id": "x"})
	lenient.want(lenient.call("/upay/v2/query", "client_sn", "1"), "result_code=200")
}

func TestShouqianbaOrders(t *testing.T) {
	b := newTill(t, ShouqianbaOptions{})
	b.want(b.precreate("A1", "100", ""), "biz_response.result_code=PRECREATE_SUCCESS", "biz_response.data.order_status=CREATED", "biz_response.data.total_amount=100")
	b.want(b.precreate("A1", "100", ""), "biz_response.error_code=CLIENT_SN_CONFLICT")
	b.want(b.precreate("A2", "1.00", ""), "error_code=INVALID_PARAMS")
	b.want(b.precreate("", "1", ""), "error_code=INVALID_PARAMS")
	b.want(b.call("/upay/v2/query"), "error_code=INVALID_PARAMS")
	b.want(b.call("/upay/v2/refund", "client_sn", "A1", "refund_request_no", "1", "operator", "o", "refund_amount", "1"), "biz_response.error_code=UPAY_REFUND_INVALID_ORDER_STATE")
	if err := b.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	if err := b.Pay("A1"); err == nil {
		t.Error("an order was paid twice")
	}
	paid := b.call("/upay/v2/query", "client_sn", "A1")
	b.want(paid, "biz_response.data.order_status=PAID", "biz_response.data.status=SUCCESS", "biz_response.data.finish_time=1795492800000")
	b.want(b.call("/upay/v2/query", "sn", paid["biz_response.data.sn"], "client_sn", "none"), "biz_response.data.client_sn=A1")

	refund := func(number, amount string) answered {
		return b.call("/upay/v2/refund", "client_sn", "A1", "refund_request_no", number, "operator", "o", "refund_amount", amount)
	}
	first := refund("1", "30")
	b.want(first, "biz_response.result_code=REFUND_SUCCESS", "biz_response.data.order_status=PARTIAL_REFUNDED", "biz_response.data.net_amount=70", "biz_response.data.settlement_amount=30")
	if again := refund("1", "30"); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("the same refund again: %v", again)
	}
	b.want(refund("1", "31"), "biz_response.error_code=UPAY_REFUND_ORDER_NOOP")
	b.want(refund("2", "71"), "biz_response.error_code=REFUNDABLE_AMOUNT_NOT_ENOUGH")
	b.want(refund("3", "70"), "biz_response.data.order_status=REFUNDED", "biz_response.data.net_amount=0")
	b.want(refund("4", "1"), "biz_response.error_code=UPAY_REFUND_INVALID_ORDER_STATE")
	b.want(b.call("/upay/v2/revoke", "client_sn", "A1"), "biz_response.error_code=UPAY_CANCEL_INVALID_ORDER_STATE")
	b.want(b.call("/upay/v2/refund", "client_sn", "A1", "operator", "o", "refund_amount", "1"), "error_code=INVALID_PARAMS")

	b.want(b.call("/upay/v2/pay", "client_sn", "B1", "total_amount", "5", "dynamic_id", "13", "subject", "s", "operator", "o"), "biz_response.result_code=PAY_SUCCESS")
	b.wait(91 * 24 * time.Hour)
	b.want(b.call("/upay/v2/refund", "client_sn", "B1", "refund_request_no", "1", "operator", "o", "refund_amount", "5"), "biz_response.error_code=UPAY_REFUND_INVALID_ORDER_STATE")
	b.want(b.call("/upay/v2/revoke", "client_sn", "B1"), "biz_response.error_code=UPAY_CANCEL_INVALID_ORDER_STATE")

	b.want(b.call("/upay/v2/pay", "client_sn", "C1", "total_amount", "5", "dynamic_id", "13", "subject", "s", "operator", "o"), "biz_response.result_code=PAY_SUCCESS")
	b.want(b.call("/upay/v2/revoke", "client_sn", "C1"), "biz_response.result_code=CANCEL_SUCCESS", "biz_response.data.order_status=CANCELED", "biz_response.data.net_amount=0")
	b.want(b.call("/upay/v2/cancel", "client_sn", "C1"), "biz_response.error_code=UPAY_CANCEL_ORDER_NOOP")

	b.precreate("D1", "5", "")
	b.want(b.call("/upay/v2/revoke", "client_sn", "D1"), "biz_response.error_code=UPAY_CANCEL_INVALID_ORDER_STATE")
	b.want(b.call("/upay/v2/cancel", "client_sn", "D1"), "biz_response.data.order_status=CANCELED")
	b.precreate("E1", "5", "")
	b.wait(4 * time.Minute)
	b.want(b.call("/upay/v2/query", "client_sn", "E1"), "biz_response.data.order_status=PAY_CANCELED", "biz_response.data.status=FAIL_CANCELED")
	if err := b.Pay("E1"); err == nil {
		t.Error("an order was paid that is no more")
	}
	b.want(b.post("/upay/v2/none", b.keys.TerminalSN, b.keys.TerminalKey, "{}"), "error_code=INVALID_PARAMS")
	b.want(b.post("/upay/v2/query", b.keys.TerminalSN, b.keys.TerminalKey, "[]"), "error_code=INVALID_PARAMS")
}

func TestShouqianbaKeepsNoMoreOrders(t *testing.T) {
	b := newTill(t, ShouqianbaOptions{MaxOrders: 2})
	for _, number := range []string{"1", "2", "3"} {
		b.precreate(number, "5", "")
	}
	b.want(b.call("/upay/v2/query", "client_sn", "1"), "biz_response.error_code=UPAY_ORDER_NOT_EXISTS")
	b.want(b.call("/upay/v2/query", "client_sn", "2"), "biz_response.result_code=SUCCESS")
}

func TestShouqianbaFaults(t *testing.T) {
	for _, test := range []struct {
		kind     FaultKind
		executed bool
	}{
		{Cut, false}, {CutExecuted, true}, {CutBody, true}, {ServerError, false}, {NotJSON, false}, {Unauthorized, false}, {TooLarge, true}, {Slow, true},
	} {
		t.Run(fmt.Sprint(test.kind), func(t *testing.T) {
			b := newTill(t, ShouqianbaOptions{})
			b.Break(Fault{Kind: test.kind, Path: "/upay/v2/precreate", For: time.Millisecond})
			broken := b.precreate("1", "5", "")
			if whole := broken["biz_response.result_code"] == "PRECREATE_SUCCESS"; whole != (test.kind == TooLarge || test.kind == Slow) {
				t.Errorf("answer: %v", broken)
			}
			found := b.call("/upay/v2/query", "client_sn", "1")["biz_response.result_code"] == "SUCCESS"
			if found != test.executed {
				t.Errorf("executed: %v", found)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		b := newTill(t, ShouqianbaOptions{})
		b.Break(Fault{Kind: Refuse, Code: "TRADE_TIMEOUT"})
		b.want(b.precreate("1", "5", ""), "result_code=200", "biz_response.result_code=FAIL", "biz_response.error_code=TRADE_TIMEOUT")
	})
	t.Run("healed", func(t *testing.T) {
		b := newTill(t, ShouqianbaOptions{})
		b.Break(Fault{Kind: Cut, Times: -1})
		b.Heal()
		b.want(b.precreate("1", "5", ""), "result_code=200")
	})
	t.Run("hanging answers end with the platform", func(t *testing.T) {
		b := newTill(t, ShouqianbaOptions{})
		b.Break(Fault{Kind: HangExecuted})
		time.AfterFunc(20*time.Millisecond, b.Close) // a call that comes after it ends at once, too
		if a := b.precreate("1", "5", ""); a["error"] == "" {
			t.Errorf("answer: %v", a)
		}
	})
}

func TestShouqianbaNotifies(t *testing.T) {
	b := newTill(t, ShouqianbaOptions{Schedule: []time.Duration{0, 0, 0}})
	var mu sync.Mutex
	var bodies [][]byte
	var headers []http.Header
	answers := []string{"fail", "success "}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		content, _ := io.ReadAll(r.Body)
		bodies, headers = append(bodies, content), append(headers, r.Header)
		answer := "success"
		if len(answers) > 0 {
			answer, answers = answers[0], answers[1:]
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(app.Close)
	b.precreate("A1", "100", app.URL)
	if err := b.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.WaitDelivered(ctx, "A1", KindPayment); err != nil {
		t.Fatal(err)
	}
	deliveries := b.Deliveries()
	if len(deliveries) != 3 || deliveries[0].Delivered || deliveries[1].Delivered || !deliveries[2].Delivered || deliveries[2].Attempt != 3 {
		t.Errorf("deliveries: %+v", deliveries)
	}
	block, _ := pem.Decode([]byte(b.PublicKey()))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(body []byte, header string) error {
		signature, err := base64.StdEncoding.DecodeString(header)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(body)
		return rsa.VerifyPKCS1v15(parsed.(*rsa.PublicKey), crypto.SHA256, digest[:], signature)
	}
	for i, body := range bodies {
		if !bytes.Equal(body, bodies[0]) || !strings.Contains(string(body), `"order_status":"PAID"`) || headers[i].Get("Content-Type") != "application/json" {
			t.Errorf("notify %d: %s", i, body)
		}
		if err := verify(body, headers[i].Get("Authorization")); err != nil {
			t.Errorf("notify %d: %v", i, err)
		}
	}
	for variant, valid := range map[Variant]bool{Genuine: true, Duplicate: true, ForeignMID: true, Late: true, Reordered: true, Tampered: false, OtherKey: false, Unsigned: false} {
		if _, err := b.Notify(ctx, "A1", KindPayment, variant); err != nil {
			t.Fatal(err)
		}
		last := len(bodies) - 1
		if err := verify(bodies[last], headers[last].Get("Authorization")); (err == nil) != valid {
			t.Errorf("%s: %v", variant, err)
		}
		if foreign := !strings.Contains(string(bodies[last]), b.keys.TerminalSN); foreign != (variant == ForeignMID) {
			t.Errorf("%s: %s", variant, bodies[last])
		}
	}
	if _, err := b.Notify(ctx, "A1", KindPayment, GBK); err == nil {
		t.Error("a variant was sent that this platform has not")
	}
	if _, err := b.Notify(ctx, "A1", KindRefund, Genuine); err == nil {
		t.Error("a refund was reported that was not made")
	}
	mu.Lock()
	answers = []string{"no", "no", "no", "no"}
	mu.Unlock()
	b.call("/upay/v2/refund", "client_sn", "A1", "refund_request_no", "1", "operator", "o", "refund_amount", "1")
	if err := b.WaitDelivered(ctx, "A1", KindRefund); err == nil || !strings.Contains(err.Error(), "given up after 4 attempts") {
		t.Errorf("WaitDelivered: %v", err)
	}
	b.precreate("B1", "1", "http://192.0.2.1/")
	if err := b.Pay("B1"); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitDelivered(ctx, "B1", KindPayment); err == nil || !strings.Contains(err.Error(), "this machine only") {
		t.Errorf("WaitDelivered: %v", err)
	}
}

func TestShouqianbaSerialInHeader(t *testing.T) {
	b := newTill(t, ShouqianbaOptions{Schedule: []time.Duration{}, SerialInHeader: true})
	seen := make(chan string, 1)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Authorization") }))
	t.Cleanup(app.Close)
	b.precreate("A1", "100", app.URL)
	if err := b.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	if header := <-seen; !strings.HasPrefix(header, b.keys.TerminalSN+" ") {
		t.Errorf("Authorization: %s", header)
	}
}

func TestShouqianbaOptionsAreChecked(t *testing.T) {
	for _, options := range []ShouqianbaOptions{
		{Schedule: []time.Duration{-1}}, {MaxBody: -1}, {MaxOrders: -1}, {NotifyTimeout: -1}, {Activations: -1},
	} {
		options.PrivateKey = sqbTestKey()
		if _, err := NewShouqianba(options); err == nil {
			t.Errorf("%+v is taken", options)
		}
	}
}
