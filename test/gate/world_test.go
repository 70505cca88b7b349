// Package gate plays what users do with Docker against a real engine, through the gate.
// It needs root and Docker; where they are missing its tests say so.
//
// It owns one lab (see tools/lab) with one engine for the length of the run. Row:
// end-to-end tests.
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// image holds busybox, with a user that is not root.
const image = "gate/app:1"

// rootImage is the same with root as its default.
const rootImage = "gate/root:1"

type world struct {
	lab    *lab.Lab
	engine *lab.Engine
	err    error
}

var shared world

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) (code int) {
	if docker, _ := lab.HasEngine(); os.Geteuid() != 0 || !docker || os.Getenv("BELAY_E2E") == "" {
		return m.Run() // the tests say what they need
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	shared.err = shared.build(ctx)
	code = m.Run()
	if shared.lab == nil {
		return code
	}
	if err := shared.lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "tidying up:", err)
		code = max(code, 1)
	}
	return code
}

func (w *world) build(ctx context.Context) (err error) {
	if w.lab, err = lab.New(lab.Options{Name: "gate", Log: os.Stderr, TempDir: os.Getenv("BELAY_TEST_TMP")}); err != nil {
		return err
	}
	if w.engine, err = w.lab.StartEngine(ctx, "main", "--debug"); err != nil {
		return err
	}
	bb, err := lab.Busybox()
	if err != nil {
		return err
	}
	files := []lab.File{
		lab.Program("bin/busybox", bb), {Name: "tmp/", Mode: 0o1777}, {Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Mode: 0o644, Body: []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n")},
	}
	files = append(files, lab.File{Name: "etc/group", Mode: 0o644, Body: []byte("root:x:0:\napp:x:1000:\n")})
	for _, applet := range []string{"sh", "cat", "sleep", "id", "echo", "ls", "stty", "true", "seq", "head", "tty", "wc", "mkdir", "wget"} {
		files = append(files, lab.File{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
	}
	if err := w.engine.Import(ctx, rootImage, files, "ENV PATH=/bin"); err != nil {
		return err
	}
	return w.engine.Import(ctx, image, files, "USER 1000", "ENV SECRET_KEY=hunter2", "ENV PATH=/bin")
}

func need(t *testing.T) *world {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "containers need it")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	if shared.err != nil {
		t.Fatalf("set up: %v", shared.err)
	}
	return &shared
}

// gate is one gate in front of the world's engine.
type gate struct {
	*world
	t      *testing.T
	socket string
	health *health.Registry
	server *proxy.Server
	stop   func() // ends it in order; may be called twice

	// mu guards events.
	mu     sync.Mutex
	events []proxy.Event
}

func (g *gate) Record(ev *proxy.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := *ev
	sub := *ev.Subject
	e.Subject = &sub
	g.events = append(g.events, e)
}

// last returns the last decision on an action.
func (g *gate) last(action string) proxy.Event {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := len(g.events) - 1; i >= 0; i-- {
		if g.events[i].Action == action {
			return g.events[i]
		}
	}
	g.t.Fatalf("no record of %s", action)
	return proxy.Event{}
}

// start starts a gate under access policies, none if text is "".
func (w *world) start(t *testing.T, text string, change ...func(*proxy.Options)) *gate {
	t.Helper()
	// Other users must reach the socket.
	dir, err := os.MkdirTemp("", "belay-gate-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	g := &gate{world: w, t: t, socket: filepath.Join(dir, "docker.sock"), health: health.New(nil)}
	var rules proxy.Rules
	if text != "" {
		file := filepath.Join(dir, "access.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		set, err := policy.ParseFiles(file)
		if err != nil {
			t.Fatal(err)
		}
		rules = proxy.RulesOf(set)
	}
	o := proxy.Options{
		Upstream: w.engine.Socket, Socket: g.socket, Mode: 0o666, Recorder: g, Health: g.health,
		Policies: func() proxy.Rules { return rules }, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, f := range change {
		f(&o)
	}
	if g.server, err = proxy.Listen(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- g.server.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		g.server.Close()
	})
	t.Cleanup(g.stop)
	return g
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("gate: %s", p)
	return len(p), nil
}

// as returns a client that calls through the gate as a user of the host.
func (g *gate) as(uid uint32) *lab.Client { return g.engine.Client(g.socket, uid) }

// ok runs a docker command that must succeed.
func ok(t *testing.T, c *lab.Client, args ...string) string {
	t.Helper()
	r := c.Docker(t.Context(), args...)
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	return r.Stdout
}

// await waits until f is true.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	if !lab.Await(t.Context(), 20*time.Second, f) {
		t.Fatalf("%s has not come to pass", what)
	}
}
