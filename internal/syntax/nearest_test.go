package syntax

import "testing"

// TestNearest: a slip of the pen is recognized, another word is not.
func TestNearest(t *testing.T) {
	all := append([]string{"confirm", "observe", "replicas", "creds", "ca", "cert"}, GuardOptions...)
	for word, want := range map[string]string{
		"tiemout": "timeout", "time_out": "timeout", "timeouts": "timeout", "max-size": "max_size", "Allow": "allow", "alow": "allow",
		"maxsize": "max_size", "max_respone": "max_response", "comfirm": "confirm", "observed": "observe", "replica": "replicas",
		"": "", "{": "", "to": "", "auth": "", "method": "", "c": "", "cc": "", "carts": "", "path": "paths", "validation": "",
	} {
		if got := Nearest(word, all); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
