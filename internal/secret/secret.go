// Package secret resolves the keys of a configuration. Placeholders such as {env.UMS_APP_KEY} stay in the configuration,
// so that the config API never shows a key. They are replaced only in memory.
package secret

import (
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// Resolve is Replace for a key. White space around the value, a file's last line break most of all, is not part of it.
// An empty value and one with a control character are errors.
func Resolve(raw string) (value string, literal bool, err error) {
	if value, literal, err = Replace(raw); err != nil {
		return "", false, err
	}
	value = strings.TrimSpace(strings.TrimPrefix(value, "\ufeff")) // a byte order mark, as some editors write
	if value == "" {
		return "", false, locale.Errorf("is empty")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", false, locale.Errorf("holds a line break or another control character; does the file hold more than the key?")
	}
	return value, literal, nil
}

// ShellVariable reports whether a value has the form of a shell's variable, $NAME or ${NAME}, which Caddy does not replace.
func ShellVariable(raw string) bool { return shellVariable.MatchString(raw) }

var shellVariable = regexp.MustCompile(`^\s*\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})\s*$`)

// Replace replaces the placeholders in raw, once: braces in what they stand for are left alone. literal tells that nothing
// was replaced, so that the secret stands in the configuration itself. The value is kept as it is, byte for byte.
//
// A secret may contain braces of its own. A name in braces is a placeholder if it contains a dot or a $, or if it is the
// whole value. Such a placeholder must be known and must not be empty. Write a brace that belongs to the secret as \{.
//
// Errors name a placeholder, never a value.
func Replace(raw string) (value string, literal bool, err error) {
	literal = true
	known := caddy.NewReplacer()
	var unresolved error
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(name string) (any, bool) {
		replacement, ok := known.Get(name)
		if ok {
			literal = false
			if caddy.ToString(replacement) == "" && unresolved == nil {
				unresolved = locale.Errorf("cannot be resolved: {%s} is empty; is the variable set, the file there?", name)
			}
			return replacement, true
		}
		whole := strings.TrimSpace(raw) == "{"+name+"}"
		if !whole && !strings.ContainsAny(name, ".$") {
			return "{" + name + "}", true
		}
		if unresolved == nil {
			unresolved = locale.Errorf("cannot be resolved: what is in braces is no placeholder that Caddy knows; write {env.NAME} or {file./path}, and a brace of the value itself as \\{")
		}
		return nil, false
	})
	value, err = repl.ReplaceOrErr(raw, true, true)
	if unresolved != nil {
		return "", false, unresolved
	}
	if err != nil {
		return "", false, locale.Errorf("cannot be resolved: it holds too many braces")
	}
	return value, literal, nil
}
