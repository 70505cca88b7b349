package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// AccessKind is the kind of documents that say who may call a container daemon's
// API, and with what.
const AccessKind = "AccessPolicy"

// OwnerLabel is the label that tells whose a thing is. Only the gate sets it; its
// value is that of [Owner].
const OwnerLabel = LabelPrefix + "owner"

// ImageLabel is the label that holds the id of the image by which the gate judged a container's
// create: "sha256:" and 64 hexadecimal digits. Only the gate sets it. A container that has another
// image does not start through the gate.
const ImageLabel = LabelPrefix + "image"

// AccessPolicy is one parsed and validated document of kind [AccessKind].
type AccessPolicy struct {
	File        string // as given to Parse
	Line        int    // first line of the document, from 1
	Revision    string // as that of a RuntimePolicy
	Name        string
	Annotations map[string]string
	Spec        AccessSpec
}

// AccessSpec is the body of an AccessPolicy.
type AccessSpec struct {
	Mode     verdict.Mode
	Priority int
	Subjects Subjects
	Rules    []AccessRule
	// Obligations bind every call that is allowed to one of the subjects, whichever
	// policy allowed it.
	Obligations *Obligations
}

// Subjects says which callers a policy is for: those that any entry names.
type Subjects struct {
	Users        []string          `yaml:"users,omitempty"`  // names, globs
	Groups       []string          `yaml:"groups,omitempty"` // names, globs
	UIDs         []string          `yaml:"uids,omitempty"`   // "1000", "1000-1999"
	GIDs         []string          `yaml:"gids,omitempty"`
	Certificates []CertSelector    `yaml:"certificates,omitempty"`
	Tokens       []string          `yaml:"tokens,omitempty"` // names, globs
	Containers   []CallerContainer `yaml:"containers,omitempty"`
	Everyone     bool              `yaml:"everyone,omitempty"` // containers included
}

// CertSelector names client certificates. All that is set must match.
type CertSelector struct {
	CN  string `yaml:"cn,omitempty"`  // glob
	O   string `yaml:"o,omitempty"`   // glob, of any organisation
	SAN string `yaml:"san,omitempty"` // glob, of any alternative name
}

// CallerContainer names containers whose processes call the API. All that is set
// must match; nothing set is every container.
type CallerContainer struct {
	ID          string            `yaml:"id,omitempty"`   // 64 hex digits
	Name        string            `yaml:"name,omitempty"` // glob
	Labels      map[string]string `yaml:"labels,omitempty"`
	ImageDigest string            `yaml:"imageDigest,omitempty"`
	Any         bool              `yaml:"any,omitempty"`
}

// Effect is what a rule does with the calls that it is about.
type Effect string

// The effects. The zero value is none of them.
const (
	EffectAllow  Effect = "allow"
	EffectForbid Effect = "forbid"
)

// SecondFactor is the value of a rule's require.
const SecondFactor = "secondFactor"

// AccessRule is one rule. A rule is about a call if its actions, its resources and
// its when are. One with effect allow then allows what passes all its checks; one
// with effect forbid forbids what fails any of them, or everything if it has none.
type AccessRule struct {
	Name      string // "rules[2]" if the document gives none
	Effect    Effect
	Actions   []string // names and globs of [Actions]
	Resources *ResourceSelector
	Checks    []Check
	When      string // CEL
	// Require is "" or SecondFactor: an allowed call must be elevated; a forbid does
	// not hold for one that is.
	Require     string
	Obligations *Obligations // of effect allow only
	Line        int

	named bool // the document gives a name
	when  *program
}

// ResourceSelector says which things a rule is about. All that is set must hold for
// every thing of the call.
type ResourceSelector struct {
	Own        bool              `yaml:"own,omitempty"`
	Kinds      []string          `yaml:"kinds,omitempty"`
	Labels     map[string]string `yaml:"labels,omitempty"`
	Names      []string          `yaml:"names,omitempty"`      // globs
	Images     []string          `yaml:"images,omitempty"`     // image globs
	Namespaces []string          `yaml:"namespaces,omitempty"` // globs
}

// Obligations is what the gate must do with a call that it lets pass.
type Obligations struct {
	// Owner adds [OwnerLabel] to what the call creates.
	Owner bool
	// Labels are added to what the call creates.
	Labels map[string]string
	// Defaults are set where the request says nothing.
	Defaults Defaults
	// DockerSocket is what becomes of a mount of the daemon's socket: [SocketReplace],
	// [SocketRefuse] or "". It is of whole policies only, never of a rule.
	DockerSocket string
	// RedactEnv holds globs of names of environment variables whose values the answer
	// must not show.
	RedactEnv []string
}

// The values of dockerSocket.
const (
	// SocketReplace mounts the gate's socket where a container asks for the daemon's.
	SocketReplace = "replace"
	// SocketRefuse refuses the call.
	SocketRefuse = "refuse"
)

// Defaults are values for what a request leaves unset. Zero sets nothing.
type Defaults struct {
	MemoryBytes     int64
	NanoCPUs        int64
	PIDs            int64
	User            string
	NoNewPrivileges bool
	ReadOnlyRoot    bool
}

// Check is one named check with its parameters.
type Check struct {
	Name string
	Args Args

	spec *checkSpec
}

// Args are the parameters of a check, by name.
type Args struct {
	Lists map[string][]string
	Texts map[string]string
	Bools map[string]bool
}

func (a *Args) empty() bool { return len(a.Lists)+len(a.Texts)+len(a.Bools) == 0 }

// MarshalYAML writes a check without parameters as its name alone.
func (c Check) MarshalYAML() (any, error) {
	if c.Args.empty() {
		return c.Name, nil
	}
	m := map[string]any{}
	for k, v := range c.Args.Lists {
		m[k] = v
	}
	for k, v := range c.Args.Texts {
		m[k] = v
	}
	for k, v := range c.Args.Bools {
		m[k] = v
	}
	return map[string]any{c.Name: m}, nil
}

type canonAccess struct {
	APIVersion string          `yaml:"apiVersion"`
	Kind       string          `yaml:"kind"`
	Metadata   canonMeta       `yaml:"metadata"`
	Spec       canonAccessSpec `yaml:"spec"`
}

type canonAccessSpec struct {
	Mode        string            `yaml:"mode"`
	Priority    int               `yaml:"priority,omitempty"`
	Subjects    Subjects          `yaml:"subjects"`
	Rules       []canonRule       `yaml:"rules,omitempty"`
	Obligations *canonObligations `yaml:"obligations,omitempty"`
}

type canonRule struct {
	Name        string            `yaml:"name,omitempty"`
	Effect      Effect            `yaml:"effect"`
	Actions     []string          `yaml:"actions"`
	Resources   *ResourceSelector `yaml:"resources,omitempty"`
	Checks      []Check           `yaml:"checks,omitempty"`
	When        string            `yaml:"when,omitempty"`
	Require     string            `yaml:"require,omitempty"`
	Obligations *canonObligations `yaml:"obligations,omitempty"`
}

type canonObligations struct {
	Owner        bool              `yaml:"owner,omitempty"`
	Labels       map[string]string `yaml:"labels,omitempty"`
	SetDefault   *canonDefaults    `yaml:"setDefault,omitempty"`
	DockerSocket string            `yaml:"dockerSocket,omitempty"`
	RedactEnv    []string          `yaml:"redactEnv,omitempty"`
}

type canonDefaults struct {
	Memory          string `yaml:"memory,omitempty"`
	CPUs            string `yaml:"cpus,omitempty"`
	PIDs            int64  `yaml:"pids,omitempty"`
	User            string `yaml:"user,omitempty"`
	NoNewPrivileges bool   `yaml:"noNewPrivileges,omitempty"`
	ReadOnlyRoot    bool   `yaml:"readOnlyRoot,omitempty"`
}

func (o *Obligations) canonical() *canonObligations {
	if o == nil {
		return nil
	}
	c := &canonObligations{Owner: o.Owner, Labels: o.Labels, DockerSocket: o.DockerSocket, RedactEnv: o.RedactEnv}
	if d := o.Defaults; d != (Defaults{}) {
		c.SetDefault = &canonDefaults{
			Memory: formatBytes(d.MemoryBytes), CPUs: formatCPUs(d.NanoCPUs), PIDs: d.PIDs, User: d.User,
			NoNewPrivileges: d.NoNewPrivileges, ReadOnlyRoot: d.ReadOnlyRoot,
		}
	}
	return c
}

// Canonical returns the document in its normal form, as that of a RuntimePolicy.
// Rules keep their order: it decides which of several allowing ones is named.
func (p *AccessPolicy) Canonical() []byte {
	s := &p.Spec
	d := canonAccess{
		APIVersion: APIVersion, Kind: AccessKind,
		Metadata: canonMeta{Name: p.Name, Annotations: p.Annotations},
		Spec: canonAccessSpec{
			Mode: s.Mode.String(), Priority: s.Priority, Subjects: s.Subjects, Obligations: s.Obligations.canonical(),
		},
	}
	for i := range s.Rules {
		r := &s.Rules[i]
		c := canonRule{
			Effect: r.Effect, Actions: r.Actions, Resources: r.Resources, Checks: r.Checks, When: r.When,
			Require: r.Require, Obligations: r.Obligations.canonical(),
		}
		if r.named {
			c.Name = r.Name
		}
		d.Spec.Rules = append(d.Spec.Rules, c)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&d); err != nil {
		// Text, lists and maps of text: none can fail.
		panic(fmt.Sprintf("encode policy %s: %v", p.Name, err))
	}
	return b.Bytes()
}

// orderAccess sorts policies by priority, highest first, then by name.
func orderAccess(ps []*AccessPolicy) {
	slices.SortFunc(ps, func(a, b *AccessPolicy) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), cmp.Compare(a.Name, b.Name))
	})
}

// String lists the subjects for a table: "user alice, group docker".
func (s *Subjects) String() string {
	var parts []string
	add := func(kind string, list []string) {
		for _, v := range list {
			parts = append(parts, kind+" "+v)
		}
	}
	add("user", s.Users)
	add("group", s.Groups)
	add("uid", s.UIDs)
	add("gid", s.GIDs)
	for _, c := range s.Certificates {
		parts = append(parts, "certificate"+pairText("cn", c.CN)+pairText("o", c.O)+pairText("san", c.SAN))
	}
	add("token", s.Tokens)
	for _, c := range s.Containers {
		t := "container" + pairText("id", c.ID) + pairText("name", c.Name) + pairText("imageDigest", c.ImageDigest)
		for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
			t += pairText("label:"+k, c.Labels[k])
		}
		parts = append(parts, t)
	}
	if s.Everyone {
		parts = append(parts, "everyone")
	}
	return strings.Join(parts, ", ")
}

func pairText(key, value string) string {
	if value == "" {
		return ""
	}
	return " " + key + "=" + value
}
