package policy

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

func TestHostSection(t *testing.T) {
	s := mustSet(t,
		named("floor", "mode: enforce", "host: {agent: deny, runtimes: deny}"),
		named("watch", "mode: enforce", "host: {mode: audit, engineConfig: deny}"),
		named("cni", "selector: {imageDigest: '"+testDigest+"'}", "loosen: true", "mode: enforce", "host: {runtimes: allow}"))
	for _, tt := range []struct {
		name     string
		sub      Subject
		runtimes verdict.Verdict
	}{
		{"a container", Subject{Known: true}, verdict.Deny},
		{"a build step", Subject{Class: ClassBuild}, verdict.Deny},
		{"one that is let", Subject{Known: true, ImageDigest: testDigest}, verdict.Allow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := s.Effective(tt.sub)
			enforced, audited := &e.Rules[verdict.ModeEnforce], &e.Rules[verdict.ModeAudit]
			if enforced[verdict.RuleHostAgent].Verdict != verdict.Deny || enforced[verdict.RuleHostRuntimes].Verdict != tt.runtimes ||
				enforced[verdict.RuleHostEngine].Verdict != verdict.Allow || audited[verdict.RuleHostEngine].Verdict != verdict.Deny {
				t.Errorf("enforced %+v, audited %+v", enforced[verdict.RuleHostAgent:], audited[verdict.RuleHostAgent:])
			}
		})
	}
	p := s.Floor().Explain()
	if last := p[len(p)-1]; last.Rule != verdict.RuleHostEngine || last.Policy != "watch" {
		t.Errorf("explained as %+v", last)
	}
}

func TestHostSectionErrors(t *testing.T) {
	for in, want := range map[string]string{
		"host: {agent: own}":                           "must be allow or deny",
		"host: {engine: deny}":                         "engineConfig",
		"host: {agent: deny}, phase: {after: 10s}":     "host has no phase",
		"privileges: {runtimes: deny}":                 "spec.host",
		"exec: {engineConfig: deny}, host: {agent: x}": "spec.host",
	} {
		_, err := Parse("p.yaml", []byte("apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: p}\nspec: {mode: audit, "+in+"}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

// What a host section says survives its normal form.
func TestHostCanonical(t *testing.T) {
	ps, err := Parse("p.yaml", []byte(named("p", "mode: enforce", "host: {mode: audit, agent: deny, engineConfig: allow}")))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("p.yaml", ps[0].Canonical())
	if err != nil {
		t.Fatal(err)
	}
	if *again[0].Spec.Host != *ps[0].Spec.Host || again[0].Revision != ps[0].Revision {
		t.Errorf("%+v, want %+v", again[0].Spec.Host, ps[0].Spec.Host)
	}
}
