package shouqianba

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
)

// runCommand runs a command as the shell would and returns what it printed and its error.
func runCommand(cmd *cobra.Command, stdin string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetArgs(append([]string{}, args...)) // nil would mean the arguments of the test binary
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

// printed hands over what the sandbox prints at its start, which it writes at once.
type printed chan string

func (p printed) Write(text []byte) (int, error) {
	p <- string(text)
	return len(text), nil
}

// TestSandboxCommand runs the sandbox, and a gateway with what it prints: an order is made, paid in the page and told, the
// notify saved, and verify says that it is true. There was no such command.
func TestSandboxCommand(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	directory := filepath.Join(t.TempDir(), "notifies")
	out := make(printed, 8)
	cmd := sandboxCommand()
	cmd.SetArgs([]string{"--listen", "127.0.0.1:0", "--ui", "--fast", "--save", directory})
	cmd.SetOut(out)
	cmd.SetErr(out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	var text string
	select {
	case text = <-out:
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	}
	env := make(map[string]string)
	for _, assignment := range strings.Split(text, "export ")[1:] {
		name, value, _ := strings.Cut(assignment, "=")
		if quoted, ok := strings.CutPrefix(value, "'"); ok {
			value, _, _ = strings.Cut(quoted, "'")
		} else {
			value, _, _ = strings.Cut(value, "\n")
		}
		env[name] = value
		t.Setenv(name, value)
	}
	for _, name := range []string{"SQB_TERMINAL_SN", "SQB_TERMINAL_KEY", "SQB_PUBLIC_KEY", "SQB_VENDOR_SN", "SQB_VENDOR_KEY", "SQB_APP_ID", "SQB_ACTIVATION_CODE"} {
		if env[name] == "" {
			t.Errorf("no %s is printed", name)
		}
	}
	_, rest, _ := strings.Cut(text, "sandbox at ")
	platform, _, _ := strings.Cut(rest, ",")
	_, site, found := strings.Cut(text, "\n\n{\n")
	if !found {
		t.Fatalf("no Caddyfile in %s", text)
	}
	gateway, address := freeAddress(t), freeAddress(t)
	for shown, own := range map[string]string{":8901": gateway, ":8902": address} {
		if strings.Count(site, shown) != 1 {
			t.Fatalf("%s is not printed once:\n%s", shown, site)
		}
		site = strings.Replace(site, shown, own[strings.LastIndex(own, ":"):], 1)
	}
	site = "{\n" + site
	start(t, site)

	const number = "20261124000001"
	body := call(env["SQB_TERMINAL_SN"], fmt.Sprintf(order, number)+`,"notify_url":"http://`+address+`/notify"`)
	if a := post(t, "http://"+gateway+"/upay/v2/precreate", body); a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" || !strings.Contains(a.body, "PRECREATE_SUCCESS") {
		t.Fatalf("order: %+v", a)
	}
	if a := post(t, platform+"/pay", "order="+number, "Content-Type: application/x-www-form-urlencoded"); a.status != 303 {
		t.Fatalf("pay: %+v", a)
	}
	file := filepath.Join(directory, number+"-1.txt")
	eventually(t, "the notify", func() bool {
		page := send(t, "GET", platform+"/sandbox/view", "")
		return strings.Contains(page.body, file) && strings.Contains(page.body, `"Answer":"success"`)
	})
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte(site), 0o600); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(saved), `"total_amount":"100"`, `"total_amount":"900"`, 1)
	others := strings.Replace(site, "terminal_sn  {env.SQB_TERMINAL_SN}", "terminal_sn  100000000000000001", 1)
	head, bare, _ := strings.Cut(string(saved), "\r\n\r\n")
	length := fmt.Sprintf("\r\nContent-Length: %d", len(bare))
	if !strings.Contains(head, length) {
		t.Fatalf("no%s in %s", length, head)
	}
	longer := strings.Replace(head, length, fmt.Sprintf("\r\nContent-Length: %d", len(bare)+1), 1) + "\r\n\r\n" + bare + "\n"
	two := strings.Replace(site, "public_key   {env.SQB_PUBLIC_KEY}", "public_key `"+publicPEM(t, &testKey().PublicKey)+"`", 1)
	two = strings.Replace(two, "terminal sandbox", "terminal other {\npublic_key {env.SQB_PUBLIC_KEY}\n}\nterminal sandbox", 1)
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string // after "error: ", an error
	}{
		{"what was sent", "", []string{"--config", config, file}, "verifies (public_key 1)\ncom.shouqianba.payment.succeeded \"" + number},
		{"by its terminal", string(saved), []string{"--config", config, "--terminal", "sandbox"}, "verifies"},
		{"standard input by its name", string(saved), []string{"--config", config, "-"}, "verifies"},
		{"changed", changed, []string{"--config", config}, "error: does not verify (signature): no known mistake explains it"},
		// Its body was taken for empty, so that the signature was wrong.
		{"without its length, and with an editor's line break", strings.Replace(head, length, "", 1) + "\r\n\r\n" + bare + "\n", []string{"--config", config}, "verifies (public_key 1)"},
		// The log line of a rejected notify knew the mistake, and the command that it names did not.
		{"a line break more", longer, []string{"--config", config}, "error: does not verify (signature): line_break"},
		{"another terminal's key", string(saved), []string{"--config", writeConfig(t, two), "--terminal", "sandbox"}, "error: does not verify (signature): another_key [public_key of other]"},
		{"without its signature", strings.Replace(string(saved), "Authorization: ", "X: ", 1), []string{"--config", config}, "error: does not verify (missing_signature)"},
		{"the body alone", bare, []string{"--config", config}, "error: save the whole of it"},
		{"cut", string(saved[:len(saved)-1]), []string{"--config", config}, "error: not as long as its head says"},
		{"another terminal's", string(saved), []string{"--config", writeConfig(t, others)}, "error: the terminal_sn is not this terminal's"},
		{"no configuration", string(saved), nil, "error: --config is missing"},
		{"a terminal that is not there", "", []string{"--config", config, "--terminal", "till"}, "error: has no terminal till; it has: sandbox"},
		{"no terminal", "", []string{"--config", writeConfig(t, ":8080 {\nrespond ok\n}\n")}, "error: has no shouqianba terminal"},
		{"no public key", "", []string{"--config", writeConfig(t, "{\nshouqianba {\nterminal a {\nterminal_sn 1\nterminal_key x\n}\n}\n}\n")}, "error: has no public_key"},
		{"too much", strings.Repeat("a", cli.InputLimit+1), []string{"--config", config}, "error: larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runCommand(verifyCommand(), test.stdin, test.args...)
			if want, ok := strings.CutPrefix(test.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q\n%s", err, want, out)
				}
				return
			}
			if err != nil || !strings.Contains(out, test.want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("when interrupted: %v", err)
	}
	for name, args := range map[string][]string{
		"is not on loopback": {"--listen", "0.0.0.0:0"}, "host:port": {"--listen", "127.0.0.1"}, "unknown flag: --hex": {"--hex", "lower"},
	} {
		if _, err := runCommand(sandboxCommand(), "", args...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
