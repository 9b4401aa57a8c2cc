package varint

import (
	"bytes"
	"math"
	"testing"
)

// TestReader: what a reader makes of bytes that were written by hand: a number, then a text.
func TestReader(t *testing.T) {
	for name, c := range map[string]struct {
		encoded string
		limit   uint64
		number  uint64
		text    string
		rest    string
		broken  bool
	}{
		"a number and a text":            {"\x05\x03abcd", math.MaxUint64, 5, "abc", "d", false},
		"two bytes":                      {"\xac\x02\x00", math.MaxUint64, 300, "", "", false},
		"the largest":                    {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", math.MaxUint64, math.MaxUint64, "", "", false},
		"at the limit":                   {"\x05\x01a", 5, 5, "a", "", false},
		"above the limit":                {"\x06\x01a", 5, 0, "", "\x06\x01a", true},
		"nothing":                        {"", math.MaxUint64, 0, "", "", true},
		"a number that is cut":           {"\xac", math.MaxUint64, 0, "", "\xac", true},
		"a number of more than 64 bits":  {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00", math.MaxUint64, 0, "", "", true},
		"a number that could be shorter": {"\x85\x00\x00", math.MaxUint64, 0, "", "\x85\x00\x00", true},
		"a text that is cut":             {"\x05\x03ab", math.MaxUint64, 5, "", "ab", true},
		"a text of no length":            {"\x05", math.MaxUint64, 5, "", "", true},
		"a text longer than all":         {"\x05\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab", math.MaxUint64, 5, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Reader{Rest: []byte(c.encoded)}
			number, text := r.Number(c.limit), r.Text()
			if number != c.number || string(text) != c.text || r.Broken != c.broken {
				t.Errorf("number %d, text %q, broken %t; want %d, %q, %t", number, text, r.Broken, c.number, c.text, c.broken)
			}
			if c.rest != "" && string(r.Rest) != c.rest {
				t.Errorf("the rest is %q, want %q", r.Rest, c.rest)
			}
			if r.Broken && (r.Number(math.MaxUint64) != 0 || r.Text() != nil) {
				t.Error("a broken reader reads on")
			}
		})
	}
}

func TestAppendText(t *testing.T) {
	long := string(bytes.Repeat([]byte("x"), 300))
	if got, want := AppendText([]byte("a"), "订单"), "a\x06订单"; string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := AppendText(nil, long), "\xac\x02"+long; string(got) != want {
		t.Errorf("%q…, want %q…", got[:8], want[:8])
	}
}
