package peer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
)

// maxProcFile bounds what is read of /proc/PID/cgroup: a line for each of at most
// thirteen hierarchies, each with a path of up to PATH_MAX bytes.
const maxProcFile = 64 << 10

// ErrEnded is returned if the peer's process has ended: its cgroup cannot be known
// any more.
var ErrEnded = errors.New("the process that connected has ended")

func (id *Identifier) proc() string {
	if id.Proc == "" {
		return "/proc"
	}
	return id.Proc
}

// whereabouts are what procfs says of a peer.
type whereabouts struct {
	cgroups []cgroupAt // that of the v2 hierarchy first
	start   uint64     // when it started, in clock ticks since boot
	ns      userNS
	nsErr   error // why ns or login is not known: it matters of processes outside of containers only
	login   uint32
	// label is the container that the kernel knows the process to be of, if it is labelled.
	label    string
	labelled bool
	labelErr error
}

// cgroupAt is a cgroup: a path in the tree of a hierarchy.
type cgroupAt struct {
	// hierarchy is "" of version 2, else the controllers or the name of the line, as in
	// "cpu,cpuacct" and "name=systemd".
	hierarchy string
	path      string
}

// look reads where the peer is.
//
// Errors: [ErrEnded].
func (id *Identifier) look(c credentials) (at whereabouts, err error) {
	dir := id.proc() + "/" + strconv.Itoa(int(c.pid))
	if at.start, err = startTime(dir); err != nil {
		return at, err
	}
	text, err := readProc(dir + "/cgroup")
	if err != nil {
		return at, err
	}
	if at.ns, at.nsErr = id.userNSOf(dir); at.nsErr == nil {
		at.login, at.nsErr = loginOf(dir)
	}
	if l, ok := id.Workload.(Labeller); ok {
		at.label, at.labelled, at.labelErr = labelOf(l, c)
	}
	// The number was the peer's while the files were read only if the peer is there still.
	if c.pidfd >= 0 {
		if err := unix.PidfdSendSignal(c.pidfd, 0, nil, 0); errors.Is(err, unix.ESRCH) {
			return at, ErrEnded
		} else if err != nil && !errors.Is(err, unix.EPERM) {
			return at, fmt.Errorf("ask whether the process is there: %w", err)
		}
	}
	after, err := startTime(dir)
	if err != nil {
		return at, err
	}
	if after != at.start {
		return at, ErrEnded
	}
	at.cgroups, err = parseCgroups(text)
	return at, err
}

func labelOf(l Labeller, c credentials) (label string, labelled bool, err error) {
	fd := c.pidfd
	if fd < 0 { // the start time says whether it is the peer's
		if fd, err = unix.PidfdOpen(int(c.pid), 0); err != nil {
			return "", false, fmt.Errorf("pidfd_open: %w", err)
		}
		defer unix.Close(fd)
	}
	return l.Label(fd)
}

// parseCgroups reads /proc/PID/cgroup; see cgroups(7).
func parseCgroups(text string) ([]cgroupAt, error) {
	var all []cgroupAt
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		n, rest, ok1 := strings.Cut(line, ":")
		hierarchy, path, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("line %.80q of the cgroup file has another form", line)
		}
		path = strings.TrimSuffix(path, " (deleted)")
		if n == "0" {
			all = append([]cgroupAt{{path: path}}, all...)
		} else {
			all = append(all, cgroupAt{hierarchy, path})
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the process is in no cgroup")
	}
	return all, nil
}

func readProc(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProcFile))
	if err != nil {
		return "", err
	}
	if len(b) == maxProcFile {
		return "", fmt.Errorf("%s is too long", path)
	}
	return string(b), nil
}

// startTime returns when a process started, in clock ticks since boot. One that is
// dying has no more than a number: cgroup v1 files show all such in the root.
//
// Source: /proc/PID/stat, fields 3 and 22; proc_pid_stat(5).
func startTime(dir string) (uint64, error) {
	text, err := readProc(dir + "/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("%s/stat has another form", dir)
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, ErrEnded
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// rootOwns returns an error unless all cgroups above the one that makes the path a container's
// belong to root and are root's alone to write, in the hierarchy that the path is of: users are
// given parts of version 1 as well, by pam_cgfs for one. Who may call the runtimes made it then,
// and no user of the host to whom a part of the tree was given. Its own owner does not matter: a
// runtime gives it to the container's root where user namespaces are remapped. What lies below is
// the container's own business.
func (id *Identifier) rootOwns(c cgroupAt) error {
	if id.owner != nil {
		return id.owner(c.path)
	}
	mount, err := c.mount()
	if err != nil {
		return err
	}
	dir := mount
	for name := range strings.SplitSeq(strings.Trim(c.path, "/"), "/") {
		dir += "/" + name
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil {
			return fmt.Errorf("whose is %s: %w", dir, err)
		}
		if _, named := ContainerOf(strings.TrimPrefix(dir, mount)); named {
			return nil
		}
		if st.Uid != 0 || st.Mode&0o022 != 0 {
			return fmt.Errorf("%s belongs to uid %d and has mode %#o", dir, st.Uid, st.Mode&0o777)
		}
	}
	return nil
}

const cgroupMount = "/sys/fs/cgroup"

// mount returns where the tree of the cgroup's hierarchy is: where systemd and cgroupfs-mount put
// it, one of version 1 by the first of its controllers or by its name.
//
// Errors: one if it is not there.
func (c cgroupAt) mount() (string, error) {
	dirs, magic := []string{cgroupMount, cgroupMount + "/unified"}, int64(unix.CGROUP2_SUPER_MAGIC)
	if c.hierarchy != "" {
		first, _, _ := strings.Cut(strings.TrimPrefix(c.hierarchy, "name="), ",")
		if first == "" || first == ".." || strings.Contains(first, "/") {
			return "", fmt.Errorf("the cgroup hierarchy %.80q has another form", c.hierarchy)
		}
		dirs, magic = []string{cgroupMount + "/" + first}, unix.CGROUP_SUPER_MAGIC
	}
	for _, dir := range dirs {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && int64(st.Type) == magic {
			return dir, nil
		}
	}
	return "", fmt.Errorf("its hierarchy is not mounted at %s; fix: mount it there", dirs[len(dirs)-1])
}

// ContainerOf tells by the names of a cgroup path whose it is. The shapes are those
// that the kernel side knows: 64 hexadecimal digits, alone or behind a prefix and before
// ".scope" (Docker, containerd, CRI-O, Podman), and buildkit/<25 characters> for a step of
// a build, whose id is "". The outermost name counts: what a container makes inside of its
// own cgroup stays its own.
func ContainerOf(path string) (id string, ok bool) {
	parent := ""
	for name := range strings.SplitSeq(path, "/") {
		if parent == "buildkit" && isBuildStep(name) {
			return "", true
		}
		if id, ok := ident.CgroupContainer(name); ok {
			return string(id), true
		}
		parent = name
	}
	return "", false
}

func isBuildStep(name string) bool {
	return len(name) == 25 && strings.Trim(name, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}
