package vulndb

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
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
