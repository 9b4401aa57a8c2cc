package verdict

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// Hint says what is probably wrong where the app has not taken an event, for the log; "" where nothing is probable. It is
// one of a fixed set of texts.
func (v Verdict) Hint() string {
	switch {
	case v.Taken, v.TimedOut, errors.Is(v.Err, ErrNoHandler):
		return ""
	case v.Err != nil:
		return hintOfError(v.Err)
	case v.Status >= 300 && v.Status <= 399:
		return "the app redirects, and nobody follows: let it answer at this very address (https or www may be asked for, or a / at the end)"
	}
	switch v.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "the app does not accept the signature: webhook_signature must stand right in front of the app (of an inbox, in deliver), APP_SECRET must be " +
			"the same on both sides (PHP-FPM sees only what env lines give it), and the app must check the body byte for byte"
	case http.StatusNotFound:
		if bytes.Contains(v.Answer, []byte("File not found.")) || bytes.Contains(v.Answer, []byte("No input file specified.")) {
			return "PHP does not find the script: root must be the directory as PHP-FPM sees it, and its user must be allowed to read it"
		}
		return "the app has nothing at this path, or does not know the order: compare the notifyUrl's path with the app's (for php_fastcgi also root)"
	case http.StatusMethodNotAllowed:
		return "the app takes no POST at this path"
	case 419:
		return "the app asks for a CSRF token, which no platform has: exempt this path"
	case http.StatusInternalServerError:
		return "an error in the app: its own log says which (PHP-FPM's is the pool's php_admin_value[error_log])"
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "a server in front of the app cannot reach it, or it is being started"
	}
	return ""
}

// hintOfError is Hint where no answer came. It reads the error's text, because Caddy's error of a failed dial does not tell
// what it wraps.
func hintOfError(err error) string {
	text := err.Error()
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	switch {
	case says("fcgi: invalid header version"):
		return "what listens there speaks no FastCGI: php_fastcgi needs the port or socket of PHP-FPM; for a server that speaks HTTP use reverse_proxy"
	case says("malformed HTTP", "does not look like a TLS handshake", "server gave HTTP response to HTTPS client"):
		return "what listens there does not speak what it is asked in: compare http:// and https:// with the app; for PHP-FPM use php_fastcgi"
	case says("no such host"):
		return "there is no host of this name: compare the app's address"
	case says("refused"): // on Windows "actively refused"
		return "nobody listens there: is the app running, and at this address? In a container 127.0.0.1 is the container itself"
	case says("no such file or directory"):
		return "there is no such socket: is the app running, and at this address?"
	case says("permission denied"):
		return "Caddy's user may not open the app's socket: set listen.owner, listen.group or listen.acl_users of PHP-FPM's pool"
	case says("EOF", "reset by peer", "broken pipe", "forcibly closed", "closed network connection", "server closed", "connection broken"):
		return "the connection was closed without an answer: the app died at work, or it is PHP-FPM, which needs php_fastcgi instead of reverse_proxy"
	}
	return ""
}
