package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The rings of a journal: each is a chain of segments of its own.
const (
	ringEvents  = "events"  // every record
	ringDenials = "denials" // a second copy of denials and losses, which no flood of other records can push out
)

const segmentSuffix = ".jsonl"

// segment is one file of a ring.
type segment struct {
	num  uint64
	size int64
}

func segmentName(ring string, num uint64) string {
	return fmt.Sprintf("%s-%012d%s", ring, num, segmentSuffix)
}

// listSegments returns the segments of a ring in dir, lowest number first. Other
// files are not ours and are passed over.
func listSegments(dir, ring string) ([]segment, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var segs []segment
	for _, e := range es {
		digits, ok := strings.CutPrefix(e.Name(), ring+"-")
		if !ok || !e.Type().IsRegular() {
			continue
		}
		digits, _ = strings.CutSuffix(digits, segmentSuffix)
		num, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || segmentName(ring, num) != e.Name() {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // removed as the oldest meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list journal: %w", err)
		}
		segs = append(segs, segment{num: num, size: fi.Size()})
	}
	slices.SortFunc(segs, func(a, b segment) int {
		if a.num < b.num {
			return -1
		}
		return 1
	})
	return segs, nil
}

// entry is one whole line of a segment.
type entry struct {
	line int    // from 1
	off  int64  // of the line's first byte
	end  int64  // of the byte after its line feed
	tag  byte   // tagRecord, tagSegment; 0: not a line of a journal
	h    digest // as the line says
	body []byte // valid until the next call
	// damage says what is wrong with the line; empty: nothing. With a tag, the line
	// is well formed and its digest does not follow from the line before.
	damage string
}

// segReader takes a segment apart, line by line. It trusts no byte of it. It can be
// asked again after io.EOF, when the file may have grown.
type segReader struct {
	r     io.Reader
	chain chain
	buf   []byte
	lo    int // buf[lo:hi] is unread
	hi    int
	seen  int   // buf[lo:seen] holds no line feed
	off   int64 // file offset of buf[lo]
	line  int   // lines returned
	skip  bool  // inside a line that is too long
	start int64 // its offset
	prev  digest
	known bool // prev is the digest of the line before
}

func newSegReader(r io.Reader) *segReader {
	return &segReader{r: r, chain: newChain(), buf: make([]byte, 64<<10)}
}

// next returns the next line that ends in a line feed.
//
// Errors: [io.EOF] if there is no whole line (yet); others are the reader's.
func (s *segReader) next() (entry, error) {
	for {
		if i := bytes.IndexByte(s.buf[s.seen:s.hi], '\n'); i >= 0 {
			return s.take(s.seen + i), nil
		}
		s.seen = s.hi
		if s.hi-s.lo > maxLine {
			if !s.skip {
				s.skip, s.start = true, s.off
			}
			s.off += int64(s.hi - s.lo)
			s.lo, s.hi, s.seen = 0, 0, 0
		}
		if err := s.fill(); err != nil {
			return entry{}, err
		}
	}
}

// take returns the line that ends at buf[nl].
func (s *segReader) take(nl int) entry {
	raw := s.buf[s.lo:nl]
	s.line++
	e := entry{line: s.line, off: s.off, end: s.off + int64(len(raw)) + 1}
	long := s.skip || len(raw) > maxLine
	if s.skip {
		e.off = s.start
	}
	s.skip = false
	s.lo, s.off, s.seen = nl+1, e.end, nl+1
	switch {
	case long:
		e.damage = fmt.Sprintf("line is longer than %d bytes", maxLine)
	default:
		s.check(&e, raw)
	}
	if e.tag == 0 {
		s.known = false
		return e
	}
	s.prev, s.known = e.h, true
	return e
}

// check fills in what raw says and compares its digest.
func (s *segReader) check(e *entry, raw []byte) {
	var ok bool
	if e.h, e.tag, e.body, ok = parseLine(raw); !ok {
		e.tag, e.body, e.damage = 0, nil, "not a line of a journal"
		return
	}
	if (e.tag == tagSegment) != (e.line == 1) {
		e.damage = "a segment must have one header, in its first line"
	}
	if e.tag == tagSegment {
		var h header
		prev, ok := digest{}, false
		if json.Unmarshal(e.body, &h) == nil {
			prev, ok = parseDigest([]byte(h.Prev))
		}
		if !ok || h.Schema != SegmentSchema {
			e.damage = "segment header of another version"
			return
		}
		if e.line == 1 {
			s.prev, s.known = prev, true
		}
	}
	if s.known && s.chain.link(s.prev, e.tag, e.body) != e.h {
		e.damage = "digest does not match: this line or the one before was altered, or lines were removed"
	}
}

// fill reads more into buf.
func (s *segReader) fill() error {
	if s.lo > 0 {
		s.hi = copy(s.buf, s.buf[s.lo:s.hi])
		s.seen -= s.lo
		s.lo = 0
	}
	if s.hi == len(s.buf) {
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	n, err := s.r.Read(s.buf[s.hi:])
	s.hi += n
	if n > 0 {
		return nil // an error comes again at the next call
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// tail is what a scan of a whole segment found.
type tail struct {
	good    int64  // end of the last well-formed line: what lies behind is a torn tail
	head    digest // digest of that line
	records int
	damaged int    // bad lines that have well-formed lines behind them, and broken links
	seq     uint64 // highest sequence number of the asked boot
}

// scanTail reads a segment to find out how to go on after it.
func scanTail(path, bootID string) (tail, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return tail{}, fmt.Errorf("scan journal: %w", err)
	}
	defer f.Close()
	var t tail
	bad := 0
	r := newSegReader(f)
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return t, fmt.Errorf("scan journal: %w", err)
		}
		if e.tag == 0 {
			bad++
			continue
		}
		t.damaged += bad
		bad = 0
		if e.damage != "" {
			t.damaged++
		}
		t.good, t.head = e.end, e.h
		if e.tag == tagRecord {
			t.records++
			if k := keyOf(e.body); k.BootID == bootID {
				t.seq = max(t.seq, k.Seq)
			}
		}
	}
}

// key names a record.
type key struct {
	Schema string `json:"schema"`
	BootID string `json:"bootId"`
	Seq    uint64 `json:"seq"`
}

func keyOf(body []byte) key {
	var k key
	if json.Unmarshal(body, &k) != nil {
		return key{}
	}
	return k
}
