package chinaums

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "chinaums",
		Short: "Signs and verifies as ChinaUMS does",
		Long: `
Signs a call's body, or says whether a saved notify verifies and, if not, why.

Keys never come from an argument. They come from a Caddy configuration
(--config, with --merchant where there are several), or else from the
environment: UMS_APP_ID and UMS_APP_KEY to sign, UMS_NOTIFY_KEY to verify.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(signCommand(), verifyCommand())
		},
	})
}

func signCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign [--config <path> [--adapter <name>] [--merchant <name>]] [--curl <path>] [<file>]",
		Short: "Prints the Authorization header for a body",
		Long: `
Reads a body from the file, or from standard input, and prints the OPEN-BODY-SIG
header for exactly these bytes. The header is good for anybody who has it: do not
share it.

With --curl it prints a curl line that sends the body to this path of the
merchant's platform; it needs a file then.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  caddy chinaums sign --config Caddyfile --merchant shop --curl /v1/netpay/query body.json",
	}
	keys := addKeyFlags(cmd)
	curl := cmd.Flags().String("curl", "", "Print a curl line for this path")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := keys.merchant(func(env func(string) string) *Merchant {
			return &Merchant{AppID: env("UMS_APP_ID"), AppKey: env("UMS_APP_KEY")}
		})
		if err == nil {
			err = needsAppKey(m)
		}
		if err != nil {
			return err
		}
		content, err := readInput(cmd, args)
		if err != nil {
			return err
		}
		nonce, err := newNonce()
		if err != nil {
			return fmt.Errorf("making a nonce: %w", err)
		}
		authorization := m.signer.authorization(time.Now(), nonce, content)
		if *curl == "" {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Authorization: %s\n", authorization)
			return err
		}
		if len(args) == 0 || !strings.HasPrefix(*curl, "/") {
			return errors.New("--curl needs a path that begins with / and a file")
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "curl -sS -H %s -H %s --data-binary %s %s\n",
			shellQuote("Content-Type: application/json"), shellQuote("Authorization: "+authorization),
			shellQuote("@"+args[0]), shellQuote(m.endpoint.Scheme+"://"+m.endpoint.Host+*curl))
		return err
	}
	return cmd
}

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [--config <path> [--adapter <name>] [--merchant <name>]] [--show] [<file>]",
		Short: "Says whether a saved notify verifies",
		Long: `
Reads the body of a notify, a form or JSON, from the file or from standard input,
and says whether it verifies with the merchant's notify keys, what exactly was
signed, and if it does not verify, why. It exits with 1 if it does not.

Values are masked unless --show is given: they may be a buyer's.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  caddy chinaums verify --config Caddyfile --merchant shop notify.txt",
	}
	keys := addKeyFlags(cmd)
	show := cmd.Flags().Bool("show", false, "Show values")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := keys.merchant(func(env func(string) string) *Merchant {
			merchant := new(Merchant)
			if key := env("UMS_NOTIFY_KEY"); key != "" {
				merchant.NotifyKey = []string{key}
			}
			return merchant
		})
		if err == nil {
			err = needsNotifyKey(m)
		}
		if err != nil {
			return err
		}
		content, err := readInput(cmd, args)
		if err != nil {
			return err
		}
		return explain(cmd.OutOrStdout(), m, content, *show)
	}
	return cmd
}

// explain writes whether content is a true notify of m, and why.
func explain(w io.Writer, m *merchant, content []byte, show bool) error {
	// An editor or a shell ends a file with a newline; the platform sends none.
	content = bytes.TrimRight(content, "\r\n")
	fields := acquireFields()
	defer fields.release()
	rejected := m.verify(fields, content, nil)
	if rejected != nil && rejected.detail != nil {
		return fmt.Errorf("not a notify 不是通知报文: %w", rejected.detail)
	}

	signed := string(fields.appendStringToSign(nil))
	if !show {
		signed = mask(fields)
	}
	fmt.Fprintf(w, "string to sign 待签名串 (+ notify_key 通讯密钥):\n%s\n", signed)
	if rejected == nil {
		event := fields.event(newJSONNames(nil))
		_, err := fmt.Fprintf(w, "verifies 验签通过\ntype:    %s\nid:      %s\nsubject: %s\n", event.Type, event.ID, event.Subject)
		return err
	}
	advice := adviceByReason[rejected.reason]
	return fmt.Errorf("does not verify 验签失败 (%s): %s", rejected.reason, advice)
}

var adviceByReason = map[string]string{
	reasonMissingSignature: "there is no sign parameter 没有 sign 参数",
	reasonSignType:         "the signType is neither MD5 nor SHA256 signType 既不是 MD5 也不是 SHA256",
	reasonDigest:           "the merchant's sign_types do not accept this digest 商户的 sign_types 不接受此算法",
	reasonSignature:        "the digest is of other values or another key: is notify_key the communication key, not app_key? is the body as it arrived, not decoded or edited? 摘要不符：notify_key 是否为通讯密钥而非 appKey？报文是否原样保存？",
	reasonAmbiguous:        "the signature is right, but the same signed text can be read as another payment 签名正确，但同一待签名串可被拆成另一笔支付",
	"foreign_mid":          "the signature is right, but the mid is not one of the merchant's 签名正确，但 mid 不属于此商户",
}

// mask shows the names of what is signed, and how long each value is.
func mask(fields *notifyFields) string {
	var b strings.Builder
	for _, key := range fields.sorted {
		field := fields.at(key)
		name := string(fields.name(field))
		if name == "sign" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		fmt.Fprintf(&b, "%s=<%d>", name, len(fields.value(field)))
	}
	return b.String()
}

// keyFlags are the flags that say where the keys are.
type keyFlags struct{ config, adapter, name *string }

func addKeyFlags(cmd *cobra.Command) keyFlags {
	return keyFlags{
		config:  cmd.Flags().StringP("config", "c", "", "Caddy configuration that has the merchant"),
		adapter: cmd.Flags().StringP("adapter", "a", "", "Config adapter of the configuration"),
		name:    cmd.Flags().StringP("merchant", "m", "", "Merchant's name; may be left out where there is one"),
	}
}

// merchant finds the merchant in the configuration, or makes one of environment variables.
func (f keyFlags) merchant(fromEnv func(func(string) string) *Merchant) (*merchant, error) {
	app := &App{logger: zap.NewNop()}
	if *f.config == "" {
		if *f.name != "" {
			return nil, errors.New("--merchant needs --config")
		}
		m, err := app.resolve("environment", fromEnv(os.Getenv))
		if err != nil {
			return nil, fmt.Errorf("give --config, or set UMS_APP_ID and UMS_APP_KEY (to sign) or UMS_NOTIFY_KEY (to verify): %w", err)
		}
		return m, nil
	}
	config, _, _, err := caddycmd.LoadConfig(*f.config, *f.adapter)
	if err != nil {
		return nil, err
	}
	var document struct {
		Apps struct {
			ChinaUMS *App `json:"chinaums"`
		} `json:"apps"`
	}
	if err = json.Unmarshal(config, &document); err != nil {
		return nil, fmt.Errorf("reading %s: %w", *f.config, err)
	}
	if document.Apps.ChinaUMS == nil || len(document.Apps.ChinaUMS.Merchants) == 0 {
		return nil, fmt.Errorf("%s has no chinaums merchant", *f.config)
	}
	merchants := document.Apps.ChinaUMS.Merchants
	name := *f.name
	if name == "" {
		if len(merchants) > 1 {
			return nil, fmt.Errorf("%s has several merchants; give --merchant: %s", *f.config, strings.Join(slices.Sorted(maps.Keys(merchants)), ", "))
		}
		for name = range merchants {
		}
	}
	if merchants[name] == nil {
		return nil, fmt.Errorf("%s has no merchant %s; it has: %s", *f.config, name, strings.Join(slices.Sorted(maps.Keys(merchants)), ", "))
	}
	m, err := app.resolve(name, merchants[name])
	if err != nil {
		return nil, fmt.Errorf("merchant %s: %w", name, err)
	}
	return m, nil
}

// inputLimit bounds what the commands read, in bytes.
const inputLimit = 4 << 20

func readInput(cmd *cobra.Command, args []string) ([]byte, error) {
	input := cmd.InOrStdin()
	if len(args) > 0 && args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		input = file
	}
	content, err := io.ReadAll(io.LimitReader(input, inputLimit+1))
	if err == nil && len(content) > inputLimit {
		err = fmt.Errorf("the input is larger than %d bytes", inputLimit)
	}
	if err == nil && len(content) == 0 {
		err = errors.New("the input is empty")
	}
	return content, err
}

// shellQuote quotes s for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
