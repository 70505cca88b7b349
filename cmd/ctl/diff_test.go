package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/pagecache"
	"github.com/belay-project/belay/internal/testneed"
)

// TestNoReport: the look whether a file is a report leaves nothing of one that is none in the page cache.
func TestNoReport(t *testing.T) {
	const size = 1 << 20
	name := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("x"), size)); err != nil {
		t.Fatal(err)
	}
	f.Sync()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	testneed.Need(t, "page-cache", !pagecache.Has(f, size), "a file system whose pages can be dropped")
	if _, ok, err := readReport(name); ok || err != nil {
		t.Fatal(ok, err)
	}
	if pagecache.Has(f, size) {
		t.Error("its first bytes are in the page cache")
	}
}
