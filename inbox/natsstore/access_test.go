package natsstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// authority makes certificates for the tests.
type authority struct {
	t           *testing.T
	folder      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, folder: t.TempDir()}
	a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue makes a certificate and its key, and returns the files' names.
func (a *authority) issue(name string, template *x509.Certificate) (certificate, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate, key = filepath.Join(a.folder, name+".pem"), filepath.Join(a.folder, name+".key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: encoded},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	if a.certificate == nil {
		if a.certificate, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
		a.key = private
	}
	return certificate, key
}

// works puts and delivers a message through a store that was just opened.
func works(t *testing.T, opened inbox.Store) {
	t.Helper()
	s := opened.(*store)
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
}

// TestTLS: both sides show certificates of an authority that only the configuration names.
func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	ca := filepath.Join(a.folder, "ca.pem")
	certificate, key := a.issue("server", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	mine, myKey := a.issue("gateway", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	server := natstest.New(t, natstest.Ports(t, 1)[0], fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", certificate, key, ca))
	server.Start()
	url := fmt.Sprintf("tls://127.0.0.1:%d", server.Port)
	natstest.Eventually(t, "the server is up", func() bool {
		connection, err := nats.Connect(url, nats.RootCAs(ca), nats.ClientCert(mine, myKey))
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	opened, err := provider(t, func(n *Nats) { n.CA, n.CertFile, n.KeyFile = ca, mine, myKey }, url).Open(t.Context(), "tls", defaults(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	works(t, opened)

	// Without the authority, nothing is sent to a server that anybody may be.
	opened, err = provider(t, nil, url).Open(t.Context(), "tls", defaults(), zap.NewNop())
	if err == nil {
		defer func() { _ = opened.Close() }()
		if _, err = opened.Put(t.Context(), message("b")); err == nil {
			t.Error("stored with a server that nobody vouches for")
		}
	}
	if err != nil && !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "not ready") {
		t.Errorf("error %v", err)
	}
}

// token makes a JWT as NATS wants it.
func token(t *testing.T, issuer nkeys.KeyPair, subject string, claims map[string]any) string {
	t.Helper()
	by, err := issuer.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	claims["version"] = 2
	encode := func(value any) string {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	signed := encode(map[string]string{"typ": "JWT", "alg": "ed25519-nkey"}) + "." +
		encode(map[string]any{"jti": subject, "iat": time.Now().Unix(), "iss": by, "name": "test", "sub": subject, "nats": claims})
	signature, err := issuer.Sign([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// TestCreds: a server that knows its users by an operator's JWTs, and a gateway with a credentials file.
func TestCreds(t *testing.T) {
	t.Parallel()
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		key, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return key, public
	}
	operator, operatorID := pair(nkeys.CreateOperator)
	account, accountID := pair(nkeys.CreateAccount)
	user, userID := pair(nkeys.CreateUser)
	_, systemID := pair(nkeys.CreateAccount)
	unlimited := map[string]any{
		"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
		"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
	}
	operatorToken := token(t, operator, operatorID, map[string]any{"type": "operator"})
	systemToken := token(t, operator, systemID, map[string]any{"type": "account", "limits": map[string]any{"subs": -1, "conn": -1, "data": -1, "payload": -1}})
	accountToken := token(t, operator, accountID, map[string]any{"type": "account", "limits": unlimited})
	// What the package's documentation says that a user needs, and no more.
	userToken := token(t, account, userID, map[string]any{
		"type": "user", "subs": -1, "data": -1, "payload": -1,
		"pub": map[string]any{"allow": []string{"inbox.>", "$JS.API.>", "$JS.ACK.>"}}, "sub": map[string]any{"allow": []string{"_INBOX.>"}},
	})
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds := filepath.Join(t.TempDir(), "gateway.creds")
	if err := os.WriteFile(creds, fmt.Appendf(nil, "-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n"+
		"-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n", userToken, seed), 0o600); err != nil {
		t.Fatal(err)
	}
	server := natstest.New(t, natstest.Ports(t, 1)[0], fmt.Sprintf(
		"operator: %q\nsystem_account: %s\nresolver: MEMORY\nresolver_preload { %s: %q, %s: %q }",
		operatorToken, systemID, systemID, systemToken, accountID, accountToken))
	server.Start()
	natstest.Eventually(t, "the server is up", func() bool {
		connection, err := nats.Connect(server.URL(), nats.UserCredentials(creds))
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	opened, err := provider(t, func(n *Nats) { n.Creds = creds }, server.URL()).Open(t.Context(), "creds", defaults(), testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	works(t, opened)
	s := opened.(*store)
	put(t, s, message("b"), inbox.Stored)
	settle(t, s, take(t, s), retryIn(time.Hour))
	all, err := s.List(t.Context(), inbox.Query{Limit: 10})
	if err != nil || len(all) != 2 {
		t.Fatalf("%d listed, error %v", len(all), err)
	}
	if _, err := s.Redeliver(t.Context(), all[1].Seq, false); err != nil {
		t.Fatal(err)
	}
	if m := take(t, s); m.ID != "b" {
		t.Errorf("leased %s", m.ID)
	}
	if _, err := s.Stats(t.Context()); err != nil {
		t.Error(err)
	}

	// Without them it is refused, and says so.
	if opened, err := provider(t, nil, server.URL()).Open(t.Context(), "creds", defaults(), zap.NewNop()); err == nil {
		_ = opened.Close()
		t.Error("opened without credentials")
	}
}
