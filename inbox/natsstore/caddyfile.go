package natsstore

import (
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets up the store from
//
//	store nats <url…> {
//		replicas <n>
//		creds    <file>
//		ca       <file>
//		cert     <file> <key file>
//	}
//
// No error shows a URL.
func (n *Nats) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // nats
	n.URLs = d.RemainingArgs()
	if len(n.URLs) == 0 {
		return d.Err("nats: the URL of a server is missing, such as nats://127.0.0.1:4222")
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return d.Errf("nats: %s is repeated", option)
		}
		seen[option] = true
		var replicas string
		values, known := map[string][]*string{
			"replicas": {&replicas}, "creds": {&n.Creds}, "ca": {&n.CA}, "cert": {&n.CertFile, &n.KeyFile},
		}[option]
		if !known {
			return d.Errf("nats: unknown option %.64q; there are replicas, creds, ca, cert", option)
		}
		args := d.RemainingArgs()
		if len(args) != len(values) {
			return d.Errf("nats: %s takes %d argument(s), not %d", option, len(values), len(args))
		}
		for i, value := range values {
			*value = args[i]
		}
		if option == "replicas" {
			var err error
			if n.Replicas, err = strconv.Atoi(replicas); err != nil || !slices.Contains(replicaNumbers, n.Replicas) {
				return d.Errf("nats: replicas must be 1, 3 or 5, not %.64q", replicas)
			}
		}
		if d.NextBlock(nesting + 1) {
			return d.Errf("nats: %s takes no block", option)
		}
	}
	return nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*Nats)(nil)
