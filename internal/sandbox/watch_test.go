package sandbox_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// shop is a merchant outside: it signs for itself, calls by HTTP, and takes notifies.
type shop struct {
	t        *testing.T
	url      string
	client   *http.Client
	notifyTo string
	notifies chan string // the numbers that notifies are about: the refund's, or the order's
	books    func() []sandbox.Order
	sign     func(body []byte) (header string)
	made     int

	keys sandbox.Options
	till sandbox.ShouqianbaOptions
}

func newShop(t *testing.T, platform interface {
	http.Handler
	Close()
	Orders() []sandbox.Order
}) *shop {
	t.Helper()
	server := httptest.NewServer(platform)
	s := &shop{
		t: t, url: server.URL, books: platform.Orders, notifies: make(chan string, 1000),
		// One connection a call: a cut on a connection used before would be repeated by net/http itself.
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var told struct {
			ClientSN string `json:"client_sn"`
			Refund   string `json:"refund_request_no"`
		}
		if json.Unmarshal(body, &told) == nil {
			s.notifies <- told.ClientSN + told.Refund
			_, _ = io.WriteString(w, "success")
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil || !s.genuine(form) {
			t.Errorf("a notify that does not verify: %s", body)
		}
		s.notifies <- form.Get("merOrderId") + form.Get("billNo") + form.Get("refundOrderId")
		_, _ = io.WriteString(w, "SUCCESS")
	}))
	s.notifyTo = app.URL
	t.Cleanup(func() {
		platform.Close()
		server.Close()
		app.Close()
	})
	return s
}

// genuine verifies a notify by the documents' rules.
func (s *shop) genuine(form url.Values) bool {
	var pairs []string
	for name, values := range form {
		if name != "sign" && values[0] != "" {
			pairs = append(pairs, name+"="+values[0])
		}
	}
	slices.Sort(pairs)
	sum := sha256.Sum256([]byte(strings.Join(pairs, "&") + s.keys.NotifyKey))
	return strings.EqualFold(hex.EncodeToString(sum[:]), form.Get("sign"))
}

func newUMS(t *testing.T, options sandbox.Options) (*sandbox.ChinaUMS, *shop) {
	t.Helper()
	if options.Schedule == nil {
		options.Schedule = []time.Duration{}
	}
	platform, err := sandbox.New(options)
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t, platform)
	s.keys = platform.Options()
	s.sign = func(body []byte) string {
		digest := sha256.Sum256(body)
		stamp := time.Now().UTC().Add(8 * time.Hour).Format("20060102150405")
		nonce := strings.ToLower(rand.Text())
		mac := hmac.New(sha256.New, []byte(s.keys.AppKey))
		mac.Write([]byte(s.keys.AppID + stamp + nonce + hex.EncodeToString(digest[:])))
		return fmt.Sprintf(`OPEN-BODY-SIG AppId="%s", Timestamp="%s", Nonce="%s", Signature="%s"`,
			s.keys.AppID, stamp, nonce, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return platform, s
}

func newTill(t *testing.T) (*sandbox.Shouqianba, *shop) {
	t.Helper()
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{Schedule: []time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t, platform)
	s.till = platform.Options()
	s.sign = func(body []byte) string {
		return fmt.Sprintf("%s %x", s.till.TerminalSN, md5.Sum(append(slices.Clone(body), s.till.TerminalKey...)))
	}
	return platform, s
}

// fresh is an order's or a refund's number.
func (s *shop) fresh() string {
	s.made++
	return fmt.Sprintf("%s2026%08d", s.keys.SourceCode, s.made)
}

// try calls an interface; the answer is flat, a member of an object named by both names, as data.order_status.
func (s *shop) try(path string, pairs ...any) (map[string]string, error) {
	fields := map[string]any{
		"requestTimestamp": time.Now().UTC().Add(8 * time.Hour).Format(time.DateTime), "mid": s.keys.MID, "tid": s.keys.TID, "instMid": "APPDEFAULT",
		"terminal_sn": s.till.TerminalSN,
	}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i].(string)] = pairs[i+1]
	}
	var written bytes.Buffer
	encoder := json.NewEncoder(&written)
	encoder.SetEscapeHTML(false)
	done(s.t, encoder.Encode(fields))
	body := written.Bytes()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", s.sign(body))
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if inner, ok := answer["biz_response"].(map[string]any); ok {
		answer = inner
	}
	flat := make(map[string]string)
	flatten(flat, "", answer)
	return flat, nil
}

func flatten(into map[string]string, prefix string, object map[string]any) {
	for name, value := range object {
		switch value := value.(type) {
		case map[string]any:
			flatten(into, name+".", value)
		case float64:
			into[prefix+name] = fmt.Sprintf("%.0f", value)
		default:
			into[prefix+name] = fmt.Sprint(value)
		}
	}
}

// call is try where there has to be an answer.
func (s *shop) call(path string, pairs ...any) map[string]string {
	s.t.Helper()
	answer, err := s.try(path, pairs...)
	if err != nil {
		s.t.Fatalf("%s: %v", path, err)
	}
	return answer
}

// lost is try where there must be none.
func (s *shop) lost(path string, pairs ...any) {
	s.t.Helper()
	if answer, err := s.try(path, pairs...); err == nil {
		s.t.Errorf("%s was answered: %v", path, answer)
	}
}

// control posts to the control interface, and wants it done.
func (s *shop) control(path, body string) string {
	s.t.Helper()
	status, content := s.request(http.MethodPost, path, body)
	if status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", path, body, status, content)
	}
	return content
}

func (s *shop) request(method, path, body string, header ...string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/sandbox/"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(content)
}

// book is what the platform's books say of an order: by HTTP, and the same by the Go API.
func (s *shop) book(number string) sandbox.Order {
	s.t.Helper()
	_, content := s.request(http.MethodGet, "orders?number="+url.QueryEscape(number), "")
	var read struct{ Orders []sandbox.Order }
	if err := json.Unmarshal([]byte(content), &read); err != nil || len(read.Orders) != 1 {
		s.t.Fatalf("the books of %s: %v, %s", number, err, content)
	}
	same := slices.ContainsFunc(s.books(), func(o sandbox.Order) bool {
		over := read.Orders[0]
		o.Notifies, over.Notifies = nil, nil // an attempt may have ended in between
		a, errA := json.Marshal(o)
		b, errB := json.Marshal(over)
		return errA == nil && errB == nil && bytes.Equal(a, b)
	})
	if !same {
		s.t.Errorf("Orders says otherwise than %s", content)
	}
	return read.Orders[0]
}

// returned checks how often, by what and how much money has gone back, as by=amount.
func (s *shop) returned(number string, want ...string) {
	s.t.Helper()
	var got []string
	for _, r := range s.book(number).Returns {
		got = append(got, fmt.Sprintf("%s=%d", r.By, r.Amount))
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("money has gone back: %q, want %q", got, want)
	}
}

// want compares fields of an answer, given as name=value; a name without a value is absent.
func (s *shop) want(answer map[string]string, pairs ...string) {
	s.t.Helper()
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if answer[name] != value {
			s.t.Errorf("%s is %q, want %q, in %v", name, answer[name], value, answer)
		}
	}
}

// told waits for the next notify.
func (s *shop) told(number string) {
	s.t.Helper()
	select {
	case got := <-s.notifies:
		if got != number {
			s.t.Errorf("a notify of %s, not of %s", got, number)
		}
	case <-time.After(2 * time.Minute):
		s.t.Fatalf("no notify of %s", number)
	}
}

func done(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *shop) order(pairs ...any) string {
	s.t.Helper()
	number := s.fresh()
	s.want(s.call("/v1/netpay/trade/precreate", append([]any{"merOrderId", number, "totalAmount", 1000, "notifyUrl", s.notifyTo}, pairs...)...), "errCode=SUCCESS")
	return number
}

func (s *shop) paid(platform *sandbox.ChinaUMS, pairs ...any) string {
	s.t.Helper()
	number := s.order(pairs...)
	done(s.t, platform.Pay(number))
	s.told(number)
	return number
}

// bill makes a bill and pays it.
func (s *shop) bill(platform *sandbox.ChinaUMS) string {
	s.t.Helper()
	number := s.fresh()
	s.want(s.call("/v1/netpay/bills/get-qrcode", "billNo", number, "billDate", "2026-01-02", "instMid", "QRPAYDEFAULT", "totalAmount", 1000, "notifyUrl", s.notifyTo), "errCode=SUCCESS")
	done(s.t, platform.Pay(number))
	s.told(number)
	return number
}

func TestNotifyNeverSent(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	silent, heard := s.order(), s.order()
	s.control("faults", `{"kind":"no-notify","order":"`+silent+`","times":-1}`)
	done(t, platform.Pay(silent))
	done(t, platform.Pay(heard))
	s.told(heard)
	if n := s.book(silent).Notifies; len(n) != 1 || n[0].Attempts != 0 || n[0].Accepted || !strings.Contains(n[0].Failed, "never sent") {
		t.Errorf("%+v", n)
	}
	done(t, platform.WaitDelivered(t.Context(), heard, sandbox.KindPayment))
	if n := s.book(heard).Notifies; len(n) != 1 || n[0].Attempts != 1 || !n[0].Accepted || n[0].Kind != "payment" {
		t.Errorf("%+v", n)
	}
	s.want(s.call("/v1/netpay/query", "merOrderId", silent), "status=TRADE_SUCCESS")
	s.control("notify", `{"number":"`+silent+`","kind":"payment"}`) // late, and by hand
	s.told(silent)

	platform.Heal()
	platform.Break(sandbox.Fault{Kind: sandbox.NoNotify, Path: "refund"}) // of one kind, once
	s.call("/v1/netpay/refund", "merOrderId", heard, "refundOrderId", s.fresh(), "refundAmount", 1)
	second := s.fresh()
	s.call("/v1/netpay/refund", "merOrderId", heard, "refundOrderId", second, "refundAmount", 2)
	s.told(heard + second)

	platform.Break(sandbox.Fault{Kind: sandbox.NoNotify, Share: 0.5, Times: -1})
	never := 0
	for range 100 {
		number := s.order("notifyUrl", "")
		done(t, platform.Deduct(sandbox.Deduction{MerOrderID: number + "D", TotalAmount: 1, NotifyURL: s.notifyTo}))
		if s.book(number + "D").Notifies[0].Failed != "" {
			never++
		}
	}
	if never == 0 || never == 100 {
		t.Errorf("%d of 100 notifies were never sent, with a share of one half", never)
	}
}

// TestAnswerLost: of every interface that moves money the answer is lost, and the books say that it was done, once.
func TestAnswerLost(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	lose := func(path, order string) {
		platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: path, Order: order})
	}
	for path := range map[string]bool{
		"/v1/netpay/trade/precreate": true, "/v1/netpay/wx/unified-order": true, "/v1/netpay/wx/mini-pre-order": true, "/v1/netpay/uac/app-order": true,
	} {
		number := s.fresh()
		lose(path, number)
		s.lost(path, "merOrderId", number, "totalAmount", 5, "subOpenId", "o")
		s.want(s.call("/v1/netpay/query", "merOrderId", number), "errCode=SUCCESS", "totalAmount=5")
	}

	number, refund := s.paid(platform), s.fresh()
	lose("/v1/netpay/refund", refund)
	s.lost("/v1/netpay/refund", "merOrderId", number, "refundOrderId", refund, "refundAmount", 100)
	s.told(number + refund)
	s.returned(number, "/v1/netpay/refund=100")
	s.want(s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", refund, "refundAmount", 100), "refundStatus=SUCCESS") // no second one
	s.returned(number, "/v1/netpay/refund=100")
	other := s.fresh()
	s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", other, "refundAmount", 100) // the mistake that costs money
	s.told(number + other)
	s.returned(refund, "/v1/netpay/refund=100", "/v1/netpay/refund=100")

	secured := s.paid(platform, "secureTransaction", "true")
	lose("/v1/netpay/secure-complete", secured)
	s.lost("/v1/netpay/secure-complete", "merOrderId", secured, "completedAmount", 600)
	s.told(secured)
	s.returned(secured, "/v1/netpay/secure-complete=400") // what was not completed
	s.want(s.call("/v1/netpay/query", "merOrderId", secured), "secureStatus=PARTLY_COMPLETED")

	secured = s.paid(platform, "secureTransaction", "true")
	lose("/v1/netpay/secure-cancel", secured)
	s.lost("/v1/netpay/secure-cancel", "merOrderId", secured)
	s.told(secured)
	s.returned(secured, "/v1/netpay/secure-cancel=1000")

	closed := s.order()
	lose("/v1/netpay/close", closed)
	s.lost("/v1/netpay/close", "merOrderId", closed)
	s.want(s.call("/v1/netpay/query", "merOrderId", closed), "status=TRADE_CLOSED")
	s.returned(closed)

	bill := s.bill(platform)
	lose("/v1/netpay/bills/refund", bill)
	s.lost("/v1/netpay/bills/refund", "billNo", bill, "billDate", "2026-01-02", "refundOrderId", s.fresh(), "refundAmount", 7)
	s.returned(bill, "/v1/netpay/bills/refund=7")

	bill = s.fresh()
	s.call("/v1/netpay/bills/get-qrcode", "billNo", bill, "billDate", "2026-01-02", "instMid", "QRPAYDEFAULT", "totalAmount", 1000)
	done(t, platform.Pay(bill))
	lose("/v1/netpay/bills/preauth-cancel", bill)
	s.lost("/v1/netpay/bills/preauth-cancel", "billNo", bill)
	s.returned(bill, "/v1/netpay/bills/preauth-cancel=1000")
	if left := platform.Faults(); len(left) != 0 {
		t.Errorf("faults left: %+v", left)
	}

	// A share of the answers, as on a bad line.
	s.control("faults", `[{"kind":"cut-executed","path":"/v1/netpay/trade/precreate","share":0.5,"times":-1}]`)
	lost := 0
	for range 100 {
		number := s.fresh()
		if _, err := s.try("/v1/netpay/trade/precreate", "merOrderId", number, "totalAmount", 5); err != nil {
			lost++
		}
		s.book(number) // made all the same
	}
	if lost == 0 || lost == 100 {
		t.Errorf("%d of 100 answers were lost, with a share of one half", lost)
	}
}

func TestNoOrderAtFirst(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	s.control("faults", `{"kind":"no-order","for":"10m"}`)
	number := s.paid(platform)
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "errCode=NO_ORDER")
	s.control("pass", `{"for":"10m"}`)
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "errCode=SUCCESS", "status=TRADE_SUCCESS")

	refund := s.fresh()
	s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", refund, "refundAmount", 1)
	for _, asked := range []string{number, refund} { // the refund is new, the order is not
		s.want(s.call("/v1/netpay/refund-query", "merOrderId", asked), "errCode=NO_ORDER")
	}
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "errCode=SUCCESS")
	platform.Pass(10 * time.Minute)
	s.want(s.call("/v1/netpay/refund-query", "merOrderId", refund), "refundStatus=SUCCESS")

	s.told(number + refund)
	bill := s.bill(platform)
	s.want(s.call("/v1/netpay/bills/query", "billNo", bill, "billDate", "2026-01-02"), "errCode=NO_ORDER")
	platform.Heal()
	s.want(s.call("/v1/netpay/bills/query", "billNo", bill, "billDate", "2026-01-02"), "billStatus=PAID")
}

func TestRefundThatStaysOpen(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	for _, end := range []string{"SUCCESS", "FAIL"} {
		number, refund := s.paid(platform), s.fresh()
		s.control("faults", `{"kind":"processing","order":"`+number+`","queries":2,"status":"`+end+`"}`)
		ask := func() map[string]string { return s.call("/v1/netpay/refund-query", "merOrderId", refund) }
		s.want(s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", refund, "refundAmount", 300), "errCode=SUCCESS", "refundStatus=PROCESSING")
		s.want(ask(), "refundStatus=PROCESSING")
		s.want(ask(), "refundStatus=PROCESSING")
		s.returned(number)
		s.want(ask(), "refundStatus="+end)
		s.told(number + refund)
		s.want(ask(), "refundStatus="+end)
		if want := []string{"/v1/netpay/refund=300"}; end == "SUCCESS" {
			s.returned(number, want...)
		} else {
			s.returned(number)
		}
	}
	bill, refund := s.bill(platform), s.fresh()
	platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/bills/refund", Queries: 1})
	s.want(s.call("/v1/netpay/bills/refund", "billNo", bill, "billDate", "2026-01-02", "refundOrderId", refund, "refundAmount", 7), "refundStatus=PROCESSING")
	ask := func() map[string]string {
		return s.call("/v1/netpay/bills/query", "billNo", bill, "billDate", "2026-01-02", "refundOrderId", refund)
	}
	s.want(ask(), "refundBillPayment.status=UNKNOWN")
	s.want(ask(), "refundBillPayment.status=TRADE_SUCCESS")
}

func TestClosedThenPaid(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	number, old := s.order(), s.order()
	if err := platform.PayClosed(number); err == nil {
		t.Error("an open order was paid as if it had been closed")
	}
	s.want(s.call("/v1/netpay/close", "merOrderId", number), "status=TRADE_CLOSED")
	if status, _ := s.request(http.MethodPost, "pay", `{"number":"`+number+`"}`); status != http.StatusConflict {
		t.Errorf("a closed order was paid: %d", status)
	}
	s.control("pay", `{"number":"`+number+`","closed":true}`)
	s.told(number)
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "status=TRADE_SUCCESS", "totalAmount=1000")
	platform.Pass(31 * time.Minute)
	s.want(s.call("/v1/netpay/query", "merOrderId", old), "status=TRADE_CLOSED") // by its age
	done(t, platform.PayClosed(old))
	s.told(old)
	s.want(s.call("/v1/netpay/query", "merOrderId", old), "status=TRADE_SUCCESS")
	s.call("/v1/netpay/refund", "merOrderId", number, "refundAmount", 1000)
	if err := platform.PayClosed(number); err == nil {
		t.Error("an order that was refunded in full was paid again")
	}
}

func TestRefundAtThePlatformsPage(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	number := s.paid(platform)
	var made struct{ RefundOrderID string }
	done(t, json.Unmarshal([]byte(s.control("refund", `{"number":"`+number+`","amount":400}`)), &made))
	s.told(number + made.RefundOrderID)
	s.returned(number, "page=400")
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "status=TRADE_REFUND", "refundAmount=400")
	s.want(s.call("/v1/netpay/refund-query", "merOrderId", number), "refundOrderId="+made.RefundOrderID)
	if _, err := platform.Refund(number, 601); err == nil {
		t.Error("more was refunded than was paid")
	}
	s.want(s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", s.fresh(), "refundAmount", 601), "errCode=OPERATION_NOT_ALLOWED")
}

func TestOtherOrdersData(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	number, bill, refund := s.order(), s.bill(platform), s.fresh()
	refunded := s.paid(platform)
	s.call("/v1/netpay/refund", "merOrderId", refunded, "refundOrderId", refund, "refundAmount", 5)
	s.control("faults", `{"kind":"other-order","times":4}`)
	other := s.call("/v1/netpay/query", "merOrderId", number)
	s.want(other, "errCode=SUCCESS", "status=TRADE_SUCCESS", "totalAmount=2000", "mid="+s.keys.MID)
	if other["merOrderId"] == number || len(other["merOrderId"]) < 6 {
		t.Errorf("%v", other)
	}
	other = s.call("/v1/netpay/refund-query", "merOrderId", refund)
	s.want(other, "refundStatus=SUCCESS", "refundAmount=5")
	if other["merOrderId"] == refunded || other["refundOrderId"] == refund {
		t.Errorf("%v", other)
	}
	if other = s.call("/v1/netpay/bills/query", "billNo", bill, "billDate", "2026-01-02"); other["billNo"] == bill || other["billStatus"] != "PAID" {
		t.Errorf("%v", other)
	}
	s.want(s.call("/v1/netpay/query", "merOrderId", s.fresh()), "errCode=NO_ORDER")
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "merOrderId="+number, "totalAmount=1000", "status=NEW_ORDER")
}

func TestTargetFailThatWasExecuted(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	number, refund := s.paid(platform), s.fresh()
	s.control("faults", `[{"kind":"refuse-executed","path":"/v1/netpay/refund"},{"kind":"refuse-executed","code":"NET_ERROR","path":"/v1/netpay/trade/precreate"}]`)
	s.want(s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", refund, "refundAmount", 9), "errCode=TARGET_FAIL", "refundStatus")
	s.told(number + refund)
	s.returned(number, "/v1/netpay/refund=9")
	s.want(s.call("/v1/netpay/refund-query", "merOrderId", refund), "refundStatus=SUCCESS")
	made := s.fresh()
	s.want(s.call("/v1/netpay/trade/precreate", "merOrderId", made, "totalAmount", 5), "errCode=NET_ERROR")
	s.want(s.call("/v1/netpay/query", "merOrderId", made), "status=NEW_ORDER")
}

func TestDownForAnHour(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{Schedule: []time.Duration{time.Hour}})
	number := s.order()
	s.control("faults", `{"kind":"down","for":"1h"}`)
	done(t, platform.Pay(number)) // the buyer pays at the channel, which is up
	for range 3 {
		s.lost("/v1/netpay/query", "merOrderId", number)
	}
	s.lost("/v1/netpay/refund", "merOrderId", number, "refundAmount", 1)
	s.control("pass", `{"for":"30m"}`)
	s.lost("/v1/netpay/query", "merOrderId", number)
	if sent := platform.Deliveries(); len(sent) != 0 {
		t.Errorf("notifies while the platform was down: %+v", sent)
	}
	s.control("pass", `{"for":"30m"}`)
	s.told(number)
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "status=TRADE_SUCCESS")
	s.returned(number)
	if left := platform.Faults(); len(left) != 0 {
		t.Errorf("faults left: %+v", left)
	}

	// Without an end, until somebody mends it; and a notify's repetition follows the clock that Pass moves.
	deaf := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { s.notifies <- "deaf" }))
	defer deaf.Close()
	number = s.order("notifyUrl", deaf.URL)
	platform.Break(sandbox.Fault{Kind: sandbox.Down})
	done(t, platform.Pay(number))
	platform.Pass(100 * time.Hour)
	s.lost("/v1/netpay/query", "merOrderId", number)
	if status, _ := s.request(http.MethodDelete, "faults", ""); status != http.StatusOK {
		t.Error(status)
	}
	s.told("deaf")
	s.want(s.call("/v1/netpay/query", "merOrderId", number), "status=TRADE_SUCCESS")
	// The first attempt has been answered; when the next one is due may be known a moment later. Before, an hour that passed in
	// between was lost.
	for !s.book(number).Notifies[0].Next.After(time.Now().Add(101*time.Hour + time.Minute)) {
		time.Sleep(time.Millisecond)
	}
	platform.Pass(time.Hour)
	s.told("deaf")
}

// TestRefundQueryNumbers: by merOrderId, which the documents give two meanings, and with refundOrderId.
func TestRefundQueryNumbers(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	number, first, second := s.paid(platform), s.fresh(), s.fresh()
	stranger := s.paid(platform)
	s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", first, "refundAmount", 1)
	s.call("/v1/netpay/refund", "merOrderId", number, "refundOrderId", second, "refundAmount", 2)
	ask := func(pairs ...any) map[string]string { return s.call("/v1/netpay/refund-query", pairs...) }
	s.want(ask("merOrderId", first), "merOrderId="+number, "refundOrderId="+first, "refundAmount=1", "refundStatus=SUCCESS", "totalAmount=1000")
	s.want(ask("merOrderId", number), "refundOrderId="+second, "refundAmount=2")
	// This was answered with the latest refund, whatever refundOrderId said.
	s.want(ask("merOrderId", number, "refundOrderId", first), "refundOrderId="+first, "refundAmount=1")
	s.want(ask("merOrderId", first, "refundOrderId", first), "refundOrderId="+first)
	s.want(ask("merOrderId", number, "refundOrderId", s.fresh()), "errCode=NO_ORDER", "refundStatus")
	s.want(ask("merOrderId", stranger, "refundOrderId", first), "errCode=NO_ORDER")
	s.want(ask("merOrderId", stranger), "errCode=NO_ORDER")
	s.want(ask("refundOrderId", first), "errCode=BAD_REQUEST")
}

func TestControl(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{})
	number := s.paid(platform)
	for _, test := range []struct {
		method, path, body string
		header             []string
		status             int
		says               string
	}{
		{"POST", "faults", `{"kind":"nothing"}`, nil, 400, "refuse-executed"}, // the names there are
		{"POST", "faults", `{"kind":"cut","tims":2}`, nil, 400, "tims"},
		{"POST", "faults", `{"kind":"cut","share":2}`, nil, 400, "share"},
		{"POST", "faults", `{"kind":"processing","status":"DONE"}`, nil, 400, "status"},
		{"POST", "faults", `{"kind":"down","for":"long"}`, nil, 400, "long"},
		{"POST", "faults", `[{"kind":"cut"},{"kind":"x"}]`, nil, 400, "x"},
		{"POST", "pay", `{"number":"` + number + `"}`, nil, 409, "TRADE_SUCCESS"},
		{"POST", "pay", `{"nummer":"1"}`, nil, 400, "nummer"},
		{"POST", "refund", `{"number":"x","amount":1}`, nil, 409, "no order"},
		{"POST", "refund", `{"number":"` + number + `","amount":-1}`, nil, 409, "refundAmount"},
		{"POST", "finish", `{"number":"x","status":"FAIL"}`, nil, 409, "no unfinished refund"},
		{"POST", "notify", `{"number":"x","kind":"payment","variant":"odd"}`, nil, 400, "odd"},
		{"POST", "notify", `{"number":"x","kind":"odd"}`, nil, 400, "odd"},
		{"POST", "pass", `{"for":"-1h"}`, nil, 400, "backwards"},
		{"POST", "pass", `{"for":""}`, nil, 400, "duration"},
		{"GET", "orders", "", []string{"Host", "attacker.example"}, 403, ""},
		{"POST", "pay", `{}`, []string{"Origin", "https://attacker.example"}, 403, ""},
		{"GET", "nothing", "", nil, 404, ""},
		{"GET", "orders?number=none", "", nil, 200, `{"orders":[]}`},
		{"GET", "faults", "", nil, 200, `{"faults":[]}`}, // nothing of all that was half done
	} {
		status, content := s.request(test.method, test.path, test.body, test.header...)
		if status != test.status || !strings.Contains(content, test.says) {
			t.Errorf("%s %s %s: %d %s", test.method, test.path, test.body, status, content)
		}
	}
	given := []sandbox.Fault{
		{Kind: sandbox.Down, For: 90 * time.Minute}, {Kind: sandbox.NoNotify, Share: 0.25, Times: -1, Order: number},
		{Kind: sandbox.Processing, Queries: 3, Status: "FAIL", Path: "/v1/netpay/refund"}, {Kind: sandbox.Lie, Fields: map[string]any{"a": nil}},
	}
	text, err := json.Marshal(given)
	done(t, err)
	if !strings.Contains(string(text), `"for":"1h30m0s"`) || !strings.Contains(string(text), `"kind":"no-notify"`) {
		t.Errorf("%s", text)
	}
	var read []sandbox.Fault
	done(t, json.Unmarshal(text, &read))
	if fmt.Sprintf("%+v", read) != fmt.Sprintf("%+v", given) {
		t.Errorf("%+v", read)
	}
	_, content := s.request(http.MethodGet, "orders", "")
	if !strings.Contains(content, `"merOrderId":"`+number+`"`) || strings.Contains(content, s.keys.NotifyKey) {
		t.Error(content)
	}
}

// TestShouqianbaFaults: the same at the other platform, in its words.
func TestShouqianbaFaults(t *testing.T) {
	platform, s := newTill(t)
	precreate := func() string {
		t.Helper()
		number := s.fresh()
		s.want(s.call("/upay/v2/precreate", "client_sn", number, "total_amount", "1000", "payway", "3", "subject", "s", "operator", "o", "notify_url", s.notifyTo),
			"result_code=PRECREATE_SUCCESS")
		return number
	}
	paid := func() string {
		t.Helper()
		number := precreate()
		done(t, platform.Pay(number))
		s.told(number)
		return number
	}
	query := func(number string) map[string]string { return s.call("/upay/v2/query", "client_sn", number) }
	refund := func(number, refund string, amount int) (map[string]string, error) {
		return s.try("/upay/v2/refund", "client_sn", number, "refund_request_no", refund, "operator", "o", "refund_amount", fmt.Sprint(amount))
	}
	pay := func(number string) map[string]string {
		return s.call("/upay/v2/pay", "client_sn", number, "total_amount", "1000", "dynamic_id", "13", "subject", "s", "operator", "o", "notify_url", s.notifyTo)
	}

	t.Run("notify never sent", func(t *testing.T) {
		silent := precreate()
		s.control("faults", `{"kind":"no-notify","order":"`+silent+`"}`)
		done(t, platform.Pay(silent))
		if n := s.book(silent).Notifies; len(n) != 1 || n[0].Attempts != 0 || !strings.Contains(n[0].Failed, "never sent") {
			t.Errorf("%+v", n)
		}
		s.control("notify", `{"number":"`+silent+`","kind":"payment"}`)
		s.told(silent)
	})
	t.Run("answer lost", func(t *testing.T) {
		for path, moved := range map[string]string{"/upay/v2/refund": "/upay/v2/refund=5", "/upay/v2/cancel": "/upay/v2/cancel=1000", "/upay/v2/revoke": "/upay/v2/revoke=1000"} {
			number := paid()
			platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: path, Order: number})
			pairs := []any{"client_sn", number, "refund_request_no", "1", "operator", "o", "refund_amount", "5"}
			s.lost(path, pairs...)
			s.returned(number, moved)
			s.call(path, pairs...)
			s.returned(number, moved) // once, whatever is asked again
			if path == "/upay/v2/refund" {
				s.told(number + "1")
			}
		}
		number := s.fresh()
		platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/upay/v2/pay"})
		s.lost("/upay/v2/pay", "client_sn", number, "total_amount", "1000", "dynamic_id", "13", "subject", "s", "operator", "o")
		s.want(query(number), "data.order_status=PAID")
	})
	t.Run("no order at first", func(t *testing.T) {
		s.control("faults", `{"kind":"no-order","for":"10m"}`)
		number := paid()
		s.want(query(number), "result_code=FAIL", "error_code=UPAY_ORDER_NOT_EXISTS")
		s.control("pass", `{"for":"10m"}`)
		s.want(query(number), "result_code=SUCCESS", "data.order_status=PAID")
		platform.Heal()
	})
	t.Run("payments whose end is open", func(t *testing.T) {
		for end, want := range map[string][]string{
			"SUCCESS": {"data.order_status=PAID", "data.status=SUCCESS"}, "FAIL": {"data.order_status=PAY_CANCELED", "data.status=FAIL_CANCELED"},
		} {
			number := s.fresh()
			s.control("faults", `{"kind":"processing","path":"/upay/v2/pay","queries":2,"status":"`+end+`"}`)
			s.want(pay(number), "result_code=PAY_FAIL_ERROR", "data.order_status=PAY_ERROR", "data.status=FAIL_ERROR")
			s.want(query(number), "data.order_status=PAY_ERROR")
			s.want(query(number), "data.order_status=PAY_ERROR")
			s.want(query(number), want...)
			if end == "SUCCESS" {
				s.told(number)
			}
		}
		number := s.fresh() // what cancel is for
		platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/pay", Queries: 1})
		pay(number)
		s.want(s.call("/upay/v2/cancel", "client_sn", number), "result_code=CANCEL_SUCCESS", "data.order_status=CANCELED")
		s.want(query(number), "data.order_status=CANCELED")
		s.returned(number)
	})
	t.Run("refunds and cancels whose end is open", func(t *testing.T) {
		for _, end := range []string{"SUCCESS", "FAIL"} {
			number := paid()
			s.control("faults", `{"kind":"processing","path":"/upay/v2/refund","queries":1,"status":"`+end+`"}`)
			answer, err := refund(number, "7", 400)
			done(t, err)
			s.want(answer, "result_code=REFUND_ERROR", "data.order_status=REFUND_ERROR", "data.status=REFUND_ERROR", "data.net_amount=1000")
			again, err := refund(number, "7", 400)
			done(t, err)
			s.want(again, "result_code=REFUND_ERROR")
			s.want(query(number), "data.order_status=REFUND_ERROR")
			if end == "FAIL" {
				s.want(query(number), "data.order_status=PAID", "data.net_amount=1000")
				s.returned(number)
				again, err = refund(number, "7", 400) // and now it can be made
				done(t, err)
				s.want(again, "result_code=REFUND_SUCCESS")
			} else {
				s.want(query(number), "data.order_status=PARTIAL_REFUNDED", "data.net_amount=600")
			}
			s.told(number + "7")
			s.returned(number, "/upay/v2/refund=400")

			number = paid()
			platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/cancel", Status: end})
			s.want(s.call("/upay/v2/cancel", "client_sn", number), "result_code=CANCEL_ERROR", "data.order_status=CANCEL_ERROR")
			if end == "FAIL" {
				s.want(query(number), "data.order_status=PAID", "data.net_amount=1000")
				s.returned(number)
			} else {
				s.want(query(number), "data.order_status=CANCELED", "data.net_amount=0")
				s.returned(number, "/upay/v2/cancel=1000")
			}
		}
		number := paid()
		platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/refund", Queries: 1000})
		if _, err := refund(number, "8", 1); err != nil {
			t.Fatal(err)
		}
		s.control("finish", `{"number":"`+number+`","status":"SUCCESS"}`)
		s.told(number + "8")
		s.returned(number, "/upay/v2/refund=1")
	})
	t.Run("canceled, then paid", func(t *testing.T) {
		canceled, lapsed := precreate(), precreate()
		s.want(s.call("/upay/v2/cancel", "client_sn", canceled), "data.order_status=CANCELED")
		platform.Pass(5 * time.Minute)
		s.want(query(lapsed), "data.order_status=PAY_CANCELED")
		for _, number := range []string{canceled, lapsed} {
			s.control("pay", `{"number":"`+number+`","closed":true}`)
			s.told(number)
			s.want(query(number), "data.order_status=PAID", "data.net_amount=1000")
		}
		if err := platform.PayClosed(paid()); err == nil {
			t.Error("a paid order was paid again")
		}
	})
	t.Run("refunded at the platform's page", func(t *testing.T) {
		number := paid()
		own, err := platform.Refund(number, 300)
		done(t, err)
		s.told(number + own)
		s.returned(number, "page=300")
		s.want(query(number), "data.order_status=PARTIAL_REFUNDED", "data.net_amount=700")
		if _, err := platform.Refund(number, 701); err == nil {
			t.Error("more was refunded than was paid")
		}
	})
	t.Run("another order's data", func(t *testing.T) {
		number := precreate()
		s.control("faults", `{"kind":"other-order","order":"`+number+`"}`)
		other := query(number)
		s.want(other, "result_code=SUCCESS", "data.order_status=REFUNDED", "data.total_amount=2000", "data.terminal_sn="+s.till.TerminalSN)
		if other["data.client_sn"] == number || other["data.client_sn"] == "" {
			t.Errorf("%v", other)
		}
		s.want(query(number), "data.client_sn="+number, "data.order_status=CREATED")
	})
	t.Run("refused, and executed", func(t *testing.T) {
		number := paid()
		s.control("faults", `{"kind":"refuse-executed","path":"/upay/v2/refund"}`)
		answer, err := refund(number, "9", 1)
		done(t, err)
		s.want(answer, "result_code=FAIL", "error_code=UNEXPECTED_PROVIDER_ERROR")
		s.told(number + "9")
		s.returned(number, "/upay/v2/refund=1")
	})
	t.Run("down", func(t *testing.T) {
		number := precreate()
		s.control("faults", `{"kind":"down","for":"1h"}`)
		s.lost("/upay/v2/query", "client_sn", number)
		done(t, platform.Pay(number))
		if n := s.book(number).Notifies; n[0].Attempts != 0 {
			t.Errorf("%+v", n)
		}
		s.control("pass", `{"for":"1h"}`)
		s.told(number)
		s.want(query(number), "data.order_status=PAID")
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	number := paid()
	done(t, platform.WaitDelivered(ctx, number, sandbox.KindPayment))
	if n := s.book(number).Notifies; len(n) != 1 || n[0].Attempts != 1 || !n[0].Accepted {
		t.Errorf("%+v", n)
	}
}

// TestFaultsAreInTheReference: a fault that is not in both reference pages is known to nobody.
func TestFaultsAreInTheReference(t *testing.T) {
	for _, page := range []string{"../../docs/en/reference.md", "../../docs/zh/reference.md"} {
		content, err := os.ReadFile(page)
		done(t, err)
		for kind := sandbox.FaultKind(0); kind <= sandbox.Down; kind++ {
			if !strings.Contains(string(content), "`"+kind.String()+"`") {
				t.Errorf("%s does not know the fault %s", page, kind)
			}
		}
	}
}
