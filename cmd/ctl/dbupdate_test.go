package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOwnFolder(t *testing.T) {
	dir := t.TempDir()
	if err := ownFolder(filepath.Join(dir, "a", "parts")); err != nil {
		t.Error(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{open, link} {
		if err := ownFolder(path); err == nil {
			t.Errorf("%s is taken", path)
		}
	}
}
