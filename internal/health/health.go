// Package health keeps what the parts of the agent say about themselves: whether
// each works, since when and why not, and counters that only grow.
//
// A [Registry] owns that state in memory. It never logs, exports or decides; the
// control socket and telemetry read snapshots of it. It does no I/O. It imports the
// standard library only (row core).
package health

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// State says how a component does. The zero value is [Failed]: a component that
// nobody has spoken for does not count as working.
type State uint8

// The states, worst first, so that a < b means that a is worse.
const (
	Failed   State = 0 // it does not do its work
	Degraded State = 1 // it does its work in part, or with losses
	OK       State = 2
)

// String returns failed, degraded or ok.
func (s State) String() string {
	switch s {
	case OK:
		return "ok"
	case Degraded:
		return "degraded"
	}
	return "failed"
}

// MarshalText returns the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText sets s to the state that text names.
func (s *State) UnmarshalText(text []byte) error {
	for _, k := range []State{Failed, Degraded, OK} {
		if k.String() == string(text) {
			*s = k
			return nil
		}
	}
	return fmt.Errorf("health state %q: want ok, degraded or failed", text)
}

// Component is one part's state at one moment.
type Component struct {
	Name   string    `json:"name"`
	State  State     `json:"state"`
	Reason string    `json:"reason,omitempty"` // a sentence for the operator; empty when ok
	Since  time.Time `json:"since"`            // when it entered State; a new reason does not move it
}

// CounterValue is one counter at one moment.
type CounterValue struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"` // since the registry was made
}

// Snapshot is the whole registry at one moment.
type Snapshot struct {
	State      State          `json:"state"`      // the worst of the components; failed if there are none
	Time       time.Time      `json:"time"`       // when it was taken
	Components []Component    `json:"components"` // by name; never null in JSON
	Counters   []CounterValue `json:"counters"`   // by name; never null in JSON
}

// Registry holds components and counters. Make one with [New]. Names are constants
// of the program, never text that a container chose, so it stays small.
//
// All methods are safe for concurrent use.
type Registry struct {
	now func() time.Time

	// mu guards the fields below.
	mu         sync.Mutex
	components map[string]Component
	counters   map[string]*Counter
}

// New returns an empty registry that takes the time from now, or from [time.Now] if
// now is nil.
func New(now func() time.Time) *Registry {
	if now == nil {
		now = time.Now
	}
	return &Registry{now: now, components: map[string]Component{}, counters: map[string]*Counter{}}
}

// Expect enters components that will report later as [Failed], so that one which
// never starts is missed. Components already there keep their state.
func (r *Registry) Expect(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		if _, ok := r.components[n]; !ok {
			r.components[n] = Component{Name: n, State: Failed, Reason: "has not reported yet", Since: r.now()}
		}
	}
}

// SetOK reports that component works.
func (r *Registry) SetOK(component string) { r.set(component, OK, "") }

// SetDegraded reports that component works in part; reason says what is lost.
func (r *Registry) SetDegraded(component, reason string) { r.set(component, Degraded, reason) }

// SetFailed reports that component does not do its work.
func (r *Registry) SetFailed(component, reason string) { r.set(component, Failed, reason) }

func (r *Registry) set(name string, s State, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.components[name]
	if !ok || c.State != s {
		c.Since = r.now()
	}
	c.Name, c.State, c.Reason = name, s, reason
	r.components[name] = c
}

// Component returns the state of one component, and false if it is unknown (its
// State is then [Failed]).
func (r *Registry) Component(name string) (Component, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.components[name]
	return c, ok
}

// Counter returns the counter of that name, made at the first call. Callers on a
// hot path keep the result.
func (r *Registry) Counter(name string) *Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.counters[name]
	if !ok {
		c = new(Counter)
		r.counters[name] = c
	}
	return c
}

// Snapshot returns the state of everything, ordered by name. Components are
// consistent with each other; counters are read one by one.
func (r *Registry) Snapshot() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Snapshot{
		Time:       r.now(),
		Components: slices.AppendSeq(make([]Component, 0, len(r.components)), maps.Values(r.components)),
		Counters:   make([]CounterValue, 0, len(r.counters)),
	}
	slices.SortFunc(s.Components, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
	for i, c := range s.Components {
		if i == 0 || c.State < s.State {
			s.State = c.State
		}
	}
	for _, n := range slices.Sorted(maps.Keys(r.counters)) {
		s.Counters = append(s.Counters, CounterValue{Name: n, Value: r.counters[n].Load()})
	}
	return s
}

// Counter is a number that only grows. The zero value is ready; a copy is not
// allowed after first use. Safe for concurrent use and free of allocation.
type Counter struct {
	n atomic.Uint64
}

// Add raises the counter by n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Raise lifts the counter to total if it is below: for totals kept elsewhere, such
// as the kernel's, that are read now and then.
func (c *Counter) Raise(total uint64) {
	for {
		old := c.n.Load()
		if total <= old || c.n.CompareAndSwap(old, total) {
			return
		}
	}
}

// Load returns the counter's value.
func (c *Counter) Load() uint64 { return c.n.Load() }
