package sandbox

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"
)

// Kind is what a notify reports.
type Kind int

// The kinds of notifies.
const (
	KindPayment   Kind = iota // an order was paid (E 1.8)
	KindRefund                // a refund has ended (E 1.8)
	KindBill                  // a bill was paid (E 1.8.5)
	KindDeduction             // a deduction under a contract was made (document B)
	KindGuarantee             // a guaranteed payment was completed or canceled (E 1.8, secureStatus)
)

var kindNames = []string{"payment", "refund", "bill", "deduction", "guarantee"}

func (k Kind) String() string { return nameOf(int(k), kindNames) }

// MarshalText writes a kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ParseKind reads a kind's name.
func ParseKind(name string) (Kind, error) {
	i := slices.Index(kindNames, name)
	if i < 0 {
		return 0, fmt.Errorf("no kind of notify is called %q; there are %s", name, strings.Join(kindNames, ", "))
	}
	return Kind(i), nil
}

// Variant is how a notify is sent, and what is wrong with it.
type Variant int

// The variants. Those before Tampered are true: a receiver has to take them.
const (
	Genuine    Variant = iota // as the platform sends it: the same notifyId, another random parameter each time
	Duplicate                 // the last message once more, byte for byte
	Late                      // of yesterday
	Reordered                 // the parameters the other way round; the signature does not depend on their order
	JSON                      // the same fields as a JSON object, amounts as numbers
	GBK                       // Chinese text in GBK, signed as those bytes
	Tampered                  // an amount changed after signing
	Recut                     // a closed order's signed string, cut elsewhere into another one's payment
	Unsigned                  // without sign
	OtherKey                  // signed with another key
	ForeignMID                // another merchant's, rightly signed
)

var variantNames = []string{
	"genuine", "duplicate", "late", "reordered", "json", "gbk", "tampered", "recut", "unsigned", "other-key",
	"foreign-mid",
}

func (v Variant) String() string { return nameOf(int(v), variantNames) }

// MarshalText writes a variant's name.
func (v Variant) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// True reports whether a receiver has to take a notify of this variant.
func (v Variant) True() bool { return v < Tampered }

// ParseVariant reads a variant's name.
func ParseVariant(name string) (Variant, error) {
	i := slices.Index(variantNames, name)
	if i < 0 {
		return 0, fmt.Errorf("no variant of a notify is called %q; there are %s", name, strings.Join(variantNames, ", "))
	}
	return Variant(i), nil
}

func nameOf(i int, names []string) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("unknown %d", i)
	}
	return names[i]
}

// What the sandbox's merchant is called, everywhere.
const (
	merchantName = "测试商户"
	targetMID    = "2088000000000001"
	branch       = "102300"
)

var merchantUUID = randomHex(16)

// Notify describes a notify of an imaginary order, for whoever has the merchant's keys and no order at the sandbox.
type Notify struct {
	Kind    Kind
	Variant Variant

	// Key is the communication key. Required.
	Key string

	// Digest, OmitSignType, SmallSign and OmitNotifyID as in Options.
	Digest                                Digest
	OmitSignType, SmallSign, OmitNotifyID bool

	// Fields replace those of the imaginary order, or are added; an empty value takes a field out. mid and merOrderId
	// are the least to give if the receiver compares them.
	Fields map[string]string

	// Now is the time of the payment. Default: time.Now().
	Now time.Time
}

// Message is a notify as it goes over the wire.
type Message struct {
	ContentType string
	Body        []byte
	Form        url.Values // the parameters, decoded, sign included
	Signed      string     // the string that was signed, without the key
}

// Build makes the message. It is a pure function but for the numbers it makes up.
func (n Notify) Build() (*Message, error) {
	if n.Key == "" {
		return nil, errors.New("sandbox: a notify needs a key")
	}
	if n.Kind < 0 || int(n.Kind) >= len(kindNames) {
		return nil, fmt.Errorf("sandbox: kind %s", n.Kind)
	}
	if n.Variant < 0 || int(n.Variant) >= len(variantNames) {
		return nil, fmt.Errorf("sandbox: variant %s", n.Variant)
	}
	switch n.Digest {
	case "":
		n.Digest = SHA256
	case MD5, SHA256:
	default:
		return nil, fmt.Errorf("sandbox: Digest must be %s or %s", MD5, SHA256)
	}
	if n.Now.IsZero() {
		n.Now = time.Now()
	}
	o, r := sample(n.Kind, n.Now)
	params := notifyParams(n.Kind, o, r)
	if !n.OmitNotifyID {
		params = append(params, param{"notifyId", randomHex(16)})
	}
	names := make([]string, 0, len(n.Fields))
	for name := range n.Fields {
		if name == "" || name == "sign" {
			return nil, fmt.Errorf("sandbox: a field cannot be called %q", name)
		}
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		params = set(params, name, n.Fields[name])
	}
	return compose(params, signing{n.Key, n.Digest, n.OmitSignType, n.SmallSign}, n.Kind, n.Variant), nil
}

// sample is an imaginary order, or refund, that such a notify could be about.
func sample(kind Kind, now time.Time) (*order, *refund) {
	prefix := "1001" + now.In(zone).Format(stampLayout)
	o := newOrder(now.Add(-time.Minute), prefix+randomDigits(10), 1234, "Alipay 2.0")
	o.mid, o.tid, o.inst = "898340149000005", "88880001", "APPDEFAULT"
	o.status, o.paid, o.funds, o.description = statusPaid, now, "现金:1234", "一杯茶"
	switch kind {
	case KindRefund:
		o.status = statusRefund
		return o, &refund{
			order: o, number: prefix + randomDigits(10), target: newTarget(now), amount: 234, status: refundSuccess,
			description: "退款", at: now,
		}
	case KindBill:
		o.inst, o.system, o.connect = "QRPAYDEFAULT", "ACP", "UNIONPAY"
		o.billNo, o.billDate = prefix+randomDigits(6), dayText(now)
		o.showQRCode(prefix[:4])
	case KindDeduction:
		o.system, o.cardAttr, o.contract = "UnionPay", "DEBIT_CARD", randomDigits(20)
		o.contractSigned, o.contractExpires = now.Add(-30*24*time.Hour), now.Add(335*24*time.Hour)
	case KindGuarantee:
		o.secured, o.secure, o.completed = true, secureAll, o.total
	}
	return o, nil
}

// notifyParams are the parameters of a notify, but for notifyId, the random one, signType and sign. Those without a
// value are left out (SIGN-05).
func notifyParams(kind Kind, o *order, r *refund) []param {
	amount := fmt.Sprint(int64(o.total))
	var all []param
	switch kind {
	case KindBill:
		payment, err := json.Marshal(plain(o.billPayment(), false))
		if err != nil { // plain values only
			panic(err)
		}
		all = []param{
			{"mid", o.mid}, {"tid", o.tid}, {"instMid", o.inst}, {"merName", merchantName}, {"billNo", o.billNo},
			{"billDate", o.billDate}, {"billStatus", o.billStatus()}, {"billQRCode", o.billURL}, {"qrCodeId", o.qrCode},
			{"billDesc", o.description}, {"billPayment", string(payment)}, {"totalAmount", amount},
			{"attachedData", o.attached}, {"cardAttr", o.cardAttr}, {"createTime", clockText(o.created)}, {"mchntUuid", merchantUUID}, {"seqId", o.seq}, {"subInst", branch},
		}
	case KindDeduction:
		all = []param{
			{"connectSys", o.connect}, {"tid", o.tid}, {"billFunds", o.funds}, {"billFundsDesc", "现金支付" + o.total.yuan()},
			{"totalAmount", amount}, {"couponAmount", "0"}, {"buyerPayAmount", amount}, {"invoiceAmount", amount},
			{"merOrderId", o.number}, {"payTime", clockText(o.paid)}, {"seqId", o.seq}, {"settleDate", dayText(o.paid)},
			{"status", o.status}, {"targetOrderId", o.target}, {"targetSys", o.system}, {"cardAttr", o.cardAttr},
			{"mid", o.mid}, {"contractId", o.contract}, {"contractSignedTime", clockText(o.contractSigned)},
			{"contractExpiredTime", clockText(o.contractExpires)}, {"attachedData", o.attached}, {"buyerId", o.buyerID},
			{"buyerUsername", o.buyerName}, {"refId", o.seq},
		}
	default:
		all = []param{
			{"mid", o.mid}, {"tid", o.tid}, {"instMid", o.inst}, {"merName", merchantName}, {"merOrderId", o.number},
			{"totalAmount", amount}, {"status", o.status}, {"seqId", o.seq}, {"targetSys", o.system},
			{"connectSys", o.connect}, {"attachedData", o.attached}, {"orderDesc", o.description}, {"goodsTradeNo", o.goodsTradeNo},
			{"createTime", clockText(o.created)}, {"mchntUuid", merchantUUID}, {"subInst", branch},
		}
		if !o.paid.IsZero() {
			all = append(all,
				param{"billFunds", o.funds}, param{"billFundsDesc", "现金支付" + o.total.yuan()}, param{"buyerId", o.buyerID},
				param{"buyerUsername", o.buyerName}, param{"couponAmount", "0"}, param{"buyerPayAmount", amount},
				param{"invoiceAmount", amount}, param{"receiptAmount", amount}, param{"payTime", clockText(o.paid)},
				param{"settleDate", dayText(o.paid)}, param{"refId", o.seq}, param{"targetOrderId", o.target})
		}
		if o.secure != "" {
			all = append(all, param{"secureStatus", o.secure})
			if o.completed > 0 {
				all = append(all, param{"completeAmount", fmt.Sprint(int64(o.completed))})
			}
		}
	}
	if kind == KindRefund {
		all = append(all,
			param{"refundAmount", fmt.Sprint(int64(r.amount))}, param{"refundDesc", r.description},
			param{"refundExtOrderId", r.number}, param{"refundOrderId", r.number}, param{"refundStatus", r.status})
		if r.status == refundSuccess {
			all = set(all, "status", statusRefund) // also of a full refund, which closes the order
			all = append(all, param{"refundTargetOrderId", r.target}, param{"refundPayTime", clockText(r.at)},
				param{"refundSettleDate", dayText(r.at)})
		}
	}
	return slices.DeleteFunc(all, func(p param) bool { return p.value == "" })
}

// signing says how a notify is signed.
type signing struct {
	key          string
	digest       Digest
	omitSignType bool
	small        bool
}

func (s signing) sign(text string) string {
	sign := notifySign(s.digest, text, s.key)
	if s.small {
		return strings.ToLower(sign)
	}
	return sign
}

// compose signs and encodes the parameters of a notify.
func compose(params []param, s signing, kind Kind, variant Variant) *Message {
	params = slices.Clone(params)
	if !s.omitSignType {
		params = set(params, "signType", string(s.digest))
	}
	params = append(params, randomParam())
	switch variant {
	case Late:
		params = shift(params, -23*time.Hour)
	case GBK:
		for i := range params {
			params[i].value = gbk(params[i].value)
		}
	case ForeignMID:
		params = set(params, "mid", "898"+randomDigits(12))
	case OtherKey:
		s.key = randomHex(24)
	case Recut:
		params = recut(params, kind)
	}
	text := stringToSign(params)
	params = append(params, param{"sign", s.sign(text)})
	switch variant {
	case Tampered:
		name := "totalAmount"
		if kind == KindRefund {
			name = "refundAmount"
		}
		params = set(params, name, get(params, name)+"0")
	case Unsigned:
		params = params[:len(params)-1]
	case Reordered:
		slices.Reverse(params)
	}
	message := &Message{
		ContentType: "application/x-www-form-urlencoded; charset=UTF-8", Form: make(url.Values), Signed: text,
	}
	for _, p := range params {
		message.Form.Add(p.name, p.value)
	}
	switch variant {
	case JSON:
		message.ContentType, message.Body = "application/json; charset=UTF-8", encodeJSON(params)
	case GBK:
		message.ContentType = "application/x-www-form-urlencoded; charset=GBK"
		fallthrough
	default:
		message.Body = encodeForm(params)
	}
	return message
}

// encodeForm writes a form as Java's URLEncoder does, and so the platform.
func encodeForm(params []param) []byte {
	pairs := make([]string, len(params))
	for i, p := range params {
		pairs[i] = url.QueryEscape(p.name) + "=" + url.QueryEscape(p.value)
	}
	return []byte(strings.Join(pairs, "&"))
}

// encodeJSON writes a flat object with amounts as numbers.
func encodeJSON(params []param) []byte {
	pairs := make([]string, len(params))
	for i, p := range params {
		var value any = p.value
		amount, ok := parseFen(p.value)
		if ok && strings.HasSuffix(p.name, "Amount") && fmt.Sprint(int64(amount)) == p.value {
			value = json.Number(p.value)
		}
		name, err := json.Marshal(p.name)
		if err != nil {
			panic(err)
		}
		text, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		pairs[i] = string(name) + ":" + string(text)
	}
	return []byte("{" + strings.Join(pairs, ",") + "}")
}

// randomParam is the parameter that makes each repetition's signature another (E1.8-NTF-26). No parameter of the
// documents has a name of two letters.
func randomParam() param {
	random := make([]byte, 6)
	_, _ = rand.Read(random)
	for i := range random {
		random[i] = 'a' + random[i]%26
	}
	return param{string(random[:2]), string(random[2:])}
}

// recut is the attack: the buyer of an order that was never paid has brought a second order's words into its text, and
// the order's signed string is cut behind them.
//
//	signed   …&orderDesc=tea&status=TRADE_SUCCESS&totalAmount=99900&z=&…&status=TRADE_CLOSED&totalAmount=1234
//	text     orderDesc = "tea&status=TRADE_SUCCESS&totalAmount=99900&z="
//	sent     orderDesc = "tea", status = "TRADE_SUCCESS", totalAmount = "99900",
//	         z = "&…&status=TRADE_CLOSED&totalAmount=1234"
//
// The string is the same, and so is its signature.
func recut(params []param, kind Kind) []param {
	text := "orderDesc"
	switch kind {
	case KindBill:
		text = "billDesc"
	case KindDeduction:
		text = "attachedData"
	}
	paid := set(set(params, "totalAmount", "99900"), "buyerPayAmount", "")
	switch kind {
	case KindRefund:
		paid = set(paid, "refundAmount", "99900")
	case KindBill:
		paid = set(paid, "billStatus", billPaid)
	default:
		paid = set(paid, "status", statusPaid)
		if get(paid, "payTime") == "" {
			paid = set(paid, "payTime", get(paid, "createTime"))
		}
	}
	closed := set(set(set(params, "status", statusClosed), "payTime", ""), text, "")
	if kind == KindBill {
		closed = set(set(closed, "status", ""), "billStatus", billClosed)
	}
	var sent, tail []param
	for _, p := range params { // what sorts before the text is the closed order's own
		if p.name < text {
			sent = append(sent, p)
		}
	}
	sent = append(sent, param{text, "tea"})
	for _, p := range paid {
		if p.name > text && p.name < "z" && p.value != "" && len(p.name) > 2 && p.name != "signType" {
			sent = append(sent, p)
		}
	}
	for _, p := range closed {
		if p.name > text {
			tail = append(tail, p)
		}
	}
	return append(sent, param{"z", "&" + stringToSign(tail)})
}

// times are the parameters that say when something happened. billDate is not one: it is part of a bill's name.
var times = map[string]string{
	"createTime": time.DateTime, "payTime": time.DateTime, "refundPayTime": time.DateTime, "settleDate": dayLayout,
	"refundSettleDate": dayLayout,
}

// shift moves the times in a notify.
func shift(params []param, by time.Duration) []param {
	for i, p := range params {
		if layout, known := times[p.name]; known {
			if at, err := time.ParseInLocation(layout, p.value, zone); err == nil {
				params[i].value = at.Add(by).Format(layout)
			}
		}
	}
	return params
}

// get returns a parameter's value.
func get(params []param, name string) string {
	for _, p := range params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// set returns the parameters with one of them changed, added or, without a value, taken out.
func set(params []param, name, value string) []param {
	out := make([]param, 0, len(params)+1)
	found := false
	for _, p := range params {
		if p.name == name {
			if found = true; value == "" {
				continue
			}
			p.value = value
		}
		out = append(out, p)
	}
	if !found && value != "" {
		out = append(out, param{name, value})
	}
	return out
}
