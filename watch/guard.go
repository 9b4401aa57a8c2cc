package watch

import (
	"fmt"
	"time"
)

// Refusal is why a call is not sent. Its outcome is not_sent.
type Refusal struct {
	Status     int
	Code       string        // errCode
	Number     string        // what is in the way: Gateway-Guard-Override has to name it
	RetryAfter time.Duration // 0: no Retry-After
	Chinese    string
	English    string
}

// The answers of the guard.
const (
	CodeBusy        = "GATEWAY_BUSY"
	CodeUnresolved  = "GATEWAY_REFUND_UNRESOLVED"
	CodeInvalid     = "GATEWAY_INVALID"
	CodeUnavailable = "GATEWAY_WATCH_UNAVAILABLE"
)

// guardAsks is how long the guard waits for the platform's word about a refund that is in the way.
const guardAsks = 3 * time.Second

// guard says whether a refund may be sent, given what is known of its order: nil, or why not. The first reason counts. Of an
// unresolved refund in the way the caller asks the platform before it refuses.
func (o *Order) guard(call Call) *Refusal {
	same := o.call(call.Number)
	if call.Number == "" {
		same = nil // the platform cannot know it again
	}
	for _, c := range o.Calls {
		if c.Kind.Money() && c.Flight != "" {
			return &Refusal{Status: 409, Code: CodeBusy, Number: c.Number, RetryAfter: 5 * time.Second,
				Chinese: fmt.Sprintf("该订单的另一笔资金操作 %s 正在进行，请稍后再试", clip(c.Number)),
				English: fmt.Sprintf("another money call of this order, %s, is on its way; try again later", clip(c.Number))}
		}
	}
	switch {
	case same == nil:
	case same.Amount == call.Amount && same.Whole == call.Whole:
		if same.State != Failed {
			return nil // the platform gives back the refund that it has; of a failed one it has none
		}
	default:
		return &Refusal{Status: 422, Code: CodeInvalid, Number: same.Number,
			Chinese: fmt.Sprintf("退款号 %s 此前的金额是 %d 分，不是 %d 分；新的退款请用新的退款号", clip(same.Number), same.Amount, call.Amount),
			English: fmt.Sprintf("refund %s had the amount %d before, not %d; a new refund needs a number of its own", clip(same.Number), same.Amount, call.Amount)}
	}
	if c := o.inTheWay(call); c != nil {
		return &Refusal{Status: 409, Code: CodeUnresolved, Number: c.Number,
			Chinese: fmt.Sprintf("退款 %s 的结果未知，查明之前不会发出另一笔；重试请用原退款号和原金额", clip(c.Number)),
			English: fmt.Sprintf("the outcome of refund %s is not known, and no other one is sent before it is; retry with its number and amount", clip(c.Number))}
	}
	if left := o.Paid - o.refunded(); o.State.paid() && o.Paid > 0 && (call.Amount > left || left <= 0) {
		return &Refusal{Status: 422, Code: CodeInvalid, Number: o.ID,
			Chinese: fmt.Sprintf("订单 %s 实付 %d 分，可退余额 %d 分", clip(o.ID), o.Paid, max(left, 0)),
			English: fmt.Sprintf("of order %s %d were paid, and %d can still be refunded (in fen)", clip(o.ID), o.Paid, max(left, 0))}
	}
	return nil
}

// inTheWay is a refund with another number than a call's whose end is not known, or nil.
func (o *Order) inTheWay(call Call) *Track {
	for _, c := range o.Calls {
		if c.Kind == KindRefund && !c.State.ended() && (c.Number != call.Number || call.Number == "") {
			return c
		}
	}
	return nil
}

// invalid refuses a money call that could slip past the guard, because somebody else may read it in another way.
func invalid(call Call) *Refusal {
	if call.Invalid == "path" {
		return &Refusal{Status: 422, Code: CodeInvalid, Number: call.Path,
			Chinese: fmt.Sprintf("路径 %s 可能是资金操作，但不在网关已知的接口之列，未发送", clip(call.Path)),
			English: fmt.Sprintf("the path %s may be that of a money call, and is none of those that are known here; it was not sent", clip(call.Path))}
	}
	return &Refusal{Status: 422, Code: CodeInvalid,
		Chinese: fmt.Sprintf("资金操作的 %s 缺失、重复或写法有歧义，未发送", clip(call.Invalid)),
		English: fmt.Sprintf("%s of this money call is missing, repeated or ambiguous; the call was not sent", clip(call.Invalid))}
}

// Unavailable refuses a call that could not be written down.
func Unavailable() *Refusal {
	return &Refusal{Status: 503, Code: CodeUnavailable, RetryAfter: 5 * time.Second,
		Chinese: "无法记录这笔资金操作，未发送，请稍后再试",
		English: "the call could not be written down, and was not sent; try again later"}
}

// clip bounds what an app has sent, for a message.
func clip(number string) string {
	if len(number) > maxWord {
		return fmt.Sprintf("%q…", number[:maxWord])
	}
	return fmt.Sprintf("%q", number)
}
