package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/belay-project/belay/internal/ident"
)

// MaxPolicies bounds one set: a policy's place in it must fit the kernel's 16 bits,
// and no host needs more.
const MaxPolicies = 4096

// Set is the policies of a host, in their total order: priority descending, then
// name ascending. It is immutable and safe for concurrent use. The zero value is an
// empty set.
type Set struct {
	policies []*RuntimePolicy
	access   []*AccessPolicy
	compiled *Access
	images   Images
	loads    []*LoadPolicy
}

// NewSet orders policies. It keeps the policies and not the slices.
//
// Errors: [Errors] if two policies have one name, naming both files; if there are
// more than [MaxPolicies] of a kind.
func NewSet(ps []*RuntimePolicy, access ...*AccessPolicy) (*Set, error) {
	return (&Documents{Runtime: ps, Access: access}).Set()
}

// Set orders the policies. Errors: as [NewSet].
func (d *Documents) Set() (*Set, error) {
	var errs Errors
	ps, access := d.Runtime, d.Access
	names := make(placesByName, d.Len())
	for i, p := range ps {
		errs = append(errs, names.add(p.Name, place{p.File, p.Line}, i)...)
	}
	for i, p := range access {
		errs = append(errs, names.add(p.Name, place{p.File, p.Line}, i)...)
	}
	for i, p := range d.Images {
		errs = append(errs, names.add(p.Name, place{p.File, p.Line}, i)...)
	}
	for i, p := range d.Loads {
		errs = append(errs, names.add(p.Name, place{p.File, p.Line}, i)...)
	}
	if errs = append(errs, checkPhases(ps)...); len(errs) > 0 {
		return nil, errs
	}
	s := &Set{policies: slices.Clone(ps), access: slices.Clone(access)}
	orderAccess(s.access)
	s.compiled = compileAccess(s.access)
	s.images.policies = slices.Clone(d.Images)
	orderImages(s.images.policies)
	s.loads = slices.Clone(d.Loads)
	orderLoads(s.loads)
	slices.SortFunc(s.policies, func(a, b *RuntimePolicy) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), cmp.Compare(a.Name, b.Name))
	})
	return s, nil
}

// place is where a document begins.
type place struct {
	file string
	line int
}

type placesByName map[string]place

// add notes a document, the i-th of its kind, and says what is wrong with it in a set.
func (names placesByName) add(name string, at place, i int) Errors {
	if q, dup := names[name]; dup {
		return Errors{{
			File: at.file, Line: at.line,
			Msg: fmt.Sprintf("policy %q is already defined at %s:%d", name, q.file, q.line),
			Fix: "rename one of the two: the order of policies, and what events say, need unique names",
		}}
	}
	names[name] = at
	if i == MaxPolicies {
		return Errors{{
			File: at.file, Line: at.line,
			Msg: fmt.Sprintf("more than %d policies of one kind in one set", MaxPolicies), Fix: "merge some",
		}}
	}
	return nil
}

// AccessPolicies returns the policies on who may call the API, in total order.
func (s *Set) AccessPolicies() []*AccessPolicy { return slices.Clone(s.access) }

// Access returns what the AccessPolicies of the set come to. It is never nil.
func (s *Set) Access() *Access {
	if s.compiled == nil {
		return &Access{}
	}
	return s.compiled
}

// ImagePolicies returns the policies on which images may start, in total order.
func (s *Set) ImagePolicies() []*ImagePolicy { return slices.Clone(s.images.policies) }

// Images returns what the ImagePolicies of the set come to. It is never nil.
func (s *Set) Images() *Images { return &s.images }

// LoadPolicies returns the policies on when the node is full, by name.
func (s *Set) LoadPolicies() []*LoadPolicy { return slices.Clone(s.loads) }

// Documents returns all policies of the set.
func (s *Set) Documents() Documents {
	return Documents{Runtime: s.Policies(), Access: s.AccessPolicies(), Images: s.ImagePolicies(), Loads: s.LoadPolicies()}
}

// Len returns the number of policies of all kinds.
func (s *Set) Len() int {
	return len(s.policies) + len(s.access) + len(s.images.policies) + len(s.loads)
}

// Canonical returns all documents in their normal form, in total order, as one file
// that [ParseAll] reads; empty for an empty set.
func (s *Set) Canonical() []byte {
	var b bytes.Buffer
	add := func(doc []byte) {
		if b.Len() > 0 {
			b.WriteString("---\n")
		}
		b.Write(doc)
	}
	for _, p := range s.policies {
		add(p.Canonical())
	}
	for _, p := range s.access {
		add(p.Canonical())
	}
	for _, p := range s.images.policies {
		add(p.Canonical())
	}
	for _, p := range s.loads {
		add(p.Canonical())
	}
	return b.Bytes()
}

// Policies returns the RuntimePolicies in total order.
func (s *Set) Policies() []*RuntimePolicy { return slices.Clone(s.policies) }

// Revision returns a hex digest of the set: equal for equal policies, whatever files
// they were read from.
func (s *Set) Revision() string {
	var b bytes.Buffer
	for _, p := range s.policies {
		b.Write(p.Canonical())
	}
	for _, p := range s.access {
		b.Write(p.Canonical())
	}
	for _, p := range s.images.policies {
		b.Write(p.Canonical())
	}
	for _, p := range s.loads {
		b.Write(p.Canonical())
	}
	return revisionOf(b.Bytes())
}

// ParseFiles reads the policies of all files into one set.
//
// Errors: [Errors] with everything that is wrong in any of them; a file that cannot
// be read is one of them and wraps the cause.
func ParseFiles(files ...string) (*Set, error) {
	var (
		docs Documents
		errs Errors
	)
	for _, f := range files {
		data, err := readPolicyFile(f)
		if err != nil {
			errs = append(errs, &Error{File: f, Msg: "read policy file: " + reason(err), Err: err})
			continue
		}
		got, err := ParseAll(f, data)
		if es, ok := errors.AsType[Errors](err); ok {
			errs = append(errs, es...)
			continue
		}
		docs.Append(got)
	}
	s, err := docs.Set()
	if es, ok := errors.AsType[Errors](err); ok {
		errs = append(errs, es...)
	}
	if err := errs.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// LoadDir reads the files of a directory ([DirFiles]) into one set. A directory that
// does not exist is an empty set.
//
// Errors: as [ParseFiles].
func LoadDir(dir string) (*Set, error) {
	files, err := DirFiles(dir)
	if err != nil {
		return nil, err
	}
	return ParseFiles(files...)
}

// readPolicyFile reads a regular file of bounded size. Anything else could block
// (a FIFO) or never end (a device).
func readPolicyFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	// One byte more than the limit, so that Parse sees that it was passed.
	if _, err := b.ReadFrom(io.LimitReader(f, MaxFileBytes+1)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// reason is the error without the path, which Error has already.
func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// Class is the kind of thing that runs in a cgroup.
type Class uint8

// The classes.
const (
	ClassContainer Class = 0
	// ClassBuild is a step of an image build: it runs as root and writes programs by
	// trade, so only the guards apply.
	ClassBuild Class = 1
)

// String returns container or build.
func (c Class) String() string {
	if c == ClassBuild {
		return "build"
	}
	return "container"
}

// Subject is the container that policies are selected for.
type Subject struct {
	ID    ident.ContainerID
	Class Class
	// Known says that the fields below hold what the runtime said. While it is false
	// only policies without a selector match.
	Known bool
	Name  string
	// FormerNames are names that the container had before: a rename takes no policy away.
	FormerNames []string
	Image       string // as the runtime shows it: "nginx:1.27", "sha256:..."
	ImageDigest string // sha256:..., with or without "repository@"
	// ImageDigests are the other digests by which the host knows the same image, such as
	// the registry's: a selector may name any of them.
	ImageDigests []string
	Labels       map[string]string
	Namespace    string
	Workload     string // what a pod is of: "deployment/web"
	PodLabels    map[string]string
	// BoundLate says that the container ran before its policies were bound: loosening
	// ones then do not loosen.
	BoundLate bool
}
