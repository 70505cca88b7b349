package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// Entry is one document of a set of any kind, for those who manage policies and do
// not ask what they say.
type Entry struct {
	Kind, Name, Revision string
	File                 string
	Line                 int
	Annotations          map[string]string
	// Runtime, Access, Image or Load is the policy itself; the others are nil.
	Runtime *RuntimePolicy
	Access  *AccessPolicy
	Image   *ImagePolicy
	Load    *LoadPolicy
}

// Canonical returns the document in its normal form.
func (e *Entry) Canonical() []byte {
	switch {
	case e.Access != nil:
		return e.Access.Canonical()
	case e.Image != nil:
		return e.Image.Canonical()
	case e.Load != nil:
		return e.Load.Canonical()
	}
	return e.Runtime.Canonical()
}

// Mode returns the policy's mode; audit for a LoadPolicy, which has none and denies nothing.
func (e *Entry) Mode() verdict.Mode {
	switch {
	case e.Access != nil:
		return e.Access.Spec.Mode
	case e.Image != nil:
		return e.Image.Spec.Mode
	case e.Load != nil:
		return verdict.ModeAudit
	}
	return e.Runtime.Spec.Mode
}

// Entries returns the documents in order of their names.
func (d *Documents) Entries() []Entry {
	out := make([]Entry, 0, d.Len())
	for _, p := range d.Runtime {
		out = append(out, Entry{Kind: Kind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line, Annotations: p.Annotations, Runtime: p})
	}
	for _, p := range d.Access {
		out = append(out, Entry{Kind: AccessKind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line, Annotations: p.Annotations, Access: p})
	}
	for _, p := range d.Images {
		out = append(out, Entry{Kind: ImageKind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line, Annotations: p.Annotations, Image: p})
	}
	for _, p := range d.Loads {
		out = append(out, Entry{Kind: LoadKind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line, Annotations: p.Annotations, Load: p})
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Resource returns what the rules of AccessPolicies see of the document. Its labels are
// the annotations.
func (e *Entry) Resource() apicall.Resource {
	kind := apicall.ResourceRuntimePolicy
	switch {
	case e.Access != nil:
		kind = apicall.ResourceAccessPolicy
	case e.Image != nil:
		kind = apicall.ResourceImagePolicy
	case e.Load != nil:
		kind = apicall.ResourceLoadPolicy
	}
	return apicall.Resource{Kind: kind, Asked: e.Name, ID: e.Name, Names: []string{e.Name}, Labels: e.Annotations}
}

// Loosens reports whether the policy takes away from what other policies deny, and not only
// adds to it. A nil policy does not.
func (p *RuntimePolicy) Loosens() bool {
	return p != nil && (p.Spec.Loosen || p.Spec.OnError == Allow || p.Spec.Exec != nil && len(p.Spec.Exec.RuntimeHelpers) > 0)
}

// SameSelector reports whether two policies are for the same: containers of a RuntimePolicy,
// images of an ImagePolicy, subjects of an AccessPolicy, the node of a LoadPolicy. One that there
// is not, nil, is not for the same as one that there is.
func SameSelector(a, b *Entry) bool {
	switch {
	case a == nil || b == nil:
		return a == b
	case a.Runtime != nil && b.Runtime != nil:
		return reflect.DeepEqual(a.Runtime.Spec.Selector, b.Runtime.Spec.Selector)
	case a.Image != nil && b.Image != nil:
		return reflect.DeepEqual(a.Image.Spec.Selector, b.Image.Spec.Selector)
	case a.Access != nil && b.Access != nil:
		return reflect.DeepEqual(a.Access.Spec.Subjects, b.Access.Spec.Subjects)
	}
	return a.Load != nil && b.Load != nil
}

// Names reports whether the policy names the caller among its subjects.
func (p *AccessPolicy) Names(sub *apicall.Subject) bool {
	return len(compileAccess([]*AccessPolicy{p}).match(sub, nil)) > 0
}

// Names reports whether any policy that is enforced names the caller. One who is not
// named is denied everything.
func (s *Access) Names(sub *apicall.Subject) bool { return s.anyEnforced(s.match(sub, nil)) }

// CouldAllow reports whether there is any call of an action that the policies would allow the
// caller: an enforced rule allows it of something, and none that is enforced forbids it of
// everything. What checks and expressions would say is left open.
func (s *Access) CouldAllow(sub *apicall.Subject, action string) bool {
	id, known := actionIDs[action]
	if !known || sub.Kind == apicall.Nobody {
		return false
	}
	some := false
	for _, class := range s.match(sub, nil) {
		for _, l := range s.lists(class, id) {
			if l == nil {
				continue
			}
			some = some || len(l.allow[verdict.ModeEnforce].all) > 0
			for _, r := range l.forbid[verdict.ModeEnforce].whole {
				if r.Resources == nil && len(r.Checks) == 0 && r.when == nil && r.Require == "" {
					return false
				}
			}
		}
	}
	return some
}

// Enforced reports whether any policy is in enforce mode. If none is, nothing is denied.
func (s *Access) Enforced() bool { return s.enforced }

// CutDocument returns the text of the document whose first line is line (from 1) in a
// file of policies, with the comments before it, and the rest of the file without it.
//
// Errors: if the file has no such document; if it ends documents with "...", which
// leaves open whose the text after it is.
func CutDocument(file []byte, line int) (doc, before, after []byte, err error) {
	var starts []int // offsets of sections
	starts = append(starts, 0)
	at, offset, wanted := 0, 0, -1
	for l := range bytes.Lines(file) {
		at++
		switch {
		case isMarker(l, "..."):
			return nil, nil, nil, fmt.Errorf("line %d: a document ends with %q; fix: delete that line", at, "...")
		case isMarker(l, "---") && offset > 0:
			starts = append(starts, offset)
		}
		if at == line {
			wanted = len(starts) - 1
		}
		offset += len(l)
	}
	if wanted < 0 {
		return nil, nil, nil, fmt.Errorf("there is no line %d", line)
	}
	end := len(file)
	if wanted+1 < len(starts) {
		end = starts[wanted+1]
	}
	doc = file[starts[wanted]:end]
	if isMarker(doc, "---") { // the marker is not the document's; what follows it in its line is
		doc = bytes.TrimLeft(doc[3:], " \t\r")
		doc = bytes.TrimPrefix(doc, []byte("\n"))
	}
	return doc, file[:starts[wanted]], file[end:], nil
}

// isMarker reports whether a line is a marker of YAML 1.2, section 9.1.2: it stands at
// the line's start, also inside a block of text, and white space follows.
func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// JoinDocuments makes a file of sections, each of which may begin with a marker. Empty
// ones are left out.
func JoinDocuments(sections ...[]byte) []byte {
	var out []byte
	for _, s := range sections {
		if len(bytes.TrimSpace(s)) == 0 {
			continue
		}
		if len(out) > 0 && !isMarker(s, "---") {
			out = append(out, "---\n"...)
		}
		out = append(out, s...)
		if out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
	}
	return out
}

// DirFiles returns the files of a directory that hold policies: *.yaml and *.yml, in
// the order of their names. Names that start with a dot are left out: editors and
// Kubernetes volumes keep their own there. A directory that does not exist has none.
//
// Errors: [Errors] if the directory cannot be read.
func DirFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, Errors{{File: dir, Msg: "read policy directory: " + reason(err), Err: err}}
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		if e.IsDir() || strings.HasPrefix(name, ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		files = append(files, filepath.Join(dir, name))
	}
	return files, nil
}

// ReadFile reads a file of policies of bounded size, one byte more than [MaxFileBytes]
// at most, so that [ParseAll] sees that it is too large.
//
// Errors: [Errors] if it cannot be read or is no regular file.
func ReadFile(name string) ([]byte, error) {
	data, err := readPolicyFile(name)
	if err != nil {
		return nil, Errors{{File: name, Msg: "read policy file: " + reason(err), Err: err}}
	}
	return data, nil
}
