package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// reason is why a target does not take a container.
type reason uint8

const (
	fits reason = iota
	isSource
	notTarget
	notEnforcing
	staleReadings
	unknownPolicies
	waits
	full
	cooling
	noCapacity
	noRoom
	architecture
	cgroupVersion
	engineVersion
	lacks
	nameTaken
	portTaken
	noNetwork
	otherNetwork
	noVolumeDriver
	volumeTaken
	noSharedData
	imageDenied
	imageUnknown
	policyDenied
	policyUnknown
	comesBack
	hasFailed
)

// reasonWords are the codes of JSON.
var reasonWords = [...]string{
	fits: "fits", isSource: "source", notTarget: "not-a-target", notEnforcing: "not-enforcing", staleReadings: "stale-readings",
	unknownPolicies: "unknown-policies", waits: "pressure", full: "full", cooling: "cool-down", noCapacity: "unknown-capacity", noRoom: "no-room",
	architecture: "architecture", cgroupVersion: "cgroup-version", engineVersion: "engine-version", lacks: "lacks", nameTaken: "name", portTaken: "port",
	noNetwork: "network-missing", otherNetwork: "network-differs", noVolumeDriver: "volume-driver", volumeTaken: "volume-name",
	noSharedData: "shared-data", imageDenied: "image-denied", imageUnknown: "image-unknown", policyDenied: "policy-denied",
	policyUnknown: "policy-unknown", comesBack: "returns", hasFailed: "failed-before",
}

// refusal is a reason and what it is about; words are made of it only where they are shown.
type refusal struct {
	code      reason
	resource  Resource
	what, why string
	a, b      int64
}

func (r refusal) set() bool { return r.code != fits }

func (r refusal) String() string {
	switch r.code {
	case fits:
		return "it has room and all that is needed"
	case isSource:
		return "it is the node to relieve"
	case notTarget:
		if r.what != "" {
			return "it takes no containers: " + r.what
		}
		return "it takes no containers: no target, or cordoned"
	case notEnforcing:
		return "Belay does not enforce policies there"
	case staleReadings:
		return "its readings are too old, or from the future"
	case unknownPolicies:
		return "it does not say which policies are in force there"
	case waits:
		return fmt.Sprintf("tasks there wait too much: %s is %d%%, and targets stay at or below %d%%", r.what, r.a, r.b)
	case full:
		return fmt.Sprintf("it is itself too full: %s used, and targets stay at or below %s", r.resource.text(r.a), r.resource.text(r.b))
	case cooling:
		return "containers left it " + r.what + " ago: it is cooling down"
	case noCapacity:
		return "it does not say how much it has of " + r.resource.String()
	case noRoom:
		return fmt.Sprintf("no room: with it %s of %s would be used, and targets stay at or below %s", r.resource.text(r.a), r.resource, r.resource.text(r.b))
	case architecture:
		return "it is of another architecture, " + quoted(r.what) + " and not " + quoted(r.why)
	case cgroupVersion:
		return fmt.Sprintf("it has cgroup v%d and not v%d", r.a, r.b)
	case engineVersion:
		return "its engine is older or its version is not known, " + quoted(r.what) + " and not at least " + quoted(r.why)
	case lacks:
		return "it does not offer " + quoted(r.what)
	}
	return r.more()
}

// more has the words for what is at a target and what it says.
func (r refusal) more() string {
	switch r.code {
	case nameTaken:
		return "it has a container of the name " + quoted(r.what) + " already"
	case portTaken:
		return "the port " + Port{r.why, int(r.a), r.what}.String() + " is taken there"
	case noNetwork:
		return "it does not have the network " + quoted(r.what)
	case otherNetwork:
		return "it has another network of the name " + quoted(r.what)
	case noVolumeDriver:
		return "it does not have the volume driver " + quoted(r.what)
	case volumeTaken:
		return "it has a volume of the name " + quoted(r.what) + " already"
	case noSharedData:
		return "it does not have the shared data " + quoted(r.what)
	case imageDenied:
		return "the image may not run there: " + r.why
	case imageUnknown:
		return "it has not said whether the image " + quoted(r.what) + " may run there"
	case policyDenied:
		return "its policies do not let the container be made: " + r.why
	case policyUnknown:
		return "its policies are others, and it has not said whether they let the container be made"
	case comesBack:
		return quoted(r.what) + " left it " + r.why + " ago"
	case hasFailed:
		return "a move of " + quoted(r.what) + " to it failed " + r.why + " ago"
	}
	return "refused"
}

// room says whether u fits into what h has free.
func (h *host) room(u *unit) refusal {
	if h.Places {
		return refusal{}
	}
	for r, v := range u.need {
		if v == 0 {
			continue
		}
		if after := h.use[r] + v; after > h.limit[r] {
			if h.has[r] == 0 {
				return refusal{code: noCapacity, resource: Resource(r)}
			}
			return refusal{code: noRoom, resource: Resource(r), a: after, b: h.limit[r]}
		}
	}
	return refusal{}
}

// suits says whether h has all that u needs but room, by what does not change while a plan
// is made.
func (f *fleet) suits(u *unit, src, h *host) refusal {
	if h == src {
		return refusal{code: isSource}
	}
	if h.refuses.set() {
		return h.refuses
	}
	if r := f.returns(u, src, h); r.set() {
		return r
	}
	if h.Places {
		if slices.ContainsFunc(u.members, func(c *Container) bool { return c.Placed == nil }) {
			return refusal{code: notTarget, what: "it has not placed it"}
		}
		return refusal{}
	}
	for _, c := range u.members {
		if f.index.hasName(h, c.Name) {
			return refusal{code: nameTaken, what: c.Name}
		}
		if p, ok := f.index.taken(c, h); ok {
			return p.refusal()
		}
		for _, check := range []func(*Container, *host, *host) refusal{platform, gate, network, storage} {
			if r := check(c, src, h); r.set() {
				return r
			}
		}
	}
	return refusal{}
}

func platform(c *Container, src, h *host) refusal {
	arch := c.Image.Architecture
	if arch == "" {
		arch = src.Host.Architecture
	}
	switch {
	case arch == "" || arch != h.Host.Architecture:
		return refusal{code: architecture, what: h.Host.Architecture, why: arch}
	case src.Host.Cgroup == 0 || src.Host.Cgroup != h.Host.Cgroup:
		return refusal{code: cgroupVersion, a: int64(h.Host.Cgroup), b: int64(src.Host.Cgroup)}
	case !atLeast(h.Host.Engine, src.Host.Engine):
		return refusal{code: engineVersion, what: h.Host.Engine, why: src.Host.Engine}
	}
	for _, n := range c.Needs {
		if !slices.Contains(h.Host.Offers, n) {
			return refusal{code: lacks, what: n}
		}
	}
	return refusal{}
}

// atLeast compares versions of engines by major and minor number: patches do not change what
// a configuration means. What is no version is not at least anything.
func atLeast(have, want string) bool {
	if have == want && have != "" {
		return true
	}
	a, okA := majorMinor(have)
	b, okB := majorMinor(want)
	return okA && okB && slices.Compare(a[:], b[:]) >= 0
}

func majorMinor(s string) (v [2]int, ok bool) {
	major, rest, found := strings.Cut(strings.TrimPrefix(s, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	return [2]int{a, b}, found && errA == nil && errB == nil && a >= 0 && b >= 0
}

func gate(c *Container, src, h *host) refusal {
	switch a, ok := h.Gate.Images[c.Image.Digest]; {
	case !ok:
		return refusal{code: imageUnknown, what: c.Image.Digest}
	case !a.Allow:
		return refusal{code: imageDenied, why: orUnsaid(a.Why)}
	}
	switch a, ok := h.Gate.Admits[c.ID]; {
	case ok && !a.Allow:
		return refusal{code: policyDenied, why: orUnsaid(a.Why)}
	case !ok && h.Gate.Policies != src.Gate.Policies:
		return refusal{code: policyUnknown}
	}
	return refusal{}
}

func orUnsaid(why string) string {
	if why == "" {
		return "it did not say why"
	}
	return why
}

func network(c *Container, _, h *host) refusal {
	for i := range c.Net.Networks {
		n := &c.Net.Networks[i]
		if n.Name == "bridge" || n.Name == "none" {
			continue // of every engine
		}
		j := slices.IndexFunc(h.Site.Networks, func(o Attachment) bool { return o.Name == n.Name })
		switch {
		case j < 0 && (n.Global || n.Driver != "bridge"):
			return refusal{code: noNetwork, what: n.Name}
		case j < 0: // a bridge is made there
		case n.Config == "" || h.Site.Networks[j].Driver != n.Driver || h.Site.Networks[j].Config != n.Config || h.Site.Networks[j].Global != n.Global:
			return refusal{code: otherNetwork, what: n.Name}
		}
	}
	return refusal{}
}

// String is as docker port writes it.
func (p Port) String() string {
	s := strconv.Itoa(p.Port) + "/" + p.Protocol
	if !p.any() {
		s = p.IP + ":" + s
	}
	return s
}

func (p Port) refusal() refusal {
	return refusal{code: portTaken, what: p.Protocol, why: p.IP, a: int64(p.Port)}
}

func (p Port) any() bool { return p.IP == "" || p.IP == "0.0.0.0" || p.IP == "::" }

// meets reports whether two ports of one host cannot both be published.
func (p Port) meets(o Port) bool {
	return p.Port != 0 && p.Port == o.Port && p.Protocol == o.Protocol && (p.any() || o.any() || p.IP == o.IP)
}

func storage(c *Container, _, h *host) refusal {
	for i := range c.Storage.Mounts {
		switch m := &c.Storage.Mounts[i]; {
		case m.Type == "bind":
			if !slices.Contains(h.Site.SharedPaths, m.Source) {
				return refusal{code: noSharedData, what: m.Source}
			}
		case m.Type != "volume":
		case !slices.Contains(h.Site.VolumeDrivers, m.driver()):
			return refusal{code: noVolumeDriver, what: m.driver()}
		case m.Shared:
			if !slices.Contains(h.Site.Volumes, m.Name) {
				return refusal{code: noSharedData, what: m.Name}
			}
		case slices.Contains(h.Site.Volumes, m.Name):
			return refusal{code: volumeTaken, what: m.Name}
		}
	}
	return refusal{}
}

func (m *Mount) driver() string {
	if m.Driver == "" {
		return "local"
	}
	return m.Driver
}

// collides says whether what the plan has put on h already stands in the way of u.
func (h *host) collides(u *unit) refusal {
	if h.Places {
		return refusal{}
	}
	for _, o := range h.placed {
		for _, c := range u.members {
			for _, d := range o.members {
				if c.Name == d.Name {
					return refusal{code: nameTaken, what: c.Name}
				}
				for _, p := range c.Net.Ports {
					if slices.ContainsFunc(d.Net.Ports, p.meets) {
						return p.refusal()
					}
				}
				for i := range c.Storage.Mounts {
					if m := &c.Storage.Mounts[i]; m.Type == "volume" && !m.Shared && slices.ContainsFunc(d.Storage.Mounts, m.sameName) {
						return refusal{code: volumeTaken, what: m.Name}
					}
				}
			}
		}
	}
	return refusal{}
}

func (m *Mount) sameName(o Mount) bool { return o.Type == "volume" && o.Name == m.Name }
