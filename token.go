package chinaums

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/seal"
)

// The access tokens of `auth access_token` (OPEN-ACCESS-TOKEN). One token serves many calls. A call takes it from memory
// with one atomic load; where there is none, one fetch serves all who wait. The fetch looks into Caddy's storage first,
// so that the servers of a fleet share one token, and asks the platform under the storage's lock. Without a token there
// is no call.

const (
	tokenPath = "/v1/token/access"
	// defaultTokenLife is what the platform's own SDKs assume where expiresIn is absent.
	defaultTokenLife = 55 * time.Minute
	// longestTokenLife bounds what an answer may claim.
	longestTokenLife = 24 * time.Hour
	// tokenFetchTime bounds one fetch, waiting for the fleet's lock included.
	tokenFetchTime = 20 * time.Second
	// tokenLockTime is how long another server of the fleet may take; then this one asks the platform itself.
	tokenLockTime = 8 * time.Second
	// tokenRetryTime is how long a failed renewal is not tried again while the token still holds.
	tokenRetryTime = 10 * time.Second
	maxTokenAnswer = 64 << 10
	maxTokenLength = 4 << 10
)

// accessToken is a token while it holds. It is never changed.
type accessToken struct {
	header string // the Authorization header's value
	text   string // the token itself
	asked  time.Time
	until  time.Time // as the platform said
	renew  time.Time // from then on a new one is fetched in the background
	end    time.Time // from then on it is not used: a little early, because a call takes time on its way
}

func newAccessToken(appID, text string, asked, until time.Time) *accessToken {
	life := until.Sub(asked)
	end := until.Add(-min(life/10, 10*time.Second))
	return &accessToken{
		header: `OPEN-ACCESS-TOKEN AccessToken="` + text + `", AppId="` + appID + `"`,
		text:   text,
		asked:  asked,
		until:  until,
		renew:  end.Add(-min(life/5, 5*time.Minute)),
		end:    end,
	}
}

// tokenSource holds the token of one app_id at one platform. Generations of the configuration share it.
type tokenSource struct {
	current atomic.Pointer[accessToken]
	// renewing is set while a fetch in the background runs; retry is when the next may, in Unix nanoseconds.
	renewing atomic.Bool
	retry    atomic.Int64

	mu      sync.Mutex
	fetch   *tokenFetch // the one that runs
	dropped string      // the token that the platform refused last: the storage may still hold it
}

// tokenFetch is one fetch, for all who wait for it.
type tokenFetch struct {
	done  chan struct{}
	token *accessToken
	err   error
}

// tokenSources are shared between generations of the configuration.
var tokenSources = caddy.NewUsagePool()

// Destruct implements caddy.Destructor: the last configuration that used it is gone, and the token with it.
func (s *tokenSource) Destruct() error {
	s.current.Store(nil)
	return nil
}

// get returns a token that holds at now. fetch gets a new one, other than dropped; it runs at most once at a time, and
// to its end even if ctx ends first.
func (s *tokenSource) get(ctx context.Context, now time.Time, fetch func(ctx context.Context, dropped string) (*accessToken, error)) (*accessToken, error) {
	token := s.current.Load()
	if token != nil && now.Before(token.end) {
		if !now.Before(token.renew) && now.UnixNano() >= s.retry.Load() && s.renewing.CompareAndSwap(false, true) {
			go func() {
				defer s.renewing.Store(false)
				if _, err := s.refresh(context.Background(), token, fetch); err != nil {
					s.retry.Store(now.Add(tokenRetryTime).UnixNano())
				}
			}()
		}
		return token, nil
	}
	return s.refresh(ctx, token, fetch)
}

// refresh starts a fetch, or waits for the one that runs. old is the token that is to be replaced.
func (s *tokenSource) refresh(ctx context.Context, old *accessToken, fetch func(context.Context, string) (*accessToken, error)) (*accessToken, error) {
	s.mu.Lock()
	if token := s.current.Load(); token != nil && token != old {
		s.mu.Unlock()
		return token, nil // somebody was faster
	}
	running := s.fetch
	if running == nil {
		running = &tokenFetch{done: make(chan struct{})}
		s.fetch = running
		dropped := s.dropped
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), tokenFetchTime)
			defer cancel()
			running.token, running.err = fetch(ctx, dropped)
			s.mu.Lock()
			if running.err == nil {
				s.current.Store(running.token)
			}
			s.fetch = nil
			s.mu.Unlock()
			close(running.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-running.done:
		return running.token, running.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for an access token: %w", ctx.Err())
	}
}

// drop forgets a token that the platform has refused.
func (s *tokenSource) drop(token *accessToken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.CompareAndSwap(token, nil) {
		s.dropped = token.text
	}
}

// tokens is what one transport needs to get tokens for one merchant.
type tokens struct {
	source   *tokenSource
	poolKey  string
	merchant *merchant
	sender   *outbound.Sender
	slot     *seal.Slot
	logger   *zap.Logger
	warnings *ratelog.Limiter
	now      func() time.Time
	fetched  func(context.Context, string) (*accessToken, error)
}

func newTokens(m *merchant, sender *outbound.Sender, storage seal.Storage, logger *zap.Logger, now func() time.Time) (*tokens, error) {
	box, err := seal.New(string(m.signer.appKey), "chinaums access token")
	if err != nil {
		return nil, err
	}
	identity := sha256.Sum256([]byte(m.signer.appID + "\n" + m.endpoint.Scheme + "\n" + m.endpoint.Dial))
	name := hex.EncodeToString(identity[:16])
	t := &tokens{
		merchant: m, sender: sender, logger: logger, warnings: ratelog.New(2), now: now,
		slot: &seal.Slot{Storage: storage, Key: "chinaums/tokens/" + name, Box: box},
	}
	// A changed app_key is another identity: what the old one was given must not serve the new one.
	keyed := sha256.Sum256(append([]byte(name+"\n"), m.signer.appKey...))
	t.poolKey = hex.EncodeToString(keyed[:])
	source, _, err := tokenSources.LoadOrNew(t.poolKey, func() (caddy.Destructor, error) { return new(tokenSource), nil })
	if err != nil {
		return nil, err
	}
	t.source = source.(*tokenSource)
	t.fetched = t.fetch
	return t, nil
}

func (t *tokens) release() error {
	_, err := tokenSources.Delete(t.poolKey)
	return err
}

// get returns the token for a call.
func (t *tokens) get(ctx context.Context) (*accessToken, error) {
	now := t.now()
	if token := t.source.current.Load(); token != nil && now.Before(token.renew) {
		return token, nil // the hot path
	}
	token, err := t.source.get(ctx, now, t.fetched)
	if err == nil && !t.now().Before(token.end) {
		return nil, errors.New("the access token's time was over before it could be used")
	}
	return token, err
}

// fetch takes the token that the fleet shares, or asks the platform for a new one and shares it. A storage that fails
// costs the sharing, not the call.
func (t *tokens) fetch(ctx context.Context, dropped string) (token *accessToken, err error) {
	defer func() {
		if v := recover(); v != nil {
			token, err = nil, fmt.Errorf("panic while fetching an access token: %T", v)
		}
		if err != nil {
			t.warn("no access token", err)
		}
	}()
	old := t.source.current.Load()
	shared, usable := t.shared(ctx, old, dropped)
	switch {
	case shared != nil:
		return shared, nil
	case !usable:
		return t.ask(ctx)
	}
	lockCtx, cancel := context.WithTimeout(ctx, tokenLockTime)
	defer cancel()
	var asked bool
	lockErr := t.slot.Locked(lockCtx, func() error {
		shared, usable := t.shared(ctx, old, dropped)
		if shared != nil {
			token, asked = shared, true
			return nil
		}
		token, err = t.ask(ctx)
		asked = true
		if err == nil && usable {
			t.share(ctx, token)
		}
		return nil
	})
	if lockErr != nil {
		t.warn("the access token's lock in the storage cannot be had; this server fetches one for itself", lockErr)
	}
	if !asked {
		return t.ask(ctx)
	}
	return token, err
}

// sharedToken is what is sealed in the storage.
type sharedToken struct {
	Token string    `json:"token"`
	Asked time.Time `json:"asked"`
	End   time.Time `json:"end"`
}

// shared returns the fleet's token, if there is one that is better than old; usable tells whether the storage works.
func (t *tokens) shared(ctx context.Context, old *accessToken, dropped string) (token *accessToken, usable bool) {
	value, err := t.slot.Load(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, seal.ErrCannotOpen):
		return nil, true // the first, or sealed with an earlier app_key
	case err != nil:
		t.warn("the shared access token cannot be loaded; this server fetches one for itself", err)
		return nil, false
	}
	var stored sharedToken
	if json.Unmarshal(value, &stored) != nil || checkToken(stored.Token) != nil || stored.Token == dropped {
		return nil, true
	}
	token = newAccessToken(t.merchant.signer.appID, stored.Token, stored.Asked, stored.End)
	now := t.now()
	// One that is due for renewal is no gain, nor is one whose times make no sense.
	if old != nil && old.text == token.text || !now.Before(token.renew) || stored.Asked.After(now.Add(time.Minute)) || stored.End.Sub(stored.Asked) > longestTokenLife {
		return nil, true
	}
	return token, true
}

// share stores a token for the fleet.
func (t *tokens) share(ctx context.Context, token *accessToken) {
	value, err := json.Marshal(sharedToken{Token: token.text, Asked: token.asked.Round(0), End: token.until.Round(0)})
	if err == nil {
		err = t.slot.Save(ctx, value)
	}
	if err != nil {
		t.warn("the access token cannot be stored; this server uses it for itself", err)
	}
}

// ask asks the platform for a token. No error of it holds what the platform said but its error code.
func (t *tokens) ask(ctx context.Context) (*accessToken, error) {
	asked := t.now()
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

func readTokenAnswer(appID string, answer []byte, asked time.Time) (*accessToken, error) {
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
		life = longestTokenLife
		if seconds < longestTokenLife.Seconds() {
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

func (t *tokens) warn(message string, err error) {
	if suppressed, ok := t.warnings.Allow(message); ok {
		t.logger.Warn(message, zap.String("merchant", t.merchant.name), zap.Error(err), zap.Int("suppressed", suppressed))
	}
}

// tokenSigner authorizes one call with an access token, and learns whether the platform took it.
type tokenSigner struct {
	*signing
	tokens *tokens
	used   *accessToken
}

// Authorize implements outbound.Signer.
func (s *tokenSigner) Authorize(ctx context.Context, _ outbound.Account, _ []byte) (string, error) {
	if s.tokens == nil {
		return "", errors.New("the merchant has no access token")
	}
	var err error
	if s.used, err = s.tokens.get(ctx); err != nil {
		return "", err
	}
	return s.used.header, nil
}

// Answered implements outbound.Listener.
func (s *tokenSigner) Answered(account outbound.Account, answer *http.Response, errCode string, received time.Time) {
	if answer.StatusCode == http.StatusUnauthorized && s.used != nil {
		s.tokens.source.drop(s.used)
	}
	s.signing.Answered(account, answer, errCode, received)
}

// Interface guards
var (
	_ caddy.Destructor  = (*tokenSource)(nil)
	_ outbound.Signer   = (*tokenSigner)(nil)
	_ outbound.Listener = (*tokenSigner)(nil)
)
