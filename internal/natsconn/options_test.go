package natsconn

import (
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// hard is a password with everything that a URL, a list of URLs or a quoted text takes for its own.
const hard = `s3cret,a/b@c:d%2C?e#f&g=h+i "j\k;é[l]`

// provisioned are options as they are after the configuration was loaded.
func provisioned(t *testing.T, change func(*Options), urls ...string) *Options {
	t.Helper()
	n := &Options{URLs: urls}
	if change != nil {
		change(n)
	}
	if err := n.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return n
}

var keyDigest = regexp.MustCompile(` [0-9a-f]{16} `)

// plainKey is a key without the digest, which is another one in each process.
func plainKey(key string) string { return keyDigest.ReplaceAllString(key, " ") }

// TestRedactForms: whatever way an error spells a secret, it is not shown.
func TestRedactForms(t *testing.T) {
	t.Parallel()
	for _, password := range []string{hard, "s3cret", "s3cret,", "s3cret word", "s3cret@,", `s3cret"`, "a", "s3cret$&+,/:;=?@"} {
		for _, user := range []*url.Userinfo{url.UserPassword("gate", password), url.User(password)} {
			server := "nats://" + strings.ReplaceAll(user.String(), ",", "%2C") + "@127.0.0.1:4222"
			n := provisioned(t, nil, server, "nats://gate:s3cret-and-more@127.0.0.1:4223")
			inJSON, err := json.Marshal(password)
			if err != nil {
				t.Fatal(err)
			}
			inURL, quoted := strings.TrimPrefix(user.String(), "gate:"), strconv.Quote(password)
			for name, spelt := range map[string]string{
				"plain": password, "in a URL": inURL, "as given": strings.ReplaceAll(inURL, ",", "%2C"),
				"in a query": url.QueryEscape(password), "in a path": url.PathEscape(password),
				"quoted": quoted[1 : len(quoted)-1], "in JSON": string(inJSON[1 : len(inJSON)-1]), "of another server": "s3cret-and-more",
			} {
				if got := n.Redact(errors.New("<" + spelt + ">")); got != "<[redacted]>" {
					t.Errorf("%q %s: %s", password, name, got)
				}
			}
		}
	}
}

// TestURLsThatArePasswords: where a mark of a password was left as it is, a part of it would become a server's name, and be
// shown as one. Such a URL is refused, and nothing of it shown.
func TestURLsThatArePasswords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, url string }{
		{"a comma", "nats://gate:s3cret,word@127.0.0.1:4222"},
		{"a comma behind digits", "nats://gate:4711,s3cret@127.0.0.1:4222"},
		{"a comma in a token", "nats://s3cret,word@127.0.0.1:4222"},
		{"a slash", "nats://gate:s3cret/word@127.0.0.1:4222"},
		{"a slash behind digits", "nats://gate:4711/s3cret@127.0.0.1:4222"},
		{"a question mark", "tls://s3cret?word@127.0.0.1:4222"},
		{"a number sign", "tls://s3cret#word@127.0.0.1:4222"},
		{"a percent sign", "nats://gate:s3cret%zz@127.0.0.1:4222"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := &Options{URLs: []string{test.url}}
			err := n.Provision(caddy.Context{})
			if err == nil {
				t.Fatalf("accepted as %v", n.hosts())
			}
			if words := err.Error(); !strings.Contains(words, "%2C") || strings.Contains(words, "s3cret") || strings.Contains(words, "4711") {
				t.Errorf("error %v", err)
			}
		})
	}
	n := provisioned(t, nil, "nats://a:4222,b,nats://gate:pass@a", "tls://gate:pass@c/", "gate:pass@d")
	if got := strings.Join(n.hosts(), " "); got != "nats://a:4222 nats://b:4222 nats://d:4222 tls://c:4222" {
		t.Errorf("servers %s", got)
	}
}

func TestRedact(t *testing.T) {
	n := provisioned(t, nil, "nats://user:p%40ss%2Fword@one:4222,tls://token123@two")
	got := n.Redact(errors.New(`dial nats://user:p%40ss%2Fword@one: "p@ss/word" token123`))
	if want := `dial nats://user:[redacted]@one: "[redacted]" [redacted]`; got != want {
		t.Errorf("got %s", got)
	}
	if got, want := plainKey(n.StoreKey("x")), "nats:nats://one:4222,tls://two:4222 x"; got != want {
		t.Errorf("key %q, want %q", got, want)
	}
}

func TestVersion(t *testing.T) {
	for version, good := range map[string]bool{
		"2.11.0": true, "2.11.12": true, "2.12.0-beta.1": true, "2.15.2": true, "3.0.0": true,
		"2.10.29": false, "2.9.10": false, "1.4.1": false, "": false, "master": false,
	} {
		err := CheckVersion(version)
		if (err == nil) != good {
			t.Errorf("%q: %v", version, err)
		}
		if err != nil && (!IsUnfit(err) || !strings.Contains(err.Error(), "2.11")) {
			t.Errorf("%q: %v", version, err)
		}
	}
}

func TestProvision(t *testing.T) {
	t.Setenv("NATSSTORE_URL", "nats://gateway:secret-word@broker:4333")
	for name, test := range map[string]struct {
		config Options
		want   string // the key, or what the error says
		wrong  bool
	}{
		"one":           {config: Options{URLs: []string{"nats://b:1"}}, want: "nats:nats://b:1 x"},
		"sorted":        {config: Options{URLs: []string{"nats://b:1", "tls://a"}}, want: "nats:nats://b:1,tls://a:4222 x"},
		"no scheme":     {config: Options{URLs: []string{"b:1"}}, want: "nats:nats://b:1 x"},
		"placeholder":   {config: Options{URLs: []string{"{env.NATSSTORE_URL}"}}, want: "nats:nats://broker:4333 x"},
		"unset":         {config: Options{URLs: []string{"{env.NATSSTORE_UNSET}"}}, want: "NATSSTORE_UNSET", wrong: true},
		"none":          {config: Options{}, want: "URL of a server is missing", wrong: true},
		"http":          {config: Options{URLs: []string{"http://u:secret-word@b"}}, want: "must be like nats://", wrong: true},
		"no URL":        {config: Options{URLs: []string{"nats://u:secret-word@b:port"}}, want: "is no URL", wrong: true},
		"behind":        {config: Options{URLs: []string{"nats://u:secret-word@b:1/@x"}}, want: "holds an @", wrong: true},
		"a slash":       {config: Options{URLs: []string{"nats://u:secret-word/@b"}}, want: "is no URL", wrong: true},
		"replicas":      {config: Options{URLs: []string{"nats://b"}, Replicas: 6}, want: "replicas must be 1, 3 or 5", wrong: true},
		"two replicas":  {config: Options{URLs: []string{"nats://b"}, Replicas: 2}, want: "replicas must be 1, 3 or 5", wrong: true},
		"less than one": {config: Options{URLs: []string{"nats://b"}, Replicas: -1}, want: "replicas must be 1, 3 or 5", wrong: true},
		"cert, no key":  {config: Options{URLs: []string{"nats://b"}, CertFile: "c"}, want: "cert needs", wrong: true},
		"empty credits": {config: Options{URLs: []string{"nats://b"}, Creds: "{env.NATSSTORE_UNSET}"}, want: "creds", wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.config.Provision(caddy.Context{})
			switch {
			case (err != nil) != test.wrong:
				t.Fatalf("error %v", err)
			case err != nil:
				if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret-word") {
					t.Errorf("error %q, want %q in it, and no password", err, test.want)
				}
			default:
				if got := plainKey(test.config.StoreKey("x")); got != test.want {
					t.Errorf("key %q, want %q", got, test.want)
				}
			}
		})
	}
	n := provisioned(t, func(n *Options) { n.Creds = "/nowhere/creds" }, "nats://127.0.0.1:1")
	if _, err := n.Connect("inbox", "x", zap.NewNop(), nil); err == nil || !strings.Contains(err.Error(), "/nowhere/creds") {
		t.Errorf("error %v", err)
	}
}

// TestKeyOfCredentials: with other credentials a store is opened anew at a reload. They used to be passed over: the client
// went on with the old ones, until its connection broke. The key shows nothing of them.
func TestKeyOfCredentials(t *testing.T) {
	t.Parallel()
	const server = "nats://gate:s3cret@127.0.0.1:4222"
	base := provisioned(t, nil, server).StoreKey("x")
	if !keyDigest.MatchString(base) || plainKey(base) != "nats:nats://127.0.0.1:4222 x" {
		t.Errorf("key %q", base)
	}
	keys := map[string]string{base: "the first"}
	for _, test := range []struct {
		name   string
		change func(*Options)
		url    string
	}{
		{"a password", nil, "nats://gate:s3cret2@127.0.0.1:4222"},
		{"a user", nil, "nats://gate2:s3cret@127.0.0.1:4222"},
		{"a token", nil, "nats://s3cret@127.0.0.1:4222"},
		{"none", nil, "nats://127.0.0.1:4222"},
		{"creds", func(n *Options) { n.Creds = "a" }, server},
		{"other creds", func(n *Options) { n.Creds = "b" }, server},
		{"ca", func(n *Options) { n.CA = "a" }, server},
		{"cert", func(n *Options) { n.CertFile, n.KeyFile = "a", "b" }, server},
		{"another key file", func(n *Options) { n.CertFile, n.KeyFile = "a", "c" }, server},
	} {
		key := provisioned(t, test.change, test.url).StoreKey("x")
		if other, taken := keys[key]; taken {
			t.Errorf("%s: the key of %s, %s", test.name, other, key)
		}
		keys[key] = test.name
		if plainKey(key) != plainKey(base) {
			t.Errorf("%s: key %q", test.name, key)
		}
	}
	// What is the same is the same, in any order.
	two := []string{server, "tls://gate:s3cret@b"}
	one, other := provisioned(t, nil, two[0], two[1]), provisioned(t, nil, two[1]+","+two[0])
	if one.StoreKey("x") != other.StoreKey("x") || provisioned(t, nil, server).StoreKey("x") != base {
		t.Error("equal configurations have different keys")
	}
	if one.StoreKey("x") == one.StoreKey("y") {
		t.Error("two inboxes have one key")
	}
}
