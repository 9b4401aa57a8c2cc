package chinaums

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestConfirmAgainstSandbox takes an order, a guarantee, a bill and a deduction through their lives at a platform that
// has its own implementation of everything: every notify of it is confirmed, what an attacker cuts of them is not.
func TestConfirmAgainstSandbox(t *testing.T) {
	for _, digest := range []sandbox.Digest{sandbox.SHA256, sandbox.MD5} {
		t.Run(string(digest), func(t *testing.T) { confirmAgainstSandbox(t, digest) })
	}
}

func confirmAgainstSandbox(t *testing.T, digest sandbox.Digest) {
	platform, platformURL := startSandbox(t, sandbox.Options{Manual: true, Digest: digest, Answers: sandbox.AnswersSigned, StringAmounts: digest == sandbox.MD5})
	keys := platform.Options()
	app := newMerchantApp(t, nil)
	address := freeAddress(t)
	confirming = newConfirmer() // an earlier test's platform may have had this address
	startCaddy(t, merchantOptions(platformURL)+notifySite(address, "chinaums_proxy /v1/netpay/*\n\tchinaums_notify /notify {\n\t\tconfirm\n\t}\n\treverse_proxy "+app.URL))
	gateway := "http://" + address
	clock := stopClock(t)

	call := func(path string, fields map[string]any) {
		t.Helper()
		all := map[string]any{
			"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": keys.MID, "tid": keys.TID, "instMid": "APPDEFAULT",
		}
		maps.Copy(all, fields)
		content, _ := json.Marshal(all)
		a := do(t, newRequest(t, "POST", gateway+path, string(content), "Content-Type: application/json"))
		var answer struct{ ErrCode string }
		if err := json.Unmarshal([]byte(a.body), &answer); err != nil || answer.ErrCode != "SUCCESS" {
			t.Fatalf("%s: %s", path, a.body)
		}
	}
	// notify has the platform send one, and checks what the app gets of it.
	notify := func(number string, kind sandbox.Kind, variant sandbox.Variant, status int, eventType, confirmed string) {
		t.Helper()
		clock.pass(time.Second) // there is a turn
		delivery, err := platform.Notify(t.Context(), number, kind, variant)
		if err != nil {
			t.Fatal(err)
		}
		if delivery.Status != status {
			t.Errorf("%s %s of %s: status %d, want %d", variant, kind, number, delivery.Status, status)
		}
		seen := app.seen()
		if status != 200 {
			if len(seen) != 0 {
				t.Errorf("%s %s: the app saw %s", variant, kind, seen[0].body)
			}
			return
		}
		if len(seen) != 1 || seen[0].header.Get("Ce-Type") != "com.chinaums."+eventType || seen[0].header.Get("Ce-Confirmed") != confirmed {
			t.Errorf("%s %s: the app saw %+v", variant, kind, seen)
		}
	}
	number := func(i int) string { return fmt.Sprintf("%s20261124%05d", keys.SourceCode, i) }
	order := func(i int, more map[string]any) string {
		t.Helper()
		fields := map[string]any{"merOrderId": number(i), "totalAmount": 1000, "notifyUrl": gateway + "/notify", "orderDesc": "一杯茶"}
		maps.Copy(fields, more)
		call("/v1/netpay/trade/precreate", fields)
		return number(i)
	}
	pay := func(number string) {
		t.Helper()
		if err := platform.Pay(number); err != nil {
			t.Fatal(err)
		}
	}

	// A payment, paid back in two parts.
	paid := order(1, nil)
	pay(paid)
	notify(paid, sandbox.KindPayment, sandbox.Genuine, 200, "payment.succeeded", "true")
	notify(paid, sandbox.KindPayment, sandbox.JSON, 200, "payment.succeeded", "true")
	notify(paid, sandbox.KindPayment, sandbox.GBK, 200, "payment.succeeded", "true")
	notify(paid, sandbox.KindPayment, sandbox.Tampered, 403, "", "")
	for i, amount := range []int{400, 600} {
		refund := number(10 + i)
		call("/v1/netpay/refund", map[string]any{"merOrderId": paid, "refundOrderId": refund, "refundAmount": amount})
		notify(refund, sandbox.KindRefund, sandbox.Genuine, 200, "refund.succeeded", "true")
	}
	// One that is late: of the whole refund there is nothing but the closed order.
	late := order(2, nil)
	pay(late)
	call("/v1/netpay/refund", map[string]any{"merOrderId": late, "refundOrderId": number(20), "refundAmount": 1})
	notify(late, sandbox.KindPayment, sandbox.Genuine, 200, "payment.succeeded", "superseded")
	whole := order(3, nil)
	pay(whole)
	call("/v1/netpay/refund", map[string]any{"merOrderId": whole, "refundOrderId": number(30), "refundAmount": 1000})
	notify(whole, sandbox.KindPayment, sandbox.Genuine, 200, "payment.succeeded", "superseded")

	// A refund that takes its time.
	if err := platform.RefundStatus("PROCESSING"); err != nil {
		t.Fatal(err)
	}
	slow := order(4, nil)
	pay(slow)
	call("/v1/netpay/refund", map[string]any{"merOrderId": slow, "refundOrderId": number(40), "refundAmount": 5})
	if err := platform.FinishRefund(number(40), "FAIL"); err != nil {
		t.Fatal(err)
	}
	notify(number(40), sandbox.KindRefund, sandbox.Genuine, 200, "refund.failed", "true")

	// A guarantee. The answer to a query has no completeAmount, nor has it by the documents a secureStatus.
	secured := order(5, map[string]any{"secureTransaction": "true"})
	pay(secured)
	call("/v1/netpay/secure-complete", map[string]any{"merOrderId": secured, "completedAmount": "1000"})
	notify(secured, sandbox.KindGuarantee, sandbox.Genuine, 503, "", "")
	canceled := order(9, map[string]any{"secureTransaction": "true"})
	pay(canceled)
	call("/v1/netpay/secure-cancel", map[string]any{"merOrderId": canceled})
	notify(canceled, sandbox.KindGuarantee, sandbox.Genuine, 200, "guarantee.canceled", "true")

	// A bill.
	bill := map[string]any{"instMid": "QRPAYDEFAULT", "billNo": number(6), "billDate": time.Now().In(beijing).Format("2006-01-02"), "totalAmount": 2100, "billDesc": "账单", "notifyUrl": gateway + "/notify"}
	call("/v1/netpay/bills/get-qrcode", bill)
	pay(number(6))
	notify(number(6), sandbox.KindBill, sandbox.Genuine, 200, "bill.paid", "true")

	// A deduction. The answer to a query has no contractId.
	if err := platform.Deduct(sandbox.Deduction{MerOrderID: number(7), TotalAmount: 99, NotifyURL: gateway + "/notify"}); err != nil {
		t.Fatal(err)
	}
	notify(number(7), sandbox.KindDeduction, sandbox.Genuine, 503, "", "")

	// The attack of protocol.md: a closed order's signed string, cut elsewhere into a payment of 999 yuan.
	closed := order(8, nil)
	call("/v1/netpay/close", map[string]any{"merOrderId": closed})
	notify(closed, sandbox.KindPayment, sandbox.Recut, 409, "", "")

	// A platform that says otherwise.
	for i, lie := range []map[string]any{
		{"totalAmount": 1}, {"status": "TRADE_CLOSED"}, {"merOrderId": number(99)}, {"mid": "1"},
	} {
		contradicted := order(60+i, nil)
		pay(contradicted)
		platform.Break(sandbox.Fault{Kind: sandbox.Lie, Path: pathQuery, Fields: lie})
		notify(contradicted, sandbox.KindPayment, sandbox.Genuine, 409, "", "")
	}

	// One that talks nonsense confirms nothing.
	for i, fault := range []sandbox.FaultKind{sandbox.Refuse, sandbox.ServerError, sandbox.NotJSON, sandbox.CutBody, sandbox.FalseSignature, sandbox.Unauthorized} {
		broken := order(50+i, nil)
		pay(broken)
		platform.Break(sandbox.Fault{Kind: fault, Path: pathQuery})
		notify(broken, sandbox.KindPayment, sandbox.Genuine, 503, "", "")
		platform.Heal()
	}
}

// TestQuestionsGoTheProxysWay: a platform that only the proxy's options know is asked about a notify, and for a token, all
// the same. Before, these calls had a client of their own, which knew nothing of them.
func TestQuestionsGoTheProxysWay(t *testing.T) {
	platform, err := sandbox.New(sandbox.Options{Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	server := httptest.NewTLSServer(platform)
	t.Cleanup(server.Close)
	keys := platform.Options()
	t.Setenv("UMS_APP_ID", keys.AppID)
	t.Setenv("UMS_APP_KEY", keys.AppKey)
	t.Setenv("UMS_NOTIFY_KEY", keys.NotifyKey)
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	app := newMerchantApp(t, nil)
	for _, options := range []string{"", "\n\t\tmax_conns_per_host 100"} { // the second as net/http's client
		address := freeAddress(t)
		confirming = newConfirmer() // an earlier test's platform may have had this address
		startCaddy(t, strings.Replace(merchantOptions(server.URL), "{\n", "{\n\tstorage file_system "+t.TempDir()+"\n", 1)+notifySite(address,
			"chinaums_proxy /v1/netpay/* {\n\t\tauth access_token\n\t\ttls_trust_pool file "+root+options+"\n\t}\n\tchinaums_notify /notify {\n\t\tconfirm\n\t}\n\treverse_proxy "+app.URL))
		number := keys.SourceCode + "20261129" + strconv.Itoa(1000+len(options))
		content, _ := json.Marshal(map[string]any{
			"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": keys.MID, "tid": keys.TID, "instMid": "APPDEFAULT",
			"merOrderId": number, "totalAmount": 1000, "notifyUrl": "http://" + address + "/notify", "orderDesc": "一杯茶",
		})
		if a := do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/trade/precreate", string(content), jsonType)); !strings.Contains(a.body, "SUCCESS") {
			t.Fatalf("%+v", a)
		}
		if err := platform.Pay(number); err != nil {
			t.Fatal(err)
		}
		delivery, err := platform.Notify(t.Context(), number, sandbox.KindPayment, sandbox.Genuine)
		if err != nil || delivery.Status != 200 {
			t.Errorf("options %q: %+v, %v", options, delivery, err)
		}
		if seen := app.seen(); len(seen) != 1 || seen[0].header.Get("Ce-Confirmed") != "true" {
			t.Errorf("the app saw %+v", seen)
		}
	}
}
