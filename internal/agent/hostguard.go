package agent

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/enforce"
)

const (
	// hostEvery is the time between two looks at which files the section host is about. Names
	// hold without a look; a look binds what has come under a name to its inode.
	hostEvery     = 5 * time.Second
	hostGuardName = "host-guard" // in health
)

var (
	// runtimePrograms are executed by root to run containers or to steer an engine.
	runtimePrograms = append(slices.Clone(enginePrograms), "crun", "docker-init", "docker-proxy", "ctr", "docker")
	pluginDirs      = []string{
		"/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins", "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
	}
	// engineFiles are Docker's and containerd's configuration; of directories all that is below.
	engineFiles = []string{"/etc/docker", "/etc/default/docker", "/etc/sysconfig/docker", "/etc/containerd", "/etc/cni", "/etc/nri", "/opt/nri", "/etc/cdi"}
	unitDirs    = []string{
		"/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
	}
	unitNames = []string{"docker.service", "docker.socket", "containerd.service"}
	// Below DockerRoot: not the layers and volumes, which containers write by trade.
	rootParts = []string{"image", "network", "swarm", "trust", "engine-id"}
	// What containerd knows and the content that it verified, below its own root and Docker's.
	containerdParts = []string{"io.containerd.metadata.v1.bolt", "io.containerd.content.v1.content"}
	containerdRoots = []string{"/var/lib/containerd", "containerd/daemon"} // relative: below DockerRoot
	// recordDirs have a directory for each container, with recordNames in it.
	recordDirs = []string{
		"containers", "/run/containerd/io.containerd.runtime.v2.task/moby", "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
		"/run/containerd/io.containerd.runtime.v2.task/default", "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby",
		"/run/docker/runtime-runc/moby", "/run/containerd/runc/k8s.io", "/run/containerd/runc/default",
	}
	recordNames = []string{"config.v2.json", "hostconfig.json", "config.json", "state.json"}
)

// hostNow returns what no container may touch, as things are.
func (a *Agent) hostNow(cgroups []string) enforce.Host {
	c := &a.cfg
	var h enforce.Host
	agent := &h.Agent
	agent.Paths = append(agent.Paths, c.RunDir, c.PinDir(), c.StateDir, c.PolicyDir, c.VulnDB)
	agent.Inodes = []string{"/proc/self/exe"} // also if an upgrade has replaced the file
	if exe, err := os.Executable(); err == nil {
		agent.Paths = append(agent.Paths, exe, filepath.Join(filepath.Dir(exe), "belay"), filepath.Join(filepath.Dir(exe), "belay-scanner"))
	}
	if filepath.IsAbs(c.Scanner) {
		agent.Paths = append(agent.Paths, c.Scanner)
	}
	if len(cgroups) > 0 {
		agent.Paths = append(agent.Paths, cgroups[0])
		agent.Dirs = cgroups[1:]
	}
	dirs := slices.Concat(programDirs, filepath.SplitList(os.Getenv("PATH")))
	for _, l := range a.listened {
		if l.exe != "" {
			h.Runtimes.Paths = append(h.Runtimes.Paths, l.exe)
			dirs = append(dirs, filepath.Dir(l.exe))
		}
	}
	for _, d := range dirs {
		for _, p := range runtimePrograms {
			if filepath.IsAbs(d) {
				h.Runtimes.Paths = append(h.Runtimes.Paths, filepath.Join(d, p))
			}
		}
	}
	h.Runtimes.Paths = append(h.Runtimes.Paths, pluginDirs...)

	engine := &h.EngineConfig
	engine.Paths = slices.Clone(engineFiles)
	units := func(paths []string, names ...string) []string {
		for _, d := range unitDirs {
			for _, u := range names {
				paths = append(paths, filepath.Join(d, u), filepath.Join(d, u+".d"))
			}
		}
		return paths
	}
	engine.Paths = units(engine.Paths, unitNames...)
	agent.Paths = units(agent.Paths, "belay-agent.service")
	for _, p := range rootParts {
		engine.Paths = append(engine.Paths, filepath.Join(c.DockerRoot, p))
	}
	for _, root := range containerdRoots {
		for _, p := range containerdParts {
			engine.Paths = append(engine.Paths, filepath.Join(c.belowRoot(root), p))
		}
	}
	for _, d := range recordDirs {
		engine.Dirs = append(engine.Dirs, c.belowRoot(d))
	}
	engine.Records = recordNames
	return h
}

// belowRoot returns a path as it is if it is absolute, else below the engine's root.
func (c *Config) belowRoot(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.DockerRoot, p)
}

// setHost puts into the kernel what the section host is about. It is called where setGuard is,
// which knows who listens on the engine's sockets.
func (a *Agent) setHost() {
	if err := a.kernel.SetHost(a.hostNow(a.kernel.OwnCgroup())); err != nil {
		a.health.SetFailed(hostGuardName, "files and processes of the host that policies guard may be reached by containers: "+err.Error())
		return
	}
	a.health.SetOK(hostGuardName)
}
