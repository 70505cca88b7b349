package move

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/load/recreate"
)

func journalOf(t *testing.T, stateful bool) *Journal {
	t.Helper()
	r := &recreate.Recipe{ID: "0123456789abcdef", Name: "web"}
	if stateful {
		r.Volumes = []recreate.Volume{{Name: "a", Destination: "/a"}, {Name: "a", Destination: "/b"}}
	}
	return newJournal(&Plan{Recipe: r}, engine.Address{URL: "unix:///a"}, engine.Address{URL: "unix:///b"}, Settings{}, time.Unix(1e9, 0).UTC())
}

func private(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "moves")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestJournal(t *testing.T) {
	dir := private(t)
	j := journalOf(t, true)
	if len(j.Volumes) != 1 {
		t.Errorf("one volume at two places is copied %d times", len(j.Volumes))
	}
	if err := j.write(dir); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, j.ID+".json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st, err)
	}
	got, err := readJournal(dir, j.ID)
	if err != nil || got.Name != "web" || got.Step != StepLease || got.Phase != Forward {
		t.Fatalf("got %+v, %v", got, err)
	}
	list, err := List(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %d, %v", len(list), err)
	}
	for _, id := range []string{"", "../../etc/passwd", "0123456789ABCDEF", "0123"} {
		if _, err := readJournal(dir, id); err == nil {
			t.Errorf("%q is taken for an ID", id)
		}
	}
	// One of another form is refused, and shown beside the others.
	if err := os.WriteFile(filepath.Join(dir, "ffffffffffffffff.json"), []byte(`{"schema":"belay.dev/move/v9"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := List(dir); err == nil || len(list) != 1 {
		t.Errorf("got %d, %v", len(list), err)
	}
}

func TestListNone(t *testing.T) {
	if list, err := List(filepath.Join(t.TempDir(), "none")); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
}

// TestUntrusted: whoever may write a journal says what root does.
func TestUntrusted(t *testing.T) {
	dir := private(t)
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := List(dir); err == nil {
		t.Error("a directory of others is listed")
	}
	if _, err := New(Options{Dir: dir}).Abort(t.Context(), "0123456789abcdef", Allow{}); err == nil {
		t.Error("a journal of others is followed")
	}
}

func TestLock(t *testing.T) {
	dir := private(t)
	unlock, err := movesdir.Lock(dir, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := movesdir.Lock(dir, "0123456789abcdef"); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	unlock()
	unlock, err = movesdir.Lock(dir, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestOrder: whoever has data is stopped before the copy starts, and only then.
func TestOrder(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		s := Steps(stateful)
		if stop, start := slices.Index(s, StepStopSource), slices.Index(s, StepStart); (stop < start) != stateful {
			t.Errorf("stateful %v: %v", stateful, s)
		}
		if s[0] != StepLease || s[len(s)-1] != StepCommit {
			t.Errorf("stateful %v: %v", stateful, s)
		}
	}
}

func TestNoReturn(t *testing.T) {
	tests := []struct {
		name     string
		stateful bool
		change   func(*Journal)
		want     bool
	}{
		{"at the beginning", true, func(*Journal) {}, false},
		{"started, not healthy", true, func(j *Journal) { j.TargetStarted, j.Step = true, StepHealthy }, false},
		{"handing over", true, func(j *Journal) { j.TargetStarted, j.Step = true, StepHandOver }, true},
		{"done", true, func(j *Journal) { j.TargetStarted, j.Step, j.Phase = true, StepCommit, Kept }, true},
		{"without data", false, func(j *Journal) { j.TargetStarted, j.Step, j.Phase = true, StepCommit, Kept }, false},
	}
	for _, tt := range tests {
		j := journalOf(t, tt.stateful)
		tt.change(j)
		if got := j.noReturn(); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, s := range []Settings{{Image: "guess"}, {Hook: []string{"/x"}}, {Drain: -1}} {
		if _, err := New(Options{Dir: t.TempDir()}).Move(context.Background(), "x", engine.Address{}, engine.Address{}, s); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}

// file is one entry of an archive.
type file struct {
	tar.Header
	body string
}

// archive returns a tar stream with the entries in the order given.
func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Size = int64(len(f.body))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDigestTree(t *testing.T) {
	at := time.Unix(1e9, 0)
	dir := file{tar.Header{Name: "v/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at}, ""}
	a := file{tar.Header{Name: "v/a", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, ModTime: at}, "text"}
	b := file{tar.Header{Name: "v/b", Typeflag: tar.TypeSymlink, Linkname: "../x", ModTime: at}, ""}
	digest := func(files ...file) string {
		d, err := digestTree(bytes.NewReader(archive(t, files...)))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	want := digest(dir, a, b)
	if got := digest(b, a, dir); got != want {
		t.Error("the order counts")
	}
	padded := append(archive(t, dir, a, b), make([]byte, 9000)...)
	if got, err := digestTree(bytes.NewReader(padded)); err != nil || got != want {
		t.Errorf("padding counts: %v", err)
	}
	for name, f := range map[string]func(*file){
		"content": func(f *file) { f.body = "texT" }, "name": func(f *file) { f.Name = "v/c" }, "mode": func(f *file) { f.Mode = 0o644 },
		"set-user-ID": func(f *file) { f.Mode = 0o4640 }, "owner": func(f *file) { f.Uid = 8 }, "group": func(f *file) { f.Gid = 8 }, "time": func(f *file) { f.ModTime = at.Add(time.Second) },
		"attribute": func(f *file) { f.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"} },
		"kind":      func(f *file) { f.Typeflag, f.body, f.Linkname = tar.TypeSymlink, "", "text" },
	} {
		c := a
		f(&c)
		if digest(dir, c, b) == want {
			t.Errorf("%s does not count", name)
		}
	}
	if digest(dir, a) == want || digest(dir, a, a, b) == want {
		t.Error("the number of files does not count")
	}
	whole := archive(t, dir, a, b)
	if _, err := digestTree(bytes.NewReader(whole[:1600])); err == nil {
		t.Error("a stream that was cut has a digest")
	}
}

// many is a tar stream of empty files that is made while it is read.
type many struct {
	n   int
	buf bytes.Buffer
	end func()
}

func (m *many) Read(p []byte) (int, error) {
	if m.buf.Len() == 0 && m.n > 0 {
		m.n--
		if err := tar.NewWriter(&m.buf).WriteHeader(&tar.Header{Name: "v/" + strconv.Itoa(m.n), Typeflag: tar.TypeReg}); err != nil {
			return 0, err
		}
		if m.n == 0 {
			m.end()
		}
	}
	return m.buf.Read(p)
}

// TestDigestMemory: what is kept does not grow with the files of a volume.
func TestDigestMemory(t *testing.T) {
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	const files = 30_000
	before := heap()
	var after uint64
	if _, err := digestTree(&many{n: files, end: func() { after = heap() }}); err != nil {
		t.Fatal(err)
	}
	if after > before+16*files {
		t.Errorf("%d bytes for %d files", after-before, files)
	}
}

func FuzzDigestTree(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := digestTree(bytes.NewReader(raw))
		b, err2 := digestTree(io.MultiReader(bytes.NewReader(raw)))
		if a != b || (err == nil) != (err2 == nil) {
			t.Fatalf("%q, %v and %q, %v", a, err, b, err2)
		}
	})
}

// What keeps containers apart from their host here has to do so there.
func TestUnguarded(t *testing.T) {
	for _, c := range []struct{ here, there, lost []string }{
		{nil, nil, nil},
		{[]string{"name=seccomp,profile=default"}, []string{"name=seccomp,profile=builtin", "name=cgroupns"}, nil},
		{[]string{"name=seccomp,profile=default", "name=apparmor"}, []string{"name=seccomp,profile=unconfined"}, []string{"apparmor", "seccomp"}},
		{[]string{"name=no-new-privileges"}, []string{"name=selinux"}, []string{"no-new-privileges"}},
		{[]string{"name=seccomp,profile=unconfined"}, nil, nil},
	} {
		if got := unguarded(c.here, c.there); !slices.Equal(got, c.lost) {
			t.Errorf("%q to %q: lost %q, want %q", c.here, c.there, got, c.lost)
		}
	}
}

// The engine's word for a container that never ran is the year 1.
func TestStarted(t *testing.T) {
	for at, want := range map[string]bool{"": false, "0001-01-01T00:00:00Z": false, "2026-11-29T17:00:00.5Z": true, "soon": true} {
		c := new(recreate.Container)
		c.InspectResponse.State = &container.State{StartedAt: at}
		if got := started(c); got != want {
			t.Errorf("%q: %v", at, got)
		}
	}
}

// TestTraced: what a move asks of the target bears the move's ID and the step, forward and on the way back, so that
// the journal of a gate there has each step of it too.
func TestTraced(t *testing.T) {
	w := newWorld(t, true)
	seen := map[string]bool{}
	w.to.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if trace := r.Header.Get("Traceparent"); trace != "" {
			seen[trace] = true
		}
		return false
	}
	w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool { // it fails once the copy runs
		fails := strings.HasSuffix(r.URL.Path, "/rename")
		if fails {
			rw.WriteHeader(http.StatusInternalServerError)
		}
		return fails
	}
	_, _ = w.move()
	id := w.journal().ID
	if _, err := w.mover().Abort(t.Context(), id, Allow{LoseWrites: true}); err != nil {
		t.Fatal(err)
	}
	for i, step := range Steps(true) {
		if want := fmt.Sprintf("00-%s%s-%016x-01", id, id, i+1); !seen[want] && !slices.Contains([]Step{StepLease, StepNetworks, StepStopSource, StepKeep, StepCommit, StepHandOver}, step) {
			t.Errorf("nothing on the target bears %s of %s: %v", want, step, seen)
		}
	}
	back := fmt.Sprintf("00-%s%s-%016x-01", id, id, onTheWayBack+slices.Index(Steps(true), StepKeep)+1)
	if !seen[back] {
		t.Errorf("nothing on the target bears %s: %v", back, seen)
	}
}

// A copy that only has to run for a while is waited for as long, and not until the look after that.
func TestNextLook(t *testing.T) {
	for _, c := range []struct {
		name                 string
		check                bool
		waited, settle, want time.Duration
	}{
		{"far from its time", false, time.Second, 10 * time.Second, 200 * time.Millisecond},
		{"near its time", false, 9990 * time.Millisecond, 10 * time.Second, 10 * time.Millisecond},
		{"its time is over since it was asked", false, 11 * time.Second, 10 * time.Second, 0},
		{"a health check has no time", true, 9990 * time.Millisecond, 10 * time.Second, 200 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := nextLook(c.check, c.waited, c.settle); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
