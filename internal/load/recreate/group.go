package recreate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/belay-project/belay/internal/ident"
)

// Peer is a container of those that move as one.
type Peer struct{ ID, Name string }

// Group are the containers that move as one: they may need each other.
type Group []Peer

// Find returns the peer that a reference means, as engines write it: an ID, a name or the beginning of an ID, in this order.
func (g Group) Find(ref string) (Peer, bool) {
	ref = strings.TrimPrefix(ref, "/")
	i := slices.IndexFunc(g, func(p Peer) bool { return p.named(ref) })
	if i < 0 {
		i = slices.IndexFunc(g, func(p Peer) bool { return p.Is(ref) })
	}
	if i < 0 {
		return Peer{}, false
	}
	return g[i], true
}

// Is reports whether a reference means p.
func (p Peer) Is(ref string) bool {
	ref = strings.TrimPrefix(ref, "/")
	return p.named(ref) || len(ref) >= shortID && strings.HasPrefix(p.ID, ref)
}

// named reports whether a reference means p by its name. A full ID never does: whoever calls a container so would have it
// taken for the one that has the ID.
func (p Peer) named(ref string) bool {
	_, err := ident.ParseContainerID(ref)
	return err != nil && ref != "" && ref == p.Name
}

// TogetherFix is what can be done about a container that another is needed for.
const TogetherFix = "move both as one: belay move with both names"

// Needed returns what c needs of other containers, each with what it needs them for: it is not made, or started, without them.
func (c *Container) Needed() (needed []Need) {
	for _, ref := range c.Joined() {
		needed = append(needed, Need{ref, "shares a namespace with it"})
	}
	h := c.HostConfig
	for _, l := range h.Links {
		needed = append(needed, Need{linked(l), "names it by --link"})
	}
	for _, f := range h.VolumesFrom {
		ref, _, _ := strings.Cut(f, ":")
		needed = append(needed, Need{ref, "has its volumes (--volumes-from)"})
	}
	return needed
}

// Joined returns the containers whose namespaces c has. It stays in those that they had when it started: once they end it is cut off,
// also when they are started again.
func (c *Container) Joined() (refs []string) {
	h := c.HostConfig
	for _, mode := range []string{string(h.NetworkMode), string(h.PidMode), string(h.IpcMode)} {
		if ref, ok := strings.CutPrefix(mode, joined); ok {
			refs = append(refs, ref)
		}
	}
	return refs
}

// Named returns the containers that c names by links on networks of the user's: it is made, and started, without them too.
func (c *Container) Named() (refs []string) {
	for _, e := range c.NetworkSettings.Networks {
		if e == nil {
			continue
		}
		for _, l := range e.Links {
			refs = append(refs, linked(l))
		}
	}
	return refs
}

// Need is one thing that a container has of another.
type Need struct{ Ref, What string }

// joined begins the mode of a namespace that is another container's.
const joined = "container:"

// linked returns whom a link names.
func linked(link string) string {
	name, _, _ := strings.Cut(link, ":")
	return strings.TrimPrefix(name, "/")
}

// all reports whether all links name peers, by their names: an ID is another one on the target.
func (g Group) all(links []string) bool {
	return !slices.ContainsFunc(links, func(l string) bool {
		p, ok := g.Find(linked(l))
		return !ok || linked(l) != p.Name
	})
}

// asked returns links as they are asked for: engines show "/db:/web/alias" for "db:alias".
func asked(links []string) []string {
	var out []string
	for _, l := range links {
		_, alias, _ := strings.Cut(l, ":")
		alias = alias[strings.LastIndexByte(alias, '/')+1:]
		out = append(out, linked(l)+":"+cmp.Or(alias, linked(l)))
	}
	slices.Sort(out)
	return out
}

// On returns r as it is made where the copies of its peers are: what refers to a peer refers to its copy. copyOf returns the ID
// of a peer's copy.
//
// Errors: for a reference that means no peer, or one without a copy.
func (r *Recipe) On(g Group, copyOf func(id string) string) (*Recipe, error) {
	out, host := *r, *r.Request.HostConfig
	out.Request.HostConfig = &host
	for _, mode := range []*string{(*string)(&host.NetworkMode), (*string)(&host.PidMode), (*string)(&host.IpcMode)} {
		ref, ok := strings.CutPrefix(*mode, joined)
		if !ok {
			continue
		}
		p, ok := g.Find(ref)
		if !ok || copyOf(p.ID) == "" {
			return nil, fmt.Errorf("it shares a namespace with %q, of which there is no copy", ref)
		}
		*mode = joined + copyOf(p.ID)
	}
	return &out, nil
}

// inAnothers takes away what a container in the network namespace of another one shows of that, or of its image: engines refuse
// to be asked for it.
func inAnothers(cfg *container.Config) {
	cfg.Hostname, cfg.Domainname, cfg.ExposedPorts = "", "", nil
}
