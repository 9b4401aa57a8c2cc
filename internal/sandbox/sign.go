package sandbox

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
)

// This file is the sandbox's own implementation of the platform's signatures, written from the documents and not from
// the product, to which it is the second opinion.

// Digest is how a notify is signed; the word is the parameter signType's.
type Digest string

// The digests of the documents.
const (
	MD5    Digest = "MD5"
	SHA256 Digest = "SHA256"
)

// zone is Asia/Shanghai, which has had no daylight saving since 1991.
var zone = time.FixedZone("CST", 8*60*60)

const (
	stampLayout = "20060102150405"
	dayLayout   = "2006-01-02"

	schemeBody  = "OPEN-BODY-SIG"
	schemeForm  = "OPEN-FORM-PARAM"
	schemeToken = "OPEN-ACCESS-TOKEN"
)

// bodySignature is OPEN-BODY-SIG's and OPEN-FORM-PARAM's signature: base64 of HMAC-SHA256 with the appKey over
// appId, timestamp, nonce and the hex of SHA-256 over the content.
func bodySignature(appID, appKey, timestamp, nonce string, content []byte) string {
	mac := hmac.New(sha256.New, []byte(appKey))
	mac.Write([]byte(bodyToSign(appID, timestamp, nonce, content)))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// bodyToSign is what bodySignature signs.
func bodyToSign(appID, timestamp, nonce string, content []byte) string {
	digest := sha256.Sum256(content)
	return appID + timestamp + nonce + hex.EncodeToString(digest[:])
}

// tokenSignature is the token request's: hex of SHA-256, or SHA-1 where signMethod says so, over appId, timestamp, nonce
// and appKey.
func tokenSignature(method, appID, appKey, timestamp, nonce string) string {
	text := []byte(appID + timestamp + nonce + appKey)
	if method == "SHA1" {
		return fmt.Sprintf("%x", sha1.Sum(text))
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// param is a parameter of a notify, before any encoding.
type param struct{ name, value string }

// stringToSign is every parameter but sign and those without a value, by name in byte order, as name=value with & between.
func stringToSign(params []param) string {
	signed := make([]param, 0, len(params))
	for _, p := range params {
		if p.name != "sign" && p.value != "" {
			signed = append(signed, p)
		}
	}
	sort.SliceStable(signed, func(i, j int) bool { return signed[i].name < signed[j].name }) // Go compares bytes
	pairs := make([]string, len(signed))
	for i, p := range signed {
		pairs[i] = p.name + "=" + p.value
	}
	return strings.Join(pairs, "&")
}

// notifySign is the sign of a notify: the digest of the string to sign with the communication key right behind it, in
// hexadecimal capitals, as genuine notifies have it.
func notifySign(digest Digest, text, key string) string {
	if digest == MD5 {
		return fmt.Sprintf("%X", md5.Sum([]byte(text+key)))
	}
	return fmt.Sprintf("%X", sha256.Sum256([]byte(text+key)))
}

// authorization is a parsed Authorization header: the scheme and its parameters.
type authorization struct {
	scheme string
	values map[string]string
}

var errAuthorization = errors.New("no such Authorization header is known")

// parseAuthorization reads `SCHEME Name="value", Name="value"`: with or without the space after the comma, and for the
// token also without the quotes, as older senders have it.
func parseAuthorization(header string) (authorization, error) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	a := authorization{scheme, make(map[string]string)}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimLeft(rest, " ") {
		name, after, found := strings.Cut(rest, "=")
		if !found || name == "" || strings.ContainsFunc(name, notName) {
			return a, errAuthorization
		}
		var value string
		if quoted, ok := strings.CutPrefix(after, `"`); ok {
			if value, after, found = strings.Cut(quoted, `"`); !found {
				return a, errAuthorization
			}
			if after != "" {
				if after, found = strings.CutPrefix(after, ","); !found || strings.TrimSpace(after) == "" {
					return a, errAuthorization
				}
			}
		} else if value, after, found = strings.Cut(after, ","); found && strings.TrimSpace(after) == "" {
			return a, errAuthorization
		}
		if _, repeated := a.values[name]; repeated || len(a.values) == 8 {
			return a, errAuthorization
		}
		a.values[name], rest = value, after
	}
	return a, nil
}

// notName tells what stands in no parameter's name: all of them are words of letters and digits.
func notName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

// formatAuthorization writes the OPEN-BODY-SIG header.
func formatAuthorization(appID, timestamp, nonce, signature string) string {
	return fmt.Sprintf(`%s AppId="%s", Timestamp="%s", Nonce="%s", Signature="%s"`,
		schemeBody, appID, timestamp, nonce, signature)
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// maxNonces bounds the nonces kept; with more calls than that within the window the oldest are forgotten.
const maxNonces = 100_000

// nonces remembers what was used within the time in which a timestamp is valid.
type nonces struct {
	seen  map[string]struct{}
	order []usedNonce
}

type usedNonce struct {
	nonce string
	until time.Time
}

// use reports whether the nonce is new.
func (n *nonces) use(nonce string, now time.Time, keep time.Duration) bool {
	for len(n.order) > 0 && (n.order[0].until.Before(now) || len(n.order) >= maxNonces) {
		delete(n.seen, n.order[0].nonce)
		n.order = n.order[1:]
	}
	if _, used := n.seen[nonce]; used {
		return false
	}
	if n.seen == nil {
		n.seen = make(map[string]struct{})
	}
	n.seen[nonce] = struct{}{}
	n.order = append(n.order, usedNonce{nonce, now.Add(keep)})
	return true
}

// signedCall is what all three schemes have in common.
type signedCall struct{ appID, timestamp, nonce, signature string }

// check verifies a call signed with the appKey. The caller holds c.mu.
func (c *ChinaUMS) check(call signedCall, want func() string) *failure {
	if call.appID == "" || call.timestamp == "" || call.nonce == "" || call.signature == "" {
		return fail("BAD_SIGN", "缺少认证参数")
	}
	if call.appID != c.options.AppID {
		return fail("INVALID_MSGSRC", "appId不存在")
	}
	now := c.options.Now() // the caller cannot know what Pass has added
	sent, err := time.ParseInLocation(stampLayout, call.timestamp, zone)
	if err != nil {
		return fail("ABNORMAL_REQUEST_TIME", "timestamp格式应为yyyyMMddHHmmss")
	}
	if skew := now.Sub(sent).Abs(); skew > c.options.MaxSkew {
		return fail("ABNORMAL_REQUEST_TIME", "请求时间异常")
	}
	if !equal(call.signature, want()) {
		return fail("BAD_SIGN", "签名错误")
	}
	// Only now: whoever cannot sign must not be able to use up another's nonces.
	if len(call.nonce) > 128 || !c.nonces.use(call.nonce, now, 2*c.options.MaxSkew) {
		return fail("BAD_SIGN", "nonce重复")
	}
	return nil
}
