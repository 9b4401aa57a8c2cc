package watched

import "testing"

// TestWatchOfAnotherPlatform: while a configuration loads that gives the store of one platform's watch to the other, which is
// refused when it starts, its http app may serve already. Before, its calls went to the other platform's watch until then.
func TestWatchOfAnotherPlatform(t *testing.T) {
	key := storeKey{"watch.stores.test", t.Name()}
	theirs := &shared{key: key, name: "chinaums"}
	open.Store(key, theirs)
	t.Cleanup(func() { open.Delete(key) })
	for name, want := range map[string]*shared{"chinaums": theirs, "shouqianba": nil} {
		if got := (&Watched{key: key, parts: Parts{Name: name}}).current(); got != want {
			t.Errorf("%s: %p, want %p", name, got, want)
		}
	}
}
