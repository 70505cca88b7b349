package policy

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/verdict"
)

// The bits of options and facts are defined once, in C; this test reads them there.
func TestKernelConstants(t *testing.T) {
	defined := map[string]uint64{}
	re := regexp.MustCompile(`(?m)^\s*(?:#define\s+)?(BL_(?:A|O|F|PATH|MAX|SSH_PORTS|R|SLOTS)\w*)\s*=?\s+(0x[0-9a-f]+|\d+)\b`)
	for _, file := range []string{"../../bpf/rules.h", "../../bpf/pure/exec.h"} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range re.FindAllStringSubmatch(string(src), -1) {
			v, err := strconv.ParseUint(m[2], 0, 64)
			if err != nil {
				t.Fatal(err)
			}
			defined[m[1]] = v
		}
	}
	want := map[string]uint64{
		"BL_O_AFTER_START": uint64(OptAfterStart), "BL_O_NESTED_ALLOW": uint64(OptNestedAllow),
		"BL_O_PROGRAMS": uint64(OptPrograms), "BL_O_VOLUMES_RO": uint64(OptVolumesRO), "BL_O_VOLUMES": uint64(OptVolumes),
		"BL_O_METADATA": uint64(OptMetadata), "BL_O_SSH_TO": uint64(OptSSHTo),
		"BL_F_ROOT": uint64(FlagRoot), "BL_F_NESTED": uint64(FlagNested), "BL_F_INIT_TREE": uint64(FlagInitTree),
		"BL_F_INIT_ROOT": uint64(FlagInitRoot), "BL_F_FILE_CAPS": uint64(FlagFileCaps), "BL_F_UPPER": uint64(FlagUpper),
		"BL_F_METADATA": uint64(FlagMetadata), "BL_F_TMPFS": uint64(FlagTmpfs), "BL_F_DELETED": uint64(FlagDeleted),
		"BL_F_VOLUME": uint64(FlagVolume), "BL_F_VOLUME_RO": uint64(FlagVolumeRO), "BL_F_MOUNTED": uint64(FlagMounted),
		"BL_F_SSH_PROGRAM": uint64(FlagSSHProgram), "BL_F_PATH_LOST": uint64(FlagPathLost),
		"BL_F_MAPPING": uint64(FlagMapping), "BL_F_HELPER": uint64(FlagHelper), "BL_F_SHARED": uint64(FlagShared),
		"BL_PATH_EXACT": uint64(PathExact), "BL_PATH_TREE": uint64(PathTree), "BL_PATH_CHILD": uint64(PathChild),
		"BL_MAX_ALLOW_LISTS": MaxAllowLists, "BL_SSH_PORTS": maxPorts, "BL_SLOTS": slots,
		"BL_R_COUNT": verdict.NumRules, "BL_O_PTRACE_OWN": uint64(OptPtraceOwn),
		"BL_A_READ": uint64(ActRead), "BL_A_WRITE": uint64(ActWrite), "BL_A_CREATE": uint64(ActCreate),
		"BL_A_DELETE": uint64(ActDelete), "BL_A_RENAME": uint64(ActRename), "BL_A_LINK": uint64(ActLink),
		"BL_A_ATTRIBUTES": uint64(ActAttributes), "BL_A_KEEP": uint64(ActKeep), "BL_A_SHIFT": 8,
	}
	for name, v := range want {
		if got, ok := defined[name]; !ok || got != v {
			t.Errorf("%s: C has %#x (defined: %v), Go has %#x", name, got, ok, v)
		}
	}
	for name := range defined {
		if _, ok := want[name]; !ok && (strings.HasPrefix(name, "BL_F_") || strings.HasPrefix(name, "BL_O_")) {
			t.Errorf("%s is unknown to Go", name)
		}
	}
}

func TestNoPolicy(t *testing.T) {
	for _, sub := range []Subject{{}, {Known: true, Name: "x"}, {Class: ClassBuild}} {
		e := (&Set{}).Effective(sub)
		for m := range slots {
			for _, r := range verdict.Rules() {
				want := verdict.Allow
				if r == verdict.RuleBPF && m == int(verdict.ModeEnforce) {
					want = verdict.Deny
				}
				if got := e.Rules[m][r].Verdict; got != want {
					t.Errorf("%s in %s: got %v, want %v", r, verdict.Mode(m), got, want)
				}
			}
		}
		if got := e.Sources[e.Rules[0][verdict.RuleBPF].Policy].Name; got != BuiltIn {
			t.Errorf("guard.bpf credited to %q, want %q", got, BuiltIn)
		}
		if e.OnError != verdict.Deny {
			t.Errorf("onError: got %v, want deny", e.OnError)
		}
	}
}

func TestEffective(t *testing.T) {
	s := mustSet(t,
		named("floor", "mode: audit", "exec: {asRoot: denyAfterStart, startFor: 5s, drift: deny, volumes: allow}", "ssh: {mode: enforce, keys: deny}"),
		named("web", "priority: 3", "selector: {image: nginx}", "mode: enforce",
			"exec: {drift: deny, volumes: readOnly, allow: [/bin/sh], deny: [/opt/**]}",
			"ssh: {client: {to: ['10.0.0.0/8:22']}}"))
	e := s.Effective(Subject{Known: true, Image: "nginx"})
	deny := func(policy uint16, opt uint8) Rule { return Rule{verdict.Deny, opt, policy} }
	off := Rule{Verdict: verdict.Allow}
	want := [2][verdict.NumRules]Rule{
		{off, off, deny(0, OptVolumesRO), deny(0, 0), deny(0, 0), deny(0, 0), off, deny(0, OptSSHTo), deny(1, 0), deny(2, 0), off},
		{deny(1, OptAfterStart), off, deny(1, OptVolumes), deny(1, 0), off, off, off, off, off, off, off},
	}
	for m := range want { // that no policy sets
		for r := verdict.RuleSockets; r < verdict.NumRules; r++ {
			want[m][r] = off
		}
	}
	if diff := cmp.Diff(want, e.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([2]time.Duration{0, 5 * time.Second}, e.StartFor); diff != "" {
		t.Errorf("startFor (-want +got):\n%s", diff)
	}
	a, d := verdict.Allow, verdict.Deny
	wantPaths := []PathRule{
		{PathExact, "/bin/sh", 1, [2]verdict.Verdict{a, a}, [2]uint16{}},
		{PathTree, "/opt", 0, [2]verdict.Verdict{d, a}, [2]uint16{}},
		{PathExact, "/usr/bin/sh", 1, [2]verdict.Verdict{a, a}, [2]uint16{}},
	}
	if diff := cmp.Diff(wantPaths, e.Paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([2]uint32{1, 0}, e.AllowNeed); diff != "" {
		t.Errorf("AllowNeed (-want +got):\n%s", diff)
	}
	var names []string
	for _, src := range e.Sources {
		names = append(names, src.Name)
	}
	if diff := cmp.Diff([]string{"web", "floor", BuiltIn}, names); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

func TestEffectiveRevision(t *testing.T) {
	a := named("a", "mode: enforce", "exec: {deny: [/x, /y, /z/**], allow: [/q]}")
	e := mustSet(t, a).Floor()
	for range 5 {
		if again := mustSet(t, "# in another place\n"+a).Floor(); again.Revision != e.Revision {
			t.Fatalf("equal content: got revisions %s and %s", e.Revision, again.Revision)
		}
	}
	web := named("web", "selector: {image: nginx}", "mode: audit", "ssh: {keys: deny}")
	if got := mustSet(t, a, web).Floor().Revision; got != e.Revision {
		t.Error("a policy for other containers changed the revision")
	}
	if got := mustSet(t, strings.Replace(a, "/q", "/r", 1)).Floor().Revision; got == e.Revision {
		t.Error("different content has one revision")
	}
}

func TestOnError(t *testing.T) {
	floor := func(more ...string) string { return named("floor", append([]string{"ssh: {keys: deny}"}, more...)...) }
	web := func(more ...string) string {
		return named("web", append([]string{"selector: {imageDigest: '" + testDigest + "'}", "ssh: {keys: deny}"}, more...)...)
	}
	sub := Subject{Known: true, ImageDigest: testDigest}
	late := sub
	late.BoundLate = true
	tests := []struct {
		name string
		docs []string
		sub  Subject
		want verdict.Verdict
	}{
		{"default", []string{floor("mode: enforce")}, sub, verdict.Deny},
		{"default in audit", []string{floor("mode: audit")}, sub, verdict.Deny},
		{"floor allows", []string{floor("mode: enforce", "onError: allow")}, sub, verdict.Allow},
		{"audit says nothing", []string{floor("mode: audit", "onError: allow"), web("mode: audit")}, sub, verdict.Allow},
		{"enforce says nothing", []string{floor("mode: audit", "onError: allow"), web("mode: enforce")}, sub, verdict.Deny},
		{"deny wins", []string{floor("mode: enforce", "onError: allow"), web("mode: audit", "onError: deny")}, sub, verdict.Deny},
		{"loosened", []string{floor("mode: enforce"), web("mode: enforce", "loosen: true", "onError: allow")}, sub, verdict.Allow},
		{"bound late", []string{floor("mode: enforce"), web("mode: enforce", "loosen: true", "onError: allow")}, late, verdict.Deny},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := mustSet(t, tt.docs...).Effective(tt.sub).OnError; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestGuardAndHelpers(t *testing.T) {
	loose := named("l", "selector: {imageDigest: '"+testDigest+"'}", "loosen: true", "mode: enforce", "guard: {bpf: allow}",
		"exec: {runtimeHelpers: [/usr/bin/b]}")
	s := mustSet(t, loose, named("floor", "mode: enforce", "exec: {drift: deny, runtimeHelpers: [/usr/bin/a]}"),
		named("g", "mode: audit", "guard: {bpf: deny}"))
	tests := []struct {
		name    string
		sub     Subject
		bpf     verdict.Verdict
		helpers []string
		ignored bool
	}{
		{"floor", Subject{}, verdict.Deny, []string{"/usr/bin/a"}, false},
		{"loosened", Subject{Known: true, ImageDigest: testDigest}, verdict.Allow, []string{"/usr/bin/a", "/usr/bin/b"}, false},
		{"bound late", Subject{Known: true, ImageDigest: testDigest, BoundLate: true}, verdict.Deny, []string{"/usr/bin/a"}, true},
		{"build", Subject{Class: ClassBuild}, verdict.Deny, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := s.Effective(tt.sub)
			if got := e.Rules[verdict.ModeEnforce][verdict.RuleBPF].Verdict; got != tt.bpf {
				t.Errorf("guard.bpf: got %v, want %v", got, tt.bpf)
			}
			if diff := cmp.Diff(tt.helpers, e.RuntimeHelpers); diff != "" {
				t.Errorf("helpers (-want +got):\n%s", diff)
			}
			ignored := false
			for _, src := range e.Sources {
				ignored = ignored || src.Ignored != ""
			}
			if ignored != tt.ignored {
				t.Errorf("loosening reported as ignored: got %v, want %v", ignored, tt.ignored)
			}
		})
	}
}

func TestMatchPathLost(t *testing.T) {
	e := mustSet(t, doc("mode: enforce", "exec: {deny: [/x], allow: [/**]}")).Floor()
	for _, p := range []string{"", "x", "/a/../x", "/a//b", "/a/"} {
		t.Run(p, func(t *testing.T) {
			bits, v, _ := e.MatchPath(p)
			if bits != 0 || v != [2]verdict.Verdict{verdict.Deny, verdict.Allow} {
				t.Errorf("got bits %#x, verdicts %v, want none and deny where a deny list exists", bits, v)
			}
		})
	}
}

// The decision is made once for each event of a test run of the kernel: it must not
// allocate, or the comparison measures the collector.
func TestExecAllocs(t *testing.T) {
	e := mustSet(t, doc("mode: enforce", "exec: {asRoot: deny, drift: deny, deny: [/x], allow: [/y]}")).Floor()
	got := testing.AllocsPerRun(100, func() {
		f := Facts{}
		f.AllowBits, f.PathVerdict, f.PathPolicy = e.MatchPath("/usr/local/bin/x")
		e.Exec(f)
	})
	if got != 0 {
		t.Errorf("got %v allocations per decision, want 0", got)
	}
}

func BenchmarkExec(b *testing.B) {
	e := mustSet(b, doc("mode: enforce", "exec: {asRoot: deny, drift: deny, deny: [/x], allow: [/usr/**]}")).Floor()
	b.ReportAllocs()
	for b.Loop() {
		f := Facts{}
		f.AllowBits, f.PathVerdict, f.PathPolicy = e.MatchPath("/usr/local/bin/x")
		e.Exec(f)
	}
}
