package chinaums

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const testAppID, testAppKey, testNotifyKey = "f0ec96ad2c3848b5b810e7aadf369e2f", "00112233445566778899aabbccddeeff", "fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR"

// setKeys puts the example keys of the published vectors into the environment.
func setKeys(t testing.TB) {
	t.Setenv("UMS_APP_ID", testAppID)
	t.Setenv("UMS_APP_KEY", testAppKey)
	t.Setenv("UMS_NOTIFY_KEY", testNotifyKey)
}

// merchantOptions is the global block with one merchant whose platform is at upstream.
func merchantOptions(upstream string) string {
	return `{
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			upstream   ` + upstream + `
		}
	}
}
`
}

func TestProxySigns(t *testing.T) {
	setKeys(t)
	var got *http.Request
	var gotBody []byte
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(t.Context())
		gotBody, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		io.WriteString(w, `{"errCode":"SUCCESS"}`)
	}))
	defer platform.Close()
	address := freeAddress(t)
	startCaddy(t, merchantOptions(platform.URL)+`http://`+address+` {
	bind 127.0.0.1
	chinaums_proxy
}`)
	body := "{\n \"merOrderId\" : \"327M1\", \"x\":\"测试\" }\n"
	a := do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/query", body, "Content-Type: application/json", "Cookie: a=b", "X-Test: 1"))
	if a.status != 200 || a.body != `{"errCode":"SUCCESS"}` || a.header.Get("Gateway-Outcome") != "answered" {
		t.Fatalf("answer: %+v", a)
	}
	if string(gotBody) != body {
		t.Fatalf("the platform got %q", gotBody)
	}
	if err := newBodySigner(testAppID, testAppKey).verify(got.Header.Get("Authorization"), gotBody); err != nil {
		t.Fatal(err)
	}
	parsed, err := parseBodySig(got.Header.Get("Authorization"))
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation("20060102150405", parsed.Timestamp, time.FixedZone("CST", 8*3600))
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Fatalf("timestamp %s: %v", parsed.Timestamp, err)
	}
	for name := range got.Header {
		switch name {
		case "Authorization", "Content-Type", "Content-Length", "Accept-Encoding", "User-Agent":
		default:
			t.Errorf("header %s: %v went out", name, got.Header[name])
		}
	}
	if strings.TrimPrefix(platform.URL, "http://") != got.Host {
		t.Errorf("Host %s", got.Host)
	}
}
