package revision

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/belay-project/belay/internal/atomicfile"
)

// base is what revisions that are no longer kept have left.
type base struct {
	Number uint64 `json:"number"` // the newest of them
	// State is what they made of the policies. One that is deleted by them stays in it while
	// older revisions of it are kept.
	State map[string]State `json:"state"`
	Gone  []span           `json:"gone"` // by number; no two touch
}

// span is a run of revisions that are no longer kept, with the ends of the chain of hashes
// that it was taken out of. An empty hash is not known.
type span struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Prev  string `json:"prev,omitempty"` // of the revision before the first
	Hash  string `json:"hash,omitempty"` // of the last
}

// parseBase reads a base. One that is damaged is none: the policies are told anew, and
// [Store.Verify] names what is missing.
func parseBase(b []byte) base {
	var out base
	ok := json.Unmarshal(b, &out) == nil && out.State != nil
	if len(out.Gone) == 0 && out.Number > 0 {
		out.Gone = []span{{First: 1, Last: out.Number}} // as it was written before there were spans
	}
	var last uint64
	for i, g := range out.Gone {
		ok = ok && g.First > 0 && g.First <= g.Last && (i == 0 || g.First > last+1)
		last = g.Last
	}
	if !ok || last != out.Number {
		return base{State: map[string]State{}}
	}
	return out
}

// gone tells whether revision n is among them.
func (b *base) gone(n uint64) bool {
	return slices.ContainsFunc(b.Gone, func(g span) bool { return g.First <= n && n <= g.Last })
}

func (b *base) lastHash() string {
	if len(b.Gone) == 0 {
		return ""
	}
	return b.Gone[len(b.Gone)-1].Hash
}

// with returns the base without m, of which kept are left.
func (b *base) with(m *meta, kept []meta) base {
	next := base{Number: max(b.Number, m.Number), State: maps.Clone(b.State)}
	for _, c := range m.Changes {
		if m.Number > next.State[c.Name].Number {
			next.State[c.Name] = State{c.Kind, c.AfterDigest, m.Number}
		}
	}
	maps.DeleteFunc(next.State, func(name string, st State) bool {
		return st.Digest == "" && !slices.ContainsFunc(kept, func(k meta) bool { return k.Number < st.Number && k.Of(name) != nil })
	})
	at, _ := slices.BinarySearchFunc(b.Gone, m.Number, func(g span, n uint64) int {
		if g.First < n {
			return -1
		}
		return 1
	})
	for i, g := range slices.Insert(slices.Clone(b.Gone), at, span{m.Number, m.Number, m.Prev, m.hash}) {
		switch before := len(next.Gone) - 1; {
		// Of what lies before all that is kept one span is left, whatever is missing in it.
		case i > 0 && (g.First == next.Gone[before].Last+1 || len(kept) > 0 && g.Last < kept[0].Number):
			next.Gone[before].Last, next.Gone[before].Hash = g.Last, g.Hash
		default:
			next.Gone = append(next.Gone, g)
		}
	}
	if g := &next.Gone[0]; len(kept) > 0 && g.Last < kept[0].Number {
		g.First, g.Prev = 1, ""
	}
	return next
}

// prune lets go of revisions beyond the bounds. What they made of the policies is folded
// into the base first, so that nothing is told twice. An error leaves more than the bounds
// until the next change.
func (s *Store) prune() {
	var total int64
	for _, m := range s.kept {
		total += m.size
	}
	kept, next := slices.Clone(s.kept), s.base
	var gone []uint64
	for len(kept) > 1 && (len(kept) > s.max.revisions || total > s.max.bytes) {
		i := victim(kept, total > s.max.bytes)
		m := kept[i]
		kept = slices.Delete(kept, i, i+1)
		total -= m.size
		next = next.with(&m, kept)
		gone = append(gone, m.Number)
	}
	if len(gone) == 0 {
		return
	}
	b, err := json.Marshal(next)
	if err == nil {
		err = atomicfile.WriteFile(s.path(baseName), b, fileMode)
	}
	if err != nil {
		return
	}
	for _, n := range gone {
		_ = os.Remove(s.path(fileOf(n))) // the next Open removes it
	}
	s.kept, s.base = kept, next
}

// victim returns the index of the revision that goes next: the oldest of the author who has
// most, in number or in bytes, among those that no policy has in its newest [KeptEach]; if
// these alone are beyond the bounds, among all. The newest of all stays.
func victim(kept []meta, bySize bool) int {
	newer := map[string]int{}
	free := make([]bool, len(kept))
	some := false
	for i, m := range slices.Backward(kept) {
		free[i] = i < len(kept)-1
		for _, c := range m.Changes {
			newer[c.Name]++
			free[i] = free[i] && newer[c.Name] > KeptEach
		}
		some = some || free[i]
	}
	has, oldest := map[string]int64{}, map[string]int{}
	for i, m := range kept {
		key := m.Author.share()
		if has[key]++; bySize {
			has[key] += m.size - 1
		}
		if _, known := oldest[key]; !known && (free[i] || !some && i < len(kept)-1) {
			oldest[key] = i
		}
	}
	at := -1
	for key, i := range oldest {
		if at < 0 || has[key] > has[kept[at].Author.share()] || has[key] == has[kept[at].Author.share()] && i < at {
			at = i
		}
	}
	return at
}

// share names who an author's revisions are counted for. All containers are one: they are
// made at will. So are all uids without a name in the host's database: those of a user namespace
// are as many as its owner likes.
func (a *Author) share() string {
	if a.Kind == ByContainer || a.UID == nil {
		return a.Kind
	}
	if a.Kind == ByUser && a.Name == "" && *a.UID != 0 {
		return a.Kind + " nameless"
	}
	return a.Kind + " " + strconv.FormatUint(uint64(*a.UID), 10)
}

// Gone returns how many revisions are no longer kept.
func (s *Store) Gone() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n uint64
	for _, g := range s.base.Gone {
		n += g.Last - g.First + 1
	}
	return n
}

// Verify returns what is wrong with the chain: revisions that are damaged, missing, or
// not the ones that the next was made after. Those that are gone by the bounds are not
// missing: of each run of them the hashes at its ends are kept, and are compared.
func (s *Store) Verify() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	c := chain{known: true}
	gone := s.base.Gone
	for _, m := range s.kept {
		for len(gone) > 0 && gone[0].First < m.Number {
			g := gone[0]
			out = append(out, c.step(g.First, g.Prev, g.Prev != "")...)
			c, gone = chain{last: g.Last, hash: g.Hash, known: g.Hash != ""}, gone[1:]
		}
		out = append(out, c.step(m.Number, m.Prev, m.Damaged == "")...)
		if m.Damaged != "" {
			out = append(out, m.Damaged)
		}
		c = chain{last: m.Number, hash: m.hash, known: m.Damaged == ""}
	}
	return out
}

// chain is where Verify is.
type chain struct {
	last  uint64 // number of the last revision, 0 before the first
	hash  string
	known bool // hash is
}

// step returns what is wrong between the last revision and n, which was made after prev.
func (c *chain) step(n uint64, prev string, known bool) []string {
	switch {
	case n != c.last+1 && c.last == 0:
		return []string{fmt.Sprintf("revisions before %d are missing", n)}
	case n != c.last+1:
		return []string{fmt.Sprintf("revisions between %d and %d are missing", c.last, n)}
	case c.known && known && prev != c.hash:
		return []string{fmt.Sprintf("revision %d was altered after revision %d was made", c.last, n)}
	}
	return nil
}
