package inventory

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
)

// FileKeyBytes is the size of a [FileKey] in [OwnedFiles].
const FileKeyBytes = 8

// OwnedFiles are files that a package of the distribution, or of Python, says are its own: the programs,
// libraries and archives whose use shows itself in the process that uses them, and what its scripts lie in.
type OwnedFiles struct {
	Package int `json:"package"` // index in [Result.Packages]
	// Keys are those of the files ([FileKey]), one after the other, big endian.
	Keys []byte `json:"keys,omitempty"`
	// Units are those of its scripts' [ScriptUnit], likewise. Another package may have the same.
	Units []byte `json:"units,omitempty"`
	// Partial says that it has files whose use does not show, as scripts, or more than are
	// listed: that none of those listed is used says little of it.
	Partial bool `json:"partial,omitempty"`
}

// FileKey is a file by its path from the root, with or without a leading slash: the first 8
// bytes of the SHA-256 of the path as a distribution with one /usr has it.
func FileKey(file string) uint64 {
	sum := sha256.Sum256([]byte(Merged(strings.TrimPrefix(file, "/"))))
	return binary.BigEndian.Uint64(sum[:])
}

// AppendKey appends a key to [OwnedFiles.Keys].
func AppendKey(b []byte, key uint64) []byte { return binary.BigEndian.AppendUint64(b, key) }

// EachKey calls fn with each key of a list.
func EachKey(list []byte, fn func(key uint64)) {
	for b := list; len(b) >= FileKeyBytes; b = b[FileKeyBytes:] {
		fn(binary.BigEndian.Uint64(b))
	}
}

// Merged returns a path as a distribution with one /usr has it: package lists say both
// lib/x and usr/lib/x for the same file.
func Merged(p string) string {
	for _, dir := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
		if strings.HasPrefix(p, dir) {
			return "usr/" + p
		}
	}
	return p
}

// ShowsUse reports whether the use of a file shows in the process that uses it: it is executed,
// mapped or held open for as long.
func ShowsUse(file string) bool {
	base := path.Base(file)
	return strings.HasSuffix(base, ".so") || strings.Contains(base, ".so.") || strings.HasSuffix(base, ".jar") ||
		strings.HasSuffix(base, ".node") || strings.Contains(file, "bin/") || strings.Contains(file, "libexec/")
}

// IsScript reports whether a file is read at once by the program that uses it, so that its use
// does not show.
func IsScript(file string) bool {
	switch path.Ext(file) {
	case ".py", ".pyc", ".pm", ".pl", ".rb", ".js", ".mjs", ".cjs", ".php", ".lua", ".tcl", ".sh":
		return true
	}
	return false
}

// scriptRoots are the folders in which languages keep packages, and how many names below are one package's.
var scriptRoots = []struct {
	name  string
	depth int
}{{"node_modules", 1}, {"share/nodejs", 1}, {"site-packages", 1}, {"dist-packages", 1}, {"gems", 1}, {"vendor_ruby", 1}, {"vendor", 2}}

// ScriptUnit returns what the use of a script is told of, without a leading slash: the folder of the
// innermost package that it lies in, with a slash behind it, or itself where a package is one file
// (compiled Python by the name of its source). "" is a script that lies in no folder of packages.
func ScriptUnit(file string) string {
	file = "/" + strings.TrimPrefix(file, "/")
	at, depth := 0, 0
	for _, r := range scriptRoots {
		if i := strings.LastIndex(file, "/"+r.name+"/"); i >= 0 && i+len(r.name)+2 > at {
			at, depth = i+len(r.name)+2, r.depth
		}
	}
	if at == 0 {
		return ""
	}
	root, rest := file[1:at], file[at:]
	if strings.HasPrefix(rest, "@") {
		depth++
	}
	end := 0
	for range depth {
		i := strings.IndexByte(rest[end:], '/')
		if i < 0 {
			return root + rest
		}
		end += i + 1
	}
	if name, ok := strings.CutPrefix(rest, "__pycache__/"); ok {
		name, _, _ = strings.Cut(name, ".")
		return root + name + ".py"
	}
	return root + rest[:end]
}

// PythonRecord returns the metadata of the distribution of Python that a list of files is of. What
// such a list says is about use alone: it makes no package one of the distribution's.
//
// Source: packaging.python.org, "Recording installed projects", "The RECORD file".
func PythonRecord(name string) (metadata string, ok bool) {
	dir, ok := strings.CutSuffix(name, ".dist-info/RECORD")
	return dir + ".dist-info/METADATA", ok
}

func (r *Result) checkOwned() error {
	if len(r.Owned) > MaxPackages {
		return fmt.Errorf("%d lists of files: too many", len(r.Owned))
	}
	n := 0
	for i := range r.Owned {
		o := &r.Owned[i]
		n += (len(o.Keys) + len(o.Units)) / FileKeyBytes
		if o.Package < 0 || o.Package >= len(r.Packages) || len(o.Keys)%FileKeyBytes != 0 || len(o.Units)%FileKeyBytes != 0 || n > MaxOwnedFiles {
			return fmt.Errorf("files of package %d of %d: %d and %d bytes, and %d files in all", o.Package, len(r.Packages), len(o.Keys), len(o.Units), n)
		}
	}
	return nil
}
