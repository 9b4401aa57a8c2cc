package chinaums

import (
	"crypto/md5"
	"crypto/sha256"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
	"github.com/caddy-chinaums/caddy-chinaums/internal/doctor"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [--config <path> [--adapter <name>] [--merchant <name>]] [--show] [<file>]",
		Short: "Says whether a saved notify verifies and, if not, which mistake explains it",
		Long: `
The signature doctor. Reads from the file, or from standard input, one of

  - a notify's body, a form or JSON, as it arrived;
  - a whole HTTP request: request line, headers, an empty line, the body;
  - the address of a return page or of an H5 link;
  - a call's request with its header Authorization: OPEN-BODY-SIG ...

and says whether the signature is right with the merchant's keys, what exactly was
signed, the digests, and if it is wrong, which known mistake gives just this
signature: another digest, another configured key, '+' kept, decoded twice, not
decoded, empty values in, values re-serialized, GBK, '&key=', the app_key instead of
the communication key, sorted regardless of case, and so on.

It exits with 1 if the signature is wrong. It speaks Chinese where LC_ALL,
LC_MESSAGES or LANG says zh. Values are masked unless --show is given: they may be a
buyer's.`,
		Args: cobra.MaximumNArgs(1),
		Example: `  caddy chinaums verify --config Caddyfile --merchant shop notify.txt
  UMS_NOTIFY_KEY=... caddy chinaums verify < notify.txt`,
	}
	keys := addKeyFlags(cmd)
	show := cmd.Flags().Bool("show", false, "Show values")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, merchants, err := keys.load()
		if err != nil {
			return err
		}
		m, err := resolveMerchant(name, merchants[name])
		if forNotifies, notifyErr := resolveMerchant(name, onlyNotifies(merchants[name])); err != nil && notifyErr == nil {
			// The keys for calls may be out of reach in this shell.
			m, err = forNotifies, nil
		}
		if err != nil {
			return err
		}
		content, err := cli.ReadInput(cmd, args)
		if err != nil {
			return err
		}
		captured, err := doctor.ReadCapture(content)
		if err != nil {
			return err
		}
		r := &doctor.Report{W: cmd.OutOrStdout(), Chinese: locale.Chinese(), Show: *show}
		return r.Examine(forDoctor(m, doctorKeys(name, merchants)), captured)
	}
	return cmd
}

// onlyNotifies is the merchant without the keys for calls.
func onlyNotifies(config *Merchant) *Merchant {
	if config == nil {
		return nil
	}
	without := *config
	without.AppID, without.AppKey = "", ""
	return &without
}

// doctorKeys are all keys of the configuration, the merchant's own first. Those of other merchants that cannot be
// resolved here are left out.
func doctorKeys(name string, merchants map[string]*Merchant) (keys []doctor.Key) {
	add := func(owner, label, raw string, mistake doctor.Mistake) {
		value, _, err := secret.Resolve(raw)
		if err != nil {
			return
		}
		if owner != name {
			label, mistake = label+" of "+owner, doctor.AnotherKey
		}
		keys = append(keys, doctor.Key{Label: label, Key: []byte(value), Mistake: mistake})
	}
	for _, owner := range append([]string{name}, slices.DeleteFunc(slices.Sorted(maps.Keys(merchants)), func(n string) bool { return n == name })...) {
		config := merchants[owner]
		if config == nil {
			continue
		}
		for i, raw := range config.NotifyKey {
			label := "notify_key"
			if i > 0 {
				label += " " + strconv.Itoa(i+1)
			}
			add(owner, label, raw, "")
		}
		if config.AppKey != "" {
			add(owner, "app_key", config.AppKey, doctor.AppKey)
		}
	}
	return keys
}

// doctorTexts are what the doctor says.
var doctorTexts = doctor.Texts

// forDoctor tells the doctor about a merchant and about what the handlers do.
func forDoctor(m *merchant, keys []doctor.Key) *doctor.Gateway {
	g := &doctor.Gateway{
		Merchant: m.name, NotifyKeys: len(m.notifyKeys), Keys: keys, MaxFields: maxNotifyFields,
		DigestSize: digestSize,
		Signature: func(header string) (doctor.Signature, error) {
			sig, err := parseBodySig(header)
			return doctor.Signature(sig), err
		},
		Verify: m.verdict, Advice: explainCode,
	}
	if m.signer != nil {
		g.AppID = m.signer.appID
	}
	if err := needsAppKey(m); err != nil {
		g.Calls = explained(m.name, err)
	}
	if err := needsNotifyKey(m); err != nil {
		g.Notifies = explained(m.name, err)
	}
	return g
}

// digestSize is the size of the digest that a signType names, 0 if it names none.
func digestSize(signType string) int {
	return map[digestSet]int{digestMD5: md5.Size, digestSHA256: sha256.Size}[digestOf([]byte(signType))]
}

// mistake says which known mistake explains a wrong signature of a notify for m, for the log. all are the merchants, m too.
func (m *merchant) mistake(content []byte, all []*merchant) string {
	var own, others []doctor.Key
	for _, other := range all {
		for i, key := range other.notifyKeys {
			label := "notify_key"
			if i > 0 {
				label += " " + strconv.Itoa(i+1)
			}
			if other == m {
				own = append(own, doctor.Key{Label: label, Key: key})
			} else {
				others = append(others, doctor.Key{Label: label + " of " + other.name, Key: key, Mistake: doctor.AnotherKey})
			}
		}
	}
	if m.signer != nil {
		own = append(own, doctor.Key{Label: "app_key", Key: m.signer.appKey, Mistake: doctor.AppKey})
	}
	isJSON := isJSONObject(content)
	if said := doctor.Quick(content, isJSON, digestSize, slices.Concat(own, others)); said != "" {
		return said
	}
	return doctor.Quick(content, isJSON, digestSize, own) // many merchants are no reason to say nothing
}

// verdict is what chinaums_notify finds of a notify.
func (m *merchant) verdict(content []byte, header http.Header) doctor.Verdict {
	fields := acquireFields()
	defer fields.release()
	rejected := m.verify(fields, content, header)
	if reason := headerReason(header); reason != "" {
		rejected = &inbound.Rejection{Status: http.StatusUnsupportedMediaType, Reason: reason}
	}
	if rejected == nil {
		event := fields.event(nil, m.source())
		return doctor.Verdict{Type: event.Type, ID: event.ID, Subject: event.Subject, ReadsOtherwise: readsOtherwise(content)}
	}
	beside := []string{reasonMissingSignature, reasonAmbiguous, reasonMixed, "foreign_mid"}
	return doctor.Verdict{Reason: rejected.Reason, Detail: rejected.Detail, Beside: slices.Contains(beside, rejected.Reason)}
}

// headerReason is why chinaums_notify would not even look at a body with this header, or "".
func headerReason(header http.Header) string {
	for _, contentType := range header["Content-Type"] {
		if mediaType := inbound.MediaType(contentType); mediaType != "" && !slices.Contains(inward.ContentTypes, mediaType) {
			return "content_type"
		}
	}
	for _, encoding := range header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return "content_encoding"
		}
	}
	return ""
}

// explainCode explains an answer to a call by its error code.
func explainCode(content []byte, chinese bool) (doctor.Advice, bool) {
	code := string(outbound.TextMember(content, "errCode"))
	known := knownError(code)
	switch {
	case known == nil:
		return doctor.Advice{Code: code}, code != ""
	case chinese:
		return doctor.Advice{Code: known.code, Cause: known.causeChinese, Remedy: known.remedyChinese}, true
	}
	return doctor.Advice{Code: known.code, Cause: known.causeEnglish, Remedy: known.remedyEnglish}, true
}
