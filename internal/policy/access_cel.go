package policy

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/apicall"
)

// Bounds of an expression (docs/adr/0007-cel.md). One unit of cost is one step of
// the evaluator, some 10 to 50 ns; the limit is reached in a few milliseconds.
const (
	maxWhenCost = 100_000
	// What a load-time estimate takes the sizes of lists, maps and texts to be: larger
	// ones are in order, and stopped by the limit at run time if they cost too much.
	nominalItems = 32
	nominalText  = 256
)

// program is a compiled when.
type program struct {
	run cel.Program
	// usesResource: the value depends on which thing the call is about.
	usesResource bool
}

// celEnv makes the environment of all expressions, once: it is immutable.
var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	reg, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("make the CEL type registry: %w", err)
	}
	tys := &celTypes{Registry: reg}
	return cel.NewEnv(
		cel.CustomTypeProvider(tys), cel.CustomTypeAdapter(tys),
		cel.Variable("subject", cel.ObjectType("Subject")),
		cel.Variable("action", cel.StringType),
		cel.Variable("method", cel.StringType),
		cel.Variable("path", cel.StringType),
		cel.Variable("resource", cel.ObjectType("Resource")),
		cel.Variable("resources", cel.ListType(cel.ObjectType("Resource"))),
		cel.Variable("facts", cel.ObjectType("Facts")),
		cel.Variable("elevated", cel.BoolType),
		cel.Variable("now", cel.TimestampType),
		cel.ParserExpressionSizeLimit(maxWhen),
		cel.ParserRecursionLimit(64),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
	)
})

// when compiles an expression.
func (d *decoder) when(n *yaml.Node, at string, r *AccessRule) {
	if d.str(&r.When)(n, at); r.When == "" {
		return
	}
	if len(r.When) > maxWhen {
		d.fail(n, "split it into several rules", "%s is longer than %d bytes", at, maxWhen)
		return
	}
	p, msg, fix := compileWhen(r.When)
	if msg != "" {
		d.fail(n, fix, "%s: %s", at, msg)
		return
	}
	r.when = p
}

func compileWhen(src string) (p *program, msg, fix string) {
	env, err := celEnv()
	if err != nil {
		return nil, err.Error(), ""
	}
	checked, iss := env.Compile(src)
	if iss.Err() != nil {
		e := iss.Errors()[0]
		return nil, fmt.Sprintf("at column %d of the expression: %s", e.Location.Column()+1, short(e.Message)),
			"docs/access-policy.md lists what an expression can name"
	}
	if checked.OutputType() != cel.BoolType {
		return nil, "the expression is not true or false, but " + checked.OutputType().String(), "compare it with something"
	}
	est, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, "estimate the cost of the expression: " + err.Error(), ""
	}
	if est.Max > maxWhenCost {
		return nil, fmt.Sprintf("the expression may cost %d, more than %d", est.Max, maxWhenCost),
			"go through one list only, and not through one inside another"
	}
	run, err := env.Program(checked, cel.CostLimit(maxWhenCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, "compile the expression: " + err.Error(), "a constant part of it cannot be evaluated"
	}
	p = &program{run: run}
	visitor := ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind && strings.HasPrefix(e.AsIdent(), "resource") {
			p.usesResource = true
		}
	})
	ast.PostOrderVisit(checked.NativeRep().Expr(), visitor)
	return p, "", ""
}

// sizes tells the estimator what to expect.
type sizes struct{}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n == nil || n.Type() == nil {
		return nil
	}
	s := cost.SizeEstimate{Max: nominalText}
	switch n.Type().Kind() {
	case types.ListKind, types.MapKind:
		text := cost.SizeEstimate{Max: nominalText}
		s = cost.SizeEstimate{Max: nominalItems, Key: &text, Elem: &text}
	case types.StringKind, types.BytesKind:
	default:
		return nil
	}
	return &s
}

var errNotBool = errors.New("the expression gave no boolean")

// eval evaluates the expression for a call.
func (p *program) eval(in *input) (bool, error) {
	v := &vars{in: *in}
	out, _, err := p.run.Eval(v)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, errNotBool
	}
	return bool(b), nil
}

// vars gives an expression its variables.
type vars struct {
	in    input
	empty apicall.Resource
}

func (v *vars) Parent() interpreter.Activation { return nil }

func (v *vars) ResolveName(name string) (any, bool) {
	in := &v.in
	switch name {
	case "subject":
		return in.sub, true
	case "action":
		if in.action == anyAction {
			return "", true
		}
		return actions[in.action-1], true
	case "method":
		if in.call == nil {
			return "", true
		}
		return in.call.Method, true
	case "path":
		if in.call == nil {
			return "", true
		}
		return in.call.Path, true
	case "resource":
		switch {
		case in.thing != nil:
			return in.thing, true
		case len(in.resources) > 0:
			return &in.resources[0], true
		}
		return &v.empty, true
	case "resources":
		if in.thing != nil {
			return []apicall.Resource{*in.thing}, true
		}
		return in.resources, true
	case "facts":
		return in.facts, true
	case "elevated":
		return in.elevated, true
	case "now":
		return in.now, true
	}
	return nil, false
}

var _ ref.Val = (*object)(nil)
