package kernel

import (
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/verdict"
)

// syscallCases are what --signal-syscalls sees besides execs.
var syscallCases = []attackCase{
	{name: "e5-loader", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e5-mmap", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e6-preload", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e6-dlopen", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e8-mprotect", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "e8-wx", rule: verdict.RuleDrift, policy: driftPolicy},
	{name: "keys-read", rule: verdict.RuleSSHKeys, policy: keysPolicy},
	{name: "keys-procroot", rule: verdict.RuleSSHKeys, policy: keysPolicy},
	{name: "keys-symlink", rule: verdict.RuleSSHKeys, policy: keysPolicy},
	{name: "keys-opath", rule: verdict.RuleSSHKeys, policy: keysPolicy},
	{name: "keys-rename", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-hardlink", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "keys-uring", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-write", rule: verdict.RuleSSHKeys, policy: keysPolicy},
	{name: "auth-replace", rule: verdict.RuleSSHKeys, policy: keysPolicy},
	{name: "auth-truncate", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
	{name: "auth-rename", rule: verdict.RuleSSHKeys, policy: keysPolicy, want: bySignal(unsupported)},
}

// reopen ends the agent and starts the next, with what h.opts says now.
func (h *host) reopen(t *testing.T) {
	t.Helper()
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	k, err := enforce.Open(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
}

// alone waits until the kernel has let go of the programs that deny by another backend: it does so
// some time after the last reference to them is gone, and they deny until then.
func (h *host) alone(t *testing.T) {
	t.Helper()
	var left []string
	for range 240 {
		var err error
		if left, err = enforce.Denying(); err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // the kernel tells of it in no other way
	}
	t.Fatalf("still loaded: %v", left)
}

// withSyscalls runs f under the signal backend with the program on system calls attached.
func withSyscalls(t *testing.T, f func(h *host)) {
	t.Helper()
	h := get(t)
	was := h.opts
	h.opts.Backend, h.opts.SignalSyscalls = string(verdict.BackendSignal), true
	h.reopen(t)
	defer func() {
		h.opts = was
		h.reopen(t)
	}()
	h.alone(t)
	f(h)
}

// With --signal-syscalls, the signal backend kills for mappings and for key files; audited,
// they pass and are reported; what the shipped policy forbids is not done by ordinary programs.
func TestSignalSyscalls(t *testing.T) {
	inFullGuests(t)
	withSyscalls(t, func(h *host) {
		for _, c := range syscallCases {
			t.Run(c.name, func(t *testing.T) { enforced(t, h, c) })
			t.Run(c.name+"/audited", func(t *testing.T) { audited(t, h, c) })
		}
		for mode, want := range map[string]verdict.Decision{"enforce": verdict.Killed, "audit": verdict.WouldDeny} {
			t.Run("shmat/"+mode, func(t *testing.T) {
				h.enact(t, document("shm", mode, memfdPolicy))
				r := h.run(t, asUser, "/bin/prim", "shm")
				evs := h.take(r.id, verdict.RuleMemfd)
				if got := strings.Contains(r.out, "uid=shm"); got != (mode == "audit") || len(evs) == 0 || evs[0].Decision != want {
					t.Errorf("it is attached: %v; %v, %d records", got, r, len(evs))
				}
			})
		}
		t.Run("quiet", func(t *testing.T) {
			h.enact(t, document("enforced", "enforce", driftPolicy+keysPolicy))
			for _, cmd := range [][]string{{"/bin/dyn-id"}, {"/bin/id"}, {"/bin/sh", "-c", "/bin/dyn-id; cat /etc/passwd >/dev/null; echo x > /tmp/x; cat /tmp/x"}} {
				r := h.run(t, asUser, cmd...)
				ran(t, r)
				h.none(t, r.id)
			}
		})
	})
}
