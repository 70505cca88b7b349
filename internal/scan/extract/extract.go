// Package extract reads the files by which package managers and compilers tell what
// is installed: databases of dpkg, apk and RPM, package.json of installed Node modules,
// metadata of Python distributions, what Composer installed, libraries of .NET programs,
// specifications of Ruby gems, build information of Go binaries.
//
// All input is hostile: every reader has bounds, keeps what it understood before an
// error, and never follows a reference to another file. It owns no state and does no
// I/O but on the contents it is given. Row: core.
package extract

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Set is the list of all extractors. The zero value is ready for use.
type Set struct{}

type extractor struct {
	kind  string
	wants func(name string, mode fs.FileMode, size int64) bool
	read  func(name string, c image.Content) (inventory.File, error)
	// limit is up to where a file is read, in bytes; one that is larger is an error
	// beside what was found. 0: the reader bounds itself and tells.
	limit int64
}

// maxDatabase bounds a database: that of a full desktop has some 10 MB.
const maxDatabase = 64 << 20

// extractors in the order in which they are asked; the first that wants a file has it.
func extractors() []extractor {
	return []extractor{
		{"os-release", wantsOSRelease, readOSRelease, 64 << 10},
		{"dpkg", wantsDpkg, readDpkg, maxDatabase},
		{"dpkg-list", wantsDpkgList, readDpkgList, maxDatabase},
		{"apk", wantsApk, readApk, maxDatabase},
		{"rpm", wantsRPM, readRPM, 0},
		{"npm", wantsNPM, readNPM, 0},
		{"python", wantsPython, readPython, 0},
		{"python-record", wantsPythonRecord, readPythonRecord, 0},
		{"composer", wantsComposer, readComposer, 0},
		{"nuget", wantsNuGet, readNuGet, 0},
		{"gem", wantsGem, readGem, 0},
		{"java", wantsJava, readJava, 0},
		{"lock", wantsLock, readLock, 0},
		{"program", wantsGo, readProgram, 0},
	}
}

var all = extractors()

// Kind implements [image.Extractor].
func (Set) Kind(name string, mode fs.FileMode, size int64) string {
	for i := range all {
		if all[i].wants(name, mode, size) {
			return all[i].kind
		}
	}
	return ""
}

// Extract implements [image.Extractor]. Packages without a name or a version and
// those with texts beyond the bounds of a result are left out, with an error.
func (Set) Extract(kind, name string, c image.Content) (f inventory.File, err error) {
	for i := range all {
		if all[i].kind != kind {
			continue
		}
		// Readers of the standard library (ELF, JSON) are not all made for enemies.
		defer func() {
			if p := recover(); p != nil {
				f, err = inventory.File{}, fmt.Errorf("%s: the reader failed", kind)
			}
		}()
		limit, size := all[i].limit, c.Size
		if limit > 0 {
			c.Reader = io.LimitReader(c.Reader, limit)
		}
		f, err = all[i].read(name, c)
		if err == nil && limit > 0 && size > limit {
			err = fmt.Errorf("%s: the file has more than %d bytes: what follows was not read", kind, limit)
		}
		return sound(kind, f, err)
	}
	return inventory.File{}, fmt.Errorf("no extractor %q", kind)
}

// errBroken is wrapped by messages about content that is not as it should be.
var errBroken = errors.New("broken")

// sound drops packages that the other side would refuse the whole result for.
func sound(kind string, f inventory.File, err error) (inventory.File, error) {
	kept := f.Packages[:0]
	for _, p := range f.Packages {
		ok := p.Name != "" && p.Version != "" && len(p.Version) <= inventory.MaxVersion && len(p.SourceVersion) <= inventory.MaxVersion
		for _, s := range []string{p.Name, p.Version, p.Source, p.SourceVersion, p.Arch} {
			ok = ok && len(s) <= inventory.MaxText && utf8.ValidString(s)
		}
		if ok {
			kept = append(kept, p)
		} else if err == nil {
			err = fmt.Errorf("%s: a package without a name or version, or with one that cannot be: %w", kind, errBroken)
		}
	}
	f.Packages = kept
	if f.OS != nil {
		for _, s := range []*string{&f.OS.ID, &f.OS.VersionID, &f.OS.Codename, &f.OS.Pretty} {
			*s = strings.ToValidUTF8((*s)[:min(len(*s), 256)], "")
		}
	}
	return f, err
}

// maxLine bounds a line of a database. Descriptions and dependency lists of real ones
// stay below 64 KiB.
const maxLine = 1 << 20

// eachLine calls fn with each line, without its end.
func eachLine(r io.Reader, fn func(line string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 16<<10), maxLine)
	for s.Scan() {
		if err := fn(strings.TrimSuffix(s.Text(), "\r")); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%w after what was read: %w", errBroken, err)
	}
	return nil
}

func wantsOSRelease(name string, _ fs.FileMode, _ int64) bool {
	return name == "etc/os-release" || name == "usr/lib/os-release"
}

// readOSRelease reads os-release(5).
func readOSRelease(_ string, c image.Content) (inventory.File, error) {
	o := &inventory.OS{}
	fields := map[string]*string{"ID": &o.ID, "VERSION_ID": &o.VersionID, "VERSION_CODENAME": &o.Codename, "PRETTY_NAME": &o.Pretty}
	err := eachLine(c, func(line string) error {
		key, value, ok := strings.Cut(line, "=")
		if into := fields[strings.TrimSpace(key)]; ok && into != nil {
			*into = strings.Trim(strings.TrimSpace(value), `"'`)
		}
		return nil
	})
	return inventory.File{OS: o}, err
}
