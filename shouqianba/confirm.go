package shouqianba

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

// queryPath is the interface that says what has become of an order.
const queryPath = "/upay/v2/query"

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

// confirmer asks the platform about events.
type confirmer struct {
	now       func() time.Time
	questions inbound.Questions[*queriedOrder]
}

func newConfirmer() *confirmer { return &confirmer{now: time.Now} }

// confirming asks for every handler of this process, and over reloads, so that what it has asked is not asked again.
var confirming = newConfirmer()

// confirm asks the platform about a notify whose signature is right, and says what it is: confirmed or, with the answer's
// status, why not. The platform is asked about an order at most once a minute, and each notify is held against the answer
// anew. An answer that is older than the notify proves nothing against it, which may tell of what has happened since.
func (c *confirmer) confirm(t *terminal, event *notifyEvent, patience time.Duration) (confirmed string, rejected *inbound.Rejection) {
	if event.SN == "" && event.ClientSN == "" {
		return "", notComparable(errors.New("the notify has no number to ask the platform for"))
	}
	order := sha256.Sum256(fmt.Appendf(nil, "%q %q", event.SN, event.ClientSN))
	topic := inbound.Topic{Account: fmt.Sprintf("%q %q", t.name, t.endpoint.Host), Order: string(order[:])}
	answer, fresh, err := c.questions.Ask(c.now(), topic, patience, func(ctx context.Context) (*queriedOrder, error) {
		return t.ask(ctx, event)
	})
	switch {
	case err == nil:
		confirmed, rejected = answer.confirms(event)
	case errors.Is(err, errNoSuchOrder):
		rejected = contradicted(err)
	default:
		rejected = unanswered(err)
	}
	if rejected != nil && rejected.Reason == reasonContradicted && !fresh {
		return "", unanswered(fmt.Errorf("the platform has answered before this notify came, and is not asked again within a minute: %w", rejected.Detail))
	}
	return confirmed, rejected
}

var errNoSuchOrder = errors.New("the platform knows no such order of this terminal")

func unanswered(cause error) *inbound.Rejection {
	return &inbound.Rejection{Status: http.StatusServiceUnavailable, Reason: reasonNotAnswered, Detail: cause}
}

func contradicted(cause error) *inbound.Rejection {
	return &inbound.Rejection{Status: http.StatusConflict, Reason: reasonContradicted, Detail: cause}
}

// postSigned makes a call of the gateway's own. sent tells of an error whether the platform may have seen it.
func postSigned(ctx context.Context, line *outbound.Line, to outbound.Endpoint, path, sn, key string, fresh bool, message any) (status int, answer []byte, sent bool, err error) {
	content, err := json.Marshal(message)
	if err != nil {
		return 0, nil, false, err // strings always marshal
	}
	res, answer, sent, err := line.Sender().Ask(ctx, to, &outbound.Question{
		Path: path, Authorization: authorization(sn, key, content), Content: content, MaxAnswer: 64 << 10, Fresh: fresh,
	})
	if err != nil {
		return 0, nil, sent, err
	}
	return res.StatusCode, answer, true, nil
}

// ask queries the order of a notify.
func (t *terminal) ask(ctx context.Context, event *notifyEvent) (*queriedOrder, error) {
	signs, err := t.credential(ctx)
	if err != nil {
		return nil, err
	}
	question := map[string]string{"terminal_sn": signs.sn}
	for name, value := range map[string]string{"sn": event.SN, "client_sn": event.ClientSN} {
		if value != "" {
			question[name] = value
		}
	}
	status, answer, _, err := postSigned(ctx, &t.Line, t.endpoint, queryPath, signs.sn, signs.key, false, question)
	if err != nil {
		return nil, err
	}
	var envelope struct {
		ResultCode string `json:"result_code"`
		ErrorCode  string `json:"error_code"`
		Business   struct {
			ResultCode string       `json:"result_code"`
			ErrorCode  string       `json:"error_code"`
			Data       queriedOrder `json:"data"`
		} `json:"biz_response"`
	}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		return nil, fmt.Errorf("status %d, and the answer is no JSON of the platform's", status)
	}
	switch {
	case envelope.ErrorCode == illegalSign && t.keeper != nil:
		t.keeper.refused(signs)
		fallthrough
	case envelope.ResultCode != "200":
		return nil, refusal(envelope.ErrorCode, "")
	case envelope.Business.ErrorCode == "UPAY_ORDER_NOT_EXISTS":
		return nil, errNoSuchOrder
	case envelope.Business.ResultCode != "SUCCESS":
		return nil, refusal(envelope.Business.ErrorCode, "")
	}
	return &envelope.Business.Data, nil
}

func notComparable(cause error) *inbound.Rejection {
	return &inbound.Rejection{Status: http.StatusServiceUnavailable, Reason: reasonNotComparable, Detail: cause}
}

// queriedOrder is an order as the platform's query tells it.
type queriedOrder struct {
	SN          text `json:"sn"`
	ClientSN    text `json:"client_sn"`
	OrderStatus text `json:"order_status"`
	TotalAmount text `json:"total_amount"`
	NetAmount   text `json:"net_amount"`
}

// text is a JSON string's text, or a number as it is written.
type text string

func (t *text) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(t))
	}
	if string(data) != "null" {
		*t = text(data)
	}
	return nil
}

// laterStates are the states that an order may have reached after one.
var laterStates = map[string][]string{
	"CREATED":   {"PAID", "PAY_CANCELED", "PAY_ERROR", "PARTIAL_REFUNDED", "REFUNDED", "REFUND_ERROR", "CANCELED", "CANCEL_ERROR", "CANCEL_INPROGRESS"},
	"PAY_ERROR": {"PAID", "PAY_CANCELED", "CANCELED"},
	"PAID":      {"PARTIAL_REFUNDED", "REFUNDED", "REFUND_INPROGRESS", "REFUND_ERROR", "CANCELED", "CANCEL_ERROR", "CANCEL_INPROGRESS"},

	"REFUND_INPROGRESS": {"PARTIAL_REFUNDED", "REFUNDED", "REFUND_ERROR", "PAID"},
	"REFUND_ERROR":      {"PARTIAL_REFUNDED", "REFUNDED", "PAID"},
	"PARTIAL_REFUNDED":  {"REFUNDED", "REFUND_INPROGRESS", "REFUND_ERROR"},
	"CANCEL_INPROGRESS": {"CANCELED", "CANCEL_ERROR", "PAID"},
	"CANCEL_ERROR":      {"CANCELED", "PAID"},
}

// confirms holds a notify against the answer: order, amounts and state. Errors name a field, and no value.
func (o *queriedOrder) confirms(event *notifyEvent) (confirmed string, rejected *inbound.Rejection) {
	for _, number := range []struct{ name, mine, theirs string }{
		{"sn", event.SN, string(o.SN)}, {"client_sn", event.ClientSN, string(o.ClientSN)},
	} {
		if number.mine != "" && number.mine != number.theirs {
			return "", contradicted(fmt.Errorf("%s is not what the platform says", number.name))
		}
	}
	for _, field := range []struct{ name, mine, theirs string }{
		{"total_amount", event.TotalAmount, string(o.TotalAmount)}, {"order_status", event.OrderStatus, string(o.OrderStatus)},
	} {
		if field.mine == "" || field.theirs == "" {
			return "", notComparable(fmt.Errorf("%s is missing", field.name))
		}
	}
	if event.TotalAmount != string(o.TotalAmount) {
		return "", contradicted(errors.New("total_amount is not what the platform says"))
	}
	mine, theirs := event.OrderStatus, string(o.OrderStatus)
	switch {
	case slices.Contains(laterStates[mine], theirs):
		return confirmedSuperseded, nil
	case mine != theirs:
		return "", contradicted(errors.New("order_status is not what the platform says"))
	}
	if event.NetAmount == "" || o.NetAmount == "" || event.NetAmount == string(o.NetAmount) {
		return confirmedTrue, nil
	}
	// Another part has been refunded since, which leaves less.
	if mine == "PARTIAL_REFUNDED" && less(string(o.NetAmount), event.NetAmount) {
		return confirmedSuperseded, nil
	}
	return "", contradicted(errors.New("net_amount is not what the platform says"))
}

// less compares plain decimal integers.
func less(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }
