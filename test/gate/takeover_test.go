package gate

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/gate/preflight"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/tools/lab"
)

// dockerGroup stands for the group docker: it is everywhere, and clients of that uid have it.
const (
	dockerGroup = "nogroup"
	dockerGID   = 65534
)

// takeover is an engine that runs before Belay comes, with what the steps of docs/gate.md
// need.
type takeover struct {
	*tripwire
	old, moved string // the socket's usual place, and the private one
}

func newTakeover(t *testing.T) *takeover {
	t.Helper()
	base := need(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k := &takeover{tripwire: &tripwire{
		t: t, keeper: ticket.New(nil), socket: filepath.Join(dir, "belay.sock"), glass: filepath.Join(dir, "break-glass"),
		daemon: base.lab.Path("takeover", "daemon.json"), pidfile: base.lab.Path("takeover", "docker.pid"),
	}}
	e, err := base.lab.StartEngine(t.Context(), "takeover", "--live-restore", "--group", dockerGroup)
	if err != nil {
		t.Fatal(err)
	}
	k.world = &world{lab: base.lab, engine: e}
	k.old, k.moved = e.Socket, base.lab.Path("takeover", "upstream", "docker.sock")
	if err := os.Mkdir(filepath.Dir(k.moved), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{base.lab.Path(), base.lab.Path("takeover")} { // as /run is
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	files := []lab.File{lab.Program("bin/busybox", bb), {Name: "bin/sleep", Mode: 0o777, Link: "busybox"}}
	if err := e.Import(t.Context(), image, files, "USER 1000", "ENV PATH=/bin"); err != nil {
		t.Fatal(err)
	}
	return k
}

// spec has the daemon find the plugin.
func (k *takeover) spec() {
	k.t.Helper()
	spec := filepath.Join("/etc/docker/plugins", k.lab.Name+".spec")
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(spec, []byte("unix://"+k.socket), 0o644); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		os.Remove(spec)
		os.Remove(filepath.Dir(spec)) // if it is empty
	})
}

// look is what belay-agent preflight says of the daemon; gate is the gate's socket.
func (k *takeover) look(t *testing.T, gate string) (r preflight.Report, failed []string) {
	t.Helper()
	r = preflight.Run(t.Context(), preflight.Options{Socket: k.engine.Socket, Gate: gate, Name: k.lab.Name, Plugin: k.socket})
	for _, f := range r.Findings {
		if f.Severity == preflight.Fail && !slices.Contains(failed, f.ID) {
			failed = append(failed, f.ID)
		}
		if f.ID == "daemon.process" && f.Severity != preflight.OK {
			t.Errorf("the daemon is not found: %s", f.What)
		}
		t.Logf("%-7s %-20s %s", f.Severity, f.ID, f.What)
	}
	return r, failed
}

// running tells which process a container is since when.
func running(t *testing.T, c *lab.Client, name string) string {
	t.Helper()
	return strings.TrimSpace(ok(t, c, "inspect", "--format", "{{.State.Running}} {{.State.Pid}} {{.State.StartedAt}}", name))
}

// The steps of docs/gate.md, there and back, on an engine whose containers go on.
func TestTakeover(t *testing.T) {
	k := newTakeover(t)
	user := k.engine.Client(k.old, dockerGID) // who is in the docker group
	ok(t, user, "run", "-d", "--name", "keeps", image, "sleep", "100000")
	t.Cleanup(func() { k.engine.Docker(context.WithoutCancel(t.Context()), "rm", "-f", "keeps") })
	before := running(t, user, "keeps")

	t.Run("bare: preflight names the ways", func(t *testing.T) {
		_, failed := k.look(t, "none")
		for _, id := range []string{"daemon.socket", "docker.group", "plugin.inforce", "gate.socket"} {
			if !slices.Contains(failed, id) {
				t.Errorf("%s does not fail; %v do", id, failed)
			}
		}
	})
	t.Run("in front", func(t *testing.T) { k.inFront(t, user, before) })
	if t.Failed() {
		return
	}
	t.Run("taken away", func(t *testing.T) {
		// inFront has taken the plugin out and stopped the gate.
		if err := k.engine.Restart(t.Context(), k.old, "--live-restore", "--group", dockerGroup); err != nil {
			t.Fatal(err)
		}
		if after := running(t, user, "keeps"); after != before {
			t.Errorf("the container was %s and is %s", before, after)
		}
		ok(t, user, "exec", "keeps", "busybox", "true")
		if _, failed := k.look(t, "none"); !slices.Contains(failed, "daemon.socket") {
			t.Errorf("preflight does not see that the daemon is bare again; %v fail", failed)
		}
	})
}

func (k *takeover) inFront(t *testing.T, user *lab.Client, before string) {
	k.spec()
	stop := k.plugin()
	defer func() { stop() }()
	if err := os.WriteFile(k.daemon, []byte(`{"authorization-plugins": ["`+k.lab.Name+`"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.engine.Restart(t.Context(), k.moved, "--live-restore", "--group", "root"); err != nil {
		t.Fatal(err)
	}
	k.start(t, "", func(o *proxy.Options) { o.Socket, o.Mode, o.GID, o.Tickets = k.old, 0o660, dockerGID, k.keeper })
	if now := running(t, user, "keeps"); now != before {
		t.Errorf("the container was %s and is %s", before, now)
	}
	ok(t, user, "run", "--rm", image, "busybox", "true")
	ok(t, user, "exec", "keeps", "busybox", "true")
	if r := k.engine.Client(k.moved, dockerGID).Docker(t.Context(), "ps"); r.Code == 0 || !strings.Contains(r.Stderr, "permission denied") {
		t.Errorf("the docker group at the daemon's own socket: %v", r.Err())
	}
	k.causes()
	if r := k.engine.Client(k.moved, 0).Docker(t.Context(), "ps"); r.Code == 0 || !slices.Contains(k.causes(), authz.CauseNoTicket) {
		t.Errorf("root at the daemon's own socket: %v", r.Err())
	}
	if r, failed := k.look(t, k.old); r.Failed() {
		t.Errorf("guarded, and %v fail", failed)
	}
	// The gate lets the group do what the daemon would: no policy is in force. Preflight sees it.
	ok(t, user, "run", "-d", "--name", "way", "-v", filepath.Dir(k.moved)+":/up", image, "sleep", "1000")
	if _, failed := k.look(t, k.old); !slices.Contains(failed, "container.bypass") {
		t.Errorf("a container has the daemon's socket and only %v fail", failed)
	}
	ok(t, user, "rm", "-f", "way")

	// And away again: the plugin out of daemon.json, then the gate.
	k.configure("{}")
	await(t, "the daemon without the plugin", func() bool { return k.engine.Docker(t.Context(), "ps").Code == 0 })
}
