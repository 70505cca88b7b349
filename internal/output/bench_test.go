package output

import (
	"path/filepath"
	"testing"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
)

// TestTakeIsCheap: a decision pays for a place in a queue, and one that nobody empties keeps nobody waiting.
func TestTakeIsCheap(t *testing.T) {
	s, err := Open(Options{Specs: []string{"file:/nowhere/x", "syslog:/nowhere"}, Health: health.New(nil), Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	r := record(1)
	if n := testing.AllocsPerRun(10000, func() { s.Take(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var off *Outputs
	if n := testing.AllocsPerRun(100, func() { off.Take(r) }); n != 0 {
		t.Errorf("%v allocations without outputs", n)
	}
}

// BenchmarkFile writes batches of 512 records to a file, in each format.
func BenchmarkFile(b *testing.B) {
	for _, format := range []string{FormatBelay, FormatOCSF, FormatECS} {
		b.Run(format, func(b *testing.B) {
			spec, err := Parse("file:" + filepath.Join(b.TempDir(), "e.json") + ",format=" + format)
			if err != nil {
				b.Fatal(err)
			}
			enc, err := encoderOf(format, "v1")
			if err != nil {
				b.Fatal(err)
			}
			s := newFile(spec, enc)
			defer s.close()
			batch := make([]*journal.Record, 0, 512)
			for i := range 512 {
				batch = append(batch, record(uint64(i)))
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.send(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*512)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
