// Package webdriver drives a headless Chromium for tests of pages.
package webdriver

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// Page is a headless Chromium, driven over WebDriver.
type Page struct {
	t       testing.TB
	session string
}

// Tool finds a program, or skips the test.
func Tool(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", names[0])
	}
	t.Skip("needs " + names[0])
	return ""
}

// Browse opens a page in a browser of a language, so many pixels wide.
func Browse(t testing.TB, language, url string, width int, dark bool) *Page {
	t.Helper()
	height := 640
	if width < 500 { // a phone
		height = 844
	}
	driver, binary := Tool(t, "chromedriver"), Tool(t, "chromium", "chromium-browser", "google-chrome")
	p := &Page{t: t, session: start(t, driver)}
	args := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--lang=" + language,
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--remote-debugging-pipe", // not a port: somebody else may have it on [::1], where the driver looks first
	}
	if dark {
		args = append(args, "--blink-settings=preferredColorScheme=0")
	} else {
		args = append(args, "--blink-settings=preferredColorScheme=1")
	}
	p.begin(func(profile string) any {
		return map[string]any{
			"browserName": "chrome", "timeouts": map[string]int{"implicit": 60_000, "pageLoad": 120_000, "script": 120_000},
			"goog:chromeOptions": map[string]any{
				"binary": binary, "prefs": map[string]string{"intl.accept_languages": language},
				"mobileEmulation": map[string]any{"deviceMetrics": map[string]any{"width": width, "height": height, "pixelRatio": 1, "touch": false}},
				"args":            append([]string{"--user-data-dir=" + profile}, args...),
			},
			"goog:loggingPrefs": map[string]string{"browser": "ALL"},
		}
	})
	p.Open(url)
	return p
}

// begin starts the browser, which has to answer the driver within its minute: on a busy machine, another one is tried with a profile
// of its own.
func (p *Page) begin(capabilities func(profile string) any) {
	p.t.Helper()
	for range 3 {
		profile, err := os.MkdirTemp("", "webdriver-")
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { // not t.TempDir: processes of the browser's may outlive it for a moment, and write there
			testutil.Eventually(p.t, "the browser's profile is removed", func() bool { return os.RemoveAll(profile) == nil })
		})
		var session struct{ SessionID string }
		err = p.try(http.MethodPost, "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": capabilities(profile)}}, &session)
		if err != nil {
			p.t.Logf("the browser did not start: %v", err)
			continue
		}
		p.session += "/session/" + session.SessionID
		p.t.Cleanup(func() {
			if err := p.try(http.MethodDelete, "", nil, nil); err != nil {
				p.t.Logf("the browser did not end: %v", err)
			}
		})
		return
	}
	p.t.Fatal("no browser")
}

// start starts a driver for the time of the test, and returns its URL. A driver that is to choose a port by itself takes one
// that is free on [::1], and gives up if somebody has it on 127.0.0.1.
func start(t testing.TB, driver string) string {
	t.Helper()
	for range 3 {
		port, err := freeport.Port()
		if err != nil {
			t.Fatal(err)
		}
		command := exec.Command(driver, fmt.Sprint("--port=", port))
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		command.Stderr = command.Stdout
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = command.Process.Kill()
			_ = command.Wait()
		})
		said := ""
		for lines := bufio.NewScanner(output); lines.Scan(); said += lines.Text() + "\n" {
			if strings.Contains(lines.Text(), "started successfully") {
				go func() { _, _ = io.Copy(io.Discard, output) }()
				return fmt.Sprint("http://127.0.0.1:", port)
			}
		}
		t.Logf("%s did not start: %s", driver, said)
	}
	t.Fatal("no driver")
	return ""
}

// Open goes to a page.
func (p *Page) Open(url string) {
	p.t.Helper()
	p.Do(http.MethodPost, "/url", map[string]string{"url": url}, nil)
}

// Do sends a command of the WebDriver protocol, and reads its value into into, unless that is nil.
func (p *Page) Do(method, path string, body, into any) {
	p.t.Helper()
	if err := p.try(method, path, body, into); err != nil {
		p.t.Fatal(err)
	}
}

// try is Do for a command that may fail.
func (p *Page) try(method, path string, body, into any) error {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, p.session+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	patient := &http.Client{Timeout: 2 * time.Minute} // a machine under load starts a browser slowly
	res, err := patient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	if err == nil && into != nil {
		var value struct{ Value json.RawMessage }
		if err = json.Unmarshal(answer, &value); err == nil {
			err = json.Unmarshal(value.Value, into)
		}
	}
	if err != nil {
		return fmt.Errorf("webdriver %s: %w in %s", path, err, answer)
	}
	return nil
}

// Run runs a script in the page.
func (p *Page) Run(script string, arguments ...any) (result string) {
	p.t.Helper()
	var value any
	p.Do(http.MethodPost, "/execute/sync", map[string]any{"script": script, "args": append([]any{}, arguments...)}, &value)
	return fmt.Sprint(value)
}

// Until waits until a script answers want.
func (p *Page) Until(what, script, want string, arguments ...any) {
	p.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); p.Run(script, arguments...) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: waited in vain; the page says %s\n%s", what, p.Run("return document.body.innerText"), p.Console())
		}
	}
}

// Shows waits until the page has a text.
func (p *Page) Shows(text string) {
	p.t.Helper()
	p.Until(text, `return document.body.innerText.includes(arguments[0]) ? "yes" : ""`, "yes", text)
}

// Lacks waits until the page has a text no more.
func (p *Page) Lacks(text string) {
	p.t.Helper()
	p.Until("no "+text, `return document.body.innerText.includes(arguments[0]) ? "" : "yes"`, "yes", text)
}

// Click clicks what an XPath finds, as soon as it is there. The page may be drawn anew in between: then once more.
func (p *Page) Click(path string) {
	p.t.Helper()
	p.Until("a click on "+path, `const found = document.evaluate(arguments[0], document, null, 9, null).singleNodeValue;
if (!found || !found.checkVisibility()) return ""; found.click(); return "clicked"`, "clicked", path)
}

// Button clicks the element with this id.
func (p *Page) Button(id string) { p.t.Helper(); p.Click(`//*[@id="` + id + `"]`) }

// Confirm presses a button, and yes to what it asks.
func (p *Page) Confirm(id string) {
	p.t.Helper()
	p.Button(id)
	p.Click(`//dialog[@open]//*[@id="yes"]`)
}

// Choose chooses from a list, or types into a field.
func (p *Page) Choose(id, value string) {
	p.t.Helper()
	p.Until("the field "+id, `const field = document.getElementById(arguments[0]); if (!field) return "";
field.value = arguments[1]; for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {bubbles: true})); return "done"`, "done", id, value)
}

// Keys presses keys.
func (p *Page) Keys(keys ...string) {
	p.t.Helper()
	var actions []map[string]string
	for _, key := range keys {
		actions = append(actions, map[string]string{"type": "keyDown", "value": key}, map[string]string{"type": "keyUp", "value": key})
	}
	p.Do(http.MethodPost, "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard", "actions": actions}}}, nil)
}

// Keys of WebDriver.
const (
	KeyTab    = "\uE004"
	KeyEnter  = "\uE007"
	KeyEscape = "\uE00C"
)

// Focused is what has the focus: its id, or its text.
func (p *Page) Focused() string {
	p.t.Helper()
	return p.Run(`const e = document.activeElement; return e.id || e.textContent`)
}

// Console is what the browser complains about.
func (p *Page) Console() string {
	p.t.Helper()
	var entries []struct{ Level, Message string }
	p.Do(http.MethodPost, "/se/log", map[string]string{"type": "browser"}, &entries)
	text := ""
	for _, entry := range entries {
		text += entry.Level + " " + entry.Message + "\n"
	}
	return text
}

// Shoot keeps a picture of the page where CONSOLE_SCREENSHOTS says.
func (p *Page) Shoot(name string) {
	p.t.Helper()
	directory := os.Getenv("CONSOLE_SCREENSHOTS")
	if directory == "" {
		return
	}
	var picture struct{ Data string }
	p.Do(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": "Page.captureScreenshot", "params": map[string]any{"format": "webp", "quality": 75}}, &picture)
	content, err := base64.StdEncoding.DecodeString(picture.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(directory, name+".webp"), content, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// Axe finds axe-core, which looks at pages for people who cannot see them or use no mouse: where AXE says, else from npm.
func Axe(t testing.TB) string {
	t.Helper()
	file := os.Getenv("AXE")
	if file == "" {
		npm, err := exec.LookPath("npm")
		if err != nil {
			t.Skip("needs axe-core: neither AXE nor npm")
		}
		directory := t.TempDir()
		pack := exec.CommandContext(t.Context(), npm, "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=30000", "axe-core@4.14.1")
		pack.Dir = directory
		if out, err := pack.CombinedOutput(); err != nil {
			t.Skipf("axe-core cannot be had from npm: %v %.200s", err, out)
		}
		untar := exec.CommandContext(t.Context(), "tar", "-xzf", "axe-core-4.14.1.tgz")
		untar.Dir = directory
		if out, err := untar.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		file = filepath.Join(directory, "package", "axe.min.js")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Axe is what axe-core finds wrong with the page as it is.
func (p *Page) Axe() (problems []string) {
	p.t.Helper()
	var found []struct {
		ID, Help string
		Nodes    []struct{ HTML string }
	}
	p.Do(http.MethodPost, "/execute/async", map[string]any{"args": []any{}, "script": Axe(p.t) + `;
const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations), (problem) => done([{id: String(problem)}]));`}, &found)
	for _, violation := range found {
		problems = append(problems, fmt.Sprintf("%s (%s): %.5v", violation.Help, violation.ID, violation.Nodes))
	}
	return problems
}
