// Package fields checks a call's body against the tables of the platform's documents, which are JSON Schema files, and
// against rules across fields, which are Go functions. It knows neither Caddy nor a platform.
//
// Its errors contain names, rules and the tables' own limits, and never a value from the body.
package fields

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// Error is one thing that does not fit.
type Error struct {
	Name    string `json:"name"`    // the field, such as `mid` or `subOrders[0].mid`; empty for the body as a whole
	Rule    string `json:"rule"`    // JSON Schema's keyword, or one of json, duplicate, sum, excludes
	Message string `json:"message"` // Chinese / English

	// Advice marks an error that is only logged, because the documents disagree. The call passes.
	Advice bool `json:"-"`
}

const (
	// maxErrors limits the errors in an answer.
	maxErrors = 32
	// maxItems limits the elements of an array, because each may cause an error of some hundred bytes.
	maxItems = 1000
)

// Object is a JSON object as the tables see it. Whole numbers are int64, all others float64.
type Object = map[string]any

// Rule checks several fields of a body against each other. Each field has been checked on its own before.
type Rule func(body Object) []Error

// Interface is one interface of a platform.
type Interface struct {
	Schema string // the file of its table
	Rules  []Rule
}

// Tables are a platform's interfaces, by the path that is called.
type Tables struct {
	interfaces map[string]table
}

type table struct {
	schema *jsonschema.Schema
	// textOf are the fields that may also hold their value as JSON text.
	textOf []string
	rules  []Rule
}

// Compile reads the interfaces' schemas from files.
func Compile(files fs.FS, interfaces map[string]Interface) (*Tables, error) {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(loader{files})
	t := &Tables{interfaces: make(map[string]table, len(interfaces))}
	for called, i := range interfaces {
		schema, err := compiler.Compile(scheme + i.Schema)
		if err != nil {
			return nil, fmt.Errorf("compiling %s: %w", i.Schema, err)
		}
		entry := table{schema: schema, rules: i.Rules}
		for name, property := range properties(schema) {
			if property.Types != nil && accepts(property, "string") && (accepts(property, "array") || accepts(property, "object")) {
				entry.textOf = append(entry.textOf, name)
			}
		}
		slices.Sort(entry.textOf)
		t.interfaces[called] = entry
	}
	return t, nil
}

// Embedded returns a function that compiles the schemas in the embedded directory schema when it is first called. It panics
// if they are broken, which tests rule out.
func Embedded(files fs.FS, interfaces map[string]Interface) func() *Tables {
	return sync.OnceValue(func() *Tables {
		directory, err := fs.Sub(files, "schema")
		if err != nil {
			panic(err)
		}
		tables, err := Compile(directory, interfaces)
		if err != nil {
			panic(err)
		}
		return tables
	})
}

const scheme = "schema:///"

type loader struct{ files fs.FS }

func (l loader) Load(url string) (any, error) {
	content, err := fs.ReadFile(l.files, strings.TrimPrefix(url, scheme))
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(content))
}

// Check returns the errors of a body that is sent to a path, sorted by name. A path without a table has none.
func (t *Tables) Check(called string, body []byte) []Error {
	i, ok := t.interfaces[path.Clean(called)]
	if !ok {
		return nil
	}
	found := i.check(body)
	slices.SortStableFunc(found, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Rule, b.Rule))
	})
	found = slices.CompactFunc(found, func(a, b Error) bool { return a.Name == b.Name && a.Rule == b.Rule })
	return found[:min(len(found), maxErrors)]
}

func (t *table) check(body []byte) []Error {
	if !utf8.Valid(body) {
		return []Error{{Rule: "json", Message: "请求体不是 UTF-8 / the body is not UTF-8"}}
	}
	value, found, err := decode(body)
	if err != nil {
		return []Error{{Rule: "json", Message: "请求体不是合法的 JSON / the body is not valid JSON"}}
	}
	object, ok := value.(Object)
	if !ok {
		return []Error{{Rule: "type", Message: "请求体应为 JSON 对象 / the body must be a JSON object"}}
	}
	for _, name := range t.textOf {
		if text, ok := object[name].(string); ok && text != "" {
			found = append(found, t.unfold(object, name, text)...)
		}
	}
	if err := t.schema.Validate(object); err != nil {
		failed, ok := errors.AsType[*jsonschema.ValidationError](err)
		if !ok {
			panic(err) // the library has no other errors
		}
		found = t.leaves(failed, found)
	}
	for _, rule := range t.rules {
		found = append(found, rule(object)...)
	}
	return found
}

// unfold replaces a JSON text by its value, so that the table's rows are checked against the value.
func (t *table) unfold(object Object, name, text string) []Error {
	property := properties(t.schema)[name]
	if property.MaxLength != nil && utf8.RuneCountInString(text) > *property.MaxLength {
		return []Error{lengthError(name, "maxLength", property)}
	}
	value, found, err := decode([]byte(text))
	if err != nil {
		return []Error{{Name: name, Rule: "json", Message: name + " 的文本不是合法的 JSON / the text of " + name + " is not valid JSON"}}
	}
	for i := range found {
		found[i].Name = within(name, found[i].Name)
	}
	_, isArray := value.([]any)
	_, isObject := value.(Object)
	if !(isArray && accepts(property, "array") || isObject && accepts(property, "object")) {
		return append(found, typeError(name, property))
	}
	object[name] = value
	return found
}

func within(outer, inner string) string {
	if inner == "" || inner[0] == '[' {
		return outer + inner
	}
	return outer + "." + inner
}

// leaves collects the errors that are leaves of the library's tree.
func (t *table) leaves(e *jsonschema.ValidationError, found []Error) []Error {
	for _, cause := range e.Causes {
		found = t.leaves(cause, found)
	}
	if len(e.Causes) > 0 {
		return found
	}
	name := nameOf(e.InstanceLocation)
	property := at(t.schema, e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, missing := range k.Missing {
			if name != "" {
				missing = name + "." + missing
			}
			found = append(found, Missing(missing))
		}
		return found
	case *kind.Type:
		return append(found, typeError(name, property))
	case *kind.MinLength:
		return append(found, lengthError(name, "minLength", property))
	case *kind.MaxLength:
		return append(found, lengthError(name, "maxLength", property))
	case *kind.Minimum:
		return append(found, rangeError(name, "minimum", property))
	case *kind.Maximum:
		return append(found, rangeError(name, "maximum", property))
	case *kind.Pattern:
		return append(found, patternError(name, k.Got, property))
	case *kind.Enum:
		words := listed(k.Want)
		return append(found, Error{name, "enum", name + " 只能取 " + words + " / " + name + " must be one of " + words, false})
	case *kind.MaxItems:
		return append(found, tooMany(name, k.Want))
	}
	rule := "schema"
	if keywords := e.ErrorKind.KeywordPath(); len(keywords) > 0 {
		rule = keywords[0]
	}
	return append(found, Error{name, rule, name + " 不符合接口文档 / " + name + " does not fit the documents", false})
}

// Missing is the error of a required field that is missing.
func Missing(name string) Error {
	return Error{Name: name, Rule: "required", Message: "缺少 " + name + " / " + name + " is missing"}
}

func tooMany(name string, limit int) Error {
	return Error{Name: name, Rule: "maxItems", Message: fmt.Sprintf("%s 最多 %d 项 / %s must have at most %d elements", name, limit, name, limit)}
}

func typeError(name string, property *jsonschema.Schema) Error {
	if property == nil || property.Types == nil {
		return Error{Name: name, Rule: "type", Message: name + " 类型错误 / " + name + " is of a wrong type"}
	}
	var chinese, english []string
	for _, word := range property.Types.ToStrings() {
		chinese = append(chinese, typeWords[word][0])
		english = append(english, typeWords[word][1])
	}
	return Error{Name: name, Rule: "type", Message: fmt.Sprintf("%s 应为%s / %s must be %s", name, strings.Join(chinese, "或"), name, strings.Join(english, " or "))}
}

var typeWords = map[string][2]string{
	"null":    {"空值", "null"},
	"boolean": {"布尔值", "a boolean"},
	"number":  {"数字", "a number"},
	"integer": {"整数", "an integer"},
	"string":  {"字符串", "a string"},
	"array":   {"数组", "an array"},
	"object":  {"对象", "an object"},
}

func lengthError(name, rule string, property *jsonschema.Schema) Error {
	low, high := 0, ""
	if property.MinLength != nil {
		low = *property.MinLength
	}
	if property.MaxLength != nil {
		high = strconv.Itoa(*property.MaxLength)
	}
	if high == "" {
		return Error{Name: name, Rule: rule, Message: fmt.Sprintf("%s 至少 %d 个字符 / %s must have at least %d characters", name, low, name, low)}
	}
	return Error{Name: name, Rule: rule, Message: fmt.Sprintf("%s 长度应为 %d 到 %s 个字符 / %s must have %d to %s characters", name, low, high, name, low, high)}
}

func rangeError(name, rule string, property *jsonschema.Schema) Error {
	low, high := limit(property.Minimum), limit(property.Maximum)
	return Error{Name: name, Rule: rule, Message: fmt.Sprintf("%s 应为 %s 到 %s 的整数 / %s must be an integer from %s to %s", name, low, high, name, low, high)}
}

func limit(r *big.Rat) string {
	if r == nil {
		return "…"
	}
	return r.RatString()
}

// patternError reports for a text that should be a number what would be reported for the number.
func patternError(name, text string, property *jsonschema.Schema) Error {
	if property.Types != nil && accepts(property, "integer") && property.Minimum != nil && property.Maximum != nil {
		value, ok := whole(text)
		switch {
		case !ok:
			return Error{Name: name, Rule: "pattern", Message: rangeError(name, "", property).Message}
		case big.NewRat(value, 1).Cmp(property.Minimum) < 0:
			return rangeError(name, "minimum", property)
		default:
			return rangeError(name, "maximum", property)
		}
	}
	if property.Title != "" {
		return Error{Name: name, Rule: "pattern", Message: name + " 格式应为 " + property.Title + " / " + name + " must have the form " + property.Title}
	}
	return Error{Name: name, Rule: "pattern", Message: name + " 格式错误 / " + name + " has a wrong form"}
}

func listed(values []any) string {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = fmt.Sprint(value)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// nameOf writes a location as a developer would: subOrders[0].mid.
func nameOf(location []string) string {
	var b strings.Builder
	for _, token := range location {
		if _, err := strconv.Atoi(token); err == nil {
			b.WriteString("[" + token + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
	}
	return b.String()
}

// at returns a field's schema, or nil.
func at(schema *jsonschema.Schema, location []string) *jsonschema.Schema {
	for _, token := range location {
		if schema == nil {
			break
		}
		if next, ok := properties(schema)[token]; ok {
			schema = next
			continue
		}
		schema = schema.Items2020
	}
	if schema == nil {
		return new(jsonschema.Schema)
	}
	return schema
}

// properties returns the properties of a schema, or of the schema that it refers to.
func properties(schema *jsonschema.Schema) map[string]*jsonschema.Schema {
	if len(schema.Properties) == 0 && schema.Ref != nil {
		return properties(schema.Ref)
	}
	return schema.Properties
}

func accepts(schema *jsonschema.Schema, word string) bool {
	return schema.Types != nil && slices.Contains(schema.Types.ToStrings(), word)
}

// Whole reads a whole number, written as 1 or as "1", without sign and leading zeros.
func Whole(value any) (int64, bool) {
	switch v := value.(type) {
	case int64:
		return v, true
	case string:
		return whole(v)
	}
	return 0, false
}

func whole(text string) (int64, bool) {
	if text == "" || len(text) > 18 || text[0] == '0' && len(text) > 1 {
		return 0, false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
	}
	value, err := strconv.ParseInt(text, 10, 64)
	return value, err == nil
}

// Absent reports whether a field is missing or empty.
func Absent(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case Object:
		return len(v) == 0
	}
	return false
}

// True reports whether a field is true, written as true or as "true".
func True(value any) bool { return value == true || value == "true" }

var errJSON = errors.New("not valid JSON")

// decode reads JSON for the tables. It reports members that appear twice: JSON's grammar allows them, but two readers may
// read them differently.
func decode(content []byte) (any, []Error, error) {
	if !json.Valid(content) {
		return nil, nil, errJSON
	}
	r := reader{content: string(content)}
	value := r.value()
	return value, r.found, nil
}

// reader reads the values of a text that is known to be valid JSON. Names and plain texts are slices of it.
type reader struct {
	content string
	next    int
	where   []string
	found   []Error
}

func (r *reader) space() byte {
	for {
		switch c := r.content[r.next]; c {
		case ' ', '\t', '\r', '\n':
			r.next++
		default:
			return c
		}
	}
}

func (r *reader) value() any {
	switch r.space() {
	case '{':
		return r.object()
	case '[':
		return r.array()
	case '"':
		return r.text()
	case 't':
		r.next += len("true")
		return true
	case 'f':
		r.next += len("false")
		return false
	case 'n':
		r.next += len("null")
		return nil
	}
	return r.number()
}

func (r *reader) object() Object {
	size := 0
	if len(r.where) == 0 {
		size = 16
	}
	object := make(Object, size)
	for r.next++; r.space() != '}'; {
		if r.content[r.next] == ',' {
			r.next++
			r.space()
		}
		name := r.text()
		r.space()
		r.next++ // the colon
		if _, twice := object[name]; twice && len(r.found) < maxErrors {
			where := text.Clip(nameOf(append(slices.Clone(r.where), name)))
			r.found = append(r.found, Error{Name: where, Rule: "duplicate", Message: where + " 重复出现 / " + where + " stands twice"})
		}
		r.where = append(r.where, name)
		object[name] = r.value()
		r.where = r.where[:len(r.where)-1]
	}
	r.next++
	return object
}

func (r *reader) array() []any {
	array := make([]any, 0, 4)
	full := false
	for r.next++; r.space() != ']'; {
		if r.content[r.next] == ',' {
			r.next++
		}
		r.where = append(r.where, strconv.Itoa(len(array)))
		value := r.value()
		r.where = r.where[:len(r.where)-1]
		if len(array) < maxItems {
			array = append(array, value)
			continue
		}
		if !full && len(r.found) < maxErrors {
			r.found = append(r.found, tooMany(text.Clip(nameOf(r.where)), maxItems))
		}
		full = true
	}
	r.next++
	return array
}

func (r *reader) text() string {
	start, plain := r.next, true
	for r.next++; r.content[r.next] != '"'; r.next++ {
		if r.content[r.next] == '\\' {
			plain = false
			r.next++
		}
	}
	r.next++
	if plain {
		return r.content[start+1 : r.next-1]
	}
	var text string
	if err := json.Unmarshal([]byte(r.content[start:r.next]), &text); err != nil {
		panic(err) // valid JSON
	}
	return text
}

// number returns a plain integer as int64. An integer that does not fit becomes the nearest int64, which is beyond every
// limit of a table.
//
// The literals 1.0 and 1e2 are integers in JSON Schema, but not for a platform that parses an amount as an integer. So they
// are shown to a table as a fraction. No other type of number is used, because the library would make a big.Rat of it: for
// 1e999999999, one with a billion digits.
func (r *reader) number() any {
	start, plain := r.next, true
	for ; r.next < len(r.content); r.next++ {
		switch c := r.content[r.next]; {
		case c >= '0' && c <= '9', c == '-':
			continue
		case c == '.', c == 'e', c == 'E', c == '+':
			plain = false
			continue
		}
		break
	}
	if !plain {
		return fraction
	}
	value, _ := strconv.ParseInt(r.content[start:r.next], 10, 64) // the nearest if it does not fit
	return value
}

const fraction = 0.5
