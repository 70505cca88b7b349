package recreate

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// bind is one entry of HostConfig.Binds: source:destination[:options].
type bind struct{ source, destination, options string }

func parseBind(s string) bind {
	parts := strings.SplitN(s, ":", 3)
	b := bind{source: parts[0]}
	switch len(parts) {
	case 1:
		b.source, b.destination = "", parts[0]
	case 2:
		b.destination = parts[1]
	default:
		b.destination, b.options = parts[1], parts[2]
	}
	return b
}

func (b bind) ofHost() bool { return strings.HasPrefix(b.source, "/") }

func (b bind) String() string {
	if b.options == "" {
		return b.source + ":" + b.destination
	}
	return b.source + ":" + b.destination + ":" + b.options
}

// volumes returns the volumes that c has, and all other mounts. What an inspection's Mounts
// says counts, and not what was asked for: volumes that nobody named are nowhere else.
func (c *Container) volumes() (volumes []Volume, others []container.MountPoint) {
	named := map[string]bool{}
	for _, s := range c.HostConfig.Binds {
		if b := parseBind(s); b.source != "" && !b.ofHost() {
			named[clean(b.destination)] = true
		}
	}
	for i := range c.HostConfig.Mounts {
		if m := &c.HostConfig.Mounts[i]; m.Type == mount.TypeVolume && m.Source != "" {
			named[clean(m.Target)] = true
		}
	}
	for _, m := range c.Mounts {
		if m.Type != mount.TypeVolume || m.Name == "" {
			others = append(others, m)
			continue
		}
		volumes = append(volumes, Volume{Name: m.Name, Destination: m.Destination, Anonymous: !named[clean(m.Destination)], ReadOnly: !m.RW})
	}
	slices.SortFunc(volumes, func(a, b Volume) int { return strings.Compare(a.Destination, b.Destination) })
	return volumes, others
}

func clean(path string) string {
	if path = strings.TrimRight(path, "/"); path == "" {
		return "/"
	}
	return path
}

// explicit returns the binds and mounts that give a container the same volumes by their
// names, without filling an empty one from the image: it is empty because it was emptied.
func explicit(h *container.HostConfig, volumes []Volume) ([]string, []mount.Mount) {
	done := map[string]bool{}
	var binds []string
	for _, s := range h.Binds {
		b := parseBind(s)
		if b.source == "" {
			continue // an anonymous volume: it has a name below
		}
		done[clean(b.destination)] = true
		if !b.ofHost() && !slices.Contains(strings.Split(b.options, ","), "nocopy") {
			b.options = strings.TrimPrefix(b.options+",nocopy", ",")
		}
		binds = append(binds, b.String())
	}
	byPath := map[string]Volume{}
	for _, v := range volumes {
		byPath[clean(v.Destination)] = v
	}
	var mounts []mount.Mount
	for _, m := range h.Mounts {
		done[clean(m.Target)] = true
		if m.Type == mount.TypeVolume {
			o := mount.VolumeOptions{}
			if m.VolumeOptions != nil {
				o = *m.VolumeOptions
			}
			o.NoCopy = true
			m.VolumeOptions = &o
			if m.Source == "" {
				m.Source = byPath[clean(m.Target)].Name
			}
		}
		mounts = append(mounts, m)
	}
	for _, v := range volumes {
		if !done[clean(v.Destination)] {
			mounts = append(mounts, mount.Mount{
				Type: mount.TypeVolume, Source: v.Name, Target: v.Destination, ReadOnly: v.ReadOnly,
				VolumeOptions: &mount.VolumeOptions{NoCopy: true},
			})
		}
	}
	return binds, mounts
}
