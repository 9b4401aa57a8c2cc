package shouqianba

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// outward is what Shouqianba does differently from the other platforms on the way out.
var outward = outbound.Platform{
	Name:        "shouqianba",
	Envelope:    envelope,
	DeniedPaths: []string{activatePath, checkinPath},
	ErrCode:     errCode,
	Words:       words,
	Order:       orderOf,
	Numbers:     numbersOf,
	Validate:    validate,
	LikeNotify:  likeNotify,
	NotifyURL:   "notify_url",
}

// likeNotify: a notify comes from far and is signed; an app's call has a token or nothing.
func likeNotify(r *http.Request, reason string) bool {
	switch reason {
	case "allow", "named_address", "token", "path":
		authorization := r.Header.Get("Authorization")
		return r.Method == http.MethodPost && len(authorization) >= 100 && !strings.HasPrefix(authorization, "Bearer ")
	}
	return false
}

// envelope gives the gateway's own answer the platform's shape.
func envelope(e *outbound.Error) []byte {
	body, err := json.Marshal(struct {
		ResultCode   string           `json:"result_code"`
		ErrorCode    string           `json:"error_code"`
		ErrorMessage string           `json:"error_message"`
		Outcome      outbound.Outcome `json:"outcome"`
		Fields       []fields.Error   `json:"fields,omitempty"`
	}{"400", e.Code, e.Message(), e.Outcome, e.Fields})
	if err != nil {
		panic(err) // strings always marshal
	}
	return body
}

// illegalSign is the platform's word for a signature that it does not accept.
const illegalSign = "ILLEGAL_SIGN"

// platformCodes are the platform's own codes: of its envelope, of its business answers, and the results of those. Only
// these become metric labels: an answer must not be able to make new ones.
var platformCodes = map[string]string{}

func init() {
	for _, code := range []string{
		"INVALID_PARAMS", "INVALID_PARAMETER", "INVALID_TERMINAL", "TERMINAL_NOT_EXISTS", illegalSign, "UNKNOWN_SYSTEM_ERROR",
		"MAINTENANCE_INPROGRESS",

		"INVALID_BARCODE", "INSUFFICIENT_FUND", "EXPIRED_BARCODE", "BUYER_OVER_DAILY_LIMIT", "BUYER_OVER_TRANSACTION_LIMIT",
		"SELLER_OVER_DAILY_LIMIT", "TRADE_NOT_EXIST", "TRADE_HAS_SUCCESS", "SELLER_BALANCE_NOT_ENOUGH",
		"REFUND_AMT_NOT_EQUAL_TOTAL", "TRADE_FAILED", "UNEXPECTED_PROVIDER_ERROR", "TRADE_TIMEOUT",
		"ACCOUNT_BALANCE_NOT_ENOUGH", "CLIENT_SN_CONFLICT", "UPAY_ORDER_NOT_EXISTS", "REFUNDABLE_AMOUNT_NOT_ENOUGH",
		"UPAY_TERMINAL_NOT_EXISTS", "UPAY_TERMINAL_STATUS_ABNORMAL", "UPAY_CANCEL_ORDER_NOOP",
		"UPAY_CANCEL_INVALID_ORDER_STATE", "UPAY_REFUND_ORDER_NOOP", "UPAY_REFUND_INVALID_ORDER_STATE",
		"UPAY_STORE_OVER_DAILY_LIMIT", "UPAY_TCP_ORDER_NOT_REFUNDABLE",

		"SUCCESS", "FAIL", "PAY_SUCCESS", "PAY_FAIL", "PAY_IN_PROGRESS", "PAY_FAIL_ERROR", "PAY_FAIL_IN_PROGRESS",
		"CANCEL_SUCCESS", "CANCEL_ERROR", "CANCEL_ABORT_ERROR", "CANCEL_ABORT_SUCCESS", "CANCEL_IN_PROGRESS",
		"CANCEL_ABORT_IN_PROGRESS", "REFUND_SUCCESS", "REFUND_ERROR", "REFUND_IN_PROGRESS", "PRECREATE_SUCCESS",
		"PRECREATE_FAIL", "PRECREATE_FAIL_ERROR", "PRECREATE_FAIL_IN_PROGRESS",
	} {
		platformCodes[code] = code
	}
}

// explanation is what one of the platform's codes means, and what to do.
type explanation struct{ causeChinese, causeEnglish, remedyChinese, remedyEnglish string }

// explanations are of the codes about which the documents say more than their name: that nothing was done (refusing), that
// they are not final, or which number to go on with.
var explanations = map[string]explanation{
	"INVALID_PARAMS":                {"参数错误", "a parameter is wrong", fieldsChinese, fieldsEnglish},
	"INVALID_PARAMETER":             {"参数错误", "a parameter is wrong", fieldsChinese, fieldsEnglish},
	"INVALID_TERMINAL":              {"终端错误", "the terminal is wrong", terminalChinese, terminalEnglish},
	"TERMINAL_NOT_EXISTS":           {"终端不存在", "there is no such terminal", terminalChinese, terminalEnglish},
	"UPAY_TERMINAL_NOT_EXISTS":      {"终端号在交易系统中不存在", "the platform does not know the terminal", terminalChinese, terminalEnglish},
	"UPAY_TERMINAL_STATUS_ABNORMAL": {"终端未激活", "the terminal is not active", "没有执行。激活终端，或请平台核实它的状态。", "Nothing was done. Activate the terminal, or ask the platform about its state."},
	illegalSign: {"签名错误", "the signature is wrong", "没有执行。终端密钥可能被别的程序签到换掉了：一个终端只能由一个程序签到。如果密钥由你管理，更新 terminal_key 并重新加载配置。",
		"Nothing was done. Another program may have checked in the terminal, which replaces its key: only one program may. If you manage the key yourself, update terminal_key and reload."},

	"INVALID_BARCODE":              {"条码错误", "the buyer's code is wrong", codeChinese, codeEnglish},
	"EXPIRED_BARCODE":              {"过期的支付条码", "the buyer's code has expired", codeChinese, codeEnglish},
	"BUYER_OVER_DAILY_LIMIT":       {"付款人当日付款金额超过上限", "the buyer is over the day's limit", buyerChinese, buyerEnglish},
	"BUYER_OVER_TRANSACTION_LIMIT": {"付款人单笔付款金额超过上限", "the buyer is over the limit of one payment", buyerChinese, buyerEnglish},
	"SELLER_OVER_DAILY_LIMIT":      {"收款账户当日收款金额超过上限", "the merchant's account is over the day's limit", sellerChinese, sellerEnglish},
	"UPAY_STORE_OVER_DAILY_LIMIT":  {"商户日收款额超过上限", "the merchant is over the day's limit", sellerChinese, sellerEnglish},
	"CLIENT_SN_CONFLICT": {"client_sn 在系统中已存在", "the client_sn has been used before", "先用这个 client_sn 查单：之前的调用可能已经成功。",
		"Query this client_sn first: the earlier call may have succeeded."},
	"UPAY_ORDER_NOT_EXISTS": noOrder, "UPAY_ORDER_NOT_EXIST": noOrder, // the documents have both

	"UPAY_REFUND_INVALID_ORDER_STATE": {"当前订单状态不可退款", "the order's state allows no refund", "没有退款。先查单：可能已经全额退款，或者还没有付款。",
		"Nothing was refunded. Query the order: it may have been refunded in full, or not be paid."},
	"REFUNDABLE_AMOUNT_NOT_ENOUGH": {"订单可退金额不足", "more than what can still be refunded", "没有退款。先查单，核对剩余金额 net_amount。",
		"Nothing was refunded. Query the order, and compare with what is left (net_amount)."},
	"UPAY_REFUND_ORDER_NOOP": {"这个退款序列号的退款已经完成", "the refund with this refund_request_no has been made before", "没有再次退款。先查单；只有另一笔退款才用新的 refund_request_no。",
		"Nothing was refunded again. Query the order; only another refund takes a new refund_request_no."},
	"ACCOUNT_BALANCE_NOT_ENOUGH": {"商户余额不足", "the merchant's balance is too low", "先查单。余额足够后，用同一个 refund_request_no 重试。",
		"Query the order. When the balance is high enough, repeat with the same refund_request_no."},
	"UPAY_CANCEL_INVALID_ORDER_STATE": {"当前订单状态不可撤销", "the order's state allows no cancellation", "没有撤单。先查单，看订单的状态。",
		"Nothing was canceled. Query the order's state."},
	"UPAY_CANCEL_ORDER_NOOP": {"订单已经是撤单状态", "the order has been canceled before", "不用再撤。查单可以确认。", "Nothing is left to cancel. A query confirms it."},

	"PAY_FAIL": notFinal, "PAY_FAIL_ERROR": notFinal, "PAY_FAIL_IN_PROGRESS": notFinal, "PAY_IN_PROGRESS": notFinal, "PAY_ERROR": notFinal,
	"PRECREATE_FAIL_IN_PROGRESS": notFinal, "REFUND_ERROR": notFinal, "REFUND_IN_PROGRESS": notFinal,
	"CANCEL_ERROR": notFinal, "CANCEL_IN_PROGRESS": notFinal, "CANCEL_ABORT_IN_PROGRESS": notFinal,
}

var (
	noOrder = explanation{"订单不存在", "there is no such order", "不能证明没有付款：调用可能还在途中。重试时用同一个 client_sn。",
		"This proves nothing: the call may still be in transit. Repeat it with the same client_sn."}
	notFinal = explanation{"还不是最终结果", "this is not the final result", "用同一个单号查单（/upay/v2/query），不要换单号重试。",
		"Query the order (/upay/v2/query) with the same number. Do not repeat with another number."}
)

const (
	fieldsChinese, fieldsEnglish     = "没有执行。对照文档检查字段；validate reject 会指出是哪个字段。", "Nothing was done. Compare the fields with the document; validate reject names the field."
	terminalChinese, terminalEnglish = "没有执行。检查调用里的 terminal_sn 是不是此终端的。", "Nothing was done. Check that the call's terminal_sn is this terminal's."
	codeChinese, codeEnglish         = "没有扣款。请买家刷新付款码，再扫一次。", "Nothing was paid. Let the buyer refresh the code, and scan it again."
	buyerChinese, buyerEnglish       = "没有扣款。请买家换一种付款方式。", "Nothing was paid. Let the buyer pay in another way."
	sellerChinese, sellerEnglish     = "没有扣款。请联系平台核实额度。", "Nothing was paid. Ask the platform about the limit."
)

// errCode finds the platform's code in an answer: the error's, or the business result's (checklist D-ENV-01…04).
func errCode(body []byte) string {
	word := outbound.TextMember(body, "error_code")
	if word == nil {
		_, business, _ := bytes.Cut(body, []byte(`"biz_response"`))
		word = outbound.TextMember(business, "result_code")
	}
	if code, ok := platformCodes[string(word)]; ok {
		return code
	}
	return "other"
}

// words is what the platform says of a call that it refused: its envelope's error_message, or the business answer's.
func words(code string, body []byte) string {
	if code == "SUCCESS" || !bytes.Contains(body, []byte(`"error_message"`)) {
		return ""
	}
	type message struct {
		ErrorMessage string `json:"error_message"`
	}
	var said struct {
		message
		Business message `json:"biz_response"`
	}
	_ = json.Unmarshal(body, &said) // what cannot be read says nothing
	return cmp.Or(said.ErrorMessage, said.Business.ErrorMessage)
}

// numbersOf finds the merchant's numbers of an order, or the platform's, and of a refund in a call.
func numbersOf(body []byte) (order, refund []byte) {
	if order = outbound.TextMember(body, "client_sn"); order == nil {
		order = outbound.TextMember(body, "sn")
	}
	return order, outbound.TextMember(body, "refund_request_no")
}

// orderOf finds the merchant's order number in a call, or the platform's, for logs.
func orderOf(body []byte) string {
	order := outbound.TextMember(body, "client_sn")
	if order == nil {
		order = outbound.TextMember(body, "sn")
	}
	return text.Head(string(order), text.Limit)
}
