package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/place"
	loadplan "github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
)

func setOf(t *testing.T, text string) *policy.Set {
	t.Helper()
	docs, err := policy.ParseAll("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	set, err := docs.Set()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestPoliciesDigest: nodes whose policies about containers are the same agree, whatever their
// LoadPolicies are.
func TestPoliciesDigest(t *testing.T) {
	const runtime = "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: r}\nspec: {mode: audit, exec: {asRoot: deny}}\n"
	a, b := policiesDigest(setOf(t, runtime)), policiesDigest(setOf(t, runtime+"---\n"+loadPolicy))
	if a != b || a == "" {
		t.Errorf("a LoadPolicy changes it: %s, %s", a, b)
	}
	if c := policiesDigest(setOf(t, strings.Replace(runtime, "audit", "enforce", 1))); c == a {
		t.Error("a mode does not change it")
	}
}

// TestCapsOf: the least cap and the greatest hysteresis of all policies count.
func TestCapsOf(t *testing.T) {
	other := strings.NewReplacer("name: node", "name: other", "caps: {memory: 85%}", "caps: {memory: 70%, psi: {io: 30%}}, hysteresis: 9%").Replace(loadPolicy)
	caps, h := capsOf(setOf(t, loadPolicy+"---\n"+other).LoadPolicies())
	if *caps != (loadplan.Caps{Memory: 70, PSIIO: 30}) || h != 9 {
		t.Errorf("got %+v, %d", caps, h)
	}
	if caps, _ := capsOf(nil); caps != nil {
		t.Errorf("without policies: %+v", caps)
	}
	for _, name := range policy.CapNames() {
		if capField(&loadplan.Caps{}, name) == nil {
			t.Errorf("no field for %s", name)
		}
	}
}

// TestNotPublished: what listens is the host's own unless a container that runs has it published.
func TestNotPublished(t *testing.T) {
	var containers []loadplan.Container
	for port, state := range []string{"running", "paused", "exited", "created", "restarting"} {
		containers = append(containers, loadplan.Container{State: state, Net: loadplan.Net{Ports: []loadplan.Port{{Port: port, Protocol: "tcp"}}}})
	}
	var ports []loadplan.Port
	for port := range 6 {
		ports = append(ports, loadplan.Port{Port: port, Protocol: "tcp"})
	}
	got := notPublished(append(ports, loadplan.Port{Port: 0, Protocol: "udp"}), containers)
	if want := []loadplan.Port{{Port: 2, Protocol: "tcp"}, {Port: 3, Protocol: "tcp"}, {Port: 4, Protocol: "tcp"}, {Port: 5, Protocol: "tcp"}, {Port: 0, Protocol: "udp"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestFillSite: a host whose disk is full says so.
func TestFillSite(t *testing.T) {
	a := &Agent{cfg: Config{DockerRoot: "/proc"}, log: slog.New(slog.DiscardHandler)} // it has no block that is free
	var n loadplan.Node
	a.fillSite(&n, true)
	if n.Site.FreeBytes != 1 {
		t.Errorf("got %d", n.Site.FreeBytes)
	}
	n = loadplan.Node{}
	a.fillSite(&n, false)
	if n.Site.FreeBytes != 0 {
		t.Errorf("got %d where nothing was asked", n.Site.FreeBytes)
	}
}

// TestFillReadings: what was sampled is in the description; a running container that was not is not
// movable.
func TestFillReadings(t *testing.T) {
	id := strings.Repeat("a", 64)
	n := &loadplan.Node{Containers: []loadplan.Container{{ID: id, Name: "web", State: "running"}, {ID: strings.Repeat("b", 64), Name: "new", State: "running"}, {ID: "c", Name: "old", State: "exited"}}}
	r := &load.Readings{At: time.Now(), Pressure: [3]float64{0.2, -1, 99.9}}
	r.Amounts[load.CPU], r.Amounts[load.Memory] = load.Amount{Has: 4e9, Use: 1e9}, load.Amount{Has: 8 << 30, Use: 6 << 30}
	s := load.ContainerStatus{Subject: load.Subject{ID: ident.ContainerID(id)}, CPUs: 0.5, Memory: 100 << 20, PIDs: 3, PeakCPUs: 1.5, PeakMemory: 200 << 20, PeakPIDs: 4}
	fillReadings(n, r, []load.ContainerStatus{s})
	if n.Has.NanoCPUs != 4e9 || n.Use.MemoryBytes != 6<<30 || n.Pressure != (loadplan.Pressure{CPU: 1, IO: 100}) || !n.Seen.Equal(r.At) {
		t.Errorf("got %+v", n)
	}
	if c := n.Containers[0]; c.Use.NanoCPUs != 5e8 || c.Peak.MemoryBytes != 200<<20 || len(c.Other) > 0 {
		t.Errorf("got %+v", c)
	}
	if c := n.Containers[1]; len(c.Other) != 1 || !strings.Contains(c.Other[0], "is not known") {
		t.Errorf("got %+v", c)
	}
	if c := n.Containers[2]; len(c.Other) > 0 {
		t.Errorf("one that does not run: %+v", c)
	}
}

// TestFillLayers: what a container has written to its own layer is its part of the disk where a move makes that free.
func TestFillLayers(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name          string
		keep          time.Duration
		fullest, root string
		also          string // another root
		used          int64
		want          int64
	}{
		{"the source is removed", 0, filepath.Dir(dir), dir, "/none", 5 << 20, 5 << 20},
		{"the source is kept", time.Second, dir, dir, "/none", 5 << 20, 0},
		{"another file system is full", 0, "/proc", dir, "/none", 5 << 20, 0},
		{"none was read", 0, "", "", "", 5 << 20, 0},
		{"there is no root", 0, dir, "/none", "/none", 5 << 20, 0},
		{"which root it is nobody knows", 0, dir, dir, "/proc", 5 << 20, 0},
		{"it has a sparse file", 0, dir, dir, "/none", 5<<20 - 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &loadplan.Node{Use: loadplan.Amounts{DiskBytes: tt.used}, Containers: []loadplan.Container{{Name: "web", Storage: loadplan.Storage{LayerKnown: true, LayerBytes: 5 << 20}}}}
			fillLayers(n, &policy.MoveSettings{Keep: tt.keep}, tt.fullest, []string{tt.root, tt.also})
			if got := n.Containers[0].Use.DiskBytes; got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestLayerRoots(t *testing.T) {
	c := Config{DockerRoot: "/srv/docker"}
	if got := c.layerRoots(false); !slices.Equal(got, []string{"/srv/docker"}) {
		t.Errorf("got %q", got)
	}
	if got := c.layerRoots(true); !slices.Equal(got, []string{"/var/lib/containerd", "/srv/docker/containerd/daemon"}) {
		t.Errorf("with containerd's store: got %q", got)
	}
}

// TestAskTarget: a target takes nothing, and says why, unless it was asked and makes sense.
func TestAskTarget(t *testing.T) {
	good := loadplan.Description{Schema: loadplan.DescriptionSchema, Hysteresis: 10, Node: loadplan.Node{
		Name: "whoever", Accepts: true, Seen: time.Now(), Has: loadplan.Amounts{NanoCPUs: 8e9, MemoryBytes: 8 << 30}, Caps: &loadplan.Caps{Memory: 80},
		Host: loadplan.Platform{Architecture: "amd64"},
	}}
	tests := []struct {
		name   string
		change func(d *loadplan.Description)
		target policy.LoadTarget
		says   string
	}{
		{"good", func(*loadplan.Description) {}, policy.LoadTarget{MemoryBytes: 4 << 30}, ""},
		{"another form", func(d *loadplan.Description) { d.Schema = "belay.dev/node/v9" }, policy.LoadTarget{}, `of the form "belay.dev/node/v9"`},
		{"no sense", func(d *loadplan.Description) { d.Node.Has.MemoryBytes = -1 }, policy.LoadTarget{}, "cannot be used: "},
		{"caps below the hysteresis", func(d *loadplan.Description) { d.Node.Caps.CPU = 6 }, policy.LoadTarget{}, "cannot be used: "},
		{"another architecture", func(*loadplan.Description) {}, policy.LoadTarget{Architecture: "arm64"}, `of the architecture "amd64"`},
		{"cordoned", func(d *loadplan.Description) { d.Node.Accepts, d.Node.Refuses = false, "it was cordoned" }, policy.LoadTarget{}, "it was cordoned"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := good
			caps := *good.Node.Caps
			d.Node.Caps = &caps
			tt.change(&d)
			tt.target.Name, tt.target.Engine = "b", "unix://"+gateOf(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != engine.NodePath || r.URL.Query().Get("image") != "sha256:1" {
					t.Errorf("asked for %s", r.URL)
				}
				if err := json.NewEncoder(w).Encode(d); err != nil {
					t.Error(err)
				}
			})
			got := askTarget(t.Context(), &tt.target, []string{"sha256:1"}, 5).Node
			if got.Name != "b" || (tt.says == "") != (got.Refuses == "") || !strings.Contains(got.Refuses, tt.says) {
				t.Errorf("got %+v, want %s", got, tt.says)
			}
			if tt.says == "" && (got.Caps.Memory != 75 || got.Has.MemoryBytes != 4<<30 || got.Has.NanoCPUs != 8e9) {
				t.Errorf("got %+v", got)
			}
		})
	}
	for says, h := range map[string]http.HandlerFunc{
		"it describes no node": func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"node.read is denied": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"message":"belay: node.read is denied"}`, 403)
		},
	} {
		got := askTarget(t.Context(), &policy.LoadTarget{Name: "b", Engine: "unix://" + gateOf(t, h)}, nil, 5).Node
		if got.Accepts || !strings.Contains(got.Refuses, says) {
			t.Errorf("got %+v, want %s", got, says)
		}
	}
	if got := askTarget(t.Context(), &policy.LoadTarget{Name: "b", Engine: "unix:///nowhere"}, nil, 5).Node; !strings.Contains(got.Refuses, "cannot be asked") {
		t.Errorf("got %+v", got)
	}
}

// gateOf serves on a unix socket, and returns its path.
func gateOf(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close(); os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// TestCordon: by hand it outlives the agent; by a policy it lasts as long as a cap is over, and a
// file that cannot be read cordons.
func TestCordon(t *testing.T) {
	dir := t.TempDir()
	c := new(cordon)
	if err := c.open(dir); err != nil || c.why() != "" {
		t.Fatalf("at first: %q, %v", c.why(), err)
	}
	ps := setOf(t, strings.Replace(loadPolicy, "[alert]", "[cordon]", 1)).LoadPolicies()
	over := []load.CapStatus{{Policy: "node", Cap: "memory", Limit: 85, State: "over", Since: time.Now()}}
	if begun, ended := c.follow(over, ps); !begun || ended || !strings.Contains(c.why(), "memory is over the cap of 85% of policy node") {
		t.Errorf("over: %v %v %q", begun, ended, c.why())
	}
	if begun, ended := c.follow(over, ps); begun || ended {
		t.Error("told twice")
	}
	if n := testing.AllocsPerRun(100, func() { _ = new(cordon).why() }); n > 1 {
		t.Errorf("asking a node that takes containers allocates %v", n)
	}
	if err := c.set(&handCordon{By: "alice", Since: time.Now(), Reason: "disk swap"}); err != nil {
		t.Fatal(err)
	}
	over[0].State = "calm"
	if begun, ended := c.follow(over, ps); begun || !ended || !strings.Contains(c.why(), "cordoned by alice") || !strings.Contains(c.why(), "disk swap") {
		t.Errorf("calm: %v %v %q", begun, ended, c.why())
	}
	again := new(cordon)
	if err := again.open(dir); err != nil || again.why() != c.why() {
		t.Errorf("after a restart: %q, %v", again.why(), err)
	}
	if err := again.set(nil); err != nil || again.why() != "" {
		t.Errorf("lifted: %q, %v", again.why(), err)
	}
	// One that alerts alone does not cordon.
	over[0].State = "over"
	if again.follow(over, setOf(t, loadPolicy).LoadPolicies()); again.why() != "" {
		t.Errorf("alert: %q", again.why())
	}
	if err := os.WriteFile(filepath.Join(dir, "cordon.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := new(cordon)
	if err := bad.open(dir); err == nil || !strings.Contains(bad.why(), "cannot be read") {
		t.Errorf("a broken file: %q, %v", bad.why(), err)
	}
}

// TestMoverPath: no mover is an error that says what to do.
func TestMoverPath(t *testing.T) {
	if _, err := (&Config{Mover: "none"}).moverPath(); err == nil {
		t.Error("none is a mover")
	}
	a := &Agent{cfg: Config{Mover: "/nowhere/belay"}, health: health.New(nil), log: slog.New(slog.DiscardHandler)}
	if err := a.runMover(context.Background(), "0", []string{"move"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if got := lastError("lease: x\nimage: y\nbelay: web is not moved:\n  it is privileged\n"); got != "web is not moved:;   it is privileged" {
		t.Errorf("got %q", got)
	}
	if got := lastError("only this"); got != "only this" {
		t.Errorf("got %q", got)
	}
}

// TestOrchestrated: a planner is told what an orchestrator says, and nothing of what it has not placed.
func TestOrchestrated(t *testing.T) {
	other := []string{"its image is no longer on this host"}
	self := loadplan.Node{Name: "a", Containers: []loadplan.Container{{ID: "c1", Name: "web.1.x"}, {ID: "c2", Name: "plain", Other: other[:1:1]}, {ID: "c3", Name: "pod"}}}
	at := time.Now()
	us := []place.Unit{{ID: "s1", Name: "web", Containers: []string{"c1"}, Stays: "an update", Arrived: at}, {ID: "p1", Name: "ns/pod-x", Owner: "ns/pod", Containers: []string{"c3", "c9"}}}
	n := orchestrated(&self, "swarm", us, nil, at)
	if n.Name != "swarm" || !n.Places || !n.Accepts || n.Seen != at {
		t.Errorf("got %+v", n)
	}
	cs := self.Containers
	if p := cs[0].Placed; p == nil || *p != (loadplan.Placed{Unit: "s1", Name: "web", Stays: "an update"}) || cs[0].Life.Arrived != at {
		t.Errorf("got %+v", cs[0])
	}
	if cs[1].Placed != nil || len(cs[1].Other) != 2 {
		t.Errorf("got %+v", cs[1])
	}
	if p := cs[2].Placed; p == nil || p.Name != "ns/pod" {
		t.Errorf("got %+v", cs[2])
	}
	n = orchestrated(&loadplan.Node{Containers: []loadplan.Container{{ID: "c1"}}}, "swarm", nil, errors.New("no leader"), at)
	if n.Accepts || n.Refuses != "it cannot be asked: no leader" {
		t.Errorf("got %+v", n)
	}
}
