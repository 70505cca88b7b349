package move

import (
	"archive/tar"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFromHere: what is in a volume is read on this host only if its engine is of this host for certain, has the same directory, and
// lets it be read. Else, and where it cannot be read to its end here, the engine reads it.
func TestFromHere(t *testing.T) {
	const here, byEngine = "on this host", "by the engine"
	for _, c := range []struct {
		name   string
		change func(w *world, volume string) error
		want   string // of the two; "": the move is taken back
	}{
		{"here", func(*world, string) error { return nil }, here},
		{"an engine of another host", func(w *world, _ string) error { // it has directories of the same names
			w.from.before = func(_, at string) {
				if strings.HasPrefix(at, "/volumes/belay-move-lease-") {
					_ = os.RemoveAll(filepath.Join(w.from.root, path.Base(at)))
				}
			}
			return nil
		}, byEngine},
		{"mapped users", func(w *world, _ string) error {
			w.from.info = map[string]any{"SecurityOptions": []string{"name=userns"}}
			w.to.info = w.from.info
			return nil
		}, byEngine},
		{"volumes in two places", func(w *world, volume string) error {
			w.from.volumes["records"].dir = volume + "-2"
			return os.Rename(volume, volume+"-2")
		}, byEngine},
		{"another mode", func(_ *world, volume string) error { return os.Chmod(volume, 0o700) }, byEngine},
		{"another time", func(_ *world, volume string) error { return os.Chtimes(volume, time.Time{}, time.Unix(1, 0)) }, byEngine},
		{"not readable to its end", func(_ *world, volume string) error {
			at := filepath.Join(volume, "d")
			if err := os.MkdirAll(filepath.Join(at, strings.Repeat("d/", 300)), 0o755); err != nil {
				return err
			}
			return os.Chtimes(volume, time.Unix(1e9, 0), time.Unix(1e9, 0))
		}, byEngine},
		{"refused", func(w *world, _ string) error {
			w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != "GET" || !strings.HasSuffix(r.URL.Path, "/archive") {
					return false
				}
				rw.WriteHeader(http.StatusForbidden)
				return true
			}
			return nil
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, at := newWorld(t, true), time.Unix(1e9, 0)
			w.from.root = t.TempDir()
			volume := filepath.Join(w.from.root, "records", "_data")
			w.from.volumes["records"] = &fakeVolume{dir: volume, data: byEngine, files: []*tar.Header{
				{Typeflag: tar.TypeDir, Name: "belay-volume/", Mode: 0o755, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: at},
				{Typeflag: tar.TypeReg, Name: "belay-volume/data", Mode: 0o600},
			}}
			for _, err := range []error{
				os.MkdirAll(volume, 0o755), os.WriteFile(filepath.Join(volume, "data"), []byte(here), 0o600), os.Chmod(volume, 0o755), os.Chtimes(volume, at, at),
				c.change(w, volume),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			_, err := w.move()
			if c.want == "" {
				w.want(true, 0)
				if err == nil {
					t.Error("it was moved")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w.want(false, 1)
			if got := w.to.volumes["records"].data; got != c.want {
				t.Errorf("got %q; want %q", got, c.want)
			}
		})
	}
}
