package chinaums

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// alertRules is what matters of docs/alerts.yaml.
type alertRules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

var (
	metricSelector = regexp.MustCompile(`\b(caddy_[a-z_]+)(?:\{([^}]*)\})?`)
	labelMatcher   = regexp.MustCompile(`^([a-z_]+)(=~|!~|!=|=)"([^"]*)"$`)
	grouping       = regexp.MustCompile(`\bby \(([^)]*)\)`)
	templateLabel  = regexp.MustCompile(`\$labels\.([a-z_]+)`)
)

// series is one line of what Caddy's metrics endpoint answers.
type series struct {
	name   string
	labels map[string]string
}

// matches reports whether the series is what a selector of PromQL selects; an error says that a label does not exist.
func (s series) matches(name, matchers string) (bool, error) {
	if s.name != name {
		return false, nil
	}
	for matcher := range strings.SplitSeq(matchers, ",") {
		if matcher == "" {
			continue
		}
		parts := labelMatcher.FindStringSubmatch(matcher)
		if parts == nil {
			return false, fmt.Errorf("matcher %s", matcher)
		}
		value, ok := s.labels[parts[1]]
		if !ok {
			return false, fmt.Errorf("%s has no label %s", name, parts[1])
		}
		pattern, err := regexp.Compile("^(?:" + parts[3] + ")$")
		if err != nil {
			return false, err
		}
		switch {
		case parts[2] == "=" && value != parts[3], parts[2] == "!=" && value == parts[3],
			parts[2] == "=~" && !pattern.MatchString(value), parts[2] == "!~" && pattern.MatchString(value):
			return false, nil
		}
	}
	return true, nil
}

func scrape(t *testing.T, url string) (all []series) {
	t.Helper()
	line := regexp.MustCompile(`^(caddy_[a-z_]+)(?:\{(.*)\})? `)
	label := regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)
	for text := range strings.Lines(do(t, newRequest(t, "GET", url, "")).body) {
		parts := line.FindStringSubmatch(text)
		if parts == nil {
			continue
		}
		s := series{parts[1], map[string]string{"instance": "", "job": ""}} // Prometheus' own
		for _, pair := range label.FindAllStringSubmatch(parts[2], -1) {
			s.labels[pair[1]] = pair[2]
		}
		all = append(all, s)
	}
	return all
}

// TestAlerts: what the rules look at is what the code counts: each selector in docs/alerts.yaml selects something after
// the very events that its alert is about.
func TestAlerts(t *testing.T) {
	setKeys(t)
	content, err := os.ReadFile("docs/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document alertRules
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}

	// Platforms that answer queries and hang up on refunds. What is ordered is paid, and no notify says so.
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/netpay/refund", "/upay/v2/refund":
			panic(http.ErrAbortHandler)
		case "/v1/netpay/query":
			io.WriteString(w, `{"errCode":"SUCCESS","merOrderId":"O1","mid":"898340149000005","totalAmount":100,"status":"TRADE_SUCCESS"}`)
		case "/upay/v2/query":
			io.WriteString(w, `{"result_code":"200","biz_response":{"result_code":"SUCCESS","data":{"sn":"7","client_sn":"S1",`+
				`"order_status":"PAID","status":"SUCCESS","total_amount":"100","net_amount":"100"}}}`)
		case "/upay/v2/precreate":
			io.WriteString(w, `{"result_code":"200","biz_response":{"result_code":"PRECREATE_SUCCESS","data":{"sn":"7","client_sn":"S1",`+
				`"order_status":"CREATED","status":"IN_PROG","total_amount":"100"}}}`)
		default:
			io.WriteString(w, `{"errCode":"SUCCESS"}`)
		}
	}))
	defer platform.Close()
	address := freeAddress(t)
	options := strings.Replace(merchantOptions(platform.URL), "\t\t\tupstream", "\t\t\tmid 898340149000005\n\t\t\tupstream", 1)
	options = strings.Replace(options, "{\n", "{\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+filepath.Join(t.TempDir(), "inbox.db")+"\n\t\t}\n\t}\n", 1)
	watching := func(options string, block func(file string) string) string {
		options = strings.Replace(options, "\t\t}\n\t}\n}\n", "\t\t}\n\t\twatch {\n"+block("ours.db")+"\n\t\t}\n\t}\n}\n", 1)
		return strings.Replace(options, "{\n", "{\n\tshouqianba {\n\t\tterminal till {\n\t\t\tterminal_sn 1\n\t\t\tterminal_key k\n\t\t\tupstream "+
			platform.URL+"\n\t\t}\n\t\twatch {\n"+block("theirs.db")+"\n\t\t}\n\t}\n", 1)
	}
	directory := t.TempDir()
	often := func(file string) string {
		return "store bolt {\npath " + filepath.Join(directory, file) + "\n}\nrate 100\nunknown 50ms 100ms 200ms\n" +
			"orders 50ms 100ms 200ms 400ms 800ms 2s 4s 8s\ngive_up 300ms"
	}
	startCaddy(t, watching(options, often)+`http://`+address+` {
	bind 127.0.0.1
	metrics /metrics
	inbox /inbox {
		id      {http.request.header.Ce-Id}
		retry   1h
		deliver {
			respond 500
		}
	}
	chinaums_proxy /v1/*
	shouqianba_proxy /upay/*
	chinaums_notify /notify
	respond /notify 500
}`)
	call := func(path, contentType string) {
		do(t, newRequest(t, "POST", "http://"+address+path, "{}", "Content-Type: "+contentType))
	}
	watched := func(path, fields string) {
		do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/"+path, `{"merOrderId":"O1","mid":"898340149000005",`+fields+`}`, "Content-Type: application/json"))
	}
	ofTill := func(path, fields string) {
		do(t, newRequest(t, "POST", "http://"+address+"/upay/v2/"+path, `{"terminal_sn":"1","client_sn":"S1",`+fields+`}`, "Content-Type: application/json"))
	}
	ofTill("precreate", `"total_amount":"100"`)
	ofTill("refund", `"refund_request_no":"R1","refund_amount":"1"`)
	ofTill("refund", `"refund_request_no":"R2","refund_amount":"1"`)
	watched("trade/precreate", `"totalAmount":100`)
	watched("refund", `"refundOrderId":"R1","refundAmount":1`)
	watched("refund", `"refundOrderId":"R2","refundAmount":1`)
	call("/v1/netpay/query", "application/json")
	call("/v1/netpay/refund", "application/json")
	call("/v1/netpay/query", "text/plain")
	do(t, newRequest(t, "POST", "http://"+address+"/inbox", "{}", "Ce-Id: 1", "Content-Type: application/json"))
	for _, variant := range []string{"genuine", "foreign-mid", "tampered"} {
		// The app does not take the genuine one: all three are answered FAILED.
		_, _ = runCommand(notifyCommand(), "", "--set", "mid=898340149000005", "--variant", variant, "http://"+address+"/notify")
	}
	var counted []series
	eventually(t, "the payment is found, and the refund is given up", func() bool {
		counted = scrape(t, "http://"+address+"/metrics")
		for _, of := range []string{"caddy_chinaums_watch_", "caddy_shouqianba_watch_"} {
			if !slices.ContainsFunc(counted, func(s series) bool { return s.name == of+"found_total" }) ||
				!slices.ContainsFunc(counted, func(s series) bool { return s.name == of+"orders" && s.labels["state"] == "stuck" }) {
				return false
			}
		}
		return true
	})
	address = freeAddress(t) // a gateway whose watch cannot write
	broken := func(string) string { return "store test_broken" }
	startCaddy(t, watching(options, broken)+"http://"+address+" {\n\tbind 127.0.0.1\n\tmetrics /metrics\n\tchinaums_proxy /v1/*\n\tshouqianba_proxy /upay/*\n}")
	ofTill("refund", `"refund_request_no":"R1","refund_amount":"1"`)
	watched("refund", `"refundOrderId":"R1","refundAmount":1`)
	counted = append(counted, scrape(t, "http://"+address+"/metrics")...)

	var names []string
	for _, group := range document.Groups {
		if group.Name == operationGroup {
			continue // TestOperationAlerts
		}
		for _, rule := range group.Rules {
			names = append(names, rule.Alert)
			t.Run(rule.Alert, func(t *testing.T) {
				for _, name := range []string{"summary", "summary_zh", "description", "description_zh"} {
					chinese := strings.ContainsFunc(rule.Annotations[name], func(r rune) bool { return r > 0x4e00 })
					if rule.Annotations[name] == "" || chinese != strings.HasSuffix(name, "_zh") {
						t.Errorf("%s: %q", name, rule.Annotations[name])
					}
				}
				if rule.Labels["severity"] == "" {
					t.Error("no severity")
				}
				selectors := metricSelector.FindAllStringSubmatch(rule.Expr, -1)
				if len(selectors) == 0 {
					t.Fatalf("no metric in %s", rule.Expr)
				}
				labels := map[string]string{}
				for _, selector := range selectors {
					selected := false
					for _, s := range counted {
						ok, err := s.matches(selector[1], selector[2])
						if err != nil {
							t.Fatal(err)
						}
						if ok {
							selected, labels = true, s.labels
						}
					}
					if !selected {
						t.Errorf("%s selects nothing", selector[0])
					}
				}
				var kept []string
				for _, by := range grouping.FindAllStringSubmatch(rule.Expr, -1) {
					for label := range strings.SplitSeq(by[1], ",") {
						kept = append(kept, strings.TrimSpace(label))
						if _, ok := labels[strings.TrimSpace(label)]; !ok {
							t.Errorf("by (%s): there is no such label", by[1])
						}
					}
				}
				for _, text := range rule.Annotations {
					for _, used := range templateLabel.FindAllStringSubmatch(text, -1) {
						if !slices.Contains(kept, used[1]) {
							t.Errorf("the annotation uses the label %s, which the expression does not keep", used[1])
						}
					}
				}
			})
		}
	}
	if len(names) != 18 {
		t.Errorf("%d rules: %q", len(names), names)
	}
}

// TestAlertsWithPromtool lets Prometheus' own tool check the rules and play docs/alerts_test.yaml.
func TestAlertsWithPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("promtool is missing, and CHINAUMS_E2E=1 asks for it")
		}
		t.Skip("needs promtool")
	}
	for _, args := range [][]string{{"check", "rules", "docs/alerts.yaml"}, {"test", "rules", "docs/alerts_test.yaml"}} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
