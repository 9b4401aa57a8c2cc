package main

import (
	"encoding/json"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// Caddy's site shows a module by the comment of its type. So each of ours says there how it is written in a Caddyfile
// and in JSON, and both are the same.

const (
	ours = "github.com/caddy-chinaums/caddy-chinaums"

	inCaddyfile = "In a Caddyfile:"
	inJSON      = "In JSON:"
)

// inlineKeys name a module where it is configured, by its namespace. Of an app it is the key below apps.
var inlineKeys = map[string]string{
	"http.handlers":                "handler",
	"http.reverse_proxy.transport": "protocol",
	"http.reverse_proxy.upstreams": "source",
	"inbox.stores":                 "store",
	"watch.stores":                 "store",
}

func TestModuleDocs(t *testing.T) {
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	t.Setenv("SQB_PUBLIC_KEY", platform.PublicKey())
	for _, name := range []string{
		"UMS_APP_ID", "UMS_APP_KEY", "UMS_NOTIFY_KEY", "UMS_MID", "APP_SECRET", "GATEWAY_TOKEN", "SQB_TERMINAL_SN", "SQB_TERMINAL_KEY",
	} {
		t.Setenv(name, "made-up-"+strings.ToLower(name))
	}
	seen := 0
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		of := reflect.Indirect(reflect.ValueOf(info.New())).Type()
		if of.PkgPath() != ours && !strings.HasPrefix(of.PkgPath(), ours+"/") {
			continue
		}
		seen++
		t.Run(id, func(t *testing.T) {
			text := typeComment(t, of)
			if router, ok := info.New().(caddy.AdminRouter); ok {
				checkRoutes(t, text, router)
				return
			}
			checkExamples(t, info, example(t, text, inCaddyfile), example(t, text, inJSON))
		})
	}
	if seen < 18 {
		t.Errorf("only %d modules are ours", seen)
	}
}

// typeComment returns the comment of a type, as written.
func typeComment(t *testing.T, of reflect.Type) string {
	t.Helper()
	directory := filepath.Join("..", "..", filepath.FromSlash(strings.TrimPrefix(of.PkgPath(), ours)))
	files, err := filepath.Glob(filepath.Join(directory, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", directory, err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			types, ok := declaration.(*ast.GenDecl)
			if !ok || len(types.Specs) != 1 {
				continue
			}
			if spec, ok := types.Specs[0].(*ast.TypeSpec); ok && spec.Name.Name == of.Name() {
				return types.Doc.Text()
			}
		}
	}
	t.Fatalf("%s has no type %s", directory, of.Name())
	return ""
}

// example returns the code that follows a line of a comment.
func example(t *testing.T, text, after string) string {
	t.Helper()
	content := new(comment.Parser).Parse(text).Content
	for i, block := range content {
		paragraph, ok := block.(*comment.Paragraph)
		if !ok || i+1 == len(content) || len(paragraph.Text) != 1 || paragraph.Text[0] != comment.Plain(after) {
			continue
		}
		if code, ok := content[i+1].(*comment.Code); ok {
			return code.Text
		}
	}
	t.Fatalf("the comment has no code after %q:\n%s", after, text)
	return ""
}

// checkRoutes finds each route of an admin API in its comment.
func checkRoutes(t *testing.T, text string, router caddy.AdminRouter) {
	t.Helper()
	var lines []string
	for _, block := range new(comment.Parser).Parse(text).Content {
		if code, ok := block.(*comment.Code); ok {
			lines = append(lines, strings.Split(code.Text, "\n")...)
		}
	}
	for _, route := range router.Routes() {
		if strings.HasSuffix(route.Pattern, "/") { // whatever else there is not
			continue
		}
		path := strings.NewReplacer("{", "<", "}", ">").Replace(route.Pattern)
		if !slices.ContainsFunc(lines, func(line string) bool {
			words := strings.Fields(line)
			return len(words) > 2 && strings.ToUpper(words[0]) == words[0] && words[1] == path
		}) {
			t.Errorf("the comment does not tell of %s:\n%s", path, text)
		}
	}
}

// checkExamples adapts the one example, validates it, and puts the other one into its place.
func checkExamples(t *testing.T, info caddy.ModuleInfo, shown, asJSON string) {
	t.Helper()
	if !strings.HasPrefix(shown, "{\n") { // directives, of a site
		shown = "{\n\tchinaums {\n\t\tmerchant shop {\n\t\t\tapp_id {env.UMS_APP_ID}\n\t\t\tapp_key {env.UMS_APP_KEY}\n" +
			"\t\t\tnotify_key {env.UMS_NOTIFY_KEY}\n\t\t}\n\t}\n\tshouqianba {\n\t\tterminal till {\n\t\t\tterminal_sn {env.SQB_TERMINAL_SN}\n" +
			"\t\t\tterminal_key {env.SQB_TERMINAL_KEY}\n\t\t\tpublic_key {env.SQB_PUBLIC_KEY}\n\t\t}\n\t}\n}\n\nhttp://:8901 {\n\t" +
			strings.ReplaceAll(strings.TrimSuffix(shown, "\n"), "\n", "\n\t") + "\n}\n"
	}
	if formatted := string(caddyfile.Format([]byte(shown))); formatted != shown {
		t.Errorf("caddy fmt writes the Caddyfile otherwise:\n%s", formatted)
	}
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(shown), map[string]any{"filename": "Caddyfile"})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, %v\n%s", err, warnings, shown)
	}
	var document map[string]any
	if err := json.Unmarshal(config, &document); err != nil {
		t.Fatal(err)
	}
	document["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	document["storage"] = map[string]any{"module": "file_system", "root": t.TempDir()}
	document["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "FATAL"}}}
	validate(t, document)

	var told map[string]any
	if err := json.Unmarshal([]byte(asJSON), &told); err != nil {
		t.Fatalf("%v\n%s", err, asJSON)
	}
	places := find(document, info)
	if len(places) != 1 {
		t.Fatalf("the adapted Caddyfile has the module %d times, not once:\n%s", len(places), config)
	}
	adapted, _ := json.MarshalIndent(places[0].get(), "", "\t")
	if one, other := decoded(t, info, places[0].get()), decoded(t, info, told); !reflect.DeepEqual(one, other) {
		t.Errorf("the JSON is not what the Caddyfile adapts to:\n%s\n%s", asJSON, adapted)
	}
	places[0].set(told)
	validate(t, document)
}

func validate(t *testing.T, document map[string]any) {
	t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(content, config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(config); err != nil {
		t.Errorf("%v\n%s", err, content)
	}
}

// place is where a module stands in a document.
type place struct {
	in  map[string]any
	key string
	at  []any // instead of in and key: at[0]
}

func (p place) get() any {
	if p.at != nil {
		return p.at[0]
	}
	return p.in[p.key]
}

func (p place) set(value any) {
	if p.at != nil {
		p.at[0] = value
		return
	}
	p.in[p.key] = value
}

// find returns the places of a module in a document.
func find(document map[string]any, info caddy.ModuleInfo) (places []place) {
	name, inline := info.ID.Name(), inlineKeys[info.ID.Namespace()]
	if inline == "" {
		apps, _ := document["apps"].(map[string]any)
		if _, ok := apps[name]; ok {
			places = append(places, place{in: apps, key: name})
		}
		return places
	}
	is := func(value any) bool {
		object, _ := value.(map[string]any)
		return object[inline] == name
	}
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, member := range value {
				if is(member) {
					places = append(places, place{in: value, key: key})
				}
				walk(member)
			}
		case []any:
			for i, element := range value {
				if is(element) {
					places = append(places, place{at: value[i : i+1]})
				}
				walk(element)
			}
		}
	}
	walk(document)
	return places
}

// decoded is an example as its module reads it, so that 10s and its nanoseconds are one.
func decoded(t *testing.T, info caddy.ModuleInfo, value any) any {
	t.Helper()
	object, _ := value.(map[string]any)
	plain := make(map[string]any)
	for name, member := range object {
		if name != inlineKeys[info.ID.Namespace()] {
			plain[name] = member
		}
	}
	content, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	module := info.New()
	if err := caddy.StrictUnmarshalJSON(content, module); err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	if content, err = json.Marshal(module); err != nil {
		t.Fatal(err)
	}
	var read any
	if err := json.Unmarshal(content, &read); err != nil {
		t.Fatal(err)
	}
	return read
}
