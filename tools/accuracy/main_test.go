package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// TestAccuracy: no record is missed and no pair out of order, of the real data.
func TestAccuracy(t *testing.T) {
	m, err := measure(t.Context(), filepath.Dir(testneed.ScanData(t, "truth")))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.failure(); err != nil {
		t.Error(err)
	}
	// What the page says of matching is what was measured; the traps are tests of their own.
	page, err := os.ReadFile("../../docs/accuracy.md")
	if err != nil {
		t.Fatal(err)
	}
	got, _, _ := strings.Cut(string(m.page(nil)), "## Traps")
	if want, _, _ := strings.Cut(string(page), "## Traps"); got != want {
		t.Error("docs/accuracy.md is not what is measured now: run make accuracy")
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
		`{"ecosystem":"Maven","name":"x:y","version":"1","ids":["M-1"]}`+"\n")
	write("versions/semver-versions.txt", "1.0.0 < 2.0.0\n2.0.0 < 1.0.0\n")
	m, err := measure(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	r := m.rows["npm"]
	if r.packages != 2 || r.found != 1 || r.missed != 1 || r.newer != 1 || r.beyond != 1 || r.examples[0] != "a 1.0.0: N-1" || m.rows["Maven"].foreign != 1 {
		t.Errorf("got %+v, %+v", r, m.rows["Maven"])
	}
	err = m.failure()
	if err == nil || !slices.Equal(strings.Split(err.Error(), "\n"), []string{"missed: npm a 3.0.0: N-1", "semver-versions.txt: 1 of 2 pairs are out of order"}) {
		t.Errorf("got %v", err)
	}
}
