package stock

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/scan/inventory"
)

type clock struct{ unix atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(c.unix.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.unix.Add(int64(d / time.Second)) }

// A first sight that was noted while the clock ran ahead becomes that of the next match, once: a grace
// that began anew with each match would never end.
func TestFirstSeenAhead(t *testing.T) {
	dir := t.TempDir()
	buildDB(t, filepath.Join(dir, "vuln.db"), record("DSA-1", "openssl", "2"))
	c := &clock{}
	real := time.Now()
	c.unix.Store(real.Add(48 * time.Hour).Unix())
	first := func() time.Time {
		w := &world{o: Options{
			Dir: filepath.Join(dir, "inventories"), DB: filepath.Join(dir, "vuln.db"), Poll: 10 * time.Millisecond, Now: c.now, Health: health.New(nil),
			Scan: func(context.Context, string, bool) (*inventory.Result, error) { return result("openssl"), nil },
		}}
		w.run(t)
		defer w.stop()
		if err := w.Ensure(t.Context(), imgA); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a match", func() bool { s, _ := w.State(imgA); return len(s.Findings) == 1 })
		s, _ := w.State(imgA)
		return s.Findings[0].FirstSeen
	}
	if got := first(); !got.Equal(c.now()) {
		t.Fatalf("got %s, want %s", got, c.now())
	}
	c.unix.Store(real.Unix())
	for range 2 {
		if got := first(); got.Unix() != real.Unix() {
			t.Errorf("got %s, want %s", got, real)
		}
		c.advance(time.Hour)
	}
}

// A clock that is before the making of the database is behind, as after a boot without a battery for it: first sights
// stay, and what is scanned or first seen meanwhile is of when the database was made.
func TestClockBehind(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "vuln.db")
	buildDB(t, db, record("DSA-1", "openssl", "2"), record("DSA-2", "curl", "2"))
	built := time.Now()
	c := &clock{}
	match := func(now time.Time, id, pkg string) State {
		t.Helper()
		c.unix.Store(now.Unix())
		w := &world{o: Options{
			Dir: filepath.Join(dir, "inventories"), DB: db, Poll: 10 * time.Millisecond, Now: c.now, Health: health.New(nil),
			MaxAge: func() time.Duration { return 24 * time.Hour }, InUse: func(string) bool { return true },
			Scan: func(context.Context, string, bool) (*inventory.Result, error) { return result(pkg), nil },
		}}
		w.run(t)
		defer w.stop()
		if _, known := w.State(id); !known {
			w.Want(id, true)
		}
		eventually(t, "a match", func() bool { s, _ := w.State(id); return len(s.Findings) == 1 })
		time.Sleep(50 * time.Millisecond) // scans that are old are made again
		s, _ := w.State(id)
		return s
	}
	later := built.Add(48 * time.Hour)
	match(later, imgA, "openssl")
	for _, now := range []time.Time{time.Unix(1000, 0), later.Add(time.Hour)} {
		if s := match(now, imgA, "openssl"); s.Findings[0].FirstSeen.Unix() != later.Unix() || s.At.Unix() != later.Unix() {
			t.Errorf("at %s: first seen %s, scanned %s; want %s", now, s.Findings[0].FirstSeen, s.At, later)
		}
	}
	s := match(time.Unix(1000, 0), imgB, "curl")
	for _, got := range []time.Time{s.At, s.Findings[0].FirstSeen} {
		if got.After(built) || built.Sub(got) > time.Hour {
			t.Errorf("new while the clock is behind: %s, want when the database was made, about %s", got, built)
		}
	}
}
