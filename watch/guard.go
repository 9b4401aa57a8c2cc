package watch

import (
	"fmt"
	"strings"
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

	known    bool   // the end of what is in the way is known: there is nothing to ask
	flight   string // what is in the way is this call on its way
	answered bool   // it has been answered, and its app is given the answer
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

// heardAfter is how long an app may take to hear what it was told.
const heardAfter = time.Hour

// guard says whether a refund may be sent, given what is known of its order: why not, in the order in which it counts. Of an
// unresolved refund in the way the caller asks the platform before it refuses.
func (o *Order) guard(call Call, now int64) (reasons []*Refusal) {
	refuse := func(r Refusal) { reasons = append(reasons, &r) }
	for _, c := range o.Calls {
		if c.Kind.Money() && c.Flight != "" {
			refuse(Refusal{Status: 409, Code: CodeBusy, Number: c.Number, RetryAfter: 5 * time.Second, flight: c.Flight, answered: c.Answered,
				Chinese: fmt.Sprintf("该订单的另一笔资金操作 %s 正在进行，请稍后再试", clip(c.Number)),
				English: fmt.Sprintf("another money call of this order, %s, is on its way; try again later", clip(c.Number))})
		}
	}
	same := o.call(call.Number)
	if call.Number == "" {
		same = nil // the platform cannot know it again
	}
	switch {
	case same == nil:
	case same.Kind == call.Kind && same.Amount == call.Amount && same.Whole == call.Whole:
		if same.State != Failed {
			return reasons // the platform gives back the refund that it has; of a failed one it has none
		}
	default:
		refuse(Refusal{Status: 422, Code: CodeInvalid, Number: same.Number,
			Chinese: fmt.Sprintf("退款单号 %s 此前的金额是 %d 分，不是 %d 分；新的退款请用新的退款单号", clip(same.Number), same.Amount, call.Amount),
			English: fmt.Sprintf("refund %s had the amount %d before, not %d; a new refund needs a number of its own", clip(same.Number), same.Amount, call.Amount)})
	}
	for _, c := range o.Calls {
		if c.Kind == KindRefund && !c.State.ended() && (c.Number != call.Number || call.Number == "") {
			refuse(Refusal{Status: 409, Code: CodeUnresolved, Number: c.Number,
				Chinese: fmt.Sprintf("退款 %s 的结果未知，查明之前不会发出另一笔；重试请用原退款单号和原金额", clip(c.Number)),
				English: fmt.Sprintf("the outcome of refund %s is not known, and no other one is sent before it is; retry with its number and amount", clip(c.Number))})
		}
	}
	if left := o.Paid - o.refunded(); o.State.paid() && o.Paid > 0 && (call.Amount > left || left <= 0) {
		refuse(Refusal{Status: 422, Code: CodeInvalid, Number: o.ID,
			Chinese: fmt.Sprintf("订单 %s 实付 %d 分，可退余额 %d 分", clip(o.ID), o.Paid, max(left, 0)),
			English: fmt.Sprintf("of order %s %d were paid, and %d can still be refunded (in fen)", clip(o.ID), o.Paid, max(left, 0))})
	}
	for _, c := range o.unheard(call, now) {
		refuse(Refusal{Status: 409, Code: CodeUnresolved, Number: c.Number, known: true,
			Chinese: fmt.Sprintf("金额相同的退款 %s 已成功，只是当时没有收到返回；若是重试，请用原退款单号；若确是另一笔，请在 Gateway-Guard-Override 中写明该退款单号", clip(c.Number)),
			English: fmt.Sprintf("refund %s of the same amount has succeeded, though its answer was lost; retry with its number, or name it in Gateway-Guard-Override if this is another one", clip(c.Number))})
	}
	return reasons
}

// names reports whether Gateway-Guard-Override names a number: it, or several with commas between them.
func names(override, number string) bool {
	for one := range strings.SplitSeq(override, ",") {
		if number != "" && (strings.TrimSpace(one) == number || override == number) {
			return true
		}
	}
	return false
}

// unheard are refunds of the same amount, with another number, that have succeeded though no answer has said so: who asks for
// one now has most likely not heard of it. Whoever repeats that number hears of it, and who was told of it an hour ago has.
func (o *Order) unheard(call Call, now int64) (all []*Track) {
	for _, c := range o.Calls {
		if c.Kind != KindRefund || c.State != Succeeded || !c.Unheard || c.Number == call.Number || c.Amount != call.Amount {
			continue
		}
		told := int64(0)
		for _, e := range o.Told {
			if e.About == c.Number && e.Says == Nothing {
				told = e.Taken
			}
		}
		if told == 0 || now < told+heardAfter.Milliseconds() {
			all = append(all, c)
		}
	}
	return all
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
