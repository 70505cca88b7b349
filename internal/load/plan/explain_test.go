package plan

import (
	"strings"
	"testing"
	"time"
)

// TestExplain: of one container all reasons against it, and each target's verdict, whether the node
// is full or not.
func TestExplain(t *testing.T) {
	vol := movable("db", 1, gib)
	vol.Storage.Mounts = []Mount{{Type: "volume", Name: "pg", Destination: "/data"}}
	vol.Other = []string{"its image is no longer on this host"}
	came := movable("came", 1, gib)
	came.Life.Arrived = testNow.Add(-time.Minute)
	a, b := movable("a", 1, gib), movable("b", 1, gib)
	a.Life.Together, b.Life.Together = []string{"k"}, []string{"k"}
	b.Host.Privileged = true
	full, cordoned := node("full"), node("cordoned")
	full.Use.MemoryBytes = 31 * gib
	cordoned.Refuses = "it was cordoned by alice"
	s := state(node("n", movable("web", 1, gib), vol, came, a, b), node("free"), full, cordoned)
	tests := []struct {
		container string
		movable   bool
		reasons   []string
		fits      string
	}{
		{"web", true, nil, "free"},
		{"id-web", true, nil, "free"},
		{"db", false, []string{`it has the volume "pg", which is on this host alone`, "its image is no longer on this host"}, "free"},
		{"came", true, []string{"a move brought it here 1m0s ago, and limits.perContainer is 1h0m0s"}, "free"},
		{"a", false, []string{`it moves together with "b", which stays: it is privileged`}, "free"},
	}
	for _, tt := range tests {
		t.Run(tt.container, func(t *testing.T) {
			e, err := Explain(s, "n", tt.container)
			if err != nil {
				t.Fatal(err)
			}
			if e.Movable != tt.movable || len(e.Reasons) != len(tt.reasons) || len(e.Targets) != 3 {
				t.Fatalf("got %+v", e)
			}
			for i, r := range tt.reasons {
				if !strings.Contains(e.Reasons[i], r) {
					t.Errorf("got %q, want %q", e.Reasons[i], r)
				}
			}
			for _, v := range e.Targets {
				switch {
				case (v.Target == tt.fits) != v.Fits, !v.Fits && v.Reason == "":
					t.Errorf("got %+v", v)
				case v.Target == "cordoned" && v.Reason != "it takes no containers: it was cordoned by alice":
					t.Errorf("got %+v", v)
				}
			}
		})
	}
	s.Windows = []Window{{Days: [7]bool{6: true}, From: 0, To: 60}}
	if e, err := Explain(s, "n", "web"); err != nil || !strings.Contains(e.Targets[1].Held, "outside of the maintenance windows") {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, bad := range [][2]string{{"x", "web"}, {"n", "nobody"}} {
		if _, err := Explain(s, bad[0], bad[1]); err == nil {
			t.Errorf("%q is explained", bad)
		}
	}
}

// TestExplainGroupUnderWay: containers that move as one are one move at one time, and each is one that left in an hour.
func TestExplainGroupUnderWay(t *testing.T) {
	past := func(name, move string) Past {
		return Past{Move: move, Name: name, From: "n", To: "free", Began: testNow.Add(-time.Minute)}
	}
	for _, tt := range []struct {
		name    string
		history []Past
		perHour int
		held    string
	}{
		{"one move", []Past{past("a", "1"), past("b", "1")}, 3, ""},
		{"two moves", []Past{past("a", "1"), past("b", "2")}, 3, "2 under way or before it from this node, and limits.atOnce is 2"},
		{"two moves without an ID", []Past{past("a", ""), past("b", "")}, 3, "2 under way"},
		{"two have left", []Past{past("a", "1"), past("b", "1")}, 2, "2 left the node within an hour, and limits.perHour is 2"},
	} {
		s := state(node("n", movable("web", 1, gib), movable("a", 1, gib), movable("b", 1, gib)), node("free"))
		s.Limits.AtOnce, s.Limits.PerHour, s.History = 2, tt.perHour, tt.history
		e, err := Explain(s, "n", "web")
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Targets[0].Held; tt.held == "" && got != "" || !strings.Contains(got, tt.held) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.held)
		}
		if e, err = Explain(s, "n", "b"); err != nil || !strings.Contains(strings.Join(e.Reasons, "; "), "it is being moved") {
			t.Errorf("%s: got %+v, %v", tt.name, e, err)
		}
	}
}

// TestIDBeforeName: an ID means the container that has it, whatever another one is called and whichever is listed first.
func TestIDBeforeName(t *testing.T) {
	api, web := movable("api", 1, gib), movable("web", 1, gib)
	api.ID = strings.Repeat("a", 64)
	web.Net.Mode = "container:" + api.ID
	other := movable(api.ID, 1, gib)
	for _, cs := range [][]Container{{other, api, web}, {api, other, web}} {
		s := state(node("n", cs...), node("free"))
		e, err := Explain(s, "n", "web")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(e.Together, " "); got != "api web" {
			t.Errorf("web moves with %q", got)
		}
		if e, err = Explain(s, "n", api.ID); err != nil || e.Name != "api" {
			t.Errorf("got %+v, %v", e, err)
		}
	}
}

// TestReadDescription: what another node says is read leniently, but only of the known form.
func TestReadDescription(t *testing.T) {
	d, err := ReadDescription([]byte(`{"schema":"belay.dev/node/v1","node":{"name":"b","has":{"memoryBytes":5},"new":1},"hysteresis":5}`))
	if err != nil || d.Node.Has.MemoryBytes != 5 || d.Node.Accepts {
		t.Errorf("got %+v, %v", d, err)
	}
	for _, bad := range []string{"", "{}", `{"schema":"belay.dev/node/v2"}`, `{"schema":"belay.dev/node/v1","node":{"has":{"memoryBytes":"x"}}}`} {
		if _, err := ReadDescription([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func FuzzDescription(f *testing.F) {
	f.Add([]byte(`{"schema":"belay.dev/node/v1","node":{"name":"b","containers":[{"id":"1","name":"w","net":{"ports":[{"port":80}]}}]},"left":[{"name":"w"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ReadDescription(data)
		if err != nil {
			return
		}
		d.Node.Name = "b"
		s := state(node("n", movable("web", 1, gib)), d.Node)
		s.History = d.Left
		if s.Check() == nil {
			if _, err := Explain(s, "n", "web"); err != nil {
				t.Fatal(err)
			}
		}
	})
}
