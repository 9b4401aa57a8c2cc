package inbox

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func fill(t *testing.T, text string, values map[string]string) (string, bool) {
	t.Helper()
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(key string) (any, bool) { value, ok := values[key]; return value, ok })
	filled, empty, err := newTemplate(text).fill(repl, nil)
	if err != nil {
		t.Fatal(err)
	}
	return filled, empty
}

func TestTemplate(t *testing.T) {
	type values = map[string]string
	for name, test := range map[string]struct {
		text   string
		values values
		want   string // "sha256:" for a digest
		empty  bool
	}{
		"both":                      {"{a}#{b}", values{"a": "x", "b": "y"}, "x#y", false},
		"the first empty":           {"{a}#{b}", values{"a": "", "b": "y"}, "#y", false},
		"one unknown":               {"{a}#{b}", values{"a": "x"}, "x#", false},
		"both empty":                {"{a}#{b}", values{"a": "", "b": ""}, "#", true},
		"both unknown":              {"{a}#{b}", nil, "#", true},
		"the mark in a value":       {"{a}#{b}", values{"a": "x#", "b": "y"}, "sha256:", false},
		"the mark in the other":     {"{a}#{b}", values{"a": "x", "b": "#y"}, "sha256:", false},
		"the mark around":           {"#{a}#{b}#", values{"a": "x", "b": "y"}, "#x#y#", false},
		"an escaped brace":          {`\{{a}`, values{"a": "x"}, "{x", false},
		"a long value":              {"{a}", values{"a": strings.Repeat("x", maxID+1)}, "sha256:", false},
		"as long as may be":         {"{a}", values{"a": strings.Repeat("x", maxID)}, strings.Repeat("x", maxID), false},
		"one value holds anything":  {"id-{a}", values{"a": "id-#{}"}, "id-id-#{}", false},
		"the same mark twice":       {"{a}/{b}/{c}", values{"a": "1", "b": "2", "c": "3"}, "1/2/3", false},
		"and once too often":        {"{a}/{b}/{c}", values{"a": "1", "b": "2/", "c": "3"}, "sha256:", false},
		"side by side":              {"{a}{b}", values{"a": "1", "b": "23"}, "sha256:", false},
		"side by side, with a mark": {"{a}#{b}{c}", values{"a": "1", "b": "2", "c": "3"}, "sha256:", false},
		"a mark of two may overlap": {"{a}##{b}", values{"a": "1#", "b": "2"}, "sha256:", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, empty := fill(t, test.text, test.values)
			if empty != test.empty {
				t.Errorf("empty: %v", empty)
			}
			if test.want == "sha256:" && len(got) == 7+64 {
				got = got[:7]
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// TestTemplateDigestIsNoValue: a value that looks like the digest of another one was the same text. Whoever chose it could have
// another's message taken for a repetition, or, by order_by, hold it up.
func TestTemplateDigestIsNoValue(t *testing.T) {
	digest, _ := fill(t, "{a}", map[string]string{"a": strings.Repeat("x", maxID+1)})
	if forged, _ := fill(t, "{a}", map[string]string{"a": digest}); forged == digest || len(forged) != len(digest) {
		t.Errorf("%q and its digest are both %q", digest, forged)
	}
}

// TestTemplateSideBySide: placeholders with nothing between them make one text for one choice of values only.
func TestTemplateSideBySide(t *testing.T) {
	first, _ := fill(t, "{a}{b}", map[string]string{"a": "1", "b": "23"})
	second, _ := fill(t, "{a}{b}", map[string]string{"a": "12", "b": "3"})
	again, _ := fill(t, "{a}{b}", map[string]string{"a": "12", "b": "3"})
	if first == second || second != again {
		t.Errorf("%q, %q and %q", first, second, again)
	}
}

// FuzzTemplate: what differs stays different, in whatever way the values are cut.
func FuzzTemplate(f *testing.F) {
	f.Add("#", "a", "b#c", "a#b", "c")
	f.Add("##", "a#", "b", "a", "#b")
	f.Add("aa", "a", "", "", "a")
	f.Fuzz(func(t *testing.T, literal, a, b, c, d string) {
		if literal == "" || strings.ContainsAny(literal, "{}\\\x00") {
			return
		}
		text := "{1}" + literal + "{2}"
		first, _ := fill(t, text, map[string]string{"1": a, "2": b})
		second, _ := fill(t, text, map[string]string{"1": c, "2": d})
		if same := a == c && b == d; same != (first == second) && !strings.HasPrefix(first, "sha256:") && !strings.HasPrefix(second, "sha256:") {
			t.Errorf("%q, %q and %q, %q: %q and %q", a, b, c, d, first, second)
		}
	})
}
