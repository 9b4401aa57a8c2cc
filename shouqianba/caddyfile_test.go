package shouqianba

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var updateGolden = flag.Bool("update", false, "write the golden files in testdata/adapt instead of comparing them")

// separator stands between the Caddyfile and what becomes of it, as in Caddy's own tests.
const separator = "----------\n"

// setKeys puts what the golden files name into the environment.
func setKeys(t testing.TB) {
	t.Helper()
	for name, value := range map[string]string{
		"SQB_TERMINAL_SN": "00101010029201012912", "SQB_TERMINAL_KEY": "68d499beda5f72116592f5c527465656",
		"SQB_VENDOR_KEY": "vendor-key-of-the-tests", "SQB_ACTIVATION_CODE": "12345678", "GATEWAY_TOKEN": "token-of-the-tests",
		"APP_SECRET": "secret-of-the-tests",
	} {
		t.Setenv(name, value)
	}
}

// TestAdapt: every form adapts to what its golden file says, and that loads.
func TestAdapt(t *testing.T) {
	setKeys(t)
	files, err := filepath.Glob(filepath.Join("testdata", "adapt", "*.caddyfiletest"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, want, ok := strings.Cut(string(content), separator)
			if !ok {
				t.Fatalf("there is no line %q", separator)
			}
			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
			if err != nil {
				t.Fatal(err)
			}
			for _, warning := range warnings {
				if !strings.Contains(warning.Message, "not formatted") { // the files align their values
					t.Errorf("warning: %s", warning)
				}
			}
			var got bytes.Buffer
			if err := json.Indent(&got, adapted, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			if *updateGolden {
				if err := os.WriteFile(file, []byte(config+separator+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != want {
				t.Errorf("adapts to:\n%s\nwant:\n%s", got.String(), want)
			}
			if err := caddy.Validate(withoutAdmin(t, adapted)); err != nil {
				t.Errorf("it does not load: %v", err)
			}
		})
	}
}

// TestRefused: what is refused, and the words of the message that name it.
func TestRefused(t *testing.T) {
	setKeys(t)
	fixed := "terminal_sn 1\nterminal_key {env.SQB_TERMINAL_KEY}\n"
	owned := "vendor_sn 9\nvendor_key {env.SQB_VENDOR_KEY}\napp_id 2\ndevice_id d\nactivation_code {env.SQB_ACTIVATION_CODE}\n"
	pem := "public_key testdata/public.pem\n"
	terminal := func(name, options string) string { return "terminal " + name + " {\n" + options + "}\n" }
	for _, test := range []struct{ name, terminals, site, want string }{
		{"an unknown option", terminal("till", "terminal_zn 1\n"), "", `terminal till: unknown option "terminal_zn"`},
		{"a repeated option", terminal("till", fixed+"terminal_sn 2\n"), "", "terminal till: terminal_sn is given twice"},
		{"a surplus value", terminal("till", "terminal_key one two\n"), "", "terminal till: terminal_key takes one value, not 2"},
		{"no value", terminal("till", "terminal_key\n"), "", "terminal till: terminal_key needs a value"},
		{"an empty value", terminal("till", "terminal_key \"\"\n"), "", "terminal till: terminal_key is empty"},
		{"another block", "merchant shop {\n}\n", "", `unknown option "merchant"; shouqianba has terminal`},
		{"no name", "terminal {\n}\n", "", ""},
		{"two names", "terminal a b {\n}\n", "", `terminal a: surplus argument "b"`},
		{"a bad name", terminal("-till", fixed), "", `terminal "-till": a name consists of`},
		{"one name twice", terminal("till", fixed) + terminal("till", fixed), "", "terminal till: there are two terminals of this name"},
		{"nothing", terminal("till", ""), "", "terminal till: there is neither terminal_sn and terminal_key"},
		{"a key without its number", terminal("till", "terminal_key {env.SQB_TERMINAL_KEY}\n"), "", "terminal till: terminal_sn is missing"},
		{"a number without its key", terminal("till", "terminal_sn 1\n"), "", "terminal till: terminal_key is missing"},
		{"an owned terminal without a device", terminal("till", strings.Replace(owned, "device_id d\n", "", 1)), "", "terminal till: device_id is missing"},
		{"an owned terminal without a code", terminal("till", strings.Replace(owned, "activation_code {env.SQB_ACTIVATION_CODE}\n", "", 1)), "", "terminal till: activation_code is missing"},
		{"both kinds", terminal("till", fixed+owned), "", "terminal till: terminal_sn and vendor_sn exclude each other"},
		{"an unresolvable key", terminal("till", "terminal_sn 1\nterminal_key {env.SQB_NONE}\n"), "", "terminal till: terminal_key cannot be resolved"},
		{"a number that cannot stand in a header", terminal("till", "terminal_sn \"1 2\"\nterminal_key {env.SQB_TERMINAL_KEY}\n"), "", "terminal till: terminal_sn holds a character"},
		{"an upstream with a path", terminal("till", fixed+"upstream https://host/path\n"), "", "terminal till: upstream:"},
		{"an upstream of another scheme", terminal("till", fixed+"upstream ftp://host\n"), "", "the scheme must be https or http"},
		{"a key file that is not there", terminal("till", "public_key testdata/none.pem\n"), "", "terminal till: public_key"},
		{"a key that is none", terminal("till", "public_key caddyfile_test.go\n"), "", "terminal till: public_key caddyfile_test.go: is neither PEM nor base64"},
		{"one public key twice", terminal("till", "public_key testdata/public.pem testdata/public.pem\n"), "", "terminal till: public_key: the same key is named twice"},
		{"two terminals that are one", terminal("a", owned) + terminal("b", owned), "", "terminals a and b: both are the same terminal"},
		{"notifies that cannot be told apart", terminal("a", pem) + terminal("b", fixed+pem), "", "terminals a and b: both have the same public_key, so both need a terminal_sn"},
		{"one number for two", terminal("a", fixed+pem) + terminal("b", fixed+pem), "", "terminals a and b: both have the same public_key and terminal_sn 1"},

		{"an unknown terminal", terminal("till", fixed), "shouqianba_proxy tilt", "terminal tilt does not exist; the shouqianba global option has: till"},
		{"no terminal named of two", terminal("a", fixed) + terminal("b", fixed), "shouqianba_proxy", "name a terminal: the shouqianba global option has a, b"},
		{"a terminal without a key", terminal("till", pem), "shouqianba_proxy", "terminal till: terminal_sn and terminal_key are missing"},
		{"a terminal without a public key", terminal("till", fixed), "shouqianba_notify", "terminal till: public_key is missing"},
		{"a placeholder that reaches nobody", terminal("till", pem), "shouqianba_notify {vars.t}", "a placeholder reaches only terminals that have terminal_sn"},
		{"a surplus argument", terminal("till", fixed), "shouqianba_proxy till till", `shouqianba_proxy: surplus argument "till"`},
		{"an unknown option of notify", terminal("till", pem), "shouqianba_notify {\nsign_types md5\n}", `shouqianba_notify: unknown option "sign_types"`},
		{"an unknown format", terminal("till", pem), "shouqianba_notify {\nformat xml\n}", `shouqianba_notify: format: "xml" is not one of`},
		{"an unknown option of guard", terminal("till", fixed), "shouqianba_guard {\nauth body_sig\n}", `shouqianba_guard: unknown option "auth"`},
		{"paths that give out keys", terminal("till", owned), "shouqianba_proxy {\npaths /upay/* /Terminal/*\n}", "/terminal/activate is within reach, but gives out keys of terminal till"},
		{"compression", terminal("till", fixed), "shouqianba_proxy {\ncompression on\n}", "compression"},
		{"another upstream", terminal("till", fixed), "shouqianba_proxy {\nto 127.0.0.1:9\n}", `shouqianba_proxy: unknown option "to"`},
		{"another transport", terminal("till", fixed), "shouqianba_proxy {\ntransport http\n}", "long form: shouqianba_guard"},
		{"health checks", terminal("till", fixed), "shouqianba_proxy {\nhealth_uri /\n}", `unknown option "health_uri"`},
		{"retries", terminal("till", fixed), "reverse_proxy {\ndynamic shouqianba\ntransport shouqianba\nlb_retry_match {\nmethod POST\n}\n}", "lb_retry_match is refused"},
		{"a rewrite", terminal("till", fixed), "reverse_proxy {\ndynamic shouqianba\ntransport shouqianba\nrewrite /x\n}", "rewrite is refused"},
		{"HTTP/3", terminal("till", fixed), "shouqianba_proxy {\nversions 3\n}", "versions: 3 is not supported"},
		{"no verification of certificates", terminal("till", fixed), "shouqianba_proxy {\ntls_insecure_skip_verify\n}", "tls_insecure_skip_verify is refused except to loopback"},
		{"an option of dynamic", terminal("till", fixed), "reverse_proxy {\ndynamic shouqianba {\nx\n}\ntransport shouqianba\n}", "dynamic shouqianba has no options"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := "{\nshouqianba {\n" + test.terminals + "}\n}\n"
			if test.site != "" {
				config += "http://127.0.0.1:8080 {\nroute {\n" + test.site + "\n}\n}\n"
			}
			got := loadError(t, config)
			if got == "" || !strings.Contains(got, test.want) {
				t.Errorf("error: %s\nwant %q in it", got, test.want)
			}
			for _, secret := range []string{os.Getenv("SQB_TERMINAL_KEY"), os.Getenv("SQB_VENDOR_KEY"), os.Getenv("SQB_ACTIVATION_CODE")} {
				if strings.Contains(got, secret) {
					t.Errorf("the error shows a key: %s", got)
				}
			}
		})
	}
}

// TestTaken: what looks unusual and is right.
func TestTaken(t *testing.T) {
	setKeys(t)
	content, err := os.ReadFile(filepath.Join("testdata", "public.pem"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SQB_PUBLIC_KEY", string(content))
	other := publicPEM(t, &testKey().PublicKey)
	owned := "vendor_sn 9\nvendor_key {env.SQB_VENDOR_KEY}\napp_id 2\ndevice_id d\nactivation_code {env.SQB_ACTIVATION_CODE}\n"
	for _, test := range []struct{ name, options, site string }{
		{"a public key from the environment", "public_key {env.SQB_PUBLIC_KEY}\n", "shouqianba_notify"},
		{"a public key from a file's placeholder", "public_key {file.testdata/public.pem}\n", "shouqianba_notify"},
		{"a public key written out", "public_key `" + other + "`\n", "shouqianba_notify"},
		{"two public keys", "public_key {env.SQB_PUBLIC_KEY} `" + other + "`\n", "shouqianba_notify"},
		{"an owned terminal by a placeholder", owned, "shouqianba_proxy {vars.terminal}"},
		{"a check-in that the user makes", "terminal_sn 1\nterminal_key {env.SQB_TERMINAL_KEY}\n", "shouqianba_proxy {\npaths /terminal/checkin\n}"},
		{"paths of an owned terminal", owned, "shouqianba_proxy {\npaths /upay/* /terminal/uploadLog\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := "{\nshouqianba {\nterminal till {\n" + test.options + "}\n}\n}\nhttp://127.0.0.1:8080 {\n" + test.site + "\n}\n"
			if got := loadError(t, config); got != "" {
				t.Error(got)
			}
		})
	}
}
