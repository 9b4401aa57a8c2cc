package chinaums

import (
	"bytes"
	"io"
	"net/http"

	"github.com/caddy-chinaums/caddy-chinaums/internal/doctor"
)

// What the console asks the app: package console finds these methods by their names.

// Accounts are the names of the merchants.
func (a *App) Accounts() []string {
	names := make([]string, 0, len(a.Merchants))
	for _, m := range a.merchants.All() {
		names = append(names, m.name)
	}
	return names
}

// Watches reports whether orders are followed.
func (a *App) Watches() bool { return a.watched != nil }

// ExplainNotify writes why a notify of a merchant does not verify, with its values masked. What it writes holds no digest of
// these values with a key: that would be the right signature of whatever somebody has sent.
func (a *App) ExplainNotify(w io.Writer, name string, content []byte, header http.Header, chinese bool) error {
	for _, m := range a.merchants.All() {
		if m.name != name {
			continue
		}
		var told bytes.Buffer
		r := &doctor.Report{W: &told, Chinese: chinese}
		_ = r.Examine(forDoctor(m, doctorKeys(name, a.Merchants)), &doctor.Capture{Method: http.MethodPost, Header: header, Content: content}) // the report says it
		for line := range bytes.Lines(told.Bytes()) {
			if bytes.HasPrefix(line, []byte("SHA256:")) || bytes.HasPrefix(line, []byte("MD5:")) {
				continue
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// ExplainCode says what one of the platform's codes means, and what to do about it.
func (a *App) ExplainCode(code string, chinese bool) (cause, remedy string, known bool) {
	e := knownError(code)
	switch {
	case e == nil:
		return "", "", false
	case chinese:
		return e.causeChinese, e.remedyChinese, true
	}
	return e.causeEnglish, e.remedyEnglish, true
}
