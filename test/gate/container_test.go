package gate

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/testneed"
)

// A process in a container is the container and never user root, though its uid is 0:
// without a policy that names it the gate is closed to it.
func TestCallerInContainer(t *testing.T) {
	w := need(t)
	curl, err := exec.LookPath("curl")
	testneed.Need(t, "curl", err == nil, "it calls from a cgroup: apt-get install curl")
	r := w.engine.Docker(t.Context(), "run", "-d", "--name", "caller", image, "sleep", "100")
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	t.Cleanup(func() { w.engine.Docker(context.WithoutCancel(t.Context()), "rm", "-f", "caller") })
	id := strings.TrimSpace(r.Stdout)
	procs := w.procsOf(t, id)
	for _, policy := range []string{"", developers} {
		g := w.start(t, policy)
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `echo $$ >"$1" && exec "$2" -s --unix-socket "$3" http://d/_ping`, "sh", procs, curl, g.socket)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !strings.Contains(string(out), "belay:") {
			t.Errorf("root of a container got %s", out)
		}
		if ev := g.last("system.ping"); ev.Subject.Kind != apicall.Container || ev.Subject.ContainerID != id || ev.Subject.UID != 0 || ev.Decision != "denied" {
			t.Errorf("record %+v of %+v", ev, ev.Subject)
		}
	}
}

// procsOf returns the file that puts a process into a container's cgroup.
func (w *world) procsOf(t *testing.T, id string) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		p := filepath.Join(root, w.engine.Scope, id, "cgroup.procs")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Fatal("the container's cgroup is not found")
	return ""
}
