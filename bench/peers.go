//go:build linux

package main

import (
	"embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

//go:embed peers
var peerFiles embed.FS

// A way is what is measured: calls out to the platform, the same over TLS, notifies in to the app.
const (
	wayOut = "out"
	wayTLS = "tls"
	wayIn  = "in"
)

var ways = []string{wayOut, wayTLS, wayIn}

// product is one way in which users do this job, or the least that a server takes to pass a request on.
type product struct {
	name  string // in results
	title string
	works bool     // signs and verifies
	ways  []string // on which it differs from its neighbor; nil: all
	aside bool     // measured beside others only: in pairs, and where connections are closed
	mode  string
	needs func(*site) error // the programs
	files []string
	start func(*site) error
}

// The names of those that the targets are about.
const (
	bufferedName = "caddy-buffered"
	pluginName   = "plugin"
	longName     = "long"
	standardName = "net-http"
	nginxName    = "nginx"
	njsName      = "njs"
	njsJSONName  = "njs-json"
	luaName      = "lua"
	phpName      = "php"
)

// products are the peers. Neighbors here are neighbors in time.
var products = []product{
	{name: bufferedName, title: "Caddy, `reverse_proxy` with `request_buffers`", needs: needCaddy, files: []string{"plain.caddyfile"}, start: startCaddy},
	{name: pluginName, title: "**Caddy with this plugin**", works: true, needs: needCaddy, files: []string{"plugin.caddyfile"}, start: startCaddy},
	{
		name: longName, title: "the long form: guard, `reverse_proxy`, transport", works: true, ways: []string{wayOut, wayTLS}, aside: true, mode: longName,
		needs: needCaddy, files: []string{"plugin.caddyfile"}, start: startCaddy,
	},
	{
		name: standardName, title: "the proxy where net/http's client sends", works: true, ways: []string{wayOut, wayTLS}, aside: true, mode: standardName,
		needs: needCaddy, files: []string{"plugin.caddyfile"}, start: startCaddy,
	},
	{name: nginxName, title: "nginx", mode: "plain", needs: needNginx, start: startNginx},
	{name: luaName, title: "nginx + Lua", works: true, mode: "lua", needs: needNginx, files: []string{"chinaums.lua"}, start: startNginx},
	{name: njsName, title: "nginx + njs", works: true, mode: "njs", needs: needNginx, files: []string{"sign.js", "verify.js"}, start: startNginx},
	{
		name: njsJSONName, title: "nginx + njs, writing JSON too", works: true, ways: []string{wayIn}, mode: "njs-json", needs: needNginx,
		files: []string{"sign.js", "verify.js", "notify.js"}, start: startNginx,
	},
	{
		name: phpName, title: "nginx + PHP-FPM", works: true, mode: "php", needs: needPHP,
		files: []string{"fpm.conf", "fastcgi.conf", "call.php", "notify.php"}, start: startPHP,
	},
}

// goes reports whether the product is measured on a way.
func (p product) goes(way string) bool { return p.ways == nil || slices.Contains(p.ways, way) }

// merchantsProduct is the plugin with many merchants, told apart by a header.
func merchantsProduct(count int) product {
	return product{
		name: pluginName + "-" + strconv.Itoa(count), title: fmt.Sprintf("%d merchants", count), works: true,
		files: []string{"merchants.caddyfile"}, start: func(s *site) error {
			s.Merchants = merchants(count)
			return startCaddy(s)
		},
	}
}

// merchant is one of many in the plugin's configuration.
type merchant struct{ Name, AppID, NotifyKey, MID string }

func merchants(count int) []merchant {
	all := make([]merchant, count)
	for i := range all {
		all[i] = merchant{
			Name: fmt.Sprintf("shop%05d", i), AppID: fmt.Sprintf("%032x", i+1), NotifyKey: fmt.Sprintf("notify-key-of-shop-%05d", i),
			MID: fmt.Sprintf("8980000000%05d", i),
		}
	}
	return all
}

// tools is what the peers are made of, and where it is.
type tools struct {
	caddy, nginx, fpm string
	modules           string // nginx's
	scratch           string
	against           string         // another Caddy, to be compared with
	platform          upstreamReport // the addresses
}

// findTools looks for the programs; those that are missing are left empty.
func findTools(scratch string) tools {
	t := tools{scratch: scratch}
	t.nginx = firstFile("nginx", "/usr/sbin/nginx")
	t.fpm = firstFile("php-fpm", "/usr/sbin/php-fpm*")
	if found := firstFile("", "/usr/lib/nginx/modules/ngx_http_js_module.so", "/usr/lib64/nginx/modules/ngx_http_js_module.so"); found != "" {
		t.modules = filepath.Dir(found)
	}
	return t
}

// firstFile is a program of that name, or the last file of the first pattern that fits any.
func firstFile(name string, patterns ...string) string {
	if name != "" {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	return ""
}

// site is a product that runs, or is about to, and what its files are made with.
type site struct {
	product
	tools

	Root                       bool
	Cores, Children            int
	Directory, CA              string
	Platform, PlatformTLS, App string
	Ports                      map[string]int
	Mode                       string
	Modules                    []string
	AppID                      string
	Merchants                  []merchant

	processes []*process
}

// errMissing is why a product is not measured here.
var errMissing = errors.New("not installed")

func needCaddy(s *site) error {
	if s.caddy == "" {
		return fmt.Errorf("caddy: %w", errMissing)
	}
	return nil
}

func needNginx(s *site) error {
	if s.nginx == "" {
		return fmt.Errorf("nginx: %w", errMissing)
	}
	for _, module := range map[string][]string{
		"njs":      {"ngx_http_js_module.so"},
		"njs-json": {"ngx_http_js_module.so"},
		"lua":      {"ndk_http_module.so", "ngx_http_lua_module.so"},
	}[s.mode] {
		file := filepath.Join(s.modules, module)
		if _, err := os.Stat(file); err != nil || s.modules == "" {
			return fmt.Errorf("%s: %w", module, errMissing)
		}
		s.Modules = append(s.Modules, file)
	}
	return nil
}

func needPHP(s *site) error {
	if s.fpm == "" {
		return fmt.Errorf("php-fpm: %w", errMissing)
	}
	return needNginx(s)
}

// open starts a product in a directory of its own and waits until it serves.
func open(p product, t tools) (*site, error) {
	ports, err := freePorts(len(ways))
	if err != nil {
		return nil, err
	}
	s := &site{
		product: p, tools: t, Root: os.Geteuid() == 0, Cores: runtime.NumCPU(), Children: 8 * runtime.NumCPU(),
		CA: filepath.Join(t.scratch, "ca.pem"), Platform: t.platform.Platform, PlatformTLS: t.platform.PlatformTLS, App: t.platform.App,
		Ports: make(map[string]int), Mode: p.mode, AppID: appID,
	}
	for i, way := range ways {
		s.Ports[way] = ports[i]
	}
	if p.needs != nil {
		if err := p.needs(s); err != nil {
			return nil, err
		}
	}
	if s.Directory, err = os.MkdirTemp(t.scratch, "peer"); err != nil {
		return nil, err
	}
	if err := os.Chmod(s.Directory, 0o755); err != nil { //nolint:gosec // nginx's workers and PHP read it
		return nil, err
	}
	if err := s.start(s); err != nil {
		s.close()
		return nil, err
	}
	s.settle()
	return s, nil
}

// settle waits until no more processes come: nginx and PHP-FPM listen before they start their workers.
func (s *site) settle() {
	deadline := time.Now().Add(30 * time.Second)
	last, since := 0, time.Now()
	for time.Now().Before(deadline) {
		if count := len(s.pids()); count != last {
			last, since = count, time.Now()
		}
		if time.Since(since) > 200*time.Millisecond {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *site) close() {
	for _, p := range slices.Backward(s.processes) {
		p.stop()
	}
	s.processes = nil
}

// write makes the product's files from their templates.
func (s *site) write(names ...string) error {
	for _, name := range names {
		text, err := peerFiles.ReadFile("peers/" + name)
		if err != nil {
			return err
		}
		parsed, err := template.New(name).Option("missingkey=error").Parse(string(text))
		if err != nil {
			return err
		}
		var out strings.Builder
		if err := parsed.Execute(&out, s); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.Directory, name), []byte(out.String()), 0o644); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return nil
}

// environment is all that a peer sees of the world.
func (s *site) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.Directory, "XDG_DATA_HOME=" + s.Directory, "XDG_CONFIG_HOME=" + s.Directory,
		"UMS_APP_KEY=" + appKey, "UMS_NOTIFY_KEY=" + notifyKey,
	}
}

// run starts one of the product's programs and waits until it listens.
func (s *site) run(name string, addresses []string, program string, arguments ...string) error {
	command := exec.Command(program, arguments...)
	command.Dir = s.Directory
	p, err := startProcess(name, command, s.environment())
	if err != nil {
		return err
	}
	s.processes = append(s.processes, p)
	if err := p.listening(addresses); err != nil {
		log, _ := os.ReadFile(filepath.Join(s.Directory, "error.log"))
		return fmt.Errorf("%w\n%s", err, log)
	}
	return nil
}

// address is where the product takes what goes this way.
func (s *site) address(way string) string { return "127.0.0.1:" + strconv.Itoa(s.Ports[way]) }

func (s *site) addresses() []string {
	var all []string
	for _, way := range slices.Sorted(maps.Keys(s.Ports)) {
		all = append(all, s.address(way))
	}
	return all
}

func startCaddy(s *site) error {
	if err := s.write(s.files...); err != nil {
		return err
	}
	addresses := s.addresses()
	if s.Merchants != nil {
		addresses = []string{s.address(wayOut), s.address(wayIn)}
	}
	return s.run("caddy", addresses, s.caddy, "run", "--config", filepath.Join(s.Directory, s.files[0]), "--adapter", "caddyfile")
}

func startNginx(s *site) error {
	if err := s.write(append([]string{"nginx.conf"}, s.files...)...); err != nil {
		return err
	}
	return s.run("nginx", s.addresses(), s.nginx, "-c", filepath.Join(s.Directory, "nginx.conf"), "-p", s.Directory, "-e",
		filepath.Join(s.Directory, "error.log"))
}

func startPHP(s *site) error {
	if err := s.write(s.files...); err != nil {
		return err
	}
	arguments := []string{
		"--nodaemonize", "--fpm-config", filepath.Join(s.Directory, "fpm.conf"),
		"-d", "opcache.enable=1", "-d", "opcache.validate_timestamps=0", // as on a server that is deployed to, not edited on
	}
	if s.Root {
		arguments = append(arguments, "--allow-to-run-as-root")
	}
	if err := s.run("php-fpm", []string{filepath.Join(s.Directory, "fpm.sock")}, s.fpm, arguments...); err != nil {
		return err
	}
	return startNginx(s)
}

// pids are all processes of the product.
func (s *site) pids() []int {
	var all []int
	for _, p := range s.processes {
		all = append(all, p.family()...)
	}
	return all
}

// cpu is the CPU time that these processes have used.
func cpu(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		used, err := processTime(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
