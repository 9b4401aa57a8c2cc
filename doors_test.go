package chinaums_test

import (
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/caddy-chinaums/caddy-chinaums"

// source is one Go file of this repository and what it imports.
type source struct {
	file    string // slash-separated, from the repository's root
	test    bool
	imports []imported
}

type imported struct {
	path  string
	blank bool
}

// room is the package a file lives in, "" for the root.
func (s source) room() string {
	if directory := path.Dir(s.file); directory != "." {
		return directory
	}
	return ""
}

// ours reports whether an import is of this module, and which room it is.
func (i imported) ours() (room string, ok bool) {
	if i.path == modulePath {
		return "", true
	}
	return strings.CutPrefix(i.path, modulePath+"/")
}

// standard reports whether an import is of Go's standard library, whose first
// path element never has a dot.
func (i imported) standard() bool {
	first, _, _ := strings.Cut(i.path, "/")
	return !strings.Contains(first, ".")
}

func within(room, parent string) bool {
	return room == parent || strings.HasPrefix(room, parent+"/")
}

// sources parses the imports of every Go file, whatever its build constraints.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			base := entry.Name()
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		s := source{file: filepath.ToSlash(name), test: strings.HasSuffix(name, "_test.go")}
		for _, spec := range parsed.Imports {
			unquoted, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if build.IsLocalImport(unquoted) {
				t.Errorf("%s: relative import %q", name, unquoted)
			}
			s.imports = append(s.imports, imported{unquoted, spec.Name != nil && spec.Name.Name == "_"})
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// engine is the storage engine a room belongs to, "" for none.
func engine(room string) string {
	rest, ok := strings.CutPrefix(room, "inbox/")
	if !ok {
		if rest, ok = strings.CutPrefix(room, "watch/"); !ok {
			return ""
		}
	}
	name, _, _ := strings.Cut(rest, "/")
	if strings.HasSuffix(name, "store") {
		return name
	}
	return ""
}

// A door says which imports must not be. Product code only, unless tests is
// set: a test may look at two rooms at once to compare them.
type door struct {
	name   string
	files  func(source) bool
	tests  bool
	closed func(source, imported) bool
}

var doors = []door{
	{
		name:  "signer.go imports the standard library, internal/jsontext and internal/text only",
		files: func(s source) bool { return s.file == "signer.go" || s.file == "shouqianba/signer.go" },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return !i.standard() && (!ok || room != "internal/jsontext" && room != "internal/text")
		},
	},
	{
		name:   "jsontext and text import the standard library only",
		files:  func(s source) bool { return within(s.room(), "internal/jsontext") || within(s.room(), "internal/text") },
		closed: func(_ source, i imported) bool { return !i.standard() },
	},
	{
		name: "names.go, fields.go and event.go import no Caddy and no zap, nor a room that might",
		files: func(s source) bool {
			switch s.file {
			case "names.go", "fields.go", "event.go", "shouqianba/event.go":
				return true
			}
			return within(s.room(), "internal/normalize")
		},
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return within(i.path, "github.com/caddyserver") || within(i.path, "go.uber.org/zap") ||
				ok && room != "internal/normalize" && room != "internal/jsontext" && room != "internal/text"
		},
	},
	{
		name:  "inbox never imports the root or a platform, real or played, nor what platforms share",
		files: func(s source) bool { return within(s.room(), "inbox") },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && (room == "" || within(room, "shouqianba") || within(room, "internal/sandbox") ||
				within(room, "internal/inbound") || within(room, "internal/outbound") || within(room, "internal/cli"))
		},
	},
	{
		name:  "engines never import each other, and the inbox imports none of the opt-in ones",
		files: func(s source) bool { return within(s.room(), "inbox") },
		closed: func(s source, i imported) bool {
			room, ok := i.ours()
			if !ok || engine(room) == "" {
				return false
			}
			if from := engine(s.room()); from != "" {
				return from != engine(room)
			}
			return engine(room) == "natsstore"
		},
	},
	{
		name:  "watch imports no platform, real or played, no inbox, nor what platforms share",
		files: func(s source) bool { return within(s.room(), "watch") },
		closed: func(s source, i imported) bool {
			room, ok := i.ours()
			return ok && !within(room, "watch") && (engine(s.room()) == "" || room != "internal/boltfile" && room != "internal/natsconn") ||
				engine(s.room()) != "" && engine(room) != "" && engine(room) != engine(s.room())
		},
	},
	{
		name:  "the watch itself imports no Caddy and no engine",
		files: func(s source) bool { return s.room() == "watch" || s.room() == "watch/storetest" },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return within(i.path, "github.com/caddyserver") || ok && room != "watch"
		},
	},
	{
		name:  "shouqianba never imports the root",
		files: func(s source) bool { return within(s.room(), "shouqianba") },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && room == ""
		},
	},
	{
		name:  "the root imports its siblings in imports.go only, and blank",
		files: func(s source) bool { return s.room() == "" },
		closed: func(s source, i imported) bool {
			room, ok := i.ours()
			if !ok || within(room, "internal") || room == "watch" { // which each platform drives
				return false
			}
			return s.file != "imports.go" || !i.blank
		},
	},
	{
		name:  "the root does not bring in the opt-in engine",
		files: func(s source) bool { return s.room() == "" },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && (within(room, "inbox/natsstore") || within(room, "watch/natsstore"))
		},
	},
	{
		// A Caddy without these stores is built without the NATS client.
		name:  "natsconn is for the stores in NATS",
		files: func(s source) bool { return engine(s.room()) != "natsstore" && s.room() != "internal/natstest" },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && room == "internal/natsconn"
		},
	},
	{
		name:  "natstest is for tests",
		files: func(s source) bool { return s.room() != "internal/natstest" },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && room == "internal/natstest"
		},
	},
	{
		name:  "the sandbox imports the standard library only",
		files: func(s source) bool { return within(s.room(), "internal/sandbox") },
		closed: func(s source, i imported) bool {
			room, ok := i.ours()
			return !i.standard() && (!ok || room != s.room())
		},
	},
	{
		name:  "the sandbox's tests import no product code",
		files: func(s source) bool { return within(s.room(), "internal/sandbox") },
		tests: true,
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && !within(room, "internal/sandbox") && room != "internal/testutil/webdriver" // a browser is none
		},
	},
	{
		name:  "webhook imports internal/body, internal/secret and internal/locale only",
		files: func(s source) bool { return within(s.room(), "webhook") },
		tests: true,
		closed: func(s source, i imported) bool {
			room, ok := i.ours()
			return ok && room != "internal/body" && room != "internal/secret" && room != "internal/locale" && !(s.test && room == "webhook") // its external tests
		},
	},
	{
		// What only a platform, the inbox or the watch knows, it asks them: their apps by methods, their admin APIs from the page.
		name:  "console imports Caddy and internal/recent only",
		files: func(s source) bool { return within(s.room(), "console") },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && room != "internal/recent"
		},
	},
	{
		name:   "recent imports the standard library only",
		files:  func(s source) bool { return within(s.room(), "internal/recent") },
		closed: func(_ source, i imported) bool { return !i.standard() },
	},
	{
		// With this, no other door can be walked around by way of a shared package.
		name: "internal packages import no platform, no inbox and no sandbox",
		files: func(s source) bool {
			return within(s.room(), "internal") && !within(s.room(), "internal/sandbox") && !within(s.room(), "internal/dev") &&
				!within(s.room(), "internal/cli")
		},
		closed: func(s source, i imported) bool {
			room, ok := i.ours()
			if room == "watch" && s.room() == "internal/watched" { // which the platforms drive by it
				return false
			}
			return ok && (!within(room, "internal") || within(room, "internal/sandbox") || within(room, "internal/dev") || within(room, "internal/cli"))
		},
	},
	{
		name:  "doctor imports the standard library, x/text, internal/jsontext and internal/normalize only",
		files: func(s source) bool { return within(s.room(), "internal/doctor") },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return !i.standard() && !within(i.path, "golang.org/x/text") && (!ok || room != "internal/jsontext" && room != "internal/normalize")
		},
	},
	{
		// What the commands of both platforms do, they tell it.
		name:  "cli imports no platform and no inbox",
		files: func(s source) bool { return within(s.room(), "internal/cli") },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && !within(room, "internal")
		},
	},
	{
		// It starts the gateway from a Caddyfile, as users do.
		name:  "dev imports no platform and no inbox",
		files: func(s source) bool { return within(s.room(), "internal/dev") },
		closed: func(_ source, i imported) bool {
			room, ok := i.ours()
			return ok && !within(room, "internal")
		},
	},
}

func TestDoors(t *testing.T) {
	all := sources(t)
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			for _, s := range all {
				if !door.files(s) || s.test && !door.tests {
					continue
				}
				for _, i := range s.imports {
					if door.closed(s, i) {
						t.Errorf("%s imports %s", s.file, i.path)
					}
				}
			}
		})
	}
}

// TestDoorsClose shows that each door refuses what it is there for, so that a
// renamed room does not open one unnoticed.
func TestDoorsClose(t *testing.T) {
	const ours = modulePath + "/"
	for _, test := range []struct {
		file, path string
		blank      bool
		want       string // the door that refuses; "" for none
	}{
		{file: "signer.go", path: "go.uber.org/zap", want: "signer.go"},
		{file: "signer.go", path: "github.com/google/uuid", want: "signer.go"},
		{file: "signer.go", path: "golang.org/x/text/encoding", want: "signer.go"},
		{file: "signer.go", path: ours + "internal/normalize", want: "signer.go"},
		{file: "signer.go", path: modulePath, want: "signer.go"},
		{file: "signer.go", path: ours + "internal/jsontext"},
		{file: "signer.go", path: ours + "internal/text"},
		{file: "signer.go", path: "crypto/hmac"},
		{file: "internal/text/text.go", path: "golang.org/x/text/encoding", want: "jsontext and text"},
		{file: "internal/text/text.go", path: ours + "internal/jsontext", want: "jsontext and text"},
		{file: "names.go", path: "github.com/caddyserver/caddy/v2", want: "names.go"},
		{file: "fields.go", path: "go.uber.org/zap", want: "names.go"},
		{file: "fields.go", path: ours + "internal/inbound", want: "names.go"},
		{file: "fields.go", path: ours + "internal/jsontext"},
		{file: "fields.go", path: ours + "internal/text"},
		{file: "internal/jsontext/jsontext.go", path: "golang.org/x/text/encoding", want: "jsontext and text"},
		{file: "internal/jsontext/jsontext.go", path: ours + "internal/body", want: "jsontext and text"},
		{file: "internal/normalize/normalize.go", path: "github.com/caddyserver/caddy/v2", want: "names.go"},
		{file: "internal/normalize/normalize.go", path: ours + "internal/body", want: "names.go"},
		{file: "internal/normalize/normalize.go", path: ours + "internal/jsontext"},
		{file: "event.go", path: ours + "internal/inbound", want: "names.go"},
		{file: "event.go", path: ours + "internal/normalize"},
		{file: "event.go", path: "github.com/caddyserver/caddy/v2", want: "names.go"},
		{file: "event.go", path: "go.uber.org/zap/zapcore", want: "names.go"},
		{file: "event.go", path: "golang.org/x/text/encoding/simplifiedchinese"},
		{file: "notify.go", path: "github.com/caddyserver/caddy/v2"},
		{file: "inbox/deliver.go", path: modulePath, want: "inbox never"},
		{file: "inbox/deliver.go", path: ours + "shouqianba", want: "inbox never"},
		{file: "inbox/boltstore/store.go", path: ours + "internal/sandbox", want: "inbox never"},
		{file: "inbox/handler.go", path: ours + "internal/inbound", want: "inbox never"},
		{file: "inbox/handler.go", path: ours + "internal/outbound", want: "inbox never"},
		{file: "inbox/handler.go", path: ours + "internal/verdict"},
		{file: "inbox/natsstore/store.go", path: ours + "inbox"},
		{file: "inbox/boltstore/store.go", path: ours + "inbox"},
		{file: "inbox/boltstore/store.go", path: ours + "inbox/natsstore", want: "engines"},
		{file: "inbox/app.go", path: ours + "inbox/natsstore", want: "engines"},
		{file: "inbox/app.go", path: ours + "inbox/boltstore"},
		{file: "shouqianba/module.go", path: modulePath, want: "shouqianba never"},
		{file: "shouqianba/module.go", path: ours + "internal/outbound"},
		{file: "module.go", path: ours + "shouqianba", want: "the root imports"},
		{file: "module.go", path: ours + "shouqianba", blank: true, want: "the root imports"},
		{file: "imports.go", path: ours + "shouqianba", want: "the root imports"},
		{file: "imports.go", path: ours + "shouqianba", blank: true},
		{file: "imports.go", path: ours + "inbox/natsstore", blank: true, want: "the root does not"},
		{file: "command.go", path: ours + "internal/sandbox"},
		{file: "watch/guard.go", path: modulePath, want: "watch imports"},
		{file: "watch/guard.go", path: ours + "inbox", want: "watch imports"},
		{file: "watch/guard.go", path: ours + "internal/outbound", want: "watch imports"},
		{file: "watch/guard.go", path: ours + "watch/boltstore", want: "the watch itself"},
		{file: "watch/guard.go", path: "github.com/caddyserver/caddy/v2", want: "the watch itself"},
		{file: "watch/guard.go", path: "go.uber.org/zap"},
		{file: "watch/natsstore/store.go", path: ours + "watch/boltstore", want: "watch imports"},
		{file: "watch/natsstore/store.go", path: ours + "watch"},
		{file: "watch/natsstore/module.go", path: ours + "internal/natsconn"},
		{file: "watch/boltstore/module.go", path: ours + "internal/boltfile"},
		{file: "watch/guard.go", path: ours + "internal/boltfile", want: "watch imports"},
		{file: "watch/boltstore/module.go", path: ours + "internal/natsconn", want: "natsconn is for"},
		{file: "module.go", path: ours + "internal/natsconn", want: "natsconn is for"},
		{file: "inbox/natsstore/store.go", path: ours + "internal/natsconn"},
		{file: "inbox/natsstore/store.go", path: ours + "internal/natstest", want: "natstest is for tests"},
		{file: "watch/natsstore/module.go", path: "github.com/caddyserver/caddy/v2"},
		{file: "module.go", path: ours + "watch"},
		{file: "imports.go", path: ours + "watch/natsstore", blank: true, want: "the root does not"},
		{file: "console/console.go", path: modulePath, want: "console imports"},
		{file: "console/console.go", path: ours + "watch", want: "console imports"},
		{file: "console/console.go", path: ours + "internal/doctor", want: "console imports"},
		{file: "console/console.go", path: ours + "internal/recent"},
		{file: "internal/recent/recent.go", path: "go.uber.org/zap", want: "recent imports"},
		{file: "internal/sandbox/chinaums.go", path: modulePath, want: "the sandbox"},
		{file: "internal/sandbox/chinaums.go", path: ours + "internal/inbound", want: "the sandbox"},
		{file: "internal/sandbox/chinaums.go", path: "github.com/caddyserver/caddy/v2", want: "the sandbox imports"},
		{file: "internal/sandbox/sandbox_test.go", path: modulePath, want: "the sandbox's tests"},
		{file: "internal/sandbox/page_test.go", path: ours + "internal/testutil/webdriver"},
		{file: "internal/sandbox/page_test.go", path: ours + "internal/testutil", want: "the sandbox's tests"},
		{file: "webhook/webhook.go", path: modulePath, want: "webhook"},
		{file: "webhook/webhook.go", path: ours + "internal/inbound", want: "webhook"},
		{file: "webhook/webhook.go", path: ours + "internal/body"},
		{file: "webhook/webhook.go", path: ours + "internal/secret"},
		{file: "webhook/webhook.go", path: ours + "internal/verdict", want: "webhook"},
		{file: "webhook/webhook_test.go", path: ours + "internal/sandbox", want: "webhook"},
		{file: "webhook/webhook.go", path: "github.com/caddyserver/caddy/v2"},
		{file: "internal/inbound/capture.go", path: modulePath, want: "internal packages"},
		{file: "internal/outbound/body.go", path: ours + "shouqianba", want: "internal packages"},
		{file: "internal/outbound/body.go", path: ours + "internal/sandbox", want: "internal packages"},
		{file: "internal/outbound/body.go", path: ours + "internal/secret"},
		{file: "internal/outbound/body.go", path: ours + "internal/dev", want: "internal packages"},
		{file: "internal/watched/watched.go", path: ours + "watch"},
		{file: "internal/watched/watched.go", path: ours + "inbox", want: "internal packages"},
		{file: "internal/watched/watched.go", path: ours + "watch/boltstore", want: "internal packages"},
		{file: "internal/platform/platform.go", path: ours + "watch", want: "internal packages"},
		{file: "internal/platform/platform.go", path: modulePath, want: "internal packages"},
		{file: "internal/platform/platform.go", path: ours + "shouqianba", want: "internal packages"},
		{file: "internal/platform/platform.go", path: ours + "internal/outbound"},
		{file: "internal/dev/dev.go", path: modulePath, want: "dev imports"},
		{file: "internal/dev/dev.go", path: ours + "shouqianba", want: "dev imports"},
		{file: "internal/dev/dev.go", path: ours + "internal/sandbox"},
		{file: "internal/outbound/body.go", path: ours + "internal/cli", want: "internal packages"},
		{file: "internal/doctor/report.go", path: "github.com/caddyserver/caddy/v2", want: "doctor"},
		{file: "internal/doctor/report.go", path: ours + "internal/outbound", want: "doctor"},
		{file: "internal/doctor/report.go", path: ours + "internal/normalize"},
		{file: "internal/cli/accounts.go", path: modulePath, want: "cli imports"},
		{file: "internal/cli/accounts.go", path: ours + "inbox", want: "cli imports"},
		{file: "internal/cli/sandbox.go", path: ours + "internal/sandbox"},
		{file: "inbox/command.go", path: ours + "internal/cli", want: "inbox never"},
		{file: "inbox/command.go", path: ours + "internal/adminapi"},
		{file: "command_sandbox.go", path: ours + "internal/dev"},
	} {
		t.Run(test.file+" imports "+test.path, func(t *testing.T) {
			s := source{file: test.file, test: strings.HasSuffix(test.file, "_test.go")}
			var refusing []string
			for _, door := range doors {
				if door.files(s) && (!s.test || door.tests) && door.closed(s, imported{test.path, test.blank}) {
					refusing = append(refusing, door.name)
				}
			}
			if test.want == "" && len(refusing) > 0 {
				t.Errorf("refused by %q", refusing)
			}
			if test.want != "" && !slices.ContainsFunc(refusing, func(name string) bool { return strings.HasPrefix(name, test.want) }) {
				t.Errorf("refused by %q, want %q", refusing, test.want)
			}
		})
	}
}

// TestRooms: what somebody who opens the repository has to find.
func TestRooms(t *testing.T) {
	for _, file := range []string{
		"module.go", "caddyfile.go", "names.go", "signer.go", "fields.go", "event.go", "notify.go", "proxy.go", "guard.go",
		"webhook/webhook.go", "webhook/sign.go", "webhook/caddyfile.go",
		"cmd/caddy/main.go", "testdata/vectors",
		"LICENSE", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", ".golangci.yml", ".gitignore",
		".ci/run", ".github/workflows/ci.yml",
	} {
		if _, err := os.Stat(filepath.FromSlash(file)); err != nil {
			t.Errorf("missing: %v", err)
		}
	}
}
