package chinaums

import (
	"cmp"
	"encoding/json"
	"net/http"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// outward is what ChinaUMS does differently from the other platforms on the way out.
var outward = outbound.Platform{
	Name:        "chinaums",
	Envelope:    envelope,
	DeniedPaths: []string{"/v1/token/*"},
	ErrCode:     errCode,
	Words:       words,
	Advice:      advice,
	Order:       orderOf,
	Numbers:     numbersOf,
	Validate:    validate,
	LikeNotify:  likeNotify,
	NotifyURL:   "notifyUrl",
}

// likeNotify: a notify is a form, which no call is.
func likeNotify(r *http.Request, reason string) bool {
	switch reason {
	case "allow", "named_address", "token", "path", "content_type":
		return r.Method == http.MethodPost && inbound.MediaType(r.Header.Get("Content-Type")) == "application/x-www-form-urlencoded"
	}
	return false
}

// envelope gives the gateway's own answer the platform's shape (checklist A-RSP-01, A-RSP-02).
func envelope(e *outbound.Error) []byte {
	body, err := json.Marshal(struct {
		ErrCode string           `json:"errCode"`
		ErrMsg  string           `json:"errMsg"`
		Outcome outbound.Outcome `json:"outcome"`
		Fields  []fields.Error   `json:"fields,omitempty"`
	}{e.Code, e.Message(), e.Outcome, e.Fields})
	if err != nil {
		panic(err) // strings always marshal
	}
	return body
}

// platformError is one of the platform's own codes: what it means and what to do.
type platformError struct {
	code                        string
	causeChinese, remedyChinese string // 原因 and 应对措施, the documents' words
	causeEnglish, remedyEnglish string
	alarm                       bool // the documents' 系统失败: somebody has to look at it. It does not say that repeating is safe
}

// platformErrors are the documents' table (checklist E-ERR-01…22) and HAS_CANCELLED, which stands in an example only
// (E-ERRX-01). docs/error-codes.md is made of it.
var platformErrors = []platformError{
	{"SUCCESS", "成功", "无。",
		"The call succeeded.", "Nothing to do.", false},
	{"INTERNAL_ERROR", "内部错误", "系统错误，请联系技术支持。",
		"The platform failed internally.", "Query the order before repeating anything; if it persists, call the platform's support.", true},
	{"BAD_REQUEST", "请求报文有错", "报文格式有错误，请对照文档检查报文格式。",
		"The request is malformed.", "Compare the body with the document; `validate reject` names the field.", true},
	{"NO_SERVICE", "没有能处理请求msgtype的服务", "msgType错误，请检查文档，msgType是否拼写正确。",
		"No service handles this msgType.", "Check the spelling of msgType, and the path.", true},
	{"TIMEOUT", "处理超时", "处理超时，很可能是微信和支付宝的网络请求没应答，建议重试或者撤销交易。请先查询订单，切勿更换单号。",
		"Processing timed out, most likely because WeChat or Alipay did not answer.", "The outcome is unknown: query with the same number, then repeat or cancel; never with a new number.", true},
	{"NO_ORDER", "找不到请求的原始订单", "对应的mid+merOrderId不正确，无法找到原交易，请检查merOrderId是否跟原交易一致。",
		"The original order is not found.", "Check that mid and merOrderId are those of the original order.", false},
	{"OPERATION_NOT_ALLOWED", "当前不允许此操作", "订单已经关闭，不能执行退货等操作。",
		"The order's state does not allow this.", "Query the order; a closed one takes no refund.", false},
	{"TARGET_FAIL", "支付渠道（支付宝、微信等）业务失败：请求没有成功，或者请求成功但没有正确处理。", "支付宝或者微信方业务失败，请根据返回信息确定具体原因。",
		"The channel (Alipay, WeChat) refused.", "The reason is in errMsg and the answer's target fields; show it to the buyer.", false},
	{"DUP_ORDER", "重复的订单请求", "支付请求的merOrderId重复，请检查终端是否做过复位操作，导致流水号等重复。",
		"The merOrderId has been used before.", "Query that order first: the earlier call may have succeeded. A new purchase needs a new number.", true},
	{"NET_ERROR", "跟支付宝等渠道通讯出问题，包括请求发送异常，报文应答不是200，请求被取消，应答超时等。", "通讯问题，联系运行检查网络情况。请先查询订单。",
		"The platform could not talk to the channel.", "The outcome is unknown: query with the same number. If it persists, call the platform's operators.", true},
	{"NO_MERCHANT", "找不到请求指定的商户", "请求报文的mid在网付前置无法找到相关的配置，请确认终端的商户号是否正确在网付前置配置，是否经过转商户处理。",
		"The platform does not know this mid.", "Check mid and tid, and the environment: test merchants exist in test only. Else ask the platform to configure it.", false},
	{"ORDER_PROCESSING", "订单正在处理中，不允许并发操作。", "当前订单的上一次操作没有完成，订单处于锁定状态，请等待一分钟后重试。",
		"The order's last operation has not ended.", "Wait a minute, then query; do not send the operation concurrently.", false},
	{"INACTIVE_MERCHANT", "商户被置为inactive状态", "交易商户在网付前置被冻结。",
		"The merchant is frozen at the platform.", "Ask the platform why, and to reactivate the merchant.", false},
	{"ABNORMAL_REQUEST_TIME", "请求时间异常", "请求终端或者平台的系统时间不正常，请检查系统时间。",
		"The request's time is off.", "Check this server's clock (NTP), and requestTimestamp: Beijing time, yyyy-MM-dd HH:mm:ss.", true},
	{"TXN_DISCARDED", "请求开始处理时间延迟过大，交易被丢弃。", "系统负载过大，交易被丢弃，请联系运行。",
		"The platform was overloaded and dropped the call.", "Query the order, then repeat later; if it persists, call the platform's operators.", true},
	{"BAD_SIGN", "签名错误", "报文签名错误，请联系技术指导签名算法。",
		"The signature is wrong.", "Check app_id and app_key, and that nothing between the gateway and the platform changes the body; do not repeat blindly.", true},
	{"INVALID_MSGSRC", "商户来源错误", "系统配置有问题，请联系技术。",
		"The message source is wrong.", "Check msgSrc and the order number's prefix with the platform's technicians.", true},
	{"INVALID_ORDER", "订单信息异常", "该订单支付时有异常，缺少关键数据，请先做一笔订单查询，补充关键数据后再次进行退货等操作。",
		"The order lacks data.", "Query the order first, which completes it; then refund.", true},
	{"NO_CROSS_DAY_TRADING", "不允许跨日交易", "可能某些渠道不支持跨日撤销，建议做退货。",
		"The channel cancels only on the same day.", "Refund instead of canceling.", false},
	{"DENIED_IP", "不允许此IP交易", "IP不在白名单中，请联系管理员确认。",
		"This server's address is not on the platform's list.", "Have the gateway's outgoing IP address put on the platform's list.", false},
	{"INVLID_MERCHANT_CONFIG", "错误的商户配置", "商户配置参数有问题，请联系业务人员检查商户配置参数。",
		"The merchant is configured wrongly at the platform.", "Ask the platform's account manager to check the merchant's parameters.", true},
	{"INVALID_RESPONSE", "无效的应答报文", "支付渠道方的应答报文有问题，比如验签失败、报文格式错误等。请先查询订单。",
		"The channel's answer was invalid.", "The outcome is unknown: query with the same number.", true},
	{"HAS_CANCELLED", "该笔担保交易已撤销", "担保交易已撤销，无需再次撤销，也不能再完成。",
		"The guaranteed payment has been canceled.", "Nothing is left to cancel or to complete.", false},
}

// errCodeAliases are other ways in which codes come: E-ERRX-04, and the token interface's word for success.
var errCodeAliases = map[string]string{
	"INVALID_MERCHANT_CONFIG": "INVLID_MERCHANT_CONFIG",
	"0000":                    "0000",
}

// platformErrorByCode finds a code. Only what is here becomes a metric label: an answer must not be able to make new
// ones.
var platformErrorByCode = make(map[string]*platformError, len(platformErrors))

func init() {
	for i := range platformErrors {
		platformErrorByCode[platformErrors[i].code] = &platformErrors[i]
	}
}

// knownError finds a code by any of its names; nil: it is not known.
func knownError(code string) *platformError {
	return platformErrorByCode[cmp.Or(errCodeAliases[code], code)]
}

// errCode finds the platform's error code in an answer.
func errCode(body []byte) string {
	code := outbound.TextMember(body, "errCode")
	if known, ok := platformErrorByCode[string(code)]; ok {
		return known.code
	}
	if known, ok := errCodeAliases[string(code)]; ok {
		return known
	}
	return "other"
}

// words is what the platform says of a call that it refused: errMsg, or errInfo where its own gateway answers.
func words(code string, body []byte) string {
	if code == "SUCCESS" || code == "0000" {
		return ""
	}
	var said struct {
		ErrMsg  string `json:"errMsg"`
		ErrInfo string `json:"errInfo"`
	}
	_ = json.Unmarshal(body, &said) // what cannot be read says nothing
	return cmp.Or(said.ErrMsg, said.ErrInfo)
}

// advice says what to do about one of the platform's codes, for logs; "" where nothing is to be done or known. alarm
// tells that somebody has to look at it.
func advice(code string) (text string, alarm bool) {
	known, ok := platformErrorByCode[code]
	if !ok || code == "SUCCESS" {
		return "", false
	}
	return known.remedyChinese + " / " + known.remedyEnglish, known.alarm
}

// numbersOf finds the merchant's numbers of an order, or a bill, and of a refund in a call.
func numbersOf(body []byte) (order, refund []byte) {
	if order = outbound.TextMember(body, "merOrderId"); order == nil {
		order = outbound.TextMember(body, "billNo")
	}
	return order, outbound.TextMember(body, "refundOrderId")
}

// orderOf finds the merchant's order number in a call, for logs.
func orderOf(body []byte) string {
	order := outbound.TextMember(body, "merOrderId")
	return text.Head(string(order), text.Limit)
}
