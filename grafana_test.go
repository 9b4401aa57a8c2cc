package chinaums

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// operationGroup are the rules of docs/alerts.yaml about the gateway itself.
const operationGroup = "caddy-chinaums-operation"

// startEverything runs a gateway in which whatever can fail at the gateway itself has failed, and returns what it counts:
// neither platform can be reached, a terminal cannot check in, the inbox is full.
func startEverything(t *testing.T) []series {
	t.Helper()
	setKeys(t)
	t.Setenv("SQB_KEY", "a-terminal-key")
	address := freeAddress(t)
	nobody := "http://" + freeAddress(t)
	startCaddy(t, strings.Replace(merchantOptions(nobody), "{\n", `{
	inbox {
		store bolt {
			path `+filepath.Join(t.TempDir(), "inbox.db")+`
		}
		max_store 200KiB
	}
	shouqianba {
		terminal till {
			terminal_sn 100000
			terminal_key {env.SQB_KEY}
			upstream `+nobody+`
		}
		terminal owned {
			vendor_sn 1
			vendor_key {env.SQB_KEY}
			app_id 2
			device_id 3
			activation_code {env.SQB_KEY}
			upstream `+nobody+`
		}
	}
`, 1)+`http://`+address+` {
	bind 127.0.0.1
	metrics /metrics
	chinaums_proxy /v1/*
	shouqianba_proxy /upay/* till
	inbox /inbox {
		id {http.request.uri}
		retry 1h
		deliver {
			respond 500
		}
	}
	chinaums_notify /notify
	respond /notify 500
}`)
	url := "http://" + address
	for _, path := range []string{"/v1/netpay/query", "/upay/v2/query"} {
		if a := do(t, newRequest(t, "POST", url+path, "{}", "Content-Type: application/json")); a.status != 502 {
			t.Fatalf("%s: %d", path, a.status)
		}
	}
	wantWord(t, postNotify(t, url+"/notify", signedPayment()), 502)
	for i := range 100 {
		if do(t, newRequest(t, "POST", fmt.Sprint(url, "/inbox?", i), strings.Repeat("x", 10000))).status != 202 {
			break
		}
	}
	var counted []series
	testutil.Eventually(t, "the check-in fails", func() bool {
		counted = scrape(t, url+"/metrics")
		return slices.ContainsFunc(values(t, url+"/metrics"), func(line string) bool {
			return strings.HasPrefix(line, `caddy_shouqianba_checkin_failures{merchant="owned"} `) && !strings.HasSuffix(line, " 0")
		})
	})
	return append(counted, series{"up", map[string]string{"instance": "", "job": "caddy"}})
}

func values(t *testing.T, url string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(do(t, newRequest(t, "GET", url, "")).body) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

var anySelector = regexp.MustCompile(`\b(caddy_[a-z_]+|up)\b(?:\{([^}]*)\})?`)

// TestOperationAlerts: each selector of the rules about the gateway itself selects something after the very events that the
// alert is about.
func TestOperationAlerts(t *testing.T) {
	content, err := os.ReadFile("docs/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document alertRules
	if err := yaml.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	counted := startEverything(t)
	rules := 0
	for _, group := range document.Groups {
		if group.Name != operationGroup {
			continue
		}
		for _, rule := range group.Rules {
			rules++
			for _, name := range []string{"summary", "summary_zh", "description", "description_zh"} {
				chinese := strings.ContainsFunc(rule.Annotations[name], func(r rune) bool { return r > 0x4e00 })
				if rule.Annotations[name] == "" || chinese != strings.HasSuffix(name, "_zh") {
					t.Errorf("%s: %s: %q", rule.Alert, name, rule.Annotations[name])
				}
			}
			if rule.Labels["severity"] == "" {
				t.Errorf("%s: no severity", rule.Alert)
			}
			for _, selector := range anySelector.FindAllStringSubmatch(rule.Expr, -1) {
				selected := false
				for _, s := range counted {
					ok, err := s.matches(selector[1], selector[2])
					if err != nil {
						t.Fatal(err)
					}
					selected = selected || ok
				}
				if !selected {
					t.Errorf("%s: %s selects nothing", rule.Alert, selector[0])
				}
			}
			var kept []string
			for _, by := range grouping.FindAllStringSubmatch(rule.Expr, -1) {
				for label := range strings.SplitSeq(by[1], ",") {
					kept = append(kept, strings.TrimSpace(label))
				}
			}
			for _, text := range rule.Annotations {
				for _, used := range templateLabel.FindAllStringSubmatch(text, -1) {
					if !slices.Contains(kept, used[1]) {
						t.Errorf("%s: the annotation uses the label %s, which the expression does not keep", rule.Alert, used[1])
					}
				}
			}
		}
	}
	if rules != 6 {
		t.Errorf("%d rules", rules)
	}
}

// dashboard is what Grafana reads of docs/grafana.json.
type dashboard struct {
	SchemaVersion int    `json:"schemaVersion"`
	UID           string `json:"uid"`
	Title         string `json:"title"`
	ID            any    `json:"id"`
	Templating    struct {
		List []struct {
			Name, Type, Definition string
			Datasource             *datasource
			Options                []struct{ Value string }
		}
	}
	Panels []dashboardPanel
}

type datasource struct{ Type, UID string }

type dashboardPanel struct {
	ID          int
	Type, Title string
	Datasource  *datasource
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		Expr, RefID string
		Datasource  *datasource
	}
	FieldConfig struct{ Defaults struct{ Unit string } }
}

// TestGrafana: the dashboard has the form that Grafana imports, its panels do not overlap, and each expression is one that
// Prometheus parses, about metrics that the code has, with the labels that they have.
func TestGrafana(t *testing.T) {
	content, err := os.ReadFile("docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(content, &d); err != nil {
		t.Fatal(err)
	}
	if d.SchemaVersion < 39 || d.UID == "" || len(d.UID) > 40 || d.Title == "" || d.ID != nil {
		t.Errorf("schemaVersion %d, uid %q, title %q, id %v", d.SchemaVersion, d.UID, d.Title, d.ID)
	}
	variables := map[string][]string{"__rate_interval": {"5m"}, "__range": {"24h"}}
	var expressions []string
	for _, v := range d.Templating.List {
		variables[v.Name] = []string{"x"}
		switch v.Type {
		case "datasource":
		case "custom":
			variables[v.Name] = nil
			for _, option := range v.Options {
				variables[v.Name] = append(variables[v.Name], option.Value)
			}
		case "query":
			of := regexp.MustCompile(`^label_values\((.*), [a-z_]+\)$`).FindStringSubmatch(v.Definition)
			if of == nil || v.Datasource == nil || v.Datasource.UID != "${datasource}" {
				t.Fatalf("variable %s: %+v", v.Name, v)
			}
			expressions = append(expressions, of[1])
		default:
			t.Errorf("variable %s: type %s", v.Name, v.Type)
		}
	}
	if got := variables["platform"]; !slices.Equal(got, []string{"chinaums", "shouqianba"}) {
		t.Errorf("platforms %q", got)
	}

	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: the number is taken or missing", p.ID, p.Title)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		switch p.Type {
		case "row":
			continue
		case "stat", "timeseries":
		default:
			t.Errorf("%s: type %s", p.Title, p.Type)
		}
		if len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" || p.Datasource == nil || p.Datasource.UID != "${datasource}" || p.Datasource.Type != "prometheus" {
			t.Errorf("%s: %+v", p.Title, p)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource == nil || *target.Datasource != *p.Datasource || target.RefID == "" || refs[target.RefID] {
				t.Errorf("%s: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
			expressions = append(expressions, target.Expr)
		}
	}
	if len(d.Panels) < 20 {
		t.Errorf("%d panels", len(d.Panels))
	}

	// Every variable with each of its values.
	used := regexp.MustCompile(`\$\{?([a-z_]+)\}?`)
	var written []string
	for _, expression := range expressions {
		all := []string{expression}
		for _, match := range used.FindAllStringSubmatch(expression, -1) {
			if variables[match[1]] == nil {
				t.Fatalf("there is no variable %s: %s", match[1], expression)
			}
			var next []string
			for _, one := range all {
				for _, value := range variables[match[1]] {
					next = append(next, strings.ReplaceAll(one, match[0], value))
				}
			}
			all = next
		}
		slices.Sort(all)
		written = append(written, slices.Compact(all)...)
	}

	known := metricLabels(t)
	for _, expression := range written {
		selectors := anySelector.FindAllStringSubmatch(expression, -1)
		if len(selectors) == 0 {
			t.Errorf("no metric in %s", expression)
		}
		for _, selector := range selectors {
			name := selector[1]
			labels, ok := known[name]
			if base, found := strings.CutSuffix(name, "_bucket"); found && !ok {
				labels, ok = known[base]
			}
			if !ok {
				t.Errorf("the code has no %s: %s", name, expression)
				continue
			}
			for _, matcher := range regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`).FindAllStringSubmatch(selector[2], -1) {
				if !slices.Contains(labels, matcher[1]) {
					t.Errorf("%s has no label %s: %s", name, matcher[1], expression)
				}
			}
		}
	}

	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("promtool is missing, and CHINAUMS_E2E=1 asks for it")
		}
		t.Skip("needs promtool")
	}
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	rules := make([]rule, 0, len(written))
	for i, expression := range written {
		rules = append(rules, rule{fmt.Sprintf("dashboard:%d", i), expression})
	}
	generated, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, generated, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// metricLabels returns the metrics that the reference tells of, which a test there holds to the code, and their labels.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	content, err := os.ReadFile("docs/en/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{"up": {"instance", "job"}}
	for _, row := range regexp.MustCompile("(?m)^\\| `(caddy_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(content), -1) {
		labels := []string{"instance", "job", "le"}
		for _, label := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			labels = append(labels, label[1])
		}
		known[row[1]] = labels
	}
	if len(known) < 20 {
		t.Fatalf("too few metrics: %v", known)
	}
	return known
}
