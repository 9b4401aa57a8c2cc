package shouqianba

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
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

var accountKind = cli.Kind{App: "shouqianba", Name: "terminal", Chinese: "终端"}

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify --config <path> [--adapter <name>] [--terminal <name>] [<file>]",
		Short: "Says whether a saved notify verifies",
		Long: `
Reads a notify from the file, or from standard input: the whole HTTP request with its
header Authorization, which is the signature, as the sandbox's --save writes it. Says
whether one of the terminal's public keys verifies it and, if none does, which known
mistake explains it. It exits with 1 then.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  caddy shouqianba verify --config Caddyfile notifies/20261124000001-1.txt",
	}
	accounts := accountKind.AddAccounts(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *accounts.Config == "" {
			return errors.New("--config is missing; the public key is there")
		}
		name, terminals, err := cli.Load[Terminal](accounts)
		if err != nil {
			return err
		}
		keys, err := publicKeys(terminals[name])
		if err != nil {
			return err
		}
		content, err := cli.ReadInput(cmd, args)
		if err != nil {
			return err
		}
		mine := &terminal{name: name, publicKeys: keys}
		all := []*terminal{mine}
		for _, other := range slices.Sorted(maps.Keys(terminals)) {
			if keys, err := publicKeys(terminals[other]); err == nil && other != name {
				all = append(all, &terminal{name: other, publicKeys: keys})
			}
		}
		return examine(cmd.OutOrStdout(), terminals[name], mine, all, content)
	}
	return cmd
}

func publicKeys(config *Terminal) (keys []*rsa.PublicKey, err error) {
	for _, raw := range config.PublicKey {
		key, err := readPublicKey(raw)
		if err != nil {
			return nil, fmt.Errorf("public_key %w", err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("the terminal has no public_key; notifies are verified with it")
	}
	return keys, nil
}

// examine reports on a saved notify. Its error is the verdict, where that is bad. all are the terminals, mine too.
func examine(w io.Writer, config *Terminal, mine *terminal, all []*terminal, saved []byte) error {
	reader := bufio.NewReader(bytes.NewReader(saved))
	req, err := http.ReadRequest(reader)
	if err != nil {
		return errors.New("this is no HTTP request: save the whole of it, because the signature is in its header Authorization")
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return fmt.Errorf("the body is not as long as its head says: %w", err)
	}
	if req.ContentLength == 0 && req.Header.Get("Content-Length") == "" { // many tools leave the length out
		if body, err = io.ReadAll(reader); err != nil {
			return err
		}
		body = bytes.TrimRight(body, "\r\n") // an editor's
	}
	signature := req.Header.Get("Authorization")
	reason, verified := reasonSignature, 0
	for i, key := range mine.publicKeys {
		if reason = verify([]*rsa.PublicKey{key}, signature, body); reason == "" {
			verified = i + 1
			break
		}
	}
	switch reason {
	case "":
	case reasonSignature:
		return fmt.Errorf("验签失败 does not verify (%s): %s", reason, mine.mistake(signature, body, all, locale.Chinese()))
	default:
		return fmt.Errorf("验签失败 does not verify (%s)", reason)
	}
	event, err := readEvent(body, newRules(nil), "") // its id is not shown
	if err != nil {
		return fmt.Errorf("the signature is right, but this is no notify: %w", err)
	}
	_, err = fmt.Fprintf(w, "验签通过 verifies (public_key %d)\n%s %s\n", verified, event.Type, text.ASCII(event.Subject, text.Limit))
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
	common := cli.AddSandbox(cmd, "127.0.0.1:8904", "Repeat notifies after seconds instead of minutes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options := sandbox.ShouqianbaOptions{UI: *common.UI, SaveDir: *common.Save, Warn: common.Warn(cmd)}
		if *common.Fast {
			options.Schedule = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
		}
		platform, err := sandbox.NewShouqianba(options)
		if err != nil {
			return err
		}
		return common.Run(cmd, platform, func(w io.Writer, url string) error {
			return announcement(url, platform).Print(w, url, options.UI)
		})
	}
	return cmd
}

// announcement is what a gateway needs to use the sandbox.
func announcement(url string, platform *sandbox.Shouqianba) cli.Announcement {
	options := platform.Options()
	return cli.Announcement{
		Kind: accountKind, Title: "收钱吧沙箱 the Shouqianba sandbox",
		Exports: fmt.Sprintf(`
export SQB_TERMINAL_SN=%s
export SQB_TERMINAL_KEY=%s
export SQB_PUBLIC_KEY='%s'
# 由网关激活终端时 for a terminal that the gateway owns:
export SQB_VENDOR_SN=%s
export SQB_VENDOR_KEY=%s
export SQB_APP_ID=%s
export SQB_ACTIVATION_CODE=%s
`, options.TerminalSN, options.TerminalKey, strings.TrimSpace(platform.PublicKey()), options.VendorSN, options.VendorKey,
			options.AppID, options.ActivationCode),
		Options: `
			terminal_sn  {env.SQB_TERMINAL_SN}
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key   {env.SQB_PUBLIC_KEY}
			upstream     ` + url,
	}
}
