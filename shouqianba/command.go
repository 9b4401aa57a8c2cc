package shouqianba

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "shouqianba",
		Short: "Verifies and plays Shouqianba (收钱吧)",
		Long: `
Says whether a saved notify verifies, and plays the platform on this machine.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(verifyCommand(), sandboxCommand())
			locale.Help(cmd)
		},
	})
}

// inputLimit bounds what the command reads, in bytes.
const inputLimit = 4 << 20

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify --config <path> [--adapter <name>] [--terminal <name>] [<file>]",
		Short: "Says whether a saved notify verifies",
		Long: `
Reads a notify from the file, or from standard input: the whole HTTP request with its
header Authorization, which is the signature, as the sandbox's --save writes it. Says
whether one of the terminal's public keys verifies it. It exits with 1 if none does.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  caddy shouqianba verify --config Caddyfile notifies/20261124000001-1.txt",
	}
	config := cmd.Flags().StringP("config", "c", "", "Caddy configuration that has the terminal")
	adapter := cmd.Flags().StringP("adapter", "a", "", "Config adapter of the configuration")
	name := cmd.Flags().StringP("terminal", "t", "", "Terminal's name; may be left out where there is one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *config == "" {
			return errors.New("--config is missing; the public key is there")
		}
		terminal, err := configured(*config, *adapter, *name)
		if err != nil {
			return err
		}
		input := cmd.InOrStdin()
		if len(args) > 0 && args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			input = file
		}
		content, err := io.ReadAll(io.LimitReader(input, inputLimit+1))
		if err != nil {
			return err
		}
		if len(content) > inputLimit {
			return fmt.Errorf("the input is larger than %d bytes", inputLimit)
		}
		return examine(cmd.OutOrStdout(), terminal, content)
	}
	return cmd
}

// configured finds a terminal in a configuration.
func configured(config, adapter, name string) (*Terminal, error) {
	content, _, _, err := caddycmd.LoadConfig(config, adapter)
	if err != nil {
		return nil, err
	}
	var document struct {
		Apps struct {
			Shouqianba *App `json:"shouqianba"`
		} `json:"apps"`
	}
	if err = json.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("reading %s: %w", config, err)
	}
	if document.Apps.Shouqianba == nil || len(document.Apps.Shouqianba.Terminals) == 0 {
		return nil, fmt.Errorf("%s has no shouqianba terminal", config)
	}
	terminals := document.Apps.Shouqianba.Terminals
	names := strings.Join(slices.Sorted(maps.Keys(terminals)), ", ")
	if name == "" {
		if len(terminals) > 1 {
			return nil, fmt.Errorf("%s has several terminals; give --terminal: %s", config, names)
		}
		name = names
	}
	if terminals[name] == nil {
		return nil, fmt.Errorf("%s has no terminal %s; it has: %s", config, name, names)
	}
	return terminals[name], nil
}

// examine reports on a saved notify. Its error is the verdict, where that is bad.
func examine(w io.Writer, config *Terminal, saved []byte) error {
	keys := make([]*rsa.PublicKey, 0, len(config.PublicKey))
	for _, raw := range config.PublicKey {
		key, err := readPublicKey(raw)
		if err != nil {
			return fmt.Errorf("public_key %w", err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return errors.New("the terminal has no public_key; notifies are verified with it")
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(saved)))
	if err != nil {
		return errors.New("this is no HTTP request: save the whole of it, because the signature is in its header Authorization")
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return fmt.Errorf("the body is not as long as its head says: %w", err)
	}
	reason, verified := reasonSignature, 0
	for i, key := range keys {
		if reason = verify([]*rsa.PublicKey{key}, req.Header.Get("Authorization"), body); reason == "" {
			verified = i + 1
			break
		}
	}
	if reason != "" {
		return fmt.Errorf("验签失败 does not verify (%s)", reason)
	}
	event, err := readEvent(body, newRules(nil), "") // its id is not shown
	if err != nil {
		return fmt.Errorf("the signature is right, but this is no notify: %w", err)
	}
	_, err = fmt.Fprintf(w, "验签通过 verifies (public_key %d)\n%s %s\n", verified, event.Type, inbound.Quote(event.Subject, 64))
	if config.TerminalSN != "" && err == nil {
		sn, _, resolveErr := secret.Resolve(config.TerminalSN)
		switch {
		case resolveErr != nil:
			return fmt.Errorf("terminal_sn %w", resolveErr)
		case event.TerminalSN != "" && event.TerminalSN != sn:
			return errors.New("签名正确，但 terminal_sn 不属于此终端 the signature is right, but the terminal_sn is not this terminal's")
		}
	}
	return err
}

func sandboxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox [--listen <address>] [--ui] [--save <directory>] [--fast]",
		Short: "Plays the platform on this machine",
		Long: `
Plays Shouqianba on loopback until it is interrupted: it checks the signatures of
calls, activates and checks in terminals, keeps orders and refunds, and sends signed
notifies to each order's notify_url, repeated until they are answered success.

It makes fresh keys at each start and prints them as lines for a shell, and then the
part of a Caddyfile that uses them. With --ui there is a page of its orders, with a
button that pays. With --save each notify that it sends becomes a file,
<directory>/<client_sn>-<n>.txt, which "caddy shouqianba verify" reads; the newest 1000
of a run are kept.`,
		Args:    cobra.NoArgs,
		Example: `  caddy shouqianba sandbox --ui --save notifies`,
	}
	flags := cmd.Flags()
	listen := flags.StringP("listen", "l", "127.0.0.1:8904", "Loopback address; port 0 takes a free one")
	page := flags.BoolP("ui", "u", false, "Serve a page of the orders at /")
	save := flags.String("save", "", "Save each notify that is sent in this directory")
	fast := flags.Bool("fast", false, "Repeat notifies after seconds instead of minutes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options := sandbox.ShouqianbaOptions{UI: *page, SaveDir: *save, Warn: func(text string) {
			fmt.Fprintln(cmd.ErrOrStderr(), "# 提示 warning:", text)
		}}
		if *fast {
			options.Schedule = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
		}
		platform, err := sandbox.NewShouqianba(options)
		if err != nil {
			return err
		}
		defer platform.Close()
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err = sandbox.Serve(ctx, *listen, platform, func(url string) error {
			return printSandbox(cmd.OutOrStdout(), url, platform)
		})
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		return nil
	}
	return cmd
}

// printSandbox prints what a gateway needs to use the sandbox: first for a shell, then for a Caddyfile.
func printSandbox(w io.Writer, address string, platform *sandbox.Shouqianba) error {
	options, page := platform.Options(), ""
	if options.UI {
		page = "\n# 订单页面 a page of the orders: " + address + "/"
	}
	_, err := fmt.Fprintf(w, `# 收钱吧沙箱 the Shouqianba sandbox at %[1]s, until interrupted%[2]s
# 密钥每次启动都不同 the keys are fresh

export SQB_TERMINAL_SN=%[3]s
export SQB_TERMINAL_KEY=%[4]s
export SQB_PUBLIC_KEY='%[5]s'
# 由网关激活终端时 for a terminal that the gateway owns:
export SQB_VENDOR_SN=%[6]s
export SQB_VENDOR_KEY=%[7]s
export SQB_APP_ID=%[8]s
export SQB_ACTIVATION_CODE=%[9]s

# Caddyfile; start Caddy where these variables are set 在设置了以上变量的终端里启动 Caddy

{
	shouqianba {
		terminal sandbox {
			terminal_sn  {env.SQB_TERMINAL_SN}
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key   {env.SQB_PUBLIC_KEY}
			upstream     %[1]s
		}
	}
}
http://:8901 {
	bind 127.0.0.1
	shouqianba_proxy
}
http://:8902 {
	bind 127.0.0.1
	handle /notify {
		shouqianba_notify
		respond 200
	}
	respond 404
}
`, address, page, options.TerminalSN, options.TerminalKey, strings.TrimSpace(platform.PublicKey()), options.VendorSN, options.VendorKey,
		options.AppID, options.ActivationCode)
	return err
}
