package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

const (
	testBoot  = "0b1c9a4e-52b6-4c1f-9a55-6f0e2a1d7c33"
	otherBoot = "77777777-52b6-4c1f-9a55-6f0e2a1d7c33"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// open opens a journal that the test's end closes, with small defaults.
func open(t testing.TB, o Options) *Journal {
	t.Helper()
	if o.BootID == "" {
		o.BootID = testBoot
	}
	o.Host = "web-1"
	if o.Now == nil {
		o.Now = func() time.Time { return testTime }
	}
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// run starts j's writer; stop ends it and waits.
func run(t testing.TB, j *Journal) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := j.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// waitFor returns once cond holds, and fails t if it does not within ten seconds.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// record returns a record of ordinary size.
func record(n int, d verdict.Decision) *Record {
	return &Record{
		Time: testTime.Add(time.Duration(n) * time.Millisecond),
		Kind: KindExec,
		Container: &Container{
			ID: ident.ContainerID(strings.Repeat("c0ffee00", 8)), Name: "web", Image: "nginx:1.27",
			Digest: "sha256:" + strings.Repeat("ab", 32), Workload: "deployment/web", CgroupID: 4711, Class: "container",
		},
		Process: &Process{
			PID: 1000 + uint32(n), TID: 1000 + uint32(n), StartNS: 1 << 60, Comm: "sh", Cwd: "/",
			CapEffective: 0xa80425fb, CapPermitted: 0xa80425fb, Args: []string{"sh", "-c", fmt.Sprint("echo <", n, ">")},
			Executable: &Executable{Path: "/usr/bin/dash", Dev: Dev{0, 52}, Ino: 1<<63 + 5, Layer: LayerImage},
			Ancestors:  []Ancestor{{PID: 900, StartNS: 1, Comm: "nginx"}, {PID: 800, StartNS: 2, Comm: "containerd-shim"}},
		},
		Policy:   &Policy{Name: "hardened", Revision: "1f2e3d4c5b6a", Rule: verdict.RuleAsRoot.String(), Mode: "enforce"},
		Hook:     "bprm_check_security",
		Object:   &Object{Type: "file", Path: "/usr/bin/id", Dev: Dev{0, 52}, Ino: 99, Layer: LayerUpper},
		Decision: d, Errno: 1, Level: verdict.Prevent.String(), Backend: verdict.BackendLSM,
	}
}

// appendN appends and flushes n records, all allowed.
func appendN(t testing.TB, j *Journal, n int) {
	t.Helper()
	for i := range n {
		if !j.Append(record(i, verdict.Allowed)) {
			t.Fatalf("record %d dropped", i)
		}
	}
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
}

// read returns all records of dir.
func read(t testing.TB, dir string, o ReadOptions) []*Record {
	t.Helper()
	var out []*Record
	if err := Read(context.Background(), dir, o, func(r *Record) error { out = append(out, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func seqs(rs []*Record) []uint64 {
	out := make([]uint64, 0, len(rs))
	for _, r := range rs {
		out = append(out, r.Seq)
	}
	return out
}

// upTo returns 1 to n.
func upTo(n int) []uint64 {
	out := make([]uint64, 0, n)
	for i := range n {
		out = append(out, uint64(i+1))
	}
	return out
}

func verify(t testing.TB, dir string) Report {
	t.Helper()
	rep, err := Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func wantOK(t testing.TB, dir string) Report {
	t.Helper()
	rep := verify(t, dir)
	if !rep.OK() {
		t.Fatalf("got problems %v, want none", rep.Problems)
	}
	return rep
}

func TestAppendRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := open(t, Options{Dir: dir})
	want := []*Record{record(1, verdict.Denied), record(2, verdict.Allowed), {Kind: KindAgent, Message: "ready"}}
	want[0].Process.Args = []string{"a b", "<>&\"", "\u2028", "\x00\n", "é\ufffd"}
	for _, r := range want {
		if !j.Append(r) {
			t.Fatal("dropped")
		}
	}
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
	if want[2].Time != testTime || want[2].Host != "web-1" || want[2].BootID != testBoot || want[2].Schema != Schema {
		t.Errorf("got %+v, want defaults filled in", want[2])
	}
	if d := cmp.Diff(want, read(t, dir, ReadOptions{})); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want[:1], read(t, dir, ReadOptions{Denials: true})); d != "" {
		t.Errorf("denials (-want +got):\n%s", d)
	}
	if got := seqs(read(t, dir, ReadOptions{Since: want[1].Time})); !cmp.Equal(got, []uint64{2}) {
		t.Errorf("since: got %v, want [2]", got)
	}
	rep := wantOK(t, dir)
	if s := j.Stats(); rep.Rings[0].Head != s.EventsHead || rep.Rings[1].Head != s.DenialsHead {
		t.Errorf("got heads %v, want those of %+v", rep.Rings, s)
	}
	for _, name := range []string{"", "lock", segmentName(ringEvents, 1)} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: got mode %v, want nothing for others", name, fi.Mode())
		}
	}
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	appendN(t, open(t, Options{Dir: dir}), 2)
	boom := errors.New("boom")
	n := 0
	err := Read(context.Background(), dir, ReadOptions{}, func(*Record) error { n++; return boom })
	if !errors.Is(err, boom) || n != 1 {
		t.Errorf("got %v after %d records, want %v after 1", err, n, boom)
	}
	none := func(*Record) error { return nil }
	if err := Read(context.Background(), filepath.Join(dir, "no"), ReadOptions{}, none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
	if _, err := Verify(filepath.Join(dir, "no")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Read(ctx, dir, ReadOptions{}, none); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := Read(ctx, dir, ReadOptions{Follow: true}, none); err != nil {
		t.Errorf("follow: got %v, want nil", err)
	}
}

func TestSeqGoesOn(t *testing.T) {
	tests := []struct {
		name string
		boot string
		// between works on the closed journal.
		between func(t *testing.T, dir string)
		want    uint64
	}{
		{name: "restart in one boot", boot: testBoot, want: 41},
		{name: "another boot", boot: otherBoot, want: 1},
		{name: "newest segment has no record yet", boot: testBoot, want: 41, between: func(t *testing.T, dir string) {
			segs, err := listSegments(dir, ringEvents)
			if err != nil {
				t.Fatal(err)
			}
			last := segs[len(segs)-1]
			tl, err := scanTail(filepath.Join(dir, segmentName(ringEvents, last.num)), testBoot)
			if err != nil {
				t.Fatal(err)
			}
			g := ring{
				name: ringEvents, dir: dir, segMax: 1 << 20, budget: 1 << 30, segs: 99, bootID: testBoot, now: time.Now,
				open: openFile, chain: newChain(), num: last.num, head: tl.head,
			}
			if err := g.start(); err != nil {
				t.Fatal(err)
			}
			g.close()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, Options{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 8 << 10})
			appendN(t, j, 40)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if tt.between != nil {
				tt.between(t, dir)
			}
			j = open(t, Options{Dir: dir, BootID: tt.boot})
			r := record(0, verdict.Allowed)
			j.Append(r)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if r.Seq != tt.want {
				t.Errorf("got seq %d, want %d", r.Seq, tt.want)
			}
			if rep := wantOK(t, dir); rep.Rings[0].MissingSeq != 0 {
				t.Errorf("got %d missing, want 0", rep.Rings[0].MissingSeq)
			}
		})
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want %v", err, ErrLocked)
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("no directory: got nil, want an error")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	open(t, Options{Dir: dir})
}

func TestClosed(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	done := make(chan error)
	go func() { done <- j.Run(context.Background()) }()
	appendN(t, j, 3)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("run: got %v, want nil", err)
	}
	if j.Append(record(0, verdict.Denied)) {
		t.Error("append: got true, want false")
	}
	if err := j.Flush(); !errors.Is(err, ErrClosed) {
		t.Errorf("flush: got %v, want %v", err, ErrClosed)
	}
	if got := j.Stats().Dropped; !cmp.Equal(got, map[string]uint64{CauseClosed: 1}) {
		t.Errorf("got %v, want one %s", got, CauseClosed)
	}
}

func TestRunTwice(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	run(t, j)
	j.Append(record(0, verdict.Allowed))
	waitFor(t, "the first Run to have begun", func() bool { return j.Stats().Written == 1 })
	if err := j.Run(context.Background()); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v, want %v", err, ErrRunning)
	}
}

func TestQueueOverflow(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Queue: 8})
	tests := []struct {
		name     string
		decision verdict.Decision
		want     bool
		n        int
	}{
		{"three quarters for all", verdict.Allowed, true, 6},
		{"no more of them", verdict.Allowed, false, 5},
		{"the rest for denials", verdict.WouldDeny, true, 2},
		{"full", verdict.Denied, false, 3},
	}
	for _, tt := range tests {
		for i := range tt.n {
			if got := j.Append(record(i, tt.decision)); got != tt.want {
				t.Fatalf("%s: record %d: got %v, want %v", tt.name, i, got, tt.want)
			}
		}
	}
	s := j.Stats()
	if s.Dropped[CauseQueueFull] != 8 || s.Queued != 8 || s.QueuedMax != 8 || s.Appended != 16 {
		t.Errorf("got %+v, want 8 of 16 dropped", s)
	}
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
	got := read(t, dir, ReadOptions{})
	if len(got) != 9 || got[0].Kind != KindLoss || !cmp.Equal(got[0].Lost, map[string]uint64{CauseQueueFull: 8}) {
		t.Fatalf("got %d records, the first %+v, want a loss of 8 and 8 records", len(got), got[0])
	}
	if rep := wantOK(t, dir); rep.Rings[0].MissingSeq != 8 {
		t.Errorf("got %d missing, want 8", rep.Rings[0].MissingSeq)
	}
	if got := read(t, dir, ReadOptions{Denials: true}); len(got) != 3 {
		t.Errorf("got %d in the denial ring, want the loss and 2", len(got))
	}
	appendN(t, j, 1)
	if got := read(t, dir, ReadOptions{}); len(got) != 10 || got[9].Kind == KindLoss {
		t.Errorf("got %d records, want the loss reported once", len(got))
	}
}

func TestConcurrentAppend(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 64 << 20, SegmentBytes: 64 << 10, Queue: 4000})
	stop := run(t, j)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 250 {
				d := verdict.Allowed
				if i%5 == 0 {
					d = verdict.Denied
				}
				j.Append(record(i, d))
				if i%50 == 0 {
					j.Stats()
					j.Flush()
				}
			}
		})
	}
	wg.Wait()
	stop()
	if got := seqs(read(t, dir, ReadOptions{})); !cmp.Equal(got, upTo(2000)) {
		t.Errorf("got %d records, want 1 to 2000 in order", len(got))
	}
	if got := read(t, dir, ReadOptions{Denials: true}); len(got) != 400 {
		t.Errorf("got %d denials, want 400", len(got))
	}
	if s := j.Stats(); s.Written != 2000 || len(s.Dropped) != 0 {
		t.Errorf("got %+v, want 2000 written", s)
	}
	wantOK(t, dir)
}

func TestBounds(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, MaxBytes: 512 << 10, SegmentBytes: 16 << 10, MaxSegments: 9}
	j := open(t, o)
	first := record(0, verdict.Denied)
	j.Append(first)
	for range 10 {
		appendN(t, j, 100)
	}
	s := j.Stats()
	if s.Removed == 0 || s.Bytes > o.MaxBytes {
		t.Errorf("got %d bytes and %d removed, want at most %d and some", s.Bytes, s.Removed, o.MaxBytes)
	}
	segs, err := listSegments(dir, ringEvents)
	if err != nil {
		t.Fatal(err)
	}
	if len(segs) != 9 {
		t.Errorf("got %d segments, want 9", len(segs))
	}
	rep := wantOK(t, dir)
	if rep.Rings[0].First == 1 {
		t.Error("got the first segment, want it dropped")
	}
	if got := read(t, dir, ReadOptions{Denials: true}); len(got) != 1 || got[0].Seq != first.Seq {
		t.Errorf("got %v, want the denial to outlive the flood", seqs(got))
	}
	got := seqs(read(t, dir, ReadOptions{}))
	if got[len(got)-1] != 1001 || got[0] == 1 {
		t.Errorf("got %d to %d, want the newest records", got[0], got[len(got)-1])
	}
}
