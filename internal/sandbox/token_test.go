package sandbox

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// requestToken asks for a token, with the fields changed that are given.
func (b *bench) requestToken(pairs ...any) map[string]any {
	b.t.Helper()
	timestamp, nonce := b.clock().In(zone).Format(stampLayout), randomHex(16)
	fields := map[string]any{
		"appId": b.keys.AppID, "timestamp": timestamp, "nonce": nonce, "signMethod": "SHA256",
		"signature": tokenSignature("SHA256", b.keys.AppID, b.keys.AppKey, timestamp, nonce),
	}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i].(string)] = pairs[i+1]
	}
	body, err := json.Marshal(fields)
	if err != nil {
		b.t.Fatal(err)
	}
	_, content, err := b.post("/v1/token/access", "", body)
	if err != nil {
		b.t.Fatal(err)
	}
	return decode(b.t, content)
}

func TestToken(t *testing.T) {
	b := newBench(t, Options{TokenLifetime: 90 * time.Second})
	b.pass(0)
	body, _ := json.Marshal(b.request("merOrderId", b.fresh()))
	query := func(header string) (int, map[string]any) {
		t.Helper()
		res, content, err := b.post("/v1/netpay/query", header, body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, decode(t, content)
	}
	answer := b.requestToken()
	want(t, answer, "errCode", "0000", "expiresIn", 90)
	token, _ := answer["accessToken"].(string)
	if token == "" {
		t.Fatal(answer)
	}
	for name, test := range map[string]struct {
		header string
		status int
	}{
		"quoted, with appId":    {`OPEN-ACCESS-TOKEN AccessToken="` + token + `", AppId="` + b.keys.AppID + `"`, 200},
		"the bare old form":     {`OPEN-ACCESS-TOKEN AccessToken=` + token, 200},
		"an unknown token":      {`OPEN-ACCESS-TOKEN AccessToken="x", AppId="` + b.keys.AppID + `"`, 401},
		"no token":              {`OPEN-ACCESS-TOKEN AppId="` + b.keys.AppID + `"`, 401},
		"another's application": {`OPEN-ACCESS-TOKEN AccessToken="` + token + `", AppId="x"`, 401},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := query(test.header)
			if code := answer["errCode"]; status != test.status || (status == 200) != (code == "NO_ORDER") {
				t.Errorf("%d %v", status, answer)
			}
		})
	}

	header := `OPEN-ACCESS-TOKEN AccessToken="` + token + `"`
	b.pass(89 * time.Second)
	if status, _ := query(header); status != http.StatusOK {
		t.Errorf("within its life: %d", status)
	}
	b.pass(time.Second)
	if status, _ := query(header); status != http.StatusUnauthorized {
		t.Errorf("past its life: %d", status)
	}
	header = `OPEN-ACCESS-TOKEN AccessToken="` + b.requestToken()["accessToken"].(string) + `"`
	b.RevokeTokens()
	if status, _ := query(header); status != http.StatusUnauthorized {
		t.Errorf("revoked: %d", status)
	}

	for name, test := range map[string]struct {
		pairs []any
		code  string
	}{
		"a false signature":  {[]any{"signature", "00"}, "BAD_SIGN"},
		"an unknown appId":   {[]any{"appId", "x"}, "INVALID_MSGSRC"},
		"another method":     {[]any{"signMethod", "MD5"}, "BAD_REQUEST"},
		"an old timestamp":   {[]any{"timestamp", "20200101000000"}, "ABNORMAL_REQUEST_TIME"},
		"a nonce not signed": {[]any{"nonce", "x"}, "BAD_SIGN"},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, b.requestToken(test.pairs...), "errCode", test.code, "accessToken", nil)
		})
	}
	t.Run("without expiresIn", func(t *testing.T) {
		b := newBench(t, Options{OmitExpiresIn: true})
		want(t, b.requestToken(), "errCode", "0000", "expiresIn", nil)
	})
	t.Run("bounded", func(t *testing.T) {
		b := newBench(t, Options{})
		for range maxTokens + 1 {
			b.mu.Lock()
			timestamp, nonce := time.Now().In(zone).Format(stampLayout), randomHex(16)
			body, _ := json.Marshal(map[string]any{
				"appId": b.keys.AppID, "timestamp": timestamp, "nonce": nonce, "signMethod": "SHA256",
				"signature": tokenSignature("SHA256", b.keys.AppID, b.keys.AppKey, timestamp, nonce),
			})
			b.mu.Unlock()
			b.ChinaUMS.mu.Lock()
			b.serveToken(body)
			b.ChinaUMS.mu.Unlock()
		}
		if got := len(b.tokens.expires); got != maxTokens {
			t.Errorf("%d tokens kept", got)
		}
	})
}
