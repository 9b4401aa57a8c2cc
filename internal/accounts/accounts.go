// Package accounts finds the merchant or terminal that a directive uses. A directive names one; or it leaves the name out,
// if there is exactly one; or it takes the name from each request by a placeholder.
package accounts

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// Account is a merchant or terminal.
type Account interface {
	comparable
	Name() string
	// SaysItself reports whether what is signed by the account, or for it, says itself whose it is. Only then may a name
	// that a request gives reach it.
	SaysItself() bool
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// CheckName returns what is wrong with a name, or nil.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return locale.Errorf("a name consists of letters, digits, '.', '_' and '-' and begins with a letter or digit")
	}
	return nil
}

// Directory holds the accounts of one app.
type Directory[A Account] struct {
	App  string // the global option, for messages
	Kind string // "merchant" or "terminal", for messages
	Mark string // the option that lets a request's name reach an account, for messages

	accounts map[string]A
}

// Add adds an account.
func (d *Directory[A]) Add(account A) {
	if d.accounts == nil {
		d.accounts = make(map[string]A)
	}
	d.accounts[account.Name()] = account
}

// All returns the accounts, sorted by name.
func (d *Directory[A]) All() []A {
	all := make([]A, 0, len(d.accounts))
	for _, name := range slices.Sorted(maps.Keys(d.accounts)) {
		all = append(all, d.accounts[name])
	}
	return all
}

// Ref is a directive's account: a fixed one, or a name that each request gives.
type Ref[A Account] struct {
	directory   *Directory[A]
	fixed       A
	placeholder string
	usable      func(A) error
}

// Ref resolves the argument of a directive. usable checks that an account has what the directive needs; its error names
// the missing option.
func (d *Directory[A]) Ref(name string, usable func(A) error) (Ref[A], error) {
	var none A
	if strings.Contains(name, "{") {
		ref := Ref[A]{directory: d, placeholder: name, usable: usable}
		if len(ref.Reachable()) == 0 {
			return Ref[A]{}, locale.Errorf("%s %s: a placeholder reaches only %ss that have %s, and no usable %s has", d.Kind, name, d.Kind, d.Mark, d.Kind)
		}
		return ref, nil
	}
	account := none
	switch {
	case name != "":
		if account = d.accounts[name]; account == none {
			return Ref[A]{}, locale.Errorf("%s %s does not exist; the %s global option has: %s", d.Kind, name, d.App, d.names())
		}
	case len(d.accounts) == 1:
		account = d.All()[0]
	default:
		return Ref[A]{}, locale.Errorf("name a %s: the %s global option has %s", d.Kind, d.App, d.names())
	}
	if err := usable(account); err != nil {
		return Ref[A]{}, locale.Errorf("%s %s: %w", d.Kind, account.Name(), err)
	}
	return Ref[A]{directory: d, fixed: account, usable: usable}, nil
}

func (d *Directory[A]) names() string {
	if len(d.accounts) == 0 {
		return "none"
	}
	names := slices.Sorted(maps.Keys(d.accounts))
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}

// Resolve returns the account of a request, or the zero A. A name that the request gives reaches only accounts that
// say themselves whose a message is.
func (r Ref[A]) Resolve(repl *caddy.Replacer) A {
	var none A
	if r.fixed != none || repl == nil {
		return r.fixed
	}
	account := r.directory.accounts[repl.ReplaceAll(r.placeholder, "")]
	if account == none || !r.reaches(account) {
		return none
	}
	return account
}

// Reachable returns the accounts that the directive may serve, sorted by name.
func (r Ref[A]) Reachable() []A {
	var none A
	if r.fixed != none {
		return []A{r.fixed}
	}
	return slices.DeleteFunc(r.directory.All(), func(account A) bool { return !r.reaches(account) })
}

func (r Ref[A]) reaches(account A) bool { return account.SaysItself() && r.usable(account) == nil }
