// Package natsstore keeps a watch's rows in a key-value bucket of a NATS JetStream, which several gateways share.
package natsstore

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// markerAge is how long the bucket remembers that a row was deleted, for gateways that were away.
const markerAge = 24 * time.Hour

var errAway = errors.New("NATS cannot be reached at the moment")

type store struct {
	config     *Nats
	bucket     string
	connection *natsconn.Conn
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc

	mu sync.Mutex
	kv jetstream.KeyValue // nil until the bucket is known to be there

	brief bool // what tells of a deletion goes by itself; a bucket that an operator made may keep it
}

func open(ctx context.Context, config *Nats, name string, logger *zap.Logger) (watch.Store, error) {
	s := &store{config: config, bucket: "caddy_watch_" + encode(name)}
	var err error
	if s.connection, err = config.Connect("watch", name, logger, nil); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	prepare := func(ctx context.Context) error {
		_, err := s.ready(ctx)
		return err
	}
	if err := s.connection.Start(ctx, "refunds", prepare); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

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
	if err := natsconn.CheckVersion(s.connection.ConnectedServerVersion()); err != nil {
		return nil, err
	}
	kv, err := s.connection.JetStream.KeyValue(ctx, s.bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.connection.JetStream.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: s.bucket, Description: "orders that a payment gateway follows",
			History: 1, Replicas: s.config.Replicas, Storage: jetstream.FileStorage, LimitMarkerTTL: markerAge})
	}
	if err != nil {
		return nil, fmt.Errorf("nats: the bucket %s: %w", s.bucket, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("nats: the bucket %s: %w", s.bucket, err)
	}
	if age := status.TTL(); age != 0 {
		return nil, natsconn.Unfitf("nats: the bucket %s forgets after %s what was sent, so that it could be sent again: set its ttl to 0", s.bucket, age)
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
	s.connection.Heard(s.ctx, err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted):
		return watch.ErrNotFound
	case natsconn.IsConflict(err):
		return watch.ErrConflict
	case errors.Is(err, nats.ErrConnectionClosed) || s.connection.IsClosed():
		return watch.ErrClosed
	}
	return s.config.Redacted(err)
}

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
