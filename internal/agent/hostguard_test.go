package agent

import (
	"slices"
	"testing"
)

// What the section host promises is on the list, and what containers write by trade is not.
func TestHostNow(t *testing.T) {
	a := &Agent{cfg: Config{RunDir: "/run/belay", StateDir: "/var/lib/belay", PolicyDir: "/etc/belay/policies", DockerRoot: "/data/docker"},
		listened: map[string]listened{"/run/docker.sock": {exe: "/opt/engine/dockerd"}}}
	h := a.hostNow([]string{"/sys/fs/cgroup/system.slice/belay-agent.service", "/sys/fs/cgroup/system.slice"})
	for _, c := range []struct {
		list []string
		want []string
	}{
		{h.Agent.Paths, []string{"/run/belay", "/run/belay/bpf", "/var/lib/belay", "/etc/belay/policies",
			"/sys/fs/cgroup/system.slice/belay-agent.service", "/etc/systemd/system/belay-agent.service.d"}},
		{h.Agent.Dirs, []string{"/sys/fs/cgroup/system.slice"}},
		{h.Runtimes.Paths, []string{"/opt/engine/dockerd", "/opt/engine/runc", "/usr/bin/containerd", "/usr/sbin/runc", "/usr/bin/containerd-shim-runc-v2",
			"/usr/bin/crun", "/usr/bin/docker-init", "/usr/bin/ctr", "/usr/libexec/docker/cli-plugins"}},
		{h.EngineConfig.Paths, []string{"/etc/docker", "/etc/systemd/system/docker.service.d", "/etc/containerd", "/etc/cni", "/data/docker/image",
			"/data/docker/containerd/daemon/io.containerd.metadata.v1.bolt"}},
		{h.EngineConfig.Dirs, []string{"/data/docker/containers"}},
		{h.EngineConfig.Records, []string{"config.v2.json", "hostconfig.json"}},
	} {
		for _, w := range c.want {
			if !slices.Contains(c.list, w) {
				t.Errorf("%s is not guarded: %q", w, c.list)
			}
		}
	}
	for _, p := range []string{"/data/docker", "/data/docker/volumes", "/data/docker/overlay2", "/data/docker/containers", "/data/docker/plugins"} {
		if slices.Contains(h.EngineConfig.Paths, p) {
			t.Errorf("%s is guarded with all that is below it", p)
		}
	}
}
