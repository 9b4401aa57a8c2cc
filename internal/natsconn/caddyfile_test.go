package natsconn

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// TestCaddyfile: what a store's block becomes, all of it. It used to end at the first option: `creds` behind `replicas` was
// passed over.
func TestCaddyfile(t *testing.T) {
	const server = "nats nats://secret@127.0.0.1:4222 "
	for _, test := range []struct{ name, text, want string }{
		{"a server", server, `{"urls":["nats://secret@127.0.0.1:4222"]}`},
		{"an empty block", server + "{\n}", `{"urls":["nats://secret@127.0.0.1:4222"]}`},
		{"every option", "nats nats://127.0.0.1:4222 nats://127.0.0.1:4223 {\nreplicas 3\ncreds a.creds\nca ca.pem\ncert cert.pem key.pem\n}",
			`{"urls":["nats://127.0.0.1:4222","nats://127.0.0.1:4223"],"replicas":3,"creds":"a.creds","ca":"ca.pem","cert":"cert.pem","key":"key.pem"}`},
		{"no server", "nats {\nreplicas 3\n}", "the URL of a server is missing"},
		{"an unknown option behind another", server + "{\nreplicas 3\ncredz a\n}", `unknown option "credz"`},
		{"an option twice", server + "{\nreplicas 3\nreplicas 5\n}", "replicas is given twice"},
		{"a value too much", server + "{\ncreds a b\n}", "creds takes one value, not 2"},
		{"a value too few", server + "{\nreplicas 3\ncert cert.pem\n}", "cert takes a certificate file and a key file"},
		{"a number that is none", server + "{\nreplicas all\n}", "replicas must be 1, 3 or 5"},
		{"an even number", server + "{\nreplicas 2\n}", "replicas must be 1, 3 or 5"},
		{"no replicas", server + "{\nreplicas 0\n}", "replicas must be 1, 3 or 5"},
		{"a block", server + "{\ncreds a {\nb\n}\n}", `unknown option "{"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := new(Options)
			err := store.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.text))
			if err != nil {
				if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, want %s", err, test.want)
				}
				return
			}
			if got := string(caddyconfig.JSON(store, nil)); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}
