package plan

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// benchState is 1,000 nodes with 50 containers each, some of them full.
func benchState(full int) *State {
	r := rand.New(rand.NewPCG(1, 6))
	s := state()
	for i := range 1000 {
		fill := 0.3 + 0.35*r.Float64()
		if i*full/1000 != (i+1)*full/1000 {
			fill = 0.85 + 0.1*r.Float64()
		}
		var cs []Container
		for j := range 50 {
			c := movable(fmt.Sprintf("c%d-%d", i, j), 0, 0)
			part := fill / 50 * (0.2 + 1.6*r.Float64())
			c.Use = Amounts{NanoCPUs: int64(8e9 * part), MemoryBytes: int64(32 * gib * part), PIDs: 20}
			if j%5 == 0 {
				c.Net.Ports = []Port{{Port: 8000 + j, Protocol: "tcp"}}
			}
			if j%7 == 0 {
				c.Storage.Mounts = []Mount{{Type: "bind", Source: "/srv"}}
			}
			cs = append(cs, c)
		}
		s.Nodes = append(s.Nodes, node(fmt.Sprintf("n%04d", i), cs...))
	}
	return s
}

// BenchmarkMake plans for 1,000 nodes × 50 containers; the target is 100 ms.
func BenchmarkMake(b *testing.B) {
	for _, full := range []int{10, 50, 100, 300} {
		b.Run(fmt.Sprintf("full/%d", full), func(b *testing.B) {
			s := benchState(full)
			b.ReportAllocs()
			relieved, before := 0, cpuTime(b)
			for b.Loop() {
				relieved = 0
				for _, n := range mustMake(b, s).Nodes {
					if n.Outcome == Relieved {
						relieved++
					}
				}
			}
			b.ReportMetric(float64(relieved), "relieved")
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/plan")
		})
	}
}

// cpuTime is what the process has used: beside others, the time on the wall says little.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
