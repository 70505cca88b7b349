package policy

import (
	"path"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// hostChecks are about pieces of the host that a request would give away.
var hostChecks = []checkSpec{
	{
		name: "hostMounts",
		doc:  "no path of the host is mounted but at or below those in allow (read-only: or in readOnly), symbolic links resolved",
		params: []param{
			{"allow", listParam, "directories of the host", checkRoot},
			{"readOnly", listParam, "directories of the host that may be mounted read-only", checkRoot},
		},
		judge: judgeHostMounts,
	},
	{
		name: "noSocketMounts",
		doc: "no socket of a container runtime or of Belay is mounted, nor a directory that holds one " +
			"(docker.sock, containerd.sock, crio.sock, podman.sock, the BuildKit and control sockets)",
		params: []param{
			{"also", listParam, "further sockets and directories", checkRoot},
			{"allow", listParam, "sockets that may be mounted: the gate's own", checkRoot},
		},
		judge: func(in checkInput, a *Args) string {
			for i := range in.facts.HostMounts {
				m := &in.facts.HostMounts[i]
				if m.GateSocket {
					continue // who calls through it is judged
				}
				if why := socketMount(m, a); why != "" {
					return why
				}
			}
			return ""
		},
	},
	{
		name: "noSensitiveMounts",
		doc: "none of /, /boot, /dev, /etc, /lib/modules, /proc, /root, /run, /sys, /usr, /var/lib (docker, containerd, kubelet, belay) " +
			"and nothing in them is mounted, but below those in allow",
		params: allow("directories of the host", checkRoot),
		judge: func(in checkInput, a *Args) string {
			for i := range in.facts.HostMounts {
				m := &in.facts.HostMounts[i]
				if m.GateSocket {
					continue
				}
				for _, p := range hostPaths(m) {
					if isSensitive(p) && !slices.ContainsFunc(a.Lists["allow"], func(dir string) bool { return under(dir, p) }) {
						return mountText(m, p)
					}
				}
			}
			return ""
		},
	},
	{
		name: "noSharedPropagation", doc: "no mount propagates back to the host (shared, rshared)",
		judge: func(in checkInput, _ *Args) string {
			for i := range in.facts.HostMounts {
				switch m := &in.facts.HostMounts[i]; m.Propagation {
				case "", "private", "rprivate", "slave", "rslave":
				default:
					return mountText(m, m.Source) + " with propagation " + quote(m.Propagation)
				}
			}
			return ""
		},
	},
	{
		name: "noImageMounts", doc: "no image is mounted as a volume",
		judge: func(in checkInput, _ *Args) string {
			for i := range in.facts.HostMounts {
				if m := &in.facts.HostMounts[i]; m.Via == "image" {
					return "image mount " + quote(m.Source)
				}
			}
			return ""
		},
	},
	{
		name: "volumeDrivers", doc: "volumes are of the driver local, or of those in allow", params: allow("drivers, globs", nil),
		judge: func(in checkInput, a *Args) string {
			if d := in.facts.Driver; mainKind(in.action) == apicall.ResourceVolume && d != "" && d != "local" && !a.allowed(d) {
				return "volume driver " + quote(d)
			}
			for i := range in.facts.HostMounts {
				m := &in.facts.HostMounts[i]
				if m.Driver != "" && m.Driver != "local" && !a.allowed(m.Driver) {
					return "volume driver " + quote(m.Driver)
				}
			}
			return ""
		},
	},
	{
		name: "volumeOptions",
		doc:  "no option of a volume driver: with type, device and o the local driver mounts anything; size and uid of tmpfs pass",
		judge: func(in checkInput, _ *Args) string {
			if mainKind(in.action) == apicall.ResourceVolume {
				if k := badVolumeOption(in.facts.DriverOptions); k != "" {
					return "volume option " + quote(k)
				}
			}
			for i := range in.facts.HostMounts {
				m := &in.facts.HostMounts[i]
				if k := badVolumeOption(m.Options); k != "" {
					return "volume option " + quote(k) + " of " + quote(m.Source)
				}
			}
			return ""
		},
	},
	{
		name: "volumes", doc: "no named volume is mounted but those in allow", params: allow("names, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstNot("volume", in.facts.Volumes) },
	},
	{
		name: "noVolumesFrom", doc: "no other container's volumes are taken but those in allow",
		params: allow("containers, globs", nil),
		judge: func(in checkInput, a *Args) string {
			if why := a.firstNot("volumes of", in.facts.VolumesFrom); why != "" {
				return why
			}
			for i := range in.facts.HostMounts {
				if m := &in.facts.HostMounts[i]; m.Via == "volumesFrom" && !a.allowed(m.Source) {
					return "volumes of " + quote(m.Source)
				}
			}
			return ""
		},
	},
	{
		name: "noDaemonPaths", doc: "the daemon reads and writes no path of the host that the caller names (checkpoint directories), but below allow",
		params: allow("directories of the host", checkRoot),
		judge: func(in checkInput, a *Args) string {
			for _, p := range in.facts.Paths {
				if !isCleanAbs(p) || !slices.ContainsFunc(a.Lists["allow"], func(dir string) bool { return under(dir, p) }) {
					return "path " + quote(p)
				}
			}
			return ""
		},
	},
}

// judgeHostMounts passes a bind whose resolved source lies below an allowed root. All
// other ways to a path or device of the host fail unless they too resolve to one.
func judgeHostMounts(in checkInput, a *Args) string {
	for i := range in.facts.HostMounts {
		m := &in.facts.HostMounts[i]
		if m.Via == "image" || m.Via == "volumesFrom" || m.GateSocket {
			continue // other checks are about these
		}
		if m.Via == "volume" && m.Source == "" && badVolumeOption(m.Options) == "" {
			continue // a volume in the engine's own directory
		}
		if m.Resolved == "" || !isCleanAbs(m.Resolved) {
			return mountText(m, m.Source) + ": not resolved to a path of the host"
		}
		inside := func(dir string) bool { return under(dir, m.Resolved) }
		readOnly := m.ReadOnly && !m.Shallow // a mount below a shallow one stays writable
		if slices.ContainsFunc(a.Lists["allow"], inside) || readOnly && slices.ContainsFunc(a.Lists["readOnly"], inside) {
			continue
		}
		if slices.ContainsFunc(a.Lists["readOnly"], inside) {
			return mountText(m, m.Resolved) + " is not read-only"
		}
		return mountText(m, m.Resolved)
	}
	return ""
}

func mountText(m *apicall.HostMount, p string) string {
	via := m.Via
	if via == "" {
		via = "mount"
	}
	if p != m.Source && m.Source != "" {
		return via + " " + quote(m.Source) + " (" + short(p) + ")"
	}
	return via + " " + quote(p)
}

// hostPaths returns the paths of the host that a mount shows: as asked and as
// resolved, and those in a volume driver's options (overlay's lowerdir and the like).
func hostPaths(m *apicall.HostMount) []string {
	var out []string
	add := func(p string) {
		if strings.HasPrefix(p, "/") {
			if p = path.Clean(p); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	add(m.Source)
	add(m.Resolved)
	add(m.Options["device"])
	for _, v := range m.Options {
		for part := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == '=' || r == ':' }) {
			add(part)
		}
	}
	return out
}

// sockets are where container runtimes and Belay listen.
var sockets = []string{
	"/run/docker.sock", "/run/docker", "/run/containerd", "/run/crio", "/run/podman", "/run/buildkit",
	"/run/belay", "/run/k3s", "/run/cri-dockerd.sock", "/run/dockershim.sock", "/var/lib/belay",
}

// socketNames are names of sockets that give the host away wherever they lie: an
// engine of one user has them below /run/user or the home directory.
var socketNames = []string{
	"docker.sock", "docker-raw.sock", "containerd.sock", "containerd.sock.ttrpc", "crio.sock", "podman.sock",
	"buildkitd.sock", "cri-dockerd.sock", "dockershim.sock", "kubelet.sock", "control.sock", "nri.sock",
}

func socketMount(m *apicall.HostMount, a *Args) string {
	also := a.Lists["also"]
	for _, p := range hostPaths(m) {
		q := withoutVarRun(p)
		if slices.ContainsFunc(a.Lists["allow"], func(s string) bool { return withoutVarRun(s) == q }) {
			continue
		}
		hit := slices.Contains(socketNames, path.Base(q))
		for _, list := range [][]string{sockets, also} {
			hit = hit || slices.ContainsFunc(list, func(s string) bool { return overlaps(withoutVarRun(s), q) })
		}
		if hit || strings.HasPrefix(q, "/run/user/") && strings.Count(q, "/") == 3 {
			return mountText(m, p)
		}
	}
	return ""
}

// withoutVarRun turns /var/run, a symbolic link on every system, into /run, and the
// same through /proc.
func withoutVarRun(p string) string {
	if rest, ok := strings.CutPrefix(p, "/proc/"); ok {
		if _, in, ok := strings.Cut(rest, "/root/"); ok {
			p = "/" + in
		}
	}
	if p == "/var/run" || strings.HasPrefix(p, "/var/run/") {
		return strings.TrimPrefix(p, "/var")
	}
	return p
}

var sensitive = []string{
	"/boot", "/dev", "/etc", "/lib/modules", "/proc", "/root", "/run", "/sys", "/usr", "/var/lib/docker",
	"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/belay", "/var/lib/rancher", "/var/spool/cron",
}

func isSensitive(p string) bool {
	p = withoutVarRun(p)
	return slices.ContainsFunc(sensitive, func(s string) bool { return overlaps(s, p) })
}

// badVolumeOption returns the name of an option by which a volume can be more than a
// directory of the engine's own; "" if there is none.
func badVolumeOption(options map[string]string) string {
	var bad []string
	for k, v := range options {
		switch {
		case k == "type" && v == "tmpfs", k == "device" && v == "tmpfs":
		case k == "o" && onlyTmpfsOptions(v):
		case k == "size":
		default:
			bad = append(bad, k)
		}
	}
	if len(bad) > 0 {
		slices.Sort(bad)
		return bad[0]
	}
	if len(options) > 0 && options["type"] != "tmpfs" && (options["o"] != "" || options["device"] != "") {
		return "type"
	}
	return ""
}

func onlyTmpfsOptions(o string) bool {
	for opt := range strings.SplitSeq(o, ",") {
		switch k, _, _ := strings.Cut(opt, "="); k {
		case "size", "uid", "gid", "mode", "nr_inodes", "nosuid", "nodev", "noexec", "ro":
		default:
			return false
		}
	}
	return true
}
