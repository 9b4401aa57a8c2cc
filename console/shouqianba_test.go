package console_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestShouqianba: the page shows a terminal's calls, notifies and orders as those of a merchant. Before, the watch of its orders was
// taken for none: they were neither among what needs a person, nor found, and had no timeline.
func TestShouqianba(t *testing.T) {
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{OrderLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	upstream := httptest.NewServer(platform)
	t.Cleanup(upstream.Close)
	keys := platform.Options()
	t.Setenv("SQB_TERMINAL_KEY", keys.TerminalKey)
	t.Setenv("SQB_PUBLIC_KEY", platform.PublicKey())
	g := start(t, `
	}
	shouqianba {
		terminal till {
			terminal_sn  `+keys.TerminalSN+`
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key   {env.SQB_PUBLIC_KEY}
			upstream     `+upstream.URL+`
		}`+withWatch, withInbox, "shouqianba_proxy /upay/*\n\tshouqianba_notify /notify/till\n\t"+strings.Replace(toInbox, "/notify", "/notify/till", 1))

	number := fmt.Sprint("T", time.Now().UnixNano())
	status, header, content := g.do("POST", g.url+"/upay/v2/precreate", `{"terminal_sn":"`+keys.TerminalSN+`","client_sn":"`+number+
		`","total_amount":"1000","payway":"3","subject":"Pizza","operator":"Obama","notify_url":"`+g.url+`/notify/till"}`, "Content-Type: application/json")
	if status != 200 || header.Get("Gateway-Outcome") != "answered" || !strings.Contains(content, "PRECREATE_SUCCESS") {
		t.Fatalf("%d %s %s", status, header.Get("Gateway-Outcome"), content)
	}
	if err := platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	if err := platform.WaitDelivered(t.Context(), number, sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	sn := ""
	for _, order := range platform.Orders() {
		if order.MerOrderID == number {
			sn = order.SN
		}
	}

	var state struct {
		Platforms []struct {
			Name     string
			Accounts []string
			Watch    bool
		}
	}
	g.ask("/gateway/state", &state)
	if got := fmt.Sprint(state.Platforms); got != "[{chinaums [shop] false} {shouqianba [till] true}]" {
		t.Errorf("platforms %s", got)
	}

	p := browse(t, "zh-CN", g.admin+"/gateway/#notifies", 1000, false)
	p.Shows(number)
	p.to(g, "calls")
	p.Shows("/upay/v2/precreate")
	p.to(g, "needs")
	p.Shows("没有启用 watch（chinaums）") // only Shouqianba's orders are followed
	p.blocks("{\n\tchinaums {\n\t\tmerchant …\n\t\twatch\n\t}\n}")
	p.to(g, "search/"+sn) // the platform's number
	p.Shows(number)
	p.to(g, "search/"+number) // the merchant's: client_sn
	p.Click(`//main//li/a`)
	p.Shows("时间线")
	p.Shows("已付款")
	p.Lacks("没有启用 watch")
	p.clean()
}

// TestNothingSwitchedOnForShouqianba: a gateway of Shouqianba's is told how to switch watch and inbox on for Shouqianba. Before, it
// was shown the blocks for ChinaUMS.
func TestNothingSwitchedOnForShouqianba(t *testing.T) {
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	keys := platform.Options()
	t.Setenv("SQB_TERMINAL_KEY", keys.TerminalKey)
	t.Setenv("SQB_PUBLIC_KEY", platform.PublicKey())
	g := &gateway{t: t}
	g.load(strings.NewReplacer(), `shouqianba {
		terminal till {
			terminal_sn  `+keys.TerminalSN+`
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key   {env.SQB_PUBLIC_KEY}
		}
	}`, "shouqianba_notify /notify")
	p := browse(t, "en-US", g.admin+"/gateway/#needs", 1000, false)
	p.Shows("There is no watch for shouqianba")
	p.blocks("{\n\tshouqianba {\n\t\tterminal …\n\t\twatch\n\t}\n}")
	p.to(g, "search")
	p.Shows("There is no watch for shouqianba")
	p.blocks("{\n\tshouqianba {\n\t\tterminal …\n\t\twatch\n\t}\n}")
	p.to(g, "order/shouqianba/till/1")
	p.Shows("There is no watch for shouqianba")
	p.blocks("{\n\tshouqianba {\n\t\tterminal …\n\t\twatch\n\t}\n}")
	p.to(g, "inbox")
	p.Shows("There is no inbox")
	p.blocks("shouqianba_notify /notify\ninbox /notify {\n\tdeliver {\n\t\treverse_proxy 127.0.0.1:9000\n\t}\n}")
	p.clean()
}

// blocks compares what the page shows to copy.
func (p *page) blocks(want string) {
	p.t.Helper()
	p.Until("the block", `return [...document.querySelectorAll("main pre")].map((one) => one.textContent).join("\n\n")`, want)
}
