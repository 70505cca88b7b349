package proxy

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/load/recreate"
	"github.com/belay-project/belay/internal/testneed"
)

const nodePolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: nodes}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: ask, effect: %s, actions: [node.read]}
    - {name: run, effect: allow, actions: ["container.*", image.inspect]}
`

func withNode(asked *[]string, err error) func(*Options) {
	return func(o *Options) {
		o.Node = func(_ context.Context, images []string) ([]byte, error) {
			*asked = images
			return []byte(`{"schema":"x"}`), err
		}
	}
}

// TestNode: who may read the node gets its description from the gate itself, and nobody else.
func TestNode(t *testing.T) {
	id := "sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		name, effect, mode, path, method string
		err                              error
		status                           int
		says                             string
	}{
		{"allowed", "allow", "", NodePath, "GET", nil, 200, `{"schema":"x"}`},
		{"with an image", "allow", "", NodePath + "?image=" + id, "GET", nil, 200, `{"schema":"x"}`},
		{"forbidden", "forbid", "", NodePath, "GET", nil, 403, "belay: node.read is denied by policy nodes, rule ask"},
		{"forbidden in audit", "forbid", "audit", NodePath, "GET", nil, 200, `{"schema":"x"}`},
		{"another key", "allow", "", NodePath + "?all=1", "GET", nil, 400, "the only key is image"},
		{"no ID", "allow", "", NodePath + "?image=nginx", "GET", nil, 400, "asked about by its ID"},
		{"too many", "allow", "", NodePath + "?" + strings.Repeat("image="+id+"&", maxAskedImages+1), "GET", nil, 400, "too many images"},
		{"a method", "allow", "", NodePath, "POST", nil, 405, "takes GET without a body"},
		{"a failure", "allow", "", NodePath, "GET", errors.New("the engine is away"), 503, "the node cannot be described: the engine is away"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(nodePolicy, "%s", tt.effect, 1)
			if tt.mode != "" {
				text = strings.Replace(text, "mode: enforce", "mode: "+tt.mode, 1)
			}
			var asked []string
			g := startGate(t, text, withNode(&asked, tt.err))
			status, body := do(t, g.client(t), tt.method, tt.path, "")
			if status != tt.status || !strings.Contains(body, tt.says) {
				t.Errorf("got %d %s, want %d %s", status, body, tt.status, tt.says)
			}
			if strings.Contains(tt.path, id) && status == 200 && (len(asked) != 1 || asked[0] != id) {
				t.Errorf("asked about %q", asked)
			}
			if len(g.d.requests()) > 0 {
				t.Errorf("the daemon was asked %v", g.d.requests())
			}
			if ev := g.rec.all(); len(ev) != 1 || ev[0].Action != "node.read" || ev[0].Status != tt.status || (ev[0].Decision == Denied) != (status != 200 && status != 503) && status != 503 {
				t.Errorf("recorded %+v", ev)
			}
		})
	}
}

// TestNodeNot: a gate that describes nothing says so, and a connection goes on after an answer.
func TestNodeNot(t *testing.T) {
	g := startGate(t, strings.Replace(nodePolicy, "%s", "allow", 1))
	c := g.client(t)
	if status, body := do(t, c, "GET", NodePath, ""); status != http.StatusNotImplemented || !strings.Contains(body, "does not describe") {
		t.Errorf("got %d %s", status, body)
	}
	var asked []string
	g = startGate(t, strings.Replace(nodePolicy, "%s", "allow", 1), withNode(&asked, nil))
	c = g.client(t)
	for range 2 {
		if status, body := do(t, c, "GET", NodePath, ""); status != 200 {
			t.Errorf("got %d %s", status, body)
		}
		if status, body := do(t, c, "GET", "/containers/web/json", ""); status != 200 {
			t.Errorf("after it: got %d %s", status, body)
		}
	}
}

// TestCordon: a node that takes no new containers refuses their creates and first starts with the
// reason; what has run starts again, and moves that are under way go on.
func TestCordon(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "root of the host carries moves out")
	const image = `{"Image":"app","User":"1000"}`
	helper := `{"Image":"app","User":"1000","Labels":{"` + recreate.LabelHelper + `":"data","` + recreate.LabelMove + `":"0123456789abcdef"}}`
	copied := `{"Image":"app","User":"1000","Labels":{"` + recreate.LabelHelper + `":"","` + recreate.LabelMove + `":"0123456789abcdef"}}`
	tests := []struct {
		name, why, path, body, started, label string
		status                                int
	}{
		{"no cordon", "", "/containers/create", image, "", "", 201},
		{"create", "memory is over", "/containers/create", image, "", "", 503},
		{"a move's helper", "memory is over", "/containers/create", helper, "", "", 201},
		{"a container that a move brings", "memory is over", "/containers/create", copied, "", "", 503},
		{"first start", "memory is over", "/containers/web/start", "", "0001-01-01T00:00:00Z", "", 503},
		{"first start by restart", "memory is over", "/containers/web/restart", "", "0001-01-01T00:00:00Z", "", 503},
		{"no cordon, first start", "", "/containers/web/start", "", "0001-01-01T00:00:00Z", "", 204},
		{"start again", "memory is over", "/containers/web/start", "", "2026-03-01T00:00:00Z", "", 204},
		{"start of a copy", "memory is over", "/containers/web/start", "", "", recreate.LabelMove, 204},
		{"stop", "memory is over", "/containers/web/stop", "", "", "", 204},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := startGate(t, strings.Replace(nodePolicy, "%s", "allow", 1), func(o *Options) { o.Cordon = func() string { return tt.why } })
			g.d.mu.Lock()
			g.d.started, g.d.label = tt.started, tt.label
			g.d.mu.Unlock()
			status, body := do(t, g.client(t), "POST", tt.path, tt.body)
			if status != tt.status {
				t.Fatalf("got %d %s, want %d", status, body, tt.status)
			}
			if refused := tt.status == 503; refused != strings.Contains(body, "takes no new containers: memory is over") || refused != (g.counter("gate_cordoned") == 1) {
				t.Errorf("got %s, counter %d", body, g.counter("gate_cordoned"))
			}
			if acted := g.d.acted(); tt.status == 503 && len(acted) > 0 && acted[len(acted)-1].method != "GET" {
				t.Errorf("the daemon was asked %+v", acted)
			}
		})
	}
}
