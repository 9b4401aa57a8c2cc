package chinaums

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

// chinaumsBlock wraps merchants in a Caddyfile whose only site answers by itself.
func chinaumsBlock(merchants string) string {
	return "{\n\tadmin off\n\tchinaums {\n" + merchants + "\n\t}\n}\nhttp://127.0.0.1:9 {\n\trespond ok\n}\n"
}

// chinaumsJSON is the configuration of which apps.chinaums.merchants is merchants.
func chinaumsJSON(merchants string) string {
	return `{"admin":{"disabled":true},"apps":{"chinaums":{"merchants":` + merchants + `}}}`
}

// loadJSONError returns the error of loading a JSON configuration, or "".
func loadJSONError(t testing.TB, config string) string {
	t.Helper()
	if err := caddy.Validate(mustConfig(t, []byte(config))); err != nil {
		return err.Error()
	}
	return ""
}

// TestMerchantsRefused: what must not load, in both forms, and that the message names the merchant and the option.
func TestMerchantsRefused(t *testing.T) {
	setKeys(t)
	t.Setenv("CHINAUMS_TEST_EMPTY", "")
	const good = `app_id 1; app_key {env.UMS_APP_KEY}; `
	for _, test := range []struct {
		name      string
		caddyfile string // options of the merchant shop, separated by "; "; or, if it has a newline, whole merchants
		json      string // the merchants; "" where JSON cannot say it
		want      []string
	}{
		{"an unknown option", good + `app_secret x`, `{"shop":{"app_secret":"x"}}`, []string{"shop", `"app_secret"`}},
		{"an option of another type", "", `{"shop":{"mid":"1"}}`, []string{"shop", "mid"}},
		{"a repeated option", good + `app_id 2`, "", []string{"shop", "app_id is given twice"}},
		{"a repeated list", `notify_key a; notify_key b`, "", []string{"shop", "notify_key is given twice"}},
		{"a surplus value", `app_id 1 2; app_key {env.UMS_APP_KEY}`, "", []string{"shop", "app_id takes one value"}},
		{"a surplus key is not shown", `app_id 1; app_key {env.UMS_APP_KEY} hunter2`, "", []string{"shop", "app_key takes one value"}},
		{"an option without a value", good + `mid`, "", []string{"shop", "mid needs a value"}},
		{"a block behind an option", "merchant shop {\napp_id 1 {\nx\n}\n}", "", []string{"shop"}},
		{"no options at all", "merchant shop\n", `{"shop":{}}`, []string{"shop", "app_id", "notify_key"}},
		{"a merchant that is null", "", `{"shop":null}`, []string{"shop", "app_id", "notify_key"}},
		{"only a mid", `mid 1`, `{"shop":{"mid":["1"]}}`, []string{"shop", "app_id", "notify_key"}},
		{"app_id alone", `app_id 1`, `{"shop":{"app_id":"1"}}`, []string{"shop", "app_key is missing"}},
		{"app_key alone", `app_key {env.UMS_APP_KEY}`, `{"shop":{"app_key":"{env.UMS_APP_KEY}"}}`, []string{"shop", "app_id is missing"}},
		{"an empty app_id", `app_id ""; app_key x`, `{"shop":{"app_id":" ","app_key":"x"}}`, []string{"shop", "app_id", "is empty"}},
		{"an empty app_key", `app_id 1; app_key ""`, `{"shop":{"app_id":"1","app_key":" "}}`, []string{"shop", "app_key", "is empty"}},
		{"an empty notify_key", `notify_key ""`, `{"shop":{"notify_key":[""]}}`, []string{"shop", "notify_key", "is empty"}},
		{"an empty previous key", `notify_key a ""`, `{"shop":{"notify_key":["a",""]}}`, []string{"shop", "notify_key", "is empty"}},
		{"a key whose variable is not set", `app_id 1; app_key {env.CHINAUMS_TEST_NONE}`, `{"shop":{"app_id":"1","app_key":"{env.CHINAUMS_TEST_NONE}"}}`, []string{"shop", "app_key", "{env.CHINAUMS_TEST_NONE} is empty"}},
		{"a key whose variable is empty", `notify_key {env.CHINAUMS_TEST_EMPTY}`, `{"shop":{"notify_key":["{env.CHINAUMS_TEST_EMPTY}"]}}`, []string{"shop", "notify_key", "{env.CHINAUMS_TEST_EMPTY} is empty"}},
		{"a key whose file is not there", `notify_key {file.testdata/none}`, `{"shop":{"notify_key":["{file.testdata/none}"]}}`, []string{"shop", "notify_key", "{file.testdata/none} is empty"}},
		{"a misspelled placeholder", `notify_key {evn.UMS_NOTIFY_KEY}`, `{"shop":{"notify_key":["{evn.UMS_NOTIFY_KEY}"]}}`, []string{"shop", "notify_key", "cannot be resolved"}},
		{"an app_id that is not set", `app_id {env.CHINAUMS_TEST_NONE}; app_key x`, `{"shop":{"app_id":"{env.CHINAUMS_TEST_NONE}","app_key":"x"}}`, []string{"shop", "app_id", "is empty"}},
		{"an app_id that no header can hold", `app_id "a\"b"; app_key x`, `{"shop":{"app_id":"a\"b","app_key":"x"}}`, []string{"shop", "app_id"}},
		{"an app_id with a space", `app_id "a b"; app_key x`, `{"shop":{"app_id":"a b","app_key":"x"}}`, []string{"shop", "app_id"}},
		{"an unknown digest", `notify_key a; sign_types sha1`, `{"shop":{"notify_key":["a"],"sign_types":["sha1"]}}`, []string{"shop", "sign_types", `"sha1"`}},
		{"a digest named twice", `notify_key a; sign_types md5 MD5`, `{"shop":{"notify_key":["a"],"sign_types":["md5","MD5"]}}`, []string{"shop", "sign_types", "twice"}},
		{"an empty digest", `notify_key a; sign_types ""`, `{"shop":{"notify_key":["a"],"sign_types":[""]}}`, []string{"shop", "sign_types", "empty"}},
		{"a mid named twice", `notify_key a; mid 1 1`, `{"shop":{"notify_key":["a"],"mid":["1","1"]}}`, []string{"shop", "mid", "twice"}},
		{"an empty mid", `notify_key a; mid ""`, `{"shop":{"notify_key":["a"],"mid":[""]}}`, []string{"shop", "mid", "empty"}},
		{"a mid that is not set", `notify_key a; mid {env.CHINAUMS_TEST_NONE}`, `{"shop":{"notify_key":["a"],"mid":["{env.CHINAUMS_TEST_NONE}"]}}`, []string{"shop", "mid", "is empty"}},
		{"one key as its own predecessor", `notify_key a a`, `{"shop":{"notify_key":["a","a"]}}`, []string{"shop", "notify_key", "twice"}},
		{"environment and upstream", good + `environment test; upstream https://a`, `{"shop":{"app_id":"1","app_key":"x","environment":"test","upstream":"https://a"}}`, []string{"shop", "environment", "upstream"}},
		{"an unknown environment", good + `environment prod`, `{"shop":{"app_id":"1","app_key":"x","environment":"prod"}}`, []string{"shop", "environment", `"prod"`}},
		{"an environment that is not set", good + `environment {env.CHINAUMS_TEST_NONE}`, `{"shop":{"app_id":"1","app_key":"x","environment":"{env.CHINAUMS_TEST_NONE}"}}`, []string{"shop", "environment", "is empty"}},
		{"an upstream without scheme", good + `upstream example.com`, `{"shop":{"app_id":"1","app_key":"x","upstream":"example.com"}}`, []string{"shop", "upstream"}},
		{"an upstream without scheme, with port", good + `upstream example.com:443`, `{"shop":{"app_id":"1","app_key":"x","upstream":"example.com:443"}}`, []string{"shop", "upstream"}},
		{"an upstream of another scheme", good + `upstream ftp://example.com`, `{"shop":{"app_id":"1","app_key":"x","upstream":"ftp://example.com"}}`, []string{"shop", "upstream", "scheme"}},
		{"an upstream with a path", good + `upstream https://example.com/v1`, `{"shop":{"app_id":"1","app_key":"x","upstream":"https://example.com/v1"}}`, []string{"shop", "upstream"}},
		{"an upstream with a query", good + `upstream https://example.com?a=b`, `{"shop":{"app_id":"1","app_key":"x","upstream":"https://example.com?a=b"}}`, []string{"shop", "upstream"}},
		{"an upstream with a user", good + `upstream https://a:b@example.com`, `{"shop":{"app_id":"1","app_key":"x","upstream":"https://a:b@example.com"}}`, []string{"shop", "upstream"}},
		{"an upstream with a port too large", good + `upstream https://example.com:65536`, `{"shop":{"app_id":"1","app_key":"x","upstream":"https://example.com:65536"}}`, []string{"shop", "upstream", "port"}},
		{"an upstream with port 0", good + `upstream https://example.com:0`, `{"shop":{"app_id":"1","app_key":"x","upstream":"https://example.com:0"}}`, []string{"shop", "upstream", "port"}},
		{"an empty upstream", good + `upstream ""`, `{"shop":{"app_id":"1","app_key":"x","upstream":" "}}`, []string{"shop", "upstream", "empty"}},
		{"two merchants of one name", "merchant shop {\nnotify_key a\n}\nmerchant shop {\nnotify_key b\n}", "", []string{"shop", "two merchants"}},
		{"a name that begins with a dot", "merchant .shop {\nnotify_key a\n}", `{".shop":{"notify_key":["a"]}}`, []string{".shop", "letters, digits"}},
		{"a name with a slash", "merchant sh/op {\nnotify_key a\n}", `{"sh/op":{"notify_key":["a"]}}`, []string{"sh/op", "letters, digits"}},
		{"a name that is a placeholder", "merchant {env.SHOP} {\nnotify_key a\n}", `{"{env.SHOP}":{"notify_key":["a"]}}`, []string{"{env.SHOP}", "letters, digits"}},
		{"a name in Chinese", "merchant 商户 {\nnotify_key a\n}", `{"商户":{"notify_key":["a"]}}`, []string{"商户", "letters, digits"}},
		{"an empty name", "merchant \"\" {\nnotify_key a\n}", `{"":{"notify_key":["a"]}}`, []string{"letters, digits"}},
		{"no name", "merchant {\nnotify_key a\n}", "", []string{"merchant", "name"}},
		{"two names", "merchant shop stall {\nnotify_key a\n}", "", []string{"shop", `"stall"`}},
		{"a misspelled merchant", "mercahnt shop {\nnotify_key a\n}", "", []string{`"mercahnt"`}},
		{"one notify_key, no mids", "merchant shop {\nnotify_key a\n}\nmerchant stall {\nnotify_key a\n}", `{"shop":{"notify_key":["a"]},"stall":{"notify_key":["a"]}}`, []string{"shop", "stall", "notify_key", "mid"}},
		{"one notify_key, one mid only", "merchant shop {\nnotify_key a\nmid 1\n}\nmerchant stall {\nnotify_key a\n}", `{"shop":{"notify_key":["a"],"mid":["1"]},"stall":{"notify_key":["a"]}}`, []string{"shop", "stall", "notify_key", "mid"}},
		{"one notify_key, the other mid only", "merchant shop {\nnotify_key a\n}\nmerchant stall {\nnotify_key a\nmid 1\n}", `{"shop":{"notify_key":["a"]},"stall":{"notify_key":["a"],"mid":["1"]}}`, []string{"shop", "stall", "notify_key", "mid"}},
		{"one notify_key, a mid in common", "merchant shop {\nnotify_key a\nmid 1 2\n}\nmerchant stall {\nnotify_key a\nmid 2 3\n}", `{"shop":{"notify_key":["a"],"mid":["1","2"]},"stall":{"notify_key":["a"],"mid":["2","3"]}}`, []string{"shop", "stall", "notify_key", "mid 2"}},
		{"a previous key in common", "merchant shop {\nnotify_key a b\n}\nmerchant stall {\nnotify_key c b\n}", `{"shop":{"notify_key":["a","b"]},"stall":{"notify_key":["c","b"]}}`, []string{"shop", "stall", "notify_key", "mid"}},
		{"one notify_key by different placeholders", "merchant shop {\nnotify_key {env.UMS_NOTIFY_KEY}\n}\nmerchant stall {\nnotify_key " + testNotifyKey + "\n}", `{"shop":{"notify_key":["{env.UMS_NOTIFY_KEY}"]},"stall":{"notify_key":["` + testNotifyKey + `"]}}`, []string{"shop", "stall", "notify_key", "mid"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.caddyfile != "" {
				config := test.caddyfile
				if !strings.Contains(config, "\n") {
					config = "merchant shop {\n" + strings.ReplaceAll(config, "; ", "\n") + "\n}"
				}
				checkRefusal(t, "Caddyfile", loadError(t, chinaumsBlock(config)), test.want)
			}
			if test.json != "" {
				checkRefusal(t, "JSON", loadJSONError(t, chinaumsJSON(test.json)), test.want)
			}
		})
	}
}

func checkRefusal(t *testing.T, form, got string, want []string) {
	t.Helper()
	if got == "" {
		t.Errorf("%s: it loads", form)
		return
	}
	for _, word := range want {
		if !strings.Contains(got, word) {
			t.Errorf("%s: the message has no %q: %s", form, word, got)
		}
	}
	for _, key := range []string{testAppKey, testNotifyKey, "hunter2"} {
		if strings.Contains(got, key) {
			t.Errorf("%s: the message shows a key: %s", form, got)
		}
	}
}

func TestMerchantsAccepted(t *testing.T) {
	setKeys(t)
	for _, test := range []struct{ name, merchants string }{
		{"none", ""},
		{"only for calls", "merchant shop {\napp_id 1\napp_key {env.UMS_APP_KEY}\n}"},
		{"only for notifies", "merchant shop {\nnotify_key {env.UMS_NOTIFY_KEY}\n}"},
		{"every option", "merchant s.h_o-p9 {\napp_id {env.UMS_APP_ID}\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_NOTIFY_KEY} {env.UMS_APP_KEY}\nsign_types SHA256\nmid 1 2\nenvironment test\n}"},
		{"an upstream", "merchant shop {\napp_id 1\napp_key {env.UMS_APP_KEY}\nupstream http://127.0.0.1:29015\n}"},
		{"an upstream by a placeholder", "merchant shop {\napp_id 1\napp_key {env.UMS_APP_KEY}\nupstream https://{env.UMS_APP_ID}.example.com/\n}"},
		{"one notify_key, disjoint mids", "merchant a {\nnotify_key {env.UMS_NOTIFY_KEY}\nmid 1\n}\nmerchant b {\nnotify_key {env.UMS_NOTIFY_KEY}\nmid 2 3\n}\nmerchant c {\nnotify_key {env.UMS_NOTIFY_KEY}\nmid 4\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := loadError(t, chinaumsBlock(test.merchants)); err != "" {
				t.Error(err)
			}
		})
	}
}

func TestUpstreamAddress(t *testing.T) {
	for _, test := range []struct {
		upstream, scheme, dial, host string
		loopback                     bool
	}{
		{productionUpstream, "https", "api-mop.chinaums.com:443", "api-mop.chinaums.com", false},
		{testUpstream, "https", "test-api-open.chinaums.com:443", "test-api-open.chinaums.com", false},
		{"http://58.247.0.18:29015", "http", "58.247.0.18:29015", "58.247.0.18:29015", false},
		{"https://Example.COM:443/", "https", "example.com:443", "example.com", false},
		{"http://example.com", "http", "example.com:80", "example.com", false},
		{"https://example.com:80", "https", "example.com:80", "example.com:80", false},
		{"http://[::1]:8080", "http", "[::1]:8080", "[::1]:8080", true},
		{"https://[::1]", "https", "[::1]:443", "[::1]", true},
		{"https://[::ffff:127.0.0.1]", "https", "[::ffff:127.0.0.1]:443", "[::ffff:127.0.0.1]", true},
		{"https://127.8.9.1", "https", "127.8.9.1:443", "127.8.9.1", true},
		{"http://LOCALHOST:1", "http", "localhost:1", "localhost:1", true},
		{"https://localhost.example.com", "https", "localhost.example.com:443", "localhost.example.com", false},
		{"https://127.0.0.1.example.com", "https", "127.0.0.1.example.com:443", "127.0.0.1.example.com", false},
	} {
		t.Run(test.upstream, func(t *testing.T) {
			endpoint, loopback, err := outbound.ParseEndpoint(test.upstream)
			if err != nil || endpoint.Scheme != test.scheme || endpoint.Dial != test.dial || endpoint.Host != test.host || loopback != test.loopback {
				t.Errorf("%+v, loopback %v, error %v", endpoint, loopback, err)
			}
		})
	}
}

// TestDirectiveMerchant: a directive's merchant must exist, be named where there is a choice, and have what it needs.
func TestDirectiveMerchant(t *testing.T) {
	setKeys(t)
	const (
		call   = "merchant call {\napp_id 1\napp_key {env.UMS_APP_KEY}\n}\n"
		told   = "merchant told {\nnotify_key {env.UMS_NOTIFY_KEY}\n}\n"
		withID = "merchant with-mid {\napp_id 1\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_APP_ID}\nmid 1\n}\n"
	)
	for _, directive := range []struct{ name, syntax, sole, missing string }{
		{"chinaums_notify", "chinaums_notify %s\nrespond ok", told, "notify_key is missing"},
		{"chinaums_guard", "chinaums_guard %s\nrespond ok", call, "app_id and app_key are missing"},
		{"chinaums_proxy", "chinaums_proxy %s", call, "app_id and app_key are missing"},
		{"dynamic", "reverse_proxy {\ndynamic chinaums %s\ntransport chinaums with-mid\n}", call, "app_id and app_key are missing"},
		{"transport", "reverse_proxy {\ndynamic chinaums with-mid\ntransport chinaums %s\n}", call, "app_id and app_key are missing"},
	} {
		for _, test := range []struct {
			name, merchants, argument string
			want                      []string // nil: it loads
		}{
			{"named", call + told + withID, "with-mid", nil},
			{"left out with exactly one", withID, "", nil},
			{"left out with none", "", "", []string{"name a merchant", "none"}},
			{"left out with several", call + told + withID, "", []string{"name a merchant", "call, told, with-mid"}},
			{"not there", call + told + withID, "shop", []string{"merchant shop does not exist", "call, told, with-mid"}},
			{"of another case", call + told + withID, "With-mid", []string{"merchant With-mid does not exist"}},
			{"without what is needed", withID + call + told, map[bool]string{true: "call", false: "told"}[directive.sole == told], []string{directive.missing}},
			{"by a placeholder", withID + call + told, "{http.request.host.labels.2}", nil},
			{"by a placeholder, and nobody has a mid", call + told, "{http.vars.merchant}", []string{"{http.vars.merchant}", "mid"}},
			{"two names", withID, "with-mid with-mid", []string{"surplus"}},
		} {
			if strings.Contains(directive.syntax, "with-mid") && !strings.Contains(test.merchants, withID) {
				continue // its other half would already fail
			}
			t.Run(directive.name+"/"+test.name, func(t *testing.T) {
				got := loadError(t, "{\nadmin off\nchinaums {\n"+test.merchants+"}\n}\nhttp://127.0.0.1:9 {\n"+fmt.Sprintf(directive.syntax, test.argument)+"\n}\n")
				if test.want == nil {
					if got != "" {
						t.Error(got)
					}
					return
				}
				checkRefusal(t, "Caddyfile", got, test.want)
			})
		}
	}
	t.Run("no chinaums block at all", func(t *testing.T) {
		checkRefusal(t, "Caddyfile", loadError(t, "{\nadmin off\n}\nhttp://127.0.0.1:9 {\nchinaums_notify shop\nrespond ok\n}\n"), []string{"merchant shop does not exist", "none"})
	})
	t.Run("many merchants are not all listed", func(t *testing.T) {
		got := loadError(t, "{\nadmin off\nchinaums {\n"+manyMerchants(200)+"}\n}\nhttp://127.0.0.1:9 {\nchinaums_notify shop\nrespond ok\n}\n")
		checkRefusal(t, "Caddyfile", got, []string{"merchant shop does not exist", "and 190 more"})
	})
}

// manyMerchants are n merchants with mids, with one notify_key, as a service provider has them.
func manyMerchants(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "merchant m%05d {\napp_id 1\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_NOTIFY_KEY}\nmid %d\n}\n", i, i)
	}
	return b.String()
}

// TestPlaceholderReachesMID: a name that the request tells reaches only merchants that have a mid; for all others the
// answer is the same as for a merchant that does not exist.
func TestPlaceholderReachesMID(t *testing.T) {
	setKeys(t)
	address := freeAddress(t)
	startCaddy(t, `{
	chinaums {
		merchant with-mid {
			notify_key {env.UMS_NOTIFY_KEY}
			mid 898201612345678
		}
		merchant without {
			notify_key {env.UMS_APP_KEY}
		}
		merchant calls-only {
			app_id  1
			app_key {env.UMS_APP_KEY}
			mid     1
		}
	}
}
http://`+address+` {
	bind 127.0.0.1
	chinaums_notify {header.X-Merchant}
	respond 200
}`)
	for name, want := range map[string]int{
		"with-mid": 403, // there: the notify is not signed
		"without":  404, "calls-only": 404, "nobody": 404, "": 404, "{env.X}": 404, "with-mid ": 403,
	} {
		a := do(t, newRequest(t, "POST", "http://"+address+"/", "mid=1&status=TRADE_SUCCESS", "Content-Type: application/x-www-form-urlencoded", "X-Merchant: "+name))
		if a.status != want || a.body != "FAILED" {
			t.Errorf("merchant %q: %d %q, want %d", name, a.status, a.body, want)
		}
	}
}

// adminCaddy runs Caddy with an admin endpoint on loopback, and its autosave file in a directory of the test's.
func adminCaddy(t *testing.T, config string) (lines *logged, admin, autosave string) {
	t.Helper()
	admin = freeAddress(t)
	autosave = filepath.Join(t.TempDir(), "autosave.json")
	before := caddy.ConfigAutosavePath
	caddy.ConfigAutosavePath = autosave
	t.Cleanup(func() { caddy.ConfigAutosavePath = before })
	lines = newLogged(t)
	config = strings.Replace(config, "{\n", "{\n\tadmin "+admin+"\n\tlog {\n\t\toutput test_log "+lines.id+"\n\t\tformat json\n\t\tlevel DEBUG\n\t}\n", 1)
	if err := caddy.Load(adapt(t, config), true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return lines, admin, autosave
}

// TestKeysStayOutOfSight: neither the config API nor the autosave file nor the log nor a refusal shows a key that came
// by a placeholder; and a warning is logged for each key that stands in the configuration, and for no other.
func TestKeysStayOutOfSight(t *testing.T) {
	setKeys(t)
	keyFile := writeFile(t, "ums", "file-key-5f3a\n")
	t.Setenv("CHINAUMS_TEST_BRACES", "braces{in}the-key-77aa")
	t.Setenv("CHINAUMS_TEST_LITERAL", "literal{in}the-key-99bb")
	lines, admin, autosave := adminCaddy(t, `{
	chinaums {
		merchant hidden {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY} {file.`+keyFile+`} {env.CHINAUMS_TEST_BRACES}
		}
		merchant written {
			app_id     1
			app_key    app-key-in-the-open
			notify_key {$CHINAUMS_TEST_LITERAL} "\{in braces\}"
		}
	}
}
http://`+freeAddress(t)+` {
	bind 127.0.0.1
	chinaums_notify hidden
	respond 200
}`)
	a := do(t, newRequest(t, "GET", "http://"+admin+"/config/", ""))
	if a.status != 200 {
		t.Fatalf("config API: %d %s", a.status, a.body)
	}
	saved, err := os.ReadFile(autosave)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{"the config API": a.body, "autosave.json": string(saved), "the log": lines.String()}
	for where, text := range seen {
		for _, key := range []string{testAppKey, testNotifyKey, "file-key-5f3a", "braces{in}the-key-77aa"} {
			if strings.Contains(text, key) {
				t.Errorf("%s shows the key %s", where, key)
			}
		}
		if where != "the log" && !(strings.Contains(text, "{env.UMS_APP_KEY}") && strings.Contains(text, "{file."+keyFile+"}")) {
			t.Errorf("%s does not show the placeholders: %s", where, text)
		}
	}
	for _, key := range []string{"app-key-in-the-open", "literal{in}the-key-99bb"} {
		if strings.Contains(lines.String(), key) {
			t.Errorf("the log shows the key %s", key)
		}
	}
	warnings := lines.lines(`"level":"warn"`, "a key is written out in the configuration")
	count := map[string]int{}
	for _, line := range warnings {
		var entry struct{ Merchant, Option string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		count[entry.Merchant+" "+entry.Option]++
	}
	if len(count) != 2 || count["written app_key"] != 1 || count["written notify_key"] != 2 {
		t.Errorf("warnings: %v", count)
	}

	// A configuration that is refused must not carry a key to whoever posted it.
	bad := strings.Replace(string(adapt(t, chinaumsBlock("merchant a {\nnotify_key {env.UMS_NOTIFY_KEY}\n}\nmerchant b {\nnotify_key {env.UMS_NOTIFY_KEY}\n}"))), `"admin":{"disabled":true}`, `"admin":{"listen":"`+admin+`"}`, 1)
	refused := do(t, newRequest(t, "POST", "http://"+admin+"/load", bad, "Content-Type: application/json"))
	if refused.status != 400 || strings.Contains(refused.body, testNotifyKey) || !strings.Contains(refused.body, "both have the same notify_key") {
		t.Errorf("refused: %d %s", refused.status, refused.body)
	}
	// Caddy has replaced the admin API's server all the same.
	if again := doAfterReload(t, func() *http.Request { return newRequest(t, "GET", "http://"+admin+"/config/", "") }); again.body != a.body {
		t.Error("a refused configuration took the place of the running one")
	}
}

// TestChangedKeyFile: a changed key file counts from `caddy reload --force` on; a reload of the same configuration
// changes nothing.
func TestChangedKeyFile(t *testing.T) {
	setKeys(t)
	keyFile := writeFile(t, "ums", "first-key")
	var authorization atomic.Value
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Header.Get("Authorization"))
		io.WriteString(w, `{"errCode":"SUCCESS"}`)
	}))
	defer platform.Close()
	address := freeAddress(t)
	config := `{
	chinaums {
		merchant shop {
			app_id   {env.UMS_APP_ID}
			app_key  {file.` + keyFile + `}
			upstream ` + platform.URL + `
		}
	}
}
http://` + address + ` {
	bind 127.0.0.1
	chinaums_proxy
}`
	_, admin, _ := adminCaddy(t, config)
	running := do(t, newRequest(t, "GET", "http://"+admin+"/config/", "")).body
	signedWith := func(key string) error {
		a := doAfterReload(t, func() *http.Request {
			return newRequest(t, "POST", "http://"+address+"/v1/netpay/query", `{}`, "Content-Type: application/json")
		})
		if a.status != 200 {
			t.Fatalf("%+v", a)
		}
		return newBodySigner(testAppID, key).verify(authorization.Load().(string), []byte(`{}`))
	}
	reload := func(headers ...string) {
		headers = append(headers, "Content-Type: application/json")
		if a := do(t, newRequest(t, "POST", "http://"+admin+"/load", running, headers...)); a.status != 200 {
			t.Fatalf("reload: %+v", a)
		}
	}
	if err := signedWith("first-key"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, []byte("second-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload()
	if err := signedWith("first-key"); err != nil {
		t.Errorf("after a reload of the same configuration: %v", err)
	}
	reload("Cache-Control: must-revalidate") // what `caddy reload --force` sends
	// For a moment, a connection may reach the configuration that is going.
	eventually(t, "calls are signed with the new key after a forced reload", func() bool { return inARow(func() bool { return signedWith("second-key") == nil }) })
	// A key that has gone is no reason to stop.
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if a := doAfterReload(t, func() *http.Request {
		return newRequest(t, "POST", "http://"+admin+"/load", running, "Content-Type: application/json", "Cache-Control: must-revalidate")
	}); a.status != 400 || !strings.Contains(a.body, "app_key") {
		t.Errorf("reload without the file: %+v", a)
	}
	if err := signedWith("second-key"); err != nil {
		t.Errorf("after a refused reload: %v", err)
	}
}

// TestReloadUnderLoad: while configurations change, whatever call has reached the platform is answered, and one that is
// under way is waited for.
func TestReloadUnderLoad(t *testing.T) {
	setKeys(t)
	held, release := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	var seen sync.Map
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		number, _ := io.ReadAll(r.Body)
		seen.Store(string(number), true)
		if r.URL.Path == "/v1/netpay/refund" {
			close(held)
			<-release
		}
		w.Write(number)
	}))
	defer platform.Close()
	defer letGo()
	lines := newLogged(t)
	address := freeAddress(t)
	config := func(generation int) []byte {
		return adapt(t, strings.Replace(merchantOptions(platform.URL), "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput test_log "+lines.id+"\n\t\tformat json\n\t}\n", 1)+`http://`+address+` {
	bind 127.0.0.1
	header X-Generation `+fmt.Sprint(generation)+`
	chinaums_proxy
}`)
	}
	if err := caddy.Load(config(0), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})

	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	var numbers, lost atomic.Int64
	call := func(path string) (generation string, err error) {
		for range 100 {
			number := fmt.Sprint(numbers.Add(1))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+path, strings.NewReader(number))
			if err != nil {
				return "", err
			}
			req.Header.Set("Content-Type", "application/json")
			res, err := client.Do(req)
			if err != nil {
				// Each configuration has a socket of its own, and a connection that waits at the old one when that
				// closes is lost, whoever the handlers are. No handler may have seen it.
				if _, ok := seen.Load(number); ok {
					return "", fmt.Errorf("call %s reached the platform, and its answer was lost: %w", number, err)
				}
				lost.Add(1)
				continue
			}
			answer, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil && (res.StatusCode != 200 || res.Header.Get("Gateway-Outcome") != "answered" || string(answer) != number) {
				err = fmt.Errorf("call %s: %d %v %s", number, res.StatusCode, res.Header, answer)
			}
			return res.Header.Get("X-Generation"), err
		}
		return "", fmt.Errorf("nobody listens")
	}

	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	var calls atomic.Int64
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := call("/v1/netpay/query"); err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	const generations = 5
	for generation := 1; generation <= generations; generation++ {
		before := calls.Load()
		eventually(t, "twenty calls", func() bool { return calls.Load() >= before+20 || t.Failed() })
		if err := caddy.Load(config(generation), true); err != nil {
			t.Fatal(err)
		}
	}

	eventually(t, "the last configuration alone serves", func() bool {
		return inARow(func() bool {
			generation, err := call("/v1/netpay/query")
			return err == nil && generation == fmt.Sprint(generations)
		})
	})
	refund := make(chan error, 1)
	go func() {
		generation, err := call("/v1/netpay/refund")
		if err == nil && generation != fmt.Sprint(generations) {
			err = fmt.Errorf("answered by generation %s", generation)
		}
		refund <- err
	}()
	<-held
	reloaded := make(chan error, 1)
	go func() { reloaded <- caddy.Load(config(generations+1), true) }()
	// The new configuration serves although the old one waits for its call.
	for deadline := time.Now().Add(time.Minute); ; {
		generation, err := call("/v1/netpay/query")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("generation %s: %v", generation, err)
		}
		if generation == fmt.Sprint(generations+1) {
			break
		}
	}
	select {
	case err := <-reloaded:
		t.Errorf("the reload ended (%v) before the call that was under way", err)
	default:
	}
	letGo()
	if err := <-refund; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-reloaded; err != nil {
		t.Error(err)
	}
	stop()
	callers.Wait()
	t.Logf("%d calls over %d configurations; %d connections were lost before they were taken", calls.Load(), generations+2, lost.Load())
}

// TestFailedProvision: a configuration that fails after the app was set up is cleaned up, and disturbs nobody.
func TestFailedProvision(t *testing.T) {
	setKeys(t)
	before := caddy.ActiveContext()
	for range 3 {
		got := loadError(t, "{\nadmin off\nchinaums {\n"+manyMerchants(1)+"}\n}\nhttp://127.0.0.1:9 {\nchinaums_notify {\njson a\n}\nchinaums_guard nobody\nrespond ok\n}\n")
		checkRefusal(t, "Caddyfile", got, []string{"merchant nobody does not exist"})
	}
	if caddy.ActiveContext().Context != before.Context {
		t.Error("a refused configuration became the running one")
	}
	if err := new(App).Cleanup(); err != nil {
		t.Errorf("cleaning up an app that was never provisioned: %v", err)
	}
}

// TestAppAlone: the app needs neither the http app nor a network; validating looks no host up.
func TestAppAlone(t *testing.T) {
	setKeys(t)
	config := chinaumsJSON(`{"shop":{"app_id":"1","app_key":"{env.UMS_APP_KEY}","notify_key":["{env.UMS_NOTIFY_KEY}"],"upstream":"https://no-such-host.invalid"}}`)
	if err := loadJSONError(t, config); err != "" {
		t.Error(err)
	}
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	defer func(resolver *net.Resolver) { net.DefaultResolver = resolver }(net.DefaultResolver)
	var asked atomic.Int64
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked.Add(1)
		return nil, fmt.Errorf("the network is off")
	}}
	if err := loadError(t, merchantOptions("https://no-such-host.invalid")+"http://127.0.0.1:9 {\nchinaums_proxy /v1/*\nchinaums_notify /notify\nrespond ok\n}\n"); err != "" {
		t.Error(err)
	}
	if asked.Load() > 0 {
		t.Errorf("%d look-ups", asked.Load())
	}
}

// TestGracePeriod: Caddy's grace_period bounds how long a configuration that goes waits for its calls.
func TestGracePeriod(t *testing.T) {
	setKeys(t)
	for _, test := range []struct {
		name, options, want string
	}{
		{"none: the longest timeout of a directive", "", "2m0s"},
		{"shorter", "grace_period 3s\n", "3s"},
		{"longer", "grace_period 5m\n", "2m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := "{\nadmin off\n" + test.options + "chinaums {\n" + manyMerchants(1) + "}\n}\nhttp://127.0.0.1:0 {\nbind 127.0.0.1\nchinaums_guard {\ntimeout 2m\n}\nchinaums_notify\nrespond ok\n}\n"
			if err := caddy.Load(adapt(t, config), true); err != nil {
				t.Fatal(err)
			}
			loaded, err := caddy.ActiveContext().App("chinaums")
			if err != nil {
				t.Fatal(err)
			}
			app := loaded.(*App)
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			if app.patience.String() != test.want {
				t.Errorf("%s, want %s", app.patience, test.want)
			}
		})
	}
}

// TestManyMerchants: ten thousand merchants of a service provider, with one notify_key, load; before, the comparison of
// each with each took minutes.
func TestManyMerchants(t *testing.T) {
	app := provisionedMerchants(t, 10_000)
	ref, err := app.merchants.Ref("{vars.merchant}", needsNotifyKey)
	if err != nil {
		t.Fatal(err)
	}
	repl := caddy.NewReplacer()
	repl.Set("vars.merchant", "m09999")
	if m := ref.Resolve(repl); m == nil || m.name != "m09999" || !m.hasMID([]byte("9999")) || m.hasMID([]byte("9998")) {
		t.Errorf("found %+v", m)
	}
	repl.Set("vars.merchant", "m10000")
	if m := ref.Resolve(repl); m != nil {
		t.Errorf("found %s", m.name)
	}
}

func provisionedMerchants(t testing.TB, n int) *App {
	t.Helper()
	setKeys(t)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	app := new(App)
	var document struct {
		Apps struct{ ChinaUMS json.RawMessage }
	}
	adapted := adapt(t, chinaumsBlock(manyMerchants(n)))
	if err := json.Unmarshal(adapted, &document); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(document.Apps.ChinaUMS, app); err != nil {
		t.Fatal(err)
	}
	if err := app.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return app
}

// BenchmarkMerchants: looking up one of 10,000 merchants costs what it costs with one.
func BenchmarkMerchants(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		app := provisionedMerchants(b, n)
		name := fmt.Sprintf("m%05d", n-1)
		for _, by := range []struct{ name, argument string }{{"fixed", name}, {"placeholder", "{vars.merchant}"}} {
			ref, err := app.merchants.Ref(by.argument, needsNotifyKey)
			if err != nil {
				b.Fatal(err)
			}
			repl := caddy.NewReplacer()
			repl.Set("vars.merchant", name)
			b.Run(fmt.Sprintf("%s/%d", by.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if m := ref.Resolve(repl); m == nil || m.name != name {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

// TestBlocksMerge: several chinaums blocks are one, wherever they stand.
func TestBlocksMerge(t *testing.T) {
	setKeys(t)
	adapted := adapt(t, "{\nadmin off\nchinaums {\nmerchant a {\nnotify_key x\nmid 1\n}\n}\nchinaums\nchinaums {\nmerchant b {\nnotify_key y\n}\nmerchant c {\nnotify_key z\n}\n}\n}\n")
	var document struct {
		Apps struct{ ChinaUMS App }
	}
	if err := json.Unmarshal(adapted, &document); err != nil {
		t.Fatal(err)
	}
	got := caddyconfig.JSON(document.Apps.ChinaUMS, nil)
	if want := `{"merchants":{"a":{"notify_key":["x"],"mid":["1"]},"b":{"notify_key":["y"]},"c":{"notify_key":["z"]}}}`; string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	_, err := adaptOrError("{\nadmin off\nchinaums {\nmerchant a {\nnotify_key x\n}\n}\nchinaums {\nmerchant a {\nnotify_key y\n}\n}\n}\n")
	if err == nil || !strings.Contains(err.Error(), "merchant a: there are two merchants of this name") {
		t.Errorf("two of one name in two blocks: %v", err)
	}
	if _, err = adaptOrError("{\nadmin off\nchinaums shop {\n}\n}\n"); err == nil || !strings.Contains(err.Error(), `not "shop"`) {
		t.Errorf("an argument: %v", err)
	}
}

// TestEventWhileStopping: Caddy asks the module of an event for its name. It was the name of a copy of the app, made while Stop wrote into
// the app: a data race, where a watch told of an order in this moment.
func TestEventWhileStopping(t *testing.T) {
	startNotify(t, "respond ok")
	find := func(name string) any {
		found, err := caddy.ActiveContext().App(name)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	app, events := find("chinaums").(*App), find("events").(*caddyevents.App)
	var both sync.WaitGroup
	both.Go(func() { events.Emit(app.ctx, "chinaums.test", nil) })
	both.Go(func() {
		if err := app.Stop(); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
}
