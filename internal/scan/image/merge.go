package image

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// identity tells one installed package from another within one file.
type identity struct{ name, version, arch, path string }

func identityOf(p *inventory.Package) identity {
	return identity{p.Name, p.Version, p.Arch, p.Path}
}

// finish merges the layers and fills the result.
func (r *reader) finish() error {
	r.gather()
	seen := map[string]read{}
	shown := &shownFaults{visible: map[string][]inventory.Misconfiguration{}}
	for i, l := range r.layers {
		if err := r.stopped(); err != nil {
			return err
		}
		was := map[string]read{}
		for name, f := range seen {
			if l.hides(name) {
				was[name] = f
				delete(seen, name)
			}
		}
		for name, f := range l.files {
			seen[name] = attribute(f, was[name], i)
		}
		shown.add(l, i)
	}
	r.below()
	owners, err := r.fill(seen)
	if err != nil {
		return err
	}
	r.fillFaults(shown, owners)
	r.unexplained()
	r.res.Notes = r.notes.list
	return nil
}

// attribute sets the layer of f's packages: this one, or that in which the same
// package was at the same place before, if it was there until now.
func attribute(f, was read, layer int) read {
	since := make(map[identity]int, len(was.Packages))
	for i := range was.Packages {
		p := &was.Packages[i]
		since[identityOf(p)] = p.Layer
	}
	// A layer that is in the image twice must not be changed through the other.
	f.Packages = slices.Clone(f.Packages)
	for i := range f.Packages {
		p := &f.Packages[i]
		p.Layer = layer
		if first, ok := since[identityOf(p)]; ok {
			p.Layer = first
		}
	}
	return f
}

// owners are packages of the distribution by the hash of a file that they say is theirs.
type owners struct {
	seed maphash.Seed
	of   map[uint64]string
}

func (o *owners) key(file string) uint64 { return maphash.String(o.seed, merged(file)) }

// fill puts what a container would see into the result, in order.
func (r *reader) fill(seen map[string]read) (*owners, error) {
	own := &owners{maphash.MakeSeed(), map[uint64]string{}}
	var files []string // of each package
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		f := seen[name]
		if f.OS != nil && (r.res.OS == inventory.OS{} || name == "etc/os-release") {
			r.res.OS = *f.OS
		}
		if _, python := inventory.PythonRecord(name); !python {
			for _, o := range f.Owns {
				own.of[own.key(o.Path)] = o.Owner
			}
		}
		r.res.Packages = append(r.res.Packages, f.Packages...)
		for range f.Packages {
			files = append(files, name)
		}
		if len(r.res.Packages) > inventory.MaxPackages {
			return nil, fmt.Errorf("the image has more than %d packages", inventory.MaxPackages)
		}
	}
	for i := range r.res.Packages {
		p := &r.res.Packages[i]
		if !inventory.OfDistribution(p.Kind) {
			p.Owner = own.of[own.key(files[i])]
		}
	}
	r.res.Packages = withoutInstalled(r.res.Packages)
	slices.SortFunc(r.res.Packages, comparePackages)
	// A database may name a package twice; nothing more is known from the second.
	r.res.Packages = slices.CompactFunc(r.res.Packages, func(a, b inventory.Package) bool { return comparePackages(a, b) == 0 })
	inventory.LimitFunctions(r.res.Packages)
	r.res.Owned = ownedFiles(seen, r.res.Packages)
	return own, nil
}

// installRoot is the folder in which what a lock file of Node.js or PHP asks for is installed, or
// one of a package that is: up to node_modules or vendor, "" where there is none.
func installRoot(kind, file string) string {
	sep := map[string]string{inventory.KindNPM: "/node_modules/", inventory.KindComposer: "/vendor/"}[kind]
	if sep == "" {
		return ""
	}
	dir, _, ok := strings.Cut("/"+file, sep)
	if !ok {
		return ""
	}
	return dir + "/"
}

// withoutInstalled drops packages of lock files whose project is installed: for Node.js and PHP those
// with a folder of modules beside the lock file, elsewhere those of which any version is installed.
// What is there says more than what was asked for.
func withoutInstalled(list []inventory.Package) []inventory.Package {
	type key struct{ kind, name string }
	installed := map[key]bool{}
	for i := range list {
		p := &list[i]
		if p.Locked || p.Owner != "" {
			continue
		}
		installed[key{p.Kind, lockName(p)}] = true
		if root := installRoot(p.Kind, p.Path); root != "" {
			installed[key{p.Kind, root}] = true
		}
	}
	return slices.DeleteFunc(list, func(p inventory.Package) bool {
		if !p.Locked {
			return false
		}
		if p.Kind == inventory.KindNPM || p.Kind == inventory.KindComposer {
			dir := strings.TrimSuffix("/"+path.Dir(p.Path), "/.") + "/"
			return installed[key{p.Kind, dir}]
		}
		return installed[key{p.Kind, lockName(&p)}]
	})
}

// lockName is a package's name so that both spellings of one in Python are equal.
func lockName(p *inventory.Package) string {
	if p.Kind != inventory.KindPython {
		return p.Name
	}
	return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(p.Name))
}

// comparePackages orders packages; those that are the same installed package are equal.
func comparePackages(a, b inventory.Package) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Source, b.Source), cmp.Compare(a.SourceVersion, b.SourceVersion))
}

// merged returns a path as a distribution with one /usr has it: package lists say
// both /lib/x and /usr/lib/x for the same file.
func merged(p string) string { return inventory.Merged(p) }

// resolveLinks gives hard links the content of their targets: that of a file of the
// same kind that was read, or else by reading the target in another pass.
func (r *reader) resolveLinks(a archive, order []manifestLayer, done map[string]*layer) error {
	// wanted[layer][target] are links that need it read.
	wanted := map[string]map[string][]wish{}
	for i, l := range r.layers {
		for _, h := range l.links {
			if l.aliases[h.name] != h.target {
				continue // replaced in its own layer
			}
			from, at, why := r.target(i, h.target)
			if from == nil {
				r.notes.add(h.name, why)
				continue
			}
			if from.looked[from.hash(at)] == h.kind {
				if f, ok := from.files[at]; ok {
					f.Packages = unplaced(f.Packages, at)
					l.add(h.kind, h.name, f.File)
				}
				continue
			}
			name := order[slices.Index(r.layers, from)].name
			if wanted[name] == nil {
				wanted[name] = map[string][]wish{}
			}
			wanted[name][at] = append(wanted[name][at], wish{l, h})
		}
		l.links = nil
	}
	if len(wanted) == 0 {
		return nil
	}
	only := map[string]bool{}
	for name := range wanted {
		only[name] = true
	}
	return a.each(only, func(name string, c Content) error {
		got, err := r.hashedLayer(c, r.notes.add, func(t *tarStream) error { return r.grant(wanted[name], t) })
		if err != nil {
			return err
		}
		// Who hands the layer out may give another one the second time.
		return order[slices.IndexFunc(order, func(l manifestLayer) bool { return l.name == name })].check(got)
	})
}

// wish is a link of a layer that needs the content of its target.
type wish struct {
	layer *layer
	link  hardlink
}

// grant reads the targets of links in one layer.
func (r *reader) grant(wishes map[string][]wish, t *tarStream) error {
	for {
		e, err := t.next()
		if e == nil {
			return err
		}
		r.fulfil(wishes[e.name], t, e)
	}
}

// fulfil reads one target for all links to it: once for each kind, since a stream
// cannot be read again.
func (r *reader) fulfil(wishes []wish, t *tarStream, e *entry) {
	first := map[string]wish{}
	for i, w := range wishes {
		delete(w.layer.files, w.link.name) // of the same name earlier in the layer
		if !e.regular {
			r.notes.add(w.link.name, "a hard link to what is no regular file")
			continue
		}
		if done, ok := first[w.link.kind]; ok {
			if f, ok := done.layer.files[done.link.name]; ok {
				f.Packages = unplaced(f.Packages, done.link.name)
				w.layer.add(w.link.kind, w.link.name, f.File)
			}
			continue
		}
		c := e.content
		if i > 0 {
			if c.At == nil {
				r.notes.add(w.link.name, "hard links of two kinds to a file that can be read only once")
				continue
			}
			c = t.reopen(e)
		}
		first[w.link.kind] = w
		r.extract(w.layer, w.link.kind, w.link.name, c)
	}
}

// target follows hard links from the i-th layer downward to a name that is none. It
// returns the layer that has it, or nil and why there is none.
func (r *reader) target(i int, name string) (from *layer, at, why string) {
	for range maxLinkHops {
		if i = r.holder(i, name); i < 0 {
			return nil, "", "a hard link to a file that no layer has"
		}
		to, ok := r.layers[i].aliases[name]
		if !ok {
			return r.layers[i], name, ""
		}
		name = to
	}
	return nil, "", fmt.Sprintf("a hard link that leads through more than %d others", maxLinkHops)
}

// holder returns the place of the layer, from the i-th downward, that has a name as
// something other than a directory, or -1.
func (r *reader) holder(i int, name string) int {
	for ; i >= 0; i-- {
		l := r.layers[i]
		if _, ok := slices.BinarySearch(l.others, l.hash(name)); ok {
			return i
		}
		if l.hides(name) {
			break
		}
	}
	return -1
}

// gather takes the notes of layers, each layer's once.
func (r *reader) gather() {
	done := map[*layer]bool{}
	for _, l := range r.layers {
		if done[l] {
			continue
		}
		done[l] = true
		for _, n := range l.notes.list {
			r.notes.merge(n)
		}
		for _, n := range l.unsearched.list {
			r.unsearched.merge(n)
		}
	}
}
