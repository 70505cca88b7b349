package plan

import (
	"strings"
	"testing"
)

func TestMovable(t *testing.T) {
	volume := Mount{Type: "volume", Name: "data", Destination: "/data"}
	tests := []struct {
		name   string
		change func(*Container)
		rules  Rules
		want   string // in the reasons; empty: movable
	}{
		{name: "nothing in the way", change: func(*Container) {}},
		{name: "zero value", change: func(c *Container) { *c = Container{} }, want: "movable selects it"},
		{name: "not selected", change: func(c *Container) { c.Selected = false }, want: "no LoadPolicy"},
		{name: "stopped", change: func(c *Container) { c.State = "exited" }, want: "not running"},
		{name: "paused", change: func(c *Container) { c.State = "paused" }, want: "not running"},
		{name: "no digest", change: func(c *Container) { c.Image.Digest = "" }, want: "digest"},
		{name: "unhealthy", change: func(c *Container) { c.Life.Health = "unhealthy" }, want: "health check"},
		{name: "privileged", change: func(c *Container) { c.Host.Privileged = true }, want: "privileged"},
		{name: "host PIDs", change: func(c *Container) { c.Host.PIDMode = "host" }, want: "--pid host"},
		{name: "host IPC", change: func(c *Container) { c.Host.IPCMode = "host" }, want: "--ipc host"},
		{name: "host UTS", change: func(c *Container) { c.Host.UTSMode = "host" }, want: "--uts host"},
		{name: "host users", change: func(c *Container) { c.Host.UserMode = "host" }, want: "--userns host"},
		{name: "host cgroups", change: func(c *Container) { c.Host.CgroupMode = "host" }, want: "--cgroupns host"},
		{name: "own IPC", change: func(c *Container) { c.Host.IPCMode = "private" }},
		{name: "cgroup parent", change: func(c *Container) { c.Host.CgroupPath = "batch.slice" }, want: "batch.slice"},
		{name: "host name", change: func(c *Container) { c.Host.Hostname = true }, want: "name of its host"},
		{name: "cpuset", change: func(c *Container) { c.Host.CPUSet = "0-3" }, want: "0-3"},
		{name: "device", change: func(c *Container) { c.Host.Devices = []string{"/dev/fuse"} }, want: "/dev/fuse"},
		{name: "GPU", change: func(c *Container) { c.Host.GPUs = []string{"nvidia"} }, want: "nvidia"},
		{name: "host network", change: func(c *Container) { c.Net.Mode = "host" }, want: "--network host"},
		{name: "fixed address on a bridge", change: func(c *Container) {
			c.Net.Networks = []Attachment{{Name: "back", Driver: "bridge", Fixed: true}}
		}, want: `on the network "back"`},
		{name: "fixed address on an overlay", change: func(c *Container) {
			c.Net.Networks = []Attachment{{Name: "back", Driver: "overlay", Global: true, Fixed: true}}
		}},
		{name: "unknown network driver", change: func(c *Container) { c.Net.Networks = []Attachment{{Name: "x"}} }, want: "driver of its network"},
		{name: "engine's socket", change: func(c *Container) {
			c.Storage.Mounts = []Mount{{Type: "bind", Source: "/var/run/docker.sock", Shared: true}}
		}, want: "engine's socket"},
		{name: "bind", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "bind", Source: "/srv/www"}} }, want: `"/srv/www" of its host`},
		{name: "shared bind", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "bind", Source: "/net/www", Shared: true}} }},
		{name: "shared root", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "bind", Source: "/", Shared: true}} }, want: "of its host"},
		{name: "shared directory of sockets", change: func(c *Container) {
			c.Storage.Mounts = []Mount{{Type: "bind", Source: "/srv/../var/run/", Shared: true}}
		}, want: "of its host"},
		{name: "local volume", change: func(c *Container) { c.Storage.Mounts = []Mount{volume} }, want: `volume "data"`},
		{name: "local volume, copied", change: func(c *Container) { c.Storage.Mounts = []Mount{volume} }, rules: Rules{CopyVolumes: true}},
		{name: "anonymous volume", change: func(c *Container) {
			c.Storage.Mounts = []Mount{{Type: "volume", Name: "0a1b", Destination: "/var/lib/x", Anonymous: true}}
		}, want: "anonymous volume at \"/var/lib/x\""},
		{name: "volume without a name, even copied", change: func(c *Container) {
			c.Storage.Mounts = []Mount{{Type: "volume", Destination: "/x"}}
		}, rules: Rules{CopyVolumes: true}, want: "no name"},
		{name: "shared volume", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "volume", Name: "nfs", Shared: true}} }},
		{name: "tmpfs", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "tmpfs", Destination: "/tmp"}} }, want: "in memory at"},
		{name: "cluster volume", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "cluster"}} }, want: "placed by swarm"},
		{name: "unknown mount", change: func(c *Container) { c.Storage.Mounts = []Mount{{Type: "npipe"}} }, want: "not known"},
		{name: "written layer", change: func(c *Container) { c.Storage.LayerBytes = 5 << 20 }, want: "5.0 MiB"},
		{name: "layer not asked for", change: func(c *Container) { c.Storage.LayerKnown = false }, want: "not known whether"},
		{name: "written layer, lost", change: func(c *Container) { c.Storage.LayerBytes = 5 }, rules: Rules{LoseLayer: true}},
		{name: "swarm", change: func(c *Container) { c.Life.Manager = "swarm" }, want: "belay load leave"},
		{name: "Kubernetes", change: func(c *Container) { c.Life.Manager = "kubernetes" }, want: "Eviction API"},
		{name: "compose", change: func(c *Container) { c.Life.Manager, c.Life.Project = "compose", "shop" }, want: "wholeProjects"},
		{name: "compose, whole", change: func(c *Container) { c.Life.Manager, c.Life.Project = "compose", "shop" }, rules: Rules{WholeProjects: true}},
		{name: "another manager", change: func(c *Container) { c.Life.Manager = "nomad" }, want: `"nomad" manages it`},
		{name: "--rm", change: func(c *Container) { c.Life.AutoRemove = true }, want: "--rm"},
		{name: "a terminal", change: func(c *Container) { c.Life.Interactive = true }, want: "terminal"},
		{name: "Belay's own", change: func(c *Container) { c.Life.Own = true }, want: "Belay's own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := movable("web", 1, gib)
			tt.change(&c)
			got := c.Movable(tt.rules)
			why := strings.Join(got.Reasons, "; ")
			if got.Movable != (tt.want == "") || !strings.Contains(why, tt.want) {
				t.Errorf("got movable %v, %q; want %q", got.Movable, why, tt.want)
			}
		})
	}
}

// TestMovableSaysAll: an operator mends one thing after another only if told of one alone.
func TestMovableSaysAll(t *testing.T) {
	c := movable("web", 1, gib)
	c.Host.Privileged, c.Net.Mode, c.Life.AutoRemove = true, "host", true
	if got := c.Movable(Rules{}); len(got.Reasons) != 3 {
		t.Errorf("got %q, want three reasons", got.Reasons)
	}
}
