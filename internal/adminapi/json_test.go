package adminapi

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestJSONIsHarmlessForTerminals: what a sender wrote is printed as JSON that says the same and moves no cursor.
func TestJSONIsHarmlessForTerminals(t *testing.T) {
	for name, text := range map[string]string{
		"C1":                "\u009b31m\u0080\u009f",
		"delete":            "a\x7fb",
		"bidi":              "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200f",
		"separators":        "\u2028\u2029",
		"beyond 16 bits":    "\U000e0041\U0010ffff",
		"a soft hyphen":     "\u00ad",
		"a byte order mark": "\ufeff",
	} {
		t.Run(name, func(t *testing.T) {
			content := []byte("[{\"id\":\"中文 é " + text + " \U0001f600\"}]")
			var out bytes.Buffer
			if err := WriteJSON(&out, content); err != nil {
				t.Fatal(err)
			}
			for _, r := range text {
				if r >= 0x7f && strings.ContainsRune(out.String(), r) {
					t.Errorf("%U reaches the terminal: %q", r, out.String())
				}
			}
			if !strings.Contains(out.String(), "中文 é ") || !strings.Contains(out.String(), "\U0001f600") {
				t.Errorf("readable text is escaped: %q", out.String())
			}
			var got []struct{ ID string }
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 1 || got[0].ID != "中文 é "+text+" \U0001f600" {
				t.Errorf("it says %q, %v", got, err)
			}
		})
	}
}
