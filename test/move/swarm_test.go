package move

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/leave"
	"github.com/belay-project/belay/internal/load/place"
	"github.com/belay-project/belay/internal/load/swarm"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

const swarmImage = "swarm/web:1"

// swarmOf makes a swarm of both engines for the length of a test: the source is its manager, the
// target a worker. Their namespaces get a wire between them. No service has the mesh, which would
// take IPVS.
func (w *world) swarmOf(t *testing.T) {
	t.Helper()
	testneed.Need(t, "full-matrix", os.Getenv("BELAY_MATRIX") == "full", "make test-full: its rollouts take minutes")
	wire := []string{"ip", "link", "add", "wire", "netns", strconv.Itoa(w.from.PID()), "type", "veth", "peer", "name", "wire", "netns", strconv.Itoa(w.to.PID())}
	out, err := exec.CommandContext(t.Context(), wire[0], wire[1:]...).CombinedOutput()
	testneed.Need(t, "veth", err == nil, fmt.Sprintf("two engines are joined by a wire: %s", out))
	for i, e := range []*lab.Engine{w.from, w.to} {
		for _, cmd := range [][]string{{"addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "wire"}, {"link", "set", "wire", "up"}} {
			in(t, e, append([]string{"ip"}, cmd...)...)
		}
	}
	t.Cleanup(func() {
		in(t, w.from, "ip", "link", "del", "wire")
		w.forget(t, "none")
		for _, e := range []*lab.Engine{w.from, w.to} {
			e.Docker(context.Background(), "network", "rm", "docker_gwbridge")
			e.Docker(context.Background(), "image", "rm", swarmImage)
		}
	})
	joins := func(e *lab.Engine, what string, args ...string) {
		r := e.Docker(t.Context(), append([]string{"swarm"}, args...)...)
		if r.Code != 0 {
			e.Docker(context.Background(), "swarm", "leave", "--force") // a join goes on in the background
		}
		testneed.Need(t, "swarm", r.Code == 0, what+": "+r.Text())
		t.Cleanup(func() {
			if r := e.Docker(context.Background(), "swarm", "leave", "--force"); r.Code != 0 {
				t.Error(r.Err())
			}
		})
	}
	joins(w.from, "an engine becomes a manager", "init", "--advertise-addr", "10.77.0.1", "--listen-addr", "10.77.0.1:2377")
	token := ok(t, w.from, "swarm", "join-token", "-q", "worker")
	joins(w.to, "another joins it", "join", "--token", token, "--advertise-addr", "10.77.0.2", "10.77.0.1:2377")
	ok(t, w.from, "tag", image, swarmImage)
	saved := w.from.Docker(t.Context(), "save", swarmImage)
	if r := w.to.DockerIn(t.Context(), strings.NewReader(saved.Stdout), "load"); r.Code != 0 {
		t.Fatal(r.Err())
	}
}

// in runs a program in an engine's network namespace.
func in(t *testing.T, e *lab.Engine, args ...string) {
	t.Helper()
	args = append([]string{"--net=/proc/" + strconv.Itoa(e.PID()) + "/ns/net"}, args...)
	if out, err := exec.CommandContext(context.Background(), "nsenter", args...).CombinedOutput(); err != nil {
		t.Errorf("%q: %v: %s", args, err, out)
	}
}

// serve makes a service with replicas that are healthy soon, and waits for them.
func (w *world) serve(t *testing.T, name string, replicas int, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if r := w.from.Docker(context.Background(), "service", "rm", name); r.Code != 0 {
			t.Error(r.Err())
		}
		lab.Await(context.Background(), time.Minute, func() bool {
			return len(w.tasks(t, w.from, name))+len(w.tasks(t, w.to, name)) == 0
		})
	})
	ok(t, w.from, append(append([]string{"service", "create", "--detach", "--no-resolve-image", "--name", name, "--replicas", strconv.Itoa(replicas), "--endpoint-mode", "dnsrr",
		"--update-monitor", "2s", "--stop-grace-period", "1s", "--stop-signal", "KILL", "--health-cmd", "wget -q -O /dev/null http://127.0.0.1/", "--health-interval", "500ms"}, args...), swarmImage)...)
	if !lab.Await(t.Context(), time.Minute, func() bool {
		return len(w.tasks(t, w.from, name))+len(w.tasks(t, w.to, name)) == replicas && w.healthy(w.from, name)+w.healthy(w.to, name) == replicas
	}) {
		t.Fatalf("%s is not up:\n%s", name, w.from.Docker(t.Context(), "service", "ps", "--no-trunc", name).Text())
	}
}

// tasks are the containers of a service that run on an engine, by their IDs.
func (w *world) tasks(t *testing.T, e *lab.Engine, name string) map[string]bool {
	t.Helper()
	list, err := w.api(e).Containers(context.Background(), map[string][]string{"label": {"com.docker.swarm.service.name=" + name}, "status": {"running"}})
	if err != nil {
		t.Error(err)
	}
	ids := map[string]bool{}
	for i := range list {
		ids[list[i].ID] = true
	}
	return ids
}

func (w *world) healthy(e *lab.Engine, name string) int {
	list, err := w.api(e).Containers(context.Background(), map[string][]string{"label": {"com.docker.swarm.service.name=" + name}, "health": {"healthy"}})
	if err != nil {
		return 0
	}
	return len(list)
}

// spec is what the manager has of a service, and what it would roll back to.
func (w *world) spec(t *testing.T, name string) (now api.ServiceSpec, raw, before string) {
	t.Helper()
	text := ok(t, w.from, "service", "inspect", "--format", `{"now": {{json .Spec}}, "before": {{json .PreviousSpec}}}`, name)
	var out struct {
		Now    api.ServiceSpec
		Before json.RawMessage
	}
	var as struct{ Now json.RawMessage }
	if json.Unmarshal([]byte(text), &out) != nil || json.Unmarshal([]byte(text), &as) != nil {
		t.Fatalf("inspect says %s", text)
	}
	return out.Now, string(as.Now), string(out.Before)
}

func (w *world) leaves(t *testing.T, name string, e *lab.Engine, within time.Duration) (*leave.Journal, error) {
	t.Helper()
	o := leave.Options{Dir: filepath.Join(t.TempDir(), "moves"), Open: func(ctx context.Context, at leave.Where) (place.Placer, func(), error) {
		s, err := swarm.Open(ctx, at.Engine, at.Manager)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}}
	at := leave.Where{Kind: "swarm", Engine: engine.Address{URL: e.Host()}}
	if e != w.from {
		at.Manager.URL = w.from.Host()
	}
	return leave.Begin(t.Context(), o, "0123456789abcdef", name, at, within)
}

// asks asks a service's tasks for as long as they are, from both hosts, and says how often none answered twice in a row:
// once alone may be one that left between being listed and asked.
func (w *world) asks(t *testing.T, name string) (stop func() (served, missed int)) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	served, missed := 0, 0
	wg.Go(func() {
		for before := true; ctx.Err() == nil; {
			answered := false
			for _, e := range []*lab.Engine{w.from, w.to} {
				for id := range w.tasks(t, e, name) {
					text, err := get(e, address(e, id), "/")
					answered = answered || err == nil && text == "hello\n"
				}
			}
			switch {
			case answered:
				served++
			case !before:
				missed++
			}
			before = answered
		}
	})
	return func() (int, int) { cancel(); wg.Wait(); return served, missed }
}

// TestSwarm: a service of one task leaves the node that it is on while it is asked, a service of
// several keeps those that are elsewhere, and nothing is left behind; from a worker too.
func TestSwarm(t *testing.T) {
	w := need(t)
	w.swarmOf(t)
	w.serve(t, "web", 1, "--update-order", "start-first")
	w.serve(t, "many", 4)
	here, there := w.from, w.to
	if len(w.tasks(t, here, "web")) == 0 {
		here, there = there, here
	}
	_, before, _ := w.spec(t, "web")

	stop := w.asks(t, "web")
	j, err := w.leaves(t, "web", here, 3*time.Minute)
	served, missed := stop()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(w.tasks(t, here, "web")); j.Phase != leave.Finished || n != 0 || len(w.tasks(t, there, "web")) != 1 {
		t.Errorf("%s: %d tasks are here: %+v", j.Phase, n, j.History)
	}
	if served < 5 || missed > 0 {
		t.Errorf("%d requests were served, and %d not", served, missed)
	}
	t.Logf("web left in %s; %d requests served, %d not", j.Ended.Sub(j.Began), served, missed)
	spec, after, prev := w.spec(t, "web")
	if after != before || len(spec.Labels) > 0 || strings.Contains(prev, "belay") || strings.Contains(prev, "node.id") { // defaults are shown of what is in force alone
		t.Errorf("the service was\n%s\nis\n%s\nand would be rolled back to\n%s", before, after, prev)
	}

	// Of four tasks two are on either, and those elsewhere stay as they are.
	for _, e := range []*lab.Engine{w.to, w.from} {
		other := w.from
		if e == w.from {
			other = w.to
		}
		stay := w.tasks(t, other, "many")
		if _, err := w.leaves(t, "many", e, 3*time.Minute); err != nil {
			t.Fatal(err)
		}
		now := w.tasks(t, other, "many")
		for id := range stay {
			if !now[id] {
				t.Errorf("a task elsewhere was replaced: %s", id)
			}
		}
		if len(now) != 4 || len(w.tasks(t, e, "many")) != 0 {
			t.Errorf("%d tasks are elsewhere, %d here", len(now), len(w.tasks(t, e, "many")))
		}
	}
	// Nothing goes back when it is over: taking the constraint out moves nothing.
	time.Sleep(3 * time.Second)
	if len(w.tasks(t, w.from, "many")) != 0 || len(w.tasks(t, w.to, "many")) != 4 {
		t.Error("tasks have gone back")
	}

	// Who came by a leave is known by it.
	s, err := swarm.Open(t.Context(), engine.Address{URL: w.to.Host()}, engine.Address{URL: w.from.Host()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	us, err := s.Units(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u, err := leave.Find(us, "many"); err != nil || len(u.Containers) != 4 || u.Arrived.IsZero() || u.Stays != "" {
		t.Errorf("got %+v, %v", us, err)
	}
}

// TestSwarmFails: what does not become healthy elsewhere is taken back, and what has nowhere to go is
// not asked.
func TestSwarmFails(t *testing.T) {
	w := need(t)
	w.swarmOf(t)
	w.serve(t, "web", 1, "--update-order", "start-first", "--constraint", "node.role==manager")
	j, err := w.leaves(t, "web", w.from, time.Minute)
	if j != nil || err == nil || !strings.Contains(err.Error(), "1 does not meet its constraints") {
		t.Fatalf("got %+v, %v", j, err)
	}
	ok(t, w.from, "service", "update", "--detach", "--no-resolve-image", "--constraint-rm", "node.role==manager", "web")
	_, before, _ := w.spec(t, "web")
	ok(t, w.to, "image", "rm", swarmImage) // no registry has it
	j, err = w.leaves(t, "web", w.from, time.Minute)
	if err == nil || j.Phase != leave.TakenBack || !strings.Contains(err.Error(), "an update of it is paused") {
		t.Errorf("got %+v, %v", j, err)
	}
	if !lab.Await(t.Context(), time.Minute, func() bool { return w.healthy(w.from, "web") == 1 }) {
		t.Error("it does not serve here any more")
	}
	if _, after, _ := w.spec(t, "web"); after != before {
		t.Errorf("the service was\n%s\nand is\n%s", before, after)
	}
}

// TestSwarmCordon: a node that was cordoned gets no new tasks, and keeps those that it has.
func TestSwarmCordon(t *testing.T) {
	w := need(t)
	w.swarmOf(t)
	w.serve(t, "old", 2)
	s, err := swarm.Open(t.Context(), engine.Address{URL: w.to.Host()}, engine.Address{URL: w.from.Host()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Cordon(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	w.serve(t, "new", 2)
	if len(w.tasks(t, w.to, "new")) != 0 || len(w.tasks(t, w.to, "old")) != 1 {
		t.Errorf("%d new tasks, %d old ones", len(w.tasks(t, w.to, "new")), len(w.tasks(t, w.to, "old")))
	}
	if err := s.Cordon(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	w.serve(t, "last", 2)
	if len(w.tasks(t, w.to, "last")) == 0 {
		t.Error("no new task came once the cordon was lifted")
	}
}
