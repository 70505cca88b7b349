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

// OwnedFiles are the programs, libraries and archives that a package of the distribution, or of
// Python, says are its own: those whose use shows itself in the process that uses them.
type OwnedFiles struct {
	Package int `json:"package"` // index in [Result.Packages]
	// Keys are those of the files ([FileKey]), one after the other, big endian.
	Keys []byte `json:"keys,omitempty"`
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

// Each calls fn with each key.
func (o *OwnedFiles) Each(fn func(key uint64)) {
	for b := o.Keys; len(b) >= FileKeyBytes; b = b[FileKeyBytes:] {
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
	case ".py", ".pm", ".pl", ".rb", ".js", ".mjs", ".cjs", ".php", ".lua", ".tcl", ".sh":
		return true
	}
	return false
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
		n += len(o.Keys) / FileKeyBytes
		if o.Package < 0 || o.Package >= len(r.Packages) || len(o.Keys)%FileKeyBytes != 0 || n > MaxOwnedFiles {
			return fmt.Errorf("files of package %d of %d: %d bytes, and %d files in all", o.Package, len(r.Packages), len(o.Keys), n)
		}
	}
	return nil
}
