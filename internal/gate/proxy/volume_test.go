package proxy

import (
	"errors"
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

// The source of a bind, or of a volume that is one, that leads elsewhere than when the container was made:
// it does not start.
func TestTurnedBind(t *testing.T) {
	for name, has := range map[string]func(*daemon, string){
		"bind":   func(d *daemon, source string) { d.bind = source },
		"volume": func(d *daemon, source string) { d.device = source },
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			source := filepath.Join(dir, "data")
			g := startGate(t, own)
			has(g.d, source)
			starts := func(what string, want int) {
				t.Helper()
				for _, path := range []string{"/containers/web/start", "/containers/web/restart"} {
					if status, body := do(t, g.client(t), "POST", path, ""); status != want {
						t.Errorf("%s: %s: %d, %s", what, path, status, body)
					}
				}
			}
			starts("nothing there yet", 204)
			if err := os.Mkdir(source, 0o755); err != nil {
				t.Fatal(err)
			}
			starts("a directory", 204)
			if err := errors.Join(os.Remove(source), os.Symlink("/etc", source)); err != nil {
				t.Fatal(err)
			}
			starts("a link", 409)
			if err := errors.Join(os.Remove(source), os.Symlink("nowhere", source)); err != nil {
				t.Fatal(err)
			}
			starts("a link to nothing", 409)
			if got := g.counter("gate_unresolved"); got != 4 {
				t.Errorf("counted %d", got)
			}
			// What stops or removes it is not held.
			if status, body := do(t, g.client(t), "POST", "/containers/web/stop", ""); status != 204 {
				t.Errorf("stop: %d, %s", status, body)
			}
		})
	}
}
