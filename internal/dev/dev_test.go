package dev

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadApp(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, test := range []struct {
		text string
		want app
	}{
		{"", app{}},
		{"127.0.0.1:8903", app{address: "127.0.0.1:8903"}},
		{"http://localhost:3000/", app{address: "localhost:3000"}},
		{":3000", app{address: "127.0.0.1:3000"}},
		{"[::1]:3000", app{address: "[::1]:3000"}},
		{"app.internal:8901", app{address: "app.internal:8901"}},
		{"fastcgi://127.0.0.1:9000", app{address: "127.0.0.1:9000", fastcgi: true}},
		{"fastcgi:///run/php/php8.2-fpm.sock", app{address: "unix//run/php/php8.2-fpm.sock", fastcgi: true}},
	} {
		if got, err := readApp(test.text, DefaultPort); err != nil || got != test.want {
			t.Errorf("%q: %+v, %v", test.text, got, err)
		}
	}
	for text, says := range map[string]string{
		"8903":                     "neither host:port",
		"127.0.0.1":                "neither host:port",
		"127.0.0.1:0":              "neither host:port",
		"127.0.0.1:65536":          "neither host:port",
		"https://shop.example:443": "neither host:port",
		"shop.example:80/notify":   "neither host:port",
		"a{b}:80":                  "neither host:port",
		"a b:80":                   "neither host:port",
		"127.0.0.1:8901":           "port 8901 is needed here",
		"localhost:8900":           "port 8900 is needed here",
		"fastcgi://127.0.0.1:8903": "port 8903 is needed here",
		"fastcgi:///run/../x.sock": "no path of a socket",
		"fastcgi:///run/a b.sock":  "no path of a socket",
		"fastcgi://":               "neither host:port",
	} {
		if _, err := readApp(text, DefaultPort); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, which does not say %q", text, err, says)
		}
	}
}

// php-cgi is started only where it is and has something to run.
func TestReadAppFindsPHP(t *testing.T) {
	directory := t.TempDir()
	t.Chdir(directory)
	programs := t.TempDir()
	t.Setenv("PATH", programs)
	write := func(name string, mode os.FileMode) {
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("index.php", 0o600)
	if got, err := readApp("", DefaultPort); err != nil || got.php() {
		t.Errorf("without php-cgi: %+v, %v", got, err)
	}
	for _, name := range []string{"php-cgi", "php-cgi.exe"} {
		write(filepath.Join(programs, name), 0o700)
	}
	if got, err := readApp("", DefaultPort); err != nil || !got.own || !strings.HasPrefix(got.program, programs) {
		t.Errorf("with php-cgi: %+v, %v", got, err)
	}
	if err := os.Remove("index.php"); err != nil {
		t.Fatal(err)
	}
	if got, err := readApp("", DefaultPort); err != nil || got.php() {
		t.Errorf("without index.php: %+v, %v", got, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for says, options := range map[string]Options{
		"--port: 0 ":             {Platform: ChinaUMS},
		"--port: 65532 ":         {Platform: ChinaUMS, Port: 65532},
		"--watch plays chinaums": {Platform: Shouqianba, Port: DefaultPort, Watch: true},
		`--platform: "alipay" `:  {Platform: "alipay", Port: DefaultPort, App: ":1"},
		`--app: "shop" is neith`: {Platform: ChinaUMS, Port: DefaultPort, App: "shop"},
	} {
		options.Out, options.Err = new(bytes.Buffer), new(bytes.Buffer)
		if err := Run(t.Context(), options); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, which does not say %q", err, says)
		}
	}
}

// What others sent cannot steer the terminal, nor fill it.
func TestStrangersTextIsHarmless(t *testing.T) {
	var out bytes.Buffer
	p := &printer{w: &out, texts: english}
	evil := "a\x1b[2J\r\n\u202e\x9b1m" + strings.Repeat("long", 100)
	header := http.Header{"Ce-Type": {evil + ".refund."}, "Ce-Subject": {evil}, "Ce-Id": {evil}, "Ce-Evidence": {"query"}}
	p.event(header, []byte(`{"refundAmount":"a\u001b[2J\r\n`+strings.Repeat("long", 100)+`"}`))
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Method, r.URL.Path = evil, evil
	p.call(r, evil, 200, []byte(`{"errCode":"\u001b[2J","result_code":"\u009b1m","biz_response":{"result_code":"\n"}}`))
	p.told(200, evil, "")
	p.told(422, evil, evil)
	p.told(0, evil, evil)
	p.rejected(403, evil, evil)
	p.stored(evil)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 7 {
		t.Errorf("%d lines, not 7: %q", len(lines), out.String())
	}
	for _, line := range lines {
		if len(line) > 1500 || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%d bytes: %q", len(line), line)
		}
	}
}

func TestYuan(t *testing.T) {
	for fen, want := range map[string]string{
		"4990": "49.90", "1": "0.01", "0": "0.00", "12": "0.12", "100": "1.00", "": "", "-1": "-1", "1e3": "1e3", "49.9": "49.9",
	} {
		if got := yuan(fen); got != want {
			t.Errorf("%q: %q, not %q", fen, got, want)
		}
	}
}

// Both languages say everything.
func TestTexts(t *testing.T) {
	for _, texts := range []texts{english, chinese} {
		for _, text := range []string{
			texts.running, texts.page, texts.calls, texts.notifies, texts.app, texts.noApp, texts.ownApp, texts.pages,
			texts.variables, texts.record, texts.typing, texts.legend, texts.call, texts.took, texts.refused, texts.silent, texts.forged,
			texts.console, texts.admin, texts.kept, texts.replied, texts.found,
			texts.steps["order"], texts.steps["pay"], texts.steps["query"], texts.steps["refund"], texts.steps["lose"], texts.steps["orders"],
		} {
			if text == "" {
				t.Errorf("a text is missing: %+v", texts)
			}
		}
	}
}
