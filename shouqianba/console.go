package shouqianba

import (
	"io"
	"net/http"

	"github.com/caddy-chinaums/caddy-chinaums/internal/doctor"
)

// What the console asks the app: package console finds these methods by their names.

// Accounts are the names of the terminals.
func (a *App) Accounts() []string {
	names := make([]string, 0, len(a.Terminals))
	for _, t := range a.terminals.All() {
		names = append(names, t.name)
	}
	return names
}

// Watches reports whether orders are followed.
func (a *App) Watches() bool { return a.watched != nil }

// ExplainNotify writes why a notify of a terminal is refused, with its values masked.
func (a *App) ExplainNotify(w io.Writer, name string, content []byte, header http.Header, chinese bool) error {
	r := &doctor.Report{W: w, Chinese: chinese}
	all := a.terminals.All()
	for _, t := range all {
		if t.name == name {
			t.explain(r, content, header, all)
		}
	}
	return r.Err
}

// ExplainCode says what one of the platform's codes means, and what to do about it.
func (a *App) ExplainCode(code string, chinese bool) (cause, remedy string, known bool) {
	e, known := explanations[code]
	if chinese {
		return e.causeChinese, e.remedyChinese, known
	}
	return e.causeEnglish, e.remedyEnglish, known
}
