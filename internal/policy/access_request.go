package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// AccessTestKind is the kind of documents that hold requests and what is expected of
// policies. They are for people and CI; an agent does not take them.
const AccessTestKind = "AccessTest"

// maxRequests bounds the requests of one document.
const maxRequests = 10000

// AccessTest is one parsed document of kind [AccessTestKind].
type AccessTest struct {
	File     string
	Line     int
	Name     string
	Policies []string // files with policies, relative to the document's own
	Requests []AccessRequest
	// Images are of documents of kind [ImageTestKind] only, which have no Requests.
	Images []ImageRequest
}

// AccessRequest is one request, written down.
type AccessRequest struct {
	Name string
	Line int
	Call apicall.Call
	At   time.Time // zero: the moment of the test
	Want *Expectation
}

// Expectation is what the decision must be. Empty fields are not looked at.
type Expectation struct {
	Decision     string // Allowed, Denied or WouldDeny
	Policy, Rule string
	Checks       []string // names that must be among the failed checks
	SecondFactor bool
}

// The decisions of an expectation.
const (
	ExpectAllowed   = string(verdict.Allowed)
	ExpectDenied    = string(verdict.Denied)
	ExpectWouldDeny = string(verdict.WouldDeny)
)

// ParseTests reads a file of tests, which may hold policies too.
//
// Errors: as [ParseAll].
func ParseTests(file string, data []byte) ([]*AccessTest, Documents, error) {
	var (
		tests []*AccessTest
		docs  Documents
	)
	errs := eachDocument(file, data, func(root *yaml.Node) Errors {
		d := &decoder{file: file, lines: map[string]int{}, nodes: map[string]*yaml.Node{}}
		if !d.checkShape(root, 1) {
			return d.errs
		}
		switch kindOf(root) {
		case AccessTestKind:
			tests = append(tests, d.accessTest(root))
			return d.errs
		case ImageTestKind:
			tests = append(tests, d.imageTest(root))
			return d.errs
		}
		return docs.read(file, root)
	})
	if len(errs) > 0 {
		return nil, Documents{}, errs
	}
	return tests, docs, nil
}

func (d *decoder) accessTest(root *yaml.Node) *AccessTest {
	t := &AccessTest{File: d.file, Line: root.Line}
	d.object(root, topLevel, []field{
		{"apiVersion", true, d.enum([]string{APIVersion}, func(string) {})},
		{"kind", true, d.enum([]string{AccessTestKind}, func(string) {})},
		{"metadata", true, func(n *yaml.Node, at string) { d.metadata(n, at, &t.Name, new(map[string]string)) }},
		{"spec", true, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"policies", false, d.texts(&t.Policies, maxRuleList, func(string) (msg, fix string) { return "", "" })},
				{"requests", true, d.each(maxRequests, func(n *yaml.Node, at string) {
					t.Requests = append(t.Requests, d.request(n, at))
				})},
			})
		}},
	})
	return t
}

func (d *decoder) request(n *yaml.Node, at string) AccessRequest {
	r := AccessRequest{Line: n.Line}
	c := &r.Call
	d.object(n, at, []field{
		{"name", false, d.str(&r.Name)},
		{"subject", true, func(n *yaml.Node, at string) { d.callerOf(n, at, &c.Subject) }},
		{"action", false, func(n *yaml.Node, at string) {
			d.text(&c.Action, func(s string) (msg, fix string) {
				if isGlob(s) {
					return quote(s) + " is a glob", "write one action"
				}
				return checkAction(s)
			})(n, at)
		}},
		{"method", false, d.str(&c.Method)},
		{"path", false, d.str(&c.Path)},
		{"resources", false, d.each(maxRuleList, func(n *yaml.Node, at string) {
			var res apicall.Resource
			d.apiStruct(n, at, structs["Resource"], &res)
			c.Resources = append(c.Resources, res)
		})},
		{"facts", false, func(n *yaml.Node, at string) { d.factsOf(n, at, &c.Facts) }},
		{"elevated", false, d.boolean(&c.Elevated)},
		{"at", false, func(n *yaml.Node, at string) {
			v, err := time.Parse(time.RFC3339, n.Value)
			if err != nil {
				d.fail(n, "write it as 2026-03-01T09:00:00Z", "%s must be a point in time, got %s", at, describe(n))
			}
			r.At = v
		}},
		{"expect", false, func(n *yaml.Node, at string) {
			r.Want = &Expectation{}
			d.expectation(n, at, r.Want)
		}},
	})
	if r.Name == "" {
		r.Name = at
	}
	d.route(n, at, c)
	return r
}

// route finds the action of a request that names method and path instead.
func (d *decoder) route(n *yaml.Node, at string, c *apicall.Call) {
	switch {
	case c.Action != "":
	case c.Method == "" || c.Path == "":
		d.fail(n, "add action:, or method: and path:", "%s does not say what is asked", at)
	default:
		var ok bool
		if c.Action, ok = ActionOf(c.Method, c.Path); !ok {
			d.fail(n, "write the action", "%s: no route %s %s", at, short(c.Method), quote(c.Path))
		}
	}
}

func (d *decoder) callerOf(n *yaml.Node, at string, s *apicall.Subject) {
	d.apiStruct(n, at, structs["Subject"], s)
	if s.Kind != apicall.Nobody {
		return
	}
	switch { // what is said shows the kind, as long as it shows one only
	case s.ContainerID != "" || s.ContainerName != "" || len(s.ContainerLabels) > 0:
		s.Kind = apicall.Container
	case s.CN != "" || len(s.SANs) > 0:
		s.Kind = apicall.Certificate
	case s.Token != "":
		s.Kind = apicall.Token
	case s.Name != "" || s.UID != 0:
		s.Kind = apicall.User
	default:
		d.fail(n, "add kind: user, certificate, token or container", "%s names nobody", at)
	}
	if s.Kind == apicall.User && s.UID == 0 && s.Name != "root" && !hasKey(n, "uid") {
		s.UID = 1000 // a name alone is not root
	}
}

func hasKey(n *yaml.Node, key string) bool {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}

// factsOf reads facts, and adds what a person who writes them takes for granted.
func (d *decoder) factsOf(n *yaml.Node, at string, f *apicall.Facts) {
	d.apiStruct(n, at, structs["Facts"], f)
	f.UserSet = f.UserSet || f.User != ""
	f.ImageUserKnown = f.ImageUserKnown || f.ImageUser != ""
	if user, _, _ := strings.Cut(cmp.Or(f.User, f.ImageUser), ":"); f.NamedUID == "" && isPlainName(user) && !isRootSpelling(user) {
		f.NamedUID = "1000" // a name alone is not root
	}
	for i := range f.HostMounts {
		m := &f.HostMounts[i]
		if m.Via == "" {
			m.Via = "bind"
		}
		if m.Resolved == "" && isCleanAbs(m.Source) {
			m.Resolved = m.Source
		}
	}
}

func (d *decoder) expectation(n *yaml.Node, at string, e *Expectation) {
	decision := d.enum([]string{ExpectAllowed, ExpectDenied, ExpectWouldDeny}, func(s string) { e.Decision = s })
	if n.Kind != yaml.MappingNode {
		decision(n, at)
		return
	}
	d.object(n, at, []field{
		{"decision", true, decision},
		{"policy", false, d.str(&e.Policy)},
		{"rule", false, d.str(&e.Rule)},
		{"checks", false, d.texts(&e.Checks, maxRuleList, func(s string) (msg, fix string) {
			if findCheck(s) == nil {
				return quote(s) + " is not a check", "docs/access-policy.md lists all checks"
			}
			return "", ""
		})},
		{"secondFactor", false, d.onlyTrue(&e.SecondFactor)},
	})
}

// Differs returns in what the decision is not what was expected; empty: in nothing.
func (e *Expectation) Differs(d *AccessDecision) []string {
	var out []string
	differ := func(what, want, got string) {
		if want != "" && want != got {
			out = append(out, fmt.Sprintf("%s: got %s, want %s", what, orNone(got), want))
		}
	}
	differ("decision", e.Decision, d.Word())
	differ("policy", e.Policy, d.Policy)
	differ("rule", e.Rule, d.Rule)
	for _, c := range e.Checks {
		if !slices.ContainsFunc(d.Checks, func(line string) bool { return strings.HasPrefix(line, c+": ") }) {
			out = append(out, "checks: "+c+" did not fail")
		}
	}
	if e.SecondFactor && !d.NeedSecondFactor {
		out = append(out, "secondFactor: it would not help")
	}
	return out
}

// Word returns allowed, denied or would_deny.
func (d *AccessDecision) Word() string {
	switch {
	case !d.Allowed:
		return ExpectDenied
	case d.Audit:
		return ExpectWouldDeny
	}
	return ExpectAllowed
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
