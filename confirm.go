package chinaums

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// maxConfirmAnswer bounds the platform's answer to a query.
const maxConfirmAnswer = 64 << 10

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

// confirm asks the platform about a notify whose signature is right, and says what it is: confirmed, or why not. The
// signature of an ambiguous one says nothing about its words, since it can be cut in two ways or has words together that
// no genuine one has. So each of its words that decides is compared with the answer.
func (c *confirmer) confirm(m *merchant, said claim, eventType string, ambiguous bool, patience time.Duration) (confirmed string, rejected *inbound.Rejection) {
	q, err := newQuestion(m, said, eventType)
	if err != nil {
		return "", &inbound.Rejection{Status: http.StatusServiceUnavailable, Reason: inbound.ReasonNotComparable, Detail: err}
	}
	now, topic := c.time(), q.topic(m)
	if !ambiguous {
		// What an ambiguous one has asked for may help the order's own notify, but not harm it.
		topic.Ambiguous = true
		if answer, ok := c.questions.Known(now, topic); ok {
			if confirmed, err := q.compare(said, answer, false); err == nil {
				return confirmed, nil
			}
		}
	}
	topic.Ambiguous = ambiguous
	return c.questions.Confirm(now, topic, patience, func(ctx context.Context) (*platformAnswer, error) {
		return c.query(ctx, m, q, said)
	}, func(answer *platformAnswer) (string, error) { return q.compare(said, answer, ambiguous) })
}

// question is one query about one order, bill or refund.
type question struct {
	of      *family
	path    string // of.query
	number  string // what is asked for: of the order, the bill or the refund
	instead string // a refund's order, for a platform that wants this number
	day     string // a bill's
	mid     string
}

// newQuestion returns what the platform is to be asked about a notify. A word that decides, or goes into the query, must
// not hold an '&': it would have its neighbor in it, which no answer has, and each cut would make another question of it.
func newQuestion(m *merchant, said claim, eventType string) (*question, error) {
	of := familyOf(eventType)
	q := &question{of: of, path: of.query, mid: said["mid"]}
	if q.mid == "" && len(m.mids) == 1 {
		for mid := range m.mids {
			q.mid = mid
		}
	}
	q.number = said[fieldTable[of.number].name]
	switch of {
	case bills:
		q.day = said["billDate"]
	case refunds:
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
		if deciding := decidingNumber(name); strings.Contains(value, "&") && (deciding >= 0 && deciding != fieldBillPayment || name == "tid" || name == "billDate") {
			return nil, fmt.Errorf("%w: %s holds an ampersand", inbound.ErrNotComparable, text.Name(name))
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
		if err == nil && (q.of != refunds || sameRefund(said, answer) == nil) {
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

const errNoSuchOrder = inbound.Contradiction("the platform knows no such order")

// call sends one signed query.
func (c *confirmer) call(ctx context.Context, m *merchant, q *question, number string, said claim) (*platformAnswer, error) {
	nonce, now := newNonce(), c.time()
	request := map[string]string{"msgId": nonce, "requestTimestamp": now.In(beijing).Format(time.DateTime)}
	for name, value := range map[string]string{fieldTable[q.of.number].name: number, "billDate": q.day, "mid": q.mid, "tid": said["tid"], "instMid": said["instMid"]} {
		if value != "" {
			request[name] = value
		}
	}
	content, err := json.Marshal(request)
	if err != nil {
		return nil, err // strings always marshal
	}
	answer, err := m.ask(ctx, now, nonce, q.path, content)
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("the platform answered %s", text.Name(code))
	}
}

// ask sends one signed query, and returns the platform's answer.
func (m *merchant) ask(ctx context.Context, now time.Time, nonce, path string, content []byte) ([]byte, error) {
	res, answer, _, err := m.Sender().Ask(ctx, m.endpoint, &outbound.Question{
		Path: path, Authorization: m.signer.authorization(now, nonce, content), Content: content, MaxAnswer: maxConfirmAnswer,
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
	return answer, nil
}

// parseAnswer reads an answer. billPayment is an object or, as in notifies, its text.
func parseAnswer(content []byte) (*platformAnswer, error) {
	fields, nested, err := jsontext.Scalars(content, "billPayment")
	if err != nil {
		return nil, errors.New("the answer is not a JSON object")
	}
	answer := &platformAnswer{fields: fields}
	if nested == nil && fields["billPayment"] != "" {
		nested = []byte(fields["billPayment"])
	}
	if nested != nil {
		if answer.payment, _, err = jsontext.Scalars(nested, ""); err != nil {
			answer.payment = nil // no object: nothing to compare with
		}
	}
	return answer, nil
}

// compare holds a notify against the platform's answer: order, status, amount, and what else makes the event's type and
// id. Of these words the answer must have each: what it does not hold is not comparable. Where a notify is ambiguous, its
// signature says nothing about the words that decide, so each of them must be in the answer too.
func (q *question) compare(said claim, answer *platformAnswer, ambiguous bool) (confirmed string, err error) {
	if answer == nil {
		return "", inbound.ErrNotComparable
	}
	if err := sameText(said, answer, "mid", false); err != nil {
		return "", err
	}
	switch q.of {
	case bills:
		confirmed, err = q.compareBill(said, answer)
	case refunds:
		confirmed, err = q.compareRefund(said, answer)
	default:
		confirmed, err = q.compareOrder(said, answer)
	}
	if err == nil && ambiguous {
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
	confirmed, err := later(payments, orderState(said["status"]), orderState(answer.fields["status"]), answer)
	if err != nil {
		return "", err
	}
	// No document says that the answer has one of these, but a platform may.
	switch {
	case said["secureStatus"] != "": // a guarantee
		secured, err := later(guarantees, said["secureStatus"], answer.fields["secureStatus"], answer)
		if err == nil && said["completeAmount"] != "" && secured == inbound.Confirmed {
			err = q.held(answer, "completeAmount", fieldCompleteAmount, said["completeAmount"])
		}
		if err != nil {
			return "", err
		}
		if secured == inbound.Superseded {
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
	return later(bills, said["billStatus"], answer.fields["billStatus"], answer)
}

func (q *question) compareRefund(said claim, answer *platformAnswer) (string, error) {
	if err := sameRefund(said, answer); err != nil {
		return "", err
	}
	// Some answer the number that was asked for, which may be the refund's.
	if order := answer.fields["merOrderId"]; said["merOrderId"] != "" && order != "" && order != said["merOrderId"] && order != q.number {
		return "", inbound.Differs("merOrderId")
	}
	if said["totalAmount"] != "" && answer.fields["totalAmount"] != "" {
		if err := sameAmount(said, answer, "totalAmount"); err != nil {
			return "", err
		}
	}
	if err := sameRefundAmount(said, answer); err != nil {
		return "", err
	}
	return later(refunds, refundState(said), answer.fields["refundStatus"], answer)
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
			return inbound.Missing(number.mine)
		case theirs != "" && mine != theirs:
			return inbound.Differs(number.mine)
		}
		found = true
	}
	if !found {
		return inbound.Missing("refundOrderId")
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
	return inbound.Missing("refundAmount")
}

// compareDeciding compares every deciding word of an ambiguous notify with the answer. What contradicts it counts before what
// it does not hold.
func (q *question) compareDeciding(said claim, answer *platformAnswer) (lacking error) {
	for name, value := range said {
		number := decidingNumber(name)
		if number < 0 || value == "" || number == fieldNotifyID && !said.namedByNotifyID(q) {
			continue
		}
		switch err := q.held(answer, name, number, value); {
		case errors.Is(err, inbound.ErrNotComparable):
			lacking = err
		case err != nil:
			return err
		}
	}
	return lacking
}

// namedByNotifyID reports whether the notifyId is part of the event's id: that of a refund without any number.
func (said claim) namedByNotifyID(q *question) bool {
	return q.of == refunds && said["refundOrderId"] == "" && said["refundTargetOrderId"] == "" && said["refundExtOrderId"] == ""
}

// held says whether the answer holds a deciding word of an ambiguous notify, whose other words have been compared already.
// What the answer does not hold is not comparable: the sender may have chosen it. Only createTime, which is in no answer,
// may be what the sender says: nothing is decided by it.
func (q *question) held(answer *platformAnswer, name string, number int, value string) error {
	deciding := fieldTable[number].name
	theirs, plain := answer.fields[deciding], name == deciding
	if plain && isStateOf(number, q.path) {
		return nil // compared as a state already
	}
	switch number {
	case fieldSign, fieldSignType:
		return nil // the signature's own, and that is right
	case fieldCreateTime:
		if theirs == "" {
			return nil
		}
	case fieldStatus:
		// Under a refund or a bill it is another thing than the state that was compared.
		if theirs != "" && orderState(value) == orderState(theirs) {
			return nil
		}
		if q.of == refunds && orderState(value) == "TRADE_REFUND" {
			return nil // it says no more than that there is a refund, which is confirmed
		}
	case fieldBillPayment:
		if plain && samePayment(value, answer) {
			return nil
		}
	case fieldTotalAmount, fieldBuyerPayAmount, fieldRefundAmount, fieldCompleteAmount:
		if number == fieldCompleteAmount && theirs == "" {
			theirs = answer.fields["completedAmount"] // as the answers of secure-complete call it
		}
		if number == fieldRefundAmount && plain && q.of == refunds && theirs == "" {
			return nil // compared already, with what the answer has instead
		}
		mine, mineOK := wholeAmount(value)
		amount, amountOK := wholeAmount(theirs)
		if mineOK && amountOK && mine == amount {
			return nil
		}
	case fieldRefundExtOrderID:
		if q.of == refunds && theirs == "" {
			theirs = answer.fields["refundOrderId"]
		}
	case fieldRefundPayTime:
		if q.of == refunds && theirs == "" && answer.fields["payTime"] == value {
			return nil
		}
	case fieldPayTime, fieldSeqID, fieldTargetOrderID:
		if q.of == refunds && theirs != value {
			return inbound.Missing(deciding) // the answer's may be the refund's own
		}
	}
	switch theirs {
	case value:
		return nil
	case "":
		return inbound.Missing(deciding)
	}
	return inbound.Differs(deciding)
}

// samePayment reports whether each member of a bill's payment is what the platform says.
func samePayment(text string, answer *platformAnswer) bool {
	mine, nested, err := jsontext.Scalars([]byte(text), "")
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
		return inbound.Differs(name)
	case required && (mine == "" || theirs == ""):
		return inbound.Missing(name)
	}
	return nil
}

// sameAmount compares an amount in fen, which both must have.
func sameAmount(said claim, answer *platformAnswer, name string) error {
	mine, mineOK := wholeAmount(said[name])
	theirs, theirsOK := wholeAmount(answer.fields[name])
	switch {
	case !mineOK || !theirsOK:
		return inbound.Missing(name)
	case mine != theirs:
		return inbound.Differs(name)
	}
	return nil
}

// wholeAmount returns a plain integer; nothing is parsed as a float.
func wholeAmount(text string) (string, bool) { return text, normalize.IsAmount([]byte(text)) }

// refundState is a notify's refundStatus; without one, the time of the refund says that it has succeeded.
func refundState(said claim) string {
	switch {
	case said["refundStatus"] != "":
		return said["refundStatus"]
	case said["refundPayTime"] != "":
		return "SUCCESS"
	}
	return "UNKNOWN"
}

// later compares two states of one thing, the notify's and the platform's.
func later(f *family, mine, theirs string, answer *platformAnswer) (string, error) {
	if mine == "" || theirs == "" {
		return "", inbound.Missing("status")
	}
	if mine == theirs {
		return inbound.Confirmed, nil
	}
	known, ok := f.states[mine]
	if _, theirsOK := f.states[theirs]; !ok || !theirsOK || theirs == "UNKNOWN" {
		return "", fmt.Errorf("%w: status", inbound.ErrNotComparable)
	}
	if slices.Contains(known.later, theirs) {
		return inbound.Superseded, nil
	}
	switch mine {
	case orderPaid, "PAID", "TRADE_REFUND", "REFUND":
		if theirs != "TRADE_CLOSED" && theirs != "CLOSED" {
			break
		}
		if back, ok := wholeAmount(answer.fields["refundAmount"]); ok && back != "0" {
			return inbound.Superseded, nil
		}
	}
	return "", inbound.Differs("status")
}
