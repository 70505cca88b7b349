package journal

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/verdict"
)

// follower collects what Read delivers until it is stopped.
type follower struct {
	mu   sync.Mutex
	recs []*Record
}

func follow(t *testing.T, dir string, o ReadOptions) *follower {
	t.Helper()
	f := new(follower)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	o.Follow = true
	wg.Go(func() {
		err := Read(ctx, dir, o, func(r *Record) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.recs = append(f.recs, r)
			return nil
		})
		if err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return f
}

func (f *follower) seqs() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return seqs(f.recs)
}

func (f *follower) lost(cause string) (n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.recs {
		n += r.Lost[cause]
	}
	return n
}

func TestFollowThroughRotation(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 16 << 20, SegmentBytes: 8 << 10})
	run(t, j)
	f := follow(t, dir, ReadOptions{})
	for i := range 500 {
		j.Append(record(i, verdict.Allowed))
		if i%100 == 50 {
			waitFor(t, "the follower", func() bool { return len(f.seqs()) == i+1 })
		}
	}
	waitFor(t, "the follower", func() bool { return len(f.seqs()) >= 500 })
	if got := f.seqs(); !cmp.Equal(got, upTo(500)) {
		t.Errorf("got %v, want 1 to 500", got)
	}
	if segs, err := listSegments(dir, ringEvents); err != nil || len(segs) < 10 {
		t.Errorf("got %d segments, %v, want many rotations", len(segs), err)
	}
}

func TestFollowDenials(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	run(t, j)
	f := follow(t, dir, ReadOptions{Denials: true})
	for i := range 20 {
		d := verdict.Allowed
		if i%10 == 9 {
			d = verdict.Killed
		}
		j.Append(record(i, d))
	}
	waitFor(t, "two denials", func() bool { return len(f.seqs()) == 2 })
	if got := f.seqs(); !cmp.Equal(got, []uint64{10, 20}) {
		t.Errorf("got %v, want 10 and 20", got)
	}
}

// A follower that is slower than the bound hears what it missed.
func TestFollowerLeftBehind(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 128 << 10, SegmentBytes: 8 << 10})
	appendN(t, j, 1)
	gate := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last uint64
	var lost uint64
	done := make(chan error)
	go func() {
		done <- Read(ctx, dir, ReadOptions{Follow: true}, func(r *Record) error {
			<-gate
			lost += r.Lost[CauseReaderSegments]
			if last = max(last, r.Seq); last == 501 {
				cancel()
			}
			return nil
		})
	}()
	for range 5 {
		appendN(t, j, 100)
	}
	close(gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if lost == 0 || last != 501 {
		t.Errorf("got %d segments lost and last record %d, want some and 501", lost, last)
	}
}

func TestFollowRestart(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	f := follow(t, dir, ReadOptions{})
	appendN(t, j, 2)
	waitFor(t, "two records", func() bool { return len(f.seqs()) == 2 })
	j.Close()
	j = open(t, Options{Dir: dir})
	appendN(t, j, 2)
	waitFor(t, "records of the next agent", func() bool { return len(f.seqs()) == 4 })
	j.Close()

	// An operator who starts over.
	segs, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segs {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
	j = open(t, Options{Dir: dir, BootID: otherBoot})
	appendN(t, j, 3)
	waitFor(t, "records of the new journal", func() bool { return len(f.seqs()) == 7 })
	if got := f.seqs(); !cmp.Equal(got, []uint64{1, 2, 3, 4, 1, 2, 3}) {
		t.Errorf("got %v, want 1 to 4 and 1 to 3", got)
	}
	if n := f.lost(CauseReaderLines) + f.lost(CauseReaderSegments); n != 0 {
		t.Errorf("got %d reported lost, want 0", n)
	}
}

func TestSinceSkipsOldSegments(t *testing.T) {
	dir := closedJournal(t, Options{MaxBytes: 1 << 20, SegmentBytes: 8 << 10}, 40)
	segs, err := listSegments(dir, ringEvents)
	if err != nil {
		t.Fatal(err)
	}
	old := testTime.Add(-48 * 60 * 60 * 1e9)
	for _, s := range segs[:2] {
		if err := os.Chtimes(filepath.Join(dir, segmentName(ringEvents, s.num)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	// Records of the first two are in range: that they are left out shows the skip.
	got := seqs(read(t, dir, ReadOptions{Since: testTime}))
	if len(got) == 0 || got[0] == 1 || got[len(got)-1] != 40 {
		t.Errorf("got %v, want those of the later segments", got)
	}
	if got := read(t, dir, ReadOptions{Since: testTime.AddDate(1, 0, 0)}); len(got) != 0 {
		t.Errorf("got %d records of the future, want none", len(got))
	}
}
