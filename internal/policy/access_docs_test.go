package policy

import (
	"os"
	"strings"
	"testing"
)

// The reference must name every field, action, check with its meaning and parameters,
// and variable; its whole documents must be accepted; its test must pass.
func TestAccessReference(t *testing.T) {
	src, err := os.ReadFile("../../docs/access-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(src)
	want := func(what, text string) {
		if !strings.Contains(doc, text) {
			t.Errorf("%s is not documented: no %s", what, text)
		}
	}
	for name := range accessHome {
		want("field "+name, "`"+name)
	}
	for _, a := range actions {
		want("action", "`"+a+"`")
	}
	for _, c := range Checks() {
		want("check "+c.Name, "| `"+c.Name+"` | "+strings.ReplaceAll(c.Doc, "*", `\*`))
		for _, p := range c.Params {
			name, text, _ := strings.Cut(p, ": ")
			want("parameter of "+c.Name, "`"+name+"`: "+strings.ReplaceAll(text, "*", `\*`))
		}
	}
	for _, s := range structs {
		for _, f := range s.fields {
			want("field of "+s.name, "`"+f.name+"`")
		}
	}
	var policies []*AccessPolicy
	var tests []*AccessTest
	for _, block := range strings.Split(doc, "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		ts, docs, err := ParseTests("access-policy.md", []byte(block))
		if err != nil {
			t.Errorf("example:\n%s\n%v", block, err)
		}
		policies, tests = append(policies, docs.Access...), append(tests, ts...)
	}
	if len(policies) < 7 || len(tests) != 1 {
		t.Fatalf("got %d policies and %d tests", len(policies), len(tests))
	}
	set, err := NewSet(nil, policies...)
	if err != nil {
		t.Fatal(err)
	}
	first, err := NewSet(nil, policies[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range tests[0].Requests {
		r := &tests[0].Requests[i]
		d := first.Access().Decide(&r.Call, at)
		if differs := r.Want.Differs(&d); len(differs) > 0 {
			t.Errorf("%s: %s (%s)", r.Name, strings.Join(differs, "; "), d.Reason)
		}
	}
	testCookbook(t, set.Access())
}

// The recipes do what their text says.
func testCookbook(t *testing.T, s *Access) {
	requests := `apiVersion: belay.dev/v1
kind: AccessTest
metadata: {name: cookbook}
spec:
  requests:
    - {name: ci runs, subject: {name: ci}, action: container.create, facts: {image: x, user: "1"}, expect: {decision: allowed, policy: ci-runner}}
    - {name: ci as root, subject: {name: ci}, action: container.create, facts: {image: x, user: "0"}, expect: denied}
    - {name: ci pushes elsewhere, subject: {name: ci}, action: image.push, facts: {image: evil.org/x}, expect: denied}
    - {name: ci publishes, subject: {name: ci}, action: container.create, facts: {user: "1", ports: [{port: 80/tcp}]}, expect: denied}
    - {name: traefik lists, subject: {containerID: x, containerLabels: {com.docker.compose.service: traefik}}, action: container.list, expect: allowed}
    - {name: traefik starts, subject: {containerID: x, containerLabels: {com.docker.compose.service: traefik}}, action: container.start, expect: denied}
    - {name: another container lists, subject: {containerID: x}, action: container.list, expect: denied}
    - {name: portainer execs, subject: {cn: portainer, orgs: [Example]}, action: container.exec, expect: {decision: denied, rule: never}}
    - {name: portainer forces, subject: {cn: portainer, orgs: [Example]}, action: container.delete, facts: {force: true}, expect: {decision: denied, checks: [noForce]}}
    - {name: portainer deletes, subject: {cn: portainer, orgs: [Example]}, action: container.delete, expect: allowed}
    - {name: an agent mounts, subject: {token: agent-7}, action: container.create, facts: {image: registry.example.org/sandbox/py, capDrop: [ALL], hostMounts: [{source: /srv/agent/workspace}]}, expect: allowed}
    - {name: an agent mounts more, subject: {token: agent-7}, action: container.create, facts: {image: registry.example.org/sandbox/py, capDrop: [ALL], hostMounts: [{source: /srv/agent}]}, expect: {decision: denied, checks: [hostMounts]}}
    - {name: a reaper reaps, subject: {containerID: r, containerLabels: {org.testcontainers.ryuk: "true"}}, action: container.delete, resources: [{kind: container, id: a, labels: {org.testcontainers: "true"}}], expect: allowed}
    - {name: and nothing else, subject: {containerID: r, containerLabels: {org.testcontainers.ryuk: "true"}}, action: container.delete, resources: [{kind: container, id: a}], expect: denied}
`
	tests, _, err := ParseTests("cookbook", []byte(requests))
	if err != nil {
		t.Fatal(err)
	}
	for i := range tests[0].Requests {
		r := &tests[0].Requests[i]
		d := s.Decide(&r.Call, at)
		if differs := r.Want.Differs(&d); len(differs) > 0 {
			t.Errorf("%s: %s (%s)", r.Name, strings.Join(differs, "; "), d.Reason)
		}
	}
}
