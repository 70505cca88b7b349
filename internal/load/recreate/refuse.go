package recreate

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// quoted makes clear where a text that somebody chose begins and ends.
func quoted(s string) string { return `"` + s + `"` }

// hiddenValue stands where Belay's gate shows no value of an environment (redactEnv).
const hiddenValue = "(redacted)"

// maxStop is how long a container that moves may take to stop. Engines wait for ever if it is negative.
const maxStop = time.Hour

func (c *Container) aboutState() (why []Refusal) {
	st := c.State
	switch {
	case st.Paused:
		why = append(why, Refusal{"it is paused, and cannot be verified on a target", "docker unpause " + c.ShortName()})
	case st.Restarting:
		why = append(why, Refusal{"it keeps restarting: a move would not mend it", ""})
	case !st.Running:
		why = append(why, Refusal{"it is not running, and cannot be verified on a target", "docker start " + c.ShortName()})
	}
	if st.Health != nil && st.Health.Status == container.Unhealthy {
		why = append(why, Refusal{"its health check fails: a move would not mend it", ""})
	}
	if t := c.Config.StopTimeout; t != nil && (*t < 0 || *t > int(maxStop/time.Second)) {
		why = append(why, Refusal{"it may take more than an hour to stop (--stop-timeout " + strconv.Itoa(*t) + "), with the move halfway", "make it again with less: docker run --stop-timeout"})
	}
	if c.Platform != "" && c.Platform != "linux" {
		why = append(why, Refusal{"its platform is " + quoted(c.Platform) + ", and only linux is moved", ""})
	}
	if slices.ContainsFunc(c.Config.Env, func(e string) bool { return strings.HasSuffix(e, "="+hiddenValue) }) {
		why = append(why, Refusal{"values of its environment are hidden from whom the engine is asked as", "--from the engine's own socket, as root"})
	}
	if c.Image == "" {
		why = append(why, Refusal{"the ID of its image is not known, so that another image might run on the target", ""})
	}
	for _, f := range c.unknown {
		why = append(why, Refusal{"the engine says something of it that this version of Belay does not know (" + f + ")", "update belay"})
	}
	return why
}

func (c *Container) aboutHost(h Host, g Group) (why []Refusal) {
	host := c.HostConfig
	if host.Privileged {
		why = append(why, Refusal{"it is privileged: what it does to its host is not known", ""})
	}
	for _, m := range []struct{ flag, mode string }{
		{"--pid", string(host.PidMode)}, {"--ipc", string(host.IpcMode)}, {"--uts", string(host.UTSMode)},
		{"--userns", string(host.UsernsMode)}, {"--network", string(host.NetworkMode)},
	} {
		switch {
		case m.mode == "host":
			why = append(why, Refusal{"it has a namespace of its host (" + m.flag + " host)", ""})
		case strings.HasPrefix(m.mode, joined) && m.flag != "--uts" && m.flag != "--userns":
			if _, ok := g.Find(strings.TrimPrefix(m.mode, joined)); !ok {
				why = append(why, Refusal{"it shares a namespace with another container (" + m.flag + " " + m.mode + ")", TogetherFix})
			}
		case strings.HasPrefix(m.mode, joined), strings.HasPrefix(m.mode, "ns:"):
			why = append(why, Refusal{"it shares a namespace (" + m.flag + " " + m.mode + ")", ""})
		}
	}
	if host.CgroupnsMode == container.CgroupnsModeHost && !h.CgroupV1 {
		why = append(why, Refusal{"it has a namespace of its host (--cgroupns host)", ""})
	}
	if host.Cgroup != "" {
		why = append(why, Refusal{"it was put into another container's cgroup", ""})
	}
	if host.CgroupParent != "" {
		why = append(why, Refusal{"it was put into a cgroup of its host, " + quoted(host.CgroupParent), ""})
	}
	if host.CpusetCpus != "" || host.CpusetMems != "" {
		why = append(why, Refusal{"it is bound to CPUs or memory nodes of its host", "give it a number of CPUs instead: docker run --cpus"})
	}
	if len(host.Devices) > 0 || len(host.DeviceCgroupRules) > 0 {
		why = append(why, Refusal{"it has devices of its host", ""})
	}
	if len(host.DeviceRequests) > 0 {
		why = append(why, Refusal{"it has GPUs or devices by driver", ""})
	}
	if len(host.BlkioWeightDevice)+len(host.BlkioDeviceReadBps)+len(host.BlkioDeviceWriteBps)+len(host.BlkioDeviceReadIOps)+len(host.BlkioDeviceWriteIOps) > 0 {
		why = append(why, Refusal{"it has limits on disks of its host, by their names", ""})
	}
	return why
}

// engineSockets are names of sockets by which engines are driven.
var engineSockets = []string{"docker.sock", "containerd.sock", "crio.sock", "podman.sock", "buildkitd.sock", "control.sock"}

func (c *Container) aboutStorage(r Rules, others []container.MountPoint, g Group) (why []Refusal) {
	const layer = "--lose-layer, if it can do without them"
	for _, m := range others {
		switch m.Type {
		case mount.TypeBind:
			if slices.Contains(engineSockets, path.Base(m.Source)) {
				why = append(why, Refusal{"it has the engine's socket " + quoted(m.Source) + ", and drives this host by it", ""})
				continue
			}
			why = append(why, Refusal{"it has the path " + quoted(m.Source) + " of its host", "keep the data in a volume"})
		case mount.TypeTmpfs:
			if !r.LoseLayer {
				why = append(why, Refusal{"it has files in memory at " + quoted(m.Destination) + ", which are lost when it stops", layer})
			}
		case mount.TypeVolume:
			why = append(why, Refusal{"its volume at " + quoted(m.Destination) + " has no name by which it could be found again", ""})
		default:
			why = append(why, Refusal{"it has a mount of type " + quoted(string(m.Type)) + " at " + quoted(m.Destination) + ", which is not moved", ""})
		}
	}
	volumes, _ := c.volumes()
	for _, v := range volumes {
		if !r.CopyVolumes {
			what := "the volume " + quoted(v.Name)
			if v.Anonymous {
				what = "the anonymous volume at " + quoted(v.Destination)
			}
			why = append(why, Refusal{"it has " + what + ", which is on this host alone", "--copy-volumes stops it, copies its volumes and compares them"})
		}
	}
	why = append(why, c.aboutDeclared(r, layer)...)
	for _, f := range c.HostConfig.VolumesFrom {
		name, _, _ := strings.Cut(f, ":")
		if _, ok := g.Find(name); !ok {
			why = append(why, Refusal{"it was given volumes of another container (--volumes-from " + name + ")", TogetherFix + ", or name the volumes instead"})
		}
	}
	return why
}

// aboutDeclared looks at what was asked for and is not in the list of mounts, such as binds
// of a container that was never mounted, or tmpfs of older engines.
func (c *Container) aboutDeclared(r Rules, layer string) (why []Refusal) {
	seen := map[string]bool{}
	for _, m := range c.Mounts {
		seen[clean(m.Destination)] = true
	}
	for _, s := range c.HostConfig.Binds {
		if b := parseBind(s); b.ofHost() && !seen[clean(b.destination)] {
			why = append(why, Refusal{"it has the path " + quoted(b.source) + " of its host", "keep the data in a volume"})
		} else if b.destination == "" || !strings.HasPrefix(b.destination, "/") {
			why = append(why, Refusal{"it has a bind that cannot be read, " + quoted(s), ""})
		}
	}
	for i := range c.HostConfig.Mounts {
		m := &c.HostConfig.Mounts[i]
		if seen[clean(m.Target)] {
			if m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
				why = append(why, Refusal{"it has a part of a volume alone (volume-subpath " + quoted(m.VolumeOptions.Subpath) + ")", ""})
			}
			continue
		}
		switch m.Type {
		case mount.TypeTmpfs:
			if !r.LoseLayer {
				why = append(why, Refusal{"it has files in memory at " + quoted(m.Target) + ", which are lost when it stops", layer})
			}
		default:
			why = append(why, Refusal{"it has a mount of type " + quoted(string(m.Type)) + " at " + quoted(m.Target) + " that the engine does not show", ""})
		}
	}
	for dest := range c.HostConfig.Tmpfs {
		if !r.LoseLayer && !seen[clean(dest)] {
			why = append(why, Refusal{"it has files in memory at " + quoted(dest) + ", which are lost when it stops", layer})
		}
	}
	slices.SortStableFunc(why, func(a, b Refusal) int { return strings.Compare(a.Reason, b.Reason) })
	return why
}

func (c *Container) aboutNetworks(g Group) (why []Refusal) {
	if c.mac {
		why = append(why, Refusal{"it was given a MAC address of its own", ""})
	}
	if !g.all(c.HostConfig.Links) {
		why = append(why, Refusal{"it names other containers by --link", TogetherFix + ", or put both on a network of your own"})
	}
	names := make([]string, 0, len(c.NetworkSettings.Networks))
	for name := range c.NetworkSettings.Networks {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e := c.NetworkSettings.Networks[name]
		if e == nil {
			continue
		}
		if !g.all(e.Links) {
			why = append(why, Refusal{"it names other containers by links on the network " + quoted(name), TogetherFix + ", or use their names"})
		}
		if p := e.IPAMConfig; p != nil && (p.IPv4Address.IsValid() || p.IPv6Address.IsValid() || len(p.LinkLocalIPs) > 0) {
			why = append(why, Refusal{"it has an address of its own on the network " + quoted(name) + ", which means nothing elsewhere", "let the engine give it one, and reach it by its name"})
		}
	}
	for _, p := range ports(c.HostConfig.PortBindings) {
		if p.IP != "" && p.IP != "127.0.0.1" && p.IP != "::1" {
			why = append(why, Refusal{"it publishes " + p.String() + " on an address of its host", "publish it on all addresses"})
		}
		if strings.Contains(p.Port, "-") {
			why = append(why, Refusal{"it publishes a range of ports of its host, " + p.Port, ""})
		}
	}
	return why
}

func (c *Container) aboutLife(r Rules) (why []Refusal) {
	labels := c.Config.Labels
	for key := range labels {
		switch {
		case strings.HasPrefix(key, "com.docker.swarm."):
			return []Refusal{{"swarm manages it", "belay load leave asks it"}}
		case strings.HasPrefix(key, "io.kubernetes."):
			return []Refusal{{"Kubernetes manages it", "cordon the node and use the Eviction API"}}
		}
	}
	if labels["com.docker.compose.project"] != "" && !r.Compose {
		why = append(why, Refusal{"compose manages it and would make it here again", "take it out of the project here, and say --compose"})
	}
	if c.HostConfig.AutoRemove {
		why = append(why, Refusal{"it removes itself when it stops (--rm), and no copy would be left to go back to", "run it without --rm"})
	}
	if c.Config.OpenStdin {
		why = append(why, Refusal{"it may serve somebody's terminal (--interactive)", "run it without -i"})
	}
	return why
}
