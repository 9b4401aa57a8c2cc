package console_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// state is what the tests read of /gateway/state.
type state struct {
	Platforms []struct {
		Name     string
		Accounts []string
		Watch    bool
		Explains bool
	}
	Inbox    bool
	Accounts []struct {
		Platform, Name string
		Slots          []struct{ Calls, Notifies []int }
		Answers        int
		Skew           *float64
	}
}

// counts are the calls by outcome and notifies by result of the merchant shop.
func (g *gateway) counts() (calls [3]int, notifies [5]int) {
	g.t.Helper()
	var s state
	g.ask("/gateway/state", &s)
	for _, a := range s.Accounts {
		if a.Platform != "chinaums" || a.Name != "shop" {
			continue
		}
		for _, slot := range a.Slots {
			for i := range calls {
				calls[i] += slot.Calls[i]
			}
			for i := range notifies {
				notifies[i] += slot.Notifies[i]
			}
		}
	}
	return calls, notifies
}

type callEntry struct {
	Number                                          uint64
	Platform, Account, Path, Order, Refund, Outcome string
	Code, Reason, Words                             string
	Sent                                            bool
}

type notifyEntry struct {
	Number                                                     uint64
	Platform, Account, Order, Type, ID, Result, Reason, Remote string
	Status                                                     int
	AppStatus                                                  int `json:"app_status"`
	Explained                                                  bool
	Trade, Channel                                             string
}

// TestFoundByThePlatformsNumbers: whoever is on duty often has no more than the number on the buyer's receipt.
func TestFoundByThePlatformsNumbers(t *testing.T) {
	g := start(t, "", "", toApp)
	number := g.order("")
	g.pay(number, sandbox.Genuine, 200)
	g.pay(g.order(""), sandbox.Genuine, 200)
	var asked struct{ SeqID, TargetOrderID string }
	if err := json.Unmarshal([]byte(g.call("/v1/netpay/query", map[string]any{"merOrderId": number})), &asked); err != nil || asked.SeqID == "" || asked.TargetOrderID == "" {
		t.Fatalf("%+v, %v", asked, err)
	}
	for _, searched := range []string{asked.SeqID, asked.TargetOrderID} {
		var found []notifyEntry
		g.ask("/gateway/notifies?search="+searched, &found)
		if len(found) != 1 || found[0].Order != number || found[0].Trade != asked.SeqID || found[0].Channel != asked.TargetOrderID {
			t.Errorf("%s: %+v", searched, found)
		}
	}
}

func TestCallsAndNotifies(t *testing.T) {
	g := start(t, "", "", toApp)
	calls, notifies := g.counts()
	number := g.order("")
	g.call("/v1/netpay/refund", map[string]any{"merOrderId": number, "refundOrderId": number + "R", "refundAmount": 1})
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/query"})
	g.call("/v1/netpay/query", map[string]any{"merOrderId": number})
	g.do("POST", g.url+"/v1/netpay/query", `{"merOrderId":"`+number+`"}`, "Content-Type: text/plain")
	g.pay(number, sandbox.Genuine, 200)
	g.refuses.Store(true)
	g.pay(number, sandbox.Genuine, 502)
	g.pay(number, sandbox.Tampered, 403)

	var made []callEntry
	g.ask("/gateway/calls?search="+number, &made)
	if len(made) != 3 {
		t.Fatalf("%+v", made)
	}
	if c := made[2]; c.Path != "/v1/netpay/trade/precreate" || c.Order != number || c.Outcome != "answered" || c.Code != "SUCCESS" || !c.Sent || c.Account != "shop" || c.Platform != "chinaums" {
		t.Errorf("%+v", c)
	}
	if c := made[1]; c.Refund != number+"R" || c.Outcome != "answered" || c.Code == "SUCCESS" || c.Words == "" {
		t.Errorf("a refund of an unpaid order: %+v", c)
	}
	if c := made[0]; c.Outcome != "unknown" || c.Code != "GATEWAY_BAD_RESPONSE" || c.Reason != "cut" || !c.Sent {
		t.Errorf("a call that was cut: %+v", c)
	}
	last := made[0].Number
	made = nil
	g.ask(fmt.Sprintf("/gateway/calls?after=%d&limit=1", last), &made)
	if len(made) != 1 || made[0].Outcome != "not_sent" || made[0].Reason != "content_type" || made[0].Sent {
		t.Errorf("behind it: %+v", made)
	}

	var told []notifyEntry
	g.ask("/gateway/notifies?search="+number, &told)
	if len(told) != 3 {
		t.Fatalf("%+v", told)
	}
	if n := told[2]; n.Result != "taken" || n.Type != "com.chinaums.payment.succeeded" || n.Status != 200 || n.AppStatus != 200 || len(n.ID) != 32 || n.Explained || n.Remote != "" {
		t.Errorf("%+v", n)
	}
	if n := told[1]; n.Result != "failed" || n.Reason != "app_refused" || n.Status != 502 || n.AppStatus != 500 || n.ID != told[2].ID {
		t.Errorf("%+v", n)
	}
	if n := told[0]; n.Result != "rejected" || n.Reason != "signature" || n.Status != 403 || n.Remote != "127.0.0.1" || !n.Explained || n.Type != "" {
		t.Errorf("%+v", n)
	}
	var all struct {
		Calls    []callEntry
		Notifies []notifyEntry
	}
	if g.ask(fmt.Sprintf("/gateway/state?after=%d", last), &all); len(all.Calls) != 1 || len(all.Notifies) != 3 || all.Notifies[0].Result != "rejected" {
		t.Errorf("all at once: %+v", all)
	}
	calls2, notifies2 := g.counts()
	if calls2 != [3]int{calls[0] + 2, calls[1] + 1, calls[2] + 1} || notifies2 != [5]int{notifies[0] + 1, notifies[1], notifies[2] + 1, notifies[3] + 1, notifies[4]} {
		t.Errorf("%v %v, before %v %v", calls2, notifies2, calls, notifies)
	}
}

// TestLinks: an H5 link that was signed is seen among the calls and in its order's timeline, but counts neither as a call that was not
// sent nor among the platform's answers. Before, it was not seen at all.
func TestLinks(t *testing.T) {
	g := start(t, "", "", "chinaums_h5 /v1/netpay/trade/h5-pay\n\t"+toApp)
	calls, _ := g.counts()
	number := g.keys.SourceCode + "LINK" + fmt.Sprint(time.Now().UnixMilli())
	link := func(more string) (int, string, string) {
		status, header, content := g.do("POST", g.url+"/v1/netpay/trade/h5-pay", `{"merOrderId":"`+number+`","mid":"`+g.keys.MID+`","totalAmount":5`+more+`}`, "Content-Type: application/json")
		return status, header.Get("Gateway-Outcome"), content
	}
	if status, outcome, content := link(""); status != 200 || outcome != "not_sent" || !strings.Contains(content, `{"url":"http`) {
		t.Fatalf("%d %s %s", status, outcome, content)
	}
	var made []callEntry
	g.ask("/gateway/calls?search="+number, &made)
	if len(made) != 1 {
		t.Fatalf("%+v", made)
	}
	if c := made[0]; c.Outcome != "signed" || c.Path != "/v1/netpay/trade/h5-pay" || c.Order != number || c.Account != "shop" || c.Platform != "chinaums" || c.Sent || c.Code+c.Reason+c.Words != "" {
		t.Errorf("%+v", c)
	}
	if counted, _ := g.counts(); counted != calls {
		t.Errorf("%v calls, before %v", counted, calls)
	}
	if status, outcome, content := link(`,"refundAmount":1`); status != 422 || outcome != "not_sent" {
		t.Fatalf("%d %s %s", status, outcome, content)
	}
	if counted, _ := g.counts(); counted != [3]int{calls[0], calls[1] + 1, calls[2]} {
		t.Errorf("a link that was refused: %v calls, before %v", counted, calls)
	}

	p := browse(t, "en-US", g.admin+"/gateway/#calls", 1000, false)
	p.Choose("calls-kind", "signed")
	p.Click(`//details[contains(., "link signed; nothing sent") and contains(., "` + number + `")]/summary`)
	p.Shows("The order begins when the buyer opens the link")
	p.to(g, "order/chinaums/shop/"+number)
	p.Shows("Timeline")
	p.Shows("link signed; nothing sent")
	p.Button("language")
	p.Shows("链接已签名，没有调用平台")
	p.clean()
}

// TestExplained: what a refused notify says is masked, and nothing tells how to sign it rightly. Who wants to see it all,
// gets it for the command, and the log says so.
func TestExplained(t *testing.T) {
	g := start(t, "", "", toApp)
	number := g.order("")
	g.pay(number, sandbox.Tampered, 403)
	var told []notifyEntry
	g.ask("/gateway/notifies?limit=1&search="+number, &told)
	at := fmt.Sprintf("/gateway/notifies/%d/", told[0].Number)
	var said struct{ Text string }
	g.ask(at+"explain", &said)
	if !strings.Contains(said.Text, "does not verify") || !strings.Contains(said.Text, "merOrderId=<") {
		t.Errorf("%s", said.Text)
	}
	// The one digest in it is the one that came.
	digests := regexp.MustCompile(`[0-9A-Fa-f]{32,}`).FindAllString(said.Text, -1)
	if strings.Contains(said.Text, number) || strings.Contains(said.Text, g.keys.NotifyKey) || len(digests) != 1 {
		t.Errorf("it shows too much: %s", said.Text)
	}
	g.ask(at+"explain?lang=zh", &said)
	if !strings.Contains(said.Text, "验签失败") {
		t.Errorf("%s", said.Text)
	}
	status, header, content := g.do("GET", g.admin+at+"capture", "")
	if status != 200 || !strings.HasPrefix(content, "POST / HTTP/1.1\r\n") || !strings.Contains(content, "merOrderId="+number) || !strings.HasPrefix(header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%d %v %s", status, header, content)
	}
	if line := regexp.MustCompile(`.*a refused notify was shown.*`).FindString(logs()); !strings.Contains(line, `"logger":"admin.api.gateway"`) || !strings.Contains(line, `"level":"info"`) {
		t.Errorf("the log says %q", line)
	}
	for path, want := range map[string]int{
		"/gateway/notifies/1000000/explain": 404, "/gateway/notifies/x/explain": 400, at + "explain?x=1": 400, "/gateway/calls?after=x": 400, "/gateway/state?after=-1": 400,
		"/gateway/calls?limit=0": 400, "/gateway/calls?limit=1&limit=2": 400, "/gateway/nothing": 404, "/gateway/page": 404, "/gateway/..%2fconsole.go": 404,
	} {
		if status, _, content := g.do("GET", g.admin+path, ""); status != want || !json.Valid([]byte(content)) {
			t.Errorf("%s: %d %s", path, status, content)
		}
	}
}

func TestCodes(t *testing.T) {
	g := start(t, "", "", toApp)
	var said struct{ Cause, Remedy string }
	g.ask("/gateway/codes/chinaums/NO_ORDER?lang=zh", &said)
	if said.Cause != "找不到请求的原始订单" {
		t.Errorf("%+v", said)
	}
	g.ask("/gateway/codes/chinaums/NO_ORDER", &said)
	if said.Cause != "The original order is not found." || said.Remedy == "" {
		t.Errorf("%+v", said)
	}
	for _, path := range []string{"/gateway/codes/chinaums/NOTHING", "/gateway/codes/nobody/NO_ORDER"} {
		if g.ask(path, &said); said.Cause+said.Remedy != "" {
			t.Errorf("%s: %+v", path, said)
		}
	}
}

func TestState(t *testing.T) {
	var s state
	g := start(t, "", "", toApp)
	if g.ask("/gateway/state", &s); len(s.Platforms) != 1 || s.Platforms[0].Name != "chinaums" || fmt.Sprint(s.Platforms[0].Accounts) != "[shop]" || s.Platforms[0].Watch || !s.Platforms[0].Explains || s.Inbox {
		t.Errorf("%+v", s)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g = start(t, withWatch, withInbox, toInbox)
	g.order("")
	s = state{}
	if g.ask("/gateway/state", &s); !s.Platforms[0].Watch || !s.Inbox || s.Accounts[len(s.Accounts)-1].Answers == 0 || s.Accounts[len(s.Accounts)-1].Skew == nil {
		t.Errorf("%+v", s)
	}
}

// TestHeaders: nothing on the page comes from elsewhere, nobody frames it, and nothing but GET is answered.
func TestHeaders(t *testing.T) {
	g := start(t, "", "", toApp)
	for path, kind := range map[string]string{"": "text/html; charset=utf-8", "page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"} {
		status, header, content := g.do("GET", g.admin+"/gateway/"+path, "")
		policy := header.Get("Content-Security-Policy")
		if status != 200 || header.Get("Content-Type") != kind || header.Get("X-Content-Type-Options") != "nosniff" || len(content) == 0 {
			t.Errorf("%s: %d %v", path, status, header)
		}
		for _, part := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "connect-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: no %s in %s", path, part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
			t.Errorf("%s: %s", path, policy)
		}
	}
	for _, path := range []string{"/gateway/", "/gateway/state", "/gateway/calls"} {
		if status, _, _ := g.do("POST", g.admin+path, "{}", "Content-Type: application/json"); status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, status)
		}
	}
}

// TestForeignPages: a page of somebody else's can neither read the console nor press its buttons, and a name of somebody
// else's that resolves to this machine gets nothing. These are Caddy's own checks, with which the console's address works.
func TestForeignPages(t *testing.T) {
	g := start(t, withWatch, withInbox, toInbox)
	own := strings.TrimPrefix(g.admin, "http://")
	for _, request := range [][2]string{
		{"GET", "/gateway/"}, {"GET", "/gateway/state"}, {"POST", "/inbox/default/messages/1/redeliver"}, {"DELETE", "/inbox/default/messages?state=dead"},
		{"POST", "/chinaums/orders/shop/1/query"}, {"POST", "/chinaums/orders/shop/1/resend"},
	} {
		for _, headers := range [][]string{
			{"Origin: http://evil.example", "Sec-Fetch-Mode: cors"}, {"Origin: null"}, {"Sec-Fetch-Mode: no-cors"},
			{"Referer: http://evil.example/", "Sec-Fetch-Mode: navigate"},
		} {
			if status, _, content := g.do(request[0], g.admin+request[1], "", headers...); status != 403 && status != 400 {
				t.Errorf("%s with %v: %d %s", request, headers, status, content)
			}
		}
		_, port, _ := strings.Cut(own, ":")
		req, err := http.NewRequest(request[0], g.admin+request[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example:" + port
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 403 {
			t.Errorf("%s of a foreign host: %d", request, res.StatusCode)
		}
	}
	// What a browser sends when the address is typed, and what the page sends.
	for _, headers := range [][]string{
		{"Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: none"}, {"Sec-Fetch-Mode: cors", "Referer: " + g.admin + "/gateway/"},
	} {
		if status, _, content := g.do("GET", g.admin+"/gateway/", "", headers...); status != 200 {
			t.Errorf("%v: %d %s", headers, status, content)
		}
	}
}

// TestProportion: what is embedded stays small, and readable.
func TestProportion(t *testing.T) {
	size, lines := int64(0), 0
	err := filepath.WalkDir("page", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		size += int64(len(content))
		lines += strings.Count(string(content), "\n")
		if strings.Contains(string(content), "innerHTML") || strings.Contains(string(content), "http://www.w3.org") && !strings.HasSuffix(name, "parts.js") {
			t.Errorf("%s has markup made of text, or a foreign address", name)
		}
		for _, address := range regexp.MustCompile(`https?://[^"'\s]+`).FindAllString(string(content), -1) {
			if address != "http://www.w3.org/2000/svg" {
				t.Errorf("%s has the address %s", name, address)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d lines", size, lines)
	if size > 250<<10 || lines > 1500 {
		t.Errorf("%d bytes, %d lines", size, lines)
	}
}
