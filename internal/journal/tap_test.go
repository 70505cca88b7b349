package journal

import (
	"sync/atomic"
	"testing"
)

// TestTap: the tap sees each record once, with its number, also those that the queue has no
// room for.
func TestTap(t *testing.T) {
	var seen, last atomic.Uint64
	j, err := Open(Options{Dir: t.TempDir(), Queue: 8, BootID: "b", Host: "h", Tap: func(r *Record) {
		seen.Add(1)
		last.Store(r.Seq)
	}})
	if err != nil {
		t.Fatal(err)
	}
	const n = 100 // nobody writes: most are lost
	for range n {
		j.Append(&Record{Kind: KindExec})
	}
	if seen.Load() != n || last.Load() != n || j.Stats().Dropped[CauseQueueFull] == 0 {
		t.Errorf("seen %d, last %d, dropped %v", seen.Load(), last.Load(), j.Stats().Dropped)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	// The note of the loss is a record too.
	if seen.Load() != n+1 {
		t.Errorf("seen %d, want the note of the loss too", seen.Load())
	}
}
