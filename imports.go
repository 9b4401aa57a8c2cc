package chinaums

import (
	// The page for whoever is on duty.
	_ "github.com/caddy-chinaums/caddy-chinaums/console"

	// The inbox, with the store that needs no server; inbox/natsstore is for those who ask for it.
	_ "github.com/caddy-chinaums/caddy-chinaums/inbox"
	_ "github.com/caddy-chinaums/caddy-chinaums/inbox/boltstore"

	// The second platform.
	_ "github.com/caddy-chinaums/caddy-chinaums/shouqianba"

	// The watch's store that needs no server; watch/natsstore is for those who ask for it.
	_ "github.com/caddy-chinaums/caddy-chinaums/watch/boltstore"

	// The webhook signature comes with the plugin, as the contract with users says.
	_ "github.com/caddy-chinaums/caddy-chinaums/webhook"
)
