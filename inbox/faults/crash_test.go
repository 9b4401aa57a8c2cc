//go:build faults

package faults

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestStoppedUnderLoad: a stop is no crash. What is being delivered is delivered to its end, so nothing comes twice.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	a := newApp(t, func(r *http.Request, id string, attempt int) reaction {
		if hash(id)%20 == 0 {
			return reaction{pause: 400 * time.Millisecond}
		}
		return troubled(r, id, attempt)
	})
	g := newGateway(t, "gateway", "", `inbox {
	retry 100ms 300ms 1s
	`+a.deliver()+`
}`)
	client := keepingClient()
	l := newLoad("s", func(id string) (int, error) {
		status, _, err := g.send(client, "/", id)
		return status, err
	})
	l.pace = func() { time.Sleep(rand.N(20 * time.Millisecond)) }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.start()
	senders := l.run(ctx, 8)
	stops := 0
	for range 4 {
		before := l.acked.Load()
		within(t, 2*time.Minute, "acknowledging after a start", func() bool { return l.acked.Load() >= before+100 })
		g.stop()
		stops++
		g.start()
	}
	cancel()
	senders.Wait()
	acked := l.acknowledged()
	finish(t, a, acked)
	g.wantCount("default", "pending", 0)
	t.Logf("%d stops: %v; answers %v", stops, judge(t, a, acked, nil, 0), l.statuses)
}

// What the notify tests configure. The keys are made up.
const (
	notifyKey = "a communication key of the tests"
	appSecret = "what gateway and app share"
	notifyMID = "898340149000005"
)

const merchantOption = `	chinaums {
		merchant shop {
			app_id     app-of-the-tests
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid        ` + notifyMID + `
		}
	}`

func (g *gateway) setKeys() {
	g.environment = append(g.environment, "UMS_APP_KEY=an app key of the tests", "UMS_NOTIFY_KEY="+notifyKey, "APP_SECRET="+appSecret)
}

// notify sends a signed notify of the payment with this id, until now at the platform. 200 SUCCESS counts as 202.
func (g *gateway) notify(t testing.TB, client *http.Client, id string) (int, error) {
	message, err := sandbox.Notify{
		Key: notifyKey, OmitNotifyID: true, Fields: map[string]string{"mid": notifyMID, "merOrderId": orderPrefix + id},
	}.Build()
	if err != nil {
		t.Error(err)
		return 0, err
	}
	status, word, err := post(client, http.MethodPost, "http://"+g.address+"/notify", string(message.Body), "Content-Type: "+message.ContentType)
	if err != nil {
		return 0, err
	}
	if (status == http.StatusOK) != (word == "SUCCESS") || word != "SUCCESS" && word != "FAILED" {
		t.Errorf("notify %s: %d %q", id, status, word)
	}
	if status == http.StatusOK {
		return http.StatusAccepted, nil
	}
	return status, nil
}

// checkEvent is what a careful app checks: the event's signature, its context and its content.
func checkEvent(r *http.Request, id, body string) string {
	mac := hmac.New(sha256.New, []byte(appSecret))
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("Webhook-Signature") != want {
		return "signature " + r.Header.Get("Webhook-Signature")
	}
	fact := sha256.Sum256([]byte("v1\n/chinaums/shop\ncom.chinaums.payment.succeeded\nmid=" + notifyMID + "\nmerOrderId=" + orderPrefix + id +
		"\nstatus=TRADE_SUCCESS\ntotalAmount=1234\n"))
	for name, want := range map[string]string{
		"Webhook-Id": hex.EncodeToString(fact[:16]), "Ce-Source": "/chinaums/shop", "Ce-Type": "com.chinaums.payment.succeeded", "Ce-Subject": orderPrefix + id,
		"Content-Type": "application/json; charset=utf-8",
	} {
		if got := r.Header.Get(name); got != want {
			return name + " is " + got
		}
	}
	if !strings.Contains(body, `"merOrderId":"`+orderPrefix+id+`"`) || !strings.Contains(body, `"totalAmount":1234`) || strings.Contains(body, `"sign"`) {
		return "body " + body
	}
	return ""
}

// TestNotifiesKilled is the same with a platform's signed notifies: SUCCESS only for what is stored, and the app gets
// each event once, signed.
func TestNotifiesKilled(t *testing.T) {
	t.Parallel()
	const concurrency = 4
	a := newApp(t, troubled)
	a.check = checkEvent
	g := newGateway(t, "gateway", merchantOption, `route /notify {
	chinaums_notify
	inbox {
		retry 100ms 300ms 1s
		concurrency `+fmt.Sprint(concurrency)+`
		`+a.deliver("webhook_signature {env.APP_SECRET}")+`
	}
}`)
	g.setKeys()
	client := keepingClient()
	l := newLoad("n", func(id string) (int, error) { return g.notify(t, client, id) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.start()
	senders := l.run(ctx, 16)
	for range 5 {
		before := l.acked.Load()
		within(t, 2*time.Minute, "acknowledging after a start", func() bool { return l.acked.Load() >= before+150 })
		g.kill()
		g.start()
	}
	cancel()
	senders.Wait()
	acked := l.acknowledged()
	finish(t, a, acked)
	s := judge(t, a, acked, g.killed, concurrency)
	t.Logf("%d kills: %v; answers (202 is SUCCESS) %v", len(g.killed), s, l.statuses)

	// An app that is down for longer than the platform would repeat: SUCCESS at once, and the event is delivered, once,
	// when the app is back, by another process even.
	g.wantCount("default", "pending", 0)
	a.down()
	var late []string
	for i := range 20 {
		id := fmt.Sprintf("down%02d", i)
		if status, err := g.notify(t, client, id); status != http.StatusAccepted || err != nil {
			t.Errorf("%s: %d, %v; want SUCCESS", id, status, err)
		}
		late = append(late, id)
	}
	within(t, 2*time.Minute, "the first attempts", func() bool { return strings.Contains(g.log.String(), "refused") })
	g.stop()
	g.start()
	if status, err := g.notify(t, client, late[0]); status != http.StatusAccepted || err != nil {
		t.Errorf("repeated: %d, %v; want SUCCESS", status, err)
	}
	a.up()
	finish(t, a, late)
	g.wantCount("default", "pending", 0)
	s = judge(t, a, append(acked, late...), g.killed, concurrency)
	t.Logf("with the app down for a while: %v", s)
	for _, id := range late {
		if taken, _ := a.times(id); taken != 1 {
			t.Errorf("%s was taken %d times, want once", id, taken)
		}
	}

	// What is false is not stored.
	message, err := sandbox.Notify{Key: notifyKey, Variant: sandbox.Tampered, Fields: map[string]string{"mid": notifyMID}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	delivered := g.count("default", "delivered")
	status, word, err := post(plainClient, http.MethodPost, "http://"+g.address+"/notify", string(message.Body), "Content-Type: "+message.ContentType)
	if status != http.StatusForbidden || word != "FAILED" || err != nil {
		t.Errorf("a false notify: %d %s, %v", status, word, err)
	}
	if now := g.count("default", "delivered"); now != delivered || g.count("default", "pending") != 0 {
		t.Errorf("a false notify was stored")
	}
}

// TestNotifiesOfAFullInbox: an inbox that is full tells the platform FAILED, and what was SUCCESS is delivered.
func TestNotifiesOfAFullInbox(t *testing.T) {
	t.Parallel()
	a := newApp(t, nil)
	a.check = checkEvent
	a.down()
	g := newGateway(t, "gateway", merchantOption+`
	inbox {
		max_store 256KiB
	}`, `route /notify {
	chinaums_notify
	inbox {
		retry 100ms
		`+a.deliver("webhook_signature {env.APP_SECRET}")+`
	}
}`)
	g.setKeys()
	g.start()
	client := keepingClient()
	var acked []string
	refused := 0
	for i := 0; i < 5000 && refused < 3; i++ {
		id := fmt.Sprintf("full%04d", i)
		switch status, err := g.notify(t, client, id); {
		case err != nil:
			t.Fatal(err)
		case status == http.StatusAccepted:
			acked = append(acked, id)
		case status == http.StatusBadGateway:
			refused++
		default:
			t.Fatalf("%s: %d", id, status)
		}
	}
	if refused == 0 || len(acked) < 20 {
		t.Errorf("%d SUCCESS and %d FAILED, want some of both", len(acked), refused)
	}
	a.up()
	finish(t, a, acked)
	t.Logf("%v", judge(t, a, acked, nil, 0))
	if got := int(a.count.Load()); got != len(acked) {
		t.Errorf("%d events delivered, and %d were SUCCESS", got, len(acked))
	}
	// There is room again, as delivered messages make room.
	within(t, 2*time.Minute, "SUCCESS after the delivery", func() bool {
		status, err := g.notify(t, client, "after")
		return status == http.StatusAccepted && err == nil
	})
	a.wantTaken("after")
}
