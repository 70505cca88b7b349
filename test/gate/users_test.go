package gate

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
)

// Two users at once cannot see or touch each other's containers (docs: ownership).
func TestTwoUsers(t *testing.T) {
	g := need(t).start(t, developers)
	a, b := g.as(5001), g.as(5002)
	up := func(name string, uid uint32) {
		c := g.as(uid)
		ok(t, c, "run", "-d", "--name", name, image, "sleep", "1000")
		t.Cleanup(func() { g.engine.Docker(context.WithoutCancel(t.Context()), "rm", "-f", name) })
	}
	up("alice", 5001)
	up("bob", 5002)
	bobID := strings.TrimSpace(g.engine.Docker(t.Context(), "inspect", "-f", "{{.Id}}", "bob").Stdout)
	t.Run("list", func(t *testing.T) {
		if out := ok(t, a, "ps", "--format", "{{.Names}}"); strings.TrimSpace(out) != "alice" {
			t.Errorf("alice sees %q", out)
		}
		if out := ok(t, b, "ps", "--format", "{{.Names}}"); strings.TrimSpace(out) != "bob" {
			t.Errorf("bob sees %q", out)
		}
	})
	t.Run("touch", func(t *testing.T) {
		for _, ref := range []string{"bob", bobID, bobID[:12], bobID[:4]} {
			for _, args := range [][]string{
				{"inspect", ref}, {"stop", ref}, {"rm", ref}, {"exec", ref, "id"}, {"logs", ref}, {"cp", ref + ":/bin/sh", "/dev/null"},
				{"rename", ref, "mine"}, {"attach", "--no-stdin", ref}, {"commit", ref, "stolen"}, {"export", "-o", "/dev/null", ref},
				{"top", ref}, {"kill", ref}, {"update", "--memory", "64m", ref}, {"run", "--rm", "--volumes-from", ref, image, "true"},
				{"run", "--rm", "--pid", "container:" + ref, image, "true"}, {"network", "connect", "bridge", ref},
			} {
				if r := a.Docker(t.Context(), args...); r.Code == 0 {
					t.Errorf("alice could: docker %s", strings.Join(args, " "))
				}
			}
		}
		if out := g.engine.Docker(t.Context(), "inspect", "-f", "{{.State.Running}} {{.Name}}", "bob").Stdout; out != "true /bob\n" {
			t.Errorf("bob's container: %q", out)
		}
	})
	t.Run("what is hidden does not exist", func(t *testing.T) {
		r := a.Docker(t.Context(), "rm", "-f", "bob")
		if !strings.Contains(r.Stderr, "No such container: bob") {
			t.Errorf("got %q", r.Stderr)
		}
		if ev := g.last("container.delete"); ev.Decision != proxy.Denied || ev.Status != 404 || ev.Cause != "hidden" || len(ev.IDs) == 0 {
			t.Errorf("record: %+v", ev)
		}
	})
	t.Run("D20 forged owner", func(t *testing.T) {
		ok(t, a, "run", "-d", "--name", "forged", "--label", "belay.dev/owner=uid:5002", image, "sleep", "1000")
		defer g.engine.Docker(context.WithoutCancel(t.Context()), "rm", "-f", "forged")
		out := g.engine.Docker(t.Context(), "inspect", "-f", `{{index .Config.Labels "belay.dev/owner"}}`, "forged").Stdout
		if strings.TrimSpace(out) != "uid:5001" {
			t.Errorf("the owner is %q", out)
		}
		if out := ok(t, b, "ps", "-aq", "--filter", "label=belay.dev/owner=uid:5001"); out != "" {
			t.Errorf("bob sees %q", out)
		}
	})
	t.Run("D20 forged by an image", func(t *testing.T) {
		c := a
		c.Env = []string{"DOCKER_BUILDKIT=0"}
		r := c.DockerIn(t.Context(), tarOf(t, map[string]string{"Dockerfile": "FROM " + image + "\nLABEL belay.dev/owner=uid:5002\n"}), "build", "-t", "forge", "-")
		if r.Code != 0 {
			t.Fatal(r.Err())
		}
		ok(t, a, "run", "-d", "--name", "forged", "forge", "sleep", "1000")
		defer g.engine.Docker(context.WithoutCancel(t.Context()), "rm", "-f", "forged")
		out := g.engine.Docker(t.Context(), "inspect", "-f", `{{index .Config.Labels "belay.dev/owner"}}`, "forged").Stdout
		if strings.TrimSpace(out) != "uid:5001" {
			t.Errorf("the owner is %q", out)
		}
	})
	t.Run("events", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := make(chan string, 1)
		since := fmt.Sprint(time.Now().Unix() - 1) // what came before the command was ready is told too
		go func() {
			seen <- a.Docker(ctx, "events", "--since", since, "--format", "{{.Actor.Attributes.name}}").Stdout
		}()
		time.Sleep(700 * time.Millisecond)
		ok(t, a, "restart", "-t", "0", "alice")
		ok(t, b, "restart", "-t", "0", "bob")
		time.Sleep(3 * time.Second)
		cancel()
		out := <-seen
		if !strings.Contains(out, "alice") || strings.Contains(out, "bob") {
			t.Errorf("alice sees the events %q", out)
		}
	})
	t.Run("D11 exec of another", func(t *testing.T) {
		id := execCreate(t, g, b, "bob")
		status, _ := call(t, g, 5001, "POST", "/exec/"+id+"/start", `{"Detach":true}`)
		if status != 404 {
			t.Errorf("starting bob's exec: status %d, want 404", status)
		}
		status, _ = call(t, g, 5002, "POST", "/exec/"+id+"/start", `{"Detach":true}`)
		if status != 200 {
			t.Errorf("bob's own: status %d", status)
		}
	})
	t.Run("prune touches one's own", func(t *testing.T) {
		ok(t, a, "volume", "create", "alice-vol")
		ok(t, b, "volume", "create", "bob-vol")
		defer g.engine.Docker(t.Context(), "volume", "rm", "-f", "alice-vol", "bob-vol")
		if out := ok(t, a, "volume", "ls", "-q"); strings.TrimSpace(out) != "alice-vol" {
			t.Errorf("alice sees volumes %q", out)
		}
		ok(t, a, "volume", "prune", "-f")
		if out := ok(t, b, "volume", "ls", "-q"); !strings.Contains(out, "bob-vol") {
			t.Errorf("bob's volumes are %q", out)
		}
	})
	t.Run("network members", func(t *testing.T) {
		ok(t, a, "network", "create", "alice-net")
		defer g.engine.Docker(t.Context(), "network", "rm", "alice-net")
		ok(t, a, "network", "connect", "alice-net", "alice")
		g.engine.Docker(t.Context(), "network", "connect", "alice-net", "bob")
		defer g.engine.Docker(t.Context(), "network", "disconnect", "-f", "alice-net", "bob")
		defer g.engine.Docker(t.Context(), "network", "disconnect", "-f", "alice-net", "alice")
		out := ok(t, a, "network", "inspect", "alice-net")
		if !strings.Contains(out, `"Name": "alice"`) || strings.Contains(out, `"Name": "bob"`) {
			t.Errorf("alice sees %s", out)
		}
	})
}

// What a policy forbids is refused with the rule named, and does not reach the daemon.
func TestDenied(t *testing.T) {
	g := need(t).start(t, developers)
	c := g.as(5001)
	for _, d := range []struct {
		name, want string
		args       []string
	}{
		{"privileged", "notPrivileged", []string{"--privileged", image, "true"}},
		{"D10 root", "notRoot", []string{"-u", "0", image, "true"}},
		{"D10 root by any spelling", "notRoot", []string{"-u", "00:0", image, "true"}},
		{"D1 bind", "hostMounts", []string{"-v", "/:/host", image, "true"}},
		{"D1 mount", "hostMounts", []string{"--mount", "type=bind,source=/etc,target=/x", image, "true"}},
		{"D1 volume with options", "hostMounts", []string{"--mount", "type=volume,target=/x,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/", image, "true"}},
		{"D6 pid", "noHostNamespaces", []string{"--pid", "host", image, "true"}},
		{"D6 net", "noHostNamespaces", []string{"--network", "host", image, "true"}},
	} {
		t.Run(d.name, func(t *testing.T) {
			r := c.Docker(t.Context(), append([]string{"run", "--rm"}, d.args...)...)
			if r.Code == 0 || !strings.Contains(r.Stderr, "developers") || !strings.Contains(r.Stderr, d.want) {
				t.Errorf("got %v, want the policy and %s", r.Err(), d.want)
			}
			if ev := g.last("container.create"); ev.Decision != proxy.Denied || ev.Status != 403 {
				t.Errorf("record: %+v", ev)
			}
		})
	}
	for _, args := range [][]string{{"swarm", "init"}, {"pull", "x"}, {"plugin", "ls"}, {"system", "prune", "-f"}} {
		if r := c.Docker(t.Context(), args...); r.Code == 0 {
			t.Errorf("docker %q was allowed", args)
		}
	}
}
