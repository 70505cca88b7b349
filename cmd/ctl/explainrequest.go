package main

import (
	"fmt"
	"strings"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// explainedRequest is one entry of the JSON answer of `belay explain --request`.
type explainedRequest struct {
	Request  string   `json:"request"`
	Action   string   `json:"action"`
	Policies []string `json:"policies"` // those that name the caller
	decisionAnswer
	Rules []explainedRule `json:"rules"`
}

type explainedRule struct {
	Policy  string   `json:"policy"`
	Rule    string   `json:"rule"`
	File    string   `json:"file"`
	Line    int      `json:"line"`
	Effect  string   `json:"effect"`
	Mode    string   `json:"mode"`
	Applies bool     `json:"applies"`
	Decided bool     `json:"decided"`
	Why     string   `json:"why,omitempty"`
	Failed  []string `json:"failed"`
}

// explainRequests says, for each request of the file, which rule decides and what
// every other rule had to say.
func (t *terminal) explainRequests(file string, with []string) error {
	tests, docs, errs := t.readTests(file)
	out := []explainedRequest{}
	for _, test := range tests {
		set, es := t.policiesOf(test, docs, with)
		if errs = append(errs, es...); len(es) > 0 {
			continue
		}
		for i := range test.Requests {
			r := &test.Requests[i]
			tr := set.Access().Explain(&r.Call, t.momentOf(r))
			out = append(out, explainedOf(r, &tr))
		}
	}
	if len(errs) > 0 {
		for _, e := range errs {
			fmt.Fprintln(t.err, clean(e.Error()))
		}
		return quietError{errs}
	}
	if t.output == formatJSON {
		return t.writeJSON(out)
	}
	for i := range out {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		t.writeRequest(&out[i])
	}
	return nil
}

func explainedOf(r *policy.AccessRequest, tr *policy.AccessTrace) explainedRequest {
	e := explainedRequest{
		Request: r.Name, Action: r.Call.Action, Policies: append([]string{}, tr.Policies...),
		decisionAnswer: answerOfDecision(&tr.Decision), Rules: []explainedRule{},
	}
	for _, rule := range tr.Rules {
		e.Rules = append(e.Rules, explainedRule{
			Policy: rule.Policy, Rule: rule.Rule, File: rule.File, Line: rule.Line, Effect: string(rule.Effect), Mode: rule.Mode.String(),
			Applies: rule.Applies, Decided: rule.Decided, Why: rule.Why, Failed: append([]string{}, rule.Failed...),
		})
	}
	return e
}

func (t *terminal) writeRequest(e *explainedRequest) {
	tb := t.table("")
	tb.row(plain("request"), plain(e.Request))
	tb.row(plain("action"), plain(e.Action))
	tb.row(plain("policies"), plain(orDash(strings.Join(e.Policies, ", "))))
	tb.row(plain("decision"), cell{e.Decision, decisionColour(verdict.Decision(e.Decision))})
	tb.row(plain("rule"), plain(orDash(ruleName(&e.decisionAnswer))))
	tb.row(plain("reason"), plain(e.Reason))
	tb.writeTo(t.out)
	if e.SecondFactor {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! it would be allowed with a second factor: belay elevate"))
	}
	for _, r := range e.Rules {
		says := "does not apply"
		if r.Applies {
			says = r.Effect + "s it"
		}
		if r.Mode == "audit" {
			says += " (audit)"
		}
		mark := " "
		if r.Decided {
			mark = ">"
		}
		fmt.Fprintf(t.out, "\n%s %s %s  %s\n", mark, clean(r.Policy+"/"+r.Rule), says, t.colours.paint(grey, clean(place(r.File, r.Line))))
		if r.Why != "" {
			fmt.Fprintln(t.out, "    "+clean(r.Why))
		}
		for _, f := range r.Failed {
			fmt.Fprintln(t.out, t.colours.paint(red, "    x "+clean(f)))
		}
	}
}
