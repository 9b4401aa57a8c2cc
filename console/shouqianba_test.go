package console_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// startShouqianba starts a gateway with a terminal of Shouqianba's, whose orders are followed, and an order that is paid.
func startShouqianba(t *testing.T) (g *gateway, platform *sandbox.Shouqianba, number string) {
	t.Helper()
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
	g = start(t, `
	}
	shouqianba {
		terminal till {
			terminal_sn  `+keys.TerminalSN+`
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key   {env.SQB_PUBLIC_KEY}
			upstream     `+upstream.URL+`
		}`+withWatch, withInbox, "shouqianba_proxy /upay/*\n\tshouqianba_notify /notify/till\n\t"+strings.Replace(toInbox, "/notify", "/notify/till", 1))

	number = fmt.Sprint("T", time.Now().UnixNano())
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
	return g, platform, number
}

// TestShouqianbaExplains: a notify of Shouqianba's that is refused is explained, masked, in both languages, and so is a code of the
// platform's. Before, there was the line for the command only, and a code had no words.
func TestShouqianbaExplains(t *testing.T) {
	g, platform, number := startShouqianba(t)
	keys := platform.Options()
	secrets := []string{number, keys.TerminalSN, keys.TerminalKey, "Pizza"}
	for _, test := range []struct {
		variant          sandbox.Variant
		english, chinese string
	}{
		{sandbox.Tampered, "no known mistake explains it", "不属于任何已知错误"},
		{sandbox.Unsigned, "there is no header Authorization", "没有 Authorization 头"},
		{sandbox.ForeignMID, "its terminal_sn is another terminal's", "terminal_sn 不是此终端的"},
	} {
		if delivery, err := platform.Notify(t.Context(), number, sandbox.KindPayment, test.variant); err != nil || delivery.Status != 403 {
			t.Fatalf("%v: %v, %+v", test.variant, err, delivery)
		}
		var told []notifyEntry
		g.ask("/gateway/notifies?limit=1", &told)
		if len(told) != 1 || told[0].Result != "rejected" || !told[0].Explained {
			t.Fatalf("%+v", told)
		}
		for language, want := range map[string]string{"en": test.english, "zh": test.chinese} {
			var said struct{ Text string }
			g.ask(fmt.Sprintf("/gateway/notifies/%d/explain?lang=%s", told[0].Number, language), &said)
			if !strings.Contains(said.Text, want) || !strings.Contains(said.Text, "client_sn=<"+fmt.Sprint(len(number))+">") {
				t.Errorf("%v in %s: %s", test.variant, language, said.Text)
			}
			for _, secret := range secrets {
				if strings.Contains(said.Text, secret) {
					t.Errorf("%v: %s shows too much: %s", test.variant, secret, said.Text)
				}
			}
		}
	}
	status, _, content := g.do("POST", g.url+"/upay/v2/query", `{"terminal_sn":"`+keys.TerminalSN+`","client_sn":"unknown-order"}`, "Content-Type: application/json")
	if status != 200 || !strings.Contains(content, "UPAY_ORDER_NOT_EXISTS") {
		t.Fatalf("%d %s", status, content)
	}

	p := browse(t, "en-US", g.admin+"/gateway/#notifies/rejected", 1000, false)
	p.Click(`//details[contains(., "the signature does not match")]/summary`)
	p.Shows("no known mistake explains it")
	p.Shows("| caddy shouqianba verify --config /etc/caddy/Caddyfile --terminal till")
	p.to(g, "calls")
	p.Click(`//details[contains(., "UPAY_ORDER_NOT_EXISTS")]/summary`)
	p.Shows("Repeat it with the same client_sn")
	p.to(g, "order/shouqianba/till/"+number)
	p.Shows("Timeline")
	p.Lacks("Codes: cause and remedy") // PRECREATE_SUCCESS needs none
	p.clean()
}

// TestShouqianba: the page shows a terminal's calls, notifies and orders as those of a merchant. Before, the watch of its orders was
// taken for none: they were neither among what needs a person, nor found, and had no timeline.
func TestShouqianba(t *testing.T) {
	g, platform, number := startShouqianba(t)
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
			Explains bool
		}
	}
	g.ask("/gateway/state", &state)
	if got := fmt.Sprint(state.Platforms); got != "[{chinaums [shop] false true} {shouqianba [till] true true}]" {
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
