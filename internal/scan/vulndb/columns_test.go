package vulndb

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
)

func gz(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// buildFiles builds a database of files by name and opens it.
func buildFiles(t *testing.T, o BuildOptions, files map[string]string) (*DB, error) {
	t.Helper()
	o.Dir, o.Walk = t.TempDir(), osvdir.Walk
	for name, body := range files {
		p := filepath.Join(o.Dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "vuln.db")
	o.Now = time.Unix(1, 0)
	if _, err := Build(t.Context(), path, o); err != nil {
		return nil, err
	}
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db, nil
}

func extra(t *testing.T, name string, body []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTrackerTraps: what Debian says of a flaw beside its versions, each a way in
// which scanners were too loud or blind.
func TestTrackerTraps(t *testing.T) {
	const unfixed = `"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]`
	tests := []struct {
		name, affected, tracker, state string
		severity                       Severity
	}{
		{"ignored will not be fixed", unfixed, `{"status":"open","nodsa":"Minor issue","nodsa_reason":"ignored"}`, StateWillNotFix, SeverityCritical},
		{"postponed", unfixed, `{"status":"open","nodsa":"Minor issue","nodsa_reason":"postponed"}`, StateDeferred, SeverityCritical},
		{"no advisory of its own", unfixed, `{"status":"open","nodsa":"Minor issue","nodsa_reason":""}`, StateDeferred, SeverityCritical},
		{"undetermined", unfixed, `{"status":"undetermined"}`, StateUndetermined, SeverityCritical},
		{"end of life", unfixed, `{"status":"open","urgency":"end-of-life"}`, StateEndOfLife, SeverityCritical},
		{"unimportant", unfixed, `{"status":"open","urgency":"unimportant"}`, StateAffected, SeverityNegligible},
		{"a fix goes before the tracker's word", upTo2, `{"status":"open","nodsa":"x","nodsa_reason":"ignored"}`, StateFixed, SeverityCritical},
		{"open", unfixed, `{"status":"open","urgency":"not yet assigned"}`, StateAffected, SeverityCritical},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tracker := extra(t, "t.json", []byte(`{"other":{"CVE-1":{"releases":{"bookworm":{"status":"undetermined"}}}},"a":{"CVE-2024-1":{"releases":{"bookworm":`+tt.tracker+`,"sid":{"status":"open"}}}}}`))
			db, err := buildFiles(t, BuildOptions{Tracker: tracker}, map[string]string{"a.json": `{"id":"DEBIAN-CVE-2024-1","upstream":["CVE-2024-1"],
				"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],"affected":[{"package":{"ecosystem":"Debian:12","name":"a"},` + tt.affected + `}]}`})
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := find(db, "Debian:12", "a", "1.0")
			if err != nil || len(got) != 1 || got[0].State != tt.state || got[0].Severity != tt.severity {
				t.Errorf("got %+v, %v, want %s %s", got, err, tt.state, tt.severity)
			}
		})
	}
}

// TestAdvisories: what is joined to an advisory of several flaws, and that it stays one of its own.
func TestAdvisories(t *testing.T) {
	list := extra(t, "e.csv.gz", gz(t, "cve,epss,percentile\nCVE-2024-1,0.1,0.2\nCVE-2024-2,0.9,0.99\nCVE-2024-3,0.3,0.4\n"))
	kev := extra(t, "kev.json", []byte(`{"vulnerabilities":[{"cveID":"CVE-2024-2"}]}`))
	tests := []struct {
		name, id, rest, about string
		severity              Severity
		exploited             bool
		epss                  float64
	}{
		{"AlmaLinux", "ALSA-2024:1", `"summary":"Important: kernel update","related":["CVE-2024-1","CVE-2024-2"]`, "CVE-2024-1,CVE-2024-2", SeverityHigh, true, 0.9},
		{"AlmaLinux, of one flaw", "ALSA-2024:1", `"summary":"Moderate: a update","related":["CVE-2024-2"]`, "CVE-2024-2", SeverityMedium, true, 0.9},
		{"AlmaLinux, enhancements", "ALEA-2024:1", `"summary":"Low: a update","related":["CVE-2024-1"]`, "CVE-2024-1", SeverityLow, false, 0.1},
		{"AlmaLinux, a bug fix", "ALBA-2024:1", `"summary":"None: a update","related":["CVE-2024-1"]`, "CVE-2024-1", SeverityUnknown, false, 0.1},
		{"Rocky Linux", "RLSA-2024:1", `"summary":"Critical: a update","related":["CVE-2024-3","RHSA-2024:1"],"upstream":["CVE-2024-2"]`, "CVE-2024-2,CVE-2024-3", SeverityCritical, true, 0.9},
		{"Rocky Linux, SIG", "RXSA-2024:1", `"summary":"Moderate: a update","related":["CVE-2024-1","CVE-2024-3"]`, "CVE-2024-1,CVE-2024-3", SeverityMedium, false, 0.3},
		{"a score goes before the word", "RLSA-2024:1", `"summary":"Low: a","related":["CVE-2024-1"],"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]`, "CVE-2024-1", SeverityCritical, false, 0.1},
		{"several upstream", "DSA-1", `"upstream":["CVE-2024-1","CVE-2024-2"]`, "CVE-2024-1,CVE-2024-2", SeverityUnknown, true, 0.9},
		{"one of several is no name", "RHSA-2024:1", `"aliases":["CVE-2024-2"],"upstream":["CVE-2024-2","CVE-2024-3"]`, "CVE-2024-2,CVE-2024-3", SeverityUnknown, true, 0.9},
		{"nor one beside what is related", "RHSA-2024:1", `"aliases":["CVE-2024-2"],"related":["CVE-2024-3"]`, "CVE-2024-2,CVE-2024-3", SeverityUnknown, true, 0.9},
		{"nor are several", "DSA-1", `"aliases":["CVE-2024-2","CVE-2024-3","GHSA-9","RHSA-2024:2"]`, "CVE-2024-2,CVE-2024-3,GHSA-9", SeverityUnknown, true, 0.9},
		{"nor by names of Ubuntu", "USN-1-1", `"aliases":["UBUNTU-CVE-2024-2","UBUNTU-CVE-2024-3"]`, "CVE-2024-2,CVE-2024-3", SeverityUnknown, true, 0.9},
		{"several names of a flaw that is none", "GHSA-1", `"aliases":["CVE-2024-2","CVE-2024-3"]`, "", SeverityUnknown, true, 0.9},
		{"Ubuntu", "USN-1-1", `"upstream":["UBUNTU-CVE-2024-1","UBUNTU-CVE-2024-2"]`, "CVE-2024-1,CVE-2024-2", SeverityUnknown, true, 0.9},
		{"Ubuntu, by both names", "USN-1-1", `"upstream":["CVE-2024-1","CVE-2024-2","UBUNTU-CVE-2024-1","UBUNTU-CVE-2024-2"]`, "CVE-2024-1,CVE-2024-2", SeverityUnknown, true, 0.9},
		{"Ubuntu, of one flaw", "USN-1-1", `"upstream":["UBUNTU-CVE-2024-2"]`, "", SeverityUnknown, true, 0.9},
		{"Ubuntu, of one flaw by both names", "USN-1-1", `"upstream":["CVE-2024-2","UBUNTU-CVE-2024-2"]`, "", SeverityUnknown, true, 0.9},
		{"Ubuntu, a flaw without upstream", "UBUNTU-CVE-2024-2", `"aliases":[]`, "", SeverityUnknown, true, 0.9},
		{"one upstream is a name", "DEBIAN-CVE-2024-2", `"upstream":["CVE-2024-2"]`, "", SeverityUnknown, true, 0.9},
		{"what is a name already", "RHSA-2024:1", `"aliases":["CVE-2024-1"],"related":["CVE-2024-1"]`, "", SeverityUnknown, false, 0.1},
		{"related of others is another flaw", "GO-2024-1", `"summary":"Critical: a","aliases":["CVE-2024-1"],"related":["CVE-2024-2"]`, "", SeverityUnknown, false, 0.1},
		{"and of a distribution's flaw", "UBUNTU-CVE-2024-1", `"upstream":["CVE-2024-1"],"related":["CVE-2024-2"]`, "", SeverityUnknown, false, 0.1},
		{"a related that is not of its form", "ALSA-2024:1", `"summary":"Low: a","related":5`, "", SeverityLow, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The other advisory is about one of the same flaws.
			db, err := buildFiles(t, BuildOptions{EPSS: list, KEV: kev}, map[string]string{
				"a.json": `{"id":"` + tt.id + `",` + tt.rest + `,"affected":[{"package":{"ecosystem":"AlmaLinux:9","name":"a"},` + upTo2 + `}]}`,
				"b.json": `{"id":"ALSA-2023:9","related":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"AlmaLinux:9","name":"a"},` + upTo2 + `}]}`,
			})
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := find(db, "AlmaLinux:9", "a", "1.0")
			if err != nil || len(got) != 2 {
				t.Fatalf("got %+v, %v, want two advisories", got, err)
			}
			f := got[slices.IndexFunc(got, func(f Finding) bool { return slices.Contains(f.IDs, tt.id) })]
			if about := strings.Join(f.About, ","); about != tt.about || f.Severity != tt.severity || f.Exploited != tt.exploited || math.Abs(f.EPSS-tt.epss) > 0.001 {
				t.Errorf("got %+v, want %+v", f, tt)
			}
		})
	}
}

// TestFlawByTwoNames: a flaw that an advisory names by its CVE number and by another name of it counts once.
func TestFlawByTwoNames(t *testing.T) {
	advisory := `{"id":"CGA-1","upstream":["CVE-2024-1","CVE-2024-2","GHSA-1"],"affected":[{"package":{"ecosystem":"Wolfi","name":"a"},` + upTo2 + `}]}`
	for _, tt := range []struct{ name, record, about string }{
		{"an alias", `{"id":"GHSA-1","aliases":["CVE-2024-2"]}`, "CVE-2024-1,CVE-2024-2"},
		{"by another record", `{"id":"GO-1","aliases":["CVE-2024-2","GHSA-1"]}`, "CVE-2024-1,CVE-2024-2"},
		{"by the record of the number", `{"id":"CVE-2024-2","aliases":["GHSA-1"]}`, "CVE-2024-1,CVE-2024-2"},
		{"of another flaw", `{"id":"GHSA-1","aliases":["CVE-2024-3"]}`, "CVE-2024-1,CVE-2024-2,GHSA-1"},
		{"of several flaws", `{"id":"GHSA-1","aliases":["CVE-2024-2","CVE-2024-3"]}`, "CVE-2024-1,CVE-2024-2,GHSA-1"},
		{"nobody says of which", `{"id":"GHSA-2","aliases":["CVE-2024-2"]}`, "CVE-2024-1,CVE-2024-2,GHSA-1"},
		{"records differ", `{"id":"GO-1","aliases":["CVE-2024-2","GHSA-1"]} {"id":"GO-2","aliases":["CVE-2024-3","GHSA-1"]}`, "CVE-2024-1,CVE-2024-2,GHSA-1"},
		{"one says several", `{"id":"GO-1","aliases":["CVE-2024-2","GHSA-1"]} {"id":"GO-2","aliases":["CVE-2024-2","CVE-2024-3","GHSA-1"]}`, "CVE-2024-1,CVE-2024-2,GHSA-1"},
		{"records agree", `{"id":"GO-1","aliases":["CVE-2024-2","GHSA-1"]} {"id":"GO-2","aliases":["CVE-2024-2","GHSA-1"]}`, "CVE-2024-1,CVE-2024-2"},
	} {
		records := strings.Split(tt.record, " ")
		for range 2 {
			got, _, err := find(build(t, append([]string{advisory}, records...)...), "Wolfi", "a", "1.0")
			if err != nil || len(got) != 1 || strings.Join(got[0].About, ",") != tt.about {
				t.Errorf("%s: got %+v, %v, want %s", tt.name, got, err, tt.about)
			}
			slices.Reverse(records)
		}
	}
	// What is about one flaw alone is that flaw.
	one := strings.Replace(advisory, `"CVE-2024-1",`, "", 1)
	got, _, err := find(build(t, one, `{"id":"GHSA-1","aliases":["CVE-2024-2"]}`), "Wolfi", "a", "1.0")
	if err != nil || len(got) != 1 || strings.Join(got[0].IDs, ",") != "CVE-2024-2,CGA-1,GHSA-1" || len(got[0].About) != 0 {
		t.Errorf("of one flaw: got %+v, %v", got, err)
	}
}

// TestNames: which names of a record are its own, and which of flaws that it is about.
func TestNames(t *testing.T) {
	for _, tt := range []struct{ name, id, rest, aliases, about string }{
		{"what others publish is a name", "RHSA-1", `"aliases":["ELSA-1","GLSA-1","CVE-1","CVE-2"]`, "ELSA-1,GLSA-1", "CVE-1,CVE-2"},
		{"an advisory of an advisory", "ALSA-1", `"upstream":["CVE-1","RHSA-1"]`, "CVE-1", ""},
		{"by both names, one of them an alias", "USN-1", `"aliases":["CVE-1"],"upstream":["UBUNTU-CVE-1"]`, "CVE-1,UBUNTU-CVE-1", ""},
		{"the number itself", "CVE-1", `"upstream":["UBUNTU-CVE-1"]`, "UBUNTU-CVE-1", ""},
		{"a distribution's own", "UBUNTU-CVE-1", `"upstream":["CVE-1"]`, "CVE-1", ""},
	} {
		var r osvRecord
		if err := json.Unmarshal([]byte(`{"id":"`+tt.id+`",`+tt.rest+`}`), &r); err != nil {
			t.Fatal(err)
		}
		aliases, about := r.names()
		if strings.Join(aliases, ",") != tt.aliases || strings.Join(about, ",") != tt.about {
			t.Errorf("%s: got %q about %q, want %q about %q", tt.name, aliases, about, tt.aliases, tt.about)
		}
	}
}

// TestTrackerOddEntry: an entry of another form hides nothing but itself, and is counted, by a build that has it
// of its parts too.
func TestTrackerOddEntry(t *testing.T) {
	tracker := extra(t, "t.json", []byte(`{"a":{"CVE-2024-2":{"releases":[]},"CVE-2024-1":{"releases":{"bookworm":{"status":"undetermined"}}}},"b":{"CVE-2024-3":5}}`))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(`{"id":"DEBIAN-CVE-2024-1","upstream":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"Debian:12","name":"a"},`+upTo2+`}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	o := BuildOptions{Dir: dir, Walk: osvdir.Walk, Now: time.Unix(1, 0), Tracker: tracker, Parts: Parts{Dir: t.TempDir()}}
	for range 2 {
		rep, err := Build(t.Context(), filepath.Join(t.TempDir(), "vuln.db"), o)
		if err != nil || rep.Records != 1 || rep.OddEntries != 2 || rep.BadRecords != 0 {
			t.Errorf("got %+v, %v, want two entries passed over, and no record", rep, err)
		}
	}
}

func TestEPSS(t *testing.T) {
	good := extra(t, "e.csv.gz", gz(t, "#model_version:v1,score_date:2026\ncve,epss,percentile\nCVE-2024-1,0.94321,0.99\nCVE-2024-2,0.5,0.5\n"))
	db, err := buildFiles(t, BuildOptions{EPSS: good}, map[string]string{"a.json": `{"id":"G-1","aliases":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"npm","name":"a"},"versions":["1.0.0"]}]}`})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := find(db, "npm", "a", "1.0.0")
	if err != nil || len(got) != 1 || got[0].EPSS < 0.943 || got[0].EPSS > 0.9435 || got[0].Percentile != 0.99 {
		t.Errorf("got %+v, %v", got, err)
	}
	if src := db.Status().Sources; len(src) != 1 || src[0].Name != "e.csv.gz" {
		t.Errorf("sources %+v", src)
	}
	for name, body := range map[string][]byte{
		"no gzip": []byte("x"), "cut off": gz(t, "CVE-1,0.1,0.1\n")[:15], "no number": gz(t, "CVE-1,NaN,0.1\n"), "too much": gz(t, "CVE-1,1.1,0.1\n"), "empty": gz(t, "cve,epss,percentile\n"),
	} {
		if _, err := readEPSS(extra(t, "e.csv.gz", body)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, body := range map[string]string{"cut off": `{"a":{"CVE-1":{"releases":{"bookworm":{"status":"undetermined"}}}}`, "a list": `[]`, "empty": `{}`, "of another form": `{"a":[1]}`} {
		if _, err := readTracker(extra(t, "t.json", []byte(body))); err == nil {
			t.Errorf("tracker, %s: no error", name)
		}
	}
}

// TestUbuntuTraps: a fix that only subscribers get is named as such, and one for all goes
// before it.
func TestUbuntuTraps(t *testing.T) {
	ubuntu := func(id, eco, events string) string {
		return `{"id":"` + id + `","upstream":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"` + eco + `","name":"a"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}` + events + `]}]}]}`
	}
	res := &inventory.Result{OS: inventory.OS{ID: "ubuntu", VersionID: "20.04"}, Packages: []inventory.Package{{Kind: inventory.KindDeb, Name: "a", Version: "1.0"}}}
	for _, tt := range []struct{ name, free, state, fixed string }{
		{"Ubuntu: a fix with Pro alone", "", StateSubscription, "1.0+esm1"}, {"Ubuntu: a fix for all, too", `,{"fixed":"1.1"}`, StateFixed, "1.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := build(t, ubuntu("UBUNTU-CVE-2024-1", "Ubuntu:20.04:LTS", tt.free), ubuntu("USN-1", "Ubuntu:Pro:20.04:LTS", `,{"fixed":"1.0+esm1"}`))
			m, err := db.Match(t.Context(), res)
			if err != nil || len(m.Findings) != 1 || m.Findings[0].State != tt.state || m.Findings[0].Fixed != tt.fixed {
				t.Errorf("got %+v, %v", m.Findings, err)
			}
		})
	}
}

// TestNewerRecord: a record beside an archive is newer than the archive's own, also
// where it takes it back.
func TestNewerRecord(t *testing.T) {
	archive := zipOf(t, map[string]string{"P-1.json": rec("P-1", "PyPI", "a", upTo2), "P-2.json": rec("P-2", "PyPI", "a", upTo2)})
	db, err := buildFiles(t, BuildOptions{}, map[string]string{"PyPI/all.zip": archive, "PyPI/changed/P-1.json": strings.Replace(rec("P-1", "PyPI", "a", upTo2), "{", `{"withdrawn":"2026-01-01T00:00:00Z",`, 1)})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := find(db, "PyPI", "a", "1.0")
	if err != nil || len(got) != 1 || got[0].IDs[0] != "P-2" {
		t.Errorf("got %+v, %v, want P-2 alone", got, err)
	}
}

// TestLaterRecord: of a record that is in two archives, or beside them, the one that was changed later counts.
func TestLaterRecord(t *testing.T) {
	at := func(day, record string) string {
		return strings.Replace(record, "{", `{"modified":"2026-01-`+day+`T00:00:00Z",`, 1)
	}
	old := at("01", `{"id":"GHSA-1","summary":"old","affected":[{"package":{"ecosystem":"npm","name":"b"},`+upTo2+`},{"package":{"ecosystem":"npm","name":"gone"},`+upTo2+`}]}`)
	late := at("02", `{"id":"GHSA-1","summary":"late","affected":[{"package":{"ecosystem":"npm","name":"b"},`+strings.Replace(upTo2, "2.0", "3.0", 1)+`}]}`)
	withdrawn := at("03", `{"id":"GHSA-1","withdrawn":"2026-01-03T00:00:00Z"}`)
	other := at("01", rec("Z-1", "npm", "z", upTo2))
	for _, tt := range []struct {
		name, first, second, want string // in the order in which they are read
		gone                      int
	}{
		{"the second is later", old, late, "late", 0}, {"the first is later", late, old, "late", 0},
		{"at the same time", late, strings.Replace(late, `"late"`, `"again"`, 1), "late", 0},
		{"the second does not say when", old, strings.Replace(late, "modified", "x", 1), "old", 0},
		{"the second takes it back", late, withdrawn, "", 1}, {"the first took it back", withdrawn, late, "", 1},
		{"the second brings it back", strings.Replace(withdrawn, "01-03", "01-01", 1), late, "late", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db, err := buildFiles(t, BuildOptions{}, map[string]string{
				"PyPI/all.zip": zipOf(t, map[string]string{"GHSA-1.json": tt.first}), "npm/all.zip": zipOf(t, map[string]string{"GHSA-1.json": tt.second, "Z-1.json": other}),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Verify(); err != nil {
				t.Error(err)
			}
			got := ""
			for _, version := range []string{"1.0", "2.5"} {
				for _, name := range []string{"b", "gone"} {
					found, _, err := find(db, "npm", name, version)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range found {
						got += name + " " + version + " " + f.Summary + "; "
					}
				}
			}
			want := map[string]string{"": "", "late": "b 1.0 late; b 2.5 late; ", "old": "b 1.0 old; gone 1.0 old; "}[tt.want]
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if s := db.Status(); s.Records != 2-tt.gone || s.Sources[0].Records+s.Sources[1].Records != s.Records {
				t.Errorf("got %+v, want %d records", s, 2-tt.gone)
			}
			if found, _, err := find(db, "npm", "z", "1.0"); err != nil || len(found) != 1 || found[0].IDs[0] != "Z-1" {
				t.Errorf("the record after it: %v, %v", found, err)
			}
		})
	}
}

// TestSingleRecord: a record in a file of its own counts before that of any archive, whenever that was changed: it
// corrects what the publisher has. Of two such it is the later one.
func TestSingleRecord(t *testing.T) {
	at := func(day, summary string) string {
		return `{"modified":"2026-01-` + day + `T00:00:00Z","summary":"` + summary + `",` + strings.TrimPrefix(rec("P-1", "PyPI", "a", upTo2), "{")
	}
	archive := zipOf(t, map[string]string{"P-1.json": at("02", "archive"), "P-2.json": rec("P-2", "PyPI", "b", upTo2)})
	for _, tt := range []struct {
		name, want string
		singles    map[string]string
	}{
		{"older than the archive", "own", map[string]string{"PyPI/P-1.json": at("01", "own")}},
		{"of another folder", "own", map[string]string{"own/P-1.json": at("01", "own")}},
		{"withdrawn", "", map[string]string{"PyPI/P-1.json": `{"id":"P-1","modified":"2026-01-01T00:00:00Z","withdrawn":"2026-01-01T00:00:00Z"}`}},
		{"the first of two is later", "late", map[string]string{"PyPI/P-1.json": at("03", "late"), "PyPI/changed/P-1.json": at("01", "own")}},
		{"the second of two is later", "late", map[string]string{"PyPI/P-1.json": at("01", "own"), "PyPI/changed/P-1.json": at("03", "late")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.singles["PyPI/all.zip"] = archive
			db, err := buildFiles(t, BuildOptions{}, tt.singles)
			if err != nil {
				t.Fatal(err)
			}
			found, _, err := find(db, "PyPI", "a", "1.0")
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, f := range found {
				got += f.Summary
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestFormerFormat: a file of the format before does not say of which ecosystems it has the records: it is not opened,
// and so not taken for current.
func TestFormerFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vuln.db")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "P-1.json"), []byte(rec("P-1", "PyPI", "a", upTo2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), path, BuildOptions{Walk: osvdir.Walk, Dir: dir, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(magic)] = 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "format 4") {
		t.Errorf("got %v", err)
	}
}

func zipOf(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range files {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from.db"), filepath.Join(dir, "to.db")
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(rec("P-1", "PyPI", "a", upTo2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), from, BuildOptions{Walk: osvdir.Walk, Dir: dir, Now: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	if st, err := Copy(from, to); err != nil || st.Records != 1 {
		t.Fatalf("got %+v, %v", st, err)
	}
	if err := os.WriteFile(from, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(from, to); !errors.Is(err, ErrBroken) {
		t.Errorf("a broken file was copied: %v", err)
	}
	db, err := Open(to)
	if err != nil {
		t.Fatalf("the former database is gone: %v", err)
	}
	defer db.Close()
	if err := db.Verify(); err != nil {
		t.Error(err)
	}
}

// TestVerify: a file with the right checksum and no sense in it is found.
func TestVerify(t *testing.T) {
	b := builder{keys: map[string][]affected{"e\x00n": {{record: 7}}}, records: []Vulnerability{{ID: "x"}}}
	file, err := b.encode(time.Unix(1, 0), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	db, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Verify(); !errors.Is(err, ErrBroken) {
		t.Errorf("a record that is not there: got %v", err)
	}
}

// TestUrgency: each goes before all that follow it.
func TestUrgency(t *testing.T) {
	use := func(state string, reachable ...string) *inventory.Use {
		return &inventory.Use{State: state, Reachable: reachable}
	}
	list := []Finding{
		{Exploited: true, Use: use(inventory.InUse, "tcp 0.0.0.0:443"), Severity: SeverityLow},
		{Exploited: true, Use: use(inventory.NotSeen)},
		{Use: use(inventory.InUse, "tcp 0.0.0.0:443")},
		{Use: use(inventory.InUse), EPSS: 0.9},
		{Use: use(inventory.InUse), EPSS: 0.1, Severity: SeverityCritical},
		{Use: use(inventory.InUse), EPSS: 0.1, Severity: SeverityHigh},
		{EPSS: 0.5, Severity: SeverityCritical}, // nobody looked
		{Use: use(inventory.UseUnknown), EPSS: 0.4, Severity: SeverityCritical},
		{Use: use(inventory.NotSeen), EPSS: 0.9, Severity: SeverityCritical},
	}
	for i := range list {
		for j := range list {
			if got, want := list[i].Urgency(&list[j]), i-j; sign(got) != sign(want) {
				t.Errorf("%+v before %+v: got %d, want %d", list[i], list[j], got, want)
			}
		}
	}
}
