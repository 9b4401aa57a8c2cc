package shouqianba

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// An order has two numbers, the app's client_sn and the platform's sn, and a call may name either or both. The watch knows it by
// client_sn, so that two refunds of one order are never taken for those of two.

// prepare implements watched.Parts.Prepare. A call that moves money and cannot be read for certain is refused: it could be a
// second refund.
func (p *watching) prepare(ctx context.Context, call *outbound.Call) ([]byte, *watch.Refusal) {
	as, ok, doubtful := watched.Find(watchedCalls, call.Path())
	switch {
	case doubtful:
		return nil, invalid("路径可能是资金操作，但不在网关已知的接口之列，未发送", "the path may be that of a money call, and is none of those that are known here; it was not sent")
	case !ok:
		return nil, nil
	case as.kind == watch.KindOrder:
		return call.Body, nil
	}
	said, problem := as.moves(call.Body)
	if problem != "" {
		return nil, invalid("资金操作的 "+problem+" 缺失、重复或写法有歧义，未发送", problem+" of this money call is missing, repeated or ambiguous; the call was not sent")
	}
	var refusal *watch.Refusal
	if sn := said["sn"]; sn != "" {
		var number string
		if number, refusal = p.numbers.find(ctx, call.Account.(*terminal), sn, said["client_sn"]); refusal == nil {
			said["client_sn"] = number
		} else {
			delete(said, "client_sn") // it may be another order's
		}
	}
	content, err := json.Marshal(said)
	if err != nil {
		panic(err) // strings always marshal
	}
	return content, refusal
}

// moves reads what a money call moves, and of which order, or names what of it is missing or may be read in two ways.
func (c watchedCall) moves(body []byte) (said map[string]string, problem string) {
	if problem = watched.Unreliable(body, []string{"sn", "client_sn", "refund_request_no"}, []string{"refund_amount"}); problem != "" {
		return nil, problem
	}
	all, _, err := jsontext.Scalars(body, "")
	if err != nil {
		return nil, "body"
	}
	said = make(map[string]string, 4)
	for _, name := range [...]string{"sn", "client_sn", "refund_request_no", "refund_amount"} {
		if all[name] != "" {
			said[name] = all[name]
		}
	}
	switch {
	case said["sn"] == "" && said["client_sn"] == "", strings.HasPrefix(said["client_sn"], bySN):
		return nil, "client_sn"
	case !c.whole && said["refund_request_no"] == "":
		return nil, "refund_request_no"
	case !c.whole && said["refund_amount"] == "":
		return nil, "refund_amount"
	}
	return said, ""
}

func invalid(chinese, english string) *watch.Refusal {
	return &watch.Refusal{Status: http.StatusUnprocessableEntity, Code: watch.CodeInvalid, Chinese: chinese, English: english}
}

// numbers knows orders' client_sn by the terminal's name and sn. It forgets: then the platform is asked again.
type numbers struct {
	mu    sync.Mutex
	known map[string]string
}

const (
	maxNumbers  = 10_000
	numberWaits = 3 * time.Second // as long as the guard waits for the platform's word
)

// learn remembers what the platform has said.
func (n *numbers) learn(terminal, sn, clientSN string) {
	if sn == "" || clientSN == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxNumbers || n.known == nil {
		n.known = make(map[string]string)
	}
	n.known[terminal+"/"+sn] = clientSN
}

func (n *numbers) get(terminal, sn string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[terminal+"/"+sn]
}

// find says which order a call means: the platform looks for sn first and, where there is none, for client_sn.
func (n *numbers) find(ctx context.Context, t *terminal, sn, clientSN string) (string, *watch.Refusal) {
	if number := n.get(t.name, sn); number != "" {
		return number, nil
	}
	ctx, cancel := context.WithTimeout(ctx, numberWaits)
	defer cancel()
	content, err := t.query(ctx, sn, clientSN)
	var answer *platformAnswer
	if err == nil {
		answer, err = readAnswer(content)
	}
	absent := false
	if err == nil {
		absent, err = answer.about()
	}
	switch {
	case absent:
		return "", invalid("平台查不到 sn 对应的订单，未发送，请改用 client_sn", "the platform finds no order of this sn; the call was not sent; name the order by its client_sn")
	case err != nil || answer.data["client_sn"] == "":
		return "", &watch.Refusal{Status: http.StatusServiceUnavailable, Code: watch.CodeUnavailable, RetryAfter: 5 * time.Second,
			Chinese: "暂时无法确定 sn 对应哪个订单，未发送，请稍后再试，或改用 client_sn",
			English: "which order this sn means cannot be found out now; the call was not sent; try again later, or name the order by its client_sn"}
	}
	if answer.data["sn"] == sn {
		n.learn(t.name, sn, answer.data["client_sn"])
	}
	return answer.data["client_sn"], nil
}
