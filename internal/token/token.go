// Package token keeps the access tokens that calls are authorized with. One token serves many calls. A call takes it from
// memory with one atomic load; where there is none, one fetch serves all who wait. The fetch looks into Caddy's storage
// first, so that the servers of a fleet share one token, and asks the platform under the storage's lock. It knows no
// platform.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/seal"
)

const (
	// LongestLife bounds what an answer may claim.
	LongestLife = 24 * time.Hour
	// RetryTime is how long a failed renewal is not tried again while the token still holds.
	RetryTime = 10 * time.Second
	// fetchTime bounds one fetch, waiting for the fleet's lock included.
	fetchTime = 20 * time.Second
	// lockTime is how long another server of the fleet may take; then this one asks the platform itself.
	lockTime = 8 * time.Second
)

// Token is an access token while it holds. It is never changed.
type Token struct {
	Header string    // the Authorization header's value
	Text   string    // the token itself
	Asked  time.Time // when the platform was asked for it
	Until  time.Time // when it ends, as the platform said
	Renew  time.Time // from then on a new one is fetched in the background
	End    time.Time // from then on it is not used: a little early, because a call takes time on its way
}

// New returns a token that was asked for at one time and holds until another.
func New(header, text string, asked, until time.Time) *Token {
	life := until.Sub(asked)
	end := until.Add(-min(life/10, 10*time.Second))
	return &Token{Header: header, Text: text, Asked: asked, Until: until, Renew: end.Add(-min(life/5, 5*time.Minute)), End: end}
}

// Source holds the token of one account. Generations of the configuration share it.
type Source struct {
	current atomic.Pointer[Token]
	// renewing is set while a fetch in the background runs; retry is when the next may, in Unix nanoseconds.
	renewing atomic.Bool
	retry    atomic.Int64

	mu      sync.Mutex
	fetch   *fetching // the one that runs
	dropped string    // the token that the platform refused last: the storage may still hold it
}

// fetching is one fetch, for all who wait for it.
type fetching struct {
	done  chan struct{}
	token *Token
	err   error
}

// Destruct implements caddy.Destructor: the last configuration that used it is gone, and the token with it.
func (s *Source) Destruct() error {
	s.current.Store(nil)
	return nil
}

// get returns a token that holds at now. fetch gets a new one, other than dropped; it runs at most once at a time, and
// to its end even if ctx ends first.
func (s *Source) get(ctx context.Context, now time.Time, fetch func(ctx context.Context, dropped string) (*Token, error)) (*Token, error) {
	token := s.current.Load()
	if token != nil && now.Before(token.End) {
		if !now.Before(token.Renew) && now.UnixNano() >= s.retry.Load() && s.renewing.CompareAndSwap(false, true) {
			go func() {
				defer s.renewing.Store(false)
				if _, err := s.refresh(context.Background(), token, fetch); err != nil {
					s.retry.Store(now.Add(RetryTime).UnixNano())
				}
			}()
		}
		return token, nil
	}
	return s.refresh(ctx, token, fetch)
}

// refresh starts a fetch, or waits for the one that runs. old is the token that is to be replaced.
func (s *Source) refresh(ctx context.Context, old *Token, fetch func(context.Context, string) (*Token, error)) (*Token, error) {
	s.mu.Lock()
	if token := s.current.Load(); token != nil && token != old {
		s.mu.Unlock()
		return token, nil // somebody was faster
	}
	running := s.fetch
	if running == nil {
		running = &fetching{done: make(chan struct{})}
		s.fetch = running
		dropped := s.dropped
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
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

// Current returns the token that there is, or nil.
func (s *Source) Current() *Token { return s.current.Load() }

// Renewing reports whether a new token is being fetched in the background.
func (s *Source) Renewing() bool { return s.renewing.Load() }

// Drop forgets a token that the platform has refused.
func (s *Source) Drop(token *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.CompareAndSwap(token, nil) {
		s.dropped = token.Text
	}
}

// Fleet gets the tokens of one account for the servers of a fleet.
type Fleet struct {
	// Source holds the token in this process.
	Source *Source
	// Slot is where the fleet shares it.
	Slot *seal.Slot
	// Ask asks the platform for a token.
	Ask func(context.Context) (*Token, error)
	// Restore makes a token of what is stored. It reports false where a text is no token.
	Restore func(text string, asked, until time.Time) (*Token, bool)
	// Now is the clock.
	Now func() time.Time
	// Logger and Warnings log what fails, and bound how often. The logger names the account.
	Logger   *zap.Logger
	Warnings *ratelog.Limiter
}

// Get returns the token for a call.
func (f *Fleet) Get(ctx context.Context) (*Token, error) {
	now := f.Now()
	if token := f.Source.current.Load(); token != nil && now.Before(token.Renew) {
		return token, nil // the hot path
	}
	token, err := f.Source.get(ctx, now, f.fetch)
	if err == nil && !f.Now().Before(token.End) {
		return nil, errors.New("the access token's time was over before it could be used")
	}
	return token, err
}

// fetch takes the token that the fleet shares, or asks the platform for a new one and shares it. A storage that fails
// costs the sharing, not the call.
func (f *Fleet) fetch(ctx context.Context, dropped string) (token *Token, err error) {
	defer func() {
		if v := recover(); v != nil {
			token, err = nil, fmt.Errorf("panic while fetching an access token: %T", v)
		}
		if err != nil {
			f.warn("no access token", err)
		}
	}()
	old := f.Source.current.Load()
	shared, usable := f.shared(ctx, old, dropped)
	switch {
	case shared != nil:
		return shared, nil
	case !usable:
		return f.Ask(ctx)
	}
	lockCtx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	var asked bool
	lockErr := f.Slot.Locked(lockCtx, func() error {
		shared, usable := f.shared(ctx, old, dropped)
		if shared != nil {
			token, asked = shared, true
			return nil
		}
		token, err = f.Ask(ctx)
		asked = true
		if err == nil && usable {
			f.share(ctx, token)
		}
		return nil
	})
	if lockErr != nil {
		f.warn("the access token's lock in the storage cannot be had; this server fetches one for itself", lockErr)
	}
	if !asked {
		return f.Ask(ctx)
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
func (f *Fleet) shared(ctx context.Context, old *Token, dropped string) (token *Token, usable bool) {
	value, err := f.Slot.Load(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, seal.ErrCannotOpen):
		return nil, true // the first, or sealed with an earlier app_key
	case err != nil:
		f.warn("the shared access token cannot be loaded; this server fetches one for itself", err)
		return nil, false
	}
	var stored sharedToken
	if json.Unmarshal(value, &stored) != nil || stored.Token == dropped {
		return nil, true
	}
	token, ok := f.Restore(stored.Token, stored.Asked, stored.End)
	if !ok {
		return nil, true
	}
	now := f.Now()
	// One that is due for renewal is no gain, nor is one whose times make no sense.
	if old != nil && old.Text == token.Text || !now.Before(token.Renew) || stored.Asked.After(now.Add(time.Minute)) || stored.End.Sub(stored.Asked) > LongestLife {
		return nil, true
	}
	return token, true
}

// share stores a token for the fleet.
func (f *Fleet) share(ctx context.Context, token *Token) {
	value, err := json.Marshal(sharedToken{Token: token.Text, Asked: token.Asked.Round(0), End: token.Until.Round(0)})
	if err == nil {
		err = f.Slot.Save(ctx, value)
	}
	if err != nil {
		f.warn("the access token cannot be stored; this server uses it for itself", err)
	}
}

func (f *Fleet) warn(message string, err error) {
	if suppressed, ok := f.Warnings.Allow(message); ok {
		f.Logger.Warn(message, zap.Error(err), zap.Int("suppressed", suppressed))
	}
}

// Interface guard
var _ caddy.Destructor = (*Source)(nil)
