package plan

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// checkPlan holds a plan to what must be true of every plan.
func checkPlan(t testing.TB, s *State, p *Plan) {
	t.Helper()
	nodes := map[string]*Node{}
	for i := range s.Nodes {
		nodes[s.Nodes[i].Name] = &s.Nodes[i]
	}
	use := map[string]vector{}
	for _, h := range newFleet(s).hosts {
		use[h.Name] = h.use
	}
	sources := map[string]bool{}
	for _, n := range p.Nodes {
		sources[n.Node] = len(n.Over) > 0
	}
	for _, n := range p.Nodes {
		src := nodes[n.Node]
		if len(n.Over) > 0 && len(n.Containers) != len(src.Containers) {
			t.Errorf("%s: %d verdicts on %d containers", n.Node, len(n.Containers), len(src.Containers))
		}
		unitOf := map[string]*unit{}
		for _, u := range unitsOf(src.Containers, s.Rules) {
			for _, c := range u.members {
				unitOf[c.ID] = u
			}
		}
		if (len(n.Moves) > 0) != (n.Outcome == Relieved || n.Outcome == Partly) {
			t.Errorf("%s: outcome %v with %d moves", n.Node, n.Outcome, len(n.Moves))
		}
		started, moved := 0, map[string]bool{}
		for _, m := range n.Moves {
			u := unitOf[m.Containers[0]]
			if len(m.Containers) != len(u.members) {
				t.Errorf("%s: %q of the group %s", n.Node, m.Names, u.names())
			}
			to := nodes[m.To]
			if m.To == n.Node || !to.Accepts || !to.Enforces || sources[m.To] {
				t.Errorf("%s: a move to %s", n.Node, m.To)
			}
			if m.Held == "" {
				started++
			}
			left, gets := use[n.Node], use[m.To]
			for _, c := range u.members {
				if moved[c.ID] || !slices.Contains(m.Containers, c.ID) {
					t.Errorf("%s: %s moves twice, or without its group", n.Node, c.Name)
				}
				moved[c.ID] = true
				if a := c.Movable(s.Rules); !a.Movable {
					t.Errorf("%s: %s moves: %q", n.Node, c.Name, a.Reasons)
				}
				v := c.Use.vector()
				left.sub(&v)
				v = most(v, c.Peak.vector())
				gets.add(&v)
			}
			use[n.Node], use[m.To] = left, gets
		}
		if started > s.Limits.AtOnce || started > 0 && s.closed() != "" {
			t.Errorf("%s: %d moves may start", n.Node, started)
		}
		for _, v := range n.Containers {
			if v.Reason == "" || (v.Decision == Moves) != moved[v.Container] {
				t.Errorf("%s: %s: %v, reason %q", n.Node, v.Name, v.Decision, v.Reason)
			}
		}
		checkRelief(t, s, &n, use[n.Node])
	}
	for _, n := range p.Nodes {
		for _, m := range n.Moves {
			h := nodes[m.To]
			for r, v := range use[m.To] {
				if c := capsOf(s, h).of(Resource(r)); c > 0 && v > percentOf(h.Has.Of(Resource(r)), c-s.Hysteresis) {
					t.Errorf("%s is filled to %d of %d %v, and its cap is %d%%", m.To, v, h.Has.Of(Resource(r)), Resource(r), c)
				}
			}
		}
	}
}

func capsOf(s *State, n *Node) *Caps {
	if n.Caps != nil {
		return n.Caps
	}
	return &s.Caps
}

// checkRelief: what a plan promises of the node is so.
func checkRelief(t testing.TB, s *State, n *NodePlan, left vector) {
	t.Helper()
	margin := map[Outcome]int{Relieved: s.Hysteresis, Partly: 0}
	m, promised := margin[n.Outcome]
	if !promised {
		return
	}
	i := slices.IndexFunc(s.Nodes, func(o Node) bool { return o.Name == n.Node })
	for _, o := range n.Over {
		r := Resource(slices.Index(resourceNames[:], o.Name))
		if int(r) >= resources {
			continue // pressure
		}
		if c := capsOf(s, &s.Nodes[i]).of(r); left[r] > percentOf(s.Nodes[i].Has.Of(r), c-m) {
			t.Errorf("%s: %v, and %v stays over", n.Node, n.Outcome, r)
		}
	}
}

func TestProperties(t *testing.T) {
	over, relieved, held := 0, 0, 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := random(r, 2+r.IntN(8), 12)
		s.Reasons = seed%3 == 0
		before, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		p := mustMake(t, s)
		checkPlan(t, s, p)
		if after, _ := json.Marshal(s); string(after) != string(before) {
			t.Errorf("seed %d: the state was changed", seed)
		}
		a, _ := json.Marshal(p)
		if b, _ := json.Marshal(mustMake(t, s)); string(a) != string(b) {
			t.Errorf("seed %d: two plans of one state differ", seed)
		}
		for _, n := range p.Nodes {
			over++
			if n.Outcome == Relieved {
				relieved++
			}
			for _, m := range n.Moves {
				if m.Held != "" {
					held++
				}
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if over < 500 || relieved < 100 || held < 50 {
		t.Errorf("%d nodes over, %d relieved, %d moves held: the states say too little", over, relieved, held)
	}
}

// TestOrderDoesNotMatter: the same nodes and containers in another order have the same plan.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := random(r, 2+r.IntN(6), 10)
		want := fmt.Sprint(moves(mustMake(t, s)))
		r.Shuffle(len(s.Nodes), func(i, j int) { s.Nodes[i], s.Nodes[j] = s.Nodes[j], s.Nodes[i] })
		for i := range s.Nodes {
			cs := s.Nodes[i].Containers
			r.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
		}
		if got := fmt.Sprint(moves(mustMake(t, s))); got != want {
			t.Fatalf("seed %d: got %s, want %s", seed, got, want)
		}
	}
}

// fewest finds by trying everything how few containers suffice for the first node of s, which
// is the only one over a cap; -1 if none do.
func fewest(s *State) int {
	f := newFleet(s)
	src := f.source(f.hosts[0])
	src.sort()
	best := -1
	var try func(i, n int, want vector)
	try = func(i, n int, want vector) {
		if want == (vector{}) {
			if best < 0 || n < best {
				best = n
			}
			return
		}
		if i == len(src.units) {
			return
		}
		try(i+1, n, want)
		u := src.units[i]
		if u.stays() || f.heldUnit(u, src.Name) != "" {
			return
		}
		want.sub(&u.use)
		for _, h := range f.hosts[1:] {
			if f.verdict(u, src.host, h).set() {
				continue
			}
			h.put(u)
			try(i+1, n+len(u.members), want)
			h.take(u)
		}
	}
	try(0, 0, src.goal)
	return best
}

// TestOptimal compares with all possible plans of small states: no plan takes more
// containers than needed, and none is missed.
func TestOptimal(t *testing.T) {
	compared := [9]int{} // by how many containers move; 0: no moves do
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 3))
		s := random(r, 2+r.IntN(2), 3)
		var cs []Container
		for j := range 8 {
			if c := randomContainer(r, fmt.Sprint("s", j)); r.IntN(4) == 0 {
				cs = append(cs, c)
			} else {
				cs = append(cs, movable(c.Name, float64(r.IntN(3000))/1000, int64(r.IntN(8*gib))))
			}
		}
		s.Nodes[0] = node("n0", cs...)
		s.Nodes[0].Has = Amounts{NanoCPUs: s.Nodes[0].Use.NanoCPUs*5/4 + 1, MemoryBytes: s.Nodes[0].Use.MemoryBytes*5/4 + 1, PIDs: 10000, DiskBytes: 1000 * gib, Inodes: 1}
		s.Caps, s.Hysteresis = Caps{CPU: 40 + r.IntN(50), Memory: 40 + r.IntN(50)}, 5
		for i := 1; i < len(s.Nodes); i++ {
			n := &s.Nodes[i]
			n.Accepts, n.Enforces, n.Has.NanoCPUs, n.Has.MemoryBytes = true, true, int64(4+r.IntN(16))*1e9, int64(8+r.IntN(60))*gib
		}
		s.Sources, s.History, s.Limits.PerHour = []string{"n0"}, nil, 8
		n := mustMake(t, s).Nodes[0]
		if n.Outcome == NotNeeded {
			continue
		}
		got := -1
		if n.Outcome == Relieved {
			got = 0
			for _, m := range n.Moves {
				got += len(m.Containers)
			}
		}
		if want := fewest(s); got != want || !n.Proven {
			t.Errorf("seed %d: %d containers move (proven: %v), and %d would do", seed, got, n.Proven, want)
		} else {
			compared[max(want, 0)]++
		}
	}
	if slices.Min(compared[:5]) < 15 {
		t.Errorf("the states say too little: %v", compared)
	}
	t.Logf("compared, by how many containers move (0: no moves do): %v", compared)
}

// FuzzMake plans for states of any shape.
func FuzzMake(f *testing.F) {
	for seed := range uint64(8) {
		b, err := json.Marshal(random(rand.New(rand.NewPCG(seed, 4)), 3, 3))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &State{}
		if json.Unmarshal(b, s) != nil {
			return
		}
		s.Reasons = len(b)%2 == 0
		p, err := Make(s)
		if err != nil {
			return
		}
		checkPlan(t, s, p)
		for _, n := range p.Nodes {
			for _, v := range n.Containers {
				for _, tv := range v.Targets {
					if tv.Reason == "" || tv.Code == "" {
						t.Errorf("%s on %s: no reason", v.Name, tv.Target)
					}
				}
			}
		}
	})
}
