package vulndb

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/testneed"
)

// build makes a database of records given as texts.
func build(tb testing.TB, records ...string) *DB {
	tb.Helper()
	dir := tb.TempDir()
	for i, r := range records {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), []byte(r), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	path := filepath.Join(tb.TempDir(), "vuln.db")
	if _, err := Build(tb.Context(), path, BuildOptions{Walk: osvdir.Walk, Dir: dir, Now: time.Unix(1, 0)}); err != nil {
		tb.Fatal(err)
	}
	db, err := Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

func rec(id, eco, name, rest string) string {
	return fmt.Sprintf(`{"id":%q,"affected":[{"package":{"ecosystem":%q,"name":%q},%s}]}`, id, eco, name, rest)
}

func rng(kind, events string) string { return fmt.Sprintf(`{"type":%q,"events":[%s]}`, kind, events) }

const upTo2 = `"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2.0"}]}]`

var debian12 = inventory.OS{ID: "debian", VersionID: "12"}

// TestTraps: each line is a way in which scanners were wrong.
func TestTraps(t *testing.T) {
	pkg := func(kind, name, version string) inventory.Package {
		return inventory.Package{Kind: kind, Name: name, Version: version}
	}
	src := func(name, version, source, sourceVersion string) inventory.Package {
		return inventory.Package{Kind: inventory.KindDeb, Name: name, Version: version, Source: source, SourceVersion: sourceVersion}
	}
	tests := []struct {
		name    string
		records []string
		os      inventory.OS
		pkg     inventory.Package
		want    string // IDs, state and fixed version of the only finding; empty: none
	}{
		{"the source's version, not the binary's", []string{rec("D-1", "Debian:12", "util-linux", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"2.38.1-5+deb12u1"}`)+`]`)},
			debian12, src("bsdutils", "1:2.38.1-5", "util-linux", "2.38.1-5"), "D-1 fixed 2.38.1-5+deb12u1"},
		{"fixed there", []string{rec("D-1", "Debian:12", "a", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1-1+deb12u1"}`)+`]`)},
			debian12, src("a", "1-1+deb12u1", "a", "1-1+deb12u1"), ""},
		{"a tilde is before", []string{rec("D-1", "Debian:12", "a", upTo2)}, debian12, src("a", "2.0~rc1", "a", "2.0~rc1"), "D-1 fixed 2.0"},
		{"an epoch is after", []string{rec("D-1", "Debian:12", "a", upTo2)}, debian12, src("a", "1:1.0", "a", "1:1.0"), ""},
		{"a rebuild of the binary alone", []string{rec("D-1", "Debian:12", "a", upTo2)}, debian12, src("b", "9+b1", "a", "1.0"), "D-1 fixed 2.0"},
		{"another release", []string{rec("D-1", "Debian:11", "a", upTo2), rec("D-2", "Debian:12", "z", upTo2)}, debian12, src("a", "1.0", "a", "1.0"), ""},
		{"signed kernels", []string{rec("D-1", "Debian:12", "linux", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"6.1.90-1"}`)+`]`)},
			debian12, src("linux-image-amd64", "6.1.85-1", "linux-signed-amd64", "6.1.85+1"), "D-1 fixed 6.1.90-1"},
		{"end of life", []string{rec("D-1", "Debian:12", "a", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"}`)+`],"ecosystem_specific":{"urgency":"end-of-life"}`)},
			debian12, src("a", "1.0", "a", "1.0"), "D-1 end-of-life"},
		{"NuGet in another case", []string{rec("G-1", "NuGet", "Newtonsoft.Json", upTo2)}, debian12, pkg(inventory.KindNuGet, "newtonsoft.json", "1.9.1"), "G-1 fixed 2.0"},
		{"Packagist", []string{rec("G-1", "Packagist", "twig/twig", upTo2)}, debian12, pkg(inventory.KindComposer, "Twig/Twig", "2.0-RC1"), "G-1 fixed 2.0"},
		{"RubyGems", []string{rec("G-1", "RubyGems", "rake", upTo2)}, debian12, pkg(inventory.KindGem, "rake", "2.0.pre1"), "G-1 fixed 2.0"},
		{"RubyGems, fixed", []string{rec("G-1", "RubyGems", "rake", upTo2)}, debian12, pkg(inventory.KindGem, "rake", "2.0"), ""},
		{"AlmaLinux by binary package", []string{rec("ALSA-1", "AlmaLinux:9", "thunderbird", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"115.7.0-1.el9_3.alma"}`)+`]`)},
			inventory.OS{ID: "almalinux", VersionID: "9.3"},
			inventory.Package{Kind: inventory.KindRPM, Name: "thunderbird", Version: "115.6.0-1.el9_3.alma", Source: "x", SourceVersion: "200"}, "ALSA-1 fixed 115.7.0-1.el9_3.alma"},
		{"an epoch of RPM is after", []string{rec("ALSA-1", "AlmaLinux:9", "a", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"2.0-1"}`)+`]`)},
			inventory.OS{ID: "almalinux", VersionID: "9.3"}, inventory.Package{Kind: inventory.KindRPM, Name: "a", Version: "1:1.0-1"}, ""},
		{"alpine by origin", []string{rec("A-1", "Alpine:v3.11", "openssl", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1.1.1g-r0"}`)+`]`)},
			inventory.OS{ID: "alpine", VersionID: "3.11.6"},
			inventory.Package{Kind: inventory.KindApk, Name: "libcrypto1.1", Version: "1.1.1d-r3", Source: "openssl", SourceVersion: "1.1.1d-r3"}, "A-1 fixed 1.1.1g-r0"},
		{"a range of commits first", []string{rec("P-1", "PyPI", "jinja2", `"ranges":[`+rng("GIT", `{"introduced":"0"},{"fixed":"abc"}`)+`,`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"2.11"}`)+`]`)},
			debian12, pkg(inventory.KindPython, "Jinja2", "2.10"), "P-1 fixed 2.11"},
		{"names of PyPI", []string{rec("P-1", "PyPI", "Foo_bar.Baz", upTo2)}, debian12, pkg(inventory.KindPython, "foo-bar-baz", "1.0"), "P-1 fixed 2.0"},
		{"listed versions, spelled otherwise", []string{rec("P-1", "PyPI", "a", `"versions":["1.0.0"]`)}, debian12, pkg(inventory.KindPython, "a", "1.0"), "P-1 affected"},
		{"withdrawn", []string{`{"id":"P-1","withdrawn":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"PyPI","name":"a"},` + upTo2 + `}]}`, rec("P-2", "PyPI", "z", upTo2)},
			debian12, pkg(inventory.KindPython, "a", "1.0"), ""},
		{"one flaw with three names", []string{
			`{"id":"GO-1","aliases":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"Go","name":"m"},"ranges":[` + rng("SEMVER", `{"introduced":"0"},{"fixed":"1.2.0"}`) + `]}]}`,
			`{"id":"GHSA-1","aliases":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"Go","name":"m"},"ranges":[` + rng("SEMVER", `{"introduced":"0"},{"last_affected":"1.1.9"}`) + `]}]}`,
		}, debian12, pkg(inventory.KindGo, "m", "v1.1.0"), "CVE-2024-1,GHSA-1,GO-1 fixed 1.2.0"},
		{"several branches", []string{rec("N-1", "npm", "a", `"ranges":[`+rng("SEMVER", `{"introduced":"2.0.0"},{"fixed":"2.3.0"},{"introduced":"0"},{"fixed":"1.5.0"}`)+`]`)},
			debian12, pkg(inventory.KindNPM, "a", "1.7.0"), ""},
		{"the branch that it is on", []string{rec("N-1", "npm", "a", `"ranges":[`+rng("SEMVER", `{"introduced":"2.0.0"},{"fixed":"2.3.0"},{"introduced":"0"},{"fixed":"1.5.0"}`)+`]`)},
			debian12, pkg(inventory.KindNPM, "a", "2.1.0"), "N-1 fixed 2.3.0"},
		{"before a release", []string{rec("N-1", "npm", "a", `"ranges":[`+rng("SEMVER", `{"introduced":"0"},{"fixed":"2.0.0"}`)+`]`)},
			debian12, pkg(inventory.KindNPM, "a", "2.0.0-beta.1"), "N-1 fixed 2.0.0"},
		{"pseudo-versions of Go", []string{rec("G-1", "Go", "m", `"ranges":[`+rng("SEMVER", `{"introduced":"0"},{"fixed":"0.0.0-20220314234659-1baeb1ce4c0b"}`)+`]`)},
			debian12, pkg(inventory.KindGo, "m", "v0.0.0-20210101000000-abcdefabcdef"), "G-1 fixed 0.0.0-20220314234659-1baeb1ce4c0b"},
		{"incompatible", []string{rec("G-1", "Go", "m", `"ranges":[`+rng("SEMVER", `{"introduced":"0"},{"fixed":"20.10.3+incompatible"}`)+`]`)},
			debian12, pkg(inventory.KindGo, "m", "v20.10.2+incompatible"), "G-1 fixed 20.10.3+incompatible"},
		{"the standard library", []string{rec("G-1", "Go", "stdlib", `"ranges":[`+rng("SEMVER", `{"introduced":"0"},{"fixed":"1.22.7"},{"introduced":"1.23.0-0"},{"fixed":"1.23.1"}`)+`]`)},
			debian12, pkg(inventory.KindGo, "stdlib", "1.23.0"), "G-1 fixed 1.23.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := build(t, tt.records...)
			m, err := db.Match(t.Context(), &inventory.Result{OS: tt.os, Packages: []inventory.Package{tt.pkg}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range m.Findings {
				got = append(got, strings.TrimSpace(strings.Join(f.IDs, ",")+" "+f.State+" "+f.Fixed))
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("got %q, want %q; notes %v", got, tt.want, m.Notes)
			}
		})
	}
}

// TestMerge: names that a third record brings together make one of two findings.
func TestMerge(t *testing.T) {
	m := merger{byID: map[string]int{}}
	m.add(Finding{IDs: []string{"A", "B"}, Severity: SeverityLow, State: StateAffected})
	m.add(Finding{IDs: []string{"C", "CVE-1"}, Severity: SeverityMedium, State: StateFixed, Fixed: "2"})
	m.add(Finding{IDs: []string{"X"}, State: StateAffected})
	m.add(Finding{IDs: []string{"B", "C"}, Severity: SeverityHigh, State: StateAffected})
	got := m.findings()
	if len(got) != 2 || !slices.Equal(got[0].IDs, []string{"CVE-1", "A", "B", "C"}) || got[0].Severity != SeverityHigh || got[0].Fixed != "2" || got[0].State != StateFixed {
		t.Errorf("got %+v", got)
	}
}

func TestNotes(t *testing.T) {
	db := build(t, rec("D-1", "Debian:12", "a", upTo2))
	m, err := db.Match(t.Context(), &inventory.Result{OS: debian12, Packages: []inventory.Package{
		{Kind: inventory.KindPython, Name: "x", Version: "1"}, {Kind: inventory.KindDeb, Name: "a", Version: "no:version"},
	}})
	if err != nil || len(m.Notes) != 2 || len(m.Findings) != 0 {
		t.Errorf("got %+v, %v, want a note for what has no advisories and for what cannot be compared", m, err)
	}
}

// TestPartOfAnEcosystem: a record of PyPI that names a package of npm, too, is not all that npm has.
func TestPartOfAnEcosystem(t *testing.T) {
	both := `{"id":"GHSA-1","affected":[{"package":{"ecosystem":"PyPI","name":"a"},` + upTo2 + `},{"package":{"ecosystem":"npm","name":"b"},` + upTo2 + `}]}`
	pypi, npm := rec("P-1", "PyPI", "a", upTo2), rec("N-1", "npm", "c", upTo2)
	res := &inventory.Result{Packages: []inventory.Package{{Kind: inventory.KindNPM, Name: "lodash", Version: "4.17.4"}, {Kind: inventory.KindNPM, Name: "b", Version: "1.0"}}}
	for _, tt := range []struct {
		name  string
		files map[string]string
		whole bool
	}{
		{"the folder of PyPI", map[string]string{"PyPI/GHSA-1.json": both, "PyPI/P-1.json": pypi}, false},
		{"an archive of it", map[string]string{"PyPI/all.zip": zipOf(t, map[string]string{"GHSA-1.json": both, "P-1.json": pypi})}, false},
		{"in a folder below it", map[string]string{"PyPI/changed/GHSA-1.json": both}, false},
		{"a folder without a name", map[string]string{"GHSA-1.json": both, "P-1.json": pypi}, false},
		{"the folder of npm", map[string]string{"npm/GHSA-1.json": both}, true},
		{"both folders", map[string]string{"PyPI/GHSA-1.json": both, "npm/GHSA-1.json": both}, true},
		{"an archive of npm, below another folder", map[string]string{"osv/PyPI/P-1.json": pypi, "osv/npm/all.zip": zipOf(t, map[string]string{"GHSA-1.json": both})}, true},
		{"records in a folder without a name", map[string]string{"GHSA-1.json": both, "N-1.json": npm}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db, err := buildFiles(t, BuildOptions{}, tt.files)
			if err != nil {
				t.Fatal(err)
			}
			m, err := db.Match(t.Context(), res)
			if err != nil || (len(m.Notes) == 0) != tt.whole {
				t.Errorf("got notes %v, %v, whole is %v", m.Notes, err, tt.whole)
			}
			if len(m.Findings) != 1 {
				t.Errorf("got findings %v, want that of b", m.Findings)
			}
		})
	}
}

func TestSeverity(t *testing.T) {
	tests := []struct {
		record string
		want   Severity
		score  float64
	}{
		{`{"id":"a","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}`, SeverityCritical, 9.8},
		{`{"id":"a","severity":[{"type":"CVSS_V2","score":"AV:N/AC:L/Au:N/C:P/I:P/A:P"}]}`, SeverityHigh, 7.5},
		{`{"id":"a","severity":[{"type":"Ubuntu","score":"low"}]}`, SeverityLow, 0},
		{`{"id":"a","database_specific":{"severity":"MODERATE"}}`, SeverityMedium, 0},
		{`{"id":"a","affected":[{"ecosystem_specific":{"urgency":"unimportant"}}]}`, SeverityNegligible, 0},
		{`{"id":"a","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/broken"}]}`, SeverityUnknown, 0},
	}
	for _, tt := range tests {
		r, ok, err := parseRecord([]byte(tt.record))
		if err != nil || !ok {
			t.Fatal(err)
		}
		if v := r.vulnerability(); v.Severity != tt.want || v.Score != tt.score {
			t.Errorf("%s: %s %v, want %s %v", tt.record, v.Severity, v.Score, tt.want, tt.score)
		}
	}
}

// TestBuildKeepsTheOld: a build that fails leaves the former database.
func TestBuildKeepsTheOld(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "vuln.db")
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(rec("P-1", "PyPI", "a", upTo2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), path, BuildOptions{Walk: osvdir.Walk, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "all.zip"), []byte("PK\x03\x04 cut off"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), path, BuildOptions{Walk: osvdir.Walk, Dir: dir}); err == nil {
		t.Error("a broken archive gave no error")
	}
	db, err := Open(path)
	if err != nil {
		t.Fatalf("the former database is gone: %v", err)
	}
	db.Close()
}

func TestOpenBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vuln.db")
	b := builder{keys: map[string][]affected{"e\x00n": {{record: 0, versions: [][]byte{[]byte("1")}}}}, records: []Vulnerability{{ID: "x"}}}
	good, err := b.encode(time.Unix(1, 0), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		if _, err := load(bad); err == nil {
			t.Fatalf("byte %d was altered, and nobody noticed", i)
		}
	}
	for n := range good {
		if _, err := load(good[:n]); err == nil {
			t.Fatalf("cut off after %d bytes, and nobody noticed", n)
		}
	}
	if err := os.WriteFile(path, good[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a file of 20 bytes was opened")
	}
}

// data is a file or folder of real records.
func data(tb testing.TB, name string) string {
	tb.Helper()
	return testneed.ScanData(tb, name)
}

var realDB = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "belay-vulndb")
	if err != nil {
		return "", err
	}
	root := testneed.ScanDataDir()
	path := filepath.Join(dir, "vuln.db")
	realDir = dir
	start := time.Now()
	rep, err := Build(fullContext, path, BuildOptions{Walk: osvdir.Walk, Dir: filepath.Join(root, "osv"), KEV: filepath.Join(root, "kev/known_exploited_vulnerabilities.json"), Now: start})
	fmt.Fprintf(os.Stderr, "built from real feeds in %s: %+v\n", time.Since(start), rep)
	return path, err
})

func openReal(tb testing.TB) *DB {
	tb.Helper()
	data(tb, "osv")
	path, err := realDB()
	if err != nil {
		tb.Fatal(err)
	}
	db, err := Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// TestRealAdvisory: a kernel of AlmaLinux lacks the fix of a flaw that is known to be exploited, which its
// advisory is about.
func TestRealAdvisory(t *testing.T) {
	m, err := openReal(t).Match(t.Context(), &inventory.Result{
		OS:       inventory.OS{ID: "almalinux", VersionID: "8.9"},
		Packages: []inventory.Package{{Kind: inventory.KindRPM, Name: "kernel", Version: "4.18.0-513.9.1.el8_9"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(m.Findings, func(f Finding) bool { return slices.Equal(f.IDs, []string{"ALSA-2024:1607"}) })
	if i < 0 {
		t.Fatalf("ALSA-2024:1607 is missing in %d findings", len(m.Findings))
	}
	if f := m.Findings[i]; f.Severity != SeverityHigh || !f.Exploited || len(f.About) != 7 || !slices.Contains(f.About, "CVE-2024-1086") {
		t.Errorf("got %+v", f)
	}
}

// truth is one recorded answer of api.osv.dev.
type truth struct {
	Ecosystem, Name, Version string
	IDs                      []string
	Truncated                bool
}

// recordsOf returns the IDs of what our feeds have on a package, affected or not.
func recordsOf(db *DB, q truth) (map[string]bool, error) {
	e, err := db.lookup(q.Ecosystem, q.Name)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for e.n > 0 {
		var a affected
		if err := e.next(&a); err != nil {
			return nil, err
		}
		v, err := db.record(a.record)
		if err != nil {
			return nil, err
		}
		out[v.ID] = true
	}
	return out, nil
}

// TestTruth: of what api.osv.dev answered, every record that our feeds have for that
// package of that release is found. What we find beyond it is told and no error: the
// answers are older than some of the feeds.
func TestTruth(t *testing.T) {
	db := openReal(t)
	f, err := os.Open(data(t, "truth/osv-querybatch.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var asked, missed, more int
	found := map[string]int{} // by ecosystem
	for s := bufio.NewScanner(f); s.Scan(); {
		var q truth
		if err := json.Unmarshal(s.Bytes(), &q); err != nil {
			t.Fatal(err)
		}
		have, err := recordsOf(db, q)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := find(db, q.Ecosystem, q.Name, strings.TrimPrefix(q.Version, "v"))
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, g := range got {
			ids = append(ids, g.IDs...)
			if !slices.ContainsFunc(g.IDs, func(id string) bool { return slices.Contains(q.IDs, id) }) && !q.Truncated {
				more++
			}
		}
		if db.has(q.Ecosystem) {
			asked++
		}
		for _, id := range q.IDs {
			switch {
			case !have[id]:
			case slices.Contains(ids, id):
				found[q.Ecosystem]++
			default:
				missed++
				t.Errorf("%s %s %s: %s was not found", q.Ecosystem, q.Name, q.Version, id)
			}
		}
	}
	t.Logf("%d packages of ecosystems that we have, records found: %v, %d missed, %d beyond the answers", asked, found, missed, more)
	// docs/accuracy.md says why of others no record can be compared.
	for _, ecosystem := range []string{"Go", "PyPI"} {
		if found[ecosystem] == 0 {
			t.Errorf("no record of %s was compared", ecosystem)
		}
	}
}

// TestVersionOrder runs all vectors "a < b" through the order that we use.
func TestVersionOrder(t *testing.T) {
	for file, eco := range map[string]string{
		"debian-versions.txt": "Debian", "debian-versions-generated.txt": "Debian", "alpine-versions.txt": "Alpine",
		"alpine-versions-generated.txt": "Alpine", "redhat-versions.txt": "Red Hat", "semver-versions.txt": "npm",
		"pypi-versions.txt": "PyPI", "pypi-versions-generated.txt": "PyPI", "maven-versions.txt": "Maven",
	} {
		t.Run(file, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(data(t, "versions"), file))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(b)) {
				w := strings.Fields(line)
				if len(w) != 3 || w[0] == "#" || w[0] == "//" {
					continue
				}
				v, err := parse(eco, w[0])
				if err != nil {
					t.Errorf("%s: %v", line, err)
					continue
				}
				got, err := v.compare([]byte(w[2]))
				if want := map[string]int{"<": -1, "=": 0, ">": 1}[w[1]]; err != nil || got != want {
					t.Errorf("%s: got %d, %v", strings.TrimSpace(line), got, err)
				}
				n++
			}
			t.Logf("%d pairs", n)
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	db := openReal(b)
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		if l, err := db.lookup("Debian:12", "openssl"); err != nil || l.n == 0 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func FuzzParseRecord(f *testing.F) {
	f.Add(rec("P-1", "PyPI", "a", upTo2))
	f.Add(rec("D-1", "Debian:12", "a", `"versions":["1","2"],"ranges":[`+rng("GIT", `{"introduced":"0"}`)+`]`))
	f.Fuzz(func(t *testing.T, s string) {
		r, ok, err := parseRecord([]byte(s))
		if err != nil || !ok {
			return
		}
		src, c := sources{b: builder{keys: map[string][]affected{}}}, compileRecord([]byte(s))
		src.record(&c)
		b, err := src.b.encode(time.Unix(1, 0), time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		db, err := load(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Affected {
			if _, _, err := find(db, r.Affected[i].Package.Ecosystem, r.Affected[i].Package.Name, "1.0"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzBody reads bodies that have the right checksum and yet make no sense.
func FuzzBody(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, []byte{4, 'e', 0, 'n', 0, 1}, []byte{0, 0, 0, 0}, []byte{1, 'x'})
	f.Fuzz(func(_ *testing.T, keys, entries, index, texts []byte) {
		keys, index = keys[:len(keys)/4*4], index[:len(index)/4*4]
		db := &DB{keys: keys, entries: entries, index: index, texts: texts, nKeys: len(keys) / 4, nRecs: len(index) / 4}
		find(db, "e", "n", "1")
		db.has("e")
		db.Status()
		for i := range db.nRecs {
			db.record(i)
		}
	})
}

// find looks one package up.
func find(db *DB, eco, name, version string) ([]Finding, int, error) {
	return db.finder().find(context.Background(), []string{eco}, []wanted{{name, version}})
}
