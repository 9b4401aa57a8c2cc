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

// confirmer asks the platform about events.
type confirmer struct {
	now       func() time.Time
	questions inbound.Questions[*queriedOrder]
}

func newConfirmer() *confirmer { return &confirmer{now: time.Now} }

// confirming asks for every handler of this process, and over reloads, so that what it has asked is not asked again.
var confirming = newConfirmer()

// confirm asks the platform about a notify whose signature is right, and says what it is: confirmed, or why not.
func (c *confirmer) confirm(t *terminal, event *notifyEvent, patience time.Duration) (confirmed string, rejected *inbound.Rejection) {
	if event.SN == "" && event.ClientSN == "" {
		return "", &inbound.Rejection{
			Status: http.StatusServiceUnavailable, Reason: inbound.ReasonNotComparable,
			Detail: errors.New("the notify has no number to ask the platform for"),
		}
	}
	order := sha256.Sum256(fmt.Appendf(nil, "%q %q", event.SN, event.ClientSN))
	topic := inbound.Topic{Account: fmt.Sprintf("%q %q", t.name, t.endpoint.Host), Order: string(order[:])}
	return c.questions.Confirm(c.now(), topic, patience, func(ctx context.Context) (*queriedOrder, error) {
		return t.ask(ctx, event)
	}, func(answer *queriedOrder) (string, error) { return answer.compare(event) })
}

const errNoSuchOrder = inbound.Contradiction("the platform knows no such order of this terminal")

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

// queriedOrder is an order in the answer to a query.
type queriedOrder struct {
	SN          scalar `json:"sn"`
	ClientSN    scalar `json:"client_sn"`
	OrderStatus scalar `json:"order_status"`
	TotalAmount scalar `json:"total_amount"`
	NetAmount   scalar `json:"net_amount"`
}

// scalar is a JSON string's text, or a number as it is written.
type scalar string

func (t *scalar) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(t))
	}
	if string(data) != "null" {
		*t = scalar(data)
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

// compare holds a notify against the answer: order, amounts and state.
func (o *queriedOrder) compare(event *notifyEvent) (confirmed string, err error) {
	for _, number := range []struct{ name, mine, theirs string }{
		{"sn", event.SN, string(o.SN)}, {"client_sn", event.ClientSN, string(o.ClientSN)},
	} {
		if number.mine != "" && number.mine != number.theirs {
			return "", inbound.Differs(number.name)
		}
	}
	for _, field := range []struct{ name, mine, theirs string }{
		{"total_amount", event.TotalAmount, string(o.TotalAmount)}, {"order_status", event.OrderStatus, string(o.OrderStatus)},
	} {
		if field.mine == "" || field.theirs == "" {
			return "", inbound.Missing(field.name)
		}
	}
	if event.TotalAmount != string(o.TotalAmount) {
		return "", inbound.Differs("total_amount")
	}
	mine, theirs := event.OrderStatus, string(o.OrderStatus)
	switch {
	case slices.Contains(laterStates[mine], theirs):
		return inbound.Superseded, nil
	case mine != theirs:
		return "", inbound.Differs("order_status")
	case event.NetAmount == "" || o.NetAmount == "" || event.NetAmount == string(o.NetAmount):
		return inbound.Confirmed, nil
	case mine == "PARTIAL_REFUNDED" && less(string(o.NetAmount), event.NetAmount):
		return inbound.Superseded, nil // another part has been refunded since, which leaves less
	}
	return "", inbound.Differs("net_amount")
}

// less compares plain decimal integers.
func less(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }
