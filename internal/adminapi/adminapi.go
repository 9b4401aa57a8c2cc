// Package adminapi has both ends of the admin API: it calls that of a Caddy that is running, for commands, and answers as
// part of it. Its client is not caddycmd.AdminAPIRequest because that makes a connection for each call and keeps it, waits
// for ever, and returns a refusal as text only.
package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/pflag"
)

const (
	patience    = time.Minute // for one call
	answerLimit = 64 << 20    // bytes
)

// Client calls one admin API.
type Client struct {
	address, origin string
	socket          bool // the address is a Unix socket's
	http            http.Client
}

// Reach are the flags of a command that say where the admin API is.
type Reach struct{ config, adapter, address *string }

// AddReach adds the flags to a command's.
func AddReach(flags *pflag.FlagSet) Reach {
	return Reach{
		config:  flags.StringP("config", "c", "", "Configuration file to get the admin address from, if --address is not used"),
		adapter: flags.StringP("adapter", "a", "", "Name of config adapter to apply (when --config is used)"),
		address: flags.String("address", "", "Address of the admin API, if not the default"),
	}
}

// Client makes a client of what the flags say.
func (r Reach) Client() (*Client, error) { return New(*r.address, *r.config, *r.adapter) }

// New makes a client. The address comes from the first of these that is given: address, the configuration, Caddy's
// default.
func New(address, config, adapter string) (*Client, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(address, nil, config, adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin API's address: %w", err)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return nil, fmt.Errorf("%q is not the address of an admin API", address)
	}
	c := &Client{address: address, origin: "http://" + parsed.JoinHostPort(0)}
	network, target := parsed.Network, parsed.JoinHostPort(0)
	if c.socket = parsed.IsUnixNetwork(); c.socket {
		c.origin = "http://127.0.0.1"           // the Host that Caddy takes from a socket
		target, _, _ = strings.Cut(target, "|") // the socket's permissions, which a config may have there
	}
	c.http = http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, target)
		},
	}}
	return c, nil
}

// Refusal is an answer other than 200.
type Refusal struct {
	Status  int
	Message string
}

func (e *Refusal) Error() string { return e.Message }

// Call requests a path and returns the answer. The error is a *Refusal if the status is not 200.
func (c *Client) Call(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	if ctx == nil { // cobra's, when it was executed without one
		ctx = context.Background()
	}
	target := c.origin + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, err
	}
	if !c.socket {
		request.Header.Set("Origin", c.origin) // as Caddy's own commands, for enforce_origin
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the admin API at %s does not answer; is Caddy running, and is --address or --config right? %w", c.address, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the admin API's answer: %w", err)
	}
	if len(content) > answerLimit {
		return nil, fmt.Errorf("the admin API's answer is larger than %d MiB; ask it with curl: %s", answerLimit>>20, target)
	}
	if response.StatusCode == http.StatusOK {
		return content, nil
	}
	refusal := &Refusal{response.StatusCode, fmt.Sprintf("the admin API at %s answered %s", c.address, response.Status)}
	var answer struct {
		Error string `json:"error"`
	}
	switch {
	case json.Unmarshal(content, &answer) == nil && answer.Error != "":
		refusal.Message = Printable(answer.Error)
	case response.StatusCode == http.StatusNotFound:
		switch app, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); app {
		case "inbox":
			refusal.Message += "; is it a Caddy with the inbox?"
		case "chinaums", "shouqianba":
			refusal.Message += "; is it a Caddy with this plugin, and `watch { … }` in the global option `" + app + "`?"
		}
	}
	return nil, refusal
}

// Printable replaces what could move a terminal's cursor or break a table.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// WriteJSON prints an answer, indented. What would do something to a terminal is escaped.
func WriteJSON(w io.Writer, content []byte) error {
	var indented bytes.Buffer
	if err := json.Indent(&indented, content, "", "  "); err != nil {
		return fmt.Errorf("reading the admin API's answer: %w", err)
	}
	_, err := fmt.Fprintln(w, escaped(strings.TrimSpace(indented.String())))
	return err
}

// escaped writes what would do something to a terminal, such as C1 controls and those that turn the direction of text,
// as JSON's escapes: all of it stands in strings.
func escaped(document string) string {
	var b strings.Builder
	b.Grow(len(document))
	for _, r := range document {
		if r < 0x7f || unicode.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}
