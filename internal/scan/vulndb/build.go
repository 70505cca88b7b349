package vulndb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/scan/inventory"
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
	Now           time.Time
}

// BuildReport tells what went into a database.
type BuildReport struct {
	Records   int `json:"records"`
	Withdrawn int `json:"withdrawn"` // records that their source took back
	Packages  int `json:"packages"`
	Bytes     int `json:"bytes"`
	// BadRecords could not be read, BadVersions not be ordered.
	BadRecords  int      `json:"badRecords"`
	BadVersions int      `json:"badVersions"`
	Examples    []string `json:"examples,omitempty"` // of bad records
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
	s := &sources{ctx: ctx.Err, b: builder{keys: map[string][]affected{}}, seen: map[string]bool{}}
	var err error
	if s.columns, err = readColumns(o); err != nil {
		return s.rep, err
	}
	if err := o.Walk(o.Dir, s.add); err != nil {
		return s.rep, fmt.Errorf("read records below %s: %w", o.Dir, err)
	}
	for _, path := range []string{o.KEV, o.EPSS, o.Tracker} {
		if path != "" {
			s.source(path)
		}
	}
	s.rep.Records, s.rep.Packages = len(s.b.records), len(s.b.keys)
	if s.rep.Records == 0 {
		return s.rep, fmt.Errorf("there is no OSV record below %s: want ECOSYSTEM/all.zip or ECOSYSTEM/ID.json", o.Dir)
	}
	b, err := s.b.encode(o.Now)
	if err != nil {
		return s.rep, err
	}
	s.rep.Bytes = len(b)
	return s.rep, atomicfile.WriteFile(path, b, 0o644)
}

// sources is one build.
type sources struct {
	ctx func() error
	b   builder
	columns
	archive string          // that is being read
	named   bool            // the archive is the last of b.sources
	seen    map[string]bool // IDs: a record may be in an archive and beside it
	rep     BuildReport
	bytes   int64
}

// maxNamed bounds how many files are named in a database.
const maxNamed = 200

// source names a file that was read.
func (s *sources) source(path string) {
	st, err := os.Stat(path)
	if s.named = err == nil && len(s.b.sources) < maxNamed; !s.named {
		return
	}
	name := filepath.Base(path)
	if name == "all.zip" {
		name = filepath.Base(filepath.Dir(path))
	}
	s.b.sources = append(s.b.sources, Source{Name: name, Time: st.ModTime().UTC().Truncate(time.Second)})
}

// add takes one record in. One that is broken is counted; an archive that is broken
// is an error, since it would hide records without end.
func (s *sources) add(path, entry string, r io.Reader) error {
	name := path
	if entry != "" {
		name += ": " + entry
		if path != s.archive {
			s.archive = path
			s.source(path)
		}
	}
	if err := s.ctx(); err != nil {
		return err
	}
	b, err := inventory.ReadAll(r, maxRecord)
	if errors.Is(err, inventory.ErrTooLarge) {
		s.bad(name, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if s.bytes += int64(len(b)); s.bytes > MaxBytes || len(s.b.records) > MaxRecords {
		return fmt.Errorf("the sources have more than %d bytes or %d records", int64(MaxBytes), MaxRecords)
	}
	rec, ok, err := parseRecord(b)
	if err != nil {
		s.bad(name, err)
		return nil
	}
	if s.seen[rec.ID] {
		return nil
	}
	s.seen[rec.ID] = true // also if it was withdrawn: an older archive may not know
	if !ok {
		s.rep.Withdrawn++
		return nil
	}
	s.record(rec)
	return nil
}

func (s *sources) bad(name string, err error) {
	s.rep.BadRecords++
	if len(s.rep.Examples) < 10 {
		s.rep.Examples = append(s.rep.Examples, fmt.Sprintf("%s: %v", name, err))
	}
}

func (s *sources) record(rec *osvRecord) {
	number := len(s.b.records)
	v := rec.vulnerability(s.kev)
	s.rate(&v)
	for i := range rec.Affected {
		a := &rec.Affected[i]
		eco, name := a.Package.Ecosystem, a.Package.Name
		if eco == "" || name == "" || len(eco)+len(name) > maxNameText || strings.Contains(eco+name, "\x00") {
			continue // a record about commits
		}
		out, bad := a.affects(number)
		s.rep.BadVersions += bad
		s.join(&out, &v, eco, name)
		if len(out.ranges) > 0 || len(out.versions) > 0 {
			key := eco + "\x00" + keyName(eco, name)
			s.b.keys[key] = append(s.b.keys[key], out)
		}
	}
	s.b.records = append(s.b.records, v)
	if s.named {
		s.b.sources[len(s.b.sources)-1].Records++
	}
}

// cveFirst orders names of one vulnerability: CVE numbers first.
func cveFirst(ids []string) {
	slices.SortFunc(ids, func(a, b string) int {
		if x, y := strings.HasPrefix(a, "CVE-"), strings.HasPrefix(b, "CVE-"); x != y {
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
