package proxy

import (
	"strings"
	"testing"
	"time"
)

const noHostNS = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: walls}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules: [{name: all, effect: allow, actions: ["container.*"], checks: [noHostNamespaces]}]
`

// What a request without a version means depends on the daemon: an old one gives the
// host's cgroup namespace where nothing is said.
func TestAboutDaemon(t *testing.T) {
	for _, d := range []struct {
		name, version, cgroups, path string
		want                         int
	}{
		{"new", "1.44", "2", "/containers/create", 201},
		{"old on cgroup v1", "1.40", "1", "/containers/create", 403},
		{"old on cgroup v2", "1.40", "2", "/containers/create", 201},
		{"new on cgroup v1, old client", "1.44", "1", "/v1.40/containers/create", 403},
		{"new on cgroup v2, old client", "1.44", "2", "/v1.40/containers/create", 201},
		{"new client", "1.44", "1", "/v1.41/containers/create", 201},
		{"one that does not say", "", "2", "/containers/create", 403},
		{"one that says nonsense", "2.0", "2", "/containers/create", 403},
	} {
		t.Run(d.name, func(t *testing.T) {
			g := startGate(t, noHostNS)
			for until := time.Now().Add(10 * time.Second); g.about.Load() == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					t.Fatal("the gate has not asked what the daemon is")
				}
			}
			g.d.mu.Lock()
			g.d.version, g.d.cgroups = d.version, d.cgroups
			g.d.mu.Unlock()
			g.about.Store(nil)
			status, answer := do(t, g.client(t), "POST", d.path, `{"Image":"app","User":"1000"}`)
			if status != d.want {
				t.Errorf("got %d %s, want %d", status, answer, d.want)
			}
		})
	}
}

// An exec without a user runs as the container's own.
func TestExecUser(t *testing.T) {
	proc := fakeProc(t, "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nodd:x:0x5:5:::\n")
	for _, d := range []struct {
		name, user, body string
		want             int
	}{
		{"the container's is root", "", `{"Cmd":["id"]}`, 403},
		{"the container's is root by number", "0:0", `{"Cmd":["id"]}`, 403},
		{"the container's is another", "1000", `{"Cmd":["id"]}`, 204},
		{"the container's has a name", "app", `{"Cmd":["id"]}`, 204},
		{"a name that is 0 there", "1000", `{"Cmd":["id"],"User":"toor:10"}`, 403},
		{"a name without a number", "odd", `{"Cmd":["id"]}`, 403},
		{"a name that is not there", "nobody", `{"Cmd":["id"]}`, 403},
		{"asked for root", "1000", `{"Cmd":["id"],"User":"root"}`, 403},
		{"asked for another", "", `{"Cmd":["id"],"User":"1000"}`, 204},
	} {
		t.Run(d.name, func(t *testing.T) {
			g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "enforce"), func(o *Options) { o.proc = proc })
			g.d.mu.Lock()
			g.d.user = d.user
			g.d.mu.Unlock()
			if status, answer := do(t, g.client(t), "POST", "/containers/web/exec", d.body); status != d.want {
				t.Errorf("got %d %s, want %d", status, answer, d.want)
			}
		})
	}
}
