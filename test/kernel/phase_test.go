package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

const (
	// listenPhase ends with the first listen alone, as far as a test lasts.
	listenPhase = "  phase: {after: firstListen, within: 1h}\n"
	// oneSecond is what the attacks of tools/attack/phase.go outwait.
	oneSecond = "  phase: {after: firstListen, within: 1s}\n"
)

// phaseCases are attacks on the end of a container's start.
func phaseCases() []attackCase {
	var out []attackCase
	for _, n := range []string{"phase-wait", "phase-fork", "phase-reexec"} {
		out = append(out, attackCase{name: n, rule: verdict.RuleDrift, policy: oneSecond + driftPolicy})
	}
	for _, n := range []string{"listen", "listen-twice", "listen-child", "listen-unbound", "listen-v6", "listen-mptcp"} {
		out = append(out, attackCase{name: "phase-" + n, rule: verdict.RuleDrift, policy: listenPhase + driftPolicy})
	}
	return out
}

// Whatever a container does, its start ends: enforced, what comes after is denied; audited, it
// is reported.
func TestPhaseAttacks(t *testing.T) {
	h := get(t)
	for _, c := range phaseCases() {
		t.Run(c.name, func(t *testing.T) {
			enforced(t, h, c)
			audited(t, h, c)
		})
	}
}

// A rule of each section passes during the start, and is denied after it; audited, it is reported
// after the start alone. Ordinary programs run in both.
func TestPhaseSections(t *testing.T) {
	h := get(t)
	for _, c := range []struct {
		attack, policy string
		rule           verdict.Rule
		flags          []string
		want           map[string]string
	}{
		{"e1-copy", driftPolicy, verdict.RuleDrift, asUser, nil},
		{"e2-fd", denyIDPolicy, verdict.RulePathDeny, asUser, nil},
		{"net-udp", egressPolicy, verdict.RuleEgress, []string{"--net", "host", "--uid", "1000"}, cgroupPrevents},
		{"net-listen-udp", "  network: {listen: deny}\n", verdict.RuleListen, asUser, cgroupPrevents},
		{"keys-read", keysPolicy, verdict.RuleSSHKeys, asUser, bySignal(unsupported)},
		{"auth-write", filesTreePolicy, verdict.RuleFiles, asUser, bySignal(unsupported)},
		{"priv-userns", "  privileges: {userNamespaces: deny}\n", verdict.RuleUserNamespaces, asUser, bySignal(unsupported)},
	} {
		t.Run(c.attack, func(t *testing.T) {
			want := attackCase{want: c.want}.outcome(h.kernel.Backend())
			testneed.Need(t, "phase-"+c.attack, want != unsupported, "a backend that has "+c.rule.String())
			for _, mode := range []string{"enforce", "audit"} {
				h.enact(t, document("late", mode, listenPhase+c.policy))
				r := h.run(t, append([]string{"--detach"}, c.flags...), "/bin/sleep", "1000")
				ran(t, r)
				ran(t, h.exec(t, r.id, asUser, "/bin/attack", c.attack)) // it won
				// The first listen itself is judged by what holds after it, and ends the start when it
				// is denied too.
				if l := h.exec(t, r.id, asUser, "/bin/attack", "listen"); c.rule != verdict.RuleListen || mode == "audit" {
					ran(t, l)
				} else if l.code == 0 {
					t.Errorf("the first listen is judged by the start's rules: %v", l)
				}
				after := h.exec(t, r.id, asUser, "/bin/attack", c.attack)
				after.id = r.id
				if mode == "audit" {
					ran(t, after)
				} else if after.code == 0 {
					t.Errorf("after the start it WON: %v", after)
				}
				evs := h.take(r.id, c.rule)
				if len(evs) == 0 {
					t.Fatalf("%s: %v, but no record of %s", mode, after, c.rule)
				}
				for _, ev := range evs {
					if got := h.kernel.Phase(ev); got != enforce.PhaseAfter || (ev.Decision == verdict.WouldDeny) != (mode == "audit") {
						t.Errorf("%s: %s in phase %q, want one in %q", mode, ev.Decision, got, enforce.PhaseAfter)
					}
				}
				ran(t, h.exec(t, r.id, asUser, "/bin/busybox", "true"))
				h.remove(t, r.id)
			}
		})
	}
}

// starting starts a container that drops a program. The test's end removes it.
func (h *host) starting(t *testing.T, id string) {
	t.Helper()
	r := h.run(t, append([]string{"--id", id, "--detach"}, asUser...), "/bin/sh", "-c", "cp /bin/id /tmp/id; exec /bin/sleep 1000")
	ran(t, r)
	t.Cleanup(func() { h.remove(t, id) })
}

// dropped executes the program that the container of starting has dropped.
func (h *host) dropped(t *testing.T, id string) result {
	t.Helper()
	r := h.exec(t, id, asUser, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do [ -x /tmp/id ] && break; sleep 0.2; done; /tmp/id")
	r.id = id
	return r
}

// Time alone ends the start, without a listen and without anybody who watches; before it has
// passed all is as without the policy, and records of other rules say that it is the start.
func TestPhaseTime(t *testing.T) {
	h := get(t)
	const length = 20 * time.Second // the virtual machines are slow
	h.enact(t, document("late", "enforce", "  phase: {after: 20s}\n"+driftPolicy)+"---\n"+document("always", "audit", denyIDPolicy))
	id := newID()
	from := time.Now()
	h.starting(t, id)
	r := h.dropped(t, id)
	if time.Since(from) < length {
		ran(t, r)
	}
	ran(t, h.exec(t, id, asUser, "/bin/id"))
	if evs := h.take(id, verdict.RulePathDeny); len(evs) == 0 || time.Since(from) < length && h.kernel.Phase(evs[0]) != enforce.PhaseStart {
		t.Errorf("no record of the audit policy, or not of the start: %v", evs)
	}
	time.Sleep(time.Until(from.Add(length + time.Second))) //nolint:forbidigo // what is tested is that time passes
	h.stopped(t, h.dropped(t, id), verdict.RuleDrift)
}

// A listen on a unix socket is no sign of service: the start goes on.
func TestPhaseUnixListen(t *testing.T) {
	h := get(t)
	h.enact(t, document("late", "enforce", listenPhase+driftPolicy))
	id := newID()
	h.starting(t, id)
	h.exec(t, id, asUser, "/bin/busybox", "timeout", "1", "/bin/busybox", "nc", "-l", "local:/tmp/s")
	ran(t, h.dropped(t, id))
}

// The agent is killed during the start: the switch is the kernel's. The next agent keeps the
// sets of the later phases, and what the container has done.
func TestPhaseAgentDead(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, document("floor", "enforce", nothing))
	id := newID()
	set := mustPolicies(document("own", "enforce", listenPhase+driftPolicy) + "---\n" + document("long", "enforce", "  phase: {after: 1h}\n"+memfdPolicy))
	bind := func() {
		t.Helper()
		if err := h.kernel.Bind(ident.ContainerID(id), set.Effective(policy.Subject{Known: true})); err != nil {
			t.Fatal(err)
		}
	}
	bind()
	defer func() {
		if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
			t.Error(err)
		}
	}()
	h.starting(t, id)
	ran(t, h.dropped(t, id))
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	listened := h.exec(t, id, asUser, "/bin/attack", "listen")
	dead := h.dropped(t, id)
	k, err := enforce.Open(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	ran(t, listened)
	h.stopped(t, dead, verdict.RuleDrift)
	for _, ev := range h.take(id, verdict.RuleDrift) {
		// "long" is still to come, and this agent has read all from the kernel
		if got := h.kernel.Phase(ev); got != enforce.PhaseStart {
			t.Errorf("phase %q, want %q", got, enforce.PhaseStart)
		}
	}
	h.stopped(t, h.dropped(t, id), verdict.RuleDrift)
	bind() // the policies again, now this agent's own
	h.stopped(t, h.dropped(t, id), verdict.RuleDrift)
	states, err := h.kernel.Containers()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if fmt.Sprintf("%x", s.ID) == id && !s.Listened {
			t.Error("the container has not listened, says the kernel")
		}
	}
}

// What a container has done before a policy with a phase is bound counts, and an edit that
// makes nothing but the phase longer does not bring it back after a listen.
func TestPhaseBoundLater(t *testing.T) {
	h := get(t)
	h.enact(t, document("floor", "enforce", nothing))
	id := newID()
	h.starting(t, id)
	ran(t, h.exec(t, id, asUser, "/bin/attack", "listen"))
	ran(t, h.dropped(t, id))
	for _, within := range []string{"1m", "1h"} {
		h.enact(t, document("late", "enforce", "  phase: {after: firstListen, within: "+within+"}\n"+driftPolicy))
		h.stopped(t, h.dropped(t, id), verdict.RuleDrift)
	}
	other := newID() // of the same policy: one container's listen is not another's
	h.starting(t, other)
	ran(t, h.dropped(t, other))
}

// Several policies: each begins at its own time, and an audit policy that begins sooner does not
// make the other deny sooner.
func TestPhasesTogether(t *testing.T) {
	h := get(t)
	h.enact(t, strings.Join([]string{
		document("always", "enforce", memfdPolicy),
		document("listen", "enforce", listenPhase+driftPolicy),
		document("look", "audit", "  phase: {after: 1s}\n"+driftPolicy),
		document("hour", "enforce", "  phase: {after: 1h}\n"+denyIDPolicy),
	}, "---\n"))
	id := newID()
	h.starting(t, id)
	time.Sleep(1500 * time.Millisecond) //nolint:forbidigo // what is tested is that time passes
	r := h.dropped(t, id)
	ran(t, r) // "look" only looks
	if evs := h.take(id, verdict.RuleDrift); len(evs) == 0 || evs[0].Decision != verdict.WouldDeny {
		t.Errorf("no record of what would be denied: %v", evs)
	}
	if r := h.exec(t, id, asUser, "/bin/attack", "e7-memfd"); r.code == 0 {
		t.Errorf("the policy without a phase does not hold in the start: %v", r)
	}
	ran(t, h.exec(t, id, asUser, "/bin/id"))
	ran(t, h.exec(t, id, asUser, "/bin/attack", "listen"))
	if r := h.dropped(t, id); r.code == 0 {
		t.Errorf("after the listen it ran: %v", r)
	}
	ran(t, h.exec(t, id, asUser, "/bin/id")) // until the hour is over
}
