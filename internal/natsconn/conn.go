package natsconn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

// RequestTimeout is how long one question to a server takes at most, before it has failed or is asked again.
const RequestTimeout = 2 * time.Second

// openTimeout is how long Start waits for servers that are not there yet.
const openTimeout = 5 * time.Second

// minimum is the oldest server that will do: it has per-message TTLs, and compares expected sequences for subjects with wildcards.
var minimum = [2]int{2, 11}

// unfit is an error that does not pass by itself.
type unfit struct{ error }

func (u unfit) Unwrap() error { return u.error }

// Unfitf is an error that does not pass by itself.
func Unfitf(format string, args ...any) error { return unfit{fmt.Errorf(format, args...)} }

// IsUnfit reports whether an error does not pass by itself.
func IsUnfit(err error) bool {
	_, permanent := errors.AsType[unfit](err)
	return permanent
}

// CheckVersion refuses an old server.
func CheckVersion(version string) error {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	if err != nil || major < minimum[0] || major == minimum[0] && minor < minimum[1] {
		return Unfitf("nats: the server's version is %.32q; %d.%d or later is needed: update the servers, or use a bolt store", version, minimum[0], minimum[1])
	}
	return nil
}

// IsConflict reports whether something was not stored because the expected last message of its subject is another one.
func IsConflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Conn is a store's connection, which comes again by itself whenever it breaks.
type Conn struct {
	*nats.Conn
	JetStream jetstream.JetStream

	options   *Options
	of        string // whose it is, in the log
	logger    *zap.Logger
	connected func()
	silent    atomic.Int32 // questions in a row that the server has not answered
	asking    atomic.Bool  // whether it is being looked up if the server answers at all
}

// Connect connects, or goes on trying in the background. `of` says whose connection it is, such as "inbox", for the log. After
// each new connection, connected is called.
func (o *Options) Connect(of, name string, logger *zap.Logger, connected func()) (*Conn, error) {
	c := &Conn{options: o, of: of, logger: logger, connected: connected}
	reports := ratelog.New(10) // a permission that is missing causes one with each message
	settings := nats.GetDefaultOptions()
	settings.Servers = o.servers // one by one: nats.Connect takes them in one text, and a comma of a password would end one
	options := []nats.Option{
		nats.Name("caddy " + of + " " + name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // credentials may be mended on the server's side
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now has failed: it must not be sent behind the caller's back later
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(RequestTimeout),
		nats.DisconnectErrHandler(func(connection *nats.Conn, err error) {
			if err != nil && !connection.IsClosed() {
				logger.Warn(of+" disconnected from NATS", o.Error(err))
			}
		}),
		nats.ConnectHandler(func(connection *nats.Conn) { c.greet(connection, of+" connected to NATS") }),
		nats.ReconnectHandler(func(connection *nats.Conn) { c.greet(connection, of+" connected to NATS again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if suppressed, ok := reports.Allow("error"); ok {
				logger.Warn("NATS reports an error", o.Error(err), zap.Int("suppressed", suppressed))
			}
		}),
	}
	for _, file := range []struct {
		path   string
		option nats.Option
	}{{o.Creds, nats.UserCredentials(o.Creds)}, {o.CA, nats.RootCAs(o.CA)}, {o.CertFile, nats.ClientCert(o.CertFile, o.KeyFile)}, {o.KeyFile, nil}} {
		if file.path == "" {
			continue
		}
		if _, err := os.Stat(file.path); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		if file.option != nil {
			options = append(options, file.option)
		}
	}
	for _, option := range options {
		if err := option(&settings); err != nil {
			return nil, fmt.Errorf("nats: cannot connect: %s", o.Redact(err))
		}
	}
	var err error
	if c.Conn, err = settings.Connect(); err != nil {
		return nil, fmt.Errorf("nats: cannot connect: %s", o.Redact(err))
	}
	if c.JetStream, err = jetstream.New(c.Conn, jetstream.WithDefaultTimeout(RequestTimeout)); err != nil {
		c.Close()
		return nil, fmt.Errorf("nats: %s", o.Redact(err))
	}
	return c, nil
}

// greet is called with each new connection.
func (c *Conn) greet(connection *nats.Conn, words string) {
	c.silent.Store(0)
	c.logger.Info(words, zap.String("server", address(connection.ConnectedUrl())), zap.String("version", connection.ConnectedServerVersion()))
	if c.connected != nil {
		c.connected()
	}
}

// Start calls prepare until it succeeds, for a while. What has failed then is to go on in the background, and the log says what is
// answered 503 until it succeeds; the error is returned only where it does not pass by itself.
func (c *Conn) Start(ctx context.Context, what string, prepare func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	tries := time.NewTicker(100 * time.Millisecond)
	defer tries.Stop()
	for {
		err := prepare(ctx)
		if err == nil || IsUnfit(err) {
			return err
		}
		select {
		case <-tries.C:
			continue
		case <-ctx.Done():
		}
		if last := c.LastError(); !c.IsConnected() && last != nil {
			if refused(last) {
				return fmt.Errorf("nats: the servers refuse the connection: %s", c.options.Redact(last))
			}
			err = last
		}
		c.logger.Warn(c.of+" not ready: NATS JetStream is not reachable; "+what+" are answered 503 until it is",
			zap.Strings("servers", c.options.hosts()), c.options.Error(err))
		return nil
	}
}

// refused reports whether a server was reached, and did not accept the credentials.
func refused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// Heard is to be told what became of each question to the server, with the context of who asked. A server that has hung closes no
// connection: after two questions in vain it is asked for a sign of life, and if there is none, another server is taken.
func (c *Conn) Heard(ctx context.Context, err error) {
	if errors.Is(err, context.Canceled) {
		return // who asked gave up: that says nothing of the server
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoHeartbeat) {
		c.silent.Store(0)
		return
	}
	if ctx.Err() != nil || c.silent.Add(1) < 2 || !c.asking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer c.asking.Store(false)
		c.silent.Store(0)
		if !c.IsConnected() || c.FlushTimeout(RequestTimeout/2) == nil {
			return // it lives; perhaps another one leads, and does not
		}
		c.logger.Warn("the NATS server does not answer; the "+c.of+" takes another", zap.String("server", address(c.ConnectedUrl())))
		if err := c.ForceReconnect(); err != nil && !c.IsClosed() {
			c.logger.Warn(c.of+" cannot reconnect to NATS", c.options.Error(err))
		}
	}()
}
