package chinaums

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "chinaums",
		Short: "Signs, verifies, notifies and plays ChinaUMS (银联商务)",
		Long: `
Signs a call's body; says whether a saved notify verifies and, if not, which known
mistake explains it; sends a test notify; plays the platform on this machine.

Keys never come from an argument. They come from a Caddy configuration
(--config, with --merchant where there are several), or else from the
environment: UMS_APP_ID and UMS_APP_KEY for calls, UMS_NOTIFY_KEY for notifies, UMS_MID
for the mid of a test notify.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(signCommand(), verifyCommand(), notifyCommand(), sandboxCommand(), devCommand(), versionCommand(), healthCommand())
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
		m, err := keys.merchant(func(env func(string) string) *Merchant {
			return &Merchant{AppID: env("UMS_APP_ID"), AppKey: env("UMS_APP_KEY")}
		})
		if err != nil {
			return err
		}
		if err := needsAppKey(m); err != nil {
			return explained(m.name, err)
		}
		content, err := readInput(cmd, args)
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
			shellQuote("Content-Type: application/json"), shellQuote("Authorization: "+authorization),
			shellQuote("@"+args[0]), shellQuote(m.endpoint.Scheme+"://"+m.endpoint.Host+*curl))
		return err
	}
	return cmd
}

// keyFlags are the flags that say where the keys are.
type keyFlags struct{ config, adapter, name *string }

func addKeyFlags(cmd *cobra.Command) keyFlags {
	return keyFlags{
		config:  cmd.Flags().StringP("config", "c", "", "Caddy configuration that has the merchant"),
		adapter: cmd.Flags().StringP("adapter", "a", "", "Config adapter of the configuration"),
		name:    cmd.Flags().StringP("merchant", "m", "", "Merchant's name; may be left out where there is one"),
	}
}

// merchant finds the merchant in the configuration, or makes one of environment variables.
func (f keyFlags) merchant(fromEnv func(func(string) string) *Merchant) (*merchant, error) {
	name, merchants, err := f.load(fromEnv)
	if err != nil {
		return nil, err
	}
	return f.resolve(name, merchants[name])
}

func (f keyFlags) resolve(name string, config *Merchant) (*merchant, error) {
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

// load returns the configured merchants, and the name of the one that is meant.
func (f keyFlags) load(fromEnv func(func(string) string) *Merchant) (name string, merchants map[string]*Merchant, err error) {
	if *f.config == "" {
		if *f.name != "" {
			return "", nil, locale.Errorf("--merchant needs --config")
		}
		return fromEnvironment, map[string]*Merchant{fromEnvironment: fromEnv(variable)}, nil
	}
	config, _, _, err := caddycmd.LoadConfig(*f.config, *f.adapter)
	if err != nil {
		return "", nil, err
	}
	var document struct {
		Apps struct {
			ChinaUMS *App `json:"chinaums"`
		} `json:"apps"`
	}
	if err = json.Unmarshal(config, &document); err != nil {
		return "", nil, locale.Errorf("reading %s: %w", *f.config, err)
	}
	if document.Apps.ChinaUMS == nil || len(document.Apps.ChinaUMS.Merchants) == 0 {
		return "", nil, locale.Errorf("%s has no chinaums merchant", *f.config)
	}
	merchants = document.Apps.ChinaUMS.Merchants
	if name = *f.name; name == "" {
		if len(merchants) > 1 {
			return "", nil, locale.Errorf("%s has several merchants; give --merchant: %s", *f.config, strings.Join(slices.Sorted(maps.Keys(merchants)), ", "))
		}
		for name = range merchants {
		}
	}
	if merchants[name] == nil {
		return "", nil, locale.Errorf("%s has no merchant %s; it has: %s", *f.config, name, strings.Join(slices.Sorted(maps.Keys(merchants)), ", "))
	}
	return name, merchants, nil
}

// inputLimit bounds what the commands read, in bytes.
const inputLimit = 4 << 20

func readInput(cmd *cobra.Command, args []string) ([]byte, error) {
	input := cmd.InOrStdin()
	if len(args) > 0 && args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		input = file
	}
	content, err := io.ReadAll(io.LimitReader(input, inputLimit+1))
	if err == nil && len(args) == 0 && len(content) == 0 {
		err = locale.Errorf("the input is empty; give a file, or send the text to standard input")
	}
	if err == nil && len(content) > inputLimit {
		err = locale.Errorf("the input is larger than %d bytes", inputLimit)
	}
	if err == nil && len(content) == 0 {
		err = locale.Errorf("the input is empty")
	}
	return content, err
}

// shellQuote quotes s for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
