package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/ident"
)

// ErrTooLarge is returned when a runtime's answer passes the bounds of this package.
var ErrTooLarge = errors.New("answer is too large")

// errGone is returned by engine.Get for a container that does not exist.
var errGone = errors.New("container is gone")

// engine is one connection to a runtime.
type engine interface {
	// Watch passes the events since the given time to sink until ctx ends or the
	// stream breaks, and calls ready once it is sure to miss none (as far as the
	// runtime lets it know).
	Watch(ctx context.Context, since time.Time, ready func(), sink func(event)) error
	// List returns all containers.
	List(ctx context.Context) ([]Container, error)
	// Get returns one container as fast as the runtime allows, or errGone.
	Get(ctx context.Context, r ref) (Container, error)
}

// detailer is an engine for which some facts need slow questions. Detail is called
// beside the loop, so that a runtime which blocks on one container delays no other.
type detailer interface {
	Detail(ctx context.Context, c Container) (Container, error)
}

// dialer opens a connection. version is what Status shows; closeFn releases it.
type dialer func(ctx context.Context) (eng engine, version string, closeFn func(), err error)

// ref names a container to its runtime.
type ref struct {
	scope string // containerd namespace
	id    ident.ContainerID
}

type eventKind uint8

const (
	evCreate eventKind = iota + 1
	evStart
	evStop
	evRename
	evUpdate
	evDestroy
)

var causes = [...]string{evCreate: "create", evStart: "start", evStop: "stop", evRename: "rename", evUpdate: "update", evDestroy: "destroy"}

// event is a runtime's event cut to what is used, so that a full queue is small.
type event struct {
	kind        eventKind
	ref         ref
	name, image string // where the event tells them
	at          time.Time
}

// timings of a follower; tests shorten them.
type timings struct {
	minBackoff, maxBackoff time.Duration // between connections
	firstRelist            time.Duration // after the first listing: covers runtimes that do not say when a subscription stands
	relist                 time.Duration // between later listings: covers events the runtime drops without a word
	soon                   time.Duration // before the listing that follows a failed lookup
	list, get, detail      time.Duration // time limits of one question
}

// The ceiling of the back-off is low on purpose: containers can start as soon as
// the runtime is back, and trying a local socket costs microseconds.
var defaultTimings = timings{
	minBackoff: 50 * time.Millisecond, maxBackoff: 250 * time.Millisecond,
	firstRelist: 2 * time.Second, relist: 5 * time.Minute, soon: time.Second,
	list: 20 * time.Second, get: 2 * time.Second, detail: 5 * time.Second,
}

// follower is the part of a Source that is the same for all runtimes. Its loop
// owns everything but the status.
type follower struct {
	runtime string
	dial    dialer
	log     *slog.Logger
	t       timings

	mu sync.Mutex // guards st
	st Status
}

func newFollower(runtime, endpoint string, log *slog.Logger, dial dialer) *follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &follower{
		runtime: runtime, dial: dial, t: defaultTimings,
		log: log.With("runtime", runtime, "endpoint", endpoint),
		st:  Status{Runtime: runtime, Endpoint: endpoint, Since: time.Now()},
	}
}

func (f *follower) status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st
}

func (f *follower) count(fn func(*Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(&f.st)
}

func (f *follower) run(ctx context.Context, emit func(Change)) error {
	backoff := f.t.minBackoff
	told := false
	for {
		begun := time.Now()
		connected, err := f.session(ctx, emit)
		if ctx.Err() != nil {
			f.disconnected(nil)
			return nil //nolint:nilerr // ctx has ended, which is how Run is stopped: the error is its echo
		}
		f.disconnected(err)
		// One word per loss, not one per attempt: the status has the latest error.
		if connected || !told {
			f.log.Warn("container runtime is not connected", "error", err)
			emit(Change{Kind: Disconnected, Runtime: f.runtime, Err: err})
			told = true
		}
		if connected && time.Since(begun) > f.t.maxBackoff {
			backoff = f.t.minBackoff
		}
		if !sleep(ctx, backoff/2+rand.N(backoff/2+1)) {
			return nil
		}
		backoff = min(2*backoff, f.t.maxBackoff)
	}
}

func (f *follower) disconnected(err error) {
	f.count(func(s *Status) {
		if s.Connected {
			s.Connected, s.Since = false, time.Now()
		}
		s.Err = err
	})
}

func (f *follower) connected(version string, err error) {
	f.count(func(s *Status) {
		if s.Version != "" {
			s.Reconnects++
		}
		s.Connected, s.Since, s.Err, s.Version = true, time.Now(), err, version
	})
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// session is one connection, from subscription to its end.
type session struct {
	f    *follower
	eng  engine
	emit func(Change)

	queue    chan event
	overflow atomic.Bool
	relist   *time.Timer

	known    map[ident.ContainerID]known
	listedAt time.Time // events up to here may be older than the listing
	gen      uint64

	ask     chan detail // to the detail worker, nil without one
	answer  chan detail
	pending []detail // questions not yet taken by the worker
}

// known is the last word on a container. gen grows with every change of it, so
// that a late detail, asked for before the last change, is recognised.
type known struct {
	c   Container
	gen uint64
}

type detail struct {
	c   Container
	gen uint64
	err error
}

// session runs one connection. connected reports whether it came to a first listing.
func (f *follower) session(ctx context.Context, emit func(Change)) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	eng, version, closeFn, err := f.dial(ctx)
	if err != nil {
		cancel()
		return false, err
	}
	defer closeFn()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	s := &session{
		f: f, eng: eng, emit: emit,
		queue: make(chan event, maxEvents), relist: time.NewTimer(f.t.firstRelist),
		known: make(map[ident.ContainerID]known),
	}
	defer s.relist.Stop()
	if d, ok := eng.(detailer); ok {
		s.ask, s.answer = make(chan detail), make(chan detail)
		wg.Go(func() { s.work(ctx, d) })
	}

	// Subscribe first, list second: what happens in between waits in the queue. The
	// second of slack costs a few repeated questions, and covers a clock that is set back.
	since := time.Now().Add(-time.Second)
	ready, ended := make(chan struct{}), make(chan error, 1)
	wg.Go(func() { ended <- eng.Watch(ctx, since, sync.OnceFunc(func() { close(ready) }), s.enqueue) })
	select {
	case <-ready:
	case err := <-ended:
		return false, fmt.Errorf("subscribe to events: %w", err)
	case <-time.After(f.t.list):
		return false, errors.New("subscribe to events: no answer in time")
	}
	err = s.resync(ctx, true)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		return false, err
	}
	f.connected(version, err)
	f.log.Info("container runtime connected", "version", version, "containers", len(s.known))
	return true, s.loop(ctx, ended)
}

func (s *session) enqueue(ev event) {
	select {
	case s.queue <- ev:
	default:
		s.overflow.Store(true)
		s.f.count(func(st *Status) { st.EventsDropped++ })
	}
}

func (s *session) loop(ctx context.Context, ended <-chan error) error {
	for {
		var ask chan<- detail
		var next detail
		if len(s.pending) > 0 {
			ask, next = s.ask, s.pending[0]
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("event stream: %w", err)
		case ev := <-s.queue:
			s.handle(ctx, ev)
			if len(s.queue) > 0 || !s.overflow.Swap(false) {
				continue
			}
			if err := s.resync(ctx, false); err != nil && !errors.Is(err, ErrTooLarge) {
				return err
			}
		case ask <- next:
			s.pending = s.pending[1:]
		case d := <-s.answer:
			s.merge(d)
		case <-s.relist.C:
			if err := s.resync(ctx, false); err != nil && !errors.Is(err, ErrTooLarge) {
				return err
			}
		}
	}
}

// resync lists everything and emits it if it is the first listing of the
// connection or differs from what is known.
func (s *session) resync(ctx context.Context, first bool) error {
	if !first {
		s.relist.Reset(s.f.t.relist)
	}
	ctx, cancel := context.WithTimeout(ctx, s.f.t.list)
	defer cancel()
	list, err := s.eng.List(ctx)
	if err != nil {
		err = fmt.Errorf("list containers: %w", err)
		s.f.count(func(st *Status) { st.Err = err })
		return err
	}
	s.listedAt = time.Now()
	next := make(map[ident.ContainerID]known, len(list))
	changed := first
	for i := range list {
		c := bound(list[i])
		old, ok := s.known[c.ID]
		list[i] = c
		if ok && old.c.Equal(c) {
			next[c.ID] = old
			continue
		}
		changed = true
		s.gen++
		next[c.ID] = known{c: c, gen: s.gen}
		s.f.count(func(st *Status) { st.FieldsCut += uint64(c.Cut) })
	}
	changed = changed || len(next) != len(s.known)
	s.known = next
	s.pending = nil
	for _, k := range next {
		s.wantDetail(k)
	}
	s.f.count(func(st *Status) { st.Err = nil })
	if !changed {
		return nil
	}
	slices.SortFunc(list, func(a, b Container) int { return strings.Compare(string(a.ID), string(b.ID)) })
	s.f.count(func(st *Status) { st.Resyncs++ })
	s.emit(Change{Kind: Resync, Runtime: s.f.runtime, Cause: "list", Containers: list})
	return nil
}

func (s *session) handle(ctx context.Context, ev event) {
	old, ok := s.known[ev.ref.id]
	if ev.kind == evDestroy {
		s.removed(ev.ref.id, causes[ev.kind]) // IDs are never used again, so this holds however old the event is
		return
	}
	// What the event says is the truth only if it is younger than the listing.
	if !ok || !ev.at.After(s.listedAt) {
		s.refresh(ctx, ev)
		return
	}
	c := old.c
	switch ev.kind {
	case evStart:
		c.State = StateRunning
	case evStop:
		c.State = StateStopped
	case evRename:
		if ev.name == "" {
			s.refresh(ctx, ev)
			return
		}
		c.Name = ev.name
	default:
		s.refresh(ctx, ev)
		return
	}
	s.put(c, causes[ev.kind])
}

// refresh asks the runtime about one container and emits what it says.
func (s *session) refresh(ctx context.Context, ev event) {
	ctx, cancel := context.WithTimeout(ctx, s.f.t.get)
	defer cancel()
	c, err := s.eng.Get(ctx, ev.ref)
	_, ok := s.known[ev.ref.id]
	switch {
	case err == nil:
		s.put(c, causes[ev.kind])
		return
	case errors.Is(err, errGone):
		if ok {
			s.removed(ev.ref.id, causes[ev.kind])
		}
		return
	}
	s.f.count(func(st *Status) { st.LookupsFailed++ })
	s.f.log.Warn("container lookup failed", "container_id", ev.ref.id, "error", err)
	if !ok && ev.kind == evCreate {
		// Better a container with its name and image only than none before it starts.
		s.put(Container{
			ID: ev.ref.id, Runtime: s.f.runtime, State: StateCreated, Created: ev.at,
			Name: ev.name, Image: ev.image, Partial: true,
		}, causes[ev.kind])
	}
	s.relist.Reset(s.f.t.soon)
}

func (s *session) put(c Container, cause string) {
	c = bound(c)
	old, ok := s.known[c.ID]
	if ok && old.c.Equal(c) {
		return
	}
	s.gen++
	k := known{c: c, gen: s.gen}
	s.known[c.ID] = k
	s.f.count(func(st *Status) { st.FieldsCut += uint64(c.Cut) })
	s.emit(Change{Kind: Upsert, Runtime: s.f.runtime, Cause: cause, Container: c})
	s.wantDetail(k)
}

func (s *session) removed(id ident.ContainerID, cause string) {
	c := s.known[id].c
	delete(s.known, id)
	c.ID, c.Runtime, c.State = id, s.f.runtime, StateRemoved
	s.emit(Change{Kind: Removed, Runtime: s.f.runtime, Cause: cause, Container: c})
}

func (s *session) wantDetail(k known) {
	if s.ask != nil && k.c.Partial {
		s.pending = append(s.pending, detail{c: k.c, gen: k.gen})
	}
}

// merge takes in what the detail worker found out.
func (s *session) merge(d detail) {
	k, ok := s.known[d.c.ID]
	switch {
	case d.err != nil && !errors.Is(d.err, errGone):
		s.f.count(func(st *Status) { st.LookupsFailed++ })
		s.f.log.Warn("container lookup failed", "container_id", d.c.ID, "error", d.err)
	case !ok || k.gen != d.gen:
		s.f.count(func(st *Status) { st.DetailsSkipped++ })
	case d.err == nil:
		d.c = bound(d.c)
		if k.c.Equal(d.c) {
			return
		}
		s.gen++
		s.known[d.c.ID] = known{c: d.c, gen: s.gen}
		s.emit(Change{Kind: Upsert, Runtime: s.f.runtime, Cause: "detail", Container: d.c})
	}
}

// work answers questions for details, one at a time, until ctx ends.
func (s *session) work(ctx context.Context, eng detailer) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-s.ask:
			dctx, cancel := context.WithTimeout(ctx, s.f.t.detail)
			id := d.c.ID
			d.c, d.err = eng.Detail(dctx, d.c)
			d.c.ID = id
			cancel()
			select {
			case <-ctx.Done():
				return
			case s.answer <- d:
			}
		}
	}
}
