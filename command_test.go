package chinaums

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// runCommand runs a command as the shell would and returns what it printed and its error.
func runCommand(cmd *cobra.Command, stdin string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const commandConfig = `{
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid        898340149000005
		}
		merchant other {
			notify_key another-example-key
		}
	}
}
:8080 {
	respond ok
}
`

func TestSignCommand(t *testing.T) {
	setKeys(t)
	body := "{\"merOrderId\":\"327M1\"}\n"
	file := writeFile(t, "body.json", body)
	config := writeFile(t, "Caddyfile", commandConfig)
	header := regexp.MustCompile(`Authorization: (OPEN-BODY-SIG AppId="[^"]*", Timestamp="\d{14}", Nonce="[0-9a-f]{32}", Signature="[^"]*")`)

	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string // besides a header that verifies; after "error: ", an error
	}{
		{"standard input, keys from the environment", body, nil, "Authorization: OPEN-BODY-SIG "},
		{"a file", "", []string{file}, "Authorization: OPEN-BODY-SIG "},
		{"keys from a configuration", "", []string{"--config", config, "--merchant", "shop", file}, "Authorization: "},
		{"a curl line", "", []string{"--config", config, "--merchant", "shop", "--curl", "/v1/netpay/query", file}, "--data-binary '@" + file + "' 'https://api-mop.chinaums.com/v1/netpay/query'"},
		{"several merchants and no name", body, []string{"--config", config}, "error: has several merchants; give --merchant: other, shop"},
		{"a name that is not there", body, []string{"--config", config, "--merchant", "shpo"}, "error: has no merchant shpo; it has: other, shop"},
		{"a merchant without keys for calls", body, []string{"--config", config, "--merchant", "other"}, "error: app_id and app_key are missing"},
		{"a name without a configuration", body, []string{"--merchant", "shop"}, "error: --merchant needs --config"},
		{"curl without a file", body, []string{"--curl", "/v1/netpay/query"}, "error: --curl needs a path that begins with / and a file"},
		{"an empty body", "", nil, "error: the input is empty"},
		{"a file that is not there", "", []string{file + "x"}, "error: no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runCommand(signCommand(), test.stdin, test.args...)
			if want, ok := strings.CutPrefix(test.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("error %v, want %q", err, want)
				}
				return
			}
			if err != nil || !strings.Contains(out, test.want) {
				t.Fatalf("printed %q, error %v", out, err)
			}
			match := header.FindStringSubmatch(out)
			if match == nil {
				t.Fatalf("no header in %q", out)
			}
			if err := newBodySigner(testAppID, testAppKey).verify(match[1], []byte(body)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out, testAppKey) {
				t.Fatal("the key was printed")
			}
		})
	}
}

func TestVerifyCommand(t *testing.T) {
	setKeys(t)
	raw, err := os.ReadFile("testdata/vectors/notify.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name         string
		Form         string
		StringToSign string `json:"string_to_sign"`
		Valid        bool
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, vector := range vectors {
		if vector.Form == "" {
			continue
		}
		t.Run(vector.Name, func(t *testing.T) {
			out, err := runCommand(verifyCommand(), vector.Form+"\n", "--show")
			if (err == nil) != vector.Valid {
				t.Fatalf("error %v, valid %v", err, vector.Valid)
			}
			if !strings.Contains(out, "\n"+vector.StringToSign+"\n") {
				t.Errorf("the string to sign is not in %q", out)
			}
			if vector.Valid != strings.Contains(out, "verifies 验签通过") {
				t.Errorf("printed %q", out)
			}
			masked, _ := runCommand(verifyCommand(), vector.Form)
			if strings.Contains(masked, "898201612345678") || strings.Contains(masked, testNotifyKey) {
				t.Errorf("a value was shown: %q", masked)
			}
		})
	}

	config := writeFile(t, "Caddyfile", commandConfig)
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"another merchant's key", vectors[2].Form, []string{"--config", config, "--merchant", "other"}, "does not verify 验签失败 (signature)"},
		{"another merchant's mid", vectors[3].Form, []string{"--config", config, "--merchant", "shop"}, "(foreign_mid)"},
		{"not a notify", `{"a":{}}`, nil, "not a notify"},
		{"no sign", `a=b`, nil, "(missing_signature)"},
		{"no configuration", "a=b", []string{"--config", config + "x"}, "Caddyfilex"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := runCommand(verifyCommand(), test.stdin, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
		})
	}
	t.Setenv("UMS_NOTIFY_KEY", "")
	if _, err := runCommand(verifyCommand(), "a=b"); err == nil || !strings.Contains(err.Error(), "UMS_NOTIFY_KEY") {
		t.Fatalf("without a key: %v", err)
	}
}
