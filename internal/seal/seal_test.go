package seal

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

func box(t testing.TB, secret, purpose string) *Box {
	t.Helper()
	b, err := New(secret, purpose)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSealAndOpen(t *testing.T) {
	b := box(t, "vendor-key", "terminal")
	for _, value := range []string{"", "k", "\x00\xff", strings.Repeat("x", 1<<16)} {
		sealed := b.Seal("a/b", []byte(value))
		if len(value) > 1 && bytes.Contains(sealed, []byte(value)) {
			t.Errorf("%.10q is to be read in what was sealed", value)
		}
		opened, err := b.Open("a/b", sealed)
		if err != nil || string(opened) != value {
			t.Errorf("%.10q: opened as %.10q, %v", value, opened, err)
		}
	}
	if bytes.Equal(b.Seal("a", []byte("v")), b.Seal("a", []byte("v"))) {
		t.Error("one value sealed twice gives the same bytes: the nonce repeats")
	}
}

// TestFormat opens a sealed value with its own implementation of the format, so that no later version loses stored values.
func TestFormat(t *testing.T) {
	sealed := box(t, "vendor-key", "terminal").Seal("a/b", []byte("value"))
	text, ok := bytes.CutPrefix(sealed, []byte("sealed-v1:"))
	if !ok {
		t.Fatalf("%q does not begin with the version", sealed)
	}
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		t.Fatal(err)
	}
	// HKDF (RFC 5869) by hand: extract with no salt, one block of expand.
	extract := hmac.New(sha256.New, make([]byte, 32))
	extract.Write([]byte("vendor-key"))
	expand := hmac.New(sha256.New, extract.Sum(nil))
	expand.Write([]byte("sealed-v1:terminal\x01"))
	block, err := aes.NewCipher(expand.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	value, err := gcm.Open(nil, raw[:12], raw[12:], []byte("sealed-v1:a/b"))
	if err != nil || string(value) != "value" {
		t.Fatalf("opened as %q, %v", value, err)
	}
}

func TestCannotOpen(t *testing.T) {
	b := box(t, "vendor-key", "terminal")
	sealed := b.Seal("a/b", []byte("value"))
	for _, test := range []struct {
		name   string
		box    *Box
		key    string
		sealed []byte
	}{
		{"another secret", box(t, "vendor-kez", "terminal"), "a/b", sealed},
		{"another purpose", box(t, "vendor-key", "token"), "a/b", sealed},
		{"another key", b, "a/c", sealed},
		{"another format", b, "a/b", bytes.Replace(sealed, []byte("v1"), []byte("v2"), 1)},
		{"the value itself", b, "a/b", []byte("value")},
		{"nothing", b, "a/b", nil},
		{"the version alone", b, "a/b", []byte(version)},
		{"cut off", b, "a/b", sealed[:len(sealed)-4]},
		{"more behind", b, "a/b", append(bytes.Clone(sealed), "AAAA"...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			value, err := test.box.Open(test.key, test.sealed)
			if !errors.Is(err, ErrCannotOpen) || value != nil {
				t.Errorf("opened as %q, %v", value, err)
			}
		})
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if value, err := b.Open("a/b", changed); !errors.Is(err, ErrCannotOpen) {
			t.Errorf("byte %d changed: opened as %q, %v", i, value, err)
		}
	}
}

// TestOpenForgivesNewlines: an editor or a shell may add a line break when a value is copied.
func TestOpenForgivesNewlines(t *testing.T) {
	b := box(t, "vendor-key", "terminal")
	if value, err := b.Open("a/b", append(b.Seal("a/b", []byte("value")), '\n')); err != nil || string(value) != "value" {
		t.Errorf("opened as %q, %v", value, err)
	}
}

func TestNewRefusesEmptySecrets(t *testing.T) {
	for _, test := range [][2]string{{"", "purpose"}, {"secret", ""}} {
		if _, err := New(test[0], test[1]); err == nil {
			t.Errorf("New(%q, %q) made a box", test[0], test[1])
		}
	}
}

func TestSlotInFileStorage(t *testing.T) {
	root := t.TempDir()
	slot := Slot{Storage: &certmagic.FileStorage{Path: filepath.Join(root, "new", "data")}, Key: "platform/one/value", Box: box(t, "secret", "test")}
	ctx := context.Background()

	if _, err := slot.Load(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty slot: %v, want fs.ErrNotExist", err)
	}
	for _, value := range []string{"first", "second"} {
		if err := slot.Save(ctx, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if loaded, err := slot.Load(ctx); err != nil || string(loaded) != value {
			t.Fatalf("loaded %q, %v; want %q", loaded, err, value)
		}
	}
	other := Slot{Storage: slot.Storage, Key: slot.Key, Box: box(t, "another secret", "test")}
	if _, err := other.Load(ctx); !errors.Is(err, ErrCannotOpen) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another secret: %v, want ErrCannotOpen alone", err)
	}
	file := filepath.Join(root, "new", "data", "platform", "one", "value")
	content, err := os.ReadFile(file)
	if err != nil || bytes.Contains(content, []byte("second")) {
		t.Errorf("the file holds %q, %v", content, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info.Mode(), err)
	}
}

// faulty is a storage in memory that fails where a test wants it to.
type faulty struct {
	values               map[string][]byte
	store, load, unlock  error
	forgets, locked      bool
	unlockedAfterContext bool
}

func (f *faulty) Load(_ context.Context, key string) ([]byte, error) {
	value, ok := f.values[key]
	if f.load == nil && !ok {
		return nil, fs.ErrNotExist
	}
	return value, f.load
}

func (f *faulty) Store(_ context.Context, key string, value []byte) error {
	if f.store == nil && !f.forgets {
		f.values[key] = value
	}
	return f.store
}

func (f *faulty) Lock(ctx context.Context, _ string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.locked = true
	return nil
}

func (f *faulty) Unlock(ctx context.Context, _ string) error {
	f.locked, f.unlockedAfterContext = false, ctx.Err() == nil
	return f.unlock
}

func TestSaveSaysWhatIsNotStored(t *testing.T) {
	broken := errors.New("disk full")
	for _, test := range []struct {
		name    string
		storage faulty
		want    error
	}{
		{"the storage refuses", faulty{store: broken}, broken},
		{"it cannot be read back", faulty{load: broken}, broken},
		{"the storage forgets it", faulty{forgets: true}, fs.ErrNotExist},
		{"the storage keeps the old value", faulty{forgets: true, values: map[string][]byte{"k": []byte("old")}}, errOther},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.storage.values == nil {
				test.storage.values = make(map[string][]byte)
			}
			slot := Slot{Storage: &test.storage, Key: "k", Box: box(t, "secret", "test")}
			if err := slot.Save(context.Background(), []byte("new value")); !errors.Is(err, test.want) || strings.Contains(err.Error(), "new value") {
				t.Errorf("Save: %v, want %v", err, test.want)
			}
		})
	}
}

func TestSyncDirectories(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syncDirectories(filepath.Join(root, "a", "b", "file"), root); err != nil {
		t.Errorf("directories that are there: %v", err)
	}
	if err := syncDirectories(filepath.Join(root, "a", "gone", "file"), root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v, want fs.ErrNotExist", err)
	}
}

func TestLocked(t *testing.T) {
	newSlot := func(storage *faulty) *Slot { return &Slot{Storage: storage, Key: "k", Box: box(t, "secret", "test")} }
	failed := errors.New("work failed")

	t.Run("the lock is held and given back", func(t *testing.T) {
		storage := new(faulty)
		err := newSlot(storage).Locked(context.Background(), func() error {
			if !storage.locked {
				t.Error("work runs without the lock")
			}
			return failed
		})
		if !errors.Is(err, failed) || storage.locked {
			t.Errorf("Locked: %v; still locked: %v", err, storage.locked)
		}
	})
	t.Run("given back although the caller's time is over", func(t *testing.T) {
		storage := new(faulty)
		ctx, cancel := context.WithCancel(context.Background())
		if err := newSlot(storage).Locked(ctx, func() error { cancel(); return nil }); err != nil || !storage.unlockedAfterContext {
			t.Errorf("Locked: %v; unlocked with a context that lives: %v", err, storage.unlockedAfterContext)
		}
	})
	t.Run("given back after a panic", func(t *testing.T) {
		storage := new(faulty)
		func() {
			defer func() { _ = recover() }()
			_ = newSlot(storage).Locked(context.Background(), func() error { panic("work") })
		}()
		if storage.locked {
			t.Error("still locked")
		}
	})
	t.Run("no lock, no work", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		err := newSlot(new(faulty)).Locked(ctx, func() error { t.Error("work ran"); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Locked: %v", err)
		}
	})
	t.Run("a lock that stays is told", func(t *testing.T) {
		err := newSlot(&faulty{unlock: failed}).Locked(context.Background(), func() error { return nil })
		if !errors.Is(err, failed) {
			t.Errorf("Locked: %v", err)
		}
	})
}

// TestLockedExcludes: two slots on one directory, as on two servers, exclude each other.
func TestLockedExcludes(t *testing.T) {
	root := t.TempDir()
	b := box(t, "secret", "test")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var inside, entered int
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			slot := Slot{Storage: &certmagic.FileStorage{Path: root}, Key: "platform/value", Box: b}
			err := slot.Locked(ctx, func() error {
				mu.Lock()
				inside++
				entered++
				if inside != 1 {
					t.Errorf("%d are inside at once", inside)
				}
				mu.Unlock()
				err := slot.Save(ctx, []byte("value"))
				mu.Lock()
				inside--
				mu.Unlock()
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if entered != 3 {
		t.Errorf("%d of 3 came in", entered)
	}
}

func FuzzOpen(f *testing.F) {
	b := box(f, "secret", "test")
	f.Add("key", []byte("value"))
	f.Add("", b.Seal("", nil))
	f.Fuzz(func(t *testing.T, key string, text []byte) {
		if value, err := b.Open("another "+key, b.Seal(key, text)); !errors.Is(err, ErrCannotOpen) {
			t.Errorf("sealed for %q, opened for another key as %q, %v", key, value, err)
		}
		if value, err := b.Open(key, b.Seal(key, text)); err != nil || !bytes.Equal(value, text) {
			t.Errorf("sealed %q, opened %q, %v", text, value, err)
		}
		if _, err := b.Open(key, text); err != nil && !errors.Is(err, ErrCannotOpen) {
			t.Errorf("Open: %v", err)
		}
	})
}
