package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
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
)

// to opens one of the page's views.
func (p *page) to(g *gateway, view string) {
	p.t.Helper()
	p.open(g.admin + "/gateway/#" + view)
}

// dead is how many dead letters the inbox has.
func (g *gateway) dead() int {
	g.t.Helper()
	var counts struct{ Dead int }
	g.ask("/inbox/default", &counts)
	return counts.Dead
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

// dies has the app refuse an order's notify until the inbox gives it up.
func (g *gateway) dies() (number string) {
	g.t.Helper()
	before := g.dead()
	testutil.Eventually(g.t, "what came before is delivered", func() bool {
		var counts struct{ Pending int }
		g.ask("/inbox/default", &counts)
		return counts.Pending == 0
	})
	g.refuses.Store(true)
	number = g.order("")
	g.pay(number, sandbox.Genuine, 200)
	testutil.Eventually(g.t, "the dead letter of "+number, func() bool { return g.dead() > before })
	return number
}

// clean fails the test for anything that the browser complains about, but for answers that a test provokes.
func (p *page) clean() {
	p.t.Helper()
	for line := range strings.SplitSeq(p.console(), "\n") {
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
	p.shows("通知正常收下")
	p.shows("应用已全部收下")
	p.shows("结果未知的调用")
	if got := p.run("return document.documentElement.lang"); got != "zh-CN" {
		t.Errorf("the page's language is %s", got)
	}
	p.until("plots with words", `return [...document.querySelectorAll("svg[role=img]")].every((one) => /\d/.test(one.getAttribute("aria-label"))) ? "yes" : ""`, "yes")
	p.shoot("overview-zh")

	p.to(g, "calls")
	p.shows("最近的调用")
	p.choose("calls-kind", "unknown")
	p.click(`//details[contains(., "` + lost + `")]/summary`)
	p.shows("先查询订单，再决定是否重试")
	p.choose("calls-word", "nothing like it")
	p.until("the filter", `return document.querySelectorAll("main details").length`, "0")
	p.choose("calls-word", "")

	p.to(g, "notifies/rejected")
	p.click(`//details[contains(., "` + paid + `")]/summary`)
	p.shows("验签失败")
	p.shows("| caddy chinaums verify --config /etc/caddy/Caddyfile --merchant shop")
	p.shoot("notifies-zh")

	// An order by its refund's number, with everything that is known of it.
	p.to(g, "search")
	p.choose("number", paid+"R")
	p.button("find")
	p.click(`//main//a[text()="` + paid + `" or .="` + paid + `"]`)
	p.shows("时间线")
	p.shows("应用（或收件箱）收下")
	p.shows(paid + "R")
	p.shows("下次查询")
	p.shoot("order-zh")
	p.confirm("query-order")
	p.shows("已查询，订单现在的状态：已付款")
	p.confirm("resend-order")
	p.shows("已查询；若平台有定论")

	first, second := g.dies(), g.dies()
	p.to(g, "needs")
	for _, text := range []string{"结果未知", "关闭后付款", "收件箱 default 有 2 条死信", "签名与参数及密钥不符"} {
		p.shows(text)
	}
	p.shoot("needs-zh")
	p.click(`//li[contains(., "` + paid + `")]//button[contains(., "立即查询")]`)
	p.click(`//dialog[@open]//*[@id="no"]`) // not this time
	p.until("nothing is asked any more", `return document.querySelector("dialog[open]") ? "" : "yes"`, "yes")

	p.to(g, "inbox")
	p.shows("死信 2")
	p.click(`//details[contains(., "` + first + `")]/summary`)
	p.shows("字节，已遮盖")
	p.lacks(`"merOrderId"`)
	p.shoot("inbox-zh")
	seq := p.run(`return document.querySelector("button[id^='show-default-']").id.split("-").at(-1)`)
	p.confirm("show-default-" + seq)
	p.shows(`"merOrderId":"` + first + `"`)
	p.confirm("redeliver-default-" + seq)
	p.shows("待投递，结果见列表")
	testutil.Eventually(t, "dead once more", func() bool { return g.dead() == 2 })
	g.refuses.Store(false)
	p.shows("死信 2")
	p.confirm("redeliver-all-default")
	p.shows("2 条死信待投递")
	p.shows("死信 0")
	p.choose("inbox-state", "delivered")
	p.click(`//details[contains(., "` + second + `")]/summary`)
	seq = p.run(`return document.querySelector("main details[open] button[id^='delete-default-']").id.split("-").at(-1)`)
	p.confirm("delete-default-" + seq)
	p.shows("已删除 1 条")
	p.choose("inbox-state", "dead")
	g.dies()
	p.shows("死信 1")
	p.confirm("delete-all-default")
	p.shows("已删除 1 条")
	if n := g.dead(); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}

	// It updates by itself.
	fresh := g.order("")
	p.to(g, "calls")
	p.shows(fresh)
	another := g.order("")
	p.shows(another)
	p.clean()

	// The pictures of docs/en/console.md and docs/zh/console.md.
	if os.Getenv("CONSOLE_SCREENSHOTS") != "" {
		for language, code := range map[string]string{"zh-CN": "zh", "en-US": "en"} {
			p := browse(t, language, g.admin+"/gateway/", 860, false)
			p.shows("shop")
			p.shoot("console-overview-" + code)
			p.to(g, "order/chinaums/shop/"+paid)
			p.shows("precreate")
			p.shoot("console-order-" + code)
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
	g.refuses.Store(true)
	name := strings.Repeat(evil+"\u202e\u200b金额", 90)
	if len(name) < 4<<10 {
		t.Fatal("too short")
	}
	g.do("POST", g.url+"/in", "<script>alert(1)</script>", "Ce-Id: evil", "Ce-Subject: "+name, "Content-Type: text/html")
	testutil.Eventually(t, "the dead letter", func() bool { return g.dead() == 1 })

	p := browse(t, "en-US", g.admin+"/gateway/", 390, true)
	fits := func(view string) {
		t.Helper()
		if width := p.run("return document.documentElement.scrollWidth"); width != "390" {
			t.Errorf("%s is %s pixels wide on a phone of 390", view, width)
		}
		if found := p.run(`return document.images.length + document.querySelectorAll("main script, main iframe").length + document.title`); found != "0Payment gateway console" {
			t.Errorf("%s: an order's text is markup: %s", view, found)
		}
		text := p.run(`return [...document.body.querySelectorAll("*")].filter((one) => !one.closest("bdi, #language, noscript")).flatMap((one) => [...one.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data)).join("")`)
		if chinese := regexp.MustCompile(`\p{Han}+`).FindString(text); chinese != "" {
			t.Errorf("%s has Chinese on the English page: %s", view, chinese)
		}
		if strings.ContainsAny(p.run("return document.body.innerText"), "\u202e\u200b") {
			t.Errorf("%s turns text around", view)
		}
	}
	p.shows("Notifies are taken")
	p.shows("There are dead letters")
	fits("overview")
	p.shoot("overview-phone")
	p.to(g, "notifies")
	p.click(`//details[contains(., "rejected")]/summary`)
	p.shows("does not verify")
	fits("notifies")
	p.shoot("notifies-phone")
	p.to(g, "calls")
	p.click(`//details/summary`)
	p.shows("Outcome")
	fits("calls")
	p.to(g, "search/"+url.PathEscape(number))
	p.click(`//main//li/a`)
	p.shows("Timeline")
	p.shows(evil)
	fits("order")
	p.to(g, "needs")
	p.shows("Dead letters in the inbox default: 1.")
	p.click(`//details/summary`)
	p.shows(`\u202e`)
	fits("needs")
	p.to(g, "inbox")
	p.shows("dead 1")
	p.shows("masked") // what was opened stays open
	p.confirm("show-default-" + p.run(`return document.querySelector("button[id^='show-default-']").id.split("-").at(-1)`))
	p.shows("<script>alert(1)</script>")
	fits("inbox")
	p.shoot("inbox-phone")
	p.button("language")
	p.shows("收件箱")
	p.open(g.admin + "/gateway/#inbox") // the choice is kept
	p.shows("收件箱")
	p.clean()
}

// TestKeyboard does with keys alone what others do with a mouse.
func TestKeyboard(t *testing.T) {
	g := start(t, withWatch, withInbox, toInbox)
	g.dies()
	p := browse(t, "en-US", g.admin+"/gateway/", 1000, false)
	p.shows("Notifies are taken")
	reach := func(id string) {
		t.Helper()
		for range 60 {
			if p.focused() == id {
				return
			}
			p.keys(keyTab)
		}
		t.Fatalf("no key leads to %s; the focus is on %s", id, p.focused())
	}
	p.keys(keyTab)
	if got := p.focused(); got != "skip" {
		t.Errorf("the first is %s", got)
	}
	p.keys(keyEnter)
	if got := p.focused(); got != "main" {
		t.Errorf("the way past the menu leads to %s", got)
	}
	p.open(g.admin + "/gateway/#overview")
	p.run("document.activeElement.blur()")
	reach("to-inbox")
	p.keys(keyEnter)
	p.shows("dead 1")
	reach("fold-message%20default%201")
	p.keys(keyEnter)
	p.shows("bytes, masked")
	reach("delete-default-1")
	p.keys(keyEnter)
	p.shows("It cannot be brought back")
	if got := p.focused(); got != "no" {
		t.Errorf("a question begins at %s", got)
	}
	p.keys(keyEscape)
	p.until("nothing is asked any more", `return document.querySelector("dialog[open]") ? "" : "yes"`, "yes")
	if n := g.dead(); n != 1 || p.focused() != "delete-default-1" {
		t.Errorf("%d dead letters, the focus is on %s", n, p.focused())
	}
	p.keys(keyEnter)
	p.shows("It cannot be brought back")
	// What happens meanwhile takes nothing away from whoever is asked.
	asked := `return performance.getEntriesByType("resource").filter((one) => one.name.includes("/state?")).length > arguments[0] ? "yes" : ""`
	turns, err := strconv.Atoi(p.run(`return performance.getEntriesByType("resource").filter((one) => one.name.includes("/state?")).length`))
	if err != nil {
		t.Fatal(err)
	}
	g.refuses.Store(false)
	g.pay(g.order(""), sandbox.Genuine, 200)
	p.until("two more turns", asked, "yes", turns+1)
	if got := p.focused(); got != "no" {
		t.Errorf("the focus went to %s", got)
	}
	p.keys(keyEscape)
	p.until("nothing is asked any more", `return document.querySelector("dialog[open]") ? "" : "yes"`, "yes")
	if got := p.focused(); got != "delete-default-1" {
		t.Errorf("the focus went to %s", got)
	}
	p.keys(keyEnter)
	p.shows("It cannot be brought back")
	p.keys(keyTab, keyEnter)
	p.shows("1 deleted.")
	p.shows("dead 0")
	if got := p.focused(); got != "main" {
		t.Errorf("the button is gone, and the focus went to %s", got)
	}
	p.clean()
}

// TestNothingSwitchedOn: without watch and inbox, their parts say how to switch them on.
func TestNothingSwitchedOn(t *testing.T) {
	g := start(t, "", "", toApp)
	number := g.order("")
	g.pay(number, sandbox.Genuine, 200)
	p := browse(t, "en-US", g.admin+"/gateway/#needs", 1000, false)
	p.shows("There is no watch")
	p.to(g, "inbox")
	p.shows("There is no inbox")
	p.to(g, "search/"+number)
	p.shows("There is no watch")
	p.click(`//details[contains(., "precreate")]/summary`)
	p.click(`//dd/a[contains(., "` + number + `")]`)
	p.shows("Timeline") // of what is remembered
	p.shows("taken")
	p.to(g, "search/nothing")
	p.shows("Nothing was found")
	p.clean()
}

// TestHidden: a hidden tab asks nothing, and one that is seen again asks at once.
func TestHidden(t *testing.T) {
	g := start(t, "", "", toApp)
	p := browse(t, "en-US", g.admin+"/gateway/#calls", 1000, false)
	p.shows("The last calls")
	asked := `return performance.getEntriesByType("resource").filter((one) => one.name.endsWith("/state")).length`
	p.run(`Object.defineProperty(document, "hidden", {value: true, configurable: true}); performance.clearResourceTimings(); setTimeout(() => { window.waited = "yes"; }, 11000)`)
	p.until("two turns have passed", "return window.waited", "yes")
	if n, err := strconv.Atoi(p.run(asked)); err != nil || n > 1 { // one may have been on its way
		t.Errorf("asked %d times while it was hidden, %v", n, err)
	}
	number := g.order("")
	p.run(`Object.defineProperty(document, "hidden", {value: false, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`)
	p.shows(number)
}

// TestGatewayGone: the page says when nobody answers any more.
func TestGatewayGone(t *testing.T) {
	g := start(t, "", "", toApp)
	p := browse(t, "en-US", g.admin+"/gateway/", 1000, false)
	p.shows("as of")
	p.run(`window.fetch = () => Promise.reject(new Error("nobody there"))`)
	p.shows("The gateway does not answer: nobody there")
}

// axeCore finds axe-core: where CONSOLE_AXE says, else from npm.
func axeCore(t *testing.T) string {
	t.Helper()
	file := os.Getenv("CONSOLE_AXE")
	if file == "" {
		npm, err := exec.LookPath("npm")
		if err != nil {
			t.Skip("needs axe-core: neither CONSOLE_AXE nor npm")
		}
		directory := t.TempDir()
		pack := exec.CommandContext(t.Context(), npm, "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=30000", "axe-core@4.14.1")
		pack.Dir = directory
		if out, err := pack.CombinedOutput(); err != nil {
			t.Skipf("axe-core cannot be had from npm: %v %.200s", err, out)
		}
		untar := exec.CommandContext(t.Context(), "tar", "-xzf", "axe-core-4.14.1.tgz")
		untar.Dir = directory
		if out, err := untar.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		file = filepath.Join(directory, "package", "axe.min.js")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestAccessible has axe-core look at each view, by day and by night.
func TestAccessible(t *testing.T) {
	axe := axeCore(t)
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
			p.shows(text)
			if view == "notifies" || view == "inbox" {
				p.click(`//details/summary`)
			}
			var found []struct {
				ID, Help string
				Nodes    []struct{ HTML string }
			}
			p.do(http.MethodPost, "/execute/async", map[string]any{"args": []any{}, "script": axe + `;
const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations), (problem) => done([{id: String(problem)}]));`}, &found)
			for _, violation := range found {
				t.Errorf("%s, dark %v: %s (%s): %.5v", view, dark, violation.Help, violation.ID, violation.Nodes)
			}
		}
		t.Logf("dark %v: the background is %s", dark, p.run("return getComputedStyle(document.body).backgroundColor"))
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
	p.shows("单号")
	var took float64
	p.do(http.MethodPost, "/execute/async", map[string]any{"args": []any{}, "script": `const done = arguments[arguments.length - 1], begun = performance.now();
const look = () => document.querySelectorAll("main details").length >= 100 ? requestAnimationFrame(() => done(performance.now() - begun)) : requestAnimationFrame(look);
location.hash = "inbox"; look();`}, &took)
	t.Logf("%.0f ms to the first rows of %d", took, count)
	p.shows("死信 100000")
	p.button("more")
	p.until("200 rows", `return document.querySelectorAll("main details").length`, "200")
	p.choose("inbox-search", "order99999")
	p.until("one row", `return document.querySelectorAll("main details").length`, "1")
	p.button("delete-all-default")
	p.shows("删除 default 的全部 100000 条死信？")
	p.click(`//dialog[@open]//*[@id="no"]`)
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
