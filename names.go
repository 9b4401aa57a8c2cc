package chinaums

import (
	"bytes"
	"slices"
	"strings"

	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
)

// The fields that the rules name, by number. Those in front of decidingFields decide about money.
const (
	fieldMid = iota
	fieldInstMid
	fieldMerOrderID
	fieldBillNo
	fieldBillDate
	fieldSeqID
	fieldTargetOrderID
	fieldStatus
	fieldBillStatus
	fieldRefundStatus
	fieldSecureStatus
	fieldTotalAmount
	fieldCompleteAmount
	fieldRefundOrderID
	fieldRefundExtOrderID
	fieldRefundTargetOrderID
	fieldRefundAmount
	fieldRefundPayTime
	fieldContractID
	fieldNotifyID
	fieldPayTime
	fieldCreateTime
	fieldBillPayment
	fieldBuyerPayAmount
	fieldSign
	fieldSignType
	decidingFields

	fieldContractSignedTime = iota - 1
	fieldContractExpiredTime
	fieldGoods
	fieldSubOrders
	fieldRefundSubOrders
	namedFields
)

// subject is what a field is about: an order, unless the table says otherwise.
type subject uint8

const (
	ofOrder subject = iota
	ofBill
	ofRefund
)

// fieldInfo is what is known of a field.
type fieldInfo struct {
	name string
	rule normalize.Rule // what its text becomes in JSON, where the name's end does not say so already
	of   subject
}

// fieldTable is the one table of names: the event, the confirmation and the return page read it.
//
// The signed string does not say where one field ends and the next begins, since '&' and '=' are not escaped in it. So no
// value may hold the name of a deciding field as a pair, and no deciding field's value may hold a pair.
var fieldTable = [namedFields]fieldInfo{
	fieldMid:                 {name: "mid"},
	fieldInstMid:             {name: "instMid"},
	fieldMerOrderID:          {name: "merOrderId"},
	fieldBillNo:              {name: "billNo", of: ofBill},
	fieldBillDate:            {name: "billDate", of: ofBill},
	fieldSeqID:               {name: "seqId"},
	fieldTargetOrderID:       {name: "targetOrderId"},
	fieldStatus:              {name: "status"},
	fieldBillStatus:          {name: "billStatus", of: ofBill},
	fieldRefundStatus:        {name: "refundStatus", of: ofRefund},
	fieldSecureStatus:        {name: "secureStatus"},
	fieldTotalAmount:         {name: "totalAmount"},
	fieldCompleteAmount:      {name: "completeAmount"},
	fieldRefundOrderID:       {name: "refundOrderId", of: ofRefund},
	fieldRefundExtOrderID:    {name: "refundExtOrderId", of: ofRefund},
	fieldRefundTargetOrderID: {name: "refundTargetOrderId", of: ofRefund},
	fieldRefundAmount:        {name: "refundAmount", of: ofRefund},
	fieldRefundPayTime:       {name: "refundPayTime", of: ofRefund, rule: normalize.Time},
	fieldContractID:          {name: "contractId"},
	fieldNotifyID:            {name: "notifyId"},
	fieldPayTime:             {name: "payTime", rule: normalize.Time},
	fieldCreateTime:          {name: "createTime", rule: normalize.Time},
	fieldBillPayment:         {name: "billPayment", of: ofBill, rule: normalize.JSON},
	fieldBuyerPayAmount:      {name: "buyerPayAmount"},
	fieldSign:                {name: "sign"},
	fieldSignType:            {name: "signType"},
	fieldContractSignedTime:  {name: "contractSignedTime", rule: normalize.Time},
	fieldContractExpiredTime: {name: "contractExpiredTime", rule: normalize.Time},
	fieldGoods:               {name: "goods", rule: normalize.JSON},
	fieldSubOrders:           {name: "subOrders", rule: normalize.JSON},
	fieldRefundSubOrders:     {name: "refundSubOrders", rule: normalize.JSON},
}

// numbersBySlot holds the numbers of fieldTable, each in the slot of its name; foldedNames the names of the deciding fields in
// small letters.
var numbersBySlot, foldedNames = func() (bySlot [slots]uint8, folded [decidingFields]string) {
	for number, known := range fieldTable {
		bySlot[slotOf([]byte(known.name))] = uint8(number)
		if number < decidingFields {
			folded[number] = strings.ToLower(known.name)
		}
	}
	return bySlot, folded
}()

// slots is how many numbersBySlot has.
const slots = 128

// slotOf returns where a name stands in numbersBySlot. No two names of fieldTable have one slot, and a name has the same in
// small letters, since none begins or ends with a capital.
func slotOf(name []byte) uint8 {
	if len(name) == 0 {
		return 0
	}
	return (uint8(len(name)) + 4*name[0] + 2*name[len(name)-1]) % slots
}

// tableNumber returns the number of a name in fieldTable, or -1.
func tableNumber(name []byte) int {
	if number := int(numbersBySlot[slotOf(name)]); string(name) == fieldTable[number].name {
		return number
	}
	return -1
}

// fieldNumber returns the number of a deciding field, or -1.
func fieldNumber(name []byte) int {
	if number := tableNumber(name); number < decidingFields {
		return number
	}
	return -1
}

// decidingNumber returns the number of the deciding field that some reader could take name for, or -1: letter case,
// underscores and hyphens do not count.
func decidingNumber(name string) int {
	plain := string(withoutJoints([]byte(name)))
	return slices.IndexFunc(fieldTable[:decidingFields], func(known fieldInfo) bool { return strings.EqualFold(plain, known.name) })
}

// joints are the bytes that some readers overlook in a name.
const joints = "_-"

// withoutJoints takes the joints out of a name, in place.
func withoutJoints(name []byte) []byte {
	if bytes.IndexByte(name, joints[0]) < 0 && bytes.IndexByte(name, joints[1]) < 0 {
		return name
	}
	return slices.DeleteFunc(name, func(c byte) bool { return strings.IndexByte(joints, c) >= 0 })
}

// numberOfFolded returns the number of a deciding field by its folded name, with joints or without, or -1. It takes the
// joints out of the name.
func numberOfFolded(name []byte) int {
	name = withoutJoints(name)
	if number := numbersBySlot[slotOf(name)]; number < decidingFields && string(name) == foldedNames[number] {
		return int(number)
	}
	return -1
}

// ruleOf says what a field's text becomes in JSON: an amount by the name's end, anything else by the table.
func ruleOf(name []byte) normalize.Rule {
	if len(name) == 0 {
		return normalize.None
	}
	last := name[len(name)-1]
	if last == 't' && bytes.HasSuffix(name, amountSuffix) || last == 'e' && bytes.HasSuffix(name, contributeSuffix) {
		return normalize.Amount
	}
	if number := tableNumber(name); number >= 0 {
		return fieldTable[number].rule
	}
	return normalize.None
}

var (
	amountSuffix     = []byte("Amount")
	contributeSuffix = []byte("Contribute")
)

// typePrefix is what the types of all events begin with.
const typePrefix = "com.chinaums."

// family is a kind of thing that notifies are about.
type family struct {
	name   string
	word   int    // the field that holds the thing's state
	query  string // the interface that says what the state is now (checklist SYS-11, SYS-13; GAP-06)
	number int    // the field that it is asked for by
	open   bool   // a state that is not known becomes a type all the same
	states states
	types  map[string]string // the event's type, by the state
}

const (
	pathQuery       = "/v1/netpay/query"
	pathBillQuery   = "/v1/netpay/bills/query"
	pathRefundQuery = "/v1/netpay/refund-query"
)

// states says what each state is called in the type of an event, and which states can come later. One without a name is
// no type of its own. What is not here is comparable with itself only.
type states map[string]struct {
	name  string
	later []string
}

// orderPaid is the state of an order that has been paid.
const orderPaid = "TRADE_SUCCESS"

// orderStates: TRADE_CLOSED is what a payment ends in that was never made, and a payment that was paid back in full
// . After TRADE_SUCCESS, what was paid back distinguishes the two.
var orderStates = states{
	"UNKNOWN":        {"", []string{"NEW_ORDER", "WAIT_BUYER_PAY", orderPaid, "TRADE_REFUND", "TRADE_CLOSED"}},
	"NEW_ORDER":      {"created", []string{"WAIT_BUYER_PAY", orderPaid, "TRADE_REFUND", "TRADE_CLOSED"}},
	"WAIT_BUYER_PAY": {"pending", []string{orderPaid, "TRADE_REFUND", "TRADE_CLOSED"}},
	orderPaid:        {"succeeded", []string{"TRADE_REFUND"}},
	"TRADE_REFUND":   {"", nil},
	"TRADE_CLOSED":   {"closed", nil},
}

// The families of events.
var (
	payments   = newFamily(family{name: "payment", word: fieldStatus, query: pathQuery, number: fieldMerOrderID, states: orderStates})
	deductions = newFamily(family{name: "deduction", word: fieldStatus, query: pathQuery, number: fieldMerOrderID, states: orderStates})
	guarantees = newFamily(family{name: "guarantee", word: fieldSecureStatus, query: pathQuery, number: fieldMerOrderID, open: true, states: states{
		"UNCOMPLETED":      {"uncompleted", []string{"PARTLY_COMPLETED", "ALL_COMPLETED", "CANCELED"}},
		"PARTLY_COMPLETED": {"partly_completed", []string{"ALL_COMPLETED"}},
		"ALL_COMPLETED":    {"all_completed", nil},
		"CANCELED":         {"canceled", nil},
	}})
	bills = newFamily(family{name: "bill", word: fieldBillStatus, query: pathBillQuery, number: fieldBillNo, open: true, states: states{
		"UNKNOWN": {"", []string{"UNPAID", "PAID", "REFUND", "CLOSED"}},
		"UNPAID":  {"unpaid", []string{"PAID", "REFUND", "CLOSED"}},
		"PAID":    {"paid", []string{"REFUND"}},
		"REFUND":  {"refund", nil},
		"CLOSED":  {"closed", nil},
	}})
	refunds = newFamily(family{name: "refund", word: fieldRefundStatus, query: pathRefundQuery, number: fieldMerOrderID, states: states{
		"UNKNOWN":    {"", []string{"PROCESSING", "SUCCESS", "FAIL"}},
		"PROCESSING": {"processing", []string{"SUCCESS", "FAIL"}},
		"SUCCESS":    {"succeeded", nil},
		"FAIL":       {"failed", nil},
	}})
	families = []*family{payments, deductions, guarantees, bills, refunds}
)

func newFamily(f family) *family {
	f.types = map[string]string{"": f.typed("unknown")}
	for word, state := range f.states {
		if state.name != "" {
			f.types[word] = f.typed(state.name)
		}
	}
	return &f
}

func (f *family) typed(name string) string { return typePrefix + f.name + "." + name }

// eventType returns the type of an event about this state.
func (f *family) eventType(word []byte) string {
	if known, ok := f.types[string(word)]; ok {
		return known
	}
	if f.open {
		return f.typed(typeWord(word))
	}
	return f.types[""]
}

// isStateOf reports whether a field holds the state that an interface answers for.
func isStateOf(number int, query string) bool {
	return slices.ContainsFunc(families, func(f *family) bool { return f.word == number && f.query == query })
}

// familyOf returns the family of an event's type.
func familyOf(eventType string) *family {
	name, _, _ := strings.Cut(strings.TrimPrefix(eventType, typePrefix), ".")
	for _, f := range families {
		if f.name == name {
			return f
		}
	}
	return payments
}

// metricType bounds the metric's label: a bill's or guarantee's word is the platform's own text.
func metricType(eventType string) string {
	f := familyOf(eventType)
	for _, known := range f.types {
		if known == eventType {
			return known
		}
	}
	return f.typed("other")
}

// maxTypeWord bounds a platform's word that becomes part of a type.
const maxTypeWord = 32

// typeWord returns a platform's word in small letters, or "unknown" for what cannot be part of a type.
func typeWord(word []byte) string {
	if len(word) > maxTypeWord || bytes.ContainsFunc(word, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-')
	}) {
		return "unknown"
	}
	return strings.ToLower(string(word))
}

// orderState returns a status in the spelling of the table: deployments send others (protocol.md; X-14).
func orderState[T string | []byte](status T) T {
	switch string(status) {
	case "SUCCESS", "success":
		return T(orderPaid)
	case "REFUND":
		return T("TRADE_REFUND")
	}
	return status
}
