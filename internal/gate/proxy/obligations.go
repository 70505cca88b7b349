package proxy

import (
	"maps"
	"slices"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// access are the rules of one policy set.
type access struct {
	*policy.Access
	enforced bool
}

// Enforced implements [Rules].
func (a access) Enforced() bool { return a.enforced }

// RulesOf returns the rules of a set's access policies; nil if it has none. Keep the
// result for as long as the set is in force.
func RulesOf(set *policy.Set) Rules {
	ps := set.AccessPolicies()
	if len(ps) == 0 {
		return nil
	}
	return access{set.Access(), slices.ContainsFunc(ps, func(p *policy.AccessPolicy) bool {
		return p.Spec.Mode == verdict.ModeEnforce
	})}
}

// makes are the actions whose requests can carry labels for what they make.
var makes = map[string]bool{
	"container.create": true, "volume.create": true, "network.create": true, "service.create": true,
	"secret.create": true, "config.create": true,
}

// applyObligations changes the request as the decision demands. A demand that cannot be
// met is an error: the call is denied.
func applyObligations(r *dockerapi.Request, d *policy.AccessDecision) error {
	for _, k := range slices.Sorted(maps.Keys(d.Scope.Labels)) {
		if err := r.SetFilter("label", k+"="+d.Scope.Labels[k]); err != nil {
			return err
		}
	}
	labels := d.Labels
	if labels[policy.OwnerLabel] == "" && makes[r.Call.Action] {
		// An image's own label of that name would be the container's otherwise.
		labels = maps.Clone(labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[policy.OwnerLabel] = policy.Owner(&r.Call.Subject)
	}
	if r.Call.Action == "image.build" {
		labels = nil // an image has no owner: its labels are whoever's built it
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if err := r.SetLabel(k, labels[k]); err != nil {
			return err
		}
	}
	return setDefaults(r, &d.Obligations.Defaults, &r.Call.Facts)
}

// setDefaults fills in what the request leaves open.
func setDefaults(r *dockerapi.Request, d *policy.Defaults, f *apicall.Facts) error {
	if *d == (policy.Defaults{}) {
		return nil
	}
	for _, s := range []struct {
		due bool
		set func() error
	}{
		{d.MemoryBytes > 0 && f.Limits.MemoryBytes == 0, func() error { return r.SetMemory(d.MemoryBytes) }},
		{d.NanoCPUs > 0 && f.Limits.NanoCPUs == 0 && f.Limits.CPUQuota == 0, func() error { return r.SetNanoCPUs(d.NanoCPUs) }},
		{d.PIDs > 0 && f.Limits.PIDs <= 0, func() error { return r.SetPIDs(d.PIDs) }},
		{d.User != "" && f.User == "", func() error { return r.SetUser(d.User) }},
		{d.NoNewPrivileges && !f.NoNewPrivileges, r.SetNoNewPrivileges},
		{d.ReadOnlyRoot && !f.ReadOnly, r.SetReadOnly},
	} {
		if !s.due {
			continue
		}
		if err := s.set(); err != nil {
			return err
		}
	}
	return nil
}
