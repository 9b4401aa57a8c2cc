package webhook

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// Stand-ins for the directives of other packages, ordered as these are. They
// are registered after webhook_signature, which is the worse case of both
// anchors.
func init() {
	standIn := func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return &caddyhttp.StaticResponse{Body: "stand-in " + h.Val()}, nil
	}
	httpcaddyfile.RegisterHandlerDirective("test_notify", standIn)
	httpcaddyfile.RegisterDirectiveOrder("test_notify", httpcaddyfile.After, "encode")
	httpcaddyfile.RegisterHandlerDirective("test_inbox", standIn)
	httpcaddyfile.RegisterDirectiveOrder("test_inbox", httpcaddyfile.Before, "reverse_proxy")
}

func adapt(t *testing.T, text string) (string, error) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			t.Errorf("warning: %s", warning)
		}
	}
	return string(adapted), err
}

func TestAdapt(t *testing.T) {
	t.Setenv("WEBHOOK_TEST_SECRET", "never in the configuration")
	for _, test := range []struct {
		name, text, want string
	}{
		{
			"one secret", "webhook_signature {env.WEBHOOK_TEST_SECRET}",
			`{"handler":"webhook_signature","secrets":["{env.WEBHOOK_TEST_SECRET}"]}`,
		},
		{
			"rotation", "webhook_signature {env.WEBHOOK_TEST_SECRET} whsec_AAAA",
			`{"handler":"webhook_signature","secrets":["{env.WEBHOOK_TEST_SECRET}","whsec_AAAA"]}`,
		},
		{
			"size", "webhook_signature * {env.WEBHOOK_TEST_SECRET} {\n\tmax_size 64KiB\n}",
			`{"handler":"webhook_signature","max_size":65536,"secrets":["{env.WEBHOOK_TEST_SECRET}"]}`,
		},
		{
			"secret like a matcher", "webhook_signature * /secret",
			`{"handler":"webhook_signature","secrets":["/secret"]}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			adapted, err := adapt(t, "{\n\tadmin off\n}\nhttp://127.0.0.1:0 {\n"+test.text+"\n}\n")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(adapted, test.want) {
				t.Errorf("got %s\nwant %s in it", adapted, test.want)
			}
			var config caddy.Config
			if err := json.Unmarshal([]byte(adapted), &config); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(&config); err != nil {
				t.Errorf("does not load: %v", err)
			}
		})
	}
}

func TestAdaptWithMatcher(t *testing.T) {
	adapted, err := adapt(t, ":80 {\n\twebhook_signature /notify/* {env.X}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := `"match":[{"path":["/notify/*"]}]`; !strings.Contains(adapted, want) {
		t.Errorf("got %s\nwant %s in it", adapted, want)
	}
}

func TestAdaptOrder(t *testing.T) {
	for _, test := range []struct {
		name  string
		lines []string // as written, the order turned round
		want  []string // must follow each other in the JSON
	}{
		{
			"reverse_proxy",
			[]string{"reverse_proxy 127.0.0.1:9000", "webhook_signature {env.X}", "test_notify", "encode gzip"},
			[]string{`"handler":"encode"`, "stand-in test_notify", `"handler":"webhook_signature"`, `"handler":"reverse_proxy"`},
		},
		{
			"php_fastcgi",
			[]string{"php_fastcgi 127.0.0.1:9000", "webhook_signature {env.X}", "test_notify"},
			[]string{"stand-in test_notify", `"handler":"webhook_signature"`, `"handler":"reverse_proxy"`},
		},
		{
			"inbox",
			[]string{"test_inbox", "webhook_signature {env.X}", "test_notify"},
			[]string{"stand-in test_notify", `"handler":"webhook_signature"`, "stand-in test_inbox"},
		},
		{
			"request headers and respond",
			[]string{"respond answered", "webhook_signature {env.X}", "test_notify", "request_header -Ce-Id", "rewrite /changed"},
			[]string{"/changed", `"Ce-Id"`, "stand-in test_notify", `"handler":"webhook_signature"`, `"body":"answered"`},
		},
		{
			"handle",
			[]string{"handle {\n\t\treverse_proxy 127.0.0.1:9000\n\t}", "webhook_signature {env.X}", "test_notify"},
			[]string{"stand-in test_notify", `"handler":"webhook_signature"`, `"handler":"reverse_proxy"`},
		},
		{
			"route keeps the written order",
			[]string{"route {\n\t\ttest_notify\n\t\twebhook_signature {env.X}\n\t\ttest_inbox\n\t}"},
			[]string{"stand-in test_notify", `"handler":"webhook_signature"`, "stand-in test_inbox"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			adapted, err := adapt(t, ":80 {\n\t"+strings.Join(test.lines, "\n\t")+"\n}\n")
			if err != nil {
				t.Fatal(err)
			}
			rest := adapted
			for _, want := range test.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%s is missing or too early in %s", want, adapted)
				}
				rest = after
			}
		})
	}
}

func TestAdaptRefuses(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
	}{
		{"no secret", "webhook_signature", "needs a secret"},
		{"secret taken as a matcher", "webhook_signature /leaked", "needs a secret"},
		{"no secret before the block", "webhook_signature {\n\tmax_size 1KiB\n}", "needs a secret"},
		{"unknown option", "webhook_signature leaked {\n\tmaximum 1KiB\n}", `unknown option "maximum"`},
		{"repeated option", "webhook_signature leaked {\n\tmax_size 1KiB\n\tmax_size 2KiB\n}", "max_size is repeated"},
		{"option without value", "webhook_signature leaked {\n\tmax_size\n}", "max_size takes one size, not 0"},
		{"surplus value", "webhook_signature leaked {\n\tmax_size 1KiB 2KiB\n}", "max_size takes one size, not 2"},
		{"no size", "webhook_signature leaked {\n\tmax_size big\n}", `not "big"`},
		{"zero size", "webhook_signature leaked {\n\tmax_size 0\n}", `not "0"`},
		{"negative size", "webhook_signature leaked {\n\tmax_size -1\n}", `not "-1"`},
		{"size beyond 63 bits", "webhook_signature leaked {\n\tmax_size 10EiB\n}", `not "10EiB"`},
		{"block of an option", "webhook_signature leaked {\n\tmax_size 1KiB {\n\t\tx\n\t}\n}", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := adapt(t, ":80 {\n"+test.text+"\n}\n")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "leaked") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestUnmarshalCaddyfile(t *testing.T) {
	var handler Handler
	if err := handler.UnmarshalCaddyfile(caddyfile.NewTestDispenser("webhook_signature a b {\n\tmax_size 2KB\n}")); err != nil {
		t.Fatal(err)
	}
	if strings.Join(handler.Secrets, " ") != "a b" || handler.MaxSize != 2000 {
		t.Errorf("got %q and %d", handler.Secrets, handler.MaxSize)
	}
}
