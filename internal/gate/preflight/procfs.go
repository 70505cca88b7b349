package preflight

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/hostinfo"
)

// maxFile bounds what is read of one file; /proc/net/unix of a busy host has a few MiB.
const maxFile = 16 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return b, err
}

// daemon is a dockerd that runs.
type daemon struct {
	pid  int
	args []string
	unix []string         // paths it listens on; abstract ones start with @
	tcp  []netip.AddrPort // likewise
}

// findDaemon takes the dockerd that listens on the socket; if none does, the only one.
func (l *look) findDaemon() {
	const id, why = "daemon.process", "what the daemon really listens on is read from its process, not from its configuration"
	entries, err := os.ReadDir(l.path("/proc"))
	if err != nil {
		l.add(id, Unknown, "processes cannot be listed: "+err.Error(), why, "run it as root on the host, with /proc mounted")
		return
	}
	var all []*daemon
	var failed error
	elsewhere := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := l.readFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(raw) == 0 {
			continue // it has ended, or is the kernel's
		}
		args := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
		name, d := filepath.Base(args[0]), &daemon{pid: pid, args: args[1:]}
		// A name is what a process says of itself: one of a container may say it too.
		if name != "belay-agent" && name != "dockerd" {
			continue
		}
		hosts, err := l.hosts(pid)
		if hosts {
			err = l.listeners(d)
		}
		switch {
		case errors.Is(err, os.ErrNotExist) && !hosts: // it has ended
		case name == "belay-agent":
			if hosts && err == nil {
				l.agents = append(l.agents, d.unix...)
			}
		case err != nil:
			failed = fmt.Errorf("dockerd %d: %w", pid, err)
		case !hosts:
			elsewhere++
		default:
			all = append(all, d)
		}
	}
	want := l.resolved(l.Socket)
	i := slices.IndexFunc(all, func(d *daemon) bool {
		return slices.ContainsFunc(d.unix, func(p string) bool { return l.resolved(p) == want })
	})
	switch {
	case i >= 0:
		l.daemon = all[i]
		l.add(id, OK, fmt.Sprintf("dockerd %d listens on %s", l.daemon.pid, l.Socket), why, "")
	case failed == nil && len(all) == 1 && len(all[0].unix) > 0:
		// The gate has the usual place, and the daemon has moved: where to is for it to say.
		l.daemon = all[0]
		l.Socket = l.daemon.unix[max(0, slices.IndexFunc(l.daemon.unix, func(p string) bool { return filepath.Base(p) == "docker.sock" }))]
		l.add(id, OK, fmt.Sprintf("dockerd %d, the only one, listens on %s", l.daemon.pid, l.Socket), why, "")
	case failed != nil:
		l.add(id, Unknown, "its sockets cannot be read: "+failed.Error(), why, "run it as root on the host")
	default:
		what := fmt.Sprintf("no dockerd listens on %s (%d others run)", l.Socket, len(all))
		if elsewhere > 0 {
			what += fmt.Sprintf("; %d more with files of their own (a snap, a container) or of another user were left out", elsewhere)
		}
		l.add(id, Unknown, what, why,
			"start Docker, or name its socket: belay-agent preflight --docker-host unix:///path/docker.sock")
	}
}

// hosts tells whether a process is root's of the host, and sees the files that we look at: its root directory is ours. Its
// mount namespace may be another: that of a unit with PrivateTmp is.
func (l *look) hosts(pid int) (bool, error) {
	o, err := l.stat(l.path(fmt.Sprintf("/proc/%d", pid)))
	if err != nil || o.uid != 0 {
		return false, err
	}
	root, err := os.Stat(l.path(fmt.Sprintf("/proc/%d/root", pid)))
	if err != nil {
		return false, err
	}
	ours, err := os.Stat(l.path("/"))
	return err == nil && os.SameFile(root, ours), err
}

// usualPlace is where callers look for Docker.
const usualPlace = "/run/docker.sock"

// findGate completes Gate. A name and a path are what a process says of itself, in a mount namespace of its
// own too; but those that are looked at are root's of the host.
func (l *look) findGate() {
	if l.Gate != "" {
		return
	}
	l.Gate = filepath.Join(l.RunDir, "docker.sock")
	// A socket that an agent had before may still lie there.
	// The kernel has the name that a socket was bound by: the gate makes it beside its place and renames it.
	if slices.ContainsFunc(l.agents, func(p string) bool { return l.resolved(strings.TrimSuffix(p, ".new")) == l.resolved(usualPlace) }) {
		l.Gate = usualPlace
	}
}

// resolved returns the path without links, as far as it exists.
func (l *look) resolved(p string) string {
	whole, err := filepath.EvalSymlinks(l.path(p))
	if err != nil {
		dir, err := filepath.EvalSymlinks(l.path(filepath.Dir(p)))
		if err != nil {
			return filepath.Clean(p)
		}
		whole = filepath.Join(dir, filepath.Base(p))
	}
	if l.root != "" {
		if root, err := filepath.EvalSymlinks(l.root); err == nil {
			whole = strings.TrimPrefix(whole, root)
		}
	}
	return filepath.Join("/", whole)
}

// listeners reads what a process listens on, in its own network namespace.
func (l *look) listeners(d *daemon) error {
	inodes, err := l.socketInodes(d.pid)
	if err != nil {
		return err
	}
	raw, err := l.readFile(fmt.Sprintf("/proc/%d/net/unix", d.pid))
	if err != nil {
		return err
	}
	for _, f := range rows(raw) {
		// Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 is SO_ACCEPTCON.
		if len(f) < 8 || !inodes[f[6]] {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 64); err == nil && flags&0x10000 != 0 {
			d.unix = append(d.unix, strings.Join(f[7:], " "))
		}
	}
	for _, file := range []string{"tcp", "tcp6"} {
		raw, err := l.readFile(fmt.Sprintf("/proc/%d/net/%s", d.pid, file))
		if errors.Is(err, os.ErrNotExist) && file == "tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
		for _, f := range rows(raw) {
			// sl local_address rem_address st … inode; st 0A is TCP_LISTEN.
			if len(f) < 10 || f[3] != "0A" || !inodes[f[9]] {
				continue
			}
			a, err := hostinfo.SocketAddr(f[1])
			if err != nil {
				return fmt.Errorf("/proc/net/%s: %w", file, err)
			}
			d.tcp = append(d.tcp, a)
		}
	}
	return nil
}

// socketInodes returns the inode numbers of a process's sockets.
func (l *look) socketInodes(pid int) (map[string]bool, error) {
	dir := l.path(fmt.Sprintf("/proc/%d/fd", pid))
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := map[string]bool{}
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // closed since
		}
		if err != nil {
			return nil, err
		}
		if n, ok := strings.CutPrefix(to, "socket:["); ok {
			inodes[strings.TrimSuffix(n, "]")] = true
		}
	}
	return inodes, nil
}

// rows returns the fields of each line but the first.
func rows(raw []byte) [][]string {
	var out [][]string
	for i, line := range bytes.Split(raw, []byte("\n")) {
		if f := strings.Fields(string(line)); i > 0 && len(f) > 0 {
			out = append(out, f)
		}
	}
	return out
}
