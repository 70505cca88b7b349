package enforce

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
)

// ErrFull is wrapped when a kernel map has no room for a policy.
var ErrFull = errors.New("the kernel map is full")

// setTable knows the effective policies that are in the kernel.
type setTable struct {
	byRevision map[string]uint32
	info       map[uint32]*setInfo
	binds      map[ident.ContainerID]uint32
	floor      uint32
	build      uint32
	next       uint32
	garbage    []garbage
}

type setInfo struct {
	eff     *policy.Effective // nil: an earlier agent's
	sources []policy.Source   // of an earlier agent's, as far as it wrote them down
	key     string            // in byRevision; empty: an earlier agent's
	refs    int

	// Of policies with phases: see putPhased.
	whole *policy.Effective     // what was bound, of the set that holds at the start; else nil
	phase string                // Phase*; empty: the policy has none
	holds []uint32              // sets that table names, on each of which this one has a reference
	table [phases]kernelBlPhase // of the set that holds at the start
}

// garbage is a set that nothing names any more. It stays for a while, since a program
// may have read its number just before.
type garbage struct {
	set   uint32
	since time.Time
}

const garbageAge = 10 * time.Second

// loadSets reads what an earlier agent left: its sets are unknown here, but their
// numbers are taken, and its bindings hold until the agent has bound anew.
func (e *Enforcer) loadSets() error {
	e.sets = setTable{byRevision: map[string]uint32{}, info: map[uint32]*setInfo{}, binds: map[ident.ContainerID]uint32{}, next: 1}
	names := e.readSources()
	var set uint32
	var p kernelBlPolicy
	found := map[uint32]kernelBlPolicy{}
	it := e.maps["bl_policies"].Iterate()
	for it.Next(&set, &p) {
		found[set] = p
		e.sets.info[set] = &setInfo{sources: names[set]}
		e.sets.next = max(e.sets.next, set+1)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the policy map: %w", err)
	}
	e.holdPhases(found)
	// Higher numbers than those that are left were in use: sockets remember them.
	var next uint64
	if err := e.maps["bl_globals"].Lookup(uint32(kernelBlGlobalBL_G_SET), &next); err != nil {
		return fmt.Errorf("read the next set number: %w", err)
	}
	e.sets.next = max(e.sets.next, uint32(next))
	var id kernelBlId
	it = e.maps["bl_binds"].Iterate()
	for it.Next(&id, &set) {
		e.sets.binds[ident.ContainerIDFromBytes(id.B)] = set
		if s := e.sets.info[set]; s != nil {
			s.refs++
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the binding map: %w", err)
	}
	return nil
}

// SetFloor makes floor the policy of every container without a binding, and build that
// of build steps. The change is one write: no exec sees half of a policy.
//
// Errors: [ErrFull]; the old policies stay in force.
func (e *Enforcer) SetFloor(floor, build *policy.Effective) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, err := e.put(floor)
	if err != nil {
		return err
	}
	b, err := e.put(build)
	if err != nil {
		e.drop(f)
		return err
	}
	if err := e.updateConfig(func(c *kernelBlConfig) { c.FloorSet, c.BuildSet = f, b }); err != nil {
		return err
	}
	if e.sets.floor != f || e.sets.build != b {
		e.rulesChanged(nil)
	}
	e.drop(e.sets.floor)
	e.drop(e.sets.build)
	e.sets.floor, e.sets.build = f, b
	return e.collect(time.Now())
}

// Bind makes eff the policy of a container, from now on and across restarts of the
// container, until [Enforcer.Unbind].
//
// Errors: [ErrFull], [ident.ErrFormat]; the old binding stays in force.
func (e *Enforcer) Bind(id ident.ContainerID, eff *policy.Effective) error {
	key, err := id.Bytes()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	set, err := e.put(eff)
	if err != nil {
		return err
	}
	old, had := e.sets.binds[id]
	if had && old == set {
		e.drop(set) // put took a reference
		return nil
	}
	if err := e.maps["bl_binds"].Put(kernelBlId{B: key}, set); err != nil {
		e.drop(set)
		return fmt.Errorf("bind %s: %w", id.Short(), full(err))
	}
	e.sets.binds[id] = set
	e.rulesChanged(&key)
	if had {
		e.drop(old)
	}
	return e.collect(time.Now())
}

// Unbind removes the binding of a container that its runtime has destroyed.
func (e *Enforcer) Unbind(id ident.ContainerID) error {
	key, err := id.Bytes()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	set, had := e.sets.binds[id]
	if !had {
		return nil
	}
	if err := e.maps["bl_binds"].Delete(kernelBlId{B: key}); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("unbind %s: %w", id.Short(), err)
	}
	delete(e.sets.binds, id)
	e.drop(set)
	return e.collect(time.Now())
}

// Bound returns the containers that have a binding.
func (e *Enforcer) Bound() []ident.ContainerID {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := make([]ident.ContainerID, 0, len(e.sets.binds))
	for id := range e.sets.binds {
		ids = append(ids, id)
	}
	return ids
}

// PolicyOf returns the effective policy that the kernel holds for a container, with the
// rules of all its phases, and whether it is the container's own (else the floor).
func (e *Enforcer) PolicyOf(id ident.ContainerID) (eff *policy.Effective, own bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	set, own := e.sets.binds[id]
	if !own {
		set = e.sets.floor
	}
	if s := e.sets.info[set]; s != nil {
		if eff = s.eff; s.whole != nil {
			eff = s.whole
		}
	}
	return eff, own
}

// source returns what a record's policy index means.
func (e *Enforcer) source(set uint32, index uint16) (policy.Source, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sets.info[set]
	if s == nil {
		return policy.Source{}, false
	}
	sources := s.sources
	if s.eff != nil {
		sources = s.eff.Sources
	}
	if int(index) >= len(sources) {
		return policy.Source{}, false
	}
	return sources[index], true
}

// readSources reads what an earlier agent wrote down. What cannot be read is not known.
func (e *Enforcer) readSources() map[uint32][]policy.Source {
	if e.opts.SetsFile == "" || !e.adopted {
		return nil
	}
	raw, err := os.ReadFile(e.opts.SetsFile)
	if err == nil {
		var out map[uint32][]policy.Source
		if err = json.Unmarshal(raw, &out); err == nil {
			return out
		}
	}
	e.opts.Log.Warn("denials made while no agent ran will name no policy", "error", err.Error())
	return nil
}

// writeSources writes down what the sets in the kernel come from. e.mu is held.
func (e *Enforcer) writeSources() {
	if e.opts.SetsFile == "" {
		return
	}
	out := map[uint32][]policy.Source{}
	for set, s := range e.sets.info {
		if s.eff != nil {
			out[set] = s.eff.Sources
		} else if s.sources != nil {
			out[set] = s.sources
		}
	}
	raw, err := json.Marshal(out)
	if err == nil {
		err = atomicfile.WriteFile(e.opts.SetsFile, raw, 0o600)
	}
	if err != nil {
		e.opts.Log.Warn("denials made while no agent runs will name no policy", "error", err.Error())
	}
}

// put makes sure that eff is in the kernel and takes a reference. Equal policies share
// a set.
func (e *Enforcer) put(eff *policy.Effective) (uint32, error) {
	if len(eff.Phases) > 0 && eff.Phases[0].Quiet != nil {
		return e.putPhased(eff)
	}
	return e.putRules(eff.Revision, eff)
}

// putRules is put for rules that hold as long as the set does. key: of what is shared.
func (e *Enforcer) putRules(key string, eff *policy.Effective) (uint32, error) {
	if set, ok := e.sets.byRevision[key]; ok {
		e.sets.info[set].refs++
		return set, nil
	}
	set, err := e.nextSet()
	if err != nil {
		return 0, err
	}
	return set, e.enter(set, &setInfo{eff: eff, key: key, refs: 1})
}

// nextSet takes the next set number.
func (e *Enforcer) nextSet() (uint32, error) {
	set := e.sets.next
	if err := e.maps["bl_globals"].Put(uint32(kernelBlGlobalBL_G_SET), uint64(set)+1); err != nil {
		return 0, fmt.Errorf("write the next set number: %w", err)
	}
	e.sets.next++
	return set, nil
}

// enter writes a set into the kernel and knows it from then on.
func (e *Enforcer) enter(set uint32, s *setInfo) error {
	if err := e.write(set, s); err != nil {
		return errors.Join(err, e.erase(set, s.eff))
	}
	e.sets.byRevision[s.key] = set
	e.sets.info[set] = s
	e.writeSources()
	return nil
}

func (e *Enforcer) drop(set uint32) {
	s := e.sets.info[set]
	if s == nil {
		return
	}
	if s.refs--; s.refs <= 0 {
		e.sets.garbage = append(e.sets.garbage, garbage{set, time.Now()})
	}
}

// collect erases garbage that is old enough.
func (e *Enforcer) collect(now time.Time) error {
	var keep []garbage
	var errs []error
	var named []uint32
	for _, g := range e.sets.garbage {
		s := e.sets.info[g.set]
		if s == nil || s.refs > 0 { // taken up again
			continue
		}
		if now.Sub(g.since) < garbageAge {
			keep = append(keep, g)
			continue
		}
		errs = append(errs, e.erase(g.set, s.eff))
		if s.key != "" && e.sets.byRevision[s.key] == g.set {
			delete(e.sets.byRevision, s.key)
		}
		named = append(named, s.holds...)
		delete(e.sets.info, g.set)
	}
	e.sets.garbage = keep
	for _, set := range named { // a program may have read the number just before
		e.drop(set)
	}
	return errors.Join(errs...)
}

// sweep drops sets of an earlier agent that no binding names.
func (e *Enforcer) sweep() {
	for set, s := range e.sets.info {
		if s.refs <= 0 && set != e.sets.floor && set != e.sets.build {
			e.sets.garbage = append(e.sets.garbage, garbage{set, time.Now()})
		}
	}
}

// write puts a set's rules first and its policy last, so that a set that can be found
// is whole.
func (e *Enforcer) write(set uint32, s *setInfo) error {
	eff := s.eff
	for _, r := range eff.Paths {
		key, value := e.encodePath(set, r)
		if err := e.maps["bl_paths"].Put(key, value); err != nil {
			return fmt.Errorf("path rule %s: %w", r.Path, full(err))
		}
	}
	if opens := opensOf(eff); opens != 0 { // before the set can be found: opens are judged from here on
		if err := e.updateConfig(func(c *kernelBlConfig) { c.Opens |= opens }); err != nil {
			return err
		}
	}
	for _, r := range eff.Files {
		key, value := encodeFile(e.key, set, r)
		if err := e.maps["bl_paths"].Put(key, value); err != nil {
			return fmt.Errorf("file rule %s: %w", r.Path, full(err))
		}
	}
	for slot := range eff.SSHTo {
		for _, d := range eff.SSHTo[slot] {
			key, value, err := encodeSSHDest(set, uint32(slot), d)
			if err != nil {
				return err
			}
			if err := e.maps["bl_ssh_to"].Put(key, value); err != nil {
				return fmt.Errorf("ssh destination %s: %w", d.Prefix, full(err))
			}
		}
	}
	if err := e.writeNetwork(set, eff); err != nil {
		return err
	}
	if err := e.maps["bl_policies"].Put(set, s.encode(set)); err != nil {
		return fmt.Errorf("policy set: %w", full(err))
	}
	return nil
}

// erase removes a set: its policy first, so that it cannot be found half-gone. eff may
// be nil (a set of an earlier agent): then the maps are walked.
func (e *Enforcer) erase(set uint32, eff *policy.Effective) error {
	var errs []error
	gone := func(err error) {
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	gone(e.maps["bl_policies"].Delete(set))
	if eff != nil {
		for _, r := range eff.Paths {
			key, _ := e.encodePath(set, r)
			gone(e.maps["bl_paths"].Delete(key))
		}
		for _, r := range eff.Files {
			key, _ := encodeFile(e.key, set, r)
			gone(e.maps["bl_paths"].Delete(key))
		}
		gone(e.eraseNetwork(set, eff))
	} else {
		gone(deleteWhere(e.maps["bl_net_addrs"], func(k *kernelBlNetKey) bool { return k.Set == set }))
		gone(deleteWhere(e.maps["bl_net_ports"], func(k *kernelBlPortKey) bool { return k.Set == set }))
		gone(deleteWhere(e.maps["bl_paths"], func(k *kernelBlPathKey) bool { return k.Set == set }))
	}
	if eff == nil || len(eff.NetNames) > 0 {
		e.eraseNames(set, gone)
	}
	gone(deleteWhere(e.maps["bl_ssh_to"], func(k *kernelBlSshKey) bool { return k.Set == set }))
	gone(deleteWhere(e.maps["bl_inodes"], func(k *kernelBlInodeKey) bool { return k.Set == set }))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("erase policy set %d: %w", set, err)
	}
	return nil
}

// deleteWhere deletes the entries whose key matches.
func deleteWhere[K any](m *ebpf.Map, match func(*K) bool) error {
	var keys []K
	var key K
	value := make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		if match(&key) {
			keys = append(keys, key)
		}
	}
	err := it.Err()
	if errors.Is(err, ebpf.ErrIterationAborted) {
		err = nil // changed meanwhile: what was seen goes now, the rest the next time
	}
	for _, k := range keys {
		if e := m.Delete(k); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// checkSets compares the policies, bindings and configuration in the kernel with what
// was written.
//
// Errors: [ErrCanary] if somebody has edited them.
func (e *Enforcer) checkSets() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	opens, net, names := uint32(0), false, false
	for set, s := range e.sets.info {
		if s.eff == nil || s.refs <= 0 {
			continue
		}
		opens |= opensOf(s.eff)
		net = net || hasNetwork(s.eff)
		names = names || len(s.eff.NetNames) > 0
		var p kernelBlPolicy
		if err := e.maps["bl_policies"].Lookup(set, &p); err != nil || p != s.encode(set) {
			return fmt.Errorf("policy set %d in the kernel is not what was written: %w", set, ErrCanary)
		}
	}
	for id, set := range e.sets.binds {
		key, err := id.Bytes()
		if err != nil {
			return err
		}
		var bound uint32
		if err := e.maps["bl_binds"].Lookup(kernelBlId{B: key}, &bound); err != nil || bound != set {
			return fmt.Errorf("the binding of %s in the kernel is not what was written: %w", id.Short(), ErrCanary)
		}
	}
	var c kernelBlConfig
	if err := e.maps["bl_configs"].Lookup(uint32(0), &c); err != nil ||
		c.Abi != abi || c.FloorSet != e.sets.floor || c.BuildSet != e.sets.build || c.Scoped != flag(len(e.opts.Scopes) > 0) || c.Opens&opens != opens || net && c.Net == 0 || names && c.Names == 0 {
		return fmt.Errorf("the configuration in the kernel is not what was written: %w", ErrCanary)
	}
	return nil
}

// full marks the errors of a map without room: E2BIG, or ENOMEM, ENOSPC.
func full(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(ErrFull, err)
}
