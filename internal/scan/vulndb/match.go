package vulndb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// States of a finding.
const (
	StateFixed     = "fixed"       // a version without it is known
	StateAffected  = "affected"    // none is known
	StateEndOfLife = "end-of-life" // and none will come for this release
)

// Finding is one vulnerability in one package.
type Finding struct {
	Package int `json:"package"` // index in [inventory.Result.Packages]
	// IDs are all names of it, the CVE number first if there is one.
	IDs       []string `json:"ids"`
	Severity  Severity `json:"severity"`
	Score     float64  `json:"score,omitempty"`
	Exploited bool     `json:"exploited,omitempty"`
	State     string   `json:"state"`
	// Fixed is the first version without it, of the source package for
	// distributions; empty if none is known.
	Fixed   string `json:"fixed,omitempty"`
	Summary string `json:"summary,omitempty"`
}

// Matches is what the database says of an image.
type Matches struct {
	Findings []Finding
	// Notes are packages that could not be matched, and why.
	Notes []inventory.Note
}

// MaxFindings bounds what [DB.Match] gives: an image chooses its packages, and each may
// have thousands of records.
const MaxFindings = 500_000

// ErrTooManyFindings says that an inventory has more than [MaxFindings] findings.
var ErrTooManyFindings = errors.New("the packages have more findings than a scan may list")

// Match looks all packages of an inventory up.
//
// Packages of a distribution are matched by source package and source version.
// Packages of a language that a distribution's package owns are left to the
// distribution's records, if that package is installed and they know its source: a
// list of files alone, or a package of somebody else, hides nothing. Errors: [ErrBroken], [ErrTooManyFindings], that of ctx.
func (db *DB) Match(ctx context.Context, res *inventory.Result) (Matches, error) {
	var m Matches
	// Many programs hold the same module: each is looked up once.
	cache := map[[3]string]answer{}
	lists := map[[2]string][]affected{}
	own := newOwners(db, res)
	notes := map[string]int{}
	note := func(p *inventory.Package, text string) {
		if i, ok := notes[text]; ok {
			m.Notes[i].Count++
			return
		}
		notes[text] = len(m.Notes)
		m.Notes = append(m.Notes, inventory.Note{Path: p.Name, Text: text, Count: 1})
	}
	for i := range res.Packages {
		if err := ctx.Err(); err != nil {
			return Matches{}, err
		}
		p := &res.Packages[i]
		if p.Owner != "" {
			covered, err := own.covers(p.Owner)
			if err != nil {
				return Matches{}, err
			}
			if covered {
				continue
			}
		}
		ecosystems, name, version := query(res.OS, p)
		known := slices.DeleteFunc(slices.Clone(ecosystems), func(e string) bool { return !db.has(e) })
		if len(known) == 0 {
			note(p, fmt.Sprintf("the database has no advisories for %s packages of %s", p.Kind, cmp.Or(strings.Join(ecosystems, ", "), res.OS.ID, "an unknown system")))
			continue
		}
		for _, eco := range known {
			key := [3]string{eco, name, version}
			a, ok := cache[key]
			if !ok {
				list, ok := lists[[2]string{eco, name}]
				if !ok {
					var err error
					if list, err = db.lookup(eco, name); err != nil {
						return Matches{}, err
					}
					lists[[2]string{eco, name}] = list
				}
				var err error
				if a.found, a.undecided, err = db.find(ctx, list, eco, version); err != nil {
					return Matches{}, err
				}
				cache[key] = a
			}
			if a.undecided > 0 {
				note(p, "a version that cannot be compared with those of advisories")
			}
			if len(m.Findings)+len(a.found) > MaxFindings {
				return Matches{}, fmt.Errorf("%w: %d", ErrTooManyFindings, MaxFindings)
			}
			for _, f := range a.found {
				f.Package = i
				m.Findings = append(m.Findings, f)
			}
		}
	}
	slices.SortStableFunc(m.Findings, func(a, b Finding) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), -cmp.Compare(a.Score, b.Score), cmp.Compare(a.Package, b.Package), cmp.Compare(a.IDs[0], b.IDs[0]))
	})
	return m, nil
}

// answer is what one look-up gave.
type answer struct {
	found     []Finding
	undecided int
}

// query returns under which ecosystems, name and version a package is looked up.
func query(o inventory.OS, p *inventory.Package) (ecosystems []string, name, version string) {
	switch p.Kind {
	case inventory.KindGo:
		return []string{"Go"}, p.Name, strings.TrimPrefix(p.Version, "v")
	case inventory.KindNPM:
		return []string{"npm"}, p.Name, p.Version
	case inventory.KindPython:
		return []string{"PyPI"}, p.Name, p.Version
	case inventory.KindComposer:
		return []string{"Packagist"}, p.Name, p.Version
	case inventory.KindNuGet:
		return []string{"NuGet"}, p.Name, p.Version
	case inventory.KindGem:
		return []string{"RubyGems"}, p.Name, p.Version
	case inventory.KindRPM:
		return rpmDistribution(o), p.Name, p.Version
	case inventory.KindDeb, inventory.KindApk:
		name, version = cmp.Or(p.Source, p.Name), cmp.Or(p.SourceVersion, p.Version)
		if base, ok := strings.CutPrefix(name, "linux-signed"); ok && (base == "" || base[0] == '-') {
			// Signed kernels are built from linux; their version 6.1.1+1 is its 6.1.1-1.
			name = "linux"
			if i := strings.LastIndexByte(version, '+'); i >= 0 && !strings.Contains(version, "-") {
				version = version[:i] + "-" + version[i+1:]
			}
		}
		return distribution(o), name, version
	}
	return nil, p.Name, p.Version
}

// distribution returns OSV's names for a release. Source:
// https://ossf.github.io/osv-schema/, "Defined Ecosystems".
func distribution(o inventory.OS) []string {
	major, rest, _ := strings.Cut(o.VersionID, ".")
	minor, _, _ := strings.Cut(rest, ".")
	switch {
	case o.ID == "debian" && major != "":
		return []string{"Debian:" + major}
	case o.ID == "ubuntu" && o.VersionID != "":
		return []string{"Ubuntu:" + o.VersionID + ":LTS", "Ubuntu:" + o.VersionID}
	case o.ID == "alpine" && minor != "":
		return []string{"Alpine:v" + major + "." + minor}
	case o.ID == "wolfi":
		return []string{"Wolfi"}
	case o.ID == "chainguard":
		return []string{"Chainguard"}
	}
	return nil
}

// rpmDistribution returns OSV's names for a release whose records are about binary packages,
// as those of AlmaLinux are. Records of Red Hat are by product, those of Rocky Linux and SUSE by
// source package: their packages are noted as not matched.
func rpmDistribution(o inventory.OS) []string {
	major, _, _ := strings.Cut(o.VersionID, ".")
	if o.ID == "almalinux" && major != "" {
		return []string{"AlmaLinux:" + major}
	}
	return nil
}

// find returns which of a package's records are about a version, those with a common
// name as one.
// undecided counts records whose versions could not be compared with this one.
func (db *DB) find(ctx context.Context, list []affected, eco, text string) (found []Finding, undecided int, err error) {
	if len(list) == 0 {
		return nil, 0, nil
	}
	v, verr := parse(eco, text)
	all := merger{byID: map[string]int{}}
	for i := range list {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		f, hit, err := list[i].match(eco, v, verr, text)
		if err != nil {
			undecided++
		}
		if !hit {
			continue
		}
		rec, err := db.record(list[i].record)
		if err != nil {
			return nil, 0, err
		}
		f.IDs, f.Severity, f.Score, f.Exploited, f.Summary = append([]string{rec.ID}, rec.Aliases...), rec.Severity, rec.Score, rec.Exploited, rec.Summary
		all.add(f)
	}
	return all.findings(), undecided, nil
}

// match tells whether a version is affected, and what would fix it.
func (a *affected) match(eco string, v version, verr error, text string) (f Finding, hit bool, err error) {
	f.State = StateAffected
	if a.endOfLife {
		f.State = StateEndOfLife
	}
	for _, r := range a.ranges {
		if err = verr; err != nil {
			break
		}
		in, fixed, e := v.in(r)
		if err = e; err != nil {
			break
		}
		if in {
			hit = true
			if fixed != "" && f.Fixed == "" {
				f.Fixed, f.State = fixed, StateFixed
			}
		}
	}
	for _, w := range a.versions {
		if hit {
			break
		}
		if w == text {
			hit = true
		} else if verr == nil {
			// Equal by the ecosystem's order, not by spelling: 1.0 is 1.0.0 for PyPI.
			n, e := v.compare(w)
			hit = e == nil && n == 0
		}
	}
	return f, hit, err
}

// merger gathers the findings of one package; those that share a name become one.
type merger struct {
	list []*Finding // nil where one was taken into another
	byID map[string]int
}

// add adds a finding: with the others of its names it keeps the highest severity, and
// the first text and fix.
func (m *merger) add(f Finding) {
	to := len(m.list)
	for _, id := range f.IDs {
		if i, ok := m.byID[id]; ok {
			to = min(to, i)
		}
	}
	if to == len(m.list) {
		m.list = append(m.list, &Finding{State: f.State, Fixed: f.Fixed, Summary: f.Summary})
	}
	m.into(to, &f)
}

// into takes f, and whatever has one of its names, into the finding at to.
func (m *merger) into(to int, f *Finding) {
	g := m.list[to]
	for _, id := range f.IDs {
		switch i, ok := m.byID[id]; {
		case !ok:
			g.IDs = append(g.IDs, id)
			m.byID[id] = to
		case i != to:
			other := m.list[i]
			m.list[i] = nil
			for _, id := range other.IDs {
				m.byID[id] = to
			}
			g.IDs = append(g.IDs, other.IDs...)
			g.absorb(other)
		}
	}
	g.absorb(f)
}

func (f *Finding) absorb(o *Finding) {
	f.Severity, f.Score = max(f.Severity, o.Severity), max(f.Score, o.Score)
	f.Exploited = f.Exploited || o.Exploited
	f.Summary = cmp.Or(f.Summary, o.Summary)
	if f.Fixed == "" && o.Fixed != "" {
		f.Fixed, f.State = o.Fixed, o.State
	}
}

func (m *merger) findings() []Finding {
	var out []Finding
	for _, f := range m.list {
		if f != nil {
			cveFirst(f.IDs)
			out = append(out, *f)
		}
	}
	return out
}
