package target

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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

// TestOpaqueBounds: a layer nested too deeply is searched as deep as it is read, and the search
// ends with its context.
func TestOpaqueBounds(t *testing.T) {
	dir := t.TempDir()
	deep := dir
	for range maxOpaqueDepth + 100 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if list, err := opaque(t.Context(), f); err != nil || len(list) != 0 {
		t.Errorf("a deep layer: %v, %v, want none", list, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := opaque(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}
