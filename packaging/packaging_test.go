// Package packaging holds no code. Its test keeps what is installed in step: the unit, the packages, the image, the
// compose file and the workflows name the same user, the same paths and the same commands.
package packaging

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.yaml.in/yaml/v3"

	_ "github.com/caddy-chinaums/caddy-chinaums"
)

const (
	binary    = "/usr/bin/caddy"
	caddyfile = "/etc/caddy/Caddyfile"
	keys      = "/etc/caddy/caddy.env"
	state     = "/var/lib/caddy"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// unit returns the values of a unit file's options; an option may stand several times.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	options := make(map[string][]string)
	for line := range strings.Lines(read(t, name)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		option, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("%s: %q", name, line)
		}
		options[option] = append(options[option], value)
	}
	return options
}

func TestUnit(t *testing.T) {
	service := unit(t, "packaging/caddy.service")
	for option, want := range map[string]string{
		"User":            "caddy",
		"Group":           "caddy",
		"ExecStart":       binary + " run --config " + caddyfile,
		"ExecReload":      binary + " reload --config " + caddyfile + " --force",
		"EnvironmentFile": "-" + keys,
		"StateDirectory":  strings.TrimPrefix(state, "/var/lib/"),
		"NoNewPrivileges": "yes",
		"ProtectSystem":   "strict",
	} {
		if got := strings.Join(service[option], "; "); got != want {
			t.Errorf("%s is %q, not %q", option, got, want)
		}
	}
	// The environment holds keys; --environ would print it to the journal.
	if strings.Contains(strings.Join(service["ExecStart"], ""), "--environ") {
		t.Error("the unit prints the environment")
	}
	for _, directory := range []string{"HOME=" + state, "XDG_DATA_HOME=" + state + "/", "XDG_CONFIG_HOME=" + state + "/"} {
		if !strings.Contains(strings.Join(service["Environment"], " "), directory) {
			t.Errorf("%s is not set below the state directory", directory)
		}
	}
	script := read(t, "packaging/postinstall.sh")
	for _, want := range []string{"useradd --system --gid caddy --home-dir " + state, "chown root:caddy " + keys, "chmod 0640 " + keys} {
		if !strings.Contains(script, want) {
			t.Errorf("postinstall.sh has no %q", want)
		}
	}
	if got := unit(t, "packaging/caddy.socket")["ListenStream"]; !slices.Equal(got, []string{"80", "443"}) {
		t.Errorf("the socket listens on %v", got)
	}
}

// TestUnitVerifies asks systemd itself.
func TestUnitVerifies(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	// The binary of this machine stands for the one that is installed; everything else is as it is.
	text := strings.ReplaceAll(read(t, "packaging/caddy.service"), binary, "/bin/true")
	file := filepath.Join(t.TempDir(), "caddy.service")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), program, "verify", file).CombinedOutput()
	if err != nil || strings.Contains(string(output), file) {
		t.Errorf("%v\n%s", err, output)
	}
}

func TestRelease(t *testing.T) {
	var release struct {
		Builds []struct {
			Main, Binary string
			Env, Targets []string
		}
		NFPMs []struct {
			Bindir   string
			Formats  []string
			Contents []struct{ Src, Dst, Type string }
			Scripts  map[string]string
		}
	}
	readYAML(t, ".goreleaser.yaml", &release)
	if len(release.Builds) != 1 || len(release.NFPMs) != 1 {
		t.Fatalf("%+v", release)
	}
	build, pack := release.Builds[0], release.NFPMs[0]
	if build.Main != "./cmd/caddy" || pack.Bindir+"/"+build.Binary != binary || !slices.Contains(build.Env, "CGO_ENABLED=0") {
		t.Errorf("%+v, %s", build, pack.Bindir)
	}
	want := []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64", "windows_amd64"}
	if !slices.Equal(build.Targets, want) {
		t.Errorf("targets %v", build.Targets)
	}
	installed := map[string]string{}
	for _, content := range pack.Contents {
		installed[content.Src] = content.Dst
		if _, err := os.Stat(filepath.Join("..", content.Src)); err != nil {
			t.Error(err)
		}
		if content.Dst == caddyfile && content.Type != "config|noreplace" {
			t.Error("an upgrade would overwrite the Caddyfile")
		}
	}
	if installed["packaging/Caddyfile"] != caddyfile || installed["packaging/caddy.service"] != "/usr/lib/systemd/system/caddy.service" {
		t.Errorf("%v", installed)
	}
	for _, script := range pack.Scripts {
		if output, err := exec.CommandContext(t.Context(), "sh", "-n", filepath.Join("..", script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", script, err, output)
		}
	}
}

// TestGoreleaserCheck asks goreleaser itself.
func TestGoreleaserCheck(t *testing.T) {
	program, err := exec.LookPath("goreleaser")
	if err != nil {
		t.Skip("needs goreleaser")
	}
	check := exec.CommandContext(t.Context(), program, "check")
	check.Dir = ".."
	if output, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

func TestDockerfile(t *testing.T) {
	instructions := map[string][]string{}
	stage := 0
	for line := range strings.Lines(strings.ReplaceAll(read(t, "Dockerfile"), "\\\n", "")) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "FROM" {
			stage++
		}
		if stage == 2 { // the image itself
			instructions[name] = append(instructions[name], rest)
		}
	}
	for instruction, want := range map[string]string{
		"VOLUME":     "/data",
		"USER":       "65532:65532",
		"ENTRYPOINT": `["` + binary + `"]`,
		"CMD":        `["run", "--config", "` + caddyfile + `"]`,
		"ENV":        "XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config",
	} {
		if got := strings.Join(instructions[instruction], "; "); got != want {
			t.Errorf("%s is %q, not %q", instruction, got, want)
		}
	}
	copies := strings.Join(instructions["COPY"], "\n")
	for _, want := range []string{"/out/caddy " + binary, "--chown=65532:65532 /out/data /data", "packaging/Caddyfile " + caddyfile} {
		if !strings.Contains(copies, want) {
			t.Errorf("COPY has no %q", want)
		}
	}
	if health := strings.Join(instructions["HEALTHCHECK"], ""); !strings.HasSuffix(health, `CMD ["`+binary+`", "chinaums", "health"]`) {
		t.Errorf("HEALTHCHECK is %q", health)
	}
}

// adapts loads a Caddyfile as far as `caddy validate` does.
func adapts(t *testing.T, name, config string) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": name})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, warning := range warnings {
		t.Errorf("%s: %s", name, warning.Message)
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &parsed); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

var environment = map[string]string{
	"UMS_APP_ID": "an-app-id", "UMS_APP_KEY": "an-app-key", "UMS_NOTIFY_KEY": "a-notify-key", "UMS_MID": "898000000000000",
	"UMS_TID": "00000000", "APP_SECRET": "whsec_c2VjcmV0IG9mIGEgdGVzdA==",
}

func setEnvironment(t *testing.T) {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for name, value := range environment {
		t.Setenv(name, value)
	}
}

// TestCaddyfile: what the packages install does nothing, and does what it says once the # are gone.
func TestCaddyfile(t *testing.T) {
	setEnvironment(t)
	config := read(t, "packaging/Caddyfile")
	adapts(t, "as installed", config)
	adapts(t, "without the #", regexp.MustCompile(`(?m)^#([^ #\n].*|)$`).ReplaceAllString(config, "$1"))
	if !strings.Contains(config, keys) {
		t.Errorf("it does not say that the keys are in %s", keys)
	}
}

func TestCompose(t *testing.T) {
	setEnvironment(t)
	var compose struct {
		Services map[string]struct {
			Volumes     []string
			NetworkMode string `yaml:"network_mode"`
			Ports       []string
			StopGrace   string `yaml:"stop_grace_period"`
		}
		Configs map[string]struct{ Content string }
	}
	readYAML(t, "compose.yaml", &compose)
	config := compose.Configs["caddyfile"].Content
	adapts(t, "compose.yaml", config)
	if strings.Contains(config, "$") {
		t.Error("compose would replace what begins with $")
	}
	gateway, app := compose.Services["gateway"], compose.Services["app"]
	if !slices.Equal(gateway.Volumes, []string{"gateway:/data"}) || gateway.StopGrace != "90s" {
		t.Errorf("%+v", gateway)
	}
	// The signing site's port is not published; the app reaches it over the loopback that both share.
	if app.NetworkMode != "service:gateway" || len(app.Ports) != 0 || !slices.Equal(gateway.Ports, []string{"80:80", "443:443", "443:443/udp"}) {
		t.Errorf("%+v %+v", gateway, app)
	}
	comment := map[string]bool{}
	for scanner := bufio.NewScanner(strings.NewReader(read(t, "compose.yaml"))); scanner.Scan(); {
		if match := regexp.MustCompile(`^#\t([A-Z_]+)=`).FindStringSubmatch(scanner.Text()); match != nil {
			comment[match[1]] = true
		}
	}
	for _, match := range regexp.MustCompile(`\{env\.([A-Z_]+)\}`).FindAllStringSubmatch(config, -1) {
		if !comment[match[1]] {
			t.Errorf(".env is not said to hold %s", match[1])
		}
	}
	// The app gets every setting that it reads; PHP-FPM hands on no others.
	for _, match := range regexp.MustCompile(`_SERVER\[?'?([A-Z_]+)'?\]`).FindAllStringSubmatch(read(t, "example/php/index.php"), -1) {
		name := match[1]
		if strings.HasPrefix(name, "HTTP_") || strings.HasPrefix(name, "REQUEST_") || strings.HasPrefix(name, "QUERY_") {
			continue
		}
		if !strings.Contains(config, "env "+name+" ") {
			t.Errorf("the app is not given %s", name)
		}
	}
}

// TestImage: what a release pushes says its own version, and a release candidate does not become "latest". The context of
// the image has no .git to read a version from, so that `caddy chinaums version` said (devel); and every tag was "latest".
func TestImage(t *testing.T) {
	var release struct {
		Jobs map[string]struct {
			Steps []struct {
				Uses string
				With map[string]string
			}
		}
	}
	readYAML(t, ".github/workflows/release.yml", &release)
	var image map[string]string
	for _, step := range release.Jobs["release"].Steps {
		if strings.HasPrefix(step.Uses, "docker/build-push-action@") {
			image = step.With
		}
	}
	if want := "VERSION=${{ github.ref_name }}"; image["build-args"] != want {
		t.Errorf("build-args is %q, not %q", image["build-args"], want)
	}
	dockerfile := read(t, "Dockerfile")
	for _, want := range []string{"ARG VERSION=", "-X github.com/caddy-chinaums/caddy-chinaums.version=$VERSION"} {
		if !strings.Contains(dockerfile, want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
	if !strings.Contains(read(t, "command.go"), "\nvar version string\n") {
		t.Error("the linker has no variable to write the version to")
	}
	for line := range strings.Lines(image["tags"]) {
		if strings.Contains(line, "latest") && !strings.Contains(line, "!contains(github.ref_name, '-')") {
			t.Errorf("a release candidate becomes the latest image: %s", line)
		}
	}
	var releaser struct {
		Release struct{ Prerelease string }
	}
	if readYAML(t, ".goreleaser.yaml", &releaser); releaser.Release.Prerelease != "auto" {
		t.Error("a release candidate becomes the latest release")
	}
}

// TestWorkflowsArePinned: an action is a commit; a tag can be moved to other code.
func TestWorkflowsArePinned(t *testing.T) {
	files, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	pinned := regexp.MustCompile(`^[\w./-]+@[0-9a-f]{40} # \S+$`)
	for _, file := range files {
		for line := range strings.Lines(read(t, strings.TrimPrefix(filepath.ToSlash(file), "../"))) {
			if _, action, ok := strings.Cut(line, "uses: "); ok && !pinned.MatchString(strings.TrimSpace(action)) {
				t.Errorf("%s: %s", filepath.Base(file), strings.TrimSpace(line))
			}
		}
	}
}

// TestSubjects: what .ci/run says about the subjects of new commits.
func TestSubjects(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("bash is missing, and CHINAUMS_E2E=1 asks for it")
		}
		t.Skip("needs bash")
	}
	seventyTwo := "notify: " + strings.Repeat("é", 64) // 136 bytes
	for _, test := range []struct {
		subject, complaint string
	}{
		{"notify: refuse a value that holds &status=", ""},
		{"inbox/boltstore: keep less", ""},
		{".ci/run: look at commit subjects", ""},
		{"inbox, its stores: an example in each type's comment", ""},
		{"doctor, command: move what they do", ""},
		{"getting-started: PHP behind nginx", ""},
		{seventyTwo, ""},
		{seventyTwo + "x", "73 characters"},
		{"Refuse a value that holds &status=", "no room"},
		{"Access tokens: refuse more", "no room"},
		{"notify:refuse", "no room"},
		{"notify : refuse", "no room"},
		{": refuse", "no room"},
		{"notify: ", "no room"},
		{"notify", "no room"},
		{"fixup! notify: refuse", "no room"},
		{"WIP notify: refuse", "no room"},
		{"", "no room"},
	} {
		// A good subject follows: what is said must not depend on the last line alone.
		check := exec.Command(bash, "../.ci/subjects")
		check.Stdin = strings.NewReader(test.subject + "\nnotify: say less\n")
		said, err := check.CombinedOutput()
		if (err != nil) != (test.complaint != "") || !strings.Contains(string(said), test.complaint) || test.complaint == "" && len(said) > 0 {
			t.Errorf("%q: %v, %s", test.subject, err, said)
		}
	}
}
