package jsontext

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"unicode/utf8"
)

func TestAppendText(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
		replace          bool
		next             int
	}{
		{"plain", `"abc",`, "abc", false, 5},
		{"empty", `""`, "", false, 2},
		{"escapes", `"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", false, 18},
		{"units", `"\u0041\u00e9\u82f9"`, "Aé苹", false, 20},
		{"a surrogate pair", `"\ud83d\ude00"`, "😀", false, 14},
		{"a lone surrogate, replaced", `"\ud83d!"`, "\ufffd!", true, 9},
		{"a lone surrogate", `"\ud83d!"`, "", false, -1},
		{"two high surrogates", `"\ud83d\ud83d"`, "", false, -1},
		{"bytes that are no UTF-8 stay", "\"\xc6\xbb\"", "\xc6\xbb", false, 4},
		{"an unknown escape", `"\x"`, "", false, -1},
		{"a short unit", `"\u12"`, "", false, -1},
		{"no hexadecimal digit", `"\u12g4"`, "", false, -1},
		{"no end", `"abc`, "", false, -1},
		{"an escape at the end", `"abc\`, "", false, -1},
		{"a control character", "\"a\nb\"", "", false, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, next := AppendText([]byte("x"), []byte(test.text), 0, test.replace)
			if next != test.next || next >= 0 && string(got) != "x"+test.want {
				t.Errorf("AppendText = %q, %d; want %q, %d", got, next, "x"+test.want, test.next)
			}
		})
	}
}

func TestHexadecimalDigits(t *testing.T) {
	for c := range 256 {
		want, err := strconv.ParseUint(string([]byte{byte(c)}), 16, 8)
		if err != nil || c >= utf8.RuneSelf {
			want = 255
		}
		got, next := AppendText(nil, []byte{'"', '\\', 'u', '0', '0', '4', byte(c), '"'}, 0, false)
		if want == 255 && next >= 0 || want != 255 && string(got) != string(rune(0x40+want)) {
			t.Errorf("byte %#x: %q, %d", c, got, next)
		}
	}
}

// FuzzAppendText compares with encoding/json.
func FuzzAppendText(f *testing.F) {
	f.Add([]byte(`"a\u0041\ud83d\ude00"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) == 0 || text[0] != '"' || !utf8.Valid(text) {
			return
		}
		var want string
		err := json.Unmarshal(text, &want)
		got, next := AppendText(nil, text, 0, true)
		if next >= 0 {
			next = SkipSpace(text, next)
		}
		if (err == nil) != (next == len(text)) || err == nil && string(got) != want {
			t.Errorf("%q: AppendText = %q, %d; encoding/json: %q, %v", text, got, next, want, err)
		}
	})
}

// FuzzSkipLiteral compares with encoding/json.
func FuzzSkipLiteral(f *testing.F) {
	for _, seed := range []string{"1", "-0.5e+10", "01", "1.", "true", "fals", "null", "-", "1e"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) == 0 {
			return
		}
		switch text[0] {
		case '"', '{', '[', ' ', '\t', '\r', '\n':
			return
		}
		next := SkipLiteral(text, 0)
		if next >= 0 {
			next = SkipSpace(text, next)
		}
		if json.Valid(text) != (next == len(text)) {
			t.Errorf("%q: SkipLiteral = %d, encoding/json: %v", text, next, json.Valid(text))
		}
	})
}

// TestMembers: repeated members are kept, and what is not just one object is an error.
func TestMembers(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "", ` {"a":1,"b":{"c":[2]},"a":null} `: `a=1 b={"c":[2]} a=null `,
		`[]`: "error", `{"a":1}{}`: "error", `{"a":1`: "error", `{"a"}`: "error", ``: "error", `"a"`: "error",
	} {
		var got string
		if err := Members([]byte(text), func(name string, value json.RawMessage) error {
			got += name + "=" + string(value) + " "
			return nil
		}); err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	stop := errors.New("stop")
	if err := Members([]byte(`{"a":1,"b":2}`), func(string, json.RawMessage) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error became %v", err)
	}
}

// TestScalars: numbers stay as they are written, empty texts are left out, and of two members that differ neither counts.
func TestScalars(t *testing.T) {
	fields, nested, err := Scalars([]byte(`{"a":"x","n":1.50,"t":true,"e":"","z":null,"o":{"b":1},"l":[1],"d":"1","d":"2","s":"3","s":"3"}`), "o")
	want := map[string]string{"a": "x", "n": "1.50", "t": "true", "s": "3"}
	if err != nil || !maps.Equal(fields, want) || string(nested) != `{"b":1}` {
		t.Errorf("%v, %s, %v", fields, nested, err)
	}
	if _, nested, _ := Scalars([]byte(`{"o":{"b":1}}`), "p"); nested != nil {
		t.Errorf("nested: %s", nested)
	}
	if _, _, err := Scalars([]byte(`[1]`), ""); err == nil {
		t.Error("an array is no object")
	}
}

// TestObject walks through texts whose names and values are the plain strings between two quotes.
func TestObject(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`{}`, ""},
		{` { } `, ""},
		{`{"a":"b"}`, "a=b;"},
		{"\t{ \"a\" : \"b\" ,\r\n\"c\":\"\" } ", "a=b;c=;"},
		{``, "0: the body is not a JSON object"},
		{` ["a"]`, "1: the body is not a JSON object"},
		{`{`, "1: expected a name"},
		{`{a:"b"}`, "1: expected a name"},
		{`{"a"`, "a: expected a colon after the name"},
		{`{"a" "b"}`, "a: expected a colon after the name"},
		{`{"a":"b"`, "a=b;8: the JSON object ends early"},
		{`{"a":"b" "c":"d"}`, "a=b;9: expected a comma or the object's end"},
		{`{"a":"b"]`, "a=b;8: expected a comma or the object's end"},
		{`{"a":"b",}`, "a=b;9: expected a name"},
		{`{"a":"b"} {`, "a=b;10: there is data after the JSON object"},
		{`{}0`, "2: there is data after the JSON object"},
	} {
		text, got := []byte(test.text), ""
		quoted := func(at int) (string, int) {
			end := SkipPlain(text, at+1)
			return string(text[at+1 : end]), end + 1
		}
		var o Object
		more, err := o.Begin(text)
		for more {
			name, end := quoted(o.At)
			if err = o.Value(end); err != nil {
				got += name + ": " + err.Error()
				break
			}
			value, end := quoted(o.At)
			got += name + "=" + value + ";"
			more, err = o.Next(end)
		}
		if err != nil && !more {
			got += fmt.Sprint(o.At, ": ", err)
		}
		if got != test.want {
			t.Errorf("%q: %s, want %s", test.text, got, test.want)
		}
	}
}
