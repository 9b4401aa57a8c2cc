package chinaums

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
)

var updateGolden = flag.Bool("update", false, "write golden files (testdata/adapt, docs/error-codes.md) instead of comparing them")

// separator stands between the Caddyfile and what becomes of it, as in Caddy's own tests.
const separator = "----------\n"

// adaptFiles returns the golden files.
func adaptFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "adapt", "*.caddyfiletest"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	return files
}

func golden(t testing.TB, file string) (config, want string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	config, want, ok := strings.Cut(string(content), separator)
	if !ok {
		t.Fatalf("%s has no line %q", file, separator)
	}
	return config, want
}

// compareGolden compares got with what the file says, or writes it there.
func compareGolden(t *testing.T, file, config, want, got string) {
	t.Helper()
	if got == want {
		return
	}
	if *updateGolden {
		if err := os.WriteFile(file, []byte(config+separator+got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s:\n%s\nwant:\n%s", file, got, want)
}

// TestAdapt: every form adapts to what its golden file says, and that loads.
func TestAdapt(t *testing.T) {
	setKeys(t)
	for _, file := range adaptFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			config, want := golden(t, file)
			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
			if err != nil {
				t.Fatal(err)
			}
			for _, warning := range warnings {
				// The files align their values, as the documentation does.
				if !strings.Contains(warning.Message, "not formatted") {
					t.Errorf("warning: %s", warning)
				}
			}
			var got bytes.Buffer
			if err := json.Indent(&got, adapted, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			compareGolden(t, file, config, want, got.String())
			if err := caddy.Validate(mustConfig(t, adapted)); err != nil {
				t.Errorf("it does not load: %v", err)
			}
		})
	}
}

// refusal is one case of a file in testdata/adapt/errors: a name, what stands in the site (or, in merchant.txt and watch*.txt, in the
// chinaums global option), and the message.
type refusal struct{ name, body, want string }

func (r refusal) String() string { return "=== " + r.name + "\n" + r.body + "--- " + r.want + "\n\n" }

// config is the whole Caddyfile.
func (r refusal) config(file string) string {
	switch filepath.Base(file) {
	case "merchant.txt":
		return chinaumsBlock(strings.TrimSuffix(r.body, "\n"))
	case "watch.txt", "watch-load.txt":
		return chinaumsBlock("merchant shop {\nnotify_key {env.UMS_NOTIFY_KEY}\n}\n" + strings.TrimSuffix(r.body, "\n"))
	}
	return site(strings.TrimSuffix(r.body, "\n"))
}

func refusals(t testing.TB) (files []string, cases map[string][]refusal) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "adapt", "errors", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden errors: %v", err)
	}
	cases = make(map[string][]refusal)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range strings.Split(string(content), "=== ")[1:] {
			name, rest, _ := strings.Cut(text, "\n")
			body, want, ok := strings.Cut(rest, "--- ")
			if !ok {
				t.Fatalf("%s: %s has no message", file, name)
			}
			cases[file] = append(cases[file], refusal{name, body, strings.TrimSpace(want)})
		}
	}
	return files, cases
}

// TestAdaptErrors: what is refused, and the message. What is in load.txt and watch-load.txt adapts, and is refused when it loads.
func TestAdaptErrors(t *testing.T) {
	setKeys(t)
	files, cases := refusals(t)
	for _, file := range files {
		room := strings.TrimSuffix(filepath.Base(file), ".txt")
		var updated strings.Builder
		for _, test := range cases[file] {
			t.Run(room+"/"+test.name, func(t *testing.T) {
				adapted, err := adaptOrError(test.config(file))
				if strings.HasSuffix(room, "load") {
					if err != nil {
						t.Fatalf("it does not adapt: %v", err)
					}
					err = caddy.Validate(mustConfig(t, adapted))
				}
				if err == nil {
					t.Fatal("it is accepted")
				}
				got := err.Error()
				// Where it stands is Caddy's to say.
				if i := strings.LastIndex(got, "provision "); i >= 0 {
					_, got, _ = strings.Cut(got[i:], ": ")
				}
				if rest, ok := strings.CutPrefix(got, "parsing caddyfile tokens for "); ok {
					_, got, _ = strings.Cut(rest, ": ")
				}
				got, _, _ = strings.Cut(got, ", at Caddyfile:")
				if got != test.want && !*updateGolden {
					t.Errorf("%s\nwant\n%s", got, test.want)
				}
				test.want = got
			})
			updated.WriteString(test.String())
		}
		if *updateGolden {
			if err := os.WriteFile(file, []byte(updated.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// site is a Caddyfile with the example merchant.
func site(body string) string {
	return strings.Replace(merchantOptions(productionUpstream), "{\n", "{\n\tadmin off\n", 1) +
		"(upstream) {\nheader_up X-A b\n}\n(calls) {\nchinaums_proxy {args[0]} {\ndial_timeout {args[1]}\nimport upstream\n}\n}\nhttp://127.0.0.1:9080 {\n" + body + "\n}\n"
}

func decoded(t testing.TB, document []byte) (value any) {
	t.Helper()
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// adaptedHandler is the JSON of a site's handler of this name.
func adaptedHandler(t testing.TB, name, config string) (found map[string]any) {
	t.Helper()
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			if value["handler"] == name {
				found = value
			}
			for _, member := range value {
				walk(member)
			}
		case []any:
			for _, element := range value {
				walk(element)
			}
		}
	}
	walk(decoded(t, adapt(t, site(config))))
	if found == nil {
		t.Fatalf("no handler %s", name)
	}
	return found
}

// TestEveryTransportOptionIsKnown: the proxy hands each option of `transport http` to the HTTP transport. If Caddy learns
// a new one, it is refused here, so that nobody is misled; this test then says so.
func TestEveryTransportOptionIsKnown(t *testing.T) {
	example := map[string]string{
		"proxy_protocol": "v2", "forward_proxy_url": "http://127.0.0.1:1", "network_proxy": "none", "dial_timeout": "1s",
		"versions": "1.1", "tls": "", "tls_insecure_skip_verify": "", "tls_curves": "x25519", "tls_trust_pool": "system",
		"tls_client_auth": "cert.pem key.pem", "tls_renegotiation": "never", "tls_trusted_ca_certs": "ca.pem",
		"tls_except_ports": "80", "tls_server_name": "a", "resolvers": "127.0.0.1", "local_address": "127.0.0.1",
		"keepalive_idle_conns": "1", "keepalive_idle_conns_per_host": "1", "max_conns_per_host": "1",
		"read_buffer": "1KiB", "write_buffer": "1KiB", "max_response_header": "1KiB",
	}
	for _, option := range syntax.TransportOptions() {
		t.Run(option, func(t *testing.T) {
			value, ok := example[option]
			if !ok {
				value = "1s"
			}
			short := adaptedHandler(t, "chinaums_proxy", "chinaums_proxy {\n"+option+" "+value+"\n}")["transport"]
			if short == nil {
				t.Fatal("the option changes nothing")
			}
			proxy := adaptedHandler(t, "reverse_proxy", "chinaums_guard\nreverse_proxy {\ndynamic chinaums\ntransport chinaums {\n"+option+" "+value+"\n}\n}")
			long := proxy["transport"].(map[string]any)
			delete(long, "protocol")
			if !reflect.DeepEqual(short, long) {
				t.Errorf("%s\nwant\n%s", caddyconfig.JSON(short, nil), caddyconfig.JSON(long, nil))
			}
		})
	}
}

// TestOptionsOfReverseProxy: of reverse_proxy's own options the proxy takes header_up, just as that does, and refuses every
// other with a word about the long form. The options are those that Caddy's parser knows.
func TestOptionsOfReverseProxy(t *testing.T) {
	const lines = "header_up X-A b\nheader_up -X-B\nheader_up +X-C d\nheader_up >X-D e\nheader_up User-Agent ^(.*)$ \"app $1\""
	config := adapt(t, site("chinaums_proxy {\n"+lines+"\n}"))
	proxy := adaptedHandler(t, "reverse_proxy", "chinaums_guard\nreverse_proxy {\ndynamic chinaums\ntransport chinaums\n"+lines+"\n}")
	long := proxy["headers"].(map[string]any)["request"]
	if short := adaptedHandler(t, "chinaums_proxy", "chinaums_proxy {\n"+lines+"\n}")["header_up"]; long == nil || !reflect.DeepEqual(short, long) {
		t.Errorf("%s\nnot\n%s", caddyconfig.JSON(short, nil), caddyconfig.JSON(long, nil))
	}
	setKeys(t)
	if err := caddy.Validate(mustConfig(t, config)); err != nil {
		t.Error(err)
	}
	options := proxyOptions(t)
	if len(options) < 40 {
		t.Errorf("Caddy's parser has only %d options", len(options))
	}
	for _, option := range options {
		if option == "header_up" {
			continue
		}
		_, err := adaptOrError(site("chinaums_proxy {\n" + option + " 1\n}"))
		if err == nil || !strings.Contains(err.Error(), `unknown option "`+option+`"`) || !strings.Contains(err.Error(), "chinaums_guard") {
			t.Errorf("%s: %v", option, err)
		}
	}
}

// proxyOptions are the options of reverse_proxy, out of the source of Caddy's parser.
func proxyOptions(t testing.TB) (options []string) {
	t.Helper()
	directory, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(directory)), "caddyfile.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		if function, ok := node.(*ast.FuncDecl); ok {
			if function.Recv == nil || function.Name.Name != "UnmarshalCaddyfile" {
				return false
			}
			receiver, ok := function.Recv.List[0].Type.(*ast.StarExpr)
			name, isName := receiver.X.(*ast.Ident)
			return ok && isName && name.Name == "Handler"
		}
		choice, ok := node.(*ast.SwitchStmt)
		if !ok {
			return true
		}
		if call, ok := choice.Tag.(*ast.CallExpr); ok {
			if selector, ok := call.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "Val" {
				for _, clause := range choice.Body.List {
					for _, word := range clause.(*ast.CaseClause).List {
						if literal, ok := word.(*ast.BasicLit); ok {
							options = append(options, strings.Trim(literal.Value, `"`))
						}
					}
				}
			}
		}
		return true
	})
	return options
}

// TestOrder: in whatever order a site's directives are written, they run in the order that their golden file shows.
func TestOrder(t *testing.T) {
	for _, name := range []string{"order", "order-long-form", "php"} {
		config, want := golden(t, filepath.Join("testdata", "adapt", name+".caddyfiletest"))
		head, body, _ := strings.Cut(config, "http://127.0.0.1:9080 {\n")
		directives := topLevel(strings.TrimSuffix(body, "}\n"))
		if len(directives) < 5 {
			t.Fatalf("%s: directives %q", name, directives)
		}
		random := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			random.Shuffle(len(directives), func(i, j int) { directives[i], directives[j] = directives[j], directives[i] })
			shuffled := strings.Join(directives, "")
			if got := decoded(t, adapt(t, head+"http://127.0.0.1:9080 {\n"+shuffled+"}\n")); !reflect.DeepEqual(got, decoded(t, []byte(want))) {
				t.Fatalf("%s:\n%s\ngives\n%s", name, shuffled, caddyconfig.JSON(got, nil))
			}
		}
	}
}

// topLevel splits the lines of a site block, each indented once, into directives with their blocks.
func topLevel(body string) (directives []string) {
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "\t\t") || strings.HasPrefix(line, "\t}") {
			directives[len(directives)-1] += line
			continue
		}
		directives = append(directives, line)
	}
	return directives
}

// TestHandlersOrder names what the golden files show: who runs before whom.
func TestHandlersOrder(t *testing.T) {
	for _, test := range []struct {
		name, config string
		want         []string
	}{
		{"a notify is judged before the body is signed or the app is called",
			"reverse_proxy 127.0.0.1:1\nwebhook_signature {env.A}\nchinaums_notify\nencode",
			[]string{"encode", "chinaums_notify", "webhook_signature", "reverse_proxy"}},
		{"a notify is judged before handlers that answer",
			"respond ok\nchinaums_notify", []string{"chinaums_notify", "static_response"}},
		{"a call is guarded before it is proxied, and after what is handled elsewhere",
			"chinaums_proxy\nchinaums_guard\nrespond /health ok", []string{"static_response", "chinaums_guard", "chinaums_proxy"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			handlersOf(decoded(t, adapt(t, site(test.config))), &got)
			if strings.Join(got, " ") != strings.Join(test.want, " ") {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// handlersOf collects the handlers of adapted JSON, subroutes aside, in order.
func handlersOf(value any, names *[]string) {
	switch value := value.(type) {
	case []any:
		for _, member := range value {
			handlersOf(member, names)
		}
	case map[string]any:
		if name, ok := value["handler"].(string); ok && name != "subroute" {
			*names = append(*names, name)
			return
		}
		for _, key := range []string{"apps", "http", "servers", "srv0", "routes", "handle"} {
			handlersOf(value[key], names)
		}
	}
}

// TestHTTPSUpstreamIsSigned: with an upstream of https, whichever way it is written, calls go out over TLS and signed.
// Before the transport was set last, reverse_proxy would have put its own, which signs nothing, in its place.
func TestHTTPSUpstreamIsSigned(t *testing.T) {
	setKeys(t)
	var authorization atomic.Value
	platform := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Header.Get("Authorization"))
		io.WriteString(w, `{"errCode":"SUCCESS"}`)
	}))
	defer platform.Close()
	for name, site := range map[string]string{
		"the shortcut":                          "chinaums_proxy {\ntls_insecure_skip_verify\n}",
		"the long form":                         "chinaums_guard\nreverse_proxy {\ndynamic chinaums\ntransport chinaums {\ntls_insecure_skip_verify\n}\n}",
		"the long form with the address itself": "chinaums_guard\nreverse_proxy " + platform.URL + " {\ntransport chinaums {\ntls_insecure_skip_verify\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			address := freeAddress(t)
			startCaddy(t, merchantOptions(platform.URL)+"http://"+address+" {\nbind 127.0.0.1\n"+site+"\n}\n")
			authorization.Store("")
			a := do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/query", `{}`, "Content-Type: application/json"))
			if a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" {
				t.Fatalf("%+v", a)
			}
			if err := newBodySigner(testAppID, testAppKey).verify(authorization.Load().(string), []byte(`{}`)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRefusedInJSON: what the Caddyfile cannot say, or says in other words, is refused in JSON too.
func TestRefusedInJSON(t *testing.T) {
	setKeys(t)
	const good = `{"handler":"chinaums_guard"},{"handler":"reverse_proxy","dynamic_upstreams":{"source":"chinaums"},"transport":{"protocol":"chinaums"}}`
	for _, test := range []struct{ name, old, replacement, want string }{
		{"nothing", "", "", ""},
		{"compression", `"protocol":"chinaums"`, `"protocol":"chinaums","compression":true`, "compression must stay off"},
		{"compression off", `"protocol":"chinaums"`, `"protocol":"chinaums","compression":false`, ""},
		{"HTTP/3", `"protocol":"chinaums"`, `"protocol":"chinaums","versions":["3"]`, "versions: 3 is not supported"},
		{"unverified TLS", `"protocol":"chinaums"`, `"protocol":"chinaums","tls":{"insecure_skip_verify":true}`, "merchant shop: tls_insecure_skip_verify is refused"},
		{"an unknown auth", `"protocol":"chinaums"`, `"protocol":"chinaums","auth":"basic"`, "auth"},
		{"an unknown field of the transport", `"protocol":"chinaums"`, `"protocol":"chinaums","merchnat":"shop"`, "merchnat"},
		{"a merchant that does not exist, in the transport", `"protocol":"chinaums"`, `"protocol":"chinaums","merchant":"nobody"`, "merchant nobody does not exist"},
		{"a merchant that does not exist, in the source", `"source":"chinaums"`, `"source":"chinaums","merchant":"nobody"`, "merchant nobody does not exist"},
		{"a merchant that does not exist, in the guard", `"chinaums_guard"`, `"chinaums_guard","merchant":"nobody"`, "merchant nobody does not exist"},
		{"repeating by a match", `"transport"`, `"load_balancing":{"retry_match":[{"method":["POST"]}]},"transport"`, "lb_retry_match is refused"},
		{"another method", `"transport"`, `"rewrite":{"method":"GET"},"transport"`, "method is refused"},
		{"another path", `"transport"`, `"rewrite":{"uri":"/x"},"transport"`, "rewrite is refused"},
		{"a path without its beginning", `"transport"`, `"rewrite":{"strip_path_prefix":"/v1"},"transport"`, "rewrite is refused"},
		{"a negative size", `"chinaums_guard"`, `"chinaums_guard","max_size":-1`, "max_size"},
		{"a negative time", `"chinaums_guard"`, `"chinaums_guard","timeout":-1`, "timeout"},
		{"an unknown way to validate", `"chinaums_guard"`, `"chinaums_guard","validate":"on"`, "validate"},
		{"an unknown field of the guard", `"chinaums_guard"`, `"chinaums_guard","alow":["all"]`, "alow"},
		{"an unknown format", good, `{"handler":"chinaums_notify","format":"xml"}`, "format"},
		{"an unknown ack", good, `{"handler":"chinaums_notify","ack":"body"}`, "ack"},
		{"a negative size of a notify", good, `{"handler":"chinaums_notify","max_size":-1}`, "max_size"},
		{"an unknown field of the notify", good, `{"handler":"chinaums_notify","obserev":true}`, "obserev"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := loadJSONError(t, `{"admin":{"disabled":true},"apps":{"chinaums":{"merchants":{"shop":{"app_id":"1","app_key":"{env.UMS_APP_KEY}","notify_key":["{env.UMS_NOTIFY_KEY}"]}}},
				"http":{"servers":{"a":{"listen":["127.0.0.1:9"],"routes":[{"handle":[`+strings.Replace(good, test.old, test.replacement, 1)+`]}]}}}}}`)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) || got == "" && test.want != "" {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// FuzzCaddyfile: adapting never panics, and what adapts is JSON that reads back as itself.
func FuzzCaddyfile(f *testing.F) {
	for _, file := range adaptFiles(f) {
		config, _ := golden(f, file)
		f.Add(config)
	}
	files, cases := refusals(f)
	for _, file := range files {
		for _, test := range cases[file] {
			f.Add(test.config(file))
		}
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	f.Fuzz(func(t *testing.T, config string) {
		if len(config) > 4<<10 || strings.Contains(config, "import") || strings.Contains(config, "{$") {
			return // what it imports is not ours
		}
		adapted, _, err := adapter.Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			if adapted != nil {
				t.Errorf("adapted to %q, and failed: %v", adapted, err)
			}
			return
		}
		var document caddy.Config
		if err := json.Unmarshal(adapted, &document); err != nil {
			t.Fatalf("%v: %s", err, adapted)
		}
		raw, ok := document.AppsRaw["chinaums"]
		if !ok {
			return
		}
		var app App
		if err := json.Unmarshal(raw, &app); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		if again := caddyconfig.JSON(app, nil); !reflect.DeepEqual(decoded(t, again), decoded(t, raw)) {
			t.Errorf("%s reads back as %s", raw, again)
		}
	})
}
