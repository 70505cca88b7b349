package vulndb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestMatchBounds: an image that names one package ever again, for which there are many
// records, ends a scan with an error, and not the memory of its host.
func TestMatchBounds(t *testing.T) {
	var records []string
	for i := range 100 {
		records = append(records, rec(fmt.Sprintf("D-%d", i), "Debian:12", "linux", upTo2))
	}
	db := build(t, records...)
	linux := inventory.Package{Kind: inventory.KindDeb, Name: "linux", Version: "1.0"}
	res := &inventory.Result{OS: debian12}
	for range MaxFindings / len(records) {
		res.Packages = append(res.Packages, linux)
	}
	if m, err := db.Match(t.Context(), res); err != nil || len(m.Findings) != MaxFindings {
		t.Errorf("at the bound: %d findings, %v", len(m.Findings), err)
	}
	res.Packages = append(res.Packages, linux)
	if m, err := db.Match(t.Context(), res); !errors.Is(err, ErrTooManyFindings) || len(m.Findings) != 0 {
		t.Errorf("past the bound: %d findings, %v", len(m.Findings), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Match(ctx, res); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestMatchMemory: findings of one advisory share its text: an image may have thousands of builds of one package,
// and an advisory hundreds of flaws.
func TestMatchMemory(t *testing.T) {
	const packages, bound = 1000, 1024 // bytes a finding
	var flaws []string
	for i := range 500 {
		flaws = append(flaws, fmt.Sprintf(`"CVE-2024-%d"`, i))
	}
	db := build(t, `{"id":"ALSA-1","related":[`+strings.Join(flaws, ",")+`],"affected":[{"package":{"ecosystem":"AlmaLinux:9","name":"mysql"},`+upTo2+`}]}`)
	res := &inventory.Result{OS: inventory.OS{ID: "almalinux", VersionID: "9.3"}}
	for i := range packages {
		res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindRPM, Name: "mysql", Version: fmt.Sprintf("1.0-%d", i)})
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := db.Match(t.Context(), res)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err != nil || len(m.Findings) != packages || len(m.Findings[0].About) != len(flaws) {
		t.Fatalf("%d findings, %v", len(m.Findings), err)
	}
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > packages*bound {
		t.Errorf("%d bytes a finding are kept, want at most %d", kept/packages, bound)
	}
	runtime.KeepAlive(m)
	runtime.KeepAlive(res)
}
