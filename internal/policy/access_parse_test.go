package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// everyAccessField is a document with every field.
const everyAccessField = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: every, annotations: {a: b}}
spec:
  mode: enforce
  priority: 5
  subjects:
    users: [alice, "ci-*"]
    groups: [dev]
    uids: [1000, "2000-2999"]
    gids: [998]
    certificates: [{cn: "ci-*", o: Example, san: "*.example.org"}]
    tokens: [portainer]
    containers:
      - {id: ` + id64 + `, name: "traefik*", labels: {app: traefik}, imageDigest: "sha256:` + id64 + `"}
      - any: true
    everyone: true
  rules:
    - name: create
      effect: allow
      actions: [container.create, "image.*"]
      resources: {own: true, kinds: [container], labels: {a: b}, names: ["x*"], images: [nginx], namespaces: [shop]}
      checks:
        - notPrivileged
        - hostMounts: {allow: [/srv], readOnly: [/etc/ssl]}
        - limits: {memory: 1Gi, cpus: 1.5, pids: 100}
        - notRoot: {numeric: true}
        - publishedPorts: {ports: [0, 8080, "8000-8999"], hostIPs: [127.0.0.1]}
      when: facts.image != ""
      require: secondFactor
      obligations: {owner: true, labels: {belay.dev/x: y}, setDefault: {memory: 512Mi, cpus: 1, pids: 10, user: "65534:65534", noNewPrivileges: true, readOnlyRoot: true}, redactEnv: ["*SECRET*"]}
    - {effect: forbid, actions: [container.delete]}
  obligations: {owner: true, dockerSocket: replace}
`

const id64 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestAccessCanonical(t *testing.T) {
	one, err := ParseAll("a.yaml", []byte(everyAccessField))
	if err != nil {
		t.Fatal(err)
	}
	canon := one.Access[0].Canonical()
	two, err := ParseAll("b.yaml", canon)
	if err != nil {
		t.Fatalf("%v\n%s", err, canon)
	}
	ignore := []cmp.Option{
		cmpopts.IgnoreFields(AccessPolicy{}, "File", "Line"), cmpopts.IgnoreFields(AccessRule{}, "Line"),
		cmpopts.IgnoreUnexported(AccessRule{}, Check{}),
	}
	if diff := cmp.Diff(one.Access[0], two.Access[0], ignore...); diff != "" {
		t.Errorf("(-first +again):\n%s", diff)
	}
	if diff := cmp.Diff(string(canon), string(two.Access[0].Canonical())); diff != "" {
		t.Errorf("canonical form (-first +again):\n%s", diff)
	}
	for field := range accessHome {
		if !strings.Contains(everyAccessField, field+":") {
			t.Errorf("field %s is not in the example of all fields", field)
		}
	}
}

func TestAccessParseErrors(t *testing.T) {
	spec := func(s string) string { return access("p", s) }
	rule := func(s string) string {
		return spec("  mode: enforce\n  subjects: {everyone: true}\n  rules: [" + s + "]\n")
	}
	tests := []struct {
		name, src string
		want      []string
	}{
		{"no subjects", spec("  mode: enforce\n  rules: [{effect: allow, actions: ['*']}]\n"), []string{"spec.subjects is missing; fix: add subjects:"}},
		{"nobody", spec("  mode: enforce\n  subjects: {}\n  rules: [{effect: allow, actions: ['*']}]\n"), []string{"spec.subjects names nobody; fix: name users"}},
		{"nothing said", spec("  mode: enforce\n  subjects: {everyone: true}\n"), []string{"the policy says nothing"}},
		{"mode", spec("  mode: enforced\n  subjects: {everyone: true}\n  obligations: {owner: true}\n"), []string{"spec.mode must be audit or enforce"}},
		{"a field of the other kind", spec("  mode: audit\n  selector: {name: x}\n  subjects: {everyone: true}\n  obligations: {owner: true}\n"), []string{`unknown field "selector" in spec`}},
		{"a field elsewhere", rule("{effect: allow, actions: ['*'], own: true}"), []string{`unknown field "own" in spec.rules[0]; fix: move it to spec.rules[].resources`}},
		{"everyone: false", spec("  mode: audit\n  subjects: {everyone: false}\n  obligations: {owner: true}\n"), []string{"spec.subjects.everyone: false has no meaning here"}},
		{"uid", spec("  mode: audit\n  subjects: {uids: [-1, root, \"5-1\", 010]}\n  obligations: {owner: true}\n"), []string{"uids[0] must be an id", "uids[1] must be an id", "uids[2] must be an id", "uids[3] must be an id"}},
		{"empty container", spec("  mode: audit\n  subjects: {containers: [{}, {any: true, name: x}, {id: abc}]}\n  obligations: {owner: true}\n"), []string{"containers[0] says nothing", "containers[1]: any is every container", `containers[2].id: "abc" is not a container's full id`}},
		{"empty certificate", spec("  mode: audit\n  subjects: {certificates: [{}]}\n  obligations: {owner: true}\n"), []string{`certificates[0] says nothing; fix: add cn, o or san`}},
		{"action", rule("{effect: allow, actions: [container.creat, 'contaner.*', '*.fly']}"), []string{`"container.creat" is not an action; fix: did you mean container.create?`, `"contaner.*" matches no action`, `"*.fly" matches no action`}},
		{"effect", rule("{effect: deny, actions: ['*']}"), []string{`effect must be allow or forbid, got "deny"`}},
		{"check", rule("{effect: allow, actions: ['*'], checks: [noRoot, {notPrivileged: {x: y}}, {capabilities: {allow: [NET_ADMIN]}}, {images: {}}, notRoot, notRoot, [x]]}"), []string{
			`"noRoot" is not a check; fix: did you mean notRoot?`, "notPrivileged: this check has no parameters", `"NET_ADMIN" is not a capability`,
			"images has no parameters", "allow is missing: nothing could pass", "notRoot is listed twice", "must be a check, got a list",
		}},
		{"ports", rule("{effect: allow, actions: ['*'], checks: [{publishedPorts: {hostIPs: [127.0.0.1]}}, {limits: {memory: 5x}}]}"), []string{"hostIPs without ports", `"5x" is not a size`}},
		{"roots", rule("{effect: allow, actions: ['*'], checks: [{hostMounts: {allow: [srv, '/srv/*', /srv/../etc]}}]}"), []string{`"srv" is not an absolute path`, `"/srv/*" is a pattern`, "is not a clean path"}},
		{"when: unknown field", rule("{effect: allow, actions: ['*'], when: 'facts.privilegd'}"), []string{"when: at column 6 of the expression: undefined field 'privilegd'"}},
		{"when: type", rule("{effect: allow, actions: ['*'], when: 'facts.image'}"), []string{"the expression is not true or false, but string"}},
		{"when: syntax", rule("{effect: allow, actions: ['*'], when: 'facts.image =='}"), []string{"when: at column 15 of the expression: Syntax error"}},
		{"when: pid", rule("{effect: allow, actions: ['*'], when: 'subject.pid == 1'}"), []string{"undefined field 'pid'"}},
		{"when: cost", rule("{effect: allow, actions: ['*'], when: 'facts.env.all(a, facts.env.all(b, facts.env.all(c, a + b == c)))'}"), []string{"the expression may cost"}},
		{"when: makes a struct", rule("{effect: allow, actions: ['*'], when: 'Facts{image: \"x\"} == facts'}"), nil},
		{"obligations of a forbid", rule("{effect: forbid, actions: ['*'], obligations: {owner: true}}"), []string{"a forbidden call has no obligations"}},
		{"defaults", rule("{effect: allow, actions: ['*'], obligations: {setDefault: {user: root, memory: 1Ki, cpus: -1, pids: 0}}}"), []string{"setDefault.user: \"root\" is not surely a user other than root", "setDefault.memory is too small", "setDefault.cpus must be a number of CPUs", "setDefault.pids must be a whole number from 1"}},
		{"owner label", rule("{effect: allow, actions: ['*'], obligations: {labels: {belay.dev/owner: x}}}"), []string{"the value of belay.dev/owner is the caller"}},
		{"two rules of one name", rule("{name: a, effect: allow, actions: ['*']}, {name: a, effect: allow, actions: ['*']}"), []string{`the rule "a" is already defined`}},
		{"rule name", rule("{name: A b, effect: allow, actions: ['*']}"), []string{"is not a DNS label"}},
		{"resources", rule("{effect: allow, actions: ['*'], resources: {}}, {effect: allow, actions: ['*'], resources: {kinds: [contaner], labels: {}}}"), []string{"resources says nothing", `"contaner" is not a kind of resource; fix: did you mean container?`, "labels is empty"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := ParseAll("a.yaml", []byte(tt.src))
			if tt.want == nil {
				return // that it does not crash is all
			}
			if err == nil || docs.Len() > 0 {
				t.Fatalf("got %d policies, error %v", docs.Len(), err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no error %q in:\n%v", want, err)
				}
			}
			if n := strings.Count(err.Error(), "\n") + 1; n != len(tt.want) {
				t.Errorf("got %d errors, want %d:\n%v", n, len(tt.want), err)
			}
		})
	}
}

func TestBothKindsInOneFile(t *testing.T) {
	src := everyAccessField + "---\n" + doc("mode: audit", "ssh: {keys: deny}")
	docs, err := ParseAll("a.yaml", []byte(src))
	if err != nil || len(docs.Access) != 1 || len(docs.Runtime) != 1 {
		t.Fatalf("got %+v, %v", docs, err)
	}
	if _, err := Parse("a.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), "kind must be RuntimePolicy here") {
		t.Errorf("Parse: got error %v", err)
	}
	set, err := NewSet(docs.Runtime, docs.Access...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAll("b.yaml", set.Canonical())
	if err != nil || again.Len() != 2 {
		t.Errorf("the canonical form of a set: %d documents, %v", again.Len(), err)
	}
	alone, err := NewSet(docs.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	if set.Revision() == alone.Revision() {
		t.Error("an AccessPolicy does not change the revision of a set")
	}
	docs.Access[0].Name = docs.Runtime[0].Name
	if _, err := NewSet(docs.Runtime, docs.Access...); err == nil {
		t.Error("two policies of one name are a set")
	}
}
