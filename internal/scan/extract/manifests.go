package extract

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// wantsComposer: what Composer installed, not what a lock file asks for.
func wantsComposer(name string, _ fs.FileMode, _ int64) bool {
	return strings.HasSuffix("/"+name, "/vendor/composer/installed.json")
}

// readComposer reads a list of packages, or an object that has one (Composer 2).
func readComposer(_ string, c image.Content) (inventory.File, error) {
	type pkg struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	b, err := inventory.ReadAll(c, maxPackageJSON)
	if err != nil {
		return inventory.File{}, fmt.Errorf("an installed.json of Composer: %w", err)
	}
	var v2 struct {
		Packages []pkg `json:"packages"`
	}
	if err := json.Unmarshal(b, &v2); err != nil {
		if err := json.Unmarshal(b, &v2.Packages); err != nil {
			return inventory.File{}, fmt.Errorf("an installed.json of Composer that is none: %w", errBroken)
		}
	}
	var f inventory.File
	for _, p := range v2.Packages {
		f.Packages = append(f.Packages, inventory.Package{Kind: inventory.KindComposer, Name: p.Name, Version: strings.TrimPrefix(p.Version, "v")})
	}
	return f, nil
}

func wantsNuGet(name string, _ fs.FileMode, _ int64) bool {
	return strings.HasSuffix(name, ".deps.json")
}

// readNuGet reads the libraries that a .NET program is deployed with. Source: .NET runtime
// configuration, "runtime-configuration-file.md": libraries are NAME/VERSION, those of type
// package come from NuGet.
func readNuGet(_ string, c image.Content) (inventory.File, error) {
	b, err := inventory.ReadAll(c, maxPackageJSON)
	if err != nil {
		return inventory.File{}, fmt.Errorf("a deps.json of .NET: %w", err)
	}
	var deps struct {
		Libraries map[string]struct {
			Type string `json:"type"`
		} `json:"libraries"`
	}
	if err := json.Unmarshal(b, &deps); err != nil {
		return inventory.File{}, fmt.Errorf("a deps.json of .NET that is none: %w", errBroken)
	}
	var f inventory.File
	for id, l := range deps.Libraries {
		// A program's own project, and what the runtime itself brings, are no packages.
		if name, version, ok := strings.Cut(id, "/"); ok && l.Type == "package" {
			f.Packages = append(f.Packages, inventory.Package{Kind: inventory.KindNuGet, Name: name, Version: version})
		}
	}
	return f, nil
}

// wantsGem: RubyGems keeps the specification of each gem that is installed, of its own and of
// those that come with Ruby (specifications/default).
func wantsGem(name string, _ fs.FileMode, _ int64) bool {
	dir, ok := strings.CutSuffix(name, ".gemspec")
	if !ok {
		return false
	}
	dir = strings.TrimSuffix(path.Dir(dir), "/default")
	return path.Base(dir) == "specifications"
}

// gemField is a line of a specification as RubyGems writes it: s.name = "rake".freeze, and
// s.version = "13.0.6", around which older versions put Gem::Version.new().
var gemField = regexp.MustCompile(`^\s*\w+\.(name|version)\s*=\s*(?:Gem::Version\.new\(?\s*)?["']([^"']+)["']`)

func readGem(_ string, c image.Content) (inventory.File, error) {
	p := inventory.Package{Kind: inventory.KindGem}
	err := eachLine(io.LimitReader(c, maxPackageJSON), func(line string) error {
		if m := gemField.FindStringSubmatch(line); m != nil {
			if m[1] == "name" && p.Name == "" {
				p.Name = m[2]
			} else if m[1] == "version" && p.Version == "" {
				p.Version = m[2]
			}
		}
		if p.Name != "" && p.Version != "" {
			return errDone
		}
		return nil
	})
	if errors.Is(err, errDone) {
		err = nil
	}
	return inventory.File{Packages: []inventory.Package{p}}, err
}
