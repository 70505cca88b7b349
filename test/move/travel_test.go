package move

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/tools/lab"
)

// travelPolicies are of both nodes: one program may not run in a web server, and whoever creates a container through
// the gate gets no root in it.
var travelPolicies = map[string]string{
	"runtime.yaml": `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: no-id}
spec:
  selector: {labels: {app: web}}
  mode: enforce
  exec: {deny: ["/bin/id"]}
`,
	"access.yaml": `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: no-root}
spec:
  mode: enforce
  subjects: {uids: ["0"]}
  rules:
    - {name: containers, effect: allow, actions: ["container.*"], checks: [notRoot]}
    - {name: rest, effect: allow, actions: ["system.*", "image.*", "network.*", "volume.*", "node.*"]}
`,
}

// tries is what the container does before anything else.
const tries = "/bin/id; echo tried; exec httpd -f -p 8080 -h /www"

// TestPolicyTravels: what is denied to a container, by a RuntimePolicy and by the binding of the gate that it was
// created through, is denied to its copy from the first instruction on. The source is bound for as long as it is kept,
// and no longer.
func TestPolicyTravels(t *testing.T) {
	w := need(t)
	began := time.Now()
	a, b := w.newNode(t, w.from, w.labs[0], 400*mib), w.newNode(t, w.to, w.labs[1], 400*mib)
	for _, n := range []*node{a, b} {
		for file, text := range travelPolicies {
			if err := n.SetPolicy(file, text); err != nil {
				t.Fatal(err)
			}
		}
		n.start(t, fmt.Sprintf(nodePolicy, 90, "alert"))
	}
	t.Cleanup(func() { w.forget(t, "shop") })
	if r := w.from.Client(a.gate, 0).Docker(t.Context(), "run", "-d", "--name", "shop", "--label", "app=web", "--user", "1000", "--stop-signal", "KILL", image, "sh", "-c", tries); r.Code != 0 {
		t.Fatal(r.Err())
	}
	a.holds(t, began)
	moved := a.Belay(t.Context(), "move", "shop", "--from", w.from.Host(), "--to", "unix://"+b.gate, "--image", "stream", "--settle", "1s", "--state-dir", a.StateDir())
	if moved.Code != 0 {
		t.Fatal(moved.Text())
	}
	b.holds(t, began)
	records := func() int {
		list, err := filepath.Glob(filepath.Join(a.StateDir(), "bindings", "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := records(); n != 1 {
		t.Errorf("the source is kept, and has %d bindings", n)
	}
	j := only(t, a.moves())
	if r := a.Belay(t.Context(), "move", "finish", j.ID, "--state-dir", a.StateDir()); r.Code != 0 {
		t.Fatal(r.Text())
	}
	if !lab.Await(t.Context(), 20*time.Second, func() bool {
		return records() == 0 && !strings.Contains(a.Belay(context.Background(), "containers").Stdout, "shop")
	}) {
		t.Errorf("its source is gone, and %d bindings are left:\n%s", records(), a.Belay(t.Context(), "containers").Text())
	}
}

func (n *node) moves() string { return movesdir.Below(n.StateDir()) }

// holds fails unless the container was denied its first program, and is denied root, on a node.
func (n *node) holds(t *testing.T, since time.Time) {
	t.Helper()
	var out string
	if !lab.Await(t.Context(), 20*time.Second, func() bool {
		out = n.e.Docker(t.Context(), "logs", "shop").Text()
		return strings.Contains(out, "tried")
	}) || strings.Contains(out, "uid=") {
		t.Errorf("%s: it said %q", n.e.Scope, out)
	}
	if r := n.e.Docker(t.Context(), "exec", "--user", "0", "shop", "/bin/echo", "root"); r.Code == 0 || strings.Contains(r.Stdout, "root") {
		t.Errorf("%s: root ran: %s", n.e.Scope, r.Text())
	}
	want := map[string]bool{"no-id": true, "no-root": true}
	var list []lab.Event
	if !lab.Await(t.Context(), 20*time.Second, func() bool {
		var err error
		if list, err = n.Denials(t.Context(), since); err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if strings.HasPrefix(e.Container.Name, "shop") {
				delete(want, e.Policy.Name)
			}
		}
		return len(want) == 0
	}) {
		t.Errorf("%s: no denial by %v among %+v", n.e.Scope, want, list)
	}
}
