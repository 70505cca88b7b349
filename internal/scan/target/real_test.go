package target

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/testneed"
)

// TestRealAlpineFindings: a real image and Alpine's real records: openssl 1.1.1d-r3 is the very version
// that has the fix, by its origin, and the one before it has not.
func TestRealAlpineFindings(t *testing.T) {
	const flaw = "ALPINE-CVE-2019-1551"
	res, err := scan(t, testneed.ScanData(t, "images/alpine-311.tar.gz"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vuln.db")
	if _, err := vulndb.Build(t.Context(), path, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: testneed.ScanData(t, "osv/Alpine"), Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	db, err := vulndb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	i := slices.IndexFunc(res.Packages, func(p inventory.Package) bool { return p.Name == "libcrypto1.1" })
	if i < 0 || res.Packages[i].SourceVersion != "1.1.1d-r3" {
		t.Fatalf("the image has not openssl 1.1.1d-r3: %+v", res.Packages)
	}
	found := func() bool {
		m, err := db.Match(t.Context(), res)
		if err != nil || len(m.Notes) > 0 {
			t.Fatalf("%v, %+v", err, m.Notes)
		}
		return slices.ContainsFunc(m.Findings, func(f vulndb.Finding) bool { return f.Package == i && slices.Contains(f.IDs, flaw) })
	}
	if found() {
		t.Errorf("%s is found in the version that has its fix", flaw)
	}
	res.Packages[i].Version, res.Packages[i].SourceVersion = "1.1.1d-r2", "1.1.1d-r2"
	if !found() {
		t.Errorf("%s is not found in the version before its fix", flaw)
	}
}
