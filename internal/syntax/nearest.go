package syntax

import (
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// Unknown is the error of an option that does not exist. names are the options that there are, of which it names the
// nearest.
func (o *Options) Unknown(names ...string) error { return Unknown(o.D, o.Of, names...) }

// Unknown is Options.Unknown for a parser that has no Options.
func Unknown(d *caddyfile.Dispenser, of string, names ...string) error {
	if near := Nearest(d.Val(), names); near != "" {
		return d.WrapErr(locale.Errorf("%s: unknown option %.64q; did you mean %s?", of, d.Val(), near))
	}
	return d.WrapErr(locale.Errorf("%s: unknown option %.64q", of, d.Val()))
}

// The options that many directives have.
var (
	GuardOptions  = []string{"allow", "token", "paths", "max_size", "max_response", "timeout", "validate"}
	NotifyOptions = []string{"format", "ack", "json", "max_size", "timeout", "observe", "confirm"}
)

// names returns the names of a configuration's fields in JSON, which its options have too.
func names(config any) (all []string) {
	t := reflect.TypeOf(config).Elem()
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			all = append(all, name)
		}
	}
	return all
}

// Nearest returns the name that was probably meant by a word, or "": one that only a slip or two of the pen separate from
// it, and that nobody would take for another word.
func Nearest(word string, names []string) (nearest string) {
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	if len(word) > 64 {
		return ""
	}
	best := 3
	for _, name := range names {
		if d := distance(word, name); d < best && 2*d < len(name) {
			best, nearest = d, name
		}
	}
	return nearest
}

// distance is how many letters have to be inserted, removed, replaced or swapped with their neighbor to make b of a.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// Misspelled refuses the option at the cursor of a transport if it is none, and was probably meant to be one: names are the
// transport's own besides those of `transport http`. Whatever else there is, Caddy's parser judges.
func (o *Options) Misspelled(names ...string) error {
	if transportOptions[o.D.Val()] {
		return nil
	}
	names = append(names, TransportOptions()...)
	if Nearest(o.D.Val(), names) == "" {
		return nil
	}
	return o.Unknown(names...)
}
