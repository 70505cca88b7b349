package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
)

// maxHeader bounds what a segment can hold before its header is synced. A longer one
// without a single good line was not torn by a power loss.
const maxHeader = 4 << 10

// file is what a ring needs of a segment that it writes.
type file interface {
	Write([]byte) (int, error)
	Truncate(int64) error
	Sync() error
	Close() error
}

// opener opens a segment for appending. Tests put faults in here.
type opener func(path string, flag int) (file, error)

func openFile(path string, flag int) (file, error) {
	return os.OpenFile(filepath.Clean(path), flag, 0o600)
}

// ring writes one chain of segments. It is not safe for concurrent use, except that
// the file of [ring.dirty] may be synced beside it.
type ring struct {
	name   string
	dir    string
	budget int64 // bytes of all its segments
	segMax int64 // bytes of one segment
	segs   int   // most segments
	bootID string
	now    func() time.Time
	open   opener
	// makeRoom frees space on a full disk, and returns false if it cannot.
	makeRoom func() bool

	chain    chain
	f        file
	num      uint64    // of the segment that f is
	size     int64     // of f, whole lines only
	partial  bool      // part of a line lies behind size
	records  int       // in f
	head     digest    // of the last line in f
	headSeq  uint64    // number of the last record of this boot; 0: none
	sealed   []segment // oldest first
	unsynced int64     // bytes written since the last sync

	// lines added and not yet written
	buf   []byte
	marks []mark
	tip   digest

	seq     uint64 // highest found at open, of this boot
	torn    int64  // bytes cut at open
	damaged uint64 // lines found damaged at open
	removed uint64 // segments dropped as the oldest
	syncErr uint64 // failed syncs before a rotation, not yet taken
}

// mark is the end of a line in ring.buf.
type mark struct {
	end int
	d   digest
	seq uint64 // of the record
}

// recover opens the ring to go on where it ended: it cuts a torn tail, and starts a
// new segment behind a damaged one, which stays as it is for Verify to show.
func (g *ring) recover() error {
	segs, err := listSegments(g.dir, g.name)
	if err != nil {
		return err
	}
	g.chain = newChain()
	for len(segs) > 0 {
		last := segs[len(segs)-1]
		path := g.path(last.num)
		t, err := scanTail(path, g.bootID)
		if err != nil {
			return err
		}
		if t.good == 0 && last.size > maxHeader {
			t.damaged = max(t.damaged, 1)
		}
		if t.damaged == 0 {
			g.torn += last.size - t.good
		}
		g.damaged += uint64(t.damaged)
		g.num, g.head, g.tip, g.seq = last.num, t.head, t.head, max(g.seq, t.seq)
		if t.good == 0 && t.damaged == 0 {
			// The machine went down while the segment was being made: not even its
			// header arrived.
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("recover journal: %w", err)
			}
			g.num--
			segs = segs[:len(segs)-1]
			continue
		}
		g.sealed = segs[:len(segs)-1]
		if err := g.seqBefore(t.records); err != nil {
			return err
		}
		g.headSeq = g.seq
		return g.reopen(last, t)
	}
	return g.start()
}

// seqBefore looks for the last sequence number in older segments where the newest
// has no record.
func (g *ring) seqBefore(records int) error {
	for i := len(g.sealed) - 1; i >= 0 && records == 0; i-- {
		t, err := scanTail(g.path(g.sealed[i].num), g.bootID)
		if err != nil {
			return err
		}
		records, g.seq = t.records, max(g.seq, t.seq)
	}
	return nil
}

// reopen continues in segment s, or behind it if it is damaged.
func (g *ring) reopen(s segment, t tail) error {
	if t.damaged > 0 {
		g.sealed = append(g.sealed, s)
		return g.start()
	}
	f, err := g.open(g.path(s.num), os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	if s.size > t.good {
		if err := f.Truncate(t.good); err != nil {
			return errors.Join(fmt.Errorf("cut torn tail of %s: %w", g.path(s.num), err), f.Close())
		}
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("open journal: %w", err), f.Close())
	}
	g.f, g.size, g.records = f, t.good, t.records
	g.prune()
	return nil
}

func (g *ring) path(num uint64) string { return filepath.Join(g.dir, segmentName(g.name, num)) }

// start makes segment num+1 the current one, linked to the one before by its header.
func (g *ring) start() error {
	h := header{
		Schema: SegmentSchema, Ring: g.name, Segment: g.num + 1, Prev: g.head.String(),
		BootID: g.bootID, Created: g.now().UTC(),
	}
	body, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("start segment: %w", err)
	}
	d := g.chain.link(g.head, tagSegment, body)
	line := appendLine(nil, d, tagSegment, body)
	f, err := g.create(g.path(g.num+1), line)
	for err != nil && noSpace(err) && g.makeRoom() {
		f, err = g.create(g.path(g.num+1), line)
	}
	if err != nil {
		return fmt.Errorf("start segment: %w", err)
	}
	g.f, g.num, g.size, g.records, g.partial = f, g.num+1, int64(len(line)), 0, false
	g.head, g.tip, g.unsynced = d, d, 0
	g.prune()
	return nil
}

// create makes a segment with its first line, on disk before it returns.
func (g *ring) create(path string, line []byte) (file, error) {
	const flag = os.O_WRONLY | os.O_APPEND | os.O_CREATE | os.O_EXCL
	f, err := g.open(path, flag)
	if errors.Is(err, os.ErrExist) {
		// Left by an attempt of ours that could not be undone: the directory is
		// locked, and no segment in use has a higher number than the current one.
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		f, err = g.open(path, flag)
	}
	if err != nil {
		return nil, err
	}
	_, err = f.Write(line)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = atomicfile.SyncDir(g.dir)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return f, nil
}

// prune removes the oldest segments until a full current one fits the budget.
func (g *ring) prune() {
	total := g.segMax
	for _, s := range g.sealed {
		total += s.size
	}
	for len(g.sealed) > 0 && (total > g.budget || len(g.sealed)+1 > g.segs) {
		total -= g.sealed[0].size
		g.dropOldest()
	}
}

// dropOldest removes the oldest sealed segment, and returns false if there is none
// or it cannot be removed.
func (g *ring) dropOldest() bool {
	if len(g.sealed) == 0 {
		return false
	}
	err := os.Remove(g.path(g.sealed[0].num))
	g.sealed = g.sealed[1:]
	g.removed++
	return err == nil || errors.Is(err, os.ErrNotExist)
}

// rotate seals the current segment and starts the next. On an error the current one
// stays.
func (g *ring) rotate() error {
	old, sealed := g.f, segment{g.num, g.size}
	err := old.Sync() // the next header must not reach the disk before what it refers to
	if err != nil {
		g.syncErr++
	}
	if serr := g.start(); serr != nil {
		return errors.Join(serr, err)
	}
	g.sealed = append(g.sealed, sealed)
	g.prune()
	return errors.Join(err, old.Close())
}

// add appends a record's JSON to the lines to be written. The count of lines lost
// and the error are those of lines that had to be written first.
func (g *ring) add(body []byte, seq uint64) (lost int, err error) {
	n := int64(lineLen(len(body)))
	if g.records+len(g.marks) > 0 && g.size+int64(len(g.buf))+n > g.segMax {
		if lost, err = g.commit(); err == nil && g.records > 0 {
			err = g.rotate()
		}
		if g.size+n > g.segMax && g.records > 0 {
			return lost + 1, err // no new segment: the bound holds, the record does not
		}
	}
	g.tip = g.chain.link(g.tip, tagRecord, body)
	g.buf = appendLine(g.buf, g.tip, tagRecord, body)
	g.marks = append(g.marks, mark{len(g.buf), g.tip, seq})
	return lost, err
}

// commit writes the added lines. Lines that cannot be written are lost; the chain
// goes on behind the last one that was.
func (g *ring) commit() (lost int, err error) {
	for done := 0; len(g.marks) > 0; {
		if err = g.cutPartial(); err == nil {
			var n int
			n, err = g.f.Write(g.buf[done:])
			done = g.settle(done, n)
		}
		if err != nil && !(noSpace(err) && g.makeRoom()) {
			lost = len(g.marks)
			break
		}
	}
	g.buf, g.marks, g.tip = g.buf[:0], g.marks[:0], g.head
	return lost, err
}

// settle takes note of n bytes written of buf[done:], and returns the end of the
// last line that is whole in the file.
func (g *ring) settle(done, n int) int {
	start, k := done, 0
	for k < len(g.marks) && g.marks[k].end <= start+n {
		done, g.head, g.headSeq = g.marks[k].end, g.marks[k].d, g.marks[k].seq
		k++
	}
	g.marks = g.marks[k:]
	g.records += k
	g.size += int64(done - start)
	g.unsynced += int64(done - start)
	g.partial = start+n > done
	return done
}

// cutPartial removes the part of a line that a failed write left.
func (g *ring) cutPartial() error {
	if !g.partial {
		return nil
	}
	if err := g.f.Truncate(g.size); err != nil {
		return err
	}
	g.partial = false
	return nil
}

// dirty returns the current file if something in it is not synced, and counts it as
// synced from now on: what is written meanwhile belongs to the next turn.
func (g *ring) dirty() (file, bool) {
	if g.f == nil || g.unsynced == 0 {
		return nil, false
	}
	g.unsynced = 0
	return g.f, true
}

func (g *ring) takeSyncErrors() uint64 {
	n := g.syncErr
	g.syncErr = 0
	return n
}

func (g *ring) bytes() int64 {
	n := g.size
	for _, s := range g.sealed {
		n += s.size
	}
	return n
}

func (g *ring) close() error {
	if g.f == nil {
		return nil
	}
	_, err := g.commit()
	err = errors.Join(err, g.cutPartial(), g.f.Sync(), g.f.Close())
	g.f = nil
	return err
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
