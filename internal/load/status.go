package load

import (
	"time"

	"github.com/belay-project/belay/internal/policy"
)

// Status is what a watcher knows at a moment.
type Status struct {
	Watching bool      // there is a policy, and a sample was taken
	Sampled  time.Time // last
	// Triggers reports whether the kernel tells of pressure by itself.
	Triggers   bool
	Network    float64 // bytes a second of the node, both directions
	Memory     uint64  // bytes that the node has
	Caps       []CapStatus
	Containers []ContainerStatus
	Error      string // why the containers cannot be read
}

// CapStatus is one cap of one policy, held against the node.
type CapStatus struct {
	Policy     string
	Cap        string
	Percent    float64
	Limit      int
	Hysteresis int
	For        time.Duration
	State      string    // calm, pending, over
	Since      time.Time // of pending and over
	Where      string
	Told       bool // the present over was told; false with over: the cool-down holds it back
	HeldBack   uint64
	Error      string // it cannot be read
	Known      bool   // there is a reading
}

// ContainerStatus is one container's part.
type ContainerStatus struct {
	Subject
	CPUs      float64 // used, over the last two samples
	CPUQuota  float64 // 0: none
	Memory    uint64  // bytes, without what the kernel gives back first
	MemoryMax uint64  // 0: none
	PIDs      uint64
	PIDsMax   uint64  // 0: none
	Network   float64 // bytes a second
	HasNet    bool    // it has a network of its own that could be opened
	Written   float64 // bytes a second to block devices
	// PSI is the share of time in which some task waited for cpu, memory, io, in percent; less
	// than 0: not known.
	PSI [numPSI]float64
	// PeakCPUs, PeakMemory and PeakPIDs are the most of the last quarter of an hour.
	PeakCPUs             float64
	PeakMemory, PeakPIDs uint64
	Over                 []string // caps that it is over by a limit of its own
	Error                string
}

// Status returns what is known now. It samples nothing.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Status{Sampled: w.ticked, Triggers: w.triggers != nil, Caps: []CapStatus{}, Containers: []ContainerStatus{}}
	if w.node == nil || len(w.policies) == 0 {
		return s
	}
	s.Watching, s.Network, s.Memory = true, w.node.netRate(), w.node.memTotal
	if w.listErr != nil {
		s.Error = w.listErr.Error()
	}
	for _, p := range w.policies {
		for i := range p.Spec.Caps {
			s.Caps = append(s.Caps, w.capStatus(p, &p.Spec.Caps[i]))
		}
	}
	for _, c := range w.list {
		s.Containers = append(s.Containers, c.status())
	}
	return s
}

// Caps returns what of [Status] is about caps.
func (w *Watcher) Caps() []CapStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []CapStatus
	if w.node == nil {
		return out
	}
	for _, p := range w.policies {
		for i := range p.Spec.Caps {
			out = append(out, w.capStatus(p, &p.Spec.Caps[i]))
		}
	}
	return out
}

func (w *Watcher) capStatus(p *policy.LoadPolicy, c *policy.Cap) CapStatus {
	r := ruleOf(p, c)
	s := CapStatus{Policy: p.Name, Cap: c.Name, Limit: c.Percent, Hysteresis: p.Spec.Hysteresis, For: r.lasting, State: calm.String()}
	got, ok := w.node.read(resourceOf(c.Name), min(rateOver, r.lasting))
	s.Known = ok && got.err == nil
	if s.Known {
		s.Percent = got.percent
	}
	s.Where = got.where
	if ok && got.err != nil {
		s.Error = got.err.Error()
	}
	if m := w.states[stateKey{p.Name, c.Name}]; m != nil {
		s.State, s.HeldBack = m.phase.String(), m.heldBack
		if m.phase != calm {
			s.Since, s.Told = m.since, m.told
		}
	}
	return s
}

func (c *container) status() ContainerStatus {
	s := ContainerStatus{
		Subject: c.Subject, CPUs: c.cpuRate(), CPUQuota: c.cpus, Memory: c.now.memory, MemoryMax: c.memoryMax,
		PIDs: c.now.pids, PIDsMax: c.pidsMax, HasNet: c.hasNet,
		Network: rate(&c.before, &c.now, func(p *point) uint64 { return p.net }) * 1e9,
		Written: rate(&c.before, &c.now, ioOf) * 1e9,
	}
	s.PeakCPUs, s.PeakMemory, s.PeakPIDs = s.CPUs, s.Memory, s.PIDs
	for i := range c.n {
		p := &c.history[(c.first+i)%historyLen]
		s.PeakMemory, s.PeakPIDs = max(s.PeakMemory, p.memory), max(s.PeakPIDs, p.pids)
		if i > 0 {
			s.PeakCPUs = max(s.PeakCPUs, rate(&c.history[(c.first+i-1)%historyLen], p, cpuOf))
		}
	}
	if c.before.net == 0 { // its counters were opened between the two
		s.Network = 0
	}
	for i := range s.PSI {
		var ok bool
		if s.PSI[i], ok = c.percent(PSICPU + Resource(i)); !ok { //nolint:gosec // of three
			s.PSI[i] = -1
		}
	}
	for _, name := range policy.CapNames() {
		for k, m := range c.states {
			if k.cap == name && m.phase == over {
				s.Over = append(s.Over, k.cap)
				break
			}
		}
	}
	if c.err != nil {
		s.Error = c.err.Error()
	}
	return s
}

// Amount is how much there is of a resource, and what is used of it.
type Amount struct{ Has, Use uint64 }

func (a Amount) free() uint64 { return a.Has - min(a.Use, a.Has) }

// Readings is how much the node has and what is used of it, for who plans moves. Where containers
// are confined to a cgroup with a limit of its own (see [Options.Scopes]), it is of that or of the
// node: of the fuller one that is over a cap, else of the one with less room.
type Readings struct {
	At time.Time // of the sample; zero: nothing is sampled
	// Amounts are by [Resource], up to [Inodes]: billionths of a CPU, bytes, tasks, bytes, inodes.
	Amounts    [Inodes + 1]Amount
	Disk       string          // a path in the file system that [Disk] is of
	Pressure   [numPSI]float64 // percent; less than 0: not known
	Unreadable []string        // what cannot be read, in words
}

// Readings returns the last sample.
func (w *Watcher) Readings() Readings {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.node == nil || len(w.policies) == 0 || w.ticked.IsZero() {
		return Readings{}
	}
	r := Readings{At: w.ticked}
	for res := CPU; res <= Inodes; res++ {
		got, ok := w.node.read(res, rateOver)
		switch {
		case got.err != nil:
			r.Unreadable = append(r.Unreadable, got.err.Error())
		case !ok:
			r.Unreadable = append(r.Unreadable, res.String()+": there is one sample so far")
		default:
			r.Amounts[res] = w.amount(res, got)
		}
		if res == Disk {
			r.Disk = got.where
		}
	}
	for i := range r.Pressure {
		got, ok := w.node.read(PSICPU+Resource(i), rateOver) //nolint:gosec // of three
		if r.Pressure[i] = got.percent; got.err != nil || !ok {
			r.Pressure[i] = -1
		}
	}
	return r
}

// amount returns of what has the reading, or of what has less room if that is over no cap.
func (w *Watcher) amount(res Resource, got reading) Amount {
	fuller := amountOf(got.percent, w.node.capacity(res, got))
	if res > PIDs {
		return fuller
	}
	for _, p := range w.policies {
		for i := range p.Spec.Caps {
			if c := &p.Spec.Caps[i]; c.Name == res.String() && got.percent > float64(c.Percent) {
				return fuller
			}
		}
	}
	least := fuller
	for _, p := range w.node.places {
		if percent, limited := p.percent(res); limited && p.err == nil {
			if a := amountOf(percent, p.capacity(res)); a.free() < least.free() {
				least = a
			}
		}
	}
	return least
}

func amountOf(percent float64, has uint64) Amount {
	return Amount{Has: has, Use: uint64(percent * float64(has) / 100)}
}
