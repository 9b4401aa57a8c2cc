package accounts

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

type account struct {
	name   string
	told   bool
	broken bool
}

func (a *account) Name() string     { return a.name }
func (a *account) SaysItself() bool { return a.told }

func usable(a *account) error {
	if a.broken {
		return errors.New("key is missing")
	}
	return nil
}

func directory(accounts ...*account) *Directory[*account] {
	d := &Directory[*account]{App: "platform", Kind: "terminal", Mark: "sn"}
	for _, a := range accounts {
		d.Add(a)
	}
	return d
}

func TestRef(t *testing.T) {
	told, other, broken := &account{name: "told", told: true}, &account{name: "other"}, &account{name: "broken", told: true, broken: true}
	many := directory()
	for i := range 12 {
		many.Add(&account{name: fmt.Sprintf("t%02d", i)})
	}
	for _, test := range []struct {
		name      string
		directory *Directory[*account]
		argument  string
		want      *account
		err       string
	}{
		{"named", directory(told, other), "other", other, ""},
		{"left out, one", directory(other), "", other, ""},
		{"left out, none", directory(), "", nil, "name a terminal: the platform global option has none"},
		{"left out, two", directory(told, other), "", nil, "name a terminal: the platform global option has other, told"},
		{"left out, many", many, "", nil, "t00, t01, t02, t03, t04, t05, t06, t07, t08, t09 and 2 more"},
		{"unknown", directory(told), "tolb", nil, "terminal tolb does not exist; the platform global option has: told"},
		{"not usable", directory(broken), "broken", nil, "terminal broken: key is missing"},
		{"a placeholder that reaches none", directory(other, broken), "{vars.t}", nil, "reaches only terminals that have sn"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ref, err := test.directory.Ref(test.argument, usable)
			switch {
			case test.err == "" && (err != nil || ref.Resolve(nil) != test.want || len(ref.Reachable()) != 1):
				t.Errorf("Ref: %v, %v", ref.Resolve(nil), err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("Ref: %v, want %q in it", err, test.err)
			}
		})
	}
}

func TestPlaceholder(t *testing.T) {
	told, other, broken := &account{name: "told", told: true}, &account{name: "other"}, &account{name: "broken", told: true, broken: true}
	ref, err := directory(told, other, broken).Ref("{vars.t}", usable)
	if err != nil {
		t.Fatal(err)
	}
	if reachable := ref.Reachable(); len(reachable) != 1 || reachable[0] != told {
		t.Errorf("reachable: %v", reachable)
	}
	for name, want := range map[string]*account{"told": told, "other": nil, "broken": nil, "": nil, "none": nil} {
		repl := caddy.NewEmptyReplacer()
		repl.Set("vars.t", name)
		if got := ref.Resolve(repl); got != want {
			t.Errorf("%q reaches %v", name, got)
		}
	}
	if got := ref.Resolve(nil); got != nil {
		t.Errorf("without a replacer: %v", got)
	}
}

func TestCheckName(t *testing.T) {
	for name, valid := range map[string]bool{"a": true, "7": true, "A.b_c-9": true, "": false, ".a": false, "-a": false, "a b": false, "a/b": false, "é": false, "a\n": false} {
		if err := CheckName(name); (err == nil) != valid {
			t.Errorf("%q: %v", name, err)
		}
	}
}
