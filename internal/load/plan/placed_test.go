package plan

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// placed returns a container of a unit, with what would tie another to its node.
func placed(name, unit string, mem int64) Container {
	c := movable(name, 0.1, mem)
	c.Life.Manager, c.Host.Privileged, c.Storage.LayerKnown, c.Net.Mode = "swarm", true, false, "host"
	c.Placed = &Placed{Unit: "id-" + unit, Name: unit}
	return c
}

func orchestrated(cs ...Container) *State {
	s := state(node("a", cs...), Node{Name: "swarm", Places: true, Accepts: true})
	s.Nodes[0].Accepts, s.Sources = false, []string{"a"}
	return s
}

func TestPlaced(t *testing.T) {
	big := func() []Container {
		return []Container{placed("web.1.x", "web", 8*gib), placed("web.2.y", "web", 8*gib), placed("api.1.z", "api", 12*gib), movable("plain", 1, gib)}
	}
	past := func(name string, ended time.Duration, failed bool) Past {
		return Past{Name: name, From: "a", To: "swarm", Began: testNow.Add(-ended - time.Minute), Ended: testNow.Add(-ended), Failed: failed}
	}
	for _, tt := range []struct {
		name   string
		change func(s *State)
		want   string // names that leave
		stays  string // container and a part of its reason
	}{
		{"the one that does alone", nil, "api.1.z", ""},
		{"a unit leaves together", func(s *State) { s.Nodes[0].Containers[2].Placed.Stays = "a global service" }, "web.1.x web.2.y", "api.1.z a global service"},
		{"what nobody has placed stays", func(s *State) {
			s.Nodes[0].Containers[3].Use.MemoryBytes = 12 * gib
			s.Nodes[0].Containers[2].Use.MemoryBytes = gib
		}, "web.1.x web.2.y", `plain "swarm": it takes no containers: it has not placed it`},
		{"not selected", func(s *State) { s.Nodes[0].Containers[2].Selected = false }, "web.1.x web.2.y", "api.1.z no LoadPolicy's movable selects it"},
		{"left a while ago, and is here again", func(s *State) { s.History = []Past{past("api", 10*time.Minute, false)} }, "web.1.x web.2.y", "api.1.z it was moved 10m0s ago, and limits.perContainer is 1h0m0s"},
		{"left long ago", func(s *State) { s.History = []Past{past("api", 3*time.Hour, false)} }, "api.1.z", ""},
		{"failed today", func(s *State) { s.History = []Past{past("api", 3*time.Hour, true)} }, "web.1.x web.2.y", `api.1.z a move of "api.1.z" to it failed 3h0m0s ago`},
		{"came by a leave", func(s *State) { s.Nodes[0].Containers[2].Life.Arrived = testNow.Add(-time.Minute) }, "web.1.x web.2.y", "api.1.z a move brought it here 1m0s ago"},
		{"cannot be asked", func(s *State) { s.Nodes[1].Accepts, s.Nodes[1].Refuses = false, "no leader" }, "", "web.1.x no leader"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := orchestrated(big()...)
			if tt.change != nil {
				tt.change(s)
			}
			s.Nodes[0].Use = Amounts{MemoryBytes: 31 * gib}
			p, err := Make(s)
			if err != nil {
				t.Fatal(err)
			}
			n := &p.Nodes[0]
			var names []string
			for _, m := range n.Moves {
				if m.To != "swarm" || !strings.Contains(m.Why, `"swarm" says where it goes`) {
					t.Errorf("got %+v", m)
				}
				names = append(names, m.Names...)
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("got %q, want %q: %s", got, tt.want, n.Reason)
			}
			name, why, _ := strings.Cut(tt.stays, " ")
			for _, v := range n.Containers {
				if v.Name == name && (slices.Contains(names, name) || !strings.Contains(v.Reason, why)) {
					t.Errorf("%s: %s %q, want %q", name, v.Decision, v.Reason, why)
				}
			}
		})
	}
	// All of a unit count as one: of three tasks each two units would be six.
	s := orchestrated(placed("web.1", "web", 4*gib), placed("web.2", "web", 4*gib), placed("web.3", "web", 4*gib),
		placed("api.1", "api", 4*gib), placed("api.2", "api", 4*gib), placed("api.3", "api", 4*gib))
	s.Nodes[0].Use, s.Limits.AtOnce, s.Limits.PerHour = Amounts{MemoryBytes: 31 * gib}, 2, 2
	s.Caps.Memory = 50
	p, err := Make(s)
	if err != nil {
		t.Fatal(err)
	}
	if ms := p.Nodes[0].Moves; len(ms) != 2 || ms[0].Held != "" || ms[1].Held != "" {
		t.Errorf("got %+v, %+v", ms, p.Nodes[0])
	}
	// Without its word, what ties others to their node ties it too.
	c := placed("web.1.x", "web", gib)
	c.Placed = nil
	if c.Movable(Rules{}).Movable {
		t.Error("what nobody is asked for is movable")
	}
}
