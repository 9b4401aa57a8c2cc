package boltstore_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/zap"

	_ "github.com/caddy-chinaums/caddy-chinaums"
	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/boltstore"
	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
)

// unsynced is `store unsynced <file>`.
type unsynced struct {
	Path string `json:"path,omitempty"`
}

func init() {
	caddy.RegisterModule(unsynced{})
	caddy.RegisterModule(new(taker))
	httpcaddyfile.RegisterHandlerDirective("taker", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		t := new(taker)
		h.Next()
		if !h.Args(&t.Name) {
			return nil, h.ArgErr()
		}
		return t, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("taker", httpcaddyfile.Before, "respond")
}

// taker is an app that takes everything at once, and counts it.
type taker struct {
	Name string `json:"name,omitempty"`
}

var takes sync.Map // the taker's name → *atomic.Int64

func takenBy(name string) *atomic.Int64 {
	count, _ := takes.LoadOrStore(name, new(atomic.Int64))
	return count.(*atomic.Int64)
}

func (*taker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.taker", New: func() caddy.Module { return new(taker) }}
}

func (t *taker) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	takenBy(t.Name).Add(1)
	_, err := io.WriteString(w, "SUCCESS")
	return err
}

func (unsynced) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "inbox.stores.unsynced", New: func() caddy.Module { return new(unsynced) }}
}

func (u *unsynced) Key(string) string { return u.Path }
func (u *unsynced) Ordered() error    { return nil }

func (u *unsynced) Open(_ context.Context, _ string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	return boltstore.OpenUnsynced(u.Path, settings, logger)
}

func (u *unsynced) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&u.Path) {
		return d.ArgErr()
	}
	return nil
}

// signedNotify is a payment's notify as the platform signs it: the pairs in the order of their names, joined, the key
// behind, SHA-256.
func signedNotify(key, id string) string {
	fields := map[string]string{
		"mid": "898201612345678", "tid": "88880001", "instMid": "APPDEFAULT", "billFunds": "现金:1", "buyerPayAmount": "1", "totalAmount": "1",
		"merOrderId": "9001" + id, "payTime": "2018-09-20 09:50:33", "createTime": "2018-09-20 09:49:58", "seqId": "0031510000N",
		"settleDate": "2018-09-20", "status": "TRADE_SUCCESS", "targetOrderId": "2018092022001418830581229369", "targetSys": "Alipay 2.0",
		"notifyId": "e82a0275-f767-4f77-90c2-614c91222275", "orderDesc": "测试退货5(1111)", "connectSys": "OPENCHANNEL", "signType": "SHA256",
	}
	var pairs []string
	values := url.Values{}
	for name, value := range fields {
		pairs = append(pairs, name+"="+value)
		values.Set(name, value)
	}
	slices.Sort(pairs)
	sum := sha256.Sum256([]byte(strings.Join(pairs, "&") + key))
	values.Set("sign", hex.EncodeToString(sum[:]))
	return values.Encode()
}

// BenchmarkPath is the whole path on loopback: a signed notify, verified, put into the inbox, SUCCESS; the app takes
// what is delivered meanwhile. What is left is waited for, so that one turn does not pay for another. It is measured in
// turns with the same path whose inbox syncs nothing to the disk.
func BenchmarkPath(b *testing.B) {
	const key = "fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR"
	b.Setenv("NOTIFY_KEY", key)
	address, err := freeport.Address()
	if err != nil {
		b.Fatal(err)
	}
	directory := b.TempDir()
	handler := func(name string) string {
		return "\tchinaums_notify /" + name + "\n\tinbox /" + name + " " + name + " {\n\t\tdeliver {\n\t\t\ttaker " + name + "\n\t\t}\n\t}\n"
	}
	config := "{\n\tadmin off\n\tlog {\n\t\toutput discard\n\t}\n\tchinaums {\n\t\tmerchant shop {\n\t\t\tnotify_key {env.NOTIFY_KEY}\n\t\t}\n\t}\n" +
		"\tinbox synced {\n\t\tstore bolt {\n\t\t\tpath " + filepath.Join(directory, "synced.db") + "\n\t\t}\n\t}\n" +
		"\tinbox unsynced {\n\t\tstore unsynced " + filepath.Join(directory, "unsynced.db") + "\n\t}\n}\n" +
		"http://" + address + " {\n\tbind 127.0.0.1\n" + handler("synced") + handler("unsynced") + "}\n"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		b.Fatal(err)
	}
	caddy.ConfigAutosavePath = filepath.Join(directory, "autosave.json")
	caddy.DefaultStorage.Path = directory
	if err := caddy.Load(adapted, true); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = caddy.Stop() })

	number := 0
	send := func(name string, senders, count int) (took time.Duration, meanwhile int64) {
		before := takenBy(name).Load()
		forms := make(chan string, count)
		for range count {
			number++
			forms <- signedNotify(key, fmt.Sprint("n-", number))
		}
		close(forms)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
		defer client.CloseIdleConnections()
		var all sync.WaitGroup
		begun := time.Now()
		for range senders {
			all.Go(func() {
				for form := range forms {
					res, err := client.Post("http://"+address+"/"+name, "application/x-www-form-urlencoded", strings.NewReader(form))
					if err != nil {
						b.Error(err)
						return
					}
					answer, _ := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if res.StatusCode != http.StatusOK || string(answer) != "SUCCESS" {
						b.Errorf("answered %d %q", res.StatusCode, answer)
						return
					}
				}
			})
		}
		all.Wait()
		took, meanwhile = time.Since(begun), takenBy(name).Load()-before
		for takenBy(name).Load()-before < int64(count) && !b.Failed() {
			time.Sleep(time.Millisecond)
		}
		return took, meanwhile
	}
	for _, c := range []struct{ senders, count int }{{1, 200}, {8, 1000}, {64, 4000}, {256, 8000}} {
		b.Run(fmt.Sprint(c.senders), func(b *testing.B) {
			send("synced", c.senders, c.count/4)
			send("unsynced", c.senders, c.count/4)
			var synced, floor time.Duration
			delivered := int64(0)
			for b.Loop() {
				took, meanwhile := send("synced", c.senders, c.count)
				synced, delivered = synced+took, delivered+meanwhile
				took, _ = send("unsynced", c.senders, c.count)
				floor += took
			}
			n := float64(b.N) * float64(c.count)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(n/synced.Seconds(), "notifies/s")
			b.ReportMetric(float64(delivered)/synced.Seconds(), "delivered/s")
			b.ReportMetric(float64(delivered)/n, "delivered÷put")
			b.ReportMetric(n/floor.Seconds(), "unsynced/s")
			b.ReportMetric(100*floor.Seconds()/synced.Seconds(), "%")
		})
	}
}

// Interface guards
var (
	_ inbox.Provider        = (*unsynced)(nil)
	_ caddyfile.Unmarshaler = (*unsynced)(nil)
)
