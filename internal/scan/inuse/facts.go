package inuse

import (
	"fmt"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Key names a package of an inventory, wherever its place in the list.
type Key uint64

// KeyOf returns the key of a package.
func KeyOf(kind, name, version, path string) Key {
	return Key(inventory.FileKey("\x00" + kind + "\x00" + name + "\x00" + version + "\x00" + path))
}

// Facts are what was seen of the packages of one image, in few bytes: those in use, and which
// would have been seen. The zero value is: nothing is known.
type Facts struct {
	Since time.Time             `json:"since"`
	Until time.Time             `json:"until"`
	Looks int                   `json:"looks"`
	Used  map[Key]inventory.Use `json:"used,omitempty"`
	// NotSeen are the packages that would have been seen, were they in use; sorted.
	NotSeen []Key `json:"notSeen,omitempty"`
}

// Facts returns what was seen of the packages of the inventory that the index is of.
func (x *Index) Facts(s *Seen) *Facts {
	f := &Facts{Since: s.Since, Until: s.Until, Looks: s.Looks, Used: map[Key]inventory.Use{}}
	if s.Looks == 0 {
		return f
	}
	used, whole := x.used(s)
	for i, u := range used {
		f.Used[x.keys[i]] = *u
	}
	for i, watched := range x.watched {
		if watched && whole && used[i] == nil && len(f.NotSeen) < maxNotSeen {
			f.NotSeen = append(f.NotSeen, x.keys[i])
		}
	}
	slices.Sort(f.NotSeen)
	return f
}

// Size is about how much the facts hold, in keys.
func (f *Facts) Size() int { return 1 + 64*len(f.Used) + len(f.NotSeen) }

// Doubted returns the facts without what was not seen: somebody else may use it.
func (f *Facts) Doubted() *Facts {
	if f == nil {
		return nil
	}
	out := *f
	out.NotSeen = nil
	return &out
}

// Check fails for facts from a file that are not within the bounds of an inventory's.
func (f *Facts) Check() error {
	if len(f.Used) > inventory.MaxPackages || len(f.NotSeen) > inventory.MaxPackages || f.Looks < 0 || !slices.IsSorted(f.NotSeen) {
		return fmt.Errorf("%d and %d packages, %d looks: not within bounds, or not in order", len(f.Used), len(f.NotSeen), f.Looks)
	}
	for _, u := range f.Used {
		if u.State != inventory.InUse || len(u.Files) > inventory.MaxUseFiles || len(u.Listening) > inventory.MaxUseEndpoints || len(u.Reachable) > inventory.MaxUseEndpoints {
			return fmt.Errorf("a package in use that is %.20q, or has too many files or sockets", u.State)
		}
	}
	return nil
}

// Of returns what was seen of a package.
func (f *Facts) Of(k Key) inventory.Use {
	if f == nil || f.Looks == 0 {
		return inventory.Use{State: inventory.UseUnknown}
	}
	if u, ok := f.Used[k]; ok {
		return u
	}
	u := inventory.Use{State: inventory.UseUnknown, Since: f.Since, Until: f.Until, Looks: f.Looks}
	if _, ok := slices.BinarySearch(f.NotSeen, k); ok {
		u.State = inventory.NotSeen
	}
	return u
}

// Join returns what was seen in containers of one image together: what one of them uses is
// in use, and only what none does, and each would have shown, was not seen.
func Join(a, b *Facts) *Facts {
	if a == nil || a.Looks == 0 {
		return b
	}
	if b == nil || b.Looks == 0 {
		return a
	}
	out := &Facts{Since: earlier(a.Since, b.Since), Until: later(a.Until, b.Until), Looks: a.Looks + b.Looks, Used: map[Key]inventory.Use{}}
	for _, f := range []*Facts{a, b} {
		for k := range f.Used {
			if _, ok := out.Used[k]; !ok {
				out.Used[k] = Merge(a.Of(k), b.Of(k))
			}
		}
	}
	for _, k := range a.NotSeen {
		if _, ok := slices.BinarySearch(b.NotSeen, k); ok {
			out.NotSeen = append(out.NotSeen, k)
		}
	}
	return out
}
