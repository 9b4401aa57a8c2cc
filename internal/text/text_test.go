package text

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestName(t *testing.T) {
	for text, want := range map[string]string{
		"":                      `""`,
		"a\n\xff":               `"a\n\xff"`,
		strings.Repeat("a", 64): `"` + strings.Repeat("a", 64) + `"`,
		strings.Repeat("a", 65): `"` + strings.Repeat("a", 64) + `"…`,
	} {
		if got := Name(text); got != want {
			t.Errorf("Name(%q) is %s", text, got)
		}
	}
}

// TestASCII: what a log line shows is ASCII, and ends where it is cut.
func TestASCII(t *testing.T) {
	for text, want := range map[string]string{
		"": `""`, "short": `"short"`, "exactly!": `"exactly!"`, "one more than eight": `"one more"`,
		"a\nb\x1b[1m": `"a\nb\x1b[1m"`, "茶茶茶": `"\u8336\u8336\xe8\x8c"`,
	} {
		if got := ASCII(text, 8); got != want {
			t.Errorf("ASCII(%q): %s, want %s", text, got, want)
		}
	}
}

// TestClip: what is cut ends between characters, and says so.
func TestClip(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "short": "short",
		strings.Repeat("a", 64):        strings.Repeat("a", 64),
		strings.Repeat("a", 65):        strings.Repeat("a", 64) + "…",
		strings.Repeat("a", 63) + "茶叶": strings.Repeat("a", 63) + "…",
	} {
		if got := Clip(text); got != want {
			t.Errorf("Clip(%q): %q, want %q", text, got, want)
		}
	}
}

// TestHead: the beginning is never longer than it may be, and always UTF-8.
func TestHead(t *testing.T) {
	for text, want := range map[string]string{"": "", "abc": "abc", "abcdef": "abcd", "ab\xff": "ab?", "ab茶": "ab?"} {
		if got := Head(text, 4); got != want || !utf8.ValidString(got) {
			t.Errorf("Head(%q): %q, want %q", text, got, want)
		}
	}
}
