// Package natsstore keeps a watch's rows in a key-value bucket of a NATS JetStream, which several gateways share.
package natsstore

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// requestTimeout is how long one question to the servers may take.
const requestTimeout = 2 * time.Second

// markerAge is how long the bucket remembers that a row was deleted, for gateways that were away.
const markerAge = 24 * time.Hour

var errAway = errors.New("NATS cannot be reached at the moment")

type store struct {
	config     *Nats
	bucket     string
	logger     *zap.Logger
	connection *nats.Conn
	js         jetstream.JetStream
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc

	mu sync.Mutex
	kv jetstream.KeyValue // nil until the bucket is known to be there

	brief bool // what tells of a deletion goes by itself; a bucket that an operator made may keep it
}

func open(ctx context.Context, config *Nats, name string, logger *zap.Logger) (*store, error) {
	s := &store{config: config, bucket: "caddy_watch_" + encode(name), logger: logger}
	if err := s.connect(name); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		_, err := s.ready(ctx)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, errUnfit):
			return nil, errors.Join(err, s.Close())
		case ctx.Err() != nil:
			logger.Warn("watch not ready: NATS JetStream is not reachable; refunds are answered 503 until it is", zap.String("error", config.redact(err)))
			return s, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (s *store) connect(name string) error {
	settings := nats.GetDefaultOptions()
	settings.Servers = s.config.servers // one by one: a comma of a password would end one
	options := []nats.Option{
		nats.Name("caddy watch " + name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now has failed
		nats.PingInterval(10 * time.Second), nats.Timeout(requestTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.logger.Warn("watch disconnected from NATS", zap.String("error", s.config.redact(err)))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { s.logger.Info("watch connected to NATS again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.logger.Warn("NATS reports an error", zap.String("error", s.config.redact(err)))
		}),
	}
	if s.config.Creds != "" {
		options = append(options, nats.UserCredentials(s.config.Creds))
	}
	if s.config.CA != "" {
		options = append(options, nats.RootCAs(s.config.CA))
	}
	if s.config.CertFile != "" {
		options = append(options, nats.ClientCert(s.config.CertFile, s.config.KeyFile))
	}
	var err error
	for _, option := range options {
		err = errors.Join(err, option(&settings))
	}
	if err == nil {
		s.connection, err = settings.Connect()
	}
	if err == nil {
		s.js, err = jetstream.New(s.connection, jetstream.WithDefaultTimeout(requestTimeout))
	}
	if err != nil {
		return fmt.Errorf("nats: cannot connect: %s", s.config.redact(err))
	}
	return nil
}

// errUnfit does not pass by itself.
var errUnfit = errors.New("nats: the server must be 2.11 or later")

// ready returns the bucket, and makes it where it is not there.
func (s *store) ready(ctx context.Context) (jetstream.KeyValue, error) {
	if s.connection.IsClosed() {
		return nil, watch.ErrClosed
	}
	if !s.connection.IsConnected() {
		return nil, errAway // at once: a call waits
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kv != nil {
		return s.kv, nil
	}
	var major, minor int
	version := s.connection.ConnectedServerVersion()
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil || major < 2 || major == 2 && minor < 11 {
		return nil, fmt.Errorf("%w, not %q", errUnfit, version)
	}
	kv, err := s.js.KeyValue(ctx, s.bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: s.bucket, Description: "orders that a payment gateway follows",
			History: 1, Replicas: s.config.Replicas, Storage: jetstream.FileStorage, LimitMarkerTTL: markerAge})
	}
	if err != nil {
		return nil, fmt.Errorf("nats: the bucket %s: %w", s.bucket, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("nats: the bucket %s: %w", s.bucket, err)
	}
	s.kv, s.brief = kv, status.LimitMarkerTTL() > 0
	return kv, nil
}

// encode makes a key, or a name, of any text.
func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func decode(key string) (string, error) {
	text, err := base64.RawURLEncoding.DecodeString(key)
	return string(text), err
}

func (s *store) Shared() bool { return true }

func (s *store) Get(ctx context.Context, key string) (watch.Entry, error) {
	kv, err := s.ready(ctx)
	if err != nil {
		return watch.Entry{}, err
	}
	e, err := kv.Get(ctx, encode(key))
	if err != nil {
		return watch.Entry{}, s.explain(err)
	}
	return watch.Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

func (s *store) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	kv, err := s.ready(ctx)
	if err != nil {
		return 0, err
	}
	var is uint64
	if revision == 0 {
		is, err = kv.Create(ctx, encode(key), value) // also where it was deleted
	} else {
		is, err = kv.Update(ctx, encode(key), value, revision)
	}
	return is, s.explain(err)
}

func (s *store) Delete(ctx context.Context, key string, revision uint64) error {
	kv, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if revision == 0 {
		return watch.ErrConflict
	}
	if s.brief {
		return s.explain(kv.Purge(ctx, encode(key), jetstream.LastRevision(revision), jetstream.PurgeTTL(markerAge)))
	}
	return s.explain(kv.Delete(ctx, encode(key), jetstream.LastRevision(revision)))
}

// explain turns what JetStream says into the errors of a watch.Store.
func (s *store) explain(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted):
		return watch.ErrNotFound
	case errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == wrongLastSequenceConstant):
		return watch.ErrConflict
	case errors.Is(err, nats.ErrConnectionClosed) || s.connection.IsClosed():
		return watch.ErrClosed
	}
	return errors.New(s.config.redact(err))
}

// wrongLastSequenceConstant is what replicated streams answer.
const wrongLastSequenceConstant = 10164

func (s *store) All(ctx context.Context, each func(watch.Entry) error) error {
	return s.watch(ctx, func(e watch.Entry, current bool) (bool, error) {
		if !current {
			return false, nil
		}
		if len(e.Value) == 0 {
			return true, nil
		}
		return true, each(e)
	})
}

// watch reports what there is, then what changes, until each says that it has enough or ends with an error. What was there at
// the beginning is current, and its end is an entry that is not.
func (s *store) watch(ctx context.Context, each func(e watch.Entry, current bool) (bool, error), options ...jetstream.WatchOpt) error {
	kv, err := s.ready(ctx)
	if err != nil {
		return err
	}
	watcher, err := kv.WatchAll(ctx, options...)
	if err != nil {
		return s.explain(err)
	}
	defer func() { _ = watcher.Stop() }()
	current := true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return watch.ErrClosed
		case <-time.After(time.Minute):
			if current {
				return errAway
			}
		case update, ok := <-watcher.Updates():
			if !ok {
				return errAway
			}
			var e watch.Entry
			if update == nil {
				current = false
			} else {
				key, err := decode(update.Key())
				if err != nil {
					continue // somebody else's
				}
				e = watch.Entry{Key: key, Value: update.Value(), Revision: update.Revision()}
				if update.Operation() != jetstream.KeyValuePut {
					e.Value = nil
				}
			}
			if more, err := each(e, current); err != nil || !more {
				return err
			}
		}
	}
}

func (s *store) Changes(ctx context.Context, each func(watch.Entry)) error {
	begun := make(chan error, 1)
	go func() {
		for {
			// The values that are there come first: whatever was missed while the servers were away is among them.
			err := s.watch(ctx, func(e watch.Entry, _ bool) (bool, error) {
				if e.Key != "" {
					each(e)
				} else {
					signal(begun, nil)
				}
				return true, nil
			})
			signal(begun, err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			case <-s.ctx.Done():
				return
			}
		}
	}()
	select {
	case err := <-begun:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func signal(to chan<- error, err error) {
	select {
	case to <- err:
	default:
	}
}

func (s *store) Close() error {
	s.cancel()
	s.connection.Close()
	return nil
}

// redact takes the secrets out of an error's words.
func (n *Nats) redact(err error) string {
	words := err.Error()
	for _, secret := range n.secrets {
		words = strings.ReplaceAll(words, secret, "[redacted]")
	}
	return words
}
