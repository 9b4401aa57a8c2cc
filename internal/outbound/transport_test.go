package outbound

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// waitingSigner is one that has to wait for its key, and meanwhile something happens.
type waitingSigner struct{ meanwhile func() }

func (s waitingSigner) Authorize(context.Context, Account, []byte) (string, error) {
	s.meanwhile()
	return "signed", nil
}

func (waitingSigner) VerifyAnswer(Account, string, []byte) (bool, error) { return false, nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestClientGoneWhileWaitingForTheKey: a call may wait for a key or a token for as long as its timeout. If its client had
// gone meanwhile it was sent all the same, perhaps a minute later.
func TestClientGoneWhileWaitingForTheKey(t *testing.T) {
	guard := newGuard(t, []string{"all"}, nil, nil)
	client, goAway := context.WithCancel(t.Context())
	defer goAway()
	r := httptest.NewRequest(http.MethodPost, "/v1/x", strings.NewReader("{}")).WithContext(client)
	r.Header.Set("Content-Type", "application/json")
	account := testAccount{}
	admitted, _, refusal := guard.Admit(httptest.NewRecorder(), r, func() Account { return account })
	if refusal != nil {
		t.Fatal(refusal)
	}
	// As reverse_proxy says where the call goes.
	admitted = admitted.WithContext(context.WithValue(admitted.Context(), caddy.CtxKey("reverse_proxy.dial_info"),
		reverseproxy.DialInfo{Address: account.Endpoint().Dial}))
	_, err := RoundTrip(admitted, guard.platform, account, waitingSigner{goAway}, roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("the call was sent")
		return nil, errors.New("sent")
	}))
	if e, ok := asError(err); !ok || e.Reason != "client_gone" || e.Outcome != NotSent {
		t.Errorf("%v", err)
	}
}
