package image

import (
	"path"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// databaseDirs are what must be real directories for the databases of packages to be
// where they are looked for.
var databaseDirs = func() map[string]bool {
	out := map[string]bool{}
	for _, dir := range []string{
		"var/lib/dpkg/status.d", "var/lib/dpkg/info", "lib/apk/db", "usr/lib/apk/db",
		"var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm",
	} {
		for ; dir != "."; dir = path.Dir(dir) {
			out[dir] = true
		}
	}
	return out
}()

// hiding reports whether a symbolic link of that name could keep a database or a
// package from being found. Links are not followed: what they lead to is read where it
// lies, under its own name. etc/os-release leads to usr/lib/os-release, which is read.
func (r *reader) hiding(name string) bool {
	return name != "etc/os-release" && (databaseDirs[name] || r.x.Kind(name, 0, -1) != "")
}

// symlink notes a link that hides something. target is empty where it is not known.
func (r *reader) symlink(l *layer, name, target string) {
	if r.hiding(name) && !usrMerge(name, target) && !r.readElsewhere(name, target) {
		l.notes.add(name, "a symbolic link in the place of a database of packages, a package or a folder of them: it is not followed")
	}
}

// readElsewhere reports whether what a link leads to is read as the same kind wherever in the
// image it lies, since its last name alone says so: x.jar that leads to x-1.2.jar. Links on the
// way do not matter, and one at its end is judged itself.
func (r *reader) readElsewhere(name, target string) bool {
	kind := r.x.Kind(name, 0, -1)
	return kind != "" && !databaseDirs[name] && target != "" && r.x.Kind(path.Base(target), 0, -1) == kind
}

// usrMerge reports whether a link is of a distribution with one /usr: then what was
// in /lib is read in /usr/lib.
func usrMerge(name, target string) bool {
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	return merged(name+"/") != name+"/" && path.Clean(target) == "/"+strings.TrimSuffix(merged(name+"/"), "/")
}

// through notes an entry of a tar that would be written through a symbolic link of its
// own layer, and remembers the directories that it takes for granted, for [reader.below].
func (r *reader) through(l *layer, e *entry) {
	if e.mode.IsDir() {
		if _, ok := l.parents[e.name]; !ok {
			l.parents[e.name] = true
		}
		delete(l.symlinks, e.name)
	}
	for dir := path.Dir(e.name); dir != "."; dir = path.Dir(dir) {
		if l.symlinks[dir] {
			l.notes.add(e.name, throughLink)
		}
		if _, ok := l.parents[dir]; !ok {
			l.parents[dir] = false
		}
	}
	if !e.mode.IsDir() {
		delete(l.symlinks, e.name)
	}
	if e.symlink != "" && !usrMerge(e.name, e.symlink) {
		l.symlinks[e.name] = true
	}
}

const throughLink = "a file of the image that lies behind a symbolic link: where it ends up is not followed"

// below notes directories that a layer takes for granted and that are symbolic links
// in those below it.
func (r *reader) below() {
	links := map[string]bool{}
	for _, l := range r.layers {
		for dir, own := range l.parents {
			if !own && links[dir] {
				r.notes.add(dir, throughLink)
			}
		}
		for name := range links {
			if l.hides(name) {
				delete(links, name)
			}
		}
		for name := range l.symlinks {
			links[name] = true
		}
	}
}

// unexplained notes a distribution without one package of it: its database is
// somewhere else, or of a kind that is not read.
func (r *reader) unexplained() {
	if r.res.OS.ID == "" {
		return
	}
	for i := range r.res.Packages {
		if inventory.OfDistribution(r.res.Packages[i].Kind) {
			return
		}
	}
	r.notes.add("etc/os-release", "a distribution, and no database of its packages that could be read")
}
