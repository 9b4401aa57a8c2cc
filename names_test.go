package chinaums

import (
	"strings"
	"testing"
)

// TestFieldTable: each name is found by its number, in its own spelling only, and decides only where it should.
func TestFieldTable(t *testing.T) {
	for number, known := range fieldTable {
		if got := tableNumber([]byte(known.name)); known.name == "" || got != number {
			t.Errorf("%q is number %d, not %d", known.name, got, number)
		}
		deciding := number < decidingFields
		if got := fieldNumber([]byte(known.name)); deciding && got != number || !deciding && got != -1 {
			t.Errorf("%s: deciding number %d", known.name, got)
		}
		for _, spelling := range []string{strings.ToUpper(known.name), "_" + known.name, known.name + "-"} {
			if got := decidingNumber(spelling); deciding && got != number || !deciding && got != -1 {
				t.Errorf("%s: number %d", spelling, got)
			}
			if spelling != known.name && tableNumber([]byte(spelling)) != -1 {
				t.Errorf("%s is in the table", spelling)
			}
		}
	}
	for _, name := range []string{"", "x", strings.Repeat("x", 100)} {
		if tableNumber([]byte(name)) != -1 || decidingNumber(name) != -1 {
			t.Errorf("%q is in the table", name)
		}
	}
}

// TestFamilies: every state that can come later is a state itself, and nothing comes after itself.
func TestFamilies(t *testing.T) {
	for _, f := range families {
		for word, state := range f.states {
			for _, later := range state.later {
				if _, ok := f.states[later]; !ok || later == word {
					t.Errorf("%s: %s after %s", f.name, later, word)
				}
			}
		}
		if got := familyOf("com.chinaums." + f.name + ".unknown"); got != f {
			t.Errorf("%s is found as %s", f.name, got.name)
		}
	}
}
