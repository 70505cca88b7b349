package plan

import (
	"path"
	"slices"
	"strings"
)

// Ability says whether a container can be moved at all. The zero value: it cannot.
type Ability struct {
	Movable bool
	// Reasons are why not, in words, all of them; empty if it is movable.
	Reasons []string
	// Stateful says that data has to be copied while the container is stopped.
	Stateful bool
}

// Movable says whether c can be moved at all, whatever the target, and if not, for which
// reasons. docs/load-planning.md explains each of them.
func (c *Container) Movable(r Rules) Ability {
	var why []string
	why = append(why, c.aboutState()...)
	if c.Placed != nil {
		if c.Placed.Stays != "" {
			why = append(why, c.Placed.Stays)
		}
		return Ability{Movable: len(why) == 0, Reasons: why}
	}
	why = append(why, c.aboutHost()...)
	why = append(why, c.aboutNet()...)
	why = append(why, c.aboutStorage(r)...)
	why = append(why, c.aboutLife(r)...)
	why = append(why, c.Other...)
	return Ability{Movable: len(why) == 0, Reasons: why, Stateful: len(why) == 0 && c.stateful()}
}

func (c *Container) aboutState() (why []string) {
	if !c.Selected {
		why = append(why, "no LoadPolicy's movable selects it")
	}
	if c.State != "running" {
		why = append(why, "it is not running: "+quoted(c.State)+", and cannot be verified on a target")
	}
	if c.Image.Digest == "" {
		why = append(why, "the digest of its image is not known, so that another image might run on the target")
	}
	if c.Life.Health == "unhealthy" {
		why = append(why, "its health check fails: a move would not mend it")
	}
	return why
}

func (c *Container) aboutHost() (why []string) {
	h := &c.Host
	if h.Privileged {
		why = append(why, "it is privileged: what it does to its host is not known")
	}
	for _, m := range []struct{ flag, mode string }{
		{"--pid", h.PIDMode}, {"--ipc", h.IPCMode}, {"--uts", h.UTSMode}, {"--userns", h.UserMode}, {"--cgroupns", h.CgroupMode},
	} {
		if m.mode == "host" {
			why = append(why, "it has a namespace of its host ("+m.flag+" host)")
		}
	}
	if h.CgroupPath != "" {
		why = append(why, "it was put into a cgroup of its host, "+quoted(h.CgroupPath))
	}
	if h.Hostname {
		why = append(why, "it has the name of its host")
	}
	if h.CPUSet != "" {
		why = append(why, "it is bound to CPUs or memory nodes of its host, "+quoted(h.CPUSet))
	}
	if len(h.GPUs) > 0 {
		why = append(why, "it has GPUs or devices by driver, "+quoted(strings.Join(h.GPUs, ", ")))
	}
	if len(h.Devices) > 0 {
		why = append(why, "it has devices of its host, "+quoted(strings.Join(h.Devices, ", ")))
	}
	return why
}

func (c *Container) aboutNet() (why []string) {
	if c.Net.Mode == "host" {
		why = append(why, "it has the network of its host (--network host)")
	}
	for i := range c.Net.Networks {
		n := &c.Net.Networks[i]
		switch {
		case n.Fixed && !n.Global && n.Driver != "macvlan":
			why = append(why, "it has an address of its own on the network "+quoted(n.Name)+", which is on this host alone")
		case n.Driver == "":
			why = append(why, "the driver of its network "+quoted(n.Name)+" is not known")
		case n.Driver == "host" && c.Net.Mode != "host":
			why = append(why, "it has the network of its host (--network host)")
		}
	}
	return why
}

// engineSockets are names of sockets by which engines are driven; who holds one holds the
// host, and speaks of this one.
var engineSockets = []string{"docker.sock", "containerd.sock", "crio.sock", "podman.sock", "buildkitd.sock", "control.sock"}

func (c *Container) aboutStorage(r Rules) (why []string) {
	for i := range c.Storage.Mounts {
		if w := c.Storage.Mounts[i].ties(r); w != "" {
			why = append(why, w)
		}
	}
	switch {
	case r.LoseLayer:
	case !c.Storage.LayerKnown:
		why = append(why, "it is not known whether it has written to its own layer, which stays behind")
	case c.Storage.LayerBytes > 0:
		why = append(why, "it has written "+Disk.text(c.Storage.LayerBytes)+" to its own layer, which stays behind")
	}
	return why
}

// ties says why a mount keeps a container on its node, or nothing.
func (m *Mount) ties(r Rules) string {
	switch m.Type {
	case "bind":
		if name := m.Source[strings.LastIndexByte(m.Source, '/')+1:]; slices.Contains(engineSockets, name) {
			return "it has the engine's socket " + quoted(m.Source) + ", and drives this host by it"
		}
		if m.Shared && !ofHost(m.Source) {
			return ""
		}
		return "it has the path " + quoted(m.Source) + " of its host"
	case "volume":
		switch {
		case m.Name == "":
			return "its volume at " + quoted(m.Destination) + " has no name by which it could be found again"
		case m.Shared || r.CopyVolumes:
			return ""
		case m.Anonymous:
			return "it has the anonymous volume at " + quoted(m.Destination) + ", which is on this host alone; copyVolumes would copy it"
		}
		return "it has the volume " + quoted(m.Name) + ", which is on this host alone; copyVolumes would copy it"
	case "tmpfs":
		if r.LoseLayer {
			return ""
		}
		return "it has files in memory at " + quoted(m.Destination) + ", which are lost when it stops; loseLayer allows that"
	case "image":
		return ""
	case "cluster":
		return "its cluster volume at " + quoted(m.Destination) + " is placed by swarm"
	}
	return "it has a mount of a type that is not known, " + quoted(m.Type) + ", at " + quoted(m.Destination)
}

// ofHost reports whether a path is of a host whatever is said of it: all of it, its
// configuration, or what its kernel and its engine show.
func ofHost(p string) bool {
	p = path.Clean(p)
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/var/lib/containerd", "/etc", "/boot"} {
		if p == dir || strings.HasPrefix(p, dir+"/") || strings.HasPrefix(dir, strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return !path.IsAbs(p)
}

func (c *Container) aboutLife(r Rules) (why []string) {
	l := &c.Life
	switch l.Manager {
	case "":
	case "swarm":
		why = append(why, "swarm manages it: belay load leave asks it")
	case "kubernetes":
		why = append(why, "Kubernetes manages it: belay load leave asks its Eviction API")
	case "compose":
		switch {
		case !r.WholeProjects:
			why = append(why, "compose manages it and would make it here again; wholeProjects moves whole projects")
		case l.Project == "":
			why = append(why, "compose manages it, and its project is not known")
		}
	default:
		why = append(why, quoted(l.Manager)+" manages it and would make it here again")
	}
	if l.AutoRemove {
		why = append(why, "it removes itself when it stops (--rm), and no copy would be left to go back to")
	}
	if l.Interactive {
		why = append(why, "it may serve somebody's terminal (--interactive)")
	}
	if l.Own {
		why = append(why, "it is one of Belay's own")
	}
	return why
}

// stateful reports whether data has to be copied for it.
func (c *Container) stateful() bool {
	return slices.ContainsFunc(c.Storage.Mounts, func(m Mount) bool { return m.Type == "volume" && !m.Shared })
}

// quoted makes clear where a text that somebody chose begins and ends.
func quoted(s string) string { return `"` + s + `"` }
