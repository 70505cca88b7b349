package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inForce tells whether the daemon asks the plugin now. known is false if it did not say.
func (l *look) inForce() (yes, known bool) {
	if l.pluginAnswers {
		return true, true
	}
	return l.info != nil && slices.Contains(l.info.Plugins.Authorization, l.Name), l.info != nil
}

// open is the severity of a way to the daemon that others than root have: only the plugin
// closes it, and while the glass is broken or the plugin is out of daemon.json it is open.
func (l *look) open() Severity {
	if yes, _ := l.inForce(); yes {
		return Warn
	}
	return Fail
}

// checkListeners looks at everything the daemon's process listens on.
func (l *look) checkListeners() {
	const why = "who reaches a socket of the daemon's own needs no gate"
	sockets := []string{l.Socket}
	if l.daemon != nil {
		sockets = l.daemon.unix
	}
	for _, s := range sockets {
		if strings.HasPrefix(s, "@") {
			l.add("daemon.socket", l.open(), "it listens on the abstract socket "+s+", which has no mode", why, "take it out of hosts in "+l.conf.File+" and of dockerd's flags")
			continue
		}
		who, _, err := l.reach(s)
		switch {
		case err != nil:
			l.add("daemon.socket", Unknown, "who can reach "+s+" cannot be told: "+err.Error(), why, "run it as root on the host")
		case who == "":
			l.add("daemon.socket", OK, s+" is reached by root alone", why, "")
		default:
			l.add("daemon.socket", l.open(), s+" is reached by "+who, why,
				fmt.Sprintf(`put it where only root comes: in %s "hosts": ["unix:///run/docker-upstream/docker.sock"], "group": "root"; install -d -m 0700 /run/docker-upstream (docs/gate.md)`, l.conf.File))
		}
	}
	const whyTCP = "a TCP listener without client certificates is root for whoever connects, containers included; one with them goes around the gate"
	if l.daemon == nil {
		l.add("daemon.tcp", Unknown, "whether it listens on TCP cannot be told", whyTCP, "run it as root while Docker runs")
		return
	}
	if len(l.daemon.tcp) == 0 {
		l.add("daemon.tcp", OK, "it does not listen on TCP", whyTCP, "")
	}
	for _, a := range l.daemon.tcp {
		l.checkTCP(a, whyTCP)
	}
}

func (l *look) checkTCP(a netip.AddrPort, why string) {
	api, tcp := false, false
	for _, h := range l.conf.Hosts {
		if h, ok := strings.CutPrefix(h, "tcp://"); ok {
			tcp = true
			_, port, _ := strings.Cut(h[strings.LastIndex(h, "]")+1:], ":")
			api = api || port == fmt.Sprint(a.Port()) || port == ""
		}
	}
	fix := fmt.Sprintf("take tcp:// out of hosts in %s and of dockerd's flags; callers from elsewhere: belay-agent run --gate-tls :2376", l.conf.File)
	switch {
	// What systemd hands over (fd://) is in no list of hosts.
	case !api && !slices.ContainsFunc(l.conf.Hosts, isFD) && (tcp || len(l.conf.Hosts) > 0):
		l.add("daemon.tcp", Warn, fmt.Sprintf("it listens on %s, which is none of its hosts: swarm, metrics or a debugger", a), why, "see who needs it: swarm's ports, or metrics-addr in "+l.conf.File)
	case !l.conf.verifies():
		l.add("daemon.tcp", Fail, fmt.Sprintf("it listens on %s without client certificates", a), why, fix)
	default:
		l.add("daemon.tcp", l.open(), fmt.Sprintf("it listens on %s for client certificates", a), why, fix)
	}
}

func isFD(host string) bool { return strings.HasPrefix(host, "fd://") }

// checkGroups says who is in the groups that reach the daemon's sockets.
func (l *look) checkGroups() {
	const id, why = "docker.group", "members of a group that reaches the daemon's socket are root"
	if l.group == nil {
		l.add(id, Unknown, "/etc/group or /etc/passwd cannot be read", why, "run it as root on the host")
		return
	}
	var open []string
	sockets := []string{l.Socket}
	if l.daemon != nil {
		sockets = l.daemon.unix
	}
	for _, s := range sockets {
		if strings.HasPrefix(s, "@") {
			continue
		}
		_, gid, err := l.reach(s)
		if err != nil {
			l.add(id, Unknown, "which group reaches "+s+" cannot be told", why, "run it as root on the host")
			return
		}
		if gid >= 0 {
			open = append(open, fmt.Sprintf("group %s reaches %s; its members: %s", l.groupName(gid), s, members(l.group[gid])))
		}
	}
	if len(open) > 0 {
		l.add(id, l.open(), strings.Join(open, "; "), why, `move the daemon's socket and give the group the gate's: "group": "root" in `+l.conf.File+", belay-agent run --gate-group docker")
		return
	}
	what := "no group reaches the daemon's socket"
	for _, g := range l.group {
		if g.name == "docker" {
			what += "; members of docker: " + members(g)
		}
	}
	l.add(id, OK, what, why, "")
}

func members(g group) string {
	if len(g.members) == 0 {
		return "none"
	}
	slices.Sort(g.members)
	return strings.Join(slices.Compact(g.members), " ")
}

// checkPlugin compares what is configured with what is in force.
func (l *look) checkPlugin(ctx context.Context) {
	const id, why = "plugin.inforce", "the plugin refuses what reaches the daemon around the gate"
	configured := slices.Contains(l.conf.Plugins, l.Name)
	yes, known := l.inForce()
	fix := fmt.Sprintf(`add "authorization-plugins": [%q] to %s and reload the daemon; the agent first: belay-agent run --authz-plugin /run/docker/plugins/%s.sock`, l.Name, l.conf.File, l.Name)
	switch {
	case !known:
		l.add(id, Unknown, "whether the daemon asks the plugin cannot be told", why, "run it as a user whom an AccessPolicy allows system.info through the gate")
	case yes && !configured && l.conf.known:
		l.add(id, Fail, "it is in force and not configured: the daemon's next reload or start drops it", why, fix)
	case yes && !l.conf.known:
		l.add(id, Unknown, "it is in force; whether it is configured cannot be told", why, "run it as root on the host")
	case yes:
		l.add(id, OK, "the daemon asks the plugin "+l.Name, why, "")
	case configured:
		l.add(id, Fail, "it is configured and not in force", why, "reload the daemon: systemctl reload docker")
	default:
		l.add(id, Fail, "the daemon asks no plugin "+l.Name, why, fix)
	}
	if i := slices.Index(l.conf.Plugins, l.Name); i > 0 {
		l.add("plugin.order", Warn, fmt.Sprintf("%s are asked before it", strings.Join(l.conf.Plugins[:i], ", ")),
			"a plugin that is asked earlier sees tickets before they are used", "put "+l.Name+" first in authorization-plugins")
	} else if i == 0 {
		l.add("plugin.order", OK, "it is asked first", "a plugin that is asked earlier sees tickets before they are used", "")
	}
	const whyManaged = "the daemon looks among its own plugins first: one of the same name is asked in ours' stead"
	var plugins []struct{ Name string }
	if err := l.query(ctx, "/plugins", &plugins); err != nil {
		l.add("plugin.namesake", Unknown, "the daemon does not list its plugins: "+oneLine(err), whyManaged, "run it as a user whom an AccessPolicy allows plugin.list through the gate")
		return
	}
	for _, p := range plugins {
		if name, _, _ := strings.Cut(p.Name, ":"); strings.TrimPrefix(name, "docker.io/library/") == l.Name {
			l.add("plugin.namesake", Fail, "the daemon has a plugin "+p.Name+" of its own", whyManaged, "docker plugin rm -f "+p.Name+" with authorization-plugins taken out of "+l.conf.File)
			return
		}
	}
	l.add("plugin.namesake", OK, "the daemon has no plugin of that name of its own", whyManaged, "")
}

// pluginPlaces are where daemons look for a plugin, in their order; see moby's pkg/plugins.
func (l *look) pluginPlaces() []string {
	n := l.Name
	return []string{
		"/run/docker/plugins/" + n + ".sock", "/run/docker/plugins/" + n + "/" + n + ".sock",
		"/etc/docker/plugins/" + n + ".spec", "/etc/docker/plugins/" + n + ".json",
		"/usr/lib/docker/plugins/" + n + ".spec", "/usr/lib/docker/plugins/" + n + ".json",
	}
}

// checkPluginPlace looks at the file through which the daemon finds the plugin.
func (l *look) checkPluginPlace() {
	const id, why = "plugin.place", "who can replace the plugin's socket answers the daemon in its stead"
	var found []string
	for _, p := range l.pluginPlaces() {
		if l.exists(p) {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		s := Fail
		if !slices.Contains(l.conf.Plugins, l.Name) {
			s = Warn // plugin.inforce has said that there is none
		}
		l.add(id, s, "the daemon finds no plugin "+l.Name, why, "belay-agent run --authz-plugin /run/docker/plugins/"+l.Name+".sock")
		return
	}
	// The first is taken; those after it lie in wait.
	if raw, err := l.readFile(found[0]); strings.HasSuffix(found[0], ".spec") {
		addr, ok := strings.CutPrefix(strings.TrimSpace(string(raw)), "unix://")
		switch {
		case err != nil:
			l.add(id, Unknown, found[0]+" cannot be read: "+err.Error(), why, "run it as root on the host")
			return
		case !ok:
			l.add(id, Fail, found[0]+" names "+addr+", which is no unix socket", why, "write unix:///run/belay/authz.sock into it, or remove it and use /run/docker/plugins")
			return
		}
		found = append(found, addr)
	}
	if l.Plugin != "" && !slices.ContainsFunc(found, func(p string) bool { return l.resolved(p) == l.resolved(l.Plugin) }) {
		l.add(id, Fail, fmt.Sprintf("the daemon finds the plugin at %s and the agent's is %s", found[0], l.Plugin), why, "remove "+found[0]+", or start the agent with --authz-plugin "+found[0])
		return
	}
	for _, p := range found {
		who, err := l.writable(p)
		switch {
		case !l.exists(p):
			l.add(id, Fail, p+" is not there: the daemon refuses every request", why, "start the agent with --authz-plugin "+p)
		case err != nil:
			l.add(id, Unknown, "who can write "+p+" cannot be told: "+err.Error(), why, "run it as root on the host")
		case who != "":
			l.add(id, Fail, who, why, fmt.Sprintf("chown root:root %s; chmod go-w %s; likewise the folders above it", p, p))
		default:
			l.add(id, OK, p+" is root's alone to replace", why, "")
		}
	}
}

// checkGate asks whether the gate answers.
func (l *look) checkGate(ctx context.Context) {
	const id, why = "gate.socket", "callers that find no gate ask for the daemon's own socket"
	fix := "start it: belay-agent run --gate-socket " + l.Gate
	if l.Gate == "none" {
		l.add(id, Fail, "there is no gate", why, "belay-agent run without --gate-socket none")
		return
	}
	o, err := l.stat(l.path(l.Gate))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.add(id, Fail, l.Gate+" is not there", why, fix)
		return
	case err != nil:
		l.add(id, Unknown, l.Gate+" cannot be looked at: "+err.Error(), why, "run it as root on the host")
		return
	case o.kind != unix.S_IFSOCK:
		l.add(id, Fail, l.Gate+" is no socket", why, "remove it and "+fix)
		return
	}
	if l.daemon != nil && slices.ContainsFunc(l.daemon.unix, func(s string) bool { return l.resolved(s) == l.resolved(l.Gate) }) {
		l.add(id, Fail, l.Gate+" is the daemon's own socket", why, "move the daemon's (docs/gate.md), then "+fix)
		return
	}
	// An answer of any status is the gate's: a policy may deny us the ping.
	if _, _, err := l.api(ctx, l.path(l.Gate), "/_ping"); err != nil {
		l.add(id, Fail, l.Gate+" does not answer: "+err.Error(), why, fix+"; belay status says what is wrong")
		return
	}
	if who, err := l.writable(filepath.Dir(l.Gate)); err != nil || who != "" {
		if err != nil {
			who = err.Error()
		}
		l.add(id, Fail, "its folder can be changed by others: "+who, "who can replace the gate's socket reads what callers send, credentials included", "chmod go-w "+filepath.Dir(l.Gate))
		return
	}
	l.add(id, OK, l.Gate+" answers", why, "")
}
