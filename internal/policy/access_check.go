package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/apicall"
)

// checkInput is what a check judges: the request's facts, and what the gate will set
// where they are silent.
type checkInput struct {
	action actionID
	facts  *apicall.Facts
	set    *Defaults
}

// checkSpec is one kind of check. judge returns why the request fails it, "" if it
// passes; it is called only for the actions that the check is about.
type checkSpec struct {
	name   string
	doc    string // what passes, for docs and belay policy checks
	about  about
	params []param
	// judge must not keep or change anything that it gets.
	judge func(in checkInput, args *Args) string
	// need says what parameters must be there; nil: none.
	need func(args *Args) (msg, fix string)
}

// about says for which actions a check is asked. A check that says "there is no X" is
// asked for all: a request that cannot have an X passes. One that says "there is an
// X" is asked where there could be one.
type about uint8

const (
	always     about = iota
	onCreate         // container.create, service.create, service.update
	onRun            // as onCreate, and container.exec
	onLimits         // as onCreate, and container.update
	onImageUse       // as onCreate, and what names an image to have
	onTag            // what gives an image a name
	onCopy           // container.copy.*
	onExec           // container.exec
	onMake           // all that makes a thing with labels
)

var imageActions = []string{"image.pull", "image.push", "image.tag", "image.import", "image.load", "image.distribution", "scan.accept", "scan.create", "scan.notify"}

var tagActions = []string{"image.build", "image.tag", "image.commit", "image.import"}

func (a about) covers(action actionID) bool {
	create := traitsOf(action)&traitCreates != 0
	name := ""
	if action != anyAction {
		name = actions[action-1]
	}
	switch a {
	case onCreate:
		return create
	case onRun:
		return create || name == "container.exec"
	case onLimits:
		return create || name == "container.update"
	case onImageUse:
		return create || slices.Contains(imageActions, name)
	case onTag:
		return slices.Contains(tagActions, name)
	case onCopy:
		return strings.HasPrefix(name, "container.copy.")
	case onExec:
		return name == "container.exec"
	case onMake:
		return traitsOf(action)&traitMakes != 0
	}
	return true
}

// param is one parameter of a check.
type param struct {
	name  string
	kind  paramKind
	doc   string
	check func(string) (msg, fix string) // of a text or of each entry of a list
}

type paramKind uint8

const (
	listParam paramKind = iota
	textParam
	boolParam
)

func allow(doc string, check func(string) (msg, fix string)) []param {
	return []param{{"allow", listParam, doc, check}}
}

// checkSpecs is every check, by name.
var checkSpecs = slices.Concat(identityChecks, isolationChecks, hostChecks, resourceChecks, contentChecks)

var checkNames = func() []string {
	names := make([]string, len(checkSpecs))
	for i := range checkSpecs {
		names[i] = checkSpecs[i].name
	}
	slices.Sort(names)
	return names
}()

// CheckInfo describes one named check.
type CheckInfo struct {
	Name   string
	Doc    string
	Params []string // "allow: capability names"
}

// Checks returns every named check, sorted by name.
func Checks() []CheckInfo {
	out := make([]CheckInfo, 0, len(checkSpecs))
	for _, name := range checkNames {
		s := findCheck(name)
		info := CheckInfo{Name: s.name, Doc: s.doc}
		for _, p := range s.params {
			info.Params = append(info.Params, p.name+": "+p.doc)
		}
		out = append(out, info)
	}
	return out
}

func findCheck(name string) *checkSpec {
	i := slices.IndexFunc(checkSpecs, func(s checkSpec) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return &checkSpecs[i]
}

// fails returns why the request fails the check; "" if it passes.
func (c *Check) fails(in checkInput) string {
	switch {
	case !c.spec.about.covers(in.action):
		return ""
	case in.facts.Rollback && traitsOf(in.action)&traitCreates != 0:
		// What will run is not in the request.
		return "a rollback runs a specification that is not known"
	}
	return c.spec.judge(in, &c.Args)
}

// checks reads a rule's list of checks: names, and mappings of one name to its
// parameters.
func (d *decoder) checks(dst *[]Check) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		seen := map[string]int{}
		d.each(len(checkSpecs), func(n *yaml.Node, at string) {
			c := Check{}
			args := (*yaml.Node)(nil)
			switch {
			case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
				c.Name = n.Value
			case n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Kind == yaml.ScalarNode:
				c.Name, args = n.Content[0].Value, n.Content[1]
			default:
				d.fail(n, "write \"- name\", or \"- name: {parameters}\"", "%s must be a check, got %s", at, describe(n))
				return
			}
			if c.spec = findCheck(c.Name); c.spec == nil {
				d.unknownCheck(n, at, c.Name)
				return
			}
			if first, dup := seen[c.Name]; dup {
				d.fail(n, "keep one of the two", "%s: %s is listed twice, first at line %d", at, c.Name, first)
				return
			}
			seen[c.Name] = n.Line
			if args != nil {
				d.checkArgs(args, at+"."+c.Name, &c)
			}
			if c.spec.need != nil {
				if msg, fix := c.spec.need(&c.Args); msg != "" {
					d.fail(n, fix, "%s: %s", at, msg)
				}
			}
			*dst = append(*dst, c)
		})(n, at)
	}
}

func (d *decoder) unknownCheck(n *yaml.Node, at, name string) {
	fix := "docs/access-policy.md lists all checks"
	if near, ok := closest(name, checkNames); ok {
		fix = "did you mean " + near + "?"
	}
	d.fail(n, fix, "%s: %s is not a check", at, quote(name))
}

func (d *decoder) checkArgs(n *yaml.Node, at string, c *Check) {
	if len(c.spec.params) == 0 {
		d.fail(n, "write \"- "+c.Name+"\"", "%s: this check has no parameters", at)
		return
	}
	var fields []field
	for _, p := range c.spec.params {
		fields = append(fields, field{p.name, false, d.argument(p, &c.Args)})
	}
	d.object(n, at, fields)
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		d.fail(n, "write \"- "+c.Name+"\"", "%s has no parameters", at)
	}
}

func (d *decoder) argument(p param, a *Args) func(*yaml.Node, string) {
	check := p.check
	if check == nil {
		check = checkTextGlob
	}
	return func(n *yaml.Node, at string) {
		switch p.kind {
		case listParam:
			var list []string
			d.texts(&list, maxRuleList, check)(numbersAsText(n), at)
			setArg(&a.Lists, p.name, list)
		case textParam:
			// Numbers are written without quotes; the check says whether they fit.
			if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!int" && n.Tag != "!!float" {
				d.fail(n, "", "%s must be one value, got %s", at, describe(n))
				return
			}
			if msg, fix := check(n.Value); msg != "" {
				d.fail(n, fix, "%s: %s", at, msg)
				return
			}
			setArg(&a.Texts, p.name, n.Value)
		case boolParam:
			var v bool
			d.onlyTrue(&v)(n, at)
			setArg(&a.Bools, p.name, v)
		}
	}
}

// numbersAsText returns n with its whole numbers as text: ports and ids are written
// without quotes.
func numbersAsText(n *yaml.Node) *yaml.Node {
	m := *n
	m.Content = slices.Clone(n.Content)
	for i, c := range m.Content {
		if c.Kind == yaml.ScalarNode && c.Tag == "!!int" {
			text := *c
			text.Tag = "!!str"
			m.Content[i] = &text
		}
	}
	return &m
}

func setArg[V any](m *map[string]V, name string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[name] = v
}

// allowed reports whether the check's allow list has a glob for s.
func (a *Args) allowed(s string) bool { return matchAnyText(a.Lists["allow"], s) }

// firstNot returns the first of list that allow does not name, and what to say of it.
func (a *Args) firstNot(what string, list []string) string {
	for _, v := range list {
		if !a.allowed(v) {
			return what + " " + quote(v)
		}
	}
	return ""
}

// firstKeyNot is firstNot on the keys of a map, in their order, so that one request
// gives one answer.
func (a *Args) firstKeyNot(what string, m map[string]string) string {
	var bad []string
	for k := range m {
		if !a.allowed(k) {
			bad = append(bad, k)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	slices.Sort(bad)
	return what + " " + quote(bad[0])
}

func failIf(bad bool, format string, args ...any) string {
	if !bad {
		return ""
	}
	return fmt.Sprintf(format, args...)
}
