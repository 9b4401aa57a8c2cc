package outbound

import (
	"net/http"
	"net/netip"
	"path"
	"strings"
	"testing"
)

func header(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func TestPeer(t *testing.T) {
	cases := []struct {
		name, allow, peer string
		want              bool
	}{
		{"default: IPv4 loopback", "", "127.0.0.1:4000", true},
		{"default: another IPv4 loopback", "", "127.8.9.10:4000", true},
		{"default: IPv6 loopback", "", "[::1]:4000", true},
		{"default: mapped loopback", "", "[::ffff:127.0.0.1]:4000", true},
		{"default: Unix socket", "", "@", true},
		{"default: Unix socket without a name", "", "", true},
		{"default: named Unix socket", "", "/run/app.sock", true},
		{"default: private", "", "192.168.1.2:4000", false},
		{"default: public", "", "203.0.113.7:4000", false},
		{"default: unspecified", "", "[::]:4000", false},
		{"default: no address", "", "app.internal:4000", false},
		{"default: address without port", "", "127.0.0.1", false},
		{"one address", "203.0.113.7", "203.0.113.7:1", true},
		{"one address, the next", "203.0.113.7", "203.0.113.8:1", false},
		{"one address: loopback is no longer in", "203.0.113.7", "127.0.0.1:1", false},
		{"one address: nor is a Unix socket", "203.0.113.7", "@", false},
		{"one mapped address", "::ffff:203.0.113.7", "203.0.113.7:1", true},
		{"range", "203.0.113.0/24", "203.0.113.255:1", true},
		{"range, behind its end", "203.0.113.0/24", "203.0.114.0:1", false},
		{"range with host bits", "203.0.113.99/24", "203.0.113.1:1", true},
		{"mapped range", "::ffff:203.0.113.0/120", "203.0.113.9:1", true},
		{"mapped range, outside", "::ffff:203.0.113.0/120", "203.0.114.9:1", false},
		{"IPv6 range", "2001:db8::/32", "[2001:db8:1::5]:1", true},
		{"IPv6 range, outside", "2001:db8::/32", "[2001:db9::5]:1", false},
		{"zone", "fe80::/10", "[fe80::1%eth0]:1", true},
		{"private_ranges", "private_ranges", "10.1.2.3:1", true},
		{"private_ranges: 172", "private_ranges", "172.31.255.255:1", true},
		{"private_ranges: 172.32 is public", "private_ranges", "172.32.0.0:1", false},
		{"private_ranges: loopback", "private_ranges", "127.0.0.1:1", true},
		{"private_ranges: unique local", "private_ranges", "[fd12::1]:1", true},
		{"private_ranges: public", "private_ranges", "8.8.8.8:1", false},
		{"private_ranges and one more", "private_ranges 8.8.8.8", "8.8.8.8:1", true},
		{"all", "all", "8.8.8.8:1", true},
		{"all: whatever it is", "all", "?", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, err := newAccess(strings.Fields(c.allow), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := a.peerAllowed(c.peer); got != c.want {
				t.Errorf("%s allowed: %v", c.peer, got)
			}
		})
	}
}

func TestAllowRefusesTypos(t *testing.T) {
	for _, entry := range []string{"privat_ranges", "10.0.0.0/33", "10.0.0", "ALL", "localhost", "", "10.0.0.0/8,127.0.0.1", "::1/129", "fe80::%eth0/64"} {
		_, err := newAccess([]string{entry}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "allow: ") {
			t.Errorf("%q: %v", entry, err)
		}
	}
}

func TestNamedAddresses(t *testing.T) {
	cases := []struct {
		name, header string
		want         bool
	}{
		{"none", "", true},
		{"allowed", "X-Forwarded-For: 127.0.0.1", true},
		{"allowed, with port", "X-Forwarded-For: 127.0.0.1:5000", true},
		{"allowed IPv6", "X-Forwarded-For: ::1", true},
		{"allowed IPv6 with brackets and port", "X-Forwarded-For: [::1]:5000", true},
		{"allowed, mapped", "X-Forwarded-For: ::ffff:127.0.0.1", true},
		{"empty", "X-Forwarded-For: ", true},
		{"foreign", "X-Forwarded-For: 203.0.113.7", false},
		{"foreign with port", "X-Forwarded-For: 203.0.113.7:80", false},
		{"foreign IPv6", "X-Forwarded-For: 2001:db8::1", false},
		{"foreign IPv6 with port", "X-Forwarded-For: [2001:db8::1]:80", false},
		{"the first is foreign", "X-Forwarded-For: 203.0.113.7, 127.0.0.1", false},
		{"the last is foreign", "X-Forwarded-For: 127.0.0.1,203.0.113.7", false},
		{"a second line is foreign", "X-Forwarded-For: 127.0.0.1|X-Forwarded-For: 203.0.113.7", false},
		{"unknown", "X-Forwarded-For: unknown", false},
		{"hidden", "X-Forwarded-For: _x", false},
		{"a host name", "X-Forwarded-For: localhost", false},
		{"rubbish", "X-Forwarded-For: 127.0.0.1 203.0.113.7", false},
		{"quoted", `X-Forwarded-For: "127.0.0.1`, false},

		{"real IP, allowed", "X-Real-IP: 127.0.0.1", true},
		{"real IP, foreign", "X-Real-IP: 203.0.113.7", false},
		{"real IP, unknown", "X-Real-IP: unknown", false},
		{"real IP, a list", "X-Real-IP: 127.0.0.1, 127.0.0.1", false},
		{"real IP, a second line", "X-Real-IP: 127.0.0.1|X-Real-IP: 203.0.113.7", false},

		{"Forwarded, allowed", "Forwarded: for=127.0.0.1;proto=https;by=127.0.0.2;host=pay.example", true},
		{"Forwarded, no address", "Forwarded: proto=https;host=203.0.113.7", true},
		{"Forwarded, allowed IPv6", `Forwarded: For="[::1]:4711"`, true},
		{"Forwarded, obfuscated port", "Forwarded: for=127.0.0.1:_x", true},
		{"Forwarded, foreign", "Forwarded: for=203.0.113.7", false},
		{"Forwarded, foreign IPv6", `Forwarded: for="[2001:db8::1]:4711"`, false},
		{"Forwarded, foreign by", "Forwarded: for=127.0.0.1;by=203.0.113.7", false},
		{"Forwarded, letter case and spaces", "Forwarded: proto=http ; FOR = 203.0.113.7", false},
		{"Forwarded, the second element", "Forwarded: for=127.0.0.1, for=203.0.113.7", false},
		{"Forwarded, unknown", "Forwarded: for=unknown", false},
		{"Forwarded, hidden", "Forwarded: for=_x", false},
		{"Forwarded, hidden in quotes", `Forwarded: for="_x"`, false},
		{"Forwarded, escapes in quotes", `Forwarded: for="\127.0.0.1"`, false},
		{"Forwarded, a comma in quotes", `Forwarded: for="127.0.0.1,x"`, false},
		{"Forwarded, broken", "Forwarded: 127.0.0.1", false},

		{"Via, a host name", "Via: 1.1 front.example", true},
		{"Via, a pseudonym and a comment", "Via: 1.1 fred (Apache/2.4 at front.example)", true},
		{"Via, allowed", "Via: HTTP/1.1 127.0.0.1:8080", true},
		{"Via, foreign", "Via: 1.1 203.0.113.7", false},
		{"Via, foreign with port", "Via: 1.1 203.0.113.7:80", false},
		{"Via, foreign IPv6", "Via: 2.0 [2001:db8::1]", false},
		{"Via, the second", "Via: 1.1 front.example, 1.1 203.0.113.7", false},
		{"Via, in a comment", "Via: 1.1 front.example (203.0.113.7)", false},
		{"Via, without a space", "Via: 1.1 a,1.1 203.0.113.7", false},
	}
	a, err := newAccess(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := newAccess([]string{"all"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := make(http.Header)
			if c.header != "" {
				h = header(strings.Split(c.header, "|")...)
			}
			if got := a.namedAllowed(h); got != c.want {
				t.Errorf("%v allowed: %v", h, got)
			}
			if reason := all.check(&http.Request{RemoteAddr: "203.0.113.9:1", Header: h}); reason != "" {
				t.Errorf("with `allow all`: refused, %s", reason)
			}
		})
	}
}

func TestBrowserMarks(t *testing.T) {
	for line, want := range map[string]bool{
		"Origin: https://shop.example":               true,
		"Origin: null":                               true,
		"Origin: ":                                   true,
		"Sec-Fetch-Mode: no-cors":                    true,
		"Sec-Fetch-Site: same-origin":                true,
		"Sec-Fetch-Storage-Access: none":             true,
		"Sec-Ch-Ua: x":                               false,
		"Referer: https://shop.example":              false,
		"User-Agent: Mozilla/5.0 (a server may lie)": false,
	} {
		if got := fromBrowser(header(line)); got != want {
			t.Errorf("%s: a browser: %v", line, got)
		}
	}
}

func TestToken(t *testing.T) {
	a, err := newAccess([]string{"all"}, []string{"new-token", "old-token"})
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, header string
		want         bool
	}{
		{"the new one", "Authorization: Bearer new-token", true},
		{"the previous one", "Authorization: Bearer old-token", true},
		{"the scheme in any letter case", "Authorization: bEARER new-token", true},
		{"spaces", "Authorization: Bearer   new-token", true},
		{"another", "Authorization: Bearer new-tokem", false},
		{"another letter case", "Authorization: Bearer New-Token", false},
		{"a beginning", "Authorization: Bearer new-toke", false},
		{"more", "Authorization: Bearer new-token2", false},
		{"both at once", "Authorization: Bearer new-token old-token", false},
		{"empty", "Authorization: Bearer ", false},
		{"no token", "Authorization: Bearer", false},
		{"another scheme", "Authorization: Basic new-token", false},
		{"without a scheme", "Authorization: new-token", false},
		{"twice", "Authorization: Bearer new-token|Authorization: Bearer new-token", false},
		{"elsewhere", "X-Token: new-token", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := a.tokenAllowed(header(strings.Split(c.header, "|")...)); got != c.want {
				t.Errorf("allowed: %v", got)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	deny := []string{"/v1/token/*"}
	cases := []struct {
		name, allow, path string
		want              bool
	}{
		{"default", "", "/v1/netpay/query", true},
		{"default: gives out tokens", "", "/v1/token/access", false},
		{"default: letter case", "", "/V1/Token/access", false},
		{"default: the prefix itself", "", "/v1/token", false},
		{"default: the prefix with a slash", "", "/v1/token/", false},
		{"default: cleaned", "", "/v1/./token/access", false},
		{"default: another word", "", "/v1/tokens", true},
		{"default: dots", "", "/v1/netpay/../token/access", false},
		{"default: dots at the end", "", "/v1/netpay/..", false},
		{"default: dots that go nowhere", "", "/v1/x/../netpay/query", false},
		{"default: three dots are a name", "", "/v1/...", true},
		{"default: double slash", "", "/v1//token/access", false},
		{"default: double slash in front", "", "//v1/netpay/query", false},
		{"default: encoded twice", "", "/v1/%74oken/access", false},
		{"default: matrix parameter", "", "/v1/token;x/access", false},
		{"default: backslash", "", `/v1\token/access`, false},
		{"default: question mark", "", "/v1/token?/access", false},
		{"default: NUL", "", "/v1/token\x00/access", false},
		{"default: space", "", "/v1/token /access", false},
		{"default: full-width letters", "", "/v1/ｔoken/access", false},
		{"default: no slash", "", "v1/netpay/query", false},
		{"default: empty", "", "", false},
		{"default: asterisk form", "", "*", false},
		{"exact", "/v1/netpay/query", "/v1/netpay/query", true},
		{"exact, cleaned", "/v1/netpay/query", "/v1/./netpay/query/", true},
		{"exact, pattern with a slash", "/v1/netpay/query/", "/v1/netpay/query", true},
		{"exact, another", "/v1/netpay/query", "/v1/netpay/refund", false},
		{"exact, longer", "/v1/netpay/query", "/v1/netpay/query2", false},
		{"exact, below", "/v1/netpay/query", "/v1/netpay/query/x", false},
		{"exact, letter case", "/v1/netpay/query", "/v1/netpay/Query", false},
		{"prefix", "/v1/netpay/*", "/v1/netpay/wx/unified-order", true},
		{"prefix, itself", "/v1/netpay/*", "/v1/netpay", true},
		{"prefix, another", "/v1/netpay/*", "/v1/netpayx", false},
		{"prefix, a sibling that is denied by default", "/v1/netpay/*", "/v1/token/access", false},
		{"two", "/v1/netpay/query /v1/netpay/bills/*", "/v1/netpay/bills/query", true},
		{"tokens on purpose", "/v1/token/access", "/v1/token/access", true},
		{"everything on purpose", "/*", "/v1/token/access", true},
		{"everything, but no dots", "/*", "/v1/../x", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := newPaths(strings.Fields(c.allow), deny)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.allowed(c.path); got != c.want {
				t.Errorf("%q allowed: %v", c.path, got)
			}
		})
	}
	for _, pattern := range []string{"v1/x", "/v1/*/x", "/v1/../x", "/v1//x", "/v1/x%2fy", "/v1/x?y", "*", "/v1/a b"} {
		if _, err := newPaths([]string{pattern}, deny); err == nil || !strings.Contains(err.Error(), "paths: ") {
			t.Errorf("pattern %q: %v", pattern, err)
		}
	}
}

// FuzzNamedAddresses: whatever stands in a header, an address that a simple reader finds in it is never let pass
// unless it is allowed.
func FuzzNamedAddresses(f *testing.F) {
	for _, seed := range []string{
		"127.0.0.1, 203.0.113.7", "for=203.0.113.7;by=_x", `for="[2001:db8::1]:4711"`, "1.1 203.0.113.7:80 (x)", "unknown", "::1", "[::1]:_p",
	} {
		f.Add(seed)
	}
	a, err := newAccess(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "Via"} {
			allowed := a.namedAllowed(http.Header{name: {value}})
			for word := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(",; \t()=\"", r) }) {
				addr, err := netip.ParseAddr(word)
				if err != nil || addr.Unmap().IsLoopback() || !allowed {
					continue
				}
				if name == "Forwarded" {
					// Only for= and by= name an address; host= may be one.
					lower := strings.ToLower(value)
					if !strings.Contains(lower, "for="+strings.ToLower(word)) && !strings.Contains(lower, "by="+strings.ToLower(word)) {
						continue
					}
					if strings.Contains(lower, "host=") || strings.Count(value, "=") > 1 {
						continue
					}
				}
				if name == "Via" && strings.ContainsAny(value, ";=\"") {
					continue // such a word is a name to Via
				}
				t.Errorf("%s: %q passes with %s in it", name, value, word)
			}
		}
	})
}

// FuzzPaths: a path that passes means the same to a server that cleans, decodes once more, cuts matrix parameters or
// folds letter case.
func FuzzPaths(f *testing.F) {
	for _, seed := range []string{"/v1/netpay/query", "/v1/./token/x", "/v1/x/..;/token", "/v1/%2e%2e/token", "/V1/TOKEN/", "/v1//token"} {
		f.Add(seed)
	}
	p, err := newPaths(nil, []string{"/v1/token/*"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !p.allowed(s) {
			return
		}
		clean := strings.ToLower(path.Clean(s))
		if clean == "/v1/token" || strings.HasPrefix(clean, "/v1/token/") || strings.Contains(s+"/", "/../") {
			t.Errorf("%q passes", s)
		}
		if strings.ContainsAny(s, "%;\\?#\x00 ") {
			t.Errorf("%q passes", s)
		}
	})
}
