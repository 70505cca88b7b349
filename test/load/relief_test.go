package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// kind is one kind of pressure, by a container of its own, which a policy of its own may move.
type kind struct {
	cap                 string
	percent, hysteresis int
	idle                bool   // it is a reading of the whole machine
	stress              string // arguments of stress-ng
	plain               string // the same by a shell: where there is no stress-ng, or it has nothing like it
}

// kinds are under a limit of the node's containers each, but for the disk, which is small.
var kinds = []kind{
	{cap: "cpu", percent: 70, hysteresis: 10, idle: true, stress: "--cpu 1 --cpu-load 45", plain: "while :; do :; done"},
	// Other file systems of the machine count too. What is unlinked, as by stress-ng, no engine counts as a container's.
	{cap: "disk", percent: 95, hysteresis: 1, plain: "/busybox dd if=/dev/zero of=/filled bs=64k count=%d; /busybox sleep 1d"},
	{cap: "memory", percent: 70, hysteresis: 10, stress: "--vm 1 --vm-bytes 260M --vm-keep --vm-hang 0", plain: "/busybox dd if=/dev/zero of=/dev/null bs=260M"},
	{cap: "pids", percent: 50, hysteresis: 10, stress: "--sleep 1 --sleep-max 100", plain: "for i in $(/busybox seq 100); do /busybox sleep 1d & done; wait"},
}

// Of all containers of the node that gets full, and of the other.
var (
	fullLimits  = lab.Limits{Memory: 320 << 20, PIDs: 160, CPUs: 0.5}
	otherLimits = lab.Limits{Memory: 1 << 30, PIDs: 400, CPUs: 0.75}
)

const reliefPolicy = `---
apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: %[1]s}
spec:
  caps: {%[1]s: %[2]d%%}
  hysteresis: %[3]d%%
  for: 2s
  actions: [alert, migrate]
  movable: {names: [%[1]s]}
  targets: [{name: other, engine: "unix://%[4]s"}]
  limits: {atOnce: 4, perHour: 10, perContainer: 1m}
  moves: {image: stream, loseLayer: true, settle: 300ms, keep: 0s}
`

const reliefTarget = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: other}
spec: {caps: {memory: 90%, pids: 90%}, for: 2s, actions: [alert]}
`

// relief is two engines, each with an agent.
type relief struct {
	full, other           *lab.Engine
	fullAgent, otherAgent *lab.Agent
	disk                  string // of the full one's engine
	stress                bool   // the image has stress-ng
}

// newRelief starts the engines, both with the image, and the agents.
func newRelief(t *testing.T, policy func(gate string) string) *relief {
	t.Helper()
	ctx, l := t.Context(), newLab(t)
	r := &relief{disk: l.Path("full", "data")}
	mountSmall(t, l.Path("disk.img"), r.disk, 320<<20) // the lab unmounts it
	var err error
	if r.full, err = l.StartEngine(ctx, "full"); err != nil {
		t.Fatal(err)
	}
	if r.other, err = l.StartEngine(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.full.Limit(fullLimits), r.other.Limit(otherLimits)); err != nil {
		t.Fatal(err)
	}
	r.images(t, l)
	if r.otherAgent, err = l.NewAgent(ctx, lab.AgentOptions{Name: "agent-other", Engine: r.other}); err != nil {
		t.Fatal(err)
	}
	if r.fullAgent, err = l.NewAgent(ctx, lab.AgentOptions{Name: "agent-full", Engine: r.full, Flags: []string{"--docker-root", r.disk}}); err != nil {
		t.Fatal(err)
	}
	gate := l.Path("agent-other", "run", "docker.sock")
	start(t, r.otherAgent, reliefTarget)
	if !lab.Await(ctx, 20*time.Second, func() bool { return r.other.Client(gate, 0).Docker(ctx, "ps").Code == 0 }) {
		t.Fatal("the gate of the target does not answer")
	}
	start(t, r.fullAgent, policy(gate))
	return r
}

// needDisk skips the test on a machine whose disk would be a full target's, by the greatest hysteresis of the kinds.
func needDisk(t *testing.T) {
	t.Helper()
	most := 100
	for _, k := range kinds {
		most = min(most, 100-k.hysteresis)
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		t.Fatal(err)
	}
	used := st.Blocks - st.Bfree
	percent := 100 * used / (used + st.Bavail)
	testneed.Need(t, "disk", percent < uint64(most), fmt.Sprintf("the file system of / is %d%% full, and a target's is at most %d%%", percent, most)) //nolint:gosec // not negative
}

func start(t *testing.T, a *lab.Agent, policy string) {
	t.Helper()
	if err := errors.Join(a.SetPolicy("load.yaml", policy), a.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			ctx := context.Background()
			t.Logf("%s\n%s\n%s", a.Log(), a.Belay(ctx, "load", "status").Text(), a.Belay(ctx, "events").Text())
		}
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// images gives both engines one image, with stress-ng if that can be had: how a move brings one is tried elsewhere.
func (r *relief) images(t *testing.T, l *lab.Lab) {
	t.Helper()
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	files := []lab.File{lab.Program("busybox", bb), {Name: "tmp/", Mode: 0o1777}}
	tree, err := l.StressTree(t.Context())
	switch r.stress = err == nil; {
	case r.stress:
		err = r.full.ImportTar(t.Context(), stressImage, tree, files)
	case errors.Is(err, lab.ErrNoPackages):
		err = r.full.Import(t.Context(), stressImage, files)
	}
	if err != nil {
		t.Fatal(err)
	}
	saved := r.full.Docker(t.Context(), "save", stressImage)
	if saved.Code != 0 {
		t.Fatal(saved.Err())
	}
	if got := r.other.DockerIn(t.Context(), strings.NewReader(saved.Stdout), "load"); got.Code != 0 {
		t.Fatal(got.Err())
	}
}

// press starts the container of a kind: the load is what it is for, so it goes where the container goes.
func (r *relief) press(t *testing.T, k *kind) {
	t.Helper()
	args := append([]string{"/usr/bin/stress-ng", "--temp-path", "/tmp"}, strings.Fields(k.stress)...)
	if k.stress == "" || !r.stress {
		args = []string{"/busybox", "sh", "-c", k.plain}
	}
	if k.cap == "disk" {
		args[3] = fmt.Sprintf(k.plain, r.blocks(t, k))
	}
	args = append([]string{"run", "-d", "--name", k.cap, "--stop-signal", "KILL", "--stop-timeout", "1", stressImage}, args...)
	if got := r.full.Docker(t.Context(), args...); got.Code != 0 {
		t.Fatal(got.Err())
	}
}

// blocks is how many of 64 KiB bring the small disk halfway from its cap to its end.
func (r *relief) blocks(t *testing.T, k *kind) uint64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(r.disk, &st); err != nil {
		t.Fatal(err)
	}
	used := st.Blocks - st.Bfree
	want := (used + st.Bavail) * uint64(100+k.percent) / 200
	return (want - used) * uint64(st.Bsize) >> 16 //nolint:gosec // not negative
}

// steps are what becomes of a full node, each once and in this order.
var steps = []string{"over", "approved", "move-started", "moved", "relieved"}

// story returns the node's records of a policy that are steps, oldest first. A plan that comes before the container was
// measured twice finds nothing, and is made again: it is a step only after the move.
func (r *relief) story(t *testing.T, a *lab.Agent, policy string) (story []lab.Event) {
	t.Helper()
	all, err := a.Events(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		e := &all[i]
		if e.Kind == "load" && e.Policy.Name == policy && (e.Load.Event != "no-plan" || len(story) >= len(steps)-1) {
			story = append(story, *e)
		}
	}
	return story
}

func events(story []lab.Event) (out []string) {
	for i := range story {
		out = append(out, story[i].Load.Event)
	}
	return out
}

// TestRelief: load in a container drives its node over a cap, on processors, memory, tasks and the disk. That is told, and
// names the container; the agent plans and moves it to another engine by itself; the node is below its cap, and nothing
// more happens. All kinds are at work at one time.
func TestRelief(t *testing.T) {
	needDisk(t)
	r := newRelief(t, func(gate string) string {
		var text strings.Builder
		for _, k := range kinds {
			if !k.idle || os.Getenv("BELAY_MATRIX") == "full" {
				fmt.Fprintf(&text, reliefPolicy, k.cap, k.percent, k.hysteresis, gate)
			}
		}
		return text.String()
	})
	t.Run("kinds", func(t *testing.T) {
		for _, k := range kinds {
			t.Run(k.cap, func(t *testing.T) {
				if k.idle {
					needIdle(t)
				}
				t.Parallel()
				r.press(t, &k)
				var story []lab.Event
				if !lab.Await(t.Context(), 3*time.Minute, func() bool {
					story = r.story(t, r.fullAgent, k.cap)
					return slices.Contains(events(story), "relieved")
				}) {
					t.Fatalf("got %q, want %q", events(story), steps)
				}
				over := story[0]
				if lasted := over.Time.Sub(over.Load.Since); over.Load.Cap != k.cap || lasted < 2*time.Second {
					t.Errorf("after %s: got %+v", lasted, over)
				}
				// How much of a disk is whose the kernel does not say: see docs/load-policy.md.
				if c := over.Load.Causes; k.cap != "disk" && (len(c) == 0 || c[0].Name != k.cap) {
					t.Errorf("got causes %+v", c)
				}
				if got := r.other.Docker(t.Context(), "inspect", "--format", "{{.State.Running}}", k.cap); got.Text() != "true" {
					t.Errorf("on the other node it does not run: %s", got.Text())
				}
				if got := r.full.Docker(t.Context(), "ps", "-a", "--filter", "name="+k.cap, "--format", "{{.Names}} {{.Status}}"); got.Text() != "" {
					t.Errorf("on the full node is left: %s", got.Text())
				}
			})
		}
	})
	r.settled(t)
}

// settled checks that each step came once, that no cap was passed again, and that the target stayed below its own.
func (r *relief) settled(t *testing.T) {
	t.Helper()
	var s struct {
		Caps []struct {
			Cap, State string
			HeldBack   int
		}
	}
	got := r.fullAgent.Belay(t.Context(), "load", "status", "-o", "json")
	if err := json.Unmarshal([]byte(got.Stdout), &s); err != nil || len(s.Caps) == 0 {
		t.Fatalf("%v: %s", err, got.Text())
	}
	for _, c := range s.Caps {
		if story := events(r.story(t, r.fullAgent, c.Cap)); !slices.Equal(story, steps) {
			t.Errorf("%s: got %q, want %q", c.Cap, story, steps)
		}
		if c.State != "calm" || c.HeldBack != 0 {
			t.Errorf("%s: it is %s, and %d alerts were held back", c.Cap, c.State, c.HeldBack)
		}
	}
	if story := events(r.story(t, r.otherAgent, "other")); len(story) > 0 {
		t.Errorf("the target: got %q", story)
	}
}
