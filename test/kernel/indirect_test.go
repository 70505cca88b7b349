package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// indirectCases have something else do the act, or do it by another verb.
func indirectCases() []attackCase {
	var out []attackCase
	add := func(rule verdict.Rule, policy string, flags []string, want map[string]string, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: rule, policy: policy, flags: flags, want: want})
		}
	}
	add(verdict.RulePathDeny, "  exec: {deny: [/bin/dyn-id]}\n", nil, bySignal(open), "e5-denied")
	add(verdict.RuleMemfd, memfdPolicy, nil, bySignal(open), "e5-memfd", "e6-memfd")
	add(verdict.RuleDrift, driftPolicy, nil, bySignal(detected), "e10-fd")
	add(verdict.RuleDrift, driftPolicy, asAdmin, nil, "i2-born")
	add(verdict.RuleDrift, driftPolicy, enters, nil, "i1-setns")
	add(verdict.RulePtrace, "  privileges: {ptrace: deny}\n", nil, bySignal(unsupported), "e8-poke", "e8-vmwrite", "file-pidfd")
	add(verdict.RuleOtherTasks, "  privileges: {otherTasks: deny}\n", enters, bySignal(unsupported), "priv-setns", "priv-setns-ioctl")
	add(verdict.RuleFiles, filesReadPolicy, nil, bySignal(unsupported), "file-setns", "file-openat2", "file-int80", "keys-sqpoll")
	add(verdict.RuleFiles, filesTreePolicy, nil, bySignal(unsupported), "file-sqpoll", "file-clone", "file-fallocate", "file-sendfile")
	add(verdict.RuleFiles, "  files: {rules: [{paths: [/home/app/.ssh], deny: [delete]}]}\n", nil, bySignal(unsupported), "file-rmdir")
	add(verdict.RuleMount, "  privileges: {mount: deny}\n", asAdmin, bySignal(unsupported), "file-cover")
	add(verdict.RuleKernelControl, "  privileges: {kernelControl: deny}\n", asAdmin, bySignal(unsupported), "priv-procfs", "priv-devices")
	for _, p := range []struct {
		rule   verdict.Rule
		policy string
	}{{verdict.RuleEgress, egressPolicy}, {verdict.RuleIngress, ingressPolicy}} {
		add(p.rule, p.policy, hostNet, cgroupPrevents, "net-uring-tcp", "net-sqpoll", "net-mptcp", "net-sctp", "net-udplite")
	}
	add(verdict.RuleSSHClient, clientPolicy, nil, cgroupPrevents, "n2-client-proxy")
	add(verdict.RuleSSHServer, serverPolicy, nil, cgroupPrevents, "n2-server-inetd")
	return out
}

// enters may enter the namespaces of the host's processes.
var enters = []string{"--uid", "0", "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_CHROOT", "--cap-add", "SYS_PTRACE", "--pid", "host"}

// openCases are known to pass, and why is in reasons.
func openCases() []attackCase {
	out := []attackCase{{name: "file-cover", rule: verdict.RuleFiles, policy: filesTreePolicy, flags: asAdmin}}
	for _, n := range []string{"e8-rwx", "e8-uffd", "e9-argument", "e9-awk", "e9-input"} {
		out = append(out, attackCase{name: n, rule: verdict.RuleDrift, policy: driftPolicy})
	}
	for _, n := range []string{"net-vsock", "net-netlink", "net-alg"} {
		out = append(out, attackCase{name: n, rule: verdict.RuleEgress, policy: "  network: {egress: {default: deny}}\n"})
	}
	return out
}

// outsideCases need something done outside their container.
func outsideCases() []attackCase {
	out := []attackCase{
		{name: "i2-other", rule: verdict.RuleDrift, policy: driftPolicy, flags: append([]string{"--pid", "host"}, asAdmin...), scene: sceneJoin},
		{name: "priv-other-root", rule: verdict.RuleOtherTasks, policy: "  privileges: {otherTasks: deny}\n", flags: hostPID, scene: sceneOther},
		{name: "file-pidfd", rule: verdict.RuleFiles, policy: filesTreePolicy, scene: sceneStepped},
		{name: "e1-volume", rule: verdict.RuleDrift, policy: driftPolicy, scene: sceneVolume},
		{name: "e1-volume-twice", rule: verdict.RuleDrift, policy: driftPolicy, scene: sceneVolume},
		{name: "host-cwd", rule: verdict.RuleHostRuntimes, policy: hostRuntimesPolicy, scene: sceneLeaked},
		{name: "host-cwd-exec", rule: verdict.RuleDrift, policy: driftPolicy, scene: sceneLeaked},
		{name: "host-mounted", rule: verdict.RuleKernelControl, policy: "  privileges: {kernelControl: deny}\n", scene: sceneControl},
	}
	for _, c := range mountCases {
		out = append(out, attackCase{
			name: "host-way-" + c.name, id: "H3", about: c.about, rule: verdict.RuleHostEngine, policy: hostEnginePolicy,
			scene: func(t *testing.T, h *host, a attackCase, guarded bool) trial {
				w := newHostWorld(t, h)
				if err := os.WriteFile(filepath.Join(w.dir, "tmp/x"), []byte("covered"), 0o644); err != nil {
					t.Fatal(err)
				}
				h.enact(t, a.document(guarded))
				r, seen := c.play(t, h, w)
				if r.code = 1; strings.Contains(seen, "covered") {
					r.code = 0
				}
				return h.seen(r, a.rule)
			},
		})
	}
	return out
}

// sceneJoin: the other container is under a policy of its own, which is loose.
func sceneJoin(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	id := newID()
	if err := h.kernel.Bind(ident.ContainerID(id), mustPolicies(document("loose", "audit", nothing)).Floor()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
			t.Error(err)
		}
	}()
	ran(t, h.run(t, []string{"--id", id, "--pid", "host", "--detach"}, "/bin/sleep", "1000"))
	defer h.remove(t, id)
	h.enact(t, c.document(guarded))
	return h.seen(h.run(t, c.flags, "/bin/attack", "--pid", strconv.Itoa(int(stateOf(t, h.kernel, id).PID)), c.name), c.rule)
}

// sceneVolume: a container has a directory of the host's disk at two places, and may write it at one.
// Of a program on a tmpfs it is exec.memfd that says whether it runs.
func sceneVolume(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	dir := diskDir(t)
	home := filepath.Join(dir, "home")
	if out, err := exec.Command("cp", "-a", filepath.Join(h.rootfs, "home", "app"), home).CombinedOutput(); err != nil {
		t.Fatalf("copy the home: %v: %s", err, out)
	}
	h.enact(t, c.document(guarded))
	return h.seen(h.run(t, append([]string{"--bind", home + ":/home/app", "--bind", home + ":/twice:ro"}, asUser...), "/bin/attack", "--at", "/twice", c.name), c.rule)
}

// diskDir makes a directory on the host's disk.
func diskDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "belay-volume-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	testneed.Need(t, "disk", fs.Type != unix.TMPFS_MAGIC, "a /var/tmp that is no tmpfs")
	return dir
}

// sceneLeaked: the runtime has left a directory of the host open.
func sceneLeaked(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	w := newHostWorld(t, h)
	h.enact(t, c.document(guarded))
	r := h.run(t, []string{"--uid", "0", "--leak", filepath.Join(w.dir, "tmp")}, "/bin/attack", c.name)
	if evs := h.take(r.id, verdict.RuleMemfd); c.rule == verdict.RuleDrift && len(evs) > 0 { // where the host's files are on tmpfs
		return h.seen(r, verdict.RuleMemfd)
	}
	return h.seen(r, c.rule)
}

// sceneControl: the runtime has mounted what steers the kernel where it meant to mount something else.
func sceneControl(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	return h.seen(h.run(t, []string{"--uid", "0", "--bind", "/proc/sys/kernel/core_pattern:/mounted"}, "/bin/attack", "--at", "/mounted", c.name), c.rule)
}

// Enforced, each is stopped as its backend promises; audited, it passes and is reported.
func TestIndirect(t *testing.T) {
	h := get(t)
	for _, c := range indirectCases() {
		t.Run(c.title()+" against "+c.rule.String(), func(t *testing.T) {
			enforced(t, h, c)
			audited(t, h, c)
		})
	}
}

// From outside: what is stopped is recorded, and what a level says is not seen passes.
func TestIndirectFromOutside(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	for _, c := range outsideCases() {
		t.Run(c.name, func(t *testing.T) {
			bare := c.scene(t, h, c, false)
			testneed.Need(t, "attack-"+c.name, !bare.untried, bare.said)
			if !bare.won {
				t.Fatalf("with no policy it does not win: %+v", bare)
			}
			under := c.scene(t, h, c, true)
			if h.unsupported(t, c.rule) || reasons[c.name] != "" {
				return
			}
			if under.won || under.decision != verdict.Denied && under.decision != verdict.Killed {
				t.Errorf("%+v", under)
			}
		})
	}
}
