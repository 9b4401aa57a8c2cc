package cli

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
)

// modulePath is this module's, as go.mod says it.
const modulePath = "github.com/caddy-chinaums/caddy-chinaums"

// VersionCommand makes the command version. linked is the version that the linker was given, usually none.
func VersionCommand(linked string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the plugin's version, Caddy's and Go's",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			_, full := caddy.Version()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "caddy-chinaums %s\ncaddy %s\n%s %s/%s\n",
				moduleVersion(linked, info), full, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// moduleVersion says which version of this module a binary was built of: a tag, or "(devel)" for a working tree.
func moduleVersion(linked string, info *debug.BuildInfo) string {
	const working = "(devel)"
	if linked != "" {
		return linked
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

// HealthCommand makes the command health, which asks a running Caddy whether it has a configuration.
func HealthCommand() *cobra.Command {
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
		admin, err := adminapi.New(*address, *config, *adapter)
		if err != nil {
			return err
		}
		content, err := admin.Call(cmd.Context(), http.MethodGet, "/config/apps/http", nil)
		if err != nil {
			return err
		}
		if len(content) == 0 || string(content) == "null\n" {
			return errors.New("caddy runs without an http app: no configuration has been loaded")
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return err
	}
	return cmd
}
