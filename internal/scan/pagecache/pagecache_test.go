package pagecache

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// TestBehind: what was not in the page cache is not there afterwards, what was stays.
func TestBehind(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	body := bytes.Repeat([]byte("x"), 1<<20)
	if err := os.WriteFile(p, body, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Sync()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	testneed.Need(t, "page-cache", !Has(f, 1<<20), "a file system whose pages can be dropped")
	for _, was := range []bool{false, true} {
		if was {
			io.Copy(io.Discard, io.NewSectionReader(f, 0, 4096))
		}
		drop := Behind(f, 1<<20)
		if n, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, 1<<20)); n != 1<<20 || err != nil {
			t.Fatal(n, err)
		}
		drop()
		if got := Has(f, 1<<20); got != was {
			t.Errorf("in the cache before %v, after %v", was, got)
		}
	}
}

// A sparse file of any size costs a look no more than a large one: the hint must not use up the
// processor time that a scan has.
func TestCacheStride(t *testing.T) {
	const page = 4096
	for _, size := range []int64{1, page, cacheStep, cacheStep + 1, maxCacheSteps * cacheStep, 1 << 42, 1<<63 - 1} {
		stride := cacheStride(size, page)
		if n := (size-1)/stride + 1; n > maxCacheSteps || stride < cacheStep || stride%page != 0 {
			t.Errorf("%d bytes: %d looks, every %d bytes", size, n, stride)
		}
	}
}
