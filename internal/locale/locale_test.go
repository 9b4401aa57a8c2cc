package locale

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestChinese(t *testing.T) {
	for _, c := range []struct {
		all, messages, lang string
		want                bool
	}{
		{"", "", "", false},
		{"", "", "zh_CN.UTF-8", true},
		{"", "", "zh-TW", true},
		{"C.UTF-8", "", "zh_CN.UTF-8", false},
		{"", "en_US.UTF-8", "zh_CN.UTF-8", false},
		{"", "ZH_CN", "en_US.UTF-8", true},
	} {
		t.Setenv("LC_ALL", c.all)
		t.Setenv("LC_MESSAGES", c.messages)
		t.Setenv("LANG", c.lang)
		if Chinese() != c.want {
			t.Errorf("%+v", c)
		}
	}
}

func TestErrorf(t *testing.T) {
	cause := errors.New("cause")
	t.Setenv("LC_ALL", "en_US.UTF-8")
	if err := Errorf("merchant %s: %w", "shop", cause); err.Error() != "merchant shop: cause" || !errors.Is(err, cause) {
		t.Error(err)
	}
	t.Setenv("LC_ALL", "zh_CN.UTF-8")
	if err := Errorf("merchant %s: %w", "shop", cause); err.Error() != "商户 shop：cause" || !errors.Is(err, cause) {
		t.Error(err)
	}
	if err := Errorf("no such message %d", 1); err.Error() != "no such message 1" {
		t.Error(err)
	}
}

var verb = regexp.MustCompile(`%(?:\[(\d+)\])?[.\d+#]*([a-zA-Z%])`)

// verbs returns the verbs of a format by the number of their argument.
func verbs(format string) (found []string) {
	next := 1
	for _, match := range verb.FindAllStringSubmatch(format, -1) {
		if match[2] == "%" {
			continue
		}
		if match[1] != "" {
			next, _ = strconv.Atoi(match[1])
		}
		found = append(found, strconv.Itoa(next)+match[2])
		next++
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// TestCatalogue: every message that this module gives through this package is in the catalog, with the same verbs,
// and the catalog holds no other.
func TestCatalogue(t *testing.T) {
	used := make(map[string]string)
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			function, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if room, ok := function.X.(*ast.Ident); !ok || room.Name != "locale" || function.Sel.Name != "Errorf" {
				return true
			}
			text, ok := constant(call.Args[0])
			if !ok {
				t.Errorf("%s: the message of a call of locale.Errorf is not a constant", path)
			}
			used[text] = path
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for text, path := range used {
		translated, ok := catalog[text]
		if !ok {
			t.Errorf("%s: the catalog has no %q", path, text)
		} else if !slices.Equal(verbs(text), verbs(translated)) {
			t.Errorf("%q: the verbs are %v, not %v", translated, verbs(translated), verbs(text))
		}
	}
	for text := range catalog {
		if used[text] == "" {
			t.Errorf("nobody says %q", text)
		}
	}
}

// constant returns the value of a string literal, or of several that are added.
func constant(expression ast.Expr) (string, bool) {
	switch e := expression.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, ok := constant(e.X)
		right, also := constant(e.Y)
		return left + right, ok && also && e.Op == token.ADD
	}
	return "", false
}
