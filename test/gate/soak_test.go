package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// soakWorkers is how many callers each of the two users is at once.
const soakWorkers = 4

// Two users do all kinds of things for BELAY_SOAK, allowed and not, through the gate of
// an agent as it is shipped, which needs no more at the end than at the beginning.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("BELAY_SOAK"))
	testneed.Need(t, "soak", err == nil && length > 0, "it takes as long as BELAY_SOAK says, such as 30m; make test-full sets it")
	st := newStage(t)
	agent, socket := soakAgent(t, st)
	k := &soak{stage: st, t: t, socket: socket}
	base := k.quiet(agent) // before anybody called
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var workers sync.WaitGroup
	for i := range 2 * soakWorkers {
		workers.Go(func() { k.work(ctx, i) })
	}
	var samples []footprint
	tick := time.NewTicker(max(length/20, 5*time.Second))
	defer tick.Stop()
	for begin := time.Now(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-tick.C:
			f := k.quiet(agent)
			t.Logf("after %v: %d calls, %v", time.Since(begin).Round(time.Second), k.calls.Load(), f)
			samples = append(samples, f)
		}
	}
	workers.Wait()
	last := k.quiet(agent)
	goroutines := goroutinesAtEnd(t, agent)
	fmt.Printf("soak: %v, %d calls by two users at once, %d refused, %v at the start, %v at the end, %d goroutines at the end\n",
		length, k.calls.Load(), k.refused.Load(), base, last, goroutines)
	if len(samples) < 4 {
		t.Fatalf("%d samples are too few to tell", len(samples))
	}
	warm := samples[len(samples)/3]
	// What a Go program keeps for later breathes; what leaks grows with each call.
	if last.rss > warm.rss*5/4+8<<20 || last.fds > base.fds+8 || last.threads > warm.threads+6 || goroutines > 80 {
		t.Errorf("it grows: warm %v, at the end %v, %d goroutines", warm, last, goroutines)
	}
	if k.failed.Load() > 0 {
		t.Errorf("%d calls came out as they should not", k.failed.Load())
	}
}

// soakAgent starts an agent with the shipped access policies, and a gate that all users
// of the host reach.
func soakAgent(t *testing.T, st *stage) (*lab.Agent, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "belay-soak-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	a, err := st.lab.NewAgent(t.Context(), lab.AgentOptions{Name: "soak", Engine: st.engine, Flags: []string{"--gate-socket", socket, "--gate-mode", "0666"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, doc := range strings.Split(shipped(t), "\n---\n") {
		if err := a.SetPolicy(fmt.Sprintf("access-%d.yaml", i), doc); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.PID() != 0 {
			if err := a.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return a, socket
}

type soak struct {
	*stage
	t      *testing.T
	socket string

	calls, refused, failed atomic.Int64
	// pause is held by the workers while they call, and by who looks at the agent.
	pause sync.RWMutex
}

// footprint is what a process takes.
type footprint struct{ rss, fds, threads int }

func (f footprint) String() string {
	return fmt.Sprintf("%d MiB, %d descriptors, %d threads", f.rss>>20, f.fds, f.threads)
}

// quiet looks at the agent while nobody calls.
func (k *soak) quiet(a *lab.Agent) (f footprint) {
	k.pause.Lock()
	defer k.pause.Unlock()
	time.Sleep(2 * time.Second)
	f.fds = fdsOf(k.t, a.PID())
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID()))
	if err != nil {
		k.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		v := strings.Fields(line)
		switch v[0] {
		case "VmRSS:":
			f.rss, _ = strconv.Atoi(v[1])
			f.rss <<= 10 // kB
		case "Threads:":
			f.threads, _ = strconv.Atoi(v[1])
		}
	}
	return f
}

// work is one caller. It has a container of its own.
func (k *soak) work(ctx context.Context, i int) {
	uid := []int{attacker, owner}[i%2]
	own, other := fmt.Sprintf("soak-%d", i), fmt.Sprintf("soak-%d", i^1)
	defer func() { k.scene(k.t, false, false).engineCall(del("/containers/" + own + "?force=1")) }()
	made := k.do(uid, post("/containers/create?name="+own, `{"Image":"IMAGE","Cmd":["sh","-c","while :; do echo tick; sleep 0.3; done"],"HostConfig":{"NetworkMode":"none"}}`), 201)
	if made == "" {
		return
	}
	k.do(uid, post("/containers/"+own+"/start", ""), 204)
	steps := k.steps(uid, own, other)
	for ctx.Err() == nil {
		k.pause.RLock()
		steps[rand.IntN(len(steps))]()
		k.pause.RUnlock()
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
	}
}

func (k *soak) steps(uid int, own, other string) []func() {
	call := func(request string, want int) func() { return func() { k.do(uid, request, want) } }
	tarHead := head + "Content-Type: application/x-tar\r\n"
	big := tarText("big", pad(1<<20))
	short := "/containers/create?name=" + own + "-short"
	return []func(){
		call(get("/containers/json?all=1"), 200), call(get("/containers/"+own+"/json"), 200), call(get("/_ping"), 200), call(get("/images/json"), 200),
		call(get("/containers/"+other+"/json"), 404), call(del("/containers/"+other), 404), call(get("/containers/"+own+"/logs?stdout=1&tail=5"), 200),
		call(post(short, privBody), 403), call(post("//containers/create", privBody), 400), call(post(short, `{"a":1,"a":2}`), 400), call("NONSENSE\r\n\r\n", 400),
		call(get("/plugins"), 403), call(request("PUT", "/containers/"+own+"/archive?path=/tmp", tarHead, big), 200), call(get("/containers/"+own+"/archive?path=/bin/busybox"), 200),
		call(get("/events?since=1&until=2"), 200), call(get("/containers/"+own+"/stats?stream=0&one-shot=1"), 200),
		func() {
			k.do(uid, post(short, `{"Image":"IMAGE","Cmd":["true"],"HostConfig":{"NetworkMode":"none"}}`), 201)
			k.do(uid, del("/containers/"+own+"-short?force=1"), 204)
		},
		func() { k.leave(uid, "GET /containers/"+own+"/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n") },
		func() { k.leave(uid, "GET /events HTTP/1.1\r\nHost: d\r\n\r\n") },
		func() {
			k.leave(uid, "POST /containers/"+own+"/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")
		},
		func() { k.leave(uid, "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Le") }, // half a head
		func() {
			k.leave(uid, "PUT /containers/"+own+"/archive?path=/tmp HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\nhalf")
		},
		func() {
			if err := k.echo(uid, own); err != nil {
				k.wrong("exec: %v", err)
			}
			k.calls.Add(1)
		},
	}
}

// do sends one request as a user. It returns the answer's body, "" if it was another
// than wanted.
func (k *soak) do(uid int, request string, want int) string {
	k.calls.Add(1)
	c, err := dialAs(k.socket, uid, []int{enterGID})
	if err != nil {
		k.wrong("dial: %v", err)
		return ""
	}
	defer c.Close()
	a := k.scene(k.t, true, true).exchange(c, request)
	if want >= 400 {
		k.refused.Add(1)
	}
	if a.status != want {
		k.wrong("%.120q: got %d %.300s, want %d", request, a.status, a.body, want)
		return ""
	}
	return "ok " + a.body
}

// leave opens a stream and goes away in the middle of it.
func (k *soak) leave(uid int, request string) {
	k.calls.Add(1)
	c, err := dialAs(k.socket, uid, []int{enterGID})
	if err != nil {
		k.wrong("dial: %v", err)
		return
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(1500)) * time.Millisecond))
	_, _ = io.WriteString(c, request)
	_, _ = io.Copy(io.Discard, c)
}

// wrong counts what came out as it should not, and says the first of it.
func (k *soak) wrong(format string, args ...any) {
	if k.failed.Add(1) <= 20 {
		k.t.Logf("wrong: "+format, args...)
	}
}

// echo runs cat in a container by exec and an upgrade, and ends its input.
func (k *soak) echo(uid int, container string) error {
	made := k.do(uid, post("/containers/"+container+"/exec", `{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true}`), 201)
	_, id, ok := strings.Cut(made, `"Id":"`)
	if !ok || len(id) < 64 {
		return fmt.Errorf("exec: %q", made)
	}
	d, err := dialAs(k.socket, uid, []int{enterGID})
	if err != nil {
		return err
	}
	defer d.Close()
	_ = d.SetDeadline(time.Now().Add(time.Minute))
	return echoEnds(d, id[:64])
}

func echoEnds(d *net.UnixConn, id string) error {
	const body = `{"Detach":false,"Tty":false}`
	_, _ = io.WriteString(d, "POST /exec/"+id+"/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"+jsonType+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
	br := bufio.NewReader(d)
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 101") {
		return fmt.Errorf("exec start: %q, %w", line, err)
	}
	text := bytes.Repeat([]byte("soak"), 4096)
	go func() { _, _ = d.Write(text); _ = d.CloseWrite() }()
	b, err := io.ReadAll(br)
	if err != nil || bytes.Count(b, []byte("soak")) < 4000 { // headers of the stream cut some
		return fmt.Errorf("exec: %d bytes came back of %d, %w", len(b), len(text), err)
	}
	return nil
}

var goroutineLine = regexp.MustCompile(`(?m)^goroutine \d+ `)

// goroutinesAtEnd ends the agent with SIGQUIT, at which a Go program shows its goroutines.
func goroutinesAtEnd(t *testing.T, a *lab.Agent) int {
	t.Helper()
	before, _ := os.ReadFile(a.LogFile())
	if err := unix.Kill(a.PID(), unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	await(t, "the agent's end", func() bool { return a.PID() == 0 })
	all, err := os.ReadFile(a.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	n := len(goroutineLine.FindAll(all[len(before):], -1))
	if n == 0 {
		t.Errorf("the agent did not show its goroutines: %.500s", all[len(before):])
	}
	return n
}
