package extract

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// wantsNPM: a module is installed where a resolver would look for it,
// node_modules/NAME or node_modules/@SCOPE/NAME (Node.js, "Loading from node_modules
// folders"). Lock files and other package.json files install nothing.
func wantsNPM(name string, _ fs.FileMode, _ int64) bool {
	dir, ok := strings.CutSuffix(name, "/package.json")
	if !ok {
		return false
	}
	parent := path.Dir(dir)
	if path.Base(parent) == "node_modules" {
		return !strings.HasPrefix(path.Base(dir), "@")
	}
	return strings.HasPrefix(path.Base(parent), "@") && path.Base(path.Dir(parent)) == "node_modules"
}

const maxPackageJSON = 4 << 20

func readNPM(_ string, c image.Content) (inventory.File, error) {
	b, err := inventory.ReadAll(c, maxPackageJSON)
	if err != nil {
		return inventory.File{}, fmt.Errorf("a package.json: %w", err)
	}
	var m struct {
		Name    any `json:"name"`
		Version any `json:"version"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return inventory.File{}, fmt.Errorf("a package.json that is no JSON: %w", errBroken)
	}
	name, _ := m.Name.(string)
	version, _ := m.Version.(string)
	if name == "" || version == "" {
		return inventory.File{}, nil // a folder inside of a module, such as dist/cjs
	}
	return inventory.File{Packages: []inventory.Package{{Kind: inventory.KindNPM, Name: name, Version: strings.TrimPrefix(version, "v")}}}, nil
}

// wantsPython: metadata of an installed distribution. Source: packaging.python.org,
// "Recording installed projects"; egg-info is what setuptools wrote before.
func wantsPython(name string, _ fs.FileMode, _ int64) bool {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	switch base {
	case "METADATA":
		return strings.HasSuffix(dir, ".dist-info")
	case "PKG-INFO":
		return strings.HasSuffix(dir, ".egg-info") || strings.HasSuffix(dir, "/EGG-INFO")
	}
	return strings.HasSuffix(base, ".egg-info")
}

// errDone ends the reading of lines early.
var errDone = errors.New("done")

// readPython reads the header of core metadata, which ends at the first empty line.
func readPython(_ string, c image.Content) (inventory.File, error) {
	p := inventory.Package{Kind: inventory.KindPython}
	err := eachLine(io.LimitReader(c, 4<<20), func(line string) error {
		if line == "" || p.Name != "" && p.Version != "" {
			return errDone
		}
		if key, value, ok := strings.Cut(line, ":"); ok {
			switch strings.ToLower(key) {
			case "name":
				p.Name = strings.TrimSpace(value)
			case "version":
				p.Version = strings.TrimSpace(value)
			}
		}
		return nil
	})
	if errors.Is(err, errDone) {
		err = nil
	}
	return inventory.File{Packages: []inventory.Package{p}}, err
}

func wantsPythonRecord(name string, _ fs.FileMode, _ int64) bool {
	_, ok := inventory.PythonRecord(name)
	return ok
}

// maxPythonRecord bounds a list: that of a large distribution has 3 MB.
const maxPythonRecord = 16 << 20

// readPythonRecord reads which files an installed distribution of Python has: lines of path, hash and
// size, with paths from the folder beside its metadata. A list that cannot be read whole makes no
// inventory incomplete: it says that there is more than is listed.
func readPythonRecord(name string, c image.Content) (inventory.File, error) {
	var f inventory.File
	own := owning{f: &f}
	site := "/" + path.Dir(path.Dir(name))
	limited := &io.LimitedReader{R: c, N: maxPythonRecord}
	lines := csv.NewReader(limited)
	lines.FieldsPerRecord, lines.ReuseRecord = -1, true
	for {
		line, err := lines.Read()
		if errors.Is(err, io.EOF) && limited.N > 0 {
			return f, nil
		}
		if err != nil {
			own.add("more.py")
			return f, nil //nolint:nilerr // see above
		}
		file := path.Clean("/" + line[0])
		if !path.IsAbs(line[0]) {
			file = path.Join(site, line[0])
		}
		if inventory.ShowsUse(file) || inventory.IsScript(file) {
			own.add(strings.TrimPrefix(file, "/"))
		}
	}
}
