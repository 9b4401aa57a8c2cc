// Package cli holds what the commands of all platforms share. It finds an account in a configuration, reads a command's
// input, runs a sandbox, sends a test notify, and prints versions.
package cli

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// Accounts holds the flags that name an account and the configuration that has it.
type Accounts struct {
	Config, Adapter, Name *string

	kind Kind
}

// Kind names an app and its accounts.
type Kind struct {
	App     string // such as "chinaums"
	Name    string // such as "merchant"
	Chinese string // such as "商户"
}

func (k Kind) word() string {
	if locale.Chinese() {
		return k.Chinese
	}
	return k.Name
}

// AddAccounts adds --config, --adapter, and a flag with the kind's name and first letter.
func (k Kind) AddAccounts(cmd *cobra.Command) Accounts {
	return Accounts{
		Config:  cmd.Flags().StringP("config", "c", "", "Caddy configuration that has the "+k.Name),
		Adapter: cmd.Flags().StringP("adapter", "a", "", "Config adapter of the configuration"),
		Name:    cmd.Flags().StringP(k.Name, k.Name[:1], "", strings.ToUpper(k.Name[:1])+k.Name[1:]+"'s name; may be left out where there is one"),
		kind:    k,
	}
}

// Load returns all accounts of the configuration, and the name of the one that is meant.
func Load[T any](a Accounts) (name string, accounts map[string]*T, err error) {
	config, _, _, err := caddycmd.LoadConfig(*a.Config, *a.Adapter)
	if err != nil {
		return "", nil, err
	}
	var document struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	var app map[string]json.RawMessage
	decode := func(content []byte, into any) {
		if err == nil && len(content) > 0 {
			err = json.Unmarshal(content, into)
		}
	}
	decode(config, &document)
	decode(document.Apps[a.kind.App], &app)
	decode(app[a.kind.Name+"s"], &accounts)
	if err != nil {
		return "", nil, locale.Errorf("reading %s: %w", *a.Config, err)
	}
	names := strings.Join(slices.Sorted(maps.Keys(accounts)), ", ")
	name = *a.Name
	switch {
	case len(accounts) == 0:
		return "", nil, locale.Errorf("%s has no %s %s", *a.Config, a.kind.App, a.kind.word())
	case name == "" && len(accounts) > 1:
		return "", nil, locale.Errorf("%s has several %ss; give --%s: %s", *a.Config, a.kind.word(), a.kind.Name, names)
	case name == "":
		name = names
	}
	if accounts[name] == nil {
		return "", nil, locale.Errorf("%s has no %s %s; it has: %s", *a.Config, a.kind.word(), name, names)
	}
	return name, accounts, nil
}

// InputLimit bounds what a command reads, in bytes.
const InputLimit = 4 << 20

// ReadInput reads the file that a command's first argument names or, without one or for "-", standard input.
func ReadInput(cmd *cobra.Command, args []string) ([]byte, error) {
	input := cmd.InOrStdin()
	if len(args) > 0 && args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		input = file
	}
	content, err := io.ReadAll(io.LimitReader(input, InputLimit+1))
	switch {
	case err != nil:
		return nil, err
	case len(args) == 0 && len(content) == 0:
		return nil, locale.Errorf("the input is empty; give a file, or send the text to standard input")
	case len(content) == 0:
		return nil, locale.Errorf("the input is empty")
	case len(content) > InputLimit:
		return nil, locale.Errorf("the input is larger than %d bytes", InputLimit)
	}
	return content, nil
}

// ShellQuote quotes s for a POSIX shell.
func ShellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
