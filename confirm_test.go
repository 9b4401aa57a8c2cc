package chinaums

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
)

// queried is one query as the platform got it.
type queried struct {
	path string
	body map[string]string
}

// fakePlatform answers queries as a test says, and checks every signature with an implementation of its own.
type fakePlatform struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request, asked queried)

	mu  sync.Mutex
	got []queried
}

var bodySigHeader = regexp.MustCompile(`^OPEN-BODY-SIG AppId="([^"]+)", Timestamp="(\d{14})", Nonce="([0-9a-f]{32})", Signature="([^"]+)"$`)

// referenceBodySig is the document's formula, written a second time.
func referenceBodySig(appID, timestamp, nonce, body, appKey string) string {
	mac := hmac.New(sha256.New, []byte(appKey))
	fmt.Fprintf(mac, "%s%s%s%x", appID, timestamp, nonce, sha256.Sum256([]byte(body)))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func newFakePlatform(t testing.TB) *fakePlatform {
	p := new(fakePlatform)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		asked := queried{path: r.URL.RequestURI()}
		parts := bodySigHeader.FindStringSubmatch(r.Header.Get("Authorization"))
		switch {
		case r.Method != "POST" || r.Header.Get("Content-Type") != "application/json":
			t.Errorf("%s %s, Content-Type %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		case len(parts) == 0 || parts[1] != testAppID || parts[4] != referenceBodySig(parts[1], parts[2], parts[3], string(content), testAppKey):
			t.Errorf("wrong signature: %s", r.Header.Get("Authorization"))
		case json.Unmarshal(content, &asked.body) != nil:
			t.Errorf("body: %s", content)
		}
		p.mu.Lock()
		p.got = append(p.got, asked)
		answer := p.answer
		p.mu.Unlock()
		answer(w, r, asked)
	}))
	t.Cleanup(p.Close)
	return p
}

// says makes the platform answer every query with these fields.
func (p *fakePlatform) says(fields string) {
	p.answers(func(w http.ResponseWriter, _ *http.Request, _ queried) { io.WriteString(w, fields) })
}

func (p *fakePlatform) answers(answer func(http.ResponseWriter, *http.Request, queried)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

// asked returns the queries since the last call.
func (p *fakePlatform) asked() []queried {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	return got
}

// startConfirm runs Caddy with a merchant who asks the platform. What was asked before is forgotten.
func startConfirm(t testing.TB, platform, appURL, options string) (url string, log *logged) {
	t.Helper()
	setKeys(t)
	confirming = newConfirmer() // an earlier test's platform may have had this address
	address := freeAddress(t)
	log = startCaddy(t, merchantOptions(platform)+notifySite(address, "chinaums_notify {\n\t\tconfirm\n\t\t"+options+"\n\t}\n\treverse_proxy "+appURL))
	return "http://" + address + "/notify", log
}

// confirmClock is the running confirmer's clock, which stands still unless a test moves it.
type confirmClock struct {
	mu  sync.Mutex
	now time.Time
}

// stopClock stops the clock of the running confirmer.
func stopClock(t testing.TB) *confirmClock {
	t.Helper()
	c := &confirmClock{now: time.Now()}
	set := func(now func() time.Time) {
		confirming.mu.Lock()
		defer confirming.mu.Unlock()
		confirming.now = now
	}
	t.Cleanup(func() { set(time.Now) })
	set(func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now })
	return c
}

func (c *confirmClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// signedOrder is a small payment notify.
func signedOrder(changes ...referenceField) string {
	fields := referenceFields{{"mid", "898"}, {"tid", "1"}, {"instMid", "APPDEFAULT"}, {"merOrderId", "327M1"}, {"totalAmount", "100"}, {"status", "TRADE_SUCCESS"}, {"notifyId", "n-1"}}
	return changed(fields, changes...).signedForm(testNotifyKey, digestSHA256)
}

func TestConfirmCompares(t *testing.T) {
	type f = referenceField
	platform := newFakePlatform(t)
	app := newMerchantApp(t, nil)
	url, log := startConfirm(t, platform.URL, app.URL, "")
	refund := []f{{"status", "TRADE_REFUND"}, {"refundOrderId", "R1"}, {"refundAmount", "40"}, {"refundStatus", "SUCCESS"}}
	bill := []f{{"status", ""}, {"merOrderId", ""}, {"billNo", "B1"}, {"billDate", "2024-01-02"}, {"billStatus", "PAID"}}
	with := func(base []f, more ...f) []f { return append(append([]f{}, base...), more...) }
	clock := stopClock(t)
	for name, test := range map[string]struct {
		changes []f
		answer  string // without the braces
		status  int
		want    string // Ce-Confirmed or, of a refusal, the reason
		path    string // "" for /v1/netpay/query
	}{
		"agreement":                     {nil, `"errCode":"SUCCESS","mid":"898","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 200, "true", ""},
		"agreement, amount as text":     {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":"100"`, 200, "true", ""},
		"agreement, two amounts alike":  {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"totalAmount":"100"`, 200, "true", ""},
		"SUCCESS is TRADE_SUCCESS":      {[]f{{"status", "SUCCESS"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 200, "true", ""},
		"success, the other way":        {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"success","totalAmount":100`, 200, "true", ""},
		"closed":                        {[]f{{"status", "TRADE_CLOSED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100`, 200, "true", ""},
		"unknown word, the same":        {[]f{{"status", "ODD"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"ODD","totalAmount":100`, 200, "true", ""},
		"later: paid":                   {[]f{{"status", "WAIT_BUYER_PAY"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 200, "superseded", ""},
		"later: closed":                 {[]f{{"status", "NEW_ORDER"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100`, 200, "superseded", ""},
		"later: refunded":               {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_REFUND","totalAmount":100`, 200, "superseded", ""},
		"later: REFUND":                 {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"REFUND","totalAmount":100`, 200, "superseded", ""},
		"later: refunded whole":         {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100,"refundAmount":100`, 200, "superseded", ""},
		"another amount":                {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":1`, 409, "contradicted", ""},
		"another order":                 {nil, `"errCode":"SUCCESS","merOrderId":"327M2","status":"TRADE_SUCCESS","totalAmount":100`, 409, "contradicted", ""},
		"another mid":                   {nil, `"errCode":"SUCCESS","mid":"899","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 409, "contradicted", ""},
		"never paid":                    {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100`, 409, "contradicted", ""},
		"never paid, nothing paid back": {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100,"refundAmount":0`, 409, "contradicted", ""},
		"not paid yet":                  {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"WAIT_BUYER_PAY","totalAmount":100`, 409, "contradicted", ""},
		"new":                           {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"NEW_ORDER","totalAmount":100`, 409, "contradicted", ""},
		"closed, but paid":              {[]f{{"status", "TRADE_CLOSED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 409, "contradicted", ""},
		"no such order":                 {nil, `"errCode":"NO_ORDER"`, 409, "contradicted", ""},
		"status UNKNOWN":                {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"UNKNOWN","totalAmount":100`, 503, "not_comparable", ""},
		"status of a new word":          {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"ODD","totalAmount":100`, 503, "not_comparable", ""},
		"no status":                     {nil, `"errCode":"SUCCESS","merOrderId":"327M1","totalAmount":100`, 503, "not_comparable", ""},
		"empty status":                  {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"","totalAmount":100`, 503, "not_comparable", ""},
		"no amount":                     {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS"`, 503, "not_comparable", ""},
		"amount of yuan":                {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":1.00`, 503, "not_comparable", ""},
		"two amounts that differ":       {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"totalAmount":1`, 503, "not_comparable", ""},
		"amount as an object":           {nil, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":{"v":100}`, 503, "not_comparable", ""},
		"no order in the answer":        {nil, `"errCode":"SUCCESS","status":"TRADE_SUCCESS","totalAmount":100`, 503, "not_comparable", ""},
		"no order in the notify":        {[]f{{"merOrderId", ""}}, `"errCode":"SUCCESS"`, 503, "not_comparable", "nobody is asked"},
		"an error of the platform":      {nil, `"errCode":"INTERNAL_ERROR"`, 503, "not_answered", ""},
		"a signature that it refuses":   {nil, `"errCode":"BAD_SIGN"`, 503, "not_answered", ""},
		"no errCode":                    {nil, `"merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 503, "not_answered", ""},

		"guarantee":                      {[]f{{"secureStatus", "ALL_COMPLETED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"ALL_COMPLETED"`, 200, "true", ""},
		"guarantee, later":               {[]f{{"secureStatus", "UNCOMPLETED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"CANCELED"`, 200, "superseded", ""},
		"guarantee, the answer has none": {[]f{{"secureStatus", "ALL_COMPLETED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 503, "not_comparable", ""},
		"guarantee, an unknown word":     {[]f{{"secureStatus", "ALL_COMPLETED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"ODD"`, 503, "not_comparable", ""},
		"guarantee, its amount":          {[]f{{"secureStatus", "ALL_COMPLETED"}, {"completeAmount", "60"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"ALL_COMPLETED","completedAmount":"60"`, 200, "true", ""},
		"guarantee, another amount":      {[]f{{"secureStatus", "ALL_COMPLETED"}, {"completeAmount", "60"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"ALL_COMPLETED","completeAmount":61`, 409, "contradicted", ""},
		"guarantee, no amount":           {[]f{{"secureStatus", "ALL_COMPLETED"}, {"completeAmount", "60"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"ALL_COMPLETED"`, 503, "not_comparable", ""},
		"guarantee, contradicted":        {[]f{{"secureStatus", "ALL_COMPLETED"}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"CANCELED"`, 409, "contradicted", ""},
		"deduction":                      {[]f{{"contractId", "C1"}, {"instMid", ""}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"contractId":"C1"`, 200, "true", ""},
		"deduction, another contract":    {[]f{{"contractId", "C1"}, {"instMid", ""}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"contractId":"C2"`, 409, "contradicted", ""},
		"deduction, no contract":         {[]f{{"contractId", "C1"}, {"instMid", ""}}, `"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100`, 503, "not_comparable", ""},

		"refund":                        {refund, `"errCode":"SUCCESS","merOrderId":"327M1","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":"40","totalAmount":100`, 200, "true", pathRefundQuery},
		"refund, the number echoed":     {refund, `"errCode":"SUCCESS","merOrderId":"R1","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40`, 200, "true", pathRefundQuery},
		"refund, sendBackAmount":        {refund, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"SUCCESS","sendBackAmount":"40"`, 200, "true", pathRefundQuery},
		"refund by its target's number": {[]f{{"refundTargetOrderId", "T1"}, {"refundAmount", "40"}, {"refundPayTime", "2024-01-02 03:04:05"}}, `"errCode":"SUCCESS","refundOrderId":"R1","refundTargetOrderId":"T1","refundStatus":"SUCCESS","refundAmount":40`, 200, "true", pathRefundQuery},
		"refund by its external number": {[]f{{"refundExtOrderId", "R1"}, {"status", "TRADE_REFUND"}, {"refundAmount", "40"}, {"refundPayTime", "2024-01-02 03:04:05"}}, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40`, 200, "true", pathRefundQuery},
		"refund, later":                 {with(refund, f{"refundStatus", "PROCESSING"}), `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40`, 200, "superseded", pathRefundQuery},
		"refund, later failed":          {with(refund, f{"refundStatus", "UNKNOWN"}), `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"FAIL","refundAmount":40`, 200, "superseded", pathRefundQuery},
		"refund, another amount":        {refund, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":41`, 409, "contradicted", pathRefundQuery},
		"refund, another order":         {refund, `"errCode":"SUCCESS","merOrderId":"327M2","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40`, 409, "contradicted", pathRefundQuery},
		"refund, the order's amount":    {refund, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40,"totalAmount":99`, 409, "contradicted", pathRefundQuery},
		"refund, failed":                {refund, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"FAIL","refundAmount":40`, 409, "contradicted", pathRefundQuery},
		"refund, not yet":               {refund, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"PROCESSING","refundAmount":40`, 409, "contradicted", pathRefundQuery},
		"refund, another refund":        {refund, `"errCode":"SUCCESS","refundOrderId":"R2","refundStatus":"SUCCESS","refundAmount":40`, 409, "contradicted", "two queries"},
		"refund, empty refundStatus":    {refund, `"errCode":"SUCCESS","refundOrderId":"R1","status":"TRADE_SUCCESS","refundStatus":"","refundAmount":40`, 503, "not_comparable", pathRefundQuery},
		"refund, status alone":          {refund, `"errCode":"SUCCESS","refundOrderId":"R1","status":"TRADE_REFUND","refundAmount":40`, 503, "not_comparable", pathRefundQuery},
		"refund, no number in it":       {refund, `"errCode":"SUCCESS","refundStatus":"SUCCESS","refundAmount":40`, 503, "not_comparable", "two queries"},
		"refund, the number of its id":  {with(refund, f{"refundTargetOrderId", "T1"}), `"errCode":"SUCCESS","refundTargetOrderId":"T1","refundStatus":"SUCCESS","refundAmount":40`, 503, "not_comparable", "two queries"},
		"refund, no amount in it":       {refund, `"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"SUCCESS"`, 503, "not_comparable", pathRefundQuery},
		"refund, nothing known of it":   {refund, `"errCode":"NO_ORDER"`, 409, "contradicted", "two queries"},

		"bill":                  {bill, `"errCode":"SUCCESS","billNo":"B1","billDate":"2024-01-02","billStatus":"PAID","totalAmount":100`, 200, "true", pathBillQuery},
		"bill, later":           {bill, `"errCode":"SUCCESS","billNo":"B1","billStatus":"REFUND","totalAmount":100`, 200, "superseded", pathBillQuery},
		"bill, unpaid":          {bill, `"errCode":"SUCCESS","billNo":"B1","billStatus":"UNPAID","totalAmount":100`, 409, "contradicted", pathBillQuery},
		"bill, closed":          {bill, `"errCode":"SUCCESS","billNo":"B1","billStatus":"CLOSED","totalAmount":100`, 409, "contradicted", pathBillQuery},
		"bill, another amount":  {bill, `"errCode":"SUCCESS","billNo":"B1","billStatus":"PAID","totalAmount":101`, 409, "contradicted", pathBillQuery},
		"bill, another bill":    {bill, `"errCode":"SUCCESS","billNo":"B2","billStatus":"PAID","totalAmount":100`, 409, "contradicted", pathBillQuery},
		"bill, another day":     {bill, `"errCode":"SUCCESS","billNo":"B1","billDate":"2024-01-03","billStatus":"PAID","totalAmount":100`, 409, "contradicted", pathBillQuery},
		"a number of two words": {[]f{{"merOrderId", "327M1&x=1"}}, `"errCode":"SUCCESS"`, 503, "not_comparable", "nobody is asked"},
		"a tid of two words":    {[]f{{"tid", "1&x=1"}}, `"errCode":"SUCCESS"`, 503, "not_comparable", "nobody is asked"},
		"bill, no number":       {with(bill, f{"billNo", ""}), `"errCode":"SUCCESS"`, 503, "not_comparable", "nobody is asked"},
	} {
		t.Run(name, func(t *testing.T) {
			clock.pass(time.Minute) // every case is a question of its own
			platform.says("{" + test.answer + "}")
			wantWord(t, postNotify(t, url, signedOrder(test.changes...)), test.status)
			asked := platform.asked()
			switch test.path {
			case "nobody is asked":
				if len(asked) != 0 {
					t.Errorf("asked: %v", asked)
				}
			case "two queries":
				if len(asked) != 2 {
					t.Errorf("asked: %v", asked)
				}
			default:
				path := test.path
				if path == "" {
					path = pathQuery
				}
				if len(asked) != 1 || asked[0].path != path {
					t.Errorf("asked: %v, want %s", asked, path)
				}
			}
			seen := app.seen()
			if test.status != 200 {
				if len(seen) != 0 {
					t.Error("the app saw it")
				}
				if len(log.lines(`"level":"warn"`, "notify rejected", `"reason":"`+test.want+`"`)) == 0 {
					t.Errorf("the log does not say %s", test.want)
				}
				return
			}
			if len(seen) != 1 || len(seen[0].header["Ce-Confirmed"]) != 1 || seen[0].header.Get("Ce-Confirmed") != test.want {
				t.Errorf("the app saw %+v, want Ce-Confirmed: %s", seen, test.want)
			}
			if len(seen) == 1 && len(seen[0].header.Get("Ce-Id")) != 32 {
				t.Errorf("Ce-Id: %s", seen[0].header.Get("Ce-Id"))
			}
		})
	}
}

// TestConfirmAsks: what the platform is asked.
func TestConfirmAsks(t *testing.T) {
	platform := newFakePlatform(t)
	platform.says(`{"errCode":"NO_ORDER"}`)
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	for name, test := range map[string]struct {
		changes []referenceField
		want    []queried
	}{
		"payment": {nil, []queried{{pathQuery, map[string]string{"mid": "898", "tid": "1", "instMid": "APPDEFAULT", "merOrderId": "327M1"}}}},
		"refund, first by its own number, then by its order's": {[]referenceField{{"refundOrderId", "R1"}}, []queried{
			{pathRefundQuery, map[string]string{"mid": "898", "tid": "1", "instMid": "APPDEFAULT", "merOrderId": "R1"}},
			{pathRefundQuery, map[string]string{"mid": "898", "tid": "1", "instMid": "APPDEFAULT", "merOrderId": "327M1"}},
		}},
		"bill": {[]referenceField{{"billStatus", "PAID"}, {"billNo", "B1"}, {"billDate", "2024-01-02"}}, []queried{
			{pathBillQuery, map[string]string{"mid": "898", "tid": "1", "instMid": "APPDEFAULT", "billNo": "B1", "billDate": "2024-01-02"}},
		}},
		"deduction": {[]referenceField{{"contractId", "1"}, {"instMid", ""}, {"tid", ""}, {"merOrderId", "327M2"}}, []queried{{pathQuery, map[string]string{"mid": "898", "merOrderId": "327M2"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			wantWord(t, postNotify(t, url, signedOrder(test.changes...)), 409)
			asked := platform.asked()
			for i := range asked {
				at, err := time.ParseInLocation("2006-01-02 15:04:05", asked[i].body["requestTimestamp"], time.FixedZone("", 8*3600))
				if err != nil || time.Since(at).Abs() > time.Minute {
					t.Errorf("requestTimestamp: %s", asked[i].body["requestTimestamp"])
				}
				if len(asked[i].body["msgId"]) != 32 {
					t.Errorf("msgId: %s", asked[i].body["msgId"])
				}
				delete(asked[i].body, "requestTimestamp")
				delete(asked[i].body, "msgId")
			}
			if fmt.Sprint(asked) != fmt.Sprint(test.want) {
				t.Errorf("asked %v, want %v", asked, test.want)
			}
		})
	}
}

// TestConfirmLearnsTheRefundsNumber: a platform that wants the order's number is asked so first the next time.
func TestConfirmLearnsTheRefundsNumber(t *testing.T) {
	platform := newFakePlatform(t)
	platform.answers(func(w http.ResponseWriter, _ *http.Request, asked queried) {
		if asked.body["merOrderId"] != "327M1" {
			io.WriteString(w, `{"errCode":"NO_ORDER"}`)
			return
		}
		io.WriteString(w, `{"errCode":"SUCCESS","merOrderId":"327M1","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40}`)
	})
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	clock := stopClock(t)
	for i, queries := range []int{2, 1, 1} {
		clock.pass(time.Minute)
		wantWord(t, postNotify(t, url, signedOrder(referenceField{"refundOrderId", "R1"}, referenceField{"refundAmount", "40"},
			referenceField{"refundStatus", "SUCCESS"})), 200)
		if asked := platform.asked(); len(asked) != queries {
			t.Errorf("refund %d: asked %v, want %d queries", i, asked, queries)
		}
	}
}

// TestConfirmFailures: a platform that is slow, dead, or talks nonsense confirms nothing.
func TestConfirmFailures(t *testing.T) {
	good := `{"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100}`
	sign := func(w http.ResponseWriter, key, body string) {
		w.Header().Set("Authorization", fmt.Sprintf(`OPEN-BODY-SIG AppId="%s", Timestamp="20240102030405", Nonce="ab", Signature="%s"`,
			testAppID, referenceBodySig(testAppID, "20240102030405", "ab", body, key)))
		io.WriteString(w, body)
	}
	release := make(chan struct{})
	defer close(release)
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, queried)
		status int
	}{
		"signed":         {func(w http.ResponseWriter, _ *http.Request, _ queried) { sign(w, testAppKey, good) }, 200},
		"falsely signed": {func(w http.ResponseWriter, _ *http.Request, _ queried) { sign(w, "another", good) }, 503},
		"slow": {func(_ http.ResponseWriter, r *http.Request, _ queried) {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}, 503},
		"slow in the middle": {func(w http.ResponseWriter, r *http.Request, _ queried) {
			io.WriteString(w, good[:20])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}, 503},
		"cut": {func(http.ResponseWriter, *http.Request, queried) { panic(http.ErrAbortHandler) }, 503},
		"cut in the middle": {func(w http.ResponseWriter, _ *http.Request, _ queried) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, good)
		}, 503},
		"an error, good words": {func(w http.ResponseWriter, _ *http.Request, _ queried) {
			w.WriteHeader(500)
			io.WriteString(w, good)
		}, 503},
		"a redirect": {func(w http.ResponseWriter, r *http.Request, _ queried) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 503},
		"HTML":           {func(w http.ResponseWriter, _ *http.Request, _ queried) { io.WriteString(w, "<html>") }, 503},
		"an array":       {func(w http.ResponseWriter, _ *http.Request, _ queried) { io.WriteString(w, "["+good+"]") }, 503},
		"two objects":    {func(w http.ResponseWriter, _ *http.Request, _ queried) { io.WriteString(w, good+good) }, 503},
		"half an object": {func(w http.ResponseWriter, _ *http.Request, _ queried) { io.WriteString(w, good[:len(good)-1]) }, 503},
		"nothing":        {func(http.ResponseWriter, *http.Request, queried) {}, 503},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request, _ queried) {
			connection, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer connection.Close()
			io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: Signature=\r\n\r\n") // which must not be in the log
		}, 503},
		"too large": {func(w http.ResponseWriter, _ *http.Request, _ queried) {
			io.WriteString(w, good[:len(good)-1]+`,"x":"`+strings.Repeat("x", maxConfirmAnswer)+`"}`)
		}, 503},
	} {
		t.Run(name, func(t *testing.T) {
			platform := newFakePlatform(t)
			platform.answers(test.answer)
			app := newMerchantApp(t, nil)
			timeouts := []string{"1m"}
			if strings.HasPrefix(name, "slow") {
				timeouts = []string{"1s", "5s", "25s"} // a busy machine may not reach the platform in the first
			}
			var log *logged
			var asked []queried
			for ; len(timeouts) > 0 && len(asked) == 0; timeouts = timeouts[1:] {
				var url string
				url, log = startConfirm(t, platform.URL, app.URL, "timeout "+timeouts[0])
				wantWord(t, postNotify(t, url, signedOrder()), test.status)
				asked = platform.asked()
			}
			if seen := app.seen(); (len(seen) == 1) != (test.status == 200) {
				t.Errorf("the app saw %d", len(seen))
			}
			if len(asked) != 1 {
				t.Errorf("asked %v", asked)
			}
			if test.status == 200 {
				return
			}
			if len(log.lines(`"level":"warn"`, "notify rejected", `"reason":"not_answered"`)) != 1 {
				t.Error("not logged")
			}
			labels := map[string]string{"merchant": "shop", "type": "", "result": "rejected", "reason": "not_answered"}
			if got := metricValue(t, "caddy_chinaums_notifies_total", labels); got != 1 {
				t.Errorf("notifies_total is %v", got)
			}
			for _, secret := range []string{testAppKey, testNotifyKey, "Signature="} {
				if strings.Contains(log.String(), secret) {
					t.Errorf("the log holds %q", secret)
				}
			}
		})
	}
	t.Run("dead", func(t *testing.T) {
		app := newMerchantApp(t, nil)
		url, _ := startConfirm(t, "http://"+freeAddress(t), app.URL, "")
		wantWord(t, postNotify(t, url, signedOrder()), 503)
		if len(app.seen()) != 0 {
			t.Error("the app saw it")
		}
	})
}

// TestConfirmFalseNotifies: what is false without the platform is not worth a query.
func TestConfirmFalseNotifies(t *testing.T) {
	platform := newFakePlatform(t)
	platform.says(`{"errCode":"SUCCESS"}`)
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	wantWord(t, postNotify(t, url, signedOrder()+"&x=1"), 403)
	wantWord(t, postNotify(t, url, "merOrderId=1"), 403)
	wantWord(t, do(t, newRequest(t, "GET", url, "")), 405)
	if asked := platform.asked(); len(asked) != 0 {
		t.Errorf("asked: %v", asked)
	}
}

// TestConfirmOncePerMinute: replays cannot burn the merchant's quota, whatever of a notify differs; many at once share one
// query; and each is held against the answer anew.
func TestConfirmOncePerMinute(t *testing.T) {
	platform := newFakePlatform(t)
	release := make(chan struct{})
	platform.answers(func(w http.ResponseWriter, _ *http.Request, _ queried) {
		<-release
		io.WriteString(w, `{"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100}`)
	})
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	clock := stopClock(t)

	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			body := signedOrder(referenceField{"rnd", fmt.Sprint(i)}, referenceField{"notifyId", fmt.Sprint("n-", i)})
			req, _ := http.NewRequestWithContext(context.Background(), "POST", url, strings.NewReader(body))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			res, err := testClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if res.StatusCode != 200 {
				t.Errorf("status %d", res.StatusCode)
			}
		})
	}
	eventually(t, "the query", func() bool { platform.mu.Lock(); defer platform.mu.Unlock(); return len(platform.got) > 0 })
	close(release)
	wait.Wait()
	if asked := platform.asked(); len(asked) != 1 {
		t.Errorf("20 at once: %d queries", len(asked))
	}
	if seen := app.seen(); len(seen) != 20 {
		t.Errorf("the app saw %d", len(seen))
	}

	wantWord(t, postNotify(t, url, signedOrder()), 200)
	wantWord(t, postNotify(t, url, signedOrder(referenceField{"status", "WAIT_BUYER_PAY"})), 200)
	if seen := app.seen(); len(seen) != 2 || seen[0].header.Get("Ce-Confirmed") != "true" || seen[1].header.Get("Ce-Confirmed") != "superseded" {
		t.Errorf("the app saw %+v", seen)
	}
	if asked := platform.asked(); len(asked) != 0 {
		t.Errorf("a replay and another state within the minute: asked %v", asked)
	}

	// A reload with another configuration must not forget.
	address := freeAddress(t)
	setKeys(t)
	log := startCaddy(t, merchantOptions(platform.URL)+notifySite(address, "chinaums_notify {\n\t\tconfirm\n\t\tack 2xx\n\t}\n\treverse_proxy "+app.URL))
	url = "http://" + address + "/"
	wantWord(t, postNotify(t, url, signedOrder()), 200)
	if asked := platform.asked(); len(asked) != 0 {
		t.Errorf("after a reload: asked %v", asked)
	}

	// What has happened since is not refused for good: the answer is older than the notify.
	platform.says(`{"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100}`)
	wantWord(t, postNotify(t, url, signedOrder(referenceField{"status", "TRADE_CLOSED"})), 503)
	if asked := platform.asked(); len(asked) != 0 || len(log.lines(`"reason":"not_answered"`, "is not asked again within a minute")) != 1 {
		t.Errorf("a later state within the minute: asked %v", asked)
	}
	clock.pass(time.Minute)
	wantWord(t, postNotify(t, url, signedOrder(referenceField{"status", "TRADE_CLOSED"})), 200)
	wantWord(t, postNotify(t, url, signedOrder()), 503) // asked before this one came
	clock.pass(time.Minute)
	wantWord(t, postNotify(t, url, signedOrder()), 409)
	if asked := platform.asked(); len(asked) != 2 {
		t.Errorf("in two minutes: %d queries", len(asked))
	}

	// A failure counts as a query too; after a minute the platform is asked again.
	clock.pass(time.Minute)
	platform.says(`{"errCode":"INTERNAL_ERROR"}`)
	for range 3 {
		wantWord(t, postNotify(t, url, signedOrder()), 503)
	}
	if asked := platform.asked(); len(asked) != 1 {
		t.Errorf("three failures: %d queries", len(asked))
	}
	clock.pass(time.Minute)
	platform.says(`{"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100}`)
	wantWord(t, postNotify(t, url, signedOrder()), 200)
	if asked := platform.asked(); len(asked) != 1 {
		t.Errorf("after a minute: %d queries", len(asked))
	}
}

// TestConfirmOneStringManyCuts: a signed string may be cut in hundreds of ways, and each cut made a question of its own
// before, with the merchant's key: 600 cuts made 417 queries here.
func TestConfirmOneStringManyCuts(t *testing.T) {
	platform := newFakePlatform(t)
	platform.says(`{"errCode":"SUCCESS","mid":"898","merOrderId":"327M1","status":"TRADE_CLOSED","totalAmount":100}`)
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	stopClock(t)
	// In the order of their names, as they are signed; the text is the buyer's.
	pairs := []string{
		"attachedData=note&bankInfo=b", "buyerId=b1", "createTime=2024-01-02 03:04:05", "instMid=APPDEFAULT", "invoiceAmount=100",
		"merName=shop", "merOrderId=327M1", "mid=898", "notifyId=n-1", "orderDesc=tea&payTime=2024-01-02 03:04:05&refundAmount=0", "seqId=S1", "settleDate=2024-01-02",
		"status=TRADE_CLOSED", "targetOrderId=T1", "targetSys=WXPay", "tid=1", "totalAmount=100",
	}
	signed := strings.Join(pairs, "&")
	sign := fmt.Sprintf("%x", sha256.Sum256([]byte(signed+testNotifyKey)))
	words := strings.Split(signed, "&")
	random := rand.New(rand.NewPCG(1, 2))
	cuts := map[string]bool{}
	for len(cuts) < 600 {
		var form strings.Builder
		for i, word := range words {
			name, value, _ := strings.Cut(word, "=")
			switch {
			case i == 0:
				form.WriteString(name + "=" + neturl.QueryEscape(value))
			case random.IntN(8) == 0: // the value before swallows this pair
				form.WriteString(neturl.QueryEscape("&" + word))
			default:
				form.WriteString("&" + name + "=" + neturl.QueryEscape(value))
			}
		}
		cuts[form.String()+"&sign="+sign] = true
	}
	answers := map[int]int{}
	for cut := range cuts {
		answers[postNotify(t, url, cut).status]++
	}
	if asked := platform.asked(); len(asked) != 1 {
		t.Errorf("asked %d times; the answers were %v", len(asked), answers)
	}
	if answers[403] == 600 {
		t.Error("the signature of no cut is right")
	}
}

// TestConfirmSplitText: a text of the merchant's or the buyer's that looks like parameters, cut into them. Before, the
// first made a guarantee.all_completed of an order that was never paid, and the second a deduction of a payment, both with
// Ce-Confirmed: true, since no answer has those words.
func TestConfirmSplitText(t *testing.T) {
	platform := newFakePlatform(t)
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	clock := stopClock(t)
	for _, test := range []struct{ before, name, text, after, status string }{
		{"merOrderId=327M1&mid=898&", "orderDesc", "tea&secureStatus=ALL_COMPLETED", "&status=TRADE_CLOSED&totalAmount=100", "TRADE_CLOSED"},
		{"", "attachedData", "tea&contractId=C1", "&merOrderId=327M1&mid=898&status=TRADE_SUCCESS&totalAmount=100", "TRADE_SUCCESS"},
	} {
		t.Run(test.text, func(t *testing.T) {
			platform.says(`{"errCode":"SUCCESS","mid":"898","merOrderId":"327M1","status":"` + test.status + `","totalAmount":100}`)
			sign := fmt.Sprintf("&sign=%x", sha256.Sum256([]byte(test.before+test.name+"="+test.text+test.after+testNotifyKey)))
			for _, text := range []string{test.text, neturl.QueryEscape(test.text)} {
				clock.pass(time.Minute)
				got := postNotify(t, url, test.before+test.name+"="+text+test.after+sign)
				if seen := app.seen(); text == test.text && (got.status != 503 || len(seen) != 0) {
					t.Errorf("cut: %d, the app saw %+v", got.status, seen)
				} else if len(seen) > 0 && !strings.HasPrefix(seen[0].header.Get("Ce-Type"), "com.chinaums.payment.") {
					t.Errorf("as it was signed: %d, the app saw %+v", got.status, seen)
				}
			}
		})
	}
}

// TestConfirmTurns: a merchant's quota is not burnt by many orders either.
func TestConfirmTurns(t *testing.T) {
	platform := newFakePlatform(t)
	platform.answers(func(w http.ResponseWriter, _ *http.Request, asked queried) {
		fmt.Fprintf(w, `{"errCode":"SUCCESS","merOrderId":"%s","status":"TRADE_SUCCESS","totalAmount":100}`, asked.body["merOrderId"])
	})
	app := newMerchantApp(t, nil)
	setKeys(t)
	confirming = newConfirmer() // an earlier test's platform may have had this address
	address := freeAddress(t)
	site := func(path, options string) string {
		return "handle " + path + " {\n\t\tchinaums_notify {\n\t\t\tconfirm\n\t\t\ttimeout " + options + "\n\t\t}\n\t\treverse_proxy " + app.URL + "\n\t}\n\t"
	}
	// Half of the time of those who come too late leaves no second to wait for a turn.
	log := startCaddy(t, merchantOptions(platform.URL)+notifySite(address, site("/in-time", "1m")+site("/late", "1900ms")))
	clock := stopClock(t)
	for second := range 3 {
		for i := range 9 {
			path, want := "/in-time", 200
			if i >= 5 {
				path, want = "/late", 503
			}
			wantWord(t, postNotify(t, "http://"+address+path, signedOrder(referenceField{"merOrderId", fmt.Sprint("327M", second, i)})), want)
		}
		if asked := platform.asked(); len(asked) != 5 {
			t.Errorf("second %d: asked %d times", second, len(asked))
		}
		clock.pass(time.Second)
	}
	if len(log.lines("notify rejected", `"reason":"not_answered"`, "too many of this merchant's orders")) == 0 {
		t.Error("not logged")
	}
}

// TestConfirmIsNotPoisoned: an ambiguous notify may name another's order and have the platform asked with words of the
// sender's choosing; what comes of that is not held against the order's own notify.
func TestConfirmIsNotPoisoned(t *testing.T) {
	platform := newFakePlatform(t)
	platform.answers(func(w http.ResponseWriter, _ *http.Request, asked queried) {
		if asked.body["tid"] != "1" {
			io.WriteString(w, `{"errCode":"NO_ORDER"}`)
			return
		}
		io.WriteString(w, `{"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100}`)
	})
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	clock := stopClock(t)
	ambiguous := referenceField{"z", "&status=TRADE_CLOSED"}
	wantWord(t, postNotify(t, url, signedOrder(ambiguous, referenceField{"tid", "9"})), 409)
	wantWord(t, postNotify(t, url, signedOrder(ambiguous, referenceField{"tid", "8"})), 503)
	wantWord(t, postNotify(t, url, signedOrder()), 200)
	if asked := platform.asked(); len(asked) != 2 || len(app.seen()) != 1 {
		t.Errorf("asked %v", asked)
	}
	// The other way round, one answer serves both.
	clock.pass(time.Minute)
	wantWord(t, postNotify(t, url, signedOrder(ambiguous, referenceField{"notifyId", ""}, referenceField{"instMid", ""}, referenceField{"mid", ""})), 200)
	wantWord(t, postNotify(t, url, signedOrder(referenceField{"mid", ""})), 200)
	if asked := platform.asked(); len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
}

// TestConfirmHoldsEachWord: of an ambiguous notify each deciding word must be in the answer: what the answer says otherwise
// is contradicted, what it does not say is not comparable. Before, a secureStatus that was not in the answer was believed.
func TestConfirmHoldsEachWord(t *testing.T) {
	for _, test := range []struct {
		path, name, value, answer string
		want                      string // "", the name that differs, or "-" for not comparable
	}{
		{pathQuery, "merOrderId", "1", `{"merOrderId":"1"}`, ""},
		{pathQuery, "merOrderId", "1", `{"merOrderId":"2"}`, "merOrderId"},
		{pathQuery, "merOrderId", "1", `{}`, "-"},
		{pathQuery, "mid", "1", `{"mid":"1"}`, ""},
		{pathQuery, "mid", "1", `{}`, "-"},
		{pathQuery, "instMid", "1", `{"instMid":"1"}`, ""},
		{pathQuery, "instMid", "1", `{}`, "-"},
		{pathQuery, "notifyId", "1", `{}`, "-"},
		{pathQuery, "createTime", "1", `{"payTime":"1"}`, ""},
		{pathQuery, "createTime", "1", `{"createTime":"2"}`, "createTime"},
		{pathQuery, "payTime", "1", `{"payTime":"1"}`, ""},
		{pathQuery, "payTime", "1", `{"payTime":"2"}`, "payTime"},
		{pathQuery, "payTime", "1", `{}`, "-"},
		{pathRefundQuery, "payTime", "1", `{"payTime":"2"}`, "-"},
		{pathQuery, "totalAmount", "1", `{"totalAmount":1}`, ""},
		{pathQuery, "totalAmount", "1", `{"totalAmount":2}`, "totalAmount"},
		{pathQuery, "buyerPayAmount", "1", `{}`, "-"},
		{pathQuery, "buyerPayAmount", "1.0", `{"buyerPayAmount":1}`, "buyerPayAmount"},
		{pathQuery, "refundStatus", "SUCCESS", `{}`, "-"},
		{pathQuery, "refundAmount", "1", `{}`, "-"},
		{pathRefundQuery, "refundAmount", "1", `{}`, ""}, // sendBackAmount was compared instead
		{pathQuery, "refundOrderId", "1", `{}`, "-"},
		{pathRefundQuery, "refundOrderId", "1", `{"refundOrderId":"2"}`, "refundOrderId"},
		{pathRefundQuery, "refundExtOrderId", "1", `{"refundOrderId":"1"}`, ""},
		{pathRefundQuery, "refundExtOrderId", "1", `{"refundOrderId":"2"}`, "refundExtOrderId"},
		{pathQuery, "refundExtOrderId", "1", `{"refundOrderId":"1"}`, "-"},
		{pathRefundQuery, "refundTargetOrderId", "1", `{}`, "-"},
		{pathRefundQuery, "refundPayTime", "1", `{"payTime":"1"}`, ""},
		{pathRefundQuery, "refundPayTime", "1", `{"payTime":"2"}`, "-"},
		{pathRefundQuery, "refundPayTime", "1", `{"refundPayTime":"2"}`, "refundPayTime"},
		{pathQuery, "refundPayTime", "1", `{"payTime":"1"}`, "-"},
		{pathQuery, "billNo", "1", `{}`, "-"},
		{pathBillQuery, "billNo", "1", `{"billNo":"1"}`, ""},
		{pathBillQuery, "billDate", "1", `{}`, "-"},
		{pathBillQuery, "billStatus", "PAID", `{"billStatus":"REFUND"}`, ""}, // compared as a state already
		{pathQuery, "billStatus", "PAID", `{}`, "-"},
		{pathBillQuery, "billPayment", `{"a":1}`, `{"billPayment":{"a":1,"b":2}}`, ""},
		{pathBillQuery, "billPayment", `{"a":1}`, `{}`, "-"},
		{pathBillQuery, "billPayment", `{"a":1}`, `{"billPayment":{"a":2}}`, "-"},
		{pathBillQuery, "status", "TRADE_SUCCESS", `{}`, "-"},
		{pathRefundQuery, "status", "TRADE_SUCCESS", `{"status":"SUCCESS"}`, ""},
		{pathRefundQuery, "status", "TRADE_REFUND", `{}`, ""},
		{pathRefundQuery, "secureStatus", "ALL_COMPLETED", `{}`, "-"},
		{pathRefundQuery, "secureStatus", "ALL_COMPLETED", `{"secureStatus":"CANCELED"}`, "secureStatus"},
		{pathQuery, "completeAmount", "1", `{}`, "-"},
		{pathQuery, "completeAmount", "1", `{"completedAmount":"1"}`, ""},
		{pathQuery, "completeAmount", "1", `{"completedAmount":"2"}`, "completeAmount"},
		{pathQuery, "contractId", "1", `{}`, "-"},
		{pathQuery, "seqId", "1", `{"seqId":"2"}`, "seqId"},
		{pathRefundQuery, "seqId", "1", `{"seqId":"2"}`, "-"},
		{pathQuery, "targetOrderId", "1", `{}`, "-"},
		{pathQuery, "sign", "1", `{}`, ""},
		{pathQuery, "signType", "1", `{}`, ""},
	} {
		t.Run(test.path+" "+test.name+" "+test.answer, func(t *testing.T) {
			answer, err := parseAnswer([]byte(test.answer))
			if err != nil {
				t.Fatal(err)
			}
			of := map[string]*family{pathQuery: payments, pathBillQuery: bills, pathRefundQuery: refunds}[test.path]
			q := &question{of: of, path: of.query}
			err = q.held(answer, test.name, decidingNumber(test.name), test.value)
			contradicts, isContradiction := errors.AsType[inbound.Contradiction](err)
			switch {
			case test.want == "" && err == nil:
			case test.want == "-" && errors.Is(err, inbound.ErrNotComparable):
			case isContradiction && strings.HasPrefix(string(contradicts), test.want+" "):
			default:
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestConfirmAmbiguous: a notify that can be cut in two ways is as true as the platform says, word for word.
func TestConfirmAmbiguous(t *testing.T) {
	type f = referenceField
	platform := newFakePlatform(t)
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "")
	clock := stopClock(t)
	answer := `{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","merOrderId":"327M1","status":"TRADE_SUCCESS","totalAmount":100,"buyerPayAmount":100,"seqId":"S1","targetOrderId":"T1","secureStatus":"ALL_COMPLETED"}`
	tea := f{"orderDesc", "tea&status=TRADE_SUCCESS&totalAmount=99900&z="}
	for name, test := range map[string]struct {
		changes []f
		answer  string
		status  int
	}{
		"as it was sent":                  {[]f{tea}, answer, 200},
		"every word confirmed":            {[]f{tea, {"buyerPayAmount", "100"}, {"seqId", "S1"}, {"targetOrderId", "T1"}, {"secureStatus", "ALL_COMPLETED"}}, answer, 200},
		"a closed order, cut as paid":     {[]f{{"z", "&status=TRADE_CLOSED"}}, strings.Replace(answer, "TRADE_SUCCESS", "TRADE_CLOSED", 1), 409},
		"a small order, cut as a big one": {[]f{{"z", "&totalAmount=1"}}, strings.Replace(answer, ":100,", ":1,", 1), 409},
		"another's order":                 {[]f{{"z", "&merOrderId=327M1"}, {"merOrderId", "327M2"}}, answer, 409},
		"another amount paid":             {[]f{tea, {"buyerPayAmount", "99"}}, answer, 409},
		"another seqId":                   {[]f{tea, {"seqId", "S2"}}, answer, 409},
		"as genuine ones are":             {[]f{tea, {"notifyId", "n-1"}, {"createTime", "2026-11-24 10:00:00"}}, answer, 200},
		"another createTime":              {[]f{tea, {"createTime", "2026-11-24 10:00:00"}}, strings.Replace(answer, "}", `,"createTime":"2026-11-24 11:00:00"}`, 1), 409},
		"a refund that only its notifyId names": {[]f{tea, {"status", "TRADE_REFUND"}, {"refundAmount", "40"}, {"refundStatus", "SUCCESS"}, {"notifyId", "n-1"}},
			`{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","merOrderId":"327M1","totalAmount":100,"refundStatus":"SUCCESS","refundAmount":40}`, 503},
		"a business that nobody confirms":  {[]f{tea}, strings.Replace(answer, `"instMid":"APPDEFAULT",`, "", 1), 503},
		"a guarantee that nobody confirms": {[]f{tea, {"secureStatus", "ALL_COMPLETED"}}, strings.Replace(answer, `"secureStatus":"ALL_COMPLETED"`, `"x":""`, 1), 503},
		"one contradicted, others lacking": {[]f{tea, {"seqId", "S2"}, {"contractId", "C1"}, {"refundOrderId", ""}, {"notifyId", "n-1"}}, strings.Replace(answer, "}", `,"contractId":"C1"}`, 1), 409},
		"a contract that nobody confirms":  {[]f{tea, {"contractId", "C1"}}, answer, 503},
		"a refund that is none":            {[]f{tea, {"refundAmount", "100"}}, answer, 503},
		"a bill that is none":              {[]f{tea, {"billStatus", "PAID"}, {"billNo", "B1"}}, `{"errCode":"NO_ORDER"}`, 409},
		"a status in other letters":        {[]f{tea, {"Status", "TRADE_CLOSED"}}, answer, 403},
		"the same status, other letters":   {[]f{tea, {"Status", "TRADE_SUCCESS"}}, answer, 403},
		"an amount in other letters":       {[]f{tea, {"TOTALAMOUNT", "99900"}}, answer, 403},
		"an odd name":                      {[]f{{"a&b=c", "1"}}, answer, 403},
		"refund": {[]f{tea, {"status", "TRADE_REFUND"}, {"refundOrderId", "R1"}, {"refundAmount", "40"}, {"refundStatus", "SUCCESS"}},
			`{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","merOrderId":"327M1","totalAmount":100,"refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40}`, 200},
		"refund of another order": {[]f{tea, {"status", "TRADE_REFUND"}, {"refundOrderId", "R1"}, {"refundAmount", "40"}, {"refundStatus", "SUCCESS"}},
			`{"errCode":"SUCCESS","mid":"898","merOrderId":"R1","totalAmount":100,"refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40}`, 409},
		"refund, also paid": {[]f{tea, {"status", "TRADE_SUCCESS"}, {"refundOrderId", "R1"}, {"refundAmount", "40"}, {"refundStatus", "SUCCESS"}},
			`{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","merOrderId":"327M1","totalAmount":100,"refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":40}`, 503},
		"bill": {[]f{{"merOrderId", ""}, {"status", ""}, {"billDesc", "x&billStatus=PAID"}, {"billNo", "B1"}, {"billStatus", "PAID"}, {"billPayment", `{"totalAmount":100,"payTime":"2024-01-02 03:04:05"}`}},
			`{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","billNo":"B1","billStatus":"PAID","totalAmount":100,"billPayment":{"totalAmount":100,"payTime":"2024-01-02 03:04:05","x":1}}`, 200},
		"bill, payment as text": {[]f{{"merOrderId", ""}, {"status", ""}, {"billDesc", "x&billStatus=PAID"}, {"billNo", "B1"}, {"billStatus", "PAID"}, {"billPayment", `{"totalAmount":"100"}`}},
			`{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","billNo":"B1","billStatus":"PAID","totalAmount":100,"billPayment":"{\"totalAmount\":100}"}`, 200},
		"bill, another payment": {[]f{{"merOrderId", ""}, {"status", ""}, {"billDesc", "x&billStatus=PAID"}, {"billNo", "B1"}, {"billStatus", "PAID"}, {"billPayment", `{"totalAmount":9900}`}},
			`{"errCode":"SUCCESS","mid":"898","instMid":"APPDEFAULT","billNo":"B1","billStatus":"PAID","totalAmount":100,"billPayment":{"totalAmount":100}}`, 503},
	} {
		t.Run(name, func(t *testing.T) {
			clock.pass(time.Minute) // a question of its own
			platform.says(test.answer)
			changes := append([]f{{"notifyId", ""}}, test.changes...)
			wantWord(t, postNotify(t, url, signedOrder(changes...)), test.status)
			seen := app.seen()
			if test.status != 200 {
				if len(seen) != 0 {
					t.Errorf("the app saw %+v", seen)
				}
				return
			}
			if len(seen) != 1 || seen[0].header.Get("Ce-Confirmed") != "true" {
				t.Fatalf("the app saw %+v", seen)
			}
			if id := seen[0].header.Get("Ce-Id"); len(id) != 32 {
				t.Errorf("Ce-Id: %s", id)
			}
		})
	}
	t.Run("without confirm it is refused", func(t *testing.T) {
		url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
		wantWord(t, postNotify(t, url, signedOrder(tea)), 403)
	})
	t.Run("a foreign mid", func(t *testing.T) {
		setKeys(t)
		address := freeAddress(t)
		options := strings.Replace(merchantOptions(platform.URL), "upstream ", "mid 897\n\t\t\tupstream ", 1)
		confirming = newConfirmer() // as above
		startCaddy(t, options+notifySite(address, "chinaums_notify {\n\t\tconfirm\n\t}\n\treverse_proxy "+app.URL))
		platform.asked()
		wantWord(t, postNotify(t, "http://"+address+"/", signedOrder(tea)), 403)
		if asked := platform.asked(); len(asked) != 0 {
			t.Errorf("asked: %v", asked)
		}
	})
}

// TestConfirmFormats: the extension attribute in both places.
func TestConfirmFormats(t *testing.T) {
	platform := newFakePlatform(t)
	platform.says(`{"errCode":"SUCCESS","merOrderId":"327M1","status":"TRADE_REFUND","totalAmount":100}`)
	app := newMerchantApp(t, nil)
	url, _ := startConfirm(t, platform.URL, app.URL, "format cloudevents")
	wantWord(t, postNotify(t, url, signedOrder()), 200)
	got := app.one(t)
	var event struct{ Confirmed string }
	if err := json.Unmarshal([]byte(got.body), &event); err != nil || event.Confirmed != "superseded" || got.header.Get("Ce-Confirmed") != "superseded" {
		t.Errorf("%v: %s, Ce-Confirmed: %s", err, got.body, got.header.Get("Ce-Confirmed"))
	}
}

func TestConfirmOptions(t *testing.T) {
	setKeys(t)
	keyless := "{\n\tchinaums {\n\t\tmerchant shop {\n\t\t\tnotify_key {env.UMS_NOTIFY_KEY}\n\t\t\tmid 1\n\t\t}\n\t}\n}\n"
	for name, test := range map[string]struct{ config, message string }{
		"good":                {merchantOptions(noPlatform) + notifySite("127.0.0.1:1", "chinaums_notify {\n\t\tconfirm\n\t}"), ""},
		"no app_key":          {keyless + notifySite("127.0.0.1:1", "chinaums_notify shop {\n\t\tconfirm\n\t}"), "merchant shop: app_id and app_key are missing; confirm asks the platform with them"},
		"no app_key, by name": {keyless + notifySite("127.0.0.1:1", "chinaums_notify {vars.m} {\n\t\tconfirm\n\t}"), "no usable merchant has"},
		"surplus":             {merchantOptions(noPlatform) + notifySite("127.0.0.1:1", "chinaums_notify {\n\t\tconfirm on\n\t}"), `chinaums_notify: surplus argument "on"`},
		"twice":               {merchantOptions(noPlatform) + notifySite("127.0.0.1:1", "chinaums_notify {\n\t\tconfirm\n\t\tconfirm\n\t}"), "confirm is given twice"},
		"under observe":       {merchantOptions(noPlatform) + notifySite("127.0.0.1:1", "chinaums_notify {\n\t\tconfirm\n\t\tobserve\n\t}"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := loadError(t, test.config)
			if (got == "") != (test.message == "") || !strings.Contains(got, test.message) {
				t.Errorf("error %q, want %q", got, test.message)
			}
		})
	}
}
