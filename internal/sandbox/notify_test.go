package sandbox

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestVariants sends every variant of every kind, and lets Python say which of them a receiver that follows the published
// rules takes. The recut one is taken: that is the weakness.
func TestVariants(t *testing.T) {
	for _, options := range []Options{{}, {Digest: MD5, OmitSignType: true}} {
		b := newBench(t, options)
		address := b.merchant()
		number := b.paid("notifyUrl", address, "orderDesc", "一杯茶")
		b.delivered(number, KindPayment)
		refund := b.fresh()
		b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundOrderId", refund, "refundAmount", 234))
		b.delivered(number, KindRefund)
		billNo, deduction, secured := b.fresh(), b.fresh(), b.paid("notifyUrl", address, "secureTransaction", "true")
		b.call("/v1/netpay/bills/get-qrcode", b.request("billNo", billNo, "billDate", "2026-01-01", "totalAmount", 2100, "notifyUrl", address))
		if err := b.Pay(billNo); err != nil {
			t.Fatal(err)
		}
		if err := b.Deduct(Deduction{MerOrderID: deduction, TotalAmount: 500, NotifyURL: address}); err != nil {
			t.Fatal(err)
		}
		b.call("/v1/netpay/secure-cancel", b.request("merOrderId", secured))
		b.delivered(billNo, KindBill)
		b.delivered(deduction, KindDeduction)
		b.delivered(secured, KindGuarantee)

		for kind, order := range map[Kind]string{
			KindPayment: number, KindRefund: refund, KindBill: billNo, KindDeduction: deduction, KindGuarantee: secured,
		} {
			for variant := Genuine; int(variant) < len(variantNames); variant++ {
				t.Run(kind.String()+" "+variant.String(), func(t *testing.T) {
					before := len(b.got())
					delivery, err := b.Notify(context.Background(), order, kind, variant)
					if err != nil || delivery.Variant != variant || delivery.Kind != kind || !delivery.Delivered {
						t.Fatalf("%+v, %v", delivery, err)
					}
					got := b.got()[before]
					if got.body != string(delivery.Body) {
						t.Error("the delivery says something else than was sent")
					}
					contentType := got.header.Get("Content-Type")
					if variant == JSON {
						object := decode(t, []byte(got.body))
						form := make(url.Values)
						for name, value := range object {
							if text, ok := value.(string); ok {
								form.Set(name, text)
							} else {
								form.Set(name, object[name].(interface{ String() string }).String())
								if !strings.HasSuffix(name, "Amount") {
									t.Errorf("%s is a number", name)
								}
							}
						}
						if !strings.HasPrefix(contentType, "application/json") || !verify(t, form.Encode(), b.keys.NotifyKey) {
							t.Errorf("%s: %s", contentType, got.body)
						}
						return
					}
					if !strings.HasPrefix(contentType, "application/x-www-form-urlencoded") {
						t.Error(contentType)
					}
					takes := variant.True() || variant == Recut || variant == ForeignMID
					if verify(t, got.body, b.keys.NotifyKey) != takes {
						t.Errorf("by the published rules: not %t: %s", takes, got.body)
					}
				})
			}
		}
	}
}

func TestVariantDetails(t *testing.T) {
	b := newBench(t, Options{})
	number := b.paid("notifyUrl", b.merchant(), "orderDesc", "一杯茶", "attachedData", "a")
	b.delivered(number, KindPayment)
	send := func(variant Variant) url.Values {
		t.Helper()
		delivery, err := b.Notify(context.Background(), number, KindPayment, variant)
		if err != nil {
			t.Fatal(err)
		}
		return delivery.Form
	}
	genuine := send(Genuine)

	t.Run("a duplicate is the same byte for byte", func(t *testing.T) {
		send(Duplicate)
		got := b.got()
		if got[len(got)-1].body != got[len(got)-2].body {
			t.Error("another")
		}
	})
	t.Run("a tampered one differs in the amount alone", func(t *testing.T) {
		form := send(Tampered)
		if form.Get("totalAmount") != "12340" || form.Get("buyerPayAmount") != "1234" {
			t.Errorf("%v", form)
		}
	})
	t.Run("a late one is of yesterday", func(t *testing.T) {
		paid, _ := time.ParseInLocation(time.DateTime, genuine.Get("payTime"), zone)
		late, err := time.ParseInLocation(time.DateTime, send(Late).Get("payTime"), zone)
		if err != nil || paid.Sub(late) != 23*time.Hour {
			t.Errorf("%v, %v", late, err)
		}
	})
	t.Run("GBK is GBK", func(t *testing.T) {
		if got := send(GBK).Get("orderDesc"); got != "\xd2\xbb\xb1\xad\xb2\xe8" {
			t.Errorf("%q", got)
		}
	})
	t.Run("another merchant's", func(t *testing.T) {
		if got := send(ForeignMID).Get("mid"); got == b.keys.MID || len(got) != 15 {
			t.Error(got)
		}
	})
	t.Run("unsigned", func(t *testing.T) {
		if send(Unsigned).Has("sign") {
			t.Error("signed")
		}
	})
	t.Run("recut", func(t *testing.T) {
		form := send(Recut)
		if form.Get("status") != "TRADE_SUCCESS" || form.Get("totalAmount") != "99900" || form.Get("orderDesc") != "tea" ||
			form.Get("merOrderId") != number || !strings.Contains(form.Get("z"), "&status=TRADE_CLOSED&") ||
			!strings.Contains(form.Get("z"), "&totalAmount=1234") {
			t.Errorf("%v", form)
		}
		// What was signed is also the closed order's: put back together the other way it gives the same string.
		var closed []param
		text := "tea"
		for name := range form {
			if name < "orderDesc" {
				closed = append(closed, param{name, form.Get(name)})
			} else if name != "z" && name != "sign" && name != "orderDesc" {
				text += "&" + name + "=" + form.Get(name)
			}
		}
		for pair := range strings.SplitSeq(strings.TrimPrefix(form.Get("z"), "&"), "&") {
			name, value, _ := strings.Cut(pair, "=")
			closed = append(closed, param{name, value})
		}
		var sent []param
		for name := range form {
			sent = append(sent, param{name, form.Get(name)})
		}
		signed := stringToSign(sent)
		begin := strings.Index(signed, "orderDesc=") + len("orderDesc=")
		end := strings.Index(signed, "&z=") + len("&z=")
		if again := stringToSign(append(closed, param{"orderDesc", signed[begin:end]})); again != signed || len(text) != end-begin-len("&z=") {
			t.Errorf("%s\n%s", again, signed)
		}
	})
}

// TestManual: nothing goes out by itself, so that a test can choose the order.
func TestManual(t *testing.T) {
	b := newBench(t, Options{Manual: true})
	number := b.paid("notifyUrl", b.merchant("FAILED", "SUCCESS"))
	refund := b.fresh()
	b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundOrderId", refund, "refundAmount", 1234))
	if got := len(b.got()); got != 0 {
		t.Fatalf("%d sent", got)
	}
	for _, kind := range []Kind{KindRefund, KindPayment, KindRefund} { // the refund before the payment
		if _, err := b.Notify(context.Background(), number, kind, Genuine); err != nil {
			t.Fatal(err)
		}
	}
	got := b.got()
	if got[0].form.Get("refundOrderId") != refund || got[1].form.Get("status") != "TRADE_SUCCESS" || got[1].form.Get("refundOrderId") != "" {
		t.Errorf("%v", got)
	}
	if got[0].form.Get("notifyId") != got[2].form.Get("notifyId") || got[0].form.Get("notifyId") == got[1].form.Get("notifyId") {
		t.Error("the notifyId is one event's")
	}
	b.delivered(number, KindPayment)
	b.delivered(number, KindRefund)
}

func TestNotifyOnDemand(t *testing.T) {
	b := newBench(t, Options{Schedule: []time.Duration{time.Hour}, OmitNotifyID: true})
	address := b.merchant("FAILED", "SUCCESS")
	number := b.paid("notifyUrl", address)
	eventually(t, "the first attempt", func() bool { return len(b.Deliveries()) == 1 })
	if _, err := b.Notify(context.Background(), number, KindPayment, Genuine); err != nil { // the hour is not waited for
		t.Fatal(err)
	}
	b.delivered(number, KindPayment)
	if form := b.got()[0].form; form.Has("notifyId") {
		t.Error("a notifyId")
	}

	unpaid := b.ordered("notifyUrl", address)
	delivery, err := b.Notify(context.Background(), unpaid, KindPayment, Genuine)
	if err != nil || delivery.Form.Get("status") != "NEW_ORDER" || delivery.Form.Has("payTime") {
		t.Errorf("%+v, %v", delivery, err)
	}
	if delivery, err = b.Notify(context.Background(), unpaid, KindPayment, Recut); err != nil || delivery.Form.Get("status") != "TRADE_SUCCESS" {
		t.Errorf("%+v, %v", delivery, err)
	}
	for name, test := range map[string]struct {
		number  string
		kind    Kind
		variant Variant
	}{
		"no such order":   {b.fresh(), KindPayment, Genuine},
		"no refund":       {number, KindRefund, Genuine},
		"no bill":         {number, KindBill, Genuine},
		"no deduction":    {number, KindDeduction, Genuine},
		"no guarantee":    {number, KindGuarantee, Genuine},
		"no such kind":    {number, Kind(99), Genuine},
		"no such variant": {number, KindPayment, Variant(99)},
	} {
		if _, err := b.Notify(context.Background(), test.number, test.kind, test.variant); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if delivery, err := b.Notify(ctx, number, KindPayment, Genuine); err != nil || delivery.Err == "" || delivery.Delivered {
		t.Errorf("%+v, %v", delivery, err)
	}
}

// TestFalseOnesDeliverNothing: a merchant that takes a false notify has not taken the true one.
func TestFalseOnesDeliverNothing(t *testing.T) {
	b := newBench(t, Options{Manual: true})
	number := b.paid("notifyUrl", b.merchant("SUCCESS"))
	waited, cancel := context.WithCancel(context.Background())
	cancel()
	for variant := Tampered; int(variant) < len(variantNames); variant++ {
		if delivery, err := b.Notify(context.Background(), number, KindPayment, variant); err != nil || !delivery.Delivered {
			t.Fatalf("%+v, %v", delivery, err)
		}
		if err := b.WaitDelivered(waited, number, KindPayment); err == nil {
			t.Errorf("%s has ended the repetitions", variant)
		}
	}
	if _, err := b.Notify(context.Background(), number, KindPayment, Genuine); err != nil {
		t.Fatal(err)
	}
	b.delivered(number, KindPayment)
}

func TestBuild(t *testing.T) {
	const key = "fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR"
	for _, name := range kindNames {
		kind, err := ParseKind(name)
		if err != nil || kind.String() != name {
			t.Fatalf("%s: %v", name, err)
		}
		for _, digest := range []Digest{MD5, SHA256} {
			message, err := Notify{
				Kind: kind, Key: key, Digest: digest, OmitNotifyID: true,
				Fields: map[string]string{"mid": "898000000000001", "totalAmount": "1", "own": "a b+c", "tid": ""},
			}.Build()
			if err != nil {
				t.Fatal(err)
			}
			if !verify(t, string(message.Body), key) || verify(t, string(message.Body), key+"x") {
				t.Errorf("%s: the signature is wrong: %s", name, message.Body)
			}
			form := message.Form
			if form.Get("mid") != "898000000000001" || form.Get("totalAmount") != "1" || form.Get("own") != "a b+c" || form.Has("tid") ||
				form.Has("notifyId") || form.Get("signType") != string(digest) {
				t.Errorf("%s: %v", name, form)
			}
		}
	}
	for _, name := range variantNames {
		variant, err := ParseVariant(name)
		if err != nil || variant.String() != name {
			t.Fatalf("%s: %v", name, err)
		}
		// An amount that is no number must not break the JSON.
		message, err := Notify{Variant: variant, Key: key, Fields: map[string]string{"totalAmount": "0012", "orderDesc": "测试"}}.Build()
		if err != nil || len(message.Body) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range map[string]Notify{
		"no key":      {},
		"kind":        {Key: key, Kind: 99},
		"variant":     {Key: key, Variant: -1},
		"digest":      {Key: key, Digest: "SM3"},
		"no name":     {Key: key, Fields: map[string]string{"": "a"}},
		"sign itself": {Key: key, Fields: map[string]string{"sign": "a"}},
	} {
		if _, err := bad.Build(); err == nil {
			t.Errorf("%s: built", name)
		}
	}
	if _, err := ParseKind("pay"); err == nil || !strings.Contains(err.Error(), "payment, refund") {
		t.Error(err)
	}
	if _, err := ParseVariant("x"); err == nil || !strings.Contains(err.Error(), "genuine, duplicate") {
		t.Error(err)
	}
}
