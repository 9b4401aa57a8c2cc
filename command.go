package chinaums

import (
	"fmt"
	"os"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// version is what the linker is told where there is no git to read it from, as for the image; mostly "".
var version string

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "chinaums",
		Short: "Signs, verifies, notifies and plays ChinaUMS (银联商务)",
		Long: `
Signs a call's body; says whether a saved notify verifies and, if not, which known
mistake explains it; sends a test notify; plays the platform on this machine; shows what the watch of the
running Caddy knows of orders and refunds.

Keys never come from an argument. They come from a Caddy configuration
(--config, with --merchant where there are several), or else from the
environment: UMS_APP_ID and UMS_APP_KEY for calls, UMS_NOTIFY_KEY for notifies, UMS_MID
for the mid of a test notify.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(signCommand(), verifyCommand(), notifyCommand(), sandboxCommand(), devCommand(),
				ordersCommand(), orderCommand(), queryCommand(), resendCommand(), reconcileCommand(),
				cli.VersionCommand(version), cli.HealthCommand())
			locale.Help(cmd)
		},
	})
}

func signCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign [--config <path> [--adapter <name>] [--merchant <name>]] [--curl <path>] [<file>]",
		Short: "Prints the Authorization header for a body",
		Long: `
Reads a body from the file, or from standard input, and prints the OPEN-BODY-SIG
header for exactly these bytes. The header is good for anybody who has it: do not
share it.

With --curl it prints a curl line that sends the body to this path of the
merchant's platform; it needs a file then.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  caddy chinaums sign --config Caddyfile --merchant shop --curl /v1/netpay/query body.json",
	}
	keys := addKeyFlags(cmd)
	curl := cmd.Flags().String("curl", "", "Print a curl line for this path")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, merchants, err := keys.load()
		if err != nil {
			return err
		}
		if name == fromEnvironment {
			merchants[name].NotifyKey = nil // calls need none
		}
		m, err := resolveMerchant(name, merchants[name])
		if err != nil {
			return err
		}
		if err := needsAppKey(m); err != nil {
			return explained(m.name, err)
		}
		content, err := cli.ReadInput(cmd, args)
		if err != nil {
			return err
		}
		authorization := m.signer.authorization(time.Now(), newNonce(), content)
		if *curl == "" {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Authorization: %s\n", authorization)
			return err
		}
		if len(args) == 0 || args[0] == "-" || !strings.HasPrefix(*curl, "/") {
			return locale.Errorf("--curl needs a path that begins with / and a file")
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "curl -sS -H %s -H %s --data-binary %s %s\n",
			cli.ShellQuote("Content-Type: application/json"), cli.ShellQuote("Authorization: "+authorization),
			cli.ShellQuote("@"+args[0]), cli.ShellQuote(m.endpoint.Scheme+"://"+m.endpoint.Host+*curl))
		return err
	}
	return cmd
}

// keyFlags are the flags that say where the keys are.
type keyFlags struct{ cli.Accounts }

var accountKind = cli.Kind{App: "chinaums", Name: "merchant", Chinese: "商户"}

func addKeyFlags(cmd *cobra.Command) keyFlags { return keyFlags{accountKind.AddAccounts(cmd)} }

func resolveMerchant(name string, config *Merchant) (*merchant, error) {
	m, err := (&App{logger: zap.NewNop()}).resolve(name, config)
	if err != nil {
		return nil, explained(name, err)
	}
	return m, nil
}

// explained says of a missing key where it would have come from.
func explained(merchant string, err error) error {
	if merchant == fromEnvironment {
		return locale.Errorf("give --config, or set UMS_APP_ID and UMS_APP_KEY (for calls) or UMS_NOTIFY_KEY (for notifies): %w", err)
	}
	return locale.Errorf("merchant %s: %w", merchant, err)
}

// fromEnvironment is the name of the merchant that environment variables make.
const fromEnvironment = "environment"

// variable is a placeholder for an environment variable, "" where that is empty: what a placeholder stands for is taken as
// it is, braces included.
func variable(name string) string {
	if os.Getenv(name) == "" {
		return ""
	}
	return "{env." + name + "}"
}

// load returns the configured merchants, or one of environment variables, and the name of the one that is meant.
func (f keyFlags) load() (name string, merchants map[string]*Merchant, err error) {
	switch {
	case *f.Config != "":
		return cli.Load[Merchant](f.Accounts)
	case *f.Name != "":
		return "", nil, locale.Errorf("--merchant needs --config")
	}
	merchant := &Merchant{AppID: variable("UMS_APP_ID"), AppKey: variable("UMS_APP_KEY")}
	if key := variable("UMS_NOTIFY_KEY"); key != "" {
		merchant.NotifyKey = []string{key}
	}
	return fromEnvironment, map[string]*Merchant{fromEnvironment: merchant}, nil
}
