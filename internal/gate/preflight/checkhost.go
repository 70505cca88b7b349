package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// containerdSockets returns where containerd may listen. With one in the daemon's
// configuration the usual ones are looked at too: another may run.
func (l *look) containerdSockets() []string {
	all := []string{"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"}
	if c := strings.TrimPrefix(l.conf.Containerd, "unix://"); c != "" && !slices.Contains(all, c) {
		all = append([]string{c}, all...)
	}
	return all
}

// otherRuntimes are sockets of engines that ask neither the gate nor the plugin.
var otherRuntimes = []string{"/run/crio/crio.sock", "/run/podman/podman.sock", "/run/buildkit/buildkitd.sock", "/run/cri-dockerd.sock", "/run/k3s/containerd/containerd.sock"}

func (l *look) checkRuntimes() {
	const why = "containerd starts any container for whoever reaches its socket, and asks neither the gate nor the plugin"
	found := false
	for _, s := range l.containerdSockets() {
		who, _, err := l.reach(s)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found = true
		switch {
		case err != nil:
			l.add("containerd.socket", Unknown, "who can reach "+s+" cannot be told: "+err.Error(), why, "run it as root on the host")
		case who != "":
			l.add("containerd.socket", Fail, s+" is reached by "+who, why, fmt.Sprintf("chmod 0600 %s and, in containerd's config.toml, [grpc] uid = 0, gid = 0", s))
		default:
			l.add("containerd.socket", OK, s+" is reached by root alone", why, "")
		}
	}
	if !found {
		l.add("containerd.socket", Unknown, "containerd's socket is not found", why, "name it: dockerd --containerd PATH, or run it on the host where containerd runs")
	}
	const whyOther = "what is started there passes neither the gate nor the plugin"
	seen := false
	for _, s := range otherRuntimes {
		who, _, err := l.reach(s)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		seen = true
		switch {
		case err != nil:
			l.add("runtime.other", Unknown, "who can reach "+s+" cannot be told: "+err.Error(), whyOther, "run it as root on the host")
		case who != "":
			l.add("runtime.other", Fail, s+" is reached by "+who, whyOther, "stop that engine, or chmod 0600 "+s)
		default:
			l.add("runtime.other", Warn, s+" is there, for root alone", whyOther, "stop that engine if nobody needs it")
		}
	}
	if !seen {
		l.add("runtime.other", OK, "no other engine's socket is in its usual place", whyOther, "")
	}
}

// unitFolders are where a unit is looked for, in systemd's order.
var unitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// socketUnit returns what docker.socket opens, drop-ins included; there is false if the host
// has no such unit, or a masked one.
func (l *look) socketUnit() (opens []string, there bool, err error) {
	var files []string
	for _, d := range unitFolders {
		if p := d + "/docker.socket"; l.exists(p) {
			files = append(files, p)
			break
		}
	}
	if len(files) == 0 || l.resolved(files[0]) == "/dev/null" {
		return nil, false, nil
	}
	for _, d := range slices.Backward(unitFolders) {
		entries, err := os.ReadDir(l.path(d + "/docker.socket.d"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, true, err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") {
				files = append(files, d+"/docker.socket.d/"+e.Name())
			}
		}
	}
	for _, f := range files {
		raw, err := l.readFile(f)
		if err != nil {
			return nil, true, err
		}
		for line := range strings.SplitSeq(string(raw), "\n") {
			key, value, _ := strings.Cut(line, "=")
			if strings.TrimSpace(key) != "ListenStream" {
				continue
			}
			if value = strings.TrimSpace(value); value == "" {
				opens = nil // an empty one takes back those before it
			} else {
				opens = append(opens, strings.Replace(value, "%t/", "/run/", 1))
			}
		}
	}
	return opens, true, nil
}

// checkUnit looks for a socket unit that opens Docker's usual socket. docker.service
// requires it: that it is not enabled does not keep it shut.
func (l *look) checkUnit() {
	const id, why = "systemd.socket", "docker.socket opens Docker's usual socket for the docker group, before the gate can"
	opens, there, err := l.socketUnit()
	switch {
	case err != nil:
		l.add(id, Unknown, "docker.socket cannot be read: "+err.Error(), why, "run it as root on the host")
		return
	case !there:
		l.add(id, OK, "there is no docker.socket", why, "")
		return
	}
	for _, p := range opens {
		if r := l.resolved(p); r == l.resolved("/run/docker.sock") || r == l.resolved(l.Gate) {
			s := Warn
			if l.daemon != nil && slices.ContainsFunc(l.daemon.unix, func(u string) bool { return l.resolved(u) == r }) {
				s = l.open()
			}
			l.add(id, s, "docker.socket opens "+p, why, "install deploy/docker/docker.socket.d/belay.conf in /etc/systemd/system/docker.socket.d; systemctl daemon-reload; systemctl restart docker.socket docker")
			return
		}
	}
	l.add(id, OK, "docker.socket opens "+strings.Join(opens, ", "), why, "")
}

// container is what of GET /containers/{id}/json is read.
type container struct {
	ID, Name   string
	HostConfig struct {
		Privileged bool
		PidMode    string
		CapAdd     []string
		Devices    []struct{ PathOnHost string }
	}
	Mounts []struct{ Type, Name, Driver, Source, Destination string }
}

// rootCaps are capabilities with which a container's root is the host's.
var rootCaps = []string{"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH"}

// checkContainers looks for running containers that have a way past the gate already.
func (l *look) checkContainers(ctx context.Context) {
	const id, why = "container.bypass", "a container that runs keeps what it was started with: the gate judges creates, not what is there"
	var list []struct {
		ID    string `json:"Id"`
		Names []string
	}
	if err := l.query(ctx, "/containers/json", &list); err != nil {
		l.add(id, Unknown, "the daemon does not list its containers: "+oneLine(err), why, "run it as a user whom an AccessPolicy allows container.list and container.inspect through the gate")
		return
	}
	found := false
	for _, e := range list {
		var c container
		if err := l.query(ctx, "/containers/"+e.ID+"/json", &c); err != nil {
			found = true
			l.add(id, Unknown, fmt.Sprintf("the container %.12s is not shown: %s", e.ID, oneLine(err)), why, "run it as a user whom an AccessPolicy allows container.inspect through the gate")
			continue
		}
		name := cmp.Or(strings.TrimPrefix(c.Name, "/"), c.ID)
		fix := "docker rm -f " + name + " and create it again through the gate without it"
		if c.HostConfig.Privileged {
			found = true
			l.add(id, Fail, name+" is privileged, which is root on the host", why, fix)
		}
		if c.HostConfig.PidMode == "host" {
			found = true
			l.add(id, Warn, name+" sees the host's processes, and with CAP_SYS_PTRACE their files", why, fix)
		}
		for _, added := range c.HostConfig.CapAdd {
			if slices.Contains(rootCaps, strings.TrimPrefix(strings.ToUpper(added), "CAP_")) {
				found = true
				l.add(id, Fail, name+" has the capability "+added+", with which its root is the host's", why, fix)
			}
		}
		for _, d := range c.HostConfig.Devices {
			if o, err := l.stat(l.path(d.PathOnHost)); err == nil && o.kind == unix.S_IFBLK {
				found = true
				l.add(id, Fail, name+" has the disk "+d.PathOnHost, why, fix)
			}
		}
		for _, m := range c.Mounts {
			source := m.Source
			if m.Type == "volume" {
				device, err := l.volumeDevice(ctx, m.Name)
				if err != nil {
					found = true
					l.add(id, Unknown, fmt.Sprintf("what the volume %s of %s mounts is not told: %s", m.Name, name, oneLine(err)), why, "run it as a user whom an AccessPolicy allows volume.inspect through the gate")
					continue
				}
				source = cmp.Or(device, source)
			}
			if way := l.wayThrough(source); way != "" {
				found = true
				l.add(id, Fail, fmt.Sprintf("%s has %s mounted, which gives it %s", name, source, way), why, fix)
			}
		}
	}
	if l.info != nil && l.info.ContainersRunning > len(list) {
		found = true
		l.add(id, Unknown, fmt.Sprintf("%d of %d running containers are in the list: the others were not looked at", len(list), l.info.ContainersRunning), why,
			"run it as a user whose AccessPolicy shows all containers")
	}
	if !found {
		l.add(id, OK, fmt.Sprintf("none of %d running containers has a way past the gate", len(list)), why, "")
	}
}

// volumeDevice returns the directory of the host that a local volume binds; "": none.
func (l *look) volumeDevice(ctx context.Context, name string) (string, error) {
	var v struct{ Options map[string]string }
	if err := l.query(ctx, "/volumes/"+url.PathEscape(name), &v); err != nil {
		return "", err
	}
	return v.Options["device"], nil
}

// policyDir is where the agent reads its policies.
const policyDir = "/etc/belay"

// wayThrough says what a mount of a host path gives away; "": nothing that we look for.
func (l *look) wayThrough(source string) string {
	if source == "" {
		return "" // a volume of a driver, or tmpfs
	}
	src := l.resolved(source)
	// The gate, and sockets of the agent's that judge who calls.
	for _, p := range []string{l.Gate, filepath.Join(l.RunDir, "users.sock"), filepath.Join(l.RunDir, "elevate.sock"), filepath.Join(l.RunDir, "scans.sock")} {
		if src == l.resolved(p) {
			return ""
		}
	}
	secret := append(l.containerdSockets(), l.Socket)
	secret = append(secret, l.conf.File, l.RunDir, policyDir)
	secret = append(secret, otherRuntimes...)
	for _, p := range l.pluginPlaces() {
		secret = append(secret, filepath.Dir(p))
	}
	if l.Plugin != "" {
		secret = append(secret, l.Plugin)
	}
	if l.daemon != nil {
		secret = append(secret, l.daemon.unix...)
	}
	for _, s := range secret {
		if strings.HasPrefix(s, "@") {
			continue
		}
		r := l.resolved(s)
		// Above it: the folder that has it. Below it: a file of the plugin's folder.
		if src == r || src == "/" || strings.HasPrefix(r, src+"/") || strings.HasPrefix(src, r+"/") {
			return s
		}
	}
	return ""
}
