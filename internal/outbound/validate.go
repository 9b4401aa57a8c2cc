package outbound

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
)

// provisionValidate checks the option.
func (g *Guard) provisionValidate() error {
	switch g.Validate {
	case "", "off":
		return nil
	case "warn", "reject":
		if g.platform.Validate == nil {
			return fmt.Errorf("validate: %s is not available: there are no tables of %s's interfaces", g.Validate, g.platform.Name)
		}
		return nil
	}
	return fmt.Errorf("validate: %q is not one of: off, warn, reject", g.Validate)
}

// validate holds the call's body against the documents' tables. It refuses only where it is told to reject.
func (g *Guard) validate(r *http.Request, call *Call) *Error {
	if g.Validate == "" || g.Validate == "off" {
		return nil
	}
	found := g.misfits(r, call)
	if len(found) == 0 {
		return nil
	}
	if g.Validate == "reject" {
		refused := slices.DeleteFunc(slices.Clone(found), func(e fields.Error) bool { return e.Advice })
		if len(refused) > 0 {
			e := errInvalid.because("invalid", nil)
			e.Fields = refused
			return e
		}
	}
	suppressed, ok := g.refusals.Allow("validate_warn")
	if !ok {
		return nil
	}
	g.logger.Warn("fields of a call do not fit the documents; it is sent all the same",
		zap.String("merchant", call.Account.Name()), zap.String("path", quote(r.URL.Path)), misfits(found), zap.Int("suppressed", suppressed))
	return nil
}

func (g *Guard) misfits(r *http.Request, call *Call) []fields.Error {
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding = strings.TrimSpace(encoding); encoding != "" && !strings.EqualFold(encoding, "identity") {
			return []fields.Error{{Rule: "encoding", Message: "请求体经过压缩，无法校验 / the body is encoded and cannot be validated"}}
		}
	}
	return g.platform.Validate(r.URL.Path, call.Body)
}

// misfits is what a log may hold of them: names and rules, never a value.
func misfits(found []fields.Error) zap.Field {
	words := make([]string, len(found))
	for i, e := range found {
		words[i] = strings.TrimPrefix(e.Name+": "+e.Rule, ": ")
	}
	return zap.Strings("fields", words)
}
