package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// What a create is worth in the kernel comes back from its normal form, names what is
// owed, and audits where its policy does.
func TestRuntimeKept(t *testing.T) {
	const text = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: both}
spec:
  mode: MODE
  subjects: {everyone: true}
  rules:
    - {name: create, effect: allow, actions: [container.create], checks: [notRoot, readOnlyRoot]}
`
	call := apicall.Call{
		Subject: apicall.Subject{Kind: apicall.User, UID: 1000}, Action: "container.create",
		Facts: apicall.Facts{User: "1000", UserSet: true, ReadOnly: true},
	}
	for _, mode := range []string{"enforce", "audit"} {
		t.Run(mode, func(t *testing.T) {
			docs, err := ParseAll("access.yaml", []byte(strings.ReplaceAll(text, "MODE", mode)))
			if err != nil {
				t.Fatal(err)
			}
			set, err := NewSet(nil, docs.Access...)
			if err != nil {
				t.Fatal(err)
			}
			own := set.Access().RuntimeFor(&call, time.Now())
			if len(own) != 1 || own[0].Spec.Mode.String() != mode {
				t.Fatalf("got %v, want one policy in %s", own, mode)
			}
			want := map[string]string{"enforce": "exec.asRoot,exec.drift", "audit": ""}[mode]
			if got := Owed(own); got != want {
				t.Errorf("owed %q, want %q", got, want)
			}
			back, err := RestoreRuntime(own[0].File, own[0].Line, own[0].Canonical())
			if err != nil {
				t.Fatal(err)
			}
			if back.Revision != own[0].Revision || back.Line != own[0].Line || back.lines["exec.asRoot"] != own[0].Line {
				t.Errorf("got %+v back, want %+v", back, own[0])
			}
			eff := set.EffectiveWith(Subject{}, []*RuntimePolicy{back})
			m := back.Spec.Mode
			for _, r := range []verdict.Rule{verdict.RuleAsRoot, verdict.RuleDrift} {
				if eff.Rules[m][r].Verdict != verdict.Deny {
					t.Errorf("%s is not denied in %s", r, mode)
				}
			}
			if eff.Rules[m][verdict.RuleMemfd].Verdict == verdict.Deny {
				t.Error("memfd is denied: no check asked for it")
			}
		})
	}
	lost := RuntimeOwed("exec.asRoot,nonsense")
	if lost == nil || lost.Spec.Exec.AsRoot != Deny || lost.Spec.Exec.Drift != Unset || lost.Spec.Guard != nil {
		t.Errorf("of a label: %+v", lost)
	}
	if lost := RuntimeOwed("guard.sockets"); lost == nil || lost.Spec.Exec != nil || lost.Spec.Guard.Sockets != Deny {
		t.Errorf("of a label: %+v", lost)
	}
	if RuntimeOwed("true") != nil {
		t.Error("a label that names nothing gave a policy")
	}
	if _, err := RestoreRuntime("f", 1, []byte("kind: RuntimePolicy")); err == nil {
		t.Error("half a document was taken")
	}
}

// An exec without a user runs as the container's own, whatever a rule sets at create.
func TestExecOwnUser(t *testing.T) {
	set := &Defaults{User: "1000"}
	for _, d := range []struct {
		name  string
		facts apicall.Facts
		bad   bool
	}{
		{"not known", apicall.Facts{}, true},
		{"root", apicall.Facts{ImageUserKnown: true}, true},
		{"root in numbers", apicall.Facts{ImageUserKnown: true, ImageUser: "0:1000"}, true},
		{"another", apicall.Facts{ImageUserKnown: true, ImageUser: "1000"}, false},
		{"asked", apicall.Facts{User: "5"}, false},
		{"root asked", apicall.Facts{User: "0", ImageUserKnown: true, ImageUser: "1000"}, true},
	} {
		if why := rootReason(checkInput{actionIDs["container.exec"], &d.facts, set}, false); (why != "") != d.bad {
			t.Errorf("%s: %q", d.name, why)
		}
	}
}

// What one policy's checks are worth is written down once, and is right for each combination.
func TestRuntimeForIsKept(t *testing.T) {
	docs, err := ParseAll("a.yaml", []byte(`apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: a}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: both, effect: allow, actions: [container.create], checks: [readOnlyRoot, notRoot]}
    - {name: one, effect: allow, actions: [container.create], checks: [notRoot]}
`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := NewSet(nil, docs.Access...)
	if err != nil {
		t.Fatal(err)
	}
	call := func(readOnly bool) *apicall.Call {
		return &apicall.Call{Subject: apicall.Subject{Kind: apicall.User, UID: 5}, Action: "container.create", Facts: apicall.Facts{User: "1000", ReadOnly: readOnly}}
	}
	for _, readOnly := range []bool{true, false, true, false} {
		first, again := set.Access().RuntimeFor(call(readOnly), at), set.Access().RuntimeFor(call(readOnly), at)
		if len(first) != 1 || len(again) != 1 || first[0] != again[0] {
			t.Fatalf("read only %v: got %+v and %+v", readOnly, first, again)
		}
		rp := *first[0]
		rp.canonical = nil
		if string(rp.Canonical()) != string(first[0].Canonical()) || rp.Revision != revisionOf(rp.Canonical()) {
			t.Error("what is kept is not its normal form")
		}
		if e := rp.Spec.Exec; e.AsRoot != Deny || (e.Drift == Deny) != readOnly {
			t.Errorf("read only %v: %+v", readOnly, e)
		}
	}
}

// noSocketMounts is held in the kernel too, but where a policy lets the socket itself be mounted.
func TestRuntimeOfSockets(t *testing.T) {
	docs, err := ParseAll("a.yaml", []byte(`apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: a}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: create, effect: allow, actions: [container.create], checks: [{noSocketMounts: {allow: [/run/docker.sock]}}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := NewSet(nil, docs.Access...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		mount apicall.HostMount
		owed  string
	}{
		{"a directory", apicall.HostMount{Via: "bind", Source: "/srv", Resolved: "/srv"}, "guard.sockets"},
		{"the gate's own", apicall.HostMount{Via: "bind", Source: "/run/docker.sock", Resolved: "/run/docker.sock", GateSocket: true}, "guard.sockets"},
		{"one that may be mounted", apicall.HostMount{Via: "bind", Source: "/var/run/docker.sock", Resolved: "/run/docker.sock"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			call := apicall.Call{
				Subject: apicall.Subject{Kind: apicall.User, UID: 1000}, Action: "container.create",
				Facts: apicall.Facts{HostMounts: []apicall.HostMount{c.mount}},
			}
			if d := set.Access().Decide(&call, at); !d.Allowed {
				t.Fatal(d)
			}
			own := set.Access().RuntimeFor(&call, at)
			if got := Owed(own); got != c.owed {
				t.Fatalf("owed %q, want %q", got, c.owed)
			}
			if len(own) == 0 {
				return
			}
			back, err := RestoreRuntime(own[0].File, own[0].Line, own[0].Canonical())
			if err != nil {
				t.Fatal(err)
			}
			eff := set.EffectiveWith(Subject{}, []*RuntimePolicy{back})
			if got := eff.Rules[verdict.ModeEnforce][verdict.RuleSockets].Verdict; got != verdict.Deny {
				t.Errorf("guard.sockets: %v", got)
			}
			if eff.Rules[verdict.ModeEnforce][verdict.RuleAsRoot].Verdict == verdict.Deny {
				t.Error("root is denied: no check asked for it")
			}
		})
	}
}
