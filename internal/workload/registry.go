package workload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/belay-project/belay/internal/ident"
)

var (
	// ErrNotFound is returned for a reference that no known container answers to.
	ErrNotFound = errors.New("no such container")
	// ErrAmbiguous is returned for a reference that more than one container answers to.
	ErrAmbiguous = errors.New("multiple containers found")
)

// removedKept is how many destroyed containers are remembered, so that a record
// that reaches user space after the container is gone still gets its name.
const removedKept = 1024

// Registry is the table of known containers: by ID, by name, by the start of an
// ID. It is filled with [Registry.Apply] and safe for concurrent use.
//
// It grows with what the runtimes themselves hold, not with what passes by.
type Registry struct {
	removed *lru.Cache[ident.ContainerID, Container] // locks itself

	mu     sync.RWMutex // guards the fields below
	byID   map[ident.ContainerID]Container
	byName map[string][]ident.ContainerID // unsorted; more than one only outside Docker
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	removed, err := lru.New[ident.ContainerID, Container](removedKept)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &Registry{
		removed: removed,
		byID:    make(map[ident.ContainerID]Container),
		byName:  make(map[string][]ident.ContainerID),
	}
}

// Apply takes in one change and returns what it really changed, as Upsert and
// Removed changes only: a Resync is compared with what is known. The result is
// empty if nothing changed.
//
// Docker's word goes before containerd's for a container both know, since Docker
// knows its name and labels.
func (r *Registry) Apply(ch Change) []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	var diff []Change
	switch ch.Kind {
	case Upsert:
		diff = r.upsert(diff, ch.Container, ch.Cause)
	case Removed:
		diff = r.remove(diff, ch.Container, ch.Runtime, ch.Cause)
	case Resync:
		diff = r.resync(ch)
	}
	return diff
}

func (r *Registry) resync(ch Change) []Change {
	var diff []Change
	listed := make(map[ident.ContainerID]bool, len(ch.Containers))
	for _, c := range ch.Containers {
		listed[c.ID] = true
	}
	// Removals first: a new container may have taken a removed one's name.
	var gone []Container
	for id, c := range r.byID {
		if c.Runtime == ch.Runtime && !listed[id] {
			gone = append(gone, c)
		}
	}
	slices.SortFunc(gone, func(a, b Container) int { return strings.Compare(string(a.ID), string(b.ID)) })
	for _, c := range gone {
		diff = r.remove(diff, c, ch.Runtime, ch.Cause)
	}
	for _, c := range ch.Containers {
		diff = r.upsert(diff, c, ch.Cause)
	}
	return diff
}

func (r *Registry) upsert(diff []Change, c Container, cause string) []Change {
	old, ok := r.byID[c.ID]
	if ok && old.Runtime == RuntimeDocker && c.Runtime != RuntimeDocker {
		return diff
	}
	if ok && c.Runtime == RuntimeContainerd && c.ImageDigest == "" && old.Image == c.Image && old.Created.Equal(c.Created) {
		// What a container was made of does not change: only its name means another image, or was
		// pulled again.
		c.ImageDigest, c.ImageDigests = old.ImageDigest, old.ImageDigests
	}
	if ok && old.Equal(c) {
		return diff
	}
	if ok && old.Name != c.Name {
		r.dropName(old)
	}
	if !ok || old.Name != c.Name {
		r.byName[c.Name] = append(r.byName[c.Name], c.ID)
	}
	r.byID[c.ID] = c
	return append(diff, Change{Kind: Upsert, Runtime: c.Runtime, Cause: cause, Container: c})
}

func (r *Registry) remove(diff []Change, c Container, runtime, cause string) []Change {
	old, ok := r.byID[c.ID]
	if ok && old.Runtime == RuntimeDocker && runtime != RuntimeDocker {
		return diff
	}
	if ok {
		r.dropName(old)
		delete(r.byID, c.ID)
		c = old
	}
	c.State = StateRemoved
	if ok {
		r.removed.Add(c.ID, c)
	}
	// An unknown container is passed on as well: it may be bound in the kernel since
	// before this process started.
	return append(diff, Change{Kind: Removed, Runtime: runtime, Cause: cause, Container: c})
}

func (r *Registry) dropName(c Container) {
	ids := slices.DeleteFunc(r.byName[c.Name], func(id ident.ContainerID) bool { return id == c.ID })
	if len(ids) == 0 {
		delete(r.byName, c.Name)
		return
	}
	r.byName[c.Name] = ids
}

// Get returns the container with exactly this ID, and false if it is not known.
func (r *Registry) Get(id ident.ContainerID) (Container, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, ok := r.byID[id]
	return c, ok
}

// Describe is [Registry.Get] that also answers for the last destroyed
// containers (their State is [StateRemoved]). It is for naming things in records,
// never for deciding.
func (r *Registry) Describe(id ident.ContainerID) (Container, bool) {
	if c, ok := r.Get(id); ok {
		return c, true
	}
	return r.removed.Peek(id)
}

// List returns all known containers, sorted by name and then by ID.
func (r *Registry) List() []Container {
	r.mu.RLock()
	out := make([]Container, 0, len(r.byID))
	for _, c := range r.byID {
		out = append(out, c)
	}
	r.mu.RUnlock()
	slices.SortFunc(out, func(a, b Container) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out
}

// Len returns the number of known containers.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.byID)
}

// Lookup returns the container that ref means, as docker commands understand it:
// a full ID, else a name (a leading slash is ignored), else the start of an ID.
//
// Errors: *[LookupError], which is [ErrNotFound] or [ErrAmbiguous].
func (r *Registry) Lookup(ref string) (Container, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c, ok := r.byID[ident.ContainerID(ref)]; ok {
		return c, nil
	}
	if ids := r.byName[strings.TrimPrefix(ref, "/")]; len(ids) == 1 {
		return r.byID[ids[0]], nil
	} else if len(ids) > 1 {
		return Container{}, r.ambiguous(ref, "name", ids)
	}
	if !isHexPrefix(ref) {
		return Container{}, &LookupError{Ref: ref, Err: ErrNotFound}
	}
	var found []ident.ContainerID
	for id := range r.byID {
		if strings.HasPrefix(string(id), ref) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return Container{}, &LookupError{Ref: ref, Err: ErrNotFound}
	case 1:
		return r.byID[found[0]], nil
	}
	return Container{}, r.ambiguous(ref, "ID prefix", found)
}

func (r *Registry) ambiguous(ref, what string, ids []ident.ContainerID) error {
	e := &LookupError{Ref: ref, What: what, Err: ErrAmbiguous}
	for _, id := range ids {
		e.Candidates = append(e.Candidates, r.byID[id])
	}
	slices.SortFunc(e.Candidates, func(a, b Container) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return e
}

func isHexPrefix(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// LookupError says why a reference does not lead to one container.
type LookupError struct {
	Ref        string
	What       string      // what was taken for ambiguous: name or ID prefix
	Candidates []Container // of an ambiguous reference, sorted by ID
	Err        error       // ErrNotFound or ErrAmbiguous
}

// candidatesShown bounds the length of the message, not the error's data.
const candidatesShown = 8

// Error is worded as docker's own errors are, with the candidates added.
func (e *LookupError) Error() string {
	ref := e.Ref
	if len(ref) > maxNameBytes {
		ref = ref[:maxNameBytes] + "..."
	}
	if errors.Is(e.Err, ErrNotFound) {
		return fmt.Sprintf("no such container: %q", ref)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "multiple containers found with provided %s: %q", e.What, ref)
	for i, c := range e.Candidates {
		if i == candidatesShown {
			fmt.Fprintf(&b, ", and %d more", len(e.Candidates)-i)
			break
		}
		sep := ", "
		if i == 0 {
			sep = " matches "
		}
		fmt.Fprintf(&b, "%s%s (%q)", sep, c.ID.Short(), c.Name)
	}
	b.WriteString("; give more digits of the ID")
	return b.String()
}

// Unwrap returns ErrNotFound or ErrAmbiguous.
func (e *LookupError) Unwrap() error { return e.Err }
