package faults

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// phpApp writes each event into its book, but for what a broken or slow one would do at first.
const phpApp = `<?php
$body = file_get_contents('php://input');
$id = $_SERVER['HTTP_CE_ID'] ?? '';
$mark = getenv('BOOK') . '.' . md5($id);
$first = !file_exists($mark);
touch($mark);
if ($first && str_starts_with($id, 'slow')) {
    sleep(6);
    exit('SUCCESS');
}
if ($first && str_starts_with($id, 'broken')) {
    throw new Exception('the database is gone');
}
$line = json_encode(['id' => $id, 'body' => base64_encode($body), 'server' => $_SERVER]);
file_put_contents(getenv('BOOK'), $line . "\n", FILE_APPEND | LOCK_EX);
echo "SUCCESS\n";
`

// TestDeliveredToPHP delivers through php_fastcgi to a real PHP-FPM: body and headers as they came, slow and broken
// scripts are tried again.
func TestDeliveredToPHP(t *testing.T) {
	t.Parallel()
	needBinary(t)
	fpm := needTool(t, "php-fpm", "/usr/sbin/php-fpm*", "/usr/local/sbin/php-fpm*")
	directory, err := os.MkdirTemp("", "fpm") // a short path: a socket's may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	socket, book, web := filepath.Join(directory, "fpm.sock"), filepath.Join(directory, "book"), filepath.Join(directory, "web")
	config := filepath.Join(directory, "fpm.conf")
	if err := os.Mkdir(web, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		filepath.Join(web, "notify.php"): phpApp,
		config: "[global]\nerror_log = " + directory + "/fpm.log\ndaemonize = no\n[app]\nlisten = " + socket +
			"\npm = static\npm.max_children = 4\nclear_env = no\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	arguments := []string{"-n", "-F", "-y", config}
	if os.Geteuid() == 0 {
		arguments = append(arguments, "-R")
	}
	start := func() *exec.Cmd {
		command := exec.Command(fpm, arguments...)
		command.Env = append(os.Environ(), "BOOK="+book)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		return command
	}
	running := start()
	stop := func() {
		_ = running.Process.Signal(os.Interrupt)
		_ = running.Wait()
	}
	t.Cleanup(func() { stop() })
	within(t, 2*time.Minute, "PHP-FPM", func() bool {
		connection, err := net.Dial("unix", socket)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	})

	g := newGateway(t, "gateway", "", `inbox {
	retry 200ms
	timeout 10s
	deliver {
		root `+web+`
		php_fastcgi unix/`+socket+` {
			read_timeout 4s
		}
	}
}`)
	g.start()
	binary := make([]byte, 100<<10)
	for i := range binary {
		binary[i] = byte(i * 7)
	}
	sent := map[string]string{"plain": bodyOf("plain"), "slow1": bodyOf("slow1"), "broken1": bodyOf("broken1"), "binary": string(binary), "down": bodyOf("down")}
	put := func(id string) {
		t.Helper()
		status, answer, err := post(plainClient, http.MethodPost, "http://"+g.address+"/notify.php?a=b%20c&d=%E4%B8%AD", sent[id],
			"Content-Type: application/x-own", "Ce-Source: /test", "Ce-Id: "+id, "Ce-Subject: %E8%AE%A2%E5%8D%95", "X-Many: 1", "X-Many: 2", "User-Agent: sender/1.0")
		if status != http.StatusAccepted || err != nil {
			t.Errorf("%s: %d %s, %v", id, status, answer, err)
		}
	}
	for _, id := range []string{"plain", "slow1", "broken1", "binary"} {
		put(id)
	}
	g.wantCount("default", "delivered", 4)

	// FPM away for a while, and back.
	stop()
	put("down")
	within(t, 2*time.Minute, "an attempt", func() bool { return strings.Contains(g.log.String(), socket) })
	running = start()
	g.wantCount("default", "delivered", 5)

	content, err := os.ReadFile(book)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for line := range strings.Lines(string(content)) {
		var entry struct {
			ID, Body string
			Server   map[string]any
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		seen[entry.ID]++
		body, err := base64.StdEncoding.DecodeString(entry.Body)
		if err != nil || string(body) != sent[entry.ID] {
			t.Errorf("%s: body of %d bytes, want %d; %v", entry.ID, len(body), len(sent[entry.ID]), err)
		}
		for name, want := range map[string]string{
			"REQUEST_METHOD": "POST", "REQUEST_URI": "/notify.php?a=b%20c&d=%E4%B8%AD", "QUERY_STRING": "a=b%20c&d=%E4%B8%AD",
			"CONTENT_TYPE": "application/x-own", "HTTP_CE_SOURCE": "/test", "HTTP_CE_SUBJECT": "%E8%AE%A2%E5%8D%95",
			"HTTP_X_MANY": "1, 2", "HTTP_USER_AGENT": "sender/1.0", "HTTP_HOST": g.address, "REMOTE_ADDR": "127.0.0.1",
		} {
			if entry.Server[name] != want {
				t.Errorf("%s: %s is %v, want %s", entry.ID, name, entry.Server[name], want)
			}
		}
	}
	for id := range sent {
		if seen[id] != 1 {
			t.Errorf("%s is in the app's book %d times, want once", id, seen[id])
		}
	}
}
