package dev

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// app is where events go. The zero value takes every event by itself.
type app struct {
	address string // as the Caddyfile wants it
	fastcgi bool
	own     bool // its PHP is started here
	program string
}

// php reports whether the app speaks FastCGI. Its pages need a site then.
func (a app) php() bool { return a.fastcgi || a.own }

// hostName is what may stand for a host; nothing that a Caddyfile reads otherwise.
var hostName = regexp.MustCompile(`^[\w.:-]+$`)

// socketPath likewise.
var socketPath = regexp.MustCompile(`^/[\w./+@-]+$`)

// readApp reads --app. first is the first of our ports.
func readApp(text string, first int) (app, error) {
	if text == "" {
		program, err := exec.LookPath("php-cgi")
		if _, statErr := os.Stat("index.php"); err != nil || statErr != nil {
			return app{}, nil
		}
		return app{own: true, program: program}, nil
	}
	address, fastcgi := strings.CutPrefix(text, "fastcgi://")
	if fastcgi && strings.HasPrefix(address, "/") {
		if !socketPath.MatchString(address) || path.Clean(address) != address {
			return app{}, fmt.Errorf("--app: %q is no path of a socket", address)
		}
		return app{address: "unix/" + address, fastcgi: true}, nil
	}
	if !fastcgi {
		address = strings.TrimSuffix(strings.TrimPrefix(text, "http://"), "/")
	}
	name, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if name == "" {
		name = host
	}
	if err != nil || portErr != nil || number == 0 || !hostName.MatchString(name) {
		return app{}, fmt.Errorf("--app: %q is neither host:port nor fastcgi://host:port nor fastcgi:///path/of/a.sock", text)
	}
	last := wayIn
	if fastcgi {
		last = pages
	}
	if int(number) >= first && int(number) <= first+last && (name == host || name == "localhost") {
		return app{}, fmt.Errorf("--app: port %d is needed here; %d to %d are the platform's and the gateway's", number, first, first+last)
	}
	return app{address: net.JoinHostPort(name, port), fastcgi: fastcgi}, nil
}
