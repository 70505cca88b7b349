package plan

import (
	"fmt"
	"slices"
)

// Bounds of a state.
const (
	MaxNodes          = 10_000
	MaxContainers     = 2_000   // of a node
	MaxAllContainers  = 200_000 // of all nodes
	MaxHistory        = 100_000
	maxOfOneContainer = 1_000 // mounts, ports, networks, references, each
	maxPriority       = 1_000_000
)

// Check returns what makes a state senseless: a name twice, an amount or share out of range,
// more than is planned for.
func (s *State) Check() error {
	if s.Now.IsZero() {
		return fmt.Errorf("now is not set")
	}
	if len(s.Nodes) > MaxNodes || len(s.History) > MaxHistory || len(s.Windows) > 64 {
		return fmt.Errorf("more than %d nodes, %d moves in the history or 64 windows", MaxNodes, MaxHistory)
	}
	if err := s.Caps.check(s.Hysteresis); err != nil {
		return fmt.Errorf("caps: %w", err)
	}
	if l := &s.Limits; l.AtOnce < 0 || l.PerHour < 0 || l.PerContainer < 0 || l.NoReturn < 0 || l.CoolDown < 0 || l.MaxAge < 0 {
		return fmt.Errorf("limits: a limit is below zero")
	}
	names, all := make(map[string]bool, len(s.Nodes)), 0
	seen := map[seenKey]bool{} // of one node, used again: making 10,000 would be most of the work
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Name == "" || names[n.Name] {
			return fmt.Errorf("nodes[%d]: the name %q is empty or there twice", i, n.Name)
		}
		names[n.Name] = true
		if all += len(n.Containers); all > MaxAllContainers {
			return fmt.Errorf("more than %d containers", MaxAllContainers)
		}
		if err := n.check(s.Hysteresis, seen); err != nil {
			return fmt.Errorf("node %q: %w", n.Name, err)
		}
	}
	for _, name := range s.Sources {
		if !names[name] {
			return fmt.Errorf("sources: there is no node %q", name)
		}
	}
	for i := range s.Windows {
		if w := &s.Windows[i]; w.From < 0 || w.To < 0 || w.From >= dayMinutes || w.To >= dayMinutes || w.From == w.To {
			return fmt.Errorf("windows[%d]: from and to must be minutes of a day, and differ", i)
		}
	}
	for i := range s.History {
		p := &s.History[i]
		if err := p.Use.check(); err != nil || p.Name == "" || p.Began.IsZero() {
			return fmt.Errorf("history[%d]: it has no name or no beginning, or an amount is out of range", i)
		}
	}
	return nil
}

// seenKey is an ID or a name.
type seenKey struct {
	id   bool
	text string
}

func (n *Node) check(hysteresis int, seen map[seenKey]bool) error {
	if n.Caps != nil {
		if err := n.Caps.check(hysteresis); err != nil {
			return fmt.Errorf("caps: %w", err)
		}
	}
	for _, p := range []int{n.Pressure.CPU, n.Pressure.Memory, n.Pressure.IO} {
		if p < 0 || p > 100 {
			return fmt.Errorf("pressure: %d is no share in percent", p)
		}
	}
	if err := n.Has.check(); err != nil {
		return fmt.Errorf("has: %w", err)
	}
	if err := n.Use.check(); err != nil {
		return fmt.Errorf("use: %w", err)
	}
	if len(n.Containers) > MaxContainers {
		return fmt.Errorf("more than %d containers", MaxContainers)
	}
	clear(seen)
	for i := range n.Containers {
		c := &n.Containers[i]
		id, name := seenKey{true, c.ID}, seenKey{false, c.Name}
		if c.ID == "" || c.Name == "" || seen[id] || seen[name] {
			return fmt.Errorf("containers[%d]: the ID %q or the name %q is empty or there twice", i, c.ID, c.Name)
		}
		seen[id], seen[name] = true, true
		if err := c.check(); err != nil {
			return fmt.Errorf("container %q: %w", c.Name, err)
		}
	}
	return nil
}

func (c *Container) check() error {
	if err := c.Use.check(); err != nil {
		return fmt.Errorf("use: %w", err)
	}
	if err := c.Peak.check(); err != nil {
		return fmt.Errorf("peak: %w", err)
	}
	if c.Priority < -maxPriority || c.Priority > maxPriority {
		return fmt.Errorf("priority: %d is not from %d to %d", c.Priority, -maxPriority, maxPriority)
	}
	for _, n := range []int{len(c.Storage.Mounts), len(c.Net.Ports), len(c.Net.Networks), len(c.refs()), len(c.Life.Together), len(c.Needs)} {
		if n > maxOfOneContainer {
			return fmt.Errorf("more than %d mounts, ports, networks, references or needs", maxOfOneContainer)
		}
	}
	for i := range c.Storage.Mounts {
		if b := c.Storage.Mounts[i].Bytes; b < 0 || b > MaxAmount {
			return fmt.Errorf("storage.mounts[%d].bytes: %d is out of range", i, b)
		}
	}
	if c.Storage.LayerBytes < 0 || slices.ContainsFunc(c.Net.Ports, func(p Port) bool { return p.Port < 0 || p.Port > 65535 }) {
		return fmt.Errorf("layerBytes or a port is out of range")
	}
	return nil
}

func (a Amounts) check() error {
	for r, v := range a.vector() {
		if v < 0 || v > MaxAmount {
			return fmt.Errorf("%s: %d is not from 0 to %d", Resource(r), v, int64(MaxAmount))
		}
	}
	return nil
}

func (c *Caps) check(hysteresis int) error {
	if hysteresis < 0 || hysteresis > 50 {
		return fmt.Errorf("hysteresis: %d is not from 0 to 50", hysteresis)
	}
	for _, v := range []int{c.CPU, c.Memory, c.PIDs, c.Disk, c.Inodes, c.PSICPU, c.PSIMemory, c.PSIIO} {
		if v != 0 && (v < 1 || v > 99 || v <= hysteresis) {
			return fmt.Errorf("%d%% is not from 1%% to 99%%, or not above the hysteresis of %d points", v, hysteresis)
		}
	}
	return nil
}
