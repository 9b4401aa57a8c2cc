// Package webhook signs requests as Standard Webhooks (standardwebhooks.com)
// requires, so that an application can tell the gateway's requests from all
// others. It knows no payment platform.
//
// Applications in Go check the signature with Verify.
package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func init() {
	caddy.RegisterModule(Handler{})
}

const (
	defaultMaxSize = 1 << 20
	bodyPatience   = 10 * time.Second // for the body to arrive, and for what is left of a refused one
)

// Handler signs the request with Standard Webhooks at its point of the chain.
// Handlers that change the body or these headers must come before it.
//
//	Webhook-Id:        the request's Ce-Id; without one, a fresh UUID
//	Webhook-Timestamp: unix seconds, fresh at each delivery
//	Webhook-Signature: v1,<base64 of HMAC-SHA256(secret, id.timestamp.body)> …
//
// There is one signature per secret, separated by spaces. The client's own
// headers whose names begin with Webhook- are removed first, in every spelling
// that CGI turns into the same name (Webhook_Id, WEBHOOK.ID). A request with
// several Ce-Id headers is answered 400, because the application could use the
// one that was not signed.
//
// The whole body is read, and then passed on byte for byte with its length. A
// body larger than max_size is answered 413, a body that does not arrive within
// 10 seconds 408, and a body shorter than its Content-Length 400. After such an
// answer the connection ends, so that the rest of the body is not read as the
// next request.
//
// In a Caddyfile:
//
//	webhook_signature {env.APP_SECRET}
//	reverse_proxy 127.0.0.1:8903
//
// In JSON:
//
//	{
//		"handler": "webhook_signature",
//		"secrets": ["{env.APP_SECRET}"]
//	}
type Handler struct {
	// The secrets. Each makes one signature. Usually there is one, and also the
	// previous one while it is being replaced. At least one is required.
	//
	// `whsec_…` is base64 (standard alphabet, padded). Any other text is used as it
	// is. A secret may be a placeholder, `{env.NAME}` or `{file./path}`, which is
	// resolved when the config loads; a file's final line break is removed. It is an
	// error if a secret is empty or cannot be resolved, and a warning if it is
	// written out in the configuration.
	Secrets []string `json:"secrets,omitempty"`

	// The largest request body, in bytes. Default: 1048576 (1 MiB). A larger one
	// is answered 413.
	MaxSize int64 `json:"max_size,omitempty"`

	maxSize  int64
	patience time.Duration
	pool     *sync.Pool // of *keyring
	now      func() time.Time
}

// keyring is what one request needs for signing: a signer per secret, and a buffer.
type keyring struct {
	signers []*signer
	prefix  []byte
	value   []byte
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.webhook_signature",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision resolves the secrets.
func (h *Handler) Provision(ctx caddy.Context) error {
	if len(h.Secrets) == 0 {
		return locale.Errorf("secrets: at least one secret is required")
	}
	if h.MaxSize < 0 {
		return locale.Errorf("max_size: must be a positive number of bytes, not %d", h.MaxSize)
	}
	h.maxSize, h.patience = cmp.Or(h.MaxSize, defaultMaxSize), cmp.Or(h.patience, bodyPatience)
	if h.now == nil {
		h.now = time.Now
	}

	keys := make([][]byte, 0, len(h.Secrets))
	for i, raw := range h.Secrets {
		value, literal, err := resolve(raw)
		if err != nil {
			return locale.Errorf("secrets[%d]: %w", i, err)
		}
		key, err := decodeSecret(value)
		if err != nil {
			return locale.Errorf("secrets[%d]: %w", i, err)
		}
		switch {
		case secret.ShellVariable(raw):
			ctx.Logger().Warn("a value has the form of a shell's variable, which Caddy does not replace: write {env.NAME} instead of $NAME",
				zap.String("option", fmt.Sprintf("secrets[%d]", i)))
		case literal:
			ctx.Logger().Warn("a secret is written in the configuration; use {env.NAME} or {file./path} to keep it out of the config API",
				zap.String("option", fmt.Sprintf("secrets[%d]", i)))
		}
		keys = append(keys, key)
	}

	h.pool = &sync.Pool{New: func() any {
		ring := &keyring{signers: make([]*signer, len(keys))}
		for i, key := range keys {
			ring.signers[i] = newSigner(key)
		}
		return ring
	}}
	return nil
}

// resolve replaces the placeholders of a secret. Its errors name a placeholder only where the whole secret is one; anything
// else with braces may be the secret itself.
func resolve(raw string) (value string, literal bool, err error) {
	value, literal, err = secret.Replace(raw)
	switch {
	case err != nil && (strings.HasPrefix(raw, "{env.") || strings.HasPrefix(raw, "{file.")) && strings.IndexByte(raw, '}') == len(raw)-1:
		err = locale.Errorf("%.64q is empty or cannot be read; set it before Caddy starts", raw)
	case err != nil:
		err = locale.Errorf("holds a placeholder that is empty or unknown; use {env.NAME} or {file./path}, and write a brace of the secret itself as \\{")
	case value == raw && (strings.Contains(raw, "{env.") || strings.Contains(raw, "{file.")):
		err = locale.Errorf("holds a placeholder without its closing brace")
	}
	return value, literal, err
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	id, content, err := h.read(w, r)
	if err != nil {
		body.AnswerEarly(w, r, h.patience)
		return err
	}
	replaceBody(r, content)
	h.sign(r.Header, id, content)
	return next.ServeHTTP(w, r)
}

// read returns the event's id and the body. After an error, more of the body may still arrive.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) (id string, content []byte, err error) {
	if id, err = scrub(r.Header); err != nil {
		return "", nil, caddyhttp.Error(http.StatusBadRequest, err)
	}
	if id == "" {
		id = uuid.NewString()
	}
	if r.ContentLength == 0 && r.Body != http.NoBody { // a handler may have left the length at 0
		r.ContentLength = -1
	}
	content, err = body.ReadRequest(w, r, h.maxSize, h.patience)
	if err == nil {
		return id, content, nil
	}
	if _, ok := errors.AsType[caddyhttp.HandlerError](err); ok { // request_body's, for one
		return "", nil, err
	}
	return "", nil, caddyhttp.Error(body.Status(err), fmt.Errorf("reading the request body: %w", err))
}

// sign sets the three headers.
func (h *Handler) sign(header http.Header, id string, content []byte) {
	seconds := h.now().Unix()

	ring := h.pool.Get().(*keyring)
	ring.prefix = appendSigned(ring.prefix[:0], id, seconds)
	ring.value = ring.value[:0]
	for i, signer := range ring.signers {
		if i > 0 {
			ring.value = append(ring.value, ' ')
		}
		ring.value = signer.appendSignature(ring.value, ring.prefix, content)
	}
	values := []string{id, strconv.FormatInt(seconds, 10), string(ring.value)}
	h.pool.Put(ring)

	// One array for three headers. The full slice expressions make an Add
	// elsewhere allocate instead of writing into the neighbor.
	header[HeaderID] = values[0:1:1]
	header[HeaderTimestamp] = values[1:2:2]
	header[HeaderSignature] = values[2:3:3]
}

// scrub deletes the client's Webhook-* headers and returns the event's id, ""
// if there is none.
func scrub(header http.Header) (id string, err error) {
	ids := 0
	for name, values := range header {
		switch {
		case hasFoldedPrefix(name, "webhook-"):
			delete(header, name)
		case len(name) == len("ce-id") && hasFoldedPrefix(name, "ce-id"):
			ids += len(values)
			if name == "Ce-Id" && len(values) > 0 {
				id = values[0]
			}
		}
	}
	if ids > 1 {
		return "", errors.New("the request has more than one Ce-Id")
	}
	return id, nil
}

// hasFoldedPrefix compares names as CGI does: it ignores case, and takes '_' and
// '.' for '-'. The prefix must be in lower case.
func hasFoldedPrefix(name, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_' || c == '.':
			c = '-'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}

// replaceBody makes content the request's body, of known length and without trailers.
func replaceBody(r *http.Request, content []byte) {
	body.Set(r, content)
	if len(content) == 0 {
		r.Body = http.NoBody
	}
	r.GetBody = nil
	r.Header.Del("Transfer-Encoding")
	r.Header.Del("Trailer")
	r.Header.Set("Content-Length", strconv.Itoa(len(content)))
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
