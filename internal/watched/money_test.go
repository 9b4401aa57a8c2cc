package watched_test

import (
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

// TestFind: a path that a server may take for a money call is doubtful, if it is not in the table as it stands.
func TestFind(t *testing.T) {
	table := map[string]string{"/v1/netpay/refund": "refund"}
	for path, want := range map[string]string{
		"/v1/netpay/refund": "refund", "/v1/netpay/refund/": "refund", "/v1/netpay/./refund": "refund",
		"/v1/netpay/Refund": "doubtful", "/V1/netpay/refund": "doubtful", "/v1/netpay/refund.json": "doubtful", "/v1/netpay/refund~": "doubtful",
		"/v1/netpay/re_fund": "doubtful", "/v1/netpay/re\u200bfund": "doubtful", "/v1/netpay/uac/refund": "doubtful", "/v2/netpay/order-cancel": "doubtful",
		"/upay/v2/Revoke": "doubtful", "/v1/netpay/refund/query": "doubtful", "/v1/netpay/refund;x=1": "doubtful",
		"/v1/netpay/refund.query": "doubtful", "/v1/netpay/refund;query": "doubtful", "/v1/netpay/refund,query": "doubtful", // some servers cut such an end off
		"/v1/netpay/refund-query": "", "/v1/netpay/query": "", "/v1/netpay/trade/precreate": "", "/": "", "": "",
	} {
		as, found, doubtful := watched.Find(table, path)
		if found != (want == "refund") || as == "refund" != found || doubtful != (want == "doubtful") {
			t.Errorf("%q: %q %v %v, want %q", path, as, found, doubtful, want)
		}
	}
}

// TestUnreliable: what two readers may read in two ways is named.
func TestUnreliable(t *testing.T) {
	for body, want := range map[string]string{
		`{"no":"1017A-1","amount":100}`:                    "",
		`{"no":1017,"amount":"100","more":{"amount":"x"}}`: "",
		`{"no":"","amount":null}`:                          "",
		`{"other":1e2}`:                                    "",
		``:                                                 "body",
		`[]`:                                               "body",
		`"no"`:                                             "body",
		`{"no":"1"`:                                        "body",
		`{"no":"1"} {"no":"2"}`:                            "body",
		"\xef\xbb\xbf{\"no\":\"1\"}":                       "body",
		"\x1f\x8b\x08\x00":                                 "body",
		`{"no":"1","no":"2"}`:                              "no",
		`{"no":"1","no":"1"}`:                              "no",
		`{"no":"1","NO":"2"}`:                              "no",
		`{"N_o":"1"}`:                                      "no",
		`{"n\u006f":"1","amount":1}`:                       "",
		`{"no":" 1"}`:                                      "no",
		`{"no":"1\n"}`:                                     "no",
		`{"no":"１"}`:                                       "no",
		`{"no":"1\u200b"}`:                                 "no",
		`{"no":["1"]}`:                                     "no",
		`{"no":true}`:                                      "no",
		`{"no":1e3}`:                                       "no",
		`{"no":-1}`:                                        "no",
		`{"amount":"100.0"}`:                               "amount",
		`{"amount":100.0}`:                                 "amount",
		`{"amount":1e2}`:                                   "amount",
		`{"amount":"1e2"}`:                                 "amount",
		`{"amount":" 100"}`:                                "amount",
		`{"amount":"100 "}`:                                "amount",
		`{"amount":-100}`:                                  "amount",
		`{"amount":"-100"}`:                                "amount",
		`{"amount":"+100"}`:                                "amount",
		`{"amount":"0100"}`:                                "amount",
		`{"amount":0}`:                                     "amount",
		`{"amount":"0x64"}`:                                "amount",
		`{"amount":"１００"}`:                                 "amount",
		`{"amount":{"value":100}}`:                         "amount",
		`{"amount":[100]}`:                                 "amount",
		`{"amount":true}`:                                  "amount",
		`{"amount":9999999999999999}`:                      "amount",
		`{"Amount":100}`:                                   "amount",
		`{"amount":100,"am_ount":1}`:                       "amount",
	} {
		if got := watched.Unreliable([]byte(body), []string{"no"}, []string{"amount"}); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
