package policy

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

func TestDockerSocket(t *testing.T) {
	obliges := func(name, mode, users, what string) string {
		return access(name, "  mode: "+mode+"\n  subjects: {users: ["+users+"]}\n  obligations: {dockerSocket: "+what+"}\n")
	}
	s := accessSet(t,
		obliges("a", "enforce", "alice, bob", SocketReplace), obliges("b", "enforce", "bob", SocketRefuse),
		obliges("c", "audit", "alice, carol", SocketRefuse))
	for user, want := range map[string]string{"alice": SocketReplace + " a", "bob": SocketRefuse + " b", "carol": "", "dave": ""} {
		got, by := s.DockerSocket(&apicall.Subject{Kind: apicall.User, UID: 1, Name: user})
		if by != nil {
			got += " " + by.Name
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", user, got, want)
		}
	}
	_, err := ParseAll("a.yaml", []byte(`apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: a}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules: [{effect: allow, actions: [container.create], obligations: {dockerSocket: replace}}]
`))
	if err == nil || !strings.Contains(err.Error(), "obligations below spec") {
		t.Errorf("on a rule: %v", err)
	}
}

// A mount of the gate's own socket passes the checks on mounts; another does not.
func TestGateSocketMount(t *testing.T) {
	for _, check := range []string{"hostMounts", "noSocketMounts", "noSensitiveMounts"} {
		c := Check{Name: check, spec: findCheck(check)}
		m := apicall.HostMount{Via: "bind", Source: "/var/run/docker.sock", Resolved: "/run/belay/docker.sock"}
		for _, gate := range []bool{true, false} {
			m.GateSocket = gate
			in := checkInput{actionIDs["container.create"], &apicall.Facts{HostMounts: []apicall.HostMount{m}}, &Defaults{}}
			if why := c.fails(in); (why == "") != gate {
				t.Errorf("%s, gate %v: %q", check, gate, why)
			}
		}
	}
}
