package report

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// FuzzRead: a report of anybody, as a baseline or one side of a comparison, and a list of bases: what
// is taken can be compared and written in every form.
func FuzzRead(f *testing.F) {
	res := &inventory.Result{
		Schema: inventory.Schema, OS: inventory.OS{ID: "debian", VersionID: "12"}, Layers: []inventory.Layer{{DiffID: "sha256:x"}},
		Packages: []inventory.Package{{Kind: inventory.KindDeb, Name: "a", Version: "1", Path: "var/lib/dpkg/status"}},
	}
	s := New("x", time.Unix(0, 0), res, &Database{Records: 1}, &vulndb.Matches{Findings: []vulndb.Finding{{IDs: []string{"CVE-1"}, State: vulndb.StateFixed, Fixed: "2"}}})
	seed, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"schema":"` + BasesSchema + `","bases":[{"name":"a","digest":"sha256:x","diffIds":["sha256:x"]}]}`))
	f.Add(bytes.Replace(seed, []byte(`"package":0`), []byte(`"package":-1`), 1))
	f.Add(bytes.Replace(seed, []byte(`"package":0`), []byte(`"package":1`), 1))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "bases.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		ReadBases(path)
		s, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		Compare(s, s)
		for form, write := range map[string]func(io.Writer, string) error{
			"SARIF": s.WriteSARIF, "GitLab": s.WriteGitLab, "CycloneDX": s.WriteCycloneDX, "SPDX": s.WriteSPDX,
		} {
			if err := write(io.Discard, "test"); err != nil {
				t.Errorf("%s: %v", form, err)
			}
		}
	})
}
