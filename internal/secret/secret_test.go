package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	t.Setenv("SECRET_TEST", "value")
	t.Setenv("SECRET_TEST_EMPTY", "")
	t.Setenv("SECRET_TEST_BLANK", " \t ")
	t.Setenv("SECRET_TEST_BRACES", `{env.SECRET_TEST}a\{b`)
	file := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + path + "}"
	}

	for _, test := range []struct {
		name, raw string
		value     string
		literal   bool
		err       string // a part of the error
	}{
		{name: "a variable", raw: "{env.SECRET_TEST}", value: "value"},
		{name: "two", raw: "{env.SECRET_TEST}-{env.SECRET_TEST}", value: "value-value"},
		{name: "text around", raw: " a{env.SECRET_TEST}b ", value: "avalueb"},
		{name: "braces in a variable's value are its own", raw: "{env.SECRET_TEST_BRACES}", value: `{env.SECRET_TEST}a\{b`},
		{name: "a file", raw: file("key", "value\n"), value: "value"},
		{name: "a file from Windows", raw: file("key", "\ufeffvalue\r\n\r\n"), value: "value"},
		{name: "literal", raw: "value", value: "value", literal: true},
		{name: "literal with white space around", raw: "\tvalue \n", value: "value", literal: true},
		{name: "literal with an open brace", raw: "val{ue", value: "val{ue", literal: true},
		{name: "literal with a closed brace", raw: "val}ue", value: "val}ue", literal: true},
		{name: "literal with braces the wrong way round", raw: "v}al{ue", value: "v}al{ue", literal: true},
		{name: "literal with a pair of braces", raw: "va{lu}e", value: "va{lu}e", literal: true},
		{name: "literal with an empty pair of braces", raw: "va{}lue", value: "va{}lue", literal: true},
		{name: "literal with escaped braces", raw: `\{value\}`, value: "{value}", literal: true},
		{name: "literal with an escaped placeholder", raw: `\{env.SECRET_TEST\}`, value: "{env.SECRET_TEST}", literal: true},
		{name: "literal with a backslash", raw: `a\b`, value: `a\b`, literal: true},
		{name: "a placeholder beside braces", raw: "{env.SECRET_TEST}{b}", value: "value{b}"},

		{name: "nothing", raw: "", err: "is empty"},
		{name: "white space", raw: " \n", err: "is empty"},
		{name: "a variable that is not set", raw: "{env.SECRET_TEST_NONE}", err: "{env.SECRET_TEST_NONE} is empty"},
		{name: "an empty variable", raw: "{env.SECRET_TEST_EMPTY}", err: "{env.SECRET_TEST_EMPTY} is empty"},
		{name: "an empty variable beside text", raw: "a{env.SECRET_TEST_EMPTY}", err: "{env.SECRET_TEST_EMPTY} is empty"},
		{name: "a variable of white space", raw: "{env.SECRET_TEST_BLANK}", err: "is empty"},
		{name: "a file that is not there", raw: "{file.testdata/none}", err: "{file.testdata/none} is empty"},
		{name: "an empty file", raw: file("key", "\n"), err: "is empty"},
		{name: "a file of two lines", raw: file("key", "value\nanother\n"), err: "control character"},
		{name: "a NUL", raw: "val\x00ue", literal: true, err: "control character"},
		{name: "a misspelled placeholder", raw: "{evn.SECRET_TEST}", err: "cannot be resolved"},
		{name: "a misspelled placeholder in text", raw: "a-{evn.SECRET_TEST}", err: "cannot be resolved"},
		{name: "a placeholder without env", raw: "{SECRET_TEST}", err: "cannot be resolved"},
		{name: "a placeholder of requests", raw: "{http.request.host}", err: "cannot be resolved"},
		{name: "what only a Caddyfile replaces", raw: "{$SECRET_TEST}", err: "cannot be resolved"},
		{name: "what only a Caddyfile replaces, in text", raw: "a-{$SECRET_TEST}", err: "cannot be resolved"},
		{name: "braces without end", raw: strings.Repeat("{", 5000), err: "too many braces"},
	} {
		t.Run(test.name, func(t *testing.T) {
			value, literal, err := Resolve(test.raw)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("%q, error %v, want %q", value, err, test.err)
				}
				if value != "" {
					t.Errorf("a value besides the error: %q", value)
				}
				return
			}
			if err != nil || value != test.value || literal != test.literal {
				t.Fatalf("%q, literal %v, error %v; want %q, %v", value, literal, err, test.value, test.literal)
			}
		})
	}
}

// TestErrorsHoldNoSecret: text in braces may be part of the key.
func TestErrorsHoldNoSecret(t *testing.T) {
	for _, raw := range []string{
		"{hunter2.hunter2}", "hunter2{hunter2.x}", "{hunter2}", "hunter2\nhunter2", strings.Repeat("hunter2{", 200),
	} {
		if _, _, err := Resolve(raw); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.30q: error %v", raw, err)
		}
	}
}
