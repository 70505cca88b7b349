package enforce

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// netRules are those of the section network for which packets and calls are judged. Packet sockets
// are judged when they are made, and cost nothing afterwards.
var netRules = []verdict.Rule{verdict.RuleEgress, verdict.RuleIngress, verdict.RuleListen, verdict.RuleRawSockets}

// hasNetwork reports whether a policy has one of them in either mode.
func hasNetwork(eff *policy.Effective) bool {
	for slot := range eff.Rules {
		for _, r := range netRules {
			if eff.Rules[slot][r].Verdict == verdict.Deny {
				return true
			}
		}
	}
	return false
}

// writeNetwork puts the network rules of a set into the kernel, before the set can be found.
func (e *Enforcer) writeNetwork(set uint32, eff *policy.Effective) error {
	for _, p := range eff.NetPorts { // a list is whole before an address names it
		key, value := encodeNetPort(set, p)
		if err := e.maps["bl_net_ports"].Put(key, value); err != nil {
			return fmt.Errorf("network rule on port %d: %w", p.Port, full(err))
		}
	}
	for _, a := range eff.NetAddrs {
		key, value := encodeNetAddr(set, a)
		if err := e.maps["bl_net_addrs"].Put(key, value); err != nil {
			return fmt.Errorf("network rule on %s: %w", a.Prefix, full(err))
		}
	}
	if err := e.writeNames(set, eff); err != nil {
		return err
	}
	if !hasNetwork(eff) {
		return nil
	}
	return e.updateConfig(func(c *kernelBlConfig) {
		c.Net = 1
		if len(eff.NetNames) > 0 {
			c.Names = 1
		}
	})
}

// writeNames puts a set's names into the kernel, and whose answers to questions after them count.
func (e *Enforcer) writeNames(set uint32, eff *policy.Effective) error {
	for _, n := range eff.NetNames {
		key, value := encodeName(e.key, set, n)
		if err := e.maps["bl_names"].Put(key, value); err != nil {
			return fmt.Errorf("network rule on %s: %w", n.Pattern, full(err))
		}
	}
	for _, r := range eff.NetNameRules {
		if err := e.maps["bl_name_rules"].Put(encodeNameRule(e.key, set, r), uint32(1)); err != nil {
			return fmt.Errorf("network rule on %s: %w", r.Pattern, full(err))
		}
	}
	var host []netip.Addr
	for mode, r := range eff.Resolvers {
		if r.Default && host == nil {
			var err error
			if host, err = hostinfo.Resolvers(e.opts.ResolvConf...); err != nil {
				return fmt.Errorf("trusted DNS servers: %w", err)
			}
			host = append(host, dockerResolver)
		}
		for _, a := range r.Of(host) {
			key := kernelBlResolver{Set: nameSet(set, verdict.Mode(mode)), Addr: a.As16()}
			if err := e.maps["bl_resolvers"].Put(key, uint32(1)); err != nil {
				return fmt.Errorf("DNS server %s: %w", a, full(err))
			}
		}
	}
	return nil
}

// dockerResolver is the server that the Docker Engine runs in the network namespace of containers
// on networks that users made.
var dockerResolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// eraseNames erases what writeNames wrote, of an earlier agent too: the servers of then are known
// from the map only.
func (e *Enforcer) eraseNames(set uint32, gone func(error)) {
	gone(deleteWhere(e.maps["bl_names"], func(k *kernelBlNameKey) bool { return k.Set>>1 == set }))
	gone(deleteWhere(e.maps["bl_name_rules"], func(k *kernelBlNameRule) bool { return k.Set>>1 == set }))
	gone(deleteWhere(e.maps["bl_resolvers"], func(k *kernelBlResolver) bool { return k.Set>>1 == set }))
}

func (e *Enforcer) eraseNetwork(set uint32, eff *policy.Effective) error {
	var errs []error
	gone := func(err error) {
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	for _, a := range eff.NetAddrs {
		key, _ := encodeNetAddr(set, a)
		gone(e.maps["bl_net_addrs"].Delete(key))
	}
	for _, p := range eff.NetPorts {
		key, _ := encodeNetPort(set, p)
		gone(e.maps["bl_net_ports"].Delete(key))
	}
	return errors.Join(errs...)
}
