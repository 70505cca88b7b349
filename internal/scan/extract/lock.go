package extract

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// maxLock bounds a lock file. The largest of real projects have some 5 MB.
const maxLock = 32 << 20

// lockReaders are the lock files that are read, by name. They tell what was asked for: an image
// may have it or not, so their packages are marked, and those that are installed go before them
// (image.Read). go.sum is none: it has versions that nothing is built with.
func lockReaders() map[string]func(image.Content) ([]inventory.Package, error) {
	return map[string]func(image.Content) ([]inventory.Package, error){
		"package-lock.json": packageLock, "npm-shrinkwrap.json": packageLock, "yarn.lock": yarnLock, "pnpm-lock.yaml": pnpmLock,
		"Cargo.lock":   func(c image.Content) ([]inventory.Package, error) { return tomlLock(c, inventory.KindRust) },
		"poetry.lock":  func(c image.Content) ([]inventory.Package, error) { return tomlLock(c, inventory.KindPython) },
		"uv.lock":      func(c image.Content) ([]inventory.Package, error) { return tomlLock(c, inventory.KindPython) },
		"pdm.lock":     func(c image.Content) ([]inventory.Package, error) { return tomlLock(c, inventory.KindPython) },
		"Pipfile.lock": pipfileLock, "requirements.txt": requirements,
		"composer.lock": composerLock, "Gemfile.lock": gemfileLock,
	}
}

var locks = lockReaders()

// notLocks are folders of what is installed or only there to be built: the lock files in it are
// those of its authors.
var notLocks = []string{"/node_modules/", "/site-packages/", "/dist-packages/", "/gems/", "/vendor/", "/registry/src/", "/git/checkouts/"}

func wantsLock(name string, _ fs.FileMode, _ int64) bool {
	if locks[path.Base(name)] == nil {
		return false
	}
	for _, dir := range notLocks {
		if strings.Contains("/"+name, dir) {
			return false
		}
	}
	return true
}

func readLock(name string, c image.Content) (inventory.File, error) {
	base := path.Base(name)
	list, err := locks[base](c)
	if err == nil && c.Size > maxLock {
		err = inventory.ErrTooLarge
	}
	if err != nil {
		err = fmt.Errorf("a lock file %s: %w", base, err)
	}
	if len(list) > inventory.MaxPackages {
		return inventory.File{}, fmt.Errorf("a lock file %s of more than %d packages", base, inventory.MaxPackages)
	}
	for i := range list {
		list[i].Locked = true
	}
	return inventory.File{Packages: list}, err
}

// lockLines calls line for each line of a lock file, until list has more packages than a scan
// may: [readLock] says so.
func lockLines(c image.Content, list *[]inventory.Package, line func(string) error) error {
	return eachLine(io.LimitReader(c, maxLock), func(text string) error {
		if len(*list) > inventory.MaxPackages {
			return errBroken
		}
		return line(text)
	})
}

// lockJSON decodes a lock file in JSON.
func lockJSON(c image.Content, into any) error {
	b, err := inventory.ReadAll(c, maxLock)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("it is no JSON of its kind: %w", errBroken)
	}
	return nil
}

// npmVersion takes a version of the registry only: not a URL, a folder or a link.
func npmVersion(v string) bool { return v != "" && !strings.ContainsAny(v, ":/ ") }

// npmDependency is one package of a package-lock.json of version 1, with those below it.
type npmDependency struct {
	Version      string                   `json:"version"`
	Dev          bool                     `json:"dev"`
	Dependencies map[string]npmDependency `json:"dependencies"`
}

// packageLock reads package-lock.json. Source: docs.npmjs.com, "package-lock.json".
func packageLock(c image.Content) ([]inventory.Package, error) {
	var lock struct {
		Packages map[string]struct {
			Name    string `json:"name"`
			Version string `json:"version"`
			Dev     bool   `json:"dev"`
			Link    bool   `json:"link"`
		} `json:"packages"`
		Dependencies map[string]npmDependency `json:"dependencies"`
	}
	if err := lockJSON(c, &lock); err != nil {
		return nil, err
	}
	seen := map[inventory.Package]bool{}
	var out []inventory.Package
	add := func(name, version string) {
		p := inventory.Package{Kind: inventory.KindNPM, Name: name, Version: version}
		if name != "" && npmVersion(version) && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	for at, p := range lock.Packages {
		i := strings.LastIndex("/"+at, "/node_modules/")
		if i < 0 || p.Dev || p.Link {
			continue // the project and its workspaces
		}
		name := p.Name // of an alias: what it stands for
		if name == "" {
			name = at[i+len("node_modules/"):]
		}
		add(name, p.Version)
	}
	if lock.Packages == nil {
		eachNPM(lock.Dependencies, add)
	}
	return out, nil
}

func eachNPM(list map[string]npmDependency, add func(name, version string)) {
	for name, d := range list {
		// An alias: npm:NAME@VERSION.
		if real, ok := strings.CutPrefix(d.Version, "npm:"); ok {
			if i := strings.LastIndexByte(real, '@'); i > 0 {
				name, d.Version = real[:i], real[i+1:]
			}
		}
		if !d.Dev {
			add(name, d.Version)
		}
		eachNPM(d.Dependencies, add)
	}
}

// yarnLock reads yarn.lock of version 1 and of later ones, which are YAML: blocks that begin with
// a line of specifiers without a space before it. Source: yarnpkg/yarn, src/lockfile/stringify.js.
func yarnLock(c image.Content) ([]inventory.Package, error) {
	var out []inventory.Package
	var p inventory.Package
	end := func() {
		if p.Name != "" && npmVersion(p.Version) && p.Version != "0.0.0-use.local" {
			out = append(out, p)
		}
		p = inventory.Package{Kind: inventory.KindNPM}
	}
	err := lockLines(c, &out, func(line string) error {
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#':
		case line[0] != ' ':
			end()
			first, _, _ := strings.Cut(strings.TrimSuffix(text, ":"), ",")
			p.Name = yarnName(strings.Trim(first, `" `))
		case strings.HasPrefix(line, "    "):
			// dependencies of it
		default:
			key, value, _ := strings.Cut(text, " ")
			value = strings.Trim(value, `"`)
			switch strings.TrimSuffix(key, ":") {
			case "version":
				p.Version = value
			case "resolution": // NAME@npm:VERSION
				if i := strings.LastIndex(value, "@npm:"); i > 0 {
					p.Name = value[:i]
				} else {
					p.Name = "" // a folder, a patch, a commit
				}
			}
		}
		return nil
	})
	end()
	return out, err
}

// yarnName is the name in NAME@RANGE, or in ALIAS@npm:NAME@RANGE.
func yarnName(spec string) string {
	i := strings.IndexByte(strings.TrimPrefix(spec, "@"), '@')
	if i < 0 {
		return "" // __metadata
	}
	i += len(spec) - len(strings.TrimPrefix(spec, "@"))
	name, rng := spec[:i], spec[i+1:]
	if real, ok := strings.CutPrefix(rng, "npm:"); ok {
		if j := strings.LastIndexByte(real, '@'); j > 0 {
			return real[:j]
		}
	}
	return name
}

// pnpmKey is a key below packages: /NAME/VERSION (version 5), /NAME@VERSION (6), NAME@VERSION (9),
// with what it was resolved with behind it. Source: pnpm/spec, lockfile.
var pnpmKey = regexp.MustCompile(`^/?((?:@[^/@]+/)?[^/@]+)[/@](\d[^_()/:]*)`)

// pnpmLock reads the keys of packages. Packages that are marked for development are left out,
// which version 9 does not tell any more.
func pnpmLock(c image.Content) ([]inventory.Package, error) {
	var out []inventory.Package
	inside := false
	err := lockLines(c, &out, func(line string) error {
		text := strings.TrimSpace(line)
		switch depth := len(line) - len(strings.TrimLeft(line, " ")); {
		case text == "" || text[0] == '#':
		case depth == 0:
			inside = text == "packages:"
		case inside && depth == 2:
			key := strings.Trim(strings.TrimSuffix(text, ":"), `'"`)
			if m := pnpmKey.FindStringSubmatch(key); m != nil {
				out = append(out, inventory.Package{Kind: inventory.KindNPM, Name: m[1], Version: m[2]})
			} else {
				out = append(out, inventory.Package{}) // of no registry; what follows is about it
			}
		case inside && depth == 4 && text == "dev: true" && len(out) > 0:
			out[len(out)-1] = inventory.Package{}
		}
		return nil
	})
	kept := out[:0]
	for _, p := range out {
		if p.Name != "" {
			kept = append(kept, p)
		}
	}
	return kept, err
}

// tomlLine is a line of the TOML that Cargo, Poetry, uv and PDM write: KEY = "VALUE", or a list
// or table that begins on it.
var tomlLine = regexp.MustCompile(`^(name|version|source|category|groups)\s*=\s*(.*)$`)

// tomlLock reads [[package]] tables, as programs write them and nobody by hand. Packages of the
// project itself are left out: those of Cargo without a source, those of uv in a folder.
func tomlLock(c image.Content, kind string) ([]inventory.Package, error) {
	var out []inventory.Package
	var p inventory.Package
	source, skip, inside := "", false, false
	end := func() {
		own := kind == inventory.KindRust && source == "" || strings.Contains(source, "virtual =") || strings.Contains(source, "editable =")
		if inside && !skip && !own && p.Name != "" && p.Version != "" {
			out = append(out, p)
		}
		p, source, skip = inventory.Package{Kind: kind}, "", false
	}
	err := lockLines(c, &out, func(line string) error {
		if strings.HasPrefix(line, "[") {
			// Tables below a package have names and versions of their own.
			end()
			inside = strings.TrimSpace(line) == "[[package]]"
			return nil
		}
		m := tomlLine.FindStringSubmatch(line)
		if m == nil || !inside {
			return nil
		}
		value := strings.TrimSpace(m[2])
		switch text := strings.Trim(value, `"`); m[1] {
		case "name":
			p.Name = text
		case "version":
			p.Version = text
		case "source":
			source = value
		case "category":
			skip = skip || text == "dev"
		case "groups":
			skip = skip || value == `["dev"]`
		}
		return nil
	})
	end()
	return out, err
}

// pipfileLock reads what is not for development.
func pipfileLock(c image.Content) ([]inventory.Package, error) {
	var lock struct {
		Default map[string]struct {
			Version string `json:"version"`
		} `json:"default"`
	}
	if err := lockJSON(c, &lock); err != nil {
		return nil, err
	}
	var out []inventory.Package
	for name, p := range lock.Default {
		if v, ok := strings.CutPrefix(p.Version, "=="); ok {
			out = append(out, inventory.Package{Kind: inventory.KindPython, Name: name, Version: strings.TrimPrefix(v, "=")})
		}
	}
	return out, nil
}

// pinned is NAME[EXTRAS]==VERSION (PEP 508, PEP 440), before markers, options and remarks.
var pinned = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*===?\s*([A-Za-z0-9][A-Za-z0-9.!+_-]*)\s*(?:[;#\\ ].*)?$`)

// requirements reads the lines of a requirements.txt that name one version.
func requirements(c image.Content) ([]inventory.Package, error) {
	var out []inventory.Package
	err := lockLines(c, &out, func(line string) error {
		if m := pinned.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			out = append(out, inventory.Package{Kind: inventory.KindPython, Name: m[1], Version: m[2]})
		}
		return nil
	})
	return out, err
}

// composerLock reads what is not for development.
func composerLock(c image.Content) ([]inventory.Package, error) {
	var lock struct {
		Packages []struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"packages"`
	}
	if err := lockJSON(c, &lock); err != nil {
		return nil, err
	}
	var out []inventory.Package
	for _, p := range lock.Packages {
		out = append(out, inventory.Package{Kind: inventory.KindComposer, Name: p.Name, Version: strings.TrimPrefix(p.Version, "v")})
	}
	return out, nil
}

// gemSpec is a line below specs: four spaces, NAME (VERSION[-PLATFORM]). Those with more spaces are
// what it depends on.
var gemSpec = regexp.MustCompile(`^ {4}([^ ()]+) \(([^-)]+)(?:-[^)]*)?\)$`)

// gemfileLock reads the gems of registries; those of commits and folders have sections of their own.
func gemfileLock(c image.Content) ([]inventory.Package, error) {
	var out []inventory.Package
	gems := false
	err := lockLines(c, &out, func(line string) error {
		if line != "" && line[0] != ' ' {
			gems = line == "GEM"
		}
		if m := gemSpec.FindStringSubmatch(line); m != nil && gems {
			out = append(out, inventory.Package{Kind: inventory.KindGem, Name: m[1], Version: m[2]})
		}
		return nil
	})
	return out, err
}
