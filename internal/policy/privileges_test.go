package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/verdict"
)

func TestPrivileges(t *testing.T) {
	s := mustSet(t,
		named("floor", "mode: enforce", "privileges: {mount: deny, ptrace: own, capabilities: {deny: [SYS_ADMIN, CAP_BPF]}}"),
		named("watch", "mode: audit", "privileges: {ioUring: deny, capabilities: {allow: [chown]}}"),
		named("web", "selector: {image: nginx}", "mode: enforce", "privileges: {ptrace: deny, mount: allow, capabilities: {deny: [sys_module]}}"))
	e := s.Effective(Subject{Known: true, Image: "nginx"})
	for r, want := range map[verdict.Rule]Rule{
		verdict.RuleMount: {Verdict: verdict.Deny}, verdict.RulePtrace: {Verdict: verdict.Deny, Policy: 2},
		verdict.RuleCapabilities: {Verdict: verdict.Deny}, verdict.RuleIOUring: {Verdict: verdict.Allow},
	} {
		if got := e.Rules[verdict.ModeEnforce][r]; got != want {
			t.Errorf("%s: %+v, want %+v", r, got, want)
		}
	}
	if got := e.Capabilities[verdict.ModeEnforce].Names(); !cmp.Equal(got, []string{"SYS_MODULE", "SYS_ADMIN", "BPF"}) {
		t.Errorf("denied capabilities: %q", got)
	}
	if got := e.Capabilities[verdict.ModeAudit]; got != 1<<41-2 {
		t.Errorf("audited capabilities: %q", got.Names())
	}
	if own := s.Floor().Rules[verdict.ModeEnforce][verdict.RulePtrace]; own.Opt != OptPtraceOwn {
		t.Errorf("ptrace: own compiles to %+v", own)
	}
	if build := s.Effective(Subject{Class: ClassBuild}); build.Rules[verdict.ModeEnforce][verdict.RuleMount].Verdict != verdict.Allow || build.Capabilities[0] != 0 {
		t.Error("a build step is judged by the section")
	}
	var said []string
	for _, l := range e.Explain() {
		if l.Rule == verdict.RuleCapabilities {
			said = append(said, l.Value)
		}
	}
	if len(said) != 2 || said[0] != "deny SYS_MODULE, SYS_ADMIN, BPF" {
		t.Errorf("explained as %q", said)
	}
}

func TestPrivilegesErrors(t *testing.T) {
	for in, want := range map[string]string{
		"{mount: own}":                   "must be allow or deny",
		"{capabilities: {deny: [ROOT]}}": `"ROOT" is no capability`,
		"{capabilities: {deny: [CHOWN], allow: [CAP_CHOWN]}}": "CHOWN is in allow and in deny",
		"{capabilities: {allow: []}}":                         "delete capabilities",
		"{capabilities: deny}":                                "capabilities",
		"{mounts: deny}":                                      "mount",
	} {
		_, err := Parse("p.yaml", []byte(named("p", "mode: audit", "privileges: "+in)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}
