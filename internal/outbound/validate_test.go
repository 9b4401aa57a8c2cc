package outbound

import (
	"strings"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
)

func TestValidateOption(t *testing.T) {
	tables := func(string, []byte) []fields.Error { return nil }
	for _, test := range []struct {
		name, word string
		validate   func(string, []byte) []fields.Error
		want       string
	}{
		{"absent", "", nil, ""},
		{"off", "off", nil, ""},
		{"warn", "warn", tables, ""},
		{"reject", "reject", tables, ""},
		{"warn without tables", "warn", nil, "validate: warn is not available: there are no tables of umbrella's interfaces"},
		{"reject without tables", "reject", nil, "validate: reject is not available"},
		{"another word", "on", tables, `validate: "on" is not one of: off, warn, reject`},
		{"another case", "Reject", tables, "is not one of"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &Guard{Validate: test.word, platform: &Platform{Name: "umbrella", Validate: test.validate}}
			err := g.provisionValidate()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
