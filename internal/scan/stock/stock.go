// Package stock keeps what scanning has told of the images of a host: it has each image
// read once, keeps the inventory, matches it, and matches it again when the vulnerability
// database says something new of a package that it holds, without reading the image again.
//
// It owns the folder of inventories, the queue, and the mapping of the database. It reads
// no image: who makes a [Keeper] gives the function that has the sandboxed scanner do that.
// What it has written itself it takes for hostile when it reads it back. It decides nothing.
// Row: adapter.
package stock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Options says where a keeper keeps what, and whom it asks. Zero values have the defaults
// that the fields name.
type Options struct {
	Dir string // of inventories; required
	DB  string // file of the vulnerability database; required
	// Scan has one image read, by its ID; idle: only when nothing else wants the processor. It returns
	// [ErrGone] of one that this host has no more. nil: no image is ever scanned.
	Scan func(ctx context.Context, imageID string, idle bool) (*inventory.Result, error)
	// Scanner is the version of what Scan has images read by: an image is scanned again whose inventory
	// another one made. "": that does not matter.
	Scanner string
	// MayIdle tells whether a scan that nobody waits for may begin now; it is asked once for each, and
	// again at the next poll. nil: it may.
	MayIdle func() bool
	// MaxAge tells from which age on a scan is of no use to anybody; 0: never. Images that are in use or
	// wanted are scanned again when theirs is half as old. nil: never.
	MaxAge func() time.Duration
	// InUse tells whether a container of the image runs.
	InUse func(imageID string) bool
	// Report is told of findings that came up on an image which had been matched before, once for
	// each image and vulnerability. It must not call the keeper.
	Report func(imageID string, fresh []policy.ImageFinding)
	// Changed is told of images whose state is another now, "" for all. It must not wait for the keeper.
	Changed func(imageID string)

	// Timed is told how long a scan took that was not put off. It must not call the keeper.
	Timed func(t Timing)

	MaxImages int           // inventories that are kept; 1000
	Poll      time.Duration // between two looks at the database; 5 s
	Now       func() time.Time
	Health    *health.Registry
	Log       *slog.Logger
}

// Timing is how a scan went.
type Timing struct {
	ID               string
	Start, Read, End time.Time // Read: what is in the image is known, and is matched
	Err              error
}

// State is what is known of one image.
type State struct {
	ID string
	// Manifest is the digest of the manifest that was scanned; empty: it has none, or was not scanned.
	Manifest string
	At       time.Time // of the inventory; zero: there is none
	Err      string    // why the last scan failed; "" if it did not
	ErrAt    time.Time
	Queued   bool
	OS       string
	Count    int // of packages
	Matched  time.Time
	// Database is of which time the data are that Findings are by; zero: not matched.
	Database time.Time
	// Unmatched is as in [policy.ImageScan].
	Unmatched string
	Complete  bool
	Notes     []inventory.Note
	Findings  []policy.ImageFinding
	// Secrets and Unsearched are as in [policy.ImageScan].
	Secrets    []policy.ImageSecret
	Unsearched string

	renew  bool   // it is queued though it was scanned
	sought string // the manifest that it was queued for
	wanted bool   // by [Keeper.Want], since it was scanned
	gone   time.Time
	by     string // the scanner that made the inventory
}

// Other reports whether another manifest than the one that is here now was scanned.
func (s *State) Other(manifest string) bool {
	return manifest != "" && s.Manifest != "" && s.Manifest != manifest
}

// Scan returns the state as policies ask for it.
func (s *State) Scan() policy.ImageScan {
	return policy.ImageScan{At: s.At, Err: s.Err, Database: s.Database, Unmatched: s.Unmatched, Complete: s.Complete, Findings: s.Findings, Secrets: s.Secrets, Unsearched: s.Unsearched}
}

// Bounds.
const (
	maxQueue    = 10_000
	maxFindings = 20_000 // kept of one image, the worst; more make it incomplete
	maxNotes    = 100
	// retryAfter is when a scan that failed is tried again, and urgentRetry that for somebody
	// who waits.
	retryAfter  = 10 * time.Minute
	urgentRetry = time.Minute
	// renewRetry is when a scan that failed is tried again of an image that has an inventory, which
	// may have gone from the host; sooner where its age counts.
	renewRetry = 6 * time.Hour
)

// ErrNoScanner says that this host scans no images.
var ErrNoScanner = errors.New("no image is scanned on this host: there is no belay-scanner beside the agent; install it, or name it with --scanner")

// ErrGone says that the host has no such image, or not any more. What is known of it is kept, as long as
// there is room: it may come back.
var ErrGone = errors.New("no store of this host that can be read has the image")

var imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Keeper keeps the states. Make one with [Open]; all methods but Run are safe for concurrent
// use.
type Keeper struct {
	o Options

	// mu guards what follows.
	mu      sync.Mutex
	states  map[string]*State
	keys    map[string][]int32 // of an image, in names
	names   map[vulndb.Key]int32
	first   map[string]int64 // vulnerability to Unix time of its first sight here
	dirty   bool             // first is not on the disk
	lost    bool             // first could not be read: nothing has a grace
	unused  string           // why no database is in use where there is one
	built   time.Time        // when the last database that was opened was compiled
	queue   [5][]string      // urgent; in use, others; and again for their age or the scanner: in use, others
	waiting map[string]chan struct{}
	cancel  context.CancelCauseFunc // of the scan that runs and may be put off; nil: none
	wake    chan struct{}

	ready atomic.Bool // what was stored has been matched, if there is a database

	// Of Run's goroutine alone.
	db     *vulndb.DB
	dbFile os.FileInfo
	dbErr  string // why a database was not used, as it was told last
	prints map[int32]uint64
	putOff map[string]bool
}

// Open reads the folder. Inventories that are damaged are removed and counted: their images
// are scanned again.
func Open(o Options) (*Keeper, error) {
	o.MaxImages = cmp.Or(o.MaxImages, 1000)
	o.Poll = cmp.Or(o.Poll, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxAge == nil {
		o.MaxAge = func() time.Duration { return 0 }
	}
	if o.InUse == nil {
		o.InUse = func(string) bool { return false }
	}
	k := &Keeper{
		o: o, states: map[string]*State{}, keys: map[string][]int32{}, names: map[vulndb.Key]int32{}, first: map[string]int64{},
		waiting: map[string]chan struct{}{}, wake: make(chan struct{}, 1), prints: map[int32]uint64{}, putOff: map[string]bool{},
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of inventories: %w", err)
	}
	if err := k.readFirst(); err != nil {
		k.lost = true
		o.Health.Counter("first_seen_unreadable").Add(1)
		o.Log.Error("when vulnerabilities were first seen is lost: no grace period holds for those that are known", attr.Error, err.Error())
	}
	return k, k.recall()
}

// Ready tells whether what was stored has been matched since the start.
func (k *Keeper) Ready() bool { return k.ready.Load() }

// Built is when the last database that was opened was compiled; zero: there was none. A clock before that is behind.
func (k *Keeper) Built() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.built
}

// now is the least that the time can be; behind says that the clock is behind that.
func (k *Keeper) now() (at time.Time, behind bool) {
	at, built := k.o.Now(), k.Built()
	if at.Before(built) {
		return built, true
	}
	return at, false
}

// State returns what is known of an image; false if that is nothing at all.
func (k *Keeper) State(id string) (State, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.states[id]
	if s == nil {
		return State{}, false
	}
	out := *s
	if out.Database.IsZero() {
		out.Unmatched = cmp.Or(k.unused, out.Unmatched)
	}
	return out, true
}

// Inventory reads the inventory of an image back.
//
// Errors: those of files; one that is damaged.
func (k *Keeper) Inventory(id string) (*inventory.Result, error) {
	if !imageID.MatchString(id) {
		return nil, fmt.Errorf("image %.80q has no inventory", id)
	}
	_, res, err := k.read(id)
	return res, err
}

// List returns all states, ordered by ID.
func (k *Keeper) List() []State {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]State, 0, len(k.states))
	for _, s := range k.states {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b State) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

var errPutOff = errors.New("put off for a scan that somebody waits for")

// Ensure has an image scanned now, also one that was before, and waits for that. A scan in the background that runs
// meanwhile is put off, once.
//
// Errors: [ErrNoScanner]; that of the scan; that of ctx.
func (k *Keeper) Ensure(ctx context.Context, id string) error {
	if k.o.Scan == nil {
		return ErrNoScanner
	}
	k.mu.Lock()
	done := k.waiting[id]
	if done == nil {
		if k.enqueue(id, 0, urgentRetry, true) {
			done = make(chan struct{})
			k.waiting[id] = done
			if k.cancel != nil {
				k.cancel(errPutOff)
			}
		}
	}
	k.mu.Unlock()
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch s, ok := k.State(id); {
	case ok && !s.At.IsZero():
		return nil
	case ok && s.Err != "":
		return errors.New(s.Err)
	}
	return fmt.Errorf("image %.80q was not scanned", id)
}

// Run scans and matches until ctx ends, then returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.closeDB()
	t := time.NewTicker(k.o.Poll)
	defer t.Stop()
	k.reload(ctx)
	k.renewOld()
	k.ready.Store(true)
	k.changed("")
	for ctx.Err() == nil {
		select {
		case <-t.C: // also between scans: they may take hours, one after the other
			k.reload(ctx)
			k.renewOld()
		default:
		}
		if k.scanNext(ctx, len(k.queue)) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-t.C:
			k.reload(ctx)
			k.renewOld()
		}
	}
	k.abandon()
	return nil
}

// scanNext scans the image that is next, of that many queues; false: there is none.
func (k *Keeper) scanNext(ctx context.Context, queues int) bool {
	if ctx.Err() != nil {
		return false
	}
	id, level, ok := k.next(queues)
	if ok {
		k.scan(ctx, id, level)
	}
	return ok
}

// scan has one image read, and keeps and matches what is in it.
func (k *Keeper) scan(ctx context.Context, id string, level int) {
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k.mu.Lock()
	if level > 0 && !k.putOff[id] {
		k.cancel = cancel
		if len(k.queue[0]) > 0 { // it came between
			cancel(errPutOff)
		}
	}
	k.mu.Unlock()
	t := Timing{ID: id, Start: time.Now()}
	res, err := k.o.Scan(sctx, id, level > 0)
	t.Read = time.Now()
	k.mu.Lock()
	k.cancel = nil
	k.mu.Unlock()
	if err != nil && errors.Is(context.Cause(sctx), errPutOff) {
		k.putOff[id] = true
		k.mu.Lock()
		k.queue[level] = slices.Insert(k.queue[level], 0, id)
		if s := k.states[id]; s != nil {
			s.renew = !s.At.IsZero()
		}
		k.mu.Unlock()
		return
	}
	delete(k.putOff, id)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = k.keep(ctx, id, res)
	}
	if t.End, t.Err = time.Now(), err; k.o.Timed != nil {
		k.o.Timed(t)
	}
	left := level > levelAgain && errors.Is(err, ErrGone) && !k.o.InUse(id)
	k.mu.Lock()
	s := k.states[id]
	if s == nil {
		s = &State{ID: id}
		k.states[id] = s
	}
	s.Queued = s.renew // meanwhile another platform came
	s.wanted, s.gone = false, time.Time{}
	if left {
		s.gone = k.o.Now() // nobody misses it
	} else if err != nil {
		s.Err, s.ErrAt, s.sought = short(err.Error()), k.o.Now(), ""
		k.o.Health.Counter("scans_failed").Add(1)
		k.o.Log.Warn("an image could not be scanned", attr.ImageDigest, id, attr.Error, s.Err)
	} else {
		s.Err, s.ErrAt = "", time.Time{}
		k.o.Health.Counter("scans").Add(1)
	}
	if c := k.waiting[id]; c != nil {
		close(c)
		delete(k.waiting, id)
	}
	k.mu.Unlock()
	k.changed(id)
}

func (k *Keeper) changed(id string) {
	if k.o.Changed != nil {
		k.o.Changed(id)
	}
}

// short bounds a text that may come from a process which has read hostile bytes.
func short(s string) string { return s[:min(len(s), 1024)] }
