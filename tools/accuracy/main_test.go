package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/testneed"
)

// TestAccuracy: no record is missed and no pair out of order, of the real data, and the page says what is measured
// and which traps there are.
func TestAccuracy(t *testing.T) {
	m, err := measure(t.Context(), filepath.Dir(testneed.ScanData(t, "truth")))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.failure(), m.uncompared(incomparable)); err != nil {
		t.Error(err)
	}
	traps, err := runTraps(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/accuracy.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(page), "\n"), strings.Split(string(m.page(traps)), "\n")); diff != "" {
		t.Errorf("docs/accuracy.md is not what is measured now: run make accuracy (- is the page)\n%s", diff)
	}
}

// TestUncompared: an ecosystem of the feeds of which no record is compared has a reason, and one that is compared none.
func TestUncompared(t *testing.T) {
	m := &measurement{records: map[string]int{"Go": 1, "PyPI": 1, "npm": 1, "Debian": 1}, rows: map[string]*row{"Go": {found: 1}, "PyPI": {}, "Maven": {}, "Debian": {found: 1}}}
	err := m.uncompared(map[string]string{"npm": "x", "Debian": "x", "Hex": "x"})
	want := "Debian: 1 records are compared, and a reason says why none is\nHex: the feeds have none, and a reason says why none is compared\nPyPI: no record is compared, and nothing says why"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestMiss: a record that is not found, and a pair out of order, are failures. The data are made so that
// the answer names a record that is about another version.
func TestMiss(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	record := func(id, published string) {
		write("osv/npm/"+id+".json", `{"id":"`+id+`","published":"`+published+`","affected":[{"package":{"ecosystem":"npm","name":"a"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"2.0.0"}]}]}]}`)
	}
	record("N-1", "2024-01-01T00:00:00Z")
	record("N-2", "2024-01-02T00:00:00Z")
	record("N-3", "2025-01-01T00:00:00Z")
	write("truth/osv-querybatch.jsonl", `{"ecosystem":"npm","name":"a","version":"1.0.0","ids":["N-2"]}`+"\n"+`{"ecosystem":"npm","name":"a","version":"3.0.0","ids":["N-1"]}`+"\n"+
		`{"ecosystem":"npm","name":"b","version":"1.0.0","ids":["X-4"]}`+"\n"+`{"ecosystem":"npm","name":"b","version":"2.0.0","ids":["X-4"]}`+"\n"+
		`{"ecosystem":"Maven","name":"x:y","version":"1","ids":["M-1"]}`+"\n")
	// The answer has a record of another database: once with ours, and once where the two differ.
	write("osv/npm/N-4.json", `{"id":"N-4","aliases":["X-4"],"published":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"b"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"2.0.0"}]}]}]}`)
	writeFixtures(t, dir)
	write("versions/semver-versions.txt", "1.0.0 < 2.0.0\n2.0.0 < 1.0.0\n")
	m, err := measure(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	r := m.rows["npm"]
	if r.packages != 4 || r.found != 2 || r.otherwise != 1 || r.missed != 1 || r.newer != 1 || r.beyond != 1 || r.examples[0] != "a 1.0.0: N-1" || m.rows["Maven"].foreign != 1 {
		t.Errorf("got %+v, %+v", r, m.rows["Maven"])
	}
	err = m.failure()
	if err == nil || !slices.Equal(strings.Split(err.Error(), "\n"), []string{"missed: npm a 3.0.0: N-1", "semver-versions.txt: 1 of 2 pairs are out of order"}) {
		t.Errorf("got %v", err)
	}
}

// writeFixtures makes an archive of one statement of a distribution, which is in it twice.
func writeFixtures(t *testing.T, dir string) {
	t.Helper()
	const body = `{"item":{"Vulnerability":{"Name":"CVE-2024-1","NamespaceName":"rhel:9","FixedIn":[{"Name":"a","Version":"0:2.0-1.el9"},{"Name":"b","Version":"None"}]}}}`
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range []string{"a.json", "b.json", "c.txt"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), os.MkdirAll(filepath.Join(dir, "fixtures"), 0o755), os.WriteFile(filepath.Join(dir, "fixtures/vunnel.tgz"), b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestFixtures: a statement is tried below its fix and at it, and one that is judged wrongly is named.
func TestFixtures(t *testing.T) {
	dir := t.TempDir()
	writeFixtures(t, dir)
	got, err := measureFixtures(t.Context(), filepath.Join(dir, "fixtures"))
	if err != nil {
		t.Fatal(err)
	}
	if f := got["rhel"]; len(got) != 1 || f.statements != 2 || f.below != 2 || f.at != 1 || len(f.wrong) != 0 {
		t.Errorf("got %+v", f)
	}
	m := &measurement{fixtures: map[string]*fixture{"x": {wrong: []string{"x"}}}, rows: map[string]*row{"x": {found: 1}}}
	if err := m.failure(); err == nil || err.Error() != "fixture: x" {
		t.Errorf("got %v", err)
	}
	if _, ok := namespace("rhel:9.4+eus"); ok {
		t.Error("a stream of extended support is tried")
	}
}
