package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
)

// asked records what the host's programs were asked for, and fails what contains fail.
type asked struct {
	calls []string
	fail  string
}

func (a *asked) run(_ context.Context, name string, args ...string) error {
	call := strings.Join(append([]string{filepath.Base(name)}, args...), " ")
	a.calls = append(a.calls, call)
	if a.fail != "" && strings.Contains(call, a.fail) {
		return errors.New("refused")
	}
	return nil
}

// world is a host's root, an image's and a directory of policies.
func world(t *testing.T) (Options, *asked) {
	t.Helper()
	host, image, pol := t.TempDir(), t.TempDir(), t.TempDir()
	put(t, host, "run/systemd/system/.keep", "")
	put(t, image, "usr/sbin/belay-agent", "agent 1")
	put(t, image, "usr/bin/belay", "belay 1")
	put(t, image, "usr/bin/belay-scanner", "scanner 1")
	for _, unit := range []string{"belay-agent.service", "belay.slice"} {
		raw, err := os.ReadFile(filepath.Join("../../deploy/systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		put(t, image, "usr/share/belay/systemd/"+unit, string(raw))
	}
	floor, err := os.ReadFile("../../policies/audit-floor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	put(t, pol, "floor.yaml", string(floor))
	a := &asked{}
	return Options{Root: host, From: image, Policies: pol, Flags: []string{"--docker-host=none"}, host: a}, a
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, o Options, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(o.Root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func install(t *testing.T, o Options) *Report {
	t.Helper()
	r, err := Install(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInstall(t *testing.T) {
	o, a := world(t)
	install(t, o)
	unit := read(t, o, "etc/systemd/system/belay-agent.service")
	if !strings.Contains(unit, "ExecStart=/opt/belay/bin/belay-agent run --scanner /opt/belay/bin/belay-scanner $BELAY") || strings.Contains(unit, "/usr/bin/belay") {
		t.Errorf("the unit does not start the programs where they are:\n%s", unit)
	}
	if got := read(t, o, "etc/belay/agent.conf"); !strings.HasSuffix(got, "\nBELAY_AGENT_FLAGS=--docker-host=none\n") {
		t.Errorf("agent.conf: %s", got)
	}
	if st, err := os.Stat(filepath.Join(o.Root, "opt/belay/bin/belay-agent")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the agent: %v, %v", st, err)
	}
	want := []string{"systemctl daemon-reload", "systemctl enable belay-agent.service", "systemctl restart belay-agent.service"}
	if !slices.Equal(a.calls, want) {
		t.Errorf("asked %q, want %q", a.calls, want)
	}

	t.Run("again", func(t *testing.T) {
		a.calls = nil
		if r := install(t, o); r.Restarted || len(r.Written) != 0 || slices.Contains(a.calls, want[2]) {
			t.Errorf("what is there is done again: %+v, %q", r, a.calls)
		}
	})
	t.Run("policies are read without a restart", func(t *testing.T) {
		strict, err := os.ReadFile("../../policies/strict.yaml")
		if err != nil {
			t.Fatal(err)
		}
		put(t, o.Policies, "strict.yaml", string(strict))
		if err := os.Remove(filepath.Join(o.Policies, "floor.yaml")); err != nil {
			t.Fatal(err)
		}
		put(t, o.Root, "etc/belay/policies/mine.yaml", "somebody else's")
		r := install(t, o)
		if r.Restarted || !slices.Equal(r.Written, []string{policies + "/strict.yaml"}) || !slices.Equal(r.Removed, []string{policies + "/floor.yaml"}) {
			t.Errorf("got %+v", r)
		}
		if read(t, o, "etc/belay/policies/mine.yaml") != "somebody else's" {
			t.Error("a policy of somebody else was touched")
		}
	})
	t.Run("a restart that failed is made up for", func(t *testing.T) {
		put(t, o.From, "usr/sbin/belay-agent", "agent 2")
		a.fail = "restart"
		if _, err := Install(t.Context(), o); err == nil {
			t.Fatal("a restart that failed is no error")
		}
		a.fail = ""
		if r := install(t, o); !r.Restarted {
			t.Error("the new agent is there and the old one runs")
		}
	})
	t.Run("remove", func(t *testing.T) {
		for _, fail := range []string{"stop", "--unload", "disable"} {
			a.calls, a.fail = nil, fail
			if err := Remove(t.Context(), o); err == nil || !strings.Contains(err.Error(), "runs again") {
				t.Fatalf("%s: Remove = %v, want an error that says that the agent runs", fail, err)
			}
			if n := len(a.calls); a.calls[n-1] != "systemctl start belay-agent.service" || slices.Contains(a.calls[:n-1], "systemctl disable belay-agent.service") != (fail == "disable") {
				t.Errorf("%s: the agent stays as it was left: %q", fail, a.calls)
			}
		}
		read(t, o, "opt/belay/bin/belay-agent")
		a.calls, a.fail = nil, ""
		if err := Remove(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if want := []string{"systemctl stop belay-agent.service",
			"systemd-run --quiet --collect --wait --unit=belay-unload /opt/belay/bin/belay-agent run --unload",
			"systemctl disable belay-agent.service", "systemctl daemon-reload"}; !slices.Equal(a.calls, want) {
			t.Errorf("asked %q, want %q", a.calls, want)
		}
		if _, err := os.Stat(filepath.Join(o.Root, "opt/belay")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the programs' directory stays: %v", err)
		}
		read(t, o, "etc/belay/policies/mine.yaml")
		if err := Remove(t.Context(), o); err != nil {
			t.Errorf("removed twice: %v", err)
		}
	})
}

func TestInstallRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *Options)
		want   string
	}{
		{"a bad policy", func(t *testing.T, o *Options) {
			put(t, o.Policies, "bad.yaml", "apiVersion: belay.dev/v1\nkind: Runtime\n")
		}, "bad.yaml:2"},
		{"no policy", func(t *testing.T, o *Options) { o.Policies = t.TempDir() }, "holds no policy"},
		{"no systemd", func(t *testing.T, o *Options) { os.RemoveAll(filepath.Join(o.Root, "run/systemd")) }, "systemd does not run there"},
		{"the package", func(t *testing.T, o *Options) { put(t, o.Root, "usr/sbin/belay-agent", "x") }, "package belay is installed"},
		{"a foreign file", func(t *testing.T, o *Options) { put(t, o.Root, "etc/belay/agent.conf", "x") }, "etc/belay/agent.conf"},
		{"a link in the way", func(t *testing.T, o *Options) { link(t, o, "/etc/shadow", "etc/belay/agent.conf") }, "is no file"},
		{"a link out of the root", func(t *testing.T, o *Options) { link(t, o, t.TempDir(), "opt/belay") }, "escapes"},
		{"a manifest that names others' files", func(t *testing.T, o *Options) { put(t, o.Root, manifest, `{"files":["etc/passwd"]}`) }, "never writes"},
		{"a manifest that climbs", func(t *testing.T, o *Options) {
			put(t, o.Root, manifest, `{"files":["etc/belay/policies/../../passwd.yaml"]}`)
		}, "never writes"},
		{"a flag with a space", func(t *testing.T, o *Options) { o.Flags = []string{"--log-level=debug --unload"} }, "without spaces"},
		{"a flag with a newline", func(t *testing.T, o *Options) { o.Flags = []string{"--x=1\nLD_PRELOAD=y"} }, "without spaces"},
		{"another run directory", func(t *testing.T, o *Options) { o.Flags = []string{"--run-dir=/tmp"} }, "leave it out"},
		{"no agent", func(t *testing.T, o *Options) { os.Remove(filepath.Join(o.From, "usr/sbin/belay-agent")) }, "belay-agent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, a := world(t)
			tt.change(t, &o)
			_, err := Install(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if len(a.calls) > 0 {
				t.Errorf("systemd was asked all the same: %q", a.calls)
			}
			if _, err := os.Stat(filepath.Join(o.Root, "opt/belay/bin")); err == nil {
				t.Error("programs were written all the same")
			}
		})
	}
}

func TestSame(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	long := strings.Repeat("x", 64<<10)
	for _, tt := range []struct {
		have, want string
		same       bool
	}{{"", "", true}, {"a", "", false}, {"", "a", false}, {long, long, true}, {long, long + "y", false}, {long + "y", long, false}, {long + "y", long + "z", false}, {long + "y", long + "y", true}} {
		put(t, dir, "have", tt.have)
		put(t, dir, "want", tt.want)
		for _, f := range []file{{data: []byte(tt.want)}, {from: filepath.Join(dir, "want")}} {
			if got, err := f.same(root, "have"); err != nil || got != tt.same {
				t.Errorf("%d and %d bytes: %v (%v), want %v", len(tt.have), len(tt.want), got, err, tt.same)
			}
		}
	}
}

func link(t *testing.T, o *Options, target, name string) {
	t.Helper()
	p := filepath.Join(o.Root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(target, p)); err != nil {
		t.Fatal(err)
	}
}

// TestChartPolicies holds what the chart puts on nodes by default to what nodes take.
func TestChartPolicies(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/helm/belay/policies/floor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o, _ := world(t)
	put(t, o.Policies, "floor.yaml", string(raw))
	// As templates/_helpers.tpl has it.
	put(t, o.Policies, "belay-installer.yaml", `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: belay-installer-0123456789ab
spec:
  selector:
    imageDigest: "sha256:`+strings.Repeat("0123456789abcdef", 4)+`"
    namespace: "belay-system"
  mode: enforce
  loosen: true
  exec:
    asRoot: allow
    drift: allow
  host:
    agent: allow
`)
	install(t, o)
}

func TestChroot(t *testing.T) {
	const busybox = "/bin/busybox"
	raw, err := os.ReadFile(busybox)
	testneed.Need(t, "root", os.Geteuid() == 0, "chroot(2) is root's")
	testneed.Need(t, "busybox", err == nil, "install busybox-static")
	dir := t.TempDir()
	put(t, dir, "bin/busybox", string(raw))
	if err := os.Chmod(filepath.Join(dir, "bin/busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := chroot{dir}
	if err := c.run(t.Context(), busybox, "test", "!", "-e", "/etc"); err != nil {
		t.Errorf("a program of the host in its root: %v", err)
	}
	if err := c.run(t.Context(), busybox, "ls", "/etc"); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("what it said is lost: %v", err)
	}
	if err := c.run(t.Context(), "/usr/bin/systemctl", "daemon-reload"); err == nil {
		t.Error("a program that is not there has run")
	}
}

// TestRemoveRefuses: what would leave Docker to nobody is refused before anything is stopped.
func TestRemoveRefuses(t *testing.T) {
	for _, tt := range []struct{ name, file, text, want string }{
		{"the gate is in place", "var/lib/belay/gate.json", "{}", "disable-gate"},
		{"the daemon asks the plugin", "etc/docker/daemon.json", `{"authorization-plugins": ["belay"]}`, "authorization-plugins"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, a := world(t)
			install(t, o)
			a.calls = nil
			put(t, o.Root, tt.file, tt.text)
			if err := Remove(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.want) || len(a.calls) != 0 {
				t.Errorf("Remove = %v, asked %q; want an error with %q, and nothing asked", err, a.calls, tt.want)
			}
			read(t, o, "opt/belay/bin/belay-agent")
		})
	}
}

// TestTwoAtOnce: while one process is at work another changes nothing, and none is kept out afterwards.
func TestTwoAtOnce(t *testing.T) {
	o, a := world(t)
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	unlock, err := lock(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(t.Context(), o); !errors.Is(err, ErrBusy) || len(a.calls) != 0 {
		t.Errorf("got %v and %q, want ErrBusy and nothing asked", err, a.calls)
	}
	unlock()
	install(t, o)
	if unlock, err = lock(root); err != nil {
		t.Fatalf("the lock is left: %v", err)
	}
	a.calls = nil
	if err := Remove(t.Context(), o); !errors.Is(err, ErrBusy) || len(a.calls) != 0 {
		t.Errorf("got %v and %q, want ErrBusy and nothing asked", err, a.calls)
	}
	unlock()
}

// TestTimeout: a try waits for as long as the unit may take to start.
func TestTimeout(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/systemd/belay-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nTimeoutStartSec=")
	line, _, _ := strings.Cut(rest, "\n")
	unit, err := time.ParseDuration(strings.Replace(line, "min", "m", 1))
	if err != nil {
		t.Fatal(err)
	}
	var o Options
	if o.fill(); o.Timeout <= unit {
		t.Errorf("it waits for %v and the unit may take %v", o.Timeout, unit)
	}
}
