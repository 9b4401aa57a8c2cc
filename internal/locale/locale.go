// Package locale has the Chinese texts of the messages that a person reads at a terminal: the help of commands, and the
// errors of a configuration that does not load. They are used if the locale is Chinese. The log of a running Caddy stays
// English, so that it can be searched.
package locale

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// Chinese reports whether the environment asks for Chinese: the first of LC_ALL, LC_MESSAGES and LANG that is set begins
// with zh.
func Chinese() bool {
	name := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_MESSAGES"), os.Getenv("LANG"))
	return strings.HasPrefix(strings.ToLower(name), "zh")
}

// Errorf is fmt.Errorf with the Chinese text of format if the locale is Chinese.
func Errorf(format string, args ...any) error {
	if chinese, ok := catalog[format]; ok && Chinese() {
		return fmt.Errorf(chinese, args...)
	}
	return fmt.Errorf(format, args...)
}
