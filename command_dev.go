package chinaums

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/dev"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

func devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev [--app <address>|fastcgi://<address>] [--platform shouqianba] [--port <first>]",
		Short: "Runs sandbox, gateway and your app in one terminal",
		Long: `
Plays the platform on loopback, runs the gateway in front of it, and sends each event
to your app, until it is interrupted. It prints what to open and what to type, and then
a line for each call, event and reply. The keys are fresh at each start; mid, tid and
source number are always the same. It touches no configuration and no data of another
Caddy.

The app: --app 127.0.0.1:8903 is a web server. fastcgi://127.0.0.1:9000, or
fastcgi:///run/php/php-fpm.sock, is PHP-FPM, which runs the index.php of the current
directory. Without --app, and where there is php-cgi and an index.php in the current
directory, php-cgi is started. Otherwise the gateway accepts every event.

The app gets events as POST /notify. APP_SECRET is fresh too, unless it is set in the
environment. PHP gets it with BOOK, GATEWAY, NOTIFY_URL, and UMS_MID, UMS_TID and
UMS_SOURCE (Shouqianba: SQB_TERMINAL_SN).`,
		Args: cobra.NoArgs,
		Example: `  caddy chinaums dev
  caddy chinaums dev --app 127.0.0.1:8903
  caddy chinaums dev --app fastcgi://127.0.0.1:9000
  caddy chinaums dev --platform shouqianba`,
	}
	flags := cmd.Flags()
	app := flags.String("app", "", "Where your app takes events: host:port, fastcgi://host:port or fastcgi:///path/of/a.sock")
	platform := flags.String("platform", dev.ChinaUMS, "chinaums or shouqianba")
	port := flags.Int("port", dev.DefaultPort, "First of four ports: platform, way out, way in, pages of a PHP app")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		err := dev.Run(ctx, dev.Options{
			Platform: *platform, App: *app, Port: *port, Chinese: locale.Chinese(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(),
		})
		if err != nil {
			return fmt.Errorf("dev: %w", err)
		}
		return nil
	}
	return cmd
}
