package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

var asUser = []string{"--uid", "1000"}

// stopped fails unless a command was denied at the backend's level for execs.
func (h *host) stopped(t *testing.T, r result, rule verdict.Rule) {
	t.Helper()
	if r.code == 0 {
		t.Fatalf("it ran: %v", r)
	}
	want := verdict.Denied
	if h.kernel.Backend() == verdict.BackendSignal {
		want = verdict.Killed
	}
	evs := h.take(r.id, rule)
	if len(evs) == 0 {
		t.Fatalf("%v, but no record of %s", r, rule)
	}
	if evs[0].Decision != want {
		t.Errorf("decision %s, want %s", evs[0].Decision, want)
	}
}

func ran(t *testing.T, r result) {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("it must run: %v", r)
	}
}

func rootDenied(spec string) string { return document("root", "enforce", "  exec: {"+spec+"}\n") }

// E9, I4: the entrypoint itself is judged, from the container's first instruction.
func TestEntrypoint(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	for _, flags := range [][]string{nil, {"--clone-into-cgroup"}} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			h.stopped(t, h.run(t, flags, "/bin/id"), verdict.RuleAsRoot)
			ran(t, h.run(t, append(flags, asUser...), "/bin/id"))
		})
	}
}

// I6: what is put into a container from outside is judged too.
func TestEnteredExec(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	for _, flags := range [][]string{nil, {"--clone-into-cgroup"}} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "100")
			ran(t, c)
			defer h.remove(t, c.id)
			r := h.exec(t, c.id, append(flags, "--uid", "0"), "/bin/id")
			r.id = c.id
			h.stopped(t, r, verdict.RuleAsRoot)
			ran(t, h.exec(t, c.id, append(flags, asUser...), "/bin/id"))
		})
	}
}

// asRoot: denyAfterStart lets pid 1 and its descendants set up as root, until pid 1 is
// not root any more; what is put in from outside may never.
func TestDenyAfterStart(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: denyAfterStart"))
	ran(t, h.run(t, nil, "/bin/sh", "-c", "/bin/id && /bin/sh -c /bin/id"))
	c := h.run(t, []string{"--detach"}, "/bin/sleep", "100")
	ran(t, c)
	r := h.exec(t, c.id, []string{"--uid", "0"}, "/bin/id")
	r.id = c.id
	h.stopped(t, r, verdict.RuleAsRoot)
	h.remove(t, c.id)

	h.enact(t, rootDenied("asRoot: denyAfterStart, startFor: 1s"))
	h.stopped(t, h.run(t, nil, "/bin/sh", "-c", "/bin/id && /bin/sleep 1.5; /bin/id"), verdict.RuleAsRoot)
}

// Root of the container's own user namespace is root of the container.
func TestUserNamespaceRoot(t *testing.T) {
	h := get(t)
	if err := os.Chmod(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	shifted := filepath.Join(h.dir, "shifted")
	if out, err := exec.Command(bin("ctr"), "mkroot", "-bin", filepath.Dir(bin("ctr")), "-shift", "100000", shifted).CombinedOutput(); err != nil {
		t.Fatalf("ctr mkroot: %v: %s", err, out)
	}
	h.enact(t, rootDenied("asRoot: deny, nested: allow"))
	flags := []string{"--userns", "--rootfs", shifted}
	h.stopped(t, h.run(t, flags, "/bin/id"), verdict.RuleAsRoot)
	ran(t, h.run(t, append(flags, asUser...), "/bin/id"))
}

// nested: allow exempts root of a user namespace that a task makes for itself.
func TestNestedAllow(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny, nested: allow"))
	ran(t, h.run(t, asUser, "/bin/attack", "p7-userns"))
}

// I2: a cgroup below a container's, made by whomever, is the container's.
func TestNestedCgroup(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "100")
	ran(t, c)
	defer h.remove(t, c.id)
	nested := filepath.Join(cgroupMount(t), h.scope, c.id, "nested", "deeper")
	if err := os.MkdirAll(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	pid := firstPID(t, filepath.Join(cgroupMount(t), h.scope, c.id))
	if err := os.WriteFile(filepath.Join(nested, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	r := h.exec(t, c.id, []string{"--uid", "0"}, "/bin/id")
	r.id = c.id
	h.stopped(t, r, verdict.RuleAsRoot)
}

// I2: a task that is moved out of the cgroup stays what it is.
func TestMovedOut(t *testing.T) {
	h := get(t)
	h.enact(t, document("drift", "enforce", "  exec: {drift: deny}\n"))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c",
		"cp /bin/id /tmp/id; while [ ! -e /tmp/go ]; do sleep 0.05; done; /tmp/id; echo code $? > /tmp/out; sleep 100")
	ran(t, c)
	dir := filepath.Join(cgroupMount(t), h.scope, c.id)
	pid := firstPID(t, dir)
	procs := filepath.Join(cgroupMount(t), "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	if err := os.WriteFile(root+"/tmp/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := waitFile(t, root+"/tmp/out")
	_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	h.remove(t, c.id)
	if strings.TrimSpace(out) == "code 0" {
		t.Fatal("a dropped program ran after its task was moved out of the container's cgroup")
	}
	c.code, c.out = 1, out
	h.stopped(t, c, verdict.RuleDrift)
}

// I7: kill -9 of the agent changes nothing, and neither does the next one's start.
func TestSurvival(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	running := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "1000")
	ran(t, running)
	defer h.remove(t, running.id)
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	fresh := h.run(t, nil, "/bin/id")
	entered := h.exec(t, running.id, []string{"--uid", "0"}, "/bin/id")
	okay := h.exec(t, running.id, asUser, "/bin/id")

	// The next agent starts with another floor, which must not matter before it is set,
	// and must hold from the first instruction after that.
	opts := h.opts
	opts.Floor = mustPolicies(rootDenied("asRoot: deny, drift: deny")).Floor()
	k, err := enforce.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	for what, r := range map[string]result{"fresh container": fresh, "exec into a running one": entered} {
		if r.code == 0 {
			t.Errorf("with no agent, %s ran as root: %v", what, r)
		}
	}
	ran(t, okay)
	if !k.Adopted() {
		t.Error("the next agent did not adopt the maps")
	}
	// What was denied while no agent ran is credited to the policy that did it.
	evs := h.take(fresh.id, verdict.RuleAsRoot)
	if len(evs) == 0 {
		t.Fatal("no record of what was denied with no agent")
	}
	if src, ok := k.Source(evs[0]); !ok || src.Name != "root" {
		t.Errorf("it is credited to %q", src.Name)
	}
	h.stopped(t, h.run(t, nil, "/bin/id"), verdict.RuleAsRoot)
	h.stopped(t, h.run(t, asUser, "/bin/attack", "e1-copy"), verdict.RuleDrift)
	r := h.exec(t, running.id, []string{"--uid", "0"}, "/bin/id")
	r.id = running.id
	h.stopped(t, r, verdict.RuleAsRoot)
}

// A container that ran before Belay is enrolled: its tasks are armed.
func TestEnrolRunning(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, document("none", "audit", "  guard: {bpf: deny}\n"))
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	if err := enforce.Unload(h.opts.PinDir); err != nil {
		t.Fatal(err)
	}
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c",
		"cp /bin/id /tmp/id; while [ ! -e /tmp/go ]; do sleep 0.05; done; /tmp/id; echo code $? > /tmp/out; sleep 100")
	ran(t, c)
	pid := firstPID(t, filepath.Join(cgroupMount(t), h.scope, c.id))
	opts := h.opts
	// Nobody saw whether it has listened, so it counts as one that has.
	opts.Floor = mustPolicies(rootDenied("asRoot: deny") + "---\n" + document("late", "enforce", listenPhase+driftPolicy)).Floor()
	k, err := enforce.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	defer h.remove(t, c.id)
	root := fmt.Sprintf("/proc/%d/root", pid)
	if err := os.WriteFile(root+"/tmp/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := waitFile(t, root+"/tmp/out"); strings.TrimSpace(out) == "code 0" {
		t.Fatal("a process that ran before Belay executed a dropped program")
	}
	h.stopped(t, result{code: 1, id: c.id}, verdict.RuleDrift)
	r := h.exec(t, c.id, []string{"--uid", "0"}, "/bin/id")
	r.id = c.id
	h.stopped(t, r, verdict.RuleAsRoot)
}

// A container outside the scope is not Belay's.
func TestScope(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	other := h.scope + "-other"
	defer func() { _ = syscall.Rmdir(filepath.Join(cgroupMount(t), other)) }()
	ran(t, h.run(t, []string{"--cgroup-parent", other}, "/bin/id"))
}

// Names of cgroups by the shapes of the runtimes.
func TestCgroupShapes(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	for _, prefix := range []string{"docker-", "cri-containerd-", "crio-", "libpod-"} {
		t.Run(prefix, func(t *testing.T) {
			id := newID()
			r := h.run(t, []string{"--id", id, "--cgroup-name", prefix + id + ".scope"}, "/bin/id")
			r.id = id
			h.stopped(t, r, verdict.RuleAsRoot)
		})
	}
	id := newID()
	ran(t, h.run(t, []string{"--id", id, "--cgroup-name", "crio-conmon-" + id + ".scope"}, "/bin/id"))
}

// Build steps have rules of their own: root and drift are part of building.
func TestBuildStep(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny, drift: deny"))
	parent := filepath.Join(h.scope, "buildkit")
	defer func() { _ = syscall.Rmdir(filepath.Join(cgroupMount(t), parent)) }()
	ran(t, h.run(t, []string{"--cgroup-parent", parent, "--cgroup-name", "abcdefghijklmnopqrstuvwxy"}, "/bin/id"))
}

// A binding by ID holds from before the start, and ends with Unbind.
func TestBinding(t *testing.T) {
	h := get(t)
	h.enact(t, document("none", "audit", "  guard: {bpf: deny}\n"))
	id := newID()
	own := mustPolicies(rootDenied("asRoot: deny")).Floor()
	if err := h.kernel.Bind(ident.ContainerID(id), own); err != nil {
		t.Fatal(err)
	}
	r := h.run(t, []string{"--id", id}, "/bin/id")
	r.id = id
	h.stopped(t, r, verdict.RuleAsRoot)
	ran(t, h.run(t, nil, "/bin/id"))
	if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
		t.Fatal(err)
	}
	ran(t, h.run(t, []string{"--id", id}, "/bin/id"))
}

// The canary is denied, and is found and mended when somebody detaches the programs.
func TestCanary(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	if err := h.kernel.Canary(); err != nil {
		t.Fatal(err)
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
	// the kernel detaches a moment after the last pin is gone
	var found error
	for range 100 {
		if found = h.kernel.Canary(); found != nil {
			break
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // there is no other signal
	}
	if err := h.kernel.Reattach(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(found, enforce.ErrCanary) {
		t.Errorf("with all programs detached: %v, want %v", found, enforce.ErrCanary)
	}
	if err := h.kernel.Canary(); err != nil {
		t.Fatal(err)
	}
}

// The zero policy denies: nothing runs in a container whose set is missing or empty.
func TestZeroPolicyDenies(t *testing.T) {
	h := get(t)
	id := newID()
	if err := h.kernel.Bind(ident.ContainerID(id), &policy.Effective{Revision: "zero"}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
			t.Error(err)
		}
	}()
	if r := h.run(t, []string{"--id", id}, "/bin/id"); r.code == 0 {
		t.Fatalf("it ran: %v", r)
	}
}

func cgroupMount(tb testing.TB) string {
	tb.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	tb.Fatal("no cgroup v2 hierarchy")
	return ""
}

func firstPID(tb testing.TB, dir string) int {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		tb.Fatal(err)
	}
	f := strings.Fields(string(b))
	if len(f) == 0 {
		tb.Fatalf("no process in %s", dir)
	}
	pid, err := strconv.Atoi(f[0])
	if err != nil {
		tb.Fatal(err)
	}
	return pid
}

// waitFile returns the content of a file that is about to appear.
func waitFile(tb testing.TB, path string) string {
	tb.Helper()
	for range 600 {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			return string(b)
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a shell in a container has no other signal
	}
	tb.Fatalf("%s did not appear", path)
	return ""
}

// A record of a denied exec has the arguments, the executable, the working directory and
// the ancestors.
func TestRecord(t *testing.T) {
	h := get(t)
	h.enact(t, denyOnly("/bin/id"))
	r := h.run(t, asUser, "/bin/sh", "-c", "cd /tmp && /bin/id first 'second one'; true")
	evs := h.take(r.id, verdict.RulePathDeny)
	if len(evs) == 0 {
		t.Fatalf("no record: %v", r)
	}
	ev := evs[0]
	if got, want := fmt.Sprint(ev.Args), "[/bin/id first second one]"; got != want {
		t.Errorf("arguments %s, want %s", got, want)
	}
	if ev.Exe != "/bin/id" || ev.Cwd != "/tmp" || ev.UID != 1000 || ev.ExeIno == 0 || ev.Layer != "image" {
		t.Errorf("executable %q inode %d layer %q, working directory %q, uid %d", ev.Exe, ev.ExeIno, ev.Layer, ev.Cwd, ev.UID)
	}
	if len(ev.Ancestors) < 2 || ev.Ancestors[0].Comm != "sh" || ev.Ancestors[0].StartedSinceBoot == 0 {
		t.Errorf("ancestors %+v", ev.Ancestors)
	}
}

// Who asks for a container chooses its cgroup's parent, and so the parent's name. It must
// not choose the policy: not that of a build step, nor that of another container.
func TestChosenParent(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	root := cgroupMount(t)
	remove := func(dirs ...string) {
		for _, d := range dirs {
			_ = syscall.Rmdir(filepath.Join(root, d)) // deepest first; what is left fails the suite's clean-up
		}
	}
	loose := newID()
	none := mustPolicies(document("none", "audit", "  guard: {bpf: deny}\n")).Floor()
	if err := h.kernel.Bind(ident.ContainerID(loose), none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.kernel.Unbind(ident.ContainerID(loose)); err != nil {
			t.Error(err)
		}
	}()
	deep := h.scope + strings.Repeat("/d", 26)
	for name, parent := range map[string]string{
		"build step":              h.scope + "/buildkit/abcdefghijklmnopqrstuvwxy",
		"loosely bound container": h.scope + "/" + loose,
		"deeper than a walk":      deep,
	} {
		t.Run(name, func(t *testing.T) {
			h.stopped(t, h.run(t, []string{"--cgroup-parent", parent}, "/bin/id"), verdict.RuleAsRoot)
			for p := parent; p != h.scope; p = filepath.Dir(p) {
				remove(p)
			}
		})
	}
}

// An agent that starts while a runtime enters a container finds the runtime's task in the container's
// cgroup: it is the runtime still, and so is what it runs in the host's mounts. A task that has entered the
// host's mounts by itself is the container's.
func TestEnrolledMovesIn(t *testing.T) {
	inFullGuests(t)
	for name, c := range map[string]struct {
		by   []string // of the shell
		runs bool
	}{
		"runtime": {nil, true},
		"nsenter": {[]string{"/usr/bin/nsenter", "--mount=/proc/self/ns/mnt"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := get(t)
			h.enact(t, rootDenied("asRoot: deny, drift: deny"))
			if err := errors.Join(h.die(), enforce.Unload(h.opts.PinDir)); err != nil {
				t.Fatal(err)
			}
			ctr := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "1000")
			ran(t, ctr)
			defer h.remove(t, ctr.id)
			argv := append(slices.Clone(c.by), "/bin/sh", "-c", "echo up; read go; /bin/true; echo code $?")
			enters := exec.Command(argv[0], argv[1:]...)
			enters.Stderr = os.Stderr
			said, err := enters.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			goes, err := enters.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := enters.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(said)
			lines.Scan() // it is a shell now
			procs := filepath.Join(cgroupMount(t), h.scope, ctr.id, "cgroup.procs")
			if err := os.WriteFile(procs, []byte(strconv.Itoa(enters.Process.Pid)), 0o644); err != nil {
				t.Fatal(err)
			}
			opts := h.opts
			opts.Floor = mustPolicies(rootDenied("asRoot: deny, drift: deny")).Floor()
			k, err := enforce.Open(opts)
			if err != nil {
				t.Fatal(err)
			}
			h.kernel = k
			h.listen()
			if _, err := io.WriteString(goes, "go\n"); err != nil {
				t.Fatal(err)
			}
			lines.Scan()
			got := lines.Text()
			_ = enters.Wait() // what it ran is what counts
			testneed.Need(t, "quick-load", !c.runs || time.Since(began) < 10*time.Second, "a kernel that loads the programs while the task is young")
			if (got == "code 0") != c.runs {
				t.Errorf("it says %q", got)
			}
			entered := h.exec(t, ctr.id, nil, "/bin/id")
			entered.id = ctr.id
			h.stopped(t, entered, verdict.RuleAsRoot)
		})
	}
}

// Some runtimes move themselves into a container's cgroup, and out of it: what they execute in the host's mounts
// is theirs.
func TestMovesItself(t *testing.T) {
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny, drift: deny"))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "1000")
	ran(t, c)
	defer h.remove(t, c.id)
	out, err := exec.Command("/bin/sh", "-c", `echo 0 > "$1/cgroup.procs" && /bin/true; echo in $?; echo 0 > "$2/cgroup.procs"; /bin/true; echo out $?`,
		"sh", filepath.Join(cgroupMount(t), h.scope, c.id), cgroupMount(t)).CombinedOutput()
	if err != nil || string(out) != "in 0\nout 0\n" {
		t.Errorf("%v: it says %q", err, out)
	}
	h.none(t, c.id)
}

// An enrolled container's task that leaves its cgroup before it does anything is armed
// all the same.
func TestEnrolledMovesOut(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, document("none", "audit", "  guard: {bpf: deny}\n"))
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	if err := enforce.Unload(h.opts.PinDir); err != nil {
		t.Fatal(err)
	}
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c",
		"cp /bin/id /tmp/id; while [ ! -e /tmp/go ]; do :; done; /tmp/id; echo code $? > /tmp/out; while :; do :; done")
	ran(t, c)
	dir := filepath.Join(cgroupMount(t), h.scope, c.id)
	pid := firstPID(t, dir)
	opts := h.opts
	opts.Floor = mustPolicies(rootDenied("drift: deny")).Floor()
	k, err := enforce.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	if err := os.WriteFile(filepath.Join(cgroupMount(t), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	if err := os.WriteFile(root+"/tmp/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := waitFile(t, root+"/tmp/out")
	_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	h.remove(t, c.id)
	if strings.TrimSpace(out) == "code 0" {
		t.Fatal("a dropped program ran")
	}
}

// An agent whose maps have another layout takes over who is whose: a task that has left
// its container's cgroup stays the container's, and what the container was at its start
// is still known.
func TestUpgradeOfLayout(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, document("none", "audit", "  guard: {bpf: deny}\n"))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c",
		"cp /bin/id /tmp/id; while [ ! -e /tmp/go ]; do :; done; /tmp/id; echo code $? > /tmp/out; while :; do :; done")
	ran(t, c)
	dir := filepath.Join(cgroupMount(t), h.scope, c.id)
	pid := firstPID(t, dir)
	defer func() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
		h.remove(t, c.id)
	}()
	if err := os.WriteFile(filepath.Join(cgroupMount(t), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	before := stateOf(t, h.kernel, c.id)
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	h.opts.Layout = "-next"
	opts := h.opts
	opts.Floor = mustPolicies(rootDenied("drift: deny")).Floor()
	k, err := enforce.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	if k.Adopted() {
		t.Fatal("the maps of another layout were adopted as they are")
	}
	if err := k.Replace(); err != nil {
		t.Fatal(err)
	}
	if after := stateOf(t, k, c.id); after != before {
		t.Errorf("the container's state is %+v after the upgrade, and was %+v", after, before)
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	if err := os.WriteFile(root+"/tmp/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := waitFile(t, root+"/tmp/out"); strings.TrimSpace(out) == "code 0" {
		t.Fatal("a dropped program ran")
	}
	h.stopped(t, result{code: 1, id: c.id}, verdict.RuleDrift)
}

func stateOf(t *testing.T, k *enforce.Enforcer, id string) enforce.ContainerState {
	t.Helper()
	list, err := k.Containers()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if string(ident.ContainerIDFromBytes(c.ID)) == id {
			return c
		}
	}
	t.Fatalf("the kernel does not know container %s", id)
	return enforce.ContainerState{}
}
