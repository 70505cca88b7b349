package recreate

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// Written returns the paths of a container's own layer that somebody has written, of what its
// engine says has changed there: not what is there for a mount.
func (c *Container) Written(changes []container.FilesystemChange) (paths []string) {
	at := []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/console", "/proc", "/sys", "/.dockerenv", "/sbin/docker-init"}
	for _, m := range c.Mounts {
		at = append(at, m.Destination)
	}
	for i := range c.HostConfig.Mounts {
		at = append(at, c.HostConfig.Mounts[i].Target)
	}
	at = slices.AppendSeq(at, maps.Keys(c.HostConfig.Tmpfs))
	for _, ch := range changes {
		if !slices.ContainsFunc(at, func(m string) bool { return onTheWay(path.Clean(m), ch.Path) }) {
			paths = append(paths, ch.Path)
		}
	}
	return paths
}

// onTheWay reports whether a path is a mount, or lies on the way to one: the engine makes what is
// missing there.
func onTheWay(mount, p string) bool {
	return p == mount || strings.HasPrefix(mount, strings.TrimSuffix(p, "/")+"/")
}
