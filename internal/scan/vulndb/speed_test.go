package vulndb

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/osv-scalibr/semantic"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// FuzzDebian: the order that is made for speed is that of the library.
func FuzzDebian(f *testing.F) {
	for _, p := range [][2]string{{"1.0-1", "1.0-1+b1"}, {"1:0", "2"}, {"1.0~rc1", "1.0"}, {"2.38.1-5", "2.38.1-5+deb12u1"}, {"0:1.0", "1.0-0"}, {"1.0a", "1.0+"}, {"001.02", "1.2"}, {"1-2-3", "1-2"}} {
		f.Add(p[0], p[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, ok := splitDebian(a)
		if !ok {
			return
		}
		got, ok := compareDebian(x, []byte(b))
		if !ok {
			return
		}
		v, err := semantic.Parse(a, "Debian")
		if err != nil {
			t.Fatalf("%q is read, and by the library it is not: %v", a, err) // which is not asked
		}
		want, err := v.CompareStr(b)
		if err != nil {
			return
		}
		if got != sign(want) {
			t.Errorf("%q to %q: got %d, the library says %d", a, b, got, want)
		}
	})
}

// TestLookupAllocates: looking a package up makes nothing.
func TestLookupAllocates(t *testing.T) {
	db := build(t, rec("D-1", "Debian:12", "openssl", upTo2), rec("P-1", "PyPI", "a-b", upTo2))
	for _, name := range []string{"openssl", "nothing"} {
		if n := testing.AllocsPerRun(100, func() { db.lookup("Debian:12", name) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// thousand is an inventory of 1,000 packages as images have them: 250 that the
// database knows, a fifth of them just before its newest fix, and 750 that it does not.
func thousand(db *DB) *inventory.Result {
	res := &inventory.Result{OS: debian12}
	for i := 0; i < db.nKeys && len(res.Packages) < 250; i++ {
		if eco, name, _ := bytes.Cut(db.key(i), []byte{0}); string(eco) == "Debian:12" {
			e, err := db.lookup("Debian:12", string(name))
			if err != nil {
				continue
			}
			version := []byte("1.0-1")
			for e.n > 0 {
				var a affected
				if e.next(&a) != nil {
					break
				}
				for _, r := range a.ranges {
					if last := r[len(r)-1]; last.kind == eventFixed {
						if v, err := parse("Debian:12", string(last.version)); err == nil {
							if n, err := v.compare(version); err == nil && n > 0 {
								version = last.version
							}
						}
					}
				}
			}
			res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindDeb, Name: string(name), Version: string(version) + []string{"~", "", "", "", ""}[len(res.Packages)%5]})
		}
	}
	for i := range 750 {
		kind := []string{inventory.KindDeb, inventory.KindNPM, inventory.KindGo, inventory.KindPython}[i%4]
		res.Packages = append(res.Packages, inventory.Package{Kind: kind, Name: fmt.Sprintf("nobody-knows-%d", i), Version: fmt.Sprintf("1.%d.0", i)})
	}
	return res
}

// processorTime is what this process has taken of the processor: the clock tells of others too.
func processorTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkMatch1000(b *testing.B) {
	db := openReal(b)
	res := thousand(db)
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		m, err := db.Match(b.Context(), res)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(m.Findings)), "findings")
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// TestMatchAgain: a match uses the memory of the one before it, and nothing that it found; what that gave
// stays as it was.
func TestMatchAgain(t *testing.T) {
	db := build(t, rec("D-1", "Debian:12", "a", upTo2), rec("D-2", "Debian:12", "b", upTo2), rec("D-3", "Debian:12", "a", upTo2), rec("E-1", "Debian:13", "a", upTo2))
	match := func(release string, names ...string) (Matches, string) {
		res := &inventory.Result{OS: inventory.OS{ID: "debian", VersionID: release}}
		for _, n := range names {
			res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindDeb, Name: n, Version: "1"})
		}
		m, err := db.Match(t.Context(), res)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, f := range m.Findings {
			ids = append(ids, f.IDs...)
		}
		return m, strings.Join(ids, " ")
	}
	first, _ := match("12", "a")
	before := fmt.Sprintf("%+v", first)
	for range 3 {
		for _, tt := range []struct{ release, names, want string }{{"12", "c", ""}, {"12", "b a", "D-2 D-1 D-3"}, {"13", "b a", "E-1"}, {"12", "a a", "D-1 D-3 D-1 D-3"}} {
			if _, got := match(tt.release, strings.Fields(tt.names)...); got != tt.want {
				t.Errorf("%s of %s: got %q, want %q", tt.names, tt.release, got, tt.want)
			}
		}
	}
	if got := fmt.Sprintf("%+v", first); got != before {
		t.Errorf("the first is %s now, and was %s", got, before)
	}
}
