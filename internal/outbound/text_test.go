package outbound

import (
	"strings"
	"testing"
)

// TestHead: a value that ends behind what is looked through is none. Its beginning would be another order's number.
func TestHead(t *testing.T) {
	const member = `"merOrderId":"12345"`
	for behind, want := range []string{"12345", ""} {
		content := []byte(strings.Repeat(" ", maxLooked-len(member)+behind) + member + "}")
		if got := string(TextMember(head(content), "merOrderId")); got != want {
			t.Errorf("%d bytes behind: %q, not %q", behind, got, want)
		}
		if got := string(rawMember(head(content), "merOrderId")); got != want {
			t.Errorf("%d bytes behind, as it is written: %q, not %q", behind, got, want)
		}
	}
}
