package chinaums

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// TestWatchAdmin looks at orders through the admin API and the commands of a running Caddy.
func TestWatchAdmin(t *testing.T) {
	g := startWatched(t, "unknown 1h\n\t\t\torders off") // what the platform is asked, is asked by the test
	address := freeAddress(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	testutil.Released(t, g.address)
	audit := filepath.Join(t.TempDir(), "audit.log")
	options := "{\n\tadmin " + address + "\n\tlog audit {\n\t\toutput file " + audit + "\n\t\tinclude admin.api.chinaums\n\t}\n"
	if err := caddy.Load(adapt(t, strings.Replace(g.config, "{\n", options, 1)), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the other tests' Caddys have no admin API
		if err := caddy.Load(adapt(t, strings.Replace(g.config, "{\n", "{\n\tadmin off\n", 1)), true); err != nil {
			t.Error(err)
		}
	})
	number := g.order(nil)
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	at := "--address=" + address
	eventually(t, "the query finds the payment", func() bool { // the order's own answer may still be on its way to the disk
		out, err := runCommand(queryCommand(), "", at, number)
		return err == nil && strings.Contains(out, `"state": "paid"`)
	})
	first := g.told("payment.succeeded", number).header.Get("Ce-Id")
	if out, err := runCommand(resendCommand(), "", at, "--merchant=shop", number); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Before, the lines that say who did what went to the log `default` only, whatever the configuration says.
	if lines, err := os.ReadFile(audit); err != nil || !strings.Contains(string(lines), `"logger":"admin.api.chinaums","msg":"the app is told of an order again"`) {
		t.Errorf("not in the configured log: %s %v", lines, err)
	}
	if again := g.told("payment.succeeded", number).header.Get("Ce-Id"); again != first {
		t.Errorf("told again as %s, not as %s", again, first)
	}
	// Of a platform that is busy with the order nobody asks again. It was asked all the same, or nobody was, and the answer was 200.
	g.platform.Break(sandbox.Fault{Kind: sandbox.Refuse, Path: "/v1/netpay/query", Code: "ORDER_PROCESSING"})
	query := func() answer {
		return do(t, newRequest(t, "POST", "http://"+address+"/chinaums/orders/shop/"+number+"/query", ""))
	}
	eventually(t, "the platform says that it is busy", func() bool { a := query(); return a.status == 200 && strings.Contains(a.body, `"hold":`) })
	if a := query(); a.status != 429 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "nothing was asked") {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	refund := g.number()
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Queries: 1000})
	g.want(g.refund(number, refund, 100), 200, "SUCCESS", "answered")
	out, err := runCommand(ordersCommand(), "", at, "--state=unresolved")
	if err != nil || !strings.Contains(out, number) || !strings.Contains(out, refund+"=unresolved") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = runCommand(orderCommand(), "", at, refund); err != nil || !strings.Contains(out, `"order": "`+number+`"`) || !strings.Contains(out, `"lines"`) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := runCommand(orderCommand(), "", at, "no such number"); err == nil {
		t.Error("an order that there is not")
	}
	var row struct {
		PaidAt int64 `json:"paid_at"`
	}
	if err := json.Unmarshal([]byte(out), &row); err != nil {
		t.Fatal(err)
	}
	day := time.UnixMilli(row.PaidAt).In(beijing).Format(time.DateOnly)
	if out, err = runCommand(reconcileCommand(), "", at, "--day="+day, "--csv"); err != nil || !strings.HasPrefix(out, "\ufeff"+day) ||
		!strings.Contains(out, "paid_without_notify,\"\tshop\",\"\t"+number+`"`) {
		t.Errorf("%v: %s", err, out)
	}
	for path, status := range map[string]int{
		"/chinaums/orders?state=lost": 400, "/chinaums/orders?limit=0": 400, "/chinaums/orders?x=1": 400, "/chinaums/reconcile?day=today": 400,
		"/chinaums/orders/shop/1": 404, "/chinaums/": 404, "/chinaums/orders?merchant=shop&limit=1": 200, "/chinaums/orders/shop/" + number + "/query": 405,
	} {
		if a := do(t, newRequest(t, "GET", "http://"+address+path, "")); a.status != status {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
