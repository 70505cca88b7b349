package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
)

// One caller must not fill the agent's memory with bodies that never end.
func TestBodiesAreBounded(t *testing.T) {
	g := startGate(t, own)
	const large = "POST /v1.41/containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
	var open []net.Conn
	for i := range 4 {
		c := g.dial(t)
		head := large + "Content-Length: 4000000\r\n\r\n{"
		if i%2 == 1 {
			head = large + "Transfer-Encoding: chunked\r\n\r\n1e8480\r\n" + strings.Repeat(" ", 2_000_000)
		}
		if _, err := io.WriteString(c, head); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	waitFor(t, "the room is full", func() bool {
		g.bodies.mu.Lock()
		defer g.bodies.mu.Unlock()
		return g.bodies.held > requestRoomEach-5<<20
	})
	r := g.raw(t, large+"Content-Length: 4000001\r\n\r\n{")
	if r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" {
		t.Errorf("one more large body: status %d, want 429 and when to come again", r.StatusCode)
	}
	if n := g.counter("gate_over_memory"); n == 0 {
		t.Error("not counted")
	}
	small := `{"Image":"app"}`
	if r := g.raw(t, large+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(small), small)); r.StatusCode != 201 {
		t.Errorf("a small body beside them: status %d", r.StatusCode)
	}
	for _, c := range open {
		c.Close()
	}
	waitFor(t, "the room is given back", func() bool {
		g.bodies.mu.Lock()
		defer g.bodies.mu.Unlock()
		return g.bodies.held == 0 && len(g.bodies.by) == 0
	})
}

func TestLargeHeadsAreBounded(t *testing.T) {
	g := startGate(t, own)
	g.bodies.mu.Lock()
	g.bodies.each = 128 << 10
	g.bodies.mu.Unlock()
	head := "GET /_ping HTTP/1.1\r\nHost: d\r\nX-Registry-Auth: " + strings.Repeat("a", 30<<10)
	if r := g.raw(t, head+"\r\n\r\n"); r.StatusCode != 200 {
		t.Fatalf("a large head alone: status %d", r.StatusCode)
	}
	waitFor(t, "the room of the first is given back", func() bool {
		g.bodies.mu.Lock()
		defer g.bodies.mu.Unlock()
		return g.bodies.held == 0
	})
	for range 2 {
		_, _ = io.WriteString(g.dial(t), head)
	}
	waitFor(t, "two are held", func() bool {
		g.bodies.mu.Lock()
		defer g.bodies.mu.Unlock()
		return g.bodies.held == 128<<10
	})
	if r := g.raw(t, head+"\r\n\r\n"); r.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("one more: status %d, want 431", r.StatusCode)
	}
	if r := g.raw(t, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"); r.StatusCode != 200 {
		t.Errorf("a usual one beside them: status %d", r.StatusCode)
	}
}

func TestRoom(t *testing.T) {
	in := &room{all: 100, each: 50}
	var a, b, c, d hold
	for i, step := range []struct {
		h    *hold
		key  string
		n    int
		want bool
	}{
		{&a, "alice", 90, true}, // alone: as large as it likes
		{&a, "alice", 5, true},
		{&b, "alice", 1, false},
		{&c, "bob", 5, true},
		{&d, "carol", 1, false}, // no room for anybody
	} {
		if got := step.h.grow(in, step.key, step.n); got != step.want {
			t.Errorf("step %d: %s takes %d: got %v, want %v", i, step.key, step.n, got, step.want)
		}
	}
	for _, h := range []*hold{&a, &b, &c, &d} {
		h.leave()
		h.leave()
	}
	if in.held != 0 || len(in.by) != 0 {
		t.Errorf("%d held, of %v, after all have left", in.held, in.by)
	}
	if _, err := readAll(strings.NewReader(strings.Repeat("x", 5000)), make([]byte, 0, 10), 9000, 1000, func(int) bool { return false }); !errors.Is(err, errNoRoom) {
		t.Errorf("an answer for which there is no room: %v", err)
	}
}

// Who has not shown a certificate must not take all descriptors.
func TestHandshakesAreBounded(t *testing.T) {
	g, ca, _ := tlsGate(t)
	g.shaking.mu.Lock()
	g.shaking.each = 3
	g.shaking.mu.Unlock()
	var silent []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", g.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	waitFor(t, "three wait", func() bool {
		g.shaking.mu.Lock()
		defer g.shaking.mu.Unlock()
		return g.shaking.held == 3
	})
	c, err := net.Dial("tcp", g.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more that says nothing: %v, want it closed at once", err)
	}
	for _, c := range silent {
		c.Close()
	}
	cert := ca.client(t, "alice")
	waitFor(t, "a caller gets in", func() bool {
		status, err := overTLS(t, g, ca, &cert, 0, nil)
		return err == nil && status == 200
	})
}

// panics are rules that fail.
type panics struct {
	Rules
	on *atomic.Bool
}

func (p panics) Decide(call *apicall.Call, now time.Time) policy.AccessDecision {
	if p.on.Load() {
		panic("a fault")
	}
	return p.Rules.Decide(call, now)
}

// A fault inside the gate ends one connection, lets nothing pass and leaves the agent.
func TestPanicEndsOneConnection(t *testing.T) {
	var on atomic.Bool
	rules := rulesFrom(t, own)
	g := startGate(t, own, func(o *Options) { o.Policies = func() Rules { return panics{rules, &on} } })
	on.Store(true)
	c := g.dial(t)
	_, _ = io.WriteString(c, "POST /v1.41/containers/web/stop HTTP/1.1\r\nHost: d\r\n\r\n")
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("answered %q", b)
	}
	if n := len(g.d.acted()); n > 0 {
		t.Errorf("%d requests reached the daemon", n)
	}
	waitFor(t, "it is counted and recorded", func() bool {
		all := g.rec.all()
		return g.counter("gate_failures") == 1 && len(all) == 1 && all[0].Cause == "internal_failure" && all[0].Decision == Denied
	})
	on.Store(false)
	if r := g.raw(t, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"); r.StatusCode != 200 {
		t.Errorf("the next connection: status %d", r.StatusCode)
	}
}

// waitFor waits until ok, for as long as a machine under load may take.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}
