package enforce

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

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
	if !hasNetwork(eff) {
		return nil
	}
	return e.updateConfig(func(c *kernelBlConfig) { c.Net = 1 })
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
