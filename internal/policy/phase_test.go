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

func TestParsePhase(t *testing.T) {
	for _, c := range []struct {
		name, phase string
		want        Phase
		errors      []string // parts of the error; none: it parses
	}{
		{"time", "{after: 30s}", Phase{Within: 30 * time.Second}, nil},
		{"listen", "{after: firstListen}", Phase{FirstListen: true, Within: time.Minute}, nil},
		{"listen with a deadline", "{within: 2m, after: firstListen}", Phase{FirstListen: true, Within: 2 * time.Minute}, nil},
		{"no unit", "{after: 30}", Phase{}, []string{"p.yaml:7:", "spec.phase.after has no unit; fix: write the unit: 30s; or firstListen"}},
		{"other word", "{after: listen}", Phase{}, []string{"must be a duration", "or firstListen"}},
		{"too long", "{after: 2h}", Phase{}, []string{`must be from 1s to 1h0m0s, got "2h"; fix: write a shorter one; or firstListen`}},
		{"none", "{after: 0s}", Phase{}, []string{"must be from 1s"}},
		{"no after", "{within: 30s}", Phase{}, []string{"after"}},
		{"deadline without effect", "{after: 30s, within: 10s}", Phase{}, []string{"spec.phase.within has no effect", "fix: delete it, or write after: firstListen"}},
		{"deadline too long", "{after: firstListen, within: 61m}", Phase{}, []string{"spec.phase.within must be from 1s to 1h0m0s"}},
		{"unknown field", "{until: 30s}", Phase{}, []string{`unknown field "until" in spec.phase`}},
		{"no mapping", "firstListen", Phase{}, []string{"p.yaml:7:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ps, err := Parse("p.yaml", []byte(doc("mode: enforce", "exec: {drift: deny}", "phase: "+c.phase)))
			if len(c.errors) > 0 {
				if err == nil {
					t.Fatalf("no error, got %+v", ps[0].Spec.Phase)
				}
				for _, part := range c.errors {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q lacks %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := ps[0].Spec.Phase; got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			again, err := Parse("p.yaml", ps[0].Canonical())
			if err != nil || again[0].Spec.Phase != c.want || again[0].Revision != ps[0].Revision {
				t.Errorf("the normal form is not the same policy: %v\n%s", err, ps[0].Canonical())
			}
		})
	}
}

func TestPhaseRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spec []string
		want string
	}{
		"loosen":  {[]string{"selector: {imageDigest: sha256:" + strings.Repeat("a", 64) + "}", "loosen: true", "exec: {drift: allow}"}, "a loosening policy has no phase"},
		"guard":   {[]string{"guard: {sockets: deny}"}, "guard has no phase"},
		"onError": {[]string{"onError: allow", "exec: {drift: deny}"}, "onError: allow has no phase"},
		"no rule": {nil, "the policy sets no rule"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("p.yaml", []byte(doc(append(c.spec, "mode: enforce", "phase: {after: 30s}")...)))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "fix:") {
				t.Errorf("got %v, want %q and a fix", err, c.want)
			}
		})
	}
}

// More lengths than the kernel side has entries are an error with its place; equal ones count once.
func TestTooManyPhases(t *testing.T) {
	var docs []string
	for i := range MaxPhases {
		docs = append(docs, named("p"+strconv.Itoa(i), "mode: enforce", "exec: {drift: deny}", "phase: {after: "+strconv.Itoa(i+10)+"s}"))
	}
	docs = append(docs, named("listen", "mode: enforce", "exec: {drift: deny}", "phase: {after: firstListen, within: 10s}"))
	if _, err := parseSet(strings.Join(docs, "---\n")); err != nil {
		t.Fatalf("%d lengths: %v", MaxPhases, err)
	}
	docs = append(docs, named("more", "mode: enforce", "exec: {drift: deny}", "phase: {after: 50s}"))
	_, err := parseSet(strings.Join(docs, "---\n"))
	if err == nil || !strings.Contains(err.Error(), "phases of more than 4 different lengths") || !strings.Contains(err.Error(), "such as 10s") || !regexp.MustCompile(`p.yaml:\d+`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
}

func parseSet(yaml string) (*Set, error) {
	ps, err := Parse("p.yaml", []byte(yaml))
	if err != nil {
		return nil, err
	}
	return NewSet(ps)
}

// Each policy begins at its own time, whatever other policies have: an audit policy with a short
// phase does not shorten that of one that enforces.
func TestPhasesCombine(t *testing.T) {
	set := mustSet(t,
		named("always", "mode: enforce", "exec: {memfd: deny}"),
		named("late", "mode: enforce", "exec: {asRoot: deny}", "phase: {after: 30s}"),
		named("listen", "mode: enforce", "exec: {drift: deny}", "phase: {after: firstListen, within: 20s}"),
		named("look", "mode: audit", "exec: {fileCaps: deny}", "phase: {after: 10s}"),
	)
	e := set.Effective(Subject{Known: true})
	on := func(e *Effective) string {
		var out []string
		for m := range slots {
			for _, r := range verdict.Rules() {
				if e.Rules[m][r].on() && r != verdict.RuleBPF {
					out = append(out, verdict.Mode(m).String()+" "+r.String())
				}
			}
		}
		return strings.Join(out, ", ")
	}
	const memfd, drift, root, caps = "enforce exec.memfd", "enforce exec.drift", "enforce exec.asRoot", "audit exec.fileCaps"
	for _, c := range []struct {
		age      time.Duration
		listened bool
		want     []string
	}{
		{0, false, []string{memfd}},
		{0, true, []string{drift, memfd}},
		{10*time.Second - 1, false, []string{memfd}},
		{10 * time.Second, false, []string{memfd, caps}},
		{15 * time.Second, true, []string{drift, memfd, caps}},
		{20 * time.Second, false, []string{drift, memfd, caps}},
		{30 * time.Second, false, []string{root, drift, memfd, caps}},
		{time.Hour, true, []string{root, drift, memfd, caps}},
	} {
		if diff := cmp.Diff(strings.Join(c.want, ", "), on(e.At(c.age, c.listened))); diff != "" {
			t.Errorf("at %s, listened %v (-want +got):\n%s", c.age, c.listened, diff)
		}
	}
	if on(e) != strings.Join([]string{root, drift, memfd, caps}, ", ") {
		t.Errorf("the Effective itself has not all rules: %s", on(e))
	}
	if n := len(e.Phases); n != 4 {
		t.Errorf("%d entries, want 4", n)
	}
}

// In the start a container has what the other policies come to, and no more; options too.
func TestPhaseOptions(t *testing.T) {
	set := mustSet(t,
		named("a", "mode: enforce", "exec: {drift: deny, volumes: allow}"),
		named("b", "mode: enforce", "phase: {after: firstListen}", "exec: {drift: deny, deny: [/bin/nc]}", "files: {readOnly: [/etc]}", "network: {egress: {default: deny}}"),
	)
	e := set.Effective(Subject{Known: true})
	start := e.At(0, false)
	if len(start.Paths)+len(start.Files)+len(start.NetAddrs) != 0 || start.Rules[0][verdict.RuleDrift].Opt != OptVolumes {
		t.Errorf("the start has rules of the other policy: %+v", start)
	}
	if e.At(0, true) != e || len(e.Files) == 0 || len(e.Paths) == 0 || len(e.NetAddrs) == 0 || e.Rules[0][verdict.RuleDrift].Opt != 0 {
		t.Errorf("after the listen not all rules hold: %+v", e)
	}
	for _, l := range e.Explain() {
		switch l.Rule {
		case verdict.RuleDrift:
			if want := "at the start deny (volumes: allow, metadataOnly: deny) (a)"; !strings.Contains(l.Why, want) {
				t.Errorf("drift: %q lacks %q", l.Why, want)
			}
		case verdict.RulePathDeny:
			if want := "from the first listen on, at the latest 1m0s after the start; until then allow"; !strings.Contains(l.Why, want) {
				t.Errorf("exec.deny: %q lacks %q", l.Why, want)
			}
		case verdict.RuleBPF:
			if strings.Contains(l.Why, "start") {
				t.Errorf("guard.bpf holds always: %q", l.Why)
			}
		}
	}
}

func TestPhaseRevision(t *testing.T) {
	rev := func(phase string) string {
		return mustSet(t, named("p", "mode: enforce", "exec: {drift: deny}"+phase)).Floor().Revision
	}
	seen := map[string]string{}
	for _, phase := range []string{"", "\n  phase: {after: 30s}", "\n  phase: {after: 31s}", "\n  phase: {after: firstListen, within: 30s}"} {
		if other, dup := seen[rev(phase)]; dup {
			t.Errorf("%q and %q have one revision", phase, other)
		}
		seen[rev(phase)] = phase
		if rev(phase) != rev(phase) {
			t.Errorf("%q: the revision changes", phase)
		}
	}
	build := mustSet(t, named("p", "mode: enforce", "exec: {drift: deny}", "phase: {after: 30s}")).Effective(Subject{Class: ClassBuild})
	if len(build.Phases) != 0 {
		t.Error("a build step has phases")
	}
}

func TestMaxPhasesIsTheKernels(t *testing.T) {
	b, err := os.ReadFile("../../bpf/rules.h")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`#define BL_PHASES (\d+)`).FindSubmatch(b)
	if m == nil || string(m[1]) != strconv.Itoa(MaxPhases+1) {
		t.Errorf("BL_PHASES is %q, MaxPhases+1 is %d", m, MaxPhases+1)
	}
}

// files-after-start.yaml is files-system.yaml with a phase, and nothing else.
func TestShippedAfterStart(t *testing.T) {
	load := func(name string) *Effective {
		s, err := ParseFiles("../../policies/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return s.Floor()
	}
	late, system := load("files-after-start.yaml"), load("files-system.yaml")
	if diff := cmp.Diff(system.Files, late.Files); diff != "" {
		t.Errorf("files (-files-system +files-after-start):\n%s", diff)
	}
	if start := late.At(0, false); len(start.Files) != 0 {
		t.Errorf("the start has %d file rules", len(start.Files))
	}
	if late.At(time.Minute, false) != late || late.At(0, true) != late {
		t.Error("the start does not end with the first listen, or after a minute")
	}
}
