package vulndb

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
)

// BuildOptions says what to build from.
type BuildOptions struct {
	// Dir has records in the layout of the public OSV bucket; Walk lists them: it is
	// osvdir.Walk, which those who only match do not link.
	Dir  string
	Walk func(dir string, add func(path, entry string, r io.Reader) error) error
	// KEV is CISA's catalogue known_exploited_vulnerabilities.json; empty for none.
	KEV string
	// EPSS is FIRST's epss_scores-current.csv.gz, Tracker the JSON of Debian's security
	// tracker; empty for none.
	EPSS, Tracker string
	// Parts keeps what was compiled for the next build; the zero value keeps nothing.
	Parts Parts
	Now   time.Time
	// AsOf is up to when Dir lacks nothing of its publisher. Zero, or later than Now: that is not known, and
	// of each folder the newest record tells, or its file where none has a time; the oldest counts.
	AsOf time.Time
}

// BuildReport tells what went into a database.
type BuildReport struct {
	Records   int `json:"records"`
	Withdrawn int `json:"withdrawn"` // records that their source took back
	Packages  int `json:"packages"`
	Bytes     int `json:"bytes"`
	// AsOf is that of [Status].
	AsOf time.Time `json:"asOf"`
	// Oldest is the folder whose records AsOf is by, where nobody was asked and there are several.
	Oldest string `json:"oldest,omitempty"`
	// Reused are the archives that an earlier build had compiled.
	Reused int `json:"reused,omitempty"`
	// BadRecords could not be read, BadVersions not be ordered.
	BadRecords  int      `json:"badRecords"`
	BadVersions int      `json:"badVersions"`
	Examples    []string `json:"examples,omitempty"` // of bad records
	// OddEntries of Debian's tracker have another form: the states that they tell are not known.
	OddEntries int `json:"oddEntries,omitempty"`
}

// Bounds on the sources of a database.
const (
	MaxRecords = 5_000_000
	MaxBytes   = 16 << 30 // of JSON
)

// Build compiles the records below o.Dir into a file at path. The file appears whole
// or not at all: after an error the former one is in place.
//
// Records that cannot be read are counted and left out; errors are those of files, of
// ctx, and a directory without any record.
func Build(ctx context.Context, path string, o BuildOptions) (BuildReport, error) {
	s := &sources{ctx: ctx.Err, dir: o.Dir, now: o.Now, parts: o.Parts, used: map[string]bool{}, b: builder{keys: map[string][]affected{}}, seen: map[string]taken{}, dropped: map[int]bool{}, newest: map[string]*newest{}, folders: map[string]*naming{}}
	var err error
	if s.columns, err = readColumns(o); err != nil {
		return s.rep, err
	}
	s.rep.OddEntries = s.tracker.odd
	s.singles = o.Parts.singles()
	if err := o.Walk(o.Dir, s.add); err != nil {
		return s.rep, fmt.Errorf("read records below %s: %w", o.Dir, err)
	}
	s.keep()
	s.b.drop(s.dropped)
	s.b.nameOnce()
	for _, path := range []string{o.KEV, o.EPSS, o.Tracker} {
		if path != "" {
			s.source(path)
		}
	}
	s.rep.Records, s.rep.Packages = len(s.b.records), len(s.b.keys)
	if s.rep.Records == 0 {
		return s.rep, fmt.Errorf("there is no OSV record below %s: want ECOSYSTEM/all.zip or ECOSYSTEM/ID.json", o.Dir)
	}
	s.rep.AsOf = o.AsOf.UTC().Truncate(time.Second)
	if o.AsOf.IsZero() || o.AsOf.After(o.Now) {
		s.rep.AsOf, s.rep.Oldest = s.oldest()
	}
	s.b.meta.BadRecords, s.b.meta.Whole = s.rep.BadRecords, s.whole()
	b, err := s.b.encode(o.Now, s.rep.AsOf)
	if err != nil {
		return s.rep, err
	}
	s.rep.Bytes = len(b)
	return s.rep, atomicfile.WriteFile(path, b, 0o644)
}

// sources is one build.
type sources struct {
	ctx func() error
	dir string
	now time.Time
	b   builder
	columns
	parts   Parts
	used    map[string]bool // paths of parts
	archive string          // that is being read
	part    *archivePart    // of it; nil if it is not to be kept
	singles map[digest]compiled
	single  bytes.Buffer       // the part of files of their own
	fresh   bool               // it has what the former one had not
	named   bool               // the archive is the last of b.meta.Sources
	seen    map[string]taken   // by ID: a record may be in an archive and beside it, or in two
	dropped map[int]bool       // numbers of records for which others were taken
	newest  map[string]*newest // by folder
	folders map[string]*naming // by path
	dating  string             // the file that the last record came of
	dated   *newest            // of its folder
	names   *naming            // of its folder
	statted bool               // it was looked at
	rep     BuildReport
	bytes   int64
}

// archivePart is an archive that is being compiled.
type archivePart struct {
	name string
	body bytes.Buffer
}

// maxNamed bounds how many files are named in a database.
const maxNamed = 200

// source names a file that was read.
func (s *sources) source(path string) {
	st, err := os.Stat(path)
	if s.named = err == nil && len(s.b.meta.Sources) < maxNamed; !s.named {
		return
	}
	name := filepath.Base(path)
	if name == "all.zip" {
		name = filepath.Base(filepath.Dir(path))
	}
	s.b.meta.Sources = append(s.b.meta.Sources, Source{Name: name, Time: st.ModTime().UTC().Truncate(time.Second)})
}

// add takes one record in. One that is broken is counted; an archive that is broken
// is an error, since it would hide records without end. It returns [fs.SkipDir] for an archive
// that it has taken whole.
func (s *sources) add(path, entry string, r io.Reader) error {
	if err := s.ctx(); err != nil {
		return err
	}
	if entry != "" && path != s.archive {
		if done, err := s.begin(path); err != nil {
			return err
		} else if done {
			return fs.SkipDir
		}
	}
	b, c, err := readRecord(r)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", strings.TrimSuffix(path+": "+entry, ": "), err)
	case c.bad != "":
	case entry != "":
		c = compileRecord(b)
	default:
		c = s.ofFile(b)
	}
	if c.bad != "" && entry != "" {
		c.bad = entry + ": " + c.bad
	}
	if s.part != nil && entry != "" {
		c.put(&s.part.body)
	}
	return s.take(path, &c)
}

// begin begins an archive. done is true if it was compiled before.
func (s *sources) begin(path string) (done bool, err error) {
	s.endArchive()
	s.archive = path
	s.source(path)
	if s.parts.Dir == "" {
		return false, nil
	}
	name, err := fileName("archive", path)
	if err != nil {
		return false, err
	}
	list, ok := s.parts.records(name)
	if !ok {
		s.part = &archivePart{name: name}
		return false, nil
	}
	s.rep.Reused++
	s.used[s.parts.path(name)] = true
	for i := range list {
		if err := s.take(path, &list[i]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// endArchive keeps the archive that was read to its end.
func (s *sources) endArchive() {
	if s.part == nil {
		return
	}
	if s.parts.write(s.part.name, s.part.body.Bytes()) {
		s.used[s.parts.path(s.part.name)] = true
	}
	s.part = nil
}

// ofFile compiles a record in a file of its own, unless a build before has.
func (s *sources) ofFile(b []byte) compiled {
	if s.parts.Dir == "" {
		return compileRecord(b)
	}
	sum := sha256.Sum256(b)
	c, ok := s.singles[sum]
	if !ok {
		c, s.fresh = compileRecord(b), true
	}
	s.single.Write(sum[:])
	c.put(&s.single)
	return c
}

// keep keeps what was compiled, and lets go of what is not of use any more.
func (s *sources) keep() {
	s.endArchive()
	if s.parts.Dir == "" {
		return
	}
	if s.fresh {
		s.parts.write(singlesName, s.single.Bytes())
	}
	s.used[s.parts.path(singlesName)] = true
	s.used[s.parts.path(s.trackerPart)] = true
	s.parts.prune(s.used)
}

// newest is when the records of a folder were last changed.
type newest struct {
	record time.Time // by the word of one
	file   time.Time // of a record that has none
}

// date notes when a record, or its file, was last changed. One of the future is wrong, and would make all
// data new.
func (s *sources) date(path string, c *compiled) {
	if path != s.dating {
		folder := s.folder(path)
		if s.newest[folder] == nil {
			s.newest[folder] = &newest{}
		}
		s.dating, s.dated, s.names, s.statted = path, s.newest[folder], s.naming(path), false
	}
	at, err := time.Parse(time.RFC3339, c.modified)
	latest := &s.dated.record
	if err != nil {
		if s.statted {
			return
		}
		s.statted = true
		st, err := os.Stat(path)
		if err != nil {
			return
		}
		at, latest = st.ModTime(), &s.dated.file
	}
	if at.After(*latest) && !at.After(s.now) {
		*latest = at.UTC().Truncate(time.Second)
	}
}

// folder is that of an archive, and of a record of its own the uppermost: an ecosystem's.
func (s *sources) folder(path string) string {
	rel, err := filepath.Rel(s.dir, path)
	if err != nil {
		rel = path
	}
	if filepath.Ext(rel) == ".zip" {
		return filepath.Dir(rel)
	}
	if top, _, ok := strings.Cut(rel, "/"); ok {
		return top
	}
	return "."
}

// naming are the ecosystems that the records of a folder name.
type naming struct {
	path  []string        // names of the folder and of those above it
	own   map[string]bool // those that path has
	alone map[string]bool // those that a record names and no other
}

// naming is that of a file's folder.
func (s *sources) naming(path string) *naming {
	dir, err := filepath.Rel(s.dir, filepath.Dir(path))
	if err != nil {
		dir = filepath.Dir(path)
	}
	if s.folders[dir] == nil {
		s.folders[dir] = &naming{path: strings.Split(dir, "/"), own: map[string]bool{}, alone: map[string]bool{}}
	}
	return s.folders[dir]
}

// note notes which ecosystems a record names.
func (n *naming) note(c *compiled) {
	alone, several := "", false
	for i := range c.packages {
		ecosystem := c.packages[i].ecosystem
		for _, name := range n.path {
			if belongs(ecosystem, name) {
				n.own[name] = true
			}
		}
		name, _, _ := strings.Cut(ecosystem, ":")
		several = several || alone != "" && alone != name
		alone = name
	}
	if alone != "" && !several {
		n.alone[alone] = true
	}
}

// belongs reports whether an ecosystem is that of a name, or a release of it.
func belongs(ecosystem, name string) bool {
	rest, ok := strings.CutPrefix(ecosystem, name)
	return ok && (rest == "" || rest[0] == ':')
}

// whole are the ecosystems whose records were taken: those that folders are called by. A record of PyPI may
// name a package of npm, which is not to pass for what npm has. In a folder with another name it is those
// that a record names and no other.
func (s *sources) whole() []string {
	all := map[string]bool{}
	for _, f := range s.folders {
		if len(f.own) > 0 {
			maps.Copy(all, f.own)
		} else {
			maps.Copy(all, f.alone)
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// oldest is of which time the data are where nobody was asked: that of the folder whose newest record is
// the oldest. folder is empty where there is but one.
func (s *sources) oldest() (at time.Time, folder string) {
	for _, name := range slices.Sorted(maps.Keys(s.newest)) {
		n := s.newest[name]
		of := cmp.Or(n.record, n.file, time.Unix(0, 0).UTC()) // at worst as old as can be
		if folder == "" || of.Before(at) {
			at, folder = of, name
		}
	}
	if len(s.newest) < 2 {
		folder = ""
	}
	return at, folder
}

// take takes a compiled record in.
func (s *sources) take(path string, c *compiled) error {
	if s.bytes += int64(c.size); s.bytes > MaxBytes || len(s.b.records) > MaxRecords {
		return fmt.Errorf("the sources have more than %d bytes or %d records", int64(MaxBytes), MaxRecords)
	}
	if c.id == "" {
		s.rep.BadRecords++
		if len(s.rep.Examples) < 10 {
			s.rep.Examples = append(s.rep.Examples, path+": "+c.bad)
		}
		return nil
	}
	s.date(path, c)
	s.names.note(c)
	changed, _ := time.Parse(time.RFC3339, c.modified) //nolint:errcheck // zero is before all others
	single := path != s.archive
	if was, twice := s.seen[c.id]; twice {
		if was.single && !single || was.changed.IsZero() || !changed.After(was.changed) {
			return nil
		}
		s.drop(was)
	}
	now := taken{changed: changed, single: single, record: -1, source: -1}
	if c.gone { // noted, too: another archive may not know
		s.rep.Withdrawn++
	} else {
		now.record = len(s.b.records)
		if s.named {
			now.source = len(s.b.meta.Sources) - 1
			s.b.meta.Sources[now.source].Records++
		}
		s.record(c)
	}
	s.seen[c.id] = now
	return nil
}

// taken is a record that was taken in, or noted as withdrawn.
type taken struct {
	changed        time.Time // zero: it does not say
	single         bool      // of a file of its own: none of an archive takes its place
	record, source int       // numbers; -1: none
}

// drop gives a record up for one that was changed later.
func (s *sources) drop(was taken) {
	if was.record < 0 {
		s.rep.Withdrawn--
		return
	}
	s.dropped[was.record] = true
	if was.source >= 0 {
		s.b.meta.Sources[was.source].Records--
	}
}

func (s *sources) record(c *compiled) {
	number := len(s.b.records)
	v := c.v
	s.exploit(&v)
	s.rate(&v)
	s.rep.BadVersions += c.versions
	for i := range c.packages {
		p := &c.packages[i]
		out := p.affected
		out.record = number
		s.join(&out, &v, p.ecosystem, p.name)
		if len(out.ranges) > 0 || len(out.versions) > 0 {
			key := p.ecosystem + "\x00" + keyName(p.ecosystem, p.name)
			s.b.keys[key] = append(s.b.keys[key], out)
		}
	}
	s.b.records = append(s.b.records, v)
}

// cveFirst orders names of one vulnerability: CVE numbers first.
func cveFirst(ids []string) {
	slices.SortFunc(ids, func(a, b string) int {
		if x, y := isCVE(a), isCVE(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}

// CheckColumns reads the files of o that are joined to records, and nothing else.
func CheckColumns(o BuildOptions) error {
	_, err := readColumns(o)
	return err
}
