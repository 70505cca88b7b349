package stock

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// processorTime is what this process has taken of the processor: the clock tells of others too.
func processorTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReload: a host with 100 images of 300 packages takes another database of 20,000
// records. "one" has another word on a package of one image, "all" on one of all of them.
func BenchmarkReload(b *testing.B) {
	dir := b.TempDir()
	var records []string
	for i := range 20_000 {
		records = append(records, record(fmt.Sprintf("DSA-%d", i), fmt.Sprintf("p%d", i%5000), "0.9"))
	}
	k, err := Open(Options{Dir: filepath.Join(dir, "inventories"), DB: filepath.Join(dir, "vuln.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer k.closeDB()
	for i := range 100 {
		names := []string{"p4999", fmt.Sprintf("p%d", 4000+i)}
		for j := range 298 {
			names = append(names, fmt.Sprintf("p%d", (i*37+j)%4000))
		}
		if err := k.keep(context.Background(), fmt.Sprintf("sha256:%064x", i), result(names...)); err != nil {
			b.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, pkg string
		images    int
	}{{"one", "p4000", 1}, {"all", "p4999", 100}} {
		var dbs [2]string
		for i := range dbs {
			dbs[i] = filepath.Join(b.TempDir(), "vuln.db")
			buildDB(b, dbs[i], append(records, record("DSA-new", tt.pkg, fmt.Sprint(2+i)))...)
		}
		k.o.DB = dbs[1]
		k.reload(context.Background())
		at := 0
		b.Run(tt.name, func(b *testing.B) {
			before := processorTime(b)
			for b.Loop() {
				matched := k.o.Health.Counter("rematched").Load()
				k.o.DB = dbs[at%2]
				at++
				k.reload(context.Background())
				if n := int(k.o.Health.Counter("rematched").Load() - matched); n != tt.images {
					b.Fatalf("%d images were matched again, want %d", n, tt.images)
				}
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
