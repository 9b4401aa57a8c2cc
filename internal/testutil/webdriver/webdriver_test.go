package webdriver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStart starts a driver whose first port is taken. Left to choose a port by itself, the driver found one that was free on
// [::1] and not on 127.0.0.1, and ended; the test then asked for a page at no address at all.
func TestStart(t *testing.T) {
	folder := t.TempDir()
	driver, tried := filepath.Join(folder, "driver"), filepath.Join(folder, "tried")
	err := os.WriteFile(driver, []byte(`#!/bin/sh
if [ ! -e '`+tried+`' ]; then
	echo "$1" >'`+tried+`'
	echo 'IPv4 port not available. Exiting...'
	exit 1
fi
echo "Driver was started successfully on port ${1#--port=}."
exec sleep 600
`), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	Tool(t, "sh")
	url := start(t, driver)
	first, err := os.ReadFile(tried)
	if err != nil {
		t.Fatal(err)
	}
	taken := strings.TrimPrefix(strings.TrimSpace(string(first)), "--port=")
	if port, found := strings.CutPrefix(url, "http://127.0.0.1:"); !found || port == taken || port == "0" {
		t.Errorf("%s, after port %s", url, taken)
	}
}

// TestBegin: a browser that does not start in time is followed by another one, with a profile of its own, and one that does not end is no
// failure of the page. Before, both ended the test.
func TestBegin(t *testing.T) {
	var profiles []string
	ended := false
	driver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + r.URL.Path {
		case "POST/session":
			if len(profiles) == 2 {
				fmt.Fprint(w, `{"value":{"sessionId":"one"}}`)
				return
			}
			http.Error(w, `{"value":{"error":"session not created"}}`, http.StatusInternalServerError)
		case "DELETE/session/one":
			ended = true
			http.Error(w, `{"value":{"error":"unknown error"}}`, http.StatusInternalServerError)
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
	}))
	defer driver.Close()
	t.Run("a page", func(t *testing.T) {
		p := &Page{t: t, session: driver.URL}
		p.begin(func(profile string) any {
			profiles = append(profiles, profile)
			return nil
		})
		if p.session != driver.URL+"/session/one" {
			t.Errorf("the session is %s", p.session)
		}
	})
	if !ended || len(profiles) != 2 || profiles[0] == profiles[1] {
		t.Errorf("ended: %v, profiles %q", ended, profiles)
	}
	for _, profile := range profiles {
		if _, err := os.Stat(profile); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", profile, err)
		}
	}
}
