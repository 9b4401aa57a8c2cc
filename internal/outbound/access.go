package outbound

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// privateRanges are the networks that `private_ranges` stands for, the same as in Caddy's own remote_ip matcher.
var privateRanges = []string{
	"192.168.0.0/16",
	"172.16.0.0/12",
	"10.0.0.0/8",
	"127.0.0.1/8",
	"fd00::/8",
	"::1",
}

var loopbackRanges = []string{"127.0.0.0/8", "::1"}

// access says who may use the keys.
type access struct {
	all    bool
	allow  []netip.Prefix
	tokens [][sha256.Size]byte
}

func newAccess(allow, tokens []string) (access, error) {
	var a access
	if len(allow) == 0 {
		allow = loopbackRanges
	}
	for _, entry := range allow {
		switch entry {
		case "all":
			a.all = true
		case "private_ranges":
			for _, r := range privateRanges {
				a.allow = append(a.allow, mustPrefix(r))
			}
		default:
			prefix, err := parsePrefix(entry)
			if err != nil {
				return a, locale.Errorf("allow: %q is neither an IP address, a CIDR range, private_ranges nor all", entry)
			}
			a.allow = append(a.allow, prefix)
		}
	}
	for _, token := range tokens {
		a.tokens = append(a.tokens, sha256.Sum256([]byte(token)))
	}
	return a, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		prefix, err := netip.ParsePrefix(s)
		if bits := prefix.Bits() - 96; err == nil && prefix.Addr().Is4In6() && bits >= 0 {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), bits) // peers are compared unmapped
		}
		return prefix.Masked(), err
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

func mustPrefix(s string) netip.Prefix {
	prefix, err := parsePrefix(s)
	if err != nil {
		panic(err)
	}
	return prefix
}

// check answers with the reason of the refusal, or "". It looks at the peer, the addresses that the request names, the
// marks of a browser and the token, in this order.
func (a *access) check(r *http.Request) (reason string) {
	if !a.peerAllowed(r.RemoteAddr) {
		return "allow"
	}
	if !a.all && !a.namedAllowed(r.Header) {
		return "named_address"
	}
	if fromBrowser(r.Header) {
		return "browser"
	}
	if len(a.tokens) > 0 && !a.tokenAllowed(r.Header) {
		return "token"
	}
	return ""
}

// peerAllowed judges the connection's own peer. The peer of a Unix socket has no address ("@" or ""): it is on this
// machine and counts as loopback.
func (a *access) peerAllowed(remoteAddr string) bool {
	if a.all {
		return true
	}
	if remoteAddr == "" || strings.HasPrefix(remoteAddr, "@") || strings.HasPrefix(remoteAddr, "/") {
		return a.contains(netip.AddrFrom4([4]byte{127, 0, 0, 1})) || a.contains(netip.IPv6Loopback())
	}
	addrPort, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	return a.contains(addrPort.Addr())
}

func (a *access) contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(a.allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// namedAllowed reports whether every address that the request names as an earlier hop is allowed too. A front server
// on this machine would otherwise lend its own loopback address to the whole Internet.
func (a *access) namedAllowed(header http.Header) bool {
	for _, line := range header["X-Forwarded-For"] {
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item != "" && !a.nodeAllowed(item) {
				return false
			}
		}
	}
	for _, line := range header["X-Real-Ip"] {
		if line = strings.TrimSpace(line); line != "" && !a.nodeAllowed(line) {
			return false
		}
	}
	for _, line := range header["Forwarded"] {
		if !a.forwardedAllowed(line) {
			return false
		}
	}
	for _, line := range header["Via"] {
		// 1.1 host:port (comment), …: a host name is no address, so any word that is one counts, wherever it stands
		for word := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '(' || r == ')' }) {
			if addr, ok := parseNode(word); ok && !a.contains(addr) {
				return false
			}
		}
	}
	return true
}

// forwardedAllowed judges one Forwarded header line (RFC 7239): the nodes in for= and by=.
func (a *access) forwardedAllowed(line string) bool {
	for element := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r == ';' }) {
		name, value, ok := strings.Cut(element, "=")
		if !ok {
			if strings.TrimSpace(element) == "" {
				continue
			}
			return false
		}
		name = strings.TrimSpace(name)
		if !strings.EqualFold(name, "for") && !strings.EqualFold(name, "by") {
			continue
		}
		if !a.nodeAllowed(strings.Trim(strings.TrimSpace(value), `"`)) {
			return false
		}
	}
	return true
}

// nodeAllowed judges a node that should be an address: what is none (unknown, _hidden, a name) is foreign.
func (a *access) nodeAllowed(node string) bool {
	addr, ok := parseNode(node)
	return ok && a.contains(addr)
}

// parseNode reads an IP address with or without port and brackets.
func parseNode(node string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(node, "["), "]")); err == nil {
		return addr, true
	}
	if addrPort, err := netip.ParseAddrPort(node); err == nil {
		return addrPort.Addr(), true
	}
	// RFC 7239 lets a port be obfuscated: 192.0.2.1:_x
	if i := strings.LastIndexByte(node, ':'); i > 0 {
		if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(node[:i], "["), "]")); err == nil {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// fromBrowser reports the marks that every current browser leaves on a cross-site request and no page can take off.
func fromBrowser(header http.Header) bool {
	if _, ok := header["Origin"]; ok {
		return true
	}
	for name := range header {
		if strings.HasPrefix(name, "Sec-Fetch-") {
			return true
		}
	}
	return false
}

func (a *access) tokenAllowed(header http.Header) bool {
	values := header["Authorization"]
	if len(values) != 1 {
		return false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	// Comparing digests hides the length too; every token is compared, so that time tells nothing of which matched.
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	match := 0
	for i := range a.tokens {
		match |= subtle.ConstantTimeCompare(sum[:], a.tokens[i][:])
	}
	return match == 1
}

// paths says which of the platform's interfaces may be called.
type paths struct {
	allow []string // exact, or a prefix that ends in *
	deny  []string // in effect where allow is empty
}

func newPaths(patterns, deny []string) (paths, error) {
	allow := make([]string, 0, len(patterns))
	for _, p := range patterns {
		if !strings.HasPrefix(p, "/") {
			return paths{}, locale.Errorf("paths: %q must begin with /", p)
		}
		if i := strings.IndexByte(p, '*'); i >= 0 && i != len(p)-1 {
			return paths{}, locale.Errorf("paths: %q: an asterisk may only stand at the end", p)
		}
		if !plainPath(strings.TrimSuffix(p, "*")) {
			return paths{}, locale.Errorf("paths: %q could never match: paths are compared decoded, and neither '..', '//' nor any of %% ; \\ ? # passes", p)
		}
		if !strings.HasSuffix(p, "*") {
			p = path.Clean(p)
		}
		allow = append(allow, p)
	}
	return paths{allow: allow, deny: deny}, nil
}

// plainPath reports whether a decoded path means the same to whatever server reads it: dots, double slashes,
// semicolons or a second layer of encoding may not.
func plainPath(urlPath string) bool {
	if !strings.HasPrefix(urlPath, "/") || strings.Contains(urlPath, "//") || strings.Contains(urlPath, "/../") || strings.HasSuffix(urlPath, "/..") {
		return false
	}
	for i := range len(urlPath) {
		switch c := urlPath[i]; {
		case c <= ' ', c >= 0x7f, c == '%', c == ';', c == '\\', c == '?', c == '#':
			return false
		}
	}
	return true
}

// allowed judges a decoded path.
func (p *paths) allowed(urlPath string) bool {
	if !plainPath(urlPath) {
		return false
	}
	clean := path.Clean(urlPath)
	if len(p.allow) == 0 {
		lower := strings.ToLower(clean)
		return !slices.ContainsFunc(p.deny, func(pattern string) bool { return matchPath(pattern, lower) })
	}
	return slices.ContainsFunc(p.allow, func(pattern string) bool { return matchPath(pattern, clean) })
}

// refusal says in words why a path is not allowed.
func (p *paths) refusal(urlPath string) *Error {
	switch {
	case strings.Contains(urlPath, "//"):
		return errForbidden.saying("路径中有 //：SDK 的地址（base URL）不要以斜杠结尾", "the path has //: write the SDK's base URL without a slash at its end")
	case !plainPath(urlPath):
		return errForbidden.saying("路径中有 .. 或不允许的字符", "the path has .. or a character that is not allowed")
	case len(p.allow) == 0:
		return errForbidden.saying("此接口发放令牌或密钥，网关不转发", "this interface gives out a token or a key, and is not passed on")
	}
	return errForbidden.saying("此路径不在 paths 中", "the path is not in paths")
}

func matchPath(pattern, clean string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(clean, prefix) || clean == strings.TrimSuffix(prefix, "/")
	}
	return clean == pattern
}
