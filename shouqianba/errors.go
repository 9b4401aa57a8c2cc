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
