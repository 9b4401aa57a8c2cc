package body

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func TestRead(t *testing.T) {
	broken := errors.New("broken")
	cases := []struct {
		name             string
		size             int
		announced, limit int64
		err              error
	}{
		{"empty, announced", 0, 0, 10, nil},
		{"empty, of unknown length", 0, -1, 10, nil},
		{"as announced", 10, 10, 100, nil},
		{"of unknown length", 10, -1, 100, nil},
		{"exactly the limit, announced", 1 << 20, 1 << 20, 1 << 20, nil},
		{"exactly the limit, of unknown length", 1 << 20, -1, 1 << 20, nil},
		{"one too many, announced", 101, 101, 100, ErrTooLarge},
		{"one too many, of unknown length", 101, -1, 100, ErrTooLarge},
		{"much too many, of unknown length", 1 << 20, -1, 100, ErrTooLarge},
		{"less than announced", 9, 10, 100, io.ErrUnexpectedEOF},
		{"nothing of what was announced", 0, 10, 100, io.ErrUnexpectedEOF},
		{"more than announced", 11, 10, 100, io.ErrUnexpectedEOF},
		{"much more than announced", 50, 10, 100, io.ErrUnexpectedEOF},
		{"around the first read", firstRead, -1, 1 << 20, nil},
		{"one more than the first read", firstRead + 1, -1, 1 << 20, nil},
		{"one more than the first read, announced", firstRead + 1, firstRead + 1, 1 << 20, nil},
		{"broken off", 50, 100, 1 << 20, broken},
		{"http.MaxBytesReader around it", 50, -1, 1 << 20, ErrTooLarge},
	}
	for _, c := range cases {
		for _, way := range []struct {
			name string
			wrap func(io.Reader) io.Reader
		}{
			{"whole", func(r io.Reader) io.Reader { return r }},
			{"halves", iotest.HalfReader},
			{"with the end", iotest.DataErrReader},
		} {
			t.Run(c.name+", "+way.name, func(t *testing.T) {
				want := bytes.Repeat([]byte("0123456789abcdef"), c.size/16+1)[:c.size]
				r := way.wrap(bytes.NewReader(want))
				switch {
				case errors.Is(c.err, broken):
					r = io.MultiReader(r, iotest.ErrReader(broken))
				case strings.HasPrefix(c.name, "http.MaxBytesReader"):
					r = http.MaxBytesReader(nil, io.NopCloser(r), 10)
				}
				got, err := Read(r, c.announced, c.limit)
				if !errors.Is(err, c.err) {
					t.Fatalf("error %v, not %v", err, c.err)
				}
				if err == nil && !bytes.Equal(got, want) {
					t.Errorf("%d bytes, not the %d that came", len(got), len(want))
				}
				if int64(cap(got)) > 2*c.limit+firstRead {
					t.Errorf("%d bytes set aside", cap(got))
				}
			})
		}
	}
}

// TestReadPooled: the body is what came, of whatever size, and a buffer that was given back is nobody's any more.
func TestReadPooled(t *testing.T) {
	for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, 64 * firstRead, 1 << 20, 3 << 20} {
		for round := range 3 {
			text := bytes.Repeat([]byte{byte('a' + round)}, size)
			first, err := ReadPooled(bytes.NewReader(text), int64(size), 4<<20)
			if err != nil || !bytes.Equal(first.Bytes, text) {
				t.Fatalf("%d bytes: %d, %v", size, len(first.Bytes), err)
			}
			other, err := ReadPooled(iotest.HalfReader(strings.NewReader(strings.Repeat("z", size))), -1, 4<<20)
			if err != nil || !bytes.Equal(first.Bytes, text) || len(other.Bytes) != size {
				t.Fatalf("%d bytes, another body in the same buffer: %v", size, err)
			}
			first.Release()
			other.Release()
			first.Release() // once more does no harm
		}
	}
	for _, err := range []error{ErrTooLarge, io.ErrUnexpectedEOF} {
		announced := map[error]int64{ErrTooLarge: -1, io.ErrUnexpectedEOF: 101}[err]
		got, failed := ReadPooled(strings.NewReader(strings.Repeat("x", 100)), announced, map[error]int64{ErrTooLarge: 99, io.ErrUnexpectedEOF: 200}[err])
		if !errors.Is(failed, err) || got.Bytes != nil {
			t.Errorf("%v, not %v", failed, err)
		}
	}
}

func TestSet(t *testing.T) {
	r := httptest.NewRequest("POST", "/", strings.NewReader("old"))
	r.TransferEncoding, r.Trailer, r.ContentLength = []string{"chunked"}, http.Header{"X": nil}, -1
	SetContent(r, strings.NewReader("new text"))
	got, err := io.ReadAll(r.Body)
	if err != nil || string(got) != "new text" || r.ContentLength != 8 || r.TransferEncoding != nil || r.Trailer != nil {
		t.Errorf("%q, %v, %+v", got, err, r)
	}
}

// TestSlowRequest: a slow client is refused when patience ends. The deadline does not remain on the connection, where it
// would cut off the next request of a fast client.
func TestSlowRequest(t *testing.T) {
	result := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := ReadRequest(w, r, 100, 50*time.Millisecond)
		result <- err
	}))
	defer server.Close()
	body, client := io.Pipe()
	defer client.Close()
	go func() { _, _ = client.Write([]byte("a")) }()
	go func() {
		if res, err := http.Post(server.URL, "text/plain", body); err == nil {
			res.Body.Close()
		}
	}()
	var netErr interface{ Timeout() bool }
	if err := <-result; !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Fatalf("a body that does not come: %v", err)
	}
}

// held opens many requests that announce size bytes, send sent and stop, and returns by how much the heap grew while
// they all wait in ReadRequest.
func held(tb testing.TB, clients int, size, sent int64, pooled bool) int64 {
	tb.Helper()
	var before, during runtime.MemStats
	waiting := make(chan struct{}, clients)
	var done sync.WaitGroup
	runtime.GC()
	runtime.ReadMemStats(&before)
	release := make(chan struct{})
	for range clients {
		done.Add(1)
		go func() {
			defer done.Done()
			r := httptest.NewRequest("POST", "/", &stuck{left: sent, waiting: waiting, release: release})
			r.ContentLength = size
			if pooled {
				_, _ = ReadRequestPooled(httptest.NewRecorder(), r, size, time.Minute)
				return
			}
			_, _ = ReadRequest(httptest.NewRecorder(), r, size, time.Minute)
		}()
	}
	for range clients {
		<-waiting
	}
	runtime.GC()
	runtime.ReadMemStats(&during)
	close(release)
	done.Wait()
	return int64(during.HeapAlloc) - int64(before.HeapAlloc)
}

// stuck is a body that delivers left bytes, and then nothing until release.
type stuck struct {
	left    int64
	waiting chan<- struct{}
	release <-chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	if s.left == 0 {
		s.waiting <- struct{}{}
		<-s.release
		return 0, io.ErrUnexpectedEOF
	}
	n := min(s.left, int64(len(p)))
	s.left -= n
	return int(n), nil
}

// TestSlowClientsHoldLittle: a thousand clients who each announce 1 MiB and send almost nothing take memory for what they
// have sent, and not a gigabyte.
func TestSlowClientsHoldLittle(t *testing.T) {
	const clients, size = 1000, 1 << 20
	for _, c := range []struct {
		sent, most int64
	}{{0, 16 << 20}, {100, 16 << 20}, {10 << 10, 40 << 20}} {
		for _, pooled := range []bool{false, true} {
			grown := held(t, clients, size, c.sent, pooled)
			t.Logf("%d clients announced %d MiB, sent %d KiB, pooled %v: the heap grew by %d KiB", clients, clients*size>>20, clients*c.sent>>10, pooled, grown>>10)
			if grown > c.most {
				t.Errorf("the heap grew by %d bytes", grown)
			}
		}
	}
}

// TestHalfSentHoldsLittle: a large body gets its last buffer when an eighth of it is there, and not before.
func TestHalfSentHoldsLittle(t *testing.T) {
	const clients = 40
	for sent, most := range map[int64]int64{16*firstRead - 1: 32 * firstRead, 16*firstRead + 1: 192 * firstRead} {
		if grown := held(t, clients, 1<<20, sent, true); grown > clients*most {
			t.Errorf("%d bytes of each have come: the heap grew by %d bytes", sent, grown)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 1 << 20} {
		text := make([]byte, size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := Read(bytes.NewReader(text), int64(size), 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("abc"), int64(3), int64(10), 2)
	f.Add([]byte(""), int64(-1), int64(0), 1)
	f.Add([]byte("longer"), int64(0), int64(10), 51)
	f.Add([]byte("longer"), int64(3), int64(10), 1)
	f.Fuzz(func(t *testing.T, text []byte, announced, limit int64, chunk int) {
		if limit < 0 || announced < -1 || chunk < 1 {
			return
		}
		limit %= 1 << 16
		got, err := Read(&chunked{text, chunk}, announced, limit)
		ok := int64(len(text)) <= limit && (announced == -1 || announced == int64(len(text)))
		if ok != (err == nil) || ok && !bytes.Equal(got, text) {
			t.Errorf("%d bytes, announced %d, limit %d: %d bytes, %v", len(text), announced, limit, len(got), err)
		}
	})
}

type chunked struct {
	text  []byte
	chunk int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.chunk)], c.text)
	c.text = c.text[n:]
	return n, nil
}
