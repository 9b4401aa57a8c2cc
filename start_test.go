package chinaums

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestNotifiesBeforeTheInboxIsOpen: Caddy starts apps in any order. Where the http app came before the inbox, notifies of the
// first moments were answered 502 FAILED, with two lines in the log for each. They are answered SUCCESS, once stored.
func TestNotifiesBeforeTheInboxIsOpen(t *testing.T) {
	setKeys(t)
	t.Setenv("APP_SECRET", "s")
	app := newMerchantApp(t, nil)
	address, log := freeAddress(t), newLogged(t)
	config := inboxOptions(filepath.Join(t.TempDir(), "inbox.db")) + inboxSite(address, "reverse_proxy "+app.URL, "")
	config = strings.Replace(config, "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput test_log "+log.id+"\n\t\tformat json\n\t}\n", 1)
	ctx, err := caddy.ProvisionContext(mustConfig(t, adapt(t, config)))
	if err != nil {
		t.Fatal(err)
	}
	apps := make(map[string]caddy.App)
	for _, name := range []string{"http", "chinaums", "inbox"} {
		app, err := ctx.App(name)
		if err != nil {
			t.Fatal(err)
		}
		apps[name] = app.(caddy.App)
	}
	arrived := make(chan struct{}, 100)
	for _, server := range apps["http"].(*caddyhttp.App).Servers {
		server.RegisterConnState(func(_ net.Conn, state http.ConnState) {
			if state == http.StateActive {
				arrived <- struct{}{}
			}
		})
	}
	t.Cleanup(func() {
		for _, app := range apps {
			if err := app.Stop(); err != nil {
				t.Error(err)
			}
		}
		for _, app := range apps {
			if cleaner, ok := app.(caddy.CleanerUpper); ok {
				if err := cleaner.Cleanup(); err != nil {
					t.Error(err)
				}
			}
		}
	})

	if err := apps["http"].Start(); err != nil {
		t.Fatal(err)
	}
	const senders = 16
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			form := signedPayment(referenceField{"merOrderId", fmt.Sprint("1017-", i)}, referenceField{"notifyId", fmt.Sprint("n-", i)})
			if a := postNotify(t, "http://"+address+"/notify/shop", form); a.status != 200 || a.body != "SUCCESS" {
				t.Errorf("answered %d %s", a.status, a.body)
			}
		})
	}
	for range senders {
		<-arrived
	}
	for _, name := range []string{"chinaums", "inbox"} {
		if err := apps[name].Start(); err != nil {
			t.Fatal(err)
		}
	}
	group.Wait()
	var events int
	eventually(t, "all are delivered", func() bool { events += len(app.seen()); return events == senders })
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, `"level":"error"`) {
			t.Errorf("logged: %s", line)
		}
	}
}
