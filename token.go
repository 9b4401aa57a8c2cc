package chinaums

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/seal"
	"github.com/caddy-chinaums/caddy-chinaums/internal/token"
)

// The access tokens of `auth access_token` (OPEN-ACCESS-TOKEN). Package token keeps them; here they are asked for. Without
// a token there is no call.

const (
	tokenPath = "/v1/token/access"
	// defaultTokenLife is what the platform's own SDKs assume where expiresIn is absent.
	defaultTokenLife = 55 * time.Minute
	maxTokenAnswer   = 64 << 10
	maxTokenLength   = 4 << 10
)

// tokenSources are shared between generations of the configuration: one for each app_id at a platform.
var tokenSources = caddy.NewUsagePool()

// tokens is what one transport needs to get tokens for one merchant.
type tokens struct {
	token.Fleet
	poolKey  string
	merchant *merchant
	sender   *outbound.Sender
}

func newTokens(m *merchant, sender *outbound.Sender, storage seal.Storage, logger *zap.Logger, now func() time.Time) (*tokens, error) {
	box, err := seal.New(string(m.signer.appKey), "chinaums access token")
	if err != nil {
		return nil, err
	}
	identity := sha256.Sum256([]byte(m.signer.appID + "\n" + m.endpoint.Scheme + "\n" + m.endpoint.Dial))
	name := hex.EncodeToString(identity[:16])
	// A changed app_key is another identity: what the old one was given must not serve the new one.
	keyed := sha256.Sum256(append([]byte(name+"\n"), m.signer.appKey...))
	t := &tokens{merchant: m, sender: sender, poolKey: hex.EncodeToString(keyed[:])}
	source, _, err := tokenSources.LoadOrNew(t.poolKey, func() (caddy.Destructor, error) { return new(token.Source), nil })
	if err != nil {
		return nil, err
	}
	t.Fleet = token.Fleet{
		Source: source.(*token.Source), Slot: &seal.Slot{Storage: storage, Key: "chinaums/tokens/" + name, Box: box},
		Ask: t.ask, Now: now, Logger: logger.With(zap.String("merchant", m.name)), Warnings: ratelog.New(2),
		Restore: func(text string, asked, until time.Time) (*token.Token, bool) {
			return newAccessToken(m.signer.appID, text, asked, until), checkToken(text) == nil
		},
	}
	return t, nil
}

func newAccessToken(appID, text string, asked, until time.Time) *token.Token {
	return token.New(`OPEN-ACCESS-TOKEN AccessToken="`+text+`", AppId="`+appID+`"`, text, asked, until)
}

func (t *tokens) release() error {
	_, err := tokenSources.Delete(t.poolKey)
	return err
}

// ask asks the platform for a token. No error of it holds what the platform said but its error code.
func (t *tokens) ask(ctx context.Context) (*token.Token, error) {
	asked := t.Now()
	content := t.merchant.signer.tokenRequest(asked, newNonce())
	// Unlike a payment, this may be asked twice: a connection that was kept too long must not cost the call.
	res, answer, _, err := t.sender.Ask(ctx, t.merchant.endpoint, &outbound.Question{Path: tokenPath, Content: content, MaxAnswer: maxTokenAnswer, Again: true})
	if err != nil {
		return nil, fmt.Errorf("asking for an access token: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for an access token: the platform answered with status %d", res.StatusCode)
	}
	return readTokenAnswer(t.merchant.signer.appID, answer, asked)
}

func readTokenAnswer(appID string, answer []byte, asked time.Time) (*token.Token, error) {
	var said struct {
		ErrCode     string          `json:"errCode"`
		AccessToken string          `json:"accessToken"`
		ExpiresIn   json.RawMessage `json:"expiresIn"`
	}
	if json.Unmarshal(answer, &said) != nil {
		return nil, errors.New("the answer to the token request is not the JSON object that it should be")
	}
	if said.ErrCode != "0000" {
		return nil, fmt.Errorf("the platform gives no access token: errCode %s", errCode(answer))
	}
	if err := checkToken(said.AccessToken); err != nil {
		return nil, err
	}
	life := defaultTokenLife
	if text := string(bytes.Trim(said.ExpiresIn, `"`)); text != "" && text != "null" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || !(seconds > 0) {
			return nil, errors.New("the access token's expiresIn is not a positive number of seconds")
		}
		life = token.LongestLife
		if seconds < token.LongestLife.Seconds() {
			life = time.Duration(seconds * float64(time.Second))
		}
	}
	return newAccessToken(appID, said.AccessToken, asked, asked.Add(life)), nil
}

// checkToken refuses what cannot stand in the header.
func checkToken(text string) error {
	if text == "" || len(text) > maxTokenLength {
		return errors.New("the answer to the token request has no usable accessToken")
	}
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return errors.New("the accessToken holds a character that cannot stand in a header")
		}
	}
	return nil
}

// tokenSigner authorizes one call with an access token, and learns whether the platform took it.
type tokenSigner struct {
	*signing
	tokens *tokens
	used   *token.Token
}

// Authorize implements outbound.Signer.
func (s *tokenSigner) Authorize(ctx context.Context, _ outbound.Account, _ []byte) (string, error) {
	if s.tokens == nil {
		return "", errors.New("the merchant has no access token")
	}
	var err error
	if s.used, err = s.tokens.Get(ctx); err != nil {
		return "", err
	}
	return s.used.Header, nil
}

// Answered implements outbound.Listener.
func (s *tokenSigner) Answered(account outbound.Account, answer *http.Response, errCode string, received time.Time) {
	if answer.StatusCode == http.StatusUnauthorized && s.used != nil {
		s.tokens.Source.Drop(s.used)
	}
	s.signing.Answered(account, answer, errCode, received)
}

// Interface guards
var (
	_ outbound.Signer   = (*tokenSigner)(nil)
	_ outbound.Listener = (*tokenSigner)(nil)
)
