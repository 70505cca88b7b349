package workload

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/ident"
)

func upsert(c Container) Change {
	if c.Runtime == "" {
		c.Runtime = RuntimeDocker
	}
	return Change{Kind: Upsert, Runtime: c.Runtime, Container: c, Cause: "test"}
}

func TestRegistryLookup(t *testing.T) {
	idA := ident.ContainerID("aa11" + strings.Repeat("0", 60))
	idB := ident.ContainerID("aa22" + strings.Repeat("0", 60))
	idC := ident.ContainerID("bb33" + strings.Repeat("0", 60))
	idD := ident.ContainerID("cc44" + strings.Repeat("0", 60))
	r := NewRegistry()
	r.Apply(upsert(Container{ID: idA, Name: "web"}))
	r.Apply(upsert(Container{ID: idB, Name: "aa1"})) // a name that is another's ID prefix
	r.Apply(upsert(Container{ID: idC, Name: "ns/pod/app", Runtime: RuntimeContainerd}))
	r.Apply(upsert(Container{ID: idD, Name: "ns/pod/app", Runtime: RuntimeContainerd}))
	tests := []struct {
		name, ref string
		want      ident.ContainerID
		err       error
		text      string
	}{
		{name: "name", ref: "web", want: idA},
		{name: "name with slash", ref: "/web", want: idA},
		{name: "full ID", ref: string(idB), want: idB},
		{name: "prefix", ref: "bb", want: idC},
		{name: "name goes before prefix", ref: "aa1", want: idB},
		{name: "longer prefix", ref: "aa11", want: idA},
		{name: "ambiguous prefix", ref: "aa", err: ErrAmbiguous, text: `multiple containers found with provided ID prefix: "aa" matches aa1100000000 ("web"), aa2200000000 ("aa1"); give more digits of the ID`},
		{name: "ambiguous name", ref: "ns/pod/app", err: ErrAmbiguous, text: "multiple containers found with provided name"},
		{name: "unknown", ref: "nope", err: ErrNotFound, text: `no such container: "nope"`},
		{name: "unknown prefix", ref: "dd", err: ErrNotFound},
		{name: "empty", ref: "", err: ErrNotFound},
		{name: "upper case", ref: "AA11", err: ErrNotFound},
		{name: "too long", ref: string(idA) + "0", err: ErrNotFound},
		{name: "hostile", ref: strings.Repeat("\x1b[31m", 1000), err: ErrNotFound, text: `no such container: "\x1b[31m`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := r.Lookup(tt.ref)
			if !errors.Is(err, tt.err) || got.ID != tt.want {
				t.Fatalf("got %q, %v, want %q, %v", got.ID, err, tt.want, tt.err)
			}
			if err == nil {
				return
			}
			if !strings.HasPrefix(err.Error(), tt.text) {
				t.Errorf("got %q, want it to start with %q", err, tt.text)
			}
			if le, ok := errors.AsType[*LookupError](err); !ok || le.Ref != tt.ref || errors.Is(tt.err, ErrAmbiguous) != (len(le.Candidates) == 2) {
				t.Errorf("got %+v, want the reference and its candidates", le)
			}
		})
	}
}

func TestRegistryApply(t *testing.T) {
	a := Container{ID: id(1), Name: "a", Runtime: RuntimeDocker, State: StateRunning}
	b := Container{ID: id(2), Name: "b", Runtime: RuntimeDocker}
	k := Container{ID: id(3), Name: "k", Runtime: RuntimeContainerd}
	aByContainerd := Container{ID: id(1), Runtime: RuntimeContainerd}
	steps := []struct {
		name string
		in   Change
		want []Change
		left []string
	}{
		{name: "upsert", in: upsert(a), want: []Change{upsert(a)}, left: []string{"a"}},
		{name: "upsert again", in: upsert(a), left: []string{"a"}},
		{name: "another runtime", in: upsert(k), want: []Change{upsert(k)}, left: []string{"a", "k"}},
		{name: "containerd knows less", in: upsert(aByContainerd), left: []string{"a", "k"}},
		{name: "containerd's task record goes", in: Change{Kind: Removed, Runtime: RuntimeContainerd, Container: aByContainerd}, left: []string{"a", "k"}},
		{name: "disconnect changes nothing", in: Change{Kind: Disconnected, Runtime: RuntimeDocker}, left: []string{"a", "k"}},
		{
			name: "resync", in: Change{Kind: Resync, Runtime: RuntimeDocker, Cause: "list", Containers: []Container{b}},
			want: []Change{
				{Kind: Removed, Runtime: RuntimeDocker, Cause: "list", Container: Container{ID: id(1), Name: "a", Runtime: RuntimeDocker, State: StateRemoved}},
				{Kind: Upsert, Runtime: RuntimeDocker, Cause: "list", Container: b},
			},
			left: []string{"b", "k"},
		},
		{
			name: "name moves on", in: Change{Kind: Resync, Runtime: RuntimeDocker, Containers: []Container{{ID: id(4), Name: "b", Runtime: RuntimeDocker}}},
			want: []Change{
				{Kind: Removed, Runtime: RuntimeDocker, Container: Container{ID: id(2), Name: "b", Runtime: RuntimeDocker, State: StateRemoved}},
				{Kind: Upsert, Runtime: RuntimeDocker, Container: Container{ID: id(4), Name: "b", Runtime: RuntimeDocker}},
			},
			left: []string{"b", "k"},
		},
		{
			name: "unknown is passed on", in: Change{Kind: Removed, Runtime: RuntimeDocker, Container: Container{ID: id(9)}},
			want: []Change{{Kind: Removed, Runtime: RuntimeDocker, Container: Container{ID: id(9), State: StateRemoved}}},
			left: []string{"b", "k"},
		},
	}
	r := NewRegistry()
	for _, tt := range steps {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, r.Apply(tt.in)); diff != "" {
				t.Errorf("diff (-want +got):\n%s", diff)
			}
			var left []string
			for _, c := range r.List() {
				left = append(left, c.Name)
				if got, err := r.Lookup(c.Name); err != nil || got.ID != c.ID {
					t.Errorf("lookup %s: got %v, %v", c.Name, got.ID, err)
				}
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
	if _, ok := r.Get(id(1)); ok {
		t.Error("a removed container is still there")
	}
	if c, ok := r.Describe(id(1)); !ok || c.Name != "a" || c.State != StateRemoved {
		t.Errorf("describe: got %+v, %v, want the removed container", c, ok)
	}
	if _, err := r.Lookup("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("lookup of a removed name: got %v, want ErrNotFound", err)
	}
}

func TestRegistryRename(t *testing.T) {
	r := NewRegistry()
	r.Apply(upsert(Container{ID: id(1), Name: "old"}))
	r.Apply(upsert(Container{ID: id(1), Name: "new"}))
	if _, err := r.Lookup("old"); !errors.Is(err, ErrNotFound) {
		t.Errorf("old name: got %v, want ErrNotFound", err)
	}
	if c, err := r.Lookup("new"); err != nil || c.ID != id(1) {
		t.Errorf("new name: got %v, %v", c.ID, err)
	}
	if r.Len() != 1 || len(r.byName) != 1 {
		t.Errorf("got %d containers and %d names, want 1 and 1", r.Len(), len(r.byName))
	}
}

func TestRegistryConcurrent(t *testing.T) {
	r := NewRegistry()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				c := Container{ID: id(i), Name: "n", Runtime: RuntimeDocker, Cut: w}
				r.Apply(upsert(c))
				_, _ = r.Lookup("n")
				r.Apply(Change{Kind: Removed, Runtime: RuntimeDocker, Container: c})
			}
		})
	}
	wg.Wait()
	if r.Len() != 0 || len(r.byName) != 0 {
		t.Errorf("got %d containers and %d names left, want none", r.Len(), len(r.byName))
	}
}

func FuzzRegistryLookup(f *testing.F) {
	for _, s := range []string{"", "/", "a", "web", "//web", strings.Repeat("a", 64)} {
		f.Add(s)
	}
	r := NewRegistry()
	for i := range 64 {
		r.Apply(upsert(Container{ID: id(i + 1000), Name: "web"}))
		r.Apply(upsert(Container{ID: id(i), Name: strings.Repeat("w", i)}))
	}
	f.Fuzz(func(t *testing.T, ref string) {
		c, err := r.Lookup(ref)
		if err == nil && c.Name != strings.TrimPrefix(ref, "/") && !strings.HasPrefix(string(c.ID), ref) {
			t.Errorf("%q leads to %s (%s)", ref, c.ID, c.Name)
		}
		if err != nil && (len(err.Error()) > 8192 || !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrAmbiguous)) {
			t.Errorf("got error %q", err)
		}
	})
}

// A name that was pulled again, or means another image by now, takes no digest from a container of
// containerd that is known already; another container of the same ID, or another name, does.
func TestRegistryKeepsDigest(t *testing.T) {
	r := NewRegistry()
	c := Container{ID: id(1), Image: "app:1", ImageDigest: digest(1), ImageDigests: []string{digest(1)}, Runtime: RuntimeContainerd, Created: time.Unix(5, 0)}
	apply := func(c Container) string {
		r.Apply(Change{Kind: Upsert, Runtime: c.Runtime, Container: c})
		got, _ := r.Get(c.ID)
		return got.ImageDigest
	}
	apply(c)
	again := c
	again.ImageDigest, again.ImageDigests, again.State = "", nil, StateRunning
	if got := apply(again); got != digest(1) {
		t.Errorf("pulled again: got %q", got)
	}
	renamed := again
	renamed.Image = "app:2"
	if got := apply(renamed); got != "" {
		t.Errorf("another name: got %q", got)
	}
	apply(c)
	anew := again
	anew.Created = time.Unix(6, 0)
	if got := apply(anew); got != "" {
		t.Errorf("another container: got %q", got)
	}
}
