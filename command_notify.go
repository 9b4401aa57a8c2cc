package chinaums

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func notifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "notify [--config <path> [--adapter <name>] [--merchant <name>]] [--kind <kind>] [--variant <variant>] [--hex <case>] [--set <name=value>]... [--save <file>] [--print] [<url>]",
		Short: "Sends a signed test notify",
		Long: `
Sends a notify of an imaginary order to an address, signed with the merchant's own
notify key, as the platform would, and prints the status and the answer. It is sent
once; redirects are not followed, as the platform follows none.

Kinds: payment, refund, bill, deduction, guarantee.

Variants that have to be taken: genuine, late, reordered, json, gbk. Variants that
have to be refused: tampered, recut, unsigned, other-key, foreign-mid. The command
exits with 1 if the answer is not what the variant deserves.

Somebody who has this key can tell a shop that anything was paid: send it to your own
gateway only.`,
		Args: cobra.MaximumNArgs(1),
		Example: `  caddy chinaums notify --config Caddyfile http://127.0.0.1:8902/notify
  caddy chinaums notify --config Caddyfile --kind refund --set merOrderId=327M1 http://127.0.0.1:8902/notify
  caddy chinaums notify --config Caddyfile --save notify.txt http://127.0.0.1:8902/notify
  caddy chinaums notify --config Caddyfile --print | caddy chinaums verify --config Caddyfile`,
	}
	keys := addKeyFlags(cmd)
	kindName := cmd.Flags().StringP("kind", "k", "payment", "What the notify reports")
	variantName := cmd.Flags().StringP("variant", "v", "genuine", "How it is sent, or what is wrong with it")
	digest := cmd.Flags().String("sign-type", "", "Digest, SHA256 or MD5 (default: SHA256, if the merchant accepts it)")
	hexadecimal := cli.AddHex(cmd)
	set := cmd.Flags().StringArray("set", nil, "Set a field, or take it out with an empty value (may be repeated)")
	save := cmd.Flags().String("save", "", "Write the body to this file, for verify; a file that is there is replaced")
	print := cmd.Flags().Bool("print", false, "Print the body instead of sending it")
	timeout := cmd.Flags().Duration("timeout", 15*time.Second, "How long to wait for the answer; 0: without a limit")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := sandbox.ParseKind(*kindName)
		if err != nil {
			return err
		}
		variant, err := sandbox.ParseVariant(*variantName)
		if err != nil {
			return err
		}
		if variant == sandbox.Duplicate {
			return errors.New("--variant duplicate: send the same --print output twice instead")
		}
		if *timeout < 0 {
			return locale.Errorf("--timeout: %s is negative", *timeout)
		}
		if *print == (len(args) > 0) && (*print || *save == "") {
			return errors.New("give either an address or --print, or --save alone")
		}
		name, merchants, err := keys.load()
		if err != nil {
			return err
		}
		if mid := variable("UMS_MID"); mid != "" && name == fromEnvironment {
			merchants[name].MID = []string{mid}
		}
		if len(merchants[name].NotifyKey) == 0 && name != fromEnvironment {
			return fmt.Errorf("merchant %s: %w", name, needsNotifyKey(new(merchant)))
		}
		m, err := resolveMerchant(name, onlyNotifies(merchants[name]))
		if err != nil {
			return err
		}
		small, err := cli.SmallHex(*hexadecimal)
		if err != nil {
			return err
		}
		message, err := testNotify(m, merchants[name], kind, variant, *digest, small, *set)
		if err != nil {
			return err
		}
		if *save != "" {
			if err := cli.ReplaceFile(*save, message.Body); err != nil {
				return fmt.Errorf("--save: %w", err)
			}
		}
		switch {
		case *print:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", message.Body)
			return err
		case len(args) == 0:
			return nil
		}
		ctx := cmd.Context()
		if *timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, *timeout)
			defer cancel()
		}
		return cli.SendNotify(ctx, cmd.OutOrStdout(), args[0], message, variant.True(), inward.Success)
	}
	return cmd
}

// testNotify makes a notify as the sandbox does, with the merchant's own key and mid.
func testNotify(m *merchant, config *Merchant, kind sandbox.Kind, variant sandbox.Variant, digest string, smallSign bool, set []string) (*sandbox.Message, error) {
	n := sandbox.Notify{Kind: kind, Variant: variant, Key: string(m.notifyKeys[0]), SmallSign: smallSign, Fields: make(map[string]string)}
	switch strings.ToUpper(digest) {
	case "":
		n.Digest = sandbox.SHA256
		if m.accept&digestSHA256 == 0 {
			n.Digest = sandbox.MD5
		}
	case "SHA256":
		n.Digest = sandbox.SHA256
	case "MD5":
		n.Digest = sandbox.MD5
	default:
		return nil, fmt.Errorf("--sign-type: %q is neither SHA256 nor MD5", digest)
	}
	if len(config.MID) > 0 {
		mid, _, err := secret.Resolve(config.MID[0])
		if err != nil {
			return nil, fmt.Errorf("mid %w", err)
		}
		n.Fields["mid"] = mid
	}
	if err := cli.SetFields(&n, set); err != nil {
		return nil, err
	}
	return n.Build()
}
