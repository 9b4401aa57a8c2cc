package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/boltstore"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil/webdriver"
)

// page is a browser that shows the console.
type page struct {
	*webdriver.Page
	t *testing.T
}

func browse(t *testing.T, language, url string, width int, dark bool) *page {
	t.Helper()
	return &page{webdriver.Browse(t, language, url, width, dark), t}
}

// to opens one of the page's views.
func (p *page) to(g *gateway, view string) {
	p.t.Helper()
	p.Open(g.admin + "/gateway/#" + view)
}

// dead is how many dead letters the inbox has.
func (g *gateway) dead() int {
	g.t.Helper()
	var counts struct{ Dead int }
	g.ask("/inbox/default", &counts)
	return counts.Dead
}

// seq is the message's number in the id of a button, once the page has that button: what is opened gets its content a moment later.
func (p *page) seq(selector string) (seq string) {
	p.t.Helper()
	testutil.Eventually(p.t, selector, func() bool {
		seq = p.Run(`return document.querySelector(arguments[0])?.id.split("-").at(-1) ?? ""`, selector)
		return seq != ""
	})
	return seq
}

// axe has axe-core look at the page, which is not drawn anew meanwhile, as while somebody writes Chinese. It looks with pauses.
func (p *page) axe() []string {
	p.t.Helper()
	p.Run(`document.dispatchEvent(new Event("compositionstart"))`)
	defer p.Run(`document.dispatchEvent(new Event("compositionend"))`)
	return p.Axe()
}

// becomes waits until the watch says this of an order.
func (g *gateway) becomes(number, state string) {
	g.t.Helper()
	testutil.Eventually(g.t, number+" is "+state, func() bool {
		var order struct{ State string }
		g.ask("/chinaums/orders/shop/"+url.PathEscape(number), &order)
		return order.State == state
	})
}

// refuse lets the app refuse from now on, but for what came before.
func (g *gateway) refuse() {
	g.t.Helper()
	testutil.Eventually(g.t, "what came before is delivered", func() bool {
		var counts struct{ Pending int }
		g.ask("/inbox/default", &counts)
		return counts.Pending == 0
	})
	g.refuses.Store(true)
}

// dies has the app refuse an order's notify until the inbox gives it up.
func (g *gateway) dies() (number string) {
	g.t.Helper()
	before := g.dead()
	g.refuse()
	number = g.order("")
	g.pay(number, sandbox.Genuine, 200)
	testutil.Eventually(g.t, "the dead letter of "+number, func() bool { return g.dead() > before })
	return number
}

// clean fails the test for anything that the browser complains about, but for answers that a test provokes.
func (p *page) clean() {
	p.t.Helper()
	for line := range strings.SplitSeq(p.Console(), "\n") {
		if strings.HasPrefix(line, "SEVERE") || strings.Contains(line, "Content Security Policy") {
			p.t.Errorf("the browser says: %s", line)
		}
	}
}

// TestPage is a night on duty, in Chinese: every view, and every button.
func TestPage(t *testing.T) {
	g := start(t, withWatch, withInbox, toInbox)
	paid := g.order("")
	g.pay(paid, sandbox.Genuine, 200)
	g.pay(paid, sandbox.Tampered, 403)
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Queries: 1000})
	g.call("/v1/netpay/refund", map[string]any{"merOrderId": paid, "refundOrderId": paid + "R", "refundAmount": 100})
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/trade/precreate"})
	lost := g.keys.SourceCode + "LOST" + fmt.Sprint(time.Now().UnixMilli())
	g.call("/v1/netpay/trade/precreate", map[string]any{"merOrderId": lost, "totalAmount": 5})
	late := g.order("")
	g.becomes(late, "open") // its answer is written down behind the client's back
	if err := g.platform.CloseOrder(late); err != nil {
		t.Fatal(err)
	}
	g.do("POST", g.admin+"/chinaums/orders/shop/"+late+"/query", "")
	g.becomes(late, "closed")
	if err := g.platform.PayClosed(late); err != nil {
		t.Fatal(err)
	}
	g.do("POST", g.admin+"/chinaums/orders/shop/"+late+"/query", "")
	g.becomes(late, "paid")
	p := browse(t, "zh-CN", g.admin+"/gateway/", 1000, false)
	p.Shows("通知正常收下")
	p.Shows("应用已全部收下")
	p.Shows("结果未知的调用")
	if got := p.Run("return document.documentElement.lang"); got != "zh-CN" {
		t.Errorf("the page's language is %s", got)
	}
	p.Until("plots with words", `return [...document.querySelectorAll("svg[role=img]")].every((one) => /\d/.test(one.getAttribute("aria-label"))) ? "yes" : ""`, "yes")
	p.Shoot("overview-zh")

	p.to(g, "calls")
	p.Shows("最近的调用")
	p.Choose("calls-kind", "unknown")
	p.Click(`//details[contains(., "` + lost + `")]/summary`)
	p.Shows("先查询订单，再决定是否重试")
	p.Choose("calls-word", "nothing like it")
	p.Until("the filter", `return document.querySelectorAll("main details").length`, "0")
	p.Choose("calls-word", "")

	// A notify by each number in its row. Before, the platform's and the channel's found it in the search only.
	var told []notifyEntry
	g.ask("/gateway/notifies?search="+paid, &told)
	taken := told[len(told)-1]
	if taken.Trade == "" || taken.Channel == "" {
		t.Fatalf("%+v", taken)
	}
	p.to(g, "notifies")
	for _, number := range []string{taken.Order, taken.ID, taken.Trade, taken.Channel} {
		p.Choose("notifies-word", number)
		p.Until("the notify by "+number, `return [...document.querySelectorAll("main details")].some((one) => one.textContent.includes(arguments[0])) ? "yes" : ""`, "yes", paid)
	}
	p.Choose("notifies-word", "")

	p.to(g, "notifies/rejected")
	p.Click(`//details[contains(., "` + paid + `")]/summary`)
	p.Shows("验签失败")
	p.Shows("| caddy chinaums verify --config /etc/caddy/Caddyfile --merchant shop")
	p.Shoot("notifies-zh")

	// An order by its refund's number, with everything that is known of it.
	p.to(g, "search")
	p.Choose("number", paid+"R")
	p.Button("find")
	p.Click(`//main//a[text()="` + paid + `" or .="` + paid + `"]`)
	p.Shows("时间线")
	p.Shows("应用（或收件箱）收下")
	p.Shows(paid + "R")
	p.Shows("下次查询")
	p.Shoot("order-zh")
	p.Confirm("query-order")
	p.Shows("已查询，订单现在的状态：已付款")
	p.Confirm("resend-order")
	p.Shows("已查询。如果已有最终结果")

	first, second := g.dies(), g.dies()
	p.to(g, "needs")
	for _, text := range []string{"结果未知", "关闭后付款", "收件箱 default 有 2 条死信", "签名与参数及密钥不符"} {
		p.Shows(text)
	}
	p.Shoot("needs-zh")
	p.Click(`//li[contains(., "` + paid + `")]//button[contains(., "立即查询")]`)
	p.Click(`//dialog[@open]//*[@id="no"]`) // not this time
	p.Until("nothing is asked any more", `return document.querySelector("dialog[open]") ? "" : "yes"`, "yes")

	p.to(g, "inbox")
	p.Shows("死信 2")
	p.Click(`//details[contains(., "` + first + `")]/summary`)
	p.Shows("字节，已遮盖")
	p.Lacks(`"merOrderId"`)
	p.Shoot("inbox-zh")
	seq := p.seq("button[id^='show-default-']")
	p.Confirm("show-default-" + seq)
	p.Shows(`"merOrderId":"` + first + `"`)
	p.Confirm("redeliver-default-" + seq)
	p.Shows("待投递，结果见列表")
	testutil.Eventually(t, "dead once more", func() bool { return g.dead() == 2 })
	g.refuses.Store(false)
	p.Shows("死信 2")
	p.Confirm("redeliver-all-default")
	p.Shows("2 条死信待投递")
	p.Shows("死信 0")
	p.Choose("inbox-state", "delivered")
	p.Click(`//details[contains(., "` + second + `")]/summary`)
	seq = p.seq("main details[open] button[id^='delete-default-']")
	p.Confirm("delete-default-" + seq)
	p.Shows("已删除 1 条")
	p.Choose("inbox-state", "dead")
	g.dies()
	p.Shows("死信 1")
	p.Confirm("delete-all-default")
	p.Shows("已删除 1 条")
	if n := g.dead(); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}

	// It updates by itself.
	fresh := g.order("")
	p.to(g, "calls")
	p.Shows(fresh)
	another := g.order("")
	p.Shows(another)
	p.clean()

	// The pictures of docs/en/console.md and docs/zh/console.md.
	if os.Getenv("CONSOLE_SCREENSHOTS") != "" {
		for language, code := range map[string]string{"zh-CN": "zh", "en-US": "en"} {
			p := browse(t, language, g.admin+"/gateway/", 860, false)
			p.Shows("shop")
			p.Shoot("console-overview-" + code)
			p.to(g, "order/chinaums/shop/"+paid)
			p.Shows("precreate")
			p.Shoot("console-order-" + code)
		}
	}

	// What was done stands in the log.
	for _, line := range []string{
		`"logger":"admin.api.chinaums","msg":"an order is queried now"`, `"logger":"admin.api.chinaums","msg":"the app is told of an order again"`,
		`"logger":"admin.api.inbox","msg":"a message of the inbox was shown unmasked"`, `"logger":"admin.api.inbox","msg":"a message of the inbox is delivered again"`,
		`"logger":"admin.api.inbox","msg":"a message of the inbox was deleted"`, `"logger":"admin.api.inbox","msg":"dead messages of the inbox were deleted"`,
	} {
		if !strings.Contains(logs(), line) {
			t.Errorf("the log lacks %s", line)
		}
	}
}

// TestPageOnAPhone is the page in English, in the dark, 390 pixels wide, with orders of somebody who means harm.
func TestPageOnAPhone(t *testing.T) {
	g := start(t, withWatch, withInbox, toInbox)
	const evil = "<img/src=x/onerror=document.title=1>"
	number := g.order(g.keys.SourceCode + evil)
	g.pay(number, sandbox.Genuine, 200)
	g.pay(number, sandbox.Tampered, 403)
	g.refuse()
	name := strings.Repeat(evil+"\u202e\u200b金额", 90)
	if len(name) < 4<<10 {
		t.Fatal("too short")
	}
	g.do("POST", g.url+"/in", "<script>alert(1)</script>", "Ce-Id: evil", "Ce-Subject: "+name, "Content-Type: text/html")
	testutil.Eventually(t, "the dead letter", func() bool { return g.dead() == 1 })

	p := browse(t, "en-US", g.admin+"/gateway/", 390, true)
	fits := func(view string) {
		t.Helper()
		if width := p.Run("return document.documentElement.scrollWidth"); width != "390" {
			t.Errorf("%s is %s pixels wide on a phone of 390", view, width)
		}
		if found := p.Run(`return document.images.length + document.querySelectorAll("main script, main iframe").length + document.title`); found != "0Payment gateway console" {
			t.Errorf("%s: an order's text is markup: %s", view, found)
		}
		text := p.Run(`return [...document.body.querySelectorAll("*")].filter((one) => !one.closest("bdi, #language, noscript")).flatMap((one) => [...one.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data)).join("")`)
		if chinese := regexp.MustCompile(`\p{Han}+`).FindString(text); chinese != "" {
			t.Errorf("%s has Chinese on the English page: %s", view, chinese)
		}
		if strings.ContainsAny(p.Run("return document.body.innerText"), "\u202e\u200b") {
			t.Errorf("%s turns text around", view)
		}
	}
	p.Shows("Notifies are taken")
	p.Shows("There are dead letters")
	fits("overview")
	p.Shoot("overview-phone")
	p.to(g, "notifies")
	p.Click(`//details[contains(., "rejected")]/summary`)
	p.Shows("does not verify")
	fits("notifies")
	p.Shoot("notifies-phone")
	p.to(g, "calls")
	p.Click(`//details/summary`)
	p.Shows("Outcome")
	fits("calls")
	p.to(g, "search/"+url.PathEscape(number))
	p.Click(`//main//li/a`)
	p.Shows("Timeline")
	p.Shows(evil)
	fits("order")
	p.to(g, "needs")
	p.Shows("Dead letters in the inbox default: 1.")
	p.Click(`//details/summary`)
	p.Shows(`\u202e`)
	fits("needs")
	p.to(g, "inbox")
	p.Shows("dead 1")
	p.Shows("masked") // what was opened stays open
	p.Confirm("show-default-" + p.seq("button[id^='show-default-']"))
	p.Shows("<script>alert(1)</script>")
	fits("inbox")
	p.Shoot("inbox-phone")
	p.Button("language")
	p.Shows("收件箱")
	p.Open(g.admin + "/gateway/#inbox") // the choice is kept
	p.Shows("收件箱")
	p.clean()
}

// TestKeyboard does with keys alone what others do with a mouse.
func TestKeyboard(t *testing.T) {
	g := start(t, withWatch, withInbox, toInbox)
	g.dies()
	p := browse(t, "en-US", g.admin+"/gateway/", 1000, false)
	p.Shows("Notifies are taken")
	reach := func(id string) {
		t.Helper()
		for range 60 {
			if p.Focused() == id {
				return
			}
			p.Keys(webdriver.KeyTab)
		}
		t.Fatalf("no key leads to %s; the focus is on %s", id, p.Focused())
	}
	p.Keys(webdriver.KeyTab)
	if got := p.Focused(); got != "skip" {
		t.Errorf("the first is %s", got)
	}
	p.Keys(webdriver.KeyEnter)
	if got := p.Focused(); got != "main" {
		t.Errorf("the way past the menu leads to %s", got)
	}
	p.Open(g.admin + "/gateway/#overview")
	p.Run("document.activeElement.blur()")
	reach("to-inbox")
	p.Keys(webdriver.KeyEnter)
	p.Shows("dead 1")
	reach("fold-message%20default%201")
	p.Keys(webdriver.KeyEnter)
	p.Shows("bytes, masked")
	reach("delete-default-1")
	p.Keys(webdriver.KeyEnter)
	p.Shows("It cannot be brought back")
	if got := p.Focused(); got != "no" {
		t.Errorf("a question begins at %s", got)
	}
	p.Keys(webdriver.KeyEscape)
	p.Until("nothing is asked any more", `return document.querySelector("dialog[open]") ? "" : "yes"`, "yes")
	if n := g.dead(); n != 1 || p.Focused() != "delete-default-1" {
		t.Errorf("%d dead letters, the focus is on %s", n, p.Focused())
	}
	p.Keys(webdriver.KeyEnter)
	p.Shows("It cannot be brought back")
	// What happens meanwhile takes nothing away from whoever is asked.
	asked := `return performance.getEntriesByType("resource").filter((one) => one.name.includes("/state?")).length > arguments[0] ? "yes" : ""`
	p.Run("performance.clearResourceTimings()") // it keeps 250, and would be full on a machine that takes long to come here
	g.refuses.Store(false)
	g.pay(g.order(""), sandbox.Genuine, 200)
	p.Until("two more turns", asked, "yes", 1)
	if got := p.Focused(); got != "no" {
		t.Errorf("the focus went to %s", got)
	}
	p.Keys(webdriver.KeyEscape)
	p.Until("nothing is asked any more", `return document.querySelector("dialog[open]") ? "" : "yes"`, "yes")
	if got := p.Focused(); got != "delete-default-1" {
		t.Errorf("the focus went to %s", got)
	}
	p.Keys(webdriver.KeyEnter)
	p.Shows("It cannot be brought back")
	p.Keys(webdriver.KeyTab)
	if got := p.Focused(); got != "yes" {
		t.Errorf("the key after no leads to %s", got)
	}
	// On a busy machine the browser tells of the last question's end when the next is open already. That was taken for a no to the
	// next, and yes did nothing.
	p.Run(`document.getElementById("ask").dispatchEvent(new Event("close"))`)
	p.Keys(webdriver.KeyEnter)
	p.Shows("1 deleted.")
	p.Shows("dead 0")
	if got := p.Focused(); got != "main" {
		t.Errorf("the button is gone, and the focus went to %s", got)
	}
	p.clean()
}

// TestOrdersThatNeedAPerson: an order that was paid otherwise than ordered, and one whose payment the app has not taken, which takes it
// when it is told again.
func TestOrdersThatNeedAPerson(t *testing.T) {
	g := start(t, withWatch, withInbox, toApp+`
	inbox /in {
		id {http.request.header.Ce-Id}
		retry 20ms
		deliver {
			reverse_proxy $APP
		}
	}`)
	other, untold := g.order(""), g.order("")
	message, err := sandbox.Notify{Key: g.keys.NotifyKey, Fields: map[string]string{"merOrderId": other, "mid": g.keys.MID, "totalAmount": "1"}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	if status, _, word := g.do("POST", g.url+"/notify", string(message.Body), "Content-Type: "+message.ContentType); status != 200 || word != "SUCCESS" {
		t.Fatalf("%d %s", status, word)
	}
	g.refuses.Store(true)
	g.pay(untold, sandbox.Genuine, 502)

	p := browse(t, "en-US", g.admin+"/gateway/#needs", 1000, false)
	item := func(number string) string { return `//main//li[contains(., "` + number + `")]` }
	p.Shows(other)
	p.Shows("Differs from the order")
	p.Shows("compare before you deliver")
	p.Shows(untold)
	p.Shows("The app was not notified")
	p.Click(item(other) + `//button[.="Query now"]`)
	p.Click(`//dialog[@open]//*[@id="yes"]`)
	p.Shows("Queried. The order is now:")

	g.refuses.Store(false)
	p.Click(item(untold) + `//button[.="Notify the app again"]`)
	p.Click(`//dialog[@open]//*[@id="yes"]`)
	p.Shows("If the result is final, the event is in the inbox")
	p.Until("the app has it", `document.getElementById("look-again").click(); return document.body.innerText.includes(arguments[0]) ? "" : "yes"`, "yes", untold)
	p.Shows(other) // nobody has compared it yet
	p.clean()
}

// TestNothingSwitchedOn: without watch and inbox, their parts say how to switch them on. Dead letters say that there are none. Before,
// that part was empty: its text was one element, which went where it was needed last.
func TestNothingSwitchedOn(t *testing.T) {
	g := start(t, "", "", toApp)
	number := g.order("")
	g.pay(number, sandbox.Genuine, 200)
	p := browse(t, "en-US", g.admin+"/gateway/#needs", 1000, false)
	p.Shows("There is no watch")
	p.Until("each part says something", `return [...document.querySelectorAll("main section")].filter((one) => one.childElementCount < 2).map((one) => one.textContent).join()`, "")
	p.to(g, "inbox")
	p.Shows("There is no inbox")
	p.to(g, "search/"+number)
	p.Shows("There is no watch")
	p.Click(`//details[contains(., "precreate")]/summary`)
	p.Click(`//dd/a[contains(., "` + number + `")]`)
	p.Shows("Timeline") // of what is remembered
	p.Shows("taken")
	p.to(g, "search/nothing")
	p.Shows("Nothing was found")
	p.clean()
}

// TestOpenedWhileDrawnAnew: what is opened or closed in the moment in which the page is drawn anew stays so. Before, the click was lost.
func TestOpenedWhileDrawnAnew(t *testing.T) {
	g := start(t, "", "", toApp)
	number := g.order("")
	p := browse(t, "en-US", g.admin+"/gateway/#calls", 1000, false)
	p.Shows(number)
	fold := `const fold = [...document.querySelectorAll("main details")].find((one) => one.textContent.includes(arguments[0]));`
	for _, want := range []string{"open", "closed"} {
		p.Run(fold+`fold.querySelector("summary").click(); document.getElementById("language").click()`, number)
		p.Until(want, fold+`return fold.open ? (fold.childElementCount > 1 ? "open" : "") : "closed"`, want, number)
	}
}

// TestHidden: a hidden tab asks nothing, and one that is seen again asks at once.
func TestHidden(t *testing.T) {
	g := start(t, "", "", toApp)
	p := browse(t, "en-US", g.admin+"/gateway/#calls", 1000, false)
	p.Shows("The last calls")
	asked := `return performance.getEntriesByType("resource").filter((one) => one.name.includes("/state?")).length`
	p.Run(`Object.defineProperty(document, "hidden", {value: true, configurable: true}); performance.clearResourceTimings(); setTimeout(() => { window.waited = "yes"; }, 11000)`)
	p.Until("two turns have passed", "return window.waited", "yes")
	if n, err := strconv.Atoi(p.Run(asked)); err != nil || n > 1 { // one may have been on its way
		t.Errorf("asked %d times while it was hidden, %v", n, err)
	}
	number := g.order("")
	p.Run(`Object.defineProperty(document, "hidden", {value: false, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`)
	p.Shows(number)
}

// TestGatewayGone: the page says when nobody answers any more.
func TestGatewayGone(t *testing.T) {
	g := start(t, "", "", toApp)
	p := browse(t, "en-US", g.admin+"/gateway/", 1000, false)
	p.Shows("as of")
	p.Run(`window.fetch = () => Promise.reject(new Error("nobody there"))`)
	p.Shows("The gateway does not answer: nobody there")
}

// TestAccessible has axe-core look at each view, by day and by night.
func TestAccessible(t *testing.T) {
	webdriver.Axe(t)
	g := start(t, withWatch, withInbox, toInbox)
	number := g.order("")
	g.pay(number, sandbox.Genuine, 200)
	g.pay(number, sandbox.Tampered, 403)
	g.dies()
	for _, dark := range []bool{false, true} {
		p := browse(t, "zh-CN", g.admin+"/gateway/", 390, dark)
		for view, text := range map[string]string{
			"overview": "通知正常收下", "needs": "条死信", "search": "单号", "notifies": "被拒绝", "calls": "precreate", "inbox": "死信 1", "order/chinaums/shop/" + number: "时间线",
		} {
			p.to(g, view)
			p.Shows(text)
			if view == "notifies" || view == "inbox" {
				p.Click(`//details/summary`)
			}
			for _, problem := range p.axe() {
				t.Errorf("%s, dark %v: %s", view, dark, problem)
			}
		}
		t.Logf("dark %v: the background is %s", dark, p.Run("return getComputedStyle(document.body).backgroundColor"))
	}
}

// TestManyMessages reports how long the inbox's page takes to its first rows with 100,000 messages in it.
func TestManyMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 messages take a while")
	}
	const count = 100_000
	directory := t.TempDir()
	fill(t, filepath.Join(directory, "inbox.db"), count)
	g := start(t, "", strings.ReplaceAll(withInbox, "$DIR", directory), toInbox)
	if n := g.dead(); n != count {
		t.Fatalf("%d dead letters", n)
	}
	p := browse(t, "zh-CN", g.admin+"/gateway/#search", 1000, false)
	p.Shows("单号")
	var took float64
	p.Do(http.MethodPost, "/execute/async", map[string]any{"args": []any{}, "script": `const done = arguments[arguments.length - 1], begun = performance.now();
const look = () => document.querySelectorAll("main details").length >= 100 ? requestAnimationFrame(() => done(performance.now() - begun)) : requestAnimationFrame(look);
location.hash = "inbox"; look();`}, &took)
	t.Logf("%.0f ms to the first rows of %d", took, count)
	p.Shows("死信 100000")
	p.Button("more")
	p.Until("200 rows", `return document.querySelectorAll("main details").length`, "200")
	p.Choose("inbox-search", "order99999")
	p.Until("one row", `return document.querySelectorAll("main details").length`, "1")
	p.Button("delete-all-default")
	p.Shows("删除 default 的全部 100000 条死信？")
	p.Click(`//dialog[@open]//*[@id="no"]`)
}

// fill makes an inbox's file with so many dead letters.
func fill(t *testing.T, file string, count int) {
	t.Helper()
	store, err := boltstore.Open(file, inbox.Settings{Remember: time.Hour, Lease: time.Minute, MaxDelay: time.Minute}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	const workers = 500 // whose puts and settlements share a sync
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for i := worker; i < count; i += workers {
				if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint("id", i), Subject: fmt.Sprint("order", i), Received: time.Now(), Request: []byte("{}")}); err != nil {
					t.Errorf("put: %v", err)
					return
				}
				message, err := store.Lease(t.Context())
				if err == nil {
					err = store.Settle(t.Context(), message, inbox.Outcome{Result: inbox.Dead, Answer: inbox.Answer{Status: 500, Error: "refused"}})
				}
				if err != nil {
					t.Errorf("settle: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}
