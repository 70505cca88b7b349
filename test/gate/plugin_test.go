package gate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/tools/lab"
)

// tripwire is an engine that asks the plugin, as an operator would have it.
type tripwire struct {
	*world
	t       *testing.T
	keeper  *ticket.Keeper
	socket  string
	glass   string
	daemon  string // its daemon.json
	pidfile string

	// mu guards what follows.
	mu     sync.Mutex
	events []authz.Event
	notes  []string
}

// plugin starts the plugin. stop may be called once.
func (w *tripwire) plugin() (stop func()) {
	w.t.Helper()
	p, err := authz.Listen(authz.Options{
		Socket: w.socket, Name: w.lab.Name, Tickets: w.keeper, Gate: "/run/belay/docker.sock", BreakGlass: w.glass,
		Record: func(ev *authz.Event) { w.mu.Lock(); defer w.mu.Unlock(); w.events = append(w.events, *ev) },
		Note:   func(s string) { w.mu.Lock(); defer w.mu.Unlock(); w.notes = append(w.notes, s) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

// configure writes the engine's daemon.json and has it read.
func (w *tripwire) configure(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.daemon, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	raw, err := os.ReadFile(w.pidfile)
	if err != nil {
		w.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tripwire) causes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, ev := range w.events {
		out = append(out, ev.Cause)
	}
	w.events = nil
	return out
}

// newTripwire starts an engine of its own, and puts the plugin in front of it while it runs.
func newTripwire(t *testing.T) (w *tripwire, stop func()) {
	t.Helper()
	base := need(t)
	dir := t.TempDir()
	w = &tripwire{
		t: t, keeper: ticket.New(nil), socket: filepath.Join(dir, "belay.sock"), glass: filepath.Join(dir, "break-glass"),
		daemon: base.lab.Path("plugin", "daemon.json"), pidfile: base.lab.Path("plugin", "docker.pid"),
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// The daemon looks for plugins in fixed places of the host.
	spec := filepath.Join("/etc/docker/plugins", base.lab.Name+".spec")
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(spec, []byte("unix://"+w.socket), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(spec)
		os.Remove(filepath.Dir(spec)) // if it is empty
	})
	e, err := base.lab.StartEngine(t.Context(), "plugin")
	if err != nil {
		t.Fatal(err)
	}
	w.world = &world{lab: base.lab, engine: e}
	if err := e.DockerIn(t.Context(), tarOf(t, map[string]string{"x": "y"}), "import", "-", image); err.Code != 0 {
		t.Fatal(err.Err())
	}
	stop = w.plugin()
	w.configure(`{"authorization-plugins": ["` + base.lab.Name + `"]}`)
	await(t, "the plugin in front of the engine", func() bool { return e.Docker(t.Context(), "version").Code != 0 })
	w.causes()
	return w, stop
}

// raw sends one request to an engine's own socket and returns the status.
func raw(t *testing.T, e *lab.Engine, request string) (int, string) {
	t.Helper()
	c, err := net.Dial("unix", e.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, request) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

const jsonHead = "Host: d\r\nConnection: close\r\nContent-Type: application/json\r\n"

func withBody(target, head, body string) string {
	return "POST " + target + " HTTP/1.1\r\n" + head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

func chunked(target, head, body string) string {
	return "POST " + target + " HTTP/1.1\r\n" + head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
}

const harm = `{"Image":"` + image + `","Cmd":["/x"],"HostConfig":{"Privileged":true}}`

// bypasses are requests that make a privileged container on an engine that nobody guards.
func bypasses() map[string]string {
	long := `{"Image":"` + image + `","Cmd":["/x"],"HostConfig":{"Privileged":true},"Labels":{"pad":"` + strings.Repeat("x", 1<<20) + `"}}`
	return map[string]string{
		"plain":                               withBody("/v1.41/containers/create?name=harm", jsonHead, harm),
		"A1 a body of no said length":         chunked("/v1.41/containers/create?name=harm", jsonHead, harm),
		"A1 a length of 0 and a chunked body": chunked("/v1.41/containers/create?name=harm", jsonHead+"Content-Length: 0\r\n", harm),
		"A2 a body over 1 MiB":                withBody("/v1.41/containers/create?name=harm", jsonHead, long),
		"B15 a second content type":           withBody("/v1.41/containers/create?name=harm", jsonHead+"Content-Type: text/plain\r\n", harm),
		"C7 a target that ends in /auth":      withBody("/v1.41/containers/create?name=harm&x=/auth", jsonHead, harm),
		"C7 another spelling of the type": withBody("/v1.41/containers/create?name=harm",
			"Host: d\r\nConnection: close\r\nContent-Type: Application/JSON; charset=utf-8\r\n", harm),
	}
}

// The daemon's own socket is no way around the gate.
func TestPlugin(t *testing.T) {
	w, stop := newTripwire(t)
	defer func() { stop() }()
	g := (&world{lab: w.lab, engine: w.engine}).start(t, "", func(o *proxy.Options) { o.Tickets = w.keeper })
	c := g.as(0)
	t.Run("what comes through the gate passes", func(t *testing.T) {
		ok(t, c, "create", "--name", "through", image, "/x")
		if out := ok(t, c, "ps", "-a", "--format", "{{.Names}}"); strings.TrimSpace(out) != "through" {
			t.Errorf("got %q", out)
		}
		ok(t, c, "rm", "through")
		if r := c.DockerIn(t.Context(), strings.NewReader("p"), "login", "-u", "u", "--password-stdin", "127.0.0.1:1"); strings.Contains(r.Stderr, "belay") || !strings.Contains(r.Stderr, "127.0.0.1:1") {
			t.Errorf("C7 docker login: %v", r.Err())
		}
		if got := w.causes(); len(got) > 0 {
			t.Errorf("recorded %v", got)
		}
	})
	t.Run("the docker command on the daemon's socket does not", func(t *testing.T) {
		for _, args := range [][]string{{"ps"}, {"create", "--privileged", image, "/x"}, {"images"}, {"plugin", "ls"}} {
			r := w.engine.Docker(t.Context(), args...)
			if r.Code == 0 || !strings.Contains(r.Stderr, "DOCKER_HOST=unix:///run/belay/docker.sock") {
				t.Errorf("docker %q: %v", args, r.Err())
			}
		}
		if got := w.causes(); !slices.Contains(got, authz.CauseNoTicket) {
			t.Errorf("recorded %v", got)
		}
	})
	t.Run("D17 nobody takes the plugin away", func(t *testing.T) {
		for _, args := range [][]string{{"disable", "-f", w.lab.Name}, {"rm", "-f", w.lab.Name}, {"set", w.lab.Name, "A=b"}, {"enable", w.lab.Name}} {
			for _, run := range []func(context.Context, ...string) lab.Result{w.engine.Docker, c.Docker} {
				if r := run(t.Context(), append([]string{"plugin"}, args...)...); r.Code == 0 {
					t.Errorf("docker plugin %q passed", args)
				}
			}
		}
		for _, target := range []string{"/v1.41/plugins/" + w.lab.Name + "/disable", "/v1.41/plugins/create?name=" + w.lab.Name} {
			tk := string(w.keeper.Append(nil, "POST", target, ticket.None, nil))
			if status, body := raw(t, w.engine, withBody(target, "Host: d\r\nConnection: close\r\n"+ticket.Header+": "+tk+"\r\n", "")); status != http.StatusForbidden {
				t.Errorf("%s with a ticket: %d %s", target, status, body)
			}
		}
		if got := w.causes(); !slices.Contains(got, authz.CauseTamper) {
			t.Errorf("recorded %v", got)
		}
	})
	t.Run("bypasses", func(t *testing.T) { w.bypassed(t, c) })
	t.Run("tickets", func(t *testing.T) { w.tickets(t, c) })
	t.Run("break-glass", func(t *testing.T) {
		if err := os.WriteFile(w.glass, []byte("the test says so"), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := w.engine.Docker(t.Context(), "ps"); r.Code != 0 {
			t.Error(r.Err())
		}
		if got := w.causes(); !slices.Contains(got, authz.CauseBreakGlass) {
			t.Errorf("recorded %v", got)
		}
		if err := os.Remove(w.glass); err != nil {
			t.Fatal(err)
		}
		if r := w.engine.Docker(t.Context(), "ps"); r.Code == 0 {
			t.Error("it passes after the file is gone")
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.notes) != 2 || !strings.Contains(w.notes[0], "the test says so") {
			t.Errorf("notes: %q", w.notes)
		}
	})
	t.Run("while the plugin is down", func(t *testing.T) {
		stop()
		start := time.Now()
		r := c.Docker(t.Context(), "ps")
		if r.Code == 0 {
			t.Error("the daemon answers though its plugin is down")
		}
		t.Logf("refused after %v: %s", time.Since(start).Round(time.Second), strings.TrimSpace(r.Stderr))
		// A plugin that comes back in time is not noticed.
		later := make(chan func(), 1)
		go func() { time.Sleep(2 * time.Second); later <- w.plugin() }()
		if r := c.Docker(t.Context(), "ps"); r.Code != 0 {
			t.Errorf("over a restart: %v", r.Err())
		}
		stop = <-later
	})
	t.Run("taken away without a restart, plugin down", func(t *testing.T) {
		stop()
		stop = func() {}
		w.configure("{}")
		await(t, "an engine without the plugin", func() bool { return w.engine.Docker(t.Context(), "ps").Code == 0 })
	})
}

// tickets tries what somebody could do who holds tickets, on the daemon's own socket.
func (w *tripwire) tickets(t *testing.T, c *lab.Client) {
	const target = "/v1.41/containers/create?name=ticket"
	fresh := func(body string) string {
		return jsonHead + ticket.Header + ": " + string(w.keeper.Append(nil, "POST", target, ticket.Digest, []byte(body))) + "\r\n"
	}
	harmless := `{"Image":"` + image + `","Cmd":["/x"]}`
	long := `{"Image":"` + image + `","Cmd":["/x"],"Labels":{"pad":"` + strings.Repeat("x", 5<<20) + `"}}`
	used := fresh(harmless)
	for _, s := range []struct {
		name, request string
		cause         string
	}{
		{"with a ticket", withBody(target, used, harmless), ""},
		{"a ticket again", withBody(target, used, harmless), authz.CauseBadTicket},
		{"another body", withBody(target, fresh(harmless), harm), authz.CauseBadTicket},
		{"another target", withBody(target+"2", fresh(harmless), harmless), authz.CauseBadTicket},
		{"B15 two tickets, the first one good", withBody(target, fresh(harmless)+ticket.Header+": x\r\n", harmless), authz.CauseBadTicket},
		{"B15 a second content type", withBody(target, strings.Replace(fresh(harmless), "application/json", "text/plain", 1)+"Content-Type: application/json\r\n", harmless), authz.CauseNoBody},
		{"A1 a body of no said length, which is another", chunked(target, fresh(harmless), harm), "any"},
		{"A2 a body over the bound", withBody(target, fresh(long), long), "any"},
	} {
		status, body := raw(t, w.engine, s.request)
		got := w.causes()
		if s.cause == "" {
			if status != http.StatusCreated || len(got) > 0 {
				t.Errorf("%s: %d %s, recorded %v", s.name, status, body, got)
			}
			ok(t, c, "rm", "ticket")
			continue
		}
		// Newer daemons refuse some of these themselves, before or after they ask.
		if status < 400 || s.cause != "any" && (status != http.StatusForbidden || !slices.Equal(got, []string{s.cause})) {
			t.Errorf("%s: %d %s, recorded %v, want %s", s.name, status, body, got, s.cause)
		}
	}
	if out := ok(t, c, "ps", "-aq"); out != "" {
		t.Errorf("containers were made: %q", out)
	}
}

// bypassed tries requests each of which makes a privileged container on an engine without
// the plugin, and none on one that asks it.
func (w *tripwire) bypassed(t *testing.T, c *lab.Client) {
	bare := need(t).engine
	for name, request := range bypasses() {
		t.Run(name, func(t *testing.T) {
			if status, body := raw(t, bare, request); status != http.StatusCreated {
				t.Errorf("the engine that nobody guards: %d %s", status, body)
			}
			bare.Docker(t.Context(), "rm", "-f", "harm")
			status, body := raw(t, w.engine, request)
			if status < 400 {
				t.Errorf("%d %s", status, body)
			}
			if got := w.causes(); !slices.Contains(got, authz.CauseNoTicket) && status == http.StatusForbidden {
				t.Errorf("recorded %v", got)
			}
			if out := ok(t, c, "ps", "-aq"); out != "" {
				t.Errorf("a container was made: %s", out)
			}
		})
	}
}
