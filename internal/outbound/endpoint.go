package outbound

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// ParseEndpoint reads scheme://host[:port]. loopback tells that the host is this machine by its name.
func ParseEndpoint(upstream string) (endpoint Endpoint, loopback bool, err error) {
	u, err := url.Parse(upstream)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return endpoint, false, locale.Errorf("%q is not of the form scheme://host[:port]", upstream)
	}
	defaultPort, ok := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if !ok {
		return endpoint, false, locale.Errorf("%q: the scheme must be https or http", upstream)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return endpoint, false, locale.Errorf("%q: the port must be a number from 1 to 65535", upstream)
	}
	host := strings.ToLower(u.Hostname())
	endpoint = Endpoint{Scheme: u.Scheme, Dial: net.JoinHostPort(host, port), Host: net.JoinHostPort(host, port)}
	if port == defaultPort {
		endpoint.Host = strings.TrimSuffix(endpoint.Host, ":"+port)
	}
	addr, err := netip.ParseAddr(host)
	return endpoint, host == "localhost" || err == nil && addr.Unmap().IsLoopback(), nil
}

// URL is the endpoint's address with a path.
func (e Endpoint) URL(path string) string { return e.Scheme + "://" + e.Host + path }
