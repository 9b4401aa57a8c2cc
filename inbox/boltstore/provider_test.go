package boltstore

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/boltfile"
)

func TestCaddyfile(t *testing.T) {
	for _, test := range []struct{ name, input, want, err string }{
		{"no block", `store bolt`, `{"store":"bolt"}`, ""},
		{"empty block", "store bolt {\n}", `{"store":"bolt"}`, ""},
		{"path", "store bolt {\npath /data/a.db\n}", `{"path":"/data/a.db","store":"bolt"}`, ""},
		{"placeholder", "store bolt {\npath {env.DATA}/a.db\n}", `{"path":"{env.DATA}/a.db","store":"bolt"}`, ""},
		{"argument", `store bolt /data`, "", "surplus argument"},
		{"two paths", "store bolt {\npath a\npath b\n}", "", "path is given twice"},
		{"two files", "store bolt {\npath a b\n}", "", "takes one value"},
		{"no file", "store bolt {\npath\n}", "", "needs a value"},
		{"empty file", "store bolt {\npath \"\"\n}", "", "empty"},
		{"unknown", "store bolt {\nfile a\n}", "", `unknown option "file"`},
		{"a block of path", "store bolt {\npath a {\nb\n}\n}", "", "unknown option \"{\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := caddyfile.NewTestDispenser(test.input)
			d.Next()    // `store`, which the inbox reads,
			d.NextArg() // and the name
			module, err := caddyfile.UnmarshalModule(d, "inbox.stores.bolt")
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(module)
			if err != nil {
				t.Fatal(err)
			}
			var got, want map[string]any
			if json.Unmarshal(raw, &got) != nil || json.Unmarshal([]byte(test.want), &want) != nil {
				t.Fatal("no JSON")
			}
			delete(want, "store")
			if len(got) != len(want) || got["path"] != want["path"] {
				t.Errorf("%s, want %s", raw, test.want)
			}
		})
	}
}

// provision makes a provider as Caddy does.
func provision(t *testing.T, path string) *Provider {
	t.Helper()
	p := &Provider{boltfile.Options{Path: path}}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	if err := p.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKey(t *testing.T) {
	directory, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(directory, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(directory, "real"), filepath.Join(directory, "link")); err != nil {
		t.Skip(err)
	}
	t.Setenv("INBOX_DIRECTORY", directory)
	want := "bolt:" + filepath.Join(directory, "real", "a.db")
	for _, path := range []string{
		directory + "/real/a.db", directory + "/real/../real//a.db", directory + "/link/a.db", "{env.INBOX_DIRECTORY}/link/a.db",
	} {
		if got := provision(t, path).Key("default"); got != want {
			t.Errorf("%s: key %q, want %q", path, got, want)
		}
	}
	t.Chdir(directory)
	if got := provision(t, "real/a.db").Key("default"); got != want {
		t.Errorf("relative: key %q, want %q", got, want)
	}
	byDefault := provision(t, "")
	if a, b := byDefault.Key("a"), byDefault.Key("b"); a == b || !strings.HasSuffix(a, filepath.Join("inbox", "a.db")) {
		t.Errorf("keys %q and %q", a, b)
	}
	if err := (&Provider{boltfile.Options{Path: "{env.INBOX_NOT_SET}/a.db"}}).Provision(caddy.Context{}); err == nil || !strings.HasPrefix(err.Error(), "path: ") {
		t.Errorf("a placeholder that is empty: %v", err)
	}
	if provision(t, "").Ordered() != nil {
		t.Error("the store keeps the order, and says that it does not")
	}
}

func TestProviderOpens(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Skip(err)
	}
	path := filepath.Join(link, "not", "there", "a.db")
	p := provision(t, path)
	before := p.Key("a")
	store, err := p.Open(t.Context(), "a", inbox.Settings{}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if after := p.Key("a"); after != before {
		t.Errorf("the key is %q once the directory is made, before it %q", after, before)
	}
}

// TestKeyStaysTheSame: the directory is behind a symbolic link, and is made by the first Open. The next configuration
// must find the store that is open, and not wait for its lock.
func TestKeyStaysTheSame(t *testing.T) {
	directory := t.TempDir()
	if err := os.Mkdir(filepath.Join(directory, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(directory, "data")
	if err := os.Symlink(filepath.Join(directory, "disk"), link); err != nil {
		t.Skip("symbolic links cannot be made here:", err)
	}
	p := &Provider{boltfile.Options{Path: filepath.Join(link, "caddy", "inbox", "default.db")}}
	if err := p.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	before := p.Key("default")
	if err := os.MkdirAll(filepath.Dir(p.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	if after := p.Key("default"); after != before {
		t.Errorf("the key was %s before the directory was there, and is %s since", before, after)
	}
}
