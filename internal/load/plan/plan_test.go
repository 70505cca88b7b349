package plan

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func mustMake(t testing.TB, s *State) *Plan {
	t.Helper()
	p, err := Make(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// moves returns "name>target" of a plan's moves, group members joined by +.
func moves(p *Plan) []string {
	out := []string{}
	for _, n := range p.Nodes {
		for _, m := range n.Moves {
			out = append(out, strings.Join(m.Names, "+")+">"+m.To)
		}
	}
	return out
}

// fullNode is over the memory cap (27 of 32 GiB, 84%): 4.6 GiB have to leave.
func fullNode() Node {
	return node("a", movable("large", 1, 12*gib), movable("mid", 1, 6*gib), movable("small1", 1, 5*gib), movable("small2", 1, 4*gib))
}

func TestMake(t *testing.T) {
	tests := []struct {
		name    string
		s       *State
		change  func(*State)
		want    []string
		outcome Outcome
		reason  string
	}{
		{name: "one that is just enough", s: state(fullNode(), node("b"), node("c", movable("x", 1, gib))), want: []string{"small1>b"}, outcome: Relieved},
		{name: "nothing over", s: state(node("a"), node("b")), want: []string{}},
		{name: "the large one does not fit", s: state(fullNode(), node("b", movable("x", 1, 18*gib))), want: []string{"small2>b"}, outcome: Partly,
			reason: "none that bring it below them by the hysteresis"},
		{name: "no other node", s: state(fullNode()), want: []string{}, outcome: Refused, reason: "none of its containers can leave"},
		{name: "all too full", s: state(fullNode(), node("b", movable("x", 1, 22*gib))), want: []string{}, outcome: Refused, reason: "none of its containers can leave"},
		{name: "stateless before stateful", s: state(fullNode(), node("b")), change: func(s *State) {
			s.Rules.CopyVolumes = true
			s.Nodes[0].Containers[2].Storage.Mounts = []Mount{{Type: "volume", Name: "v", Destination: "/v"}}
		}, want: []string{"mid>b"}, outcome: Relieved},
		{name: "low priority first", s: state(fullNode(), node("b")), change: func(s *State) {
			s.Nodes[0].Containers[2].Priority = 5
			s.Nodes[0].Containers[1].Priority = 5
		}, want: []string{"large>b"}, outcome: Relieved},
		{name: "a group goes whole", s: state(fullNode(), node("b")), change: func(s *State) {
			for _, i := range []int{0, 1} {
				s.Nodes[0].Containers[i].Selected = false
			}
			s.Nodes[0].Containers[3].Net.Mode = "container:id-small1"
		}, want: []string{"small1+small2>b"}, outcome: Relieved},
		{name: "a group stays whole", s: state(fullNode(), node("b")), change: func(s *State) {
			for i := range s.Nodes[0].Containers {
				s.Nodes[0].Containers[i].Life.Together = []string{"k"}
			}
			s.Nodes[0].Containers[0].Host.Privileged = true
		}, want: []string{}, outcome: Refused, reason: "none of its containers"},
		{name: "two resources", s: state(node("a", movable("cpu", 5, gib), movable("mem", 0.5, 20*gib), movable("both", 1.5, 7*gib)), node("b")),
			want: []string{"both>b"}, outcome: Relieved},
		{name: "pressure alone moves a step", s: state(fullNode(), node("b")), change: func(s *State) {
			s.Caps = Caps{PSIMemory: 20}
			s.Nodes[0].Pressure.Memory = 30
		}, want: []string{"small2>b"}, outcome: Relieved},
		{name: "pressure of storage moves nothing", s: state(fullNode(), node("b")), change: func(s *State) {
			s.Caps = Caps{PSIIO: 20}
			s.Nodes[0].Pressure.IO = 30
		}, want: []string{}, outcome: Refused, reason: "psi.io"},
		{name: "old readings of the node", s: state(fullNode(), node("b")), change: func(s *State) { s.Nodes[0].Seen = testNow.Add(-time.Hour) },
			want: []string{}, outcome: Refused, reason: "too old"},
		{name: "two nodes do not fill one target", s: state(fullNode(), func() Node {
			n := fullNode()
			n.Name = "b"
			for i := range n.Containers {
				n.Containers[i].Name += "b"
			}
			return n
		}(), node("c", movable("x", 1, 14*gib))), want: []string{"small1>c"}, outcome: Relieved},
		{name: "spread over targets", s: state(node("a", movable("m1", 1, 9*gib), movable("m2", 1, 9*gib), movable("m3", 1, 9*gib), movable("m4", 1, 4*gib)),
			node("b", movable("x", 1, 13*gib)), node("c", movable("y", 1, 13*gib))), want: []string{"m1>b"}, outcome: Relieved},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.s)
			}
			p := mustMake(t, tt.s)
			if got := moves(p); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got moves %q, want %q", got, tt.want)
			}
			if len(p.Nodes) == 0 {
				if tt.outcome != Refused || tt.reason != "" {
					t.Error("got no plan")
				}
				return
			}
			if n := p.Nodes[0]; n.Outcome != tt.outcome || !strings.Contains(n.Reason, tt.reason) {
				t.Errorf("got %v, %q; want %v, %q", n.Outcome, n.Reason, tt.outcome, tt.reason)
			}
		})
	}
}

// TestRefusals: each thing that a target can lack, alone, leaves the container where it is and says so.
func TestRefusals(t *testing.T) {
	onB := func(change func(*Node)) func(*State) { return func(s *State) { change(&s.Nodes[1]) } }
	both := func(inA func(*Container), onB func(*Node)) func(*State) {
		return func(s *State) { inA(&s.Nodes[0].Containers[0]); onB(&s.Nodes[1]) }
	}
	port := func(ip string, n int) func(*Container) {
		return func(c *Container) { c.Net.Ports = []Port{{IP: ip, Port: n, Protocol: "tcp"}} }
	}
	mount := func(m Mount) func(*Container) {
		return func(c *Container) { c.Storage.Mounts = []Mount{m} }
	}
	net := func(a Attachment) func(*Container) {
		return func(c *Container) { c.Net.Networks = []Attachment{a} }
	}
	overlay := Attachment{Name: "mesh", Driver: "overlay", Global: true, Config: "1"}
	same := func(*Node) {}
	past := func(p Past) func(*State) {
		return func(s *State) { p.Use = Amounts{}; s.History = append(s.History, p) }
	}
	ago := func(d time.Duration) time.Time { return testNow.Add(-d) }
	tests := []struct {
		name   string
		change func(*State)
		code   string // empty: it is taken
	}{
		{"nothing", func(*State) {}, "chosen"},
		{"cordoned", onB(func(n *Node) { n.Accepts = false }), "not-a-target"},
		{"not enforcing", onB(func(n *Node) { n.Enforces = false }), "not-enforcing"},
		{"old readings", onB(func(n *Node) { n.Seen = ago(time.Hour) }), "stale-readings"},
		{"no readings", onB(func(n *Node) { n.Seen = time.Time{} }), "stale-readings"},
		{"readings of tomorrow", onB(func(n *Node) { n.Seen = ago(-time.Hour) }), "stale-readings"},
		{"no policies known", onB(func(n *Node) { n.Gate.Policies = "" }), "unknown-policies"},
		{"pressure", onB(func(n *Node) { n.Caps = &Caps{PSIMemory: 20}; n.Pressure.Memory = 15 }), "pressure"},
		{"full of something else", onB(func(n *Node) { n.Use.DiskBytes = 900 * gib }), "full"},
		{"no room for memory", onB(func(n *Node) { n.Use.MemoryBytes = 6 * gib }), "no-room"},
		{"no room for the peak", func(s *State) { s.Nodes[0].Containers[0].Peak.NanoCPUs = 6e9 }, "no-room"},
		{"no room for PIDs", func(s *State) { s.Nodes[0].Containers[0].Use.PIDs = 7001 }, "no-room"},
		{"no room for what is copied", func(s *State) {
			s.Rules.CopyVolumes = true
			mount(Mount{Type: "volume", Name: "v", Destination: "/v", Bytes: 900 * gib})(&s.Nodes[0].Containers[0])
		}, "no-room"},
		{"capacity not known", onB(func(n *Node) { n.Has.PIDs = 0 }), "unknown-capacity"},
		{"architecture", onB(func(n *Node) { n.Host.Architecture = "arm64" }), "architecture"},
		{"architecture of the image", both(func(c *Container) { c.Image.Architecture = "arm64" }, same), "architecture"},
		{"architecture of the image, there", both(func(c *Container) { c.Image.Architecture = "arm64" }, func(n *Node) { n.Host.Architecture = "arm64" }), "chosen"},
		{"cgroup version", onB(func(n *Node) { n.Host.Cgroup = 1 }), "cgroup-version"},
		{"older engine", onB(func(n *Node) { n.Host.Engine = "20.10.24" }), "engine-version"},
		{"newer engine", onB(func(n *Node) { n.Host.Engine = "29.0.0-rc.1" }), "chosen"},
		{"engine of no version", onB(func(n *Node) { n.Host.Engine = "dev" }), "engine-version"},
		{"runtime", both(func(c *Container) { c.Needs = []string{"runtime:runsc"} }, same), "lacks"},
		{"runtime there", both(func(c *Container) { c.Needs = []string{"runtime:runc"} }, same), "chosen"},
		{"name taken", onB(func(n *Node) { n.Containers = []Container{movable("web", 0, 0)} }), "name"},
		{"port taken", both(port("", 80), func(n *Node) { n.Site.Ports = []Port{{IP: "10.0.0.1", Port: 80, Protocol: "tcp"}} }), "port"},
		{"port of a container", both(port("10.0.0.1", 80), func(n *Node) {
			c := movable("o", 0, 0)
			port("0.0.0.0", 80)(&c)
			n.Containers = []Container{c}
		}), "port"},
		{"port on another address", both(port("10.0.0.2", 80), func(n *Node) { n.Site.Ports = []Port{{IP: "10.0.0.1", Port: 80, Protocol: "tcp"}} }), "chosen"},
		{"port of another protocol", both(port("", 53), func(n *Node) { n.Site.Ports = []Port{{Port: 53, Protocol: "udp"}} }), "chosen"},
		{"any port", both(port("", 0), func(n *Node) { n.Site.Ports = []Port{{Port: 0, Protocol: "tcp"}} }), "chosen"},
		{"overlay missing", both(net(overlay), same), "network-missing"},
		{"overlay there", both(net(overlay), func(n *Node) { n.Site.Networks = []Attachment{overlay} }), "chosen"},
		{"overlay of other addresses", both(net(overlay), func(n *Node) {
			o := overlay
			o.Config = "2"
			n.Site.Networks = []Attachment{o}
		}), "network-differs"},
		{"bridge is made", both(net(Attachment{Name: "front", Driver: "bridge"}), same), "chosen"},
		{"bridge of the name, and whether it is the same is not known", both(net(Attachment{Name: "front", Driver: "bridge"}), func(n *Node) {
			n.Site.Networks = []Attachment{{Name: "front", Driver: "bridge"}}
		}), "network-differs"},
		{"bridge of another driver", both(net(Attachment{Name: "front", Driver: "bridge"}), func(n *Node) {
			n.Site.Networks = []Attachment{{Name: "front", Driver: "macvlan"}}
		}), "network-differs"},
		{"volume driver", func(s *State) {
			s.Rules.CopyVolumes = true
			mount(Mount{Type: "volume", Name: "v", Driver: "rbd"})(&s.Nodes[0].Containers[0])
		}, "volume-driver"},
		{"volume name", func(s *State) {
			s.Rules.CopyVolumes = true
			mount(Mount{Type: "volume", Name: "v"})(&s.Nodes[0].Containers[0])
			s.Nodes[1].Site.Volumes = []string{"v"}
		}, "volume-name"},
		{"shared volume missing", both(mount(Mount{Type: "volume", Name: "v", Shared: true}), same), "shared-data"},
		{"shared volume there", both(mount(Mount{Type: "volume", Name: "v", Shared: true}), func(n *Node) { n.Site.Volumes = []string{"v"} }), "chosen"},
		{"shared path missing", both(mount(Mount{Type: "bind", Source: "/net", Shared: true}), same), "shared-data"},
		{"image denied", onB(func(n *Node) { n.Gate.Images = map[string]Answer{"sha256:1": {Why: "critical"}} }), "image-denied"},
		{"image not asked about", onB(func(n *Node) { n.Gate.Images = nil }), "image-unknown"},
		{"other policies", onB(func(n *Node) { n.Gate.Policies = "r2" }), "policy-unknown"},
		{"other policies that admit it", onB(func(n *Node) { n.Gate.Policies = "r2"; n.Gate.Admits = map[string]Answer{"id-web": {Allow: true}} }), "chosen"},
		{"policies deny it", onB(func(n *Node) { n.Gate.Admits = map[string]Answer{"id-web": {}} }), "policy-denied"},
		{"it left there", past(Past{Name: "web", From: "b", To: "a", Began: ago(3 * time.Hour), Ended: ago(3 * time.Hour)}), "returns"},
		{"it left there long ago", past(Past{Name: "web", From: "b", To: "a", Began: ago(30 * time.Hour), Ended: ago(30 * time.Hour)}), "chosen"},
		{"it left there, over another", func(s *State) {
			past(Past{Name: "web", From: "b", To: "c", Began: ago(5 * time.Hour), Ended: ago(5 * time.Hour)})(s)
			past(Past{Name: "web", From: "c", To: "a", Began: ago(3 * time.Hour), Ended: ago(3 * time.Hour)})(s)
		}, "returns"},
		{"another of its name left there", past(Past{Name: "web", From: "b", To: "d", Began: ago(3 * time.Hour), Ended: ago(3 * time.Hour)}), "chosen"},
		{"a move there has failed", past(Past{Name: "web", From: "a", To: "b", Failed: true, Began: ago(2 * time.Hour), Ended: ago(2 * time.Hour)}), "failed-before"},
		{"the target cools down", past(Past{Name: "other", From: "b", To: "c", Began: ago(10 * time.Minute), Ended: ago(9 * time.Minute)}), "cool-down"},
		{"its name is on its way there", past(Past{Name: "web", From: "c", To: "b", Began: ago(time.Minute)}), "name"},
		{"a port is on its way there", func(s *State) {
			port("", 80)(&s.Nodes[0].Containers[0])
			o := movable("other", 0, 0)
			port("10.0.0.1", 80)(&o)
			s.Nodes = append(s.Nodes, node("c", o))
			s.Nodes[2].Accepts = false
			s.History = []Past{{Name: "other", From: "c", To: "b", Began: ago(time.Minute)}}
		}, "port"},
		{"what is on its way counts, said or not", func(s *State) {
			s.Nodes = append(s.Nodes, node("c", movable("other", 0, 6*gib)))
			s.Nodes[2].Accepts = false
			s.History = []Past{{Name: "other", From: "c", To: "b", Began: ago(time.Minute)}}
		}, "no-room"},
		{"what is on its way counts", func(s *State) {
			s.History = []Past{{Name: "other", From: "c", To: "b", Began: ago(time.Minute), Use: Amounts{MemoryBytes: 5 * gib}}}
		}, "no-room"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := node("a", movable("web", 1, 18*gib), func() Container { c := movable("rest", 1, 9*gib); c.Selected = false; return c }())
			s := state(a, node("b"))
			s.Reasons = true
			tt.change(s)
			p := mustMake(t, s)
			v := p.Nodes[0].Containers[1]
			if v.Name != "web" || len(v.Targets) == 0 || v.Targets[0].Code != tt.code || v.Targets[0].Reason == "" || v.Targets[0].Reason == "refused" {
				t.Fatalf("got %+v, want code %q", v, tt.code)
			}
			if taken := tt.code == "chosen"; taken != (v.Decision == Moves) || taken != (len(p.Nodes[0].Moves) == 1) {
				t.Errorf("got decision %v and %d moves", v.Decision, len(p.Nodes[0].Moves))
			}
			if v.Decision == NoTarget && !strings.Contains(v.Reason, v.Targets[0].Reason) {
				t.Errorf("the container's reason %q lacks the target's %q", v.Reason, v.Targets[0].Reason)
			}
		})
	}
}

// TestLayerStays: what a container has written to its own layer is free once it has left, and needs no room where it goes.
func TestLayerStays(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s *State)
		want   []string
	}{
		{"the layer alone", func(*State) {}, []string{"web>b"}},
		{"one on its way there too", func(s *State) {
			s.History = []Past{{Name: "other", From: "c", To: "b", Began: testNow.Add(-time.Minute), Use: Amounts{DiskBytes: 200 * gib}}}
		}, []string{"web>b"}},
		{"one on its way there with more than its layer", func(s *State) {
			other := movable("other", 1, gib)
			other.Storage.LayerBytes, other.Use.DiskBytes = 200*gib, 301*gib
			c := node("c", other)
			c.Accepts = false
			s.Nodes = append(s.Nodes, c)
			s.History = []Past{{Name: "other", From: "c", To: "b", Began: testNow.Add(-time.Minute), Use: Amounts{DiskBytes: 301 * gib}}}
		}, []string{}},
		{"a volume too", func(s *State) {
			c := &s.Nodes[0].Containers[0]
			s.Rules.CopyVolumes, c.Storage.Mounts = true, []Mount{{Type: "volume", Name: "v", Destination: "/v", Bytes: 101 * gib}}
		}, []string{}},
		{"more than the layer", func(s *State) { s.Nodes[0].Containers[0].Use.DiskBytes = 301 * gib }, []string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			web := movable("web", 1, gib)
			web.Storage.LayerBytes, web.Use.DiskBytes = 200*gib, 200*gib
			s := state(node("a", web), node("b"))
			s.Sources, s.Rules.LoseLayer = []string{"a"}, true
			s.Nodes[0].Use.DiskBytes, s.Nodes[1].Use.DiskBytes = 950*gib, 700*gib // of 1000, and targets stay at 800
			tt.change(s)
			p := mustMake(t, s)
			if got := moves(p); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q: %+v", got, tt.want, p.Nodes[0].Containers)
			}
		})
	}
}

// TestSecondTarget: the emptiest target that may not be used is passed over, and the next one takes the container.
func TestSecondTarget(t *testing.T) {
	tests := []struct {
		name   string
		change func(b *Node)
		code   string // of b
		want   string
	}{
		{"both may be used", func(*Node) {}, "chosen", "small1>b"},
		{"cordoned", func(b *Node) { b.Accepts, b.Refuses = false, "it was cordoned" }, "not-a-target", "small1>c"},
		{"no target", func(b *Node) { b.Accepts = false }, "not-a-target", "small1>c"},
		{"over its own cap", func(b *Node) { b.Caps = &Caps{Memory: 12} }, "full", "small1>c"}, // 4 of 32 GiB are 12.5%
		{"within the hysteresis of its cap", func(b *Node) { b.Caps = &Caps{Memory: 20} }, "full", "small1>c"},
		{"it would pass its own cap", func(b *Node) { b.Caps = &Caps{Memory: 35} }, "no-room", "small1>c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := state(fullNode(), node("b", movable("x", 1, 4*gib)), node("c", movable("y", 1, 10*gib)))
			s.Sources, s.Reasons = []string{"a"}, true
			tt.change(&s.Nodes[1])
			p := mustMake(t, s)
			if got := moves(p); !reflect.DeepEqual(got, []string{tt.want}) {
				t.Errorf("got moves %q, want %s", got, tt.want)
			}
			v := p.Nodes[0].Containers[2]
			if v.Name != "small1" || len(v.Targets) != 2 || v.Targets[0].Target != "b" || v.Targets[0].Code != tt.code {
				t.Errorf("got %+v, want code %q of b", v, tt.code)
			}
		})
	}
}

// TestAveragesLag: what left the node a moment before its readings is in averages still, and nothing more has to leave for it.
func TestAveragesLag(t *testing.T) {
	cpu, memory, pressed := Caps{CPU: 80}, Caps{Memory: 80}, Caps{PSICPU: 20}
	for _, tt := range []struct {
		name   string
		caps   Caps
		ended  time.Duration // before the readings
		want   []string
		reason string
	}{
		{"processors, since", cpu, -time.Second, []string{}, ""},
		{"processors, a moment before", cpu, AveragedOver - time.Second, []string{}, ""},
		{"processors, before", cpu, AveragedOver + time.Second, []string{"m1>b"}, ""},
		{"memory, since", memory, -time.Second, []string{}, ""},
		{"memory, a moment before", memory, time.Second, []string{"m1>b"}, ""},
		{"pressure, a moment before", pressed, AveragedOver - time.Second, []string{}, "only pressure is over its cap, and what has just left"},
		{"pressure, before", pressed, AveragedOver + time.Second, []string{"m1>b"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := state(node("a", movable("m1", 3, 13*gib), movable("m2", 4, 14*gib)), node("b"))
			s.Caps, s.Nodes[0].Pressure.CPU = tt.caps, 30
			ended := s.Nodes[0].Seen.Add(-tt.ended)
			s.Sources = []string{"a"}
			s.History = []Past{{Name: "gone", From: "a", To: "d", Began: ended.Add(-time.Minute), Ended: ended, Use: Amounts{NanoCPUs: 2e9, MemoryBytes: 8 * gib}}}
			p := mustMake(t, s)
			if got := moves(p); !reflect.DeepEqual(got, tt.want) || !strings.Contains(p.Nodes[0].Reason, tt.reason) {
				t.Errorf("got %q, want %q: %s", got, tt.want, p.Nodes[0].Reason)
			}
		})
	}
}

// TestGroupLag: what a group used that left a moment before the readings is taken off its node once, and is no move under way.
// Its target has some of it in its readings, and is not taken for fuller than they say.
func TestGroupLag(t *testing.T) {
	s := state(node("a", movable("rest", 7, gib)), node("b", movable("x", 4, gib)))
	ended := s.Nodes[0].Seen.Add(-5 * time.Second)
	for i, name := range []string{"shop", "side"} {
		s.History = append(s.History, Past{
			Move: "1", Name: name, From: "a", To: "b", Began: ended.Add(-time.Minute), Ended: ended, Use: Amounts{NanoCPUs: int64(i+1) * 1e9},
		})
	}
	f := newFleet(s)
	for name, want := range map[string]int64{"a": 4e9, "b": 4e9} {
		if h := f.byName[name]; h.use[CPU] != want || h.active != 0 {
			t.Errorf("%s: got %s, and %d moves under way; want %s", name, CPU.text(h.use[CPU]), h.active, CPU.text(want))
		}
	}
}

func TestLimits(t *testing.T) {
	ago := func(d time.Duration) time.Time { return testNow.Add(-d) }
	two := func() *State { // two have to leave
		return state(node("a", movable("m1", 1, 7*gib), movable("m2", 1, 7*gib), movable("m3", 1, 7*gib), movable("m4", 1, 10*gib)),
			node("b", movable("x", 1, 15*gib)), node("c", movable("y", 1, 15*gib)))
	}
	tests := []struct {
		name   string
		change func(*State)
		held   []string // by move; "": it may start
	}{
		{"wide limits", func(*State) {}, []string{"", ""}},
		{"one at once", func(s *State) { s.Limits.AtOnce = 1 }, []string{"", "limits.atOnce is 1"}},
		{"none at once", func(s *State) { s.Limits.AtOnce = 0 }, []string{"limits.atOnce is 0", "limits.atOnce is 0"}},
		{"zero limits", func(s *State) { s.Limits = Limits{MaxAge: time.Hour} }, []string{"limits.atOnce is 0", "limits.atOnce is 0"}},
		{"one an hour", func(s *State) { s.Limits.PerHour = 1 }, []string{"", "limits.perHour is 1"}},
		{"one an hour, and one left", func(s *State) {
			s.Limits.PerHour = 1
			s.History = []Past{{Name: "z", From: "a", To: "d", Began: ago(50 * time.Minute), Ended: ago(49 * time.Minute)}}
		}, []string{"limits.perHour", "limits.perHour"}},
		{"one under way", func(s *State) {
			s.Limits.AtOnce = 1
			s.History = []Past{{Name: "z", From: "a", To: "d", Began: ago(time.Minute)}}
		}, []string{"limits.atOnce", "limits.atOnce"}},
		{"one is coming to the target", func(s *State) {
			s.Limits.AtOnce = 1
			s.History = []Past{{Name: "z", From: "d", To: "b", Began: ago(time.Minute)}}
		}, []string{`limits.atOnce is 1`, ""}},
		{"window closed", func(s *State) { s.Windows = []Window{{Days: [7]bool{time.Tuesday: true}, From: 60, To: 120}} },
			[]string{"opens at Tue 01:00", "opens at Tue 01:00"}},
		{"window over midnight", func(s *State) { s.Windows = []Window{{Days: [7]bool{time.Sunday: true}, From: 1380, To: 721}} }, []string{"", ""}},
		{"window that ends now", func(s *State) { s.Windows = []Window{{Days: [7]bool{time.Monday: true}, From: 60, To: 720}} },
			[]string{"opens at Mon 01:00", "opens at Mon 01:00"}},
		{"window that never opens", func(s *State) { s.Windows = []Window{{From: 60, To: 120}} }, []string{"ever opens", "ever opens"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := two()
			tt.change(s)
			n := mustMake(t, s).Nodes[0]
			if len(n.Moves) != len(tt.held) {
				t.Fatalf("got %+v, want %d moves", n, len(tt.held))
			}
			for i, m := range n.Moves {
				if (m.Held == "") != (tt.held[i] == "") || !strings.Contains(m.Held, tt.held[i]) {
					t.Errorf("move %d is held by %q, want %q", i, m.Held, tt.held[i])
				}
			}
		})
	}
}

func TestHeld(t *testing.T) {
	ago := func(d time.Duration) time.Time { return testNow.Add(-d) }
	s := state(fullNode(), node("b"))
	s.History = []Past{
		{Name: "large", From: "z", To: "a", Began: ago(30 * time.Minute), Ended: ago(29 * time.Minute)},
		{Name: "small1", From: "a", To: "z", Began: ago(time.Minute)},
	}
	s.Nodes[0].Containers[2].Use.MemoryBytes = gib / 8
	s.Nodes[0].Containers[1].Life.Together, s.Nodes[0].Containers[3].Life.Together = []string{"k"}, []string{"k"}
	s.Limits.PerHour = 1
	n := mustMake(t, s).Nodes[0]
	want := map[string]string{"large": "limits.perContainer", "small1": "being moved to \"z\"", "mid": "limits.perHour is 1", "small2": "limits.perHour is 1"}
	for _, v := range n.Containers {
		if v.Decision != Held || !strings.Contains(v.Reason, want[v.Name]) {
			t.Errorf("%s: got %v, %q, want %q", v.Name, v.Decision, v.Reason, want[v.Name])
		}
	}
	if n.Outcome != Refused || len(n.Moves) > 0 {
		t.Errorf("got %v with %d moves", n.Outcome, len(n.Moves))
	}
}

// TestGroups: what depends on each other is one unit, and what only looks like it is not.
func TestGroups(t *testing.T) {
	cs := []Container{movable("a", 1, 1), movable("b", 1, 1), movable("c", 1, 1), movable("d", 1, 1), movable("e", 1, 1), movable("f", 1, 1)}
	cs[0].Net.Networks = []Attachment{{Name: "front", Driver: "bridge"}}
	cs[1].Net.Networks = []Attachment{{Name: "front", Driver: "bridge"}, {Name: "bridge", Driver: "bridge"}}
	cs[2].Net.Networks = []Attachment{{Name: "bridge", Driver: "bridge"}, {Name: "mesh", Driver: "overlay", Global: true}}
	cs[3].Net.Networks = []Attachment{{Name: "mesh", Driver: "overlay", Global: true}}
	cs[4].Host.PIDMode = "container:id-d"
	cs[5].Net.Links = []string{"gone"}
	var got []string
	for _, u := range unitsOf(cs, Rules{}) {
		got = append(got, u.names())
	}
	if want := []string{"a, b", "c", "d, e", "f"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if us := unitsOf(cs, Rules{SplitNetworks: true}); len(us) != 5 {
		t.Errorf("got %d units with split networks, want 5", len(us))
	}
	if u := unitsOf(cs, Rules{})[3]; !u.stays() || !strings.Contains(u.why(0), `"gone"`) {
		t.Error("a container with a link to an unknown one may leave")
	}
}

// TestZero: nothing moves by default.
func TestZero(t *testing.T) {
	var (
		d Decision
		o Outcome
		a Ability
		w Answer
	)
	if d != Unmovable || o != Refused || a.Movable || w.Allow || d.String() != "unmovable" || o.String() != "refused" {
		t.Error("a zero value lets something move")
	}
	if len(reasonWords) != int(hasFailed)+1 {
		t.Error("a reason has no word")
	}
	for code, word := range reasonWords {
		if text := (refusal{code: reason(code)}).String(); word == "" || text == "" || text == "refused" {
			t.Errorf("reason %d: word %q, text %q", code, word, text)
		}
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(*State)
		want   string
	}{
		{"no time", func(s *State) { s.Now = time.Time{} }, "now"},
		{"name twice", func(s *State) { s.Nodes[1].Name = "a" }, "twice"},
		{"container twice", func(s *State) { s.Nodes[0].Containers[1].ID = "id-large" }, "twice"},
		{"below zero", func(s *State) { s.Nodes[0].Use.PIDs = -1 }, "use: pids: -1"},
		{"beyond all machines", func(s *State) { s.Nodes[0].Containers[0].Peak.MemoryBytes = MaxAmount + 1 }, "peak: memory"},
		{"cap of 100", func(s *State) { s.Caps.CPU = 100 }, "100%"},
		{"cap within the hysteresis", func(s *State) { s.Caps.CPU = 10 }, "hysteresis"},
		{"pressure", func(s *State) { s.Nodes[0].Pressure.IO = 101 }, "pressure"},
		{"unknown source", func(s *State) { s.Sources = []string{"zz"} }, `"zz"`},
		{"empty window", func(s *State) { s.Windows = []Window{{From: 5, To: 5}} }, "windows[0]"},
		{"history of nobody", func(s *State) { s.History = []Past{{Began: testNow}} }, "history[0]"},
		{"limit below zero", func(s *State) { s.Limits.PerHour = -1 }, "limits"},
		{"port", func(s *State) { s.Nodes[0].Containers[0].Net.Ports = []Port{{Port: 70000}} }, "port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := state(fullNode(), node("b"))
			tt.change(s)
			if _, err := Make(s); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
