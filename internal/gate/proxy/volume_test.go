package proxy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// D2, D4: a volume that exists is judged by what its device really is.
func TestVolumeDeviceIsResolved(t *testing.T) {
	dir := t.TempDir()
	secret, link := filepath.Join(dir, "secret"), filepath.Join(dir, "link")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(secret)
	if err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]string{link: real, secret: real, "tmpfs": "tmpfs"} {
		var f apicall.Facts
		noteVolume(&f, "v", &found{Driver: "local", Options: map[string]string{"type": "none", "o": "bind", "device": device}})
		if len(f.HostMounts) != 1 || f.HostMounts[0].Resolved != want {
			t.Errorf("device %s: %+v, want resolved %s", device, f.HostMounts, want)
		}
	}
}
