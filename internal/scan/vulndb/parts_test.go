package vulndb

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/scan/osvdir"
)

// partsWorld is a folder of sources that is built with parts and without.
type partsWorld struct {
	t       *testing.T
	o       BuildOptions
	program string
}

func newPartsWorld(t *testing.T) *partsWorld {
	t.Helper()
	w := &partsWorld{t: t, program: "1", o: BuildOptions{Walk: osvdir.Walk, Dir: t.TempDir(), Parts: Parts{Dir: filepath.Join(t.TempDir(), "parts")}}}
	w.zip("Debian", rec("D-1", "Debian:12", "a", upTo2), rec("D-2", "Debian:12", "b", `"versions":["1","1.5"]`), `{"id":"D-3","withdrawn":"2024-01-01T00:00:00Z"}`, "no JSON")
	w.zip("PyPI", rec("P-1", "PyPI", "a", `"ranges":[`+rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1.0"}`)+`]`),
		`{"id":"P-2","summary":"x","upstream":["CVE-1","CVE-2"],"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],"affected":[{"package":{"ecosystem":"PyPI","name":"b"},`+upTo2+`}]}`,
		`{"id":"GO-1","affected":[{"package":{"ecosystem":"Go","name":"x.example/m"},`+upTo2+`,"ecosystem_specific":{"imports":[{"path":"x.example/m/a","symbols":["T.M","F"]},{"path":"x.example/m/b"}]}}]}`)
	return w
}

func (w *partsWorld) put(path string, b []byte) {
	w.t.Helper()
	path = filepath.Join(w.o.Dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *partsWorld) zip(eco string, records ...string) {
	w.t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, r := range records {
		f, err := z.Create(fmt.Sprintf("%d.json", i))
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := f.Write([]byte(r)); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.put(eco+"/all.zip", b.Bytes())
}

// built builds with parts, and holds database and report to a build without.
func (w *partsWorld) built(step string, reused int) {
	w.t.Helper()
	w.o.Now, w.o.Parts.Program = time.Unix(1, 0), w.program
	path := filepath.Join(w.t.TempDir(), "vuln.db")
	rep, err := Build(w.t.Context(), path, w.o)
	if err != nil {
		w.t.Fatalf("%s: %v", step, err)
	}
	if rep.Reused != reused {
		w.t.Errorf("%s: %d archives were taken as they were compiled, want %d", step, rep.Reused, reused)
	}
	whole := w.o
	whole.Parts = Parts{}
	wholePath := filepath.Join(w.t.TempDir(), "whole.db")
	want, err := Build(w.t.Context(), wholePath, whole)
	if err != nil {
		w.t.Fatal(err)
	}
	rep.Reused = 0
	if d := cmp.Diff(want, rep); d != "" {
		w.t.Errorf("%s: the report differs from that of a whole build:\n%s", step, d)
	}
	a, b := mustRead(w.t, path), mustRead(w.t, wholePath)
	if !bytes.Equal(a, b) {
		w.t.Errorf("%s: the database differs from that of a whole build", step)
	}
}

func mustRead(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func (w *partsWorld) parts() []string {
	paths, err := filepath.Glob(filepath.Join(w.o.Parts.Dir, "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return paths
}

// TestParts: what changed is compiled, what did not is taken, and the database is to the byte
// that of a build of everything.
func TestParts(t *testing.T) {
	w := newPartsWorld(t)
	w.built("first", 0)
	w.built("nothing changed", 2)
	w.put("PyPI/changed/P-1.json", []byte(rec("P-1", "PyPI", "a", upTo2)))
	w.built("a record beside the archive goes before it", 2)
	w.built("and is taken too", 2)
	w.put("PyPI/changed/P-1.json", []byte(`{"id":"P-1","withdrawn":"2026-01-01T00:00:00Z"}`))
	w.built("it is withdrawn", 2)
	if err := os.Remove(filepath.Join(w.o.Dir, "PyPI/changed/P-1.json")); err != nil {
		t.Fatal(err)
	}
	w.built("the archive's own comes back", 2)
	w.zip("Debian", rec("D-1", "Debian:12", "a", `"versions":["9"]`))
	w.built("another archive", 1)
	if n := len(w.parts()); n != 3 {
		t.Errorf("%d parts are kept, want those of two archives and of the records beside them", n)
	}
	w.o.KEV = filepath.Join(t.TempDir(), "kev.json")
	if err := os.WriteFile(w.o.KEV, []byte(`{"vulnerabilities":[{"cveID":"CVE-2"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.built("what is joined is joined anew", 2)
	w.program = "2"
	w.built("another program", 0)
}

// TestAsOf: a database is of the time at which its publisher was asked, else of its newest record, else of
// the newest file, and never of the future.
func TestAsOf(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	file, epoch := now.Add(-48*time.Hour), time.Unix(0, 0).UTC()
	dated := func(id, modified string) string {
		return `{"id":"` + id + `","modified":` + modified + `,"affected":[{"package":{"ecosystem":"PyPI","name":"a"},` + upTo2 + `}]}`
	}
	for _, tt := range []struct {
		name    string
		records []string
		asked   time.Time
		file    time.Time
		want    time.Time
	}{
		{"asked", []string{dated("1", `"2023-01-02T00:00:00Z"`)}, now.Add(-time.Hour), file, now.Add(-time.Hour)},
		{"asked in the future", []string{dated("1", `"2023-01-02T00:00:00Z"`)}, now.Add(time.Hour), file, time.Date(2023, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"the newest record", []string{dated("1", `"2023-01-02T00:00:00Z"`), dated("2", `"2023-01-03T01:00:00.5+01:00"`)}, time.Time{}, file, time.Date(2023, 1, 3, 0, 0, 0, 0, time.UTC)},
		{"one that was withdrawn", []string{dated("1", `"2023-01-02T00:00:00Z"`), `{"id":"2","modified":"2024-01-02T00:00:00Z","withdrawn":"2024-01-02T00:00:00Z"}`}, time.Time{}, file, time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"one of the future", []string{dated("1", `"2023-01-02T00:00:00Z"`), dated("2", `"2033-01-02T00:00:00Z"`)}, time.Time{}, file, time.Date(2023, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"one without a time", []string{dated("1", `"2023-01-02T00:00:00Z"`), rec("2", "PyPI", "b", upTo2)}, time.Time{}, file, time.Date(2023, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"no times that can be read", []string{dated("1", `5`), dated("2", `"yesterday"`)}, time.Time{}, file, file},
		{"a file of the future", []string{dated("1", `5`)}, time.Time{}, now.Add(time.Hour), epoch},
	} {
		w := newPartsWorld(t)
		w.o = BuildOptions{Walk: osvdir.Walk, Dir: t.TempDir(), Parts: w.o.Parts, Now: now, AsOf: tt.asked}
		w.zip("PyPI", tt.records...)
		if err := os.Chtimes(filepath.Join(w.o.Dir, "PyPI/all.zip"), tt.file, tt.file); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "vuln.db")
		for _, again := range []string{"", ", compiled before"} {
			if rep, err := Build(t.Context(), path, w.o); err != nil || !rep.AsOf.Equal(tt.want) {
				t.Errorf("%s%s: the report says %s, %v, want %s", tt.name, again, rep.AsOf, err, tt.want)
			}
			db, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if !db.AsOf().Equal(tt.want) || !db.Built().Equal(now) {
				t.Errorf("%s%s: got %s, built %s, want %s", tt.name, again, db.AsOf(), db.Built(), tt.want)
			}
			db.Close()
		}
	}
}

// TestAsOfFolders: a database of a folder is as old as the ecosystem in it whose newest record is oldest.
func TestAsOfFolders(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	dated := func(id string, year int) string {
		return fmt.Sprintf(`{"id":%q,"modified":"%d-01-02T00:00:00Z","affected":[{"package":{"ecosystem":"PyPI","name":"a"},%s}]}`, id, year, upTo2)
	}
	undated := rec("U", "PyPI", "b", upTo2)
	for _, tt := range []struct {
		name   string
		zips   map[string][]string
		files  map[string]string
		want   int // year
		oldest string
	}{
		{"one of long ago", map[string][]string{"Debian": {dated("1", 2023), dated("2", 2019)}, "npm": {dated("3", 2026)}}, nil, 2023, "Debian"},
		{"renewed by a record beside its archive", map[string][]string{"Debian": {dated("1", 2023)}, "npm": {dated("3", 2025)}}, map[string]string{"Debian/changed/4.json": dated("4", 2026)}, 2025, "npm"},
		{"one without times, of a file of 2022", map[string][]string{"Debian": {undated}, "npm": {dated("3", 2025)}}, nil, 2022, "Debian"},
		{"records alone", nil, map[string]string{"Debian/1.json": dated("1", 2023), "npm/a/3.json": dated("3", 2025), "npm/b/4.json": dated("4", 2020)}, 2023, "Debian"},
		{"a folder within", map[string][]string{"osv/Debian": {dated("1", 2023)}, "osv/npm": {dated("3", 2025)}}, nil, 2023, "osv/Debian"},
		{"one alone", map[string][]string{"Debian": {dated("1", 2023)}}, nil, 2023, ""},
	} {
		w := newPartsWorld(t)
		w.o = BuildOptions{Walk: osvdir.Walk, Dir: t.TempDir(), Parts: w.o.Parts, Now: now}
		for eco, records := range tt.zips {
			w.zip(eco, records...)
			at := time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC)
			if err := os.Chtimes(filepath.Join(w.o.Dir, eco, "all.zip"), at, at); err != nil {
				t.Fatal(err)
			}
		}
		for path, record := range tt.files {
			w.put(path, []byte(record))
		}
		for _, again := range []string{"", ", compiled before"} {
			rep, err := Build(t.Context(), filepath.Join(t.TempDir(), "vuln.db"), w.o)
			if err != nil || rep.AsOf.Year() != tt.want || rep.Oldest != tt.oldest {
				t.Errorf("%s%s: %s of %q, %v, want %d of %q", tt.name, again, rep.AsOf, rep.Oldest, err, tt.want, tt.oldest)
			}
		}
	}
}

// TestConfirm: a database that was confirmed says the same, of a later time.
func TestConfirm(t *testing.T) {
	w := newPartsWorld(t)
	w.o.Now = time.Unix(1, 0)
	path := filepath.Join(t.TempDir(), "vuln.db")
	if _, err := Build(t.Context(), path, w.o); err != nil {
		t.Fatal(err)
	}
	before := mustRead(t, path)
	if err := Confirm(path, time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Verify(); err != nil || !db.AsOf().Equal(time.Unix(5, 0)) || !db.Built().Equal(time.Unix(1, 0)) || !bytes.Equal(mustRead(t, path)[headerSize:], before[headerSize:]) {
		t.Errorf("%v, as of %s, built %s", err, db.AsOf(), db.Built())
	}
	if err := os.WriteFile(path, before[:len(before)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Confirm(path, time.Unix(6, 0)); !errors.Is(err, ErrBroken) {
		t.Errorf("one that is cut off: %v", err)
	}
}

// TestPartsTracker: Debian's tracker is read once, and anew when it changes.
func TestPartsTracker(t *testing.T) {
	w := newPartsWorld(t)
	w.o.Tracker = filepath.Join(t.TempDir(), "tracker.json")
	for _, urgency := range []string{"unimportant", "end-of-life"} {
		text := fmt.Sprintf(`{"a":{"D-1":{"releases":{"bookworm":{"status":"open","urgency":%q}}}}}`, urgency)
		if err := os.WriteFile(w.o.Tracker, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.built(urgency, map[string]int{"unimportant": 0, "end-of-life": 2}[urgency])
		w.built(urgency+" again", 2)
		if n := len(w.parts()); n != 3 {
			t.Errorf("%s: %d parts, want those of two archives and the tracker", urgency, n)
		}
	}
}

// TestPartsDamaged: a part that was cut off or altered is compiled again.
func TestPartsDamaged(t *testing.T) {
	w := newPartsWorld(t)
	w.put("P-9.json", []byte(rec("P-9", "PyPI", "z", upTo2)))
	w.built("first", 0)
	for name, damage := range map[string]func([]byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"empty":   func([]byte) []byte { return nil },
		"altered": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	} {
		for _, path := range w.parts() {
			if err := os.WriteFile(path, damage(mustRead(t, path)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w.built(name, 0)
		w.built("after "+name, 2)
	}
}

// TestPartsReal: with all of the feeds, a database of parts is that of a build of everything.
func TestPartsReal(t *testing.T) {
	w := newPartsWorld(t)
	w.o.Dir, w.o.KEV = data(t, "osv"), data(t, "kev/known_exploited_vulnerabilities.json")
	zips, err := filepath.Glob(filepath.Join(w.o.Dir, "*/all.zip"))
	if err != nil || len(zips) == 0 {
		t.Fatalf("no archives below %s: %v", w.o.Dir, err)
	}
	w.built("first", 0)
	w.built("again", len(zips))
}

// FuzzParts: no part makes a build fail or run away; what is read is written alike.
func FuzzParts(f *testing.F) {
	var b bytes.Buffer
	for _, r := range []string{rec("D-1", "Debian:12", "a", upTo2), `{"id":"D-3","withdrawn":"2024-01-01T00:00:00Z"}`, "no JSON"} {
		c := compileRecord([]byte(r))
		c.put(&b)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, body []byte) {
		decodeSingles(body)
		decodeTracker(body)
		list, ok := decodeRecords(body)
		if !ok {
			return
		}
		var out bytes.Buffer
		for i := range list {
			list[i].put(&out)
		}
		again, ok := decodeRecords(out.Bytes())
		if !ok || len(again) != len(list) {
			t.Errorf("%d records are %d when they are written and read again", len(list), len(again))
		}
	})
}
