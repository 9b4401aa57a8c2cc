package sandbox_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// page is a headless Chromium, driven over WebDriver.
type page struct {
	t       *testing.T
	session string
}

func openPage(t *testing.T, language, url string, width int) *page {
	t.Helper()
	driver := browserTool(t, "chromedriver")
	binary := browserTool(t, "chromium", "chromium-browser", "google-chrome")
	command := exec.Command(driver, "--port=0")
	output, err := command.StdoutPipe()
	done(t, err)
	done(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	p := &page{t: t}
	started := regexp.MustCompile(`successfully on port (\d+)`)
	for lines := bufio.NewScanner(output); p.session == "" && lines.Scan(); {
		if port := started.FindStringSubmatch(lines.Text()); port != nil {
			p.session = "http://127.0.0.1:" + port[1]
		}
	}
	go func() { _, _ = io.Copy(io.Discard, output) }()
	var session struct{ SessionID string }
	p.do(http.MethodPost, "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "timeouts": map[string]int{"implicit": 20_000, "pageLoad": 60_000},
		"goog:chromeOptions": map[string]any{
			"binary": binary, "prefs": map[string]string{"intl.accept_languages": language},
			"mobileEmulation": map[string]any{"deviceMetrics": map[string]any{"width": width, "height": 844, "pixelRatio": 1, "touch": false}},
			"args": []string{
				"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--lang=" + language,
				"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(),
			},
		},
	}}}, &session)
	p.session += "/session/" + session.SessionID
	t.Cleanup(func() { p.do(http.MethodDelete, "", nil, nil) })
	p.do(http.MethodPost, "/url", map[string]string{"url": url}, nil)
	return p
}

func browserTool(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", names[0])
	}
	t.Skip("needs " + names[0])
	return ""
}

func (p *page) do(method, path string, body, into any) {
	p.t.Helper()
	var content []byte
	if body != nil {
		var err error
		content, err = json.Marshal(body)
		done(p.t, err)
	}
	req, err := http.NewRequest(method, p.session+path, bytes.NewReader(content))
	done(p.t, err)
	client := &http.Client{Timeout: 2 * time.Minute} // a machine under load starts a browser slowly
	res, err := client.Do(req)
	done(p.t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	done(p.t, err)
	if res.StatusCode != http.StatusOK {
		p.t.Fatalf("webdriver %s: %d %s", path, res.StatusCode, answer)
	}
	if into == nil {
		return
	}
	var value struct{ Value json.RawMessage }
	done(p.t, json.Unmarshal(answer, &value))
	done(p.t, json.Unmarshal(value.Value, into))
}

// run runs a script in the page.
func (p *page) run(script string, arguments ...any) (result string) {
	p.t.Helper()
	var value any
	p.do(http.MethodPost, "/execute/sync", map[string]any{"script": script, "args": append([]any{}, arguments...)}, &value)
	return fmt.Sprint(value)
}

// click clicks what an XPath finds, as soon as it is there. The page may be drawn anew in between: then once more.
func (p *page) click(path string) {
	p.t.Helper()
	p.until("a click on "+path, `const found = document.evaluate(arguments[0], document, null, 9, null).singleNodeValue;
if (!found || !found.checkVisibility()) return ""; found.click(); return "clicked"`, "clicked", path)
}

// shows waits until the page has a text.
func (p *page) shows(text string) {
	p.t.Helper()
	p.until(text, `return document.body.innerText.includes(arguments[0]) ? "yes" : ""`, "yes", text)
}

func (p *page) until(what, script, want string, arguments ...any) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); p.run(script, arguments...) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: waited in vain; the page says %s", what, p.run("return document.body.innerText"))
		}
	}
}

func (p *page) button(id string) { p.t.Helper(); p.click(`//*[@id="` + id + `"]`) }

func TestPage(t *testing.T) {
	platform, s := newUMS(t, sandbox.Options{UI: true})
	const hostile = `<img src=x onerror=document.title=1>`
	number := s.keys.SourceCode + `<img/src=x>0001`
	s.want(s.call("/v1/netpay/trade/precreate", "merOrderId", number, "totalAmount", 1234, "orderDesc", hostile, "notifyUrl", s.notifyTo), "errCode=SUCCESS")
	p := openPage(t, "zh-CN", s.url+"/", 390)
	p.shows("新订单 NEW_ORDER")
	p.shows("银联商务沙箱")
	p.click(`//summary[contains(., "0001")]`)
	p.button("pay-" + number)
	s.told(number)
	p.shows("已付款 TRADE_SUCCESS")
	p.shows("买家付款")
	p.shows("验签通过")
	p.click(`//ol//summary[contains(., "precreate")]`)
	p.shows("待签名串")
	p.shows(hostile) // as text
	p.click(`//ol//summary[contains(., "通知 付款 #1")]`)
	p.shows("status=TRADE_SUCCESS&subInst=")
	for i, variant := range []string{"genuine", "duplicate", "late", "reordered"} {
		p.button(variant + "-" + number)
		s.told(number)
		p.shows(fmt.Sprintf("通知 付款 #%d", i+2))
	}
	platform.Break(sandbox.Fault{Kind: sandbox.NoNotify})
	p.run(`const box = document.getElementById(arguments[0]); box.value = "234"; box.dispatchEvent(new Event("input"))`, "amount-"+number)
	p.button("refund-" + number)
	p.shows("有退款 TRADE_REFUND")
	p.shows("资金退回 2.34元 (page)")
	p.shows("已放弃：never sent")

	// A switch on, which the platform obeys, and off.
	p.click(`//summary[contains(., "故障开关")]`)
	p.button("fault-cut-executed")
	p.shows("故障开关 (1)")
	lost := s.fresh()
	s.lost("/v1/netpay/trade/precreate", "merOrderId", lost, "totalAmount", 5)
	p.shows(lost) // by itself: nobody reloads
	p.button("fault-cut-executed")
	p.until("no fault", `return document.querySelector("#faults summary").textContent`, "故障开关")
	if left := platform.Faults(); len(left) != 0 {
		t.Errorf("%+v", left)
	}
	p.click(`//summary[contains(., "` + lost + `")]`)
	p.button("close-" + lost)
	p.shows("已关闭 TRADE_CLOSED")
	p.button("revive-" + lost)
	p.until("paid after all", `return document.body.innerText.includes("TRADE_CLOSED") ? "" : "yes"`, "yes")
	p.run(`const filter = document.getElementById("filter"); filter.value = arguments[0]; filter.dispatchEvent(new Event("input"))`, "有退款")
	p.until("the filter", `return document.querySelectorAll("#orders > details").length`, "1")

	if width := p.run("return document.documentElement.scrollWidth"); width != "390" {
		t.Errorf("%s pixels wide on a phone of 390", width)
	}
	if images := p.run("return document.images.length + document.title"); !strings.HasPrefix(images, "0银联") {
		t.Errorf("an order's text is markup: %s", images)
	}
	if unnamed := p.run(`return [...document.querySelectorAll("button, input, summary")].filter((one) =>
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
	p := openPage(t, "en-US", mounted.URL+"/there/", 1000)
	p.shows("Shouqianba sandbox")
	p.click(`//summary[contains(., "A0001")]`)
	p.shows("the signature is right")
	p.shows("the signature is wrong")
	p.button("pay-" + number)
	s.told(number)
	p.shows("notify payment #1")
	p.button("tampered-" + number)
	p.shows("Forge: amount")
	s.told(number)
	p.click(`//ol//summary[contains(., "notify payment #1")]`)
	p.shows("Signature")
	if text := p.run("return document.body.innerText"); strings.ContainsAny(text, "付款通知签名") {
		t.Errorf("Chinese on the English page: %s", text)
	}
	if text := p.run("return document.body.innerText"); strings.Contains(text, key) {
		t.Error("a key is on the page")
	}
}
