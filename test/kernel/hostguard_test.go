package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
		"host-runtime-replace", "host-runtime-unlink", "host-runtime-link", "host-runtime-chmod", "host-runtime-times", "host-runtime-flags", "host-above-rename", "host-above-exchange", "host-self")
	add(verdict.RuleHostRuntimes, hostRuntimesPolicy, root("SYS_ADMIN"), "host-runtime-cover", "host-above-cover", "host-overlay", "host-overlay-chmod")
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
			if !reduced() {
				r := play("")
				ran(t, r)
				h.none(t, r.id)
			}
			outcome := c.outcome(h.kernel.Backend())
			r := play("audit")
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

// mountCases are mounts over a guarded file by a task that has not executed anything in the
// container yet: by exec into one that runs, and by a start whose volume is shared with the host.
// Each returns what of the file the host or the container saw, after the mount.
var mountCases = []struct {
	name, about string
	play        func(t *testing.T, h *host, w hostWorld) (r result, seen string)
}{
	{"exec", "have a runtime that enters a container mount over the engine's configuration", func(t *testing.T, h *host, w hostWorld) (result, string) {
		c := h.run(t, []string{"--detach", "--uid", "0", "--bind", w.dir + ":/host"}, "/bin/sleep", "100")
		ran(t, c)
		defer h.remove(t, c.id)
		r := h.exec(t, c.id, []string{"--uid", "0", "--cover", "/host/tmp/x:/host/etc/docker/daemon.json"}, "/bin/cat", "/host/etc/docker/daemon.json")
		return result{r.code, r.out, c.id}, r.out
	}},
	{"start", "have a runtime that starts a container mount over the engine's configuration, in a volume shared with the host", func(t *testing.T, h *host, w hostWorld) (result, string) {
		share(t, w.dir)
		config := filepath.Join(w.dir, "etc/docker/daemon.json")
		r := h.run(t, []string{"--uid", "0", "--bind", w.dir + ":/host:rshared", "--bind", filepath.Join(w.dir, "tmp/x") + ":/host/etc/docker/daemon.json"}, "/bin/true")
		seen, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		return r, string(seen)
	}},
}

// share makes dir a shared mount of the host's.
func share(t *testing.T, dir string) {
	t.Helper()
	for _, flags := range []uintptr{syscall.MS_BIND, syscall.MS_SHARED} {
		if err := syscall.Mount(dir, dir, "", flags, ""); err != nil {
			t.Fatal(err)
		}
		if flags == syscall.MS_BIND {
			t.Cleanup(func() { // with what has spread to it
				if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// H2, H3: a runtime that is led to mount over a guarded file on the way into a container is
// refused, as the container is.
func TestHostMountedOnTheWayIn(t *testing.T) {
	h := get(t)
	for _, c := range mountCases {
		t.Run(c.name, func(t *testing.T) {
			play := func(t *testing.T, mode string) (result, bool) {
				w := newHostWorld(t, h)
				if err := os.WriteFile(filepath.Join(w.dir, "tmp/x"), []byte("covered"), 0o644); err != nil {
					t.Fatal(err)
				}
				if h.enact(t, document("none", "audit", nothing)); mode != "" {
					h.enact(t, document("host", mode, hostEnginePolicy))
				}
				r, seen := c.play(t, h, w)
				return r, strings.Contains(seen, "covered")
			}
			t.Run("none", func(t *testing.T) {
				r, covered := play(t, "")
				if ran(t, r); !covered {
					t.Errorf("with no rule the file is not covered: %v", r)
				}
				h.none(t, r.id)
			})
			t.Run("audit", func(t *testing.T) {
				r, covered := play(t, "audit")
				if ran(t, r); !covered {
					t.Errorf("in audit the file is not covered: %v", r)
				}
				if h.kernel.Backend() == verdict.BackendSignal {
					return
				}
				if evs := h.take(r.id, verdict.RuleHostEngine); len(evs) == 0 || evs[0].Decision != verdict.WouldDeny {
					t.Errorf("records in audit %+v", evs)
				}
			})
			t.Run("enforce", func(t *testing.T) {
				testneed.Need(t, "hooks-on-files", h.kernel.Backend() != verdict.BackendSignal, "a backend that sees mounts")
				r, covered := play(t, "enforce")
				if r.code == 0 || covered {
					t.Errorf("got %v, covered: %v; want a refusal", r, covered)
				}
				if evs := h.take(r.id, verdict.RuleHostEngine); len(evs) == 0 || evs[0].Decision != verdict.Denied {
					t.Errorf("records %+v", evs)
				}
			})
		})
	}
}

// What runtimes mount for ordinary starts passes: guarded files and directories as volumes, a
// volume within such a one that is the container's alone, and one of a shared mount elsewhere.
func TestHostVolumesQuiet(t *testing.T) {
	h := get(t)
	w := newHostWorld(t, h)
	share(t, w.dir)
	h.enact(t, document("all", "enforce", allHost))
	at := func(name string) string { return filepath.Join(w.dir, name) }
	for name, binds := range map[string][]string{
		"guarded":          {w.dir + ":/host", at("etc/docker") + ":/etc/docker", at("usr/bin/dockerd") + ":/usr/bin/dockerd:ro"},
		"within, private":  {w.dir + ":/host", at("tmp/x") + ":/host/etc/docker/daemon.json", at("tmp") + ":/host/usr"},
		"shared":           {w.dir + ":/host:rshared", at("tmp") + ":/host/var/lib/docker/volumes"},
		"at the same path": {w.dir + ":" + w.dir + ":rshared"},
	} {
		t.Run(name, func(t *testing.T) {
			var flags []string
			for _, b := range binds {
				flags = append(flags, "--bind", b)
			}
			r := h.run(t, append(flags, "--uid", "0"), "/bin/true")
			ran(t, r)
			h.none(t, r.id)
		})
	}
	t.Run("exec", func(t *testing.T) {
		c := h.run(t, []string{"--detach", "--uid", "0", "--bind", w.dir + ":/host"}, "/bin/sleep", "100")
		ran(t, c)
		ran(t, h.exec(t, c.id, []string{"--uid", "0", "--cover", "/host/tmp/x:/host/var/lib/docker/containers/c0ffee/hosts"}, "/bin/true"))
		h.remove(t, c.id)
		h.none(t, c.id)
	})
}

// With the program on system calls, who has opened a guarded file for writing is killed.
func TestHostSyscalls(t *testing.T) {
	inFullGuests(t)
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
