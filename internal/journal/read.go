package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Causes of loss that [Read] reports, as records of [KindLoss] with Seq 0 that are in
// no file.
const (
	CauseReaderLines    = "reader_damaged_lines"    // lines that could not be read, or whose digest does not follow
	CauseReaderSegments = "reader_missing_segments" // removed before the reader reached them, or by someone
	CauseReaderSchema   = "reader_unknown_schema"   // records of a schema that this program does not know
)

// followEvery is how often a follower looks for more.
const followEvery = 100 * time.Millisecond

// sinceSlack allows for records that were written a little before their segment's
// modification time says, on file systems with coarse times.
const sinceSlack = time.Minute

// ReadOptions says what [Read] delivers. The zero value: everything there is.
type ReadOptions struct {
	Since   time.Time // only records of this time or later
	Follow  bool      // wait for more until ctx ends
	Denials bool      // only the denial ring: denials and losses, which it keeps longer
	// Verified leaves out records whose digest does not follow from the line before.
	Verified bool
}

// Read calls fn for each record in dir, oldest first. It needs no lock, and works
// beside a running agent. fn owns the record. Where something is missing or was
// altered, fn gets a record of [KindLoss] that says so; whether the whole chain
// holds is for [Verify] to say.
//
// It returns nil at the end of the journal or, with Follow, when ctx ends. Errors:
// that of fn, as it is; [os.ErrNotExist] if there is no dir; ctx's without Follow.
func Read(ctx context.Context, dir string, o ReadOptions, fn func(*Record) error) error {
	r := &reader{dir: dir, ring: ringEvents, opt: o, fn: fn}
	if o.Denials {
		r.ring = ringDenials
	}
	defer r.close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		moved, err := r.step(ctx)
		switch {
		case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) && o.Follow:
			return nil
		case err != nil:
			return err
		case moved:
			continue
		case !o.Follow:
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reader walks the segments of one ring.
type reader struct {
	dir  string
	ring string
	opt  ReadOptions
	fn   func(*Record) error

	f     *os.File // nil: none open
	num   uint64   // of f, or of the segment before the next
	lines *segReader
	head  digest // of the last line read; valid if known
	known bool
	last  Record // time and boot of the last record, for losses
}

// step delivers what the current segment has, and opens the next. It returns false
// if there is none yet.
func (r *reader) step(ctx context.Context) (moved bool, err error) {
	if err := r.pump(ctx); err != nil {
		return false, err
	}
	segs, err := listSegments(r.dir, r.ring)
	if err != nil {
		return false, err
	}
	next, ok := r.after(segs)
	if !ok {
		return r.replaced(segs)
	}
	if r.f != nil {
		// The next one is there, so this one gets no more lines; it may have got
		// some since it was read.
		if err := r.pump(ctx); err != nil {
			return false, err
		}
		if r.lines.hi > r.lines.lo || r.lines.skip {
			r.known = false
			if err := r.lose(CauseReaderLines, 1, "the last line of a segment is cut"); err != nil {
				return false, err
			}
		}
		if n := next - r.num - 1; n > 0 {
			r.known = false
			if err := r.lose(CauseReaderSegments, n, "segments were removed before they were read"); err != nil {
				return false, err
			}
		}
	}
	return r.open(next)
}

// after returns the number of the segment to read next.
func (r *reader) after(segs []segment) (uint64, bool) {
	for i, s := range segs {
		if s.num <= r.num {
			continue
		}
		if r.num == 0 && i < len(segs)-1 && !r.opt.Since.IsZero() {
			fi, err := os.Stat(filepath.Join(r.dir, segmentName(r.ring, s.num)))
			if err == nil && fi.ModTime().Before(r.opt.Since.Add(-sinceSlack)) {
				continue
			}
		}
		return s.num, true
	}
	return 0, false
}

// replaced starts again if the current segment is no longer the file of its name:
// the journal was removed and made anew, or a segment without a header was.
func (r *reader) replaced(segs []segment) (bool, error) {
	if r.f == nil || len(segs) == 0 {
		return false, nil
	}
	mine, err := r.f.Stat()
	if err != nil {
		return false, fmt.Errorf("read journal: %w", err)
	}
	named, err := os.Stat(r.f.Name())
	if err == nil && os.SameFile(mine, named) {
		return false, nil
	}
	r.close()
	r.num, r.known = segs[0].num-1, false
	return true, nil
}

func (r *reader) open(num uint64) (bool, error) {
	f, err := os.Open(filepath.Join(r.dir, segmentName(r.ring, num)))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // dropped as the oldest since it was listed: list again
	}
	if err != nil {
		return false, fmt.Errorf("read journal: %w", err)
	}
	r.close()
	r.f, r.num, r.lines = f, num, newSegReader(f)
	return true, nil
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

// pump delivers the whole lines that the current segment has left.
func (r *reader) pump(ctx context.Context) error {
	for r.f != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := r.lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		if err := r.deliver(e); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) deliver(e entry) error {
	damage := e.damage
	if e.tag == tagSegment && damage == "" && r.known {
		var h header
		if json.Unmarshal(e.body, &h) != nil || h.Prev != r.head.String() {
			damage = "segment does not follow from the one before"
		}
	}
	r.head, r.known = e.h, e.tag != 0
	if damage != "" {
		msg := fmt.Sprintf("%s line %d: %s", filepath.Base(r.f.Name()), e.line, damage)
		if err := r.lose(CauseReaderLines, 1, msg); err != nil {
			return err
		}
	}
	if e.tag != tagRecord || damage != "" && r.opt.Verified {
		return nil
	}
	rec, cause := new(Record), CauseReaderLines
	err := json.Unmarshal(e.body, rec)
	if err == nil && rec.Schema != Schema {
		err, cause = fmt.Errorf("schema %.64q", rec.Schema), CauseReaderSchema
	}
	if err != nil {
		return r.lose(cause, 1, fmt.Sprintf("%s line %d: %v", filepath.Base(r.f.Name()), e.line, err))
	}
	r.last.Time, r.last.BootID, r.last.Host = rec.Time, rec.BootID, rec.Host
	if rec.Time.Before(r.opt.Since) {
		return nil
	}
	return r.fn(rec)
}

// lose delivers a record about something that cannot be delivered.
func (r *reader) lose(cause string, n uint64, msg string) error {
	rec := r.last
	rec.Schema, rec.Kind, rec.Message, rec.Lost = Schema, KindLoss, msg, map[string]uint64{cause: n}
	return r.fn(&rec)
}
