package load

import (
	"testing"
	"time"
)

// many is a host of 500 containers that was sampled twice.
func many(tb testing.TB) *fake {
	f := newFake(tb, false, "{caps: {memory: 80%, cpu: 80%, pids: 80%}, actions: [alert]}")
	for i := range 500 {
		f.container(i+1, 10, 1, 3)
	}
	f.run(30*time.Second, nil)
	if n := len(f.w.Status().Containers); n != 500 {
		tb.Fatalf("%d containers are watched", n)
	}
	return f
}

// TestNoAllocation: a sample of the containers and of the node allocates nothing, whatever
// their number is.
func TestNoAllocation(t *testing.T) {
	f := many(t)
	at := f.w.at(f.now)
	n := testing.AllocsPerRun(10, func() {
		at += int64(time.Second)
		for _, c := range f.w.list {
			if err := c.sample(at, f.w.buf[:]); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 0 {
		t.Errorf("a sample of %d containers allocates %v times", len(f.w.list), n)
	}
}

// BenchmarkSample500 samples 500 containers, on files of an ordinary file system; see
// test/load for real cgroups.
func BenchmarkSample500(b *testing.B) {
	f := many(b)
	at := f.w.at(f.now)
	b.ReportAllocs()
	for b.Loop() {
		at += int64(time.Second)
		for _, c := range f.w.list {
			if err := c.sample(at, f.w.buf[:]); err != nil {
				b.Fatal(err)
			}
		}
	}
	// Of one core, with a sample each containersEvery.
	b.ReportMetric(100*float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(containersEvery.Nanoseconds()), "%core")
}
