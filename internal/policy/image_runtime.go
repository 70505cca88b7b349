package policy

import "github.com/belay-project/belay/internal/verdict"

// Runtime returns what a denial is worth in the kernel: a policy, to be bound to one
// container, under which no program of it is executed. Nil if the decision denies nothing.
//
// It holds against loosening policies: lists of paths are never loosened.
func (d *ImageDecision) Runtime() *RuntimePolicy {
	if d.Allowed {
		return nil
	}
	rp := &RuntimePolicy{
		Name: d.Policy,
		Spec: Spec{Mode: verdict.ModeEnforce, Exec: &Exec{Mode: verdict.ModeEnforce, Deny: []Pattern{{PathTree, "/"}}}},
	}
	if rp.Name == "" {
		rp.Name = "image"
	}
	rp.Revision = revisionOf(rp.Canonical())
	return rp
}
