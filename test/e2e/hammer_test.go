package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const pathPolicy = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: e2e-path
spec:
  mode: enforce
  exec:
    deny: [/bin/forbidden]
`

// outDir is a directory of the host that containers write to when they run.
func outDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A container whose entrypoint is forbidden never gets to its first instruction, not
// even in the moment between its creation and the arrival of its policy.
func TestStartWindow(t *testing.T) {
	w := need(t)
	n := count(t, "BELAY_HAMMER_STARTS", 20)
	w.policy(t, "path.yaml", pathPolicy, "e2e-path,hardened")
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"as root", []string{"--entrypoint", "/bin/actor"}},
		{"by path", []string{"-u", "1000", "--entrypoint", "/bin/forbidden"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := outDir(t)
			// The proof that a program which runs leaves its mark.
			w.docker(t, "run", "--rm", "-u", "1000", "-v", out+":/out", image, "touch", "/out/control")
			// Two at once, so that one starts while another's cgroup comes or goes.
			var workers sync.WaitGroup
			var next, odd atomic.Int64
			for range 2 {
				workers.Go(func() {
					for i := next.Add(1); i <= int64(n) && odd.Load() <= 3; i = next.Add(1) {
						// A network of its own takes the engine as long as all the rest.
						args := append([]string{"run", "--rm", "--network", "host", "-v", out + ":/out"}, tt.args...)
						r := w.engine.Docker(t.Context(), append(args, image, "touch", fmt.Sprintf("/out/%d", i))...)
						if !refused(r) {
							odd.Add(1)
							t.Errorf("start %d: %v", i, r.Err())
						}
					}
				})
			}
			workers.Wait()
			if got := files(t, out); len(got) != 1 || got[0] != "control" {
				t.Errorf("%d of %d forbidden entrypoints ran: %v", len(got)-1, n, got)
			}
		})
	}
}

// A program that tries again and again is denied again and again.
func TestRetry(t *testing.T) {
	w := need(t)
	n := count(t, "BELAY_HAMMER_RETRIES", 500)
	w.policy(t, "path.yaml", pathPolicy, "e2e-path,hardened")
	out := outDir(t)
	w.up(t, "retry", "-u", "1000", "-v", out+":/out", image, "wait")
	for _, tt := range []struct{ name, program string }{
		{"setuid", "/bin/asroot"},
		{"by path", "/bin/forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := w.engine.Docker(t.Context(), "exec", "retry", "/bin/actor", "loop", fmt.Sprint(n), tt.program, "touch", "/out/"+filepath.Base(tt.program))
			t.Logf("%s in %v", strings.TrimSpace(r.Stdout), r.Took)
			if r.Code != 0 || !strings.Contains(r.Stdout, "loop ran=0 ") || !strings.Contains(r.Stdout, "other=0") {
				t.Errorf("%d tries: %v", n, r.Err())
			}
			if got := files(t, out); len(got) != 0 {
				t.Errorf("it ran: %v", got)
			}
		})
	}
	r := w.engine.Docker(t.Context(), "exec", "retry", "/bin/actor", "loop", "3", "/bin/actor", "say", "hello")
	if !strings.Contains(r.Stdout, "ran=3 ") {
		t.Errorf("what is allowed does not run: %v", r.Err())
	}
}
