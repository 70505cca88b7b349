package gate

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// streamCount is how many streams TestStreams opens; BELAY_STREAMS says otherwise.
const streamCount = 100

// ticker makes a container of the attacker's that writes a line every half second.
func ticker(t *testing.T, s *scene) string {
	t.Helper()
	a := s.send(post("/containers/create?name=ticker", `{"Image":"IMAGE","Cmd":["sh","-c","while :; do echo tick; sleep 0.5; done"],"HostConfig":{"NetworkMode":"none"}}`))
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || made.ID == "" {
		t.Fatalf("create: %d %s", a.status, a.body)
	}
	t.Cleanup(func() { s.engineCall(del("/containers/ticker?force=1")) })
	if a := s.send(post("/containers/ticker/start", "")); a.status != 204 {
		t.Fatalf("start: %d %s", a.status, a.body)
	}
	return made.ID
}

// streamKinds are the streams of the mix, and what must be seen on each.
var streamKinds = []struct{ request, want string }{
	{"GET /containers/ticker/logs?follow=1&stdout=1&tail=1 HTTP/1.1\r\nHost: d\r\n\r\n", "tick"},
	{"POST /containers/ticker/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", "tick"},
	{"GET /events?filters=%7B%22event%22:%5B%22kill%22%5D%7D HTTP/1.1\r\nHost: d\r\n\r\n", `"kill"`},
	{"POST /containers/ticker/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", "tick"},
	{"GET /containers/ticker/stats?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n", `"read"`},
}

// A thousand streams at once, of all kinds, through one gate: each sees data, ends of
// input pass, and nothing is left of them afterwards, in the gate or behind it.
func TestStreams(t *testing.T) {
	n := streamCount
	if v := os.Getenv("BELAY_STREAMS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	st := newStage(t)
	ticker(t, st.scene(t, true, true))
	st.openStreams(t, true, 5) // what is made once is made now
	st.openStreams(t, false, 5)
	// Engines notice late, also without a gate, that a client of a quiet stream has gone.
	start := st.settled(t, usage{})
	st.openStreams(t, false, n)
	st.endStreams(t, false, n/10)
	bare := st.settled(t, start)
	begin := time.Now()
	st.openStreams(t, true, n)
	st.endStreams(t, true, n/10)
	took := time.Since(begin).Round(time.Millisecond)
	after := st.settled(t, bare)
	fmt.Printf("streams: %d at once and %d that end by halves, in %v, %v before, %v after\n", n, n/10, took, bare, after)
	if after.goroutines > start.goroutines+4 || after.fds > start.fds+4 || after.engine-bare.engine > max(bare.engine-start.engine, n/2)+10 {
		buf := make([]byte, 1<<16)
		t.Errorf("something is left: at the start %v, without the gate %v, after %v\n%s", start, bare, after, buf[:runtime.Stack(buf, true)])
	}
}

// openStreams opens streams all at once, waits until each has seen something, and closes
// them.
func (st *stage) openStreams(t *testing.T, guarded bool, n int) {
	t.Helper()
	conns := make([]net.Conn, n)
	var listening sync.WaitGroup
	listening.Add(n)
	// Events come when somebody does something: once all listen, and again for who is late.
	stop := make(chan struct{})
	var kills sync.WaitGroup
	kills.Go(func() {
		listening.Wait()
		for {
			st.scene(t, guarded, true).send(post("/containers/ticker/kill?signal=CONT", ""))
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	})
	var g errgroup.Group
	for i := range n {
		g.Go(func() (err error) {
			conns[i], err = st.openStream(guarded, streamKinds[i%len(streamKinds)].request)
			listening.Done()
			if err != nil {
				return err
			}
			kind := streamKinds[i%len(streamKinds)]
			if err := readUntil(conns[i], kind.want); err != nil {
				return fmt.Errorf("stream %d, %.40s: %w", i, kind.request, err)
			}
			return nil
		})
	}
	err := g.Wait()
	close(stop)
	kills.Wait()
	if err != nil {
		t.Error(err)
	}
	if got := st.g.server.Open(); guarded && got < n {
		t.Errorf("%d connections are open, want %d", got, n)
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

func (st *stage) openStream(guarded bool, request string) (net.Conn, error) {
	var c net.Conn
	var err error
	if guarded {
		c, err = dialAs(st.g.socket, attacker, []int{enterGID})
	} else {
		c, err = net.Dial("unix", st.engine.Socket)
	}
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(4 * time.Minute)); err != nil {
		return c, err
	}
	_, err = io.WriteString(c, request)
	return c, err
}

// endStreams runs cat by exec n times; the end of the input passes, and so does the echo.
func (st *stage) endStreams(t *testing.T, guarded bool, n int) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(20)
	for range n {
		g.Go(func() error { return halfClose(st.scene(t, guarded, true)) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// readUntil reads until the head of an answer that is no refusal, and then the text.
func readUntil(c net.Conn, text string) error {
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") && !strings.HasPrefix(line, "HTTP/1.1 101") {
		return fmt.Errorf("answer %q, %w", line, err)
	}
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), text) {
		n, err := br.Read(buf)
		if err != nil {
			return fmt.Errorf("no %q in %.300q: %w", text, seen.String(), err)
		}
		seen.Write(buf[:n])
	}
	return nil
}

// usage is what streams take.
type usage struct {
	goroutines, fds int
	engine          int // connections that the engine has accepted
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d connections at the engine", u.goroutines, u.fds, u.engine)
}

// settled waits until no connection is open, no more is used than before, and the engine
// frees nothing any more; or until a while has passed.
func (st *stage) settled(t *testing.T, before usage) (u usage) {
	t.Helper()
	const calm = 3 * time.Second
	changed := time.Now()
	for end := changed.Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		last := u
		u = usage{goroutines: runtime.NumGoroutine(), fds: fdsOf(t, os.Getpid()), engine: st.engineConns(t)}
		if u != last {
			changed = time.Now()
		}
		done := st.g.server.Open() == 0 && (before.fds == 0 || u.goroutines <= before.goroutines && u.fds <= before.fds)
		if done && time.Since(changed) > calm || time.Now().After(end) {
			return u
		}
	}
}

// engineConns counts the connections on the engine's socket. Other descriptors it keeps
// for minutes, as those of execs that have ended.
func (st *stage) engineConns(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/net/unix") // an accepted socket is in its client's network
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		// unix(7) has no table of it: the sixth field is the state, 03 is connected.
		if f := strings.Fields(line); len(f) == 8 && f[5] == "03" && f[7] == st.engine.Socket {
			n++
		}
	}
	return n
}

func fdsOf(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
