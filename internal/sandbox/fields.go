package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// fen is an amount of money in 分. It never passes through a floating-point number.
type fen int64

const maxFen fen = 100_000_000

// yuan writes an amount as the documents' descriptions do: 0.63元.
func (f fen) yuan() string { return fmt.Sprintf("%d.%02d元", f/100, f%100) }

// parseFen reads an amount as the documents have it, a number or a string of digits.
func parseFen(text string) (fen, bool) {
	if text == "" || len(text) > 12 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	amount, err := strconv.ParseInt(text, 10, 64)
	return fen(amount), err == nil
}

// failure is a refusal, with the platform's error code.
type failure struct{ code, message string }

func (f *failure) Error() string { return f.code + ": " + f.message }

func fail(code, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...)}
}

// fields is a request's JSON object, numbers as they were written.
type fields map[string]any

func parseFields(body []byte) (fields, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var f fields
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errors.New("no object")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something after the object")
	}
	return f, nil
}

// text is a field's value as text; "" if it is absent, null, or no plain value.
func (f fields) text(name string) string {
	switch value := f[name].(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	case bool:
		return strconv.FormatBool(value)
	default:
		return ""
	}
}

// has says whether a field is there with a value.
func (f fields) has(name string) bool {
	switch value := f[name].(type) {
	case nil:
		return false
	case string:
		return value != ""
	default:
		return true
	}
}

// amount reads an amount of at least `least` fen.
func (f fields) amount(name string, least fen) (fen, *failure) {
	amount, ok := parseFen(f.text(name))
	if !ok || amount < least || amount > maxFen {
		return 0, fail("BAD_REQUEST", "%s应为%d至%d的整数，单位分", name, least, maxFen)
	}
	return amount, nil
}

// flag reads true or false, as a boolean or as a word.
func (f fields) flag(name string) (bool, *failure) {
	switch f.text(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, fail("BAD_REQUEST", "%s应为true或false", name)
}

// limited reads a text of at most so many characters.
func (f fields) limited(name string, most int) (string, *failure) {
	if _, plain := f[name].(string); f.has(name) && !plain {
		return "", fail("BAD_REQUEST", "%s应为字符串", name)
	}
	text := f.text(name)
	if utf8.RuneCountInString(text) > most {
		return "", fail("BAD_REQUEST", "%s超过%d个字符", name, most)
	}
	return text, nil
}

// url reads an address that is to be called later.
func (f fields) url(name string) (string, *failure) {
	text, failed := f.limited(name, 255)
	if failed != nil || text == "" {
		return "", failed
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return "", fail("BAD_REQUEST", "%s应为http或https地址", name)
	}
	return text, nil
}

// objects reads an array of objects, also one that was sent as text.
func (f fields) objects(name string) ([]fields, *failure) {
	if !f.has(name) {
		return nil, nil
	}
	value := f[name]
	if text, ok := value.(string); ok {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			return nil, fail("BAD_REQUEST", "%s不是JSON", name)
		}
	}
	array, ok := value.([]any)
	if !ok {
		return nil, fail("BAD_REQUEST", "%s应为数组", name)
	}
	all := make([]fields, len(array))
	for i, element := range array {
		object, ok := element.(map[string]any)
		if !ok {
			return nil, fail("BAD_REQUEST", "%s的元素应为对象", name)
		}
		all[i] = object
	}
	return all, nil
}

// clock reads a time of Asia/Shanghai; ok is false if it is absent.
func (f fields) clock(name string) (at time.Time, ok bool, failed *failure) {
	if !f.has(name) {
		return time.Time{}, false, nil
	}
	at, err := time.ParseInLocation(time.DateTime, f.text(name), zone)
	if err != nil {
		return time.Time{}, false, fail("BAD_REQUEST", "%s格式应为yyyy-MM-dd HH:mm:ss", name)
	}
	return at, true, nil
}

// bareTimestamp reports whether requestTimestamp is of the form yyyyMMddHHmmss, as a much-used SDK sends it.
func (f fields) bareTimestamp() bool {
	_, err := time.ParseInLocation(stampLayout, f.text("requestTimestamp"), zone)
	return err == nil
}

// warning is what the documents want otherwise in a request that is taken.
func (f fields) warning() string {
	if !f.bareTimestamp() {
		return ""
	}
	return "requestTimestamp为yyyyMMddHHmmss，文档要求yyyy-MM-dd HH:mm:ss requestTimestamp is yyyyMMddHHmmss, the documents want yyyy-MM-dd HH:mm:ss"
}

// number reads an order number by the rule of document A: the source code, then the merchant's own; 6 to 64 characters,
// the widest of what the documents say.
func (c *ChinaUMS) number(f fields, name string) (string, *failure) {
	text := f.text(name)
	switch {
	case text == "":
		return "", fail("BAD_REQUEST", "缺少%s", name)
	case len(text) < 6 || len(text) > 64:
		return "", fail("BAD_REQUEST", "%s长度应为6至64位", name)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fail("BAD_REQUEST", "%s含有非法字符", name)
	case !strings.HasPrefix(text, c.options.SourceCode):
		return "", fail("BAD_REQUEST", "%s应以来源编号%s开头", name, c.options.SourceCode)
	}
	return text, nil
}

func clockText(at time.Time) string { return at.In(zone).Format(time.DateTime) }

func dayText(at time.Time) string { return at.In(zone).Format(dayLayout) }
