package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/belay-project/belay/internal/verdict"
)

const everyField = `# every field there is
apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: full
  annotations: {team: web, "n": "1"}
spec:
  selector:
    labels: {belay.dev/tier: "1"}
    image: "nginx:*"
    imageDigest: ` + testDigest + `
    name: web-*
    namespace: prod
    workload: deployment/*
    podLabels: {app: web}
  priority: -7
  mode: audit
  require: kill
  loosen: true
  onError: allow
  exec:
    mode: enforce
    asRoot: denyAfterStart
    startFor: 1m30s
    nested: allow
    fileCaps: deny
    drift: deny
    metadataOnly: allow
    volumes: readOnly
    memfd: allow
    allow: [/opt/app/**, /bin/sh]
    deny: ["/usr/bin/[", /usr/local/bin/*]
    runtimeHelpers: [/usr/bin/nvidia-ctk]
  ssh:
    server: allow
    client: {to: ["10.0.0.0/8:22", "[2001:db8::/32]:*", "192.0.2.1:2222"]}
    keys: deny
  guard: {mode: enforce, bpf: allow}
`

func TestParseEveryField(t *testing.T) {
	want := &RuntimePolicy{
		File: "p.yaml", Line: 2, Name: "full", Annotations: map[string]string{"team": "web", "n": "1"},
		Spec: Spec{
			Selector: Selector{
				Labels: map[string]string{"belay.dev/tier": "1"}, Image: "nginx:*", ImageDigest: testDigest,
				Name: "web-*", Namespace: "prod", Workload: "deployment/*", PodLabels: map[string]string{"app": "web"},
			},
			Priority: -7, Mode: verdict.ModeAudit, Require: verdict.Kill, Loosen: true, OnError: Allow,
			Exec: &Exec{
				Mode: verdict.ModeEnforce, AsRoot: DenyAfterStart, StartFor: 90 * time.Second, Nested: Allow,
				FileCaps: Deny, Drift: Deny, MetadataOnly: Allow, Volumes: ReadOnly, Memfd: Allow,
				Allow:          []Pattern{{PathExact, "/bin/sh"}, {PathTree, "/opt/app"}},
				Deny:           []Pattern{{PathExact, "/usr/bin/["}, {PathChild, "/usr/local/bin"}},
				RuntimeHelpers: []string{"/usr/bin/nvidia-ctk"},
			},
			SSH: &SSH{Mode: verdict.ModeAudit, Server: Allow, Client: To, Keys: Deny, To: []SSHDest{
				{netip.MustParsePrefix("10.0.0.0/8"), []uint16{22}},
				{netip.MustParsePrefix("192.0.2.1/32"), []uint16{2222}},
				{netip.MustParsePrefix("2001:db8::/32"), nil},
			}},
			Guard: &Guard{Mode: verdict.ModeEnforce, BPF: Allow},
		},
	}
	got := mustParse(t, everyField)
	opts := []cmp.Option{
		cmpopts.IgnoreUnexported(RuntimePolicy{}), cmpopts.IgnoreFields(RuntimePolicy{}, "Revision"),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
	if diff := cmp.Diff([]*RuntimePolicy{want}, got, opts...); diff != "" {
		t.Errorf("parsed policy (-want +got):\n%s", diff)
	}
	if got, want := len(got[0].Revision), revisionLen; got != want {
		t.Errorf("revision has %d digits, want %d", got, want)
	}
	wantDenies := []verdict.Rule{
		verdict.RuleAsRoot, verdict.RuleFileCaps, verdict.RuleDrift, verdict.RulePathDeny,
		verdict.RulePathAllow, verdict.RuleSSHClient, verdict.RuleSSHKeys,
	}
	if diff := cmp.Diff(wantDenies, got[0].Denies()); diff != "" {
		t.Errorf("Denies (-want +got):\n%s", diff)
	}
	if got, want := got[0].lines["exec.asRoot"], 23; got != want {
		t.Errorf("line of exec.asRoot: got %d, want %d", got, want)
	}
}

func TestCanonical(t *testing.T) {
	base := doc("mode: enforce", "exec: {drift: deny, allow: [/bin/sh, /app/**]}")
	tests := []struct {
		name, a, b string
		equal      bool
	}{
		{"list order", base, doc("mode: enforce", "exec: {drift: deny, allow: [/app/**, /bin/sh]}"), true},
		{"key order and comments", base, doc("exec: # c", "  allow: ['/bin/sh', \"/app/**\"]", "  drift: deny", "mode: enforce"), true},
		{"section mode spelled out", base, doc("mode: enforce", "exec: {mode: enforce, drift: deny, allow: [/bin/sh, /app/**]}"), true},
		{
			"default startFor", doc("mode: audit", "exec: {asRoot: denyAfterStart}"),
			doc("mode: audit", "exec: {asRoot: denyAfterStart, startFor: 0m30s}"), true,
		},
		{
			"spellings of an address", doc("mode: audit", `ssh: {client: {to: ["10.0.0.1:22", "10.0.0.1/32:22"]}}`),
			doc("mode: audit", `ssh: {client: {to: ["[::ffff:10.0.0.1]:22"]}}`), true,
		},
		{"mode", base, doc("mode: audit", "exec: {drift: deny, allow: [/bin/sh, /app/**]}"), false},
		{"value", base, doc("mode: enforce", "exec: {drift: allow, allow: [/bin/sh, /app/**]}"), false},
		{"annotation", base, strings.Replace(base, "{name: p}", "{name: p, annotations: {a: b}}", 1), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := mustParse(t, tt.a)[0], mustParse(t, tt.b)[0]
			if got := a.Revision == b.Revision; got != tt.equal {
				t.Errorf("revisions equal: got %v, want %v\n%s\n%s", got, tt.equal, a.Canonical(), b.Canonical())
			}
		})
	}
}

func TestParseDocuments(t *testing.T) {
	tests := []struct {
		name, src string
		want      []string
	}{
		{"one", named("a", "mode: audit", "ssh: {keys: deny}"), []string{"a 1"}},
		{"three", named("a", "mode: audit", "ssh: {keys: deny}") + "---\n" + named("b", "mode: audit", "ssh: {keys: deny}") +
			"---\n# note\n" + named("c", "mode: audit", "ssh: {keys: deny}"), []string{"a 1", "b 8", "c 16"}},
		{"empty ones left out", "---\n" + named("a", "mode: audit", "ssh: {keys: deny}") + "---\n---\n# end\n", []string{"a 2"}},
		{
			"byte order mark and CRLF", "\ufeff" + strings.ReplaceAll(named("a", "mode: audit", "ssh: {keys: deny}"), "\n", "\r\n"),
			[]string{"a 1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, p := range mustParse(t, tt.src) {
				got = append(got, fmt.Sprintf("%s %d", p.Name, p.Line))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("names and lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name, src string
		want      []string // each a part of one line of the error, in order
	}{
		{"empty", "", []string{`p.yaml:1: the file holds no policy; fix: delete it`}},
		{"comments only", "# nothing\n---\n", []string{`the file holds no policy`}},
		{"not YAML", "a: [", []string{`not valid YAML`}},
		{"tab", "a:\n\tb: c\n", []string{`p.yaml:2: not valid YAML: found character that cannot start any token; fix: indent with spaces`}},
		{"scalar", "hello", []string{`p.yaml:1:1: the document must be a mapping, got "hello"`}},
		{"list", "- a", []string{`the document must be a mapping, got a list`}},
		{"all missing", "x: 1", []string{
			`unknown field "x" in the document; fix: use one of apiVersion, kind, metadata, spec`,
			`apiVersion is missing`, `kind is missing`, `metadata is missing`, `spec is missing`,
		}},
		{
			"wrong version and kind", "apiVersion: v1\nkind: Deployment\nmetadata: {name: a}\nspec: {mode: audit, ssh: {keys: deny}}",
			[]string{
				`p.yaml:1:13: apiVersion must be belay.dev/v1, got "v1"; fix: write belay.dev/v1`,
				`p.yaml:2:7: kind must be RuntimePolicy, AccessPolicy, ImagePolicy or LoadPolicy, got "Deployment"; fix: write RuntimePolicy, AccessPolicy, ImagePolicy or LoadPolicy`,
			},
		},
		{"name", named("Web_1", "mode: audit", "ssh: {keys: deny}"), []string{`p.yaml:3:18: metadata.name: "Web_1" is not a DNS label`}},
		{"name taken", named("built-in", "mode: audit", "ssh: {keys: deny}"), []string{`"built-in" is the name of Belay's own rules`}},
		{"name number", named("12", "mode: audit", "ssh: {keys: deny}"), []string{`metadata.name must be text, got the number 12; fix: put it in quotes: "12"`}},
		{"mode missing", doc("ssh: {keys: deny}"), []string{`p.yaml:5:3: spec.mode is missing; fix: add mode:`}},
		{"mode", doc("mode: enforced", "ssh: {keys: deny}"), []string{`p.yaml:5:9: spec.mode must be audit or enforce, got "enforced"; fix: did you mean enforce?`}},
		{"typo", doc("mode: audit", "exec: {asRot: deny}"), []string{`p.yaml:6:10: unknown field "asRot" in spec.exec; fix: did you mean asRoot?`}},
		{"case", doc("mode: audit", "exec: {filecaps: deny}"), []string{`fix: did you mean fileCaps?`}},
		{"wrong place", doc("mode: audit", "asRoot: deny", "ssh: {keys: deny}"), []string{`unknown field "asRoot" in spec; fix: move it to spec.exec`}},
		{"far off", doc("mode: audit", "ssh: {xyzzy: deny}"), []string{`unknown field "xyzzy" in spec.ssh; fix: use one of mode, server, client, keys`}},
		{"twice", doc("mode: audit", "ssh: {keys: deny}", "mode: enforce"), []string{`p.yaml:7:3: "mode" is set twice in spec, first at line 5`}},
		{"label twice", doc("selector: {labels: {a: b, a: c}}", "mode: audit", "ssh: {keys: deny}"), []string{`"a" is set twice in spec.selector.labels`}},
		{"anchor", doc("mode: &m audit", "ssh: {keys: deny}"), []string{`p.yaml:5:9: YAML anchors are not accepted in policies; fix: delete &m`}},
		{"alias", doc("mode: &m audit", "ssh: {mode: *m, keys: deny}"), []string{`anchors are not`, `YAML aliases (*m) are not accepted`}},
		{"merge key", doc("mode: audit", "ssh: {<<: {keys: deny}}"), []string{`YAML merge keys (<<) are not accepted in policies`}},
		{"tag", doc("mode: !!str audit", "ssh: {keys: deny}"), []string{`YAML tags (!!str) are not accepted in policies`}},
		{"deep", "a: " + strings.Repeat("[", 50) + strings.Repeat("]", 50), []string{`nested deeper than 12 levels`}},
		{"no value", doc("selector:", "mode: audit", "ssh: {keys: deny}"), []string{`p.yaml:5:3: spec.selector has no value; fix: give it a value or delete the line`}},
		{"boolean", doc("mode: audit", "ssh: {keys: true}"), []string{`spec.ssh.keys must be allow or deny, got the boolean true`}},
		{"value of another field", doc("mode: audit", "exec: {drift: denyAfterStart}"), []string{`spec.exec.drift must be allow or deny, got "denyAfterStart"`}},
		{"yes is not true", doc("mode: audit", "loosen: yes", "ssh: {keys: deny}"), []string{`spec.loosen must be true or false, got "yes"`}},
		{"priority text", doc("mode: audit", "priority: high", "ssh: {keys: deny}"), []string{`spec.priority must be a whole number from -1000000 to 1000000, got "high"`}},
		{"priority octal", doc("mode: audit", "priority: 010", "ssh: {keys: deny}"), []string{`must be a whole number`}},
		{"priority large", doc("mode: audit", "priority: 9223372036854775808", "ssh: {keys: deny}"), []string{`must be a whole number`}},
		{"require", doc("mode: audit", "require: unsupported", "ssh: {keys: deny}"), []string{`spec.require must be prevent, kill or detect`}},
		{"label number", doc("selector: {labels: {a: 1}}", "mode: audit", "ssh: {keys: deny}"), []string{`spec.selector.labels[a] must be text, got the number 1; fix: put the value in quotes`}},
		{"key number", doc("selector: {labels: {1: a}}", "mode: audit", "ssh: {keys: deny}"), []string{`a key of spec.selector.labels must be text, got the number 1`}},
		{"image digest", doc("selector: {imageDigest: 'sha256:12'}", "mode: audit", "ssh: {keys: deny}"), []string{`"sha256:12" is not an image digest`}},
		{"digest in image", doc("selector: {image: 'nginx@sha256:12'}", "mode: audit", "ssh: {keys: deny}"), []string{`fix: put the digest into selector.imageDigest`}},
		{"image wildcard", doc("selector: {image: 'ngin?'}", "mode: audit", "ssh: {keys: deny}"), []string{`has a wildcard other than * and **`}},
		{"startFor unit", doc("mode: audit", "exec: {asRoot: denyAfterStart, startFor: 30}"), []string{`spec.exec.startFor has no unit; fix: write the unit: 30s`}},
		{"startFor range", doc("mode: audit", "exec: {asRoot: denyAfterStart, startFor: 25h}"), []string{`must be from 1s to 1h0m0s, got "25h"`}},
		{"startFor alone", doc("mode: audit", "exec: {asRoot: deny, startFor: 30s}"), []string{`startFor has no effect`}},
		{"nested alone", doc("mode: audit", "exec: {fileCaps: deny, nested: allow}"), []string{`nested: allow has no effect: it is an option of asRoot`}},
		{"volumes with allow", doc("mode: audit", "exec: {drift: allow, volumes: deny}"), []string{`volumes: deny has no effect`}},
		{"metadata alone", doc("mode: audit", "exec: {memfd: deny, metadataOnly: allow}"), []string{`metadataOnly: allow has no effect`}},
		{"empty list", doc("mode: audit", "exec: {allow: []}"), []string{`spec.exec.allow is an empty list: no program could run at all`}},
		{"not a list", doc("mode: audit", "exec: {deny: /bin/sh}"), []string{`spec.exec.deny must be a list, got "/bin/sh"`}},
		{"listed twice", doc("mode: audit", "exec: {deny: [/bin/sh, /bin/sh]}"), []string{`spec.exec.deny[1]: "/bin/sh" is listed twice`}},
		{"number in list", doc("mode: audit", "exec: {deny: [7]}"), []string{`spec.exec.deny[0] must be text, got the number 7`}},
		{"on both lists", doc("mode: audit", "exec: {deny: [/bin/sh], allow: [/bin/sh]}"), []string{`"/bin/sh" is in exec.allow and in exec.deny`}},
		{"bad paths, all shown", doc("mode: audit", "exec: {deny: [bin/sh, '/a*', '/a/../b', '/a/', '/a\\b', /, /bin/ok]}"), []string{
			`spec.exec.deny[0]: "bin/sh" is not an absolute path; fix: start it with "/"`,
			`spec.exec.deny[1]: "/a*" is not a pattern that the kernel can judge`,
			`spec.exec.deny[2]: "/a/../b" is not a clean path; fix: write "/b"`,
			`spec.exec.deny[3]: "/a/" is not a clean path; fix: write "/a"`,
			`spec.exec.deny[4]: "/a\\b" has a control character or a backslash`,
			`spec.exec.deny[5]: "/" is a directory; fix: write "/**" for every file`,
		}},
		{"helper pattern", doc("mode: audit", "exec: {runtimeHelpers: [/usr/bin/*]}"), []string{`is a pattern; a helper is one file`}},
		{
			"helpers loosen", doc("mode: audit", "selector: {image: a}", "exec: {drift: deny, runtimeHelpers: [/usr/bin/x]}"),
			[]string{`runtimeHelpers loosens drift, and this selector may only tighten`},
		},
		{
			"onError loosens", doc("mode: audit", "selector: {image: a}", "onError: allow", "exec: {drift: deny}"),
			[]string{`onError: allow loosens, and this selector may only tighten`},
		},
		{
			"loosen by label", doc("mode: audit", "selector: {labels: {a: b}, image: x, name: y}", "loosen: true", "exec: {drift: allow}"),
			[]string{`p.yaml:7:11: loosen: true needs a selector that a client cannot choose`},
		},
		{"loosen everything", doc("mode: audit", "loosen: true", "exec: {drift: allow}"), []string{`loosen: true needs a selector`}},
		{"guard allow", doc("mode: audit", "guard: {bpf: allow}"), []string{`guard.bpf: allow has no effect`}},
		{"no rule", doc("mode: audit"), []string{`p.yaml:5:3: the policy sets no rule; fix: set a rule below exec, ssh, files, privileges, network, host or guard`}},
		{"empty section", doc("mode: audit", "exec: {}"), []string{`the policy sets no rule`}},
		{"client list", doc("mode: audit", "ssh: {client: ['10.0.0.0/8:22']}"), []string{`fix: write client: {to: [...]}`}},
		{"client to missing", doc("mode: audit", "ssh: {client: {}}"), []string{`spec.ssh.client.to is missing`}},
		{"destinations, all shown", doc("mode: audit", "ssh: {client: {to: ['10.0.0.0/8', 'example.org:22', '10.0.0.1/8:22', '2001:db8::/32:22', '[10.0.0.0/8]:22', '10.0.0.0/8:0', '10.0.0.0/8:20-25', '[fe80::1%eth0]:22', '[::1:22', '10.0.0.0/33:22']}}"), []string{
			`spec.ssh.client.to[0]: "10.0.0.0/8" has no port`,
			`spec.ssh.client.to[1]: "example.org" is not an address; fix: write "10.0.0.0/8:22"`,
			`spec.ssh.client.to[2]: "10.0.0.1/8" has bits set outside its mask; fix: write 10.0.0.0/8`,
			`brackets are for IPv6, and IPv6 needs them`, `brackets are for IPv6, and IPv6 needs them`,
			`"0" is not a port`, `"20-25" is not a port; fix: write one number from 1 to 65535`,
			`is not an address`, `has a "[" without its "]"`, `is not an address range`,
		}},
		{"too many ports", doc("mode: audit", "ssh: {client: {to: ["+manyPorts(31)+"]}}"), []string{`10.0.0.0/8 has 31 ports, with those of wider ranges; at most 30`}},
		{
			"errors of several documents", doc("mode: x", "ssh: {keys: deny}") + "---\n" + doc("mode: y", "ssh: {keys: deny}"),
			[]string{`p.yaml:5:9: spec.mode`, `p.yaml:12:9: spec.mode`},
		},
		{"too large", strings.Repeat("#", MaxFileBytes+1), []string{`the file is larger than`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ps, err := Parse("p.yaml", []byte(tt.src))
			if err == nil || ps != nil {
				t.Fatalf("got policies %v and error %v, want an error only", ps, err)
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(tt.want) {
				t.Fatalf("got %d errors, want %d:\n%s", len(got), len(tt.want), err)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("error %d: got  %s\nwant %s", i, got[i], tt.want[i])
				}
			}
		})
	}
}

func manyPorts(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("'10.0.0.0/8:%d'", i+1))
	}
	return strings.Join(out, ", ")
}

func TestErrorsUnwrap(t *testing.T) {
	_, err := Parse("p.yaml", []byte(doc("mode: x", "exec: {drift: y}")))
	es, isErrors := errors.AsType[Errors](err)
	first, isError := errors.AsType[*Error](err)
	if !isErrors || len(es) != 2 || !isError {
		t.Fatalf("got %#v, want Errors of two *Error", err)
	}
	if first.Line != 5 || first.Column != 9 || first.File != "p.yaml" || first.Fix == "" {
		t.Errorf("first error: got %+v, want p.yaml:5:9 with a fix", first)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	_, err := Parse("p.yaml", []byte("x: "+strings.Repeat("\ny: 1", 5000)))
	es, ok := errors.AsType[Errors](err)
	if !ok || len(es) != maxErrors+1 {
		t.Fatalf("got %d errors, want %d", len(es), maxErrors+1)
	}
	if got := es[maxErrors].Msg; !strings.Contains(got, "too many errors") {
		t.Errorf("last error: got %q, want a note that there are more", got)
	}
}

func TestLargePolicy(t *testing.T) {
	var b strings.Builder
	b.WriteString(doc("mode: enforce", "exec:", "  deny:"))
	for i := range 10000 {
		fmt.Fprintf(&b, "    - /opt/app-%d/bin/**\n", i)
	}
	e := mustSet(t, b.String()).Floor()
	if got, want := len(e.Paths), 10000; got != want {
		t.Errorf("got %d path rules, want %d", got, want)
	}
	if _, v, _ := e.MatchPath("/opt/app-7777/bin/x/y"); v[verdict.ModeEnforce] != verdict.Deny {
		t.Errorf("got %v, want deny", v[verdict.ModeEnforce])
	}
}
