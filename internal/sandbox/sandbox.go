// Package sandbox locks the calling process in: no capabilities, no gain of
// privileges by exec, no files but those of given directories, no system calls but
// those that reading and computing take, and bounds on resources.
//
// It owns the process's limits and filters, which cannot be taken back. It starts
// nothing (package spawn does) and reads no image. Row: adapter.
package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Options says what the process may still do.
type Options struct {
	// ReadDirs are directories below which it may open files for reading.
	// /proc/self/fd/N names an open one.
	ReadDirs []string
	// ReceiveFD is an open socket on which it may be given descriptors; 0: none. It may write to it.
	ReceiveFD int
	// MemoryMax is the cap for data in bytes, beyond which the Go runtime dies. It
	// starts to collect harder at three quarters of it.
	MemoryMax int64
	// CPUSeconds is the cap of processor time.
	CPUSeconds uint64
	// Idle asks for the idle classes of the processor and of block devices: the process runs,
	// and reads, when nothing else wants to. No error where it is refused.
	Idle bool
	// Without lists the pieces whose failure is no error.
	Without []string
}

// MissingError says which piece of the sandbox could not be had.
type MissingError struct {
	Piece string
	Err   error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("the sandbox piece %q cannot be had here: %v; to go on without it, name it: --sandbox-without %s", e.Piece, e.Err, e.Piece)
}

// Unwrap returns what the kernel said.
func (e *MissingError) Unwrap() error { return e.Err }

// Enter locks the process in and then checks each piece against the kernel. held
// and lost are the pieces that hold and those of [Options.Without] that do not.
//
// Errors: a [*MissingError] for the first piece that does not hold and was not given
// up. The process must not touch hostile bytes after an error. It applies to all
// threads, those to come too.
func Enter(o Options) (held, lost []string, err error) {
	if err := inventory.CheckPieces(o.Without); err != nil {
		return nil, nil, err
	}
	if cgoBuilt {
		return nil, nil, errCgo
	}
	set := map[string]func(Options) error{
		inventory.PieceRlimits: setRlimits, inventory.PieceNoNewPrivs: setNoNewPrivs, inventory.PieceLandlock: setLandlock,
		inventory.PieceCapabilities: setCapabilities, inventory.PieceSeccomp: setSeccomp,
	}
	for _, p := range inventory.Pieces[:len(set)] {
		err := set[p](o)
		switch {
		case err == nil:
			held = append(held, p)
		case slices.Contains(o.Without, p):
			lost = append(lost, p)
		default:
			return held, lost, &MissingError{Piece: p, Err: err}
		}
	}
	return held, lost, nil
}

// errCgo is about how the program was built: with cgo, system calls in all threads go by
// signals of psx to threads of the C library, and a scanner built so was seen to hang.
var errCgo = errors.New("this program was built with cgo, and the sandbox is made for programs without it: build it with CGO_ENABLED=0")

// dataFloor is what the Go runtime maps as writable before it holds any data:
// arenas are reserved in pieces of 64 MiB and counted whole by RLIMIT_DATA.
// Measured with go1.26 on amd64: below 80 MiB the runtime does not start threads.
const dataFloor = 96 << 20

func setRlimits(o Options) error {
	debug.SetMemoryLimit(o.MemoryMax / 4 * 3)
	if o.Idle {
		setIdle()
	}
	for _, l := range []struct {
		what  int
		value uint64
	}{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_NOFILE, 1024},
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_CPU, o.CPUSeconds},
		{unix.RLIMIT_DATA, uint64(o.MemoryMax) + dataFloor},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("set limit %d to %d: %w", l.what, l.value, err)
		}
	}
	return nil
}

// The idle class of block devices, for a thread. Source: ioprio_set(2).
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
)

// setIdle sets the idle classes of all threads, which those to come inherit. Not every scheduler of
// block devices minds the class (mq-deadline and bfq do).
func setIdle() {
	var priority int32
	psx.Syscall3(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_IDLE, uintptr(unsafe.Pointer(&priority)))
	psx.Syscall3(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle)
}

func setNoNewPrivs(Options) error {
	if _, _, e := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return e
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || n != 1 {
		return fmt.Errorf("it is %d after it was set: %w", n, err)
	}
	return nil
}

// setLandlock needs a kernel whose Landlock holds files (5.13) and takes what newer
// ones add: truncation, devices, TCP, signals and abstract sockets. "Best effort"
// gives nothing at all on a kernel without Landlock, hence the test at the end.
func setLandlock(o Options) error {
	var rules []landlock.Rule
	if len(o.ReadDirs) > 0 {
		// Not RODirs: nothing here is to be executed.
		rules = append(rules, landlock.PathAccess(llReadFile|llReadDir, o.ReadDirs...))
	}
	if v, err := ll.LandlockGetABIVersion(); err != nil || v < 1 {
		return fmt.Errorf("this kernel has none (version %d): %w", v, err)
	}
	everything := slices.ContainsFunc(o.ReadDirs, isRoot)
	if err := landlock.V6.BestEffort().Restrict(rules...); err != nil {
		return err
	}
	f, err := os.Open("/")
	if err == nil {
		f.Close()
		if everything {
			return nil // the host itself is to be read
		}
		return errors.New("/ can still be opened after all was forbidden")
	}
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("open / to see that it is refused: %w", err)
	}
	return nil
}

// isRoot reports whether dir is the root directory.
func isRoot(dir string) bool {
	a, err := os.Stat(dir)
	if err != nil {
		return false
	}
	b, err := os.Stat("/")
	return err == nil && os.SameFile(a, b)
}

// Rights of Landlock, from include/uapi/linux/landlock.h.
const (
	llReadFile landlock.AccessFSSet = unix.LANDLOCK_ACCESS_FS_READ_FILE
	llReadDir  landlock.AccessFSSet = unix.LANDLOCK_ACCESS_FS_READ_DIR
)

func setCapabilities(Options) error {
	// The bounding set matters only to exec, which seccomp refuses: best effort,
	// since dropping from it takes CAP_SETPCAP.
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		psx.Syscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0)
	}
	psx.Syscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if _, _, e := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(&data[0])), 0); e != 0 {
		return fmt.Errorf("drop all capabilities: %w", e)
	}
	hdr = &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data != [2]unix.CapUserData{} {
		return fmt.Errorf("some are left: %v", data)
	}
	return nil
}

func setSeccomp(o Options) error {
	f := seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy(o.ReceiveFD)}
	if err := seccomp.LoadFilter(f); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
		return errors.New("a socket can still be made after they were forbidden")
	}
	return nil
}

// perArch are names that only some architectures have: amd64 keeps old calls, and
// says newfstatat for what is fstatat on arm64.
var perArch = []string{"epoll_wait", "arch_prctl", "newfstatat", "fstatat"}

// policy allows what the Go runtime and reading files take, by name; everything else
// gets EPERM. openat has no place for flags that write, whatever Landlock does; openat2 is
// left out, since its flags lie in memory that a filter cannot see. Descriptors may come by receiveFD alone, if
// there is one.
func policy(receiveFD int) seccomp.Policy {
	names := []string{
		"read", "pread64", "readv", "write", "close", "lseek", "fstat", "fgetxattr", "getdents64", "readlinkat",
		"mmap", "munmap", "mprotect", "madvise", "brk", "mincore", "fadvise64",
		"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
		"futex", "sched_yield", "sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "restart_syscall",
		"getpid", "gettid", "exit", "exit_group", "set_robust_list", "rseq", "membarrier",
		"epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "pipe2",
		"getrandom", "uname", "timer_create", "timer_settime", "timer_delete", "setitimer",
	}
	for _, name := range perArch {
		if archHas(name) {
			names = append(names, name)
		}
	}
	is := func(arg uint32, op seccomp.Operation, v uint64) seccomp.Condition {
		return seccomp.Condition{Argument: arg, Operation: op, Value: v}
	}
	p := seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{{
			Action: seccomp.ActionAllow,
			Names:  names,
			NamesWithCondtions: []seccomp.NameWithConditions{
				// Threads of this process, never processes.
				{Name: "clone", Conditions: seccomp.ArgumentConditions{
					is(0, seccomp.BitsSet, unix.CLONE_THREAD), is(0, seccomp.BitsNotSet, unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWNET),
				}},
				// Signals to this process, which the runtime preempts its threads with.
				{Name: "tgkill", Conditions: seccomp.ArgumentConditions{is(0, seccomp.Equal, uint64(os.Getpid()))}},
				{Name: "openat", Conditions: seccomp.ArgumentConditions{
					is(2, seccomp.BitsNotSet, unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC),
				}},
				{Name: "fcntl", Conditions: seccomp.ArgumentConditions{is(1, seccomp.LessOrEqual, unix.F_SETFL)}},
				{Name: "prctl", Conditions: seccomp.ArgumentConditions{is(0, seccomp.Equal, prSetVMA)}},
			},
		}},
	}
	if receiveFD > 0 {
		g := &p.Syscalls[0]
		g.NamesWithCondtions = append(g.NamesWithCondtions, seccomp.NameWithConditions{
			Name: "recvmsg", Conditions: seccomp.ArgumentConditions{is(0, seccomp.Equal, uint64(receiveFD))},
		})
	}
	return p
}

// prSetVMA names mappings, which the Go runtime does. Source: prctl(2), PR_SET_VMA.
const prSetVMA = 0x53564d41
