package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// only asserts that dir holds exactly the file name with that content and mode.
func only(t *testing.T, dir, name, content string, perm fs.FileMode) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 1 || es[0].Name() != name {
		t.Fatalf("got entries %v, want only %s", es, name)
	}
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != content {
		t.Errorf("got content %q, want %q", got, content)
	}
	fi, err := es[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != perm {
		t.Errorf("got mode %v, want %v", fi.Mode(), perm)
	}
}

func TestWriteFile(t *testing.T) {
	tests := []struct {
		name string
		old  string // "" = no file there
		data string
		perm fs.FileMode
	}{
		{name: "new", data: "a", perm: 0o600},
		{name: "replace", old: "something longer", data: "b", perm: 0o600},
		{name: "replace by nothing", old: "x", data: "", perm: 0o640},
		{name: "mode beyond the umask", data: "c", perm: 0o666},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			p := filepath.Join(dir, "state.json")
			if tt.old != "" {
				if err := os.WriteFile(p, []byte(tt.old), 0o444); err != nil {
					t.Fatal(err)
				}
			}
			if err := WriteFile(p, []byte(tt.data), tt.perm); err != nil {
				t.Fatal(err)
			}
			only(t, dir, "state.json", tt.data, tt.perm)
		})
	}
}

func TestWriteFailureKeepsOld(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	if err := WriteFile(p, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := Write(p, 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of the ne"); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v, want %v", err, boom)
	}
	only(t, dir, "f", "old", 0o600)
}

func TestWriteRenameFailure(t *testing.T) {
	dir := t.TempDir()
	// rename(2): a directory is never replaced by a file.
	if err := os.Mkdir(filepath.Join(dir, "f"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err == nil {
		t.Fatal("got nil, want an error")
	}
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 1 {
		t.Errorf("got %v, want no temporary file left", es)
	}
}

func TestWriteMissingDir(t *testing.T) {
	err := WriteFile(filepath.Join(t.TempDir(), "no", "f"), nil, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
	if err := SyncDir(filepath.Join(t.TempDir(), "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestWriteReplacesSymlinkItself(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "f")
	if err := os.Symlink(other, p); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(p, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	only(t, dir, "f", "new", 0o600)
	if got, _ := os.ReadFile(other); string(got) != "other" {
		t.Errorf("got %q behind the link, want it untouched", got)
	}
}

func TestWriteConcurrentReadersSeeWholeFiles(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	if err := WriteFile(p, bytes.Repeat([]byte{'0'}, 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for w := range 4 {
		wg.Go(func() {
			for range 10 {
				if err := WriteFile(p, bytes.Repeat([]byte{byte('a' + w)}, 10000), 0o600); err != nil {
					errs <- err
					return
				}
				got, err := os.ReadFile(p)
				if err == nil && (len(got) != 10000 || bytes.Count(got, got[:1]) != len(got)) {
					err = fmt.Errorf("got a mixed file of %d bytes", len(got))
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func TestWriteFileUnsynced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"old", "new"} {
		if err := WriteFileUnsynced(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		only(t, dir, "f", content, 0o600)
	}
	if err := Sync(dir, []string{"f", "gone"}); err != nil {
		t.Errorf("Sync: %v, want nil: a file that is gone is left out", err)
	}
	if err := Sync(filepath.Join(dir, "none"), []string{"f"}); err == nil {
		t.Error("Sync of a directory that is not there returned nil")
	}
	if err := WriteFileUnsynced(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
		t.Error("WriteFileUnsynced into a directory that is not there returned nil")
	}
}
