package chinaums

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// watchesOfBoth is a Caddyfile with a watch of each platform, whose stores are these files of a directory.
func watchesOfBoth(t *testing.T, directory, ours, theirs string) string {
	store := func(file string) string {
		return "\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath " + filepath.Join(directory, file) + "\n\t\t\t}\n\t\t}\n\t}\n"
	}
	return strings.Replace(merchantOptions("http://127.0.0.1:9"), "\t\t}\n\t}\n", "\t\t}\n"+store(ours)+
		"\tshouqianba {\n\t\tterminal till {\n\t\t\tterminal_sn 1\n\t\t\tterminal_key k\n\t\t}\n"+store(theirs)+
		"\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+filepath.Join(directory, "inbox.db")+"\n\t\t}\n\t}\n", 1) +
		notifySite(freeAddress(t), "respond ok")
}

// TestWatchOfTwoPlatforms: each platform's watch has a store of its own. Two with one file were one watch, which asked one platform
// about the other's orders.
func TestWatchOfTwoPlatforms(t *testing.T) {
	setKeys(t)
	directory := t.TempDir()
	startCaddy(t, watchesOfBoth(t, directory, "ours.db", "theirs.db"))
	err := caddy.Load(adapt(t, strings.Replace(watchesOfBoth(t, directory, "ours.db", "ours.db"), "{\n", "{\n\tadmin off\n", 1)), true)
	if err == nil || !strings.Contains(err.Error(), "give each platform a store of its own") {
		t.Errorf("it loads: %v", err)
	}
}

// TestWatchCommandsOfTheOtherPlatform: --platform says whose orders are shown.
func TestWatchCommandsOfTheOtherPlatform(t *testing.T) {
	setKeys(t)
	address, config := freeAddress(t), watchesOfBoth(t, t.TempDir(), "ours.db", "theirs.db")
	startCaddy(t, config)
	if err := caddy.Load(adapt(t, strings.Replace(config, "{\n", "{\n\tadmin "+address+"\n", 1)), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the other tests' Caddys have no admin API
		if err := caddy.Load(adapt(t, strings.Replace(config, "{\n", "{\n\tadmin off\n", 1)), true); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the watch is open", func() bool {
		out, err := runCommand(ordersCommand(), "", "--address="+address, "--platform=shouqianba")
		return err == nil && strings.HasPrefix(out, "MERCHANT")
	})
	if _, err := runCommand(orderCommand(), "", "--address="+address, "--platform=shouqianba", "1"); err == nil || !strings.Contains(err.Error(), `"1"`) {
		t.Errorf("an order that there is not: %v", err)
	}
	if _, err := runCommand(ordersCommand(), "", "--address="+address, "--platform=alipay"); err == nil || !strings.Contains(err.Error(), "alipay") {
		t.Errorf("another platform: %v", err)
	}
}
