package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// What becomes of an attack under a backend.
const (
	prevented   = "prevented"   // the act failed with an error
	killed      = "killed"      // the task got SIGKILL before it could act
	detected    = "detected"    // it wins, and user space is told which file to judge
	open        = "open"        // it wins: the backend does not see it
	unsupported = "unsupported" // it wins: the backend has no such rule
)

// attackCase is one technique against one rule. policy is the body of spec, without
// mode.
type attackCase struct {
	name   string // of bin/attack
	rule   verdict.Rule
	policy string
	flags  []string          // of ctr run; without --uid the attacker is user 1000
	volume bool              // its home is a volume
	bound  bool              // the policy is the container's own, and not the floor
	needs  func(*testing.T)  // makes what the host must have
	want   map[string]string // by backend; missing: prevented under lsm and modret, killed under signal

	// The rest is of the matrix alone.
	silent    bool   // the attack is told the same whether it was refused or not
	id, about string // of a scene, which bin/attack does not know
	// scene plays the attack from outside, with no policy or under that of the case.
	scene func(t *testing.T, h *host, c attackCase, guarded bool) trial
}

const (
	driftPolicy  = "  exec: {drift: deny, volumes: readOnly}\n"
	memfdPolicy  = "  exec: {memfd: deny}\n"
	rootPolicy   = "  exec: {asRoot: deny}\n"
	denyIDPolicy = "  exec: {deny: [/bin/id]}\n"
	capsPolicy   = "  exec: {fileCaps: deny}\n"
	serverPolicy = "  ssh: {server: deny}\n"
	clientPolicy = "  ssh: {client: deny}\n"
	keysPolicy   = "  ssh: {keys: deny}\n"
	guardPolicy  = "  guard: {bpf: deny}\n"
)

var asAdmin = []string{"--uid", "0", "--cap-add", "SYS_ADMIN"}

var asPrivileged = []string{"--uid", "0", "--cap-add", "SYS_ADMIN", "--cap-add", "BPF"}

// bySignal are exceptions of the signal backend, which sees only execs of programs.
func bySignal(outcome string) map[string]string { return map[string]string{"signal": outcome} }

var cgroupPrevents = bySignal(prevented) // network rules are cgroup programs under every backend

var attackCases = []attackCase{
	{name: "e1-copy", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e1-rename", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e2-procroot", rule: verdict.RulePathDeny, policy: denyIDPolicy},
	{name: "e2-dotdot", rule: verdict.RulePathDeny, policy: denyIDPolicy},
	{name: "e2-fd", rule: verdict.RulePathDeny, policy: denyIDPolicy},
	{name: "e2-bind", rule: verdict.RulePathDeny, policy: denyIDPolicy},
	{name: "e3-symlink", rule: verdict.RulePathDeny, policy: denyIDPolicy},
	{name: "e3-hardlink", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e5-loader", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e5-mmap", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e6-preload", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e6-dlopen", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e7-memfd", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "e7-fexecve", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "e7-tmpfile", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "e7-deleted", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "e7-shm", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "e8-mprotect", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e8-wx", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e10-script", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(detected)},
	{name: "e10-interp", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e10-chain", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(detected)},
	{name: "e10-binfmt", rule: verdict.RuleDrift, policy: driftPolicy, needs: binfmt, want: bySignal(detected)},
	{name: "e11-race", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e12-execveat", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e12-int80", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e13-args", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e14-retry", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e15-first", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "i1-namespaces", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "i1-mount", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "i2-child", rule: verdict.RuleDrift, policy: driftPolicy, flags: asAdmin},
	{name: "i2-leave", rule: verdict.RuleDrift, policy: driftPolicy, flags: asAdmin},
	{name: "i2-rmdir", rule: verdict.RuleDrift, policy: driftPolicy, flags: asAdmin},
	{name: "i2-rmdir-uring", rule: verdict.RuleDrift, policy: driftPolicy, flags: asAdmin},
	{name: "p7-setuid", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "p7-setuid-exec", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "p7-cap-setuid", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "p7-filecaps", rule: verdict.RuleFileCaps, policy: capsPolicy, want: map[string]string{"modret": killed}},
	{name: "p7-userns", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "bpf-enumerate", rule: verdict.RuleBPF, policy: guardPolicy, flags: asPrivileged, want: bySignal(open)},
	{name: "n2-program", rule: verdict.RuleSSHServer, policy: serverPolicy},
	{name: "n2-server", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-22", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-bytes", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-banner", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-deep", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-v6", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-v6-bytes", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-server-mapped", rule: verdict.RuleSSHServer, policy: serverPolicy, want: cgroupPrevents},
	{name: "n2-client", rule: verdict.RuleSSHClient, policy: clientPolicy, want: cgroupPrevents},
	{name: "n2-client-22", rule: verdict.RuleSSHClient, policy: clientPolicy, want: cgroupPrevents},
	{name: "n2-client-bytes", rule: verdict.RuleSSHClient, policy: clientPolicy, want: cgroupPrevents},
	{name: "n2-client-v6", rule: verdict.RuleSSHClient, policy: clientPolicy, want: cgroupPrevents},
	{name: "keys-read", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-procroot", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-symlink", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-hardlink", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-rename", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-renamedir", rule: verdict.RuleSSHKeys, policy: keysPolicy, volume: true, want: bySignal(unsupported)},
	{name: "keys-opath", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-uring", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-write", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-truncate", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-replace", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-rename", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-renamedir", rule: verdict.RuleSSHKeys, policy: keysPolicy, volume: true, want: bySignal(unsupported)},
	{name: "auth-exchange", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-link", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-symlink", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
}

func document(name, mode, spec string) string {
	return fmt.Sprintf("apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: %s}\nspec:\n  mode: %s\n%s", name, mode, spec)
}

func (c attackCase) outcome(b verdict.Backend) string {
	if w, ok := c.want[string(b)]; ok {
		return w
	}
	if b == verdict.BackendSignal {
		return killed
	}
	return prevented
}

// attack plays c in a fresh container. What cannot be tried here is skipped.
func (h *host) attack(t *testing.T, c attackCase, id string) result {
	t.Helper()
	r := h.play(t, c, id)
	testneed.Need(t, "attack-"+c.name, r.code != 2 && r.code != 64, r.out)
	return r
}

// play is attack without the skip.
func (h *host) play(t *testing.T, c attackCase, id string) result {
	t.Helper()
	if c.needs != nil {
		c.needs(t)
	}
	flags := append([]string{"--id", id, "--uid", "1000"}, c.flags...)
	if c.volume {
		flags = append(flags, "--bind", h.home(t)+":/home/app")
	}
	r := h.run(t, flags, "/bin/attack", c.name)
	r.id = id
	return r
}

// home returns a copy of the attacker's home for use as a volume.
func (h *host) home(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(h.dir, "home-"+newID()[:8])
	if out, err := exec.Command("cp", "-a", filepath.Join(h.rootfs, "home", "app"), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the home: %v: %s", err, out)
	}
	return dir
}

// looseDigest is the image of those containers that loosening policies are for.
const looseDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

// loosened puts aside the guard, which no policy need ask for, in one container, whose ID
// it returns: what is left is a policy in audit mode, or nothing.
func (h *host) loosened(t *testing.T, body string) string {
	t.Helper()
	return h.loosenedTo(t, "audit", body)
}

// loosenedTo is loosened with the policy in a mode.
func (h *host) loosenedTo(t *testing.T, mode, body string) string {
	t.Helper()
	loose := "  selector: {imageDigest: \"" + looseDigest + "\"}\n  loosen: true\n"
	yaml := document("loose", "enforce", loose+"  guard: {bpf: allow}\n")
	if body != "" { // of a higher priority: it has the last word in its own mode
		yaml += "---\n" + document("audited", mode, "  priority: 1\n"+loose+body)
	}
	id := newID()
	eff := mustPolicies(yaml).Effective(policy.Subject{Known: true, ImageDigest: looseDigest})
	if err := h.kernel.Bind(ident.ContainerID(id), eff); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
			t.Error(err)
		}
	})
	return id
}

// binfmt gives the host a handler for files named *.belay-attack until the end of the test.
func binfmt(t *testing.T) {
	t.Helper()
	_ = exec.Command("modprobe", "-q", "binfmt_misc").Run() // it may be built in
	dir := t.TempDir()
	err := unix.Mount("binfmt_misc", dir, "binfmt_misc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	testneed.Need(t, "binfmt_misc", err == nil, fmt.Sprintf("a kernel with CONFIG_BINFMT_MISC: mount: %v", err))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	// By extension; the interpreter is looked up where the file is executed. Source: the
	// kernel's Documentation/admin-guide/binfmt-misc.rst.
	name := fmt.Sprintf("belay-test-%d", os.Getpid())
	if err := os.WriteFile(filepath.Join(dir, "register"), []byte(":"+name+":E::belay-attack::/bin/id:"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("-1"), 0); err != nil {
			t.Error(err)
		}
	})
}

// told fails unless the kernel has told user space of a file that a permitted program was
// given by the kernel to interpret.
func (h *host) told(t *testing.T, id string) {
	t.Helper()
	if s := h.scripts(id, 100); len(s) == 0 || !strings.HasPrefix(s[0], "/tmp/attack-") && s[0] != "/dev/fd/3" {
		t.Errorf("files told to user space: %q, want one below /tmp, or a descriptor", s)
	}
}

// scripts returns the paths of such files, waiting up to n hundredths of a second.
func (h *host) scripts(id string, n int) []string {
	var found []string
	for range n {
		h.mu.Lock()
		for _, ev := range h.events {
			if string(ev.Container) == id && ev.Script && ev.Decision == verdict.Allowed {
				found = append(found, ev.Object)
			}
		}
		h.mu.Unlock()
		if len(found) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the ring has no other signal
	}
	return found
}

// Enforced, each attack ends as its backend promises.
func TestAttackEnforced(t *testing.T) {
	h := get(t)
	for _, c := range attackCases {
		t.Run(c.name, func(t *testing.T) { enforced(t, h, c) })
	}
}

func enforced(t *testing.T, h *host, c attackCase) {
	t.Helper()
	h.enact(t, document("enforced", "enforce", c.policy))
	r := h.attack(t, c, newID())
	want := c.outcome(h.kernel.Backend())
	if want == open || want == unsupported || want == detected {
		if r.code != 0 {
			t.Errorf("got %v; the table says that %s cannot stop it: mend the table", r, h.kernel.Backend())
		}
		if want == detected {
			h.told(t, r.id)
		}
		return
	}
	if r.code == 0 || strings.Contains(r.out, "WON") {
		t.Fatalf("the attack WON: %v", r)
	}
	decision := verdict.Denied
	if want == killed {
		decision = verdict.Killed
	}
	evs := h.take(r.id, c.rule)
	if len(evs) == 0 {
		t.Fatalf("%v, but no record of %s", r, c.rule)
	}
	if evs[0].Decision != decision {
		t.Errorf("decision %s by %s, want %s", evs[0].Decision, evs[0].Hook, decision)
	}
	if src, ok := h.kernel.Source(evs[0]); !ok || src.Name != "enforced" {
		t.Errorf("credited to %q", src.Name)
	}
}

// Audited, each attack wins, and is reported as one that would be denied.
func TestAttackAudited(t *testing.T) {
	h := get(t)
	for _, c := range attackCases {
		t.Run(c.name, func(t *testing.T) { audited(t, h, c) })
	}
}

func audited(t *testing.T, h *host, c attackCase) {
	t.Helper()
	h.enact(t, document("audited", "audit", c.policy))
	id := newID()
	if c.policy == guardPolicy {
		id = h.loosened(t, c.policy)
	}
	r := h.attack(t, c, id)
	if r.code != 0 {
		t.Fatalf("audit mode must let it pass: %v", r)
	}
	switch c.outcome(h.kernel.Backend()) {
	case detected:
		h.told(t, r.id)
		return
	case open, unsupported:
		return
	}
	evs := h.take(r.id, c.rule)
	if len(evs) == 0 {
		t.Fatalf("no record of %s", c.rule)
	}
	if evs[0].Decision != verdict.WouldDeny {
		t.Errorf("decision %s, want %s", evs[0].Decision, verdict.WouldDeny)
	}
}

// With no policy, each attack wins and nothing is recorded: what the others measure is
// the policy and not the container.
func TestAttackUnguarded(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, document("none", "audit", "  guard: {bpf: deny}\n"))
	for _, c := range attackCases {
		t.Run(c.name, func(t *testing.T) {
			id := newID()
			if c.policy == guardPolicy {
				id = h.loosened(t, "")
			}
			r := h.attack(t, c, id)
			if r.code != 0 {
				t.Fatalf("the attack does not work here: %v", r)
			}
			h.none(t, r.id)
			if s := h.scripts(r.id, 1); len(s) > 0 {
				t.Errorf("user space was told of %q, and no policy asks for it", s)
			}
		})
	}
}
