package chinaums

import (
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// TestUnknownOptionNamesTheNearest: an option of one of our Caddyfile forms that is misspelled is refused with the one
// that was meant. Before, the message named the wrong word only.
func TestUnknownOptionNamesTheNearest(t *testing.T) {
	const guard = "allow token paths max_size max_response timeout validate"
	const notify = "format ack json max_size timeout confirm observe"
	merchant := "merchant shop {\nnotify_key {env.UMS_NOTIFY_KEY}\n}\n"
	for _, form := range []struct{ name, config, options string }{
		{"chinaums", "{\nchinaums {\n@ {\n}\n}\n}\n", "merchant watch"},
		{"merchant", "{\nchinaums {\nmerchant shop {\n@\n}\n}\n}\n", "app_id app_key notify_key sign_types environment upstream"},
		{"watch", "{\nchinaums {\n" + merchant + "watch {\n@\n}\n}\n}\n", "store inbox orders unknown give_up rate refunds amounts keep"},
		{"terminal", "{\nshouqianba {\nterminal till {\n@\n}\n}\n}\n", "terminal_sn terminal_key vendor_sn vendor_key app_id device_id activation_code public_key upstream"},
		{"global inbox", "{\ninbox {\n@\n}\n}\n", "store max_store remember"},
		{"store bolt of an inbox", "{\ninbox {\nstore bolt {\n@\n}\n}\n}\n", "path"},
		{"store bolt of a watch", "{\nchinaums {\n" + merchant + "watch {\nstore bolt {\n@\n}\n}\n}\n}\n", "path"},
		{"chinaums_guard", site("chinaums_guard {\n@\n}"), guard},
		{"chinaums_proxy", site("chinaums_proxy {\n@\n}"), guard + " auth header_up dial_timeout keepalive tls_server_name"},
		{"chinaums_h5", site("chinaums_h5 {\n@\n}"), "allow token paths max_size"},
		{"chinaums_notify", site("chinaums_notify {\n@\n}"), notify},
		{"chinaums_return", site("chinaums_return {\n@\n}"), "ignore"},
		{"transport chinaums", site("reverse_proxy {\ntransport chinaums {\n@\n}\n}"), "auth dial_timeout keepalive tls_server_name"},
		{"shouqianba_guard", site("shouqianba_guard {\n@\n}"), guard},
		{"shouqianba_proxy", site("shouqianba_proxy {\n@\n}"), guard + " header_up dial_timeout"},
		{"shouqianba_notify", site("shouqianba_notify {\n@\n}"), notify},
		{"transport shouqianba", site("reverse_proxy {\ntransport shouqianba {\n@\n}\n}"), "dial_timeout keepalive"},
		{"inbox", site("inbox {\n@\n}"), "retry give_up timeout max_size concurrency order_by deliver"},
		{"webhook_signature", site("webhook_signature {env.X} {\n@\n}"), "max_size"},
	} {
		for option := range strings.FieldsSeq(form.options) {
			wrong := option[:2] + "x" + option[2:]
			_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.Replace(form.config, "@", wrong, 1)), nil)
			if err == nil {
				t.Errorf("%s takes %s", form.name, wrong)
			} else if !regexp.MustCompile(`unknown option "` + wrong + `"; .*\b` + option + `\b`).MatchString(err.Error()) {
				t.Errorf("%s, %s: %v", form.name, wrong, err)
			}
		}
	}
}
