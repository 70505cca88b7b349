// Package inuse looks which files the processes of a container have executed, mapped or hold
// open and on which sockets they listen, and tells by an inventory which packages that means. It
// also tells to whom containers are connected.
//
// It reads a proc file system and nothing else: no file of a container is opened or looked
// at, only what the kernel says of its processes. Names in it are the container's choice:
// they are bounded, and say what the container runs, to whom it may lie about itself. A look
// can wait for as long as a process of the container keeps its memory locked, so whoever
// takes one bounds it from outside. It owns no state, and hides and decides nothing.
// Row: core.
package inuse

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/belay-project/belay/internal/ident"
)

// Bounds of one look at one container. What is beyond is counted in [Look.Cut].
const (
	maxProcesses  = 128
	maxFDs        = 2048    // of one process
	maxMapsBytes  = 1 << 20 // of one process: some 10,000 mappings
	maxFDsSum     = 8 * maxFDs
	maxMapsSum    = 8 * maxMapsBytes
	maxNetBytes   = 1 << 20 // of one list of sockets, the listening ones first
	maxNamespaces = 4
	maxFiles      = 2048 // of one container
	maxPath       = 512  // bytes
	maxPIDs       = 65_536
)

// Proc reads a proc file system, see proc(5).
type Proc struct{ Root string } // empty: /proc

func (p Proc) path(parts ...string) string {
	root := p.Root
	if root == "" {
		root = "/proc"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// Processes returns the processes of containers: those in a cgroup that is named by the
// container's ID, or in one below, by the outermost such.
//
// Source: /proc/PID/cgroup, cgroups(7). Errors: the proc file system cannot be listed.
// Processes that end meanwhile are left out.
func (p Proc) Processes() (map[ident.ContainerID][]int, error) {
	d, err := os.Open(p.path())
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxPIDs + 4096)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	out := map[ident.ContainerID][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 0 {
			continue
		}
		b, err := readUpTo(p.path(name, "cgroup"), 16<<10)
		if err != nil {
			continue
		}
		if id, ok := container(string(b)); ok {
			out[id] = append(out[id], pid)
		}
	}
	return out, nil
}

// container returns the outermost container that the cgroups of a process name.
func container(cgroups string) (ident.ContainerID, bool) {
	for line := range strings.Lines(cgroups) {
		for name := range strings.SplitSeq(strings.TrimSuffix(line, "\n"), "/") {
			if id, ok := ident.CgroupContainer(name); ok {
				return id, true
			}
		}
	}
	return "", false
}

func readUpTo(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// How a file is used.
type How uint8

// The ways.
const (
	Executed How = 1 << iota
	Mapped
	Opened
)

// Look is what one look at a container saw.
type Look struct {
	At        time.Time
	Processes int // that were looked at
	Cut       int // processes, files and lists that were left out, beyond a bound
	Unread    int // processes of which something could not be read
	Files     map[string]*FileUse
	// Sockets says that what the container listens on is known.
	Sockets bool

	fds, maps int // descriptors, and bytes of mappings, that were read
}

// FileUse is how a file, by its path in the container without a leading slash, is used.
type FileUse struct {
	How       How
	Listening []Endpoint // of processes that use it
}

// Look looks at the processes of one container.
func (p Proc) Look(pids []int, now time.Time) *Look {
	l := &Look{At: now, Files: map[string]*FileUse{}, Sockets: true}
	nets := map[string]listeners{}
	for i, pid := range pids {
		if i == maxProcesses {
			l.Cut += len(pids) - i
			l.Sockets = false
			break
		}
		p.process(l, nets, strconv.Itoa(pid))
	}
	return l
}

// process looks at one process. One that has ended is no fault.
func (p Proc) process(l *Look, nets map[string]listeners, pid string) {
	exe, err := os.Readlink(p.path(pid, "exe"))
	if errors.Is(err, fs.ErrNotExist) {
		if p.leaderless(pid) { // its first thread has ended, and the others show nothing of it there
			l.Processes++
			l.Unread++
			l.Sockets = false
		}
		return // it ended, or is a thread of the kernel
	}
	l.Processes++
	files := map[string]How{}
	note := func(path string, how How) {
		if len(path) > maxPath {
			l.Cut++
			return
		}
		if path, ok := clean(path); ok {
			files[path] |= how
		}
	}
	if err != nil {
		l.Unread++
	} else {
		note(exe, Executed)
	}
	if err := p.maps(l, pid, note); err != nil && !ended(err) {
		l.Unread++
	}
	inodes, whole, err := p.descriptors(l, pid, note)
	if err != nil && !ended(err) {
		l.Unread++
	}
	if !whole {
		l.Cut++
	}
	var ends []Endpoint
	known := whole && (err == nil || ended(err))
	if len(inodes) > 0 {
		list, ok := p.listeners(nets, pid)
		known = known && ok
		for _, inode := range inodes {
			ends = append(ends, list[inode]...)
		}
	}
	l.Sockets = l.Sockets && known
	for path, how := range files {
		f := l.Files[path]
		if f == nil {
			if len(l.Files) >= maxFiles {
				l.Cut++
				continue
			}
			f = &FileUse{}
			l.Files[path] = f
		}
		f.How |= how
		f.Listening = union(f.Listening, ends)
	}
}

// leaderless tells whether a process goes on without its first thread.
//
// Source: /proc/PID/stat, proc_pid_stat(5): the state is the third field, the number of threads
// the twentieth.
func (p Proc) leaderless(pid string) bool {
	b, err := readUpTo(p.path(pid, "stat"), 4096)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // the name may have one in it
	return err == nil && len(f) > 17 && f[0] == "Z" && f[17] != "0" && f[17] != "1"
}

// ended reports whether an error says that a process is no more.
func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// maps notes the files that a process has mapped to be executed, and archives of Java.
//
// Source: /proc/PID/maps, proc_pid_maps(5): address perms offset dev inode path.
func (p Proc) maps(l *Look, pid string, note func(string, How)) error {
	limit := min(maxMapsBytes, maxMapsSum-l.maps)
	b, err := readUpTo(p.path(pid, "maps"), int64(limit))
	if err != nil {
		return err
	}
	l.maps += len(b)
	if len(b) == limit {
		l.Cut++
		b = b[:bytes.LastIndexByte(b, '\n')+1]
	}
	last := ""
	for line := range strings.Lines(string(b)) {
		_, rest, ok := strings.Cut(line, " ")
		if len(rest) < 4 || !ok {
			continue
		}
		at := strings.IndexByte(rest, '/')
		if at < 0 {
			continue
		}
		file := strings.TrimSuffix(rest[at:], "\n")
		if rest[2] == 'x' || strings.HasSuffix(file, ".jar") {
			if file != last {
				note(file, Mapped)
			}
			last = file
		}
	}
	return nil
}

var socketInode = regexp.MustCompile(`^socket:\[([0-9]+)\]$`)

// descriptors notes the files that a process holds open, and returns the inodes of its sockets; whole
// is false if there are more descriptors than are looked at.
func (p Proc) descriptors(l *Look, pid string, note func(string, How)) (inodes []string, whole bool, err error) {
	d, err := os.Open(p.path(pid, "fd"))
	if err != nil {
		return nil, true, err
	}
	defer d.Close()
	limit := min(maxFDs, maxFDsSum-l.fds)
	names, err := d.Readdirnames(limit + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, true, err
	}
	whole = len(names) <= limit
	names = names[:min(len(names), limit)]
	l.fds += len(names)
	for _, n := range names {
		to, err := os.Readlink(p.path(pid, "fd", n))
		if err != nil {
			continue // it was closed
		}
		if m := socketInode.FindStringSubmatch(to); m != nil {
			inodes = append(inodes, m[1])
		} else if code(to) {
			note(to, Opened)
		}
	}
	return inodes, whole, nil
}

// code reports whether an open file may be of a package: data and logs are not noted.
func code(file string) bool {
	file = strings.TrimSuffix(file, deleted)
	switch filepath.Ext(file) {
	case ".jar", ".war", ".ear", ".so", ".node", ".py", ".pyc", ".rb", ".js", ".mjs", ".php", ".pl", ".pm", ".dll", ".sh":
		return true
	}
	return strings.Contains(file, "/bin/") || strings.Contains(file, "/sbin/")
}

// deleted is what the kernel puts behind the name of a file that has none any more.
const deleted = " (deleted)"

// clean returns a path as an inventory has it.
func clean(path string) (string, bool) {
	path = strings.TrimSuffix(path, deleted)
	rest, ok := strings.CutPrefix(path, "/")
	if !ok || rest == "" || len(rest) > maxPath || !utf8.ValidString(rest) {
		return "", false
	}
	if strings.HasPrefix(rest, "memfd:") || strings.HasPrefix(rest, "dev/") || strings.HasPrefix(rest, "SYSV") {
		return "", false
	}
	return rest, true
}
