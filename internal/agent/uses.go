package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/workload"
)

// When containers are looked at: at once, and then after these times; the last again and
// again. What a program loads it mostly loads at its start.
var useTimes = []time.Duration{10 * time.Second, 50 * time.Second, 5 * time.Minute}

const (
	useTick     = 5 * time.Second
	maxUseLooks = 32                     // containers looked at in one tick
	useBudget   = 500 * time.Millisecond // of a tick, after which the rest waits for the next
	maxUseFiles = 32_768                 // files in use of all containers that are remembered
	// useAwaitScan is after how many looks an image that is not scanned is no more waited for.
	useAwaitScan = 12
	maxUseIndex  = 64      // inventories whose files are held in memory
	maxUsePast   = 1000    // images of which is kept what ended containers used
	maxPastSize  = 2 << 20 // of that, as [inuse.Facts.Size] counts
)

// uses looks from time to time which packages the running containers use. What it knows sets
// priorities, and hides nothing.
type uses struct {
	a    *Agent
	proc inuse.Proc
	// ports asks the engine; inventories reads one back, with when it was made.
	ports       func(ctx context.Context, c workload.Container) inuse.Ports
	inventories func(image string) (*inventory.Result, time.Time, error)
	// losses counts what the kernel could not tell; lost is what it was last, of run's goroutine.
	losses func() (uint64, error)
	lost   uint64
	lostAt time.Time // when it last grew, or could not be counted; of run's goroutine
	// looks is not that which enforcement uses: a container that keeps a look waiting takes
	// nothing from that.
	looks looks
	dir   string // of files; "": nothing is kept over a restart

	forgotten atomic.Bool // index is to be emptied

	index   map[string]*indexed   // by image; of run's goroutine
	written map[string]writtenUse // by image; of run's goroutine

	// mu guards what follows.
	mu sync.Mutex
	of map[ident.ContainerID]*usedBy
	// notedBytes is the size of all that waits in usedBy.noted.
	notedBytes int
	past       map[string]*inuse.Facts // by image: of containers that have ended, and of before the start
}

// usedBy is what is known of one running container.
type usedBy struct {
	image string
	next  time.Time
	n     int // looks, also those that were not answered
	seen  *inuse.Seen
	facts *inuse.Facts // nil: its image has no inventory yet

	// What the kernel told since it was last put into seen, and how much of that was left out.
	noted      map[noted]time.Time
	notedBytes int // of its paths
	cut        int
	settled    time.Time
	born       time.Time // when the kernel told of a container that the engine has not told of yet
}

type indexed struct {
	at time.Time
	*inuse.Index
}

func (a *Agent) openUses() {
	a.uses = &uses{
		a: a, of: map[ident.ContainerID]*usedBy{}, past: map[string]*inuse.Facts{}, index: map[string]*indexed{}, ports: a.portsOf,
		dir: a.cfg.usesDir(), written: map[string]writtenUse{},
		inventories: func(image string) (*inventory.Result, time.Time, error) {
			s, ok := a.images.keeper.State(image)
			if !ok || s.At.IsZero() {
				return nil, time.Time{}, fmt.Errorf("image %.80q is not scanned yet", image)
			}
			res, err := a.images.keeper.Inventory(image)
			return res, s.At, err
		},
		losses: a.useLosses,
	}
	a.uses.lost, _ = a.uses.losses() // what can be read later only counts as lost since
	a.uses.recall()
}

// portsOf asks the engine for published ports. Those that it does not tell are not known.
func (a *Agent) portsOf(ctx context.Context, c workload.Container) inuse.Ports {
	if a.docker == nil || c.Runtime != workload.RuntimeDocker {
		return inuse.Ports{}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	list, host, err := a.docker.Ports(ctx, c.ID)
	if err != nil {
		return inuse.Ports{}
	}
	p := inuse.Ports{Known: true, Host: host}
	for _, port := range list {
		p.List = append(p.List, inuse.Port{Proto: port.Proto, Host: port.Host, Private: port.Private})
	}
	return p
}

// run looks until ctx ends.
func (u *uses) run(ctx context.Context) {
	t := time.NewTicker(useTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			u.tick(ctx, u.a.binder.registry.List(), time.Now())
		}
	}
}

// tick looks at the containers whose time has come.
func (u *uses) tick(ctx context.Context, list []workload.Container, now time.Time) {
	u.missed(now) // before anything is concluded of a container that has ended
	due, ended := u.due(list, now)
	var over []string
	for _, id := range ended {
		over = append(over, u.end(id, now))
	}
	slices.Sort(over)
	for _, image := range slices.Compact(over) {
		u.write(image, now, useFileEnded)
	}
	if u.forgotten.Swap(false) {
		clear(u.index)
	}
	u.settle(now)
	if len(due) == 0 {
		return
	}
	all, err := u.proc.Processes()
	if err != nil {
		u.a.health.Counter("use_looks_failed").Add(1)
		u.a.log.Warn("which packages are in use is not looked at", attr.Error, err.Error())
		return
	}
	began := time.Now()
	for _, c := range due[:min(len(due), maxUseLooks)] {
		if ctx.Err() != nil || time.Since(began) > useBudget {
			return // the others are due at the next tick
		}
		u.look(ctx, c, all[c.ID], now)
	}
}

// due returns the running containers that are to be looked at, longest due first, and those that
// run no more.
func (u *uses) due(list []workload.Container, now time.Time) (due []workload.Container, ended []ident.ContainerID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	running := map[ident.ContainerID]bool{}
	for _, c := range list {
		if c.State != workload.StateRunning {
			continue
		}
		running[c.ID] = true
		by := u.of[c.ID]
		if by == nil {
			by = &usedBy{seen: &inuse.Seen{}, born: now}
			u.of[c.ID] = by
		}
		if !by.born.IsZero() && now.Sub(u.lostAt) < useUnknown {
			by.cut++ // what was lost may be its: it is listed only now
		}
		by.image, by.born = c.ImageDigest, time.Time{}
		if !now.Before(by.next) {
			due = append(due, c)
		}
	}
	for id, by := range u.of {
		if !running[id] && now.Sub(by.born) >= useUnknown {
			ended = append(ended, id)
		}
	}
	slices.SortStableFunc(due, func(a, b workload.Container) int { return u.of[a.ID].next.Compare(u.of[b.ID].next) })
	return due, ended
}

// keep remembers what a container that has ended used, and returns the images that had to go for it. u.mu is
// held, for which the kernel's records wait: their files are for the caller to remove.
func (u *uses) keep(by *usedBy) (over []string) {
	if by.facts == nil || by.image == "" {
		return nil
	}
	u.past[by.image] = inuse.Join(u.past[by.image], by.facts)
	size := 0
	for _, f := range u.past {
		size += f.Size()
	}
	for len(u.past) > maxUsePast || size > maxPastSize && len(u.past) > 1 {
		oldest := ""
		for image, f := range u.past {
			if image != by.image && (oldest == "" || f.Until.Before(u.past[oldest].Until)) {
				oldest = image
			}
		}
		size -= u.past[oldest].Size()
		delete(u.past, oldest)
		over = append(over, oldest)
	}
	return over
}

// forget empties what can be read again; safe from any goroutine.
func (u *uses) forget() {
	if u != nil {
		u.forgotten.Store(true)
	}
}

// look looks at one container. A process of it that keeps its memory locked keeps the look
// waiting, and is left behind.
func (u *uses) look(ctx context.Context, c workload.Container, pids []int, now time.Time) {
	var l *inuse.Look
	err := u.looks.at(c.ID, func() { l = u.proc.Look(pids, now) })
	u.a.health.Counter("use_looks").Add(1)
	var ports inuse.Ports
	if err != nil {
		u.a.health.Counter("use_looks_failed").Add(1)
	} else {
		ports = u.ports(ctx, c)
	}
	by := u.looked(c, l, err, ports, now)
	if by == nil {
		return
	}
	u.conclude(by)
	u.write(c.ImageDigest, now, useFileEvery)
}

// looked takes what a look saw, or that it failed. It returns nil for a container that is gone.
func (u *uses) looked(c workload.Container, l *inuse.Look, err error, ports inuse.Ports, now time.Time) *usedBy {
	u.mu.Lock()
	defer u.mu.Unlock()
	by := u.of[c.ID]
	if by == nil {
		return nil
	}
	by.next = now.Add(useTimes[min(by.n, len(useTimes)-1)])
	by.n++
	if err != nil {
		by.seen.Unread++ // what was not seen may be in use
	} else {
		u.a.health.Counter("use_cut").Add(uint64(l.Cut))
		by.seen.Add(l)
		by.seen.Ports = ports
		u.merge(by, now)
	}
	if by.facts == nil && by.n > 1 && by.n < useAwaitScan {
		by.next = now.Add(useTimes[0]) // the scan of its image may be on its way
	}
	return by
}

// bound forgets the files of the container that has the most, while all together have too many:
// containers choose what they use, and not what is known of others. u.mu is held.
func (u *uses) bound() {
	for {
		n, most := 0, (*usedBy)(nil)
		for _, o := range u.of {
			n += len(o.seen.Files)
			if most == nil || len(o.seen.Files) > len(most.seen.Files) {
				most = o
			}
		}
		if n <= maxUseFiles {
			return
		}
		if scripts := most.seen.DropScripts(); scripts > 0 {
			u.a.health.Counter("use_cut").Add(uint64(scripts))
			continue
		}
		u.a.health.Counter("use_cut").Add(uint64(len(most.seen.Files)))
		most.seen.Files, most.seen.Cut = nil, most.seen.Cut+1 // it is unknown from now on, and not unused
		most.facts = nil
	}
}

// indexOf returns the index of an image's inventory, nil if there is none.
func (u *uses) indexOf(image string) *inuse.Index {
	if image == "" {
		return nil
	}
	if s, ok := u.a.images.keeper.State(image); ok && u.index[image] != nil && u.index[image].at.Equal(s.At) {
		return u.index[image].Index
	}
	res, at, err := u.inventories(image)
	if err != nil {
		delete(u.index, image)
		return nil
	}
	if len(u.index) >= maxUseIndex {
		clear(u.index) // they are read again
	}
	u.index[image] = &indexed{at, inuse.NewIndex(res)}
	return u.index[image].Index
}

// facts returns what is known of the packages of an image, nil if that is nothing.
func (u *uses) facts(image string) *inuse.Facts {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	f := u.past[image]
	var running []*inuse.Facts // none of them is ever changed
	for _, by := range u.of {
		if by.image == image {
			running = append(running, by.facts)
		}
	}
	u.mu.Unlock()
	blind := false
	for _, r := range running {
		blind = blind || r == nil || r.Looks == 0
		f = inuse.Join(f, r)
	}
	if blind { // one runs of which nothing is known
		return f.Doubted()
	}
	return f
}

// attach returns findings of an image with what is known of their packages' use.
func (u *uses) attach(image string, list []policy.ImageFinding) []policy.ImageFinding {
	f := u.facts(image)
	out := slices.Clone(list)
	for i := range out {
		p := &out[i]
		p.Use = f.Of(inuse.KeyOf(p.Kind, p.Package, p.Version, p.Path))
	}
	return out
}

// ContainerUse implements [control.Agent].
func (a *Agent) ContainerUse(_ context.Context, ref string) (*control.ContainerUse, error) {
	id, err := a.resolve(ref)
	if err != nil {
		return nil, err
	}
	c, _ := a.binder.registry.Get(id)
	c.ID = id
	a.uses.mu.Lock()
	defer a.uses.mu.Unlock()
	out := &control.ContainerUse{ID: string(c.ID), Name: c.Name, Image: c.ImageDigest}
	if by := a.uses.of[c.ID]; by != nil {
		out.Seen = *by.seen
		out.Seen.Files = make(map[string]*inuse.SeenFile, len(by.seen.Files))
		for path, f := range by.seen.Files {
			one := *f
			out.Seen.Files[path] = &one
		}
	}
	return out, nil
}
