package chinaums

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestWatchOfTwoPlatforms: each platform's watch has a store of its own. Two with one file were one watch, which asked one platform
// about the other's orders.
func TestWatchOfTwoPlatforms(t *testing.T) {
	setKeys(t)
	directory := t.TempDir()
	config := func(theirs string) string {
		store := func(file string) string {
			return "\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath " + filepath.Join(directory, file) + "\n\t\t\t}\n\t\t}\n\t}\n"
		}
		return strings.Replace(merchantOptions("http://127.0.0.1:9"), "\t\t}\n\t}\n", "\t\t}\n"+store("watch.db")+
			"\tshouqianba {\n\t\tterminal till {\n\t\t\tterminal_sn 1\n\t\t\tterminal_key k\n\t\t}\n"+store(theirs)+
			"\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+filepath.Join(directory, "inbox.db")+"\n\t\t}\n\t}\n", 1) +
			notifySite(freeAddress(t), "respond ok")
	}
	startCaddy(t, config("theirs.db"))
	err := caddy.Load(adapt(t, strings.Replace(config("watch.db"), "{\n", "{\n\tadmin off\n", 1)), true)
	if err == nil || !strings.Contains(err.Error(), "give each platform a store of its own") {
		t.Errorf("it loads: %v", err)
	}
}
