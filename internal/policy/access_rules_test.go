package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/apicall"
)

const forAlice = "  mode: enforce\n  subjects: {users: [alice]}\n"

// mine is a container that alice made.
var mine = apicall.Resource{
	Kind: apicall.ResourceContainer, Asked: "web", ID: "id-mine", Names: []string{"/alice-web"}, Owner: "uid:1000",
	Labels: map[string]string{"team": "web", OwnerLabel: "uid:1000", "com.docker.compose.project": "shop"}, Image: "nginx:1.27",
}

var theirs = apicall.Resource{
	Kind: apicall.ResourceContainer, Asked: "db", ID: "id-theirs", Names: []string{"/bob-db", "/alice-web/db"}, Owner: "uid:1001",
	Labels: map[string]string{OwnerLabel: "uid:1001"}, Image: "postgres:17",
}

func TestDecideRules(t *testing.T) {
	bridge := apicall.Resource{Kind: apicall.ResourceNetwork, Asked: "bridge", ID: "n1", Names: []string{"bridge"}}
	image := apicall.Resource{Kind: apicall.ResourceImage, Asked: "nginx", ID: "sha256:1", Names: []string{"nginx:1.27"}}
	newVolume := apicall.Resource{Kind: apicall.ResourceVolume, Asked: "data"}
	bobsVolume := apicall.Resource{Kind: apicall.ResourceVolume, Asked: "bobs", ID: "bobs", Names: []string{"bobs"}, Owner: "uid:1001"}
	tests := []struct {
		name   string
		rules  string
		call   apicall.Call
		want   string // the rule if allowed, "-" if denied
		second bool
	}{
		{"forbid wins over an earlier allow", `[{name: all, effect: allow, actions: ["*"]}, {name: no, effect: forbid, actions: [container.delete]}]`, apicall.Call{Action: "container.delete", Resources: []apicall.Resource{mine}}, "-", false},
		{"and is about its action only", `[{name: all, effect: allow, actions: ["*"]}, {name: no, effect: forbid, actions: [container.delete]}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "all", false},
		{"create but not delete", `[{name: c, effect: allow, actions: [container.create, container.start]}]`, apicall.Call{Action: "container.delete", Resources: []apicall.Resource{mine}}, "-", false},
		{"glob", `[{name: c, effect: allow, actions: ["container.exec*"]}]`, apicall.Call{Action: "container.exec.start", Resources: []apicall.Resource{mine}}, "c", false},
		{"own", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "own", false},
		{"not own", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"own, one of two", `[{name: own, effect: allow, actions: ["*"], resources: {own: true}}]`, apicall.Call{Action: "network.connect", Resources: []apicall.Resource{mine, theirs}}, "-", false},
		{"own, nothing looked up", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.stop"}, "-", false},
		{"own, unresolved", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.delete", Resources: []apicall.Resource{{Kind: apicall.ResourceContainer, Asked: "x"}}}, "-", false},
		{"what a create makes is own", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.create", Resources: []apicall.Resource{{Kind: apicall.ResourceContainer}, image, bridge, newVolume}}, "own", false},
		{"with no resource named", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.create"}, "own", false},
		{"another's volume is not", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.create", Resources: []apicall.Resource{{Kind: apicall.ResourceContainer}, bobsVolume}}, "-", false},
		{"joining another's container is not", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.create", Resources: []apicall.Resource{{Kind: apicall.ResourceContainer}, theirs}}, "-", false},
		{"a service update without a look-up is not own", `[{name: own, effect: allow, actions: ["service.*"], resources: {own: true}}]`, apicall.Call{Action: "service.update", Resources: []apicall.Resource{{Kind: apicall.ResourceService, Asked: "x"}}}, "-", false},
		{"labels", `[{name: team, effect: allow, actions: ["container.*"], resources: {labels: {team: web}}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "team", false},
		{"other labels", `[{name: team, effect: allow, actions: ["container.*"], resources: {labels: {team: web}}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"labels of what is made", `[{name: team, effect: allow, actions: ["container.*"], resources: {labels: {team: web}}}]`, apicall.Call{Action: "container.create", Facts: apicall.Facts{Labels: map[string]string{"team": "web"}}}, "team", false},
		{"names", `[{name: n, effect: allow, actions: ["container.*"], resources: {names: ["alice-*"]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "n", false},
		{"B5 an alias by a link", `[{name: n, effect: allow, actions: ["container.*"], resources: {names: ["alice-*"]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"B6 asked by a name that is another's id", `[{name: n, effect: allow, actions: ["container.*"], resources: {names: [db]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"forbid by what was asked", `[{name: a, effect: allow, actions: ["container.*"]}, {name: n, effect: forbid, actions: ["container.*"], resources: {names: [db]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"images", `[{name: i, effect: allow, actions: ["container.*"], resources: {images: [nginx]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "i", false},
		{"other image", `[{name: i, effect: allow, actions: ["container.*"], resources: {images: [nginx]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"image of what is made", `[{name: i, effect: allow, actions: ["container.*"], resources: {images: [nginx]}}]`, apicall.Call{Action: "container.create", Facts: apicall.Facts{Image: "nginx:1"}}, "i", false},
		{"image itself", `[{name: i, effect: allow, actions: ["image.*"], resources: {images: [nginx]}}]`, apicall.Call{Action: "image.delete", Resources: []apicall.Resource{image}}, "i", false},
		{"namespaces", `[{name: ns, effect: allow, actions: ["container.*"], resources: {namespaces: [shop]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "ns", false},
		{"other namespace", `[{name: ns, effect: allow, actions: ["container.*"], resources: {namespaces: [shop]}}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{theirs}}, "-", false},
		{"kinds", `[{name: k, effect: allow, actions: ["*.inspect"], resources: {kinds: [container]}}]`, apicall.Call{Action: "image.inspect", Resources: []apicall.Resource{image}}, "-", false},
		{"checks must pass", `[{name: c, effect: allow, actions: [container.create], checks: [notPrivileged]}]`, apicall.Call{Action: "container.create", Facts: apicall.Facts{Privileged: true}}, "-", false},
		{"forbid what fails a check", `[{name: a, effect: allow, actions: ["*"]}, {name: f, effect: forbid, actions: ["*"], checks: [notPrivileged]}]`, apicall.Call{Action: "container.create", Facts: apicall.Facts{Privileged: true}}, "-", false},
		{"but not what passes", `[{name: a, effect: allow, actions: ["*"]}, {name: f, effect: forbid, actions: ["*"], checks: [notPrivileged]}]`, apicall.Call{Action: "container.create"}, "a", false},
		{"second factor", `[{name: x, effect: allow, actions: [container.exec], require: secondFactor}]`, apicall.Call{Action: "container.exec", Resources: []apicall.Resource{mine}}, "-", true},
		{"second factor given", `[{name: x, effect: allow, actions: [container.exec], require: secondFactor}]`, apicall.Call{Action: "container.exec", Resources: []apicall.Resource{mine}, Elevated: true}, "x", false},
		{"forbid without second factor", `[{name: a, effect: allow, actions: ["*"]}, {name: f, effect: forbid, actions: [container.exec], require: secondFactor}]`, apicall.Call{Action: "container.exec"}, "-", true},
		{"lifted by one", `[{name: a, effect: allow, actions: ["*"]}, {name: f, effect: forbid, actions: [container.exec], require: secondFactor}]`, apicall.Call{Action: "container.exec", Elevated: true}, "a", false},
		{"when", `[{name: w, effect: allow, actions: [container.create], when: 'facts.image.startsWith("nginx") && subject.uid == 1000'}]`, apicall.Call{Action: "container.create", Facts: apicall.Facts{Image: "nginx:1"}}, "w", false},
		{"when is false", `[{name: w, effect: allow, actions: [container.create], when: 'facts.image.startsWith("nginx")'}]`, apicall.Call{Action: "container.create"}, "-", false},
		{"when fails: not allowed", `[{name: w, effect: allow, actions: [container.create], when: 'facts.labels["team"] == "web"'}]`, apicall.Call{Action: "container.create"}, "-", false},
		{"when fails: forbidden", `[{name: a, effect: allow, actions: ["*"]}, {name: w, effect: forbid, actions: [container.create], when: 'facts.labels["team"] == "db"'}]`, apicall.Call{Action: "container.create"}, "-", false},
		{"when on hours", `[{name: w, effect: allow, actions: ["*"], when: 'now.getHours() >= 9 && now.getDayOfWeek() in [1, 2, 3, 4, 5]'}]`, apicall.Call{Action: "container.create"}, "w", false},
		{"when on a list of structs", `[{name: w, effect: allow, actions: ["*"], when: 'facts.hostMounts.all(m, m.readOnly) && facts.limits.memoryBytes < 10 && !has(facts.init)'}]`, apicall.Call{Action: "container.create", Facts: apicall.Facts{HostMounts: []apicall.HostMount{{ReadOnly: true}}}}, "w", false},
		{"when on kinds", `[{name: w, effect: allow, actions: ["*"], when: 'subject.kind == "user" && resource.kind == "container" && resources.size() == 1 && "dev" in subject.groups && 998 in subject.giDs'}]`, apicall.Call{Action: "container.stop", Resources: []apicall.Resource{mine}}, "", false},
		{"prune of everything", `[{name: own, effect: allow, actions: ["container.*"], resources: {own: true}}]`, apicall.Call{Action: "container.prune", Facts: apicall.Facts{Bulk: true}}, "own", false},
		{"prune by name cannot be narrowed", `[{name: n, effect: allow, actions: ["container.*"], resources: {names: [x]}}]`, apicall.Call{Action: "container.prune", Facts: apicall.Facts{Bulk: true}}, "-", false},
		{"prune may touch what is forbidden", `[{name: a, effect: allow, actions: ["*"]}, {name: f, effect: forbid, actions: ["*"], resources: {labels: {keep: "1"}}}]`, apicall.Call{Action: "container.prune"}, "-", false},
		{"policies too", `[{name: p, effect: allow, actions: [policy.update]}]`, apicall.Call{Action: "policy.delete"}, "-", false},
		{"rollback", `[{name: s, effect: allow, actions: ["service.*"], checks: [notPrivileged]}]`, apicall.Call{Action: "service.update", Facts: apicall.Facts{Rollback: true}}, "-", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == "" { // a name that does not exist
				if _, err := ParseAll("a.yaml", []byte(access("p", forAlice+"  rules: "+tt.rules+"\n"))); err == nil || !strings.Contains(err.Error(), "giDs") {
					t.Fatalf("got error %v, want one about giDs", err)
				}
				tt.rules, tt.want = strings.Replace(tt.rules, "giDs", "gids", 1), "w"
			}
			s := accessSet(t, access("p", forAlice+"  rules: "+tt.rules+"\n"))
			tt.call.Subject = alice
			d := s.Decide(&tt.call, at)
			got := d.Rule
			if !d.Allowed {
				got = "-"
			}
			if got != tt.want || d.NeedSecondFactor != tt.second {
				t.Errorf("got %+v, want rule %q, second factor %v", d, tt.want, tt.second)
			}
			if !d.Allowed && d.Reason == "" {
				t.Error("a denial without a reason")
			}
			// Explain says the same, and why each rule did not apply.
			tr := s.Explain(&tt.call, at)
			if diff := cmp.Diff(d, tr.Decision); diff != "" {
				t.Errorf("Explain (-Decide +Explain):\n%s", diff)
			}
			for _, r := range tr.Rules {
				if r.Applies == (r.Why != "") {
					t.Errorf("rule %s applies: %v, why not: %q", r.Rule, r.Applies, r.Why)
				}
			}
		})
	}
}

func TestWhenErrorsAreCounted(t *testing.T) {
	s := accessSet(t, access("p", forAlice+`  rules: [{effect: allow, actions: [container.create], when: 'facts.labels["x"] == "y"'}]`+"\n"))
	for range 3 {
		s.Decide(&apicall.Call{Subject: alice, Action: "container.create"}, at)
	}
	if got := s.WhenErrors(); got != 3 {
		t.Errorf("got %d errors, want 3", got)
	}
}

// An expression that goes through too much at run time is an error, hence a denial.
func TestWhenCostLimit(t *testing.T) {
	s := accessSet(t, access("p", forAlice+`  rules: [{effect: allow, actions: [container.create], when: 'facts.env.all(e, facts.cmd.all(c, e != c))'}]`+"\n"))
	call := apicall.Call{Subject: alice, Action: "container.create"}
	if d := s.Decide(&call, at); !d.Allowed {
		t.Fatalf("denied without a cause: %s", d.Reason)
	}
	for range 2000 {
		call.Facts.Env = append(call.Facts.Env, "A=b")
		call.Facts.Cmd = append(call.Facts.Cmd, "x")
	}
	if d := s.Decide(&call, at); d.Allowed || s.WhenErrors() != 1 {
		t.Errorf("got %+v and %d errors, want a counted denial", d, s.WhenErrors())
	}
}

func TestModes(t *testing.T) {
	audit := access("watch", "  mode: audit\n  subjects: {users: [alice]}\n  rules: [{name: w, effect: forbid, actions: [container.delete]}, {effect: allow, actions: [container.list]}]\n")
	enforce := access("base", "  mode: enforce\n  subjects: {users: [alice]}\n  rules: [{name: b, effect: allow, actions: [\"container.*\"]}]\n")
	other := access("other", "  mode: enforce\n  subjects: {users: [bob]}\n  rules: [{effect: allow, actions: [\"*\"]}]\n")
	tests := []struct {
		name   string
		docs   []string
		action string
		want   string
		policy string
	}{
		{"audit alone lets all pass", []string{audit}, "container.delete", ExpectWouldDeny, "watch"},
		{"and says what no rule allows", []string{audit}, "image.pull", ExpectWouldDeny, ""},
		{"and nothing of what it allows", []string{audit}, "container.list", ExpectAllowed, ""},
		{"audit beside enforce", []string{audit, enforce}, "container.delete", ExpectWouldDeny, "watch"},
		{"audit never allows", []string{audit, other}, "container.list", ExpectDenied, ""},
		{"enforce", []string{audit, enforce}, "container.stop", ExpectAllowed, "base"},
		{"enforce denies", []string{audit, enforce}, "image.pull", ExpectDenied, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := accessSet(t, tt.docs...).Decide(&apicall.Call{Subject: alice, Action: tt.action, Resources: []apicall.Resource{mine}}, at)
			if d.Word() != tt.want || d.Policy != tt.policy {
				t.Errorf("got %+v, want %s by %q", d, tt.want, tt.policy)
			}
		})
	}
}

func TestVisible(t *testing.T) {
	s := accessSet(t, access("p", forAlice+`  rules:
    - {name: own, effect: allow, actions: ["container.*"], resources: {own: true}}
    - {name: team, effect: allow, actions: [container.list], resources: {labels: {shared: "yes"}}}
    - {name: hide, effect: forbid, actions: [container.list], resources: {labels: {hidden: "yes"}}}
    - {name: ev, effect: allow, actions: [system.events], when: 'resource.image.startsWith("nginx")'}
    - {name: img, effect: allow, actions: [image.list]}
    - {name: all, effect: allow, actions: [container.list], require: secondFactor}
`))
	shared, hidden := theirs, mine
	shared.Labels = map[string]string{"shared": "yes"}
	hidden.Labels = map[string]string{"hidden": "yes"}
	for _, tt := range []struct {
		name   string
		action string
		res    apicall.Resource
		want   bool
	}{
		{"own", "container.list", mine, true},
		{"another's", "container.list", theirs, false},
		{"shared", "container.list", shared, true},
		{"forbidden", "container.list", hidden, false},
		{"by expression", "system.events", mine, true},
		{"not by expression", "system.events", theirs, false},
		{"everything", "image.list", theirs, true},
		{"no rule", "volume.list", mine, false},
		{"unknown action", "x", mine, false},
	} {
		if got := s.Visible(&alice, tt.action, &tt.res); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	call := &apicall.Call{Subject: alice, Action: "container.list"}
	d := s.Decide(call, at)
	if !d.Allowed || !d.Scope.Filter {
		t.Errorf("list: got %+v, want it filtered", d)
	}
	if !s.VisibleTo(&apicall.Call{Subject: alice, Action: "container.list", Elevated: true}, &theirs, at) {
		t.Error("an elevated list hides what its rule allows")
	}
	if d := s.Decide(&apicall.Call{Subject: alice, Action: "system.events"}, at); !d.Allowed || !d.Scope.Filter {
		t.Errorf("events: got %+v, want them filtered", d)
	}
	if d := s.Decide(&apicall.Call{Subject: alice, Action: "image.list"}, at); !d.Allowed || d.Scope.Filter {
		t.Errorf("images: got %+v, want them whole", d)
	}
	if d := s.Decide(&apicall.Call{Subject: alice, Action: "container.prune"}, at); d.Scope.Labels[OwnerLabel] != "uid:1000" {
		t.Errorf("prune: got %+v, want it narrowed to the owner's", d)
	}
}

func TestObligations(t *testing.T) {
	s := accessSet(t, access("p", forAlice+`  rules:
    - name: c
      effect: allow
      actions: [container.create, container.inspect]
      checks: [limits, notRoot]
      obligations: {owner: true, setDefault: {memory: 512Mi, pids: 100, user: "1000:1000"}, redactEnv: ["*password*"]}
`), access("q", `  mode: enforce
  subjects: {everyone: true}
  obligations: {labels: {belay.dev/tier: dev}, setDefault: {memory: 256Mi, cpus: "1.5", noNewPrivileges: true}, redactEnv: [TOKEN]}
`), access("r", "  mode: audit\n  subjects: {everyone: true}\n  obligations: {setDefault: {readOnlyRoot: true}}\n"))
	d := s.Decide(&apicall.Call{Subject: alice, Action: "container.create"}, at)
	want := AccessDecision{
		Allowed: true, Policy: "p", Rule: "c", Reason: "allowed",
		Revision: d.Revision,
		Obligations: Obligations{
			Owner: true, Labels: map[string]string{"belay.dev/tier": "dev"}, RedactEnv: []string{"*password*", "TOKEN"},
			Defaults: Defaults{MemoryBytes: 256 << 20, NanoCPUs: 1_500_000_000, PIDs: 100, User: "1000:1000", NoNewPrivileges: true},
		},
		Labels: map[string]string{"belay.dev/tier": "dev", OwnerLabel: "uid:1000"},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	d = s.Decide(&apicall.Call{Subject: alice, Action: "container.inspect", Resources: []apicall.Resource{mine}}, at)
	if !d.Allowed || d.Labels != nil || d.Obligations.Defaults != (Defaults{}) {
		t.Errorf("inspect: got %+v, want nothing to set", d)
	}
	for name, want := range map[string]bool{"DB_PASSWORD": true, "token": true, "TOKENS": false, "HOME": false} {
		if got := d.Obligations.Redacts(name); got != want {
			t.Errorf("Redacts(%q) = %v, want %v", name, got, want)
		}
	}
	if d := s.Decide(&apicall.Call{Subject: bob, Action: "container.create"}, at); d.Allowed {
		t.Errorf("obligations allow by themselves: %+v", d)
	}
}

func TestOwner(t *testing.T) {
	for _, sub := range []apicall.Subject{alice, root, cert, token, inner} {
		if o := Owner(&sub); !owns(&sub, o) {
			t.Errorf("%+v does not own %q", sub, o)
		}
		for _, o := range []string{"", "uid:", "uid:01000", "uid:1001", "cert:", "container:", "token:", "uid", "uid:1000 "} {
			if owns(&sub, o) {
				t.Errorf("%+v owns %q", sub, o)
			}
		}
	}
	if owns(&inner, "uid:0") || owns(&apicall.Subject{Kind: apicall.Certificate}, "cert:") || owns(&apicall.Subject{}, "") {
		t.Error("ownership by an empty name, or a container's uid")
	}
}

func TestRuntimeFor(t *testing.T) {
	s := accessSet(t,
		access("floor", "  mode: enforce\n  priority: 10\n  subjects: {everyone: true}\n  rules: [{name: f, effect: forbid, actions: [container.create], checks: [notRoot]}]\n"),
		access("p", forAlice+"  rules: [{effect: allow, actions: [container.create], checks: [notRoot, notPrivileged]}, {effect: allow, actions: [container.start]}]\n"),
		access("q", "  mode: enforce\n  subjects: {users: [bob]}\n  rules: [{effect: allow, actions: [container.create], checks: [{notRoot: {apiOnly: true}}]}]\n"))
	call := apicall.Call{Subject: alice, Action: "container.create", Facts: apicall.Facts{User: "app"}}
	names := func(ps []*RuntimePolicy) (out []string) {
		for _, p := range ps {
			out = append(out, p.Name)
		}
		return out
	}
	got := s.RuntimeFor(&call, at)
	if diff := cmp.Diff([]string{"floor", "p"}, names(got)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	set, err := NewSet(mustParse(t, doc("mode: audit", "ssh: {keys: deny}")))
	if err != nil {
		t.Fatal(err)
	}
	e := set.EffectiveWith(Subject{Known: true}, got)
	if d := e.Exec(Facts{Flags: FlagRoot}); d.Verdict.String() != "deny" {
		t.Errorf("root in the kernel: got %v, want deny", d.Verdict)
	}
	if d := e.Exec(Facts{}); d.Verdict.String() != "allow" {
		t.Errorf("another user in the kernel: got %v, want allow", d.Verdict)
	}
	for _, p := range got {
		if _, err := Parse("own.yaml", p.Canonical()); err != nil {
			t.Errorf("the fragment is no policy: %v\n%s", err, p.Canonical())
		}
	}
	call.Subject = bob
	if got := names(s.RuntimeFor(&call, at)); !slices.Equal(got, []string{"floor"}) {
		t.Errorf("bob: got %v, want the floor's", got)
	}
	call.Facts.User = "0"
	if got := s.RuntimeFor(&apicall.Call{Subject: alice, Action: "container.start"}, at); got != nil {
		t.Errorf("start: got %v", names(got))
	}
}
