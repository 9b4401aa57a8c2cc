package syntax

import (
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// TestBlock: lines that are moved into a block of their own are parsed as before.
func TestBlock(t *testing.T) {
	for _, test := range []struct{ name, text string }{
		{"plain", "proxy {\na b\nc d\n}"},
		{"no lines", "proxy {\n}"},
		{"the directive in quotes", "\"proxy\" {\na b\nc d\n}"},
		{"a last word in quotes", "proxy {\na b\nc \"d\"\n}"},
		{"a last word over several lines", "proxy {\na b\nc \"d\ne\"\n}"},
		{"a heredoc at the end", "proxy {\na <<EOF\n\tb\n\tc\n\tEOF\n}"},
		{"a block at the end", "proxy {\na {\n\tb c\n}\n}"},
		{"a brace in quotes at the end", "proxy {\na \"}\"\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := caddyfile.NewTestDispenser(test.text)
			want := read(t, caddyfile.NewTestDispenser(test.text))
			d.Next()
			first := d.Token()
			var lines []caddyfile.Token
			for d.NextBlock(0) {
				lines = append(lines, d.NextSegment()...)
			}
			if got := read(t, Block(first, lines)); got != want {
				t.Errorf("%s\nwant\n%s", got, want)
			}
		})
	}
}

// read returns what a parser of options sees in a block.
func read(t *testing.T, d *caddyfile.Dispenser) (seen string) {
	t.Helper()
	d.Next()
	for d.NextBlock(0) {
		seen += "["
		for _, token := range d.NextSegment() {
			seen += "<" + token.Text + ">"
		}
		seen += "]"
	}
	if d.Next() {
		t.Errorf("%q is left over", d.Val())
	}
	return seen
}
