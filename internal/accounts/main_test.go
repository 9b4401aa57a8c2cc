package accounts

import (
	"os"
	"testing"
)

// TestMain makes messages English, whatever the locale of this machine is.
func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C")
	os.Exit(m.Run())
}
