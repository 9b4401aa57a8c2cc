package chinaums

import (
	"bytes"
	"encoding/json"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

// platform is what ChinaUMS does differently from the other platforms on the way out.
var platform = outbound.Platform{
	Name:        "chinaums",
	Envelope:    envelope,
	DeniedPaths: []string{"/v1/token/*"},
	ErrCode:     errCode,
	Order:       orderOf,
	Validate:    validate,
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

// platformErrCodes are the platform's own codes (checklist E-ERR-01…22, E-ERRX-01, E-ERRX-04, and "0000" of the token
// interface). Only these become metric labels: an answer must not be able to make new ones.
var platformErrCodes = map[string]string{}

func init() {
	for _, code := range []string{
		"SUCCESS", "INTERNAL_ERROR", "BAD_REQUEST", "NO_SERVICE", "TIMEOUT", "NO_ORDER", "OPERATION_NOT_ALLOWED",
		"TARGET_FAIL", "DUP_ORDER", "NET_ERROR", "NO_MERCHANT", "ORDER_PROCESSING", "INACTIVE_MERCHANT",
		"ABNORMAL_REQUEST_TIME", "TXN_DISCARDED", "BAD_SIGN", "INVALID_MSGSRC", "INVALID_ORDER",
		"NO_CROSS_DAY_TRADING", "DENIED_IP", "INVLID_MERCHANT_CONFIG", "INVALID_RESPONSE", "HAS_CANCELLED", "0000",
	} {
		platformErrCodes[code] = code
	}
	platformErrCodes["INVALID_MERCHANT_CONFIG"] = "INVLID_MERCHANT_CONFIG"
}

// errCode finds the platform's error code in an answer.
func errCode(body []byte) string {
	if code, ok := platformErrCodes[string(textMember(body, "errCode"))]; ok {
		return code
	}
	return "other"
}

// orderOf finds the merchant's order number in a call, for logs.
func orderOf(body []byte) string {
	order := textMember(body, "merOrderId")
	if len(order) > 64 {
		order = order[:64]
	}
	return string(order)
}

// textMember returns the plain text (no escapes) of the first member of this name in a JSON text, or nil. It is for
// logs and metrics, where a wrong guess about a nested member costs nothing and a full parse costs every call.
func textMember(body []byte, name string) []byte {
	for {
		i := bytes.Index(body, []byte(name))
		if i < 0 {
			return nil
		}
		before, after := body[:i], body[i+len(name):]
		body = after
		if !bytes.HasSuffix(before, []byte{'"'}) || !bytes.HasPrefix(after, []byte{'"'}) {
			continue
		}
		after, ok := bytes.CutPrefix(bytes.TrimLeft(after[1:], " \t\r\n"), []byte{':'})
		if !ok {
			continue
		}
		value, ok := bytes.CutPrefix(bytes.TrimLeft(after, " \t\r\n"), []byte{'"'})
		if !ok {
			return nil
		}
		end := bytes.IndexByte(value, '"')
		if end < 0 {
			return nil
		}
		for _, c := range value[:end] {
			if c < ' ' || c >= 0x7f || c == '\\' {
				return nil
			}
		}
		return value[:end]
	}
}
