package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/policy"
)

// accessRuleTexts lists the rules of an AccessPolicy, each as "effect=actions".
func accessRuleTexts(s *policy.AccessSpec) []string {
	var out []string
	for i := range s.Rules {
		r := &s.Rules[i]
		text := string(r.Effect) + "=" + strings.Join(r.Actions, ",")
		if len(r.Actions) > 3 {
			text = string(r.Effect) + "=" + listed(len(r.Actions), "action", "actions")
		}
		if n := listed(len(r.Checks), "check", "checks"); n != "" {
			text += "(" + n + ")"
		}
		out = append(out, text)
	}
	return out
}

// testAnswer is the JSON answer of `belay policy test`.
type testAnswer struct {
	OK     bool          `json:"ok"`
	Passed int           `json:"passed"`
	Failed int           `json:"failed"`
	Tests  []testedEntry `json:"tests"`
	Errors []checkError  `json:"errors"`
}

type testedEntry struct {
	File    string   `json:"file"`
	Line    int      `json:"line"`
	Test    string   `json:"test"`
	Request string   `json:"request"`
	OK      bool     `json:"ok"`
	Differs []string `json:"differs"` // in what the decision is not what was expected
	decisionAnswer
}

// decisionAnswer is a decision in JSON.
type decisionAnswer struct {
	Decision     string   `json:"decision"` // allowed, denied, would_deny
	Policy       string   `json:"policy,omitempty"`
	Revision     string   `json:"revision,omitempty"`
	Rule         string   `json:"rule,omitempty"`
	Reason       string   `json:"reason"`
	Checks       []string `json:"checks"`
	SecondFactor bool     `json:"second_factor"` // the call would be allowed with one
}

func answerOfDecision(d *policy.AccessDecision) decisionAnswer {
	return decisionAnswer{
		Decision: d.Word(), Policy: d.Policy, Revision: d.Revision, Rule: d.Rule, Reason: d.Reason,
		Checks: append([]string{}, d.Checks...), SecondFactor: d.NeedSecondFactor,
	}
}

func policyTestCommand(t *terminal) *cobra.Command {
	var with []string
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Ask policies about requests and images written in YAML; needs no agent",
		Long: `test reads documents of kind AccessTest and ImageTest, asks the policies about each
of their requests and images, and compares the answers with what is expected. The
policies are those that a document names (spec.policies, relative to its own file),
those in the files themselves, and those of --policy.

It fails if any answer is another than expected. docs/access-policy.md shows how to
write requests.`,
		Example: `  belay policy test policies/tests/access-default.yaml
  belay policy test --policy /etc/belay/policies my-requests.yaml -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("want at least one file with requests")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			a := testAnswer{Tests: []testedEntry{}, Errors: []checkError{}}
			var errs policy.Errors
			for _, file := range args {
				errs = append(errs, t.runTests(file, with, &a)...)
			}
			if a.OK = a.Failed == 0 && len(errs) == 0; a.OK && a.Passed == 0 {
				a.OK = false
				errs = policy.Errors{{File: args[0], Msg: "no request with an expectation", Fix: "add expect: allowed or expect: denied"}}
			}
			return t.writeTests(&a, errs)
		},
	}
	cmd.Flags().StringArrayVar(&with, "policy", nil, "file or directory of policies to ask too (repeatable)")
	return cmd
}

// runTests runs the tests of one file.
func (t *terminal) runTests(file string, with []string, a *testAnswer) policy.Errors {
	tests, docs, errs := t.readTests(file)
	for _, test := range tests {
		set, es := t.policiesOf(test, docs, with)
		if errs = append(errs, es...); len(es) > 0 {
			continue
		}
		for i := range test.Requests {
			r := &test.Requests[i]
			if r.Want == nil {
				continue
			}
			d := set.Access().Decide(&r.Call, t.momentOf(r))
			e := testedEntry{
				File: file, Line: r.Line, Test: test.Name, Request: r.Name, Differs: append([]string{}, r.Want.Differs(&d)...),
				decisionAnswer: answerOfDecision(&d),
			}
			if e.OK = len(e.Differs) == 0; e.OK {
				a.Passed++
			} else {
				a.Failed++
			}
			a.Tests = append(a.Tests, e)
		}
		t.runImageTests(test, set, a)
	}
	return errs
}

// runImageTests judges the images of a test.
func (t *terminal) runImageTests(test *policy.AccessTest, set *policy.Set, a *testAnswer) {
	for i := range test.Images {
		r := &test.Images[i]
		at := r.At
		if at.IsZero() {
			at = t.now()
		}
		d := set.Images().Decide(&r.Image, at)
		e := testedEntry{
			File: test.File, Line: r.Line, Test: test.Name, Request: r.Name, Differs: append([]string{}, r.Differs(&d)...),
			decisionAnswer: decisionAnswer{
				Decision: d.Word(), Policy: d.Policy, Revision: d.Revision, Rule: d.Rule, Reason: d.Reason,
				Checks: slices.Concat([]string{}, d.Details, d.Expired),
			},
		}
		if e.OK = len(e.Differs) == 0; e.OK {
			a.Passed++
		} else {
			a.Failed++
		}
		a.Tests = append(a.Tests, e)
	}
}

// readTests reads a file of requests; "-" is standard input.
func (t *terminal) readTests(file string) ([]*policy.AccessTest, policy.Documents, policy.Errors) {
	var (
		data []byte
		err  error
	)
	if file == "-" {
		data, err = readBounded(t.in)
	} else {
		var f *os.File
		if f, err = os.Open(file); err == nil {
			data, err = readBounded(f)
			f.Close()
		}
	}
	if err != nil {
		return nil, policy.Documents{}, policy.Errors{{File: file, Msg: "read requests: " + err.Error(), Err: err}}
	}
	tests, docs, err := policy.ParseTests(file, data)
	if err == nil && len(tests) == 0 {
		err = &policy.Error{File: file, Msg: "no document of kind " + policy.AccessTestKind + " or " + policy.ImageTestKind,
			Fix: "docs/access-policy.md and docs/image-policy.md show one"}
	}
	return tests, docs, asErrors(file, err)
}

// policiesOf reads the policies that a test is about.
func (t *terminal) policiesOf(test *policy.AccessTest, docs policy.Documents, with []string) (*policy.Set, policy.Errors) {
	var errs policy.Errors
	files := append([]string{}, with...)
	for _, p := range test.Policies {
		if !filepath.IsAbs(p) {
			p = filepath.Join(filepath.Dir(test.File), p)
		}
		files = append(files, p)
	}
	var all policy.Documents
	all.Append(docs)
	for _, f := range files {
		d, err := readPolicyArg(t.in, f)
		errs = append(errs, asErrors(f, err)...)
		all.Append(d)
	}
	kind, none := policy.AccessKind, len(all.Access) == 0
	if len(test.Images) > 0 {
		kind, none = policy.ImageKind, len(all.Images) == 0
	}
	if len(errs) == 0 && none {
		errs = policy.Errors{{
			File: test.File, Line: test.Line, Msg: "no " + kind + " to ask", Fix: "name files in spec.policies, or with --policy",
		}}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	set, err := all.Set()
	return set, asErrors(test.File, err)
}

func (t *terminal) momentOf(r *policy.AccessRequest) time.Time {
	if r.At.IsZero() {
		return t.now()
	}
	return r.At
}

func (t *terminal) writeTests(a *testAnswer, errs policy.Errors) error {
	for _, e := range errs {
		a.Errors = append(a.Errors, checkError{File: e.File, Line: e.Line, Column: e.Column, Message: e.Msg, Fix: e.Fix})
	}
	var failed error
	if !a.OK {
		failed = quietError{fmt.Errorf("%d of %d requests failed", a.Failed, a.Failed+a.Passed)}
	}
	if t.output == formatJSON {
		if err := t.writeJSON(a); err != nil {
			return err
		}
		return failed
	}
	for _, e := range errs {
		fmt.Fprintln(t.err, clean(e.Error()))
	}
	tb := t.table("")
	for i := range a.Tests {
		e := &a.Tests[i]
		word := cell{"ok", green}
		if !e.OK {
			word = cell{"FAIL", red}
		}
		tb.row(word, plain(e.Test), plain(e.Request), plain(e.Decision), plain(orDash(ruleName(&e.decisionAnswer))))
	}
	for i, line := range tb.lines() {
		fmt.Fprintln(t.out, line)
		for _, d := range a.Tests[i].Differs {
			fmt.Fprintln(t.out, "      "+clean(d))
		}
		if !a.Tests[i].OK {
			why := strings.Join(append([]string{place(a.Tests[i].File, a.Tests[i].Line), a.Tests[i].Reason}, a.Tests[i].Checks...), ": ")
			fmt.Fprintln(t.out, t.colours.paint(grey, "      "+clean(why)))
		}
	}
	if len(a.Tests) > 0 {
		fmt.Fprintf(t.out, "%d passed, %d failed\n", a.Passed, a.Failed)
	}
	return failed
}

// ruleName is "policy/rule", or what there is of it.
func ruleName(d *decisionAnswer) string {
	if d.Policy == "" || d.Rule == "" {
		return d.Policy
	}
	return d.Policy + "/" + d.Rule
}
