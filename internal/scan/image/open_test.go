package image

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
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
