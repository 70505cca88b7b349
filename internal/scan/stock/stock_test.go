package stock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

var (
	imgA = "sha256:" + strings.Repeat("a", 64)
	imgB = "sha256:" + strings.Repeat("b", 64)
)

func record(id, pkg, fixed string) string {
	return fmt.Sprintf(`{"id":%q,"affected":[{"package":{"ecosystem":"Debian:12","name":%q},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":%q}]}]}],"database_specific":{"severity":"CRITICAL"}}`, id, pkg, fixed)
}

// buildDB compiles records into the file at path, as of now.
func buildDB(t testing.TB, path string, records ...string) {
	t.Helper()
	dir := t.TempDir()
	for i, r := range records {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".json")), []byte(r), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := vulndb.Build(t.Context(), path, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: dir, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

func result(pkgs ...string) *inventory.Result {
	r := &inventory.Result{Schema: inventory.Schema, OS: inventory.OS{ID: "debian", VersionID: "12"}, Layers: []inventory.Layer{{}}}
	for _, p := range pkgs {
		r.Packages = append(r.Packages, inventory.Package{Kind: inventory.KindDeb, Name: p, Version: "1", Source: p, SourceVersion: "1", Path: "x"})
	}
	return r
}

// world is a keeper that runs, and what it told.
type world struct {
	*Keeper
	o     Options
	scans atomic.Int32
	mu    sync.Mutex
	told  []string // image's first letter and vulnerability
	stop  func()
}

func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.told, " ")
}

func open(t *testing.T, dir string, scan func(ctx context.Context, id string, idle bool) (*inventory.Result, error)) *world {
	t.Helper()
	w := &world{}
	w.o = Options{
		Dir: filepath.Join(dir, "inventories"), DB: filepath.Join(dir, "vuln.db"), Poll: 10 * time.Millisecond, Health: health.New(nil),
		Scan: func(ctx context.Context, id string, idle bool) (*inventory.Result, error) {
			w.scans.Add(1)
			return scan(ctx, id, idle)
		},
		Report: func(id string, fresh []policy.ImageFinding) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, f := range fresh {
				w.told = append(w.told, id[7:8]+":"+f.IDs[0])
			}
		},
	}
	w.run(t)
	return w
}

func (w *world) run(t *testing.T) {
	t.Helper()
	var err error
	if w.Keeper, err = Open(w.o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(w.stop)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("it did not come about: ", what)
}

func findings(w *world, id string) string {
	s, _ := w.State(id)
	var ids []string
	for _, f := range s.Findings {
		ids = append(ids, f.IDs[0])
	}
	return strings.Join(ids, " ")
}

// Policies are told whether a Go program has the functions that a vulnerability is in.
func TestSymbols(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"),
		`{"id":"GO-1","affected":[{"package":{"ecosystem":"Go","name":"x.example/m"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],"ecosystem_specific":{"imports":[{"path":"x.example/m/a","symbols":["F"]}]}}]}`)
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) {
		r := result("openssl")
		for _, symbol := range []string{"F", "G"} {
			keys := []uint32{inventory.FunctionKey("x.example/m/a", inventory.FunctionSymbol(symbol))}
			r.Packages = append(r.Packages, inventory.Package{Kind: inventory.KindGo, Name: "x.example/m", Version: "v1.0.0", Path: symbol, Functions: inventory.PutFunctions(keys)})
		}
		return r, nil
	})
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	s, _ := w.State(imgA)
	for _, f := range s.Findings {
		got[f.Path] = f.Symbols
	}
	if want := map[string]string{"x": inventory.SymbolsUnknown, "F": inventory.SymbolsPresent, "G": inventory.SymbolsAbsent}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// An image that is an index is scanned again, once, when another platform of it came in the place of the one
// that was scanned, and a failure of that is tried again.
func TestRenew(t *testing.T) {
	here, fails := "sha256:1", false
	w := open(t, t.TempDir(), func(context.Context, string, bool) (*inventory.Result, error) {
		if fails {
			return nil, errors.New("no")
		}
		r := result("openssl")
		r.Digest = here
		return r, nil
	})
	if w.Renew(imgA, here, true); w.scans.Load() != 0 {
		t.Error("an image that nobody wanted is scanned")
	}
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	scanned := func(n int32, manifest string) {
		t.Helper()
		eventually(t, fmt.Sprintf("scan %d, of %s", n, manifest), func() bool {
			s, _ := w.State(imgA)
			return w.scans.Load() == n && s.Manifest == manifest && !s.Queued
		})
	}
	scanned(1, here)
	w.Renew(imgA, here, true)
	w.Renew(imgA, "", true) // nobody says
	if s, _ := w.State(imgA); s.Queued || w.scans.Load() != 1 {
		t.Errorf("the same manifest is scanned again: %+v", s)
	}
	here = "sha256:2"
	w.Renew(imgA, here, false)
	scanned(2, here)
	w.Renew(imgA, "sha256:3", true) // another store's, which is not read
	scanned(3, here)
	w.Renew(imgA, "sha256:3", true)
	if s, _ := w.State(imgA); s.Queued || w.scans.Load() != 3 {
		t.Errorf("what a scan did not find is sought again: %+v", s)
	}
	fails = true
	w.Renew(imgA, "sha256:4", true)
	eventually(t, "a failure", func() bool { s, _ := w.State(imgA); return s.Err != "" && s.sought == "" })
}

// Another platform that comes while an image is scanned is scanned after it.
func TestRenewMeanwhile(t *testing.T) {
	started, manifests := make(chan bool, 3), make(chan string)
	w := open(t, t.TempDir(), func(ctx context.Context, _ string, _ bool) (*inventory.Result, error) {
		started <- true
		r := result("openssl")
		select {
		case r.Digest = <-manifests:
		case <-ctx.Done():
		}
		return r, nil
	})
	go func() { <-started; manifests <- "sha256:1" }()
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	w.Renew(imgA, "sha256:2", true)
	<-started
	w.Renew(imgA, "sha256:3", true)
	manifests <- "sha256:2"
	select {
	case <-started:
	case <-time.After(10 * time.Second):
		t.Fatal("what came meanwhile is not scanned")
	}
	manifests <- "sha256:3"
	eventually(t, "the scan of what is there", func() bool { s, _ := w.State(imgA); return s.Manifest == "sha256:3" && !s.Queued })
}

// A new record is found in the stored inventory, without another scan, told once, and only
// of images that hold the package.
func TestRematch(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"))
	w := open(t, dir, func(_ context.Context, id string, _ bool) (*inventory.Result, error) {
		if id == imgA {
			return result("openssl", "zlib"), nil
		}
		return result("curl"), nil
	})
	for _, id := range []string{imgA, imgB} {
		if err := w.Ensure(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if got := findings(w, imgA); got != "DSA-1" || findings(w, imgB) != "" {
		t.Fatalf("got %q and %q", got, findings(w, imgB))
	}
	buildDB(t, w.o.DB, record("DSA-1", "openssl", "2"), record("DSA-2", "zlib", "3"))
	eventually(t, "DSA-2 on a", func() bool { return strings.Contains(findings(w, imgA), "DSA-2") })
	eventually(t, "told", func() bool { return w.said() == "a:DSA-2" })
	eventually(t, "b has the new database", func() bool {
		a, _ := w.State(imgA)
		b, _ := w.State(imgB)
		return a.Database.Equal(b.Database)
	})
	eventually(t, "one image was matched again", func() bool { return w.o.Health.Counter("rematched").Load() == 1 })
	// A new start tells nothing twice, and what came while it was away.
	w.stop()
	buildDB(t, w.o.DB, record("DSA-1", "openssl", "2"), record("DSA-2", "zlib", "3"), record("DSA-3", "curl", "3"))
	w.run(t)
	eventually(t, "told after the start", func() bool { return w.said() == "a:DSA-2 b:DSA-3" })
	eventually(t, "matched after the start", func() bool { return findings(w, imgA) != "" })
	if n := w.scans.Load(); n != 2 {
		t.Errorf("%d scans, want 2", n)
	}
	s, _ := w.State(imgA)
	if s.Findings[0].FirstSeen.IsZero() || !s.Complete {
		t.Errorf("got %+v", s)
	}
}

// What was asked for again and is the same is as new as that, for images that are matched already too.
func TestConfirmedDatabase(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"))
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil })
	asked := time.Now().UTC().Truncate(time.Second).Add(time.Hour)
	for _, id := range []string{imgA, imgB} {
		if err := w.Ensure(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if id == imgB {
			break // matched after it
		}
		if err := vulndb.Confirm(w.o.DB, asked); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the later time", func() bool { s, _ := w.State(imgA); return s.Database.Equal(asked) })
	}
	if s, _ := w.State(imgB); !s.Database.Equal(asked) || w.o.Health.Counter("rematched").Load() != 0 {
		t.Errorf("the second is by a database of %s, want %s; %d matched again", s.Database, asked, w.o.Health.Counter("rematched").Load())
	}
}

// A database that is broken, or cut short under the mapping, is given up and does not end
// the agent.
func TestBrokenDatabase(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"))
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil })
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(w.o.DB, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is counted", func() bool { return w.o.Health.Counter("vulndb_unreadable").Load() > 0 })
	if err := w.Ensure(t.Context(), imgB); err != nil {
		t.Fatal(err)
	}
	s, _ := w.State(imgB)
	if !s.Database.IsZero() {
		t.Errorf("matched by a database that is cut off: %+v", s)
	}
}

// What keeps a database from being used is told with each image that is denied for it: a missing one is none.
func TestUnmatched(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	k, err := Open(Options{Dir: filepath.Join(dir, "i"), DB: db, Health: health.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer k.closeDB()
	if err := k.keep(t.Context(), imgA, result("openssl")); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good.db")
	buildDB(t, good, record("DSA-1", "openssl", "2"))
	body, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	former := bytes.Clone(body)
	former[8] = 3 // the format
	for _, tt := range []struct {
		name string
		body []byte // nil: no file
		want string
	}{
		{"none", nil, ""},
		{"another format", former, "it has format 3"},
		{"gone", nil, ""},
		{"cut off", body[:len(body)-1], "broken"},
		{"a good one", body, ""},
		{"a broken one after it", body[:len(body)-1], ""},
	} {
		if err := os.Remove(db); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if tt.body != nil {
			if err := os.WriteFile(db, tt.body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		k.reload(t.Context())
		s, _ := k.State(imgA)
		if got := s.Scan().Unmatched; (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	k.unmatched(imgA, errors.New("too slow"))
	if s, _ := k.State(imgA); s.Scan().Unmatched != "it could not be matched: too slow" {
		t.Errorf("got %q", s.Scan().Unmatched)
	}
}

// Inventories that were altered, cut or are somebody else's are not believed.
func TestDamagedInventory(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil })
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	w.stop()
	good, err := os.ReadFile(w.path(imgA))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := decode(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, _, err := decode(bytes.NewReader(bad)); !errors.Is(err, errDamaged) {
			t.Fatalf("byte %d was altered: %v", i, err)
		}
		if _, _, err := decode(bytes.NewReader(good[:i])); !errors.Is(err, errDamaged) {
			t.Fatalf("cut off after %d bytes: %v", i, err)
		}
	}
	if err := os.WriteFile(w.path(imgB), good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(t)
	if _, ok := w.State(imgB); ok {
		t.Error("an inventory under another's name was taken")
	}
	if _, err := os.Stat(w.path(imgB)); err == nil {
		t.Error("it is still there")
	}
	if _, ok := w.State(imgA); !ok || w.o.Health.Counter("inventories_unreadable").Load() != 1 {
		t.Error("the good one is gone, or the other was not counted")
	}
}

// When the first sights are lost nothing has a grace: their zero is long ago.
func TestFirstSeenLost(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"))
	if err := os.MkdirAll(filepath.Join(dir, "inventories"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "inventories", firstFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil })
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	s, _ := w.State(imgA)
	if len(s.Findings) != 1 || !s.Findings[0].FirstSeen.IsZero() {
		t.Errorf("got %+v", s.Findings)
	}
}

// Who waits goes before the background, whose scan is put off once; a failure is told, and
// not tried again at once.
func TestQueue(t *testing.T) {
	started := make(chan string, 10)
	w := open(t, t.TempDir(), func(ctx context.Context, id string, idle bool) (*inventory.Result, error) {
		started <- fmt.Sprint(id[7:8], idle)
		if id == imgA && idle && len(started) < 2 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if id == imgB {
			return nil, errors.New("killed at its memory cap")
		}
		return result(), nil
	})
	w.Want(imgA, false)
	eventually(t, "the first scan", func() bool { return len(started) == 1 })
	if err := w.Ensure(t.Context(), imgB); err == nil || !strings.Contains(err.Error(), "memory cap") {
		t.Errorf("got %v", err)
	}
	if err := w.Ensure(t.Context(), imgB); err == nil {
		t.Error("a failure that is fresh was no failure")
	}
	eventually(t, "the scan that was put off", func() bool { s, _ := w.State(imgA); return !s.At.IsZero() })
	var order []string
	for len(started) > 0 {
		order = append(order, <-started)
	}
	if got := strings.Join(order, " "); got != "atrue bfalse atrue" {
		t.Errorf("got %q", got)
	}
	if err := w.Ensure(t.Context(), "../../etc/passwd"); err == nil {
		t.Error("a path is no image")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Ensure(ctx, "sha256:"+strings.Repeat("c", 64)); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// The store is bounded; what is in use stays.
func TestEvict(t *testing.T) {
	dir := t.TempDir()
	w := &world{o: Options{Dir: filepath.Join(dir, "i"), DB: filepath.Join(dir, "no"), MaxImages: 3, InUse: func(id string) bool { return id == imgA },
		Scan: func(context.Context, string, bool) (*inventory.Result, error) { return result("x"), nil }}}
	w.run(t)
	ids := []string{imgA}
	for i := range 6 {
		ids = append(ids, "sha256:"+strings.Repeat(fmt.Sprint(i), 64))
	}
	for _, id := range ids {
		if err := w.Ensure(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(w.o.Dir)
	if err != nil || len(files) != 3 || len(w.List()) != 3 {
		t.Errorf("%d files, %d states, %v; want 3", len(files), len(w.List()), err)
	}
	if _, ok := w.State(imgA); !ok {
		t.Error("what is in use was dropped")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(fileMagic + "\n{}\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, res, err := decode(bytes.NewReader(b)); err == nil && res == nil {
			t.Fatal("neither an inventory nor an error")
		}
	})
}

// A fix that only paying users get makes no finding fixable for a policy.
func TestSubscriptionIsNoFix(t *testing.T) {
	k := &Keeper{lost: true}
	for state, want := range map[string]string{vulndb.StateFixed: "2", vulndb.StateSubscription: ""} {
		f := &vulndb.Finding{IDs: []string{"A"}, Fixed: "2", State: state}
		if got := k.finding(f, result("openssl"), time.Now(), false).Fixed; got != want {
			t.Errorf("%s: fixed in %q, want %q", state, got, want)
		}
	}
}

// clock is a time that tests set.
// Images whose scan is of half the age that policies allow are scanned again, those in use first; a
// scan that policies take for none is none for ever otherwise.
func TestRenewOld(t *testing.T) {
	const week = 7 * 24 * time.Hour
	c := &clock{}
	c.unix.Store(time.Now().Unix())
	var mu sync.Mutex
	var order []string
	var gone atomic.Bool
	w := &world{}
	dir := t.TempDir()
	w.o = Options{
		Dir: filepath.Join(dir, "i"), DB: filepath.Join(dir, "no"), Poll: 10 * time.Millisecond, Now: c.now, Health: health.New(nil),
		MaxAge: func() time.Duration { return week }, InUse: func(id string) bool { return id == imgB },
		Scan: func(_ context.Context, id string, _ bool) (*inventory.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, id[7:8])
			if gone.Load() {
				return nil, errors.New("unreadable")
			}
			return result("openssl"), nil
		},
	}
	scans := func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(order, "")
	}
	w.run(t)
	for _, id := range []string{imgA, imgB} {
		if err := w.Ensure(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	w.Want(imgA, false)
	c.advance(week/2 - time.Minute)
	time.Sleep(50 * time.Millisecond)
	if got := scans(); got != "ab" {
		t.Fatalf("scanned %s before it was time", got)
	}
	c.advance(2 * time.Minute)
	eventually(t, "the scans anew", func() bool { return len(scans()) >= 4 })
	if got := scans(); got != "abba" {
		t.Errorf("scanned %s, want the one in use first, and each once more", got)
	}
	eventually(t, "its scan is new", func() bool { s, _ := w.State(imgA); return c.now().Sub(s.At) < time.Minute && !s.Queued })
	// One that cannot be read keeps what is known of it, and is not tried without end.
	gone.Store(true)
	w.Want(imgA, false)
	c.advance(week/2 + time.Minute)
	eventually(t, "the failures", func() bool { return len(scans()) >= 6 })
	c.advance(time.Hour)
	time.Sleep(50 * time.Millisecond)
	if got := scans(); len(got) != 6 {
		t.Errorf("scanned %s, want no more of what has just failed", got)
	}
	if s, _ := w.State(imgB); s.At.IsZero() || s.Err == "" {
		t.Errorf("got %+v", s)
	}
}

// A scan of the future, made while the clock was wrong, is none for policies: the image is scanned again.
func TestRenewFuture(t *testing.T) {
	c := &clock{}
	c.unix.Store(time.Now().Unix())
	var scans atomic.Int32
	w := &world{}
	dir := t.TempDir()
	w.o = Options{
		Dir: filepath.Join(dir, "i"), DB: filepath.Join(dir, "no"), Poll: 10 * time.Millisecond, Now: c.now, Health: health.New(nil),
		MaxAge: func() time.Duration { return 7 * 24 * time.Hour }, InUse: func(string) bool { return true },
		Scan: func(context.Context, string, bool) (*inventory.Result, error) {
			scans.Add(1)
			return result("openssl"), nil
		},
	}
	w.run(t)
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	c.advance(-48 * time.Hour)
	eventually(t, "the scan anew", func() bool { s, _ := w.State(imgA); return scans.Load() == 2 && !s.At.After(c.now()) })
}

// By its age alone an image is scanned again that is in use or wanted: a host keeps many that nobody
// asks for. One that has left the host is none that failed, and comes back when it is wanted.
func TestRenewGone(t *testing.T) {
	const week = 7 * 24 * time.Hour
	c := &clock{}
	c.unix.Store(time.Now().Unix())
	scans := 0
	h := health.New(nil)
	k, err := Open(Options{
		Dir: t.TempDir(), DB: "none", Now: c.now, MaxAge: func() time.Duration { return week }, Scanner: "2", Health: h,
		Scan: func(context.Context, string, bool) (*inventory.Result, error) {
			if scans++; scans < 3 {
				return nil, fmt.Errorf("look for it: %w", ErrGone)
			}
			return result(), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.o.Scanner = "1"
	if err := k.keep(t.Context(), imgA, result()); err != nil {
		t.Fatal(err)
	}
	k.o.Scanner = "2"
	for i, step := range []struct {
		after time.Duration
		want  bool
		scans int
	}{
		{0, false, 1}, {week, false, 1}, {renewRetry, true, 2}, {time.Minute, true, 2}, {renewRetry, false, 3}, {week, false, 3}, {0, true, 4},
	} {
		c.advance(step.after)
		if step.want {
			k.Want(imgA, false)
		}
		k.renewOld()
		for k.scanNext(t.Context(), len(k.queue)) {
		}
		if s, _ := k.State(imgA); scans != step.scans || s.Err != "" || s.At.IsZero() {
			t.Errorf("step %d: %d scans, want %d; %+v", i, scans, step.scans, s)
		}
	}
	if n := h.Counter("scans_failed").Load(); n != 0 {
		t.Errorf("%d failures", n)
	}
}

// What another scanner found holds until the image has been scanned by the one that is here now.
func TestRenewScanner(t *testing.T) {
	dir, pkg := t.TempDir(), "openssl"
	var fails atomic.Bool
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) {
		if fails.Load() {
			return nil, errors.New("no")
		}
		return result(pkg), nil
	})
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	for i, version := range []string{"1", "1", "2"} {
		w.stop()
		w.o.Scanner, pkg = version, "zlib"
		w.run(t)
		if s, ok := w.State(imgA); !ok || s.At.IsZero() || s.Count != 1 {
			t.Errorf("version %s: got %+v before it is scanned again", version, s)
		}
		want := []int32{2, 2, 3}[i]
		eventually(t, "the scan by version "+version, func() bool { s, _ := w.State(imgA); return w.scans.Load() == want && s.by == version && !s.Queued })
	}
	fails.Store(true)
	w.stop()
	w.o.Scanner = "3"
	w.run(t)
	eventually(t, "a failure", func() bool { s, _ := w.State(imgA); return s.Err != "" && !s.At.IsZero() })
	time.Sleep(50 * time.Millisecond)
	if n := w.scans.Load(); n != 4 {
		t.Errorf("%d scans, want 4", n)
	}
}

// A database that comes while many images wait to be scanned is looked at after the scan that runs.
func TestDatabaseBetweenScans(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	buildDB(t, db, record("DSA-1", "openssl", "2"))
	step := make(chan bool)
	w := open(t, dir, func(ctx context.Context, id string, idle bool) (*inventory.Result, error) {
		if idle {
			select {
			case <-step:
			case <-ctx.Done():
			}
		}
		return result("openssl", "zlib"), ctx.Err()
	})
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		w.Want(fmt.Sprintf("sha256:%064x", i), false)
	}
	eventually(t, "the first scan", func() bool { return w.scans.Load() == 2 })
	buildDB(t, db, record("DSA-1", "openssl", "2"), record("DSA-2", "zlib", "3"))
	time.Sleep(5 * w.o.Poll)
	step <- true
	eventually(t, "the new database", func() bool { return strings.Contains(findings(w, imgA), "DSA-2") })
	if n := w.scans.Load(); n > 3 {
		t.Errorf("%d scans before it was looked at", n)
	}
	if s, _ := w.State("sha256:" + fmt.Sprintf("%064x", 49)); !s.Queued {
		t.Error("what waited is forgotten")
	}
}

// Who waits for a scan does not wait until all images are matched.
func TestUrgentBetweenMatches(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil })
	const images = 20
	for i := range images {
		if err := w.Ensure(t.Context(), fmt.Sprintf("sha256:%064x", i)); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()
	buildDB(t, db, record("DSA-1", "openssl", "2"))
	matched, step := make(chan string, 1), make(chan bool)
	w.o.Changed = func(id string) {
		if strings.HasPrefix(id, "sha256:0") {
			matched <- id
			select {
			case <-step:
			case <-t.Context().Done():
			}
		}
	}
	w.run(t)
	<-matched
	done := make(chan error, 1)
	go func() { done <- w.Ensure(t.Context(), imgB) }()
	eventually(t, "somebody waits", func() bool { s, _ := w.State(imgB); return s.Queued })
	step <- true
	<-matched
	eventually(t, "the scan", func() bool { return len(done) == 1 })
	if err := <-done; err != nil || w.Ready() {
		t.Errorf("got %v, all matched: %v", err, w.Ready())
	}
	close(step)
	for range images - 2 {
		<-matched
	}
	eventually(t, "all are matched", func() bool { return w.Ready() && findings(w, imgB) == "DSA-1" })
}

// Whoever waits, and waits again, does not keep what is stored from being matched.
func TestMatchesBetweenUrgent(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	buildDB(t, db, record("DSA-1", "openssl", "2"))
	var k *Keeper
	scans := 0
	k, err := Open(Options{Dir: filepath.Join(dir, "i"), DB: db, Scan: func(context.Context, string, bool) (*inventory.Result, error) {
		if scans++; scans > 10 {
			return nil, errors.New("no image was matched between")
		}
		k.enqueue(fmt.Sprintf("sha256:%064x", scans), 0, urgentRetry, true)
		return result(), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.closeDB()
	if err := k.keep(t.Context(), imgA, result("openssl")); err != nil {
		t.Fatal(err)
	}
	k.enqueue(imgB, 0, urgentRetry, true)
	k.reload(t.Context())
	if s, _ := k.State(imgA); len(s.Findings) != 1 || scans != 1 {
		t.Errorf("found %+v after %d scans, want one of each", s.Findings, scans)
	}
}

// Images that were never scanned come before those whose scan is old.
func TestFirstBeforeAgain(t *testing.T) {
	c := &clock{}
	imgC := "sha256:" + strings.Repeat("c", 64)
	k, err := Open(Options{
		Dir: t.TempDir(), DB: "none", Now: c.now, MaxAge: func() time.Duration { return time.Minute }, InUse: func(id string) bool { return id == imgA },
		Scan: func(context.Context, string, bool) (*inventory.Result, error) { return result(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	if err := k.keep(t.Context(), imgA, result()); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	k.renewOld()
	k.Want(imgC, false)
	k.Want(imgB, true)
	if _, _, ok := k.next(1); ok {
		t.Error("one of them is urgent")
	}
	order := ""
	for id, _, ok := k.next(len(k.queue)); ok; id, _, ok = k.next(len(k.queue)) {
		order += id[7:8]
	}
	if order != "bca" {
		t.Errorf("the order is %s, want bca", order)
	}
}

// What a scan anew brings to an image that was matched before is told, and nothing twice.
func TestRenewTold(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"), record("DSA-2", "zlib", "3"))
	var more atomic.Bool
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) {
		if more.Load() {
			return result("openssl", "zlib"), nil
		}
		return result("openssl"), nil
	})
	if err := w.Ensure(t.Context(), imgA); err != nil {
		t.Fatal(err)
	}
	more.Store(true)
	for range 2 {
		if err := w.Ensure(t.Context(), imgA); err != nil {
			t.Fatal(err)
		}
		if got := w.said(); findings(w, imgA) != "DSA-1 DSA-2" || got != "a:DSA-2" {
			t.Errorf("found %q and told %q, want DSA-2 told once", findings(w, imgA), got)
		}
	}
}

// Until what a scan anew brought is matched, the last match decides: no image passes through a time
// in which policies find that there is no database. It is that of another platform never.
func TestMatchStands(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	buildDB(t, db, record("DSA-1", "openssl", "2"))
	k, err := Open(Options{Dir: filepath.Join(dir, "i"), DB: db})
	if err != nil {
		t.Fatal(err)
	}
	defer k.closeDB()
	k.reload(t.Context())
	first, anew, other := result("openssl"), result("openssl", "zlib"), result("openssl")
	first.Digest, anew.Digest, other.Digest = imgA, imgA, imgB
	if err := k.keep(t.Context(), imgA, first); err != nil {
		t.Fatal(err)
	}
	look := func(what string, matched bool) {
		t.Helper()
		if s, _ := k.State(imgA); s.Database.IsZero() == matched || (len(s.Findings) == 1) != matched || s.Complete != matched {
			t.Errorf("%s: got %+v", what, s)
		}
	}
	m := &meta{ID: imgA, At: time.Now()}
	k.take(m, anew)
	look("scanned anew", true)
	k.unmatched(imgA, errors.New("no"))
	look("the match failed", false)
	k.match(t.Context(), m, anew)
	look("matched", true)
	k.take(m, other)
	look("another platform", false)
}

// A database that cannot be opened just now is tried again.
func TestDatabaseLater(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	buildDB(t, db, record("DSA-1", "openssl", "2"))
	k, err := Open(Options{Dir: filepath.Join(dir, "i"), DB: db, Health: health.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer k.closeDB()
	if err := k.keep(t.Context(), imgA, result("openssl")); err != nil {
		t.Fatal(err)
	}
	unreadable := func() uint64 { return k.o.Health.Counter("vulndb_unreadable").Load() }
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	k.reload(t.Context())
	k.reload(t.Context())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if n := unreadable(); k.db != nil || n != 1 {
		t.Errorf("counted %d times without a descriptor, want once", n)
	}
	k.reload(t.Context())
	if s, _ := k.State(imgA); len(s.Findings) != 1 {
		t.Errorf("got %+v, want it matched once the database can be opened", s)
	}
	// A broken one is broken until it is another file.
	if err := os.WriteFile(db+".new", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(db+".new", db); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		k.reload(t.Context())
	}
	if n := unreadable(); n != 2 || k.db == nil {
		t.Errorf("counted %d times, want a broken one once, and the former one in use", n)
	}
}

// What a start waits for is matched before Run, which finds nothing new in it.
func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"))
	w := open(t, dir, func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil })
	for _, id := range []string{imgA, imgB} {
		if err := w.Ensure(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()
	buildDB(t, w.o.DB, record("DSA-1", "openssl", "2"), record("DSA-2", "openssl", "3"))
	k, err := Open(w.o)
	if err != nil {
		t.Fatal(err)
	}
	k.Prepare(t.Context(), []string{imgA, "sha256:unknown"})
	a, _ := k.State(imgA)
	b, _ := k.State(imgB)
	if a.Database.IsZero() || len(a.Findings) != 2 || !b.Database.IsZero() {
		t.Errorf("asked for: %+v, not asked for: %+v", a, b)
	}
	w.run(t)
	eventually(t, "the rest is matched", func() bool { return w.Ready() && findings(w, imgB) != "" })
	if got := w.said(); got != "a:DSA-2 b:DSA-2" {
		t.Errorf("told %q", got)
	}
}
