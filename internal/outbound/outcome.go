// Package outbound holds what the platforms share on the way out: who may use the keys, the bounded body, one signed
// attempt, whether it was sent, and the gateway's own answers.
//
// The way of a call: Proxy, which is a Guard (may it pass? reads the body, keeps it in a Call), signs the Call's body, and
// sends it once through its Sender; the answer is read whole and passed on with the Gateway-Outcome header. In the long
// form: Guard → reverse_proxy → Transport (RoundTrip) → the answer, read whole → Guard's response writer.
package outbound

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
)

// Outcome says what the gateway knows of a call's fate; it is the value of the Gateway-Outcome header.
type Outcome string

const (
	// Answered means that the answer is the platform's own.
	Answered Outcome = "answered"
	// NotSent means that the platform cannot have seen the call; repeating it is safe.
	NotSent Outcome = "not_sent"
	// Unknown means that the platform may have executed the call; query before repeating it.
	Unknown Outcome = "unknown"
)

// OutcomeHeader is the response header that carries the Outcome.
const OutcomeHeader = "Gateway-Outcome"

// Error is an answer that the gateway gives itself. Its code and message are constants: they may reach the merchant's
// app, so nothing of the cause goes into them.
type Error struct {
	Status  int     // HTTP status
	Code    string  // GATEWAY_…
	Outcome Outcome // Unknown, NotSent
	Reason  string  // for logs and placeholders: a word from a bounded set
	Chinese string
	English string
	Cause   error // for the log only

	Fields []fields.Error // what does not fit, where the guard validates
}

// The gateway's own answers, as the contract with users lists them.
var (
	errForbidden   = Error{Status: http.StatusForbidden, Code: "GATEWAY_FORBIDDEN", Outcome: NotSent, Chinese: "网关拒绝此请求", English: "the gateway refuses this request"}
	errNoMerchant  = Error{Status: http.StatusNotFound, Code: "GATEWAY_NO_MERCHANT", Outcome: NotSent, Reason: "no_merchant", Chinese: "网关没有此商户", English: "the gateway has no such merchant"}
	errBadRequest  = Error{Status: http.StatusBadRequest, Code: "GATEWAY_BAD_REQUEST", Outcome: NotSent}
	errInvalid     = Error{Status: http.StatusUnprocessableEntity, Code: "GATEWAY_INVALID", Outcome: NotSent, Reason: "invalid", Chinese: "请求字段不符合接口文档，请求未发出", English: "fields of the request do not fit the interface's documents; the call was not sent"}
	errUnreachable = Error{Status: http.StatusBadGateway, Code: "GATEWAY_UNREACHABLE", Outcome: NotSent, Reason: "unreachable", Chinese: "无法连接支付平台，请求未发出，可以重试", English: "the platform cannot be reached; the call was not sent and may be repeated"}
	errBadResponse = Error{Status: http.StatusBadGateway, Code: "GATEWAY_BAD_RESPONSE", Outcome: Unknown, Chinese: "支付平台的返回不完整或无效，结果未知，请先查询", English: "the platform's answer is incomplete or invalid; the outcome is unknown, query before repeating"}
	errTimeout     = Error{Status: http.StatusGatewayTimeout, Code: "GATEWAY_TIMEOUT", Outcome: Unknown, Reason: "timeout", Chinese: "支付平台没有按时返回，结果未知，请先查询", English: "the platform did not answer in time; the outcome is unknown, query before repeating"}
	errInternal    = Error{Status: http.StatusInternalServerError, Code: "GATEWAY_INTERNAL", Outcome: NotSent, Reason: "internal", Chinese: "网关内部错误", English: "internal error of the gateway"}
)

// forbidden are the words for whoever may not call, by reason.
var forbidden = map[string]*Error{
	"allow":         errForbidden.saying("调用方的地址不在 allow 中", "the caller's address is not in allow"),
	"named_address": errForbidden.saying("X-Forwarded-For、Forwarded、X-Real-IP 或 Via 中有不在 allow 中的地址", "X-Forwarded-For, Forwarded, X-Real-IP or Via names an address that is not in allow"),
	"browser":       errForbidden.saying("不接受浏览器的请求（有 Origin 或 Sec-Fetch-*）", "a browser's request (Origin, Sec-Fetch-*) is not accepted"),
	"token":         errForbidden.saying("缺少令牌或令牌不正确，应以 Authorization: Bearer 发送", "the token is missing or wrong; send it as Authorization: Bearer"),
}

// because returns a copy with a reason and its cause.
func (e Error) because(reason string, cause error) *Error {
	e.Reason, e.Cause = reason, cause
	return &e
}

// Invalid is the refusal of a body for what is in it.
func Invalid(reason string, misfits ...fields.Error) *Error {
	e := errInvalid.because(reason, nil)
	e.Fields = misfits
	return e
}

func (e Error) saying(chinese, english string) *Error {
	e.Chinese, e.English = chinese, english
	return &e
}

func (e Error) status(status int) *Error {
	e.Status = status
	return &e
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s (%s): %v", e.Code, e.Reason, e.Cause)
	}
	return fmt.Sprintf("%s (%s)", e.Code, e.Reason)
}

// Message is what the app reads: Chinese / English.
func (e *Error) Message() string { return e.Chinese + " / " + e.English }

// Unwrap shows the cause to errors.As only where it is a failed dial, which reverse_proxy may retry. Anything else must
// not look retryable or canceled to it.
func (e *Error) Unwrap() error {
	if _, ok := errors.AsType[reverseproxy.DialError](e.Cause); ok {
		return e.Cause
	}
	return nil
}

// Timeout implements net.Error, by which reverse_proxy tells 504 from 502.
func (e *Error) Timeout() bool { return e.Status == http.StatusGatewayTimeout }

// Temporary implements net.Error.
func (e *Error) Temporary() bool { return false }
