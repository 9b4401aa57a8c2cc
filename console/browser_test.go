package console_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// page is a headless Chromium, driven over WebDriver.
type page struct {
	t       *testing.T
	session string
}

// tool finds a program, or skips the test.
func tool(t *testing.T, names ...string) string {
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

// browse opens a page in a browser of a language, so many pixels wide.
func browse(t *testing.T, language, url string, width int, dark bool) *page {
	t.Helper()
	height := 640
	if width < 500 { // a phone
		height = 844
	}
	driver, binary := tool(t, "chromedriver"), tool(t, "chromium", "chromium-browser", "google-chrome")
	command := exec.Command(driver, "--port=0")
	output, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	p := &page{t: t}
	started := regexp.MustCompile(`successfully on port (\d+)`)
	for lines := bufio.NewScanner(output); p.session == "" && lines.Scan(); {
		if port := started.FindStringSubmatch(lines.Text()); port != nil {
			p.session = "http://127.0.0.1:" + port[1]
		}
	}
	go func() { _, _ = io.Copy(io.Discard, output) }()
	args := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--lang=" + language,
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(), "--hide-scrollbars",
	}
	if dark {
		args = append(args, "--blink-settings=preferredColorScheme=0")
	} else {
		args = append(args, "--blink-settings=preferredColorScheme=1")
	}
	var session struct{ SessionID string }
	p.do(http.MethodPost, "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "timeouts": map[string]int{"implicit": 20_000, "pageLoad": 60_000, "script": 60_000},
		"goog:chromeOptions": map[string]any{
			"binary": binary, "prefs": map[string]string{"intl.accept_languages": language},
			"mobileEmulation": map[string]any{"deviceMetrics": map[string]any{"width": width, "height": height, "pixelRatio": 1, "touch": false}},
			"args":            args,
		},
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
	}}}, &session)
	p.session += "/session/" + session.SessionID
	t.Cleanup(func() { p.do(http.MethodDelete, "", nil, nil) })
	p.open(url)
	return p
}

func (p *page) open(url string) {
	p.t.Helper()
	p.do(http.MethodPost, "/url", map[string]string{"url": url}, nil)
}

func (p *page) do(method, path string, body, into any) {
	p.t.Helper()
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			p.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, p.session+path, bytes.NewReader(content))
	if err != nil {
		p.t.Fatal(err)
	}
	patient := &http.Client{Timeout: 2 * time.Minute} // a machine under load starts a browser slowly
	res, err := patient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		p.t.Fatalf("webdriver %s: %d %s %v", path, res.StatusCode, answer, err)
	}
	if into == nil {
		return
	}
	var value struct{ Value json.RawMessage }
	if err = json.Unmarshal(answer, &value); err == nil {
		err = json.Unmarshal(value.Value, into)
	}
	if err != nil {
		p.t.Fatalf("webdriver %s: %v in %s", path, err, answer)
	}
}

// run runs a script in the page.
func (p *page) run(script string, arguments ...any) (result string) {
	p.t.Helper()
	var value any
	p.do(http.MethodPost, "/execute/sync", map[string]any{"script": script, "args": append([]any{}, arguments...)}, &value)
	return fmt.Sprint(value)
}

func (p *page) until(what, script, want string, arguments ...any) {
	p.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); p.run(script, arguments...) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: waited in vain; the page says %s\n%s", what, p.run("return document.body.innerText"), p.console())
		}
	}
}

// shows waits until the page has a text.
func (p *page) shows(text string) {
	p.t.Helper()
	p.until(text, `return document.body.innerText.includes(arguments[0]) ? "yes" : ""`, "yes", text)
}

// lacks waits until the page has a text no more.
func (p *page) lacks(text string) {
	p.t.Helper()
	p.until("no "+text, `return document.body.innerText.includes(arguments[0]) ? "" : "yes"`, "yes", text)
}

// click clicks what an XPath finds, as soon as it is there. The page may be drawn anew in between: then once more.
func (p *page) click(path string) {
	p.t.Helper()
	p.until("a click on "+path, `const found = document.evaluate(arguments[0], document, null, 9, null).singleNodeValue;
if (!found || !found.checkVisibility()) return ""; found.click(); return "clicked"`, "clicked", path)
}

func (p *page) button(id string) { p.t.Helper(); p.click(`//*[@id="` + id + `"]`) }

// confirm presses a button, and yes to what it asks.
func (p *page) confirm(id string) {
	p.t.Helper()
	p.button(id)
	p.click(`//dialog[@open]//*[@id="yes"]`)
}

// choose chooses from a list, or types into a field.
func (p *page) choose(id, value string) {
	p.t.Helper()
	p.until("the field "+id, `const field = document.getElementById(arguments[0]); if (!field) return "";
field.value = arguments[1]; for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {bubbles: true})); return "done"`, "done", id, value)
}

// keys presses keys.
func (p *page) keys(keys ...string) {
	p.t.Helper()
	var actions []map[string]string
	for _, key := range keys {
		actions = append(actions, map[string]string{"type": "keyDown", "value": key}, map[string]string{"type": "keyUp", "value": key})
	}
	p.do(http.MethodPost, "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard", "actions": actions}}}, nil)
}

// Keys of WebDriver.
const (
	keyTab    = "\uE004"
	keyEnter  = "\uE007"
	keyEscape = "\uE00C"
)

// focused is what has the focus: its id, or its text.
func (p *page) focused() string {
	p.t.Helper()
	return p.run(`const e = document.activeElement; return e.id || e.textContent`)
}

// console is what the browser complains about.
func (p *page) console() string {
	p.t.Helper()
	var entries []struct{ Level, Message string }
	p.do(http.MethodPost, "/se/log", map[string]string{"type": "browser"}, &entries)
	text := ""
	for _, entry := range entries {
		text += entry.Level + " " + entry.Message + "\n"
	}
	return text
}

// shoot keeps a picture of the page where CONSOLE_SCREENSHOTS says.
func (p *page) shoot(name string) {
	p.t.Helper()
	directory := os.Getenv("CONSOLE_SCREENSHOTS")
	if directory == "" {
		return
	}
	var picture struct{ Data string }
	p.do(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": "Page.captureScreenshot", "params": map[string]any{"format": "webp", "quality": 75}}, &picture)
	content, err := base64.StdEncoding.DecodeString(picture.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(directory, name+".webp"), content, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}
