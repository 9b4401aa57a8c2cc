package chinaums

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

// The interfaces that say what has become of an order, a bill or a refund (checklist SYS-11, SYS-13; GAP-06).
const (
	pathQuery       = "/v1/netpay/query"
	pathBillQuery   = "/v1/netpay/bills/query"
	pathRefundQuery = "/v1/netpay/refund-query"
)

// maxConfirmAnswer bounds the platform's answer to a query.
const maxConfirmAnswer = 64 << 10

// What becomes of an event that the platform was asked about.
const (
	confirmedTrue       = "true"
	confirmedSuperseded = "superseded" // the platform is at a later state of the same order
)

// Reasons why an event is not confirmed.
const (
	reasonContradicted  = "contradicted"
	reasonNotAnswered   = "not_answered"
	reasonNotComparable = "not_comparable"
)

// platformAnswer is what the platform says about an order: the scalars of its JSON object as text, empty ones left
// out, and those of billPayment.
type platformAnswer struct {
	fields  map[string]string
	payment map[string]string
}

// confirmer asks the platform about events.
type confirmer struct {
	questions inbound.Questions[*platformAnswer]

	mu      sync.Mutex
	now     func() time.Time
	byOrder map[string]bool
}

func newConfirmer() *confirmer {
	return &confirmer{now: time.Now, byOrder: make(map[string]bool)}
}

// confirming asks for every handler of this process, and over reloads, so that what it has asked is not asked again.
var confirming = newConfirmer()

// claim is what a notify says, as text.
type claim map[string]string

func (f *notifyFields) claim() claim {
	all := make(claim, len(f.fields))
	for i := range f.fields {
		field := &f.fields[i]
		all[string(normalize.ToUTF8(f.name(field)))] = string(normalize.ToUTF8(f.value(field)))
	}
	return all
}

// confirm asks the platform about a notify whose signature is right, and says what it is: confirmed or, with the
// answer's status, why not. One that is doubtful, since it can be cut in two ways or has words together that no genuine
// one has, is held against every word that decides.
//
// The platform is asked about an order and not about a notify: each notify is held against the answer anew. An answer
// that is older than the notify proves nothing against it, which may tell of what has happened since.
func (c *confirmer) confirm(m *merchant, said claim, eventType string, doubtful bool, patience time.Duration) (confirmed string, rejected *rejection) {
	q, err := newQuestion(m, said, eventType)
	if err != nil {
		return "", &rejection{http.StatusServiceUnavailable, reasonNotComparable, err}
	}
	now, topic := c.time(), q.topic(m)
	topic.Doubtful = true
	if !doubtful {
		// What a doubtful one has asked for may help the order's own notify, but not harm it.
		if answer, ok := c.questions.Known(now, topic); ok {
			if confirmed, err := q.compare(said, answer, false); err == nil {
				return confirmed, nil
			}
		}
		topic.Doubtful = false
	}
	answer, fresh, err := c.questions.Ask(now, topic, patience, func(ctx context.Context) (*platformAnswer, error) {
		return c.query(ctx, m, q, said)
	})
	if err == nil {
		confirmed, err = q.compare(said, answer, doubtful)
	}
	_, contradicts := errors.AsType[contradiction](err)
	switch {
	case err == nil:
		return confirmed, nil
	case errors.Is(err, errNotComparable):
		return "", &rejection{http.StatusServiceUnavailable, reasonNotComparable, err}
	case contradicts && fresh:
		return "", &rejection{http.StatusConflict, reasonContradicted, err}
	case contradicts:
		err = fmt.Errorf("the platform has answered before this notify came, and is not asked again within a minute: %w", err)
	}
	return "", &rejection{http.StatusServiceUnavailable, reasonNotAnswered, err}
}

// question is one query about one order, bill or refund.
type question struct {
	path    string
	number  string // what is asked for: of the order, the bill or the refund
	instead string // a refund's order, for a platform that wants this number
	day     string // a bill's
	mid     string
}

// newQuestion returns what the platform is to be asked about a notify. A word that decides, or goes into the query, and
// holds an '&' has swallowed its neighbor: no answer holds such a word, and each cut would make another question of it.
func newQuestion(m *merchant, said claim, eventType string) (*question, error) {
	q := &question{path: pathQuery, number: said["merOrderId"], mid: said["mid"]}
	if q.mid == "" && len(m.mids) == 1 {
		for mid := range m.mids {
			q.mid = mid
		}
	}
	family, _, _ := strings.Cut(strings.TrimPrefix(eventType, "com.chinaums."), ".")
	switch family {
	case "bill":
		q.path, q.number, q.day = pathBillQuery, said["billNo"], said["billDate"]
	case "refund":
		q.path = pathRefundQuery
		for _, name := range []string{"refundExtOrderId", "refundOrderId"} {
			if said[name] != "" {
				q.number, q.instead = said[name], said["merOrderId"]
			}
		}
	}
	if q.number == "" {
		return nil, errors.New("the notify has no number to ask the platform for")
	}
	for name, value := range said {
		if deciding := decidingName(name); strings.Contains(value, "&") && (deciding != "" && deciding != "billPayment" || name == "tid" || name == "billDate") {
			return nil, fmt.Errorf("%w: %s holds an ampersand", errNotComparable, quoteText(name))
		}
	}
	return q, nil
}

// topic is what is asked once a minute: nothing of it depends on a state, nor on what else the notify says.
func (q *question) topic(m *merchant) inbound.Topic {
	order := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q", q.path, q.mid, q.number, q.instead, q.day))
	return inbound.Topic{
		Account: fmt.Sprintf("%q %q %q", m.name, m.endpoint.Host, m.signer.appID),
		Order:   string(order[:]),
	}
}

func (c *confirmer) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

// query asks. A refund is asked for by its own number, as the document's table has it, or by its order's, as the
// document's example has it, whichever this merchant's platform has answered.
func (c *confirmer) query(ctx context.Context, m *merchant, q *question, said claim) (*platformAnswer, error) {
	numbers := []string{q.number}
	if q.instead != "" && q.instead != q.number {
		numbers = append(numbers, q.instead)
		if c.orderFirst(m) {
			numbers[0], numbers[1] = numbers[1], numbers[0]
		}
	}
	var answer *platformAnswer
	var err error
	for _, number := range numbers {
		answer, err = c.call(ctx, m, q, number, said)
		if err != nil && !errors.Is(err, errNoSuchOrder) {
			return nil, err
		}
		if err == nil && (q.path != pathRefundQuery || sameRefund(said, answer) == nil) {
			if len(numbers) > 1 {
				c.learn(m, number == q.instead)
			}
			break
		}
	}
	return answer, err
}

// orderFirst says whether a merchant's refunds are asked for by their order's number first.
func (c *confirmer) orderFirst(m *merchant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byOrder[m.name]
}

func (c *confirmer) learn(m *merchant, byOrder bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if byOrder {
		c.byOrder[m.name] = true
	} else {
		delete(c.byOrder, m.name)
	}
}

// contradiction is what the platform says against a notify. It names the field, and no value: it is logged.
type contradiction string

func (c contradiction) Error() string { return string(c) }

const errNoSuchOrder = contradiction("the platform knows no such order")

// call sends one signed query.
func (c *confirmer) call(ctx context.Context, m *merchant, q *question, number string, said claim) (*platformAnswer, error) {
	nonce, now := newNonce(), c.time()
	request := map[string]string{"msgId": nonce, "requestTimestamp": now.In(beijing).Format(time.DateTime)}
	asked := "merOrderId"
	if q.path == pathBillQuery {
		asked = "billNo"
	}
	for name, value := range map[string]string{asked: number, "billDate": q.day, "mid": q.mid, "tid": said["tid"], "instMid": said["instMid"]} {
		if value != "" {
			request[name] = value
		}
	}
	content, err := json.Marshal(request)
	if err != nil {
		return nil, err // strings always marshal
	}
	res, answer, _, err := m.Sender().Ask(ctx, m.endpoint, &outbound.Question{
		Path: q.path, Authorization: m.signer.authorization(now, nonce, content), Content: content, MaxAnswer: maxConfirmAnswer,
	})
	if err != nil {
		return nil, err
	}
	for _, authorization := range res.Header["Authorization"] {
		if scheme, _, _ := strings.Cut(strings.TrimSpace(authorization), " "); strings.EqualFold(scheme, bodySigScheme) {
			if err := m.signer.verify(authorization, answer); err != nil {
				return nil, fmt.Errorf("the answer is falsely signed: %w", err)
			}
		}
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the platform answered with status %d", res.StatusCode)
	}
	parsed, err := parseAnswer(answer)
	if err != nil {
		return nil, err
	}
	switch code := parsed.fields["errCode"]; code {
	case "SUCCESS":
		return parsed, nil
	case "NO_ORDER":
		return nil, errNoSuchOrder
	default:
		return nil, fmt.Errorf("the platform answered %s", quoteText(code))
	}
}

// parseAnswer reads an answer. billPayment is an object or, as in notifies, its text.
func parseAnswer(content []byte) (*platformAnswer, error) {
	fields, nested, err := readScalars(content, "billPayment")
	if err != nil {
		return nil, errors.New("the answer is not a JSON object")
	}
	answer := &platformAnswer{fields: fields}
	if nested == nil && fields["billPayment"] != "" {
		nested = []byte(fields["billPayment"])
	}
	if nested != nil {
		if answer.payment, _, err = readScalars(nested, ""); err != nil {
			answer.payment = nil // no object: nothing to compare with
		}
	}
	return answer, nil
}

// readScalars returns the scalars of a JSON object as text, numbers as they are written, and the member that is named,
// if it is an object. Of two members of one name that differ neither is there: the document's own example has two.
func readScalars(content []byte, object string) (fields map[string]string, nested json.RawMessage, err error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, nil, errors.New("no object")
	}
	fields = make(map[string]string)
	doubtful := make(map[string]bool)
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, nil, err
		}
		name := token.(string)
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return nil, nil, err
		}
		if raw[0] == '{' && name == object {
			nested = raw
			continue
		}
		text, ok := scalar(raw)
		if !ok || text == "" {
			continue
		}
		if earlier, repeated := fields[name]; repeated && earlier != text {
			doubtful[name] = true
		}
		fields[name] = text
	}
	if _, err := decoder.Token(); err != nil {
		return nil, nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, nil, errors.New("data after the object")
	}
	for name := range doubtful {
		delete(fields, name)
	}
	return fields, nested, nil
}

// scalar returns a JSON string's text, or a number's or boolean's literal; null is empty.
func scalar(raw json.RawMessage) (string, bool) {
	switch raw[0] {
	case '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return text, err == nil
	case '{', '[':
		return "", false
	case 'n':
		return "", true
	}
	return string(raw), true
}

var errNotComparable = errors.New("not comparable")

func differ(name string) error { return contradiction(name + " is not what the platform says") }

func missing(name string) error {
	return fmt.Errorf("%w: %s is missing", errNotComparable, name)
}

// compare holds a notify against the platform's answer: order, status, amount, and what else makes the event's type and
// id. Of these words the answer must have each: what it does not hold is not comparable. Where a notify is doubtful, its
// signature says nothing about the words that decide, so each of them must be in the answer too.
func (q *question) compare(said claim, answer *platformAnswer, doubtful bool) (confirmed string, err error) {
	if answer == nil {
		return "", errNotComparable
	}
	if err := sameText(said, answer, "mid", false); err != nil {
		return "", err
	}
	switch q.path {
	case pathBillQuery:
		confirmed, err = q.compareBill(said, answer)
	case pathRefundQuery:
		confirmed, err = q.compareRefund(said, answer)
	default:
		confirmed, err = q.compareOrder(said, answer)
	}
	if err == nil && doubtful {
		err = q.compareDeciding(said, answer)
	}
	if err != nil {
		return "", err
	}
	return confirmed, nil
}

func (q *question) compareOrder(said claim, answer *platformAnswer) (string, error) {
	if err := sameText(said, answer, "merOrderId", true); err != nil {
		return "", err
	}
	if err := sameAmount(said, answer, "totalAmount"); err != nil {
		return "", err
	}
	confirmed, err := later(orderStates, orderWord(said["status"]), orderWord(answer.fields["status"]), answer)
	if err != nil {
		return "", err
	}
	// No document says that the answer has one of these, but a platform may.
	switch {
	case said["secureStatus"] != "": // a guarantee
		secured, err := later(secureStates, said["secureStatus"], answer.fields["secureStatus"], answer)
		if err == nil && said["completeAmount"] != "" && secured == confirmedTrue {
			err = q.held(answer, "completeAmount", "completeAmount", said["completeAmount"])
		}
		if err != nil {
			return "", err
		}
		if secured == confirmedSuperseded {
			confirmed = secured
		}
	case said["contractId"] != "": // a deduction
		if err := sameText(said, answer, "contractId", true); err != nil {
			return "", err
		}
	}
	return confirmed, nil
}

func (q *question) compareBill(said claim, answer *platformAnswer) (string, error) {
	if err := sameText(said, answer, "billNo", true); err != nil {
		return "", err
	}
	if err := sameText(said, answer, "billDate", false); err != nil {
		return "", err
	}
	if err := sameAmount(said, answer, "totalAmount"); err != nil {
		return "", err
	}
	return later(billStates, said["billStatus"], answer.fields["billStatus"], answer)
}

func (q *question) compareRefund(said claim, answer *platformAnswer) (string, error) {
	if err := sameRefund(said, answer); err != nil {
		return "", err
	}
	// Some answer the number that was asked for, which may be the refund's.
	if order := answer.fields["merOrderId"]; said["merOrderId"] != "" && order != "" && order != said["merOrderId"] && order != q.number {
		return "", differ("merOrderId")
	}
	if said["totalAmount"] != "" && answer.fields["totalAmount"] != "" {
		if err := sameAmount(said, answer, "totalAmount"); err != nil {
			return "", err
		}
	}
	if err := sameRefundAmount(said, answer); err != nil {
		return "", err
	}
	return later(refundStates, refundWord(said), answer.fields["refundStatus"], answer)
}

// sameRefund says whether the answer is about the refund of the notify: the numbers that both have must be the same, and
// the answer must have the one that names the refund in the event's id.
func sameRefund(said claim, answer *platformAnswer) error {
	found := false
	for _, number := range []struct{ mine, theirs string }{
		{"refundOrderId", "refundOrderId"}, {"refundTargetOrderId", "refundTargetOrderId"}, {"refundExtOrderId", "refundOrderId"},
	} {
		mine, theirs := said[number.mine], answer.fields[number.theirs]
		switch {
		case mine == "" || number.mine == "refundExtOrderId" && said["refundOrderId"] != "":
			continue
		case theirs == "" && !found:
			return missing(number.mine)
		case theirs != "" && mine != theirs:
			return differ(number.mine)
		}
		found = true
	}
	if !found {
		return missing("refundOrderId")
	}
	return nil
}

// sameRefundAmount compares what was paid back. The document's table of the answer has no refundAmount, but what the
// merchant paid back and the part of it that the buyer had paid; the others send it.
func sameRefundAmount(said claim, answer *platformAnswer) error {
	if said["refundAmount"] == "" {
		return sameAmount(said, answer, "totalAmount")
	}
	if answer.fields["refundAmount"] != "" {
		return sameAmount(said, answer, "refundAmount")
	}
	for _, name := range []string{"sendBackAmount", "refundInvoiceAmount"} {
		mine, mineOK := wholeAmount(said["refundAmount"])
		theirs, theirsOK := wholeAmount(answer.fields[name])
		if mineOK && theirsOK && mine == theirs {
			return nil
		}
	}
	return missing("refundAmount")
}

// compareDeciding holds every word of a doubtful notify that decides against the answer. What contradicts it counts before
// what it does not hold.
func (q *question) compareDeciding(said claim, answer *platformAnswer) (lacking error) {
	for name, value := range said {
		deciding := decidingName(name)
		if deciding == "" || value == "" || deciding == "notifyId" && !said.namedByNotifyID(q) {
			continue
		}
		switch err := q.held(answer, name, deciding, value); {
		case errors.Is(err, errNotComparable):
			lacking = err
		case err != nil:
			return err
		}
	}
	return lacking
}

// namedByNotifyID reports whether the notifyId is part of the event's id: that of a refund without any number.
func (said claim) namedByNotifyID(q *question) bool {
	return q.path == pathRefundQuery && said["refundOrderId"] == "" && said["refundTargetOrderId"] == "" && said["refundExtOrderId"] == ""
}

// held says whether the answer holds a deciding word of a doubtful notify, whose other words have been compared already.
// What the answer does not hold is not comparable: the sender may have chosen it. Only createTime, which is in no answer,
// may be what the sender says: nothing is decided by it.
func (q *question) held(answer *platformAnswer, name, deciding, value string) error {
	theirs := answer.fields[deciding]
	switch deciding {
	case "sign", "signType":
		return nil // the signature's own, and that is right
	case "createTime":
		if theirs == "" {
			return nil
		}
	case "status":
		// Compared as a state already; but under a refund or a bill it is another thing than what was compared.
		if q.path == pathQuery && name == deciding || theirs != "" && orderWord(value) == orderWord(theirs) {
			return nil
		}
		if q.path == pathRefundQuery && orderWord(value) == "TRADE_REFUND" {
			return nil // it says no more than that there is a refund, which is confirmed
		}
	case "secureStatus", "billStatus", "refundStatus":
		if q.path == decidedBy[deciding] && name == deciding {
			return nil // compared as a state already
		}
	case "billPayment":
		if name == deciding && samePayment(value, answer) {
			return nil
		}
	case "totalAmount", "buyerPayAmount", "refundAmount", "completeAmount":
		if deciding == "completeAmount" && theirs == "" {
			theirs = answer.fields["completedAmount"] // as the answers of secure-complete call it
		}
		if deciding == "refundAmount" && name == deciding && q.path == pathRefundQuery && theirs == "" {
			return nil // compared already, with what the answer has instead
		}
		mine, mineOK := wholeAmount(value)
		amount, amountOK := wholeAmount(theirs)
		if mineOK && amountOK && mine == amount {
			return nil
		}
	case "refundExtOrderId":
		if q.path == pathRefundQuery && theirs == "" {
			theirs = answer.fields["refundOrderId"]
		}
	case "refundPayTime":
		if q.path == pathRefundQuery && theirs == "" && answer.fields["payTime"] == value {
			return nil
		}
	case "payTime", "seqId", "targetOrderId":
		if q.path == pathRefundQuery && theirs != value {
			return missing(deciding) // the answer's may be the refund's own
		}
	}
	switch theirs {
	case value:
		return nil
	case "":
		return missing(deciding)
	}
	return differ(deciding)
}

// decidedBy says which query's answer is compared with a state.
var decidedBy = map[string]string{"secureStatus": pathQuery, "billStatus": pathBillQuery, "refundStatus": pathRefundQuery}

// decidingName returns the deciding name that a name is, letter case and joints aside, or "".
func decidingName(name string) string {
	plain := string(withoutJoints([]byte(name)))
	for _, deciding := range decidingNames {
		if strings.EqualFold(plain, deciding) {
			return deciding
		}
	}
	return ""
}

// samePayment reports whether each member of a bill's payment is what the platform says.
func samePayment(text string, answer *platformAnswer) bool {
	mine, nested, err := readScalars([]byte(text), "")
	if err != nil || nested != nil || len(answer.payment) == 0 {
		return false
	}
	for name, value := range mine {
		if answer.payment[name] != value {
			return false
		}
	}
	return true
}

// sameText compares a word that both must have, or one that must not differ where both have it.
func sameText(said claim, answer *platformAnswer, name string, required bool) error {
	mine, theirs := said[name], answer.fields[name]
	switch {
	case mine != "" && theirs != "" && mine != theirs:
		return differ(name)
	case required && (mine == "" || theirs == ""):
		return missing(name)
	}
	return nil
}

// sameAmount compares an amount in fen, which both must have.
func sameAmount(said claim, answer *platformAnswer, name string) error {
	mine, mineOK := wholeAmount(said[name])
	theirs, theirsOK := wholeAmount(answer.fields[name])
	switch {
	case !mineOK || !theirsOK:
		return missing(name)
	case mine != theirs:
		return differ(name)
	}
	return nil
}

// wholeAmount returns a plain integer; nothing is parsed as a float.
func wholeAmount(text string) (string, bool) { return text, normalize.IsAmount([]byte(text)) }

// orderWord reads the spellings of a status (protocol.md; X-14).
func orderWord(status string) string {
	switch status {
	case "SUCCESS", "success":
		return "TRADE_SUCCESS"
	case "REFUND":
		return "TRADE_REFUND"
	}
	return status
}

// refundWord is a notify's refundStatus; without one, the time of the refund says that it has succeeded.
func refundWord(said claim) string {
	switch {
	case said["refundStatus"] != "":
		return said["refundStatus"]
	case said["refundPayTime"] != "":
		return "SUCCESS"
	}
	return "UNKNOWN"
}

// states says for each state which ones can come later. A state that is not here is comparable with itself only.
type states map[string][]string

var (
	// TRADE_CLOSED is what a payment ends in that was never made, and a payment that was paid back in full: after
	// TRADE_SUCCESS it is told apart by what was paid back.
	orderStates = states{
		"NEW_ORDER":      {"WAIT_BUYER_PAY", "TRADE_SUCCESS", "TRADE_REFUND", "TRADE_CLOSED"},
		"UNKNOWN":        {"NEW_ORDER", "WAIT_BUYER_PAY", "TRADE_SUCCESS", "TRADE_REFUND", "TRADE_CLOSED"},
		"WAIT_BUYER_PAY": {"TRADE_SUCCESS", "TRADE_REFUND", "TRADE_CLOSED"},
		"TRADE_SUCCESS":  {"TRADE_REFUND"},
		"TRADE_REFUND":   {},
		"TRADE_CLOSED":   {},
	}
	billStates = states{
		"UNPAID":  {"PAID", "REFUND", "CLOSED"},
		"UNKNOWN": {"UNPAID", "PAID", "REFUND", "CLOSED"},
		"PAID":    {"REFUND"},
		"REFUND":  {},
		"CLOSED":  {},
	}
	refundStates = states{
		"UNKNOWN":    {"PROCESSING", "SUCCESS", "FAIL"},
		"PROCESSING": {"SUCCESS", "FAIL"},
		"SUCCESS":    {},
		"FAIL":       {},
	}
	secureStates = states{
		"UNCOMPLETED":      {"PARTLY_COMPLETED", "ALL_COMPLETED", "CANCELED"},
		"PARTLY_COMPLETED": {"ALL_COMPLETED"},
		"ALL_COMPLETED":    {},
		"CANCELED":         {},
	}
)

// later compares two states of one thing.
func later(known states, mine, theirs string, answer *platformAnswer) (string, error) {
	if mine == "" || theirs == "" {
		return "", missing("status")
	}
	if mine == theirs {
		return confirmedTrue, nil
	}
	successors, ok := known[mine]
	if _, theirsOK := known[theirs]; !ok || !theirsOK || theirs == "UNKNOWN" {
		return "", fmt.Errorf("%w: status", errNotComparable)
	}
	for _, successor := range successors {
		if successor == theirs {
			return confirmedSuperseded, nil
		}
	}
	if paid, closed := mine == "TRADE_SUCCESS" || mine == "PAID" || mine == "TRADE_REFUND" || mine == "REFUND", theirs == "TRADE_CLOSED" || theirs == "CLOSED"; paid && closed {
		if back, ok := wholeAmount(answer.fields["refundAmount"]); ok && back != "0" {
			return confirmedSuperseded, nil
		}
	}
	return "", differ("status")
}

// confirm asks the platform about an event, which says then what the platform says.
func (n *Notify) confirm(m *merchant, fields *notifyFields, event *notifyEvent, doubtful bool) *rejection {
	confirmed, rejected := n.confirmer.confirm(m, fields.claim(), event.Type, doubtful, time.Duration(n.Timeout))
	if rejected != nil {
		return rejected
	}
	event.Confirmed = confirmed
	n.logger.Debug("event confirmed", zap.String("merchant", m.name), zap.String("event", event.ID), zap.String("confirmed", confirmed))
	return nil
}
