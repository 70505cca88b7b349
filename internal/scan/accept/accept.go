// Package accept decides which findings of a scan fail it: by an expression, less those
// that somebody has accepted for a time and a reason, and those of an earlier scan.
//
// It owns no state and hides nothing: what does not count is marked, with why. An
// expression that cannot be evaluated is an error, never a pass. Row: adapter.
package accept

import (
	"errors"
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Bounds of an expression: its length in bytes, and its cost for one finding in steps
// of the evaluator.
const (
	maxExpression = 4096
	maxCost       = 10_000
)

// Rule says which findings fail a scan.
type Rule struct {
	text string
	run  cel.Program
	// config says that the rule has a word about the image's configuration.
	config bool
	// may is run with words that are not known.
	may cel.Program
}

// wordConfig is the name of a misconfiguration, and empty for a vulnerability.
const wordConfig = "misconfiguration"

// env has the words of expressions, once: it is immutable.
var env = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		cel.Variable("severity", cel.IntType),
		cel.Variable("rated", cel.BoolType),
		cel.Variable("score", cel.DoubleType),
		cel.Variable("epss", cel.DoubleType),
		cel.Variable("percentile", cel.DoubleType),
		cel.Variable("exploited", cel.BoolType),
		cel.Variable("fixable", cel.BoolType),
		cel.Variable("state", cel.StringType),
		cel.Variable("ids", cel.ListType(cel.StringType)),
		cel.Variable("about", cel.ListType(cel.StringType)),
		cel.Variable("kind", cel.StringType),
		cel.Variable("name", cel.StringType),
		cel.Variable("version", cel.StringType),
		cel.Variable("path", cel.StringType),
		cel.Variable("layer", cel.IntType),
		cel.Variable("fromBase", cel.BoolType),
		cel.Variable("claimedBase", cel.BoolType),
		cel.Variable("inUse", cel.BoolType),
		cel.Variable("listening", cel.BoolType),
		cel.Variable("reachable", cel.BoolType),
		cel.Variable("useKnown", cel.BoolType),
		cel.Variable("symbols", cel.StringType),
		cel.Variable(wordConfig, cel.StringType),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(64),
		cel.CrossTypeNumericComparisons(true),
	}
	for s := vulndb.SeverityNegligible; s <= vulndb.SeverityCritical; s++ {
		opts = append(opts, cel.Constant(s.String(), cel.IntType, types.Int(s)))
	}
	return cel.NewEnv(opts...)
})

// Compile reads a rule: an expression such as "severity >= high && fixable", or a
// severity alone, which stands for itself and all above.
//
// Errors say what is wrong in one line, and where.
func Compile(text string) (*Rule, error) {
	src := text
	if s, err := vulndb.ParseSeverity(text); err == nil {
		if s == vulndb.SeverityUnknown {
			return nil, errors.New("want negligible, low, medium, high or critical: what nobody has rated counts as high")
		}
		src = "severity >= " + s.String()
	}
	if len(src) > maxExpression {
		return nil, fmt.Errorf("it is longer than %d bytes", maxExpression)
	}
	e, err := env()
	if err != nil {
		return nil, fmt.Errorf("make the words of expressions: %w", err)
	}
	checked, iss := e.Compile(src)
	if iss.Err() != nil {
		first := iss.Errors()[0]
		return nil, fmt.Errorf("want a severity (negligible, low, medium, high, critical) or an expression such as 'severity >= high && fixable': column %d: %s", first.Location.Column()+1, first.Message)
	}
	if checked.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("the expression is not true or false, but %s: compare it with something", checked.OutputType())
	}
	run, err := e.Program(checked, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("compile the expression: %w", err)
	}
	may, err := e.Program(checked, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptPartialEval))
	if err != nil {
		return nil, fmt.Errorf("compile the expression: %w", err)
	}
	r := &Rule{text: src, run: run, may: may}
	for _, ref := range checked.NativeRep().ReferenceMap() {
		r.config = r.config || ref.Name == wordConfig
	}
	return r, nil
}

// String is the rule as an expression.
func (r *Rule) String() string { return r.text }

// Fails reports whether a finding in a package fails the scan. What nobody has rated
// has the severity high: it is not known to be less.
//
// Errors: an expression that breaks on this finding or costs too much.
func (r *Rule) Fails(f *vulndb.Finding, p *inventory.Package) (bool, error) {
	sev := f.Severity
	if sev == vulndb.SeverityUnknown {
		sev = vulndb.SeverityHigh
	}
	words := map[string]any{
		wordConfig: "",
		"severity": int64(sev), "rated": f.Severity != vulndb.SeverityUnknown, "score": f.Score, "epss": f.EPSS, "percentile": f.Percentile,
		"exploited": f.Exploited, "fixable": f.Fixable(), "state": f.State, "ids": f.IDs, "about": f.About,
		"kind": p.Kind, "name": p.Name, "version": p.Version, "path": p.Path, "layer": int64(p.Layer),
		"fromBase": f.FromBase, "claimedBase": f.ClaimedBase, "symbols": f.SymbolState(),
	}
	useWords(words, f.Use)
	return r.eval(f.IDs[0]+" in "+p.Name, words)
}

// useWords sets the words about a package's use. What is not known counts as in use,
// listening and reachable: nobody has seen that it is not.
func useWords(words map[string]any, u *inventory.Use) {
	if u == nil {
		u = &inventory.Use{}
	}
	for word, of := range map[string]func() (yes, known bool){"inUse": u.InUse, "listening": u.IsListening, "reachable": u.IsReachable} {
		yes, known := of()
		words[word] = yes || !known
	}
	_, words["useKnown"] = u.InUse()
}

// AboutConfig reports whether the rule has the word misconfiguration: without it, what is
// wrong with a configuration fails nothing.
func (r *Rule) AboutConfig() bool { return r.config }

// MayFail reports whether the rule may fail a scan for a misconfiguration of that name, or for a
// vulnerability where the name is empty, whatever else is known of it. An expression of which that
// cannot be told may.
func (r *Rule) MayFail(id string) bool {
	if id != "" && !r.config {
		return false
	}
	e, err := env()
	if err != nil {
		return true
	}
	var unknown []*cel.AttributePatternType
	for _, v := range e.Variables() {
		if v.Name() != wordConfig {
			unknown = append(unknown, cel.AttributePattern(v.Name()))
		}
	}
	words, err := cel.PartialVars(map[string]any{wordConfig: id}, unknown...)
	if err != nil {
		return true
	}
	out, _, err := r.may.Eval(words)
	return err != nil || out != types.False
}

// FailsConfig reports whether a misconfiguration fails the scan: misconfiguration is its
// name, severity its severity, path and layer those of its file, and all other words are as
// for nothing.
//
// Errors: those of [Rule.Fails].
func (r *Rule) FailsConfig(m *inventory.Misconfiguration) (bool, error) {
	if !r.config {
		return false, nil
	}
	return r.eval(m.ID, map[string]any{
		wordConfig: m.ID, "severity": int64(m.Severity), "rated": true, "score": 0.0, "epss": 0.0, "percentile": 0.0,
		"exploited": false, "fixable": false, "state": "", "ids": []string{}, "about": []string{},
		"kind": "", "name": "", "version": "", "path": m.Path, "layer": int64(m.Layer),
		"fromBase": m.FromBase, "claimedBase": false,
		"inUse": false, "listening": false, "reachable": false, "useKnown": false, "symbols": inventory.SymbolsUnknown,
	})
}

// eval asks the rule about one thing with these words.
func (r *Rule) eval(what string, words map[string]any) (bool, error) {
	out, _, err := r.run.Eval(words)
	if err != nil {
		return false, fmt.Errorf("evaluate %q for %s: %w", r.text, what, err)
	}
	yes, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("evaluate %q for %s: it is not true or false", r.text, what)
	}
	return yes, nil
}
