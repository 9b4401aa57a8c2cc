// Package secret resolves the keys of a configuration: placeholders such as {env.UMS_APP_KEY} stay in the
// configuration, so that the config API never shows a key, and are replaced only in memory.
package secret

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// errEmpty says that a value is empty.
var errEmpty = errors.New("is empty")

// Resolve replaces the placeholders in raw once. literal tells that there was none: the secret stands in the
// configuration. Errors name the placeholder, never a value.
func Resolve(raw string) (value string, literal bool, err error) {
	if strings.TrimSpace(raw) == "" {
		return "", false, errEmpty
	}
	literal = !(strings.Contains(raw, "{") && strings.Contains(raw, "}"))
	if literal {
		return strings.TrimSpace(raw), true, nil
	}
	value, err = caddy.NewReplacer().ReplaceOrErr(raw, true, true)
	if err != nil {
		return "", false, fmt.Errorf("cannot be resolved (%w); is the variable set, the file there?", err)
	}
	// A key file usually ends in a newline, which is not part of the key.
	if value = strings.TrimSpace(value); value == "" {
		return "", false, errEmpty
	}
	return value, false, nil
}
