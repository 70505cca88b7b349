package preflight

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// config is what of the daemon's flags and daemon.json has to do with ways around.
type config struct {
	File        string   `json:"-"`
	Hosts       []string `json:"hosts"`
	Plugins     []string `json:"authorization-plugins"`
	Containerd  string   `json:"containerd"`
	TLS         *bool    `json:"tls"`
	TLSVerify   *bool    `json:"tlsverify"`
	LiveRestore *bool    `json:"live-restore"`

	known bool // false: the file is there and cannot be read, or nobody knows which it is
}

func (c *config) verifies() bool { return c.TLSVerify != nil && *c.TLSVerify }

// readConfig reads daemon.json and then the flags, which add to it: the daemon refuses to
// start if both give one thing.
func (l *look) readConfig() {
	const id, why = "daemon.config", "who can write daemon.json can add a listener or take the plugin away at the daemon's next reload"
	l.conf.File = "/etc/docker/daemon.json"
	var args []string
	if l.daemon != nil {
		args = l.daemon.args
	}
	if f := flagValues(args, "--config-file"); len(f) > 0 {
		l.conf.File = f[len(f)-1]
	}
	raw, err := l.readFile(l.conf.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.conf.known = l.daemon != nil
	case err != nil:
		l.add(id, Unknown, fmt.Sprintf("%s cannot be read: %v", l.conf.File, err), why, "run it as root on the host")
	default:
		if err := json.Unmarshal(raw, &l.conf); err != nil {
			l.add(id, Unknown, fmt.Sprintf("%s cannot be understood: %v", l.conf.File, err), why,
				"correct it; dockerd --validate --config-file "+l.conf.File)
			break
		}
		l.conf.known = l.daemon != nil
	}
	if l.daemon != nil {
		l.conf.Hosts = append(l.conf.Hosts, flagValues(args, "--host", "-H")...)
		l.conf.Plugins = append(l.conf.Plugins, flagValues(args, "--authorization-plugin")...)
		if v := flagValues(args, "--containerd"); len(v) > 0 {
			l.conf.Containerd = v[len(v)-1]
		}
		for name, to := range map[string]**bool{"--tls": &l.conf.TLS, "--tlsverify": &l.conf.TLSVerify, "--live-restore": &l.conf.LiveRestore} {
			if b, ok := flagBool(args, name); ok {
				*to = &b
			}
		}
	}
	if l.conf.known {
		l.checkConfig(id, why)
	}
}

// checkConfig says who can write daemon.json, and whether containers outlive the daemon.
func (l *look) checkConfig(id, why string) {
	who, bad := l.writable(l.conf.File)
	switch {
	case bad != nil:
		l.add(id, Unknown, fmt.Sprintf("who can write %s cannot be told: %v", l.conf.File, bad), why, "run it as root on the host")
	case who != "":
		l.add(id, Fail, who, why, fmt.Sprintf("chown root:root %s; chmod go-w %s; likewise the folders above it", l.conf.File, l.conf.File))
	default:
		l.add(id, OK, l.conf.File+" is root's alone to write", why, "")
	}
	restore := l.conf.LiveRestore != nil && *l.conf.LiveRestore
	const whyRestore = "without it a restart of the daemon, as when its socket is moved, stops every container"
	if restore {
		l.add("daemon.live-restore", OK, "live-restore is on", whyRestore, "")
	} else {
		l.add("daemon.live-restore", Warn, "live-restore is off", whyRestore, `add "live-restore": true to `+l.conf.File+" and reload the daemon (not with swarm)")
	}
}

// flagValues returns the values of a flag in every spelling that pflag takes.
func flagValues(args []string, names ...string) []string {
	var out []string
	for i, a := range args {
		for _, n := range names {
			long := strings.HasPrefix(n, "--")
			switch v, ok := strings.CutPrefix(a, n); {
			case !ok:
			case v == "" && i+1 < len(args):
				out = append(out, args[i+1])
			case strings.HasPrefix(v, "="):
				out = append(out, v[1:])
			case v != "" && !long:
				out = append(out, v)
			}
		}
	}
	return out
}

func flagBool(args []string, name string) (value, given bool) {
	for _, a := range args {
		if a == name {
			value, given = true, true
		} else if v, ok := strings.CutPrefix(a, name+"="); ok {
			b, err := strconv.ParseBool(v)
			value, given = b && err == nil, true
		}
	}
	return value, given
}

// group is one of the host's.
type group struct {
	name    string
	members []string
}

// readGroups reads /etc/group, and whose first group each is from /etc/passwd. Groups of
// other sources (LDAP) are not seen.
func (l *look) readGroups() {
	raw, err := l.readFile("/etc/group")
	if err != nil {
		return
	}
	groups := map[int]group{}
	for line := range strings.SplitSeq(string(raw), "\n") {
		f := strings.Split(line, ":")
		if len(f) != 4 {
			continue
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			continue
		}
		g := group{name: f[0]}
		if f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		groups[gid] = g
	}
	if raw, err = l.readFile("/etc/passwd"); err != nil {
		return
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			continue
		}
		if gid, err := strconv.Atoi(f[3]); err == nil {
			if g, ok := groups[gid]; ok && f[0] != "root" {
				g.members = append(g.members, f[0])
				groups[gid] = g
			}
		}
	}
	l.group = groups
}
