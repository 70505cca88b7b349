// Command accuracy measures the matching of packages against recorded answers of
// api.osv.dev and against vectors of versions, and writes docs/accuracy.md. It reads the
// folder of test data (docs/scan.md, "Test data") and changes nothing else.
// It exits with 1 if a record was missed or a pair of versions is out of order.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/testneed"
)

func main() {
	out := flag.String("o", "docs/accuracy.md", "the `file` to write")
	flag.Parse()
	if err := run(context.Background(), testneed.ScanDataDir(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "accuracy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, data, out string) error {
	m, err := measure(ctx, data)
	if err != nil {
		return err
	}
	traps, err := runTraps(ctx, ".")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, m.page(traps), 0o644); err != nil {
		return err
	}
	return errors.Join(m.failure(), m.uncompared(incomparable))
}

// incomparable says of which ecosystems of the feeds no record can be compared with an answer, and why.
var incomparable = map[string]string{
	"AlmaLinux": "no answer is about its packages",
	"Alpine":    "the feed ends in 2020 with release 3.11, and the answers about those releases name later records",
	"Bitnami":   "no answer is about its packages",
	"Debian":    "the feed has release 12, and the answers are about 9 and 10",
	"crates.io": "the answers about its packages name no record",
	"npm":       "the feed, which is of two other databases, has none of the four records that the answers name",
}

// uncompared is an ecosystem of the feeds of which no record is compared and no reason tells why, or a reason that is
// none any more.
func (m *measurement) uncompared(reasons map[string]string) error {
	var errs []error
	for _, eco := range slices.Sorted(maps.Keys(m.records)) {
		if r := m.rows[eco]; reasons[eco] == "" && (r == nil || r.found == 0) {
			errs = append(errs, fmt.Errorf("%s: no record is compared, and nothing says why", eco))
		}
	}
	for eco := range reasons {
		switch r := m.rows[eco]; {
		case m.records[eco] == 0:
			errs = append(errs, fmt.Errorf("%s: the feeds have none, and a reason says why none is compared", eco))
		case r != nil && r.found > 0:
			errs = append(errs, fmt.Errorf("%s: %d records are compared, and a reason says why none is", eco, r.found))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// measurement is all that is measured but the traps.
type measurement struct {
	records map[string]int // of our feeds, by ecosystem
	rows    map[string]*row
	vectors []vector
	// fixtures are what distributions say, by distribution.
	fixtures  map[string]*fixture
	otherwise []string
	missed    []string
}

// row is one family of ecosystems.
type row struct {
	packages int // of the answers, of ecosystems that our feeds have
	foreign  int // of ecosystems that they have not
	found    int // records that both have
	missed   int
	// otherwise are records of another database about the same flaw, where the answer has not ours:
	// the two differ about the version.
	otherwise int
	// newer findings are of records that were published after the newest of the answer, or of
	// which or of whose answer that is not known; beyond are the others that the answer does not have.
	newer, beyond int
	examples      []string
}

// vector is one file of pairs of versions.
type vector struct {
	file       string
	pairs, bad int
}

// answer is one recorded answer of api.osv.dev.
type answer struct {
	Ecosystem, Name, Version string
	IDs                      []string
	Truncated                bool
}

// record is what an answer is compared with: read from the feeds by this command, not by the
// database that is measured.
type record struct {
	ID        string
	Aliases   []string
	Published time.Time
	Withdrawn string
	Affected  []struct {
		Package struct{ Ecosystem, Name string }
	}
}

// known are the records that name a package, by ecosystem and name and by each of their names.
type known map[string]map[string][]string

func measure(ctx context.Context, data string) (*measurement, error) {
	m := &measurement{records: map[string]int{}, rows: map[string]*row{}}
	feeds := filepath.Join(data, "osv")
	have, published, err := m.readFeeds(feeds)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "belay-accuracy")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "vuln.db")
	if _, err := vulndb.Build(ctx, path, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: feeds, Now: time.Now()}); err != nil {
		return nil, err
	}
	db, err := vulndb.Open(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	answers, err := readAnswers(filepath.Join(data, "truth/osv-querybatch.jsonl"))
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		// Answers were recorded at different times: each dates itself by its newest record.
		last := ""
		for _, id := range a.IDs {
			last = max(last, published[id])
		}
		newer := func(id string) bool { return last == "" || published[id] == "" || published[id] > last }
		if err := m.compare(ctx, db, a, have, newer); err != nil {
			return nil, err
		}
	}
	if m.vectors, err = readVectors(filepath.Join(data, "versions")); err != nil {
		return nil, err
	}
	m.fixtures, err = measureFixtures(ctx, filepath.Join(data, "fixtures"))
	return m, err
}

// family is an ecosystem without its release.
func family(ecosystem string) string {
	f, _, _ := strings.Cut(ecosystem, ":")
	return f
}

// numbered is an ID that tells when it was given, as GO-2026-6222.
var numbered = regexp.MustCompile(`^[A-Z]+-(\d{4})-(\d+)$`)

// date returns a text by which records of one family are in the order of their times; empty if that is
// not known. Go's have no date in the source of its database.
func (r *record) date() string {
	if r.Published.Year() > 1 {
		return r.Published.UTC().Format(time.RFC3339)
	}
	if m := numbered.FindStringSubmatch(r.ID); m != nil {
		return fmt.Sprintf("%s %09s", m[1], m[2])
	}
	return ""
}

// readFeeds returns which records name a package, by ecosystem and name, under all of their names,
// and the date of each. An alias that is a record too has its own date.
func (m *measurement) readFeeds(dir string) (have known, published map[string]string, err error) {
	have, published = known{}, map[string]string{}
	aliases := map[string]string{}
	err = osvdir.Walk(dir, func(path, entry string, r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		var rec record
		if err := json.Unmarshal(b, &rec); err != nil {
			return fmt.Errorf("%s: %s: %w", path, entry, err)
		}
		if rec.Withdrawn != "" {
			return nil
		}
		m.records[filepath.Base(filepath.Dir(path))]++
		published[rec.ID] = rec.date()
		for _, id := range rec.Aliases {
			aliases[id] = rec.date()
		}
		for _, a := range rec.Affected {
			key := a.Package.Ecosystem + "\x00" + nameOf(a.Package.Ecosystem, a.Package.Name)
			if have[key] == nil {
				have[key] = map[string][]string{}
			}
			for _, id := range append(rec.Aliases, rec.ID) {
				have[key][id] = append(have[key][id], rec.ID)
			}
			have[a.Package.Ecosystem] = map[string][]string{}
		}
		return nil
	})
	for id, date := range aliases {
		if _, ok := published[id]; !ok {
			published[id] = date
		}
	}
	return have, published, err
}

// nameOf spells names of PyPI as its index does (PEP 503).
func nameOf(ecosystem, name string) string {
	if ecosystem == "PyPI" {
		name = strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
	}
	return name
}

func readAnswers(path string) ([]answer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []answer
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var a answer
		if err := json.Unmarshal(s.Bytes(), &a); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, s.Err()
}

// image is what a scan would give for the package of an answer.
func image(a answer) *inventory.Result {
	eco, release, _ := strings.Cut(a.Ecosystem, ":")
	p := inventory.Package{Name: a.Name, Version: a.Version, Source: a.Name, SourceVersion: a.Version}
	var o inventory.OS
	switch eco {
	case "Alpine":
		p.Kind, o = inventory.KindApk, inventory.OS{ID: "alpine", VersionID: strings.TrimPrefix(release, "v") + ".0"}
	case "Debian":
		p.Kind, o = inventory.KindDeb, inventory.OS{ID: "debian", VersionID: release}
	case "Ubuntu":
		p.Kind, o = inventory.KindDeb, inventory.OS{ID: "ubuntu", VersionID: strings.TrimSuffix(release, ":LTS")}
	case "openSUSE":
		p.Kind, o = inventory.KindRPM, inventory.OS{ID: "opensuse-leap", VersionID: strings.TrimPrefix(release, "Leap ")}
	default:
		p.Source, p.SourceVersion = "", ""
		p.Kind = map[string]string{
			"Go": inventory.KindGo, "npm": inventory.KindNPM, "PyPI": inventory.KindPython, "Maven": inventory.KindJava, "crates.io": inventory.KindRust,
			"RubyGems": inventory.KindGem, "NuGet": inventory.KindNuGet, "Packagist": inventory.KindComposer,
		}[eco]
	}
	return &inventory.Result{OS: o, Packages: []inventory.Package{p}}
}

func (m *measurement) compare(ctx context.Context, db *vulndb.DB, a answer, have known, newer func(id string) bool) error {
	r := m.rows[family(a.Ecosystem)]
	if r == nil {
		r = &row{}
		m.rows[family(a.Ecosystem)] = r
	}
	if have[a.Ecosystem] == nil {
		r.foreign++
		return nil
	}
	r.packages++
	names := have[a.Ecosystem+"\x00"+nameOf(a.Ecosystem, a.Name)]
	res, err := db.Match(ctx, image(a))
	if err != nil {
		return err
	}
	got := map[string]bool{}
	for _, f := range res.Findings {
		for _, id := range f.IDs {
			got[id] = true
		}
		switch {
		case a.Truncated || slices.ContainsFunc(f.IDs, func(id string) bool { return slices.Contains(a.IDs, id) }):
		case !slices.ContainsFunc(f.IDs, func(id string) bool { return names[id] != nil && !newer(id) }):
			r.newer++
		default:
			r.beyond++
			r.examples = append(r.examples, fmt.Sprintf("%s %s: %s", a.Name, a.Version, strings.Join(f.IDs, ", ")))
		}
	}
	for _, id := range a.IDs {
		switch {
		case names[id] == nil:
		case got[id]:
			r.found++
		case !slices.ContainsFunc(names[id], func(record string) bool { return record == id || slices.Contains(a.IDs, record) }):
			r.otherwise++
			m.otherwise = append(m.otherwise, fmt.Sprintf("%s %s %s: %s, here %s", a.Ecosystem, a.Name, a.Version, id, strings.Join(names[id], ", ")))
		default:
			r.missed++
			m.missed = append(m.missed, fmt.Sprintf("%s %s %s: %s", a.Ecosystem, a.Name, a.Version, id))
		}
	}
	return nil
}

// ecosystemOf tells by whose order a file of pairs is. No extractor gives packages of CRAN, Hackage and
// Pub: their order is that of the library alone.
var ecosystemOf = map[string]string{
	"alpine": "Alpine", "debian": "Debian", "maven": "Maven", "nuget": "NuGet", "packagist": "Packagist",
	"cran": "CRAN", "hackage": "Hackage", "pub": "Pub",
	"pypi": "PyPI", "redhat": "Red Hat", "rubygems": "RubyGems", "semver": "npm",
}

func readVectors(dir string) ([]vector, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, errors.New("the data folder has no versions/*.txt"))
	}
	var out []vector
	for _, path := range files {
		base := filepath.Base(path)
		kind, _, _ := strings.Cut(base, "-")
		eco := ecosystemOf[kind]
		if eco == "" {
			return nil, fmt.Errorf("%s: by whose order its pairs are is not known", base)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		v := vector{file: base}
		for line := range strings.Lines(string(b)) {
			w := strings.Fields(line)
			if len(w) != 3 || strings.HasPrefix(w[0], "#") || w[0] == "//" {
				continue
			}
			v.pairs++
			if n, err := vulndb.Compare(eco, w[0], w[2]); err != nil || n != map[string]int{"<": -1, "=": 0, ">": 1}[w[1]] {
				v.bad++
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// runTraps runs the tests of traps of all packages and returns the names of those that passed, by
// package and test. root is that of the repository.
func runTraps(ctx context.Context, root string) (map[string][]string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-run", "Traps$", "./internal/scan/...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the tests of traps: %w", err)
	}
	out := map[string][]string{}
	for line := range bytes.Lines(b) {
		var e struct{ Action, Package, Test string }
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, err
		}
		if test, name, ok := strings.Cut(e.Test, "/"); ok && e.Action == "pass" {
			_, dir, _ := strings.Cut(e.Package, "/internal/scan/")
			key := dir + ", " + test
			out[key] = append(out[key], strings.ReplaceAll(name, "_", " "))
		}
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out, nil
}

// failure is what must not be: a miss, a pair out of order, nothing compared at all.
func (m *measurement) failure() error {
	var errs []error
	for _, s := range m.missed {
		errs = append(errs, errors.New("missed: "+s))
	}
	for _, v := range m.vectors {
		if v.bad > 0 {
			errs = append(errs, fmt.Errorf("%s: %d of %d pairs are out of order", v.file, v.bad, v.pairs))
		}
	}
	for _, f := range m.fixtures {
		for _, s := range f.wrong {
			errs = append(errs, errors.New("fixture: "+s))
		}
	}
	if total := m.total(); total.found == 0 {
		errs = append(errs, errors.New("no answer was compared"))
	}
	return errors.Join(errs...)
}

func (m *measurement) total() row {
	var t row
	for _, r := range m.rows {
		t.packages += r.packages
		t.foreign += r.foreign
		t.found += r.found
		t.missed += r.missed
		t.otherwise += r.otherwise
		t.newer += r.newer
		t.beyond += r.beyond
	}
	return t
}
