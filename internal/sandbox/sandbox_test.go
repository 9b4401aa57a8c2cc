package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bench is a sandbox with its server, a merchant that calls it and an address that takes notifies.
type bench struct {
	*ChinaUMS
	t      *testing.T
	keys   Options
	url    string
	number atomic.Int64

	mu       sync.Mutex
	now      time.Time // 0: the real one
	received []received
	answers  []string // of the merchant's notify address; the last one again and again
}

// received is a notify as the merchant got it.
type received struct {
	header http.Header
	body   string
	form   url.Values
}

func newBench(t *testing.T, options Options) *bench {
	t.Helper()
	b := &bench{t: t, answers: []string{"SUCCESS"}}
	if options.Now == nil {
		options.Now = b.clock
	}
	if options.Schedule == nil {
		options.Schedule = []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}
	}
	var err error
	if b.ChinaUMS, err = New(options); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b)
	t.Cleanup(func() {
		b.Close()
		server.Close()
	})
	b.keys, b.url = b.Options(), server.URL
	return b
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now.IsZero() {
		return time.Now()
	}
	return b.now
}

// pass lets time go by on the platform's clock.
func (b *bench) pass(d time.Duration) {
	now := b.clock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = now.Add(d)
}

// merchant serves an address that takes notifies, and answers with the words given.
func (b *bench) merchant(answers ...string) string {
	b.t.Helper()
	if len(answers) > 0 {
		b.answers = answers
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		b.mu.Lock()
		b.received = append(b.received, received{r.Header.Clone(), string(body), form})
		answer := b.answers[0]
		if len(b.answers) > 1 {
			b.answers = b.answers[1:]
		}
		b.mu.Unlock()
		_, _ = io.WriteString(w, answer)
	}))
	b.t.Cleanup(server.Close)
	return server.URL + "/notify"
}

func (b *bench) got() []received {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]received(nil), b.received...)
}

// fresh is an order number of its own.
func (b *bench) fresh() string {
	return fmt.Sprintf("%s20260101%08d", b.keys.SourceCode, b.number.Add(1))
}

// request is a body with what every interface asks for; pairs of names and values are added, nil takes one out.
func (b *bench) request(pairs ...any) map[string]any {
	fields := map[string]any{
		"requestTimestamp": b.clock().In(zone).Format(time.DateTime), "mid": b.keys.MID, "tid": b.keys.TID, "instMid": "APPDEFAULT",
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(fields, pairs[i].(string))
			continue
		}
		fields[pairs[i].(string)] = pairs[i+1]
	}
	return fields
}

// header is a right Authorization for a body.
func (b *bench) header(body []byte) string {
	timestamp, nonce := b.clock().In(zone).Format("20060102150405"), randomHex(16)
	return fmt.Sprintf(`OPEN-BODY-SIG AppId="%s", Timestamp="%s", Nonce="%s", Signature="%s"`,
		b.keys.AppID, timestamp, nonce, bodySignature(b.keys.AppID, b.keys.AppKey, timestamp, nonce, body))
}

// post sends a body.
func (b *bench) post(path, authorization string, body []byte) (*http.Response, []byte, error) {
	req, err := http.NewRequest(http.MethodPost, b.url+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return res, content, err
}

// call signs and sends a request, and reads the answer.
func (b *bench) call(path string, fields map[string]any) map[string]any {
	b.t.Helper()
	body, err := json.Marshal(fields)
	if err != nil {
		b.t.Fatal(err)
	}
	res, content, err := b.post(path, b.header(body), body)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		b.t.Errorf("%s: status %d; business errors have 200", path, res.StatusCode)
	}
	return decode(b.t, content)
}

func decode(t *testing.T, content []byte) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var answer map[string]any
	if err := decoder.Decode(&answer); err != nil {
		t.Fatalf("%q: %v", content, err)
	}
	return answer
}

// want checks fields of an answer; nil means absent.
func want(t *testing.T, answer map[string]any, pairs ...any) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		got, found := answer[pairs[i].(string)]
		if pairs[i+1] == nil {
			if found {
				t.Errorf("%s is %v, should be absent", pairs[i], got)
			}
			continue
		}
		if fmt.Sprint(got) != fmt.Sprint(pairs[i+1]) {
			t.Errorf("%s is %v, not %v (%v)", pairs[i], got, pairs[i+1], answer)
		}
	}
}

// ordered makes an order of 1234 fen.
func (b *bench) ordered(pairs ...any) string {
	b.t.Helper()
	number := b.fresh()
	answer := b.call("/v1/netpay/trade/precreate", b.request(append([]any{"merOrderId", number, "totalAmount", 1234}, pairs...)...))
	want(b.t, answer, "errCode", "SUCCESS", "status", "NEW_ORDER")
	return number
}

// paid makes a paid order of 1234 fen.
func (b *bench) paid(pairs ...any) string {
	b.t.Helper()
	number := b.ordered(pairs...)
	if err := b.Pay(number); err != nil {
		b.t.Fatal(err)
	}
	return number
}

// delivered waits for a notify.
func (b *bench) delivered(number string, kind Kind) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.WaitDelivered(ctx, number, kind); err != nil {
		b.t.Fatal(err)
	}
}

// eventually waits for something that another goroutine brings about.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: waited in vain", what)
		}
	}
}

func parseStamp(t *testing.T, stamp string) time.Time {
	t.Helper()
	at, err := time.ParseInLocation(stampLayout, stamp, zone)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// python runs a program with the arguments, and returns what it prints.
func python(t *testing.T, program string, stdin string) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("python3 is missing, and CHINAUMS_E2E=1 asks for it")
		}
		t.Skip("needs python3, as the independent computation")
	}
	cmd := exec.Command(path, "-c", program)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "PYTHONIOENCODING=utf-8")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func TestOptions(t *testing.T) {
	first, second := newBench(t, Options{}).Options(), newBench(t, Options{}).Options()
	for name, value := range map[string][2]string{
		"AppID": {first.AppID, second.AppID}, "AppKey": {first.AppKey, second.AppKey},
		"NotifyKey": {first.NotifyKey, second.NotifyKey}, "MID": {first.MID, second.MID}, "TID": {first.TID, second.TID},
		"SourceCode": {first.SourceCode, second.SourceCode},
	} {
		if value[0] == "" || value[0] == value[1] {
			t.Errorf("%s is not fresh at each start: %q, %q", name, value[0], value[1])
		}
	}
	if len(first.SourceCode) != 4 || len(first.MID) != 15 || len(first.TID) != 8 {
		t.Errorf("lengths of the documents: %q %q %q", first.SourceCode, first.MID, first.TID)
	}
	given := Options{AppID: "a", AppKey: "b", NotifyKey: "c", MID: "898340149000005", TID: "88880001", SourceCode: "1001"}
	got := newBench(t, given).Options()
	if got.AppID != "a" || got.AppKey != "b" || got.NotifyKey != "c" || got.MID != given.MID || got.TID != given.TID || got.SourceCode != "1001" {
		t.Errorf("options given are not kept: %+v", got)
	}

	for name, bad := range map[string]Options{
		"SourceCode":     {SourceCode: "10011"},
		"AppID":          {AppID: `a"b`},
		"Schedule":       {Schedule: []time.Duration{-1}},
		"Digest":         {Digest: "SM3"},
		"MaxOrders":      {MaxOrders: -1},
		"MaxBody":        {MaxBody: -1},
		"NotifyTimeout ": {NotifyTimeout: -1},
	} {
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
