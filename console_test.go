package chinaums

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestConsoleAsks is what the console asks the app: names, what a code means, and why a notify was refused, without
// values, keys or the digest that would have been right.
func TestConsoleAsks(t *testing.T) {
	startNotify(t, "chinaums_notify")
	asked, err := caddy.ActiveContext().AppIfConfigured("chinaums")
	if err != nil {
		t.Fatal(err)
	}
	app := asked.(*App)
	if fmt.Sprint(app.Accounts()) != "[shop]" || app.Watches() {
		t.Errorf("%v, %v", app.Accounts(), app.Watches())
	}
	if cause, remedy, ok := app.ExplainCode("NO_ORDER", true); !ok || cause != "找不到请求的原始订单" || remedy == "" {
		t.Errorf("%s, %s, %v", cause, remedy, ok)
	}
	// Before, only `verify` knew the code by the name that the platform also gives it.
	if cause, _, ok := app.ExplainCode("INVALID_MERCHANT_CONFIG", false); !ok || cause == "" {
		t.Error("a code by its other name is not explained")
	}
	if _, _, ok := app.ExplainCode("NOTHING", false); ok {
		t.Error("an unknown code is explained")
	}
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	explain := func(merchant, content string, chinese bool) string {
		var told strings.Builder
		if err := app.ExplainNotify(&told, merchant, []byte(content), form, chinese); err != nil {
			t.Fatal(err)
		}
		return told.String()
	}
	forged := "buyerId=secret-buyer&merOrderId=12345678&signType=SHA256&totalAmount=1&sign=" + strings.Repeat("AB", 32)
	if told := explain("shop", forged, false); !strings.Contains(told, "does not verify") || !strings.Contains(told, "buyerId=<12>") ||
		strings.Contains(told, "secret-buyer") || strings.Contains(told, "SHA256:") || strings.Contains(told, "MD5:") {
		t.Errorf("%s", told)
	}
	if told := explain("shop", forged, true); !strings.Contains(told, "验签失败") {
		t.Errorf("%s", told)
	}
	if told := explain("nobody", forged, false); told != "" {
		t.Errorf("%s", told)
	}
}
