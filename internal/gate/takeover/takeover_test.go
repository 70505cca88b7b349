package takeover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeHost is a host with systemd, a daemon and an agent: units listen where their drop-ins say.
// Containers are there as long as the engine's answer has them.
type fakeHost struct {
	t           *testing.T
	root        string
	calls       []string
	waits       map[string]time.Duration // how long the last call of each command may take
	liveRestore bool
	gateBroken  bool           // the gate listens and its engine never answers
	listensToo  bool           // the daemon has a host of its own at the old place, and takes that
	refuses     map[string]int // statuses of the daemon's, by path
	fail        string         // prefix of a command that fails
	load        string         // LoadState of Docker's units, which are not there or cannot be started; empty: loaded
	masked      string         // units that an operator has masked
	daemon      *http.Server
	gate        *http.Server
}

func newFakeHost(t *testing.T) (*fakeHost, *Host) {
	t.Helper()
	root, err := os.MkdirTemp("", "tk") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for _, d := range []string{"run/systemd/system", "etc/systemd/system", "etc/docker", "var/lib/belay"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f := &fakeHost{t: t, root: root, liveRestore: true, waits: map[string]time.Duration{}}
	h := New(Options{Root: root, Timeout: time.Second, Command: "/usr/bin/belay", Say: func(s string) { t.Log(s) }})
	h.sys = f
	f.start(true)
	t.Cleanup(func() { f.stop(&f.daemon); f.stop(&f.gate) })
	return f, h
}

func (f *fakeHost) moved() bool {
	for _, tree := range []string{volatile, persistent} {
		if _, err := os.Stat(filepath.Join(f.root, tree, "docker.socket.d/belay.conf")); err == nil {
			return true
		}
	}
	return false
}

func (f *fakeHost) listen(path string, mode fs.FileMode, gate, broken bool) *http.Server {
	p := filepath.Join(f.root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		f.t.Fatal(err)
	}
	os.Remove(p)
	l, err := net.Listen("unix", p)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		f.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case broken || gate && f.daemon == nil:
			http.Error(w, "belay: the Docker daemon cannot be reached", http.StatusBadGateway)
		case gate && r.RequestURI == "//_ping":
			http.Error(w, `{"message":"belay: the path is not clean"}`, http.StatusBadRequest)
		case f.refuses[r.URL.Path] != 0:
			http.Error(w, "no", f.refuses[r.URL.Path])
		case r.URL.Path == "/info":
			fmt.Fprintf(w, `{"LiveRestoreEnabled":%t}`, f.liveRestore)
		case r.URL.Path == "/containers/json":
			fmt.Fprint(w, `[{"Id":"aaaaaaaaaaaaaaaa"}]`)
		default:
			fmt.Fprint(w, "OK")
		}
	})}
	go s.Serve(l)
	// Close does not close a listener that Serve has not seen yet.
	_, _ = engine{p}.get(f.t.Context(), "/_ping")
	return s
}

func (f *fakeHost) start(docker bool) {
	switch moved := f.moved(); {
	case docker && f.daemon == nil && moved:
		f.daemon = f.listen(Upstream, 0o600, false, false)
		if f.listensToo {
			f.listen(Socket, 0o660, false, false)
		}
	case docker && f.daemon == nil:
		f.daemon = f.listen(Socket, 0o660, false, false)
	case !docker && moved:
		f.gate = f.listen(Socket, 0o660, true, f.gateBroken)
	}
}

func (f *fakeHost) stop(s **http.Server) {
	if *s != nil {
		(*s).Close()
		*s = nil
	}
}

func (f *fakeHost) run(ctx context.Context, name string, args ...string) (string, error) {
	end, _ := ctx.Deadline()
	call := strings.Join(append([]string{name}, args...), " ")
	f.calls, f.waits[call] = append(f.calls, call), time.Until(end)
	if f.fail != "" && strings.HasPrefix(call, f.fail) {
		return "", errors.New(call + ": refused")
	}
	docker := strings.Contains(call, dockerUnit)
	switch {
	case slices.Contains(args, "--property=LoadState,ActiveState"):
		load, active := cmp.Or(f.load, "loaded"), "inactive"
		if f.masked != "" && strings.Contains(f.masked, args[len(args)-1]) {
			load = "masked"
		}
		if docker && f.daemon != nil {
			active = "active"
		}
		return "LoadState=" + load + "\nActiveState=" + active + "\n", nil
	case f.load != "" && strings.Contains(call, "docker."):
		return "", errors.New(call + ": no such unit")
	case args[0] == "show":
		return "ActiveState=active\n", nil
	case args[0] == "stop" && docker:
		f.stop(&f.daemon)
	case args[0] == "stop" && strings.Contains(call, agentUnit):
		f.stop(&f.gate)
	case args[0] == "start", args[0] == "restart":
		f.start(docker)
	}
	return "", nil
}

// atHome reports what of a takeover is left.
func (f *fakeHost) atHome() error {
	var left []error
	for _, p := range []string{"var/lib/belay/gate.json", "run/systemd/system/docker.socket.d", "etc/systemd/system/docker.socket.d",
		"run/systemd/system/belay-agent.service.d", "etc/systemd/system/belay-agent.service.d", Upstream, filepath.Dir(Upstream)} {
		if _, err := os.Lstat(filepath.Join(f.root, p)); err == nil {
			left = append(left, errors.New(p+" is left"))
		}
	}
	_, err := engine{filepath.Join(f.root, Socket)}.get(f.t.Context(), "/_ping")
	return errors.Join(append(left, err)...)
}

func TestThereAndBack(t *testing.T) {
	f, h := newFakeHost(t)
	p, err := h.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Running) != 1 || p.Mode != "0660" || len(p.Steps) == 0 || f.moved() {
		t.Errorf("plan %+v, moved %t: a plan tells and does nothing", p, f.moved())
	}
	for range 2 {
		if err := h.Enable(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(f.calls), func(c string) bool { return !strings.HasPrefix(c, "systemd-run") })); n != 1 {
		t.Errorf("%d timers: enabling twice is enabling once", n)
	}
	ends := []string{"systemctl stop belay-gate-rollback.timer", "systemctl stop belay-gate-rollback.service"}
	if last := f.calls[len(f.calls)-2:]; !slices.Equal(last, ends) {
		t.Errorf("the last commands are %q: the timer is still there", last)
	}
	if _, err := os.Stat(filepath.Join(f.root, volatile, "docker.socket.d")); err == nil {
		t.Error("drop-ins below /run are left")
	}
	st, err := h.readState()
	if err != nil || !h.inPlace(persistent, st.files()) {
		t.Errorf("drop-ins below /etc are not what the record says: %v", err)
	}
	if err := h.Disable(t.Context(), true); err != nil || !f.moved() {
		t.Errorf("the timer takes a gate away that works: %v", err)
	}
	for range 2 {
		if err := h.Disable(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if err := f.atHome(); err != nil {
			t.Error(err)
		}
	}
}

func TestRollback(t *testing.T) {
	for _, tt := range []struct{ name, fail string }{
		{"the gate gives no answer", ""},
		{"the daemon takes the gate's place", "listens too"},
		{"the timer cannot be set", "systemd-run"},
		{"the agent does not start", "systemctl restart belay-agent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, h := newFakeHost(t)
			f.gateBroken, f.listensToo, f.fail = tt.fail == "", tt.fail == "listens too", tt.fail
			if err := h.Enable(t.Context()); !errors.Is(err, ErrRolledBack) {
				t.Errorf("Enable = %v, want ErrRolledBack", err)
			}
			if err := f.atHome(); err != nil {
				t.Error(err)
			}
			if got := f.waits["systemctl start "+socketUnit+" "+dockerUnit]; got <= agentStart(t) {
				t.Errorf("the daemon has %s to come back, and waits for an agent that has %s", got, agentStart(t))
			}
		})
	}
}

// agentStart is how long the agent's unit may take to start: Docker's start waits for it.
func agentStart(t *testing.T) time.Duration {
	t.Helper()
	unit, err := os.ReadFile("../../../deploy/systemd/" + agentUnit)
	if err != nil {
		t.Fatal(err)
	}
	_, limit, _ := strings.Cut(string(unit), "\nTimeoutStartSec=")
	limit, _, _ = strings.Cut(limit, "in\n") // systemd's minutes are "min"
	d, err := time.ParseDuration(limit)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestEnvironment: the host's programs have nothing of the caller's environment but systemctl's patience.
func TestEnvironment(t *testing.T) {
	t.Setenv("SYSTEMD_BUS_TIMEOUT", "10min")
	t.Setenv("SYSTEMD_PAGER", "/tmp/x")
	out, err := commands{}.run(t.Context(), "env")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "SYSTEMD_BUS_TIMEOUT=10min\n") || strings.Contains(out, "SYSTEMD_PAGER") {
		t.Errorf("the environment is %q", out)
	}
}

// A process that is killed half-way, on the way there or back, leaves drop-ins below /run and the timer, which calls
// Disable(unconfirmed).
func TestTimer(t *testing.T) {
	for _, phase := range []string{phaseEnabling, phaseDisabling} {
		t.Run(phase, func(t *testing.T) {
			f, h := newFakeHost(t)
			st := state{Phase: phase, Group: "docker", Mode: "0660"}
			if err := errors.Join(h.writeState(st), h.writeDropIns(volatile, st.files())); err != nil {
				t.Fatal(err)
			}
			f.stop(&f.daemon)
			if err := h.Disable(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			if err := f.atHome(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the timer has started waits for the lock, and would keep the next timer from being made; it does not stop itself.
func TestTimersRunIsStopped(t *testing.T) {
	const stop = "systemctl stop " + rollbackUnit + ".service"
	for _, byTimer := range []bool{false, true} {
		f, h := newFakeHost(t)
		if err := h.writeState(state{Phase: phaseDisabling, Group: "docker", Mode: "0660"}); err != nil {
			t.Fatal(err)
		}
		if err := h.Disable(t.Context(), byTimer); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(f.calls, stop); got == byTimer {
			t.Errorf("by the timer: %v; its run was stopped: %v, %q", byTimer, got, f.calls)
		}
	}
}

// A daemon that does not run has no containers that would stop, whatever the gate answers in its place.
func TestDisableWithoutDaemon(t *testing.T) {
	f, h := newFakeHost(t)
	if err := h.Enable(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.stop(&f.daemon)
	f.liveRestore = false
	if err := errors.Join(h.Disable(t.Context(), false), f.atHome()); err != nil {
		t.Error(err)
	}
}

// Without live-restore containers stop with the daemon on the way back too: that is for the caller to say.
func TestDisableKeepsContainers(t *testing.T) {
	f, h := newFakeHost(t)
	if err := h.Enable(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.liveRestore = false
	if err := h.Disable(t.Context(), false); !errors.Is(err, ErrNotPossible) || !f.moved() {
		t.Errorf("Disable = %v, want ErrNotPossible and nothing changed", err)
	}
	f.calls = nil
	h.opts.RestartContainers = true
	if err := errors.Join(h.Disable(t.Context(), false), f.atHome()); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(f.calls, func(c string) bool { return strings.HasPrefix(c, "systemd-run") }) {
		t.Errorf("the daemon was stopped with no timer to start it: %q", f.calls)
	}
	// What an earlier run has left half is no reason to stop them either.
	st := state{Phase: phaseDisabling, Group: "docker", Mode: "0660"}
	if err := errors.Join(h.writeState(st), h.writeDropIns(volatile, st.files())); err != nil {
		t.Fatal(err)
	}
	h.opts.RestartContainers = false
	if err := h.Enable(t.Context()); !errors.Is(err, ErrNotPossible) {
		t.Errorf("Enable = %v, want ErrNotPossible", err)
	}
}

// Where nobody can say whether containers would stop, none are stopped.
func TestDisableUntold(t *testing.T) {
	for path, status := range map[string]int{"/info": 403, "/containers/json": 500} {
		f, h := newFakeHost(t)
		f.liveRestore = false
		h.opts.RestartContainers = true
		if err := h.Enable(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.refuses = map[string]int{path: status}
		h.opts.RestartContainers = false
		if err := h.Disable(t.Context(), false); !errors.Is(err, ErrNotPossible) || !strings.Contains(err.Error(), "--restart-containers") || !f.moved() {
			t.Errorf("%s %d: Disable = %v, want ErrNotPossible and nothing changed", path, status, err)
		}
	}
}

// An undo that was begun goes on when its caller is gone.
func TestUndoGoesOn(t *testing.T) {
	f, h := newFakeHost(t)
	if err := h.Enable(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.opts.Say = func(s string) {
		if strings.Contains(s, "giving the daemon") {
			cancel()
		}
	}
	if err := errors.Join(h.Disable(ctx, false), f.atHome()); err != nil {
		t.Error(err)
	}
}

// A host that was booted since an enable-gate was killed has the record and nothing else: nothing is stopped for it.
func TestRecordOnly(t *testing.T) {
	for _, phase := range []string{phaseEnabling, phaseEnabled, phaseDisabling} {
		for name, do := range map[string]func(*Host) error{
			"disable":  func(h *Host) error { return h.Disable(t.Context(), false) },
			"undoHalf": func(h *Host) error { return h.undoHalf(t.Context()) },
		} {
			if name == "undoHalf" && phase == phaseEnabled {
				continue // it is no half
			}
			f, h := newFakeHost(t)
			f.liveRestore = false
			if err := h.writeState(state{Phase: phase, Group: "docker", Mode: "0660"}); err != nil {
				t.Fatal(err)
			}
			f.calls = nil
			if err := errors.Join(do(h), f.atHome()); err != nil {
				t.Errorf("%s, %s: %v", phase, name, err)
			}
			if slices.ContainsFunc(f.calls, func(c string) bool { return strings.Contains(c, dockerUnit) && strings.Contains(c, " stop ") }) {
				t.Errorf("%s, %s: the daemon was stopped: %q", phase, name, f.calls)
			}
		}
	}
}

// Where no gate ever was there is nothing to take away, and nothing is made.
func TestNothingToDisable(t *testing.T) {
	f, h := newFakeHost(t)
	dir := filepath.Join(f.root, "var/lib/belay")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := h.Disable(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state directory was made: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	plugin := func(f *fakeHost) {
		os.WriteFile(filepath.Join(f.root, "etc/docker/daemon.json"), []byte(`{"authorization-plugins":["belay"]}`), 0o600)
	}
	tests := []struct {
		name, want string
		spoil      func(f *fakeHost)
	}{
		{"no live-restore", "live-restore", func(f *fakeHost) { f.liveRestore = false }},
		{"the plugin is asked already", "authorization-plugins", plugin},
		{"no systemd", "systemd does not run", func(f *fakeHost) { os.Remove(filepath.Join(f.root, volatile)) }},
		{"the daemon is down", "does not answer", func(f *fakeHost) { f.stop(&f.daemon); f.listen(Socket, 0o660, false, true) }},
		{"something at the new place", "something at", func(f *fakeHost) { f.listen(Upstream, 0o600, false, false) }},
		{"no socket", "is no socket", func(f *fakeHost) {
			f.stop(&f.daemon)
			os.WriteFile(filepath.Join(f.root, Socket), nil, 0o600)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, h := newFakeHost(t)
			tt.spoil(f)
			err := h.Enable(t.Context())
			if !errors.Is(err, ErrNotPossible) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Enable = %v, want ErrNotPossible with %q", err, tt.want)
			}
			if f.moved() {
				t.Error("it refuses and has changed something")
			}
		})
	}
	t.Run("disable while the plugin is asked", func(t *testing.T) {
		f, h := newFakeHost(t)
		if err := h.Enable(t.Context()); err != nil {
			t.Fatal(err)
		}
		plugin(f)
		if err := h.Disable(t.Context(), false); err == nil || !f.moved() {
			t.Errorf("Disable = %v: Docker would refuse everybody", err)
		}
	})
	t.Run("disable while the plugin is asked and the gate is elsewhere", func(t *testing.T) {
		f, h := newFakeHost(t)
		plugin(f)
		if err := h.Disable(t.Context(), false); err == nil || !strings.Contains(err.Error(), "authorization-plugins") {
			t.Errorf("Disable = %v: Docker would refuse everybody", err)
		}
		if err := h.Disable(t.Context(), true); err != nil {
			t.Errorf("the timer: %v", err)
		}
		f.stop(&f.daemon)
		f.load = "not-found"
		if err := h.Disable(t.Context(), false); err != nil {
			t.Errorf("Docker is gone, and nobody is refused: %v", err)
		}
	})
}

// What is by hand in docs/gate.md is what the command writes.
func TestShippedDropIns(t *testing.T) {
	h := New(Options{})
	for unit, text := range (state{Group: "docker", Mode: "0660"}).files() {
		b, err := os.ReadFile(filepath.Join("../../../deploy/docker", filepath.Base(filepath.Dir(h.dropIn("", unit))), filepath.Base(h.dropIn("", unit))))
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != text {
			t.Errorf("%s: got\n%s\nwant\n%s", unit, text, b)
		}
	}
}

// TestDockerRemoved: the gate goes from a host whose Docker went before it, whatever Docker left behind, so
// that the package can be removed.
func TestDockerRemoved(t *testing.T) {
	for _, load := range []string{"not-found", "masked"} {
		t.Run(load, func(t *testing.T) {
			f, h := newFakeHost(t)
			if err := h.Enable(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.stop(&f.daemon)
			f.load, f.calls = load, nil
			if err := os.WriteFile(filepath.Join(f.root, "etc/docker/daemon.json"), []byte(`{"authorization-plugins": ["belay"]}`), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := h.Disable(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if f.moved() || h.anyDropIn() {
				t.Error("drop-ins are left")
			}
			if _, err := os.Stat(h.statePath()); err == nil {
				t.Error("the record is left")
			}
			if !slices.Contains(f.calls, "systemctl start "+agentUnit) {
				t.Errorf("the agent was not started: %q", f.calls)
			}
		})
	}
}

// TestDockerMasked: an operator who has masked a unit of Docker's has not removed it: the daemon is given its socket back.
func TestDockerMasked(t *testing.T) {
	for _, c := range []struct {
		masked string
		runs   bool
	}{{masked: socketUnit}, {masked: socketUnit, runs: true}, {masked: dockerUnit}, {masked: socketUnit + dockerUnit, runs: true}} {
		t.Run(fmt.Sprint(c.masked, c.runs), func(t *testing.T) {
			f, h := newFakeHost(t)
			if err := h.Enable(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !c.runs {
				f.stop(&f.daemon)
			}
			f.masked, f.calls = c.masked, nil
			if err := h.Disable(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(f.calls, "systemctl start "+socketUnit+" "+dockerUnit) {
				t.Errorf("the daemon was not started: %q", f.calls)
			}
		})
	}
}
