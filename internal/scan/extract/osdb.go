package extract

import (
	"io/fs"
	"path"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

func wantsDpkg(name string, _ fs.FileMode, _ int64) bool {
	if name == "var/lib/dpkg/status" {
		return true
	}
	// Distroless images have a file for each package, and checksums beside it.
	dir, base := path.Split(name)
	return dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums")
}

// readDpkg reads a status file: paragraphs of deb822(5), of which those count whose
// state is "installed" (dpkg-query(1), "Package states"). In status.d there is no
// Status, and being there is being installed.
func readDpkg(name string, c image.Content) (inventory.File, error) {
	var f inventory.File
	single := strings.HasPrefix(name, "var/lib/dpkg/status.d/")
	para := map[string]string{}
	end := func() {
		if p, ok := debPackage(para, single); ok {
			f.Packages = append(f.Packages, p)
		}
		clear(para)
	}
	err := eachLine(c, func(line string) error {
		if strings.TrimSpace(line) == "" {
			end()
			return nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			return nil // a continuation: no field that we read has one
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil
		}
		switch key = strings.ToLower(key); key {
		case "package", "version", "status", "source", "architecture":
			para[key] = strings.TrimSpace(value)
		}
		return nil
	})
	end()
	return f, err
}

func debPackage(para map[string]string, single bool) (inventory.Package, bool) {
	if para["package"] == "" {
		return inventory.Package{}, false
	}
	if status, ok := para["status"]; ok || !single {
		words := strings.Fields(status)
		if len(words) != 3 || words[2] == "not-installed" || words[2] == "config-files" {
			return inventory.Package{}, false
		}
	}
	p := inventory.Package{
		Kind: inventory.KindDeb, Name: para["package"], Version: para["version"], Arch: para["architecture"],
		Source: para["package"], SourceVersion: para["version"],
	}
	// "Source: name" or "Source: name (version)" where they differ (deb822(5)).
	if src := para["source"]; src != "" {
		name, version, _ := strings.Cut(src, " ")
		p.Source = name
		if v := strings.Trim(strings.TrimSpace(version), "()"); v != "" {
			p.SourceVersion = v
		}
	}
	return p, true
}

func wantsDpkgList(name string, _ fs.FileMode, _ int64) bool {
	dir, base := path.Split(name)
	return dir == "var/lib/dpkg/info/" && strings.HasSuffix(base, ".list")
}

// readDpkgList reads which files a package owns; only those that
// matter are kept.
func readDpkgList(name string, c image.Content) (inventory.File, error) {
	owner, _, _ := strings.Cut(strings.TrimSuffix(path.Base(name), ".list"), ":")
	var f inventory.File
	own := owning{f: &f, owner: owner}
	err := eachLine(c, func(line string) error {
		own.add(strings.TrimPrefix(line, "/"))
		return nil
	})
	return f, err
}

// owning gathers the files of one package that matter: those that another extractor could
// want, those whose use shows, and of the scripts, whose use does not, one in each of their units.
type owning struct {
	f     *inventory.File
	owner string
	units map[string]bool // by [inventory.ScriptUnit]; "" is one too
}

func (o *owning) add(file string) {
	script := false
	if inventory.IsScript(file) {
		unit := inventory.ScriptUnit(file)
		if script = !o.units[unit]; script {
			if o.units == nil {
				o.units = map[string]bool{}
			}
			o.units[unit] = true
		}
	}
	if script || inventory.ShowsUse(file) || ownable(file) {
		o.f.Owns = append(o.f.Owns, inventory.Owned{Path: file, Owner: o.owner})
	}
}

// ownable reports whether a path may hold a package of a language.
func ownable(p string) bool {
	return wantsNPM(p, 0, -1) || wantsPython(p, 0, -1) || wantsComposer(p, 0, -1) || wantsNuGet(p, 0, -1) || wantsGem(p, 0, -1) || wantsJava(p, 0, -1) || strings.Contains(p, "bin/") || strings.Contains(p, "libexec/") || wantsGo(p, 0o111, -1)
}

func wantsApk(name string, _ fs.FileMode, _ int64) bool {
	return name == "lib/apk/db/installed" || name == "usr/lib/apk/db/installed"
}

// readApk reads apk's database of installed packages: one letter a field. Source:
// Alpine wiki, "Apk spec", "Installed Database".
func readApk(_ string, c image.Content) (inventory.File, error) {
	var f inventory.File
	var p inventory.Package
	var dir string
	own := owning{f: &f}
	end := func() {
		if p.Name != "" {
			if p.Source == "" {
				p.Source = p.Name
			}
			p.Kind, p.SourceVersion = inventory.KindApk, p.Version
			f.Packages = append(f.Packages, p)
		}
		p, dir, own = inventory.Package{}, "", owning{f: &f}
	}
	err := eachLine(c, func(line string) error {
		if line == "" {
			end()
			return nil
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil
		}
		switch key {
		case "P":
			p.Name = value
		case "V":
			p.Version = value
		case "A":
			p.Arch = value
		case "o":
			p.Source = value
		case "F":
			dir = value
		case "R":
			own.owner = p.Name
			own.add(path.Join(dir, value))
		}
		return nil
	})
	end()
	return f, err
}
