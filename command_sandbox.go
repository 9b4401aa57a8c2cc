package chinaums

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
	"github.com/caddy-chinaums/caddy-chinaums/internal/dev"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

func sandboxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox [--listen <address>] [--ui] [--notify-url <url>] [--sign-type <digest>] [--hex <case>] [--save <directory>] [--fast]",
		Short: "Plays the platform on this machine",
		Long: `
Plays ChinaUMS on loopback until it is interrupted: it checks the signatures of
calls, keeps orders, refunds and bills, and sends signed notifies, repeated until they
are answered SUCCESS.

It makes fresh keys at each start and prints them as lines for a shell, and then the
part of a Caddyfile that uses them. With --ui there is a page of its orders, with a
button that pays. With --save each notify that it sends becomes a file,
<directory>/<order>-<n>.txt, which "caddy chinaums verify" reads; the newest 1000 of a
run are kept.

A call that it takes although the documents want it otherwise is told on standard
error, once for each interface, and on the page.`,
		Args: cobra.NoArgs,
		Example: `  caddy chinaums sandbox --ui
  caddy chinaums sandbox --ui --save notifies
  caddy chinaums sandbox --notify-url http://127.0.0.1:8902/notify --fast`,
	}
	common := cli.AddSandbox(cmd, "127.0.0.1:8900", "Repeat notifies after seconds instead of minutes and hours")
	flags := cmd.Flags()
	// So that -ui, which is read as -u -i, is no error.
	interactive := flags.BoolP("interactive", "i", false, "The same as --ui")
	_ = flags.MarkHidden("interactive")
	notifyURL := flags.String("notify-url", "", "Where notifies go, besides the order's own notifyUrl")
	digest := flags.String("sign-type", "SHA256", "Digest of notifies, SHA256 or MD5")
	hexadecimal := cli.AddHex(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		small, err := cli.SmallHex(*hexadecimal)
		if err != nil {
			return err
		}
		if u, err := url.Parse(*notifyURL); *notifyURL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return fmt.Errorf("--notify-url: %q is not an address that begins with http:// or https://", *notifyURL)
		}
		options := sandbox.Options{
			NotifyURL: *notifyURL, UI: *common.UI || *interactive, Digest: sandbox.Digest(strings.ToUpper(*digest)), SmallSign: small,
			SaveDir: *common.Save, Warn: common.Warn(cmd),
		}
		if *common.Fast {
			for delay := time.Second; delay <= 32*time.Second; delay *= 2 {
				options.Schedule = append(options.Schedule, delay)
			}
		}
		platform, err := sandbox.New(options)
		if err != nil {
			return err
		}
		return common.Run(cmd, platform, func(w io.Writer, url string) error {
			return announcement(url, platform.Options()).Print(w, url, options.UI)
		})
	}
	return cmd
}

// announcement is what a gateway needs to use the sandbox.
func announcement(url string, options sandbox.Options) cli.Announcement {
	return cli.Announcement{
		Kind: accountKind, Title: "银联商务沙箱 the ChinaUMS sandbox", Note: "; order numbers begin with " + options.SourceCode,
		Exports: fmt.Sprintf(`
export UMS_APP_ID=%s
export UMS_APP_KEY=%s
export UMS_NOTIFY_KEY=%s
export UMS_MID=%s
export UMS_TID=%s
export UMS_SOURCE=%s
`, options.AppID, options.AppKey, options.NotifyKey, options.MID, options.TID, options.SourceCode),
		Options: `
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid        {env.UMS_MID}
			upstream   ` + url,
	}
}

func devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev [--app <address>|fastcgi://<address>] [--platform shouqianba] [--port <first>] [--watch]",
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
UMS_SOURCE (Shouqianba: SQB_TERMINAL_SN).

With --watch the gateway follows orders and refunds, and keeps events in an inbox. The
admin API is on the fifth port.`,
		Args: cobra.NoArgs,
		Example: `  caddy chinaums dev
  caddy chinaums dev --app 127.0.0.1:8903
  caddy chinaums dev --app fastcgi://127.0.0.1:9000
  caddy chinaums dev --platform shouqianba
  caddy chinaums dev --watch`,
	}
	flags := cmd.Flags()
	app := flags.String("app", "", "Where your app takes events: host:port, fastcgi://host:port or fastcgi:///path/of/a.sock")
	platform := flags.String("platform", dev.ChinaUMS, "chinaums or shouqianba")
	port := flags.Int("port", dev.DefaultPort, "First of the ports: platform, way out, way in, pages of a PHP app, admin API")
	watching := flags.Bool("watch", false, "Follow orders and refunds, with an inbox")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		err := dev.Run(ctx, dev.Options{
			Platform: *platform, App: *app, Port: *port, Watch: *watching, Chinese: locale.Chinese(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(),
		})
		if err != nil {
			return fmt.Errorf("dev: %w", err)
		}
		return nil
	}
	return cmd
}
