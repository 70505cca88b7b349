package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/verdict"
)

// Options of a rule: Rule.Opt. The bits are BL_O_* of bpf/rules.h; a test reads them
// from there.
const (
	OptAfterStart  uint8 = 0x01 // exec.asRoot: denyAfterStart
	OptNestedAllow uint8 = 0x02 // exec.nested: allow

	OptPrograms uint8 = 0x01 // exec.memfd: programs

	OptVolumesRO uint8 = 0x01 // exec.volumes: readOnly
	OptVolumes   uint8 = 0x02 // exec.volumes: allow
	OptMetadata  uint8 = 0x04 // exec.metadataOnly: allow

	OptPtraceOwn uint8 = 0x01 // privileges.ptrace: own

	OptSSHTo uint8 = 0x01 // ssh.client: {to: ...}
)

// Facts about one exec or one executable mapping: Facts.Flags. The bits are BL_F_* of
// bpf/pure/exec.h, which says what each means; a test reads them from there.
const (
	FlagRoot       uint32 = 0x0001
	FlagNested     uint32 = 0x0002
	FlagInitTree   uint32 = 0x0004
	FlagInitRoot   uint32 = 0x0008
	FlagFileCaps   uint32 = 0x0010
	FlagUpper      uint32 = 0x0020
	FlagMetadata   uint32 = 0x0040
	FlagTmpfs      uint32 = 0x0080
	FlagDeleted    uint32 = 0x0100
	FlagVolume     uint32 = 0x0200
	FlagVolumeRO   uint32 = 0x0400
	FlagMounted    uint32 = 0x0800
	FlagSSHProgram uint32 = 0x1000
	FlagPathLost   uint32 = 0x2000
	FlagMapping    uint32 = 0x4000
	FlagHelper     uint32 = 0x8000
	FlagShared     uint32 = 0x10000
)

// MaxAllowLists is BL_MAX_ALLOW_LISTS of bpf/rules.h.
const MaxAllowLists = 32

// slots is BL_SLOTS: one for each mode.
const slots = 2

// Effective is what all policies that select one container come to: the form that
// the kernel side is compiled from. It must not be changed once returned.
//
// Arrays of two are indexed by verdict.Mode. Policy numbers are indexes in Sources.
type Effective struct {
	// Sources holds the policies that select the container, in total order, and last
	// of all [BuiltIn].
	Sources []Source
	// Revision is a hex digest of the content: equal content has an equal revision,
	// whatever files it was read from.
	Revision string
	Rules    [slots][verdict.NumRules]Rule
	// StartFor is set where exec.asRoot is denyAfterStart, else zero.
	StartFor [slots]time.Duration
	// AllowNeed has a bit for each allow list that a file must be on.
	AllowNeed   [slots]uint32
	AllowPolicy []uint16        // by bit of AllowNeed
	OnError     verdict.Verdict // at an internal failure of the kernel side
	// Paths holds one rule for each pattern, usrmerge spellings included, sorted by
	// path, then kind.
	Paths []PathRule
	// Files holds one rule for each path of the files sections, usrmerge spellings and
	// the directories above included, sorted by path, then kind.
	Files []FileRule
	// SSHTo holds the destinations of ssh.client: {to: ...}, made for longest-prefix
	// match: a more specific prefix has the ports of those that cover it.
	SSHTo [slots][]SSHDest
	// Capabilities are those that privileges.capabilities denies.
	Capabilities [slots]Capabilities
	// NetAddrs and NetPorts are the compiled network.egress, ingress and listen.
	NetAddrs []NetAddr
	NetPorts []NetPort
	// NetNames, NetNameRules and Resolvers are the compiled names of network.egress.
	NetNames     []NetName
	NetNameRules []NetNameRule
	Resolvers    [slots]Resolvers
	// Phases is what holds until all of the above does, by the container's age; empty if
	// all of it holds from the start on.
	Phases []PhaseRules `json:"-"`
	// RuntimeHelpers holds host paths whose inodes pass drift and memfd.
	RuntimeHelpers []string

	lines []Line
}

// Source is one policy that went into an [Effective].
type Source struct {
	Name     string
	Revision string
	Mode     verdict.Mode
	File     string
	Line     int
	Loosen   bool
	Ignored  string // why Loosen does not loosen here; empty if it does
	Phase    Phase  // from when on it holds
}

// Rule is one rule of one mode. The zero value denies, with the strictest options.
type Rule struct {
	Verdict verdict.Verdict // Deny: the rule is on; Allow: it is off
	Opt     uint8           // Opt* of the rule
	Policy  uint16          // who is credited with a denial
}

func (r Rule) on() bool { return r.Verdict == verdict.Deny }

// PathRule is what the lists say about one pattern.
type PathRule struct {
	Kind      PathKind
	Path      string // the file, or the directory of PathTree and PathChild
	AllowBits uint32 // allow lists that name it
	Verdict   [slots]verdict.Verdict
	Policy    [slots]uint16
}

// Facts is what the kernel side knows about one exec or one executable mapping.
type Facts struct {
	Flags       uint32 // Flag*
	AllowBits   uint32 // allow lists that name the file: see MatchPath
	PathVerdict [slots]verdict.Verdict
	PathPolicy  [slots]uint16
	Age         time.Duration // since the container's first exec
}

// Decision is the answer. The zero value denies.
type Decision struct {
	Verdict verdict.Verdict
	Rule    verdict.Rule // RuleNone if allowed
	Policy  uint16
}

// Exec decides on one exec or executable mapping: what a policy in enforce mode
// denies is denied, else what one in audit mode denies is reported.
//
// It is the reference of bl_exec_decide in bpf/pure/exec.h: same tests, same order.
func (e *Effective) Exec(f Facts) Decision {
	if r, p := e.execSlot(verdict.ModeEnforce, &f); r != verdict.RuleNone {
		return Decision{verdict.Deny, r, p}
	}
	if r, p := e.execSlot(verdict.ModeAudit, &f); r != verdict.RuleNone {
		return Decision{verdict.Audit, r, p}
	}
	return Decision{verdict.Allow, verdict.RuleNone, 0}
}

// execSlot returns the first rule of one mode that denies, and who is credited.
func (e *Effective) execSlot(m verdict.Mode, f *Facts) (verdict.Rule, uint16) {
	rules := &e.Rules[m]
	has := func(bit uint32) bool { return f.Flags&bit != 0 }
	if r := rules[verdict.RuleMemfd]; r.on() && has(FlagTmpfs|FlagDeleted) && !has(FlagHelper) &&
		!(has(FlagMapping) && has(FlagShared) && r.Opt&OptPrograms != 0) {
		return verdict.RuleMemfd, r.Policy
	}
	if r := rules[verdict.RuleDrift]; r.on() && driftMatches(r, f.Flags) {
		return verdict.RuleDrift, r.Policy
	}
	if has(FlagMapping) {
		return e.mapSlot(m, f)
	}
	if r := rules[verdict.RuleAsRoot]; r.on() && e.rootMatches(m, r, f) {
		return verdict.RuleAsRoot, r.Policy
	}
	if r := rules[verdict.RuleFileCaps]; r.on() && has(FlagFileCaps) {
		return verdict.RuleFileCaps, r.Policy
	}
	if r := rules[verdict.RuleSSHServer]; r.on() && has(FlagSSHProgram) {
		return verdict.RuleSSHServer, r.Policy
	}
	if r := rules[verdict.RulePathDeny]; r.on() {
		if f.PathVerdict[m] == verdict.Deny {
			return verdict.RulePathDeny, f.PathPolicy[m]
		}
		if has(FlagPathLost) {
			return verdict.RulePathDeny, r.Policy
		}
	}
	if rules[verdict.RulePathAllow].on() {
		missing := e.AllowNeed[m]
		if !has(FlagPathLost) {
			missing &^= f.AllowBits
		}
		if missing != 0 {
			return verdict.RulePathAllow, e.AllowPolicy[bits.TrailingZeros32(missing)]
		}
	}
	return verdict.RuleNone, 0
}

// mapSlot goes on for a file that is mapped as code: of the rules on paths only
// exec.deny applies. What never had a path is the memfd rule's.
func (e *Effective) mapSlot(m verdict.Mode, f *Facts) (verdict.Rule, uint16) {
	r := e.Rules[m][verdict.RulePathDeny]
	switch {
	case !r.on() || f.Flags&(FlagTmpfs|FlagDeleted) != 0:
		return verdict.RuleNone, 0
	case f.PathVerdict[m] == verdict.Deny:
		return verdict.RulePathDeny, f.PathPolicy[m]
	case f.Flags&FlagPathLost != 0:
		return verdict.RulePathDeny, r.Policy
	}
	return verdict.RuleNone, 0
}

func (e *Effective) rootMatches(m verdict.Mode, r Rule, f *Facts) bool {
	nested := f.Flags&FlagNested != 0 && r.Opt&OptNestedAllow == 0
	if f.Flags&FlagRoot == 0 && !nested {
		return false
	}
	if r.Opt&OptAfterStart == 0 {
		return true
	}
	const starting = FlagInitTree | FlagInitRoot
	return f.Flags&starting != starting || f.Age >= e.StartFor[m]
}

func driftMatches(r Rule, flags uint32) bool {
	switch {
	case flags&FlagHelper != 0:
		return false
	case flags&FlagMounted != 0:
		return true
	case flags&FlagUpper != 0 && !(flags&FlagMetadata != 0 && r.Opt&OptMetadata != 0):
		return true
	case flags&FlagVolume == 0 || r.Opt&OptVolumes != 0:
		return false
	}
	return !(r.Opt&OptVolumesRO != 0 && flags&FlagVolumeRO != 0)
}

// MatchPath returns what the path lists say about a resolved file: the allow lists
// that name it, and for each mode whether a deny list does and whose, the first in
// total order if several do. A path that is not absolute and clean is on no allow
// list and denied where a deny list exists, as one that the kernel could not walk.
//
// It is the reference of the kernel's lookup, which asks for the file itself, for
// each directory above it and for the one that holds it.
func (e *Effective) MatchPath(file string) (allowBits uint32, v [slots]verdict.Verdict, pol [slots]uint16) {
	if !strings.HasPrefix(file, "/") || path.Clean(file) != file {
		for m := range v {
			v[m] = verdict.Allow
			if r := e.Rules[m][verdict.RulePathDeny]; r.on() {
				v[m], pol[m] = verdict.Deny, r.Policy
			}
		}
		return 0, v, pol
	}
	v = [slots]verdict.Verdict{verdict.Allow, verdict.Allow}
	add := func(kind PathKind, p string) {
		i, ok := slices.BinarySearchFunc(e.Paths, Pattern{kind, p}, func(r PathRule, want Pattern) int {
			return cmp.Or(cmp.Compare(r.Path, want.Path), cmp.Compare(r.Kind, want.Kind))
		})
		if !ok {
			return
		}
		r := &e.Paths[i]
		allowBits |= r.AllowBits
		for m := range v {
			if r.Verdict[m] == verdict.Deny && (v[m] != verdict.Deny || r.Policy[m] < pol[m]) {
				v[m], pol[m] = verdict.Deny, r.Policy[m]
			}
		}
	}
	add(PathExact, file)
	if file == "/" {
		return allowBits, v, pol
	}
	add(PathChild, path.Dir(file))
	add(PathTree, "/")
	for i := 1; i < len(file); i++ {
		if file[i] == '/' {
			add(PathTree, file[:i])
		}
	}
	return allowBits, v, pol
}

// SSHAllowed reports whether the rules of one mode let an SSH client connect to addr.
func (e *Effective) SSHAllowed(m verdict.Mode, addr netip.AddrPort) bool {
	r := e.Rules[m][verdict.RuleSSHClient]
	if !r.on() {
		return true
	}
	if r.Opt&OptSSHTo == 0 || !addr.IsValid() {
		return false
	}
	a := addr.Addr().WithZone("").Unmap()
	d, ok := lookup(e.SSHTo[m], netip.PrefixFrom(a, a.BitLen()))
	return ok && (len(d.Ports) == 0 || slices.Contains(d.Ports, addr.Port()))
}

// setRevision computes Revision from what decides and what events say, and from
// nothing else: a file that is moved makes no new revision.
func (e *Effective) setRevision() {
	type source struct {
		Name, Revision, Ignored string
		Mode                    verdict.Mode
		Loosen                  bool
	}
	c := *e
	c.Sources, c.Revision = nil, ""
	srcs := make([]source, len(e.Sources))
	for i, s := range e.Sources {
		srcs[i] = source{s.Name, s.Revision, s.Ignored, s.Mode, s.Loosen}
	}
	b, err := json.Marshal(struct {
		Sources []source
		Content *Effective
	}{srcs, &c})
	if err != nil {
		// Numbers, strings and netip prefixes only: none can fail.
		panic(fmt.Sprintf("encode effective policy: %v", err))
	}
	e.Revision = effectiveRevision(b)
}

func effectiveRevision(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16])
}
