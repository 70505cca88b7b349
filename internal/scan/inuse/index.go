package inuse

import (
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Index tells the packages of one inventory by files. Make one with [NewIndex]; it is
// immutable and safe for concurrent use.
type Index struct {
	files, dirs table
	// watched are packages all of whose files show their use: if none does, none is used as
	// far as was looked.
	watched []bool
	keys    []Key
}

// table is a list of keys of files, sorted, with the packages that have them.
type table struct {
	keys     []uint64
	packages []int32
}

func (t *table) add(key uint64, p int) {
	t.keys, t.packages = append(t.keys, key), append(t.packages, int32(p))
}

func (t *table) Len() int           { return len(t.keys) }
func (t *table) Less(i, j int) bool { return t.keys[i] < t.keys[j] }
func (t *table) Swap(i, j int) {
	t.keys[i], t.keys[j] = t.keys[j], t.keys[i]
	t.packages[i], t.packages[j] = t.packages[j], t.packages[i]
}

// of calls fn with the packages that have a key.
func (t *table) of(key uint64, fn func(p int)) (found bool) {
	i, ok := slices.BinarySearch(t.keys, key)
	for ; ok && i < len(t.keys) && t.keys[i] == key; i++ {
		fn(int(t.packages[i]))
	}
	return ok
}

const (
	maxSameName = 16                          // packages of one kind and name whose files are told apart by none
	maxIndexed  = 2 * inventory.MaxOwnedFiles // files of packages, counted for each package
	// What is remembered of the packages of one image: of more in use, and of more that are not,
	// nothing is known.
	maxUsed, maxNotSeen = 4096, 20_000
)

// NewIndex makes the index of an inventory.
func NewIndex(res *inventory.Result) *Index {
	x := &Index{watched: make([]bool, len(res.Packages))}
	var units table
	for i := range res.Owned {
		o := &res.Owned[i]
		// A list is of all packages of the distribution of one name: those of two architectures have one.
		end := o.Package + 1
		for inventory.OfDistribution(res.Packages[o.Package].Kind) && end < len(res.Packages) && same(&res.Packages[end], &res.Packages[o.Package]) {
			end++
		}
		// An image can say that it has thousands of one name: what is then used is unknown.
		n := (end - o.Package) * ((len(o.Keys) + len(o.Units)) / inventory.FileKeyBytes)
		if end-o.Package > maxSameName || x.files.Len()+units.Len()+n > maxIndexed {
			continue
		}
		for p := o.Package; p < end; p++ {
			inventory.EachKey(o.Keys, func(key uint64) { x.files.add(key, p) })
			inventory.EachKey(o.Units, func(key uint64) { units.add(key, p) })
			x.watched[p] = len(o.Keys) > 0 && !o.Partial
		}
	}
	x.addUnits(&units, res.Packages)
	for i := range res.Packages {
		p := &res.Packages[i]
		x.keys = append(x.keys, KeyOf(p.Kind, p.Name, p.Version, p.Path))
		x.place(i, p)
	}
	sort.Sort(&x.files)
	sort.Sort(&x.dirs)
	return x
}

// addUnits adds what scripts lie in, but for what several packages share, as namespaces of Python: a
// script there is of one of them, and nobody knows of which.
func (x *Index) addUnits(units *table, packages []inventory.Package) {
	sort.Sort(units)
	for i := 0; i < units.Len(); {
		end, own := i+1, true
		for ; end < units.Len() && units.keys[end] == units.keys[i]; end++ {
			a, b := &packages[units.packages[end]], &packages[units.packages[i]]
			own = own && (same(a, b) || a.Owner != "" && a.Owner == b.Name || b.Owner != "" && b.Owner == a.Name)
		}
		for ; i < end; i++ {
			if own {
				x.files.add(units.keys[i], int(units.packages[i]))
			}
		}
	}
}

func same(a, b *inventory.Package) bool { return a.Kind == b.Kind && a.Name == b.Name }

// place adds a package of a language by where it lies: a program or an archive that it is in,
// or the folder that is its own.
func (x *Index) place(i int, p *inventory.Package) {
	if p.Locked || inventory.OfDistribution(p.Kind) {
		return
	}
	file, _, inner := strings.Cut(p.Path, "!/")
	dir, base := path.Split(file)
	folder := ""
	switch p.Kind {
	case inventory.KindGo, inventory.KindRust:
		x.files.add(inventory.FileKey(file), i)
		x.watched[i] = true
		return
	case inventory.KindJava:
		if inner || path.Ext(file) == ".jar" || path.Ext(file) == ".war" || path.Ext(file) == ".ear" {
			x.files.add(inventory.FileKey(file), i)
			x.watched[i] = true
		}
		return
	case inventory.KindNPM:
		folder = strings.TrimSuffix(dir, "/")
	case inventory.KindPython:
		// The folder beside its metadata that has its name, as most have.
		meta := path.Dir(file)
		if strings.HasSuffix(meta, "-info") {
			folder = path.Join(path.Dir(meta), strings.ReplaceAll(strings.ToLower(p.Name), "-", "_"))
		}
	case inventory.KindGem:
		if name, ok := strings.CutSuffix(base, ".gemspec"); ok {
			folder = path.Join(path.Dir(strings.TrimSuffix(dir, "/")), "gems", name)
		}
	case inventory.KindComposer:
		if vendor, ok := strings.CutSuffix(file, "composer/installed.json"); ok {
			folder = vendor + p.Name
		}
	case inventory.KindNuGet:
		x.files.add(inventory.FileKey(dir+p.Name+".dll"), i)
	}
	if folder != "" && folder != "." {
		x.dirs.add(inventory.FileKey(folder), i)
	}
}

// packages calls fn with the packages that a file belongs to: by its name, or else by the
// innermost folder that is one's own.
func (x *Index) packages(file string, fn func(p int)) {
	if x.files.of(inventory.FileKey(file), fn) || len(x.dirs.keys) == 0 {
		return
	}
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if x.dirs.of(inventory.FileKey(dir), fn) {
			return
		}
	}
}

// Uses returns what was seen of each package of the inventory that the index is of, in its
// order. Without a look all is unknown. Where looks left something out, what was not seen is
// unknown too.
func (x *Index) Uses(s *Seen) []inventory.Use {
	out := make([]inventory.Use, len(x.watched))
	if s.Looks == 0 {
		return out
	}
	used, whole := x.used(s)
	for i := range out {
		u := inventory.Use{State: inventory.UseUnknown, Since: s.Since, Until: s.Until, Looks: s.Looks}
		if seen := used[i]; seen != nil {
			u = *seen
		} else if x.watched[i] && whole {
			u.State = inventory.NotSeen
		}
		out[i] = u
	}
	return out
}

// used returns what was seen of the packages that are in use, by their place. whole is false where
// something was left out, so that another may be in use too.
func (x *Index) used(s *Seen) (used map[int]*inventory.Use, whole bool) {
	used, whole = map[int]*inventory.Use{}, s.Whole()
	for _, file := range slices.Sorted(maps.Keys(s.Files)) {
		f := s.Files[file]
		listening, reachable := ends(f, &s.Ports)
		x.packages(file, func(p int) {
			u := used[p]
			if u == nil {
				if len(used) >= maxUsed {
					whole = false
					return
				}
				u = &inventory.Use{
					State: inventory.InUse, Since: s.Since, Until: s.Until, Looks: s.Looks, SocketsKnown: s.Sockets, PortsKnown: s.Ports.Known,
				}
				used[p] = u
			}
			u.Executed, u.Mapped, u.Opened = later(u.Executed, f.Executed), later(u.Mapped, f.Mapped), later(u.Opened, f.Opened)
			u.Files = joined(u.Files, []string{file}, inventory.MaxUseFiles)
			u.Listening, u.Reachable = joined(u.Listening, listening, inventory.MaxUseEndpoints), joined(u.Reachable, reachable, inventory.MaxUseEndpoints)
		})
	}
	return used, whole
}

// Merge returns what was seen of one package in two containers.
func Merge(a, b inventory.Use) inventory.Use {
	if a.Looks == 0 {
		return b
	}
	if b.Looks == 0 {
		return a
	}
	out := inventory.Use{
		State: a.State, Since: earlier(a.Since, b.Since), Until: later(a.Until, b.Until), Looks: a.Looks + b.Looks,
		Executed: later(a.Executed, b.Executed), Mapped: later(a.Mapped, b.Mapped), Opened: later(a.Opened, b.Opened),
		Files:     joined(a.Files, b.Files, inventory.MaxUseFiles),
		Listening: joined(a.Listening, b.Listening, inventory.MaxUseEndpoints), Reachable: joined(a.Reachable, b.Reachable, inventory.MaxUseEndpoints),
		SocketsKnown: (a.SocketsKnown || a.State == inventory.NotSeen) && (b.SocketsKnown || b.State == inventory.NotSeen),
		PortsKnown:   (a.PortsKnown || a.State == inventory.NotSeen) && (b.PortsKnown || b.State == inventory.NotSeen),
	}
	if weight(b.State) > weight(a.State) {
		out.State = b.State
	}
	return out
}

// weight orders states of one package in two containers: what one of them uses is in use, and
// what one of them does not show is unknown.
func weight(state string) int {
	switch state {
	case inventory.InUse:
		return 2
	case inventory.NotSeen:
		return 0
	}
	return 1
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// joined returns the strings of both lists. Neither is changed; the result may be one of them.
func joined(a, b []string, most int) []string {
	if len(a) == 0 && len(b) <= most {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := slices.Clone(a)
	for _, s := range b {
		if len(out) < most && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// ends returns what the processes that use a file listen on, and how that is reached.
func ends(f *SeenFile, ports *Ports) (listening, reachable []string) {
	for _, e := range slices.SortedFunc(slices.Values(f.Listening), Endpoint.compare) {
		if len(listening) < inventory.MaxUseEndpoints {
			listening = append(listening, e.String())
		}
		for _, way := range ports.reach(e) {
			if len(reachable) < inventory.MaxUseEndpoints && !slices.Contains(reachable, way) {
				reachable = append(reachable, way)
			}
		}
	}
	return listening, reachable
}
