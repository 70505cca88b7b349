package kernel

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// gapCases go where a rule ends. Some are open on every backend: what is known not to be seen has a
// row too.
func gapCases() []attackCase {
	return append(slices.Concat(otherCases(), leftCases(), heldCases()),
		attackCase{name: "sock-abstract", rule: verdict.RuleSockets, policy: socketPolicy, scene: sceneAbstract})
}

// otherCases are acts on the process of another container.
func otherCases() []attackCase {
	var out []attackCase
	add := func(field string, rule verdict.Rule, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: rule, policy: "  privileges: {" + field + "}\n", flags: hostPID, scene: sceneOther})
		}
	}
	add("ptrace: own", verdict.RulePtrace, "priv-other-ptrace", "priv-other-mem", "priv-other-vm")
	add("otherTasks: deny", verdict.RuleOtherTasks, "priv-other-signal", "priv-other-sched", "priv-other-ioprio", "priv-other-sigio", "priv-other-oom")
	for _, n := range []string{"priv-other-pull", "priv-other-pull-nested"} {
		out = append(out, attackCase{name: n, rule: verdict.RuleOtherTasks, policy: "  privileges: {otherTasks: deny}\n", flags: append(slices.Clone(hostPID), "--cap-add", "SYS_ADMIN"), scene: sceneOther})
	}
	return out
}

// leftCases leave the cgroup by which the rules on traffic go, or the network namespace.
func leftCases() []attackCase {
	flags := append([]string{"--net", "host"}, asAdmin...)
	return []attackCase{
		{name: "net-left", rule: verdict.RuleEgress, policy: egressPolicy, flags: flags, want: bySignal(open)},
		{name: "net-left-born", rule: verdict.RuleEgress, policy: egressPolicy, flags: flags, want: bySignal(open)},
		{name: "net-other-loopback", rule: verdict.RuleEgress, policy: egressPolicy, flags: enters, want: cgroupPrevents},
		{name: "net-left-socket", rule: verdict.RuleEgress, policy: egressPolicy, flags: flags, want: cgroupPrevents},
		{name: "n2-client-left", rule: verdict.RuleSSHClient, policy: clientPolicy, flags: asAdmin, want: bySignal(open)},
		{name: "n2-server-left", rule: verdict.RuleSSHServer, policy: serverPolicy, flags: asAdmin, want: bySignal(open)},
	}
}

// victim starts another container in the host's PID namespace and returns its first process.
func (h *host) victim(t *testing.T) int {
	t.Helper()
	h.enact(t, document("none", "audit", nothing))
	r := h.run(t, []string{"--pid", "host", "--detach"}, "/bin/sleep", "1000")
	ran(t, r)
	t.Cleanup(func() { h.remove(t, r.id) })
	return int(stateOf(t, h.kernel, r.id).PID)
}

func sceneOther(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	pid := h.victim(t)
	h.enact(t, c.document(guarded))
	return h.seen(h.run(t, c.flags, "/bin/attack", "--pid", strconv.Itoa(pid), c.name), c.rule)
}

// inBothModes plays a scene under the rule, and then in audit: it is denied, and then passes and is told. Where the
// table of levels says that the rule is unsupported, it passes.
func (h *host) inBothModes(t *testing.T, c attackCase, audited func() trial) {
	t.Helper()
	tr := c.scene(t, h, c, true)
	if h.unsupported(t, c.rule) {
		if !tr.won {
			t.Errorf("the table of levels says that it passes: %+v", tr)
		}
		return
	}
	if tr.won || tr.decision != verdict.Denied {
		t.Errorf("%+v", tr)
	}
	if tr = audited(); !tr.won || tr.decision != verdict.WouldDeny {
		t.Errorf("in audit: %+v", tr)
	}
}

// The process of another container is no own one: neither for ptrace: own, nor for otherTasks.
func TestOtherContainer(t *testing.T) {
	h := get(t)
	for _, c := range otherCases() {
		t.Run(c.name, func(t *testing.T) {
			h.inBothModes(t, c, func() trial {
				pid := h.victim(t)
				h.enact(t, document("audited", "audit", c.policy))
				return h.seen(h.run(t, c.flags, "/bin/attack", "--pid", strconv.Itoa(pid), c.name), c.rule)
			})
		})
	}
}

// Who has left the container's cgroup is not out of the rules on traffic where the kernel has a hook
// on the making of sockets; who only makes cgroups below its own is in them as before.
func TestLeftCgroup(t *testing.T) {
	h := get(t)
	for _, c := range leftCases() {
		t.Run(c.name, func(t *testing.T) {
			enforced(t, h, c)
			audited(t, h, c)
		})
	}
	t.Run("below its own", func(t *testing.T) {
		h.enact(t, document("enforced", "enforce", "  network: {egress: {deny: [{to: [192.0.2.1]}]}}\n"+serverPolicy))
		r := h.run(t, asAdmin, "/bin/sh", "-c", "mkdir /tmp/tree && mount -t cgroup2 none /tmp/tree && cd /tmp/tree$(sed -n s/^0:://p /proc/self/cgroup) && mkdir below && "+
			"echo 0 > below/cgroup.procs && cd / && { (echo hello | nc -l -p 8080 >/dev/null & ); sleep 0.2; echo hi | nc 127.0.0.1 8080; }")
		ran(t, r)
		h.none(t, r.id)
	})
}

// Of the settings below /proc/sys a container may open those of namespaces of its own alone.
func TestOwnSettings(t *testing.T) {
	h := get(t)
	h.enact(t, document("enforced", "enforce", "  privileges: {kernelControl: deny}\n"))
	for _, file := range []string{"net/ipv4/ip_forward", "kernel/shmmax", "kernel/msgmax", "kernel/sem", "fs/mqueue/msg_max", "kernel/hostname", "kernel/domainname"} {
		t.Run(file, func(t *testing.T) {
			r := h.run(t, asRootUser, "/bin/sh", "-c", "[ ! -e /proc/sys/"+file+" ] || exec 3<>/proc/sys/"+file)
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// sysResource wants a host whose root may give it to a container.
func sysResource(t *testing.T) {
	t.Helper()
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	testneed.Need(t, "sys-resource", err == nil && has == 1, "CAP_SYS_RESOURCE, which this machine does not give to root")
}

// abstractDaemon answers on an abstract socket of the host's network namespace.
func abstractDaemon(t *testing.T) string {
	t.Helper()
	name := "belay-test/" + newID()[:16]
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte("!"))
			c.Close()
		}
	}()
	return name
}

func (h *host) dialAbstract(t *testing.T, name, yaml string) result {
	t.Helper()
	h.enact(t, yaml)
	return h.run(t, []string{"--uid", "0", "--net", "host"}, "/bin/attack", "--sock", "@"+name, "sock-abstract")
}

func sceneAbstract(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	name := abstractDaemon(t)
	if level, _ := h.kernel.SocketLevel(); level > verdict.Detect {
		h.guard(t, enforce.Guard{Abstract: []string{name}})
	}
	return h.seen(h.dialAbstract(t, name, c.document(guarded)), c.rule)
}

// The engine's abstract sockets are guarded as the others: enforced, audited, and no other of its kind.
func TestAbstractSocket(t *testing.T) {
	h := get(t)
	name, other := abstractDaemon(t), abstractDaemon(t)
	h.guard(t, enforce.Guard{Abstract: []string{name}})
	deny := document("enforced", "enforce", socketPolicy)
	r := h.dialAbstract(t, name, deny)
	h.stops(t, r)
	evs := h.take(r.id, verdict.RuleSockets)
	if len(evs) == 0 || !strings.Contains(fmt.Sprint(evs[0].Object), name) && evs[0].Object != "" {
		t.Errorf("records %+v", evs)
	}
	r = h.dialAbstract(t, name, document("audited", "audit", socketPolicy))
	ran(t, r)
	if evs := h.take(r.id, verdict.RuleSockets); len(evs) == 0 || evs[0].Decision != verdict.WouldDeny {
		t.Errorf("records in audit %+v", evs)
	}
	r = h.dialAbstract(t, other, deny)
	ran(t, r)
	h.none(t, r.id)
}
