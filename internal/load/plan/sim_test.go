package plan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// The simulation: nodes with 50 containers each, of which every sixth is badly filled, whose
// loads are noisy and partly grow for good in the middle of the time. What triggers a plan,
// how long a move takes and how many may run is the same for all who choose.
const (
	simContainers = 50
	simMinutes    = 720
	simStep       = 240 // when some loads grow
	simFor        = 3   // minutes over a cap before anything is done
	simMove       = 3   // minutes that a move takes
)

// chooser returns the moves that start now, for the sources.
type chooser func(w *simWorld, sources []int) []simMoveOf

type simMoveOf struct{ container, to int }

type simContainer struct {
	at        int
	base      Amounts
	noise     float64 // of the moment, around 0
	wild      float64 // how noisy it is
	use, peak Amounts // averaged, and the most of the last minutes
	moving    bool
}

type simWorld struct {
	r        *rand.Rand
	minute   int
	cs       []simContainer
	on       [][]int // containers by node, in the order in which they came
	state    *State
	over     []int // minutes over a cap, by node
	history  []Past
	underWay []simMoveOf
	ends     []int
	left     map[int]map[int]int // container, node: when it left
	// what is measured
	moves, overMinutes, returns, lastQuarter int
	most                                     map[int]int
}

func simNodes(tb testing.TB) int {
	v := os.Getenv("BELAY_PLAN_NODES")
	if v == "" {
		return 60
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 10 {
		tb.Fatalf("BELAY_PLAN_NODES=%q is no number of at least 10 nodes", v)
	}
	return n
}

func newSimWorld(seed uint64, nodes int) *simWorld {
	w := &simWorld{r: rand.New(rand.NewPCG(seed, 5)), on: make([][]int, nodes), over: make([]int, nodes), left: map[int]map[int]int{}, most: map[int]int{}}
	w.state = &State{Now: testNow, Caps: Caps{CPU: 80, Memory: 85}, Hysteresis: 10, Limits: DefaultLimits()}
	w.state.Limits.AtOnce, w.state.Limits.PerHour = 2, 12
	for n := range nodes {
		fill := 0.35 + 0.3*w.r.Float64()
		if n%6 == 0 {
			fill = 0.85 + 0.15*w.r.Float64()
		}
		nd := node(fmt.Sprintf("n%04d", n))
		nd.Has = Amounts{NanoCPUs: 16e9, MemoryBytes: 64 * gib, PIDs: 100_000}
		w.state.Nodes = append(w.state.Nodes, nd)
		for range simContainers {
			size := math.Exp(0.8 * w.r.NormFloat64())
			c := simContainer{at: n, wild: 0.05 + 0.2*w.r.Float64()}
			c.base.NanoCPUs = int64(16e9 * fill / simContainers * size / 1.38) // 1.38: the mean of the sizes
			c.base.MemoryBytes = int64(64 * gib * fill / simContainers * math.Exp(0.5*w.r.NormFloat64()) / 1.13)
			w.on[n] = append(w.on[n], len(w.cs))
			w.cs = append(w.cs, c)
		}
	}
	return w
}

// tick lets a minute pass: loads change, moves end, readings are made.
func (w *simWorld) tick() {
	w.minute++
	w.state.Now = testNow.Add(time.Duration(w.minute) * time.Minute)
	for i := range w.cs {
		c := &w.cs[i]
		if w.minute == simStep && i%20 == 0 {
			c.base.NanoCPUs = c.base.NanoCPUs * 5 / 2
		}
		c.noise = 0.8*c.noise + 0.6*c.wild*w.r.NormFloat64()
		cpu := int64(float64(c.base.NanoCPUs) * max(0.1, 1+c.noise))
		if w.minute == 1 {
			c.use = c.base
		}
		c.use.NanoCPUs += (cpu - c.use.NanoCPUs) / 4
		c.use.MemoryBytes = c.base.MemoryBytes + int64(float64(c.base.MemoryBytes)*0.05*c.noise)
		c.peak.NanoCPUs = max(cpu, c.peak.NanoCPUs*9/10)
	}
	for k := len(w.underWay) - 1; k >= 0; k-- {
		if w.ends[k] == w.minute {
			w.arrive(w.underWay[k])
			w.underWay, w.ends = slices.Delete(w.underWay, k, k+1), slices.Delete(w.ends, k, k+1)
		}
	}
	for n := range w.on {
		nd := &w.state.Nodes[n]
		nd.Seen, nd.Use = w.state.Now, Amounts{}
		for _, i := range w.on[n] {
			nd.Use = sum(nd.Use, w.cs[i].use)
		}
		if w.full(n) {
			w.over[n]++
			w.overMinutes++
		} else {
			w.over[n] = 0
		}
	}
}

func (w *simWorld) full(n int) bool {
	nd := &w.state.Nodes[n]
	return nd.Use.NanoCPUs > percentOf(nd.Has.NanoCPUs, w.state.Caps.CPU) || nd.Use.MemoryBytes > percentOf(nd.Has.MemoryBytes, w.state.Caps.Memory)
}

func simName(i int) string { return fmt.Sprintf("c%05d", i) }

func (w *simWorld) start(m simMoveOf) {
	c := &w.cs[m.container]
	c.moving = true
	w.underWay, w.ends = append(w.underWay, m), append(w.ends, w.minute+simMove)
	w.history = append(w.history, Past{
		Name: simName(m.container), From: w.state.Nodes[c.at].Name, To: w.state.Nodes[m.to].Name, Began: w.state.Now, Use: c.use,
	})
	w.moves++
	w.most[m.container]++
	if w.minute > simMinutes*3/4 {
		w.lastQuarter++
	}
	if _, was := w.left[m.container][m.to]; was {
		w.returns++
	}
}

func (w *simWorld) arrive(m simMoveOf) {
	c := &w.cs[m.container]
	if w.left[m.container] == nil {
		w.left[m.container] = map[int]int{}
	}
	w.left[m.container][c.at] = w.minute
	w.on[c.at] = slices.DeleteFunc(w.on[c.at], func(i int) bool { return i == m.container })
	w.on[m.to] = append(w.on[m.to], m.container)
	c.at, c.moving = m.to, false
	for i := range w.history {
		if p := &w.history[i]; p.Name == simName(m.container) && p.underWay() {
			p.Ended = w.state.Now
		}
	}
}

// play runs one world under a chooser.
func play(seed uint64, nodes int, choose chooser) *simWorld {
	w := newSimWorld(seed, nodes)
	for range simMinutes {
		w.tick()
		var sources []int
		for n, m := range w.over {
			if m >= simFor {
				sources = append(sources, n)
			}
		}
		if len(sources) == 0 {
			continue
		}
		for _, m := range choose(w, sources) {
			w.start(m)
		}
	}
	return w
}

// planned is the planner.
func planned(tb testing.TB) chooser {
	return func(w *simWorld, sources []int) (out []simMoveOf) {
		s, index := w.state, map[string]int{}
		s.Sources, s.History = nil, w.history
		for n := range s.Nodes {
			s.Nodes[n].Containers = s.Nodes[n].Containers[:0]
			for _, i := range w.on[n] {
				c := movable(simName(i), 0, 0)
				c.Use, c.Peak = w.cs[i].use, w.cs[i].peak
				s.Nodes[n].Containers = append(s.Nodes[n].Containers, c)
				index[c.Name] = i
			}
			index[s.Nodes[n].Name] = n
		}
		for _, n := range sources {
			s.Sources = append(s.Sources, s.Nodes[n].Name)
		}
		for _, n := range mustMake(tb, s).Nodes {
			for _, m := range n.Moves {
				if m.Held == "" {
					out = append(out, simMoveOf{index[m.Names[0]], index[m.To]})
				}
			}
		}
		return out
	}
}

// simple takes containers in an order, each to the first target of an order that has room for
// it under the same limits, until as much has left as has to.
func simple(containers, targets func(w *simWorld, xs []int) []int) chooser {
	return func(w *simWorld, sources []int) (out []simMoveOf) {
		use, active, hour := make([]Amounts, len(w.on)), make([]int, len(w.on)), make([]int, len(w.on))
		for n := range use {
			use[n] = w.state.Nodes[n].Use
		}
		for _, m := range w.underWay {
			from := w.cs[m.container].at
			use[from], use[m.to] = minus(use[from], w.cs[m.container].use), sum(use[m.to], w.cs[m.container].use)
			active[from]++
			active[m.to]++
		}
		for i := range w.history {
			if w.state.Now.Sub(w.history[i].Began) < time.Hour {
				n, _ := strconv.Atoi(w.history[i].From[1:])
				hour[n]++
			}
		}
		within := func(u Amounts, less int) bool {
			return u.NanoCPUs <= percentOf(16e9, w.state.Caps.CPU-less) && u.MemoryBytes <= percentOf(64*gib, w.state.Caps.Memory-less)
		}
		l, all := w.state.Limits, make([]int, len(w.on))
		for n := range all {
			all[n] = n
		}
		for _, n := range sources {
			if within(use[n], 0) {
				continue // what is under way is enough
			}
			for _, i := range containers(w, slices.Clone(w.on[n])) {
				if within(use[n], w.state.Hysteresis) || active[n] >= l.AtOnce || hour[n] >= l.PerHour {
					break
				}
				if w.cs[i].moving {
					continue
				}
				for _, to := range targets(w, all) {
					if after := sum(use[to], w.cs[i].use); to != n && active[to] < l.AtOnce && within(after, w.state.Hysteresis) {
						use[to], use[n] = after, minus(use[n], w.cs[i].use)
						active[to], active[n], hour[n] = active[to]+1, active[n]+1, hour[n]+1
						out = append(out, simMoveOf{i, to})
						break
					}
				}
			}
		}
		return out
	}
}

// TestSimulation: noisy loads settle, nothing goes to and fro, and the planner needs fewer
// moves and less time over caps than taking the first that fits, or any.
func TestSimulation(t *testing.T) {
	nodes := simNodes(t)
	same := func(_ *simWorld, xs []int) []int { return xs }
	shuffled := func(w *simWorld, xs []int) []int {
		xs = slices.Clone(xs)
		w.r.Shuffle(len(xs), func(i, j int) { xs[i], xs[j] = xs[j], xs[i] })
		return xs
	}
	seeds := uint64(3)
	if nodes > 200 {
		seeds = 1 // minutes each
	}
	for seed := range seeds {
		ours := play(seed, nodes, planned(t))
		none := play(seed, nodes, func(*simWorld, []int) []simMoveOf { return nil })
		first := play(seed, nodes, simple(same, same))
		random := play(seed, nodes, simple(shuffled, shuffled))
		for _, o := range []struct {
			name string
			w    *simWorld
		}{{"planner", ours}, {"first fit", first}, {"random", random}, {"none", none}} {
			t.Logf("seed %d, %d nodes: %-9s %5d moves, %6d node-minutes over a cap, %3d returns, %3d moves in the last quarter",
				seed, nodes, o.name, o.w.moves, o.w.overMinutes, o.w.returns, o.w.lastQuarter)
			if o.w != ours && o.w.overMinutes <= ours.overMinutes || o.w != ours && o.w != none && o.w.moves <= ours.moves {
				t.Errorf("seed %d: %s is as good as the planner", seed, o.name)
			}
		}
		if ours.returns > 0 {
			t.Errorf("seed %d: %d containers went back where they had left", seed, ours.returns)
		}
		for c, n := range ours.most {
			if n > 2 {
				t.Errorf("seed %d: the container %d moved %d times", seed, c, n)
			}
		}
		if ours.moves == 0 || ours.lastQuarter*10 > ours.moves {
			t.Errorf("seed %d: of %d moves %d are in the last quarter of the time: it does not settle", seed, ours.moves, ours.lastQuarter)
		}
		if full := slices.ContainsFunc(ours.over, func(m int) bool { return m >= 30 }); full {
			t.Errorf("seed %d: a node ends full", seed)
		}
	}
}
