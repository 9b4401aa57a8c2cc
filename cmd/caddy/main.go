// Command caddy is Caddy with its standard modules and this plugin: what
//
//	xcaddy build --with github.com/caddy-chinaums/caddy-chinaums
//
// generates.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// plug in Caddy modules here
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-chinaums/caddy-chinaums"
)

func main() {
	caddycmd.Main()
}
