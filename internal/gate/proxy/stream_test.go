package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// attach opens a stream to web, with or without an Upgrade header (B12).
func attach(t *testing.T, g *testGate, upgrade bool) (*net.UnixConn, *bufio.Reader) {
	t.Helper()
	c := g.dial(t)
	head := "POST /v1.41/containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n"
	want := "HTTP/1.1 200 OK\r\n"
	if upgrade {
		head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
		want = "HTTP/1.1 101 UPGRADED\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	if err != nil || line != want {
		t.Fatalf("got %q, %v, want %q", line, err, want)
	}
	for line != "\r\n" {
		if line, err = br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return c, br
}

// B12: the end of the input passes, and the output still comes.
func TestB12HalfClose(t *testing.T) {
	for _, upgrade := range []bool{true, false} {
		t.Run(fmt.Sprintf("upgrade=%v", upgrade), func(t *testing.T) {
			g := startGate(t, own)
			c, br := attach(t, g, upgrade)
			io.WriteString(c, "hello")
			got := make([]byte, 5)
			if _, err := io.ReadFull(br, got); err != nil || string(got) != "hello" {
				t.Fatalf("echo: %q, %v", got, err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(br); err != nil || string(b) != "<5>" {
				t.Errorf("after the end of the input: %q, %v, want <5>", b, err)
			}
		})
	}
}

// Input that comes in one packet with the request belongs to the stream.
func TestEarlyInput(t *testing.T) {
	g := startGate(t, own)
	c := g.dial(t)
	io.WriteString(c, "POST /containers/web/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
	c.CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(b), "early<5>") {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestLogs(t *testing.T) {
	g := startGate(t, own)
	status, body := do(t, g.client(t), "GET", "/containers/web/logs?stdout=1", "")
	if status != 200 || body != "line 0\nline 1\nline 2\n" {
		t.Errorf("got %d, %q", status, body)
	}
}

// A client that leaves a quiet stream frees what is behind it.
func TestClientLeaves(t *testing.T) {
	for _, path := range []string{"/containers/web/logs?stdout=1&follow=1", "/containers/web/wait"} {
		t.Run(path, func(t *testing.T) {
			g := startGate(t, own)
			c := g.dial(t)
			method := "GET"
			if strings.HasSuffix(path, "wait") {
				method = "POST"
			}
			fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", method, path)
			time.Sleep(150 * time.Millisecond)
			if g.Open() != 1 {
				t.Fatalf("%d connections are open, want 1", g.Open())
			}
			c.Close()
			deadline := time.Now().Add(5 * time.Second)
			for g.Open() > 0 && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			if g.Open() != 0 {
				t.Errorf("%d connections are open after the client has left", g.Open())
			}
		})
	}
}

func TestUpload(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		g := startGate(t, own)
		size := 20 << 20
		var body io.Reader = io.LimitReader(zeros{}, int64(size))
		req, err := http.NewRequest("POST", "http://docker/images/load?quiet=1", body)
		if err != nil {
			t.Fatal(err)
		}
		if !chunked {
			req.ContentLength = int64(size)
		}
		req.Header.Set("Content-Type", "application/x-tar")
		r, err := g.client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || string(b) != fmt.Sprintf("loaded %d bytes", size) {
			t.Errorf("chunked=%v: got %d, %q, %v", chunked, r.StatusCode, b, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// C1-C3 and lists: only what the caller may see is shown.
func TestFilters(t *testing.T) {
	g := startGate(t, own)
	c := g.client(t)
	for _, path := range []string{"/containers/json", "/v1.41/containers/json?all=1", "/events"} {
		status, body := do(t, c, "GET", path, "")
		if status != 200 || !strings.Contains(body, idWeb) || strings.Contains(body, idDB) {
			t.Errorf("%s: got %d, %s", path, status, body)
		}
	}
	status, body := do(t, c, "GET", "/containers/web/json", "")
	if status != 200 || strings.Contains(body, "TOKEN=x") || !strings.Contains(body, "A=b") {
		t.Errorf("inspect: %d, %s", status, body)
	}
	// Of events two more: another's container, and one that is gone, in a network that all see.
	if g.counter("gate_hidden") != 5 {
		t.Errorf("hidden is %d, want 5", g.counter("gate_hidden"))
	}
	if _, body := do(t, c, "GET", "/events", ""); !strings.Contains(body, `"connect"`) || strings.Count(body, "shared") != 1 {
		t.Errorf("events of the network: %s", body)
	}
}

func TestRecords(t *testing.T) {
	g := startGate(t, own)
	c := g.client(t)
	do(t, c, "GET", "/_ping", "")
	do(t, c, "POST", "/containers/create", `{"Image":"app","HostConfig":{"Privileged":true}}`)
	do(t, c, "POST", "/containers/create?name=x", `{"Image":"app"}`)
	ev := g.rec.all()
	if len(ev) != 3 {
		t.Fatalf("%d records, want 3", len(ev))
	}
	if e := ev[0]; e.Decision != Allowed || e.Action != "system.ping" || e.Rule != "ping" || e.Status != 200 {
		t.Errorf("ping: %+v", e)
	}
	if e := ev[1]; e.Decision != Denied || e.Rule != "danger" || e.Policy != "own" || e.Status != 403 || len(e.Checks) == 0 || e.Duration <= 0 {
		t.Errorf("privileged: %+v", e)
	}
	if e := ev[2]; e.Decision != Allowed || e.Status != 201 || e.Subject.UID != uint32(os.Getuid()) {
		t.Errorf("create: %+v", e)
	}
	if got := g.d.acted(); !strings.Contains(got[len(got)-1].body, `"belay.dev/owner":"`+me()+`"`) {
		t.Errorf("the create has no owner: %s", got[len(got)-1].body)
	}
}

func TestUnmanagedRule(t *testing.T) {
	g := startGate(t, "")
	if status, _ := do(t, g.client(t), "GET", "/_ping", ""); status != 200 {
		t.Errorf("status %d", status)
	}
	if e := g.rec.all()[0]; !e.Unmanaged || e.Decision != Allowed {
		t.Errorf("record %+v", e)
	}
}

// A caller that is nobody is refused, and counted.
func TestNobody(t *testing.T) {
	g := startGate(t, own, func(o *Options) { o.proc = t.TempDir() }) // where no cgroup can be read
	r := g.raw(t, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
	if r.StatusCode != 403 || g.counter("gate_no_identity") != 1 || len(g.d.requests()) > 0 {
		t.Errorf("status %d, counted %d, daemon saw %v", r.StatusCode, g.counter("gate_no_identity"), g.d.requests())
	}
}

func TestDaemonRestarts(t *testing.T) {
	g := startGate(t, own)
	c := g.client(t)
	do(t, c, "GET", "/_ping", "")
	g.d.srv.Close()
	if status, body := do(t, c, "GET", "/_ping", ""); status != 502 || !strings.Contains(body, "Is it running") {
		t.Errorf("without a daemon: %d, %s", status, body)
	}
	os.Remove(g.d.socket)
	l, err := net.Listen("unix", g.d.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(g.d.serve)}
	go srv.Serve(l)
	defer srv.Close()
	if status, _ := do(t, c, "GET", "/_ping", ""); status != 200 {
		t.Errorf("after it came back: %d", status)
	}
}

func TestRate(t *testing.T) {
	g := startGate(t, own, func(o *Options) { o.Limits.Rate, o.Limits.Burst = 0.001, 2 })
	c := g.client(t)
	var got []int
	for range 3 {
		s, _ := do(t, c, "GET", "/_ping", "")
		got = append(got, s)
	}
	if got[0] != 200 || got[1] != 200 || got[2] != 429 {
		t.Errorf("got %v", got)
	}
}

func TestConnectionLimit(t *testing.T) {
	g := startGate(t, own, func(o *Options) { o.Limits.ConnsPerCaller = 2 })
	attach(t, g, true)
	attach(t, g, true)
	if r := g.raw(t, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"); r.StatusCode != 429 || g.counter("gate_over_connections") != 1 {
		t.Errorf("status %d", r.StatusCode)
	}
}

// Hundreds of streams at once, each whole; nothing is left afterwards.
func TestManyStreams(t *testing.T) {
	n := 300
	before := runtime.NumGoroutine()
	t.Run("streams", func(t *testing.T) {
		g := startGate(t, own)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.socket, Net: "unix"})
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				io.WriteString(c, "POST /containers/web/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
				data := strings.Repeat(fmt.Sprintf("%08d", i), 4096)
				go func() { io.WriteString(c, data); c.CloseWrite() }()
				b, err := io.ReadAll(c)
				if err != nil || !strings.HasSuffix(string(b), data+fmt.Sprintf("<%d>", len(data))) {
					t.Errorf("stream %d: %d bytes, %v", i, len(b), err)
				}
			})
		}
		wg.Wait()
		if got := g.counter("gate_streams"); got != uint64(n) {
			t.Errorf("%d streams were counted, want %d", got, n)
		}
	})
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before+3 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if got := runtime.NumGoroutine(); got > before+3 {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines are left of %d before: %s", got, before, buf[:runtime.Stack(buf, true)])
	}
}

// Streams that are open when the gate stops go on until they end by themselves.
func TestDrain(t *testing.T) {
	g := startGate(t, own)
	c, br := attach(t, g, true)
	g.stopAccepting()
	io.WriteString(c, "still")
	got := make([]byte, 5)
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "still" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := os.Stat(g.socket); err == nil {
		t.Error("the socket is still there")
	}
	c.CloseWrite()
	io.Copy(io.Discard, br)
	done := make(chan struct{})
	go func() { g.Drain(t.Context()); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Error("the gate is not drained")
	}
}

// A4: an archive is known to be compressed by what it begins with, not by its headers.
func TestA4CompressedCopy(t *testing.T) {
	text := strings.Replace(own, "effect: forbid, actions: [container.create], checks: [", "effect: forbid, actions: [container.copy.in], checks: [noCompressedCopy, ", 1)
	text = strings.Replace(text, ", notPrivileged, notRoot, hostMounts]", "]", 1)
	for _, c := range []struct {
		name, head, body string
		status           int
	}{
		{"plain", "", "plain archive", 204},
		{"short", "", "x", 204},
		{"gzip", "", "\x1f\x8b\x08 and so on", 403},
		{"gzip that says it is none", "Content-Encoding: identity\r\n", "\x1f\x8b\x08 and so on", 403},
		{"xz", "", "\xfd7zXZ\x00 and so on", 403},
		{"gzip, only if it is wanted", "Expect: 100-continue\r\n", "\x1f\x8b\x08 and so on", 403},
		{"plain, only if it is wanted", "Expect: 100-continue\r\n", "plain archive", 204},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGate(t, text)
			conn := g.dial(t)
			fmt.Fprintf(conn, "PUT /containers/web/archive?path=/tmp HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\n%sContent-Length: %d\r\n\r\n%s", c.head, len(c.body), c.body)
			br := bufio.NewReader(conn)
			r, err := http.ReadResponse(br, nil)
			if err == nil && r.StatusCode == 100 {
				r, err = http.ReadResponse(br, nil)
			}
			if err != nil || r.StatusCode != c.status {
				t.Fatalf("got %v, %v, want %d", r, err, c.status)
			}
			got := g.d.acted()
			if c.status == 403 && len(got) > 0 || c.status == 204 && (len(got) != 1 || got[0].body != c.body) {
				t.Errorf("the daemon saw %+v", got)
			}
		})
	}
}
