package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// hostWorld is what of a host the attacks reach for: files as an engine and the agent have them,
// and a process that runs the agent's program.
type hostWorld struct {
	dir string
	pid int
}

func newHostWorld(t *testing.T, h *host) hostWorld {
	t.Helper()
	dir, err := os.MkdirTemp(h.dir, "host-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(bin("attack"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{
		"usr/bin/dockerd": program, "usr/sbin/belay-agent": program, "etc/docker/daemon.json": []byte("{}\n"), "etc/systemd/other": nil,
		"var/lib/docker/containers/c0ffee/hostconfig.json": []byte("{}\n"), "var/lib/docker/containers/c0ffee/hosts": nil,
		"var/lib/docker/volumes/v/_data/x": nil, "var/lib/belay/journal": nil, "tmp/x": nil,
	} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(at("usr/bin/dockerd"), at("usr/bin/docker-was")); err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(at("usr/sbin/belay-agent"), "answer", "127.0.0.1:0")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	if err := h.kernel.SetHost(enforce.Host{
		Agent:        enforce.HostFiles{Paths: []string{at("usr/sbin/belay-agent"), at("var/lib/belay")}},
		Runtimes:     enforce.HostFiles{Paths: []string{at("usr/bin/dockerd")}},
		EngineConfig: enforce.HostFiles{Paths: []string{at("etc/docker"), at("etc/systemd/docker.service.d")}, Dirs: []string{at("var/lib/docker/containers")}, Records: []string{"hostconfig.json"}},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.kernel.SetHost(enforce.Host{}); err != nil {
			t.Error(err)
		}
	})
	return hostWorld{dir, agent.Process.Pid}
}

const (
	hostAgentPolicy    = "  host: {agent: deny}\n"
	hostRuntimesPolicy = "  host: {runtimes: deny}\n"
	hostEnginePolicy   = "  host: {engineConfig: deny}\n"
)

// hostCases are played by root with the host's directories.
func hostCases() []attackCase {
	root := func(caps ...string) []string {
		out := []string{"--uid", "0"}
		for _, c := range caps {
			out = append(out, "--cap-add", c)
		}
		return out
	}
	var out []attackCase
	add := func(rule verdict.Rule, policy string, flags []string, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: rule, policy: policy, flags: flags, want: bySignal(unsupported), scene: sceneHost})
		}
	}
	add(verdict.RuleHostRuntimes, hostRuntimesPolicy, root(), "host-runtime-write", "host-runtime-alias", "host-runtime-truncate",
		"host-runtime-replace", "host-runtime-unlink", "host-runtime-link", "host-runtime-chmod", "host-above-rename", "host-above-exchange", "host-self")
	add(verdict.RuleHostRuntimes, hostRuntimesPolicy, root("SYS_ADMIN"), "host-runtime-cover", "host-above-cover", "host-overlay")
	add(verdict.RuleHostRuntimes, hostRuntimesPolicy, root("DAC_READ_SEARCH"), "host-handle")
	add(verdict.RuleHostEngine, hostEnginePolicy, root(), "host-config-write", "host-config-add", "host-config-dropin", "host-config-symlink",
		"host-config-record", "host-config-container")
	add(verdict.RuleHostAgent, hostAgentPolicy, root(), "host-agent-write", "host-agent-add", "host-agent-unlink")
	add(verdict.RuleHostAgent, hostAgentPolicy, append(root("SYS_NICE", "SYS_PTRACE"), "--pid", "host"),
		"host-agent-signal", "host-agent-stop", "host-agent-sigio", "host-agent-trace", "host-agent-mem", "host-agent-nice", "host-agent-limit", "host-agent-oom")
	add(verdict.RuleHostAgent, hostAgentPolicy, asPrivileged, "host-agent-maps", "host-agent-links")
	return out
}

// playHost plays an attack of hostCases under a policy in a mode; "": under none.
func (h *host) playHost(t *testing.T, c attackCase, mode string) result {
	t.Helper()
	w := newHostWorld(t, h)
	id := newID()
	switch {
	case slices.Equal(c.flags, asPrivileged): // bpf() is denied everybody but those who are let
		body := c.policy
		if mode == "" {
			body = ""
		}
		h.enact(t, document("none", "audit", nothing))
		id = h.loosenedTo(t, mode, body)
	case mode == "":
		h.enact(t, document("none", "audit", nothing))
	default:
		h.enact(t, document("enforced", mode, c.policy))
	}
	r := h.run(t, slices.Concat([]string{"--id", id, "--bind", w.dir + ":/host"}, c.flags), "/bin/attack", "--agent", strconv.Itoa(w.pid), c.name)
	r.id = id
	return r
}

func sceneHost(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	mode := ""
	if guarded {
		mode = "enforce"
	}
	return h.seen(h.playHost(t, c, mode), c.rule)
}

// Each attack wins with no rule, is reported in audit, and fails where the rule is enforced.
func TestHost(t *testing.T) {
	h := get(t)
	for _, c := range hostCases() {
		t.Run(c.name, func(t *testing.T) {
			play := func(mode string) result {
				r := h.playHost(t, c, mode)
				testneed.Need(t, "attack-"+c.name, r.code != 2, r.out)
				return r
			}
			r := play("")
			ran(t, r)
			h.none(t, r.id)
			outcome := c.outcome(h.kernel.Backend())
			r = play("audit")
			ran(t, r)
			if outcome == unsupported {
				ran(t, play("enforce"))
				return
			}
			if evs := h.take(r.id, c.rule); len(evs) == 0 || evs[0].Decision != verdict.WouldDeny {
				t.Errorf("records in audit %+v", evs)
			}
			r = play("enforce")
			if r.code != 1 || strings.Contains(r.out, "WON") {
				t.Fatalf("got %v, want a refusal", r)
			}
			if evs := h.take(r.id, c.rule); len(evs) == 0 || evs[0].Decision != verdict.Denied {
				t.Errorf("records %+v", evs)
			}
		})
	}
}

const allHost = "  host: {agent: deny, runtimes: deny, engineConfig: deny}\n"

// What lies beside the guarded files may be written through the same mount, these may be read
// and executed, and a container's own files are nobody's business.
func TestHostQuiet(t *testing.T) {
	h := get(t)
	w := newHostWorld(t, h)
	h.enact(t, document("all", "enforce", allHost))
	for _, script := range []string{
		"cat /host/etc/docker/daemon.json && /host/usr/bin/dockerd list >/dev/null",
		"echo x > /host/usr/bin/other && mv /host/usr/bin/other /host/usr/bin/more && chmod 700 /host/usr/bin/more && rm /host/usr/bin/more",
		"mkdir /host/etc/other && echo x > /host/etc/other/daemon.json && mv /host/etc/other /host/etc/moved && rm -r /host/etc/moved",
		"echo 1.2.3.4 x > /host/var/lib/docker/containers/c0ffee/hosts && echo x > /host/var/lib/docker/volumes/v/_data/daemon.json",
		"mkdir -p /etc/docker /usr/bin && echo x > /etc/docker/daemon.json && echo x > /usr/bin/dockerd && mv /usr/bin/dockerd /usr/bin/was && rm /usr/bin/was",
		"/bin/sleep 30 & kill $!; wait; echo x | cat >/dev/null",
	} {
		t.Run(script, func(t *testing.T) {
			r := h.run(t, []string{"--uid", "0", "--bind", w.dir + ":/host"}, "/bin/sh", "-c", script)
			ran(t, r)
			h.none(t, r.id)
		})
	}
	t.Run("mounts elsewhere", func(t *testing.T) {
		r := h.run(t, append([]string{"--bind", w.dir + ":/host"}, asAdmin...), "/bin/attack", "priv-bind")
		ran(t, r)
		h.none(t, r.id)
	})
	t.Run("a look at the agent", func(t *testing.T) {
		r := h.run(t, []string{"--uid", "0", "--pid", "host"}, "/bin/sh", "-c", "cat /proc/"+strconv.Itoa(w.pid)+"/cmdline >/dev/null")
		ran(t, r)
		h.none(t, r.id)
	})
}

// With the program on system calls, who has opened a guarded file for writing is killed.
func TestHostSyscalls(t *testing.T) {
	loadsAgain(t)
	get(t)
	withSyscalls(t, func(h *host) {
		for _, c := range hostCases() {
			if !slices.Contains([]string{"host-runtime-write", "host-config-write", "host-agent-write", "host-config-record", "host-runtime-alias"}, c.name) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				r := h.playHost(t, c, "audit")
				ran(t, r)
				if evs := h.take(r.id, c.rule); len(evs) == 0 || evs[0].Decision != verdict.WouldDeny {
					t.Errorf("records in audit %+v", evs)
				}
				r = h.playHost(t, c, "enforce")
				if r.code != 137 {
					t.Errorf("got %v, want a kill", r)
				}
				if evs := h.take(r.id, c.rule); len(evs) == 0 || evs[0].Decision != verdict.Killed {
					t.Errorf("records %+v", evs)
				}
			})
		}
	})
}

// What did not exist when the guard was set is bound when it is set again.
func TestHostFollows(t *testing.T) {
	h := get(t)
	testneed.Need(t, "hooks-on-files", h.kernel.Backend() != verdict.BackendSignal, "a backend that sees acts on files")
	w := newHostWorld(t, h)
	h.enact(t, document("all", "enforce", allHost))
	old := filepath.Join(w.dir, "usr/bin/dockerd")
	next := filepath.Join(w.dir, "usr/bin/next")
	if err := os.WriteFile(next, []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, old); err != nil { // an upgrade: the name holds at once
		t.Fatal(err)
	}
	if r := h.run(t, []string{"--uid", "0", "--bind", w.dir + ":/host"}, "/bin/attack", "host-runtime-write"); r.code != 1 {
		t.Errorf("after an upgrade: %v", r)
	}
}
