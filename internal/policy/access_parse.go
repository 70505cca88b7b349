package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/apicall"
)

// Limits of one AccessPolicy.
const (
	MaxAccessRules  = 10000
	maxAccessList   = 10000 // entries of one list of subjects
	maxRuleList     = 1024  // entries of any other list
	maxWhen         = 4096  // bytes of a when
	maxLabels       = 64    // of one selector
	minMemoryLimit  = 6 << 20
	maxNameLen      = 255
	belayLabelPlace = "labels that start with " + LabelPrefix + " are the gate's own"
)

// accessHome is fieldHome for this kind: where a field belongs, for one who wrote it
// elsewhere.
var accessHome = map[string]string{
	"apiVersion": topLevel, "kind": topLevel, "metadata": topLevel, "spec": topLevel,
	"annotations": "metadata",
	"mode":        "spec", "priority": "spec", "subjects": "spec", "rules": "spec", "obligations": "spec",
	"users": "spec.subjects", "groups": "spec.subjects", "uids": "spec.subjects", "gids": "spec.subjects",
	"certificates": "spec.subjects", "tokens": "spec.subjects", "containers": "spec.subjects", "everyone": "spec.subjects",
	"cn": "spec.subjects.certificates[]", "o": "spec.subjects.certificates[]", "san": "spec.subjects.certificates[]",
	"imageDigest": "spec.subjects.containers[]", "any": "spec.subjects.containers[]",
	"effect": "spec.rules[]", "actions": "spec.rules[]", "resources": "spec.rules[]", "checks": "spec.rules[]",
	"when": "spec.rules[]", "require": "spec.rules[]",
	"own": "spec.rules[].resources", "kinds": "spec.rules[].resources", "names": "spec.rules[].resources",
	"images": "spec.rules[].resources", "namespaces": "spec.rules[].resources",
	"owner": "obligations", "setDefault": "obligations", "redactEnv": "obligations", "dockerSocket": "spec.obligations",
	"memory": "obligations.setDefault", "cpus": "obligations.setDefault", "pids": "obligations.setDefault",
	"noNewPrivileges": "obligations.setDefault", "readOnlyRoot": "obligations.setDefault",
}

// parseAccess reads one document of kind [AccessKind]; its shape was checked.
func parseAccess(file string, root *yaml.Node) (*AccessPolicy, Errors) {
	d := &decoder{file: file, lines: map[string]int{}, nodes: map[string]*yaml.Node{}, home: accessHome}
	p := &AccessPolicy{File: file, Line: root.Line}
	d.object(root, topLevel, []field{
		{"apiVersion", true, d.enum([]string{APIVersion}, func(string) {})},
		{"kind", true, d.enum([]string{AccessKind}, func(string) {})},
		{"metadata", true, func(n *yaml.Node, at string) { d.metadata(n, at, &p.Name, &p.Annotations) }},
		{"spec", true, func(n *yaml.Node, at string) { d.accessSpec(n, at, &p.Spec) }},
	})
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	p.Revision = revisionOf(p.Canonical())
	return p, nil
}

func (d *decoder) accessSpec(n *yaml.Node, at string, s *AccessSpec) {
	var m modes
	d.object(n, at, []field{
		{"mode", true, d.mode(&m.policy)},
		{"priority", false, d.integer(&s.Priority, -maxPriority, maxPriority)},
		{"subjects", true, func(n *yaml.Node, at string) { d.subjects(n, at, &s.Subjects) }},
		{"rules", false, d.each(MaxAccessRules, func(n *yaml.Node, at string) {
			r := AccessRule{Line: n.Line}
			d.accessRule(n, at, &r)
			s.Rules = append(s.Rules, r)
		})},
		{"obligations", false, func(n *yaml.Node, at string) {
			s.Obligations = &Obligations{}
			d.obligations(n, at, s.Obligations)
		}},
	})
	if m.policy != nil {
		s.Mode = *m.policy
	}
	if len(d.errs) == 0 && len(s.Rules) == 0 && s.Obligations == nil {
		d.fail(n, "add rules:, or obligations:", "the policy says nothing about its subjects' calls")
	}
	names := make(map[string]int, len(s.Rules))
	for i := range s.Rules {
		r := &s.Rules[i]
		if !r.named {
			r.Name = "rules[" + strconv.Itoa(i) + "]"
			continue
		}
		if first, dup := names[r.Name]; dup {
			d.errs = append(d.errs, &Error{
				File: d.file, Line: r.Line, Fix: "rename one of the two: records name the rule that decided",
				Msg: fmt.Sprintf("the rule %s is already defined at line %d", quote(r.Name), first),
			})
		}
		names[r.Name] = r.Line
	}
}

// each reads a non-empty sequence of mappings.
func (d *decoder) each(limit int, read func(n *yaml.Node, at string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		switch {
		case n.Kind != yaml.SequenceNode:
			d.fail(n, "write it as a list: one \"- ...\" an entry", "%s must be a list, got %s", at, describe(n))
		case len(n.Content) == 0:
			d.fail(n, "delete the field or fill the list", "%s is an empty list", at)
		case len(n.Content) > limit:
			d.fail(n, "", "%s has %d entries, more than %d", at, len(n.Content), limit)
		default:
			for i, c := range n.Content {
				read(c, at+"["+strconv.Itoa(i)+"]")
			}
		}
	}
}

// texts reads a list of texts, each of which check accepts.
func (d *decoder) texts(dst *[]string, limit int, check func(string) (msg, fix string)) func(*yaml.Node, string) {
	return d.list(limit, "it would match nothing", func(s string) (msg, fix string) {
		if msg, fix = check(s); msg == "" {
			*dst = append(*dst, s)
		}
		return msg, fix
	})
}

func (d *decoder) text(dst *string, check func(string) (msg, fix string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if d.str(dst)(n, at); *dst == "" {
			return
		}
		if msg, fix := check(*dst); msg != "" {
			d.fail(n, fix, "%s: %s", at, msg)
		}
	}
}

// onlyTrue reads a boolean that is there to be true: false would say nothing, or seem
// to say what no policy can.
func (d *decoder) onlyTrue(dst *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if d.boolean(dst)(n, at); n.Tag == "!!bool" && !*dst {
			d.fail(n, "delete the line", "%s: false has no meaning here", at)
		}
	}
}

func (d *decoder) subjects(n *yaml.Node, at string, s *Subjects) {
	d.object(n, at, []field{
		{"users", false, d.texts(&s.Users, maxAccessList, checkTextGlob)},
		{"groups", false, d.texts(&s.Groups, maxAccessList, checkTextGlob)},
		{"uids", false, d.idRanges(&s.UIDs)},
		{"gids", false, d.idRanges(&s.GIDs)},
		{"certificates", false, d.each(maxAccessList, func(n *yaml.Node, at string) {
			var c CertSelector
			d.object(n, at, []field{
				{"cn", false, d.text(&c.CN, checkTextGlob)},
				{"o", false, d.text(&c.O, checkTextGlob)},
				{"san", false, d.text(&c.SAN, checkTextGlob)},
			})
			if c == (CertSelector{}) {
				d.fail(n, `add cn, o or san; cn: "*" is every certificate`, "%s says nothing", at)
			}
			s.Certificates = append(s.Certificates, c)
		})},
		{"tokens", false, d.texts(&s.Tokens, maxAccessList, checkTextGlob)},
		{"containers", false, d.each(maxAccessList, func(n *yaml.Node, at string) {
			c := d.callerContainer(n, at)
			s.Containers = append(s.Containers, c)
		})},
		{"everyone", false, d.onlyTrue(&s.Everyone)},
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		d.fail(n, "name users, groups, uids, gids, certificates, tokens or containers, or write everyone: true",
			"%s names nobody", at)
	}
}

func (d *decoder) callerContainer(n *yaml.Node, at string) CallerContainer {
	var c CallerContainer
	d.object(n, at, []field{
		{"id", false, d.text(&c.ID, checkContainerID)},
		{"name", false, d.text(&c.Name, checkTextGlob)},
		{"labels", false, d.labels(&c.Labels)},
		{"imageDigest", false, d.text(&c.ImageDigest, checkDigest)},
		{"any", false, d.onlyTrue(&c.Any)},
	})
	some := c.ID != "" || c.Name != "" || len(c.Labels) > 0 || c.ImageDigest != ""
	switch {
	case n.Kind == yaml.MappingNode && !some && !c.Any:
		d.fail(n, "add id, name, labels or imageDigest; any: true is every container", "%s says nothing", at)
	case some && c.Any:
		d.fail(n, "delete any", "%s: any is every container, and the other fields narrow it", at)
	}
	return c
}

func (d *decoder) labels(dst *map[string]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		switch d.stringMap(dst)(n, at); {
		case n.Kind == yaml.MappingNode && len(n.Content) == 0:
			d.fail(n, "delete it, or add labels", "%s is empty", at)
		case len(*dst) > maxLabels:
			d.fail(n, "", "%s has more than %d labels", at, maxLabels)
		}
	}
}

func (d *decoder) accessRule(n *yaml.Node, at string, r *AccessRule) {
	d.object(n, at, []field{
		{"name", false, func(n *yaml.Node, at string) {
			r.named = true
			d.text(&r.Name, checkRuleName)(n, at)
		}},
		{"effect", true, d.enum([]string{string(EffectAllow), string(EffectForbid)}, func(s string) { r.Effect = Effect(s) })},
		{"actions", true, d.texts(&r.Actions, maxRuleList, checkAction)},
		{"resources", false, func(n *yaml.Node, at string) {
			r.Resources = &ResourceSelector{}
			d.resources(n, at, r.Resources)
		}},
		{"checks", false, d.checks(&r.Checks)},
		{"when", false, func(n *yaml.Node, at string) { d.when(n, at, r) }},
		{"require", false, d.enum([]string{SecondFactor}, func(s string) { r.Require = s })},
		{"obligations", false, func(n *yaml.Node, at string) {
			r.Obligations = &Obligations{}
			d.obligations(n, at, r.Obligations)
			if r.Obligations.DockerSocket != "" {
				d.fail(n, "put it into the obligations below spec", "%s: dockerSocket holds for all calls of the subjects", at)
			}
			if r.Effect == EffectForbid {
				d.fail(n, "put them on the rule that allows, or below spec", "%s: a forbidden call has no obligations", at)
			}
		}},
	})
}

func (d *decoder) resources(n *yaml.Node, at string, s *ResourceSelector) {
	d.object(n, at, []field{
		{"own", false, d.onlyTrue(&s.Own)},
		{"kinds", false, d.texts(&s.Kinds, maxRuleList, func(v string) (msg, fix string) {
			if _, ok := resourceKinds[v]; ok {
				return "", ""
			}
			if near, ok := closest(v, resourceKindNames); ok {
				return quote(v) + " is not a kind of resource", "did you mean " + near + "?"
			}
			return quote(v) + " is not a kind of resource", "use one of " + strings.Join(resourceKindNames, ", ")
		})},
		{"labels", false, d.labels(&s.Labels)},
		{"names", false, d.texts(&s.Names, maxRuleList, checkTextGlob)},
		{"images", false, d.texts(&s.Images, maxRuleList, checkImagePattern)},
		{"namespaces", false, d.texts(&s.Namespaces, maxRuleList, checkTextGlob)},
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		d.fail(n, "delete it: no resources is every resource", "%s says nothing", at)
	}
}

func (d *decoder) obligations(n *yaml.Node, at string, o *Obligations) {
	def := &o.Defaults
	d.object(n, at, []field{
		{"owner", false, d.onlyTrue(&o.Owner)},
		{"labels", false, func(n *yaml.Node, at string) {
			d.labels(&o.Labels)(n, at)
			if _, has := o.Labels[OwnerLabel]; has {
				d.fail(n, "write owner: true", "%s: the value of %s is the caller, not a choice of the policy", at, OwnerLabel)
			}
		}},
		{"setDefault", false, func(n *yaml.Node, at string) {
			pids := 0
			d.object(n, at, []field{
				{"memory", false, d.size(&def.MemoryBytes)},
				{"cpus", false, d.cpus(&def.NanoCPUs)},
				{"pids", false, d.integer(&pids, 1, 1<<22)}, // PID_MAX_LIMIT, linux/threads.h
				{"user", false, d.text(&def.User, checkDefaultUser)},
				{"noNewPrivileges", false, d.onlyTrue(&def.NoNewPrivileges)},
				{"readOnlyRoot", false, d.onlyTrue(&def.ReadOnlyRoot)},
			})
			def.PIDs = int64(pids)
		}},
		{"dockerSocket", false, d.enum([]string{SocketReplace, SocketRefuse}, func(s string) { o.DockerSocket = s })},
		{"redactEnv", false, d.texts(&o.RedactEnv, maxRuleList, checkTextGlob)},
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		d.fail(n, "delete it, or add owner, labels, setDefault, dockerSocket or redactEnv", "%s says nothing", at)
	}
}

// idRanges reads numbers and ranges of numbers, which YAML may see as integers.
func (d *decoder) idRanges(dst *[]string) func(*yaml.Node, string) {
	return d.each(maxAccessList, func(n *yaml.Node, at string) {
		lo, hi, ok := parseIDRange(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!str" || !ok {
			d.fail(n, `write a number such as 1000, or a range such as "1000-1999"`,
				"%s must be an id or a range of ids, got %s", at, describe(n))
			return
		}
		*dst = append(*dst, formatIDRange(lo, hi))
	})
}

func parseIDRange(s string) (lo, hi uint32, ok bool) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	l, err1 := strconv.ParseUint(from, 10, 32)
	h, err2 := strconv.ParseUint(to, 10, 32)
	if err1 != nil || err2 != nil || l > h || strconv.FormatUint(l, 10) != from || strconv.FormatUint(h, 10) != to {
		return 0, 0, false
	}
	return uint32(l), uint32(h), true
}

func formatIDRange(lo, hi uint32) string {
	s := strconv.FormatUint(uint64(lo), 10)
	if lo == hi {
		return s
	}
	return s + "-" + strconv.FormatUint(uint64(hi), 10)
}

var resourceKinds = map[string]apicall.ResourceKind{
	"container": apicall.ResourceContainer, "exec": apicall.ResourceExec, "image": apicall.ResourceImage,
	"volume": apicall.ResourceVolume, "network": apicall.ResourceNetwork, "plugin": apicall.ResourcePlugin,
	"service": apicall.ResourceService, "task": apicall.ResourceTask, "node": apicall.ResourceNode,
	"secret": apicall.ResourceSecret, "config": apicall.ResourceConfig, "swarm": apicall.ResourceSwarm,
	"build": apicall.ResourceBuild, "session": apicall.ResourceSession, "system": apicall.ResourceSystem,
	"distribution":  apicall.ResourceDistribution,
	"runtimePolicy": apicall.ResourceRuntimePolicy, "accessPolicy": apicall.ResourceAccessPolicy,
	"imagePolicy": apicall.ResourceImagePolicy, "loadPolicy": apicall.ResourceLoadPolicy, "scan": apicall.ResourceScan,
}

var resourceKindNames = func() []string {
	var names []string
	for k := range resourceKinds {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}()
