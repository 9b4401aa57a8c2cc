package sandbox

import (
	"crypto/rand"
	"net/http"
	"time"
)

// maxTokens bounds the access tokens that are valid at one time.
const maxTokens = 1000

// tokens are the access tokens given out.
type tokens struct {
	expires map[string]time.Time
	order   []string
}

// serveToken is POST /v1/token/access. It is called with c.mu held and before any Authorization: the request signs
// itself.
func (c *ChinaUMS) serveToken(body []byte) reply {
	refuse := func(failed *failure) reply {
		return c.reply(http.StatusOK, failed.code, "", answer{"errInfo": failed.message}, nil)
	}
	f, err := parseFields(body)
	if err != nil {
		return refuse(fail("BAD_REQUEST", "请求报文不是JSON对象"))
	}
	method := f.text("signMethod")
	switch method {
	case "", "SHA256", "SHA1": // none is SHA256
	default:
		return refuse(fail("BAD_REQUEST", "signMethod应为SHA256或SHA1"))
	}
	signed := signedCall{f.text("appId"), f.text("timestamp"), f.text("nonce"), f.text("signature")}
	if failed := c.check(signed, func() string {
		return tokenSignature(method, c.options.AppID, c.options.AppKey, signed.timestamp, signed.nonce)
	}); failed != nil {
		return refuse(failed)
	}
	token := rand.Text() + rand.Text()
	if len(c.tokens.order) >= maxTokens {
		delete(c.tokens.expires, c.tokens.order[0])
		c.tokens.order = c.tokens.order[1:]
	}
	if c.tokens.expires == nil {
		c.tokens.expires = make(map[string]time.Time)
	}
	c.tokens.expires[token] = c.now().Add(c.options.TokenLifetime)
	c.tokens.order = append(c.tokens.order, token)
	out := answer{"errInfo": "正常", "accessToken": token}
	if !c.options.OmitExpiresIn {
		out["expiresIn"] = int64(c.options.TokenLifetime / time.Second)
	}
	return c.reply(http.StatusOK, "0000", "", out, nil)
}

// checkToken verifies an OPEN-ACCESS-TOKEN header; AppId is optional, as in older senders.
func (c *ChinaUMS) checkToken(parsed authorization) (int, *failure) {
	if appID, sent := parsed.values["AppId"]; sent && appID != c.options.AppID {
		return http.StatusUnauthorized, fail("INVALID_MSGSRC", "appId不存在")
	}
	expires, known := c.tokens.expires[parsed.values["AccessToken"]]
	if !known || !c.now().Before(expires) {
		return http.StatusUnauthorized, fail("INVALID_TOKEN", "accessToken无效或已过期")
	}
	return http.StatusOK, nil
}

// RevokeTokens makes every access token given out so far invalid.
func (c *ChinaUMS) RevokeTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens = tokens{}
}
