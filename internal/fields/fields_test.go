package fields

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

const testSchema = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"required": ["name"],
	"dependentRequired": {"city": ["street"]},
	"properties": {
		"name": {"type": "string", "minLength": 2},
		"code": {"type": "string", "pattern": "^[A-Z]+$"},
		"kind": {"const": "x"},
		"count": {"type": "integer", "minimum": 1},
		"list": {"type": ["array", "string"], "maxItems": 2, "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
		"text": {"type": ["object", "string"], "maxLength": 12, "properties": {"n": {"type": "integer"}}}
	}
}`

func compileTest(t testing.TB) *Tables {
	t.Helper()
	tables, err := Compile(fstest.MapFS{
		"table.json":   {Data: []byte(testSchema)},
		"derived.json": {Data: []byte(`{"$ref": "table.json", "required": ["count"]}`)},
	}, map[string]Interface{"/pay": {Schema: "table.json"}, "/derived": {Schema: "derived.json"}})
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

func TestCheck(t *testing.T) {
	tables := compileTest(t)
	for _, test := range []struct{ name, path, body, want string }{
		{"fits", "/pay", `{"name":"ab","code":"X","kind":"x","count":1,"list":[{"n":1}],"text":"{\"n\":1}","other":[{}]}`, ""},
		{"no table", "/other", `{`, ""},
		{"a path that means the same", "/a/../pay/", `{}`, "name required"},
		{"a lower limit alone", "/pay", `{"name":"a"}`, "name minLength"},
		{"a pattern without a name", "/pay", `{"name":"ab","code":"x"}`, "code pattern"},
		{"a keyword that has no words of its own", "/pay", `{"name":"ab","kind":"y"}`, "kind const"},
		{"a keyword of the whole body", "/pay", `{"name":"ab","city":"x"}`, " dependentRequired"},
		{"an open range", "/pay", `{"name":"ab","count":0}`, "count minimum"},
		{"in a list", "/pay", `{"name":"ab","list":[{"n":1},{"n":"1"}]}`, "list[1].n type"},
		{"in a list's text", "/pay", `{"name":"ab","list":"[{\"n\":\"1\"},1,{}]"}`, "list maxItems, list[0].n type, list[1] type"},
		{"in a text", "/pay", `{"name":"ab","text":"{\"n\":true}"}`, "text.n type"},
		{"a text that is long", "/pay", `{"name":"ab","text":"{\"n\":1     }   "}`, "text maxLength"},
		{"a text with a name twice", "/pay", `{"name":"ab","text":"{\"n\":1,\"n\":1}"}`, "text maxLength"},
		{"a list's text of the wrong kind", "/pay", `{"name":"ab","list":"{}"}`, "list type"},
		{"a derived table has both", "/derived", `{}`, "count required, name required"},
		{"a derived table unfolds texts", "/derived", `{"name":"ab","count":1,"list":"[1]"}`, "list[0] type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, e := range tables.Check(test.path, []byte(test.body)) {
				got = append(got, e.Name+" "+e.Rule)
				if chinese, english, ok := strings.Cut(e.Message, " / "); !ok || chinese == "" || english == "" {
					t.Errorf("message %q", e.Message)
				}
			}
			if strings.Join(got, ", ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"no JSON":                `{`,
		"no schema":              `{"type": "amount"}`,
		"a reference to nowhere": `{"$ref": "other.json"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(fstest.MapFS{"table.json": {Data: []byte(content)}}, map[string]Interface{"/pay": {Schema: "table.json"}})
			if err == nil || !strings.Contains(err.Error(), "table.json") {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := Compile(fstest.MapFS{}, map[string]Interface{"/pay": {Schema: "missing.json"}}); err == nil {
		t.Error("a file that is missing")
	}
}

func TestWhole(t *testing.T) {
	for _, test := range []struct {
		value any
		want  int64
		ok    bool
	}{
		{int64(0), 0, true}, {int64(-1), -1, true}, {"0", 0, true}, {"100000000", 1e8, true}, {"999999999999999999", 999999999999999999, true},
		{"", 0, false}, {"00", 0, false}, {"-1", 0, false}, {"1.0", 0, false}, {"1e2", 0, false}, {" 1", 0, false}, {"9999999999999999999", 0, false},
		{0.5, 0, false}, {nil, 0, false}, {true, 0, false}, {[]any{}, 0, false},
	} {
		if got, ok := Whole(test.value); got != test.want || ok != test.ok {
			t.Errorf("%#v: %d, %v", test.value, got, ok)
		}
	}
}

func TestAbsentAndTrue(t *testing.T) {
	for _, value := range []any{nil, "", []any{}, Object{}} {
		if !Absent(value) {
			t.Errorf("%#v is there", value)
		}
	}
	for _, value := range []any{"0", int64(0), false, []any{nil}, Object{"a": nil}} {
		if Absent(value) {
			t.Errorf("%#v is absent", value)
		}
	}
	for value, want := range map[any]bool{true: true, "true": true, false: false, "TRUE": false, int64(1): false, nil: false} {
		if True(value) != want {
			t.Errorf("%#v", value)
		}
	}
}

// expected turns values of encoding/json into the values that the tables see.
func expected(value any) any {
	switch value := value.(type) {
	case json.Number:
		if strings.ContainsAny(value.String(), ".eE") {
			return fraction
		}
		whole, err := value.Int64()
		if err != nil { // out of range: the nearest
			whole = 1<<63 - 1
			if strings.HasPrefix(value.String(), "-") {
				whole = -1 << 63
			}
		}
		return whole
	case []any:
		for i := range value {
			value[i] = expected(value[i])
		}
		if len(value) > maxItems {
			value = value[:maxItems]
		}
		return value
	case map[string]any:
		for name := range value {
			value[name] = expected(value[name])
		}
	}
	return value
}

// FuzzDecode compares the reader with encoding/json.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		`{}`, `[]`, ` { "a" : [ 1 , -2 , "x" , true , false , null , { } , [ ] ] } `, `"\u00e9\ud83d\ude00\ud800\n"`, `-0`, `1.0`, `1e999999999`,
		`99999999999999999999`, `-99999999999999999999`, `{"a":1,"a":2}`, `{"\u0061":1,"a":2}`, `"`, `{"a"`, `[1,]`, "\"\x00\"", `"a"b`, "\xff", `"\xff"`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		got, _, err := decode(content)
		decoder := json.NewDecoder(bytes.NewReader(content))
		decoder.UseNumber()
		var want any
		if !json.Valid(content) {
			if err == nil {
				t.Fatal("no JSON, and it is read")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := decoder.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if want = expected(want); !reflect.DeepEqual(got, want) && !bytes.ContainsFunc(content, func(r rune) bool { return r == '\ufffd' }) {
			t.Errorf("got %#v, want %#v", got, want)
		}
	})
}
