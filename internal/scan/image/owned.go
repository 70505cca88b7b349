package image

import (
	"maps"
	"slices"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// ownedFiles lists the files of packages of the distribution and of Python by which their use shows, and
// what their scripts lie in, by their own word. What is beyond the bound makes its package's list partial.
func ownedFiles(seen map[string]read, packages []inventory.Package) []inventory.OwnedFiles {
	first, python := map[string]int{}, map[string]int{}
	for i := range packages {
		if packages[i].Kind == inventory.KindPython {
			python[packages[i].Path] = i
		}
		if _, ok := first[packages[i].Name]; !ok && inventory.OfDistribution(packages[i].Kind) {
			first[packages[i].Name] = i
		}
	}
	lists, n := map[int]*inventory.OwnedFiles{}, 0
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		metadata, record := inventory.PythonRecord(name)
		for _, o := range seen[name].Owns {
			i, ok := first[o.Owner]
			if record {
				i, ok = python[metadata]
			}
			shows := inventory.ShowsUse(o.Path)
			if !ok || !shows && !inventory.IsScript(o.Path) {
				continue
			}
			l := lists[i]
			if l == nil {
				l = &inventory.OwnedFiles{Package: i}
				lists[i] = l
			}
			if !shows || n == inventory.MaxOwnedFiles {
				l.Partial = true
			}
			if n == inventory.MaxOwnedFiles {
				continue
			}
			if shows {
				n++
				l.Keys = inventory.AppendKey(l.Keys, inventory.FileKey(o.Path))
			} else if unit := inventory.ScriptUnit(o.Path); unit != "" {
				n++
				l.Units = inventory.AppendKey(l.Units, inventory.FileKey(unit))
			}
		}
	}
	var out []inventory.OwnedFiles
	for _, i := range slices.Sorted(maps.Keys(lists)) {
		out = append(out, *lists[i])
	}
	return out
}
