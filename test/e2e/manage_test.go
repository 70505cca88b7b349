package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// editor is a user of the host who may change one policy and delete none.
const editor = 5001

const managePolicies = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: editors}
spec:
  mode: enforce
  subjects: {uids: ["5001"]}
  rules:
    - {name: look, effect: allow, actions: [policy.list, policy.read, policy.history]}
    - {name: edit, effect: allow, actions: [policy.update, policy.rollback], resources: {names: [e2e-path]}}
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: roots}
spec:
  mode: enforce
  subjects: {users: [root]}
  rules:
    - {name: all, effect: allow, actions: ["*"]}
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: seal}
spec:
  mode: enforce
  subjects: {users: [root]}
  rules:
    - {name: sealed, effect: forbid, actions: [container.list]}
`

// A user may change a policy and not delete it; kernel and gate decide by what is in
// force, also after a rollback; root of a container is nobody here.
func TestManagePolicies(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	// Users must reach the socket.
	if err := os.Chmod(w.lab.Path(), 0o711); err != nil {
		t.Fatal(err)
	}
	run := func(want bool, r lab.Result, says string) {
		t.Helper()
		if got := r.Code == 0; got != want || !strings.Contains(r.Text(), says) {
			t.Errorf("done: %v, want %v and %q: %s", got, want, says, r.Text())
		}
	}
	as := func(uid uint32, text string, args ...string) lab.Result {
		t.Helper()
		return w.agent.BelayAs(ctx, uid, text, append([]string{"policy"}, args...)...)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		for _, p := range []string{"seal", "editors", "e2e-path", "roots"} {
			if r := w.agent.Belay(ctx, "policy", "delete", p); r.Code != 0 {
				t.Error(r.Err())
			}
		}
		if err := errors.Join(os.Chmod(w.lab.Path(), 0o700), w.agent.AwaitPolicies(ctx, 10*time.Second, "hardened")); err != nil {
			t.Error(err)
		}
	})
	w.up(t, "managed", "-u", "1000", image, "wait")
	try := func() lab.Result {
		return w.engine.Docker(ctx, "exec", "managed", "/bin/actor", "spawn", "/bin/forbidden", "say", "hello")
	}

	run(false, as(editor, pathPolicy, "apply", "-"), "only root of the host may")
	run(true, as(0, pathPolicy, "apply", "-", "-m", "e2e"), "e2e-path created")
	run(true, as(0, managePolicies, "apply", "-"), "roots created")
	if r := try(); !refused(r) {
		t.Fatalf("the policy that root applied does not hold: %v", r.Err())
	}

	t.Run("update, and no delete", func(t *testing.T) {
		run(true, as(editor, strings.Replace(pathPolicy, "/bin/forbidden", "/bin/other", 1), "apply", "-", "-m", "loosen"), "e2e-path updated")
		if r := try(); r.Code != 0 {
			t.Errorf("the user's change is not in force in the kernel: %v", r.Err())
		}
		run(false, as(editor, "", "delete", "e2e-path"), "policy.delete is denied: no rule allows it")
		run(false, as(editor, strings.Replace(pathPolicy, "e2e-path", "hardened", 1), "apply", "-"), "policy.update of hardened is denied")
		run(false, as(editor, strings.Replace(pathPolicy, "e2e-path", "more", 1), "apply", "-"), "policy.create of more is denied")
		run(false, as(5002, pathPolicy, "apply", "-"), "denied")
		run(false, w.agent.BelayAs(ctx, editor, "", "status"), "only root may")
		run(true, as(editor, "", "history", "e2e-path"), "uid 5001")
	})
	t.Run("a bad policy leaves the old one", func(t *testing.T) {
		run(false, as(editor, strings.Replace(pathPolicy, "deny:", "denied:", 1), "apply", "-"), "<stdin>:8:5")
		if st, err := w.agent.Status(ctx); err != nil || st.Policies.Error != "" || st.Names() != "e2e-path,hardened,editors,roots,seal" {
			t.Errorf("in force: %+v, %v", st, err)
		}
	})
	t.Run("rollback, in the kernel", func(t *testing.T) {
		run(true, as(editor, "", "rollback", "e2e-path", "-m", "it was right"), "e2e-path updated")
		if r := try(); !refused(r) {
			t.Errorf("after the rollback the former policy does not hold: %v", r.Err())
		}
	})
	t.Run("rollback, in the gate", func(t *testing.T) {
		c := w.engine.Client(filepath.Join(w.lab.Path("agent", "run"), "docker.sock"), 0)
		gate := func(denied, passes []string) {
			t.Helper()
			if r := c.Docker(ctx, denied...); r.Code == 0 || !strings.Contains(r.Stderr, "policy seal, rule sealed") {
				t.Errorf("docker %s: %v", denied, r.Err())
			}
			if r := c.Docker(ctx, passes...); r.Code != 0 {
				t.Errorf("docker %s: %v", passes, r.Err())
			}
		}
		gate([]string{"ps"}, []string{"images"})
		_, seal, _ := strings.Cut(managePolicies, "---\n")
		_, seal, _ = strings.Cut(seal, "---\n")
		run(true, as(0, strings.Replace(seal, "container.list", "image.list", 1), "apply", "-"), "seal updated")
		gate([]string{"images"}, []string{"ps"})
		run(true, as(0, "", "rollback", "seal"), "seal updated")
		gate([]string{"ps"}, []string{"images"})
	})
	t.Run("root of a container", func(t *testing.T) {
		pid := strings.TrimSpace(w.docker(t, "inspect", "-f", "{{.State.Pid}}", "managed"))
		b, err := os.ReadFile("/proc/" + pid + "/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		_, path, _ := strings.Cut(string(b), "0::")
		path, _, _ = strings.Cut(path, "\n")
		root := "/sys/fs/cgroup"
		if _, err := os.Stat(root + "/unified"); err == nil {
			root += "/unified" // beside version 1
		}
		run(false, w.agent.BelayIn(ctx, filepath.Join(root, path), pathPolicy, "policy", "apply", "-"), "no access policy names the caller")
	})
	t.Run("two writers", func(t *testing.T) {
		run(false, as(editor, strings.Replace(pathPolicy, "/bin/forbidden", "/bin/other", 1), "apply", "-", "--if-revision", "1"), "changed since revision 1")
	})
	t.Run("after a kill", func(t *testing.T) {
		if err := errors.Join(w.agent.Kill(), w.agent.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		run(true, as(editor, "", "history", "e2e-path"), "it was right")
		run(true, as(editor, "", "diff", "e2e-path"), "+    deny: [/bin/forbidden]")
		if r := try(); !refused(r) {
			t.Errorf("after a restart: %v", r.Err())
		}
	})
}
