package target

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// A container can set user.overlay.opaque on its own directories; overlayfs mounted by root
// takes no notice, and so root's scan must not: it would miss what the container sees.
func TestOpaqueMark(t *testing.T) {
	mark := func(attr string) bool {
		t.Helper()
		dir := t.TempDir()
		err := unix.Setxattr(dir, attr, []byte("y"), 0)
		testneed.Need(t, "xattr", err == nil, "a temporary directory that takes "+attr)
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return opaqueMark(int(f.Fd()))
	}
	root := os.Geteuid() == 0
	if got := mark("user.overlay.opaque"); got == root {
		t.Errorf("user.overlay.opaque as root %v: opaque %v", root, got)
	}
	if root && !mark("trusted.overlay.opaque") {
		t.Error("trusted.overlay.opaque is not honoured")
	}
}
