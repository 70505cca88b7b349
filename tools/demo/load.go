package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// imageWeb is of a web server that holds memory.
const imageWeb = "demo/web:1"

// The memory that the containers of the two engines may have together.
const (
	nodeMemory  = 256 << 20
	otherMemory = 512 << 20
	held        = 160 // MiB, by the container that is to leave
)

// loadPolicy is of the node that gets full, otherLoadPolicy of the one that takes the container.
const (
	loadPolicy = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: demo-load}
spec:
  caps: {memory: 50%%}
  for: 2s
  actions: [alert, cordon, propose]
  movable: {names: [shop]}
  targets: [{name: other, engine: "unix://%s"}]
  moves: {image: stream, hook: [%s], drain: 1s, settle: 500ms}
`
	otherLoadPolicy = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: demo-load}
spec: {caps: {memory: 80%}, actions: [alert]}
`
)

// loads is what the scenes about a full node are played with.
type loads struct {
	second *lab.Agent // of the other engine
	lb     balancer
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// balancer sends requests where the hook has said last.
type balancer struct {
	file       string // what the hook was given
	from, to   *lab.Engine
	first      string // address before any move
	sent, lost atomic.Int64
}

var loadPhase = phase{
	title: "A node is full: two engines, each with an agent; requests go to a container of the first all the time", mode: "enforce", short: true,
	prepare: openLoad, finish: closeLoad,
	scenes: []scene{
		{
			name: "a container fills the node", tried: "docker run -d --name shop web (160 MiB of 256, the cap is 50%)", want: runs, ran: "is over its cap", short: true,
			act: fill,
		},
		{
			name: "a plan is made, and waits", tried: "belay load status", want: runs, ran: "waits for: belay load approve", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.awaitLoad(ctx, "waits for: belay load approve")
			},
		},
		{
			name: "no new container starts meanwhile", tried: "docker create app, at the gate", want: denied, gate: true, rule: "container.create", ran: "created", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return said(s.through(ctx, 0, "create", imageApp, "wait"), "created")
			},
		},
		{
			name: "it says why it would move", tried: "belay load explain shop", want: runs, ran: "shop can be moved",
			act: func(ctx context.Context, s *stage) lab.Result {
				return show(s.agent.Belay(ctx, "load", "explain", "shop"), "shop can be moved")
			},
		},
		{
			name: "the plan is approved, and carried out", tried: "belay load approve …", want: runs, ran: "shop runs on the other engine", short: true,
			act: approve,
		},
		{
			name: "every request was answered", tried: "curl shop, 20 times a second", want: runs, ran: "0 lost", short: true,
			act: func(_ context.Context, s *stage) lab.Result {
				s.load.stop()
				s.load.done.Wait()
				return lab.Result{Stdout: fmt.Sprintf("%d requests, %d lost", s.load.lb.sent.Load(), s.load.lb.lost.Load())}
			},
		},
		{
			name: "the node takes containers again", tried: "docker run --rm app, at the gate", want: runs, ran: "ran hello", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				lab.Await(ctx, 20*time.Second, func() bool { return !strings.Contains(s.agent.Belay(ctx, "load", "status").Stdout, "Cordoned:") })
				return s.through(ctx, 0, "run", "--rm", "-u", "1000", imageApp, "say", "hello")
			},
		},
	},
}

// openLoad gives both engines an image and an agent, and their containers a limit.
func openLoad(ctx context.Context, s *stage) error {
	bb, err := lab.Busybox()
	if err != nil {
		return err
	}
	files := []lab.File{lab.Program("bin/busybox", bb), {Name: "tmp/", Mode: 0o1777}, {Name: "www/", Mode: 0o755}, {Name: "www/index.html", Mode: 0o644, Body: []byte("hello\n")}}
	for _, applet := range []string{"sh", "dd", "httpd"} {
		files = append(files, lab.File{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
	}
	if err := s.engine.Import(ctx, imageWeb, files, "ENV PATH=/bin"); err != nil {
		return err
	}
	if err := errors.Join(s.engine.Limit(lab.Limits{Memory: nodeMemory}), s.other.Limit(lab.Limits{Memory: otherMemory})); err != nil {
		return err
	}
	if s.load.second, err = s.lab.NewAgent(ctx, lab.AgentOptions{Name: "second", Engine: s.other}); err != nil {
		return err
	}
	// A target takes a container where the same policies wait for it.
	names, err := filepath.Glob(filepath.Join(s.agent.PolicyDir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err != nil {
			return err
		}
		if err := s.load.second.SetPolicy(filepath.Base(n), string(text)); err != nil {
			return err
		}
	}
	if err := s.load.second.SetPolicy("load.yaml", otherLoadPolicy); err != nil {
		return err
	}
	if err := s.load.second.Start(ctx); err != nil {
		return err
	}
	gate := s.lab.Path("second", "run", "docker.sock")
	if !lab.Await(ctx, 20*time.Second, func() bool { return s.other.Client(gate, 0).Docker(ctx, "ps").Code == 0 }) {
		return fmt.Errorf("the gate of the second engine at %s does not answer", gate)
	}
	s.load.lb = balancer{file: s.lab.Path("lb.json"), from: s.engine, to: s.other}
	hook := s.lab.Path("lb.sh")
	if err := os.WriteFile(hook, fmt.Appendf(nil, "#!/bin/sh\ncat >%[1]s.new && mv %[1]s.new %[1]s\n", s.load.lb.file), 0o755); err != nil {
		return err
	}
	return s.agent.SetPolicy("load.yaml", fmt.Sprintf(loadPolicy, gate, hook))
}

func closeLoad(ctx context.Context, s *stage) error {
	if s.load.stop != nil {
		s.load.stop()
		s.load.done.Wait()
	}
	err := errors.Join(s.agent.SetPolicy("load.yaml", ""), s.load.second.Stop())
	for _, e := range []*lab.Engine{s.engine, s.other} {
		for name := range strings.FieldsSeq(e.Docker(ctx, "ps", "-a", "--format", "{{.Names}}").Stdout) {
			if strings.HasPrefix(name, "shop") {
				e.Docker(ctx, "rm", "-f", name)
			}
		}
	}
	return err
}

// fill starts the container, sends it requests, and waits for the alert.
func fill(ctx context.Context, s *stage) lab.Result {
	r := s.engine.Docker(ctx, "run", "-d", "--name", "shop", "-u", "1000", "--cpus", "0.3", "--stop-signal", "KILL", imageWeb,
		"sh", "-c", fmt.Sprintf("dd if=/dev/zero of=/dev/null bs=%dM & exec httpd -f -p 8080 -h /www", held))
	if r.Code != 0 {
		return r
	}
	lb := &s.load.lb
	out := s.engine.Docker(ctx, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", "shop")
	lb.first = strings.TrimSpace(out.Stdout) + ":8080"
	if !lab.Await(ctx, 10*time.Second, func() bool { return lb.ask() == nil }) {
		return lab.Result{Code: 1, Stderr: fmt.Sprintf("shop does not answer: %v", lb.ask())}
	}
	asking, stop := context.WithCancel(ctx)
	s.load.stop = stop
	s.load.done.Go(func() { lb.run(asking) })
	var events lab.Result
	lab.Await(ctx, 30*time.Second, func() bool {
		events = s.agent.Belay(ctx, "events")
		return strings.Contains(events.Stdout, "is over its cap")
	})
	r = show(events, "is over its cap")
	if i := strings.Index(r.Stdout, "is over its cap"); i >= 0 {
		r.Stdout, _, _ = strings.Cut("alert: memory "+r.Stdout[i:], ", since")
	}
	return r
}

// awaitLoad waits for a word in what the agent says of the load.
func (s *stage) awaitLoad(ctx context.Context, word string) (r lab.Result) {
	lab.Await(ctx, 30*time.Second, func() bool {
		r = s.agent.Belay(ctx, "load", "status")
		return strings.Contains(r.Stdout, word)
	})
	return show(r, word)
}

// approve approves the plan that waits, and waits for its move.
func approve(ctx context.Context, s *stage) lab.Result {
	var st struct {
		Moves struct{ Plans []struct{ ID string } }
	}
	r := s.agent.Belay(ctx, "load", "status", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil || len(st.Moves.Plans) == 0 {
		return lab.Result{Code: 1, Stderr: "there is no plan: " + r.Text()}
	}
	if r := s.agent.Belay(ctx, "load", "approve", st.Moves.Plans[0].ID); r.Code != 0 {
		return r
	}
	began := time.Now()
	moved := lab.Await(ctx, time.Minute, func() bool {
		r = s.agent.Belay(ctx, "events")
		return strings.Contains(r.Stdout, "shop was moved to other")
	})
	running := strings.TrimSpace(s.other.Docker(ctx, "inspect", "--format", "{{.State.Running}}", "shop").Stdout)
	if !moved || running != "true" {
		return s.agent.Belay(ctx, "load", "status")
	}
	return lab.Result{Stdout: fmt.Sprintf("shop runs on the other engine, %.0f s after the approval", time.Since(began).Seconds())}
}

// where is the server by now.
func (b *balancer) where() (*lab.Engine, string) {
	raw, err := os.ReadFile(b.file)
	if err != nil {
		return b.from, b.first
	}
	var in struct {
		Phase  string
		Target struct{ Addresses map[string]string }
	}
	if json.Unmarshal(raw, &in) != nil || in.Phase != "hand-over" {
		return b.from, b.first
	}
	for _, a := range in.Target.Addresses {
		return b.to, a + ":8080"
	}
	return b.to, ""
}

// ask sends one request.
func (b *balancer) ask() error {
	e, addr := b.where()
	c, err := e.Dial(addr, 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	return talk(c)
}

func talk(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err == nil && string(body) != "hello\n" {
		err = fmt.Errorf("got %s %q", resp.Status, body)
	}
	return err
}

func (b *balancer) run(ctx context.Context) {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		b.sent.Add(1)
		if err := b.ask(); err != nil && ctx.Err() == nil {
			b.lost.Add(1)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
