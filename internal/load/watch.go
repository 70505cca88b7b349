package load

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
)

const (
	// tickEvery is the time between two samples of the node.
	tickEvery = 2 * time.Second
	// leastGap is the least time between them: pressure can ask for one at once.
	leastGap = 500 * time.Millisecond
	// containersEvery is the time between two samples of the containers and of the disks.
	containersEvery = 10 * time.Second
	// limitsEvery is the time between two looks at what limits there are.
	limitsEvery = time.Minute
)

// component is the watcher's name in health.
const component = "load"

// Options say what a [Watcher] watches. All but Proc and Disks are required.
type Options struct {
	// Containers lists the containers that there are.
	Containers func() ([]Subject, error)
	// Tell takes an alert, and does not block. It is called from one goroutine.
	Tell func(*Alert, *policy.LoadPolicy)
	// Scopes are cgroups that containers are looked for in; empty is the whole host. Where one
	// has limits of its own, the node's readings are held against those too.
	Scopes []string
	// Disks are paths whose file systems are watched; those that do not exist are none. "/".
	Disks  []string
	Proc   string // where procfs is; /proc
	Health *health.Registry
	Log    *slog.Logger
}

// stateKey names a cap of a policy.
type stateKey struct {
	policy string
	cap    string
}

// Watcher watches. Make one with [New], give it policies with [Watcher.SetPolicies] and run
// it with [Watcher.Run]. Without a policy it samples nothing. Safe for concurrent use.
type Watcher struct {
	o     Options
	wake  chan struct{} // policies have changed, or pressure has risen
	start time.Time     // points count from here
	// next are policies that the next tick puts into force; nil: none. Who sets policies must not
	// wait for a sample.
	next atomic.Pointer[[]*policy.LoadPolicy]

	// mu guards what follows.
	mu         sync.Mutex
	policies   []*policy.LoadPolicy
	h          hierarchies
	hErr       error
	node       *node // nil: nothing is sampled
	states     map[stateKey]*machine
	containers map[ident.ContainerID]*container
	list       []*container                    // by ID
	lost       map[ident.ContainerID]time.Time // listed, without a cgroup since then
	open       int                             // files that containers may hold
	listing    machine                         // of the list of containers
	listErr    error
	ticked     time.Time
	listed     time.Time // containers and disks were sampled
	looked     time.Time // all cgroups were walked through
	limited    time.Time
	triggers   *triggers
	trigErr    error
	buf        [maxRead]byte
}

// New returns a watcher. It reads nothing yet.
func New(o Options) *Watcher {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if len(o.Disks) == 0 {
		o.Disks = []string{"/"}
	}
	return &Watcher{
		o: o, wake: make(chan struct{}, 1), start: time.Now().Add(-time.Second),
		states: map[stateKey]*machine{}, containers: map[ident.ContainerID]*container{}, open: openFiles(),
		lost: map[ident.ContainerID]time.Time{},
	}
}

// SetPolicies makes these be in force from now on. The state of a cap that a policy of the
// same name had before is kept.
func (w *Watcher) SetPolicies(ps []*policy.LoadPolicy) {
	w.next.Store(&ps)
	w.nudge()
}

func (w *Watcher) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends, then returns nil. No goroutine of w and no open file is left.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.stop()
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-w.wake:
		}
		w.tick(time.Now())
	}
}

func (w *Watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut()
}

// shut gives back what sampling holds. mu is held, as in all below.
func (w *Watcher) shut() {
	w.triggers.close()
	w.triggers = nil
	if w.node != nil {
		w.node.close()
		w.node = nil
	}
	for _, c := range w.containers {
		c.close()
	}
	clear(w.containers)
	clear(w.lost)
	w.list, w.open = nil, openFiles()
}

// tick takes one sample, and tells what comes of it.
func (w *Watcher) tick(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if next := w.next.Swap(nil); next != nil {
		w.policies = *next
		w.take(now)
	}
	if len(w.policies) == 0 || now.Sub(w.ticked) < leastGap && !w.ticked.IsZero() {
		return
	}
	w.ticked = now
	if w.node == nil {
		w.begin()
	}
	if now.Sub(w.limited) >= limitsEvery {
		w.limited = now
		w.node.readLimits(&w.h, w.buf[:])
	}
	w.node.sample(w.at(now), w.buf[:])
	if now.Sub(w.listed) >= containersEvery {
		w.node.sampleDisks()
		w.sampleContainers(now)
		w.judgeContainers(now)
	}
	w.judgeNode(now)
	w.report()
}

func (w *Watcher) at(now time.Time) int64 { return int64(now.Sub(w.start)) }

// begin opens what is sampled.
func (w *Watcher) begin() {
	w.h, w.hErr = findHierarchies(w.o.Proc)
	w.node = newNode(w.o.Proc, w.o.Disks, w.o.Scopes, &w.h)
	w.listed, w.limited, w.looked = time.Time{}, time.Time{}, time.Time{}
}

// take puts new policies into force: caps that are no more are dropped, and said so.
func (w *Watcher) take(now time.Time) {
	kept := map[stateKey]bool{}
	for _, p := range w.policies {
		for _, c := range p.Spec.Caps {
			kept[stateKey{p.Name, c.Name}] = true
		}
	}
	for k, m := range w.states {
		if kept[k] {
			continue
		}
		delete(w.states, k)
		if m.told || m.blind {
			w.tell(&Alert{Event: EventDropped, Policy: k.policy, Cap: k.cap, Time: now, Since: m.since}, nil)
		}
	}
	for _, c := range w.list {
		for k := range c.states {
			if !kept[k] {
				delete(c.states, k)
			}
		}
	}
	w.triggers.close()
	w.triggers = nil
	if len(w.policies) == 0 {
		w.shut()
		w.o.Health.SetOK(component)
		return
	}
	w.triggers, w.trigErr = openTriggers(w.o.Proc, w.policies, w.nudge)
	if w.trigErr != nil {
		w.o.Log.Info("pressure is sampled, without triggers of the kernel", attr.Error, w.trigErr.Error())
	}
}

// tell hands an alert on, and counts it.
func (w *Watcher) tell(a *Alert, p *policy.LoadPolicy) {
	w.o.Health.Counter("load_alerts").Add(1)
	w.o.Tell(a, p)
}

// ruleOf returns what a cap asks for.
func ruleOf(p *policy.LoadPolicy, c *policy.Cap) rule {
	r := rule{percent: float64(c.Percent), hysteresis: float64(p.Spec.Hysteresis), lasting: c.For, coolDown: p.Spec.CoolDown}
	if r.lasting == 0 {
		r.lasting = p.Spec.For
	}
	return r
}

// judgeNode holds the node against the caps of all policies.
func (w *Watcher) judgeNode(now time.Time) {
	for _, p := range w.policies {
		for i := range p.Spec.Caps {
			c := &p.Spec.Caps[i]
			r, res := ruleOf(p, c), resourceOf(c.Name)
			got, ok := w.node.read(res, min(rateOver, r.lasting))
			if !ok {
				continue // the first sample of a rate
			}
			if got.err != nil {
				w.o.Health.Counter("load_unreadable").Add(1)
			}
			key := stateKey{p.Name, c.Name}
			m := w.states[key]
			if m == nil {
				m = new(machine)
				w.states[key] = m
			}
			since := m.since
			if event := m.step(now, r, got.percent, got.err); event != "" {
				if event == EventOver {
					since = m.since
				}
				w.alert(now, event, p, c, m, got, since)
			}
		}
	}
}

// alert tells of the node, with the containers that grew.
func (w *Watcher) alert(now time.Time, event string, p *policy.LoadPolicy, c *policy.Cap, m *machine, got reading, since time.Time) {
	a := &Alert{
		Event: event, Policy: p.Name, Revision: p.Revision, Cap: c.Name, Time: now, Since: since,
		Percent: got.percent, Limit: c.Percent, Where: got.where,
	}
	switch event {
	case EventOver:
		if now.Sub(w.listed) >= leastGap {
			w.sampleContainers(now)
		}
		a.Causes = causes(w.list, resourceOf(c.Name), w.start)
	case EventUnreadable:
		a.Since, a.Error = m.failing, got.err.Error()
	case EventReadable:
		a.Since = m.lastBlind
	}
	w.tell(a, p)
}

// judgeContainers holds each container against the limits that it has itself.
func (w *Watcher) judgeContainers(now time.Time) {
	for _, c := range w.list {
		if c.err != nil || c.before.at == 0 {
			continue
		}
		for _, p := range w.policies {
			for i := range p.Spec.Caps {
				w.judgeContainer(now, c, p, &p.Spec.Caps[i])
			}
		}
	}
}

func (w *Watcher) judgeContainer(now time.Time, c *container, p *policy.LoadPolicy, cp *policy.Cap) {
	res := resourceOf(cp.Name)
	if res > PIDs { // disks and pressure are the node's
		return
	}
	percent, limited := c.percent(res)
	key := stateKey{p.Name, cp.Name}
	m := c.states[key]
	r := ruleOf(p, cp)
	if m == nil {
		if !limited || percent <= r.percent {
			return
		}
		m = new(machine)
		if c.states == nil {
			c.states = map[stateKey]*machine{}
		}
		c.states[key] = m
	}
	if !limited {
		percent = 0 // the limit was taken away
	}
	since := m.since
	event := m.step(now, r, percent, nil)
	if event == EventOver {
		since = m.since
	}
	if event != "" {
		s := c.Subject
		w.tell(&Alert{
			Event: event, Policy: p.Name, Revision: p.Revision, Cap: cp.Name, Time: now, Since: since,
			Percent: percent, Limit: cp.Percent, Container: &s, Causes: causes([]*container{c}, res, w.start),
		}, p)
	}
}

// report keeps health in step.
func (w *Watcher) report() {
	var errs []error
	for _, p := range w.policies {
		for i := range p.Spec.Caps {
			if r, ok := w.node.read(resourceOf(p.Spec.Caps[i].Name), rateOver); ok && r.err != nil {
				errs = append(errs, r.err)
			}
		}
	}
	errs = append(errs, w.listErr)
	if err := errors.Join(errs...); err != nil {
		w.o.Health.SetDegraded(component, "readings are missing: "+err.Error())
		return
	}
	w.o.Health.SetOK(component)
}
