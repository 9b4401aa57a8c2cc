package inbox

import (
	"os"
	"testing"
)

// TestMain has messages in English, whatever this machine speaks.
func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C")
	os.Exit(m.Run())
}
