package shouqianba

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAuthorizationVectors(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "shouqianba.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Name, SN, Key, Body, Authorization string }
	if err := json.Unmarshal(content, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, vector := range vectors {
		t.Run(vector.Name, func(t *testing.T) {
			if got := authorization(vector.SN, vector.Key, []byte(vector.Body)); got != vector.Authorization {
				t.Errorf("authorization = %q, want %q", got, vector.Authorization)
			}
		})
	}
}

// TestAuthorizationConcurrently: the pooled states must not mix bodies or keys.
func TestAuthorizationConcurrently(t *testing.T) {
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			body, key := strings.Repeat("b", i*100), strings.Repeat("k", i+1)
			sum := md5.Sum([]byte(body + key))
			want := "sn " + hex.EncodeToString(sum[:])
			for range 500 {
				if got := authorization("sn", key, []byte(body)); got != want {
					t.Errorf("authorization = %q, want %q", got, want)
					return
				}
			}
		})
	}
	group.Wait()
}

// openssl runs the program that makes the expected signatures.
func openssl(t testing.TB, stdin []byte, arguments ...string) []byte {
	t.Helper()
	name, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed; it makes the signatures that are verified here")
	}
	command := exec.CommandContext(t.Context(), name, arguments...)
	command.Stdin = strings.NewReader(string(stdin))
	output, err := command.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v", strings.Join(arguments, " "), err)
	}
	return output
}

// opensslKey makes a key pair in directory and returns the private key's file and the public key's PEM.
func opensslKey(t testing.TB, name string) (private string, public []byte) {
	t.Helper()
	private = filepath.Join(t.TempDir(), name)
	openssl(t, nil, "genrsa", "-out", private, "2048")
	return private, openssl(t, nil, "rsa", "-in", private, "-pubout")
}

// opensslSign returns the base64 of a signature, as the platform sends it.
func opensslSign(t testing.TB, private string, body []byte) string {
	t.Helper()
	return base64.StdEncoding.EncodeToString(openssl(t, body, "dgst", "-sha256", "-sign", private))
}

func mustPublicKey(t testing.TB, text []byte) *rsa.PublicKey {
	t.Helper()
	key, err := parsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestVerifyOpenSSL(t *testing.T) {
	private, public := opensslKey(t, "platform")
	oldPrivate, oldPublic := opensslKey(t, "old")
	body := []byte("{\"sn\":\"7892259488292938\",\"subject\":\"苹果 \xc6\xbb\xb9\xfb\",\"order_status\":\"PAID\"}\r\n")
	sign := opensslSign(t, private, body)
	oldSign := opensslSign(t, oldPrivate, body)
	keys := []*rsa.PublicKey{mustPublicKey(t, public)}
	both := []*rsa.PublicKey{keys[0], mustPublicKey(t, oldPublic)}

	flipped := []byte(sign)
	flipped[10] ^= 1
	for _, test := range []struct {
		name   string
		keys   []*rsa.PublicKey
		header string
		body   string
		want   string
	}{
		{"the signature alone", keys, sign, string(body), ""},
		{"a serial number in front", keys, "00101010029201012912 " + sign, string(body), ""},
		{"three parts", keys, "RSA 00101010029201012912 " + sign, string(body), ""},
		{"spaces around", keys, "  " + sign + " ", string(body), ""},
		{"rotation: the new key", both, sign, string(body), ""},
		{"rotation: the old key", both, oldSign, string(body), ""},
		{"a key that is no longer there", keys, oldSign, string(body), reasonSignature},
		{"no key", nil, sign, string(body), reasonSignature},
		{"no header", keys, "", string(body), reasonMissingSignature},
		{"only spaces", keys, "   ", string(body), reasonMissingSignature},
		{"one bit of the signature", keys, string(flipped), string(body), reasonSignature},
		{"cut off", keys, sign[:len(sign)-8], string(body), reasonSignature},
		{"no base64", keys, "00101010029201012912 !" + sign[1:], string(body), reasonSignature},
		{"the signature in front of the serial number", keys, sign + " 00101010029201012912", string(body), reasonSignature},
		{"endless", keys, strings.Repeat("A", 1<<20), string(body), reasonSignature},
		{"one byte of the body", keys, sign, strings.Replace(string(body), "PAID", "PAIE", 1), reasonSignature},
		{"the body's last newline", keys, sign, strings.TrimSpace(string(body)), reasonSignature},
		{"the body in UTF-8", keys, sign, strings.ToValidUTF8(string(body), "苹果"), reasonSignature},
		{"no body", keys, sign, "", reasonSignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := verify(test.keys, test.header, []byte(test.body)); got != test.want {
				t.Errorf("verify = %q, want %q", got, test.want)
			}
		})
	}

	t.Run("another digest", func(t *testing.T) {
		sha1 := base64.StdEncoding.EncodeToString(openssl(t, body, "dgst", "-sha1", "-sign", private))
		if got := verify(keys, sha1, body); got != reasonSignature {
			t.Errorf("a SHA-1 signature: %q", got)
		}
	})
	t.Run("another padding", func(t *testing.T) {
		pss := base64.StdEncoding.EncodeToString(openssl(t, body, "dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sign", private))
		if got := verify(keys, pss, body); got != reasonSignature {
			t.Errorf("a PSS signature: %q", got)
		}
	})
}

func TestParsePublicKey(t *testing.T) {
	private, public := opensslKey(t, "platform")
	want := mustPublicKey(t, public)
	bare := strings.Join(strings.Split(strings.TrimSpace(string(public)), "\n")[1:], "\n")
	bare, _, _ = strings.Cut(bare, "\n-----END")
	certificate := openssl(t, nil, "req", "-x509", "-key", private, "-subj", "/CN=platform", "-days", "1")
	privatePEM, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct{ name, text string }{
		{"PKIX", string(public)},
		{"PKIX with Windows line ends", strings.ReplaceAll(string(public), "\n", "\r\n")},
		{"PKCS #1", string(openssl(t, nil, "rsa", "-in", private, "-RSAPublicKey_out"))},
		{"a certificate", string(certificate)},
		{"bare base64", bare},
		{"bare base64 in one line", strings.ReplaceAll(bare, "\n", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, err := parsePublicKey([]byte(test.text))
			if err != nil || !key.Equal(want) {
				t.Errorf("another key, or %v", err)
			}
		})
	}

	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&elliptic.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, text, want string }{
		{"a private key", string(privatePEM), "private key"},
		{"two keys", string(public) + string(public), "more behind"},
		{"a file's name", "/run/secrets/platform.pem", "neither PEM nor base64"},
		{"nothing", "", "can be read"},
		{"an elliptic key", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "not an RSA key"},
		{"damaged", strings.Replace(string(public), "MII", "MIJ", 1), "can be read"},
		{"512 bits", string(openssl(t, openssl(t, nil, "genrsa", "512"), "rsa", "-pubout")), "has 512 bits"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parsePublicKey([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("parsePublicKey: %v, want %q in it", err, test.want)
			}
			if err != nil && len(test.text) > 40 && strings.Contains(err.Error(), test.text[30:40]) {
				t.Errorf("the error shows the text: %v", err)
			}
		})
	}
}

// testKey is a key pair for tests that need no openssl.
var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func publicPEM(t testing.TB, key *rsa.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func FuzzVerify(f *testing.F) {
	keys := []*rsa.PublicKey{&testKey().PublicKey}
	f.Add("", []byte("{}"))
	f.Add("sn "+base64.StdEncoding.EncodeToString(make([]byte, 256)), []byte("{}"))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		if verify(keys, header, body) == "" {
			t.Error("verified what was never signed")
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	f.Add("sn", "key", []byte("{}"))
	f.Fuzz(func(t *testing.T, sn, key string, body []byte) {
		sum := md5.Sum(append(append([]byte{}, body...), key...))
		if got, want := authorization(sn, key, body), sn+" "+hex.EncodeToString(sum[:]); got != want {
			t.Errorf("authorization = %q, want %q", got, want)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add([]byte(publicPEM(f, &testKey().PublicKey)))
	f.Add([]byte("MIIBIjAN"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if key, err := parsePublicKey(text); err == nil && key.N.BitLen() < minKeyBits {
			t.Errorf("a key of %d bits was taken", key.N.BitLen())
		}
	})
}

// TestKeyThatIsNoPublicKey: a private key without its PEM lines was taken for a file's name, and the error of opening it had
// the whole key.
func TestKeyThatIsNoPublicKey(t *testing.T) {
	der, err := x509.MarshalPKCS8PrivateKey(testKey())
	if err != nil {
		t.Fatal(err)
	}
	private := base64.StdEncoding.EncodeToString(der)
	for name, raw := range map[string]string{
		"a private key":                private,
		"cut, so that it is no base64": private[:1001],
		"from a placeholder":           "{env.SQB_TEST_PRIVATE}",
		"with spaces":                  private[:64] + " " + private[64:],
	} {
		t.Setenv("SQB_TEST_PRIVATE", private)
		_, err := readPublicKey(raw)
		if err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), private[:32]) {
			t.Errorf("%s: the error holds the key: %v", name, err)
		}
	}
}

// TestPublicKeyFiles: a file is read no further than a key is long, and a byte order mark is not part of it.
func TestPublicKeyFiles(t *testing.T) {
	der, err := x509.MarshalPKIXPublicKey(&testKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(der)
	for name, test := range map[string]struct{ content, want string }{
		"bare base64":           {text + "\r\n", ""},
		"with an editor's mark": {"\ufeff" + text + "\n", ""},
		"a huge file":           {strings.Repeat("A", 1<<20), "larger than"},
		"an empty file":         {"", "not a public key"},
	} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := readPublicKey(path)
		switch {
		case test.want == "" && (err != nil || !key.Equal(&testKey().PublicKey)):
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := readPublicKey(filepath.Join(t.TempDir(), "none.pem")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
}
