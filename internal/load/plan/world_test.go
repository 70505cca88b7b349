package plan

import (
	"fmt"
	"math/rand/v2"
	"time"
)

var testNow = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday

const gib = 1 << 30

// okImages is what nodes of tests say of images.
var okImages = map[string]Answer{"sha256:1": {Allow: true}, "sha256:2": {Why: "a critical finding"}}

// movable returns a container with nothing in the way of a move.
func movable(name string, cpus float64, mem int64) Container {
	return Container{
		ID: "id-" + name, Name: name, State: "running", Selected: true, Image: Image{Digest: "sha256:1"},
		Storage: Storage{LayerKnown: true},
		Use:     Amounts{NanoCPUs: int64(cpus * 1e9), MemoryBytes: mem, PIDs: 10},
	}
}

// node returns a node of 8 CPUs and 32 GiB that takes containers and uses what they do.
func node(name string, cs ...Container) Node {
	n := Node{
		Name: name, Accepts: true, Enforces: true, Seen: testNow.Add(-time.Minute),
		Has:  Amounts{NanoCPUs: 8e9, MemoryBytes: 32 * gib, PIDs: 10_000, DiskBytes: 1000 * gib, Inodes: 1_000_000},
		Host: Platform{Architecture: "amd64", Cgroup: 2, Engine: "28.5.1", Offers: []string{"runtime:runc"}},
		Site: Site{VolumeDrivers: []string{"local"}},
		Gate: Gate{Policies: "r1", Images: okImages}, Containers: cs,
	}
	for i := range cs {
		n.Use = sum(n.Use, cs[i].Use)
	}
	return n
}

func sum(a, b Amounts) Amounts {
	return Amounts{a.NanoCPUs + b.NanoCPUs, a.MemoryBytes + b.MemoryBytes, a.PIDs + b.PIDs, a.DiskBytes + b.DiskBytes, a.Inodes + b.Inodes}
}

func minus(a, b Amounts) Amounts {
	return Amounts{a.NanoCPUs - b.NanoCPUs, a.MemoryBytes - b.MemoryBytes, a.PIDs - b.PIDs, a.DiskBytes - b.DiskBytes, a.Inodes - b.Inodes}
}

// state returns one with caps of 80%, a hysteresis of 10 and limits that let ten moves start.
func state(nodes ...Node) *State {
	l := DefaultLimits()
	l.AtOnce, l.PerHour = 10, 10
	return &State{Now: testNow, Nodes: nodes, Caps: Caps{CPU: 80, Memory: 80, PIDs: 80, Disk: 90}, Hysteresis: 10, Limits: l}
}

// random returns a state of n nodes with up to m containers each, with all that can tie them.
func random(r *rand.Rand, n, m int) *State {
	s := &State{Now: testNow, Caps: Caps{CPU: 60 + r.IntN(30), Memory: 60 + r.IntN(30), PIDs: 80}, Hysteresis: r.IntN(15), Limits: DefaultLimits()}
	s.Limits.AtOnce, s.Limits.PerHour = r.IntN(4), r.IntN(8)
	s.Rules = Rules{CopyVolumes: r.IntN(2) == 0, WholeProjects: r.IntN(2) == 0}
	for i := range n {
		var cs []Container
		for j := range r.IntN(m + 1) {
			cs = append(cs, randomContainer(r, fmt.Sprintf("c%d-%d", i, j)))
		}
		nd := node(fmt.Sprintf("n%d", i), cs...)
		nd.Accepts, nd.Enforces = r.IntN(8) > 0, r.IntN(12) > 0
		nd.Has.NanoCPUs, nd.Has.MemoryBytes = int64(1+r.IntN(12))*1e9, int64(1+r.IntN(40))*gib
		nd.Pressure = Pressure{CPU: r.IntN(40)}
		if r.IntN(6) == 0 {
			nd.Host.Architecture = "arm64"
		}
		if r.IntN(6) == 0 {
			nd.Site.Ports = []Port{{Port: 8000 + r.IntN(4), Protocol: "tcp"}}
		}
		s.Nodes = append(s.Nodes, nd)
	}
	for range r.IntN(6) {
		nd := &s.Nodes[r.IntN(n)]
		if len(nd.Containers) == 0 {
			continue
		}
		c := &nd.Containers[r.IntN(len(nd.Containers))]
		p := Past{Name: c.Name, From: fmt.Sprintf("n%d", r.IntN(n)), To: nd.Name, Began: testNow.Add(-time.Duration(r.IntN(1800)) * time.Minute), Use: c.Use}
		p.Ended = p.Began.Add(time.Minute)
		if r.IntN(3) == 0 {
			p.From, p.To, p.Ended = p.To, p.From, time.Time{}
		}
		s.History = append(s.History, p)
	}
	return s
}

func randomContainer(r *rand.Rand, name string) Container {
	c := movable(name, float64(r.IntN(3000))/1000, int64(r.IntN(8*gib)))
	c.Priority = r.IntN(3)
	if r.IntN(3) == 0 {
		c.Peak = Amounts{NanoCPUs: c.Use.NanoCPUs * 3 / 2, MemoryBytes: c.Use.MemoryBytes * 5 / 4}
	}
	switch r.IntN(14) {
	case 0:
		c.Host.Privileged = true
	case 1:
		c.Net.Ports = []Port{{Port: 8000 + r.IntN(4), Protocol: "tcp"}}
	case 2:
		c.Life.Together = []string{fmt.Sprint(r.IntN(3))}
	case 3:
		c.Selected = false
	case 4:
		c.Storage.Mounts = []Mount{{Type: "volume", Name: fmt.Sprint("v", r.IntN(4)), Destination: "/data", Bytes: gib}}
	case 5:
		c.Image.Digest = "sha256:2"
	case 6:
		c.Life.Manager, c.Life.Project = "compose", fmt.Sprint("p", r.IntN(3))
	case 7:
		c.Net.Networks = []Attachment{{Name: "front", Driver: "bridge"}}
	}
	return c
}
