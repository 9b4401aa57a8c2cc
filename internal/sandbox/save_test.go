package sandbox

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSave: each notify that is sent becomes a file of its own, byte for byte what went over the wire.
func TestSave(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "new", "notifies")
	b := newBench(t, Options{SaveDir: directory, UI: true})
	address := b.merchant("FAILED", "SUCCESS")
	number := b.ordered("notifyUrl", address)
	// What is there already stays, and nothing is written through a link.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(filepath.Join(directory, number+"-1.txt"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(directory, number+"-2.txt")); err != nil {
		t.Fatal(err)
	}
	if err := b.Pay(number); err != nil {
		t.Fatal(err)
	}
	b.delivered(number, KindPayment)
	got := b.got()
	if len(got) != 2 {
		t.Fatalf("%d notifies", len(got))
	}
	for i, one := range got {
		path := filepath.Join(directory, fmt.Sprintf("%s-%d.txt", number, i+3))
		content, err := os.ReadFile(path)
		if err != nil || string(content) != one.body {
			t.Errorf("%s: %q, %v", path, content, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info, err)
		}
		if saved := b.Deliveries()[i].Saved; saved != path {
			t.Errorf("the delivery says %q, not %q", saved, path)
		}
	}
	if content, err := os.ReadFile(filepath.Join(directory, number+"-1.txt")); string(content) != "mine" {
		t.Errorf("a file that was there: %q %v", content, err)
	}
	if _, err := os.Lstat(elsewhere); err == nil {
		t.Error("written through a symbolic link")
	}
	if info, err := os.Stat(directory); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v %v", info, err)
	}
	res, err := http.Get(b.url + "/sandbox/view")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(readAll(t, res), number+"-4.txt") {
		t.Error("the page does not name the file")
	}

	// A bill's file has the bill's number.
	billNo := b.fresh()
	b.call("/v1/netpay/bills/get-qrcode", b.request("billNo", billNo, "billDate", "2026-01-01", "totalAmount", 1, "notifyUrl", address))
	if err := b.Pay(billNo); err != nil {
		t.Fatal(err)
	}
	b.delivered(billNo, KindBill)
	if _, err := os.Stat(filepath.Join(directory, billNo+"-1.txt")); err != nil {
		t.Error(err)
	}
}

// TestSaveOutside: an order number cannot lead out of the directory.
func TestSaveOutside(t *testing.T) {
	directory := t.TempDir()
	s, err := newSaver(filepath.Join(directory, "in"))
	if err != nil {
		t.Fatal(err)
	}
	for order, want := range map[string]string{
		"ABCD/../../x": "ABCD_______x-1.txt", "../../../y": "_________y-1.txt", "/etc/z": "_etc_z-1.txt",
		"C:\\a\x00": "C__a_-1.txt", strings.Repeat("9", 300): strings.Repeat("9", 64) + "-1.txt", "..": "__-1.txt",
	} {
		path, err := s.save(order, nil)
		if err != nil || path != filepath.Join(directory, "in", want) {
			t.Errorf("%q: %s %v", order, path, err)
		}
	}
	if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

// TestSaveIsBounded: one run keeps its newest files, and nobody else's are taken away.
func TestSaveIsBounded(t *testing.T) {
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "mine-1.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newSaver(directory)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSaved + 20 {
		if _, err := s.save(fmt.Sprintf("order%d", i/2), nil); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) != maxSaved+1 || len(s.last) != maxSaved/2 {
		t.Errorf("%d files, %d numbers, %v", len(entries), len(s.last), err)
	}
	for name, there := range map[string]bool{"mine-1.txt": true, "order9-2.txt": false, "order10-1.txt": true} {
		if _, err := os.Stat(filepath.Join(directory, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSaveFails: a notify that cannot be saved is sent all the same, and that is told once.
func TestSaveFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{SaveDir: file}); err == nil || !strings.Contains(err.Error(), "directory for notifies") {
		t.Errorf("a file for a directory: %v", err)
	}
	if _, err := NewShouqianba(ShouqianbaOptions{PrivateKey: sqbTestKey(), SaveDir: filepath.Join(file, "x")}); err == nil {
		t.Error("below a file")
	}
	directory := filepath.Join(t.TempDir(), "notifies")
	lines := make(chan string, 10)
	b := newBench(t, Options{SaveDir: directory, Warn: func(text string) { lines <- text }})
	if err := os.Remove(directory); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.delivered(b.paid("notifyUrl", b.merchant()), KindPayment)
	}
	if len(lines) != 1 || !strings.HasSuffix(<-lines, "a notify was not saved: no such file or directory") {
		t.Errorf("%d lines", len(lines))
	}
}

// TestShouqianbaSave: the file is the whole request, and its signature is right.
func TestShouqianbaSave(t *testing.T) {
	directory := t.TempDir()
	b := newTill(t, ShouqianbaOptions{SaveDir: directory, UI: true})
	bodies := make(chan string, 1)
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
		_, _ = io.WriteString(w, "success")
	}))
	t.Cleanup(shop.Close)
	b.want(b.precreate("S/1", "100", shop.URL+"/notify?from=sandbox"), "biz_response.result_code=PRECREATE_SUCCESS")
	page := func() string {
		t.Helper()
		res, err := http.Get(b.url + "/sandbox/view")
		if err != nil {
			t.Fatal(err)
		}
		return readAll(t, res)
	}
	if text := page(); !strings.Contains(text, "S/1") || !strings.Contains(text, `"payable":true`) || !strings.Contains(text, b.keys.TerminalSN) {
		t.Errorf("page: %s", text)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.PostForm(b.url+"/pay", url.Values{"order": {"S/1"}})
	if err != nil || res.StatusCode != http.StatusSeeOther {
		t.Fatalf("pay: %v %v", res, err)
	}
	res.Body.Close()
	if err := b.WaitDelivered(t.Context(), "S/1", KindPayment); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(directory, "S_1-1.txt")
	if text := page(); !strings.Contains(text, "PAID") || !strings.Contains(text, path) {
		t.Errorf("page: %s", text)
	}
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(saved)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	heard := <-bodies
	if err != nil || string(body) != heard || req.URL.RequestURI() != "/notify?from=sandbox" {
		t.Errorf("saved %q, sent %q, %v", saved, heard, err)
	}
	signature, err := base64.StdEncoding.DecodeString(req.Header.Get("Authorization"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(body)
	if err := rsa.VerifyPKCS1v15(&sqbTestKey().PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
}
