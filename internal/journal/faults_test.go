package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// disk is a file system with limits: it holds Limit bytes below dir, writes what
// still fits of a larger piece as a real one does, and fails or hangs on demand.
type disk struct {
	dir     string
	mu      sync.Mutex
	limit   int64 // 0: none
	syncErr error
	writeCh chan struct{} // not nil: a write waits for it to be closed
	opened  []*diskFile
}

type diskFile struct {
	*os.File
	d      *disk
	synced int64 // size at the last sync: what a power loss leaves for sure
}

func (d *disk) open(path string, flag int) (file, error) {
	f, err := openFile(path, flag)
	if err != nil {
		return nil, err
	}
	df := &diskFile{File: f.(*os.File), d: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = append(d.opened, df)
	return df, nil
}

func (d *disk) set(limit int64, syncErr error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit, d.syncErr = limit, syncErr
}

func (f *diskFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	ch, limit := f.d.writeCh, f.d.limit
	f.d.mu.Unlock()
	if ch != nil {
		<-ch
	}
	if limit == 0 {
		return f.File.Write(b)
	}
	es, err := os.ReadDir(f.d.dir)
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		if fi, err := e.Info(); err == nil {
			limit -= fi.Size()
		}
	}
	if limit >= int64(len(b)) {
		return f.File.Write(b)
	}
	n, err := f.File.Write(b[:max(limit, 0)])
	return n, errors.Join(err, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC})
}

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.syncErr != nil {
		return f.d.syncErr
	}
	fi, err := f.Stat()
	if err == nil {
		f.synced = fi.Size()
	}
	return err
}

func TestFullDiskDropsOldest(t *testing.T) {
	dir := t.TempDir()
	d := &disk{dir: dir, limit: 100 << 10}
	j := open(t, Options{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 16 << 10, open: d.open})
	first := record(0, verdict.Denied)
	j.Append(first)
	for range 8 {
		appendN(t, j, 50)
	}
	s := j.Stats()
	if s.Removed == 0 || len(s.Dropped) != 0 {
		t.Errorf("got %+v, want segments removed and no record dropped", s)
	}
	wantOK(t, dir)
	got := seqs(read(t, dir, ReadOptions{}))
	if last := got[len(got)-1]; last != 401 {
		t.Errorf("got last record %d, want 401", last)
	}
	if got := read(t, dir, ReadOptions{Denials: true}); len(got) != 1 {
		t.Errorf("got %d denials, want the first one kept", len(got))
	}
}

func TestFullDiskForGoodIsCounted(t *testing.T) {
	dir := t.TempDir()
	d := &disk{dir: dir}
	j := open(t, Options{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 16 << 10, open: d.open})
	appendN(t, j, 5)
	// Others filled the disk: 100 bytes of a line still fit.
	d.set(j.Stats().Bytes+100, nil)
	for i := range 3 {
		if !j.Append(record(i, verdict.Denied)) {
			t.Fatal("append: got false, want true: the caller never waits for the disk")
		}
	}
	if err := j.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want %v", err, syscall.ENOSPC)
	}
	want := map[string]uint64{CauseDiskFull: 3, CauseDenialCopy: 3}
	if s := j.Stats(); !cmp.Equal(s.Dropped, want) || s.LastError == "" || s.Written != 5 {
		t.Errorf("got %+v, want dropped %v", s, want)
	}
	d.set(0, nil)
	appendN(t, j, 1)
	got := read(t, dir, ReadOptions{})
	if g := seqs(got); !cmp.Equal(g, []uint64{1, 2, 3, 4, 5, 10, 9}) {
		t.Fatalf("got %v, want 5 records, a loss, a record", g)
	}
	if !cmp.Equal(got[5].Lost, map[string]uint64{CauseDiskFull: 3}) {
		t.Errorf("got lost %v, want 3", got[5].Lost)
	}
	if rep := wantOK(t, dir); rep.Rings[0].MissingSeq != 3 || rep.Rings[0].TornBytes != 0 {
		t.Errorf("got %+v, want 3 missing and no torn bytes", rep.Rings[0])
	}
}

func TestRealFullDisk(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "it mounts a tmpfs of 128 KiB")
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=128k")
	testneed.Need(t, "mount", err == nil, "root without CAP_SYS_ADMIN cannot mount")
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	j := open(t, Options{Dir: dir, MaxBytes: 8 << 20, SegmentBytes: 16 << 10})
	stop := run(t, j)
	for range 20 {
		appendN(t, j, 50)
	}
	s := j.Stats()
	if s.Removed == 0 || s.Written != 1000 {
		t.Errorf("got %+v, want all written and segments removed", s)
	}
	// Now someone else takes what is left, and the journal can free nothing.
	hog, err := os.OpenFile(filepath.Join(dir, "hog"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer hog.Close()
	for n := 1; n <= 100 && j.Stats().Dropped[CauseDiskFull] == 0; n++ {
		for {
			if _, err := hog.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		for i := range 50 {
			j.Append(record(i, verdict.Denied))
		}
		j.Flush() // its error is the one that is counted
	}
	if j.Stats().Dropped[CauseDiskFull] == 0 {
		t.Errorf("got %+v, want records lost to the full disk", j.Stats())
	}
	wantOK(t, dir)
	if err := hog.Truncate(0); err != nil {
		t.Fatal(err)
	}
	appendN(t, j, 10)
	stop()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantOK(t, dir)
	lost := false
	for _, r := range read(t, dir, ReadOptions{}) {
		lost = lost || r.Lost[CauseDiskFull] > 0
	}
	if !lost {
		t.Error("got no loss record, want one")
	}
}

func TestHangingDiskNeverBlocksAppend(t *testing.T) {
	dir := t.TempDir()
	d := &disk{dir: dir}
	j := open(t, Options{Dir: dir, Queue: 64, open: d.open})
	stop := run(t, j)
	ch := make(chan struct{})
	release := sync.OnceFunc(func() { close(ch) })
	defer release()
	d.mu.Lock()
	d.writeCh = ch
	d.mu.Unlock()
	start := time.Now()
	dropped := 0
	for i := range 5000 {
		if !j.Append(record(i, verdict.Denied)) {
			dropped++
		}
		j.Stats()
	}
	// Each of them takes about a microsecond; one wait for the disk would be forever.
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("5000 appends took %v", took)
	}
	if dropped == 0 || j.Stats().Dropped[CauseQueueFull] != uint64(dropped) {
		t.Errorf("got %d dropped, %v counted", dropped, j.Stats().Dropped)
	}
	release()
	stop()
	wantOK(t, dir)
	got, lost := 0, uint64(0)
	for _, r := range read(t, dir, ReadOptions{}) {
		if r.Kind != KindLoss {
			got++
		}
		lost += r.Lost[CauseQueueFull]
	}
	if got != 5000-dropped || lost != uint64(dropped) {
		t.Errorf("got %d records and %d reported lost, want %d and %d", got, lost, 5000-dropped, dropped)
	}
}

func TestSyncErrorsAreCounted(t *testing.T) {
	dir := t.TempDir()
	d := &disk{dir: dir}
	j := open(t, Options{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 16 << 10, open: d.open})
	appendN(t, j, 1)
	d.set(0, syscall.EIO)
	j.Append(record(1, verdict.Allowed))
	if err := j.Flush(); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want %v", err, syscall.EIO)
	}
	if s := j.Stats(); s.SyncErrors != 1 || s.Written != 2 {
		t.Errorf("got %+v, want one sync error and both written", s)
	}
	// The error stays: no segment can be started, so the bound of this one decides.
	for i := range 50 {
		j.Append(record(i, verdict.Allowed))
	}
	if err := j.Flush(); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want %v", err, syscall.EIO)
	}
	s := j.Stats()
	if s.Dropped[CauseWriteError] == 0 || s.Bytes > 32<<10 {
		t.Errorf("got %+v, want records lost, not an endless segment", s)
	}
	d.set(0, nil)
	appendN(t, j, 20)
	wantOK(t, dir)
}

func TestFlushSyncsInBatches(t *testing.T) {
	dir := t.TempDir()
	d := &disk{dir: dir}
	j := open(t, Options{Dir: dir, FlushEvery: 20 * time.Millisecond, open: d.open})
	run(t, j)
	before := j.Stats().Syncs
	for i := range 100 {
		j.Append(record(i, verdict.Allowed))
	}
	waitFor(t, "records to be synced without a call of Flush", func() bool {
		return j.Stats().Syncs > before && j.Stats().Written == 100
	})
	if n := j.Stats().Syncs - before; n > 50 {
		t.Errorf("got %d syncs for 100 records, want batches", n)
	}
}

// A power loss leaves what was synced and any part of what was not.
func TestPowerLoss(t *testing.T) {
	for _, keep := range []int64{0, 1, 100, 700, 1500, 1 << 20} {
		dir := t.TempDir()
		d := &disk{dir: dir}
		j := open(t, Options{Dir: dir, open: d.open})
		appendN(t, j, 20)
		for i := range 5 {
			j.Append(record(20+i, verdict.Allowed))
		}
		j.wmu.Lock()
		err := j.drain(true) // written, not synced
		j.wmu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		crashed := t.TempDir()
		for _, f := range d.opened {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			b = b[:min(int64(len(b)), f.synced+keep)]
			if err := os.WriteFile(filepath.Join(crashed, filepath.Base(f.Name())), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		j = open(t, Options{Dir: crashed, BootID: otherBoot})
		appendN(t, j, 1)
		got := seqs(read(t, crashed, ReadOptions{}))
		if len(got) < 21 || !cmp.Equal(got[:20], upTo(20)) {
			t.Errorf("keep %d: got %v, want the 20 that were flushed", keep, got)
		}
		wantOK(t, crashed)
	}
}

func TestTornTail(t *testing.T) {
	// The journal that is torn: 3 records in one segment.
	base := t.TempDir()
	appendN(t, open(t, Options{Dir: base}), 3)
	whole, err := os.ReadFile(filepath.Join(base, segmentName(ringEvents, 1)))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte{'\n'})
	three := len(whole)
	two := three - len(lines[3])
	tests := []struct {
		name    string
		content []byte
		want    int // records left
		torn    int
	}{
		{"whole", whole, 3, 0},
		{"line feed missing", whole[:three-1], 2, len(lines[3]) - 1},
		{"half a line", whole[:two+50], 2, 50},
		{"one byte", whole[:two+1], 2, 1},
		{"at a line's end", whole[:two], 2, 0},
		{"zeros behind", append(bytes.Clone(whole), make([]byte, 5000)...), 3, 5000},
		{"garbage line behind", append(bytes.Clone(whole), "\x00\x01garbage\n"...), 3, 10},
		{"half the header", lines[0][:20], 0, 20},
		{"header only", lines[0], 0, 0},
		{"empty", nil, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, segmentName(ringEvents, 1)), tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			j := open(t, Options{Dir: dir})
			if got := j.Stats().TornBytes; got != int64(tt.torn) {
				t.Errorf("got %d torn bytes, want %d", got, tt.torn)
			}
			appendN(t, j, 1)
			rep := wantOK(t, dir)
			if rep.Rings[0].TornBytes != 0 {
				t.Errorf("got %d torn bytes after Open, want 0", rep.Rings[0].TornBytes)
			}
			got := read(t, dir, ReadOptions{})
			want := tt.want + 1
			if tt.torn > 0 {
				want++
				if l := got[tt.want]; l.Kind != KindLoss || l.Lost[CauseTornTail] != uint64(tt.torn) {
					t.Errorf("got %+v, want a loss of %d bytes", l, tt.torn)
				}
			}
			if len(got) != want {
				t.Errorf("got %v, want %d records", seqs(got), want)
			}
		})
	}
}

// What is no torn tail is kept as it is, for Verify to show.
func TestDamageIsNotCut(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	appendN(t, j, 5)
	j.Close()
	p := filepath.Join(dir, segmentName(ringEvents, 1))
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte{'\n'})
	copy(lines[2], "overwritten") // record 2
	b = append(bytes.Join(lines, nil), "half"...)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, Options{Dir: dir})
	appendN(t, j, 1)
	if s := j.Stats(); s.Damaged != 1 || s.TornBytes != 0 {
		t.Errorf("got %+v, want one damaged line and nothing cut", s)
	}
	if after, err := os.ReadFile(p); err != nil || !bytes.Equal(after, b) {
		t.Errorf("got a changed segment (%v), want it untouched", err)
	}
	rep := verify(t, dir)
	if rep.OK() || rep.Problems[0].Line != 3 {
		t.Errorf("got %v, want a problem in line 3", rep.Problems)
	}
	got := read(t, dir, ReadOptions{})
	if g := seqs(got); len(g) < 5 || g[0] != 1 || g[len(g)-1] != 6 {
		t.Errorf("got %v, want what is left of 1 to 6", g)
	}
}
