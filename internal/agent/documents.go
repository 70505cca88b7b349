package agent

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
)

// storedPolicy is one policy in force, and where it comes from.
type storedPolicy struct {
	policy.Entry
	own     bool          // from the policy directory
	shipped *policy.Entry // the shipped policy that it is or overrides; nil: none
	text    string        // as written; the normal form where that is not known
}

// entry returns nil for a policy that there is not.
func (d *storedPolicy) entry() *policy.Entry {
	if d == nil {
		return nil
	}
	return &d.Entry
}

func (d *storedPolicy) origin() string {
	switch {
	case d.shipped == nil:
		return "own"
	case d.own:
		return "override"
	}
	return "shipped"
}

// documentsOf returns the documents of a set that was read from one file.
func documentsOf(set *policy.Set) map[string]*storedPolicy {
	docs := set.Documents()
	out := map[string]*storedPolicy{}
	for _, e := range docs.Entries() {
		out[e.Name] = &storedPolicy{Entry: e, own: true, text: canonical(&e)}
	}
	return out
}

func canonical(e *policy.Entry) string { return string(e.Canonical()) }

// readPolicies reads the policies of a directory over those that ship. A document
// overrides the shipped one of its name and kind. What overlay holds for a path goes
// before the file; nil removes it.
//
// Errors: [policy.Errors] with all that is wrong. The shipped directory must exist if it
// is named.
func readPolicies(dir, shipped string, overlay map[string][]byte) (*policy.Set, map[string]*storedPolicy, error) {
	own, errs := readDocuments(dir, overlay)
	var base []storedPolicy
	if shipped != "" {
		files, err := policy.DirFiles(shipped)
		if err == nil && len(files) == 0 {
			err = policy.Errors{{File: shipped, Msg: "no policy ships there", Fix: "install the policies, or leave out --shipped-policies"}}
		}
		var es policy.Errors
		if err == nil {
			base, es = readDocuments(shipped, nil)
		} else {
			es = asPolicyErrors(shipped, err)
		}
		errs = append(errs, es...)
	}
	docs := make(map[string]*storedPolicy, len(own)+len(base))
	byName := map[string]*policy.Entry{}
	var all policy.Documents
	for i := range base {
		d := &base[i]
		d.shipped = &d.Entry
		byName[d.Name], docs[d.Name] = &d.Entry, d
	}
	for i := range own {
		d := &own[i]
		d.own = true
		if s := byName[d.Name]; s != nil {
			if s.Kind != d.Kind {
				errs = append(errs, &policy.Error{
					File: d.File, Line: d.Line, Msg: fmt.Sprintf("policy %q ships with Belay as %s, and this is %s", d.Name, s.Kind, d.Kind),
					Fix: "rename it: an override has the same kind",
				})
			}
			d.shipped = s
		}
		addEntry(&all, &d.Entry)
		docs[d.Name] = d
	}
	for i := range base {
		if d := &base[i]; docs[d.Name] == d || !docs[d.Name].own {
			addEntry(&all, &d.Entry)
		}
	}
	if len(errs) > 0 {
		return nil, nil, errs
	}
	set, err := all.Set()
	if err != nil {
		return nil, nil, err
	}
	return set, docs, nil
}

func addEntry(to *policy.Documents, e *policy.Entry) {
	switch {
	case e.Access != nil:
		to.Access = append(to.Access, e.Access)
	case e.Image != nil:
		to.Images = append(to.Images, e.Image)
	case e.Load != nil:
		to.Loads = append(to.Loads, e.Load)
	default:
		to.Runtime = append(to.Runtime, e.Runtime)
	}
}

func readDocuments(dir string, overlay map[string][]byte) ([]storedPolicy, policy.Errors) {
	files, err := policy.DirFiles(dir)
	if err != nil {
		return nil, asPolicyErrors(dir, err)
	}
	for _, f := range slices.Sorted(maps.Keys(overlay)) {
		if filepath.Dir(f) == filepath.Clean(dir) && !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	slices.Sort(files)
	var out []storedPolicy
	var errs policy.Errors
	for _, f := range files {
		data, over := overlay[f]
		if over && data == nil {
			continue
		}
		if !over {
			if data, err = policy.ReadFile(f); err != nil {
				errs = append(errs, asPolicyErrors(f, err)...)
				continue
			}
		}
		docs, err := policy.ParseAll(f, data)
		if err != nil {
			errs = append(errs, asPolicyErrors(f, err)...)
			continue
		}
		for _, e := range docs.Entries() {
			d := storedPolicy{Entry: e, text: canonical(&e)}
			if text, _, _, err := policy.CutDocument(data, e.Line); err == nil {
				d.text = string(text)
			}
			out = append(out, d)
		}
	}
	return out, errs
}

// parseGiven reads what policies shall become.
func parseGiven(files []control.ChangeFile) ([]target, error) {
	var out []target
	var errs policy.Errors
	seen := map[string]string{}
	for _, f := range files {
		docs, err := policy.ParseAll(f.Name, []byte(f.Text))
		if err != nil {
			errs = append(errs, asPolicyErrors(f.Name, err)...)
			continue
		}
		for _, e := range docs.Entries() {
			if other, twice := seen[e.Name]; twice {
				errs = append(errs, &policy.Error{File: f.Name, Line: e.Line, Msg: fmt.Sprintf("policy %q is in %s too", e.Name, other), Fix: "leave one out"})
				continue
			}
			seen[e.Name] = fmt.Sprintf("%s:%d", f.Name, e.Line)
			text, _, _, err := policy.CutDocument([]byte(f.Text), e.Line)
			if err != nil {
				errs = append(errs, &policy.Error{File: f.Name, Msg: err.Error(), Err: err})
				continue
			}
			out = append(out, target{e.Name, &e, text})
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return out, nil
}

func asPolicyErrors(file string, err error) policy.Errors {
	if es, ok := errors.AsType[policy.Errors](err); ok {
		return es
	}
	return policy.Errors{{File: file, Msg: err.Error(), Err: err}}
}
