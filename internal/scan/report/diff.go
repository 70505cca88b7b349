package report

import (
	"cmp"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// DiffSchema names the form of a [Diff].
const DiffSchema = "belay.dev/diff/v1"

// What became of a package.
const (
	ChangeAdded   = "added"
	ChangeRemoved = "removed"
	ChangeVersion = "changed"
)

// Diff is what became of one target, or what makes two differ.
type Diff struct {
	Schema string   `json:"schema"`
	Old    DiffSide `json:"old"`
	New    DiffSide `json:"new"`
	// Packages are ordered by kind and name.
	Packages []PackageChange `json:"packages"`
	// Matched says that both were matched with a database: else there are no findings to
	// compare, and the lists of them are empty.
	Matched bool          `json:"matched"`
	Added   []DiffFinding `json:"newFindings"`
	Gone    []DiffFinding `json:"goneFindings"`
	// AddedFaults and GoneFaults are misconfigurations that one side has alone.
	AddedFaults []DiffFault `json:"newMisconfigurations"`
	GoneFaults  []DiffFault `json:"goneMisconfigurations"`
}

// DiffSide is one of the two scans.
type DiffSide struct {
	Target   string    `json:"target"`
	ImageID  string    `json:"imageId,omitempty"`
	Time     time.Time `json:"time"`
	Database *Database `json:"database,omitempty"`
	Complete bool      `json:"complete"`
	Packages int       `json:"packages"`
	Findings int       `json:"findings"`
	// ConfigRead says that it shows a configuration: else those of it are all on the other side.
	ConfigRead bool `json:"configRead"`
	// Skipped are the scanners that were left out.
	Skipped []string `json:"skipped,omitempty"`
}

// PackageChange is what became of all packages of one kind and name. Versions are those
// that only one side has, one for each place that it is in.
type PackageChange struct {
	Change string   `json:"change"`
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Old    []string `json:"old,omitempty"`
	New    []string `json:"new,omitempty"`
}

// DiffFinding is a finding that only one side has, with its package.
type DiffFinding struct {
	vulndb.Finding
	Package inventory.Package `json:"package"`
	// Index is its place in [Scan.Findings] of its side.
	Index int `json:"-"`
}

// DiffFault is a misconfiguration that only one side has.
type DiffFault struct {
	inventory.Misconfiguration
	// Index is its place in [Scan.Misconfigurations] of its side.
	Index int `json:"-"`
}

// Compare tells what makes two scans differ.
//
// A finding is the same on both sides if the flaw has a common name and the package the same
// kind and name, whatever its version and place; a second copy of a package with a flaw is a
// new finding. A misconfiguration is the same in the same place, if it is no worse. What is ignored
// or known counts like any other.
func Compare(before, after *Scan) *Diff {
	d := &Diff{
		Schema: DiffSchema, Old: side(before), New: side(after), Packages: changes(before.Inventory.Packages, after.Inventory.Packages),
		Matched: before.Database != nil && after.Database != nil, Added: []DiffFinding{}, Gone: []DiffFinding{},
	}
	if d.Matched {
		had, has := pair(before, after)
		d.Gone, d.Added = only(before, had), only(after, has)
	}
	d.GoneFaults, d.AddedFaults = onlyFaults(before, after)
	return d
}

func side(s *Scan) DiffSide {
	return DiffSide{
		Target: s.Target, ImageID: s.Inventory.ImageID, Time: s.Time, Database: s.Database, Complete: s.Complete,
		Packages: len(s.Inventory.Packages), Findings: len(s.Findings),
		ConfigRead: s.Inventory.ConfigRead, Skipped: s.Inventory.Skipped,
	}
}

// onlyFaults lists the misconfigurations that one side has alone. Each covers at most one.
func onlyFaults(before, after *Scan) (gone, added []DiffFault) {
	gone, added = []DiffFault{}, []DiffFault{}
	had := map[inventory.FaultPlace][]int{}
	for i := range before.Misconfigurations {
		place := before.Misconfigurations[i].Place()
		had[place] = append(had[place], i)
	}
	still := make([]bool, len(before.Misconfigurations))
	for j, m := range after.Misconfigurations {
		list := had[m.Place()]
		if len(list) > 0 && before.Misconfigurations[list[0]].Covers(&m) {
			still[list[0]] = true
			had[m.Place()] = list[1:]
			continue
		}
		added = append(added, DiffFault{m, j})
	}
	for i, m := range before.Misconfigurations {
		if !still[i] {
			gone = append(gone, DiffFault{m, i})
		}
	}
	return gone, added
}

// changes compares packages by kind and name.
func changes(before, after []inventory.Package) []PackageChange {
	type key struct{ kind, name string }
	had, has := map[key][]string{}, map[key][]string{}
	for i := range before {
		k := key{before[i].Kind, before[i].Name}
		had[k] = append(had[k], before[i].Version)
	}
	for i := range after {
		k := key{after[i].Kind, after[i].Name}
		has[k] = append(has[k], after[i].Version)
	}
	out := []PackageChange{}
	add := func(k key, before, after []string) {
		c := PackageChange{Kind: k.kind, Name: k.name, Old: before, New: after}
		switch {
		case len(before)+len(after) == 0:
			return
		case len(before) == 0:
			c.Change = ChangeAdded
		case len(after) == 0:
			c.Change = ChangeRemoved
		default:
			c.Change = ChangeVersion
		}
		out = append(out, c)
	}
	for k, v := range had {
		before, after := apart(v, has[k])
		add(k, before, after)
	}
	for k, v := range has {
		if _, ok := had[k]; !ok {
			slices.Sort(v)
			add(k, nil, v)
		}
	}
	slices.SortFunc(out, func(a, b PackageChange) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return out
}

// apart takes from two lists what both have, as often as both have it.
func apart(a, b []string) (onlyA, onlyB []string) {
	slices.Sort(a)
	slices.Sort(b)
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0], b[0]); {
		case c < 0:
			onlyA, a = append(onlyA, a[0]), a[1:]
		case c > 0:
			onlyB, b = append(onlyB, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return append(onlyA, a...), append(onlyB, b...)
}

// pair gives each finding of one side at most one of the other: first that of the same
// place, then any. It returns which of each have one.
func pair(before, after *Scan) (had, has []bool) {
	type key struct{ id, kind, name, path string }
	had, has = make([]bool, len(before.Findings)), make([]bool, len(after.Findings))
	for _, placed := range []bool{true, false} {
		of := func(s *Scan, f *vulndb.Finding, id string) key {
			p := &s.Inventory.Packages[f.Package]
			k := key{id: id, kind: p.Kind, name: p.Name}
			if placed {
				k.path = p.Path
			}
			return k
		}
		free := map[key][]int{}
		for i := range before.Findings {
			for _, id := range before.Findings[i].IDs {
				if k := of(before, &before.Findings[i], id); !had[i] {
					free[k] = append(free[k], i)
				}
			}
		}
		for j := range after.Findings {
			for _, id := range after.Findings[j].IDs {
				if has[j] {
					break
				}
				k := of(after, &after.Findings[j], id)
				list := free[k]
				for len(list) > 0 && !has[j] {
					if i := list[0]; !had[i] {
						had[i], has[j] = true, true
					}
					list = list[1:]
				}
				free[k] = list
			}
		}
	}
	return had, has
}

// only lists the findings that have no other, in the order of the scan.
func only(s *Scan, paired []bool) []DiffFinding {
	out := []DiffFinding{}
	for i, p := range paired {
		if !p {
			f := s.Findings[i]
			out = append(out, DiffFinding{Finding: f, Package: s.Inventory.Packages[f.Package], Index: i})
		}
	}
	return out
}
