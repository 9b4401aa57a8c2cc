package shouqianba

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// An order has two numbers, the app's client_sn and the platform's sn, and a call may name either or both. The watch knows it by
// client_sn, so that two refunds of one order are never taken for those of two.

// prepare implements watched.Parts.Prepare. A call that moves money and cannot be read for certain is refused: it could be a
// second refund.
func (p *watching) prepare(ctx context.Context, call *outbound.Call) ([]byte, *watch.Refusal) {
	as, ok := callOf(call.Path())
	if !ok {
		return nil, nil
	}
	if as.kind == watch.KindOrder {
		return call.Body, nil
	}
	said, problem := watched.ReadMembers(call.Body, "sn", "client_sn", "refund_request_no", "refund_amount")
	fen, plain := watched.Fen(said["refund_amount"])
	switch {
	case problem != nil:
	case said["sn"] == "" && said["client_sn"] == "":
		problem = &watched.Problem{Chinese: "缺少 sn 和 client_sn", English: "neither sn nor client_sn is there"}
	case as.whole:
	case said["refund_request_no"] == "":
		problem = &watched.Problem{Chinese: "缺少 refund_request_no", English: "refund_request_no is missing"}
	case !plain || fen == 0:
		problem = &watched.Problem{Chinese: "refund_amount 不是以分为单位的整数", English: "refund_amount is no plain number of fen"}
	}
	if problem != nil {
		return nil, invalid("无法确定这笔资金操作的内容，未发送："+problem.Chinese,
			"what this money call does cannot be told for certain, and it was not sent: "+problem.English)
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
