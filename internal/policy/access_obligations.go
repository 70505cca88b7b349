package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// mergeObligations returns what a and b ask for together; where both give a value,
// a's counts, and of two limits the lower one. Either may be nil.
func mergeObligations(a, b *Obligations) Obligations {
	switch {
	case a == nil && b == nil:
		return Obligations{}
	case a == nil:
		return *b
	case b == nil:
		return *a
	}
	lower := func(x, y int64) int64 {
		if x == 0 || y != 0 && y < x {
			return y
		}
		return x
	}
	x, y := a.Defaults, b.Defaults
	user := x.User
	if user == "" {
		user = y.User
	}
	m := Obligations{
		Owner: a.Owner || b.Owner,
		Defaults: Defaults{
			MemoryBytes: lower(x.MemoryBytes, y.MemoryBytes), NanoCPUs: lower(x.NanoCPUs, y.NanoCPUs),
			PIDs: lower(x.PIDs, y.PIDs), User: user,
			NoNewPrivileges: x.NoNewPrivileges || y.NoNewPrivileges, ReadOnlyRoot: x.ReadOnlyRoot || y.ReadOnlyRoot,
		},
		Labels:       a.Labels,
		DockerSocket: stricterSocket(a.DockerSocket, b.DockerSocket),
		RedactEnv:    a.RedactEnv,
	}
	if len(b.Labels) > 0 {
		m.Labels = maps.Clone(b.Labels)
		maps.Copy(m.Labels, a.Labels)
	}
	if len(b.RedactEnv) > 0 {
		m.RedactEnv = slices.Concat(a.RedactEnv, b.RedactEnv)
	}
	return m
}

// stricterSocket returns the one of two values of dockerSocket that allows less.
func stricterSocket(a, b string) string {
	switch {
	case a == SocketRefuse || b == SocketRefuse:
		return SocketRefuse
	case a != "":
		return a
	}
	return b
}

// DockerSocket returns what becomes of a mount of the daemon's socket in a call of this
// caller, and the policy that says so: [SocketRefuse] of any policy in enforce mode goes
// before [SocketReplace] of another. It is "" if none says anything: the call is judged as
// it is. It is asked before [Access.Decide], so that the mount which is judged is the one
// that will be.
func (s *Access) DockerSocket(sub *apicall.Subject) (what string, by *AccessPolicy) {
	for _, c := range s.match(sub, nil) {
		for _, p := range s.classes[c].obligers {
			v := p.Spec.Obligations.DockerSocket
			if v != "" && (what == "" || v == SocketRefuse && what != SocketRefuse) {
				what, by = v, p
			}
		}
	}
	return what, by
}

// Redacts reports whether the value of the environment variable must not be shown.
// Upper and lower case are one.
func (o *Obligations) Redacts(name string) bool {
	for _, p := range o.RedactEnv {
		if matchText(strings.ToUpper(p), strings.ToUpper(name)) {
			return true
		}
	}
	return false
}

// labelsToSet returns the labels that the gate puts on what the call makes; nil: none.
// The map may be the policy's own.
func labelsToSet(o *Obligations, sub *apicall.Subject) map[string]string {
	if !o.Owner {
		return o.Labels
	}
	m := make(map[string]string, len(o.Labels)+1)
	maps.Copy(m, o.Labels)
	m[OwnerLabel] = Owner(sub)
	return m
}
