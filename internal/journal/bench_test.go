package journal

import (
	"bytes"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/verdict"
)

// What the one who reports an event pays. BenchmarkWrite has the writer in it.
func BenchmarkAppend(b *testing.B) {
	const size = 8192
	j := open(b, Options{Dir: b.TempDir(), Queue: size})
	r := record(0, verdict.Denied)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%size == 0 {
			j.mu.Lock()
			j.queue.first, j.queue.n = 0, 0
			j.mu.Unlock()
		}
		if !j.Append(r) {
			b.Fatal("dropped")
		}
	}
	j.queue.n = 0
}

func TestAppendAllocatesNothing(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), Queue: 4096})
	r := record(1, verdict.Denied)
	if n := testing.AllocsPerRun(1000, func() { j.Append(r) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// From Append to the disk, a sync every 4096 records: how much the writer can take.
func BenchmarkWrite(b *testing.B) {
	for _, bm := range []struct {
		name string
		d    verdict.Decision
	}{{"allowed", verdict.Allowed}, {"denied", verdict.Denied}} {
		b.Run(bm.name, func(b *testing.B) {
			j := open(b, Options{Dir: b.TempDir(), Queue: 8192})
			run(b, j)
			r := record(1, bm.d)
			b.ReportAllocs()
			start := time.Now()
			n := 0
			for b.Loop() {
				c := *r // Append sets its number
				j.Append(&c)
				if n++; n%4096 == 0 {
					if err := j.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := j.Flush(); err != nil {
				b.Fatal(err)
			}
			s := j.Stats()
			b.ReportMetric(float64(s.Written)/time.Since(start).Seconds(), "records/s")
			b.ReportMetric(float64(s.Dropped[CauseQueueFull]), "dropped")
		})
	}
}

// 20,000 records a second, a fifth of them denials, as they would come from the
// kernel: in small bursts. One iteration is one second.
func BenchmarkPaced20k(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir()})
	run(b, j)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		start := n
		for n-start < 20000 {
			<-tick.C
			for range 100 {
				d := verdict.Allowed
				if n%5 == 0 {
					d = verdict.Denied
				}
				j.Append(record(n, d))
				n++
			}
		}
	}
	if err := j.Flush(); err != nil {
		b.Fatal(err)
	}
	s := j.Stats()
	b.ReportMetric(float64(s.Written)/float64(n), "written/appended")
	b.ReportMetric(float64(s.QueuedMax), "queued-max")
}

func BenchmarkEncode(b *testing.B) {
	e, r := NewEncoder(), record(1, verdict.Denied)
	b.ReportAllocs()
	for b.Loop() {
		body, err := e.Encode(r)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(body)))
	}
}

func BenchmarkSegmentReader(b *testing.B) {
	var data []byte
	c, e := newChain(), NewEncoder()
	d := digest{}
	for i := range 1000 {
		body, err := e.Encode(record(i, verdict.Denied))
		if err != nil {
			b.Fatal(err)
		}
		d = c.link(d, tagRecord, body)
		data = appendLine(data, d, tagRecord, body)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s := newSegReader(bytes.NewReader(data))
		n := 0
		for {
			if _, err := s.next(); err != nil {
				break
			}
			n++
		}
		if n != 1000 {
			b.Fatalf("got %d lines, want 1000", n)
		}
	}
}
