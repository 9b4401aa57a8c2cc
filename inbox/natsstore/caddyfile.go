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
		args := d.RemainingArgs()
		count := 1
		if option == "cert" {
			count = 2
		}
		switch option {
		case "replicas", "creds", "ca", "cert":
			if len(args) != count {
				return d.Errf("nats: %s takes %d argument(s), not %d", option, count, len(args))
			}
		default:
			return d.Errf("nats: unknown option %.64q; there are replicas, creds, ca, cert", option)
		}
		switch option {
		case "replicas":
			replicas, err := strconv.Atoi(args[0])
			if err != nil || !slices.Contains(replicaNumbers, replicas) {
				return d.Errf("nats: replicas must be 1, 3 or 5, not %.64q", args[0])
			}
			n.Replicas = replicas
		case "creds":
			n.Creds = args[0]
		case "ca":
			n.CA = args[0]
		case "cert":
			n.CertFile, n.KeyFile = args[0], args[1]
		}
		if d.NextBlock(nesting + 1) {
			return d.Errf("nats: %s takes no block", option)
		}
	}
	return nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*Nats)(nil)
