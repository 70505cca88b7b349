package vulndb

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// functionsOf is a set of PATH NAME.
func functionsOf(names ...string) string {
	var keys []uint32
	for _, n := range names {
		path, symbol, _ := strings.Cut(n, " ")
		keys = append(keys, inventory.FunctionKey(path, inventory.FunctionSymbol("")), inventory.FunctionKey(path, inventory.FunctionSymbol(symbol)))
	}
	return inventory.PutFunctions(keys)
}

// TestSymbolTraps: functions of Go that records name, and those that a program has.
func TestSymbolTraps(t *testing.T) {
	record := func(id, alias, specific string) string {
		return fmt.Sprintf(`{"id":%q,"aliases":[%q],"affected":[{"package":{"ecosystem":"Go","name":"x.example/m"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"2.0.0"}]}],"ecosystem_specific":%s}]}`, id, alias, specific)
	}
	two := `{"imports":[{"path":"x.example/m/a","symbols":["T.M","F","F"]},{"path":"x.example/m/b","symbols":["G"]}]}`
	whole := `{"imports":[{"path":"x.example/m/a"},{"path":"x.example/m/b","symbols":["G"]}]}`
	many := `{"imports":[{"path":"x.example/m/a","symbols":["A","B","C","D","E","F","G","H"]}]}`
	for _, tt := range []struct {
		name, functions string
		records         []string
		want            string // state, names, more
	}{
		{"one of two", functionsOf("x.example/m/a F"), []string{record("GO-1", "CVE-1", two)}, "present [x.example/m/a.F] 0"},
		{"a method", functionsOf("x.example/m/a T.M", "x.example/m/b G"), []string{record("GO-1", "CVE-1", two)}, "present [x.example/m/a.T.M x.example/m/b.G] 0"},
		{"none", functionsOf("x.example/m/a Other", "x.example/m/c F"), []string{record("GO-1", "CVE-1", two)}, "absent [x.example/m/a.F x.example/m/a.T.M x.example/m/b.G] 0"},
		{"no function at all", functionsOf(), []string{record("GO-1", "CVE-1", two)}, "absent [x.example/m/a.F x.example/m/a.T.M x.example/m/b.G] 0"},
		{"nobody read them", "", []string{record("GO-1", "CVE-1", two)}, "unknown [x.example/m/a.F x.example/m/a.T.M x.example/m/b.G] 0"},
		{"what cannot be read", "AQ=", []string{record("GO-1", "CVE-1", two)}, "unknown [x.example/m/a.F x.example/m/a.T.M x.example/m/b.G] 0"},
		{"any of a package", functionsOf("x.example/m/a Other"), []string{record("GO-1", "CVE-1", whole)}, "present [x.example/m/a] 0"},
		{"none of the package", functionsOf("x.example/m/c F"), []string{record("GO-1", "CVE-1", whole)}, "absent [x.example/m/a x.example/m/b.G] 0"},
		{"many", functionsOf(), []string{record("GO-1", "CVE-1", many)}, "absent [x.example/m/a.A x.example/m/a.B x.example/m/a.C x.example/m/a.D x.example/m/a.E x.example/m/a.F] 2"},
		{"with an alias that names none", functionsOf(), []string{record("GO-1", "GHSA-1", two), record("GHSA-1", "CVE-1", `{}`)}, "absent [x.example/m/a.F x.example/m/a.T.M x.example/m/b.G] 0"},
		{"with one of Go's that names none", functionsOf(), []string{record("GO-1", "CVE-1", two), record("GO-2", "CVE-1", `{}`)}, "unknown [x.example/m/a.F x.example/m/a.T.M x.example/m/b.G] 0"},
		{"of two records", functionsOf("x.example/m/a H"), []string{record("GO-1", "CVE-1", two), record("GO-2", "CVE-1", many)}, "present [x.example/m/a.H] 0"},
		{"an alias alone", functionsOf(), []string{record("GHSA-1", "CVE-1", `{}`)}, "unknown [] 0"},
		{"imports that are no list", functionsOf(), []string{record("GO-1", "CVE-1", `{"imports":"x"}`)}, "unknown [] 0"},
		{"an import without a name", functionsOf(), []string{record("GO-1", "CVE-1", `{"imports":[{"path":"","symbols":["F"]},{"path":"x.example/m/a","symbols":["F"]}]}`)}, "unknown [] 0"},
		{"a symbol without a name", functionsOf(), []string{record("GO-1", "CVE-1", `{"imports":[{"path":"x.example/m/a","symbols":["F",""]}]}`)}, "unknown [] 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := build(t, tt.records...)
			m, err := db.Match(context.Background(), &inventory.Result{Packages: []inventory.Package{{Kind: inventory.KindGo, Name: "x.example/m", Version: "v1.0.0", Functions: tt.functions}}})
			if err != nil || len(m.Findings) != 1 || m.Findings[0].Symbols == nil {
				t.Fatalf("%+v, %v", m, err)
			}
			s := m.Findings[0].Symbols
			if got := fmt.Sprintf("%s %v %d", s.State, s.Names, s.More); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if err := db.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSymbolsOfTwoPrograms: one module in two programs is looked up once, and told apart.
func TestSymbolsOfTwoPrograms(t *testing.T) {
	db := build(t, `{"id":"GO-1","affected":[{"package":{"ecosystem":"Go","name":"stdlib"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],"ecosystem_specific":{"imports":[{"path":"net/http","symbols":["Get"]}]}}]}`,
		`{"id":"PYSEC-1","affected":[{"package":{"ecosystem":"PyPI","name":"a"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}],"ecosystem_specific":{"imports":[{"path":"a","symbols":["b"]}]}}]}`)
	m, err := db.Match(context.Background(), &inventory.Result{Packages: []inventory.Package{
		{Kind: inventory.KindGo, Name: "stdlib", Version: "1.20.0", Path: "a", Functions: functionsOf("net/http Get")},
		{Kind: inventory.KindGo, Name: "stdlib", Version: "1.20.0", Path: "b", Functions: functionsOf("net/http Post")},
		{Kind: inventory.KindPython, Name: "a", Version: "1"},
	}})
	if err != nil || len(m.Findings) != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, f := range m.Findings {
		want := []string{inventory.SymbolsPresent, inventory.SymbolsAbsent, inventory.SymbolsUnknown}[f.Package]
		if f.SymbolState() != want || (f.Package == 2) != (f.Symbols == nil) {
			t.Errorf("package %d: %s, want %s", f.Package, f.SymbolState(), want)
		}
	}
}

// TestHostileImports: a file whose functions make no sense is broken, and found to be.
func TestHostileImports(t *testing.T) {
	for name, b := range map[string]string{"cut off": "\x01\x03a", "more than there is": "\x7f\x01a\x00", "something behind": "\x01\x01a\x00x", "none": "\x00"} {
		if f, err := flawOf([]byte(b), ""); err == nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestRealSymbols: of Go's real records 998 name functions, of which 11 were withdrawn.
func TestRealSymbols(t *testing.T) {
	db := openReal(t)
	records := map[int]bool{}
	var a affected
	for i := range db.nKeys {
		eco, name, _ := strings.Cut(string(db.key(i)), "\x00")
		e, err := db.lookup(eco, name)
		if err != nil {
			t.Fatal(err)
		}
		for e.n > 0 {
			if err := e.next(&a); err != nil {
				t.Fatal(err)
			}
			if f, err := flawOf(a.imports, ""); err != nil {
				t.Fatal(err)
			} else if slices.ContainsFunc(f.functions, func(fn flawedFunction) bool { return strings.Contains(filepath.Base(fn.name), ".") }) {
				records[a.record] = true
			}
		}
	}
	if len(records) < 987 {
		t.Errorf("%d records name functions, want at least 987", len(records))
	}
}
