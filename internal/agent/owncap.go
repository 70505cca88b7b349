package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/owncap"
	"github.com/belay-project/belay/internal/verdict"
)

// ownEvery is the time between two looks at what the agent takes itself.
const ownEvery = 2 * time.Second

// component of the agent's own caps in health.
const ownComponent = "own_caps"

// own is what the agent may take and what it gives up for that. The zero value has no caps.
type own struct {
	cap     *owncap.Cap
	ladder  owncap.Ladder      // of watchOwn
	step    atomic.Uint32      // owncap.Step
	seen    [256]atomic.Uint64 // records offered since the last look while some are left out, by container
	leftOut atomic.Uint64      // of them, since the last record that says so
	memory  atomic.Int64       // taken at the last look, in bytes
	gate    atomic.Pointer[proxy.Server]

	scanned atomic.Int64 // when the last scan began that could have waited, in Unix nanoseconds
}

func (o *own) at() owncap.Step { return owncap.Step(o.step.Load()) } //nolint:gosec // stored from one

// openOwn puts the agent under its caps. What the kernel does not hold it to is said, and is no
// reason not to enforce.
func (a *Agent) openOwn() {
	if a.cfg.MemoryMax <= 0 && a.cfg.CPUMax <= 0 {
		a.health.SetOK(ownComponent)
		return
	}
	a.own.cap = owncap.Hold(owncap.Limits{Memory: a.cfg.MemoryMax, CPU: a.cfg.CPUMax})
	a.ownHealth(owncap.Normal)
}

// ownHealth tells health how the agent stands to its caps.
func (a *Agent) ownHealth(step owncap.Step) {
	switch c := a.own.cap; {
	case step > owncap.Normal:
		a.health.SetDegraded(ownComponent, "the agent is near its own caps: "+stepText[step])
	case c.Why != nil || c.WhyCPU != nil:
		a.health.SetDegraded(ownComponent, "the kernel does not hold the agent to its caps: "+errors.Join(c.Why, c.WhyCPU).Error())
	default:
		a.health.SetOK(ownComponent)
	}
}

// What is given up, each with that before it.
const (
	scansWait   = "scans that nobody waits for begin each ten minutes"
	cachesEmpty = scansWait + ", caches are emptied"
)

var recordsSampled = fmt.Sprintf(cachesEmpty+", and one of %d records about what was allowed is kept", owncap.SampleOf)

// stepText says what is given up on each step.
var stepText = [...]string{
	owncap.Normal: "nothing is given up", owncap.NoScans: scansWait, owncap.SmallCaches: cachesEmpty,
	owncap.Sampled: recordsSampled, owncap.Plain: recordsSampled + ", without arguments, ancestors and labels",
}

// watchOwn looks at what the agent takes, and gives things up in order when that comes near its
// caps: scans, caches, records about what was allowed, their details. Never enforcement, and
// never a denial or its record.
func (a *Agent) watchOwn(ctx context.Context) error {
	c := a.own.cap
	if c == nil {
		return nil
	}
	c.HoldCPU()
	a.ownHealth(owncap.Normal)
	if err := errors.Join(c.Why, c.WhyCPU); err != nil {
		a.log.Warn("the kernel does not hold the agent to its own caps", attr.Error, err.Error())
	}
	t := time.NewTicker(ownEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			a.lookAtOwn(now)
		}
	}
}

func (a *Agent) lookAtOwn(now time.Time) {
	c := a.own.cap
	u, err := c.Read()
	if err != nil {
		a.health.Counter("own_caps_not_read").Add(1)
		return
	}
	a.own.memory.Store(u.Memory)
	for i := range a.own.seen {
		a.own.seen[i].Store(0)
	}
	share := 0.0
	if c.Memory > 0 {
		share = float64(u.Memory) / float64(c.Memory)
	}
	was := a.own.at()
	step := a.own.ladder.Next(now, share, u.Throttled)
	if step == was {
		return
	}
	if step > was && step >= owncap.SmallCaches {
		a.shrinkCaches()
	}
	a.own.step.Store(uint32(step))
	a.ownHealth(step)
	a.health.Counter("own_caps_steps").Add(1)
	a.journal.Append(a.ownRecord(was, step, share, u))
}

// ownRecord says that more, or less, is given up from here on.
func (a *Agent) ownRecord(was, step owncap.Step, share float64, u owncap.Use) *journal.Record {
	event, message := journal.EventGivesUp, "near its own caps the agent gives up more: "
	if step < was {
		event, message = journal.EventTakesUp, "further from its own caps the agent gives up less: "
	}
	message += stepText[step]
	if c := a.own.cap; c.Memory > 0 {
		message += fmt.Sprintf("; it takes %d of %d MiB (%.0f %%)", u.Memory>>20, c.Memory>>20, 100*share)
	}
	message += fmt.Sprintf(", and was kept from the processor in %.0f %% of the last periods", 100*u.Throttled)
	return &journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: time.Now(), Kind: journal.KindAgent, Event: event, Message: message,
	}
}

// shrinkCaches forgets what can be asked for again.
func (a *Agent) shrinkCaches() {
	if a.docker != nil {
		a.docker.ForgetImages()
	}
	if s := a.own.gate.Load(); s != nil {
		s.ForgetImages()
	}
	a.uses.forget()
	debug.FreeOSMemory()
}

// idleScans is the time between two scans that nobody waits for, near the caps: what keeps the
// agent busy must not be what keeps images from being looked at for good.
const idleScans = 10 * time.Minute

// mayScan tells whether a scan that can wait may begin now.
func (o *own) mayScan(now time.Time) bool {
	if o.at() < owncap.NoScans {
		return true
	}
	last := o.scanned.Load()
	return now.UnixNano()-last >= int64(idleScans) && o.scanned.CompareAndSwap(last, now.UnixNano())
}

// awaitScan waits until a scan that can wait may begin.
//
// Errors: ctx ended first.
func (o *own) awaitScan(ctx context.Context) error {
	t := time.NewTicker(ownEvery)
	defer t.Stop()
	for !o.mayScan(time.Now()) {
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("belay-agent is near its own caps, and lets scans wait: %w", ctx.Err())
		}
	}
	return nil
}

var containerSeed = maphash.MakeSeed()

// keeps tells whether a record about an event is kept. Only what was allowed is ever left out.
func (o *own) keeps(ev *enforce.Event) bool {
	if o.at() < owncap.Sampled || !lowSeverity(ev) {
		return true
	}
	// Each container has the first ones, so that nobody hides behind what another one does.
	slot := maphash.String(containerSeed, string(ev.Container)) % uint64(len(o.seen))
	if n := o.seen[slot].Add(1); n <= owncap.SampleOf || n%owncap.SampleOf == 0 {
		return true
	}
	o.leftOut.Add(1)
	return false
}

// lowSeverity tells whether an event is about something that was allowed, and no container's
// life.
func lowSeverity(ev *enforce.Event) bool {
	return ev.Decision == verdict.Allowed && lifeEvents[ev.Type] == "" && !ev.Detected
}

// plain tells whether the record of an event does without what is looked up or bulky.
func (o *own) plain(ev *enforce.Event) bool { return o.at() >= owncap.Plain && lowSeverity(ev) }

// strip takes out what a plain record does without.
func strip(r *journal.Record) {
	if r.Process != nil {
		r.Process.Args, r.Process.Ancestors, r.Process.Cwd = nil, nil, ""
	}
	if r.Container != nil {
		r.Container.Labels = nil
	}
}
