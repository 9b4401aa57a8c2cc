package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-chinaums/caddy-chinaums/inbox/natsstore"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	_ "github.com/caddy-chinaums/caddy-chinaums/watch/natsstore"
	"github.com/caddy-chinaums/caddy-chinaums/webhook"
)

// What the READMEs and the pages below docs show has to work, and both languages have to show the same.

var readmes = []string{"README.md", "README.zh-CN.md"}

// shortPage is what a README may have in lines: everything else is on a page of its own.
const shortPage = 250

// pagePair is a page in both languages.
type pagePair struct{ english, chinese string }

// pagePairs are the READMEs, the pages about security, and all pages below docs/en and docs/zh.
func pagePairs(t *testing.T) []pagePair {
	t.Helper()
	pairs := []pagePair{{readmes[0], readmes[1]}, {"SECURITY.md", "SECURITY.zh-CN.md"}}
	names := make(map[string]int)
	for _, directory := range []string{"docs/en", "docs/zh"} {
		entries, err := os.ReadDir(filepath.Join("..", filepath.FromSlash(directory)))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			names[entry.Name()]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if names[name] != 2 {
			t.Errorf("%s is there in one language only", name)
			continue
		}
		pairs = append(pairs, pagePair{"docs/en/" + name, "docs/zh/" + name})
	}
	if len(pairs) < 14 {
		t.Errorf("only %d pages were found", len(pairs))
	}
	return pairs
}

// allPages are the names of all pages in both languages.
func allPages(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pair := range pagePairs(t) {
		names = append(names, pair.english, pair.chinese)
	}
	return names
}

// block is a fenced block.
type block struct{ language, text string }

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

func readme(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// fenced returns the fenced blocks of a language that a page has, or all for "".
func fenced(t *testing.T, name, language string) []block {
	t.Helper()
	var found []block
	for _, match := range fence.FindAllStringSubmatch(readme(t, name), -1) {
		if language == "" || match[1] == language {
			found = append(found, block{match[1], match[2]})
		}
	}
	return found
}

// blocks is fenced where there has to be one.
func blocks(t *testing.T, name, language string) []block {
	t.Helper()
	found := fenced(t, name, language)
	if len(found) == 0 {
		t.Fatalf("%s has no block in %q", name, language)
	}
	return found
}

func TestPagesSayTheSame(t *testing.T) {
	for _, pair := range pagePairs(t) {
		t.Run(pair.english, func(t *testing.T) { saySame(t, pair.english, pair.chinese) })
	}
}

func saySame(t *testing.T, english, chinese string) {
	one, other := fenced(t, english, ""), fenced(t, chinese, "")
	if len(one) != len(other) {
		t.Fatalf("%d and %d blocks", len(one), len(other))
	}
	for i := range one {
		if one[i] != other[i] {
			t.Errorf("block %d differs:\n%s\n%s", i+1, one[i].text, other[i].text)
		}
	}

	// The same headings, tables, list items and words in code, in the same order.
	code := regexp.MustCompile("`[^`]+`")
	shape := func(name string) (shape []string, words map[string]int) {
		words = make(map[string]int)
		for line := range strings.Lines(fence.ReplaceAllString(readme(t, name), "")) {
			mark, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case strings.HasPrefix(mark, "#"), mark == "-", strings.HasSuffix(mark, ".") && len(mark) == 2:
				shape = append(shape, mark)
			case mark == "|":
				shape = append(shape, fmt.Sprint("row of ", strings.Count(line, " |")))
			}
			for _, word := range code.FindAllString(line, -1) {
				words[word]++
			}
		}
		return shape, words
	}
	oneShape, oneWords := shape(english)
	otherShape, otherWords := shape(chinese)
	if !reflect.DeepEqual(oneShape, otherShape) {
		t.Errorf("headings, rows and items differ:\n%v\n%v", oneShape, otherShape)
	}
	for word := range oneWords {
		if otherWords[word] == 0 {
			t.Errorf("only %s has %s", english, word)
		}
	}
	for word := range otherWords {
		if oneWords[word] == 0 {
			t.Errorf("only %s has %s", chinese, word)
		}
	}
}

// A README that grows again is read by nobody.
func TestReadmesAreShort(t *testing.T) {
	for _, name := range readmes {
		if lines := strings.Count(readme(t, name), "\n"); lines > shortPage {
			t.Errorf("%s has %d lines, not at most %d", name, lines, shortPage)
		}
	}
}

// Links lead somewhere, seen from their page, and stay in its language; each page leads to its other language.
func TestPageLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)]+)\)`)
	others := make(map[string]string)
	for _, pair := range pagePairs(t) {
		others[pair.english], others[pair.chinese] = pair.chinese, pair.english
	}
	names := allPages(t)
	for _, pattern := range []string{"CONTRIBUTING*.md", "CHANGELOG.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range found {
			names = append(names, strings.TrimPrefix(filepath.ToSlash(name), "../"))
		}
	}
	for _, name := range names {
		text := fence.ReplaceAllString(readme(t, name), "")
		toOther := false
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(match[1], "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			target = path.Join(path.Dir(name), target)
			if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(target))); err != nil {
				t.Errorf("%s links to %s: %v", name, match[1], err)
			}
			switch {
			case others[name] == "":
			case target == others[name]:
				toOther = true
			case others[target] != "" && isChinese(target) != isChinese(name):
				t.Errorf("%s links to %s, which is in the other language", name, match[1])
			}
		}
		if others[name] != "" && !toOther {
			t.Errorf("%s does not link to %s", name, others[name])
		}
	}

	// From the README every page is one step away.
	for _, pair := range pagePairs(t)[1:] {
		for i, name := range []string{pair.english, pair.chinese} {
			if !strings.Contains(readme(t, readmes[i]), "("+name+")") {
				t.Errorf("%s does not link to %s", readmes[i], name)
			}
		}
	}
}

// isChinese reports whether a page is in Chinese, by its name.
func isChinese(name string) bool {
	return strings.Contains(name, "zh-CN") || strings.HasPrefix(name, "docs/zh/")
}

// setReadmeEnvironment sets what the pages' Caddyfiles take from the environment.
func setReadmeEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"UMS_APP_ID", "UMS_APP_KEY", "UMS_NOTIFY_KEY", "UMS_MID", "APP_SECRET",
		"SQB_VENDOR_SN", "SQB_VENDOR_KEY", "SQB_APP_ID", "SQB_ACTIVATION_CODE", "SQB_TERMINAL_SN", "SQB_TERMINAL_KEY",
		"GATEWAY_TOKEN",
	} {
		t.Setenv(name, "made-up-"+strings.ToLower(name))
	}
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	t.Setenv("SQB_PUBLIC_KEY", platform.PublicKey())
}

// Every Caddyfile shown is formatted, and loads.
func TestPageCaddyfiles(t *testing.T) {
	setReadmeEnvironment(t)
	shownFile, file := regexp.MustCompile(`\{file\.[^}]+\}`), filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("a-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range allPages(t) {
		for i, shown := range fenced(t, name, "caddyfile") {
			seen++
			t.Run(fmt.Sprint(name, "/", i+1), func(t *testing.T) {
				config := new(caddy.Config)
				text := shownFile.ReplaceAllString(shown.text, "{file."+file+"}")
				if err := json.Unmarshal(quiet(t, adapt(t, []byte(text))), config); err != nil {
					t.Fatal(err)
				}
				if err := caddy.Validate(config); err != nil {
					t.Errorf("%v\n%s", err, shown.text)
				}
			})
		}
	}
	if seen < 40 {
		t.Errorf("only %d Caddyfiles were found", seen)
	}
}

// The shells', PHP's and nginx's own parsers read what is shown in their languages.
func TestPageSyntax(t *testing.T) {
	bash, parser := tool(t, "bash"), tool(t, "php")
	seen := make(map[string]int)
	for _, name := range allPages(t) {
		for i, shown := range fenced(t, name, "") {
			var command *exec.Cmd
			switch shown.language {
			case "sh":
				command = exec.Command(bash, "-n")
			case "php":
				command = exec.Command(parser, "-l")
			default:
				continue
			}
			seen[shown.language]++
			command.Stdin = strings.NewReader(shown.text)
			if output, err := command.CombinedOutput(); err != nil {
				t.Errorf("%s, block %d: %v\n%s", name, i+1, err, output)
			}
		}
	}
	if seen["sh"] < 20 || seen["php"] < 4 {
		t.Errorf("only %v were found", seen)
	}
}

// The pages from which tests take what they run. What stands on the Chinese page is the same: TestPagesSayTheSame.
const (
	startPage      = "docs/en/getting-started.md"
	shouqianbaPage = "docs/en/shouqianba.md"
	h5Page         = "docs/en/h5-and-return.md"
	inboxPage      = "docs/en/inbox.md"
	operatePage    = "docs/en/operate.md"
	referencePage  = "docs/en/reference.md"
	troublePage    = "docs/en/troubleshooting.md"
	designPage     = "docs/en/design.md"
	migrationPage  = "docs/en/migration.md"
	watchPage      = "docs/en/watch.md"
)

// The proxy and its long form are in JSON what the page shows.
func TestDesignLongForm(t *testing.T) {
	var forms [][]any
	for _, shown := range blocks(t, designPage, "caddyfile") {
		if !strings.Contains(shown.text, "dial_timeout 5s") {
			continue
		}
		var document struct {
			Apps struct {
				HTTP struct {
					Servers map[string]struct {
						Routes []struct{ Handle []map[string]any }
					}
				}
			}
		}
		if err := json.Unmarshal(adapt(t, []byte(shown.text)), &document); err != nil {
			t.Fatal(err)
		}
		var handlers []any
		for _, server := range document.Apps.HTTP.Servers {
			for _, route := range server.Routes {
				for _, handler := range route.Handle {
					handlers = append(handlers, handler)
				}
			}
		}
		forms = append(forms, handlers)
	}
	for _, shown := range blocks(t, designPage, "json") {
		var handlers []any
		if json.Unmarshal([]byte(shown.text), &handlers) == nil {
			forms = append(forms, handlers)
		}
	}
	if len(forms) != 4 {
		t.Fatalf("%s shows %d forms, not 4", designPage, len(forms))
	}
	for i := range 2 {
		if len(forms[i]) != i+1 || !reflect.DeepEqual(forms[i], forms[i+2]) {
			t.Errorf("form %d is %v, and the JSON shown %v", i+1, forms[i], forms[i+2])
		}
	}
}

func TestPageJSON(t *testing.T) {
	seen := 0
	for _, name := range allPages(t) {
		for _, shown := range fenced(t, name, "json") {
			seen++
			if !json.Valid([]byte(shown.text)) {
				t.Errorf("%s: not JSON: %s", name, shown.text)
			}
		}
	}
	if seen < 4 {
		t.Errorf("only %d were found", seen)
	}
}

// php runs a script with the functions of a page in front of it.
func php(t *testing.T, functions, script string) string {
	t.Helper()
	binary, err := exec.LookPath("php")
	if err != nil {
		missing(t, "php")
	}
	modules, err := exec.Command(binary, "-m").Output()
	if err != nil || !strings.Contains(string(modules), "\ncurl\n") {
		missing(t, "PHP's curl extension")
	}
	file := filepath.Join(t.TempDir(), "shown.php")
	source := "<?php\ndeclare(strict_types=1);\nerror_reporting(E_ALL);\n" + functions + script
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(binary, "-d", "display_errors=stderr", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return string(output)
}

// shownFunction returns a function of a page's PHP by its name.
func shownFunction(t *testing.T, page, name string) string {
	t.Helper()
	function := regexp.MustCompile(`(?ms)^function ` + regexp.QuoteMeta(name) + `\(.*?^}\n`)
	for _, shown := range blocks(t, page, "php") {
		if found := function.FindString(shown.text); found != "" {
			return found
		}
	}
	t.Fatalf("%s has no PHP function %s", page, name)
	return ""
}

// blockHolding returns the one block of a language that holds all of the texts.
func blockHolding(t *testing.T, name, language string, texts ...string) string {
	t.Helper()
	var found []string
	for _, shown := range blocks(t, name, language) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(shown.text, text) }) {
			found = append(found, shown.text)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks in %s that hold %q, not 1", name, len(found), language, texts)
	}
	return found[0]
}

// replaced replaces each text, which has to be there.
func replaced(t *testing.T, source string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(source, pairs[i]) {
			t.Fatalf("%q is no longer there; change the test too:\n%s", pairs[i], source)
		}
	}
	return strings.NewReplacer(pairs...).Replace(source)
}

// The function and the call that the README shows, run against the sandbox through a gateway.
func TestReadmePHPCall(t *testing.T) {
	function := shownFunction(t, readmes[0], "gateway")
	if lines := strings.Count(function, "\n"); lines > 12 {
		t.Errorf("the function has %d lines, not at most 12", lines)
	}
	platform, err := sandbox.New(sandbox.Options{Schedule: []time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	defer platform.Close()
	listener, err := net.Listen("tcp", free(t)) // it is closed below, and nobody else may get it then
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: platform, ReadHeaderTimeout: time.Minute}}
	server.Start()
	defer server.Close()
	keys := platform.Options()
	gateway := free(t)
	_, port, _ := net.SplitHostPort(gateway)
	setReadmeEnvironment(t)
	for name, value := range map[string]string{
		"UMS_APP_ID": keys.AppID, "UMS_APP_KEY": keys.AppKey, "UMS_MID": keys.MID, "UMS_TID": keys.TID, "UMS_UPSTREAM": server.URL,
	} {
		t.Setenv(name, value)
	}
	load(t, []byte("{\n\tchinaums {\n\t\tmerchant shop {\n\t\t\tapp_id {env.UMS_APP_ID}\n\t\t\tapp_key {env.UMS_APP_KEY}\n"+
		"\t\t\tupstream {env.UMS_UPSTREAM}\n\t\t}\n\t}\n}\n\nhttp://:"+port+" {\n\tbind 127.0.0.1\n\tchinaums_proxy\n}\n"))

	number := keys.SourceCode + "20261124000000001"
	use := fmt.Sprintf(`[$outcome, $answer] = gateway('/v1/netpay/trade/precreate', ['requestTimestamp' => '%s',
    'mid' => '%s', 'tid' => '%s', 'instMid' => 'APPDEFAULT', 'tradeType' => 'APP', 'merOrderId' => '%s', 'totalAmount' => 4990]);
`, time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime), keys.MID, keys.TID, number)
	show := "echo json_encode([$outcome, $answer['errCode'] ?? '', $answer['status'] ?? '', $answer['totalAmount'] ?? 0]);\n"
	at := func(address string) string {
		return replaced(t, function, "127.0.0.1:"+gatewayPort, address)
	}
	if got := php(t, at(gateway), use+show); got != `["answered","SUCCESS","NEW_ORDER",4990]` {
		t.Errorf("an order: %s", got)
	}
	if order, ok := platform.Order(number); !ok || order.TotalAmount != 4990 {
		t.Errorf("the platform has %+v", order)
	}
	platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted})
	if got := php(t, at(gateway), use+show); got != `["unknown","GATEWAY_BAD_RESPONSE","",0]` {
		t.Errorf("cut: %s", got)
	}
	platform.Break(sandbox.Fault{Kind: sandbox.ServerError})
	if got := php(t, at(gateway), use+show); got != `["unknown","","",0]` {
		t.Errorf("a page of HTML: %s", got)
	}
	server.Close()
	if got := php(t, at(gateway), use+show); got != `["not_sent","GATEWAY_UNREACHABLE","",0]` {
		t.Errorf("nobody there: %s", got)
	}
	if got := php(t, at(free(t)), use+show); got != `["unknown","","",0]` {
		t.Errorf("no gateway: %s", got)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"errCode":"SUCCESS"}`)
	}))
	defer other.Close()
	if got := php(t, at(strings.TrimPrefix(other.URL, "http://")), use+show); got != `["unknown","","",0]` {
		t.Errorf("no header: %s", got)
	}

	// Before a large body curl asks for 100 Continue (an old one before 1 KiB already), whose header then stood where
	// the function looks for the answer's: every such call was unknown.
	answered := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Gateway-Outcome", "answered")
		fmt.Fprintf(w, `{"errCode":"SUCCESS","totalAmount":%d}`, size)
	}))
	defer answered.Close()
	large := "[$outcome, $answer] = gateway('/v1/netpay/query', ['goods' => str_repeat('a', 2000000)]);\n"
	if got := php(t, at(strings.TrimPrefix(answered.URL, "http://")), large+show); got != `["answered","SUCCESS","",2000012]` {
		t.Errorf("a large body: %s", got)
	}
}

// The check of the webhook signature that the README shows.
func TestReadmePHPCheck(t *testing.T) {
	function := shownFunction(t, readmes[0], "from_gateway")
	now, body := time.Now(), `{"merOrderId":"1"}`
	var script strings.Builder
	ask := func(id string, at time.Time, signatures, body, secret string) {
		fmt.Fprintf(&script, "$_SERVER['HTTP_WEBHOOK_ID'] = '%s';\n$_SERVER['HTTP_WEBHOOK_TIMESTAMP'] = '%s';\n"+
			"$_SERVER['HTTP_WEBHOOK_SIGNATURE'] = '%s';\necho from_gateway('%s', '%s') ? 'y' : 'n';\n",
			id, strconv.FormatInt(at.Unix(), 10), signatures, body, secret)
	}
	sign := func(secret string, at time.Time) string {
		signature, err := webhook.Sign(secret, "evt", at, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	secret := "whsec_bm90IGEgcmVhbCBzZWNyZXQ="
	ask("evt", now, sign(secret, now), body, secret)
	ask("evt", now, sign("plain", now), body, "plain")
	ask("evt", now, "v1,AAAA "+sign(secret, now), body, secret)
	ask("evt", now, sign("other", now), body, secret)
	ask("evt", now, sign(secret, now), body+" ", secret)
	ask("evt2", now, sign(secret, now), body, secret)
	ask("evt", now.Add(-time.Hour), sign(secret, now.Add(-time.Hour)), body, secret)
	ask("evt", now.Add(time.Hour), sign(secret, now.Add(time.Hour)), body, secret)
	ask("evt", now, "", body, secret)
	ask("evt", now, sign("x", now), body, "")
	if got := php(t, function, script.String()); got != "yyynnnnnnn" {
		t.Errorf("it says %s", got)
	}
}

// Every option that the reference's tables name is one.
func TestReferenceOptions(t *testing.T) {
	setReadmeEnvironment(t)
	section := sectionOf(t, referencePage, "Options")
	values := strings.NewReplacer(
		"<id>", "1", "<sn>", "1", "<key>", "{env.APP_SECRET}", "<code>", "{env.APP_SECRET}", " [<previous>…]", "", "<mid…>", "898000000000000",
		"<scheme://host[:port]>", "http://127.0.0.1:1", "<PEM or file>…", "{env.SQB_PUBLIC_KEY}", "<cidr…>", "10.0.0.0/8",
		"<path…>", "/v1/netpay/query", "<size>", "32KiB", "<duration>", "5s", "<name…>", "goods", "<url…>", "nats://127.0.0.1:4222",
		"<placeholders>", "{http.request.header.A}", "<placeholder>", "{http.request.header.A}", "<delay…>", "5s 1m", "<number>", "4", "<name>", "default", "<path>", "/notify", "<age…>", "1m 2m", "<time…>", "5s 1m",
		"deliver", "deliver {\nrespond OK\n}")
	code := regexp.MustCompile("`([^`]+)`")
	owner, tested := "", 0
	for line := range strings.Lines(section) {
		switch {
		case strings.HasPrefix(line, "### Global option `chinaums`: `watch`"):
			owner = "watch"
		case strings.HasPrefix(line, "### Global option `chinaums`"):
			owner = "merchant"
		case strings.HasPrefix(line, "### Global option `shouqianba`"):
			owner = "terminal"
		case strings.HasPrefix(line, "### Global option `inbox "):
			owner = "inboxes"
		case strings.HasPrefix(line, "### `"):
			owner, _, _ = strings.Cut(strings.TrimPrefix(line, "### `"), " ")
		}
		cell, _, found := strings.Cut(strings.TrimPrefix(strings.ReplaceAll(line, `\|`, "/"), "| "), " |")
		if !found || !strings.HasPrefix(line, "| `") || strings.Contains(cell, "`reverse_proxy`") {
			continue
		}
		var words []string
		for _, match := range code.FindAllStringSubmatch(cell, -1) {
			words = append(words, values.Replace(match[1]))
		}
		options := []string{strings.Join(words, "\n")}
		if strings.Contains(cell, "` / `") { // values of one option
			options = words[:1]
			name, _, _ := strings.Cut(words[0], " ")
			for _, word := range words[1:] {
				options = append(options, name+" "+word)
			}
		}
		for _, option := range options {
			owners := []string{owner}
			if (owner == "chinaums_proxy" || owner == "chinaums_notify") && !strings.Contains(line, "ChinaUMS only") {
				owners = append(owners, strings.Replace(owner, "chinaums", "shouqianba", 1))
			}
			for _, owner := range owners {
				config := withOption(owner, option)
				if config == "" {
					t.Fatalf("the test does not know %s", owner)
				}
				tested++
				if err := caddy.Validate(validatable(t, config)); err != nil {
					t.Errorf("%s: %q: %v", owner, option, err)
				}
			}
		}
	}
	if tested < 50 {
		t.Errorf("only %d options were found", tested)
	}
}

// withOption is a configuration with an option in its block.
func withOption(owner, option string) string {
	account := "app_id 1\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_NOTIFY_KEY}\n"
	terminal := "terminal_sn 1\nterminal_key {env.APP_SECRET}\npublic_key {env.SQB_PUBLIC_KEY}\n"
	site, inboxes, watch := "", "", ""
	switch owner {
	case "inboxes":
		inboxes = "inbox {\n" + option + "\n}\n"
	case "inbox":
		site = "inbox {\n" + option + "\n"
		if !strings.HasPrefix(option, "deliver") {
			site += "deliver {\nrespond OK\n}\n"
		}
		site += "}\n"
	case "watch":
		watch = "watch {\n" + option + "\n}\n"
	case "merchant":
		account = without(account, option) + option + "\n"
	case "terminal":
		if strings.HasPrefix(option, "vendor_sn") {
			terminal = without(terminal, "terminal_sn\nterminal_key")
		}
		terminal = without(terminal, option) + option + "\n"
	case "chinaums_proxy", "chinaums_notify", "chinaums_h5", "chinaums_return", "shouqianba_proxy", "shouqianba_notify":
		site = owner + " {\n" + option + "\n}\n"
	case "webhook_signature":
		site = owner + " {env.APP_SECRET} {\n" + option + "\n}\n"
	default:
		return ""
	}
	return "{\n" + inboxes + "chinaums {\nmerchant shop {\n" + account + "}\n" + watch + "}\nshouqianba {\nterminal till {\n" + terminal + "}\n}\n}\nhttp://:1 {\n" + site + "}\n"
}

// without takes the lines out that name one of the options.
func without(lines, options string) string {
	kept := ""
	for line := range strings.Lines(lines) {
		named := false
		for option := range strings.Lines(options) {
			name, _, _ := strings.Cut(strings.TrimSpace(option), " ")
			named = named || strings.HasPrefix(line, name+" ")
		}
		if !named {
			kept += line
		}
	}
	return kept
}

func validatable(t *testing.T, source string) *caddy.Config {
	t.Helper()
	adapted, err := adaptUnformatted(source)
	if err != nil {
		t.Fatalf("%v\n%s", err, source)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(quiet(t, adapted), config); err != nil {
		t.Fatal(err)
	}
	return config
}

// shownCaddyfile loads the page's Caddyfile that holds a text, on this machine: its sites on free ports, its merchants
// and terminals with the sandboxes, its apps at the address given.
func shownCaddyfile(t *testing.T, page, holds, app string, platform *sandbox.ChinaUMS, other *sandbox.Shouqianba) (out, in string) {
	t.Helper()
	setReadmeEnvironment(t)
	shown := blockHolding(t, page, "caddyfile", holds)
	serve := func(handler http.Handler) string {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return server.URL
	}
	keys, others := platform.Options(), other.Options()
	for name, value := range map[string]string{
		"UMS_APP_ID": keys.AppID, "UMS_APP_KEY": keys.AppKey, "UMS_NOTIFY_KEY": keys.NotifyKey, "UMS_MID": keys.MID,
		"SQB_VENDOR_SN": others.VendorSN, "SQB_VENDOR_KEY": others.VendorKey, "SQB_APP_ID": others.AppID,
		"SQB_ACTIVATION_CODE": others.ActivationCode, "SQB_PUBLIC_KEY": other.PublicKey(),
		"UMS_UPSTREAM": serve(platform), "SQB_UPSTREAM": serve(other),
	} {
		t.Setenv(name, value)
	}
	out, in = free(t), free(t)
	_, outPort, _ := net.SplitHostPort(out)
	shown = strings.NewReplacer(
		"{\n\tchinaums {", "{\n\tauto_https off\n\tstorage file_system "+t.TempDir()+"\n\tchinaums {",
		"\t\t\tmid {env.UMS_MID}\n", "\t\t\tmid {env.UMS_MID}\n\t\t\tupstream {env.UMS_UPSTREAM}\n",
		"\t\t\tdevice_id till-1\n", "\t\t\tdevice_id till-1\n\t\t\tupstream {env.SQB_UPSTREAM}\n",
		"http://:"+gatewayPort, "http://:"+outPort, "pay.example.com {", "http://"+in+" {\n\tbind 127.0.0.1", "127.0.0.1:"+appPort, app,
	).Replace(shown)
	load(t, []byte(shown))
	return out, in
}

// recorder is an app that takes every event and keeps it.
type recorder struct {
	mu     sync.Mutex
	events []received
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, received{req.Header.Clone(), body})
}

// types returns what came, by a header.
func (r *recorder) headers(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var values []string
	for _, event := range r.events {
		values = append(values, event.header.Get(name))
	}
	return strings.Join(values, " ")
}

func startRecorder(t *testing.T) (*recorder, string) {
	t.Helper()
	app := new(recorder)
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	return app, strings.TrimPrefix(server.URL, "http://")
}

func platforms(t *testing.T) (*sandbox.ChinaUMS, *sandbox.Shouqianba) {
	t.Helper()
	chinaums, err := sandbox.New(sandbox.Options{Schedule: []time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chinaums.Close)
	shouqianba, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{Schedule: []time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shouqianba.Close)
	return chinaums, shouqianba
}

// post sends JSON to the gateway and returns the outcome and the answer.
func post(t *testing.T, address, body string) (outcome, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.Header.Get("Gateway-Outcome"), string(content)
}

// Both platforms in one gateway, as shown.
func TestShouqianbaSideBySide(t *testing.T) {
	app, address := startRecorder(t)
	chinaums, shouqianba := platforms(t)
	out, in := shownCaddyfile(t, shouqianbaPage, "chinaums_proxy", address, chinaums, shouqianba)
	keys, order := chinaums.Options(), chinaums.Options().SourceCode+"20261124000000001"
	outcome, answer := post(t, out+"/v1/netpay/trade/precreate", fmt.Sprintf(
		`{"requestTimestamp":"%s","mid":"%s","tid":"%s","instMid":"APPDEFAULT","tradeType":"APP","merOrderId":"%s","totalAmount":1,"notifyUrl":"http://%s/notify"}`,
		time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime), keys.MID, keys.TID, order, in))
	if outcome != "answered" || !strings.Contains(answer, `"NEW_ORDER"`) {
		t.Fatalf("ChinaUMS: %s %s", outcome, answer)
	}
	outcome, answer = post(t, out+"/upay/v2/precreate", fmt.Sprintf(
		`{"terminal_sn":"%s","client_sn":"tea","total_amount":"1","payway":"3","subject":"tea","operator":"till","notify_url":"http://%s/notify/shouqianba"}`,
		shouqianba.Terminal("till-1"), in))
	// The first call activates the terminal, so that the app cannot know its number before.
	if shouqianba.Activations() != 1 || outcome != "answered" {
		t.Errorf("Shouqianba: %d activations, %s %s", shouqianba.Activations(), outcome, answer)
	}
	outcome, answer = post(t, out+"/upay/v2/precreate", fmt.Sprintf(
		`{"terminal_sn":"%s","client_sn":"tea2","total_amount":"1","payway":"3","subject":"tea","operator":"till","notify_url":"http://%s/notify/shouqianba"}`,
		shouqianba.Terminal("till-1"), in))
	if outcome != "answered" || !strings.Contains(answer, "PRECREATE_SUCCESS") || shouqianba.Activations() != 1 {
		t.Fatalf("Shouqianba: %s %s", outcome, answer)
	}
	if outcome, answer = post(t, out+"/elsewhere", `{}`); outcome != "" || answer != "" {
		t.Errorf("elsewhere: %s %s", outcome, answer)
	}
	if err := chinaums.Pay(order); err != nil {
		t.Fatal(err)
	}
	if err := chinaums.WaitDelivered(t.Context(), order, sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	if err := shouqianba.Pay("tea2"); err != nil {
		t.Fatal(err)
	}
	if err := shouqianba.WaitDelivered(t.Context(), "tea2", sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	if got := app.headers("Ce-Type"); got != "com.chinaums.payment.succeeded com.shouqianba.payment.succeeded" {
		t.Errorf("the app got %s", got)
	}
	if got := app.headers("Ce-Source") + " " + app.headers("Ce-Subject"); got != "/chinaums/shop /shouqianba/till "+order+" tea2" {
		t.Errorf("the app got %s", got)
	}
}

// The smallest Caddyfile of the page about the watch, with its defaults: the answer to a refund and its notify are lost, a second
// refund with another number is not sent, and the app is told of the first.
func TestWatchPage(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", diskDirectory(t))
	app, address := startRecorder(t)
	chinaums, shouqianba := platforms(t)
	out, in := shownCaddyfile(t, watchPage, "\t\twatch\n", address, chinaums, shouqianba)
	keys, order := chinaums.Options(), chinaums.Options().SourceCode+"20261124000000001"
	call := func(path, fields string) (outcome, answer string) {
		return post(t, out+path, fmt.Sprintf(`{"requestTimestamp":"%s","mid":"%s","tid":"%s","instMid":"APPDEFAULT","merOrderId":"%s",%s}`,
			time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime), keys.MID, keys.TID, order, fields))
	}
	if outcome, answer := call("/v1/netpay/trade/precreate", `"tradeType":"APP","totalAmount":100,"notifyUrl":"http://`+in+`/notify"`); outcome != "answered" {
		t.Fatal(outcome, answer)
	}
	if err := chinaums.Pay(order); err != nil {
		t.Fatal(err)
	}
	if err := chinaums.WaitDelivered(t.Context(), order, sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the app is told of the payment", func() bool { return app.headers("Ce-Type") != "" })
	chinaums.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"}, sandbox.Fault{Kind: sandbox.NoNotify, Times: -1})
	if outcome, answer := call("/v1/netpay/refund", `"refundAmount":100,"refundOrderId":"`+order+`R1"`); outcome != "unknown" {
		t.Fatal(outcome, answer)
	}
	// The gateway asks about the first one, and refuses the second in any case.
	if outcome, answer := call("/v1/netpay/refund", `"refundAmount":100,"refundOrderId":"`+order+`R2"`); outcome != "not_sent" {
		t.Error(outcome, answer)
	}
	testutil.Eventually(t, "the app is told of the refund", func() bool {
		return app.headers("Ce-Type") == "com.chinaums.payment.succeeded com.chinaums.refund.succeeded"
	})
	if got := app.headers("Ce-Evidence"); got != "notify query" {
		t.Error(got)
	}
	if book, _ := chinaums.Order(order); len(book.Returns) != 1 {
		t.Errorf("%+v", book.Returns)
	}
}

// H5 links, access tokens, confirmation and the return page, as shown.
func TestH5AndReturn(t *testing.T) {
	app, address := startRecorder(t)
	chinaums, shouqianba := platforms(t)
	out, in := shownCaddyfile(t, h5Page, "chinaums_h5", address, chinaums, shouqianba)
	keys, order := chinaums.Options(), chinaums.Options().SourceCode+"20261124000000001"
	fields := fmt.Sprintf(`"requestTimestamp":"%s","mid":"%s","tid":"%s","instMid":"H5DEFAULT","merOrderId":"%s"`,
		time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime), keys.MID, keys.TID, order)
	outcome, answer := post(t, out+"/v1/netpay/trade/h5-pay", `{`+fields+fmt.Sprintf(
		`,"totalAmount":1,"notifyUrl":"http://%s/notify","returnUrl":"http://%s/thanks?lang=zh"}`, in, in))
	var link struct{ URL string }
	if err := json.Unmarshal([]byte(answer), &link); err != nil || outcome != "not_sent" || !strings.Contains(link.URL, "OPEN-FORM-PARAM") {
		t.Fatalf("H5: %s %s", outcome, answer)
	}
	if len(chinaums.Calls()) != 0 {
		t.Error("making a link called the platform")
	}
	get := func(address string) (int, string, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		content, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header.Get("Location"), string(content)
	}
	if status, location, page := get(link.URL); status != http.StatusFound || location == "" {
		t.Fatalf("the link leads to %d %s %s", status, location, page)
	}
	if err := chinaums.Pay(order); err != nil {
		t.Fatal(err)
	}
	if err := chinaums.WaitDelivered(t.Context(), order, sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	if got := app.headers("Ce-Type") + " " + app.headers("Ce-Confirmed"); got != "com.chinaums.payment.succeeded true" {
		t.Errorf("the app got %s", got)
	}
	if status, _, page := get("http://" + in + "/thanks?merOrderId=" + order + "&status=TRADE_SUCCESS&sign=00"); status != http.StatusForbidden ||
		!strings.Contains(page, "waiting") {
		t.Errorf("a false return: %d %s", status, page)
	}
	// A payment that never was, rightly signed: the platform knows nothing of it.
	message, err := sandbox.Notify{Kind: sandbox.KindPayment, Key: keys.NotifyKey, Fields: map[string]string{
		"mid": keys.MID, "tid": keys.TID, "merOrderId": keys.SourceCode + "20261124000000002",
	}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	status, word := send(t, "http://"+in+"/notify", string(message.Body), http.Header{"Content-Type": {message.ContentType}})
	if status != http.StatusConflict || string(word) != "FAILED" {
		t.Errorf("a payment that never was: %d %s", status, word)
	}
	if outcome, answer = post(t, out+"/v1/netpay/query", `{`+fields+`}`); outcome != "answered" || !strings.Contains(answer, `"TRADE_SUCCESS"`) {
		t.Errorf("a call with a token: %s %s", outcome, answer)
	}
	calls := chinaums.Calls()
	if got := calls[len(calls)-1].Header.Get("Authorization"); !strings.HasPrefix(got, "OPEN-ACCESS-TOKEN ") {
		t.Errorf("the call was authorized with %.20s…", got)
	}
}
