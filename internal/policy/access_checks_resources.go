package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// resourceChecks are about what a container may use up, publish and keep running.
var resourceChecks = []checkSpec{
	{
		name: "limits", about: onLimits,
		doc: "memory, cpus and pids are limited, to at most these values; alone: memory and pids are limited at all (a default counts)",
		params: []param{
			{"memory", textParam, "most bytes, such as 2Gi", checkSizeText},
			{"cpus", textParam, "most CPUs, such as 1.5", checkCPUText},
			{"pids", textParam, "most processes and threads", checkCount},
		},
		judge: judgeLimits,
	},
	{
		name: "publishedPorts", doc: "no port of the host is published but within ports, on addresses of hostIPs",
		params: []param{
			{"ports", listParam, "ports and ranges, such as 8000-8999; 0 is any free port", checkPortRange},
			{"hostIPs", listParam, "addresses, such as 127.0.0.1; default: any", checkIP},
		},
		need: func(a *Args) (msg, fix string) {
			if len(a.Lists["hostIPs"]) > 0 && len(a.Lists["ports"]) == 0 {
				return "hostIPs without ports: no port could pass", "add ports: [0, \"1024-65535\"]"
			}
			return "", ""
		},
		judge: func(in checkInput, a *Args) string {
			for _, p := range in.facts.Ports {
				if why := judgePort(p, a); why != "" {
					return why
				}
			}
			return ""
		},
	},
	{
		name: "noPublishAll", doc: "not all exposed ports are published (-P)",
		judge: func(in checkInput, _ *Args) string { return failIf(in.facts.PublishAll, "all ports are published") },
	},
	{
		name: "restartPolicies", doc: "the restart policy is no, on-failure, or one of allow",
		params: allow("always, unless-stopped", checkWord("always", "unless-stopped")),
		judge: func(in checkInput, a *Args) string {
			p := in.facts.RestartPolicy
			return failIf(p != "" && p != "no" && p != "on-failure" && !a.allowed(p), "restart policy %s", quote(p))
		},
	},
	{
		name: "logDrivers", doc: "the log driver is the engine's default, json-file, local, none or one of allow",
		params: allow("drivers, globs", nil),
		judge: func(in checkInput, a *Args) string {
			switch d := in.facts.LogDriver; d {
			case "", "json-file", "local", "none":
				return ""
			default:
				return failIf(!a.allowed(d), "log driver %s", quote(d))
			}
		},
	},
	{
		name: "logOptions", doc: "no log option is set but max-size, max-file and those in allow", params: allow("keys, globs", nil),
		judge: func(in checkInput, a *Args) string {
			rest := map[string]string{}
			for k, v := range in.facts.LogOptions {
				if k != "max-size" && k != "max-file" && k != "compress" {
					rest[k] = v
				}
			}
			return a.firstKeyNot("log option", rest)
		},
	},
	{
		name: "oom", doc: "the OOM score is not lowered and the OOM killer not turned off",
		judge: func(in checkInput, _ *Args) string {
			if in.facts.OOMKillOff {
				return "the OOM killer is turned off"
			}
			return failIf(in.facts.OOMScoreAdj < 0, "OOM score %d", in.facts.OOMScoreAdj)
		},
	},
	{
		name: "noHealthcheck", doc: "no health check is given: it is a command that the engine runs in the container",
		judge: func(in checkInput, _ *Args) string {
			h := in.facts.Healthcheck
			return failIf(len(h) > 0 && h[0] != "NONE", "health check %s", quote(strings.Join(h, " ")))
		},
	},
	{
		name: "notOwnPolicy", doc: "the AccessPolicy that is changed does not name the caller, neither before nor after: nobody widens his own rights",
		judge: func(in checkInput, _ *Args) string {
			return failIf(in.facts.NamesCaller, "the policy names the caller")
		},
	},
	{
		name: "notLoosening", doc: "the RuntimePolicy that is changed takes nothing away from what others deny (`loosen`, and `onError: allow` or `runtimeHelpers` for every container), neither before nor after",
		judge: func(in checkInput, _ *Args) string {
			return failIf(in.facts.Loosens, "the policy loosens what others deny")
		},
	},
	{
		name: "sameSelector", doc: "the policy that is changed is for the same as before: a RuntimePolicy's and an ImagePolicy's `selector` and an AccessPolicy's `subjects` stay; none is made or deleted",
		judge: func(in checkInput, _ *Args) string {
			return failIf(in.facts.SelectorChanges, "the policy would be for others than it is")
		},
	},
	{
		name: "noForce", doc: "nothing is forced",
		judge: func(in checkInput, _ *Args) string { return failIf(in.facts.Force, "force") },
	},
	{
		name: "noBulk", doc: "nothing is touched that the call does not name (prune)",
		judge: func(in checkInput, _ *Args) string {
			return failIf(in.facts.Bulk || traitsOf(in.action)&traitBulk != 0, "it touches things that it does not name")
		},
	},
}

func judgeLimits(in checkInput, a *Args) string {
	l, set := in.facts.Limits, in.set
	update := !onCreate.covers(in.action)
	if update {
		set = &Defaults{}
	}
	one := func(name string, value, def, most int64) string {
		switch {
		case value == 0 && update: // an update leaves what it does not name
			return ""
		case value == 0:
			value = def
		}
		if value <= 0 {
			return "no limit of " + name
		}
		return failIf(most > 0 && value > most, "the limit of %s is above %s", name, a.Texts[name])
	}
	memory, _ := parseBytes(a.Texts["memory"])
	cpus, _ := parseCPUs(a.Texts["cpus"])
	pids, _ := strconv.ParseInt(a.Texts["pids"], 10, 64)
	all := len(a.Texts) == 0
	var why string
	if all || memory > 0 {
		why = one("memory", l.MemoryBytes, set.MemoryBytes, memory)
	}
	if why == "" && cpus > 0 {
		why = one("cpus", nanoCPUs(l), set.NanoCPUs, cpus)
	}
	if why == "" && (all || pids > 0) {
		why = one("pids", l.PIDs, set.PIDs, pids)
	}
	return why
}

// nanoCPUs returns the limit of CPUs in either of the API's spellings.
func nanoCPUs(l apicall.Limits) int64 {
	if l.NanoCPUs != 0 || l.CPUQuota == 0 {
		return l.NanoCPUs
	}
	period := l.CPUPeriod
	if period <= 0 {
		period = 100_000 // the kernel's default, microseconds
	}
	if l.CPUQuota < 0 || l.CPUQuota > (1<<62)/nano {
		return -1
	}
	return l.CPUQuota * nano / period
}

func checkSizeText(s string) (msg, fix string) {
	if _, ok := parseBytes(s); !ok {
		return quote(s) + " is not a size", "write a number with Ki, Mi or Gi, such as 512Mi"
	}
	return "", ""
}

func checkCPUText(s string) (msg, fix string) {
	if _, ok := parseCPUs(s); !ok {
		return quote(s) + " is not a number of CPUs", `write a number such as 2 or "1.5"`
	}
	return "", ""
}

func checkCount(s string) (msg, fix string) {
	if n, err := strconv.ParseInt(s, 10, 32); err != nil || n <= 0 || strconv.FormatInt(n, 10) != s {
		return quote(s) + " is not a number above 0", "write a number such as 512"
	}
	return "", ""
}

func checkPortRange(s string) (msg, fix string) {
	if _, _, ok := parsePortRange(s); !ok {
		return quote(s) + " is not a port or a range of ports", `write "8080" or "8000-8999"`
	}
	return "", ""
}

func parsePortRange(s string) (lo, hi uint16, ok bool) {
	l, h, ok := parseIDRange(s)
	return uint16(l), uint16(h), ok && h <= 65535
}

func checkIP(s string) (msg, fix string) {
	if a, err := netip.ParseAddr(s); err != nil || a.String() != s {
		return quote(s) + " is not an IP address", "write it in its usual form: 127.0.0.1 or ::1"
	}
	return "", ""
}

func judgePort(p apicall.PortBinding, a *Args) string {
	host := p.HostPort
	if host == "" {
		host = "0"
	}
	lo, hi, ok := parsePortRange(host)
	if !ok {
		return "host port " + quote(p.HostPort)
	}
	inside := false
	for _, r := range a.Lists["ports"] {
		if l, h, _ := parsePortRange(r); l <= lo && hi <= h {
			inside = true
		}
	}
	if !inside {
		return "host port " + quote(host)
	}
	ips := a.Lists["hostIPs"]
	if len(ips) == 0 {
		return ""
	}
	if addr, err := netip.ParseAddr(p.HostIP); err == nil {
		for _, ip := range ips {
			if ip == addr.Unmap().String() || ip == addr.String() {
				return ""
			}
		}
	}
	if p.HostIP == "" {
		return "host port " + quote(host) + " on every address"
	}
	return "host address " + quote(p.HostIP)
}
