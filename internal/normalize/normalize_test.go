package normalize

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

var testRules = &Rules{
	Of: func(name []byte) Rule {
		switch string(name) {
		case "amount":
			return Amount
		case "time":
			return Time
		case "json":
			return JSON
		}
		return None
	},
	AppendTime: func(dst, text []byte) ([]byte, bool) {
		if string(text) != "12" {
			return append(dst, "half-written"...), false
		}
		return append(dst, "noon"...), true
	},
}

func TestValue(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"rules by name", `{"amount":"12","time":"12","json":"[12]","x":"12"}`, `{"amount":12,"time":"noon","json":[12],"x":"12"}`},
		{"what the rules cannot read stays", `{"amount":"1.2","time":"13","json":"{"}`, `{"amount":"1.2","time":"13","json":"{"}`},
		{"numbers", `{"amount":1.2,"time":12,"json":1}`, `{"amount":1.2,"time":"noon","json":1}`},
		{"a time that is a number of another kind", `{"time":1.5}`, `{"time":1.5}`},
		{"JSON in JSON", `{"json":"{\"json\":\"{\\\"amount\\\":\\\"1\\\"}\"}"}`, `{"json":{"json":{"amount":1}}}`},
		{"JSON with something behind", `{"json":"[1] x"}`, `{"json":"[1] x"}`},
		{"a name without rules in an array", `{"amount":["12"]}`, `{"amount":["12"]}`},
		{"empty texts", `{"a":"","b":{"c":""},"d":[""]}`, `{"b":{},"d":[""]}`},
		{"duplicate names stay", `{"a":1,"a":2}`, `{"a":1,"a":2}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w Writer
			w.Reset(testRules)
			if end := w.Value([]byte(test.text), 0, None, 1); end != len(test.text) || string(w.Out) != test.want {
				t.Errorf("wrote %s, to byte %d\nwant  %s", w.Out, end, test.want)
			}
		})
	}
}

func TestDepth(t *testing.T) {
	for _, depth := range []int{MaxDepth, MaxDepth + 1} {
		for _, pair := range []string{"[]", `{"a":}`} {
			open, closing := pair[:len(pair)-1], pair[len(pair)-1:]
			inner := ""
			if len(open) > 1 {
				inner = "1"
			}
			text := strings.Repeat(open, depth) + inner + strings.Repeat(closing, depth)
			var w Writer
			w.Reset(testRules)
			if end := w.Value([]byte(text), 0, None, 1); (end == len(text)) != (depth <= MaxDepth) {
				t.Errorf("%d levels of %s: written to byte %d", depth, pair, end)
			}
		}
	}
}

func TestKept(t *testing.T) {
	rules := *testRules
	rules.Keep = "time"
	for _, test := range []struct{ name, text, want string }{
		{"as it came", `{"a":1,"time":"12"}`, `"12"`},
		{"the last one", `{"time":"12","time":[ 13 ]}`, `[ 13 ]`},
		{"but not an empty one", `{"time":"12","time":""}`, `"12"`},
		{"first level only", `{"a":{"time":"12"},"json":"{\"time\":1}"}`, ""},
		{"no object", `[{"time":"12"}]`, ""},
		{"broken behind it", `{"time":"12"`, ""},
		{"no JSON", "12", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w Writer
			w.Reset(&rules)
			w.Text([]byte(`{"time":"before"}`), JSON, 1)
			w.Text([]byte(test.text), JSON, 1)
			if string(w.Kept) != test.want {
				t.Errorf("kept %s, want %s", w.Kept, test.want)
			}
		})
	}
	var w Writer
	w.Reset(testRules)
	if w.Text([]byte(`{"":1,"time":2}`), JSON, 1); w.Kept != nil {
		t.Errorf("kept %s without being asked", w.Kept)
	}
}

func TestRelease(t *testing.T) {
	rules := *testRules
	rules.Keep = "a"
	var w Writer
	w.Reset(&rules)
	w.Text([]byte(`{"a":"`+strings.Repeat("x", 100)+`"}`), JSON, 1)
	w.Release(1000)
	if len(w.Out)+len(w.scratch) != 0 || w.Kept != nil || w.rules != nil || cap(w.Out) < 100 || cap(w.scratch) < 100 {
		t.Errorf("released: %d and %d bytes of room, kept %q", cap(w.Out), cap(w.scratch), w.Kept)
	}
	w.Release(99)
	if w.Out != nil || w.scratch != nil {
		t.Errorf("rooms of %d and %d bytes are kept", cap(w.Out), cap(w.scratch))
	}
}

func TestIsAmount(t *testing.T) {
	for text, want := range map[string]bool{
		"0": true, "1": true, "999999999999999": true,
		"": false, "00": false, "01": false, "1000000000000000": false, "-1": false, "+1": false, "1.0": false, " 1": false, "١": false,
	} {
		if got := IsAmount([]byte(text)); got != want {
			t.Errorf("IsAmount(%q) = %v", text, got)
		}
	}
}

func TestToUTF8(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"UTF-8", "苹果", "苹果"},
		{"GBK", "\xc6\xbb\xb9\xfb", "苹果"},
		{"four bytes of GB18030", "\x81\x30\x89\x37", "Þ"},
		{"neither", "a\xff\xffb", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := string(ToUTF8([]byte(test.text))); !utf8.ValidString(got) || test.name != "neither" && got != test.want {
				t.Errorf("ToUTF8 = %q, want %q", got, test.want)
			}
		})
	}
}

// FuzzString compares with encoding/json.
func FuzzString(f *testing.F) {
	f.Add([]byte("plain text"))
	f.Add([]byte("\x00\x1f\"\\\u2028\u2029苹果\xc6\xbb, and more than eight bytes \x7f"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var w Writer
		w.Reset(testRules)
		returned := w.String(text)
		var decoded string
		if err := json.Unmarshal(w.Out, &decoded); err != nil || decoded != string(returned) {
			t.Errorf("%q: wrote %s, %v", text, w.Out, err)
		}
		if utf8.Valid(text) && decoded != string(text) {
			t.Errorf("%q: wrote %s", text, w.Out)
		}
		if bytes.ContainsAny(w.Out, "\u2028\u2029") {
			t.Errorf("%q: a line separator stands bare", text)
		}
	})
}

// FuzzValue: a value that is accepted is JSON, and its output is JSON.
func FuzzValue(f *testing.F) {
	f.Add([]byte(`{"amount":"12","time":["12"],"json":"{\"a\":null}"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var w Writer
		w.Reset(testRules)
		end := w.Value(text, 0, None, 1)
		if end < 0 {
			return
		}
		if !json.Valid(w.Out) {
			t.Errorf("%q: wrote %q", text, w.Out)
		}
		if utf8.Valid(text) && !json.Valid(text[:end]) {
			t.Errorf("%q was taken for JSON", text[:end])
		}
	})
}
