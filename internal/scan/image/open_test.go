package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// TestOpenRegularSwap: a container swaps a file for a FIFO and a link all the time; whatever
// is opened is the regular file.
func TestOpenRegularSwap(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	at := func(name string) string { return filepath.Join(root, name) }
	for _, err := range []error{
		os.WriteFile(at("a"), []byte("fine"), 0o600), unix.Mkfifo(at("b"), 0o600),
		os.WriteFile(outside, []byte("secret"), 0o600), os.Symlink(outside, at("c")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var swapper sync.WaitGroup
	stop := make(chan struct{})
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at([]string{"b", "c"}[i%2]), unix.RENAME_EXCHANGE)
			}
		}
	})
	opened, refused := 0, 0
	for range 20_000 {
		f, st, err := openRegular(int(dir.Fd()), "a", nil)
		if err != nil {
			refused++
			if !errors.Is(err, errNotRegular) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) {
				t.Fatal(err)
			}
			continue
		}
		opened++
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(b) != "fine" || st.Size != 4 {
			t.Fatalf("read %q, %v, of %d bytes", b, err, st.Size)
		}
	}
	close(stop)
	swapper.Wait()
	t.Logf("%d opened, %d refused", opened, refused)
}

// TestDropBehind: what was not in the page cache is not there afterwards, what was stays.
func TestDropBehind(t *testing.T) {
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
	testneed.Need(t, "page-cache", !cached(f, 1<<20), "a file system whose pages can be dropped")
	for _, was := range []bool{false, true} {
		if was {
			io.Copy(io.Discard, io.NewSectionReader(f, 0, 4096))
		}
		drop := dropBehind(f, 1<<20)
		if n, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, 1<<20)); n != 1<<20 || err != nil {
			t.Fatal(n, err)
		}
		drop()
		if got := cached(f, 1<<20); got != was {
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
