// Package journal keeps the record of what was decided: the event schema, and a
// local journal that is append-only, hash-chained and bounded.
//
// A [Journal] owns one directory: the newest records in numbered segments of JSON
// lines, each line carrying the digest of all lines before it ([Verify] walks that
// chain). Denials are written a second time, into a ring of their own, so that other
// records cannot push them out. It survives a power loss up to its last flush; what
// is lost by a full queue, a full disk or an error is counted by cause, and the
// count itself becomes a record.
//
// It never blocks who appends, never decides, and never sends anything anywhere. The
// chain has no key: it shows damage and clumsy edits, and edits by root only to who
// noted a head digest elsewhere. Row core: it imports the vocabulary and the
// standard library only.
package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/hostinfo"
)

// Errors that callers branch on.
var (
	// ErrLocked: another journal has the directory open for writing.
	ErrLocked = errors.New("journal is in use by another process")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrRunning: Run was called twice.
	ErrRunning = errors.New("journal is running already")
)

// Causes of loss: keys of [Stats.Dropped] and, without CauseDenialCopy and
// CauseClosed, of [Record.Lost] in records that the journal writes itself.
const (
	CauseQueueFull  = "journal_queue_full"  // records came faster than the disk took them
	CauseDiskFull   = "journal_disk_full"   // no space, and no older segment left to drop
	CauseWriteError = "journal_write_error" // the file system refused
	CauseEncode     = "journal_encode"      // the record has no JSON form, such as a year beyond 9999
	CauseTornTail   = "journal_torn_tail"   // bytes, not records, cut at Open after a power loss
	CauseDenialCopy = "journal_denial_copy" // only the copy in the denial ring is missing
	CauseClosed     = "journal_closed"      // appended after Close
)

// Options configures [Open]. Only Dir is required.
type Options struct {
	Dir          string           // made with mode 0700 if missing
	MaxBytes     int64            // bound of all segments; default 256 MiB. A quarter is the denial ring's
	SegmentBytes int64            // of one segment; default 8 MiB, at most a quarter of a ring's share
	MaxSegments  int              // of one ring; default 1024
	FlushEvery   time.Duration    // longest wait before written records are synced; default 100 ms
	FlushBytes   int              // bytes that are synced sooner; default 256 KiB
	Queue        int              // records waiting to be written; default 8192. A quarter is kept for denials
	BootID       string           // default: this machine's
	Host         string           // default: this machine's hostname
	Now          func() time.Time // default: time.Now
	// Tap sees every record that has got its number, also those that are lost after that. It is
	// called by who appends, so it must not wait; it must not change the record. nil: nobody.
	Tap  func(*Record)
	open opener
}

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return errors.New("no directory given")
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 8 << 20
	}
	o.SegmentBytes = min(o.SegmentBytes, o.MaxBytes/16)
	if o.MaxSegments <= 1 {
		o.MaxSegments = 1024
	}
	if o.FlushEvery <= 0 {
		o.FlushEvery = 100 * time.Millisecond
	}
	if o.FlushBytes <= 0 {
		o.FlushBytes = 256 << 10
	}
	if o.Queue <= 0 {
		o.Queue = 8192
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.open == nil {
		o.open = openFile
	}
	var err error
	if o.BootID == "" {
		if o.BootID, err = (hostinfo.Host{}).BootID(); err != nil {
			return err
		}
	}
	if o.Host == "" {
		o.Host, err = hostinfo.Host{}.Hostname()
	}
	return err
}

// Stats is what a journal did since [Open].
type Stats struct {
	Seq         uint64            `json:"seq"`      // of the last record appended
	Appended    uint64            `json:"appended"` // calls of Append
	Written     uint64            `json:"written"`  // records in the event ring
	Dropped     map[string]uint64 `json:"dropped"`  // by cause; never null in JSON
	Queued      int               `json:"queued"`   // waiting now
	QueuedMax   int               `json:"queuedMax"`
	Bytes       int64             `json:"bytes"` // of all segments
	Syncs       uint64            `json:"syncs"`
	SyncErrors  uint64            `json:"syncErrors"`      // written records that may not survive a power loss
	Removed     uint64            `json:"segmentsRemoved"` // oldest segments, by the bound or a full disk
	TornBytes   int64             `json:"tornBytes"`       // cut at Open
	Damaged     uint64            `json:"damagedLines"`    // found at Open in the newest segments, and left there
	EventsHead  string            `json:"eventsHead"`      // digest of the last line written; note it elsewhere
	DenialsHead string            `json:"denialsHead"`     // to prove later that the chain's end was not cut
	LastError   string            `json:"lastError,omitempty"`
}

// Journal writes records. Make one with [Open], run it with [Journal.Run], end it
// with [Journal.Close]. All methods are safe for concurrent use.
type Journal struct {
	opt  Options
	lock *os.File

	wake    chan struct{} // something is queued, or a loss is to be reported
	dirty   chan struct{} // something was written
	big     chan struct{} // more than FlushBytes were
	closing chan struct{} // closed by Close

	// wmu guards the writer's fields, and is held while writing. Where both locks
	// are taken, wmu is first.
	wmu      sync.Mutex
	events   *ring
	denials  *ring
	enc      *Encoder
	batch    []*Record
	lastLoss time.Time // when a loss was last written
	syncing  bool      // syncLoop is at it

	// mu guards the fields below, and is never held across I/O.
	mu      sync.Mutex
	queue   *queue
	stats   Stats
	pending map[string]uint64 // losses not yet written as a record
	closed  bool
	running bool
}

// Open opens the journal in o.Dir for writing, and makes it if it is missing.
//
// Errors: [ErrLocked] if another process has it open; *[os.PathError]. A torn tail
// or damage is no error: see [Stats].
func Open(o Options) (*Journal, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", o.Dir, err)
	}
	j := &Journal{
		opt: o, lock: lock,
		wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1), big: make(chan struct{}, 1),
		closing: make(chan struct{}),
		enc:     NewEncoder(), batch: make([]*Record, 0, 256),
		queue: newQueue(o.Queue), pending: map[string]uint64{},
	}
	j.stats.Dropped = map[string]uint64{}
	j.denials = j.newRing(ringDenials, o.MaxBytes/4)
	j.events = j.newRing(ringEvents, o.MaxBytes-o.MaxBytes/4)
	// On a full disk the oldest ordinary records go first. The denials' history is
	// given up only where a denial could not be written otherwise.
	j.events.makeRoom = j.events.dropOldest
	j.denials.makeRoom = func() bool { return j.events.dropOldest() || j.denials.dropOldest() }
	if err := errors.Join(j.events.recover(), j.denials.recover()); err != nil {
		return nil, errors.Join(err, j.events.close(), j.denials.close(), lock.Close())
	}
	j.stats.Seq = max(j.events.seq, j.denials.seq)
	j.stats.TornBytes = j.events.torn + j.denials.torn
	j.stats.Damaged = j.events.damaged + j.denials.damaged
	if n := j.stats.TornBytes; n > 0 {
		j.lose(CauseTornTail, uint64(n))
	}
	j.publish(nil)
	return j, nil
}

func (j *Journal) newRing(name string, budget int64) *ring {
	return &ring{
		name: name, dir: j.opt.Dir, budget: budget, segMax: j.opt.SegmentBytes,
		segs: j.opt.MaxSegments, bootID: j.opt.BootID, now: j.opt.Now, open: j.opt.open,
	}
}

// lockDir takes the right to write in dir, which the kernel gives back when the
// process ends in whatever way.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Append hands r to the journal and returns at once, before it is written. It fills
// in Schema and Seq, and BootID, Host and Time where they are empty. From then on r
// belongs to the journal: it may be read, never changed.
//
// It returns false if r was dropped; the loss is counted. A dropped record uses up
// its sequence number, so a gap in the numbers of a boot means exactly one lost
// record each.
func (j *Journal) Append(r *Record) bool {
	r.Schema = Schema
	if r.BootID == "" {
		r.BootID = j.opt.BootID
	}
	if r.Host == "" {
		r.Host = j.opt.Host
	}
	if r.Time.IsZero() {
		r.Time = j.opt.Now()
	}
	r.Time = r.Time.UTC()

	j.mu.Lock()
	j.stats.Seq++
	j.stats.Appended++
	r.Seq = j.stats.Seq
	ok := false
	switch {
	case j.closed:
		j.stats.Dropped[CauseClosed]++
	case j.queue.push(r):
		ok = true
		j.stats.QueuedMax = max(j.stats.QueuedMax, j.queue.n)
	default:
		j.loseLocked(CauseQueueFull, 1)
	}
	j.mu.Unlock()
	poke(j.wake)
	if j.opt.Tap != nil {
		j.opt.Tap(r)
	}
	return ok
}

// poke wakes the receiver of c unless it is awake anyway.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (j *Journal) lose(cause string, n uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.loseLocked(cause, n)
}

func (j *Journal) loseLocked(cause string, n uint64) {
	j.stats.Dropped[cause] += n
	if cause != CauseDenialCopy {
		j.pending[cause] += n
	}
}

// Stats returns what the journal did so far. It never waits for the disk.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Dropped = maps.Clone(s.Dropped)
	s.Queued = j.queue.n
	return s
}

// Flush writes and syncs what was appended before the call.
//
// Errors: [ErrClosed]; else the first of each kind that kept a record or a sync from
// succeeding during this call. Records lost earlier are in [Stats] only.
func (j *Journal) Flush() error {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	return j.flush()
}

// flush is Flush with j.wmu held.
func (j *Journal) flush() error {
	if j.events.f == nil {
		return ErrClosed
	}
	err := j.drain(true)
	for _, g := range []*ring{j.events, j.denials} {
		// A sync under way may have begun before the last line was written, and
		// says nothing until it ends.
		if _, ok := g.dirty(); ok || j.syncing {
			err = errors.Join(err, j.synced(g.f.Sync()))
		}
	}
	return err
}

// Close flushes, closes the files and gives the directory free. Run returns soon
// after. Close is idempotent.
func (j *Journal) Close() error {
	j.mu.Lock()
	again := j.closed
	j.closed = true
	j.mu.Unlock()
	if again {
		return nil
	}
	close(j.closing)
	err := j.Flush()
	j.wmu.Lock()
	defer j.wmu.Unlock()
	return errors.Join(err, j.events.close(), j.denials.close(), j.lock.Close())
}

// Run writes what is appended until ctx ends or the journal is closed, flushes, and
// returns nil. It owns the writer: no goroutine of j is left when it returns. Trouble
// with the disk does not end it: see [Stats].
//
// Errors: [ErrRunning].
func (j *Journal) Run(ctx context.Context) error {
	j.mu.Lock()
	again := j.running
	j.running = true
	j.mu.Unlock()
	if again {
		return ErrRunning
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { j.syncLoop(ctx) })
	j.writeLoop(ctx)
	cancel()
	wg.Wait()
	j.mu.Lock()
	j.running = false
	j.mu.Unlock()
	if err := j.Flush(); err != nil && !errors.Is(err, ErrClosed) {
		j.publishError(err)
	}
	return nil
}
