package osvdir

import (
	"archive/zip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An archive that another takes the place of while it is read is an error: what was read is not what
// the path names.
func TestReplacedWhileRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z := zip.NewWriter(f)
		w, err := z.Create("A.json")
		if err == nil {
			_, err = io.WriteString(w, `{"id":"A"}`)
		}
		if err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("all.zip")
	if err := Walk(dir, func(string, string, io.Reader) error { return nil }); err != nil {
		t.Fatal(err)
	}
	err := Walk(dir, func(string, string, io.Reader) error { return os.Rename(write("new"), path) })
	if err == nil || !strings.Contains(err.Error(), "was replaced while it was read") {
		t.Errorf("got %v", err)
	}
}
