// Package policy reads what operators write. Of RuntimePolicy documents it decides
// what several come to for one container, and is the reference for what the kernel
// side must answer. Of AccessPolicy documents it decides whether a caller may do what
// it asks of a container daemon's API ([Access]).
//
// It owns no state but the values that it returns, all of them immutable once
// returned and safe for concurrent use. It reads policy files ([ParseFiles],
// [LoadDir]) and nothing else; it never asks the kernel or a container runtime, and
// it never guesses: what it cannot read exactly is an error with file, line and fix.
// Row: core (imports ident, verdict, apicall, the YAML parser and CEL).
package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// What a document must say it is.
const (
	APIVersion = "belay.dev/v1"
	Kind       = "RuntimePolicy"
)

// BuiltIn is the name of the source that stands for what Belay does with no policy
// at all. No document may have it.
const BuiltIn = "built-in"

// LabelPrefix marks the container labels that only Belay's gate can set: it strips
// them from what clients send. They are the labels that a loosening policy may trust.
const LabelPrefix = "belay.dev/"

// DefaultStartFor is the startFor of asRoot: denyAfterStart.
const DefaultStartFor = 30 * time.Second

// Value is what a policy says about one rule or option. The zero value says nothing.
type Value string

// The values. Which of them a field takes is in docs/policy-reference.md.
const (
	Unset          Value = ""
	Allow          Value = "allow"
	Deny           Value = "deny"
	DenyAfterStart Value = "denyAfterStart" // exec.asRoot only
	ReadOnly       Value = "readOnly"       // exec.volumes only
	Programs       Value = "programs"       // exec.memfd only: shared mappings pass, by which a compiler writes code
	To             Value = "to"             // ssh.client only: a list of destinations
	Own            Value = "own"            // privileges.ptrace only: tasks of the own container may be traced
)

// RuntimePolicy is one parsed and validated document.
type RuntimePolicy struct {
	File string // as given to Parse
	Line int    // first line of the document, from 1
	// Revision is a hex prefix of the SHA-256 of [RuntimePolicy.Canonical]: two
	// spellings of one policy have one revision.
	Revision    string
	Name        string
	Annotations map[string]string
	Spec        Spec

	lines     map[string]int // "exec.asRoot" to the line that sets it
	canonical []byte         // of one that is never changed; nil: it is worked out
}

// Spec is the body of a policy.
type Spec struct {
	Selector Selector
	Priority int
	Mode     verdict.Mode
	// Require is the level that every rule of the policy must get on a host;
	// verdict.Unsupported demands nothing.
	Require verdict.Level
	// Loosen lets the explicit values of this policy replace stricter ones of others.
	Loosen  bool
	OnError Value // Allow, Deny or Unset
	// Phase says from when on the policy holds in a container.
	Phase Phase
	Exec  *Exec
	SSH   *SSH
	Files *Files
	// Privileges is nil if the document does not say anything on them.
	Privileges *Privileges
	// Network is nil if the document does not say anything on it.
	Network *Network
	// Host is nil if the document does not say anything on it.
	Host  *Host
	Guard *Guard
}

// Selector says which containers a policy is for. All conditions must hold; none
// means every container.
type Selector struct {
	Labels      map[string]string
	Image       string // glob
	ImageDigest string // sha256:...
	Name        string // glob
	Namespace   string // glob
	Workload    string // glob
	PodLabels   map[string]string
}

// Exec holds the rules on programs.
type Exec struct {
	Mode           verdict.Mode // the section's own, else the policy's
	AsRoot         Value
	StartFor       time.Duration // set with DenyAfterStart only
	Nested         Value
	FileCaps       Value
	Drift          Value
	MetadataOnly   Value
	Volumes        Value
	Memfd          Value // Unset: as Drift
	Allow          []Pattern
	Deny           []Pattern
	RuntimeHelpers []string // absolute host paths
}

// SSH holds the rules on SSH.
type SSH struct {
	Mode   verdict.Mode
	Server Value
	Client Value
	To     []SSHDest // with Client == To: as written, see Effective.SSHTo for the compiled form
	Keys   Value
}

// Guard holds the rules that protect Belay itself and the engine behind the gate.
type Guard struct {
	Mode verdict.Mode
	BPF  Value
	// Sockets says whether containers may connect to the container engine's own sockets.
	Sockets Value
}

// Denies returns the rules that the policy turns on, in either mode, in the order of
// their numbers: those whose level a host must be asked for when Require is set.
func (p *RuntimePolicy) Denies() []verdict.Rule {
	var rs []verdict.Rule
	for _, s := range p.settings() {
		if s.value != Unset && s.value != Allow {
			rs = append(rs, s.rule)
		}
	}
	if e := p.Spec.Exec; e != nil {
		if len(e.Deny) > 0 {
			rs = append(rs, verdict.RulePathDeny)
		}
		if len(e.Allow) > 0 {
			rs = append(rs, verdict.RulePathAllow)
		}
	}
	if f := p.Spec.Files; f != nil && len(f.rules()) > 0 {
		rs = append(rs, verdict.RuleFiles)
	}
	for dir := range netDir(3) {
		if p.Spec.Network.side(dir).denies() {
			rs = append(rs, dir.rule())
		}
	}
	slices.Sort(rs)
	return rs
}

// enforces reports whether any section of the policy is in enforce mode.
func (p *RuntimePolicy) enforces() bool {
	s := &p.Spec
	return s.Exec != nil && s.Exec.Mode == verdict.ModeEnforce ||
		s.SSH != nil && s.SSH.Mode == verdict.ModeEnforce ||
		s.Files != nil && s.Files.Mode == verdict.ModeEnforce ||
		s.Privileges != nil && s.Privileges.Mode == verdict.ModeEnforce ||
		s.Network != nil && s.Network.Mode == verdict.ModeEnforce ||
		s.Host != nil && s.Host.Mode == verdict.ModeEnforce ||
		s.Guard != nil && s.Guard.Mode == verdict.ModeEnforce
}

func (s *Selector) empty() bool {
	return len(s.Labels) == 0 && len(s.PodLabels) == 0 && s.Image == "" && s.ImageDigest == "" &&
		s.Name == "" && s.Namespace == "" && s.Workload == ""
}

// trusted reports whether no client can make the selector match at will.
func (s *Selector) trusted() bool {
	if s.ImageDigest != "" {
		return true
	}
	for k := range s.Labels {
		if IsReserved(k) {
			return true
		}
	}
	return false
}

type canonDoc struct {
	APIVersion string    `yaml:"apiVersion"`
	Kind       string    `yaml:"kind"`
	Metadata   canonMeta `yaml:"metadata"`
	Spec       canonSpec `yaml:"spec"`
}

type canonMeta struct {
	Name        string            `yaml:"name"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

type canonSpec struct {
	Selector   *canonSelector   `yaml:"selector,omitempty"`
	Priority   int              `yaml:"priority,omitempty"`
	Mode       string           `yaml:"mode"`
	Require    string           `yaml:"require,omitempty"`
	Loosen     bool             `yaml:"loosen,omitempty"`
	OnError    Value            `yaml:"onError,omitempty"`
	Phase      *canonPhase      `yaml:"phase,omitempty"`
	Exec       *canonExec       `yaml:"exec,omitempty"`
	SSH        *canonSSH        `yaml:"ssh,omitempty"`
	Files      *canonFiles      `yaml:"files,omitempty"`
	Privileges *canonPrivileges `yaml:"privileges,omitempty"`
	Network    *canonNetwork    `yaml:"network,omitempty"`
	Host       *canonHost       `yaml:"host,omitempty"`
	Guard      *canonGuard      `yaml:"guard,omitempty"`
}

type canonSelector struct {
	Labels      map[string]string `yaml:"labels,omitempty"`
	Image       string            `yaml:"image,omitempty"`
	ImageDigest string            `yaml:"imageDigest,omitempty"`
	Name        string            `yaml:"name,omitempty"`
	Namespace   string            `yaml:"namespace,omitempty"`
	Workload    string            `yaml:"workload,omitempty"`
	PodLabels   map[string]string `yaml:"podLabels,omitempty"`
}

type canonExec struct {
	Mode           string   `yaml:"mode"`
	AsRoot         Value    `yaml:"asRoot,omitempty"`
	StartFor       string   `yaml:"startFor,omitempty"`
	Nested         Value    `yaml:"nested,omitempty"`
	FileCaps       Value    `yaml:"fileCaps,omitempty"`
	Drift          Value    `yaml:"drift,omitempty"`
	MetadataOnly   Value    `yaml:"metadataOnly,omitempty"`
	Volumes        Value    `yaml:"volumes,omitempty"`
	Memfd          Value    `yaml:"memfd,omitempty"`
	Allow          []string `yaml:"allow,omitempty"`
	Deny           []string `yaml:"deny,omitempty"`
	RuntimeHelpers []string `yaml:"runtimeHelpers,omitempty"`
}

type canonSSH struct {
	Mode   string `yaml:"mode"`
	Server Value  `yaml:"server,omitempty"`
	Client any    `yaml:"client,omitempty"`
	Keys   Value  `yaml:"keys,omitempty"`
}

type canonGuard struct {
	Mode string `yaml:"mode"`
	BPF  Value  `yaml:"bpf,omitempty"`

	Sockets Value `yaml:"sockets,omitempty"`
}

// Canonical returns the document in its normal form: one key order, sorted lists,
// section modes and startFor written out, no comments. Parsing it gives the same
// policy again, but for file and lines. The caller must not change it.
func (p *RuntimePolicy) Canonical() []byte {
	if p.canonical != nil {
		return p.canonical
	}
	s := &p.Spec
	d := canonDoc{
		APIVersion: APIVersion, Kind: Kind,
		Metadata: canonMeta{Name: p.Name, Annotations: p.Annotations},
		Spec:     canonSpec{Priority: s.Priority, Mode: s.Mode.String(), Loosen: s.Loosen, OnError: s.OnError, Phase: s.Phase.canonical()},
	}
	if !s.Selector.empty() {
		c := canonSelector(s.Selector)
		d.Spec.Selector = &c
	}
	if s.Require != verdict.Unsupported {
		d.Spec.Require = s.Require.String()
	}
	if e := s.Exec; e != nil {
		c := canonExec{
			Mode: e.Mode.String(), AsRoot: e.AsRoot, Nested: e.Nested, FileCaps: e.FileCaps,
			Drift: e.Drift, MetadataOnly: e.MetadataOnly, Volumes: e.Volumes, Memfd: e.Memfd,
			Allow: patternStrings(e.Allow), Deny: patternStrings(e.Deny),
			RuntimeHelpers: slices.Sorted(slices.Values(e.RuntimeHelpers)),
		}
		if e.AsRoot == DenyAfterStart {
			c.StartFor = e.StartFor.String()
		}
		d.Spec.Exec = &c
	}
	if h := s.SSH; h != nil {
		c := canonSSH{Mode: h.Mode.String(), Server: h.Server, Keys: h.Keys}
		switch h.Client {
		case Unset:
		case To:
			c.Client = map[string][]string{"to": destStrings(h.To)}
		default:
			c.Client = string(h.Client)
		}
		d.Spec.SSH = &c
	}
	if s.Privileges != nil {
		d.Spec.Privileges = s.Privileges.canonical()
	}
	if s.Network != nil {
		d.Spec.Network = s.Network.canonical()
	}
	if s.Files != nil {
		d.Spec.Files = s.Files.canonical()
	}
	if s.Host != nil {
		d.Spec.Host = s.Host.canonical()
	}
	if g := s.Guard; g != nil {
		d.Spec.Guard = &canonGuard{Mode: g.Mode.String(), BPF: g.BPF, Sockets: g.Sockets}
	}
	return marshalCanonical(&d)
}

func marshalCanonical(d *canonDoc) []byte {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(d); err != nil {
		// Only strings, maps of strings and a bool are in there: none can fail.
		panic(fmt.Sprintf("encode policy %s: %v", d.Metadata.Name, err))
	}
	return b.Bytes()
}

// revisionLen is 64 bits in hex: long enough that two policies of one fleet never
// share it by accident, short enough to be read in a table.
const revisionLen = 16

func revisionOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])[:revisionLen]
}
