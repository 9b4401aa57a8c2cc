package chinaums

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// beijing is the platform's clock: UTC+8, without daylight saving, whatever the server's own zone is.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// Outbound: OPEN-BODY-SIG

const (
	bodySigScheme     = "OPEN-BODY-SIG"
	bodySigTimeLayout = "20060102150405"
	// maxBodySigHeader bounds the header of an answer; a real one has about 200 bytes.
	maxBodySigHeader = 1 << 10
)

// bodySigner signs the calls of one merchant with OPEN-BODY-SIG. It is safe for concurrent use.
//
//	digest    = lower-case hex of SHA-256(body)
//	signature = base64( HMAC-SHA256(appKey, appId + timestamp + nonce + digest) )
type bodySigner struct {
	appID  string
	appKey []byte
	prefix string
	states sync.Pool // of *bodySigState
}

// bodySigState is an HMAC with its key already absorbed, and the buffers of one signature.
type bodySigState struct {
	mac       hash.Hash
	signed    []byte
	header    []byte
	signature [sha256.Size]byte
	second    int64 // of timestamp
	timestamp []byte
}

func newBodySigner(appID, appKey string) *bodySigner {
	key := []byte(appKey)
	s := &bodySigner{
		appID:  appID,
		appKey: key,
		prefix: bodySigScheme + ` AppId="` + appID + `", Timestamp="`,
	}
	s.states.New = func() any {
		return &bodySigState{
			mac:    hmac.New(sha256.New, key),
			signed: make([]byte, 0, 256),
			header: make([]byte, 0, 512),
			second: math.MinInt64,
		}
	}
	return s
}

// authorization returns the value of the Authorization header for body. The nonce must be new for every attempt.
func (s *bodySigner) authorization(now time.Time, nonce string, body []byte) string {
	state := s.states.Get().(*bodySigState)
	defer s.states.Put(state)

	if second := now.Unix(); second != state.second {
		state.second, state.timestamp = second, now.In(beijing).AppendFormat(state.timestamp[:0], bodySigTimeLayout)
	}
	header := append(state.header[:0], s.prefix...)
	header = append(header, state.timestamp...)
	header = append(header, `", Nonce="`...)
	header = append(header, nonce...)
	header = append(header, `", Signature="`...)

	state.signed = append(append(append(state.signed[:0], s.appID...), state.timestamp...), nonce...)
	header = base64.StdEncoding.AppendEncode(header, state.sign(body))
	header = append(header, '"')
	state.header = header
	return string(header)
}

// link returns the query of an OPEN-FORM-PARAM link (checklist SYS-04): the same signature, over the content as it is
// before it is encoded. The nonce must be new for every link.
func (s *bodySigner) link(now time.Time, nonce string, content []byte) string {
	timestamp := now.In(beijing).Format(bodySigTimeLayout)
	state := s.states.Get().(*bodySigState)
	defer s.states.Put(state)
	state.signed = append(append(append(state.signed[:0], s.appID...), timestamp...), nonce...)
	signature := base64.StdEncoding.EncodeToString(state.sign(content))
	return "authorization=OPEN-FORM-PARAM&appId=" + url.QueryEscape(s.appID) + "&timestamp=" + timestamp + "&nonce=" + nonce +
		"&content=" + url.QueryEscape(string(content)) + "&signature=" + url.QueryEscape(signature)
}

// tokenRequest returns the body that asks for an access token. The nonce must be new for every request.
func (s *bodySigner) tokenRequest(now time.Time, nonce string) []byte {
	timestamp := now.In(beijing).Format(bodySigTimeLayout)
	digest := sha256.New()
	io.WriteString(digest, s.appID+timestamp+nonce)
	digest.Write(s.appKey)
	body, err := json.Marshal(struct {
		AppID      string `json:"appId"`
		Timestamp  string `json:"timestamp"`
		Nonce      string `json:"nonce"`
		SignMethod string `json:"signMethod"`
		Signature  string `json:"signature"`
	}{s.appID, timestamp, nonce, "SHA256", hex.EncodeToString(digest.Sum(nil))})
	if err != nil {
		panic(err) // strings always marshal
	}
	return body
}

// sign completes state.signed, which holds appId, timestamp and nonce, with the body's digest, and authenticates it.
func (state *bodySigState) sign(body []byte) []byte {
	digest := sha256.Sum256(body)
	state.signed = hex.AppendEncode(state.signed, digest[:])
	state.mac.Reset()
	state.mac.Write(state.signed)
	return state.mac.Sum(state.signature[:0])
}

var (
	errBodySigAppID     = errors.New("authorization header: AppId is not the merchant's app_id")
	errBodySigSignature = errors.New("authorization header: the signature does not match the body")
)

// verify checks the Authorization header of an answer over the answer's body.
func (s *bodySigner) verify(header string, body []byte) error {
	sig, err := parseBodySig(header)
	if err != nil {
		return err
	}
	if sig.AppID != s.appID {
		return errBodySigAppID
	}
	state := s.states.Get().(*bodySigState)
	defer s.states.Put(state)

	state.signed = append(append(append(state.signed[:0], sig.AppID...), sig.Timestamp...), sig.Nonce...)
	state.header = base64.StdEncoding.AppendEncode(state.header[:0], state.sign(body))
	if subtle.ConstantTimeCompare(state.header, []byte(sig.Signature)) != 1 {
		return errBodySigSignature
	}
	return nil
}

// bodySig is what an OPEN-BODY-SIG header says.
type bodySig struct{ AppID, Timestamp, Nonce, Signature string }

// parseBodySig parses an Authorization header of the scheme OPEN-BODY-SIG. All four parameters must be there, once,
// in quotes, in any order, separated by "," or ", ": the documents show both.
func parseBodySig(header string) (bodySig, error) {
	if len(header) > maxBodySigHeader {
		return bodySig{}, fmt.Errorf("authorization header: longer than %d bytes", maxBodySigHeader)
	}
	scheme, rest, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, bodySigScheme) {
		return bodySig{}, fmt.Errorf("authorization header: the scheme is not %s", bodySigScheme)
	}
	var sig bodySig
	type parameter struct {
		name  string
		value *string
	}
	parameters := []parameter{{"AppId", &sig.AppID}, {"Timestamp", &sig.Timestamp}, {"Nonce", &sig.Nonce}, {"Signature", &sig.Signature}}
	for {
		name, after, found := strings.Cut(rest, `="`)
		if !found {
			return bodySig{}, errors.New(`authorization header: expected name="value"`)
		}
		i := slices.IndexFunc(parameters, func(p parameter) bool { return p.name == name })
		if i < 0 {
			return bodySig{}, fmt.Errorf("authorization header: unknown parameter %s", text.Name(name))
		}
		if *parameters[i].value != "" {
			return bodySig{}, fmt.Errorf("authorization header: repeated parameter %s", name)
		}
		value, after, found := strings.Cut(after, `"`)
		switch {
		case !found:
			return bodySig{}, fmt.Errorf("authorization header: the value of %s has no closing quote", name)
		case value == "":
			return bodySig{}, fmt.Errorf("authorization header: the value of %s is empty", name)
		case slices.ContainsFunc([]byte(value), func(c byte) bool { return c < ' ' || c > '~' || c == '\\' }):
			return bodySig{}, fmt.Errorf("authorization header: the value of %s has a byte that is not allowed", name)
		}
		*parameters[i].value = value
		if after == "" {
			break
		}
		if after[0] != ',' {
			return bodySig{}, fmt.Errorf("authorization header: expected a comma after %s", name)
		}
		rest = strings.TrimPrefix(after[1:], " ")
	}
	for _, p := range parameters {
		if *p.value == "" {
			return bodySig{}, fmt.Errorf("authorization header: %s is missing", p.name)
		}
	}
	return sig, nil
}

// Inbound: the digest of a notify

// digestSet is a set of the digests that a notify may be signed with.
type digestSet uint8

const (
	digestMD5 digestSet = 1 << iota
	digestSHA256
)

// Reasons why a notify's digest is false.
const (
	reasonMissingSignature = "missing_signature"
	reasonSignType         = "sign_type"
	reasonDigest           = "digest"
	reasonSignature        = "signature"
)

// digest is what a notify's sign says.
type digest struct {
	kind  digestSet
	bytes [sha256.Size]byte // an MD5 digest fills the beginning
}

// parseDigest reads sign and signType. If signType is nil, the digest's length says which one it is: the documents disagree
// about the default. The reason says why the two cannot be right; it is "" if they can.
func parseDigest(sign, signType []byte, accept digestSet) (d digest, reason string) {
	if signType != nil {
		if d.kind = digestOf(signType); d.kind == 0 {
			return d, reasonSignType
		}
	}
	if len(sign) > hex.EncodedLen(len(d.bytes)) {
		return d, reasonSignature
	}
	size, err := hex.Decode(d.bytes[:], sign)
	switch {
	case err != nil:
		return d, reasonSignature
	case size == md5.Size && d.kind != digestSHA256:
		d.kind = digestMD5
	case size == sha256.Size && d.kind != digestMD5:
		d.kind = digestSHA256
	default:
		return d, reasonSignature
	}
	if d.kind&accept == 0 {
		return d, reasonDigest
	}
	return d, ""
}

// verifies reports whether the digest is that of signed with any one of the keys behind it; an empty key never verifies.
// It returns signed with the capacity that this took, in which no key is left.
func (d *digest) verifies(signed []byte, keys [][]byte) (grown []byte, ok bool) {
	longest := 0
	for _, key := range keys {
		longest = max(longest, len(key))
	}
	signed = slices.Grow(signed, longest)
	valid := 0
	for _, key := range keys {
		if len(key) == 0 {
			continue
		}
		keyed := append(signed, key...)
		if d.kind == digestMD5 {
			sum := md5.Sum(keyed)
			valid |= subtle.ConstantTimeCompare(sum[:], d.bytes[:md5.Size])
		} else {
			sum := sha256.Sum256(keyed)
			valid |= subtle.ConstantTimeCompare(sum[:], d.bytes[:])
		}
	}
	clear(signed[len(signed) : len(signed)+longest])
	return signed, valid == 1
}

// digestOf reads a signType, in any letter case, with or without a hyphen. It returns 0 for an unknown one.
func digestOf(signType []byte) digestSet {
	is := func(name string) bool { return len(signType) == len(name) && strings.EqualFold(string(signType), name) }
	switch {
	case is("sha256"), is("sha-256"):
		return digestSHA256
	case is("md5"), is("md-5"):
		return digestMD5
	}
	return 0
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c - 'A' + 'a'
	}
	return c
}
