package report

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/sbom"
)

// What we write as a bill of materials we read back: each kind of package with the source that
// advisories are for, and the system with its name for people.
func TestBillsAreReadBack(t *testing.T) {
	list := func(packages ...inventory.Package) []inventory.Package { return packages }
	for _, tt := range []struct {
		name     string
		os       inventory.OS
		packages []inventory.Package
	}{
		{"debian", inventory.OS{ID: "debian", VersionID: "12", Pretty: "Debian GNU/Linux 12 (bookworm)"}, list(
			inventory.Package{Kind: inventory.KindDeb, Name: "bsdutils", Version: "1:2.38.1-5", Source: "util-linux", SourceVersion: "2.38.1-5"},
			inventory.Package{Kind: inventory.KindGo, Name: "github.com/Masterminds/semver", Version: "v3.0.0"},
			inventory.Package{Kind: inventory.KindNPM, Name: "@s/scoped", Version: "3.0.0", Locked: true},
			inventory.Package{Kind: inventory.KindPython, Name: "jinja2", Version: "3.0"},
			inventory.Package{Kind: inventory.KindComposer, Name: "symfony/http-kernel", Version: "5.0"},
			inventory.Package{Kind: inventory.KindNuGet, Name: "Newtonsoft.Json", Version: "13.0.1"},
			inventory.Package{Kind: inventory.KindGem, Name: "rack", Version: "2.0"},
			inventory.Package{Kind: inventory.KindJava, Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"},
			inventory.Package{Kind: inventory.KindJava, Name: "untold", Version: "1"},
			inventory.Package{Kind: inventory.KindRust, Name: "smallvec", Version: "1.6.0"},
		)},
		{"alpine", inventory.OS{ID: "alpine", VersionID: "3.18.4", Pretty: "Alpine Linux v3.18"}, list(
			inventory.Package{Kind: inventory.KindApk, Name: "libcrypto3", Version: "3.1.4-r0", Source: "openssl", SourceVersion: "3.1.4-r0"},
		)},
		{"rocky", inventory.OS{ID: "rocky", VersionID: "9.3", Pretty: "Rocky Linux 9.3"}, list(
			inventory.Package{Kind: inventory.KindRPM, Name: "glibc-common", Version: "2.34-83.el9", Source: "glibc", SourceVersion: "2.34-83.el9"},
			inventory.Package{Kind: inventory.KindRPM, Name: "bind-libs", Version: "32:9.16.23-14.el9", Source: "bind", SourceVersion: "32:9.16.23-14.el9"},
		)},
		{"openEuler", inventory.OS{ID: "openEuler", VersionID: "24.03", Pretty: "openEuler 24.03 (LTS-SP1)"}, list(
			inventory.Package{Kind: inventory.KindRPM, Name: "bash", Version: "5.2-1", Source: "bash", SourceVersion: "5.2-1"},
		)},
	} {
		for i := range tt.packages {
			tt.packages[i].Path = "some/file"
		}
		s := New("x", time.Unix(0, 0), &inventory.Result{Schema: inventory.Schema, OS: tt.os, Packages: tt.packages, Layers: []inventory.Layer{{}}}, nil, nil)
		for form, write := range map[string]func(io.Writer, string) error{"CycloneDX": s.WriteCycloneDX, "SPDX": s.WriteSPDX} {
			var b bytes.Buffer
			if err := write(&b, "test"); err != nil {
				t.Fatal(err)
			}
			res, err := sbom.Read(&b, func() error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(tt.packages)
			for i := range want {
				want[i].Locked = want[i].Locked && form == "CycloneDX" // SPDX has no word for it
			}
			byName := func(a, b inventory.Package) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) }
			slices.SortFunc(res.Packages, byName)
			slices.SortFunc(want, byName)
			if len(res.Notes) > 0 || !slices.Equal(res.Packages, want) {
				t.Errorf("%s, %s: notes %v, got\n%v\nwant\n%v", tt.name, form, res.Notes, res.Packages, want)
			}
			if !strings.EqualFold(res.OS.ID, tt.os.ID) || res.OS.VersionID != tt.os.VersionID || res.OS.Pretty != tt.os.Pretty {
				t.Errorf("%s, %s: system %v, want %v", tt.name, form, res.OS, tt.os)
			}
		}
	}
}
