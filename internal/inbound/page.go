package inbound

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Page writes a page whose address holds a signed query. Its Referrer-Policy is no-referrer, whatever the page says: a
// policy of the page's own would hand the query to other sites. It counts for the access log.
type Page struct {
	caddyhttp.ResponseWriterWrapper

	// Status is the answer's status, or 0 before there is one.
	Status int
	// Size is how much has been written of the body, in bytes.
	Size int
}

// NewPage returns a page that is written to w.
func NewPage(w http.ResponseWriter) *Page {
	page := &Page{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	page.protect()
	return page
}

func (p *Page) protect() { p.Header().Set("Referrer-Policy", "no-referrer") }

// WriteHeader implements http.ResponseWriter.
func (p *Page) WriteHeader(status int) {
	if p.Status == 0 {
		p.protect()
		if status >= 200 {
			p.Status = status
		}
	}
	p.ResponseWriter.WriteHeader(status)
}

func (p *Page) begin() {
	if p.Status == 0 {
		p.WriteHeader(http.StatusOK)
	}
}

// Write implements http.ResponseWriter.
func (p *Page) Write(content []byte) (int, error) {
	p.begin()
	n, err := p.ResponseWriter.Write(content)
	p.Size += n
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (p *Page) ReadFrom(r io.Reader) (int64, error) {
	p.begin()
	n, err := p.ResponseWriterWrapper.ReadFrom(r)
	p.Size += int(n)
	return n, err
}

// Interface guards
var (
	_ http.ResponseWriter = (*Page)(nil)
	_ io.ReaderFrom       = (*Page)(nil)
)
