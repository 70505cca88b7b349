package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxProblems bounds [Report.Problems]; [Report.ProblemCount] goes on.
const maxProblems = 100

// Report is what [Verify] found.
type Report struct {
	Rings        []RingReport `json:"rings"`    // events, then denials
	Problems     []Problem    `json:"problems"` // the first 100; never null in JSON
	ProblemCount int          `json:"problemCount"`
}

// OK reports whether the chain holds from the oldest line to the newest.
func (r *Report) OK() bool { return r.ProblemCount == 0 }

// RingReport describes one ring.
type RingReport struct {
	Ring     string `json:"ring"`
	Segments int    `json:"segments"`
	First    uint64 `json:"first"` // number of the oldest segment; those before it were dropped, which is legal
	Last     uint64 `json:"last"`
	Records  uint64 `json:"records"`
	// MissingSeq counts sequence numbers that lie between the first and the last of
	// their boot and belong to no record: losses, which the journal counted too. It
	// is 0 for the denial ring, which has gaps by its nature.
	MissingSeq uint64 `json:"missingSeq"`
	Anchor     string `json:"anchor"`    // digest that the oldest segment says it follows from
	Head       string `json:"head"`      // digest of the newest line
	TornBytes  int64  `json:"tornBytes"` // behind the newest line: being written now, or lost with the power
}

// Problem is one place where the chain does not hold.
type Problem struct {
	Segment string `json:"segment"` // file name
	Line    int    `json:"line"`    // from 1; 0: the segment as a whole
	Offset  int64  `json:"offset"`  // of the line's first byte
	What    string `json:"what"`
}

// String returns "segment:line: what".
func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.Segment, p.Line, p.What) }

// ErrEmpty is for a directory without a segment of any ring.
var ErrEmpty = errors.New("no segment of a journal is there")

// Found fails for a directory that is no journal, or of which all segments were removed: there is
// nothing in it that [Verify] could find wrong.
//
// Errors: [ErrEmpty]; *[os.PathError] if the directory cannot be read.
func Found(dir string) error {
	for _, ring := range []string{ringEvents, ringDenials} {
		if segs, err := listSegments(dir, ring); err != nil || len(segs) > 0 {
			return err
		}
	}
	return ErrEmpty
}

// Verify walks both chains in dir. It needs no lock, and works beside a running
// agent.
//
// It finds every altered, added or removed line and segment, but for three things: a
// removed beginning, which is legal; a removed end, and a chain computed anew from
// some point on, which only show where [RingReport.Head] of an earlier time, or
// [Stats.EventsHead], was kept elsewhere and is no longer in the chain.
//
// Errors: *[os.PathError] if something cannot be read. Problems are no error.
func Verify(dir string) (Report, error) {
	v := verifier{dir: dir, rep: Report{Problems: []Problem{}}}
	for _, ring := range []string{ringEvents, ringDenials} {
		if err := v.ring(ring); err != nil {
			return v.rep, fmt.Errorf("verify journal: %w", err)
		}
	}
	return v.rep, nil
}

type verifier struct {
	dir   string
	rep   Report
	rr    RingReport
	boots map[string]seqRange
	head  digest
	known bool // head is the digest of the line before
}

type seqRange struct{ first, last, n uint64 }

func (v *verifier) problem(segment string, line int, off int64, what string) {
	v.rep.ProblemCount++
	if len(v.rep.Problems) < maxProblems {
		v.rep.Problems = append(v.rep.Problems, Problem{segment, line, off, what})
	}
}

func (v *verifier) ring(name string) error {
	v.rr, v.boots, v.known = RingReport{Ring: name}, map[string]seqRange{}, false
	segs, err := listSegments(v.dir, name)
	if err != nil {
		return err
	}
	for i, s := range segs {
		if v.rr.Segments > 0 && s.num != v.rr.Last+1 {
			v.problem(segmentName(name, s.num), 0, 0, fmt.Sprintf("follows segment %d: segments between them are missing", v.rr.Last))
			v.known = false
		}
		err := v.segment(s.num, i == len(segs)-1)
		if errors.Is(err, os.ErrNotExist) {
			// A running agent drops the oldest: what was read so far is gone too.
			if err = v.dropped(name, s.num); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if v.rr.Segments == 0 {
			v.rr.First = s.num
		}
		v.rr.Segments++
		v.rr.Last = s.num
	}
	if name == ringEvents {
		for _, b := range v.boots {
			if span := b.last - b.first + 1; span > b.n {
				v.rr.MissingSeq += span - b.n
			}
		}
	}
	if v.known {
		v.rr.Head = v.head.String()
	}
	v.rep.Rings = append(v.rep.Rings, v.rr)
	return nil
}

// dropped returns nil if segment num is gone because it was among the oldest.
func (v *verifier) dropped(ring string, num uint64) error {
	segs, err := listSegments(v.dir, ring)
	if err != nil {
		return err
	}
	if len(segs) > 0 && segs[0].num < num {
		v.problem(segmentName(ring, num), 0, 0, "segment vanished while newer and older ones stayed")
	}
	v.known, v.rr.Segments = false, 0
	return nil
}

func (v *verifier) segment(num uint64, newest bool) error {
	name := segmentName(v.rr.Ring, num)
	f, err := os.Open(filepath.Join(v.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	r := newSegReader(f)
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if e.damage != "" {
			v.problem(name, e.line, e.off, e.damage)
		}
		v.line(name, num, e)
	}
	torn := int64(r.hi - r.lo)
	if r.skip {
		torn += r.off - r.start
	}
	switch {
	case torn > 0 && newest:
		v.rr.TornBytes = torn
	case torn > 0:
		v.problem(name, r.line+1, r.off, "last line is cut")
	}
	// A newest segment without a header was being made when the machine went down,
	// unless it holds more than a header.
	if r.line == 0 && (!newest || torn > maxHeader) {
		v.problem(name, 0, 0, "segment has no header")
		v.known = false
	}
	return nil
}

// line checks what goes beyond one segment.
func (v *verifier) line(name string, num uint64, e entry) {
	switch e.tag {
	case tagSegment:
		var h header
		if json.Unmarshal(e.body, &h) != nil {
			break // reported by the segment's reader
		}
		if v.known && e.line == 1 && h.Prev != v.head.String() {
			v.problem(name, e.line, e.off, "segment does not follow from the one before")
		}
		if h.Segment != num || h.Ring != v.rr.Ring {
			v.problem(name, e.line, e.off, fmt.Sprintf("header is that of segment %d of %.16q", h.Segment, h.Ring))
		}
		if v.rr.Segments == 0 && e.line == 1 {
			v.rr.Anchor = h.Prev
		}
	case tagRecord:
		v.rr.Records++
		k := keyOf(e.body)
		if k.Schema == "" {
			v.problem(name, e.line, e.off, "record has no schema")
		}
		b, ok := v.boots[k.BootID]
		if !ok {
			b.first = k.Seq
		}
		b.first, b.last, b.n = min(b.first, k.Seq), max(b.last, k.Seq), b.n+1
		v.boots[k.BootID] = b
	}
	v.head, v.known = e.h, e.tag != 0
}
