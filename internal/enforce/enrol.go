package enforce

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// enrol enters the containers that run already: their cgroups, and what the rules
// compare with. Their tasks have no label yet, and count as armed from here on, but for those that a runtime is
// just moving in.
func (e *Enforcer) enrol() error {
	times, _, err := e.overflow()
	if err != nil {
		return err
	}
	if err := e.forgetGone(); err != nil {
		return err
	}
	found, err := e.root.scan(e.opts.Scopes)
	if err != nil {
		return err
	}
	fresh, missed := 0, 0
	for _, f := range found {
		var top uint64
		seen := e.maps["bl_cgroups"].Lookup(uint64(f.id), &top) == nil // by the kernel side already
		// Its container too, unless that had no room, or was noted by an agent in another shape.
		if f.id == f.top {
			if err := e.enrolState(f); err != nil && !(seen && errors.Is(err, unix.E2BIG)) {
				return fmt.Errorf("enrol the container in %s: %w", f.dir, err)
			}
		}
		if seen {
			continue
		}
		switch err := e.maps["bl_cgroups"].Put(uint64(f.id), uint64(f.top)); {
		case errors.Is(err, unix.E2BIG):
			missed++ // found by its ancestors
		case err != nil:
			return fmt.Errorf("enrol %s: %w", f.dir, err)
		default:
			fresh++
		}
	}
	if err := e.overflowSeen(times, missed); err != nil {
		return err
	}
	if missed > 0 {
		e.opts.Log.Warn("the kernel's map of cgroups is full; containers in others are found by walking their ancestors", "cgroups", missed)
	}
	if fresh == 0 {
		return nil
	}
	e.opts.Log.Info("containers that ran before the agent were enrolled", "cgroups", fresh)
	return e.armFound()
}

// armFound labels the tasks of enrolled cgroups.
func (e *Enforcer) armFound() error { return e.walkTasks(armProgram, e.maps, nil) }

// walkTasks runs a program once for every task, or every descriptor of each. Twice: a task that the first walk had not
// come to yet can have forked one that it had passed.
func (e *Enforcer) walkTasks(program string, maps map[string]*ebpf.Map, cache *btf.Cache) error {
	spec, err := e.object()
	if err != nil {
		return err
	}
	prog, err := loadProgram(spec, program, maps, cache)
	if err != nil {
		return err
	}
	defer prog.Close()
	it, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("walk tasks: %w", err)
	}
	defer it.Close()
	end := time.Now().Add(walkTime)
	for range 2 {
		r, err := it.Open()
		if err != nil {
			return fmt.Errorf("walk tasks: %w", err)
		}
		// A walk that has told nothing in a million steps pauses, and goes on with the next read.
		for _, err = io.Copy(io.Discard, r); errors.Is(err, unix.EAGAIN) && time.Now().Before(end); {
			_, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("walk tasks: %w", err), r.Close())
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return nil
}

// walkTime bounds a walk: how much there is to walk containers have a part in.
const walkTime = time.Minute

// armProgram is run by the agent itself and never attached.
const armProgram = "bl_arm_found"

// forgetGone removes entries of cgroups that were removed while no program was attached.
func (e *Enforcer) forgetGone() error {
	alive := map[uint64]bool{}
	found, err := e.root.scan(nil)
	if err != nil {
		return err
	}
	for _, f := range found {
		alive[uint64(f.id)] = true
	}
	for _, m := range []string{"bl_cgroups", "bl_containers"} {
		if err := deleteWhere(e.maps[m], func(id *uint64) bool { return !alive[*id] && !e.cgroupExists(*id) }); err != nil {
			return fmt.Errorf("forget removed cgroups: %w", err)
		}
	}
	return nil
}

// cgroupExists asks the kernel whether a cgroup id is in use, by its file handle: the
// cgroup may have been made since the scan.
func (e *Enforcer) cgroupExists(id uint64) bool {
	dir, err := unix.Open(e.root.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true // cannot tell: keep
	}
	defer unix.Close(dir)
	var b [8]byte
	for i := range b {
		b[i] = byte(id >> (8 * i))
	}
	const fileidKernfs = 0xfe // include/linux/exportfs.h
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(fileidKernfs, b[:]), unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.ENOENT)
	}
	unix.Close(fd)
	return true
}

// enrolStates enters what all containers are, for programs that are not attached yet.
func (e *Enforcer) enrolStates() error {
	found, err := e.root.scan(e.opts.Scopes)
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.id != f.top {
			continue
		}
		if err := e.enrolState(f); err != nil {
			return fmt.Errorf("enrol the container in %s: %w", f.dir, full(err))
		}
	}
	return nil
}

// enrolState enters what a container is, unless that is known.
func (e *Enforcer) enrolState(f foundCgroup) error {
	var known kernelBlContainer
	if err := e.maps["bl_containers"].Lookup(uint64(f.id), &known); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	c, err := enrolContainer(f)
	if err != nil {
		return err
	}
	if err := e.maps["bl_containers"].Update(uint64(f.id), c, ebpf.UpdateNoExist); !errors.Is(err, ebpf.ErrKeyExist) {
		return err
	}
	return nil
}

// enrolContainer builds the state of a running container from /proc. A container with
// no process yet starts like any other.
func enrolContainer(f foundCgroup) (kernelBlContainer, error) {
	c := kernelBlContainer{Id: f.cid}
	if f.build {
		c.Class = uint8(kernelBlClassBL_CLASS_BUILD)
	}
	pid, err := firstPID(f.dir)
	if err != nil || pid == 0 {
		return c, err
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	var root, ns unix.Stat_t
	if err := errors.Join(unix.Stat(proc+"/root", &root), unix.Stat(proc+"/ns/mnt", &ns)); err != nil {
		return c, nil //nolint:nilerr // it ended: the next first exec fills the entry
	}
	var sfs unix.Statfs_t
	if err := unix.Statfs(proc+"/root", &sfs); err != nil {
		return c, nil //nolint:nilerr // as above
	}
	c.InitTgid = uint32(pid)
	c.RootDev = kernelDev(root.Dev)
	c.RootMagic = uint32(sfs.Type)
	c.MntNs = uint32(ns.Ino)
	c.RootKuid = rootKuid(proc + "/uid_map")
	c.StartNs = startedNs(proc + "/stat")
	c.Caps = boundingSet(proc + "/status")
	c.SeesOthers = flag(!firstInPIDs(proc + "/status"))
	// Mounts made before now cannot be told from those present at the start.
	c.MaxMount = 0
	// Nor can anyone tell whether it has listened: its start is over, as far as that ends it.
	c.Listened = 1
	c.Started = 2
	return c, nil
}

// kernelDev turns stat's device number into the kernel's: major << 20 | minor.
func kernelDev(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

// firstPID returns a container's first process: of those in its cgroup and below, where nested
// containers and services are, one of the outermost pid namespace, which is pid 1 there or, in a
// container that shares the host's pids, has the lowest number; 0 if there is no process. Those in the
// host's mounts come last: a runtime that enters by exec is in the cgroup before it is in the container.
func firstPID(dir string) (int, error) {
	best, rank := 0, [4]int{}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV):
			return nil // removed while we look
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		}
		if seen++; seen > maxNested {
			return fs.SkipAll
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil // removed, or one of threads
			}
			return err
		}
		for l := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(l)
			if err != nil {
				return fmt.Errorf("cgroup.procs: %w", err)
			}
			if pid <= 0 {
				continue // of another pid namespace
			}
			depth, first := pidNamespaces(filepath.Join("/proc", l, "status"))
			if depth == 0 {
				continue // it ended
			}
			r := [4]int{hostMounts(filepath.Join("/proc", l, "ns/mnt")), depth, first, pid}
			if best == 0 || slices.Compare(r[:], rank[:]) < 0 {
				best, rank = pid, r
			}
		}
		return nil
	})
	return best, err
}

// hostMounts returns 1 if a process shares the host's mounts, or has ended, else 0.
func hostMounts(file string) int {
	var st unix.Stat_t
	host, err := hostNS("mnt")
	if errors.Join(err, unix.Stat(file, &st)) != nil || uint32(st.Ino) == host {
		return 1
	}
	return 0
}

// maxNested bounds the cgroups below a container's that are looked into.
const maxNested = 4096

// pidNamespaces tells in how many pid namespaces a process is, as this one sees it, and 0 if it is
// the first of the innermost, else 1. depth is 0 if it has ended.
//
// Source: /proc/PID/status, NSpid: its number in each namespace, the innermost last;
// proc_pid_status(5).
func pidNamespaces(file string) (depth, first int) {
	v, ok := statusField(file, "NSpid:")
	f := strings.Fields(v)
	if !ok || len(f) == 0 {
		return 0, 1
	}
	if len(f) > 1 && f[len(f)-1] == "1" {
		return len(f), 0
	}
	return len(f), 1
}

// statusField returns a line of /proc/PID/status.
func statusField(file, name string) (value string, ok bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, name); ok {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// rootKuid returns uid 0 of a user namespace as the agent's sees it; ^0 if it has none.
//
// Source: /proc/PID/uid_map, user_namespaces(7).
func rootKuid(file string) uint32 {
	f, err := os.Open(file)
	if err != nil {
		return ^uint32(0)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var inside, outside, n uint64
		if _, err := fmt.Sscan(sc.Text(), &inside, &outside, &n); err == nil && inside == 0 && n > 0 {
			return uint32(outside)
		}
	}
	return ^uint32(0)
}

// boundingSet returns a process's bounding set; all capabilities if it is unknown.
//
// Source: /proc/PID/status, CapBnd; proc_pid_status(5).
func boundingSet(file string) uint64 {
	v, ok := statusField(file, "CapBnd:")
	n, err := strconv.ParseUint(v, 16, 64)
	if !ok || err != nil {
		return ^uint64(0)
	}
	return n
}

// firstInPIDs tells whether a process is the first of its PID namespace.
func firstInPIDs(file string) bool {
	v, _ := statusField(file, "NSpid:")
	fields := strings.Fields(v)
	return len(fields) > 0 && fields[len(fields)-1] == "1"
}

// startedNs returns a process's start since boot in nanoseconds, 1 if unknown: long ago.
//
// Source: /proc/PID/stat field 22, in clock ticks of 1/100 s; proc_pid_stat(5).
func startedNs(file string) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 1
	}
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return 1
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 20 {
		return 1
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 1
	}
	return ticks * 10_000_000
}
