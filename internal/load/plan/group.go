package plan

import (
	"cmp"
	"slices"
	"strings"
)

// unit is what moves as one: a container, or several that depend on each other.
type unit struct {
	members  []*Container // by name, then ID
	at       []int        // where they are in the node's list, parallel to members
	use      vector       // what leaves the node with it
	need     vector       // what must be free on a target
	stateful int          // members with data to copy
	priority int
	bytes    int64      // to be copied
	refused  [][]string // why each member stays, in words; parallel to members
}

// counts is how many moves it is to limits: what an orchestrator has placed leaves as one.
func (u *unit) counts() int {
	if u.members[0].Placed != nil {
		return 1
	}
	return len(u.members)
}

func (u *unit) byName(o *unit) int { return byName(u.members[0], o.members[0]) }

func byName(a, b *Container) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) }

// sets is a forest of union and find, over the containers of a node.
type sets []int

func (s sets) root(i int) int {
	for s[i] != i {
		s[i] = s[s[i]]
		i = s[i]
	}
	return i
}

func (s sets) join(i, j int) { s[s.root(i)] = s.root(j) }

// unitsOf groups the containers of a node into what moves as one, in the order of their
// names, and says of those that must stay why.
func unitsOf(cs []Container, r Rules) []*unit {
	all := make(sets, len(cs))
	for i := range all {
		all[i] = i
	}
	byRef := byReference(cs)
	missing := make([][]string, len(cs))
	firsts := map[string]int{}
	for i := range cs {
		for _, ref := range cs[i].refs() {
			j, ok := find(cs, byRef, ref)
			if !ok {
				missing[i] = append(missing[i], "it depends on the container "+quoted(ref)+", which is not known here")
				continue
			}
			all.join(i, j)
		}
		for _, key := range cs[i].keys(r) {
			if j, ok := firsts[key]; ok {
				all.join(i, j)
			} else {
				firsts[key] = i
			}
		}
	}
	byRoot := map[int]*unit{}
	var out []*unit
	for i := range cs {
		u := byRoot[all.root(i)]
		if u == nil {
			u = &unit{}
			byRoot[all.root(i)] = u
			out = append(out, u)
		}
		u.take(&cs[i], i, r, missing[i])
	}
	for _, u := range out {
		u.finish()
	}
	slices.SortFunc(out, (*unit).byName)
	return out
}

// byReference has containers by name and by ID. An ID means the container that has it, as in engines, whatever another one
// is called.
func byReference(cs []Container) map[string]int {
	byRef := make(map[string]int, 2*len(cs))
	for i := range cs {
		byRef[cs[i].Name] = i
	}
	for i := range cs {
		byRef[cs[i].ID] = i
	}
	return byRef
}

// find looks a reference up: a name, an ID or the beginning of one, as engines do.
func find(cs []Container, byRef map[string]int, ref string) (int, bool) {
	ref = strings.TrimPrefix(ref, "/")
	if i, ok := byRef[ref]; ok {
		return i, ref != ""
	}
	found := -1
	for i := range cs {
		if len(ref) >= 4 && strings.HasPrefix(cs[i].ID, ref) {
			if found >= 0 {
				return 0, false
			}
			found = i
		}
	}
	return found, found >= 0
}

// refs are containers without which c does not work.
func (c *Container) refs() []string {
	var out []string
	if c.Placed != nil {
		return nil
	}
	for _, mode := range []string{c.Net.Mode, c.Host.PIDMode, c.Host.IPCMode} {
		if ref, ok := strings.CutPrefix(mode, "container:"); ok {
			out = append(out, ref)
		}
	}
	out = append(out, c.Net.Links...)
	out = append(out, c.Storage.VolumesFrom...)
	return append(out, c.Life.DependsOn...)
}

// keys name what c shares with others that only works on one host.
func (c *Container) keys(r Rules) []string {
	var out []string
	if c.Placed != nil {
		return []string{"unit:" + c.Placed.Unit}
	}
	for _, k := range c.Life.Together {
		out = append(out, "together:"+k)
	}
	if c.Life.Manager == "compose" && c.Life.Project != "" {
		out = append(out, "project:"+c.Life.Project)
	}
	for i := range c.Storage.Mounts {
		if m := &c.Storage.Mounts[i]; m.Type == "volume" && m.Name != "" && !m.Shared {
			out = append(out, "volume:"+m.Name)
		}
	}
	for i := range c.Net.Networks {
		if n := &c.Net.Networks[i]; n.local() && !r.SplitNetworks {
			out = append(out, "network:"+n.Name)
		}
	}
	return out
}

// local reports whether containers find each other on the network by name, and only on one
// host. On the engine's own bridge they do not find each other.
func (n *Attachment) local() bool {
	return !n.Global && n.Name != "bridge" && !slices.Contains([]string{"macvlan", "ipvlan", "null", "host"}, n.Driver)
}

func (u *unit) take(c *Container, i int, r Rules, missing []string) {
	u.members, u.at = append(u.members, c), append(u.at, i)
	a := c.Movable(r)
	u.refused = append(u.refused, append(a.Reasons, missing...))
	use := c.Use.vector()
	u.use.add(&use)
	need := most(use, c.Peak.vector())
	need[Disk] = max(need[Disk]-c.Storage.LayerBytes, c.copied())
	u.need.add(&need)
	u.priority += c.Priority
	u.bytes = min(u.bytes+c.copied(), 1<<60)
	if a.Stateful {
		u.stateful++
	}
}

// copied returns how many bytes a target gets of its volumes.
func (c *Container) copied() (sum int64) {
	for i := range c.Storage.Mounts {
		if m := &c.Storage.Mounts[i]; m.Type == "volume" && !m.Shared {
			sum = min(sum+m.Bytes, 1<<60)
		}
	}
	return sum
}

// finish orders the members.
func (u *unit) finish() {
	order := make([]int, len(u.members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return byName(u.members[a], u.members[b]) })
	f := *u
	f.members, f.at, f.refused = nil, nil, nil
	for _, j := range order {
		f.members, f.at, f.refused = append(f.members, u.members[j]), append(f.at, u.at[j]), append(f.refused, u.refused[j])
	}
	*u = f
}

// stays reports whether any of its members has to stay, and so all.
func (u *unit) stays() bool {
	return slices.ContainsFunc(u.refused, func(why []string) bool { return len(why) > 0 })
}

// why says why member i stays: for reasons of its own, or for those of one that it must not
// be parted from.
func (u *unit) why(i int) string {
	if len(u.refused[i]) > 0 {
		return strings.Join(u.refused[i], "; ")
	}
	for j, why := range u.refused {
		if len(why) > 0 {
			return "it moves together with " + quoted(u.members[j].Name) + ", which stays: " + strings.Join(why, "; ")
		}
	}
	return ""
}

// names lists the members.
func (u *unit) names() string {
	var out []string
	for _, c := range u.members {
		out = append(out, c.Name)
	}
	return strings.Join(out, ", ")
}
