package policy

import (
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// isolationChecks are about the walls between a container, the host and its
// neighbours.
var isolationChecks = []checkSpec{
	{
		name: "noHostNamespaces", doc: "no namespace is the host's (pid, net, ipc, uts, cgroup, userns) or a path of the host's, but those in allow",
		params: allow("namespaces: pid, net, ipc, uts, cgroup, userns", checkNamespace),
		judge: func(in checkInput, a *Args) string {
			for _, ns := range in.facts.Namespaces {
				kind, of, _ := strings.Cut(ns, "=")
				if (of == "host" || strings.HasPrefix(of, "ns:")) && !a.allowed(kind) {
					return "namespace " + quote(ns)
				}
			}
			if !a.allowed("net") {
				for _, n := range in.facts.Networks {
					if n == "host" {
						return "network host"
					}
				}
			}
			return ""
		},
	},
	{
		name: "noJoinedNamespaces", doc: "no namespace is another container's, but those in allow; paths and unknown spellings fail",
		params: allow("namespaces: pid, net, ipc", checkNamespace),
		judge: func(in checkInput, a *Args) string {
			for _, ns := range in.facts.Namespaces {
				kind, of, _ := strings.Cut(ns, "=")
				if of != "host" && of != "shareable" && !(strings.HasPrefix(of, "container:") && a.allowed(kind)) {
					return "namespace " + quote(ns)
				}
			}
			return ""
		},
	},
	{
		name: "noShareableIPC", doc: "the IPC namespace is not offered to other containers",
		judge: func(in checkInput, _ *Args) string {
			for _, ns := range in.facts.Namespaces {
				if ns == "ipc=shareable" {
					return "namespace " + ns
				}
			}
			return ""
		},
	},
	{
		name: "noHostUserns", doc: "the engine's user namespace remapping stays on",
		judge: func(in checkInput, _ *Args) string {
			for _, ns := range in.facts.Namespaces {
				if ns == "userns=host" {
					return "namespace " + ns
				}
			}
			return ""
		},
	},
	{
		name: "networks", doc: "no network is joined but those in allow; without allow, none but the default",
		params: allow("networks, globs", nil),
		judge: func(in checkInput, a *Args) string {
			for _, n := range in.facts.Networks {
				if len(a.Lists["allow"]) == 0 && (n == "default" || n == "bridge") {
					continue
				}
				if !a.allowed(n) {
					return "network " + quote(n)
				}
			}
			return ""
		},
	},
	{
		name: "networkDrivers", doc: "a network is made with the driver bridge, or one of allow (macvlan and ipvlan reach the host's network)",
		params: allow("drivers, globs", nil),
		judge: func(in checkInput, a *Args) string {
			d := in.facts.Driver
			bad := mainKind(in.action) == apicall.ResourceNetwork && d != "" && d != "bridge" && !a.allowed(d)
			return failIf(bad, "network driver %s", quote(d))
		},
	},
	{
		name: "devices", doc: "no device, device rule or device request (GPU, CDI), but those in allow",
		params: []param{
			{"allow", listParam, "host paths of devices, globs", nil},
			{"requests", listParam, "device requests, globs", nil},
		},
		judge: func(in checkInput, a *Args) string {
			if why := a.firstNot("device", in.facts.Devices); why != "" {
				return why
			}
			for _, r := range in.facts.DeviceRequests {
				if !matchAnyText(a.Lists["requests"], r) {
					return "device request " + quote(r)
				}
			}
			if len(in.facts.DeviceCgroupRules) > 0 {
				return "device rule " + quote(in.facts.DeviceCgroupRules[0])
			}
			for _, m := range in.facts.HostMounts {
				if m.Via == "device" && !a.allowed(m.Source) {
					return "device " + quote(m.Source)
				}
			}
			return ""
		},
	},
	{
		name: "sysctls", doc: "no kernel parameter is set but those in allow", params: allow("names, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstKeyNot("sysctl", in.facts.Sysctls) },
	},
	{
		name: "runtimes", doc: "the runtime is the engine's default, runc, or one of allow", params: allow("runtimes, globs", nil),
		judge: func(in checkInput, a *Args) string {
			r := in.facts.Runtime
			return failIf(r != "" && r != "runc" && r != "io.containerd.runc.v2" && !a.allowed(r), "runtime %s", quote(r))
		},
	},
	{
		name: "cgroupParent", doc: "no cgroup parent is chosen but those in allow", params: allow("cgroups, globs", nil),
		judge: func(in checkInput, a *Args) string {
			p := in.facts.CgroupParent
			return failIf(p != "" && !a.allowed(p), "cgroup parent %s", quote(p))
		},
	},
	{
		name: "annotations", doc: "no annotation is given to the runtime but those in allow", params: allow("keys, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstKeyNot("annotation", in.facts.Annotations) },
	},
	{
		name: "storageOptions", doc: "no storage option is set but those in allow", params: allow("keys, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstKeyNot("storage option", in.facts.StorageOpt) },
	},
	{
		name: "isolation", doc: "no isolation technology is chosen but those in allow", params: allow("values, globs", nil),
		judge: func(in checkInput, a *Args) string {
			v := in.facts.Isolation
			return failIf(v != "" && v != "default" && !a.allowed(v), "isolation %s", quote(v))
		},
	},
	{
		name: "readOnlyRoot", about: onCreate, doc: "the root file system is read-only (a default counts)",
		params: []param{{"apiOnly", boolParam, "the container's runtime policy does not get exec.drift: deny", nil}},
		judge: func(in checkInput, _ *Args) string {
			return failIf(!in.facts.ReadOnly && !in.set.ReadOnlyRoot, "the root file system is writable")
		},
	},
	{
		name: "noTmpfs", doc: "no tmpfs is mounted but on those in allow", params: allow("paths in the container, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstNot("tmpfs", in.facts.Tmpfs) },
	},
	{
		name: "extraHosts", doc: "no line is added to /etc/hosts but those in allow",
		params: allow("lines as host:address, globs", nil),
		judge:  func(in checkInput, a *Args) string { return a.firstNot("extra host", in.facts.ExtraHosts) },
	},
}

var checkNamespace = checkWord("pid", "net", "ipc", "uts", "cgroup", "userns")
