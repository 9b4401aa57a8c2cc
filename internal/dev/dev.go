// Package dev runs all that a merchant's developer needs in one terminal, for the command `caddy chinaums dev`: the
// sandbox that plays the platform, the gateway, and the app's PHP where that is wanted. It tells what happens, one line
// each. It knows the gateway as users do: by the names of directives in a Caddyfile.
package dev

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what the Caddyfile names

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// The platforms.
const (
	ChinaUMS   = "chinaums"
	Shouqianba = "shouqianba"
)

// DefaultPort is the first of the ports: the platform's. The next ones are the gateway's way out, its way in, and the
// pages of an app in PHP.
const DefaultPort = 8900

// host is where everything listens: the platform takes anybody's orders, and the gateway signs for anybody.
const host = "127.0.0.1"

// Options of a run.
type Options struct {
	// Platform is the one that is played: ChinaUMS or Shouqianba.
	Platform string

	// App is where the merchant's app takes events: host:port, or fastcgi://host:port, or fastcgi:///path of a socket.
	// Empty: php-cgi is started if there is one and an index.php in the current directory; otherwise there is no app, and
	// every event is taken.
	App string

	// Port is the first of four, or of five with a watch; see DefaultPort.
	Port int

	// Watch follows orders and refunds, keeps events in an inbox until the app has taken them, and opens the admin API, with the console.
	Watch bool

	// Chinese writes in Chinese instead of in English.
	Chinese bool

	// Out gets what happens. Err gets the warnings of the gateway, the platform and PHP.
	Out, Err io.Writer
}

// run is one run.
type run struct {
	Options
	texts
	platform  played
	app       app
	directory string // for what is on disk meanwhile
	php       *phpCGI
	print     *printer
}

// Run plays platform, gateway and app until ctx ends. An error says why they could not start.
func Run(ctx context.Context, options Options) error {
	if options.Port < 1 || options.Port > 65535-adminSide {
		return fmt.Errorf("--port: %d is not between 1 and %d", options.Port, 65535-adminSide)
	}
	if options.Watch && options.Platform == Shouqianba {
		return fmt.Errorf("--watch plays %s only", ChinaUMS)
	}
	r := &run{Options: options, texts: english}
	if r.Chinese {
		r.texts = chinese
	}
	r.print = &printer{w: r.Out, texts: r.texts}
	var err error
	if r.app, err = readApp(r.App, r.Port); err != nil {
		return err
	}
	if r.platform, err = r.play(); err != nil {
		return err
	}
	defer r.platform.Close()
	parent := ""
	if info, err := os.Stat("/var/tmp"); r.Watch && err == nil && info.IsDir() {
		parent = "/var/tmp" // the inbox needs a disk, and /tmp may be in memory
	}
	if r.directory, err = os.MkdirTemp(parent, "caddy-chinaums-dev-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.directory) }()

	started := false
	err = sandbox.Serve(ctx, r.address(platformSide), r.platform, func(string) error {
		started = true
		return r.start(ctx)
	})
	if err != nil && !started {
		err = taken(r.Port, err)
	}
	return errors.Join(err, r.stop())
}

// The ports, counted from the first.
const (
	platformSide = iota
	wayOut
	wayIn
	pages
	adminSide
)

func (r *run) address(offset int) string { return net.JoinHostPort(host, strconv.Itoa(r.Port+offset)) }

func taken(port int, err error) error {
	return fmt.Errorf("port %d cannot be used: %w; end what uses it, or choose other ports with --port", port, err)
}

// start starts the gateway, and PHP before it.
func (r *run) start(ctx context.Context) error {
	ours := []int{wayOut, wayIn}
	if r.app.php() {
		ours = append(ours, pages)
	}
	if r.Watch {
		ours = append(ours, adminSide)
	}
	for _, offset := range ours { // Caddy would share a port with another Caddy
		listener, err := net.Listen("tcp", r.address(offset))
		if err != nil {
			return taken(r.Port+offset, err)
		}
		_ = listener.Close()
	}
	book := os.Getenv("BOOK")
	if r.app.own {
		if book == "" {
			book = filepath.Join(r.directory, "book.json")
		}
		var err error
		switch r.php, err = startPHP(ctx, r.app.program, r.directory, r.Err); {
		case ctx.Err() != nil:
			return nil // interrupted already
		case err != nil:
			return err
		}
		r.app.address = r.php.address
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	secret, fresh := os.Getenv("APP_SECRET"), false
	if secret == "" {
		secret, fresh = newSecret(), true
	}
	environment := r.platform.environment()
	environment["DEV_UPSTREAM"] = "http://" + r.address(platformSide)
	environment["DEV_ROOT"], environment["BOOK"], environment["APP_SECRET"] = here, book, secret
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME"} { // Caddy's own directories
		environment[name] = r.directory
	}
	for name, value := range environment {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	registerTap()
	current.Store(r.print)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(r.caddyfile()), nil)
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	if !fresh {
		secret = "" // whoever set it knows it
	}
	return r.introduce(secret)
}

// stop ends what start has started.
func (r *run) stop() error {
	r.platform.Close() // no more notifies
	err := caddy.Stop()
	current.Store(nil)
	r.php.stop()
	return err
}

// newSecret makes a secret of Standard Webhooks' form.
func newSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: it ends the program instead
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// played is a platform of the sandbox, and what its merchant has to know.
type played interface {
	http.Handler
	Close()
	// environment is what the gateway takes its keys from, by the names that the documents use.
	environment() map[string]string
	// names are those of the environment that an app needs.
	names() []string
	// account is the part of the Caddyfile's global options.
	account() string
	// prefix is that of the platform's directives.
	prefix() string
	// commands are what to type; gateway, notify and page are URLs.
	commands(gateway, notify, page string) []command
}

// command is a line for a shell.
type command struct{ step, line string }

// caddyfile is the gateway's configuration.
func (r *run) caddyfile() string {
	admin, account := "off", r.platform.account()
	if r.Watch { // soon enough for somebody who waits for it
		// With the empty origin, a browser may open the console by its address.
		admin = fmt.Sprintf("%[1]s {\n\t\torigins %[1]s \"\"\n\t}", r.address(adminSide))
		account = strings.TrimSuffix(account, "\t}\n") + "\t\twatch {\n\t\t\torders 10s 20s 40s 1m 2m 5m 10m 20m\n\t\t}\n\t}\n"
	}
	config := fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	grace_period 3s
	storage file_system %q
	log {
		level WARN
		exclude admin
	}
	servers {
		protocols h1
	}
%s}
`, admin, filepath.ToSlash(filepath.Join(r.directory, "storage")), account)
	site := func(offset int, lines string) {
		config += fmt.Sprintf("\nhttp://:%d {\n\tbind %s\n%s}\n", r.Port+offset, host, lines)
	}
	app := "respond 200"
	switch {
	case r.app.php():
		app = "import app 10s"
		config += "\n(app) {\n\troot * {env.DEV_ROOT}\n\tphp_fastcgi " + r.app.address + " {\n\t\tread_timeout {args[0]}\n" +
			"\t\tenv GATEWAY " + r.address(wayOut) + "\n\t\tenv NOTIFY_URL " + r.notifyURL() + "\n"
		for _, name := range r.appNames() {
			config += "\t\tenv " + name + " {env." + name + "}\n"
		}
		config += "\t}\n}\n"
		site(pages, "\timport app 80s\n") // it waits for calls of up to 60 s
	case r.app.address != "":
		app = "reverse_proxy " + r.app.address
	}
	site(wayOut, `	route {
		chinaums_dev call
		`+r.platform.prefix()+`_proxy
	}
`)
	delivery := "webhook_signature {env.APP_SECRET}\nchinaums_dev app\n" + app
	if r.Watch {
		delivery = "inbox {\nretry 1s 2s 4s 8s 16s 32s\ndeliver {\nroute {\n" + delivery + "\n}\n}\n}"
	}
	site(wayIn, `	handle /notify {
		route {
			chinaums_dev notify
			`+r.platform.prefix()+`_notify
			`+delivery+`
		}
	}
	respond 404
`)
	return config
}

func (r *run) notifyURL() string { return "http://" + r.address(wayIn) + "/notify" }

// appNames are the variables that an app gets.
func (r *run) appNames() []string {
	names := append([]string{"APP_SECRET"}, r.platform.names()...)
	if os.Getenv("BOOK") != "" {
		names = append(names, "BOOK")
	}
	return names
}
