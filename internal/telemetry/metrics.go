package telemetry

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/verdict"
)

// Observed is the state of the agent at a moment. Its maps are read only while it is asked.
type Observed struct {
	Backend    verdict.Backend
	Levels     map[string]verdict.Level // by rule
	Enforcing  bool                     // and there is a policy
	Containers int
	Kernel     map[string]uint64 // internal failures of the kernel side, by docs/failure-codes.md
	Journal    journal.Stats
	Counters   map[string]uint64 // of health
	Maps       []MapFill
	Scans      []ImageAge
	Loads      []LoadLevel
	Pressure   map[string]time.Duration // for how long some task has waited, by what for
	Outputs    []OutputCount
	Own        OwnCaps
	Database   time.Time // of which time the vulnerability database is; zero: there is none
}

// MapFill is how full a map of the kernel side is.
type MapFill struct {
	Name      string
	Used, Max int
}

// LoadLevel is one cap of a LoadPolicy, held against the node.
type LoadLevel struct {
	Policy, Cap string
	Known       bool    // there is a reading
	Percent     float64 // the reading
	Limit       int     // percent
	Over        bool    // for as long as the policy says
}

// OwnCaps is what the agent takes itself, held against its caps.
type OwnCaps struct {
	Memory, MemoryMax int64 // bytes; MemoryMax 0: no cap
	Step              uint8 // how much is given up for it, from 0
}

// OutputCount is what one output of records did.
type OutputCount struct {
	Name    string
	Sent    uint64
	Queued  int
	Dropped map[string]uint64 // by cause
}

// ImageAge is when an image was last read by the scanner.
type ImageAge struct {
	ID string
	At time.Time
}

// Bounds of what becomes attributes.
const (
	maxDecisionKinds = 1024 // combinations of kind, policy, rule and decision; more are counted as "other"
	maxImages        = 256  // whose scan ages are told one by one
)

// decisionKey is what decisions are counted by.
type decisionKey struct {
	kind         journal.Kind
	policy, rule string
	decision     verdict.Decision
}

// decisions counts, on the path of who appends to the journal: no lock is held for long, and
// nothing is allocated once a combination has come.
type decisions struct {
	mu sync.RWMutex // guards m
	m  map[decisionKey]*atomic.Uint64
}

func (d *decisions) count(r *journal.Record) {
	if r.Decision == "" {
		return
	}
	k := decisionKey{kind: r.Kind, decision: r.Decision}
	if r.Policy != nil {
		k.policy, k.rule = r.Policy.Name, r.Policy.Rule
	}
	d.mu.RLock()
	n := d.m[k]
	d.mu.RUnlock()
	if n == nil {
		n = d.add(k)
	}
	n.Add(1)
}

func (d *decisions) add(k decisionKey) *atomic.Uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.m[k]; !ok && len(d.m) >= maxDecisionKinds {
		k.policy, k.rule = "other", "other"
	}
	n := d.m[k]
	if n == nil {
		n = new(atomic.Uint64)
		d.m[k] = n
	}
	return n
}

// each calls f for every combination.
func (d *decisions) each(f func(n uint64, kv ...attribute.KeyValue)) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for k, n := range d.m {
		kv := []attribute.KeyValue{attribute.String("belay.kind", string(k.kind)), attribute.String("belay.decision", string(k.decision))}
		kv = text(text(kv, "belay.policy.name", k.policy), "belay.policy.rule", k.rule)
		f(n.Load(), clean(kv)...)
	}
}

// latencyBounds are the histogram's, in seconds: the gate answers in less than a
// millisecond, and waits for the daemon in between.
var latencyBounds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// instruments are those that are written to; the others are observed.
type instruments struct {
	latency metric.Float64Histogram
	scan    metric.Float64Histogram
}

// observer is what asks for the state at each collection.
type observer struct {
	t *Telemetry

	mu   sync.Mutex // guards last and at
	last Observed
	at   time.Time

	decisions, losses, counters, items, dropped, cpu, written, pressure metric.Float64ObservableCounter
	outSent, outDropped                                                 metric.Float64ObservableCounter
	containers, enforcing, level, used, max, fill, age, dbAge           metric.Float64ObservableGauge
	memory, queued, journal, load, loadCap, loadOver, outQueued         metric.Float64ObservableGauge
	ownMemory, ownMax, ownStep                                          metric.Float64ObservableGauge
}

// register makes the instruments. docs/telemetry.md has every one of them.
func (t *Telemetry) register(m metric.Meter) error {
	var err error
	t.inst.latency, err = m.Float64Histogram("belay.gate.duration", metric.WithUnit("s"),
		metric.WithDescription("Time until the head of the gate's answer"), metric.WithExplicitBucketBoundaries(latencyBounds...))
	if err != nil {
		return err
	}
	t.inst.scan, err = m.Float64Histogram("belay.operation.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that scans and reloads of policies took"))
	if err != nil {
		return err
	}
	o := &observer{t: t}
	var all []metric.Observable
	for _, c := range []struct {
		to               *metric.Float64ObservableCounter
		name, unit, text string
	}{
		{&o.decisions, "belay.decisions", "{decision}", "Decisions by kind, policy, rule and outcome"},
		{&o.losses, "belay.events.lost", "{event}", "Events and copies lost before they were in the journal, by cause"},
		{&o.counters, "belay.health.count", "{event}", "Counters of belay status, by name"},
		{&o.items, "belay.telemetry.sent", "{item}", "Items that the collector took, by signal"},
		{&o.dropped, "belay.telemetry.dropped", "{item}", "Items that were not sent, by signal and cause"},
		{&o.outSent, "belay.output.sent", "{record}", "Records that an output has sent"},
		{&o.outDropped, "belay.output.dropped", "{record}", "Records that an output did not send, by cause"},
		{&o.cpu, "process.cpu.time", "s", "Processor time of the agent, by mode"},
		{&o.pressure, "belay.node.pressure", "s", "Time in which some task of the node waited for a resource"},
		{&o.written, "belay.journal.written", "{event}", "Records in the journal since the agent's start"},
	} {
		if *c.to, err = m.Float64ObservableCounter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.text)); err != nil {
			return err
		}
		all = append(all, *c.to)
	}
	for _, c := range []struct {
		to               *metric.Float64ObservableGauge
		name, unit, text string
	}{
		{&o.containers, "belay.containers", "{container}", "Containers that the kernel side knows"},
		{&o.enforcing, "belay.enforcing", "1", "1 while a denial works and a policy is in force"},
		{&o.level, "belay.rule.level", "1", "What this host can do about a rule: 3 prevent, 2 kill, 1 detect, 0 unsupported"},
		{&o.used, "belay.map.entries", "{entry}", "Entries of a map of the kernel side"},
		{&o.max, "belay.map.limit", "{entry}", "Entries that the map can have"},
		{&o.age, "belay.scan.age", "s", "Time since an image was read by the scanner"},
		{&o.dbAge, "belay.vulndb.age", "s", "Age of the vulnerability database's data"},
		{&o.memory, "process.memory.usage", "By", "Resident memory of the agent"},
		{&o.queued, "belay.telemetry.queued", "{item}", "Items that wait to be sent, by signal"},
		{&o.journal, "belay.journal.size", "By", "Size of the journal"},
		{&o.outQueued, "belay.output.queued", "{record}", "Records that wait for an output"},
		{&o.load, "belay.load.reading", "%", "What a cap of a LoadPolicy is on; none while it cannot be read"},
		{&o.loadCap, "belay.load.limit", "%", "The cap"},
		{&o.ownMemory, "belay.own.memory", "By", "Memory of the agent's cgroup without the cache of files"},
		{&o.ownMax, "belay.own.memory.limit", "By", "The agent's own cap on it"},
		{&o.ownStep, "belay.own.step", "1", "How much the agent gives up near its caps: 0 nothing, 1 scans, 2 caches, 3 most records about what was allowed, 4 their details"},
		{&o.loadOver, "belay.load.over", "1", "1 while the node is over the cap for as long as the policy says"},
	} {
		if *c.to, err = m.Float64ObservableGauge(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.text)); err != nil {
			return err
		}
		all = append(all, *c.to)
	}
	_, err = m.RegisterCallback(o.observe, all...)
	return err
}

// freshFor is how long a state is told again: who scrapes in a loop must not have the kernel
// side's maps counted each time.
const freshFor = 5 * time.Second

func (o *observer) state() Observed {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Before the agent is open there is no state to be told again.
	if o.last.Backend == "" || time.Since(o.at) >= freshFor {
		o.last, o.at = o.t.o.Observe(), time.Now()
	}
	return o.last
}

func (o *observer) observe(_ context.Context, ob metric.Observer) error {
	count := func(c metric.Float64Observable, n uint64, kv ...attribute.KeyValue) {
		ob.ObserveFloat64(c, float64(n), metric.WithAttributes(kv...))
	}
	t := o.t
	t.decisions.each(func(n uint64, kv ...attribute.KeyValue) { count(o.decisions, n, kv...) })
	for s, p := range t.pumps() {
		sig := attribute.String("belay.signal", strings.ToLower(string(s)))
		count(o.items, p.Sent(), sig)
		count(o.queued, uint64(p.Waiting()), sig)
		for cause, n := range p.Drops() {
			count(o.dropped, n, sig, attribute.String("belay.cause", cause))
		}
	}
	count(o.dropped, t.missed.Load(), attribute.String("belay.signal", "records"), attribute.String("belay.cause", pump.CauseQueueFull))
	if t.tracer.Tracer != nil {
		count(o.dropped, t.tracer.missed.Load(), attribute.String("belay.signal", "traces"), attribute.String("belay.cause", causeLivesFull))
	}
	o.process(ob)
	if t.o.Observe == nil {
		return nil
	}
	s := o.state()
	count(o.containers, uint64(s.Containers)) //nolint:gosec // a length
	var on uint64
	if s.Enforcing {
		on = 1
	}
	count(o.enforcing, on, attribute.String("belay.backend", string(s.Backend)))
	for rule, l := range s.Levels {
		count(o.level, uint64(l), attribute.String("belay.policy.rule", rule), attribute.String("belay.level", l.String()))
	}
	for cause, n := range s.Kernel {
		count(o.losses, n, attribute.String("belay.cause", "kernel_"+cause))
	}
	for cause, n := range s.Journal.Dropped {
		count(o.losses, n, attribute.String("belay.cause", cause))
	}
	count(o.written, s.Journal.Written)
	count(o.journal, uint64(max(s.Journal.Bytes, 0))) //nolint:gosec // not negative
	for name, n := range s.Counters {
		count(o.counters, n, attribute.String("belay.counter", name))
	}
	for _, m := range s.Maps {
		kv := attribute.String("belay.map", m.Name)
		count(o.used, uint64(max(m.Used, 0)), kv) //nolint:gosec // not negative
		count(o.max, uint64(max(m.Max, 0)), kv)   //nolint:gosec // not negative
	}
	o.loads(ob, s.Loads)
	for resource, waited := range s.Pressure {
		ob.ObserveFloat64(o.pressure, waited.Seconds(), metric.WithAttributes(attribute.String("belay.resource", resource)))
	}
	if s.Own.MemoryMax > 0 {
		count(o.ownMemory, uint64(max(s.Own.Memory, 0))) //nolint:gosec // not negative
		count(o.ownMax, uint64(s.Own.MemoryMax))         //nolint:gosec // not negative
	}
	count(o.ownStep, uint64(s.Own.Step))
	for _, out := range s.Outputs {
		name := attribute.String("belay.output", out.Name)
		count(o.outSent, out.Sent, name)
		count(o.outQueued, uint64(max(out.Queued, 0)), name) //nolint:gosec // a length
		for cause, n := range out.Dropped {
			count(o.outDropped, n, name, attribute.String("belay.cause", cause))
		}
	}
	now := time.Now()
	for _, i := range s.Scans[:min(len(s.Scans), maxImages)] {
		if !i.At.IsZero() {
			ob.ObserveFloat64(o.age, now.Sub(i.At).Seconds(), metric.WithAttributes(attribute.String("belay.image.id", i.ID)))
		}
	}
	if !s.Database.IsZero() {
		ob.ObserveFloat64(o.dbAge, now.Sub(s.Database).Seconds())
	}
	return nil
}

func (o *observer) loads(ob metric.Observer, levels []LoadLevel) {
	for i := range levels {
		l := &levels[i]
		with := metric.WithAttributes(attribute.String("belay.policy.name", l.Policy), attribute.String("belay.load.cap", l.Cap))
		if l.Known {
			ob.ObserveFloat64(o.load, l.Percent, with)
		}
		var over float64
		if l.Over {
			over = 1
		}
		ob.ObserveFloat64(o.loadCap, float64(l.Limit), with)
		ob.ObserveFloat64(o.loadOver, over, with)
	}
}

// process observes what the agent itself takes: getrusage(2), and /proc/self/statm.
func (o *observer) process(ob metric.Observer) {
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		ob.ObserveFloat64(o.cpu, time.Duration(ru.Utime.Nano()).Seconds(), metric.WithAttributes(attribute.String("cpu.mode", "user")))
		ob.ObserveFloat64(o.cpu, time.Duration(ru.Stime.Nano()).Seconds(), metric.WithAttributes(attribute.String("cpu.mode", "system")))
	}
	if n, err := residentBytes(); err == nil {
		ob.ObserveFloat64(o.memory, float64(n))
	}
}

// residentBytes is the second field of /proc/self/statm, in pages: proc_pid_statm(5).
func residentBytes() (uint64, error) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(raw))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/self/statm: %q", raw)
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	return pages * uint64(os.Getpagesize()), err //nolint:gosec // positive
}

// measure puts a call into the histogram, with its span as the exemplar.
func (t *Telemetry) measure(r *journal.Record, sc trace.SpanContext) {
	if r.Kind != journal.KindAPI || r.API == nil || t.inst.latency == nil {
		return
	}
	kv := []attribute.KeyValue{attribute.String("belay.decision", string(r.Decision))}
	kv = text(kv, "belay.api.action", r.API.Action)
	ctx := trace.ContextWithSpanContext(context.Background(), sc)
	t.inst.latency.Record(ctx, (time.Duration(r.API.DurationUS) * time.Microsecond).Seconds(), metric.WithAttributes(kv...))
}
