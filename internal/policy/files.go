package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// FileActs is a set of acts on a file. The bits are BL_A_* of bpf/rules.h, which says
// what each means; a test reads them from there.
type FileActs uint8

// The acts. ActKeep is never written in a policy: a directory above a protected path
// has it, so that the path cannot be moved away as a whole.
const (
	ActRead FileActs = 1 << iota
	ActWrite
	ActCreate
	ActDelete
	ActRename
	ActLink
	ActAttributes
	ActKeep
)

// actsWriting are those that files.readOnly denies.
const actsWriting = ActWrite | ActCreate | ActDelete | ActRename | ActLink | ActAttributes

// actWords are the words of files.rules[].deny, in the order of their bits.
var actWords = []string{"read", "write", "create", "delete", "rename", "link", "attributes"}

// Words returns the acts as a policy has them, in a fixed order.
func (a FileActs) Words() []string {
	var out []string
	for i, w := range actWords {
		if a&(1<<i) != 0 {
			out = append(out, w)
		}
	}
	return out
}

// closed returns the acts that must be denied with a. A file that could get another
// name could be read or written by that.
func (a FileActs) closed() FileActs {
	if a&(ActRead|ActWrite|ActDelete|ActAttributes) != 0 {
		a |= ActRename | ActLink
	}
	return a
}

// Files holds the rules on files.
type Files struct {
	Mode     verdict.Mode
	ReadOnly []Pattern // trees in which every act but reading is denied
	Rules    []FilesRule
}

// FilesRule denies acts on paths. A pattern of [PathExact] means the file, or the
// directory and all that is below it.
type FilesRule struct {
	Paths []Pattern
	Deny  FileActs
}

// FileRule is what the files sections say about one path in both modes.
type FileRule struct {
	Kind   PathKind
	Path   string
	Acts   [slots]FileActs // denied there
	Policy [slots]uint16   // the first policy in total order that names the path
}

// maxFileRules bounds files.rules of one policy.
const maxFileRules = 1000

type canonFiles struct {
	Mode     string           `yaml:"mode"`
	ReadOnly []string         `yaml:"readOnly,omitempty"`
	Rules    []canonFilesRule `yaml:"rules,omitempty"`
}

type canonFilesRule struct {
	Paths []string `yaml:"paths"`
	Deny  []string `yaml:"deny"`
}

func (f *Files) canonical() *canonFiles {
	c := &canonFiles{Mode: f.Mode.String(), ReadOnly: patternStrings(f.ReadOnly)}
	for _, r := range f.Rules {
		c.Rules = append(c.Rules, canonFilesRule{patternStrings(r.Paths), r.Deny.Words()})
	}
	return c
}

// rules returns all that the section denies, readOnly as a rule.
func (f *Files) rules() []FilesRule {
	if len(f.ReadOnly) == 0 {
		return f.Rules
	}
	return append([]FilesRule{{Paths: f.ReadOnly, Deny: actsWriting}}, f.Rules...)
}

func (d *decoder) files(n *yaml.Node, at string, f *Files, m **verdict.Mode) {
	paths := func(dst *[]Pattern) func(*yaml.Node, string) {
		return d.list(MaxPaths, "it names no file", func(s string) (msg, fix string) {
			p, msg, fix := parsePattern(s)
			if msg == "" {
				*dst = append(*dst, p)
			}
			return msg, fix
		})
	}
	d.object(n, at, []field{
		{"mode", false, d.mode(m)},
		{"readOnly", false, paths(&f.ReadOnly)},
		{"rules", false, func(n *yaml.Node, at string) {
			switch {
			case n.Kind != yaml.SequenceNode:
				d.fail(n, "write it as a list of mappings with paths and deny", "%s must be a list, got %s", at, describe(n))
				return
			case len(n.Content) == 0:
				d.fail(n, "delete the field or fill the list", "%s is an empty list: it denies nothing", at)
				return
			case len(n.Content) > maxFileRules:
				d.fail(n, "put paths with the same deny into one rule", "%s has %d entries, more than %d", at, len(n.Content), maxFileRules)
				return
			}
			for i, c := range n.Content {
				var r FilesRule
				d.object(c, fmt.Sprintf("%s[%d]", at, i), []field{
					{"paths", true, paths(&r.Paths)},
					{"deny", true, d.list(len(actWords), "it denies nothing", r.deny)},
				})
				slices.SortFunc(r.Paths, comparePatterns)
				f.Rules = append(f.Rules, r)
			}
		}},
	})
	slices.SortFunc(f.ReadOnly, comparePatterns)
}

// deny adds one word.
func (r *FilesRule) deny(s string) (msg, fix string) {
	i := slices.Index(actWords, s)
	if i < 0 {
		fix = "use " + oneOf(actWords)
		if g, ok := closest(s, actWords); ok {
			fix = "did you mean " + g + "?"
		}
		if s == "execute" || s == "exec" {
			fix = "list the programs in exec.deny"
		}
		return quote(s) + " is no act on a file", fix
	}
	r.Deny |= 1 << i
	return "", ""
}

// fileMerger puts the files sections of the policies of one container together. Every
// policy only tightens: what any denies is denied.
type fileMerger struct {
	rules  map[Pattern]*FileRule
	owners [slots][]selected
	union  [slots]FileActs
}

func mergeFiles(e *Effective, sel []selected) *fileMerger {
	m := &fileMerger{rules: map[Pattern]*FileRule{}}
	for _, p := range sel {
		f := p.Spec.Files
		if f == nil || len(f.rules()) == 0 {
			continue
		}
		m.owners[f.Mode] = append(m.owners[f.Mode], p)
		for _, r := range f.rules() {
			for _, pat := range withAliases(r.Paths) {
				m.protect(pat, r.Deny.closed(), f.Mode, p.index)
			}
		}
	}
	for _, r := range m.rules {
		e.Files = append(e.Files, *r)
	}
	slices.SortFunc(e.Files, func(a, b FileRule) int {
		return comparePatterns(Pattern{a.Kind, a.Path}, Pattern{b.Kind, b.Path})
	})
	return m
}

// protect denies acts on what pat names, and keeps every directory above it in place.
func (m *fileMerger) protect(pat Pattern, acts FileActs, mode verdict.Mode, policy uint16) {
	m.add(pat, acts, mode, policy)
	if pat.Kind == PathExact {
		m.add(Pattern{PathTree, pat.Path}, acts, mode, policy)
	}
	for dir := pat.Path; dir != "/" && dir != ""; dir = dir[:strings.LastIndexByte(dir, '/')] {
		m.add(Pattern{PathExact, dir}, ActKeep, mode, policy)
	}
}

func (m *fileMerger) add(pat Pattern, acts FileActs, mode verdict.Mode, policy uint16) {
	r := m.rules[pat]
	if r == nil {
		r = &FileRule{Kind: pat.Kind, Path: pat.Path}
		m.rules[pat] = r
	}
	if r.Acts[mode] == 0 { // policies come in total order: the first is credited
		r.Policy[mode] = policy
	}
	r.Acts[mode] |= acts
	m.union[mode] |= acts
}

// rule compiles the rule of one mode: its options are all acts that any path denies.
func (m *fileMerger) rule(mode verdict.Mode) Rule {
	if m == nil || len(m.owners[mode]) == 0 {
		return Rule{Verdict: verdict.Allow}
	}
	return Rule{Verdict: verdict.Deny, Opt: uint8(m.union[mode]), Policy: m.owners[mode][0].index}
}

// FileActsDenied returns the acts that the rules of one mode deny on file, an absolute
// clean path in the container. It is the reference of bl_files_judge in bpf/files.h.
func (e *Effective) FileActsDenied(mode verdict.Mode, file string) FileActs {
	var acts FileActs
	for i := range e.Files {
		r := &e.Files[i]
		if (Pattern{r.Kind, r.Path}).Match(file) {
			acts |= r.Acts[mode]
		}
	}
	return acts
}

func (e *Effective) explainFiles(mode verdict.Mode, m *fileMerger) {
	if m == nil || len(m.owners[mode]) == 0 {
		e.lines = append(e.lines, Line{
			Rule: verdict.RuleFiles, Mode: mode, Value: string(Allow), Why: "no policy sets it",
		})
		return
	}
	for _, p := range m.owners[mode] {
		var parts []string
		if ro := p.Spec.Files.ReadOnly; len(ro) > 0 {
			parts = append(parts, "readOnly "+someOf(patternStrings(ro)))
		}
		for _, r := range p.Spec.Files.Rules {
			parts = append(parts, "deny "+strings.Join(r.Deny.Words(), "+")+" on "+someOf(patternStrings(r.Paths)))
		}
		e.lines = append(e.lines, Line{
			Rule: verdict.RuleFiles, Mode: mode, Value: strings.Join(parts, "; "), Policy: p.Name, File: p.File,
			Line: p.lines["files"], Why: "any of them is denied, whichever policy lists it",
		})
	}
}
