package vulndb

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Parts is a folder of compiled sources, so that a build reads again only what changed: an
// archive whose bytes are those of the last build is taken as it was compiled, and so is each
// record in a file of its own. The zero value keeps nothing. Who may write to the folder
// decides what the database says, as with the records themselves.
type Parts struct {
	Dir string
	// Program names what compiled them, by its digest: another version reads anew.
	Program string
}

const (
	partExt     = ".part"
	singlesName = "singles"
	trackerName = "tracker"
)

// path is where a part is kept: nothing of another program or other bytes is found there.
func (p Parts) path(name string) string {
	sum := sha256.Sum256([]byte(p.Program + "\x00" + name))
	return filepath.Join(p.Dir, hex.EncodeToString(sum[:])+partExt)
}

// read returns a part. ok is false for one that is not there, cut off or altered.
func (p Parts) read(name string) (body []byte, ok bool) {
	if p.Dir == "" {
		return nil, false
	}
	b, err := os.ReadFile(p.path(name))
	if err != nil || len(b) < sha256.Size || len(b) > maxFile {
		return nil, false
	}
	body = b[sha256.Size:]
	sum := sha256.Sum256(body)
	return body, bytes.Equal(sum[:], b[:sha256.Size])
}

// write keeps a part. One that cannot be kept is compiled again the next time, so the error is
// not one of the build.
func (p Parts) write(name string, body []byte) bool {
	sum := sha256.Sum256(body)
	return os.MkdirAll(p.Dir, 0o755) == nil &&
		atomicfile.WriteFileUnsynced(p.path(name), append(sum[:], body...), 0o644) == nil
}

// prune removes the parts that a build did not use.
func (p Parts) prune(used map[string]bool) {
	paths, _ := filepath.Glob(filepath.Join(p.Dir, "*"+partExt)) //nolint:errcheck // the pattern is well formed
	for _, path := range paths {
		if !used[path] {
			os.Remove(path) //nolint:errcheck // one that stays is in nobody's way
		}
	}
}

// compiled is one record of a source before anything is joined to it. With an empty ID it could
// not be read.
type compiled struct {
	size     int // bytes of JSON
	bad      string
	id       string
	modified string // when the record was, in RFC 3339
	gone     bool   // withdrawn
	v        Vulnerability
	packages []compiledPackage
	versions int // that cannot be ordered
}

type compiledPackage struct {
	ecosystem, name string
	affected        affected
}

// compileRecord reads one record. One that cannot be read is a compiled record too.
func compileRecord(b []byte) compiled {
	rec, ok, err := parseRecord(b)
	if err != nil {
		return compiled{size: len(b), bad: err.Error()}
	}
	c := compiled{size: len(b), id: rec.ID, modified: rec.modified(), gone: !ok}
	if c.gone {
		return c
	}
	c.v = rec.vulnerability()
	for i := range rec.Affected {
		a := &rec.Affected[i]
		eco, name := a.Package.Ecosystem, a.Package.Name
		if eco == "" || name == "" || len(eco)+len(name) > maxNameText || strings.Contains(eco+name, "\x00") {
			continue // a record about commits
		}
		out, bad := a.affects()
		c.versions += bad
		c.packages = append(c.packages, compiledPackage{eco, name, out})
	}
	return c
}

// Kinds of compiled records.
const (
	compiledBad = iota
	compiledGone
	compiledGood
)

func (c *compiled) put(w *bytes.Buffer) {
	switch {
	case c.id == "":
		w.WriteByte(compiledBad)
		putInt(w, c.size)
		putText(w, c.bad)
		return
	case c.gone:
		w.WriteByte(compiledGone)
		putInt(w, c.size)
		putText(w, c.modified)
		putText(w, c.id)
		return
	}
	w.WriteByte(compiledGood)
	putInt(w, c.size)
	putText(w, c.modified)
	c.v.put(w)
	putInt(w, c.versions)
	putInt(w, len(c.packages))
	for i := range c.packages {
		p := &c.packages[i]
		putText(w, p.ecosystem)
		putText(w, p.name)
		p.affected.put(w)
	}
}

// compiled reads what [compiled.put] wrote. Versions lie in the cursor's bytes.
func (c *cursor) compiled() (out compiled) {
	kind := c.byte()
	out.size = c.int()
	switch kind {
	case compiledBad:
		out.bad = c.text()
	case compiledGone:
		out.modified = c.text()
		out.id, out.gone = c.text(), true
		c.broken = c.broken || out.id == ""
	case compiledGood:
		out.modified = c.text()
		out.v = c.vulnerability()
		out.id = out.v.ID
		out.versions = c.int()
		for range c.count() {
			p := compiledPackage{ecosystem: c.text(), name: c.text()}
			if c.affected(&p.affected); c.broken {
				return out
			}
			out.packages = append(out.packages, p)
		}
		c.broken = c.broken || out.id == ""
	default:
		c.broken = true
	}
	return out
}

// records reads the records of an archive's part.
func (p Parts) records(name string) (list []compiled, ok bool) {
	body, ok := p.read(name)
	if !ok {
		return nil, false
	}
	return decodeRecords(body)
}

func decodeRecords(body []byte) (list []compiled, ok bool) {
	c := cursor{b: body}
	for len(c.b) > 0 && !c.broken {
		list = append(list, c.compiled())
	}
	return list, !c.broken
}

type digest = [sha256.Size]byte

// singles reads the part of records in files of their own, by the digest of the files.
func (p Parts) singles() map[digest]compiled {
	body, ok := p.read(singlesName)
	if !ok {
		return nil
	}
	out, _ := decodeSingles(body)
	return out
}

func decodeSingles(body []byte) (map[digest]compiled, bool) {
	out := map[digest]compiled{}
	for c := (cursor{b: body}); len(c.b) > 0; {
		if len(c.b) < sha256.Size {
			return nil, false
		}
		sum := digest(c.b)
		c.b = c.b[sha256.Size:]
		rec := c.compiled()
		if c.broken {
			return nil, false
		}
		out[sum] = rec
	}
	return out, true
}

// tracker is readTracker, whose file takes seconds to read, with a part.
func (p Parts) tracker(path string) (tracker, string, error) {
	if p.Dir == "" {
		out, err := readTracker(path)
		return out, "", err
	}
	name, err := fileName(trackerName, path)
	if err != nil {
		return tracker{}, "", err
	}
	if body, ok := p.read(name); ok {
		if out, ok := decodeTracker(body); ok {
			return out, name, nil
		}
	}
	out, err := readTracker(path)
	if err != nil {
		return tracker{}, "", err
	}
	p.write(name, encodeTracker(out))
	return out, name, nil
}

func encodeTracker(t tracker) []byte {
	var w bytes.Buffer
	putInt(&w, t.odd)
	for k, says := range t.says {
		putText(&w, k.ecosystem)
		putText(&w, k.source)
		putText(&w, k.cve)
		w.WriteByte(says.state)
		if says.negligible {
			w.WriteByte(1)
		} else {
			w.WriteByte(0)
		}
	}
	return w.Bytes()
}

func decodeTracker(body []byte) (tracker, bool) {
	c := cursor{b: body}
	out := tracker{says: map[trackerKey]trackerSays{}, odd: c.int()}
	for len(c.b) > 0 && !c.broken {
		k := trackerKey{c.text(), c.text(), c.text()}
		out.says[k] = trackerSays{state: c.byte(), negligible: c.byte() == 1}
	}
	return out, !c.broken && len(out.says) > 0
}

// fileName names a part by the bytes of the file that it is of.
func fileName(kind, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return kind + " " + hex.EncodeToString(h.Sum(nil)), nil
}

// readRecord reads one record's bytes.
func readRecord(r io.Reader) (b []byte, c compiled, err error) {
	b, err = inventory.ReadAll(r, maxRecord)
	if errors.Is(err, inventory.ErrTooLarge) {
		return nil, compiled{bad: err.Error()}, nil
	}
	return b, compiled{}, err
}
