package vulndb

import (
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestOwnerTraps: a list of files hides no module. Only a package that is installed and
// that the distribution's records know does.
func TestOwnerTraps(t *testing.T) {
	python := rec("P-1", "PyPI", "six", upTo2)
	debian := rec("D-1", "Debian:12", "six", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"0.5"}`)+`]`)
	elsewhere := rec("D-2", "Debian:12", "z", upTo2)
	six := inventory.Package{Kind: inventory.KindPython, Name: "six", Version: "1.0", Owner: "python3-six"}
	deb := inventory.Package{Kind: inventory.KindDeb, Name: "python3-six", Version: "1.0-1", Source: "six", SourceVersion: "1.0-1"}
	other := deb
	other.Kind = inventory.KindNPM
	tests := []struct {
		name     string
		records  []string
		packages []inventory.Package
		want     int
	}{
		{"installed and known", []string{python, debian}, []inventory.Package{deb, six}, 0},
		{"a list without its package", []string{python, debian}, []inventory.Package{six}, 1},
		{"a package of a vendor", []string{python, elsewhere}, []inventory.Package{deb, six}, 1},
		{"a package of a language by that name", []string{python, debian}, []inventory.Package{other, six}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := build(t, tt.records...).Match(t.Context(), &inventory.Result{OS: debian12, Packages: tt.packages})
			if err != nil || len(m.Findings) != tt.want {
				t.Errorf("%d findings, want %d: %v", len(m.Findings), tt.want, err)
			}
		})
	}
}
