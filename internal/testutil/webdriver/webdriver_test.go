package webdriver

import (
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
