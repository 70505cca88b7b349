package gate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/gate/token"
)

// The stock docker command calls as a bearer token: its rights are the token's and not the
// user's, and a token that is wrong or revoked has none.
func TestTokenCLI(t *testing.T) {
	const text = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: everyone}
spec:
  mode: enforce
  subjects: {uids: ["1-9999"]}
  rules: [{name: look, effect: allow, actions: [container.list, system.ping, system.version]}]
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: ci}
spec:
  mode: enforce
  subjects: {tokens: ["ci-*"]}
  rules:
    - {name: ping, effect: allow, actions: [system.ping, system.version, image.inspect]}
    - {name: make, effect: allow, actions: [container.create], checks: [notRoot, notPrivileged]}
    - {name: own, effect: allow, actions: [container.start, container.attach, container.wait, container.delete, container.inspect], resources: {own: true}}
`
	store, err := token.Open(filepath.Join(t.TempDir(), "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := store.Create("ci-1", time.Hour, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	g := need(t).start(t, text, func(o *proxy.Options) { o.Tokens = store })
	with := func(secret string) []string {
		dir, err := os.MkdirTemp("", "belay-config-") // of another user
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		file := filepath.Join(dir, "config.json")
		if err := os.WriteFile(file, []byte(`{"HttpHeaders": {"Authorization": "Bearer `+secret+`"}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{dir, file} {
			if err := os.Chown(p, 5001, 5001); err != nil {
				t.Fatal(err)
			}
		}
		return []string{"DOCKER_CONFIG=" + dir}
	}
	alice, ci, wrong := g.as(5001), g.as(5001), g.as(5001)
	ci.Env, wrong.Env = with(secret), with(strings.Replace(secret, "belay_", "belay_0", 1)[:len(secret)])

	run := []string{"run", "--rm", "--name", "by-token", image, "sh", "-c", "id -u; echo done"}
	if r := alice.Docker(t.Context(), run...); r.Code == 0 || !strings.Contains(r.Stderr, "denied") {
		t.Errorf("the user itself: %d %s", r.Code, r.Stderr)
	}
	if out := ok(t, ci, run...); out != "1000\ndone\n" {
		t.Errorf("with the token: %q", out)
	}
	if ev := g.last("container.create"); ev.Subject.Kind != apicall.Token || ev.Subject.Token != "ci-1" || ev.Peer == nil || ev.Peer.UID != 5001 {
		t.Errorf("record %+v of %+v", ev, ev.Subject)
	}
	if r := ci.Docker(t.Context(), "run", "--rm", "--privileged", image, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "notPrivileged") {
		t.Errorf("privileged: %d %s", r.Code, r.Stderr)
	}
	ok(t, alice, "ps")
	if r := wrong.Docker(t.Context(), "ps"); r.Code == 0 || !strings.Contains(r.Stderr, "no valid bearer token") {
		t.Errorf("a wrong token, where the user may: %d %s", r.Code, r.Stderr)
	}
	if _, err := store.Revoke("ci-1"); err != nil {
		t.Fatal(err)
	}
	if r := ci.Docker(t.Context(), run...); r.Code == 0 || !strings.Contains(r.Stderr, "no valid bearer token") {
		t.Errorf("revoked: %d %s", r.Code, r.Stderr)
	}
}
