package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// host is a root in which a script of the package runs, with programs that only note how they were called.
type host struct{ root, calls string }

func newHost(t *testing.T, programs map[string]string) *host {
	t.Helper()
	h := &host{root: t.TempDir()}
	h.calls = filepath.Join(h.root, "calls")
	for _, dir := range []string{"bin", "run/systemd/system", "run/belay/bpf", "var/lib/belay", "etc/systemd/system", "etc/belay", "etc/docker"} {
		if err := os.MkdirAll(filepath.Join(h.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"systemctl", "belay", "belay-agent"} {
		text := "#!/bin/sh\necho \"" + name + " $*\" >>" + h.calls + "\n" + programs[name] + "\n"
		if err := os.WriteFile(filepath.Join(h.root, "bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// run runs a script with its paths below the root, and returns its status and what it called.
func (h *host) run(t *testing.T, script string, args ...string) (int, []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../../deploy/package", script))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, dir := range []string{"/run/", "/var/lib/", "/etc/systemd/", "/etc/belay/", "/etc/docker/", "/usr/sbin/"} {
		text = strings.ReplaceAll(text, " "+dir, " "+h.root+dir)
		text = strings.ReplaceAll(text, "="+dir, "="+h.root+dir)
		text = strings.ReplaceAll(text, ">"+dir, ">"+h.root+dir)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", text, script}, args...)...)
	cmd.Env = []string{"PATH=" + filepath.Join(h.root, "bin") + ":/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(h.calls)
	if err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.Split(strings.TrimSpace(string(calls)), "\n")
}

const agent = "belay-agent.service"

// takesAway is what a belay-agent does that unloads from the default place.
const takesAway = "rm -r ${0%/bin/belay-agent}/run/belay/bpf"

// unload is the call that takes the kernel's side away, with the flags that tell where it is.
func unload(flags ...string) string {
	return strings.Join(append([]string{"belay-agent run --unload"}, flags...), " ")
}

// TestRemovalElsewhere: the kernel's side is taken from where the agent's flags have it, and then from where it
// is by default, if there is one still.
func TestRemovalElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name, conf string
		flags      []string // of the first call, with @ for the root
		left       bool     // whether the default place has something after the first call
	}{
		{"as it ships", "#BELAY_AGENT_FLAGS=--run-dir @/run/no\nBELAY_AGENT_FLAGS=\n", nil, false},
		{"two words", "BELAY_AGENT_FLAGS=--log-allowed --run-dir @/run/other --state-dir @/srv/belay\n", []string{"--state-dir=@/srv/belay", "--run-dir=@/run/other"}, true},
		{"one word, in quotes", `BELAY_AGENT_FLAGS="--run-dir=@/run/other --prometheus 127.0.0.1:9464"`, []string{"--run-dir=@/run/other"}, true},
		{"nothing in the default place", "BELAY_AGENT_FLAGS=--run-dir=@/run/other", []string{"--run-dir=@/run/other"}, false},
		{"the last counts", "BELAY_AGENT_FLAGS=--run-dir=@/run/no\nBELAY_AGENT_FLAGS=--run-dir=@/run/no --run-dir @/run/other", []string{"--run-dir=@/run/other"}, true},
		{"a pattern is a word", "BELAY_AGENT_FLAGS=--guard-allow=* * --run-dir", nil, false},
		{"a file of flags", "BELAY_AGENT_FLAGS=--config @/etc/belay/agent.conf", []string{"--config=@/etc/belay/agent.conf"}, true},
		{"a file of flags that is gone", "BELAY_AGENT_FLAGS=--config @/etc/belay/no", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			agent := map[string]string{}
			if !tt.left {
				agent["belay-agent"] = takesAway
			}
			h := newHost(t, agent)
			below := func(s string) string { return strings.ReplaceAll(s, "@", h.root) }
			if err := os.WriteFile(filepath.Join(h.root, "etc/belay/agent.conf"), []byte(below(tt.conf)), 0o644); err != nil {
				t.Fatal(err)
			}
			code, calls := h.run(t, "preremove.sh", "remove")
			got := slices.DeleteFunc(calls, func(c string) bool { return !strings.HasPrefix(c, "belay-agent ") })
			want := []string{below(unload(tt.flags...))}
			if tt.left {
				again := slices.DeleteFunc(slices.Clone(tt.flags), func(f string) bool { return strings.HasPrefix(f, "--run-dir=") })
				want = append(want, below(unload(append(again, "--run-dir=@/run/belay")...)))
			}
			if code != 0 || !slices.Equal(got, want) {
				t.Errorf("status %d, called %q, want %q", code, got, want)
			}
		})
	}
}

// TestRemoval: an agent whose kernel side cannot be removed stays installed, enabled and running.
func TestRemoval(t *testing.T) {
	t.Run("removed", func(t *testing.T) {
		h := newHost(t, map[string]string{"belay-agent": takesAway})
		code, calls := h.run(t, "preremove.sh", "remove")
		want := []string{"systemctl is-active -q " + agent, "systemctl stop " + agent, unload(), "systemctl disable " + agent}
		if code != 0 || !slices.Equal(calls, want) {
			t.Errorf("status %d, called %q, want %q", code, calls, want)
		}
	})
	for _, as := range []string{"remove", "0"} { // dpkg's word, and rpm's
		t.Run("unload fails, "+as, func(t *testing.T) {
			code, calls := newHost(t, map[string]string{"belay-agent": "exit 1"}).run(t, "preremove.sh", as)
			if code == 0 || calls[len(calls)-1] != "systemctl start "+agent || slices.Contains(calls, "systemctl disable "+agent) {
				t.Errorf("status %d, called %q", code, calls)
			}
		})
	}
	t.Run("what was stopped before is not started", func(t *testing.T) {
		h := newHost(t, map[string]string{"belay-agent": "exit 1", "systemctl": `[ "$1" != is-active ]`})
		if code, calls := h.run(t, "preremove.sh", "remove"); code == 0 || slices.Contains(calls, "systemctl start "+agent) {
			t.Errorf("status %d, called %q", code, calls)
		}
	})
	t.Run("the gate cannot be taken away", func(t *testing.T) {
		h := newHost(t, map[string]string{"belay": "exit 1"})
		if err := os.WriteFile(filepath.Join(h.root, "var/lib/belay/gate.json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if code, calls := h.run(t, "preremove.sh", "remove"); code == 0 || !slices.Equal(calls, []string{"belay disable-gate"}) {
			t.Errorf("status %d, called %q", code, calls)
		}
	})
	for _, tt := range []struct {
		name, conf string
		asks       bool
	}{
		{"the daemon asks the plugin", "{\n  \"authorization-plugins\": [\n    \"belay\"\n  ]\n}\n", true},
		{"the daemon asks no plugin", `{"live-restore": true}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, map[string]string{"belay": "exit 1", "belay-agent": takesAway})
			if err := os.WriteFile(filepath.Join(h.root, "etc/docker/daemon.json"), []byte(tt.conf), 0o600); err != nil {
				t.Fatal(err)
			}
			code, calls := h.run(t, "preremove.sh", "remove")
			if refused := code != 0 && slices.Equal(calls, []string{"belay disable-gate"}); refused != tt.asks || !tt.asks && code != 0 {
				t.Errorf("status %d, called %q", code, calls)
			}
		})
	}
	t.Run("dpkg takes the removal back", func(t *testing.T) {
		if code, calls := newHost(t, nil).run(t, "postinstall.sh", "abort-remove"); code != 0 || calls[len(calls)-1] != "systemctl start "+agent {
			t.Errorf("status %d, called %q", code, calls)
		}
		disabled := newHost(t, map[string]string{"systemctl": `[ "$1" != is-enabled ]`})
		if code, calls := disabled.run(t, "postinstall.sh", "abort-remove"); code != 0 || slices.Contains(calls, "systemctl start "+agent) {
			t.Errorf("disabled: status %d, called %q", code, calls)
		}
	})
}

// TestUnit: what keeps the agent there however often it fails.
func TestUnit(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/systemd/" + agent)
	if err != nil {
		t.Fatal(err)
	}
	head, service, _ := strings.Cut(string(raw), "\n[Service]\n")
	if !strings.Contains(head, "\nStartLimitIntervalSec=0\n") || !strings.Contains(service, "\nRestart=always\n") {
		t.Error("systemd gives the agent up after some failures")
	}
}

// TestUnitScore: the unit is no more exposed than docs/install.md says: 6.0, in tenths and with one of them to spare.
func TestUnitScore(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	testneed.Need(t, "systemd-analyze", err == nil, "it reads units: apt-get install systemd")
	help, err := exec.CommandContext(t.Context(), analyze, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	testneed.Need(t, "systemd-analyze", strings.Contains(string(help), "--threshold="), "it judges a unit in a file since systemd 250")
	out, err := exec.CommandContext(t.Context(), analyze, "security", "--no-pager", "--offline=yes", "--threshold=61", "../../deploy/systemd/"+agent).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestScenesAreStages: make test-full has a stage for each script that plays the package.
func TestScenesAreStages(t *testing.T) {
	full, err := os.ReadFile("../ci/full.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, all, _ := strings.Cut(string(full), "${STAGES:-")
	all, _, _ = strings.Cut(all, "}")
	for stage, scene := range map[string]string{"package": "tools/package/test.sh", "booted": "tools/package/booted.sh"} {
		script, err := os.ReadFile("../ci/" + stage + ".sh")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(strings.Split(string(script), "\n"), func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), scene+" ") }) {
			t.Errorf("tools/ci/%s.sh does not play %s", stage, scene)
		}
		if !strings.Contains(string(full), "\nstage "+stage+" ") || !slices.Contains(strings.Fields(all), stage) {
			t.Errorf("tools/ci/full.sh has no stage %s", stage)
		}
	}
}

// TestQuickStartIsPlayed: the scene on a booted Debian runs what the quick start tells to run.
func TestQuickStartIsPlayed(t *testing.T) {
	doc, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	scene, err := os.ReadFile("scene.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(doc), "## Five minutes on Docker")
	_, block, _ = strings.Cut(block, "```sh\n")
	block, _, _ = strings.Cut(block, "```")
	n := 0
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, "||")
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "belay ") || strings.HasPrefix(line, "cp ") {
			n++
			if !strings.Contains(string(scene), line) {
				t.Errorf("scene.sh does not run %q", line)
			}
		}
	}
	if n < 4 {
		t.Fatalf("found %d commands of Belay in the quick start", n)
	}
}
