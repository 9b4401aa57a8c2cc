package chinaums

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// TestOneOrder finds the one order that is meant, among all whose numbers contain what was typed.
func TestOneOrder(t *testing.T) {
	record := func(merchant, number string, refunds ...string) watched.Record {
		o := &watch.Order{Track: watch.Track{State: watch.Paid}}
		for _, refund := range refunds {
			o.Calls = append(o.Calls, &watch.Track{Number: refund})
		}
		return watched.Record{Merchant: merchant, Number: number, Order: o}
	}
	var crowd []watched.Record
	for i := range 1000 {
		crowd = append(crowd, record("shop", fmt.Sprintf("%d", 70000+i)))
	}
	for _, test := range []struct {
		name   string
		orders []watched.Record // by merchant and number
		want   string           // the order that is asked for, or words of the error
	}{
		// Before, "the watch knows no order": nobody looked behind the first thousand.
		{"behind a thousand others", append(crowd[:1000:1000], record("shop", "9", "7")), "/chinaums/orders/shop/9"},
		// Before, "several merchants … --merchant", which told nothing apart.
		{"another order has a refund of this number", []watched.Record{record("shop", "5", "7"), record("shop", "7")}, "/chinaums/orders/shop/7"},
		{"two orders of one merchant have a refund of this number", []watched.Record{record("shop", "5", "7"), record("shop", "6", "7")}, "the order's own number"},
		// Before, "the watch knows no order": a bill's number has its date behind it.
		{"a bill by its billNo", []watched.Record{record("shop", "5", "7"), record("shop", "7@2026-11-30"), record("shop", "77@2026-11-30")}, "/chinaums/orders/shop/7@2026-11-30"},
		{"bills of two days", []watched.Record{record("shop", "7@2026-11-29"), record("shop", "7@2026-11-30")}, "<billNo>@<billDate>"},
		{"two merchants", []watched.Record{record("cafe", "7"), record("shop", "7")}, "--merchant"},
		{"none", []watched.Record{record("shop", "77")}, "knows no order"},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := ""
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/chinaums/orders" {
					asked = r.URL.Path
					fmt.Fprint(w, "{}")
					return
				}
				page := []watched.Record{}
				for _, o := range test.orders {
					if o.Merchant+"/"+o.Number > r.URL.Query().Get("after") && len(page) < 1000 {
						page = append(page, o)
					}
				}
				if err := json.NewEncoder(w).Encode(page); err != nil {
					t.Error(err)
				}
			}))
			defer api.Close()
			_, err := runCommand(orderCommand(), "", "--address="+strings.TrimPrefix(api.URL, "http://"), "7")
			if err != nil {
				asked = err.Error()
			}
			if !strings.Contains(asked, test.want) {
				t.Errorf("%s", asked)
			}
		})
	}
}
