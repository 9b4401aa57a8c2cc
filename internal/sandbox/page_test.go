package sandbox_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil/webdriver"
)

func TestPage(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{UI: true})
	const hostile = `<img src=x onerror=document.title=1>`
	number := s.keys.SourceCode + `<img/src=x>0001`
	s.want(s.call("/v1/netpay/trade/precreate", "merOrderId", number, "totalAmount", 1234, "orderDesc", hostile, "notifyUrl", s.notifyTo), "errCode=SUCCESS")
	p := webdriver.Browse(t, "zh-CN", s.url+"/", 390, false)
	p.Shows("新订单 NEW_ORDER")
	p.Shows("银联商务沙箱")
	p.Click(`//summary[contains(., "0001")]`)
	p.Button("pay-" + number)
	s.told(number)
	p.Shows("已付款 TRADE_SUCCESS")
	p.Shows("买家付款")
	p.Shows("验签通过")
	p.Click(`//ol//summary[contains(., "precreate")]`)
	p.Shows("待签名串")
	p.Shows(hostile) // as text
	p.Click(`//ol//summary[contains(., "通知 付款 #1")]`)
	p.Shows("&billFundsDesc=现金支付12.34元&") // of the string to sign; a random parameter stands anywhere between two others
	for i, variant := range []string{"genuine", "duplicate", "late", "reordered"} {
		p.Button(variant + "-" + number)
		s.told(number)
		p.Shows(fmt.Sprintf("通知 付款 #%d", i+2))
	}
	platform.Break(sandbox.Fault{Kind: sandbox.NoNotify})
	p.Run(`const box = document.getElementById(arguments[0]); box.value = "234"; box.dispatchEvent(new Event("input"))`, "amount-"+number)
	p.Button("refund-" + number)
	p.Shows("有退款 TRADE_REFUND")
	p.Shows("资金退回 2.34元 (page)")
	p.Shows("已放弃：never sent")

	// A switch on, which the platform obeys, and off.
	p.Click(`//summary[contains(., "故障开关")]`)
	p.Button("fault-cut-executed")
	p.Shows("故障开关 (1)")
	lost := s.fresh()
	s.lost("/v1/netpay/trade/precreate", "merOrderId", lost, "totalAmount", 5)
	p.Shows(lost) // by itself: nobody reloads
	p.Button("fault-cut-executed")
	p.Until("no fault", `return document.querySelector("#faults summary").textContent`, "故障开关")
	if left := platform.Faults(); len(left) != 0 {
		t.Errorf("%+v", left)
	}
	p.Click(`//summary[contains(., "` + lost + `")]`)
	p.Button("close-" + lost)
	p.Shows("已关闭 TRADE_CLOSED")
	p.Button("revive-" + lost)
	p.Until("paid after all", `return document.body.innerText.includes("TRADE_CLOSED") ? "" : "yes"`, "yes")
	p.Run(`const filter = document.getElementById("filter"); filter.value = arguments[0]; filter.dispatchEvent(new Event("input"))`, "有退款")
	p.Until("the filter", `return document.querySelectorAll("#orders > details").length`, "1")

	if width := p.Run("return document.documentElement.scrollWidth"); width != "390" {
		t.Errorf("%s pixels wide on a phone of 390", width)
	}
	if images := p.Run("return document.images.length + document.title"); !strings.HasPrefix(images, "0银联") {
		t.Errorf("an order's text is markup: %s", images)
	}
	if unnamed := p.Run(`return [...document.querySelectorAll("button, input, summary")].filter((one) =>
!(one.textContent || one.getAttribute("aria-label") || one.labels?.length)).length`); unnamed != "0" {
		t.Errorf("%s controls have no name", unnamed)
	}
}

func TestPageOfShouqianbaInEnglish(t *testing.T) {
	platform, s := newTill(t)
	number := "A0001"
	s.want(s.call("/upay/v2/precreate", "client_sn", number, "total_amount", "1000", "payway", "3", "subject", "s", "operator", "o", "notify_url", s.notifyTo),
		"result_code=PRECREATE_SUCCESS")
	s.call("/upay/v2/query", "client_sn", number)
	key := s.till.TerminalKey
	s.till.TerminalKey = "false"
	s.want(s.call("/upay/v2/query", "client_sn", number), "error_code=ILLEGAL_SIGN")
	s.till.TerminalKey = key
	mounted := httptest.NewServer(http.StripPrefix("/there", platform.UI()))
	defer mounted.Close()
	p := webdriver.Browse(t, "en-US", mounted.URL+"/there/", 1000, false)
	p.Shows("Shouqianba sandbox")
	p.Click(`//summary[contains(., "A0001")]`)
	p.Shows("the signature is right")
	p.Shows("the signature is wrong")
	p.Button("pay-" + number)
	s.told(number)
	p.Shows("notify payment #1")
	p.Button("tampered-" + number)
	p.Shows("Forge: amount")
	s.told(number)
	p.Click(`//ol//summary[contains(., "notify payment #1")]`)
	p.Shows("Signature")
	if text := p.Run("return document.body.innerText"); strings.ContainsAny(text, "付款通知签名") {
		t.Errorf("Chinese on the English page: %s", text)
	}
	if text := p.Run("return document.body.innerText"); strings.Contains(text, key) {
		t.Error("a key is on the page")
	}
}

// TestPageIsAccessible has axe-core look at the page with everything on it open, and walks to a button with the keyboard alone.
func TestPageIsAccessible(t *testing.T) {
	webdriver.Axe(t)
	_, s := newUMS(t, sandbox.Options{UI: true})
	number := s.fresh()
	s.want(s.call("/v1/netpay/trade/precreate", "merOrderId", number, "totalAmount", 1234, "orderDesc", "tea", "notifyUrl", s.notifyTo), "errCode=SUCCESS")
	for _, dark := range []bool{false, true} {
		p := webdriver.Browse(t, "zh-CN", s.url+"/", 390, dark)
		p.Shows(number)
		p.Until("everything is open", `for (const one of document.querySelectorAll("details")) one.open = true;
return document.getElementById("pay-" + arguments[0]) ? "yes" : ""`, "yes", number)
		for _, problem := range p.Axe() {
			t.Errorf("dark %v: %s", dark, problem)
		}
	}
	p := webdriver.Browse(t, "zh-CN", s.url+"/", 1000, false)
	p.Shows(number)
	p.Run(`document.querySelector("#orders summary").focus()`)
	p.Keys(webdriver.KeyEnter)
	p.Until("the order is open", `return document.getElementById("pay-" + arguments[0]) ? "yes" : ""`, "yes", number) // it is filled a moment after it opens
	for range 50 {
		if p.Keys(webdriver.KeyTab); p.Focused() == "pay-"+number {
			break
		}
	}
	p.Keys(webdriver.KeyEnter)
	p.Shows("已付款 TRADE_SUCCESS")
}
