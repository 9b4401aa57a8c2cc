package chinaums

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
)

// A call may go in three forms, which a user must not be able to tell apart: through chinaums_proxy with the client made for
// it, through chinaums_proxy where only net/http's client can serve, and through guard, reverse_proxy and transport. Tests of
// what a call does are written with chinaums_proxy and run in every form. A block that has other options of reverse_proxy
// is always written in the long form.
var forms = []struct {
	name  string
	write func(matcher, merchant []string, guard, transport, headers []string) string
}{
	{"chinaums_proxy", func(matcher, merchant, guard, transport, headers []string) string {
		return block("chinaums_proxy", slices.Concat(matcher, merchant), slices.Concat(guard, transport, headers))
	}},
	{"by net-http", func(matcher, merchant, guard, transport, headers []string) string {
		// Of no effect, but the lean client cannot do it.
		return block("chinaums_proxy", slices.Concat(matcher, merchant), slices.Concat(guard, transport, headers, []string{"max_conns_per_host 100000"}))
	}},
	{"long form", longForm},
}

func longForm(matcher, merchant, guard, transport, proxy []string) string {
	account := strings.Join(append([]string{"chinaums"}, merchant...), " ")
	return block("chinaums_guard", slices.Concat(matcher, merchant), guard) +
		block("reverse_proxy", matcher, append([]string{"dynamic " + account, block("transport "+account, nil, transport)}, proxy...))
}

func block(name string, arguments, lines []string) string {
	return strings.Join(append([]string{name}, arguments...), " ") + " {\n" + strings.Join(lines, "\n") + "\n}\n"
}

// form is the one that gateways are started in.
var form = 0

// inEveryForm runs a test in each form.
func inEveryForm(t *testing.T, test func(t *testing.T)) { inForms(t, 0, test) }

// inForms runs a test in each form from the first on.
func inForms(t *testing.T, first int, test func(t *testing.T)) {
	for i := first; i < len(forms); i++ {
		t.Run(forms[i].name, func(t *testing.T) {
			before := form
			form = i
			defer func() { form = before }()
			test(t)
		})
	}
}

// inForm writes each chinaums_proxy of a site in the present form.
func inForm(site string) string {
	guardOptions := []string{"allow", "token", "paths", "max_size", "max_response", "timeout", "validate"}
	transportOptions := append(syntax.TransportOptions(), "auth", "compression")
	var out strings.Builder
	lines := strings.Split(site, "\n")
	for i := 0; i < len(lines); i++ {
		words := strings.Fields(lines[i])
		if len(words) == 0 || words[0] != "chinaums_proxy" {
			out.WriteString(lines[i] + "\n")
			continue
		}
		var matcher, merchant, guard, transport, proxy []string
		write := forms[form].write
		open := words[len(words)-1] == "{"
		if open {
			words = words[:len(words)-1]
		}
		for _, word := range words[1:] {
			if strings.ContainsAny(word[:1], "/@*") {
				matcher = append(matcher, word)
			} else {
				merchant = append(merchant, word)
			}
		}
		var last *[]string
		for depth := 1; open && depth > 0; {
			i++
			words := strings.Fields(lines[i])
			top := depth == 1
			if len(words) > 0 && words[len(words)-1] == "{" {
				depth++
			} else if len(words) == 1 && words[0] == "}" {
				depth--
			}
			switch {
			case depth == 0 || len(words) == 0:
				continue
			case !top: // of a nested block
				(*last)[len(*last)-1] += "\n" + lines[i]
				continue
			case slices.Contains(guardOptions, words[0]):
				last = &guard
			case slices.Contains(transportOptions, words[0]):
				last = &transport
			default:
				last = &proxy
				if words[0] != "header_up" {
					write = longForm
				}
			}
			*last = append(*last, lines[i])
		}
		out.WriteString(write(matcher, merchant, guard, transport, proxy))
	}
	return out.String()
}
