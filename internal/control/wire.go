package control

import (
	"encoding/json"
	"fmt"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// lineJSON is a policy.Line on the wire: rules and modes by name, so that a reader
// needs no table of numbers.
type lineJSON struct {
	Rule   string `json:"rule"`
	Mode   string `json:"mode"`
	Value  string `json:"value"`
	Policy string `json:"policy,omitempty"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Why    string `json:"why"`
}

type explanationJSON struct {
	Container Container  `json:"container"`
	Revision  string     `json:"revision"`
	Lines     []lineJSON `json:"lines"`
	Levels    []Level    `json:"levels"`
}

// MarshalJSON writes rules and modes by their names.
func (e Explanation) MarshalJSON() ([]byte, error) {
	out := explanationJSON{Container: e.Container, Revision: e.Revision, Levels: e.Levels, Lines: make([]lineJSON, len(e.Lines))}
	for i, l := range e.Lines {
		out.Lines[i] = lineJSON{
			Rule: l.Rule.String(), Mode: l.Mode.String(), Value: l.Value,
			Policy: l.Policy, File: l.File, Line: l.Line, Why: l.Why,
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
//
// Errors: for a rule or mode that this build does not know, as an agent of another
// version may have.
func (e *Explanation) UnmarshalJSON(b []byte) error {
	var in explanationJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	out := Explanation{Container: in.Container, Revision: in.Revision, Levels: in.Levels, Lines: make([]policy.Line, len(in.Lines))}
	for i, l := range in.Lines {
		r, ok := ruleNamed(l.Rule)
		if !ok {
			return fmt.Errorf("rule %q is unknown here: agent and client are of different versions", l.Rule)
		}
		m, ok := modeNamed(l.Mode)
		if !ok {
			return fmt.Errorf("mode %q is unknown here: agent and client are of different versions", l.Mode)
		}
		out.Lines[i] = policy.Line{Rule: r, Mode: m, Value: l.Value, Policy: l.Policy, File: l.File, Line: l.Line, Why: l.Why}
	}
	*e = out
	return nil
}

func ruleNamed(s string) (verdict.Rule, bool) {
	for _, r := range verdict.Rules() {
		if r.String() == s {
			return r, true
		}
	}
	return verdict.RuleNone, false
}

func modeNamed(s string) (verdict.Mode, bool) {
	for _, m := range []verdict.Mode{verdict.ModeEnforce, verdict.ModeAudit} {
		if m.String() == s {
			return m, true
		}
	}
	return verdict.ModeEnforce, false
}
