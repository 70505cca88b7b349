package enforce

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/verdict"
)

// GuardMode says what becomes of a process of the host that connects to a guarded socket
// and is not named. The zero value lets it pass.
type GuardMode uint32

// The modes. Their numbers are those of enum bl_guard_mode.
const (
	GuardOff     GuardMode = 0
	GuardAudit   GuardMode = 1 // it passes and is reported
	GuardEnforce GuardMode = 2 // it is refused, or killed under the signal backend
)

// String returns off, audit or enforce.
func (m GuardMode) String() string {
	switch m {
	case GuardAudit:
		return "audit"
	case GuardEnforce:
		return "enforce"
	}
	return "off"
}

// ParseGuardMode returns the mode that s names, and false if it names none.
func ParseGuardMode(s string) (GuardMode, bool) {
	for _, m := range []GuardMode{GuardOff, GuardAudit, GuardEnforce} {
		if m.String() == s {
			return m, true
		}
	}
	return GuardOff, false
}

// Caller is one kind of process of the host that may connect: exactly one of Exe and Unit
// is set, or neither, which is whatever a user runs.
type Caller struct {
	Exe  string // a program, bound to its inode, while UID runs it
	Unit string // what is below /system.slice/UNIT in the cgroup hierarchy, whoever runs it
	UID  uint32 // the real one, on the host; of a Unit not used
}

// Guard names the container engine's own sockets and who may connect to them.
type Guard struct {
	Mode GuardMode // of the host's processes; containers are judged by guard.sockets
	// Sockets are paths. Each is bound to its place (directory and name) and, if it exists,
	// to its inode, so that neither a restart of the daemon nor a rename opens it.
	Sockets []string
	Dirs    []string // every socket below these directories
	// Abstract are prefixes of abstract names in the host's network namespace, without the
	// zero byte; at most 62 bytes.
	Abstract []string
	Callers  []Caller
}

const nameLen = len(kernelBlSockKey{}.Name)

// SetGuard replaces what is guarded and who may connect. What does not exist is skipped:
// call it again when that may have changed. Callers are entered before sockets, so that no
// moment refuses one that is named.
//
// Errors: a name that is too long; a full map.
func (e *Enforcer) SetGuard(g Guard) error {
	e.guardMu.Lock()
	defer e.guardMu.Unlock()
	devs, err := mountDevs()
	if err != nil {
		return err
	}
	callers, err := g.callers(devs)
	if err != nil {
		return err
	}
	socks := e.socks(&g, devs)
	abstract, err := g.abstract()
	if err != nil {
		return err
	}
	if err := errors.Join(putAll(e, "bl_callers", callers), putAll(e, "bl_socks", socks), putAll(e, "bl_abstracts", abstract)); err != nil {
		return err
	}
	if err := e.maps["bl_guards"].Put(uint32(0), uint32(g.Mode)); err != nil {
		return fmt.Errorf("set the mode of the socket guard: %w", err)
	}
	return errors.Join(
		deleteWhere(e.maps["bl_callers"], func(k *kernelBlCallerKey) bool { return !callers[*k] }),
		deleteWhere(e.maps["bl_abstracts"], func(k *kernelBlAbstractKey) bool { return !abstract[*k] }),
		deleteWhere(e.maps["bl_socks"], func(k *kernelBlSockKey) bool { return !socks[*k] }))
}

func putAll[K comparable](e *Enforcer, name string, keys map[K]bool) error {
	for k := range keys {
		if err := e.maps[name].Put(&k, uint32(1)); err != nil {
			return fmt.Errorf("write the socket guard: %w", full(err))
		}
	}
	return nil
}

func setName(dst []int8, s string) bool {
	if len(s) >= len(dst) {
		return false
	}
	for i := range len(s) {
		dst[i] = int8(s[i])
	}
	return true
}

// socks returns what the guard's sockets are bound to. Where now is nothing, the inode that
// was there stays guarded: the daemon may listen on it still, under another name.
func (e *Enforcer) socks(g *Guard, devs map[uint64]uint32) map[kernelBlSockKey]bool {
	out := map[kernelBlSockKey]bool{}
	for _, p := range g.Sockets {
		at := []string{p}
		if real, err := filepath.EvalSymlinks(p); err == nil && real != p {
			at = append(at, real)
		}
		for _, p := range at {
			ino, dev, _, err := identify(filepath.Dir(p), devs)
			if err != nil {
				continue
			}
			k := kernelBlSockKey{Ino: ino, Dev: dev, Kind: uint32(kernelBlSockKindBL_SOCK_PLACE)}
			if setName(k.Name[:], filepath.Base(p)) {
				out[k] = true
			}
			if ino, dev, mode, err := identify(p, devs); err == nil && mode&unix.S_IFMT == unix.S_IFSOCK {
				e.bound[p] = kernelBlSockKey{Ino: ino, Dev: dev, Kind: uint32(kernelBlSockKindBL_SOCK_SELF)}
			}
			if self, ok := e.bound[p]; ok {
				out[self] = true
			}
		}
	}
	for _, d := range g.Dirs {
		if ino, dev, mode, err := identify(d, devs); err == nil && mode&unix.S_IFMT == unix.S_IFDIR {
			out[kernelBlSockKey{Ino: ino, Dev: dev, Kind: uint32(kernelBlSockKindBL_SOCK_DIR)}] = true
		}
	}
	return out
}

func (g *Guard) abstract() (map[kernelBlAbstractKey]bool, error) {
	out := map[kernelBlAbstractKey]bool{}
	for _, p := range g.Abstract {
		k := kernelBlAbstractKey{Prefixlen: uint32(8 * len(p))}
		if p == "" || !setName(k.Name[:], p) {
			return nil, fmt.Errorf("abstract socket %q: want 1 to %d bytes", p, nameLen-1)
		}
		out[k] = true
	}
	return out, nil
}

func (g *Guard) callers(devs map[uint64]uint32) (map[kernelBlCallerKey]bool, error) {
	out := map[kernelBlCallerKey]bool{}
	for _, c := range g.Callers {
		k := kernelBlCallerKey{Uid: c.UID}
		switch {
		case c.Unit != "":
			k.Kind, k.Uid = uint32(kernelBlCallerKindBL_CALLER_UNIT), ^uint32(0)
			if !setName(k.Name[:], c.Unit) {
				return nil, fmt.Errorf("unit %q: want at most %d bytes", c.Unit, nameLen-1)
			}
		case c.Exe != "":
			ino, dev, mode, err := identify(c.Exe, devs)
			if err != nil || mode&unix.S_IFMT != unix.S_IFREG {
				continue
			}
			k.Kind, k.Ino, k.Dev = uint32(kernelBlCallerKindBL_CALLER_EXE), ino, dev
		default:
			k.Kind = uint32(kernelBlCallerKindBL_CALLER_UID)
		}
		out[k] = true
	}
	return out, nil
}

// identify returns a file's inode number, and the device as the kernel itself knows it:
// what stat(2) reports is another on overlayfs and btrfs.
func identify(path string, devs map[uint64]uint32) (ino uint64, dev uint32, mode uint16, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_TYPE|unix.STATX_MNT_ID, &st); err != nil {
		return 0, 0, 0, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	dev, ok := devs[st.Mnt_id]
	if !ok {
		dev = st.Dev_major<<20 | st.Dev_minor
	}
	return st.Ino, dev, st.Mode, nil
}

// mountDevs returns the devices of this process's mounts by mount id.
//
// Source: /proc/self/mountinfo, fields 1 and 3; proc_pid_mountinfo(5).
func mountDevs() (map[uint64]uint32, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	defer f.Close()
	out := map[uint64]uint32{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 3 {
			continue
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		id, err1 := strconv.ParseUint(fields[0], 10, 64)
		ma, err2 := strconv.ParseUint(major, 10, 12)
		mi, err3 := strconv.ParseUint(minor, 10, 20)
		if errors.Join(err1, err2, err3) == nil {
			out[id] = uint32(ma)<<20 | uint32(mi)
		}
	}
	return out, sc.Err()
}

// hostNS returns the inode number of this process's namespace of a kind, which is the host's: as it
// was at the first call, since a thread of the process may go to another later.
func hostNS(kind string) (uint32, error) {
	all, err := hostNamespaces()
	return all[kind], err
}

var hostNamespaces = sync.OnceValues(func() (map[string]uint32, error) {
	out := map[string]uint32{}
	for _, kind := range []string{"net", "mnt", "ipc", "uts"} {
		var st unix.Stat_t
		if err := unix.Stat("/proc/self/ns/"+kind, &st); err != nil {
			return nil, fmt.Errorf("find the host's %s namespace: %w", kind, err)
		}
		out[kind] = uint32(st.Ino)
	}
	return out, nil
})

// socketHooks are the programs that hold guard.sockets and the guard of the host.
var socketHooks = map[verdict.Backend]string{
	verdict.BackendLSM: "bl_lsm_unix_connect", verdict.BackendModret: "bl_mod_unix_connect", verdict.BackendSignal: "bl_sig_unix_connect",
}

// lacksSockets says why connections to unix sockets are not seen; empty: they are.
func (e *Enforcer) lacksSockets() string {
	e.missMu.Lock()
	defer e.missMu.Unlock()
	if err := e.missing[socketHooks[e.backend]]; err != nil {
		return err.Error()
	}
	return ""
}

// SocketLevel returns what this host can do about a connection to a guarded socket, and
// what there is to say about it.
func (e *Enforcer) SocketLevel() (verdict.Level, string) {
	for _, l := range e.Levels() {
		if l.Rule == verdict.RuleSockets {
			return l.Level, l.Note
		}
	}
	return verdict.Unsupported, ""
}
