package doctor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	encoding "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// Capture is what somebody saved.
type Capture struct {
	Method  string      // "" where only a body was saved
	Header  http.Header // likewise
	Content []byte      // the body or, of a GET, the query

	cut bool // the body is not as long as the head says
}

var requestLine = regexp.MustCompile(`^([A-Z]+) (\S+) HTTP/1\.[01]\r?\n`)

// ReadCapture tells what it was given.
func ReadCapture(content []byte) (*Capture, error) {
	// A byte order mark is an editor's; after one, PowerShell's redirection is UTF-16. Anything else stays as it is.
	if plain, _, err := transform.Bytes(encoding.BOMOverride(transform.Nop), content); err == nil {
		content = plain
	}
	text := bytes.TrimLeft(content, " \t\r\n")
	if match := requestLine.FindSubmatch(text); match != nil {
		return readRequest(text, string(match[1]))
	}
	trimmed := string(bytes.TrimSpace(text))
	if rest, ok := strings.CutPrefix(trimmed, "?"); ok {
		trimmed = rest
	}
	if strings.HasPrefix(trimmed, "http://") || strings.HasPrefix(trimmed, "https://") {
		u, err := url.Parse(trimmed)
		if err != nil {
			return nil, errors.New("the address cannot be read")
		}
		return &Capture{Method: http.MethodGet, Content: []byte(u.RawQuery)}, nil
	}
	// An editor or a shell ends a file with a newline; the platform sends none.
	if bytes.HasPrefix(text, []byte("?")) {
		text = text[1:]
	}
	return &Capture{Content: bytes.TrimRight(text, "\r\n")}, nil
}

func readRequest(text []byte, method string) (*Capture, error) {
	head, body, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	if bare, rest, ok := bytes.Cut(text, []byte("\n\n")); ok && len(bare) < len(head) {
		head, body = bare, rest
	}
	lines := strings.Split(strings.TrimRight(string(head), "\r\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], "\r")
	}
	wire := strings.Join(lines, "\r\n") + "\r\n\r\n"
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		return nil, fmt.Errorf("this begins like an HTTP request, but its head cannot be read: %w", err)
	}
	c := &Capture{Method: method, Header: req.Header, Content: body}
	switch declared := req.ContentLength; {
	case slices.Contains(req.TransferEncoding, "chunked"):
		chunked, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(wire), bytes.NewReader(body))))
		if err == nil {
			c.Content, err = io.ReadAll(chunked.Body)
		}
		if err != nil {
			// Many tools save a body without its chunks.
			c.Content = bytes.TrimRight(body, "\r\n")
		}
	case declared > 0 && int64(len(body)) < declared, declared > 0 && int64(len(bytes.TrimRight(body, "\r\n"))) > declared:
		c.cut = true
		c.Content = bytes.TrimRight(body, "\r\n")
	case declared > 0:
		c.Content = body[:declared]
	default:
		c.Content = bytes.TrimRight(body, "\r\n")
	}
	if method == http.MethodGet {
		c.Content = []byte(req.URL.RawQuery)
	}
	return c, nil
}
