// Command escape locks itself into the scanner's sandbox and then tries to get out,
// one way a line of its report. Tests start it; it is in no release.
//
// Usage: escape MODE [idle], with MODE report (try everything, write a JSON object of what
// each try gave), eat (take memory for ever), spin (take time for ever), breed (make 300 threads
// and say so), flood (write for ever) or stderr (write errors for ever).
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/sandbox"
)

// inputFD is the directory that may be read.
const inputFD = "/proc/self/fd/3"

func main() {
	io.Copy(io.Discard, os.Stdin) // until the caller has put us where it wants us
	mode := os.Args[1]
	_, lost, err := sandbox.Enter(sandbox.Options{ReadDirs: []string{inputFD}, MemoryMax: 64 << 20, CPUSeconds: 60, Idle: len(os.Args) > 2})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	switch mode {
	case "eat":
		var hold [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			hold = append(hold, b)
			runtime.KeepAlive(hold)
		}
	case "spin":
		for n := 0; ; n++ {
			runtime.KeepAlive(n)
		}
	case "breed":
		for range 300 {
			made := make(chan bool)
			go func() {
				runtime.LockOSThread()
				made <- true
				select {}
			}()
			<-made
		}
		fmt.Println("300 threads")
		return
	case "flood", "stderr":
		out := os.Stdout
		if mode == "stderr" {
			out = os.Stderr
		}
		for b := make([]byte, 1<<16); ; {
			if _, err := out.Write(b); err != nil {
				os.Exit(1)
			}
			if mode == "stderr" {
				if n++; n > 1000 {
					os.Exit(7)
				}
			}
		}
	}
	report := tries()
	for _, piece := range lost {
		report["lost "+piece] = "lost"
	}
	report["ordinary: read"] = ordinaryRead()
	report["ordinary: threads"] = ordinaryThreads()
	json.NewEncoder(os.Stdout).Encode(report)
}

var n int

// raw makes a system call and says what it gave.
func raw(nr uintptr, args ...uintptr) string {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, e := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); e != 0 {
		return e.Error()
	}
	return "ALLOWED"
}

func path(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	keep = append(keep, p)
	return uintptr(unsafe.Pointer(p))
}

// keep holds what the kernel is given addresses of.
var keep []*byte

// openTrunc empties a file though it asks for reading alone, which Landlock minds only
// since Linux 6.2; a filter cannot see it, so that it must refuse openRead too.
var openRead, openTrunc unix.OpenHow

func init() { openTrunc.Flags = unix.O_TRUNC }

func tries() map[string]string {
	cwd := ^uintptr(99) // AT_FDCWD
	here := uintptr(os.Getpid())
	return map[string]string{
		"socket inet":       raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0),
		"socket unix":       raw(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0),
		"socket netlink":    raw(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0),
		"socketpair":        raw(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0, path("12345678")),
		"receive files":     raw(unix.SYS_RECVMSG, 3, path("12345678123456781234567812345678123456781234567812345678"), 0),
		"send files":        raw(unix.SYS_SENDMSG, 3, path("12345678123456781234567812345678123456781234567812345678"), 0),
		"read /etc/passwd":  raw(unix.SYS_OPENAT, cwd, path("/etc/passwd"), unix.O_RDONLY, 0),
		"list /":            raw(unix.SYS_OPENAT, cwd, path("/"), unix.O_RDONLY|unix.O_DIRECTORY, 0),
		"read own memory":   raw(unix.SYS_OPENAT, cwd, path("/proc/self/mem"), unix.O_RDONLY, 0),
		"climb out":         raw(unix.SYS_OPENAT, 3, path("../../../../../../etc/passwd"), unix.O_RDONLY, 0),
		"follow a link":     raw(unix.SYS_OPENAT, 3, path("out"), unix.O_RDONLY, 0),
		"write an input":    raw(unix.SYS_OPENAT, 3, path("in"), unix.O_RDWR, 0),
		"openat2":           raw(unix.SYS_OPENAT2, 3, path("in"), uintptr(unsafe.Pointer(&openRead)), unix.SizeofOpenHow),
		"openat2 to empty":  raw(unix.SYS_OPENAT2, 3, path("in"), uintptr(unsafe.Pointer(&openTrunc)), unix.SizeofOpenHow),
		"make a file":       raw(unix.SYS_OPENAT, 3, path("new"), unix.O_CREAT|unix.O_WRONLY, 0o600),
		"make a directory":  raw(unix.SYS_MKDIRAT, 3, path("newdir"), 0o700),
		"remove a file":     raw(unix.SYS_UNLINKAT, 3, path("in"), 0),
		"change a mode":     raw(unix.SYS_FCHMODAT, 3, path("in"), 0o777, 0),
		"change an owner":   raw(unix.SYS_FCHOWNAT, 3, path("in"), 1, 1, 0),
		"memfd":             raw(unix.SYS_MEMFD_CREATE, path("x"), 0),
		"exec":              raw(unix.SYS_EXECVE, path("/bin/true"), 0, 0),
		"exec a descriptor": raw(unix.SYS_EXECVEAT, 3, path("in"), 0, 0, 0),
		"fork":              raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0),
		"clone3":            raw(unix.SYS_CLONE3, path("12345678123456781234567812345678123456781234567812345678123456781234567812345678"), 88),
		"user namespace":    raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"ptrace":            raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0),
		"read a process":    raw(unix.SYS_PROCESS_VM_READV, here, 0, 0, 0, 0, 0),
		"kill all":          raw(unix.SYS_KILL, ^uintptr(0), 0),
		"signal a process":  raw(unix.SYS_TGKILL, here+1, here+1, 0),
		"mount":             raw(unix.SYS_MOUNT, path("none"), path("/tmp"), path("tmpfs"), 0, 0),
		"chroot":            raw(unix.SYS_CHROOT, path("/tmp")),
		"bpf":               raw(unix.SYS_BPF, 0, 0, 0),
		"io_uring":          raw(unix.SYS_IO_URING_SETUP, 1, path("12345678123456781234567812345678123456781234567812345678123456781234567812345678123456781234567812345678123456781234567812345678")),
		"perf":              raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0),
		"keys":              raw(unix.SYS_KEYCTL, 0, 0, 0, 0, 0),
		"userfaultfd":       raw(unix.SYS_USERFAULTFD, 0),
		"setuid":            raw(unix.SYS_SETUID, 12345),
		"raise a limit":     raw(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_FSIZE, path("1234567812345678"), 0),
		"ioctl a terminal":  raw(unix.SYS_IOCTL, 0, unix.TIOCSTI, path("x")),
		"undo dumpable":     raw(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0),
	}
}

func ordinaryRead() string {
	fd, err := unix.Openat(3, "in", unix.O_RDONLY, 0)
	if err != nil {
		return err.Error()
	}
	b := make([]byte, 16)
	n, err := unix.Read(fd, b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

// ordinaryThreads makes the runtime start threads and collect garbage.
func ordinaryThreads() string {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			b := make([]byte, 4<<20)
			b[0] = 1
			runtime.GC()
		})
	}
	wg.Wait()
	return "ok"
}
