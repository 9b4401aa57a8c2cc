package chinaums

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// startCGI is an application server that speaks FastCGI: it reads each request whole, writes what answer says to its
// standard output, and ends the request, or, where it dies, just the connection.
func startCGI(t *testing.T, answer func() (stdout string, dies bool)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				if !readCGI(connection) {
					return
				}
				stdout, dies := answer()
				if stdout != "" {
					writeCGI(connection, 6, []byte(stdout))
				}
				if !dies {
					writeCGI(connection, 6, nil)
					writeCGI(connection, 3, make([]byte, 8))
				}
			}()
		}
	}()
	return listener.Addr().String()
}

type recordCGI struct {
	Version, Type   uint8
	ID, Length      uint16
	Padding, Unused uint8
}

// readCGI reads up to the end of the standard input.
func readCGI(r io.Reader) bool {
	in := bufio.NewReader(r)
	for {
		var head recordCGI
		if binary.Read(in, binary.BigEndian, &head) != nil {
			return false
		}
		if _, err := io.CopyN(io.Discard, in, int64(head.Length)+int64(head.Padding)); err != nil {
			return false
		}
		if head.Type == 5 && head.Length == 0 {
			return true
		}
	}
}

func writeCGI(w io.Writer, kind uint8, content []byte) {
	_ = binary.Write(w, binary.BigEndian, recordCGI{Version: 1, Type: kind, ID: 1, Length: uint16(len(content))})
	_, _ = w.Write(content)
}

// TestNotifyToDyingCGI is about an app behind php_fastcgi whose process is killed at work, by the kernel for its memory
// or by FPM for its time. Caddy makes a 200 without a body of that, which must not be taken for the app's word.
func TestNotifyToDyingCGI(t *testing.T) {
	setKeys(t)
	const page = "Content-Type: text/html\r\n\r\n"
	tests := []struct {
		name   string
		stdout string
		dies   bool
		status int
	}{
		{"killed before a byte came", "", true, 502},
		{"ended without a byte", "", false, 502},
		{"taken, nothing said", page, false, 200},
		{"taken, SUCCESS", page + "SUCCESS", false, 200},
		{"taken, 204", "Status: 204 No Content\r\n\r\n", false, 200},
		{"not taken", "Status: 500\r\n" + page, false, 502},
	}
	for _, ack := range []string{"word", "2xx"} {
		for _, test := range tests {
			t.Run(ack+", "+test.name, func(t *testing.T) {
				app := startCGI(t, func() (string, bool) { return test.stdout, test.dies })
				url, log := startNotify(t, "root "+t.TempDir()+"\n\tchinaums_notify {\n\t\tack "+ack+"\n\t}\n\tphp_fastcgi "+app)
				wantWord(t, postNotify(t, url+"/index.php", signedPayment()), test.status)
				if test.stdout == "" && len(log.lines("event not delivered", `"reason":"app_unreachable"`)) == 0 {
					t.Errorf("not logged:\n%s", log)
				}
			})
		}
	}
}
