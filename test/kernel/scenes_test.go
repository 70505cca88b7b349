package kernel

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

// sceneCases are attacks that need something done outside their container, or that are no program.
func sceneCases() []attackCase {
	var out []attackCase
	add := func(rule verdict.Rule, policy string, scene func(*testing.T, *host, attackCase, bool) trial, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: rule, policy: policy, scene: scene})
		}
	}
	add(verdict.RuleFiles, filesTreePolicy, sceneStepped, "file-mmap", "file-mprotect", "file-receive")
	add(verdict.RuleSSHServer, serverPolicy, sceneStepped, "n2-server-bound")
	add(verdict.RuleSockets, socketPolicy, sceneSocket, socketAttacks...)
	one := func(name, about string, rule verdict.Rule, policy string, scene func(*testing.T, *host, attackCase, bool) trial) {
		id, _, _ := strings.Cut(strings.ToUpper(name), "-")
		out = append(out, attackCase{name: name, id: id, about: about, rule: rule, policy: policy, scene: scene})
	}
	for _, n := range []string{"i2-rmdir", "i2-rmdir-uring"} {
		out = append(out, attackCase{name: n, bound: true, rule: verdict.RuleDrift, policy: driftPolicy, scene: sceneBound})
	}
	one("e1-remount", "a program written to a read-only volume by who entered with CAP_SYS_ADMIN, and made it read-only again", verdict.RuleDrift, driftPolicy, sceneRemount)
	one("i2-entering", "a program put into a container, whose task the container's root moves to another cgroup before it is executed", verdict.RuleDrift, driftPolicy, sceneEntering)
	out = append(out, attackCase{name: "p5-entering", id: "P5", about: "trace a task that enters the container, before it executes its program", rule: verdict.RulePtrace,
		policy: "  privileges: {ptrace: own}\n", scene: sceneTraceEntering, want: bySignal(unsupported)})
	one("i3-reuse", "a container with the id of one that was bound to a loose policy, and is gone", verdict.RuleAsRoot, rootPolicy, sceneReuse)
	one("i4-start", "20 containers whose first program is the forbidden one", verdict.RuleAsRoot, rootPolicy, sceneStart)
	one("i5-stop", "a dropped program executed when the container is told to stop", verdict.RuleDrift, driftPolicy, sceneStop)
	one("i6-enter", "a program put into a running container from outside", verdict.RuleAsRoot, rootPolicy, sceneEnter)
	one("i7-dead", "a dropped program while no agent runs", verdict.RuleDrift, driftPolicy, sceneDead)
	one("i8-cgroups", "a container started when another has filled the map of cgroups", verdict.RuleAsRoot, rootPolicy, sceneCgroups)
	one("i9-flood", "a setuid-root program after 1,000 records that nobody reads", verdict.RuleAsRoot, rootPolicy, sceneFlood)
	one("i10-detach", "root of the host takes the pins of all programs away", verdict.RuleBPF, nothing, sceneDetach)
	return out
}

// sceneStepped: the policy comes between two steps of the attack.
func sceneStepped(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	mode := ""
	if guarded {
		mode = "enforce"
	}
	id, said := h.stepped(t, c.name, mode, c.policy, c.flags...)
	h.remove(t, id)
	r := result{code: 1, out: said, id: id}
	return h.seen(r, c.rule)
}

// sceneSocket: the container has the socket of an engine that answers.
func sceneSocket(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	d := startDaemon(t, "docker.sock")
	if level, _ := h.kernel.SocketLevel(); level > verdict.Detect {
		h.guard(t, enforce.Guard{Sockets: []string{d.socket}})
	}
	h.enact(t, c.document(guarded))
	before := d.heard.Load()
	r := h.run(t, []string{"--uid", "0", "--bind", d.dir + ":/run/engine"}, "/bin/attack", c.name)
	tr := h.seen(r, c.rule)
	tr.won = tr.won || d.heard.Load() > before
	return tr
}

// sceneEntering: a task that enters, as that of a health check, is moved by who is inside, when it is in the
// container's namespaces and has not executed its program.
func sceneEntering(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	asRoot := []string{"--uid", "0"}
	e := h.entering(t, slices.Concat(asRoot, []string{"--bind", cgroupMount(t) + ":/cg"}))
	h.exec(t, e.id, asRoot, "/bin/sh", "-c", "cd /cg/"+h.scope+"/"+e.id+" && mkdir other && for p in $(cat cgroup.procs); do echo $p > other/cgroup.procs; done")
	moved, err := os.ReadFile(filepath.Join(cgroupMount(t), h.scope, e.id, "other", "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	r := e.goOn(t)
	if !slices.Contains(strings.Fields(string(moved)), e.pid) {
		t.Fatalf("%s has not been moved; in the other cgroup are %q", e.pid, moved)
	}
	return h.seen(r, c.rule)
}

// sceneTraceEntering: such a task is traced by who is inside.
func sceneTraceEntering(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	e := h.entering(t, hostPID)
	r := h.exec(t, e.id, []string{"--uid", "0"}, "/bin/attack", "--pid", e.pid, "priv-other-ptrace")
	e.goOn(t)
	r.id = e.id
	return h.seen(r, c.rule)
}

// entrant is a task that has entered a container, where it waits with its program, a dropped one.
type entrant struct {
	id, pid string // of the container; its own
	cmd     *exec.Cmd
	goes    io.Writer
	out     *strings.Builder
}

// entering starts a container with these flags, and a task that enters it.
func (h *host) entering(t *testing.T, flags []string) entrant {
	t.Helper()
	asRoot := []string{"--uid", "0"}
	ctr := h.run(t, slices.Concat(flags, []string{"--detach"}), "/bin/sleep", "1000")
	ran(t, ctr)
	t.Cleanup(func() { h.remove(t, ctr.id) })
	ran(t, h.exec(t, ctr.id, asRoot, "/bin/cp", "/bin/id", "/tmp/id"))
	e := entrant{id: ctr.id, out: &strings.Builder{}}
	e.cmd = exec.Command(bin("ctr"), "exec", "--state", filepath.Join(h.dir, "ctr"), "--id", ctr.id, "--uid", "0", "--pause", "--", "/tmp/id")
	e.cmd.Stdout, e.cmd.Stderr = e.out, e.out
	goes, err := e.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.goes = goes
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.pid = h.second(t, ctr.id)
	return e
}

// goOn lets it execute its program, and waits for its end.
func (e entrant) goOn(t *testing.T) result {
	t.Helper()
	if _, err := io.WriteString(e.goes, "!"); err != nil {
		t.Fatal(err)
	}
	_ = e.cmd.Wait() // its code is read below
	return result{id: e.id, code: e.cmd.ProcessState.ExitCode(), out: e.out.String()}
}

// second waits for a second process in a container's mount namespace, and returns its number.
func (h *host) second(t *testing.T, id string) string {
	t.Helper()
	dir := filepath.Join(cgroupMount(t), h.scope, id)
	ns := func(pid string) string {
		s, _ := os.Readlink("/proc/" + pid + "/ns/mnt") // a task that is gone is in none
		return s
	}
	first := strconv.Itoa(firstPID(t, dir))
	for range 600 {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range strings.Fields(string(b)) {
			if pid != first && ns(pid) == ns(first) {
				return pid
			}
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // there is no other signal
	}
	t.Fatal("nothing has entered the container")
	return ""
}

// sceneReuse: whether the second container is taken for the first, which was free.
func sceneReuse(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	id := newID()
	loose := mustPolicies(document("loose", "audit", nothing)).Floor()
	if err := h.kernel.Bind(ident.ContainerID(id), loose); err != nil {
		t.Fatal(err)
	}
	r := h.run(t, []string{"--id", id, "--detach"}, "/bin/sleep", "1000")
	ran(t, r)
	h.remove(t, id)
	if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
		t.Fatal(err)
	}
	r = h.run(t, []string{"--id", id}, "/bin/id")
	r.id = id
	if guarded && r.code != 0 {
		h.take(id, c.rule) // the first container's end is no sign that all records are in
	}
	return h.seen(r, c.rule)
}

// sceneStart: a container is faster than who would judge it.
func sceneStart(t *testing.T, h *host, c attackCase, guarded bool) (tr trial) {
	t.Helper()
	h.enact(t, c.document(guarded))
	for i := range 20 {
		var flags []string
		if i%2 == 1 {
			flags = []string{"--clone-into-cgroup"}
		}
		if tr = h.seen(h.run(t, flags, "/bin/id"), c.rule); tr.won {
			break
		}
	}
	return tr
}

func sceneStop(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	r := h.stopping(t, newID())
	h.remove(t, r.id)
	return h.seen(r, c.rule)
}

// sceneEnter: root enters a container that has none.
func sceneEnter(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	ctr := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "100")
	ran(t, ctr)
	r := h.exec(t, ctr.id, []string{"--uid", "0"}, "/bin/id")
	h.remove(t, ctr.id)
	r.id = ctr.id
	return h.seen(r, c.rule)
}

func sceneDead(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded))
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	r := h.run(t, asUser, "/bin/attack", "e1-copy")
	k, err := enforce.Open(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	return h.seen(r, c.rule)
}

// sceneCgroups: TestCgroupMapFull looks closer.
func sceneCgroups(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	const room, asked = 64, 200
	defer h.smallMap(t, room)()
	h.enact(t, document("none", "audit", nothing))
	hog := h.run(t, []string{"--detach", "--cap-add", "SYS_ADMIN"}, "/bin/sh", "-c", fmt.Sprintf("mount -t cgroup2 none /sys && "+
		"cd /sys$(sed -n s/^0:://p /proc/self/cgroup) && mkdir $(seq %d); echo code $? > /tmp/out; sleep 1000", asked))
	ran(t, hog)
	defer h.remove(t, hog.id)
	if out := waitFile(t, fmt.Sprintf("/proc/%d/root/tmp/out", stateOf(t, h.kernel, hog.id).PID)); strings.TrimSpace(out) != "code 0" {
		return trial{untried: true, said: "it cannot make cgroups: " + out}
	}
	h.enact(t, c.document(guarded))
	return h.seen(h.run(t, nil, "/bin/id"), c.rule)
}

// sceneFlood: the record of the denial may be among those that are lost, which are counted. Then how
// the program ended says what was done to it.
func sceneFlood(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(guarded)+"---\n"+document("noise", "audit", "  exec: {drift: deny}\n"))
	h.cancel() // nobody drains the rings
	<-h.done
	r := h.run(t, asUser, "/bin/sh", "-c", "cp /bin/id /tmp/id; i=0; while [ $i -lt 1000 ]; do /tmp/id >/dev/null; i=$((i+1)); done; /bin/suid-id; echo code $?")
	lost, err := h.kernel.Failures()
	h.listen()
	if err != nil {
		t.Fatal(err)
	}
	r.code = 1
	if strings.Contains(r.out, "euid=0") {
		r.code = 0
	}
	tr := h.seen(r, c.rule)
	if guarded && !tr.won && tr.decision == "" && lost["ring_denials"] > 0 {
		tr.hook, tr.decision = "a counted loss", verdict.Denied
		if strings.Contains(r.out, "code 137") {
			tr.decision = verdict.Killed
		}
	}
	return tr
}

// sceneDetach: nothing can stop root of the host; it must be found.
func sceneDetach(t *testing.T, h *host, _ attackCase, guarded bool) trial {
	t.Helper()
	if !guarded {
		return trial{won: true}
	}
	links, err := filepath.Glob(filepath.Join(h.opts.PinDir, "abi-*", "links", "gen-*", "*"))
	if err != nil || len(links) == 0 {
		t.Fatalf("no pinned links: %v", err)
	}
	for _, l := range links {
		if err := os.Remove(l); err != nil {
			t.Fatal(err)
		}
	}
	tr := trial{won: true}
	for range 100 { // the kernel detaches a moment after the last pin is gone
		if h.kernel.Canary() != nil {
			tr.decision, tr.hook = "detected", "canary"
			break
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // there is no other signal
	}
	if err := h.kernel.Reattach(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// sceneBound: the policy is bound to the container, and is not the floor.
func sceneBound(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	h.enact(t, c.document(false))
	id := newID()
	if guarded {
		if err := h.kernel.Bind(ident.ContainerID(id), mustPolicies(c.document(true)).Floor()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
				t.Error(err)
			}
		}()
	}
	c.flags = asAdmin
	return h.seen(h.play(t, c, id), c.rule)
}

// sceneRemount: what a container's first process may do is not all that it may.
func sceneRemount(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	dir := diskDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h.enact(t, c.document(guarded))
	ctr := h.run(t, []string{"--detach", "--bind", dir + ":/volume:ro"}, "/bin/sleep", "1000")
	ran(t, ctr)
	ran(t, h.exec(t, ctr.id, asAdmin, "/bin/sh", "-c", "mount -o remount,bind,rw /volume && cp /bin/id /volume/id && mount -o remount,bind,ro /volume"))
	r := h.exec(t, ctr.id, asUser, "/volume/id")
	h.remove(t, ctr.id)
	r.id = ctr.id
	return h.seen(r, c.rule)
}
