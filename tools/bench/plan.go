package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/belay-project/belay/internal/load/plan"
)

const planText = `
One plan for 1,000 nodes with 50 containers each, of which so many nodes are over their caps: checking the state, all
choices, every reason but those of each target; the least of seven runs. Every fifth container publishes a port that each
other node has taken too, and every seventh has a bind mount.
`

const watchText = `
What the agent does to watch the load of a node and of 500 containers, once it has opened their files: processor time by
the clock, 30 seconds long. The cgroups are real and have no tasks.
`

func watching(ctx context.Context, b *bench) ([]figure, error) {
	m, err := b.gobench(ctx, filepath.Join(b.bin, "load.test"), "^BenchmarkWatch$", "1x", "BELAY_E2E=1")
	if err != nil {
		return nil, err
	}
	return []figure{atMost("500 containers", m["Watch %"], 1, "%.2f %% of a core")}, nil
}

func plans(ctx context.Context, _ *bench) (out []figure, err error) {
	for _, full := range []int{10, 50, 100} {
		s := planState(full)
		least, relieved := time.Duration(0), 0
		for range 7 {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			began := time.Now()
			p, err := plan.Make(s)
			took := time.Since(began)
			if err != nil {
				return out, fmt.Errorf("plan: %w", err)
			}
			if least == 0 || took < least {
				least = took
			}
			relieved = 0
			for _, n := range p.Nodes {
				if n.Outcome == plan.Relieved {
					relieved++
				}
			}
		}
		if relieved < full/2 {
			return out, errors.New("less than half of the nodes are relieved: the state is not what is meant to be measured")
		}
		out = append(out, atMost(fmt.Sprintf("%d nodes over their caps, %d relieved", full, relieved), float64(least.Microseconds())/1000, 100, "%.0f ms"))
	}
	return out, nil
}

// planState is 1,000 nodes with 50 containers each, some of them full.
func planState(full int) *plan.State {
	const gib = 1 << 30
	r := rand.New(rand.NewPCG(1, 6))
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	s := &plan.State{Now: now, Caps: plan.Caps{CPU: 80, Memory: 80}, Hysteresis: 10, Limits: plan.DefaultLimits()}
	images := map[string]plan.Answer{"sha256:1": {Allow: true}}
	for i := range 1000 {
		fill := 0.3 + 0.35*r.Float64()
		if i*full/1000 != (i+1)*full/1000 {
			fill = 0.85 + 0.1*r.Float64()
		}
		n := plan.Node{
			Name: fmt.Sprintf("n%04d", i), Accepts: true, Enforces: true, Seen: now,
			Has:  plan.Amounts{NanoCPUs: 8e9, MemoryBytes: 32 * gib, PIDs: 10_000},
			Host: plan.Platform{Architecture: "amd64", Cgroup: 2, Engine: "28.5.1"},
			Gate: plan.Gate{Policies: "r1", Images: images},
		}
		for j := range 50 {
			part := fill / 50 * (0.2 + 1.6*r.Float64())
			c := plan.Container{
				ID: fmt.Sprintf("%032x%032x", i, j), Name: fmt.Sprintf("c%d-%d", i, j), State: "running", Selected: true,
				Image: plan.Image{Digest: "sha256:1"}, Storage: plan.Storage{LayerKnown: true},
				Use: plan.Amounts{NanoCPUs: int64(8e9 * part), MemoryBytes: int64(32 * gib * part), PIDs: 20},
			}
			if j%5 == 0 {
				c.Net.Ports = []plan.Port{{Port: 8000 + j, Protocol: "tcp"}}
			}
			if j%7 == 0 {
				c.Storage.Mounts = []plan.Mount{{Type: "bind", Source: "/srv"}}
			}
			n.Use.NanoCPUs += c.Use.NanoCPUs
			n.Use.MemoryBytes += c.Use.MemoryBytes
			n.Use.PIDs += c.Use.PIDs
			n.Containers = append(n.Containers, c)
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s
}
