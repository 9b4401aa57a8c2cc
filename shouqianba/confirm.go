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
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

// queryPath is the interface that says what has become of an order.
const queryPath = "/upay/v2/query"

// confirmer asks the platform about events.
type confirmer struct {
	now       func() time.Time
	questions inbound.Questions[*platformAnswer]
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
	return c.questions.Confirm(c.now(), topic, patience, func(ctx context.Context) (*platformAnswer, error) {
		return t.ask(ctx, event)
	}, func(answer *platformAnswer) (string, error) { return answer.compare(event) })
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

// query asks the platform about an order: by sn or, where that is empty or names none, by client_sn.
func (t *terminal) query(ctx context.Context, sn, clientSN string) ([]byte, error) {
	signs, err := t.credential(ctx)
	if err != nil {
		return nil, err
	}
	question := map[string]string{"terminal_sn": signs.sn}
	for name, value := range map[string]string{"sn": sn, "client_sn": clientSN} {
		if value != "" {
			question[name] = value
		}
	}
	status, content, _, err := postSigned(ctx, &t.Line, t.endpoint, queryPath, signs.sn, signs.key, false, question)
	switch {
	case err != nil:
		return nil, err
	case status != http.StatusOK:
		return nil, fmt.Errorf("the platform answered with status %d", status)
	case t.keeper != nil && errCode(content) == illegalSign:
		t.keeper.refused(signs)
	}
	return content, nil
}

// ask queries the order of a notify.
func (t *terminal) ask(ctx context.Context, event *notifyEvent) (*platformAnswer, error) {
	content, err := t.query(ctx, event.SN, event.ClientSN)
	if err != nil {
		return nil, err
	}
	answer, err := readAnswer(content)
	if err != nil {
		return nil, err
	}
	absent, err := answer.about()
	if absent {
		return nil, errNoSuchOrder
	}
	return answer, err
}

// platformAnswer is what the platform says: the result and the code of its envelope and of the business, and the order's
// scalars as text, empty ones left out.
type platformAnswer struct {
	result, code           string
	business, businessCode string
	data                   map[string]string
	raw                    json.RawMessage // of data
}

var errNoAnswer = errors.New("the answer is no JSON of the platform's")

func readAnswer(content []byte) (*platformAnswer, error) {
	said, business, err := jsontext.Scalars(content, "biz_response")
	if err != nil {
		return nil, errNoAnswer
	}
	a := &platformAnswer{result: said["result_code"], code: said["error_code"]}
	if business == nil {
		return a, nil
	}
	if said, a.raw, err = jsontext.Scalars(business, "data"); err != nil {
		return nil, errNoAnswer
	}
	a.business, a.businessCode = said["result_code"], said["error_code"]
	if a.raw != nil {
		if a.data, _, err = jsontext.Scalars(a.raw, ""); err != nil {
			return nil, errNoAnswer
		}
	}
	return a, nil
}

// about reports of the answer to a query whether the platform knows no such order. An error: it says nothing about an order.
func (a *platformAnswer) about() (absent bool, err error) {
	switch {
	case a.result != "200":
		return false, refusal(a.code, "")
	case a.businessCode == "UPAY_ORDER_NOT_EXISTS" || a.businessCode == "UPAY_ORDER_NOT_EXIST": // the documents have both
		return true, nil
	case a.business != "SUCCESS":
		return false, refusal(a.businessCode, "")
	}
	return false, nil
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
func (a *platformAnswer) compare(event *notifyEvent) (confirmed string, err error) {
	said := a.data
	for _, number := range []struct{ name, mine, theirs string }{
		{"sn", event.SN, said["sn"]}, {"client_sn", event.ClientSN, said["client_sn"]},
	} {
		switch {
		case number.mine == "" || number.mine == number.theirs:
		case number.theirs == "": // it may be about another order
			return "", inbound.Missing(number.name)
		default:
			return "", inbound.Differs(number.name)
		}
	}
	for _, field := range []struct{ name, mine, theirs string }{
		{"total_amount", event.TotalAmount, said["total_amount"]}, {"order_status", event.OrderStatus, said["order_status"]},
	} {
		if field.mine == "" || field.theirs == "" {
			return "", inbound.Missing(field.name)
		}
	}
	if event.TotalAmount != said["total_amount"] {
		return "", inbound.Differs("total_amount")
	}
	mine, theirs := event.OrderStatus, said["order_status"]
	switch {
	case slices.Contains(laterStates[mine], theirs):
		return inbound.Superseded, nil
	case mine != theirs:
		return "", inbound.Differs("order_status")
	case event.NetAmount == "" || said["net_amount"] == "" || event.NetAmount == said["net_amount"]:
		return inbound.Confirmed, nil
	case mine == "PARTIAL_REFUNDED" && less(said["net_amount"], event.NetAmount):
		return inbound.Superseded, nil // another part has been refunded since, which leaves less
	}
	return "", inbound.Differs("net_amount")
}

// less compares plain decimal integers.
func less(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }
