package image

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// layer is what one layer holds and hides, independent of the others.
type layer struct {
	seed    maphash.Seed
	entries int
	files   map[string]read
	// looked has every file that was wanted and read, whatever it held.
	looked map[uint64]string
	// whiteouts hide one name and what lies below it in lower layers; opaque
	// directories hide what lies below them there.
	whiteouts, opaque map[string]bool
	// others are all names that are no directories, dirs all that are: what is there
	// hides what was there. Hashes, sorted by close.
	others, dirs []uint64
	links        []hardlink
	// faults are what files have, or are, that they should not, by name; hidden by nothing
	// of this layer.
	faults map[string][]inventory.Misconfiguration
	// aliases are all hard links, wanted or not, with what they link to; targets are
	// hashes of the latter.
	aliases map[string]string
	targets map[uint64]bool
	// symlinks are symbolic links of a tar; parents the directories that its entries lie
	// in, true for those that it had made itself before.
	symlinks, parents map[string]bool
	// dropped counts directories of a tar that became something else in it.
	dropped int
	// notes are of files of this layer that were not read, unsearched of those that were not
	// searched.
	notes, unsearched *notes
	// log is told what is seen, for [WriteLayer]; nil elsewhere.
	log *recorder
}

// read is a file that was read, and how.
type read struct {
	kind string
	inventory.File
}

// hardlink is a wanted name that another name of this layer or of a lower one holds
// the content of.
type hardlink struct{ kind, name, target string }

func (r *reader) newLayer() *layer {
	return &layer{
		seed: maphash.MakeSeed(), files: map[string]read{}, looked: map[uint64]string{},
		whiteouts: map[string]bool{}, opaque: map[string]bool{},
		aliases: map[string]string{}, targets: map[uint64]bool{},
		symlinks: map[string]bool{}, parents: map[string]bool{}, faults: map[string][]inventory.Misconfiguration{},
		notes: newNotes(), unsearched: newNotes(),
	}
}

func (l *layer) hash(name string) uint64 { return maphash.String(l.seed, name) }

func (l *layer) close() {
	slices.Sort(l.others)
	slices.Sort(l.dirs)
}

// Whiteouts as the OCI image specification has them (layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// see notes an entry by its name and reports whether it is a file of its own, not a
// whiteout. A name that comes twice in one layer is what it was last.
func (l *layer) see(name string, mode fs.FileMode) bool {
	dir, base := path.Split(name)
	switch {
	case base == whiteoutOpaque:
		l.opaque[path.Clean(dir)] = true
		return false
	case strings.HasPrefix(base, ".wh..wh."):
		return false // the storage driver's own
	case strings.HasPrefix(base, whiteoutPrefix):
		l.whiteouts[dir+base[len(whiteoutPrefix):]] = true
		return false
	case mode.IsDir():
		l.dirs = append(l.dirs, l.hash(name))
		l.log.put(recordDir, name)
	default:
		l.others = append(l.others, l.hash(name))
		l.log.put(recordOther, name)
		if _, dir := l.parents[name]; dir {
			l.drop(name)
		}
	}
	delete(l.files, name)
	delete(l.faults, name)
	delete(l.looked, l.hash(name))
	delete(l.aliases, name)
	return true
}

// maxDropped bounds the directories of one layer that become something else in it: each has a look
// at all that was found. None does in layers as they are built.
const maxDropped = 100

// drop forgets what was found below a directory, in whose place something else comes: who unpacks the
// layer removes that.
func (l *layer) drop(dir string) {
	if l.dropped++; l.dropped > maxDropped {
		l.notes.add(dir, fmt.Sprintf("more than %d directories that are replaced in their own layer", maxDropped))
		return
	}
	below := func(name string) bool { return strings.HasPrefix(name, dir+"/") }
	maps.DeleteFunc(l.files, func(name string, _ read) bool { return below(name) })
	maps.DeleteFunc(l.faults, func(name string, _ []inventory.Misconfiguration) bool { return below(name) })
	maps.DeleteFunc(l.symlinks, func(name string, _ bool) bool { return below(name) })
	maps.DeleteFunc(l.aliases, func(name, _ string) bool { return below(name) })
	for name, target := range l.aliases {
		if below(target) {
			l.notes.add(name, replacedTarget)
		}
	}
}

// replacedTarget says that a hard link has the content of a file that is not there any more.
const replacedTarget = "a file that is replaced in its own layer after a hard link to it was made"

func (l *layer) add(kind, name string, f inventory.File) {
	l.looked[l.hash(name)] = kind
	l.log.put(recordLooked, kind, name)
	if len(f.Packages) == 0 && f.OS == nil && len(f.Owns) == 0 {
		return
	}
	for i := range f.Packages {
		// What an archive within the file told has its place in it.
		if inner := f.Packages[i].Path; inner != "" {
			f.Packages[i].Path = inventory.Cut(name + "!/" + inner)
		} else {
			f.Packages[i].Path = inventory.Cut(name)
		}
	}
	l.files[name] = read{kind, f}
}

// unplaced returns packages as the extractor gave them, with their places within the file of
// this name alone.
func unplaced(list []inventory.Package, name string) []inventory.Package {
	list = slices.Clone(list)
	for i := range list {
		_, list[i].Path, _ = strings.Cut(list[i].Path, inventory.Cut(name)+"!/")
	}
	return list
}

// hides reports whether l hides a file of a lower layer.
func (l *layer) hides(name string) bool {
	if _, ok := slices.BinarySearch(l.others, l.hash(name)); ok {
		return true
	}
	if _, ok := slices.BinarySearch(l.dirs, l.hash(name)); ok || l.whiteouts[name] {
		return true
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if l.opaque[dir] || l.whiteouts[dir] {
			return true
		}
		if dir == "." {
			return false
		}
		if _, ok := slices.BinarySearch(l.others, l.hash(dir)); ok {
			return true
		}
	}
}

// cleanName returns an entry's name from the root without a leading slash; "." is the
// root. ok is false for a name that climbs, or is beyond a bound.
func cleanName(name string) (string, bool) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", false
	}
	name = strings.TrimLeft(name, "/")
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", false
		}
	}
	name = path.Clean(name)
	return name, strings.Count(name, "/") < maxDepth
}
