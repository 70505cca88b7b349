package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
)

// The daemon goes and comes back under the gate: streams end, callers are told, and as
// soon as it is there again everything works.
func TestDaemonRestart(t *testing.T) {
	base := need(t)
	e, err := base.lab.StartEngine(t.Context(), "restart")
	if err != nil {
		t.Fatal(err)
	}
	if r := e.DockerIn(t.Context(), tarOf(t, map[string]string{"x": "y"}), "import", "-", image); r.Code != 0 {
		t.Fatal(r.Err())
	}
	g := (&world{lab: base.lab, engine: e}).start(t, developers)
	c := g.as(attacker)
	events, err := dialAs(g.socket, attacker, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if _, err := io.WriteString(events, "GET /events HTTP/1.1\r\nHost: d\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(events)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("events: %v, %v", resp, err)
	}
	if err := e.Halt(); err != nil {
		t.Fatal(err)
	}
	_ = events.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, resp.Body); os.IsTimeout(err) {
		t.Error("the stream of events did not end with the daemon")
	}
	if r := c.Docker(t.Context(), "version"); r.Code == 0 || !strings.Contains(r.Stderr, "Is it running?") {
		t.Errorf("without a daemon: %v", r.Err())
	}
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	ok(t, c, "version")
	if out := ok(t, c, "images", "-q"); out == "" {
		t.Error("the image is gone")
	}
	events.Close()
	await(t, "no connection of before", func() bool { return g.server.Open() == 0 })
}

// One caller's slowness, half requests and greed are its own loss.
func TestRoughCallers(t *testing.T) {
	w := need(t)
	g := w.start(t, developers, func(o *proxy.Options) {
		o.Limits.ConnsPerCaller, o.Limits.HeadTime, o.Limits.BodyTime = 20, 2*time.Second, 2*time.Second
	})
	dial := func(uid int, text string) net.Conn {
		t.Helper()
		c, err := dialAs(g.socket, uid, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("who does not read does not fill the gate", func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var slow []net.Conn
		for range 10 {
			slow = append(slow, dial(attacker, "GET /images/"+image+"/get HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"))
		}
		time.Sleep(2 * time.Second)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 10*(256<<10) {
			t.Errorf("ten callers that do not read take %d KiB", grown>>10)
		}
		start := time.Now()
		ok(t, g.as(owner), "ps")
		t.Logf("another's call took %v meanwhile", time.Since(start).Round(time.Millisecond))
		for _, c := range slow { // and they get all of it when they read
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 1<<20 {
				t.Errorf("%d bytes, %v", n, err)
			}
			c.Close()
		}
	})
	await(t, "the end of the slow calls", func() bool { return g.server.Open() == 0 })
	t.Run("half requests end", func(t *testing.T) {
		for name, text := range map[string]string{
			"half a head": "GET /_ping HTTP/1.1\r\nHo",
			"half a body": "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		} {
			start := time.Now()
			b, err := io.ReadAll(dial(attacker, text))
			if took := time.Since(start); err != nil || took > 15*time.Second || len(b) > 0 && !strings.Contains(string(b), " 408 ") {
				t.Errorf("%s: %q, %v, after %v", name, b, err, took)
			}
		}
	})
	t.Run("too many of one caller", func(t *testing.T) {
		await(t, "no connection of before", func() bool { return g.server.Open() == 0 })
		for range 20 {
			readHead(t, dial(attacker, "GET /events HTTP/1.1\r\nHost: d\r\n\r\n"), "200")
		}
		readHead(t, dial(attacker, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"), "429")
		// Users without a name, of whom a user may make as many as it likes, have one share; others have their own.
		readHead(t, dial(owner, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"), "429")
		readHead(t, dial(named, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"), "403")
		readHead(t, dial(0, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"), "403")
	})
}

// The rate of one caller is bounded, and no other's.
func TestCallerRate(t *testing.T) {
	g := need(t).start(t, developers, func(o *proxy.Options) { o.Limits.Rate, o.Limits.Burst = 0.01, 5 })
	got := map[int]int{}
	for range 8 {
		status, _ := call(t, g, attacker, "GET", "/_ping", "")
		got[status]++
	}
	if status, _ := call(t, g, owner, "GET", "/_ping", ""); got[200] != 5 || got[429] != 3 || status != 200 {
		t.Errorf("answers %v, and %d to another", got, status)
	}
}

func readHead(t *testing.T, c net.Conn, status string) {
	t.Helper()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %s ", status)) {
		t.Errorf("got %q, %v, want %s", line, err, status)
	}
}
