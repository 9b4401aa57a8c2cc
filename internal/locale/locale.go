// Package locale gives the messages that a person reads at a terminal in Chinese where the locale is Chinese: a
// command's help and the errors of a configuration that does not load. What is logged while Caddy serves stays English,
// for whoever searches logs.
package locale

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// Chinese reports whether the environment asks for Chinese: LC_ALL, else LC_MESSAGES, else LANG begins with zh.
func Chinese() bool {
	name := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_MESSAGES"), os.Getenv("LANG"))
	return strings.HasPrefix(strings.ToLower(name), "zh")
}

// Errorf is fmt.Errorf with the Chinese of the format, if the locale is Chinese.
func Errorf(format string, args ...any) error {
	if chinese, ok := catalogue[format]; ok && Chinese() {
		return fmt.Errorf(chinese, args...)
	}
	return fmt.Errorf(format, args...)
}
