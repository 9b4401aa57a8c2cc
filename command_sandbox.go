package chinaums

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

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
	flags := cmd.Flags()
	listen := flags.StringP("listen", "l", "127.0.0.1:8900", "Loopback address; port 0 takes a free one")
	ui := flags.BoolP("ui", "u", false, "Serve a page of the orders at /")
	// So that -ui, which is read as -u -i, is no error.
	flags.BoolP("interactive", "i", false, "The same as --ui")
	_ = flags.MarkHidden("interactive")
	notifyURL := flags.String("notify-url", "", "Where notifies go, besides the order's own notifyUrl")
	digest := flags.String("sign-type", "SHA256", "Digest of notifies, SHA256 or MD5")
	hexadecimal := addHexFlag(cmd)
	save := flags.String("save", "", "Save each notify that is sent in this directory")
	fast := flags.Bool("fast", false, "Repeat notifies after seconds instead of minutes and hours")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		interactive, err := flags.GetBool("interactive")
		if err != nil {
			return err
		}
		small, err := smallHex(*hexadecimal)
		if err != nil {
			return err
		}
		options := sandbox.Options{
			NotifyURL: *notifyURL, UI: *ui || interactive, Digest: sandbox.Digest(strings.ToUpper(*digest)), SmallSign: small,
			SaveDir: *save, Warn: func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "# 提示 warning:", text) },
		}
		if *fast {
			for delay := time.Second; delay <= 32*time.Second; delay *= 2 {
				options.Schedule = append(options.Schedule, delay)
			}
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return serveSandbox(ctx, cmd.OutOrStdout(), *listen, options)
	}
	return cmd
}

// addHexFlag adds --hex, which says how the digest of a notify is written.
func addHexFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("hex", "upper", "Letters of the sign's hexadecimal, upper or lower; the platform's own are upper")
}

// smallHex reads what --hex says.
func smallHex(word string) (bool, error) {
	switch word {
	case "upper", "lower":
		return word == "lower", nil
	}
	return false, fmt.Errorf("--hex: %q is neither upper nor lower", word)
}

// serveSandbox runs a sandbox until ctx ends.
func serveSandbox(ctx context.Context, w io.Writer, address string, options sandbox.Options) error {
	platform, err := sandbox.New(options)
	if err != nil {
		return err
	}
	defer platform.Close()
	err = sandbox.Serve(ctx, address, platform, func(url string) error { return printSandbox(w, url, platform.Options()) })
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	return nil
}

// printSandbox prints what a gateway needs to use the sandbox: first for a shell, then for a Caddyfile.
func printSandbox(w io.Writer, address string, options sandbox.Options) error {
	page := ""
	if options.UI {
		page = "\n# 订单页面 a page of the orders: " + address + "/"
	}
	_, err := fmt.Fprintf(w, `# 银联商务沙箱 the ChinaUMS sandbox at %[1]s, until interrupted%[2]s
# 密钥每次启动都不同 the keys are fresh; order numbers begin with %[3]s

export UMS_APP_ID=%[4]s
export UMS_APP_KEY=%[5]s
export UMS_NOTIFY_KEY=%[6]s
export UMS_MID=%[7]s
export UMS_TID=%[8]s
export UMS_SOURCE=%[3]s

# Caddyfile; start Caddy where these variables are set 在设置了以上变量的终端里启动 Caddy

{
	chinaums {
		merchant sandbox {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid        {env.UMS_MID}
			upstream   %[1]s
		}
	}
}
http://:8901 {
	bind 127.0.0.1
	chinaums_proxy
}
http://:8902 {
	bind 127.0.0.1
	handle /notify {
		chinaums_notify
		respond 200
	}
	respond 404
}
`, address, page, options.SourceCode, options.AppID, options.AppKey, options.NotifyKey, options.MID, options.TID)
	return err
}
