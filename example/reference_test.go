package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// The reference has to have every word that the code has: the lists come from the code's syntax and from the commands'
// own flags, so that a new word fails these tests until it is on the page, in both languages.

// packageFiles parses a directory's Go files, without its tests.
func packageFiles(t *testing.T, directory string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(directory), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		t.Fatalf("%s has no Go files", directory)
	}
	return files
}

// productDirectories are where the words come from.
var productDirectories = []string{
	".", "shouqianba", "webhook", "inbox", "inbox/boltstore", "inbox/natsstore",
	"internal/boltfile", "internal/natsconn",
	"internal/outbound", "internal/inbound", "internal/syntax", "internal/verdict", "internal/watched",
	"watch", "watch/boltstore", "watch/natsstore",
}

// constants are the string constants of these files, by their names.
func constants(files []*ast.File) map[string]string {
	values := make(map[string]string)
	for _, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			if spec, ok := node.(*ast.ValueSpec); ok {
				for i, name := range spec.Names {
					if i < len(spec.Values) {
						if text, ok := literal(spec.Values[i]); ok {
							values[name.Name] = text
						}
					}
				}
			}
			return true
		})
	}
	return values
}

// literal is the text of a string literal.
func literal(node ast.Node) (string, bool) {
	basic, ok := node.(*ast.BasicLit)
	if !ok || basic.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(basic.Value)
	return text, err == nil
}

// text is the value of a literal or of a constant's name.
func text(node ast.Expr, values map[string]string) (string, bool) {
	switch node := node.(type) {
	case *ast.BasicLit:
		return literal(node)
	case *ast.Ident:
		value, ok := values[node.Name]
		return value, ok
	case *ast.SelectorExpr:
		value, ok := values[node.Sel.Name]
		return value, ok
	}
	return "", false
}

// called is the name of the function or method that is called.
func called(call *ast.CallExpr) string {
	switch function := call.Fun.(type) {
	case *ast.Ident:
		return function.Name
	case *ast.SelectorExpr:
		return function.Sel.Name
	}
	return ""
}

// returned are the words that a function returns as its last string.
func returned(function *ast.FuncDecl, values map[string]string, found map[string]bool) {
	ast.Inspect(function.Body, func(node ast.Node) bool {
		if result, ok := node.(*ast.ReturnStmt); ok && len(result.Results) > 0 {
			if word, ok := text(result.Results[0], values); ok && word != "" {
				found[word] = true
			}
		}
		return true
	})
}

// codeReasons are the words that the code gives as a reason.
func codeReasons(t *testing.T) map[string]bool {
	found := make(map[string]bool)
	add := func(node ast.Expr, values map[string]string) {
		if word, ok := text(node, values); ok && word != "" {
			found[word] = true
		}
	}
	word := regexp.MustCompile(`^[a-z][a-z_]*$`)
	for _, directory := range []string{".", "shouqianba", "internal/outbound", "internal/inbound", "internal/watched", "inbox"} {
		files := packageFiles(t, directory)
		values := constants(files)
		for name, value := range values {
			if strings.HasPrefix(strings.ToLower(name), "reason") && word.MatchString(value) {
				found[value] = true
			}
		}
		for _, file := range files {
			ast.Inspect(file, func(node ast.Node) bool {
				switch node := node.(type) {
				case *ast.FuncDecl: // functions that return a reason
					switch node.Name.Name {
					case "check", "refusal", "putReason", "parseReason":
						if directory != "inbox" || node.Name.Name == "putReason" {
							returned(node, values, found)
						}
					}
				case *ast.CallExpr:
					switch called(node) {
					case "because", "Invalid", "newParseError", "storeFailed":
						add(node.Args[0], values)
					case "internal":
						if len(node.Args) == 3 {
							add(node.Args[1], values)
						}
					case "warn":
						if directory == "inbox" {
							add(node.Args[0], values)
						}
					}
				case *ast.KeyValueExpr:
					if key, ok := node.Key.(*ast.Ident); ok && (key.Name == "Reason" || key.Name == "reason") {
						add(node.Value, values)
					}
				case *ast.AssignStmt:
					for i, target := range node.Lhs {
						if name, ok := target.(*ast.Ident); ok && name.Name == "reason" && len(node.Lhs) == len(node.Rhs) {
							add(node.Rhs[i], values)
						}
					}
				}
				return true
			})
		}
	}
	return found
}

// codeOptions are the words that the Caddyfile forms read as options, and those that an option takes as its value.
func codeOptions(t *testing.T) map[string]bool {
	found := make(map[string]bool)
	var all []*ast.File
	for _, directory := range productDirectories {
		all = append(all, packageFiles(t, directory)...)
	}
	values := constants(all)
	add := func(expression ast.Expr) {
		if word, ok := text(expression, values); ok && word != "" {
			found[word] = true
		}
	}
	// What a parser looks at: d.Val(), or a variable of this name.
	isOption := func(expression ast.Expr) bool {
		switch expression := expression.(type) {
		case *ast.CallExpr:
			return called(expression) == "Val"
		case *ast.Ident:
			return expression.Name == "option"
		}
		return false
	}
	for _, file := range all {
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.SwitchStmt:
				if !isOption(node.Tag) {
					return true
				}
				for _, clause := range node.Body.List {
					for _, expression := range clause.(*ast.CaseClause).List {
						add(expression)
					}
				}
			case *ast.BinaryExpr: // d.Val() == "confirm"
				if isOption(node.X) && (node.Op == token.EQL || node.Op == token.NEQ) {
					add(node.Y)
				}
			case *ast.CallExpr:
				if called(node) == "Word" {
					for _, argument := range node.Args {
						add(argument)
					}
				}
			}
			return true
		})
	}
	return found
}

// sectionOf returns a page's section by its English heading; of the Chinese page the one at the same place.
func sectionOf(t *testing.T, page, heading string) string {
	t.Helper()
	split := func(page string) []string {
		return strings.Split(fence.ReplaceAllStringFunc(readme(t, page), func(block string) string {
			return strings.ReplaceAll(block, "\n## ", "\n")
		}), "\n## ")
	}
	english := split(strings.Replace(page, "docs/zh/", "docs/en/", 1))
	for i, section := range english {
		if name, _, _ := strings.Cut(section, "\n"); name == heading {
			return split(page)[i]
		}
	}
	t.Fatalf("%s has no section %s", page, heading)
	return ""
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// words are the words in code of a text, each by itself.
func words(text string) map[string]bool {
	found := make(map[string]bool)
	for _, span := range codeSpan.FindAllStringSubmatch(text, -1) {
		for _, word := range strings.FieldsFunc(span[1], func(r rune) bool {
			return r != '_' && r != '-' && r != '.' && r != '{' && r != '}' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			found[word] = true
		}
	}
	return found
}

// firstCells are the first cells of a text's tables, a line each.
func firstCells(text string) string {
	var cells strings.Builder
	for line := range strings.Lines(text) {
		if row, ok := strings.CutPrefix(line, "| "); ok {
			cell, _, _ := strings.Cut(row, " | ")
			cells.WriteString(cell + "\n")
		}
	}
	return cells.String()
}

// inBoth says which of the words are missing in a section, in either language.
func inBoth(t *testing.T, heading string, part func(string) string, expected map[string]bool) {
	t.Helper()
	for _, page := range []string{referencePage, strings.Replace(referencePage, "docs/en/", "docs/zh/", 1)} {
		shown := words(part(sectionOf(t, page, heading)))
		for _, word := range slices.Sorted(maps.Keys(expected)) {
			if !shown[word] {
				t.Errorf("%s, section %q, does not have `%s`", page, heading, word)
			}
		}
	}
}

// notMore says which words of a section the code does not have.
func notMore(t *testing.T, heading string, part func(string) string, known map[string]bool) {
	t.Helper()
	for _, word := range slices.Sorted(maps.Keys(words(part(sectionOf(t, referencePage, heading))))) {
		if !known[word] {
			t.Errorf("%s, section %q, has `%s`, which the code does not", referencePage, heading, word)
		}
	}
}

func whole(text string) string { return text }

func TestReferenceHasEveryOption(t *testing.T) {
	options := codeOptions(t)
	if len(options) < 50 || !options["notify_key"] || !options["access_token"] || !options["replicas"] {
		t.Errorf("only %d options were found in the code: %v", len(options), slices.Sorted(maps.Keys(options)))
	}
	inBoth(t, "Options", whole, options)
}

func TestReferenceHasEveryReason(t *testing.T) {
	reasons := codeReasons(t)
	if len(reasons) < 50 || !reasons["signature"] || !reasons["named_address"] || !reasons["full"] {
		t.Errorf("only %d reasons were found in the code: %v", len(reasons), slices.Sorted(maps.Keys(reasons)))
	}
	inBoth(t, "Reasons", firstCells, reasons)
	notMore(t, "Reasons", firstCells, reasons)
}

// The codes, metrics, events and types stand in the code as what they are.
func TestReferenceHasEveryName(t *testing.T) {
	codes, metrics, events := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	types := map[string]map[string]bool{"chinaums": {}, "shouqianba": {}}
	code := regexp.MustCompile(`^GATEWAY_[A-Z_]+$`)
	eventType := regexp.MustCompile(`^com\.(chinaums|shouqianba)\.([a-z]+\.[a-z_]+)$`)
	platforms := []string{"chinaums", "shouqianba"}
	for _, directory := range productDirectories {
		for _, file := range packageFiles(t, directory) {
			ast.Inspect(file, func(node ast.Node) bool {
				switch node := node.(type) {
				case *ast.BasicLit:
					word, _ := literal(node)
					if code.MatchString(word) {
						codes[word] = true
					}
					if match := eventType.FindStringSubmatch(word); match != nil {
						types[match[1]][match[2]] = true
					}
				case *ast.CompositeLit: // prometheus.Opts
					parts := make(map[string]string)
					for _, element := range node.Elts {
						if pair, ok := element.(*ast.KeyValueExpr); ok {
							if key, ok := pair.Key.(*ast.Ident); ok {
								parts[key.Name], _ = literal(pair.Value)
							}
						}
					}
					if parts["Namespace"] == "caddy" {
						subsystems := []string{parts["Subsystem"]}
						switch {
						case directory == "internal/watched", subsystems[0] == "": // both platforms'
							subsystems = platforms
						}
						for _, subsystem := range subsystems {
							metrics["caddy_"+subsystem+"_"+parts["Name"]] = true
						}
					}
				case *ast.CallExpr:
					switch called(node) {
					case "newFamily":
						for _, name := range familyTypes(node) {
							types["chinaums"][name] = true
						}
					case "NewDesc":
						if name, ok := literal(node.Args[0]); ok {
							metrics[name] = true
						}
					case "say": // of the watch
						if name, ok := literal(node.Args[1]); ok {
							for _, platform := range platforms {
								events[platform+"."+name] = true
							}
						}
					case "Emit", "emit", "events":
						for _, argument := range node.Args {
							if name, ok := literal(argument); ok {
								events[name] = true
							}
							if sum, ok := argument.(*ast.BinaryExpr); ok {
								if name, ok := literal(sum.Y); ok {
									for _, platform := range platforms {
										events[platform+name] = true
									}
								}
							}
						}
					}
				}
				return true
			})
		}
	}
	if len(codes) < 8 || len(metrics) < 13 || len(events) < 6 || len(types["chinaums"]) < 20 || len(types["shouqianba"]) < 9 {
		t.Errorf("too little was found in the code: %v %v %v %v", codes, metrics, events, types)
	}
	inBoth(t, "The gateway's own codes", firstCells, codes)
	notMore(t, "The gateway's own codes", func(text string) string { return strings.ReplaceAll(firstCells(text), "`errCode`", "") }, codes)
	inBoth(t, "Metrics", firstCells, metrics)
	notMore(t, "Metrics", firstCells, metrics)
	inBoth(t, "Caddy events", firstCells, events)
	notMore(t, "Caddy events", firstCells, events)
	for i, platform := range platforms {
		table := func(text string) string { return firstCells(strings.Split(text, "| `Ce-Type`")[i+1]) }
		inBoth(t, "Event types", table, types[platform])
	}
}

// familyTypes are the types of a family of events: its name, and the names of its states.
func familyTypes(call *ast.CallExpr) []string {
	family, _ := literal(field(call.Args[0], "name"))
	states := field(call.Args[0], "states")
	if variable, ok := states.(*ast.Ident); ok && variable.Obj != nil {
		states = variable.Obj.Decl.(*ast.ValueSpec).Values[0]
	}
	types := []string{family + ".unknown"}
	for _, state := range states.(*ast.CompositeLit).Elts {
		if name, _ := literal(state.(*ast.KeyValueExpr).Value.(*ast.CompositeLit).Elts[0]); name != "" {
			types = append(types, family+"."+name)
		}
	}
	return types
}

// field is the value of a field in a composite literal.
func field(expression ast.Expr, name string) ast.Expr {
	for _, element := range expression.(*ast.CompositeLit).Elts {
		if pair := element.(*ast.KeyValueExpr); pair.Key.(*ast.Ident).Name == name {
			return pair.Value
		}
	}
	return nil
}

// The placeholders are the names that the handlers' own functions know.
func TestReferenceHasEveryPlaceholder(t *testing.T) {
	found := make(map[string]bool)
	for directory, platforms := range map[string][]string{
		".": {"chinaums"}, "shouqianba": {"shouqianba"}, "internal/inbound": {"chinaums", "shouqianba"}, "internal/outbound": {"chinaums", "shouqianba"},
	} {
		for _, file := range packageFiles(t, directory) {
			ast.Inspect(file, func(node ast.Node) bool {
				function, ok := node.(*ast.FuncDecl)
				if !ok || function.Name.Name != "word" && function.Name.Name != "placeholders" && function.Name.Name != "Placeholders" {
					return true
				}
				ast.Inspect(function.Body, func(node ast.Node) bool {
					if clause, ok := node.(*ast.CaseClause); ok {
						for _, expression := range clause.List {
							if name, ok := literal(expression); ok {
								for _, platform := range platforms {
									found["{http."+platform+"."+name+"}"] = true
								}
							}
						}
					}
					return true
				})
				return false
			})
		}
	}
	if len(found) < 18 {
		t.Errorf("only %v were found in the code", found)
	}
	inBoth(t, "Placeholders", whole, found)
}

// Every command and every flag, as the program itself has them.
func TestReferenceHasEveryCommand(t *testing.T) {
	page := func(page string) map[string]map[string]bool {
		shown := make(map[string]map[string]bool)
		for line := range strings.Lines(sectionOf(t, page, "Commands")) {
			cells := strings.Split(line, " | ")
			if len(cells) < 2 || !strings.HasPrefix(cells[0], "| `caddy ") {
				continue
			}
			flags := make(map[string]bool)
			for _, span := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
				if flag, ok := strings.CutPrefix(span[1], "--"); ok {
					name, _, _ := strings.Cut(flag, " ")
					flags[name] = true
				}
			}
			shown[strings.Trim(cells[0], "| `")] = flags
		}
		return shown
	}
	commands := make(map[string]*cobra.Command)
	for _, name := range []string{"chinaums", "shouqianba", "inbox"} {
		command := &cobra.Command{Use: name}
		registered, ok := caddycmd.Commands()[name]
		if !ok || registered.CobraFunc == nil {
			t.Fatalf("there is no command %s", name)
		}
		registered.CobraFunc(command)
		for _, sub := range command.Commands() {
			commands["caddy "+name+" "+sub.Name()] = sub
		}
	}
	if len(commands) < 9 {
		t.Errorf("only %d commands were found", len(commands))
	}
	for _, name := range []string{referencePage, strings.Replace(referencePage, "docs/en/", "docs/zh/", 1)} {
		shown := page(name)
		for full, command := range commands {
			flags, ok := shown[full]
			if !ok {
				t.Errorf("%s does not have %s", name, full)
				continue
			}
			known := make(map[string]bool)
			visit := func(flag *pflag.Flag) {
				known[flag.Name] = true
				if !flag.Hidden && !flags[flag.Name] {
					t.Errorf("%s: %s does not have --%s", name, full, flag.Name)
				}
			}
			command.NonInheritedFlags().VisitAll(visit)
			command.InheritedFlags().VisitAll(visit)
			for flag := range flags {
				if !known[flag] {
					t.Errorf("%s: %s has no --%s", name, full, flag)
				}
			}
		}
		for full := range shown {
			if commands[full] == nil {
				t.Errorf("%s has %s, which does not exist", name, full)
			}
		}
	}
}

// The lines and load errors that the pages quote are the code's.
func TestQuotedLogLines(t *testing.T) {
	var code strings.Builder
	for _, directory := range productDirectories {
		names, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(directory), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(content)
		}
	}
	quoted := 0
	for _, cells := range []string{
		firstCells(sectionOf(t, operatePage, "Logs")), firstCells(sectionOf(t, troublePage, "Notifications")), firstCells(sectionOf(t, troublePage, "The inbox")),
	} {
		for _, span := range codeSpan.FindAllStringSubmatch(cells, -1) {
			line, _, _ := strings.Cut(span[1], "…")
			if !strings.Contains(line, " ") {
				continue
			}
			quoted++
			if !strings.Contains(code.String(), `"`+line) {
				t.Errorf("no line of the code begins with %q", line)
			}
		}
	}
	if quoted < 15 {
		t.Errorf("only %d lines were found", quoted)
	}
}

// The generators and versions that the reference names are those that TestClients runs.
func TestReferenceClients(t *testing.T) {
	tested, err := os.ReadFile("../clients_test.go")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`[\w./@-]+@v?\d+\.\d+\.\d+`)
	shown := version.FindAllString(sectionOf(t, referencePage, "Generate a client"), -1)
	if len(shown) < 6 {
		t.Fatalf("only %v were found", shown)
	}
	for _, name := range shown {
		if !strings.Contains(string(tested), `"`+name+`"`) {
			t.Errorf("clients_test.go does not run %s", name)
		}
	}
}

// TestHelpInChinese: where the locale is Chinese, no text of a command's help is left in English.
func TestHelpInChinese(t *testing.T) {
	for _, name := range []string{"chinaums", "shouqianba", "inbox"} {
		registered := caddycmd.Commands()[name]
		newCommand := func() *cobra.Command {
			command := &cobra.Command{Use: name, Short: registered.Short, Long: registered.Long}
			registered.CobraFunc(command)
			return command
		}
		t.Setenv("LC_ALL", "C")
		for _, text := range locale.MissingHelp(newCommand()) {
			t.Errorf("%s: no Chinese of %q", name, text)
		}
		t.Setenv("LC_ALL", "zh_CN.UTF-8")
		var help strings.Builder
		command := newCommand()
		command.SetOut(&help)
		if err := command.Help(); err != nil || !regexp.MustCompile(`\p{Han}`).MatchString(help.String()) {
			t.Errorf("%s: %v\n%s", name, err, help.String())
		}
	}
}
