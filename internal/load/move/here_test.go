package move

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
)

// TestFromHere: what is in a volume is read on this host only if its engine is of this host for certain, has the same directory, and
// lets it be read. Else, and where it cannot be read to its end here, the engine reads it.
func TestFromHere(t *testing.T) {
	const here, byEngine = "on this host", "by the engine"
	for _, c := range []struct {
		name   string
		change func(w *world, volume string) error
		want   string // of the two; "": the move is taken back
		sent   int    // times that the target is sent it; 0: once
	}{
		{"here", func(*world, string) error { return nil }, here, 0},
		{"an engine of another host", func(w *world, _ string) error { // it has directories of the same names
			w.from.before = func(_, at string) {
				if strings.HasPrefix(at, "/volumes/belay-move-lease-") {
					_ = os.RemoveAll(filepath.Join(w.from.root, path.Base(at)))
				}
			}
			return nil
		}, byEngine, 0},
		{"mounts of its own", procWith(map[string]string{"self": "mnt:[2]", "1": "mnt:[1]"}), byEngine, 0}, // what the host has mounted in a volume is not seen
		{"mounts of the host", procWith(map[string]string{"self": "mnt:[1]", "1": "mnt:[1]"}), here, 0},
		{"the host's mounts not told", procWith(map[string]string{"self": "mnt:[1]"}), here, 0},
		{"no mounts told", procWith(nil), byEngine, 0},
		{"mapped users", func(w *world, _ string) error {
			w.from.info = map[string]any{"SecurityOptions": []string{"name=userns"}}
			w.to.info = w.from.info
			return nil
		}, byEngine, 0},
		{"a volume with options", func(w *world, _ string) error { // since it was looked at: such are not moved
			w.from.stops = func(*fakeContainer) { w.from.volumes["records"].options = map[string]string{"type": "none"} }
			return nil
		}, byEngine, 0},
		{"another driver", func(w *world, _ string) error {
			w.from.stops = func(*fakeContainer) { w.from.volumes["records"].driver = "nfs" }
			return nil
		}, byEngine, 0},
		{"volumes in two places", func(w *world, volume string) error {
			w.from.volumes["records"].dir = volume + "-2"
			return os.Rename(volume, volume+"-2")
		}, byEngine, 0},
		{"volume behind a link", func(_ *world, volume string) error { // whoever has the engine, or stands before it, chose where it leads
			elsewhere := filepath.Dir(volume) + "-2"
			return errors.Join(os.Rename(filepath.Dir(volume), elsewhere), os.Symlink(elsewhere, filepath.Dir(volume)))
		}, byEngine, 0},
		{"data behind a link", func(_ *world, volume string) error {
			return errors.Join(os.Rename(volume, volume+"-2"), os.Symlink(volume+"-2", volume))
		}, byEngine, 0},
		{"volumes behind a link", func(w *world, _ string) error {
			elsewhere := w.from.root + "-2"
			return errors.Join(os.Rename(w.from.root, elsewhere), os.Symlink(elsewhere, w.from.root))
		}, byEngine, 0},
		{"lease behind a link", func(w *world, _ string) error {
			w.from.stops = func(*fakeContainer) {
				lease := filepath.Join(w.from.root, leaseName(w.source.id))
				if err := errors.Join(os.Rename(lease, lease+"-2"), os.Symlink(lease+"-2", lease)); err != nil {
					w.t.Error(err)
				}
			}
			return nil
		}, byEngine, 0},
		{"a lease of another name", func(w *world, volume string) error { // of an engine that says what suits it
			w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/volumes/belay-move-lease-") || r.Method != "GET" {
					return false
				}
				fmt.Fprintf(rw, `{"Name": "records", "Driver": "local", "Mountpoint": %q}`, volume)
				return true
			}
			return nil
		}, byEngine, 0},
		{"volumes of another user", func(w *world, _ string) error { w.owner++; return nil }, byEngine, 0},
		{"volumes that others write to", func(w *world, _ string) error { return os.Chmod(w.from.root, 0o757) }, byEngine, 0},
		{"volume that others write to", func(_ *world, volume string) error { return os.Chmod(filepath.Dir(volume), 0o775) }, byEngine, 0},
		{"another mode", func(_ *world, volume string) error { return os.Chmod(volume, 0o700) }, byEngine, 0},
		{"another time", func(_ *world, volume string) error { return os.Chtimes(volume, time.Time{}, time.Unix(1, 0)) }, byEngine, 0},
		{"not readable to its end", func(_ *world, volume string) error {
			at := filepath.Join(volume, "d")
			if err := os.MkdirAll(filepath.Join(at, strings.Repeat("d/", 300)), 0o755); err != nil {
				return err
			}
			return os.Chtimes(volume, time.Unix(1e9, 0), time.Unix(1e9, 0))
		}, byEngine, 0},
		{"not the same there", func(w *world, _ string) error { // by a habit of the target's engine
			puts := 0
			w.to.before = func(method, at string) {
				switch {
				case !strings.HasSuffix(at, "/archive"):
				case method == "PUT":
					puts++
				case puts == 1:
					w.to.set(func() { w.to.volumes["records"].data = "damaged" })
				}
			}
			return nil
		}, byEngine, 2},
		{"not inspected", failsOnce("/volumes/records"), byEngine, 0},
		{"lease not inspected", failsOnce("/volumes/belay-move-lease-"), byEngine, 0},
		{"archive not begun", failsOnce("/archive"), byEngine, 0},
		{"refused", func(w *world, _ string) error {
			w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != "GET" || !strings.HasSuffix(r.URL.Path, "/archive") {
					return false
				}
				rw.WriteHeader(http.StatusForbidden)
				return true
			}
			return nil
		}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, volume := newWorldHere(t, here, byEngine)
			if err := c.change(w, volume); err != nil {
				t.Fatal(err)
			}
			sent := 0
			w.to.answer = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == "PUT" {
					sent++
				}
				return false
			}
			j, err := w.move()
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
			if sent != max(1, c.sent) {
				t.Errorf("it was sent %d times", sent)
			}
			if told := strings.Contains(fmt.Sprint(j.History), "copied again"); told != (sent > 1) {
				t.Errorf("sent %d times, and told: %v", sent, told)
			}
		})
	}
}

// TestNotHere: an engine that is not reached by a Unix socket is not asked where a volume is.
func TestNotHere(t *testing.T) {
	asked := errors.New("it was asked")
	r := &run{from: engine.Unreachable(engine.Address{URL: "tcp://here:2376"}, asked)}
	if _, _, err := r.sendFromHere(t.Context(), "records", "source", "target"); !errors.Is(err, errNotHere) || errors.Is(err, asked) {
		t.Errorf("got %v", err)
	}
}

// newWorldHere is a stateful world whose volume is on this host too, and there has other data than its engine sends.
func newWorldHere(t *testing.T, here, byEngine string) (w *world, volume string) {
	t.Helper()
	w, at := newWorld(t, true), time.Unix(1e9, 0)
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.from.root = root
	volume = filepath.Join(w.from.root, "records", "_data")
	w.from.volumes["records"] = &fakeVolume{dir: volume, data: byEngine, files: []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "belay-volume/", Mode: 0o755, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: at},
		{Typeflag: tar.TypeReg, Name: "belay-volume/data", Mode: 0o600},
	}}
	for _, err := range []error{
		os.Chmod(w.from.root, 0o755), os.MkdirAll(volume, 0o755), os.WriteFile(filepath.Join(volume, "data"), []byte(here), 0o600),
		os.Chmod(volume, 0o755), os.Chtimes(volume, at, at),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return w, volume
}

// TestDiskDoesNotAnswer: who waits for a disk is not waited for, and tells of no more progress once it goes on.
func TestDiskDoesNotAnswer(t *testing.T) {
	w, volume := newWorldHere(t, strings.Repeat("x", 4<<20), "by the engine")
	refused, asks, answers := false, make(chan struct{}), make(chan struct{})
	w.to.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		if refused || r.Method != "PUT" {
			return false
		}
		refused = true
		_, err := io.CopyN(io.Discard, r.Body, 900<<10) // less than is sent before progress is told of
		select {
		case <-asks:
		case <-time.After(time.Minute):
			t.Error("the packer tells of no progress")
		}
		conn, _, err2 := http.NewResponseController(rw).Hijack()
		if err := errors.Join(err, err2); err != nil {
			t.Error(err)
			return true
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprint(conn, "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n") // a server of Go's would read on first
		return true
	}
	m := w.mover()
	m.o.streamEnd = time.Second
	var told atomic.Int64
	m.o.Progress = func(e Event) {
		if e.CopiedBytes && told.Add(1) == 1 && e.Bytes >= 1<<20 { // the end's has less
			close(asks)
			<-answers
		}
	}
	if _, err := m.Move(t.Context(), "web", engine.Address{URL: w.from.url}, engine.Address{URL: w.to.url}, w.s); err != nil {
		t.Fatal(err)
	}
	w.want(false, 1)
	before := told.Load()
	close(answers)
	for end := time.Now().Add(time.Minute); opened(t, volume); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the packer has not ended")
		}
	}
	if after := told.Load(); before < 2 || after != before {
		t.Errorf("told of progress %d times, and then %d times", before, after-before)
	}
}

// opened reports whether this process has a directory open.
func opened(t *testing.T, dir string) bool {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(fd string) bool {
		at, err := os.Readlink(fd)
		return err == nil && at == dir
	})
}

// procWith has the mover's /proc tell the mount namespaces of some processes alone.
func procWith(namespaces map[string]string) func(*world, string) error {
	return func(w *world, _ string) error {
		w.proc = w.t.TempDir()
		for process, is := range namespaces {
			at := filepath.Join(w.proc, process, "ns")
			if err := errors.Join(os.MkdirAll(at, 0o755), os.Symlink(is, filepath.Join(at, "mnt"))); err != nil {
				return err
			}
		}
		return nil
	}
}

// failsOnce has the source's engine fail at the first question with this in its path that it is asked once the source has stopped.
func failsOnce(in string) func(*world, string) error {
	return func(w *world, _ string) error {
		failed := false
		w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			w.from.mu.Lock()
			defer w.from.mu.Unlock()
			if failed || w.source.running || r.Method != "GET" || !strings.Contains(r.URL.Path, in) {
				return false
			}
			failed = true
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return nil
	}
}
