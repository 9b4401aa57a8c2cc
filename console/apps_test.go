package console

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestInboxThatCannotBeLoaded: before, any error of the inbox's app read as a configuration without an inbox.
func TestInboxThatCannotBeLoaded(t *testing.T) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		AppsRaw: caddy.ModuleMap{"inbox": []byte(`{"no such option":1}`)},
	})
	if err == nil {
		t.Fatal("the configuration is not refused")
	}
	if _, _, err := appsOf(ctx); err == nil || !strings.Contains(err.Error(), "loading inbox app module") {
		t.Errorf("error %v", err)
	}
	if ctx, err = caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}}); err != nil {
		t.Fatal(err)
	}
	if _, inbox, err := appsOf(ctx); inbox || err != nil {
		t.Errorf("without an inbox: %v, %v", inbox, err)
	}
}
