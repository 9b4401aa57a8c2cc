package shouqianba

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/doctor"
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
)

// maxMistakeKeys bounds the work that strangers can cause.
const maxMistakeKeys = 40

// mistake says what explains a wrong signature of a notify for t, for the log, the command and the console. all are the terminals, t too.
func (t *terminal) mistake(signature string, body []byte, all []*terminal, chinese bool) string {
	either := in(chinese)
	tried := 0
	for _, other := range all {
		for _, key := range other.publicKeys {
			if other == t {
				continue
			}
			if tried++; tried > maxMistakeKeys {
				break
			}
			if verify([]*rsa.PublicKey{key}, signature, body) == "" {
				return "another_key [public_key of " + other.name + "]" + either("：这条通知是否属于那个终端？", ": does this notify belong to that terminal?")
			}
		}
	}
	trimmed := bytes.TrimRight(body, "\r\n")
	for _, other := range [][]byte{trimmed, append(bytes.Clone(trimmed), '\n'), append(bytes.Clone(trimmed), '\r', '\n')} {
		if verify(t.publicKeys, signature, other) == "" {
			return "line_break" + either("：途中有程序在报文末尾加了换行，或去掉了换行", ": something on the way has put a line break at the body's end, or taken it off")
		}
	}
	return either("不属于任何已知错误：报文在途中被改动过，或 public_key 不是平台的公钥",
		"no known mistake explains it: the body was changed on its way, or public_key is not the platform's")
}

// in chooses between two texts by the language.
func in(chinese bool) func(inChinese, inEnglish string) string {
	return func(inChinese, inEnglish string) string {
		if chinese {
			return inChinese
		}
		return inEnglish
	}
}

// explain reports why a notify for t is refused, with its values masked. all are the terminals, t too.
func (t *terminal) explain(r *doctor.Report, content []byte, header http.Header, all []*terminal) {
	either := in(r.Chinese)
	r.Line("input", either("JSON 报文，%d 字节", "a JSON body of %d bytes"), len(content))
	r.Line(either("终端", "terminal"), either("%s（公钥 %d 个）", "%s (public keys: %d)"), t.name, len(t.publicKeys))
	r.Line("signed", "%s\n%s", either("整个报文的原始字节，如下：", "the body's bytes as they came, which are:"), masked(content))

	signature := strings.TrimSpace(header.Get("Authorization"))
	reason := verify(t.publicKeys, signature, content)
	if reason == "" {
		r.Line("result", "%s", t.besides(content, all, either))
		return
	}
	why := ""
	_, err := base64.StdEncoding.DecodeString(signature[strings.LastIndexByte(signature, ' ')+1:])
	switch {
	case reason == reasonMissingSignature:
		why = either("没有 Authorization 头，签名应在其中", "there is no header Authorization, which holds the signature")
	case len(signature) > maxSignature:
		why = fmt.Sprintf(either("Authorization 头超过 %d 字节", "the header Authorization is longer than %d bytes"), maxSignature)
	case err != nil:
		why = either("Authorization 头不是 base64", "the header Authorization is not base64")
	}
	if why != "" {
		r.Line("result", "%s%s%s", r.Say("does_not_verify"), either("：", ": "), why)
		return
	}
	r.Line("result", "%s", r.Say("does_not_verify"))
	r.Line("mistake", "%s", t.mistake(signature, content, all, r.Chinese))
}

// besides says what else is wrong with a notify that verifies.
func (t *terminal) besides(content []byte, all []*terminal, either func(inChinese, inEnglish string) string) string {
	event, err := readEvent(content, newRules(nil), "") // its id is not shown
	if err != nil {
		return either("签名正确，但报文不是通知：", "the signature is right, but this is no notify: ") + doctor.Printable(err.Error())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // only what has just started is waited for
	defer cancel()
	own := t.serial(ctx)
	if event.TerminalSN == "" || own == "" || own == event.TerminalSN {
		return either("按现在的配置验签通过：此后配置有变，或者这个路径的选项不接受",
			"it verifies with the configuration that runs now: either that has changed since, or an option of the path refuses it")
	}
	for _, other := range all {
		if other.serial(ctx) == event.TerminalSN {
			return either("签名正确，但 terminal_sn 不是此终端的，而是 "+other.name+" 的：请检查下单时的 notify_url",
				"the signature is right, but its terminal_sn is another terminal's: "+other.name+"; correct the order's notify_url")
		}
	}
	return either("签名正确，但 terminal_sn 不是此终端的，配置中也没有这个终端",
		"the signature is right, but its terminal_sn is another terminal's: none of this configuration")
}

// masked is a notify as the names of its fields and how long each value is.
func masked(content []byte) string {
	var shown []string
	_ = jsontext.Members(content, func(name string, value json.RawMessage) error { // as far as it can be read
		shown = append(shown, fmt.Sprintf("%s=<%d>", doctor.Printable(name), len(bytes.Trim(value, `"`))))
		return nil
	})
	return strings.Join(shown, "&")
}
