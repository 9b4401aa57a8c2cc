// Command caddy is Caddy with its standard modules, this plugin, and its opt-in stores for NATS JetStream: what
//
//	xcaddy build --with github.com/caddy-chinaums/caddy-chinaums --with github.com/caddy-chinaums/caddy-chinaums/inbox/natsstore --with github.com/caddy-chinaums/caddy-chinaums/watch/natsstore
//
// generates.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// plug in Caddy modules here
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-chinaums/caddy-chinaums"
	_ "github.com/caddy-chinaums/caddy-chinaums/inbox/natsstore"
	_ "github.com/caddy-chinaums/caddy-chinaums/watch/natsstore"
)

func main() {
	caddycmd.Main()
}
