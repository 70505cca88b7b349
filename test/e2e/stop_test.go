package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// stopPolicy is no floor: the agent binds it to the containers of one label.
const stopPolicy = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: e2e-stop
spec:
  selector:
    labels: {e2e.tier: stopped}
  mode: enforce
  exec:
    deny: [/bin/forbidden]
`

// onStop is a shell that does at SIGTERM what it could not do before.
const onStop = `cp /bin/actor /tmp/dropped
trap '/bin/forbidden touch /out/forbidden; /tmp/dropped touch /out/dropped; /bin/actor touch /out/allowed; exit 0' TERM
/bin/actor touch /out/up
while :; do /bin/busybox sleep 0.1; done`

// A container that is told to stop is under its policies, the floor's and its own, until
// it is gone.
func TestStop(t *testing.T) {
	w := need(t)
	w.policy(t, "stop.yaml", stopPolicy, "e2e-stop,hardened")
	for _, tt := range []struct{ name, label, want string }{
		{"own policy", "e2e.tier=stopped", "allowed,up"},
		{"floor only", "e2e.tier=other", "allowed,forbidden,up"}, // the rule above is what stops it
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, begin, out := t.Context(), time.Now(), outDir(t)
			w.up(t, "stopping", "-u", "1000", "--label", tt.label, "-v", out+":/out", "--entrypoint", "/bin/busybox", image, "sh", "-c", onStop)
			up := func() bool { _, err := os.Stat(filepath.Join(out, "up")); return err == nil }
			if !lab.Await(ctx, 10*time.Second, up) {
				t.Fatal("it does not come up")
			}
			if r := w.engine.Docker(ctx, "stop", "-t", "20", "stopping"); r.Code != 0 {
				t.Fatal(r.Err())
			}
			if got := strings.Join(files(t, out), ","); got != tt.want {
				t.Errorf("what ran while it stopped: %s, want %s", got, tt.want)
			}
			rules := func() string { return strings.Join(w.denials(t, begin, "stopping"), "\n") }
			lab.Await(ctx, 5*time.Second, func() bool { return strings.Contains(rules(), "exec.drift") })
			if got := rules(); !strings.Contains(got, "exec.drift") || strings.Contains(got, "exec.deny") != (tt.want == "allowed,up") {
				t.Errorf("records:\n%s", got)
			}
		})
	}
}
