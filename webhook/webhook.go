// Package webhook signs what the next handler gets as Standard Webhooks
// (standardwebhooks.com) does, so that an application can tell the gateway's
// requests from everybody else's. It knows no payment platform.
//
// For applications in Go it also has the other side, Verify.
package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/uuid"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// defaultMaxSize is what MaxSize means when it is not set: 1 MiB.
const defaultMaxSize = 1 << 20

// Handler signs the request at its point of the chain, as Standard Webhooks
// does: whatever changes the body or these headers has to come before it.
//
//	Webhook-Id:        the request's Ce-Id; without one, a fresh UUID
//	Webhook-Timestamp: unix seconds, fresh at each delivery
//	Webhook-Signature: v1,<base64 of HMAC-SHA256(secret, id.timestamp.body)> …
//
// with one signature per secret, separated by spaces. Headers of the client
// whose name begins with Webhook- are dropped first, in every spelling that CGI
// folds into the same name (Webhook_Id, WEBHOOK.ID). A request with several
// Ce-Id is answered 400: the application could take the one that was not signed.
//
// The body is read whole, then handed on byte for byte with its length. One that
// is larger than max_size is answered 413; one that is shorter than its
// Content-Length, 400.
type Handler struct {
	// The secrets, one signature each; usually one, and the previous one while it
	// is being replaced. `whsec_…` is base64 (standard alphabet, padded), any other
	// text is its own bytes. Each may be a placeholder, `{env.NAME}` or
	// `{file./path}` (a file's final line break is not part of the secret), resolved
	// when the config loads; one that is empty or cannot be resolved is an error. A
	// secret written out literally is a warning. At least one is required.
	Secrets []string `json:"secrets,omitempty"`

	// The largest request body, in bytes. Default: 1048576 (1 MiB). A larger one
	// is answered 413.
	MaxSize int64 `json:"max_size,omitempty"`

	maxSize int64
	pool    *sync.Pool // of *keyring
	now     func() time.Time
}

// keyring is what signing one request needs: a signer per secret, and room.
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
		return errors.New("secrets: at least one secret is required")
	}
	if h.MaxSize < 0 {
		return fmt.Errorf("max_size: must be a positive number of bytes, not %d", h.MaxSize)
	}
	h.maxSize = h.MaxSize
	if h.maxSize == 0 {
		h.maxSize = defaultMaxSize
	}
	if h.now == nil {
		h.now = time.Now
	}

	keys := make([][]byte, 0, len(h.Secrets))
	for i, secret := range h.Secrets {
		resolved, err := resolve(secret)
		if err != nil {
			return fmt.Errorf("secrets[%d]: %w", i, err)
		}
		key, err := decodeSecret(resolved)
		if err != nil {
			return fmt.Errorf("secrets[%d]: %w", i, err)
		}
		if !hasPlaceholder(secret) {
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

// resolve replaces the placeholders of a secret. Its errors name a placeholder
// only where the whole secret is one; anything else with braces may be the
// secret itself.
func resolve(secret string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(secret, true, true)
	if err != nil {
		if isPlaceholder(secret) {
			return "", fmt.Errorf("%.64q is empty or cannot be read; set it before Caddy starts", secret)
		}
		return "", errors.New("holds a placeholder that is empty or unknown; use {env.NAME} or {file./path}, and write a brace of the secret itself as \\{")
	}
	if resolved == secret && hasPlaceholder(secret) {
		return "", errors.New("holds a placeholder without its closing brace")
	}
	return resolved, nil
}

// hasPlaceholder reports whether a secret comes from outside of the configuration.
func hasPlaceholder(secret string) bool {
	return strings.Contains(secret, "{env.") || strings.Contains(secret, "{file.")
}

// isPlaceholder reports whether a secret is one placeholder and nothing else.
func isPlaceholder(secret string) bool {
	return (strings.HasPrefix(secret, "{env.") || strings.HasPrefix(secret, "{file.")) &&
		strings.IndexByte(secret, '}') == len(secret)-1
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	id, err := scrub(r.Header)
	if err != nil {
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
	if id == "" {
		fresh, err := uuid.NewRandom()
		if err != nil {
			return caddyhttp.Error(http.StatusInternalServerError, fmt.Errorf("making a webhook id: %w", err))
		}
		id = fresh.String()
	}

	body, err := readBody(r, h.maxSize)
	if err != nil {
		return err
	}
	replaceBody(r, body)
	h.sign(r.Header, id, body)
	return next.ServeHTTP(w, r)
}

// sign sets the three headers.
func (h *Handler) sign(header http.Header, id string, body []byte) {
	seconds := h.now().Unix()

	ring := h.pool.Get().(*keyring)
	ring.prefix = appendSigned(ring.prefix[:0], id, seconds)
	ring.value = ring.value[:0]
	for i, signer := range ring.signers {
		if i > 0 {
			ring.value = append(ring.value, ' ')
		}
		ring.value = signer.appendSignature(ring.value, ring.prefix, body)
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

// hasFoldedPrefix compares as CGI folds names: case does not count, and '_' and
// '.' are '-'. The prefix is in small letters.
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

// readBody reads the body whole and closes it.
func readBody(r *http.Request, maxSize int64) ([]byte, error) {
	if r.Body == nil {
		return nil, lengthError(r.ContentLength, 0)
	}
	defer r.Body.Close()
	if r.ContentLength > maxSize {
		return nil, tooLarge(maxSize)
	}

	// With one byte to spare, the read that finds the end needs no more room.
	room := int64(512)
	if r.ContentLength > 0 {
		room = r.ContentLength
	}
	body := make([]byte, 0, room+1)
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if int64(len(body)) > maxSize {
			return nil, tooLarge(maxSize)
		}
		if err == io.EOF {
			return body, lengthError(r.ContentLength, len(body))
		}
		if err != nil {
			return nil, readError(err)
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
	}
}

// lengthError refuses a body that is not what Content-Length says: most of all
// one that somebody before us has read and left empty, which would otherwise go
// out empty with a good signature.
func lengthError(declared int64, got int) error {
	if declared > 0 && declared != int64(got) {
		return caddyhttp.Error(http.StatusBadRequest,
			fmt.Errorf("the request body has %d bytes, Content-Length says %d", got, declared))
	}
	return nil
}

func tooLarge(maxSize int64) error {
	return caddyhttp.Error(http.StatusRequestEntityTooLarge,
		fmt.Errorf("the request body is larger than max_size (%d bytes)", maxSize))
}

// readError gives a read error its status, unless it already has one (from the
// request_body directive, for example).
func readError(err error) error {
	if _, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		return err
	}
	err = fmt.Errorf("reading the request body: %w", err)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return caddyhttp.Error(http.StatusRequestEntityTooLarge, err)
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return caddyhttp.Error(http.StatusRequestTimeout, err)
	}
	return caddyhttp.Error(http.StatusBadRequest, err)
}

// replaceBody makes body the request's body, of known length and without
// trailers. net/http sends its own in-memory readers together with the header
// in one write, so no reader of ours.
func replaceBody(r *http.Request, body []byte) {
	r.Body = http.NoBody
	if len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	r.GetBody = nil
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	r.Trailer = nil
	r.Header.Del("Transfer-Encoding")
	r.Header.Del("Trailer")
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
