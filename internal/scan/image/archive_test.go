package image

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLayoutDir: a layout's names lead to files below it and through no link.
func TestLayoutDir(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "layout")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700),
		os.WriteFile(filepath.Join(dir, "blobs", "sha256", "a"), []byte("fine"), 0o600),
		os.WriteFile(filepath.Join(root, "outside"), []byte("secret"), 0o600),
		os.Symlink("../outside", filepath.Join(dir, "link")),
		os.Symlink("blobs", filepath.Join(dir, "linked")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &layoutDir{dir: f}
	if b, err := d.small("blobs/sha256/a"); err != nil || string(b) != "fine" {
		t.Errorf("a file: %q, %v", b, err)
	}
	for _, name := range []string{"", ".", "blobs", "../outside", "blobs/../../outside", filepath.Join(root, "outside"), "link", "linked/sha256/a"} {
		if b, err := d.small(name); err == nil {
			t.Errorf("%q: read %q", name, b)
		}
	}
}
