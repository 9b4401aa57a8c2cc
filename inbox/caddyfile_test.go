package inbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	_ "github.com/caddy-chinaums/caddy-chinaums/inbox/boltstore"
	_ "github.com/caddy-chinaums/caddy-chinaums/webhook"
)

var updateGolden = flag.Bool("update", false, "write the golden files in testdata/adapt instead of comparing them")

// separator stands between the Caddyfile and what becomes of it, as in Caddy's own tests.
const separator = "----------\n"

func init() { caddy.RegisterModule(new(unordered)) }

// unordered is a store that keeps no order. It takes arguments and a block, and cannot be opened.
type unordered struct {
	Servers []string `json:"servers,omitempty"`
	Depth   string   `json:"depth,omitempty"`
}

func (*unordered) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "inbox.stores.unordered", New: func() caddy.Module { return new(unordered) }}
}

func (u *unordered) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	u.Servers = d.RemainingArgs()
	for d.NextBlock(0) {
		if d.Val() != "depth" || !d.AllArgs(&u.Depth) {
			return d.Errf("store unordered: %q", d.Val())
		}
	}
	return nil
}

func (*unordered) Key(name string) string { return "unordered " + name }

func (*unordered) Ordered() error { return errors.New("it keeps no order") }

func (*unordered) Open(context.Context, string, inbox.Settings, *zap.Logger) (inbox.Store, error) {
	return nil, errors.New("it is for tests of configurations only")
}

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

// adapt returns the JSON of a Caddyfile. Warnings other than about its format are errors.
func adapt(t testing.TB, config string) ([]byte, error) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	for _, warning := range warnings {
		// The files align their values, as the documentation does.
		if !strings.Contains(warning.Message, "not formatted") {
			t.Errorf("warning: %s", warning)
		}
	}
	return adapted, err
}

func adapted(t testing.TB, config string) any {
	t.Helper()
	document, err := adapt(t, config)
	if err != nil {
		t.Fatalf("%s\n%v", config, err)
	}
	return decoded(t, document)
}

func decoded(t testing.TB, document []byte) (value any) {
	t.Helper()
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// validate loads a configuration as far as `caddy validate` does.
func validate(t testing.TB, document []byte) error {
	t.Helper()
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(document, config); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(config)
}

// TestAdapt: every form adapts to what its golden file says, and that loads.
func TestAdapt(t *testing.T) {
	t.Setenv("APP_SECRET", "never in the configuration")
	for _, file := range adaptFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			config, want := golden(t, file)
			document, err := adapt(t, config)
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, document, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got := indented.String() + "\n"
			if *updateGolden {
				if err := os.WriteFile(file, []byte(config+separator+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("%s:\n%s\nwant:\n%s", file, got, want)
			}
			if err := validate(t, document); err != nil {
				t.Errorf("it does not load: %v", err)
			}
		})
	}
}

// refusal is one case of a file in testdata/adapt/errors: a name, what stands in the site (or, in global.txt, in the
// global options), and the message.
type refusal struct{ name, body, want string }

func (r refusal) String() string { return "=== " + r.name + "\n" + r.body + "--- " + r.want + "\n\n" }

// config is the whole Caddyfile.
func (r refusal) config(file string) string {
	if filepath.Base(file) == "global.txt" {
		return "{\n\tadmin off\n" + r.body + "}\nhttp://127.0.0.1:9080 {\n\tinbox {\n\t\tdeliver {\n\t\t\trespond ok\n\t\t}\n\t}\n}\n"
	}
	return site(r.body)
}

func refusals(t testing.TB) map[string][]refusal {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "adapt", "errors", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden errors: %v", err)
	}
	cases := make(map[string][]refusal)
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
	return cases
}

// TestAdaptErrors: what is refused, and the message. What is in load.txt adapts, and is refused when it loads.
func TestAdaptErrors(t *testing.T) {
	for file, cases := range refusals(t) {
		room := strings.TrimSuffix(filepath.Base(file), ".txt")
		var updated strings.Builder
		for _, test := range cases {
			t.Run(room+"/"+test.name, func(t *testing.T) {
				document, err := adapt(t, test.config(file))
				if room == "load" {
					if err != nil {
						t.Fatalf("it does not adapt: %v", err)
					}
					err = validate(t, document)
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

// site is a Caddyfile with these directives.
func site(body string) string {
	return "{\n\tadmin off\n\tinbox {\n\t\tstore unordered\n\t}\n\tinbox second {\n\t\tstore unordered\n\t}\n}\nhttp://127.0.0.1:9080 {\n" + body + "}\n"
}

// TestTwoInboxesInOneFile is refused when it loads: one would take the other's messages.
func TestTwoInboxesInOneFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "inbox.db")
	document, err := adapt(t, "{\nadmin off\ninbox a {\nstore bolt {\npath "+file+"\n}\n}\ninbox b {\nstore bolt {\npath "+file+"\n}\n}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(t, document); err == nil || !strings.Contains(err.Error(), "inbox b: store: it is the same as that of inbox a") {
		t.Errorf("%v", err)
	}
}

// TestDeliverIsLikeHandle: what stands in `deliver` means what it means in `handle`: matchers of the site and of the block,
// snippets, shorthands, and the order of directives.
func TestDeliverIsLikeHandle(t *testing.T) {
	const snippets = `
		(app) {
			reverse_proxy {args[0]} {
				header_up X-Way {args[1]}
			}
		}
		&(named) {
			respond named
		}
		http://127.0.0.1:9080 {
			@paid header Ce-Type com.chinaums.payment.succeeded
			@refund header Ce-Type com.chinaums.refund.succeeded
		`
	for _, test := range []struct{ name, block string }{
		{"one directive", "reverse_proxy 127.0.0.1:9000"},
		{"a path", "respond /a one\nrespond two"},
		{"the site's matchers", "reverse_proxy @paid 127.0.0.1:9000\nreverse_proxy @refund 127.0.0.1:9001"},
		{"the block's own matchers", "@mine method POST\nreverse_proxy @paid 127.0.0.1:9000\nreverse_proxy @mine 127.0.0.1:9001"},
		{"the order of directives", "respond ok\nheader X-A b\nwebhook_signature {env.APP_SECRET}\nrewrite /b{uri}"},
		{"a snippet", "import app 127.0.0.1:9000 b"},
		{"shorthands", "rewrite /b{path}\nreverse_proxy {header.X-App}"},
		{"blocks in it", "handle /a {\nrespond one\n}\nhandle {\nreverse_proxy 127.0.0.1:9000 {\nhandle_response {\nrespond taken\n}\n}\n}"},
		{"a named route", "invoke named"},
		{"PHP", "root /srv\nphp_fastcgi unix//run/php/php-fpm.sock {\nread_timeout 25s\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inner := func(config string, keys ...string) any {
				var found any
				handlersOf(adapted(t, snippets+config+"\n}\n"), func(handler map[string]any) {
					if handler["handler"] == keys[0] && found == nil {
						found = handler[keys[1]]
					}
				})
				return found
			}
			// The site's only route is a subroute, in which handle's is another.
			want := inner("handle /webhook {\n"+test.block+"\n}", "subroute", "routes")
			want = want.([]any)[0].(map[string]any)["handle"].([]any)[0].(map[string]any)["routes"]
			got := inner("inbox /webhook {\ndeliver {\n"+test.block+"\n}\n}", "inbox", "deliver")
			if got == nil || !reflect.DeepEqual(got.(map[string]any)["routes"], want) {
				t.Errorf("%s\nwant\n%s", caddyconfig.JSON(got, nil), caddyconfig.JSON(want, nil))
			}
		})
	}
}

// handlersOf calls visit for each handler within a document, outer ones first.
func handlersOf(value any, visit func(map[string]any)) {
	switch value := value.(type) {
	case []any:
		for _, member := range value {
			handlersOf(member, visit)
		}
	case map[string]any:
		if _, ok := value["handler"].(string); ok {
			visit(value)
		}
		for _, member := range value {
			handlersOf(member, visit)
		}
	}
}

// TestOrderOfDirectives: however a site's directives are written, the inbox is behind what judges or changes the request
// and before what answers it.
func TestOrderOfDirectives(t *testing.T) {
	directives := []string{
		"encode\n", "webhook_signature {env.APP_SECRET}\n", "respond /health ok\n", "inbox {\ndeliver {\nabort\n}\n}\n",
		"reverse_proxy 127.0.0.1:9000\n", "request_body {\nmax_size 1MiB\n}\n",
	}
	const want = "request_body encode webhook_signature static_response inbox reverse_proxy"
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(directives), func(i, j int) { directives[i], directives[j] = directives[j], directives[i] })
		var server struct {
			Apps struct {
				HTTP struct {
					Servers map[string]struct {
						Routes []struct {
							Handle []struct {
								Routes []struct {
									Handle []struct {
										Handler string `json:"handler"`
									} `json:"handle"`
								} `json:"routes"`
							} `json:"handle"`
						} `json:"routes"`
					} `json:"servers"`
				} `json:"http"`
			} `json:"apps"`
		}
		document, err := adapt(t, site(strings.Join(directives, "")))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(document, &server); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, route := range server.Apps.HTTP.Servers["srv0"].Routes[0].Handle[0].Routes {
			for _, handler := range route.Handle {
				got = append(got, handler.Handler)
			}
		}
		if strings.Join(got, " ") != want {
			t.Fatalf("%s\nruns as %q, want %q", strings.Join(directives, ""), got, want)
		}
	}
}

// FuzzCaddyfile: adapting never panics, and what adapts is JSON that reads back as itself.
func FuzzCaddyfile(f *testing.F) {
	for _, file := range adaptFiles(f) {
		config, _ := golden(f, file)
		f.Add(config)
	}
	for file, cases := range refusals(f) {
		for _, test := range cases {
			f.Add(test.config(file))
		}
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	f.Fuzz(func(t *testing.T, config string) {
		if len(config) > 4<<10 || strings.Contains(config, "import") || strings.Contains(config, "{$") {
			return // what it imports is not ours
		}
		document, _, err := adapter.Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			if document != nil {
				t.Errorf("adapted to %q, and failed: %v", document, err)
			}
			return
		}
		var loaded caddy.Config
		if err := json.Unmarshal(document, &loaded); err != nil {
			t.Fatalf("%v: %s", err, document)
		}
		if raw, ok := loaded.AppsRaw["inbox"]; ok {
			readsBack(t, raw, new(inbox.App))
		}
		handlersOf(decoded(t, document), func(handler map[string]any) {
			if handler["handler"] == "inbox" {
				delete(handler, "handler")
				raw := caddyconfig.JSON(handler, nil)
				readsBack(t, raw, new(inbox.Handler))
				var subroute caddyhttp.Subroute
				if err := json.Unmarshal(caddyconfig.JSON(handler["deliver"], nil), &subroute); err != nil || len(subroute.Routes) == 0 {
					t.Errorf("deliver: %v: %s", err, raw)
				}
			}
		})
	})
}

func readsBack(t *testing.T, raw json.RawMessage, target any) {
	t.Helper()
	if err := caddy.StrictUnmarshalJSON(raw, target); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if again := caddyconfig.JSON(target, nil); !reflect.DeepEqual(decoded(t, again), decoded(t, raw)) {
		t.Errorf("%s reads back as %s", raw, again)
	}
}

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
