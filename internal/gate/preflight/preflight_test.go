package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const upstream = "/run/docker-upstream/docker.sock"

// host is a fake one: files below root, owners, and what the daemon answers.
type host struct {
	t       *testing.T
	root    string
	owners  map[string]owner
	unread  map[string]bool   // stat fails
	answers map[string]string // by target; "403 …" refuses
	down    map[string]bool   // sockets where nobody listens
	o       Options
}

// guarded is the host of testdata/guarded: the daemon's socket is private, the plugin is in
// force, the gate answers.
func guarded(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, root: t.TempDir(), owners: map[string]owner{}, unread: map[string]bool{}, down: map[string]bool{}}
	if err := os.CopyFS(h.root, os.DirFS("testdata/guarded")); err != nil {
		t.Fatal(err)
	}
	h.answers = map[string]string{
		"/info":    `{"Plugins":{"Authorization":["belay"]},"SecurityOptions":["name=seccomp,profile=default"]}`,
		"/plugins": `[]`, "/_ping": "OK", "/containers/json": `[{"Id":"c1"}]`,
		"/containers/c1/json": `{"Id":"c1","Name":"/web","HostConfig":{"PidMode":""},"Mounts":[{"Source":"/srv/web"},{"Source":"/run/belay/docker.sock"}]}`,
	}
	h.rootOf("77", "/")
	h.owners["/run/docker-upstream"] = owner{mode: 0o700, kind: unix.S_IFDIR}
	h.owners["/run/belay/docker.sock"] = owner{gid: 998, mode: 0o660, kind: unix.S_IFSOCK}
	h.owners["/run/docker.sock"] = owner{gid: 998, mode: 0o660, kind: unix.S_IFSOCK}
	h.o = Options{Socket: upstream}
	return h
}

func (h *host) stat(path string) (owner, error) {
	p := filepath.Join("/", strings.TrimPrefix(path, h.root))
	if h.unread[p] {
		return owner{}, &fs.PathError{Op: "stat", Path: p, Err: fs.ErrPermission}
	}
	if o, ok := h.owners[p]; ok {
		return o, nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return owner{}, err
	}
	if st.IsDir() {
		return owner{mode: 0o755, kind: unix.S_IFDIR}, nil
	}
	return owner{mode: 0o600, kind: unix.S_IFSOCK}, nil
}

func (h *host) api(_ context.Context, socket, target string) (int, []byte, error) {
	if h.down[strings.TrimPrefix(socket, h.root)] {
		return 0, nil, errors.New("connection refused")
	}
	a, ok := h.answers[target]
	if refused, no := strings.CutPrefix(a, "403 "); no && strings.HasSuffix(socket, upstream) {
		return 403, []byte(refused), nil
	}
	if !ok {
		return 404, nil, nil
	}
	return 200, []byte(a), nil
}

func (h *host) run() Report {
	h.o.root, h.o.stat, h.o.api = h.root, h.stat, h.api
	return Run(h.t.Context(), h.o)
}

func (h *host) write(path, text string) {
	h.t.Helper()
	p := filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// rootOf gives a process a directory of the host as its root.
func (h *host) rootOf(pid, dir string) {
	h.t.Helper()
	if err := os.Symlink(filepath.Join(h.root, dir), filepath.Join(h.root, "proc", pid, "root")); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(path string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.root, path)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) args(args ...string) {
	h.write("/proc/77/cmdline", "/usr/bin/dockerd\x00"+strings.Join(args, "\x00")+"\x00")
}

func (h *host) listen(addr string) {
	h.write("/proc/77/net/tcp", "  sl  local_address rem_address   st\n   0: "+addr+" 00000000:0000 0A 0:0 0:0 0 0 0 1002 1 0\n")
}

// takenOver is the host after "belay enable-gate", as a caller sees it who names no socket: a process of that
// name listens at Docker's usual place.
func (h *host) takenOver(program string) {
	h.remove("/run/belay/docker.sock")
	delete(h.owners, "/run/belay/docker.sock")
	h.o.Socket = "/var/run/docker.sock"
	h.write("/proc/88/cmdline", program+"\x00run\x00")
	h.rootOf("88", "/")
	h.write("/proc/88/net/unix", "Num\n0: 2 0 00010000 0001 01 2001 /run/docker.sock.new\n")
	h.write("/proc/88/net/tcp", "sl\n")
	if err := os.Mkdir(filepath.Join(h.root, "/proc/88/fd"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink("socket:[2001]", filepath.Join(h.root, "/proc/88/fd/5")); err != nil {
		h.t.Fatal(err)
	}
}

// worst returns the worst finding of an id.
func worst(r Report, id string) Finding {
	for _, f := range r.Findings { // worst first
		if f.ID == id {
			return f
		}
	}
	return Finding{ID: "none"}
}

func TestGuarded(t *testing.T) {
	r := guarded(t).run()
	ids := []string{
		"daemon.process", "daemon.config", "daemon.live-restore", "daemon.security", "daemon.socket", "daemon.tcp", "docker.group", "plugin.inforce",
		"plugin.order", "plugin.namesake", "plugin.place", "gate.socket", "containerd.socket", "runtime.other", "systemd.socket", "container.bypass",
	}
	for _, id := range ids {
		if f := worst(r, id); f.Severity != OK || f.Fix != "" || f.Why == "" {
			t.Errorf("%s: got %+v, want ok", id, f)
		}
	}
	for _, f := range r.Findings {
		if !slices.Contains(ids, f.ID) || f.Severity != OK {
			t.Errorf("unexpected: %+v", f)
		}
	}
	if r.Failed() {
		t.Error("it fails")
	}
}

// Each row spoils one thing of the guarded host.
func TestFindings(t *testing.T) {
	const H = "unix://" + upstream
	inspect := func(text string) func(*host) {
		return func(h *host) { h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web",` + text + `}` }
	}
	for _, c := range []struct {
		name  string
		spoil func(h *host)
		id    string
		want  Severity
		what  string // part of
	}{
		{"no daemon", func(h *host) { h.remove("/proc/77") }, "daemon.process", Unknown, "no dockerd"},
		{"its sockets cannot be read", func(h *host) { h.remove("/proc/77/net/unix") }, "daemon.process", Unknown, "cannot be read"},
		{"whose files it sees cannot be read", func(h *host) {
			h.remove("/proc/77/root")
			loop := filepath.Join(h.root, "/proc/77/root")
			if err := os.Symlink(loop, loop); err != nil {
				h.t.Fatal(err)
			}
		}, "daemon.process", Unknown, "cannot be read"},
		{"it has files of its own", func(h *host) {
			h.remove("/proc/77/root")
			h.rootOf("77", "/etc")
		}, "daemon.process", Unknown, "1 more with files of their own"},
		{"no processes", func(h *host) { h.remove("/proc") }, "daemon.process", Unknown, "cannot be listed"},
		{"it listens elsewhere", func(h *host) { h.o.Socket = "/run/docker.sock" }, "daemon.process", OK, "the only one, listens on " + upstream},
		{"the socket is the group's, with the plugin", func(h *host) {
			h.owners["/run/docker-upstream"] = owner{mode: 0o755}
			h.owners[upstream] = owner{gid: 998, mode: 0o660}
		}, "daemon.socket", Warn, "group docker"},
		{"the socket is the group's, without", func(h *host) {
			h.owners["/run/docker-upstream"] = owner{mode: 0o755}
			h.owners[upstream] = owner{gid: 998, mode: 0o660}
			h.answers["/info"] = `{}`
		}, "daemon.socket", Fail, "group docker"},
		{"members", func(h *host) {
			h.owners["/run/docker-upstream"] = owner{mode: 0o755}
			h.owners[upstream] = owner{gid: 998, mode: 0o660}
			h.answers["/info"] = `{}`
		}, "docker.group", Fail, "alice bob carol"},
		{"the socket is everybody's", func(h *host) {
			h.owners["/run/docker-upstream"] = owner{mode: 0o711}
			h.owners[upstream] = owner{mode: 0o666}
			h.answers["/info"] = `{}`
		}, "daemon.socket", Fail, "everybody"},
		{"the socket has an ACL", func(h *host) {
			h.owners["/run/docker-upstream"] = owner{mode: 0o755}
			h.owners[upstream] = owner{mode: 0o600, acl: true}
			h.answers["/info"] = `{}`
		}, "daemon.socket", Fail, "ACL"},
		{"the socket cannot be looked at", func(h *host) { h.unread[upstream] = true }, "daemon.socket", Unknown, ""},
		{"an abstract socket", func(h *host) {
			h.write("/proc/77/net/unix", "Num\n0: 2 0 00010000 0001 01 1001 @docker\n")
			h.o.Socket = "@docker"
			h.answers["/info"] = `{}`
		}, "daemon.socket", Fail, "abstract"},
		{"groups cannot be read", func(h *host) { h.remove("/etc/group") }, "docker.group", Unknown, ""},
		{"TCP without TLS", func(h *host) {
			h.args("-H", H, "-H", "tcp://0.0.0.0:2375")
			h.listen("00000000:0947")
		}, "daemon.tcp", Fail, "0.0.0.0:2375 without client certificates"},
		{"TCP on loopback", func(h *host) {
			h.args("-H="+H, "-Htcp://127.0.0.1:2375", "--tls")
			h.listen("0100007F:0947")
		}, "daemon.tcp", Fail, "127.0.0.1:2375"},
		{"TCP with client certificates and the plugin", func(h *host) {
			h.args("--host", H, "--host=tcp://:2376", "--tlsverify")
			h.listen("00000000:0948")
		}, "daemon.tcp", Warn, "for client certificates"},
		{"TCP with client certificates alone", func(h *host) {
			h.args("--host", H, "--host=tcp://:2376", "--tlsverify")
			h.listen("00000000:0948")
			h.answers["/info"] = `{}`
		}, "daemon.tcp", Fail, "for client certificates"},
		{"tlsverify=false", func(h *host) {
			h.args("--host", H, "--host=tcp://:2376", "--tlsverify=false")
			h.listen("00000000:0948")
		}, "daemon.tcp", Fail, "without"},
		{"TCP that is no host", func(h *host) { h.listen("00000000:094D") }, "daemon.tcp", Warn, "none of its hosts"},
		{"TCP cannot be read", func(h *host) { h.remove("/proc/77/net/tcp") }, "daemon.tcp", Unknown, ""},
		{"others write daemon.json", func(h *host) { h.owners["/etc/docker/daemon.json"] = owner{mode: 0o666} }, "daemon.config", Fail, "everybody"},
		{"others own its folder", func(h *host) { h.owners["/etc/docker"] = owner{uid: 1000, mode: 0o755} }, "daemon.config", Fail, "uid 1000"},
		{"daemon.json is broken", func(h *host) { h.write("/etc/docker/daemon.json", "{") }, "daemon.config", Unknown, "understood"},
		{"another daemon.json", func(h *host) { h.args("-H", H, "--config-file", "/etc/other.json") }, "daemon.config", OK, "/etc/other.json"},
		{"no live-restore", func(h *host) { h.write("/etc/docker/daemon.json", `{"authorization-plugins":["belay"]}`) }, "daemon.live-restore", Warn, "off"},
		{"no seccomp", func(h *host) { h.answers["/info"] = `{"SecurityOptions":["name=seccomp,profile=unconfined"]}` }, "daemon.security", Warn, ""},
		{"the daemon does not answer", func(h *host) { h.down[upstream], h.down["/run/belay/docker.sock"] = true, true }, "daemon.security", Unknown, ""},
		{"the plugin is unknown then", func(h *host) { h.down[upstream], h.down["/run/belay/docker.sock"] = true, true }, "plugin.inforce", Unknown, ""},
		{"the plugin is not in force", func(h *host) { h.answers["/info"] = `{}` }, "plugin.inforce", Fail, "configured and not in force"},
		{"the plugin is not configured", func(h *host) { h.write("/etc/docker/daemon.json", `{}`) }, "plugin.inforce", Fail, "not configured"},
		{"no plugin", func(h *host) { h.write("/etc/docker/daemon.json", `{}`); h.answers["/info"] = `{}` }, "plugin.inforce", Fail, "asks no plugin"},
		{"it refuses us", func(h *host) {
			h.answers["/info"] = "403 authorization denied by plugin belay: belay: no ticket"
			h.down["/run/belay/docker.sock"] = true
		}, "plugin.inforce", OK, ""},
		{"another plugin refuses us", func(h *host) {
			h.answers["/info"] = "403 authorization denied by plugin other: no"
			h.down["/run/belay/docker.sock"] = true
		}, "plugin.inforce", Unknown, ""},
		{"another plugin before it", func(h *host) { h.write("/etc/docker/daemon.json", `{"authorization-plugins":["opa","belay"]}`) }, "plugin.order", Warn, "opa"},
		{"a namesake", func(h *host) { h.answers["/plugins"] = `[{"Name":"belay:latest"}]` }, "plugin.namesake", Fail, "belay:latest"},
		{"plugins are not listed", func(h *host) { delete(h.answers, "/plugins") }, "plugin.namesake", Unknown, ""},
		{"the plugin's place is gone", func(h *host) { h.remove("/run/docker/plugins/belay.sock") }, "plugin.place", Fail, "finds no plugin"},
		{"others write the plugin's folder", func(h *host) { h.owners["/run/docker/plugins"] = owner{gid: 998, mode: 0o775} }, "plugin.place", Fail, "group docker"},
		{"a spec in wait", func(h *host) {
			h.write("/etc/docker/plugins/belay.spec", "unix:///x")
			h.owners["/etc/docker/plugins/belay.spec"] = owner{uid: 1000, mode: 0o644}
		}, "plugin.place", Fail, "uid 1000"},
		{"a spec that names TCP", func(h *host) {
			h.remove("/run/docker/plugins/belay.sock")
			h.write("/etc/docker/plugins/belay.spec", "tcp://127.0.0.1:1")
		}, "plugin.place", Fail, "no unix socket"},
		{"a spec", func(h *host) {
			h.remove("/run/docker/plugins/belay.sock")
			h.write("/etc/docker/plugins/belay.spec", "unix:///run/belay/authz.sock")
			h.o.Plugin = "/run/belay/authz.sock"
		}, "plugin.place", OK, ""},
		{"a spec whose socket is gone", func(h *host) {
			h.remove("/run/docker/plugins/belay.sock")
			h.write("/etc/docker/plugins/belay.spec", "unix:///run/belay/gone.sock")
		}, "plugin.place", Fail, "gone.sock is not there"},
		{"the agent's is another", func(h *host) { h.o.Plugin = "/run/other.sock" }, "plugin.place", Fail, "/run/other.sock"},
		{"no gate", func(h *host) { h.o.Gate = "none" }, "gate.socket", Fail, "no gate"},
		{"the gate is gone", func(h *host) { h.remove("/run/belay/docker.sock"); delete(h.owners, "/run/belay/docker.sock") }, "gate.socket", Fail, "not there"},
		{"the gate was put before the daemon", func(h *host) { h.takenOver("/usr/sbin/belay-agent") }, "gate.socket", OK, "/run/docker.sock answers"},
		{"somebody else is before the daemon", func(h *host) { h.takenOver("/usr/bin/proxy") }, "gate.socket", Fail, "/run/belay/docker.sock is not there"},
		{"a user's process says that it is the gate", func(h *host) {
			h.takenOver("/home/u/belay-agent")
			h.owners["/proc/88"] = owner{uid: 1000, kind: unix.S_IFDIR, mode: 0o555}
		}, "gate.socket", Fail, "/run/belay/docker.sock is not there"},
		{"a container's process says that it is the daemon", func(h *host) {
			h.args("-H", H, "-H", "tcp://0.0.0.0:2375")
			h.listen("00000000:0947")
			if err := os.CopyFS(filepath.Join(h.root, "proc/100"), os.DirFS("testdata/guarded/proc/77")); err != nil {
				h.t.Fatal(err)
			}
			h.rootOf("100", "/etc")
		}, "daemon.tcp", Fail, "0.0.0.0:2375 without client certificates"},
		{"a container has the control socket", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"bind","Source":"/run/belay/control.sock"}]}`
		}, "container.bypass", Fail, "control.sock"},
		{"a container has a socket that judges its callers", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"bind","Source":"/run/belay/users.sock"}]}`
		}, "container.bypass", OK, "none of"},
		{"TCP that systemd hands over", func(h *host) {
			h.args("-H", "fd://", "-H", "tcp://127.0.0.1:2376")
			h.listen("00000000:0947")
		}, "daemon.tcp", Fail, "0.0.0.0:2375 without client certificates"},
		{"a container may do all", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","HostConfig":{"CapAdd":["ALL"]}}`
		}, "container.bypass", Fail, "web has the capability ALL"},
		{"a container has the agent's sockets", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"bind","Source":"/run/belay"}]}`
		}, "container.bypass", Fail, "/run/belay"},
		{"a container has the agent's pins", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"bind","Source":"/run/belay/bpf"}]}`
		}, "container.bypass", Fail, "/run/belay"},
		{"a container may ask for scans", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"bind","Source":"/run/belay/scans.sock"}]}`
		}, "container.bypass", OK, "none of 1"},
		{"a container has another engine's socket", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"bind","Source":"/run/podman/podman.sock"}]}`
		}, "container.bypass", Fail, "podman"},
		{"a container has a volume of a directory", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"volume","Name":"v","Source":"/var/lib/docker/volumes/v/_data"}]}`
			h.answers["/volumes/v"] = `{"Options":{"type":"none","o":"bind","device":"/run/docker-upstream"}}`
		}, "container.bypass", Fail, "/run/docker-upstream"},
		{"a volume is not told", func(h *host) {
			h.answers["/containers/c1/json"] = `{"Id":"c1","Name":"/web","Mounts":[{"Type":"volume","Name":"v","Source":"/var/lib/docker/volumes/v/_data"}]}`
		}, "container.bypass", Unknown, "the volume v"},
		{"not all containers are shown", func(h *host) {
			h.answers["/info"] = `{"Plugins":{"Authorization":["belay"]},"SecurityOptions":["name=seccomp,profile=default"],"ContainersRunning":3}`
		}, "container.bypass", Unknown, "1 of 3"},
		{"the gate before the daemon is down", func(h *host) {
			h.takenOver("/usr/sbin/belay-agent")
			h.down["/run/docker.sock"] = true
		}, "gate.socket", Fail, "/run/docker.sock does not answer"},
		{"the gate is down", func(h *host) { h.down["/run/belay/docker.sock"] = true }, "gate.socket", Fail, "does not answer"},
		{"the gate is a file", func(h *host) { h.owners["/run/belay/docker.sock"] = owner{kind: unix.S_IFREG} }, "gate.socket", Fail, "no socket"},
		{"the gate is the daemon", func(h *host) { h.o.Gate = upstream }, "gate.socket", Fail, "the daemon's own"},
		{"others write the gate's folder", func(h *host) { h.owners["/run/belay"] = owner{mode: 0o777} }, "gate.socket", Fail, "everybody"},
		{"the gate cannot be looked at", func(h *host) { h.unread["/run/belay/docker.sock"] = true }, "gate.socket", Unknown, ""},
		{"containerd is the group's", func(h *host) { h.owners["/run/containerd/containerd.sock"] = owner{gid: 998, mode: 0o660} }, "containerd.socket", Fail, "group docker"},
		{"containerd is gone", func(h *host) { h.remove("/run/containerd") }, "containerd.socket", Unknown, ""},
		{"containerd cannot be looked at", func(h *host) { h.unread["/run/containerd/containerd.sock"] = true }, "containerd.socket", Unknown, ""},
		{"podman", func(h *host) { h.write("/run/podman/podman.sock", "") }, "runtime.other", Warn, "podman"},
		{"cri-o for everybody", func(h *host) {
			h.write("/run/crio/crio.sock", "")
			h.owners["/run/crio/crio.sock"] = owner{mode: 0o666}
		}, "runtime.other", Fail, "everybody"},
		{"docker.socket", func(h *host) {
			h.write("/lib/systemd/system/docker.socket", "[Socket]\nListenStream=/run/docker.sock\n")
		}, "systemd.socket", Warn, "/run/docker.sock"},
		{"docker.socket in use", func(h *host) {
			h.write("/lib/systemd/system/docker.socket", "[Socket]\nListenStream=/var/run/docker.sock\n")
			h.write("/proc/77/net/unix", "Num\n0: 2 0 00010000 0001 01 1001 /run/docker.sock\n")
			h.o.Socket = "/run/docker.sock"
			h.answers["/info"] = `{}`
		}, "systemd.socket", Fail, "/run/docker.sock"},
		{"docker.socket moved", func(h *host) {
			h.write("/lib/systemd/system/docker.socket", "[Socket]\nListenStream=/run/docker.sock\n")
			h.write("/etc/systemd/system/docker.socket.d/belay.conf", "[Socket]\nListenStream=\nListenStream="+upstream+"\n")
		}, "systemd.socket", OK, upstream},
		{"docker.socket moved the wrong way", func(h *host) {
			h.write("/lib/systemd/system/docker.socket", "[Socket]\nListenStream=/run/docker.sock\n")
			h.write("/etc/systemd/system/docker.socket.d/belay.conf", "[Socket]\nListenStream="+upstream+"\n")
		}, "systemd.socket", Warn, "/run/docker.sock"},
		{"docker.socket cannot be read", func(h *host) { h.write("/etc/systemd/system/docker.socket/x", "") }, "systemd.socket", Unknown, ""},
		{"privileged", inspect(`"HostConfig":{"Privileged":true}`), "container.bypass", Fail, "web is privileged"},
		{"pid=host", inspect(`"HostConfig":{"PidMode":"host"}`), "container.bypass", Warn, "processes"},
		{"the daemon's socket", inspect(`"Mounts":[{"Source":"` + upstream + `"}]`), "container.bypass", Fail, upstream},
		{"its folder by a link", inspect(`"Mounts":[{"Source":"/var/run/docker-upstream"}]`), "container.bypass", Fail, upstream},
		{"the root", inspect(`"Mounts":[{"Source":"/"}]`), "container.bypass", Fail, "mounted"},
		{"containerd's folder", inspect(`"Mounts":[{"Source":"/run/containerd"}]`), "container.bypass", Fail, "containerd.sock"},
		{"the plugin's folder", inspect(`"Mounts":[{"Source":"/run/docker/plugins"}]`), "container.bypass", Fail, "plugins"},
		{"daemon.json's folder", inspect(`"Mounts":[{"Source":"/etc"}]`), "container.bypass", Fail, "/etc"},
		{"containers are not listed", func(h *host) { delete(h.answers, "/containers/json") }, "container.bypass", Unknown, ""},
		{"a container is not shown", func(h *host) { delete(h.answers, "/containers/c1/json") }, "container.bypass", Unknown, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := guarded(t)
			c.spoil(h)
			if h.o.Plugin == "/run/belay/authz.sock" {
				h.write("/run/belay/authz.sock", "")
			}
			r := h.run()
			f := worst(r, c.id)
			if f.Severity != c.want || !strings.Contains(f.What, c.what) {
				t.Errorf("got %+v, want %s %s with %q", f, c.want, c.id, c.what)
			}
			if f.Severity != OK && (f.Fix == "" || f.Why == "") {
				t.Errorf("%+v has no fix, or does not say why", f)
			}
			if c.want == Fail && !r.Failed() {
				t.Error("the report does not fail")
			}
		})
	}
}

func TestSeverity(t *testing.T) {
	if Severity(99).String() != "unknown" || Severity(0) != Unknown {
		t.Error("what is not known is not unknown")
	}
	var s Severity
	if err := json.Unmarshal([]byte(`"fail"`), &s); err != nil || s != Fail {
		t.Errorf("got %v, %v", s, err)
	}
	if err := json.Unmarshal([]byte(`"fine"`), &s); err != nil || s != Unknown {
		t.Errorf("got %v, %v", s, err)
	}
}
