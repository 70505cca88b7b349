package dockerapi

import (
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/belay-project/belay/internal/apicall"
)

// readSecurity reads capabilities and what confines a container.
func (r *Request) readSecurity(hc *container.HostConfig, n *node) {
	f := &r.Call.Facts
	f.CapAdd, f.CapDrop = normalCaps(hc.CapAdd), normalCaps(hc.CapDrop)
	// Capabilities was the whole set in one API version. A daemon that reads it
	// adds what it names.
	if legacy := n.get("Capabilities"); legacy != nil {
		for _, kid := range legacy.kids {
			f.CapAdd = append(f.CapAdd, normalCap(kid.text))
		}
	}
	readSecurityOpt(f, hc.SecurityOpt)
	if opens(n.get("MaskedPaths"), maskedByDefault) || opens(n.get("ReadonlyPaths"), readOnlyByDefault) {
		f.SystemPathsOpen = true
	}
}

// normalCaps spells capabilities as the daemon reads them: any case, with and without
// the prefix.
func normalCaps(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = normalCap(c)
	}
	return out
}

func normalCap(c string) string {
	c = strings.ToUpper(strings.TrimSpace(c))
	if c == "ALL" || c == "CAP_ALL" {
		return "ALL"
	}
	if !strings.HasPrefix(c, "CAP_") {
		return "CAP_" + c
	}
	return c
}

// readSecurityOpt reads --security-opt as the daemon does: "=" before ":", the last of
// two options of one key wins, "disable" is a label.
func readSecurityOpt(f *apicall.Facts, opts []string) {
	for _, o := range opts {
		key, value := "", ""
		switch {
		case o == "no-new-privileges" || o == "writable-cgroups":
			key, value = o, "true"
		case o == "disable":
			key, value = "label", "disable"
		case strings.Contains(o, "="):
			key, value, _ = strings.Cut(o, "=")
		default:
			key, value, _ = strings.Cut(o, ":")
		}
		f.SecurityOpt = append(f.SecurityOpt, key+"="+value)
		switch key {
		case "no-new-privileges":
			on, err := strconv.ParseBool(value)
			f.NoNewPrivileges = err == nil && on
		case "seccomp":
			f.Seccomp = seccompKind(value)
		case "apparmor":
			f.AppArmor = value
		case "label":
			f.SELinuxDisabled = f.SELinuxDisabled || value == "disable"
		case "systempaths":
			f.SystemPathsOpen = f.SystemPathsOpen || value == "unconfined"
		}
	}
}

func seccompKind(profile string) string {
	switch profile {
	case "", "unconfined", "builtin":
		return profile
	}
	return "custom"
}

// The paths that every daemon masks and write-protects by default. A list in the
// request replaces the daemon's: one that lacks any of these opens it.
//
// Source: moby, daemon/pkg/oci/defaults.go; the lists of daemons have only grown.
var (
	maskedByDefault   = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"}
	readOnlyByDefault = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func opens(list *node, defaults []string) bool {
	if !isSet(list) {
		return false
	}
	for _, d := range defaults {
		if !slices.ContainsFunc(list.kids, func(k *node) bool { return k.text == d }) {
			return true
		}
	}
	return false
}

// readNamespaces reads every namespace that is not the container's own.
func (r *Request) readNamespaces(hc *container.HostConfig, n *node) {
	mode := string(hc.NetworkMode)
	switch {
	case strings.HasPrefix(mode, "container:"), strings.HasPrefix(mode, "ns:"):
		r.joinNamespace("net", mode, n.get("NetworkMode"))
	default:
		r.joinNetwork(mode, ref{kind: textRef, node: n.get("NetworkMode")})
	}
	r.joinNamespace("pid", string(hc.PidMode), n.get("PidMode"))
	ipc := string(hc.IpcMode)
	if ipc == "" && r.minor < 40 {
		ipc = "shareable" // the daemon's default for older clients
	}
	r.joinNamespace("ipc", ipc, n.get("IpcMode"))
	r.joinNamespace("uts", string(hc.UTSMode), n.get("UTSMode"))
	r.joinNamespace("userns", string(hc.UsernsMode), n.get("UsernsMode"))
	cgroup := string(hc.CgroupnsMode)
	if cgroup == "" && r.minor < 41 && !r.opt.CgroupUnified {
		cgroup = "host" // likewise, on cgroup v1
	}
	r.joinNamespace("cgroup", cgroup, n.get("CgroupnsMode"))
	r.joinNamespace("cgroup", string(hc.Cgroup), n.get("Cgroup"))
}

// joinNamespace records a mode that is not the container's own namespace, in whatever
// spelling: one that we do not know is recorded too, for a check to fail on.
func (r *Request) joinNamespace(ns, mode string, n *node) {
	switch mode {
	case "", "none", "private":
		return
	}
	f := &r.Call.Facts
	f.Namespaces = append(f.Namespaces, ns+"="+mode)
	if name, ok := strings.CutPrefix(mode, "container:"); ok {
		r.addResource(apicall.ResourceContainer, strings.TrimPrefix(name, "/"),
			ref{kind: textRef, node: n, pre: "container:"})
	}
}

// joinNetwork records a network to join, the host's as a namespace too.
func (r *Request) joinNetwork(name string, at ref) {
	f := &r.Call.Facts
	if name == "" || name == network.NetworkDefault {
		return
	}
	if !slices.Contains(f.Networks, name) {
		f.Networks = append(f.Networks, name)
	}
	switch name {
	case network.NetworkHost:
		if !slices.Contains(f.Namespaces, "net=host") {
			f.Namespaces = append(f.Namespaces, "net=host")
		}
	case network.NetworkNone, network.NetworkBridge:
	default:
		r.addResource(apicall.ResourceNetwork, name, at)
	}
}

// endpointSysctls is a driver option that sets sysctls of the endpoint's interface.
const endpointSysctls = "com.docker.network.endpoint.sysctls"

// userDefined says that a daemon goes by the id in an endpoint, where there is one, and not by the
// network's name.
//
// Source: moby, daemon/container_operations.go (getNetworkID).
func userDefined(name string) bool {
	switch name {
	case network.NetworkDefault, network.NetworkBridge, network.NetworkHost, network.NetworkNone:
		return false
	}
	return !strings.HasPrefix(name, "container:") && !strings.HasPrefix(name, "ns:")
}

// readEndpoint reads what a container gets with the network of a name. An id of a network that the
// client says there is one to join; write puts the id that the name is resolved to over it.
func (r *Request) readEndpoint(name string, e *network.EndpointSettings, n *node, write func(id string)) {
	if userDefined(name) {
		if e != nil {
			r.joinNetwork(e.NetworkID, ref{kind: textRef, node: n.get("NetworkID")})
		}
		r.addResource(apicall.ResourceNetwork, name, ref{kind: moreRef, write: write})
	}
	if e == nil {
		return
	}
	if !userDefined(name) && e.NetworkID != "" { // of no use by such a name, but by the id that takes the name's place
		n.set("NetworkID", textNode(""))
		r.changed()
	}
	f := &r.Call.Facts
	for s := range strings.SplitSeq(e.DriverOpts[endpointSysctls], ",") {
		if key, value, ok := strings.Cut(s, "="); ok {
			if f.Sysctls == nil {
				f.Sysctls = map[string]string{}
			}
			f.Sysctls[key] = value
		}
	}
}
