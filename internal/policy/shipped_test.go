package policy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/verdict"
)

// Every policy that ships is listed here with what it must refuse and what it must
// let pass.
func TestShippedPolicies(t *testing.T) {
	const starting = FlagRoot | FlagInitTree | FlagInitRoot
	type want struct {
		decision verdict.Verdict // on what the rules are about
		start    verdict.Verdict // on root in the first process, at the start
		onError  verdict.Verdict
	}
	tests := map[string]want{
		"hardened.yaml":    {verdict.Deny, verdict.Deny, verdict.Deny},
		"audit-floor.yaml": {verdict.Audit, verdict.Audit, verdict.Allow},
		"after-start.yaml": {verdict.Deny, verdict.Allow, verdict.Deny},
		"strict.yaml":      {verdict.Deny, verdict.Deny, verdict.Deny},
	}
	files, err := filepath.Glob("../../policies/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The other kinds have tests of their own.
	files = slices.DeleteFunc(files, func(f string) bool {
		return strings.HasPrefix(filepath.Base(f), "access-") || strings.HasPrefix(filepath.Base(f), "image-") ||
			strings.HasPrefix(filepath.Base(f), "files-") || strings.HasPrefix(filepath.Base(f), "network-") || strings.HasPrefix(filepath.Base(f), "allow-") || filepath.Base(f) == "baseline.yaml"
	})
	if len(files) != len(tests) {
		t.Errorf("got %d shipped policies, want %d", len(files), len(tests))
	}
	for _, file := range files {
		base := filepath.Base(file)
		t.Run(base, func(t *testing.T) {
			want, ok := tests[base]
			if !ok {
				t.Fatal("add what this policy must deny and what it must let pass")
			}
			s, err := ParseFiles(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(s.Policies()); got != 1 {
				t.Fatalf("got %d policies, want 1", got)
			}
			e := s.Floor()
			decide := func(flags uint32) verdict.Verdict {
				return e.Exec(Facts{Flags: flags, PathVerdict: [2]verdict.Verdict{verdict.Allow, verdict.Allow}}).Verdict
			}
			for _, f := range []uint32{
				FlagRoot, FlagNested, FlagFileCaps, FlagUpper, FlagUpper | FlagMetadata, FlagTmpfs, FlagDeleted,
				FlagVolume, FlagMounted, FlagSSHProgram, FlagMapping | FlagUpper,
			} {
				if got := decide(f); got != want.decision {
					t.Errorf("facts %#x: got %v, want %v", f, got, want.decision)
				}
			}
			for _, f := range []uint32{0, FlagInitTree, FlagVolume | FlagVolumeRO, FlagMapping, FlagMapping | FlagRoot} {
				if got := decide(f); got != verdict.Allow {
					t.Errorf("facts %#x: got %v, want allow", f, got)
				}
			}
			if got := decide(starting); got != want.start {
				t.Errorf("root at the start: got %v, want %v", got, want.start)
			}
			if e.OnError != want.onError {
				t.Errorf("onError: got %v, want %v", e.OnError, want.onError)
			}
			mode := s.Policies()[0].Spec.Mode
			for _, r := range []verdict.Rule{verdict.RuleSSHServer, verdict.RuleSSHClient, verdict.RuleSSHKeys} {
				if got := e.Rules[mode][r].Verdict; got != verdict.Deny {
					t.Errorf("%s: got %v, want deny", r, got)
				}
			}
		})
	}
}

// What an installation starts with must report what hardened.yaml would refuse,
// neither more nor less.
func TestAuditFloorIsHardenedInAudit(t *testing.T) {
	load := func(name string) *Effective {
		s, err := ParseFiles("../../policies/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return s.Floor()
	}
	hard, floor := load("hardened.yaml"), load("audit-floor.yaml")
	for _, r := range verdict.Rules()[:verdict.RuleBPF] { // the guard is always enforced
		if diff := cmp.Diff(hard.Rules[verdict.ModeEnforce][r], floor.Rules[verdict.ModeAudit][r]); diff != "" {
			t.Errorf("%s (-hardened +audit-floor):\n%s", r, diff)
		}
	}
	for m := range slots {
		if slices.ContainsFunc(floor.Rules[verdict.ModeEnforce][:verdict.RuleBPF], Rule.on) {
			t.Errorf("the audit floor enforces a rule in mode %s", verdict.Mode(m))
		}
	}
}

// allow-bpf.yaml lets the image that it names call bpf(2), from its start on, and nothing else; as it
// ships it names none. What it says in comments does what it says beside baseline.yaml.
func TestAllowBPF(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		src, err := os.ReadFile("../../policies/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(src)
	}
	shipped := read("allow-bpf.yaml")
	named := strings.Replace(shipped, "sha256:"+strings.Repeat("0", 64), testDigest, 1)
	if named == shipped {
		t.Fatal("the shipped file names an image")
	}
	head, more, _ := strings.Cut(named, "# privileges:")
	all := head + "privileges:" + strings.ReplaceAll(more, "\n  # ", "\n  ")
	image := Subject{Known: true, ImageDigest: testDigest, Image: "cilium", Namespace: "kube-system"}
	other, late := image, image
	other.ImageDigest, late.BoundLate = "sha256:"+strings.Repeat("1", 64), true
	rules := []verdict.Rule{
		verdict.RuleBPF, verdict.RuleMount, verdict.RuleModules, verdict.RulePacketSockets,
		verdict.RuleHostAgent, verdict.RuleHostEngine,
	}
	tests := []struct {
		name, policy string
		sub          Subject
		allowed      int // of rules, from the first on
	}{
		{"its image", named, image, 1},
		{"its image, with what the comments say", all, image, len(rules)},
		{"as it ships", shipped, image, 0},
		{"another image of the same name and namespace", all, other, 0},
		{"nobody knows which", all, Subject{}, 0},
		{"its image, that runs already", all, late, 0},
		{"a build step", all, Subject{Class: ClassBuild}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := mustSet(t, tt.policy, read("baseline.yaml")).Effective(tt.sub)
			for n, r := range rules {
				want := verdict.Deny
				if n < tt.allowed || tt.sub.Class == ClassBuild && !guards(r) {
					want = verdict.Allow
				}
				if got := e.Rules[verdict.ModeEnforce][r].Verdict; got != want {
					t.Errorf("%s: got %v, want %v", r, got, want)
				}
			}
		})
	}
}

// The reference must name every field, and its whole documents must be accepted.
func TestReferenceDocument(t *testing.T) {
	src, err := os.ReadFile("../../docs/policy-reference.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range fieldHome {
		if !strings.Contains(string(src), "`"+name+"`") && !strings.Contains(string(src), "{"+name+":") {
			t.Errorf("field %s is not documented", name)
		}
	}
	parsed := 0
	for _, block := range strings.Split(string(src), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		if !strings.Contains(block, "apiVersion:") {
			continue // a part of a policy
		}
		parsed++
		if _, err := Parse("policy-reference.md", []byte(block)); err != nil {
			t.Errorf("example:\n%s\n%v", block, err)
		}
	}
	if parsed < 2 {
		t.Errorf("got %d whole examples, want at least 2", parsed)
	}
}

// Each rule of baseline and strict says, above itself, which technique of ATT&CK it is against;
// strict refuses all that baseline does, and every rule that there is but those whose lists only
// the image's owner can write.
func TestBaselineAndStrict(t *testing.T) {
	floors := map[string]*Effective{}
	for _, name := range []string{"baseline.yaml", "strict.yaml"} {
		src, err := os.ReadFile("../../policies/" + name)
		if err != nil {
			t.Fatal(err)
		}
		_, spec, _ := strings.Cut(string(src), "\n  exec:")
		told := false
		for l := range strings.Lines(spec) {
			l = strings.TrimSpace(l)
			switch section := strings.HasSuffix(l, ":"); {
			case strings.HasPrefix(l, "#"):
				told = told || strings.Contains(l, "T1")
			case section && l != "rules:":
				told = false
			case l != "" && !section && !told:
				t.Errorf("%s: %q has no technique above it", name, l)
			}
		}
		s, err := ParseFiles("../../policies/" + name)
		if err != nil {
			t.Fatal(err)
		}
		floors[name] = s.Floor()
	}
	base, strict := floors["baseline.yaml"], floors["strict.yaml"]
	for _, r := range verdict.Rules() {
		if base.Rules[0][r].on() && !strict.Rules[0][r].on() {
			t.Errorf("%s: baseline denies it, and strict does not", r)
		}
		if !strict.Rules[0][r].on() && r != verdict.RulePathDeny && r != verdict.RulePathAllow &&
			r != verdict.RuleIngress && r != verdict.RuleListen {
			t.Errorf("strict does not deny %s", r)
		}
	}
	if loose := base.Capabilities[0] &^ strict.Capabilities[0]; loose != 0 {
		t.Errorf("baseline denies capabilities that strict does not: %q", loose.Names())
	}
}
