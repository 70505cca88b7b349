package gate

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/gate/ticket"
)

// The daemon's own socket is no way around the gate: the plugin refuses what has no ticket,
// and everything while it is down.
func TestPlugin(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	name := w.lab.Name
	dir := w.lab.Path("authz") // the plugin outlives the test: without it the lab's engine would not end
	// The daemon looks for plugins in fixed places of the host.
	spec := filepath.Join("/etc/docker/plugins", name+".spec")
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "belay.sock")
	if err := os.WriteFile(spec, []byte("unix://"+socket), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(spec)
		os.Remove(filepath.Dir(spec)) // if it is empty
	})
	keeper := ticket.New(nil)
	var mu sync.Mutex
	var denied []authz.Denial
	start := func() (stop func()) {
		p, err := authz.Listen(authz.Options{Socket: socket, Tickets: keeper, Record: func(d authz.Denial) {
			mu.Lock()
			defer mu.Unlock()
			denied = append(denied, d)
		}})
		if err != nil {
			t.Fatal(err)
		}
		pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan error, 1)
		go func() { done <- p.Run(pctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stop := start()
	e, err := w.lab.StartEngine(ctx, "plugin", "--authorization-plugin="+name)
	if err != nil {
		t.Fatal(err)
	}
	g := (&world{lab: w.lab, engine: e}).start(t, "", func(o *proxy.Options) { o.Tickets = keeper })
	c := g.as(0)
	if err := e.Client(g.socket, 0).DockerIn(ctx, tarOf(t, map[string]string{"x": "y"}), "import", "-", "plugin:1"); err.Code != 0 {
		t.Fatal(err.Err())
	}
	ok(t, c, "create", "--name", "through", "plugin:1", "/x")
	ok(t, c, "ps", "-a")
	ok(t, c, "rm", "through")
	for _, args := range [][]string{{"ps"}, {"create", "--privileged", "plugin:1", "/x"}, {"plugin", "disable", name}, {"images"}} {
		r := e.Docker(ctx, args...)
		if r.Code == 0 || !strings.Contains(r.Stderr, "gate") {
			t.Errorf("raw socket, docker %q: %v", args, r.Err())
		}
	}
	mu.Lock()
	n := len(denied)
	mu.Unlock()
	if n < 4 {
		t.Errorf("%d denials were recorded", n)
	}
	stop()
	down, cancel := context.WithTimeout(ctx, 3*time.Second) // the daemon itself tries for 30 s
	defer cancel()
	if r := c.Docker(down, "ps"); r.Code == 0 {
		t.Error("the daemon answers though its plugin is down")
	}
	start()
	await(t, "an answer of the daemon", func() bool { return c.Docker(ctx, "ps").Code == 0 })
}
