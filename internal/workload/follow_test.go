package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/ident"
)

// fakeEngine is an engine whose listing, answers and events the test sets.
type fakeEngine struct {
	events chan event

	mu     sync.Mutex // guards the fields below
	list   []Container
	get    map[ident.ContainerID]Container
	getErr error
	err    error
	lists  int
}

func newFakeEngine(list ...Container) *fakeEngine {
	return &fakeEngine{events: make(chan event), list: list, get: map[ident.ContainerID]Container{}}
}

func (e *fakeEngine) Watch(ctx context.Context, _ time.Time, ready func(), sink func(event)) error {
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-e.events:
			if !ok {
				return errors.New("stream broke")
			}
			sink(ev)
		}
	}
}

func (e *fakeEngine) List(context.Context) ([]Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lists++
	return append([]Container(nil), e.list...), e.err
}

func (e *fakeEngine) Get(_ context.Context, r ref) (Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.getErr != nil {
		return Container{}, e.getErr
	}
	c, ok := e.get[r.id]
	if !ok {
		return Container{}, errGone
	}
	return c, nil
}

func (e *fakeEngine) set(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
}

// fakeSource follows fake engines, one a connection.
type fakeSource struct{ f *follower }

func (s fakeSource) Run(ctx context.Context, emit func(Change)) error { return s.f.run(ctx, emit) }
func (s fakeSource) Status() Status                                   { return s.f.status() }

func followFake(dial dialer) fakeSource {
	f := newFollower(RuntimeDocker, "fake", nil, dial)
	f.t.minBackoff, f.t.maxBackoff = time.Millisecond, 4*time.Millisecond
	f.t.firstRelist, f.t.relist, f.t.soon = time.Hour, time.Hour, time.Millisecond
	return fakeSource{f}
}

func dialFake(engines ...*fakeEngine) dialer {
	i := 0
	return func(context.Context) (engine, string, func(), error) {
		if i == len(engines) {
			return nil, "", nil, errors.New("no more engines")
		}
		i++
		return engines[i-1], fmt.Sprint("v", i), func() {}, nil
	}
}

func docker(n int, state State) Container {
	return Container{ID: id(n), Name: fmt.Sprint("c", n), Runtime: RuntimeDocker, State: state}
}

func TestFollowNeverGivesUp(t *testing.T) {
	attempts := 0
	e := newFakeEngine(docker(1, StateRunning))
	src := followFake(func(context.Context) (engine, string, func(), error) {
		attempts++
		if attempts < 20 {
			return nil, "", nil, errors.New("not there")
		}
		return e, "v", func() {}, nil
	})
	fd := follow(t, src)
	if c := <-fd.ch; c.Kind != Disconnected || c.Err == nil {
		t.Errorf("first: got %+v, want disconnected", c)
	}
	if c := <-fd.ch; c.Kind != Resync || len(c.Containers) != 1 {
		t.Errorf("second: got %+v, want a resync and no word per attempt", c)
	}
	if st := connectedStatus(src); !st.Connected || st.Reconnects != 0 {
		t.Errorf("got %+v, want connected, no reconnect", st)
	}
}

func TestFollowListingFailsThenWorks(t *testing.T) {
	bad, good := newFakeEngine(), newFakeEngine(docker(1, StateCreated))
	bad.err = errors.New("daemon is shutting down")
	fd := follow(t, followFake(dialFake(bad, good)))
	if c := <-fd.ch; c.Kind != Disconnected || !errors.Is(c.Err, bad.err) {
		t.Errorf("got %+v, want disconnected with the listing's error", c)
	}
	fd.resync()
}

// A listing that is too large must not blind the agent to new containers.
func TestFollowTooLargeListing(t *testing.T) {
	e := newFakeEngine()
	e.err = ErrTooLarge
	e.get[id(1)] = docker(1, StateCreated)
	src := followFake(dialFake(e))
	fd := follow(t, src)
	e.events <- event{kind: evCreate, ref: ref{id: id(1)}, at: time.Now()}
	if c := fd.cause("create"); c.Container.Name != "c1" {
		t.Errorf("got %+v, want the container", c)
	}
	if st := src.Status(); !st.Connected || !errors.Is(st.Err, ErrTooLarge) || st.Resyncs != 0 {
		t.Errorf("got %+v, want connected with ErrTooLarge and no resync", st)
	}
}

func TestFollowOldEventsAreChecked(t *testing.T) {
	e := newFakeEngine(docker(1, StateStopped))
	e.get[id(1)] = docker(1, StateStopped)
	fd := follow(t, followFake(dialFake(e)))
	fd.resync()
	// Replayed: it started and stopped before the listing, which is right.
	e.events <- event{kind: evStart, ref: ref{id: id(1)}, at: time.Now().Add(-time.Minute)}
	e.events <- event{kind: evCreate, ref: ref{id: id(2)}, at: time.Now().Add(-time.Minute)} // gone by now
	fd.quiet(30 * time.Millisecond)
	e.events <- event{kind: evStart, ref: ref{id: id(1)}, at: time.Now()}
	if c := fd.cause("start").Container; c.State != StateRunning {
		t.Errorf("got %+v, want running", c)
	}
}

func TestFollowDestroyIsAlwaysTold(t *testing.T) {
	e := newFakeEngine()
	fd := follow(t, followFake(dialFake(e)))
	fd.resync()
	e.events <- event{kind: evDestroy, ref: ref{id: id(3)}, at: time.Now().Add(-time.Minute)}
	if c := fd.cause("destroy"); c.Kind != Removed || c.Container.ID != id(3) || c.Container.State != StateRemoved {
		t.Errorf("got %+v, want removed", c)
	}
}

func TestFollowLookupFails(t *testing.T) {
	e := newFakeEngine()
	e.getErr = errors.New("too slow")
	src := followFake(dialFake(e))
	fd := follow(t, src)
	fd.resync()
	e.set(func() { e.list = []Container{docker(1, StateRunning)} })
	e.events <- event{kind: evCreate, ref: ref{id: id(1)}, name: "c1", image: "app", at: time.Now()}
	c := fd.cause("create").Container
	if !c.Partial || c.Name != "c1" || c.Image != "app" {
		t.Errorf("got %+v, want what the event told, marked partial", c)
	}
	if diff := cmp.Diff([]Container{docker(1, StateRunning)}, fd.resync().Containers); diff != "" {
		t.Errorf("the listing after it (-want +got):\n%s", diff)
	}
	if st := src.Status(); st.LookupsFailed != 1 {
		t.Errorf("got %d failed lookups, want 1", st.LookupsFailed)
	}
}

func TestFollowOverflow(t *testing.T) {
	e := newFakeEngine()
	src := followFake(dialFake(e))
	hold := make(chan struct{})
	ch := make(chan Change, 10*maxEvents)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- src.Run(ctx, func(c Change) {
			ch <- c
			if c.Cause == "create" {
				<-hold
			}
		})
	}()
	<-ch // the first listing
	e.set(func() { e.get[id(1)] = docker(1, StateCreated) })
	e.events <- event{kind: evCreate, ref: ref{id: id(1)}, at: time.Now()}
	<-ch // emit blocks from here on
	for range maxEvents + 10 {
		e.events <- event{kind: evCreate, ref: ref{id: id(9)}, at: time.Now()}
	}
	e.set(func() { e.list = []Container{docker(1, StateCreated), docker(5, StateCreated)} })
	close(hold)
	for c := range ch {
		if c.Kind == Resync {
			if len(c.Containers) != 2 {
				t.Errorf("got %+v, want what the dropped events told", c)
			}
			break
		}
	}
	if st := src.Status(); st.EventsDropped == 0 {
		t.Error("dropped events are not counted")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowQuietRelist(t *testing.T) {
	e := newFakeEngine(docker(1, StateCreated))
	src := followFake(dialFake(e))
	src.f.t.firstRelist, src.f.t.relist = time.Millisecond, time.Millisecond
	fd := follow(t, src)
	fd.resync()
	fd.quiet(30 * time.Millisecond)
	e.set(func() { e.list = nil }) // an event was lost
	if c := fd.resync(); len(c.Containers) != 0 {
		t.Errorf("got %+v, want none", c)
	}
}

// detailEngine blocks in Detail until told to go on.
type detailEngine struct {
	*fakeEngine
	in  chan Container
	out chan Container
}

func (e detailEngine) Detail(ctx context.Context, c Container) (Container, error) {
	select {
	case e.in <- c:
	case <-ctx.Done():
		return c, ctx.Err()
	}
	select {
	case c = <-e.out:
		return c, nil
	case <-ctx.Done():
		return c, ctx.Err()
	}
}

func TestFollowLateDetailIsDropped(t *testing.T) {
	c := docker(1, StateRunning)
	c.Partial = true
	e := detailEngine{newFakeEngine(c), make(chan Container), make(chan Container)}
	src := followFake(func(context.Context) (engine, string, func(), error) { return e, "v", func() {}, nil })
	fd := follow(t, src)
	fd.resync()
	asked := <-e.in
	// The run it was asked about ends before the answer comes.
	e.events <- event{kind: evStop, ref: ref{id: id(1)}, at: time.Now()}
	fd.cause("stop")
	asked.Image, asked.Partial = "late", false
	e.out <- asked
	asked = <-e.in // asked anew, as the container is still partial
	fd.quiet(30 * time.Millisecond)
	if st := src.Status(); st.DetailsSkipped != 1 {
		t.Errorf("got %d skipped, want 1", st.DetailsSkipped)
	}
	if asked.Image != "" || !asked.Partial || asked.State != StateStopped {
		t.Errorf("asked about %+v, want it stopped and as it was", asked)
	}
	asked.Image, asked.Partial = "app", false
	e.out <- asked
	if c := fd.cause("detail").Container; c.Image != "app" || c.Partial || c.State != StateStopped {
		t.Errorf("got %+v, want app, stopped", c)
	}
	// Nothing is left to ask, so a start is told and no more.
	e.events <- event{kind: evStart, ref: ref{id: id(1)}, at: time.Now()}
	if c := fd.cause("start").Container; c.Image != "app" || c.State != StateRunning {
		t.Errorf("got %+v, want app, running", c)
	}
	select {
	case c := <-e.in:
		t.Errorf("asked for details of %+v, which is not partial", c)
	case <-time.After(30 * time.Millisecond):
	}
}
