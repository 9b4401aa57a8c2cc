package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// verify checks a notify with a computation of its own, in Python, over the body as it came.
func verify(t *testing.T, body, key string) bool {
	t.Helper()
	verifier.Do(func() { verifierIn, verifierOut = startVerifier() })
	if verifierIn == nil {
		python(t, "", "") // skips or fails
	}
	question, err := json.Marshal([]string{key, body})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(verifierIn, "%s\n", question); err != nil {
		t.Fatal(err)
	}
	if !verifierOut.Scan() {
		t.Fatal("Python has ended")
	}
	return verifierOut.Text() == "True"
}

// One Python answers all questions; it ends with the tests, when its standard input does.
var (
	verifier    sync.Once
	verifierIn  io.Writer
	verifierOut *bufio.Scanner
)

func startVerifier() (io.Writer, *bufio.Scanner) {
	path, err := exec.LookPath("python3")
	if err != nil {
		return nil, nil
	}
	cmd := exec.Command(path, "-uc", `
import sys, json, hashlib
from urllib.parse import unquote_to_bytes
for line in sys.stdin:
    key, body = json.loads(line)
    params = [p.split('=', 1) for p in body.split('&')]
    params = {unquote_to_bytes(n.replace('+', ' ')): unquote_to_bytes(v.replace('+', ' ')) for n, v in params}
    sign = params.pop(b'sign', b'').decode().lower()
    text = b'&'.join(n + b'=' + params[n] for n in sorted(params) if params[n]) + key.encode()
    digest = params.get(b'signType', b'').decode() or {32: 'MD5', 64: 'SHA256'}.get(len(sign), '')
    print(sign != '' and digest in ('MD5', 'SHA256') and hashlib.new(digest.lower(), text).hexdigest() == sign)
`)
	in, err := cmd.StdinPipe()
	if err != nil {
		panic(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return in, bufio.NewScanner(out)
}

func TestSchedule(t *testing.T) {
	b := newBench(t, Options{})
	number := b.paid("notifyUrl", b.merchant("FAILED", "", "SUCCESS"), "orderDesc", "一杯茶 a+b&c=d")
	b.delivered(number, KindPayment)
	got := b.got()
	if len(got) != 3 {
		t.Fatalf("sent %d times", len(got))
	}
	for i, notify := range got {
		if !verify(t, notify.body, b.keys.NotifyKey) {
			t.Errorf("attempt %d does not verify: %s", i, notify.body)
		}
		if i > 0 && (notify.form.Get("notifyId") != got[0].form.Get("notifyId") || notify.form.Get("sign") == got[0].form.Get("sign")) {
			t.Errorf("attempt %d: the notifyId stays, the random parameter and so the sign change", i)
		}
	}
	want(t, map[string]any{"type": got[0].header.Get("Content-Type")}, "type", "application/x-www-form-urlencoded; charset=UTF-8")
	for name, value := range map[string]string{
		"mid": b.keys.MID, "tid": b.keys.TID, "instMid": "APPDEFAULT", "merOrderId": number, "status": "TRADE_SUCCESS", "totalAmount": "1234",
		"buyerPayAmount": "1234", "orderDesc": "一杯茶 a+b&c=d", "signType": "SHA256", "targetSys": "Alipay 2.0",
	} {
		if got[0].form.Get(name) != value {
			t.Errorf("%s is %q, not %q", name, got[0].form.Get(name), value)
		}
	}
	for name, values := range got[0].form {
		if len(values) != 1 || values[0] == "" {
			t.Errorf("%s: %q", name, values)
		}
	}
	deliveries := b.Deliveries()
	if len(deliveries) != 3 || deliveries[0].Delivered || deliveries[0].Answer != "FAILED" || !deliveries[2].Delivered ||
		deliveries[2].Attempt != 3 || deliveries[2].Kind != KindPayment || deliveries[2].Order != number || deliveries[2].Status != 200 ||
		string(deliveries[2].Body) != got[2].body || deliveries[2].Form.Get("merOrderId") != number {
		t.Errorf("%+v", deliveries)
	}
}

// TestNotDelivered: whatever is not exactly SUCCESS is repeated, until the schedule ends.
func TestNotDelivered(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"another word":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) },
		"with a line's end": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("SUCCESS\n")) },
		"in small letters":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("success")) },
		"another status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("SUCCESS"))
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/other" {
				_, _ = w.Write([]byte("SUCCESS"))
				return
			}
			http.Redirect(w, r, "/other", http.StatusFound)
		},
		"a cut connection":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a very long answer": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{Schedule: []time.Duration{0}})
			server := httptest.NewServer(handler)
			defer server.Close()
			number := b.paid("notifyUrl", server.URL)
			err := b.WaitDelivered(context.Background(), number, KindPayment)
			if err == nil || !strings.Contains(err.Error(), "given up after 2 attempts") {
				t.Error(err)
			}
			for _, d := range b.Deliveries() {
				if d.Delivered || len(d.Answer) > maxAnswer {
					t.Errorf("%+v", d)
				}
			}
		})
	}
}

func TestRefundNotify(t *testing.T) {
	b := newBench(t, Options{})
	number := b.paid("notifyUrl", b.merchant())
	b.delivered(number, KindPayment)
	refund := b.fresh()
	b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundOrderId", refund, "refundAmount", 234, "refundDesc", "退款"))
	b.delivered(number, KindRefund)
	b.delivered(refund, KindRefund) // by the refund's own number
	notify := b.got()[1]
	if !verify(t, notify.body, b.keys.NotifyKey) {
		t.Error("does not verify")
	}
	for name, value := range map[string]string{
		"merOrderId": number, "refundOrderId": refund, "refundAmount": "234", "totalAmount": "1234", "status": "TRADE_REFUND",
		"refundStatus": "SUCCESS", "refundDesc": "退款",
	} {
		if notify.form.Get(name) != value {
			t.Errorf("%s is %q, not %q", name, notify.form.Get(name), value)
		}
	}
	if notify.form.Get("refundPayTime") == "" || notify.form.Get("refundTargetOrderId") == "" {
		t.Errorf("%v", notify.form)
	}

	t.Run("a refund that ends later", func(t *testing.T) {
		if err := b.RefundStatus("PROCESSING"); err != nil {
			t.Fatal(err)
		}
		late := b.fresh()
		b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundOrderId", late, "refundAmount", 1))
		if got := len(b.got()); got != 2 {
			t.Errorf("%d notifies; an unfinished refund has none", got)
		}
		if err := b.FinishRefund(late, "FAIL"); err != nil {
			t.Fatal(err)
		}
		b.delivered(late, KindRefund)
		got := b.got()
		if form := got[len(got)-1].form; form.Get("refundStatus") != "FAIL" || form.Get("refundPayTime") != "" {
			t.Errorf("%v", form)
		}
	})
}

func TestBillNotify(t *testing.T) {
	for small, letters := range map[bool]func(string) string{false: strings.ToUpper, true: strings.ToLower} {
		b := newBench(t, Options{Digest: MD5, OmitSignType: true, SmallSign: small})
		billNo, day := b.fresh(), b.clock().In(zone).Format("2006-01-02")
		b.call("/v1/netpay/bills/get-qrcode", b.request("billNo", billNo, "billDate", day, "totalAmount", 2100, "notifyUrl", b.merchant()))
		if err := b.Pay(billNo); err != nil {
			t.Fatal(err)
		}
		b.delivered(billNo, KindBill)
		notify := b.got()[0]
		if !verify(t, notify.body, b.keys.NotifyKey) {
			t.Error("does not verify")
		}
		sign := notify.form.Get("sign")
		if len(sign) != 32 || sign != letters(sign) || notify.form.Has("signType") {
			t.Errorf("sign %q, signType %q", sign, notify.form.Get("signType"))
		}
		want(t, decode(t, []byte(notify.form.Get("billPayment"))), "totalAmount", 2100, "status", "TRADE_SUCCESS")
		if notify.form.Get("billStatus") != "PAID" || notify.form.Get("billNo") != billNo || !strings.Contains(notify.form.Get("billQRCode"), "?id=") {
			t.Errorf("%v", notify.form)
		}
	}
}

func TestGuaranteeNotify(t *testing.T) {
	b := newBench(t, Options{})
	number := b.paid("notifyUrl", b.merchant(), "secureTransaction", "true")
	b.delivered(number, KindPayment)
	b.call("/v1/netpay/secure-complete", b.request("merOrderId", number, "completedAmount", 1000))
	b.delivered(number, KindGuarantee)
	got := b.got()
	if form := got[0].form; form.Get("secureStatus") != "UNCOMPLETED" {
		t.Errorf("%v", form)
	}
	if form := got[1].form; form.Get("secureStatus") != "PARTLY_COMPLETED" || form.Get("completeAmount") != "1000" {
		t.Errorf("%v", form)
	}
}

// TestAllAddresses: NOTI-02, the notify goes to the order's address and to the merchant's.
func TestAllAddresses(t *testing.T) {
	hits := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits <- r.URL.Path
		_, _ = w.Write([]byte("SUCCESS"))
	}))
	defer server.Close()
	b := newBench(t, Options{NotifyURL: server.URL + "/merchant"})
	number := b.paid("notifyUrl", server.URL+"/order")
	b.delivered(number, KindPayment)
	if first, second := <-hits, <-hits; first == second {
		t.Errorf("%s twice", first)
	}
	other := b.paid()
	b.delivered(other, KindPayment)
	if got := <-hits; got != "/merchant" {
		t.Error(got)
	}
}

func TestNoAddress(t *testing.T) {
	b := newBench(t, Options{})
	number := b.paid()
	if err := b.WaitDelivered(context.Background(), number, KindPayment); err == nil || !strings.Contains(err.Error(), "no notifyUrl") {
		t.Error(err)
	}
	if _, err := b.Notify(context.Background(), number, KindPayment, Genuine); err == nil {
		t.Error("sent")
	}
}

// TestLoopbackOnly: nothing but this machine is called, whatever the name says.
func TestLoopbackOnly(t *testing.T) {
	b := newBench(t, Options{Schedule: []time.Duration{}})
	for _, address := range []string{"http://192.0.2.1/notify", "http://[2001:db8::1]/notify", "http://169.254.169.254/"} {
		number := b.paid("notifyUrl", address)
		if err := b.WaitDelivered(context.Background(), number, KindPayment); err == nil || !strings.Contains(err.Error(), "this machine only") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestWaitDeliveredTimesOut(t *testing.T) {
	b := newBench(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.WaitDelivered(ctx, b.fresh(), KindPayment); err == nil || !strings.Contains(err.Error(), "was not delivered") {
		t.Error(err)
	}
}
