package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

const gateText = `
Requests over unix sockets to one private engine: bare, through a proxy that only copies bytes (the
floor: ` + "`io.Copy`" + ` both ways, a connection for each connection), and through the gate with a policy
in force that filters lists. All three take turns within one run, on connections that stay open. What
a proxy adds is the difference of medians to bare. A create has a body of 4 KiB and a name that
is taken, so that the engine does all but make the container. Streams move about 100 MB.
`

// gatePolicy is in force while the gate is measured.
const gatePolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: bench}
spec:
  mode: enforce
  subjects: {everyone: true}
  obligations: {owner: true}
  rules:
    - {name: look, effect: allow, actions: [system.ping, system.version, image.load, image.save]}
    - {name: danger, effect: forbid, actions: [container.create], checks: [notPrivileged, notRoot, hostMounts, noHostNamespaces]}
    - {name: own, effect: allow, actions: ["container.*"], resources: {own: true}}
`

// way is one way to the engine.
type way struct {
	name, socket string
}

// gateBench is what the measurements share.
type gateBench struct {
	*bench
	e       *lab.Engine
	targets []way // bare, floor, gate
	gate    *exec.Cmd
}

func gates(ctx context.Context, b *bench) (out []figure, err error) {
	l, err := lab.New(lab.Options{Name: "bench", Source: b.source, BinDir: b.bin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	g := &gateBench{bench: b}
	if g.e, err = l.StartEngine(ctx, "engine"); err != nil {
		return nil, err
	}
	stop, err := g.start(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := g.fill(ctx); err != nil {
		return nil, err
	}
	out = append(out, plain("Engine", "%s, %s", g.e.Version, g.e.Driver))
	for _, part := range []func(context.Context) ([]figure, error){g.memory, g.latencies, g.concurrency, g.streams} {
		figs, err := part(ctx)
		out = append(out, figs...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// fill makes what the requests are about, through the gate, so that it is the caller's own.
func (g *gateBench) fill(ctx context.Context) error {
	bb, err := lab.Busybox()
	if err != nil {
		return err
	}
	if err := g.e.Import(ctx, "bench", []lab.File{lab.Program("bin/busybox", bb)}, "USER 1000"); err != nil {
		return err
	}
	big := make([]byte, 100<<20)
	x := uint64(1)
	for i := range big { // does not compress
		x = x*6364136223846793005 + 1442695040888963407
		big[i] = byte(x >> 56)
	}
	if err := g.e.Import(ctx, "bench-big", []lab.File{{Name: "big", Mode: 0o644, Body: big}}); err != nil {
		return err
	}
	c := g.e.Client(g.targets[2].socket, 0)
	for i := range 10 {
		if r := c.Docker(ctx, "create", "--name", fmt.Sprint("bench", i), "--network", "none", "bench", "/bin/busybox", "true"); r.Code != 0 {
			return r.Err()
		}
	}
	r := c.Docker(ctx, "run", "--name", "talker", "--network", "none", "bench", "/bin/busybox", "sh", "-c",
		"i=0; l=0123456789abcdef; l=$l$l$l$l$l$l$l$l; while [ $i -lt 300000 ]; do echo $l$l; i=$((i+1)); done >/dev/stdout")
	if r.Code != 0 {
		return fmt.Errorf("exit status %d: %s", r.Code, r.Stderr)
	}
	return nil
}

// start starts the floor and the gate as processes of their own.
func (g *gateBench) start(ctx context.Context) (stop func(), err error) {
	dir := filepath.Join(g.dir, "gate")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	policy := filepath.Join(dir, "bench.yaml")
	if err := os.WriteFile(policy, []byte(gatePolicy), 0o600); err != nil {
		return nil, err
	}
	g.targets = []way{{"bare", g.e.Socket}, {"floor", filepath.Join(dir, "floor.sock")}, {"gate", filepath.Join(dir, "gate.sock")}}
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for _, t := range g.targets[1:] {
		cmd, end, err := g.child(gateRole, t.name, t.socket, g.e.Socket, policy)
		if err != nil {
			stop()
			return nil, err
		}
		stops = append(stops, end)
		if t.name == "gate" {
			g.gate = cmd
		}
	}
	for _, t := range g.targets {
		if !lab.Await(ctx, 10*time.Second, func() bool { _, err := os.Stat(t.socket); return err == nil }) {
			stop()
			return nil, fmt.Errorf("%s does not come up", t.name)
		}
	}
	return stop, nil
}

// request is one that is measured.
type request struct {
	what, bytes string
	status      int // expected; of the gate only, if denied
}

func httpRequest(method, path, body string) string {
	head := method + " " + path + " HTTP/1.1\r\nHost: docker\r\nUser-Agent: bench\r\n"
	if body != "" {
		head += "Content-Type: application/json\r\n"
	}
	if method == "POST" {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	return head + "\r\n" + body
}

// createBody returns a create of 4 KiB.
func createBody(extra string) string {
	head := `{"Image":"bench","Cmd":["/bin/busybox","true"],"Labels":{"a":"b"},"Env":["X=`
	tail := `"],"HostConfig":{"NetworkMode":"none","Memory":67108864` + extra + `}}`
	return head + strings.Repeat("x", 4096-len(head)-len(tail)) + tail
}
