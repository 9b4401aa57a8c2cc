package chinaums

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// modulePath is this module's, as go.mod says it.
const modulePath = "github.com/caddy-chinaums/caddy-chinaums"

// version is what the linker is told where there is no git to read it from, as for the image; mostly "".
var version string

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the plugin's version, Caddy's and Go's",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			_, full := caddy.Version()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "caddy-chinaums %s\ncaddy %s\n%s %s/%s\n",
				moduleVersion(info), full, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// moduleVersion says which version of this module a binary was built of: a tag, or "(devel)" for a working tree.
func moduleVersion(info *debug.BuildInfo) string {
	const working = "(devel)"
	if version != "" {
		return version
	}
	if info == nil {
		return working
	}
	for _, module := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if module.Path != modulePath {
			continue
		}
		if module.Replace != nil { // as xcaddy does for a local copy
			module = module.Replace
		}
		if module.Version != "" {
			return module.Version
		}
	}
	return working
}

// maxHealthAnswer bounds what is read of the admin endpoint's answer, in bytes.
const maxHealthAnswer = 1 << 20

func healthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health [--address <interface>] [--config <path> [--adapter <name>]]",
		Short: "Says whether the Caddy that is running has loaded its configuration",
		Long: `
Asks the admin endpoint of the Caddy that is running for its http app, and exits
with 0 if there is one. A container's health check calls it.

It says nothing about the platform or your app: the metrics and alerts do.`,
		Args:    cobra.NoArgs,
		Example: "  caddy chinaums health --address localhost:2019",
	}
	address := cmd.Flags().String("address", "", "Address of the admin endpoint, if not the default")
	config := cmd.Flags().StringP("config", "c", "", "Configuration that has the admin endpoint's address, if --address is not used")
	adapter := cmd.Flags().StringP("adapter", "a", "", "Config adapter of the configuration")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		admin, err := caddycmd.DetermineAdminAPIAddress(*address, nil, *config, *adapter)
		if err != nil {
			return err
		}
		res, err := caddycmd.AdminAPIRequest(admin, http.MethodGet, "/config/apps/http", nil, nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		content, err := io.ReadAll(io.LimitReader(res.Body, maxHealthAnswer))
		if err != nil {
			return fmt.Errorf("reading the admin endpoint's answer: %w", err)
		}
		if len(content) == 0 || string(content) == "null\n" {
			return errors.New("caddy runs without an http app: no configuration has been loaded")
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return err
	}
	return cmd
}
