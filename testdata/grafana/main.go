// Command grafana holds a dashboard against Grafana's own schema, down to the options of each kind of panel.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return err
	}
	// The schema is that of a dashboard which is loaded; these belong to one that is shared.
	delete(fields, "__inputs")
	delete(fields, "__requires")
	if content, err = json.Marshal(fields); err != nil {
		return err
	}
	plugins.RegisterDefaultPlugins()
	var d dashboard.Dashboard
	// Where all is well, the error is an empty list.
	if err := d.UnmarshalJSONStrict(content); err != nil && err.Error() != "" {
		return err
	}
	return d.Validate()
}
