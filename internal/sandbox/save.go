package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// maxSaved bounds the files that one run keeps; its oldest goes first. Files of other runs are left alone.
const maxSaved = 1000

// saver writes each notify that is sent to a file of its own, so that somebody can look at it, keep it or verify it. A
// nil saver saves nothing.
type saver struct {
	directory string

	mu   sync.Mutex
	last map[string]int // by stem, the number of its last file
	kept []savedFile    // the oldest first
}

type savedFile struct{ stem, path string }

func newSaver(directory string) (*saver, error) {
	if directory == "" {
		return nil, nil
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("sandbox: the directory for notifies: %w", err)
	}
	return &saver{directory: directory, last: make(map[string]int)}, nil
}

// save writes the order's next file, <order>-<n>.txt with n from 1, and returns its path. It never writes to a file that
// is there already, nor through a symbolic link.
func (s *saver) save(order string, content []byte) (path string, err error) {
	if s == nil {
		return "", nil
	}
	stem := strings.Map(func(r rune) rune {
		if notName(r) {
			return '_'
		}
		return r
	}, order[:min(len(order), 64)])
	s.mu.Lock()
	defer s.mu.Unlock()
	var file *os.File
	n := s.last[stem] + 1
	for ; ; n++ {
		path = filepath.Join(s.directory, fmt.Sprintf("%s-%d.txt", stem, n))
		file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || n > s.last[stem]+10*maxSaved {
			return "", err
		}
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(path)
		return "", err
	}
	s.last[stem] = n
	if s.kept = append(s.kept, savedFile{stem, path}); len(s.kept) > maxSaved {
		old := s.kept[0]
		s.kept = s.kept[1:]
		_ = os.Remove(old.path) // somebody may have taken it away
		if old.path == filepath.Join(s.directory, fmt.Sprintf("%s-%d.txt", old.stem, s.last[old.stem])) {
			delete(s.last, old.stem)
		}
	}
	return path, nil
}

// notSaved is the warning about a notify that could not be written. It names no file, so that there is one for a cause.
func notSaved(err error) string {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err
	}
	return "通知未保存 a notify was not saved: " + err.Error()
}
