package plan

// index tells of a whole fleet what is published where and which names are there, so that
// asking many hosts about many containers stays cheap.
type index struct {
	ports map[portKey]*portHosts
	names map[string]nameHosts
}

type portKey struct {
	port     int
	protocol string
}

// portHosts are sets of hosts, by bit: those that publish a port on all addresses, and those
// that publish it on one.
type portHosts struct{ all, one []uint64 }

// nameHosts says whether more than one host has a container of the name.
type nameHosts struct {
	host int
	more bool
}

func newIndex(f *fleet) *index {
	x := &index{ports: map[portKey]*portHosts{}, names: make(map[string]nameHosts, 64*len(f.hosts))}
	words := (len(f.hosts) + 63) / 64
	publish := func(h *host, ps []Port) {
		for _, p := range ps {
			if p.Port == 0 {
				continue
			}
			k := portKey{p.Port, p.Protocol}
			ph := x.ports[k]
			if ph == nil {
				ph = &portHosts{make([]uint64, words), make([]uint64, words)}
				x.ports[k] = ph
			}
			set := ph.one
			if p.any() {
				set = ph.all
			}
			set[h.index/64] |= 1 << (h.index % 64)
		}
	}
	for _, h := range f.hosts {
		publish(h, h.Site.Ports)
		for i := range h.Containers {
			publish(h, h.Containers[i].Net.Ports)
			x.name(h, h.Containers[i].Name)
		}
		for _, n := range h.coming {
			x.name(h, n)
		}
	}
	// What is on its way takes its ports along; on which address is not asked.
	for i := range f.s.History {
		p := &f.s.History[i]
		to := f.byName[p.To]
		if c := f.container(p); c != nil && p.underWay() && to != nil {
			for _, port := range c.Net.Ports {
				publish(to, []Port{{Port: port.Port, Protocol: port.Protocol}})
			}
		}
	}
	return x
}

// container finds a container where its move began, or returns nil.
func (f *fleet) container(p *Past) *Container {
	if from := f.byName[p.From]; from != nil {
		for i := range from.Containers {
			if from.Containers[i].Name == p.Name {
				return &from.Containers[i]
			}
		}
	}
	return nil
}

func (x *index) name(h *host, name string) {
	at, ok := x.names[name]
	if !ok {
		x.names[name] = nameHosts{host: h.index}
	} else if at.host != h.index && !at.more {
		x.names[name] = nameHosts{host: at.host, more: true}
	}
}

// hasName reports whether h has, or is about to have, a container of the name.
func (x *index) hasName(h *host, name string) bool {
	at, ok := x.names[name]
	if !ok || !at.more {
		return ok && at.host == h.index
	}
	if h.names == nil {
		h.names = make(map[string]bool, len(h.Containers)+len(h.coming))
		for i := range h.Containers {
			h.names[h.Containers[i].Name] = true
		}
		for _, n := range h.coming {
			h.names[n] = true
		}
	}
	return h.names[name]
}

// taken reports whether a port that c publishes is taken at h, and which.
func (x *index) taken(c *Container, h *host) (Port, bool) {
	for _, p := range c.Net.Ports {
		ph := x.ports[portKey{p.Port, p.Protocol}]
		if ph == nil {
			continue
		}
		word, bit := h.index/64, uint64(1)<<(h.index%64)
		if ph.all[word]&bit != 0 || ph.one[word]&bit != 0 && (p.any() || h.publishes(p)) {
			return p, true
		}
	}
	return Port{}, false
}

// busy returns the hosts at which some port of u is surely taken, by bit.
func (x *index) busy(u *unit, hosts int) []uint64 {
	var out []uint64
	for _, c := range u.members {
		for _, p := range c.Net.Ports {
			ph := x.ports[portKey{p.Port, p.Protocol}]
			if ph == nil {
				continue
			}
			if out == nil {
				out = make([]uint64, (hosts+63)/64)
			}
			for w := range out {
				if out[w] |= ph.all[w]; p.any() {
					out[w] |= ph.one[w]
				}
			}
		}
	}
	return out
}

// publishes looks for the very address.
func (h *host) publishes(p Port) bool {
	for _, o := range h.Site.Ports {
		if p.meets(o) {
			return true
		}
	}
	for i := range h.Containers {
		for _, o := range h.Containers[i].Net.Ports {
			if p.meets(o) {
				return true
			}
		}
	}
	return false
}
