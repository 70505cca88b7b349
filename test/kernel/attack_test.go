package kernel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// What becomes of an attack under a backend.
const (
	prevented   = "prevented"   // the act failed with an error
	killed      = "killed"      // the task got SIGKILL before it could act
	open        = "open"        // it wins: the backend does not see it
	unsupported = "unsupported" // it wins: the backend has no such rule
)

// attackCase is one technique against one rule. policy is the body of spec, without
// mode.
type attackCase struct {
	name   string // of bin/attack
	rule   verdict.Rule
	policy string
	uid    int
	flags  []string          // of ctr run
	args   []string          // of attack
	want   map[string]string // by backend; missing: prevented under lsm and modret, killed under signal
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
)

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
	{name: "e10-script", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e10-interp", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e10-chain", rule: verdict.RuleDrift, policy: driftPolicy, want: bySignal(open)},
	{name: "e12-execveat", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e12-int80", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e14-retry", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e15-first", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "i1-namespaces", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "i1-mount", rule: verdict.RuleMemfd, policy: memfdPolicy},
	{name: "p7-setuid", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "p7-setuid-exec", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "p7-cap-setuid", rule: verdict.RuleAsRoot, policy: rootPolicy},
	{name: "p7-filecaps", rule: verdict.RuleFileCaps, policy: capsPolicy, want: map[string]string{"modret": killed}},
	{name: "p7-userns", rule: verdict.RuleAsRoot, policy: rootPolicy},
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
	{name: "keys-opath", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-uring", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-write", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-truncate", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-replace", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-rename", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
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

func (h *host) attack(t *testing.T, c attackCase) result {
	t.Helper()
	uid := c.uid
	if uid == 0 {
		uid = 1000
	}
	flags := append([]string{"--uid", fmt.Sprint(uid)}, c.flags...)
	r := h.run(t, flags, append(append([]string{"/bin/attack"}, c.args...), c.name)...)
	testneed.Need(t, "attack-"+c.name, r.code != 2 && r.code != 64, r.out)
	return r
}

// Enforced, each attack ends as its backend promises.
func TestAttackEnforced(t *testing.T) {
	h := get(t)
	for _, c := range attackCases {
		t.Run(c.name, func(t *testing.T) {
			h.enact(t, document("enforced", "enforce", c.policy))
			r := h.attack(t, c)
			switch want := c.outcome(h.kernel.Backend()); want {
			case open, unsupported:
				if r.code != 0 {
					t.Errorf("got %v; the table says that %s cannot see it: mend the table", r, h.kernel.Backend())
				}
			case prevented, killed:
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
		})
	}
}

// Audited, each attack wins, and is reported as one that would be denied.
func TestAttackAudited(t *testing.T) {
	h := get(t)
	for _, c := range attackCases {
		t.Run(c.name, func(t *testing.T) {
			h.enact(t, document("audited", "audit", c.policy))
			r := h.attack(t, c)
			if r.code != 0 {
				t.Fatalf("audit mode must let it pass: %v", r)
			}
			if o := c.outcome(h.kernel.Backend()); o == open || o == unsupported {
				return
			}
			evs := h.take(r.id, c.rule)
			if len(evs) == 0 {
				t.Fatalf("no record of %s", c.rule)
			}
			if evs[0].Decision != verdict.WouldDeny {
				t.Errorf("decision %s, want %s", evs[0].Decision, verdict.WouldDeny)
			}
		})
	}
}

// With no policy, each attack wins and nothing is recorded: what the others measure is
// the policy and not the container.
func TestAttackUnguarded(t *testing.T) {
	h := get(t)
	h.enact(t, document("none", "audit", "  guard: {bpf: deny}\n"))
	for _, c := range attackCases {
		t.Run(c.name, func(t *testing.T) {
			r := h.attack(t, c)
			if r.code != 0 {
				t.Fatalf("the attack does not work here: %v", r)
			}
			h.none(t, r.id)
		})
	}
}
