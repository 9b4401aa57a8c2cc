package chinaums

import (
	// The second platform.
	_ "github.com/caddy-chinaums/caddy-chinaums/shouqianba"
	// The webhook signature comes with the plugin, as the contract with users says.
	_ "github.com/caddy-chinaums/caddy-chinaums/webhook"
)
