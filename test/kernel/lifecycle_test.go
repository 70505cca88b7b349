package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

const nothing = "  guard: {bpf: deny}\n" // a policy that asks for no more than there is

// The verifier takes every program whose hook the kernel has.
func TestNoneRefused(t *testing.T) {
	for program, err := range get(t).kernel.Refused() {
		t.Errorf("%s: %v", program, err)
	}
}

// N2: listening on a port 22 that was bound when there was no rule. Binding is another
// hook's, and has passed.
func TestListenBoundBefore(t *testing.T) {
	h := get(t)
	for _, c := range []struct {
		mode     string // empty: no policy
		decision map[verdict.Backend]verdict.Decision
	}{
		{"enforce", map[verdict.Backend]verdict.Decision{
			verdict.BackendLSM: verdict.Denied, verdict.BackendModret: verdict.Denied, verdict.BackendSignal: verdict.Killed,
		}},
		{"audit", map[verdict.Backend]verdict.Decision{
			verdict.BackendLSM: verdict.WouldDeny, verdict.BackendModret: verdict.WouldDeny, verdict.BackendSignal: verdict.WouldDeny,
		}},
		{mode: ""},
	} {
		t.Run("mode "+c.mode, func(t *testing.T) {
			id, said := h.stepped(t, "n2-server-bound", c.mode, serverPolicy)
			gone := false
			defer func() {
				if !gone {
					h.remove(t, id)
				}
			}()
			if won := strings.Contains(said, "WON"); won != (c.mode != "enforce") {
				t.Errorf("won %v: %s", won, said)
			}
			if c.mode == "" {
				gone = true
				h.remove(t, id)
				h.none(t, id)
				return
			}
			evs := h.take(id, verdict.RuleSSHServer)
			if len(evs) == 0 {
				t.Fatalf("no record of %s; it said %s", verdict.RuleSSHServer, said)
			}
			if ev := evs[0]; ev.Hook != "socket_listen" || ev.Local.Port() != 22 || ev.Decision != c.decision[h.kernel.Backend()] {
				t.Errorf("%s at hook %s of port %d, want %s at socket_listen of port 22", ev.Decision, ev.Hook, ev.Local.Port(), c.decision[h.kernel.Backend()])
			}
		})
	}
}

// stepped plays an attack of two steps in a container, whose ID it returns and which the
// caller removes; flags are those of ctr run. Between them a policy comes with spec in mode; none if that is empty. It
// also returns what the attack said.
func (h *host) stepped(t *testing.T, name, mode, spec string, flags ...string) (id, said string) {
	t.Helper()
	late := ""
	if mode != "" {
		late = document("late", mode, spec)
	}
	return h.between(t, []string{name}, late, flags...)
}

// between is stepped for any words that bin/attack is given and any policies; none: late is empty.
func (h *host) between(t *testing.T, words []string, late string, flags ...string) (id, said string) {
	t.Helper()
	h.enact(t, document("none", "audit", nothing))
	// Once the policies are there the shell may start no program: it has what is built in.
	ctr := h.run(t, slices.Concat([]string{"--detach"}, asUser, flags), "/bin/sh", "-c",
		"mkfifo /tmp/hold; said=$(/bin/attack --wait /tmp/go "+strings.Join(words, " ")+" 2>&1); echo \"$said code $?\" >/tmp/out; read end </tmp/hold")
	ran(t, ctr)
	done := false
	defer func() {
		if !done { // the caller will not learn of it
			h.remove(t, ctr.id)
		}
	}()
	root := fmt.Sprintf("/proc/%d/root", firstPID(t, filepath.Join(cgroupMount(t), h.scope, ctr.id)))
	waitExists(t, root+"/tmp/go.ready")
	if late != "" {
		h.enact(t, late)
	}
	if err := os.WriteFile(root+"/tmp/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	said = waitFile(t, root+"/tmp/out")
	testneed.Need(t, "attack-"+words[len(words)-1], !strings.Contains(said, "cannot try"), said)
	done = true
	return ctr.id, said
}

// waitExists waits for a file that is about to be made.
func waitExists(tb testing.TB, path string) {
	tb.Helper()
	for range 600 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // an attack in a container has no other signal
	}
	tb.Fatalf("%s did not appear", path)
}

// I3: nothing of a container that was bound to a loose policy is left for those that come
// after it: not for a new one, whatever ids the kernel gives it, and not for one of the
// same name once the agent has unbound it.
func TestReuse(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	loose := mustPolicies(document("loose", "audit", nothing)).Floor()
	before := h.kernelCgroups(t)
	for i := range count("BELAY_REUSE_ROUNDS", 10) {
		id := newID()
		if err := h.kernel.Bind(ident.ContainerID(id), loose); err != nil {
			t.Fatal(err)
		}
		c := h.run(t, []string{"--id", id, "--detach"}, "/bin/sleep", "1000")
		ran(t, c)
		cgroup := stateOf(t, h.kernel, id).Cgroup
		if !h.kernelCgroups(t)[cgroup] {
			t.Fatalf("round %d: the kernel's map has no entry of cgroup %d: this test reads it wrongly", i, cgroup)
		}
		ran(t, h.exec(t, id, nil, "/bin/id")) // root, and loose
		h.remove(t, id)
		if h.kernelCgroups(t)[cgroup] {
			t.Fatalf("round %d: cgroup %d is gone, and its entry is not", i, cgroup)
		}
		list, err := h.kernel.Containers()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Cgroup == cgroup {
				t.Fatalf("round %d: container %s is gone, and its entry is not", i, id)
			}
		}
		h.stopped(t, h.run(t, nil, "/bin/id"), verdict.RuleAsRoot)
		if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
			t.Fatal(err)
		}
		again := h.run(t, []string{"--id", id}, "/bin/id")
		again.id = id
		h.stopped(t, again, verdict.RuleAsRoot)
	}
	for cgroup := range h.kernelCgroups(t) {
		if !before[cgroup] {
			t.Errorf("cgroup %d is left in the kernel's map", cgroup)
		}
	}
}

// kernelCgroups returns the keys of the kernel side's map of cgroups, as a bpffs shows a
// pinned map whose types it knows.
func (h *host) kernelCgroups(t *testing.T) map[uint64]bool {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(h.opts.PinDir, "abi-*", "maps", "bl_cgroups"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("pinned maps of cgroups: %v %v, want one", pins, err)
	}
	text, err := os.ReadFile(pins[0])
	if err != nil {
		t.Fatal(err)
	}
	keys := map[uint64]bool{}
	for line := range strings.Lines(string(text)) {
		key, _, ok := strings.Cut(line, ":")
		if n, err := strconv.ParseUint(key, 10, 64); ok && err == nil {
			keys[n] = true
		}
	}
	return keys
}

// I5: what a container does when it is told to stop is judged as all that it did before:
// by the floor, and by the policy bound to it.
func TestStopWindow(t *testing.T) {
	h := get(t)
	for _, c := range []struct {
		name  string
		floor string
		own   string // empty: none
		rule  verdict.Rule
	}{
		{"floor", driftPolicy, "", verdict.RuleDrift},
		{"own policy", nothing, driftPolicy, verdict.RuleDrift},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.enact(t, document("floor", "enforce", c.floor))
			id := newID()
			if c.own != "" {
				if err := h.kernel.Bind(ident.ContainerID(id), mustPolicies(document("own", "enforce", c.own)).Floor()); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
						t.Error(err)
					}
				}()
			}
			ctr := h.stopping(t, id)
			defer h.remove(t, id)
			if ctr.code == 0 {
				t.Fatalf("a dropped program ran while the container stopped: %v", ctr)
			}
			h.stopped(t, ctr, c.rule)
		})
	}
}

// stopping starts a container that executes a dropped program when it is told to stop, and tells it.
// The result's code is 0 if the program ran. The caller removes the container.
func (h *host) stopping(t *testing.T, id string) result {
	t.Helper()
	vol := filepath.Join(h.dir, "stop-"+newID()[:8])
	if err := os.Mkdir(vol, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(vol, 0o777); err != nil {
		t.Fatal(err)
	}
	ctr := h.run(t, append([]string{"--id", id, "--detach", "--bind", vol + ":/v"}, asUser...), "/bin/sh", "-c",
		"cp /bin/id /tmp/id; trap '/tmp/id >/v/ran; echo code $? >/v/code; mv /v/code /v/out; exit 0' TERM; echo up >/v/up; while :; do sleep 0.05; done")
	ctr.id = id
	ran(t, ctr)
	waitFile(t, filepath.Join(vol, "up"))
	pid := firstPID(t, filepath.Join(cgroupMount(t), h.scope, id))
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	out := waitFile(t, filepath.Join(vol, "out"))
	printed, err := os.ReadFile(filepath.Join(vol, "ran"))
	if err != nil {
		t.Fatal(err)
	}
	ctr.out = out + string(printed)
	if strings.TrimSpace(out) != "code 0" && len(printed) == 0 {
		ctr.code = 1
	}
	return ctr
}

// smallMap gives the kernel side room for that many cgroups, until what it returns is called.
func (h *host) smallMap(t *testing.T, room uint32) (restore func()) {
	t.Helper()
	was := h.opts
	h.opts.Layout, h.opts.MaxCgroups = "-small", room
	h.reopen(t)
	restore = func() {
		h.opts = was
		h.reopen(t)
		if err := h.kernel.Replace(); err != nil {
			t.Error(err)
		}
	}
	if err := h.kernel.Replace(); err != nil {
		restore()
		t.Fatal(err)
	}
	return restore
}

// A cgroup that the map had no room for, deeper than its ancestors are looked at, is not the host's: the floor
// holds for its sockets.
func TestDeepCgroup(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	defer h.smallMap(t, 64)()
	h.enact(t, document("floor", "enforce", "  network: {egress: {deny: [{to: [192.0.2.1]}]}}\n"))
	deep := strings.Repeat("d/", 30)
	r := h.run(t, []string{"--uid", "0", "--cap-add", "SYS_ADMIN"}, "/bin/sh", "-c", "mount -t cgroup2 none /sys && cd /sys$(sed -n s/^0:://p /proc/self/cgroup) && "+
		"mkdir $(seq 100) && mkdir -p "+deep+" && echo 0 > "+deep+"cgroup.procs && { nc -w 1 192.0.2.1 9; echo code $?; }")
	ran(t, r)
	if !strings.Contains(r.out, "not permitted") {
		t.Errorf("it says %q", r.out)
	}
}

// I8: a container that makes cgroups until the kernel side's map of them is full gets no
// container out of the rules, neither itself nor those that are started then.
func TestCgroupMapFull(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	const room, asked = 64, 200
	defer h.smallMap(t, room)()

	h.enact(t, document("none", "audit", nothing))
	script := fmt.Sprintf("exec 2>/tmp/err; cp /bin/id /tmp/id; mkfifo /tmp/go /tmp/end; mount -t cgroup2 none /sys && "+
		"cd /sys$(sed -n s/^0:://p /proc/self/cgroup) && mkdir $(seq %d) && echo $$ > %d/cgroup.procs; echo code $? $(cat /tmp/err) > /tmp/out; "+
		"read x </tmp/go; /tmp/id; echo code $? > /tmp/late; read x </tmp/end", asked, asked) // of /tmp/go it could read the end
	hog := h.run(t, []string{"--detach", "--cap-add", "SYS_ADMIN"}, "/bin/sh", "-c", script)
	ran(t, hog)
	removed := false
	defer func() {
		if !removed {
			h.remove(t, hog.id)
		}
	}()
	root := fmt.Sprintf("/proc/%d/root", stateOf(t, h.kernel, hog.id).PID)
	if out := waitFile(t, root+"/tmp/out"); strings.TrimSpace(out) != "code 0" {
		t.Fatalf("it cannot make cgroups: %s", out)
	}
	var last syscall.Stat_t // a cgroup's inode number is its id
	if err := syscall.Stat(filepath.Join(cgroupMount(t), h.scope, hog.id, strconv.Itoa(asked)), &last); err != nil {
		t.Fatal(err)
	}
	if known := h.kernelCgroups(t); len(known) > room || known[last.Ino] {
		t.Fatalf("the map holds %d cgroups, the last one %v; it was to hold %d", len(known), known[last.Ino], room)
	}
	failures, err := h.kernel.Failures()
	if err != nil {
		t.Fatal(err)
	}
	if failures["cgroup_full"] == 0 {
		t.Errorf("%d cgroups in a map of %d, and no failure was counted: %v", asked, room, failures)
	}
	h.reopen(t) // an agent that starts now has no room for them either
	h.overflowed(t, true)

	h.enact(t, document("full", "enforce", "  exec: {asRoot: deny, drift: deny, deny: [/bin/id]}\n"+serverPolicy))
	for range 2 {
		for _, c := range []struct {
			flags   []string
			command []string
			rule    verdict.Rule
		}{
			{nil, []string{"/bin/dyn-id"}, verdict.RuleAsRoot},
			{[]string{"--clone-into-cgroup"}, []string{"/bin/dyn-id"}, verdict.RuleAsRoot},
			{asUser, []string{"/bin/id"}, verdict.RulePathDeny},
			{asUser, []string{"/bin/attack", "--target", "/bin/prim", "e1-copy"}, verdict.RuleDrift},
		} {
			h.stopped(t, h.run(t, c.flags, c.command...), c.rule)
		}
		ran(t, h.run(t, asUser, "/bin/dyn-id"))
	}
	if r := h.run(t, asUser, "/bin/attack", "n2-server"); r.code != 1 || len(h.take(r.id, verdict.RuleSSHServer)) == 0 {
		t.Errorf("an SSH server, which cgroup programs cut: %v", r)
	}
	h.enact(t, rootDenied("asRoot: deny"))
	entered := h.exec(t, hog.id, nil, "/bin/dyn-id")
	entered.id = hog.id
	h.stopped(t, entered, verdict.RuleAsRoot)
	// And itself, in a cgroup that is not in the map.
	h.enact(t, document("full", "enforce", driftPolicy))
	if err := os.WriteFile(root+"/tmp/go", []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	hog.out = waitFile(t, root+"/tmp/late")
	if strings.TrimSpace(hog.out) == "code 0" {
		t.Fatal("a dropped program ran in a cgroup that is not in the map")
	}
	hog.code = 1
	h.stopped(t, hog, verdict.RuleDrift)
	// With the hog the walks end, which every cgroup outside the map costs.
	h.overflowed(t, true)
	h.remove(t, hog.id)
	removed = true
	for range 40 {
		if over, err := h.kernel.Overflowed(); err != nil || !over {
			break
		}
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // the kernel side is looked after every ten seconds
	}
	h.overflowed(t, false)
	h.enact(t, rootDenied("asRoot: deny"))
	h.stopped(t, h.run(t, nil, "/bin/dyn-id"), verdict.RuleAsRoot)
}

// overflowed asserts whether containers are looked for by walking.
func (h *host) overflowed(t *testing.T, want bool) {
	t.Helper()
	if over, err := h.kernel.Overflowed(); err != nil || over != want {
		t.Fatalf("overflowed: %v %v, want %v", over, err, want)
	}
}
