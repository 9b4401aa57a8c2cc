package chinaums

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func notifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "notify [--config <path> [--adapter <name>] [--merchant <name>]] [--kind <kind>] [--variant <variant>] [--hex <case>] [--set <name=value>]... [--save <file>] [--print] [<url>]",
		Short: "Sends a signed test notify",
		Long: `
Sends a notify of an imaginary order to an address, signed with the merchant's own
notify key, as the platform would, and prints the status and the answer. It is sent
once; redirects are not followed, as the platform follows none.

Kinds: payment, refund, bill, deduction, guarantee.

Variants that have to be taken: genuine, late, reordered, json, gbk. Variants that
have to be refused: tampered, recut, unsigned, other-key, foreign-mid. The command
exits with 1 if the answer is not what the variant deserves.

Somebody who has this key can tell a shop that anything was paid: send it to your own
gateway only.`,
		Args: cobra.MaximumNArgs(1),
		Example: `  caddy chinaums notify --config Caddyfile http://127.0.0.1:8902/notify
  caddy chinaums notify --config Caddyfile --kind refund --set merOrderId=327M1 http://127.0.0.1:8902/notify
  caddy chinaums notify --config Caddyfile --save notify.txt http://127.0.0.1:8902/notify
  caddy chinaums notify --config Caddyfile --print | caddy chinaums verify --config Caddyfile`,
	}
	keys := addKeyFlags(cmd)
	kindName := cmd.Flags().StringP("kind", "k", "payment", "What the notify reports")
	variantName := cmd.Flags().StringP("variant", "v", "genuine", "How it is sent, or what is wrong with it")
	digest := cmd.Flags().String("sign-type", "", "Digest, SHA256 or MD5 (default: SHA256, if the merchant accepts it)")
	hexadecimal := addHexFlag(cmd)
	set := cmd.Flags().StringArray("set", nil, "Set a field, or take it out with an empty value (may be repeated)")
	save := cmd.Flags().String("save", "", "Write the body to this file, for verify; a file that is there is replaced")
	print := cmd.Flags().Bool("print", false, "Print the body instead of sending it")
	timeout := cmd.Flags().Duration("timeout", 15*time.Second, "How long to wait for the answer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := sandbox.ParseKind(*kindName)
		if err != nil {
			return err
		}
		variant, err := sandbox.ParseVariant(*variantName)
		if err != nil {
			return err
		}
		if variant == sandbox.Duplicate {
			return errors.New("--variant duplicate: send the same --print output twice instead")
		}
		if *print == (len(args) > 0) && (*print || *save == "") {
			return errors.New("give either an address or --print, or --save alone")
		}
		name, merchants, err := keys.load(func(env func(string) string) *Merchant {
			merchant := new(Merchant)
			if key := env("UMS_NOTIFY_KEY"); key != "" {
				merchant.NotifyKey = []string{key}
			}
			if mid := env("UMS_MID"); mid != "" {
				merchant.MID = []string{mid}
			}
			return merchant
		})
		if err != nil {
			return err
		}
		if len(merchants[name].NotifyKey) == 0 && name != fromEnvironment {
			return fmt.Errorf("merchant %s: %w", name, needsNotifyKey(new(merchant)))
		}
		m, err := keys.resolve(name, onlyNotifies(merchants[name]))
		if err != nil {
			return err
		}
		small, err := smallHex(*hexadecimal)
		if err != nil {
			return err
		}
		message, err := testNotify(m, merchants[name], kind, variant, *digest, small, *set)
		if err != nil {
			return err
		}
		if *save != "" {
			if err := replaceFile(*save, message.Body); err != nil {
				return fmt.Errorf("--save: %w", err)
			}
		}
		switch {
		case *print:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", message.Body)
			return err
		case len(args) == 0:
			return nil
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		return sendNotify(ctx, cmd.OutOrStdout(), args[0], message, variant.True())
	}
	return cmd
}

// replaceFile writes a file that only its owner reads. What was there, a symbolic link too, gives way to it whole.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".notify-*")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}

// testNotify makes a notify as the sandbox does, with the merchant's own key and mid.
func testNotify(m *merchant, config *Merchant, kind sandbox.Kind, variant sandbox.Variant, digest string, smallSign bool, set []string) (*sandbox.Message, error) {
	n := sandbox.Notify{Kind: kind, Variant: variant, Key: string(m.notifyKeys[0]), SmallSign: smallSign, Fields: make(map[string]string)}
	switch strings.ToUpper(digest) {
	case "":
		n.Digest = sandbox.SHA256
		if m.accept&digestSHA256 == 0 {
			n.Digest = sandbox.MD5
		}
	case "SHA256":
		n.Digest = sandbox.SHA256
	case "MD5":
		n.Digest = sandbox.MD5
	default:
		return nil, fmt.Errorf("--sign-type: %q is neither SHA256 nor MD5", digest)
	}
	if len(config.MID) > 0 {
		mid, _, err := secret.Resolve(config.MID[0])
		if err != nil {
			return nil, fmt.Errorf("mid %w", err)
		}
		n.Fields["mid"] = mid
	}
	for _, assignment := range set {
		name, value, ok := strings.Cut(assignment, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--set: %q is not of the form name=value", assignment)
		}
		n.Fields[name] = value
	}
	return n.Build()
}

// sendNotify sends a message and judges the answer.
func sendNotify(ctx context.Context, w io.Writer, address string, message *sandbox.Message, honest bool) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not an address that begins with http:// or https://", address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(message.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", message.ContentType)
	client := &http.Client{CheckRedirect: outbound.NoRedirect}
	start := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("status %s, and the answer was cut: %w", res.Status, err)
	}
	r := &report{w: w, chinese: locale.Chinese()}
	r.line("order", "%s", printable(message.Form.Get(orderParameter(message.Form))))
	r.line("status", "%s", res.Status)
	r.line("answer", "%s", printable(string(answer)))
	r.line("took", "%s", time.Since(start).Round(time.Millisecond))
	if r.err != nil {
		return r.err
	}
	// The platform looks at the word (checklist NOTI-03).
	taken := res.StatusCode == http.StatusOK && strings.TrimSpace(string(answer)) == inward.Success
	switch {
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return errors.New(r.say("redirected"))
	case honest && !taken:
		return errors.New(r.say("not_taken"))
	case !honest && taken:
		return errors.New(r.say("wrongly_taken"))
	}
	return nil
}

func orderParameter(form url.Values) string {
	if form.Has("merOrderId") {
		return "merOrderId"
	}
	return "billNo"
}
