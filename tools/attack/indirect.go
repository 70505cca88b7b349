package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// indirectAttacks have something else do what a rule denies: the loader, an interpreter, a thread of
// the kernel's, another process, or the namespaces and the cgroup of one.
func indirectAttacks() []attack {
	say := func(argv ...string) func(*env) error {
		return func(e *env) error { return e.exec(argv...) }
	}
	return []attack{
		{"e5-denied", "E5", "", "a denied program of the image run by ld.so", func(e *env) error { return e.exec(loader(), dynamic) }},
		{"e5-memfd", "E5", "", "a memfd run by ld.so", func(e *env) error { return giveMemfd(e, dynamic, loader()) }},
		{"e6-memfd", "E6", "", "a library in a memfd by dlopen", func(e *env) error { return giveMemfd(e, "/usr/lib/evil.so", "/bin/dlrun") }},
		{"e8-rwx", "E8", "", "code in memory that is writable and executable from the start", say(prim, "rwx")},
		{"e8-uffd", "E8", "", "code that userfaultfd puts into memory that is never writable", say(prim, "uffd")},
		{"e8-poke", "E8", "", "code written into a child by ptrace", func(*env) error { return onChild(poke) }},
		{"e8-vmwrite", "E8", "", "memory of a child written by process_vm_writev", func(*env) error { return onChild(writeVM) }},
		{"e9-argument", "E9", "", "a script that is an argument of the image's shell", say("/bin/sh", "-c", "echo uid=script")},
		{"e9-awk", "E9", "", "a dropped script given to an interpreter that is no shell", func(e *env) error {
			p, err := e.write("script", "BEGIN { print \"uid=script\" }\n")
			if err != nil {
				return err
			}
			return e.exec(busybox, "awk", "-f", p)
		}},
		{"e9-input", "E9", "", "a script that the image's shell reads from a pipe", e9Input},
		{"e10-fd", "E10", "", "a dropped #! script by fexecve, whose interpreter is told /dev/fd/3", e10FD},
		{"i1-setns", "I1", needEnter, "a dropped program in the host's mount namespace", i1Setns},
		{"i2-born", "I2", needAdmin, "a dropped program born in the root of the cgroup tree", i2Born},
		{"i2-other", "I2", needJoin, "a dropped program in the cgroup of another container", func(e *env) error {
			return dropIn(e, func(tree, _ string) (string, error) {
				own, err := cgroupOf(strconv.Itoa(e.pid))
				return filepath.Join(tree, own), err
			})
		}},
		{"file-pidfd", "F3", "", "write by a descriptor opened before the rule and fetched from a child by pidfd_getfd", filePidfd},
		{"file-setns", "F5", "", "read the key in the mount namespace of another process, where it is elsewhere", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "setnsread", filepath.Dir(e.key()), e.dir, filepath.Base(e.key())}, want: "PRIVATE KEY"})
		}},
		{"priv-setns", "F5", needEnter, "enter the host's mount namespace", func(*env) error {
			return inMountsOf(os.Getppid(), func() error { return nil })
		}},
		{"priv-setns-ioctl", "F5", needEnter, "enter the first mount namespace of the host, found by ioctl (NS_MNT_GET_PREV)", func(*env) error {
			return inMounts(firstMounts, func() error { return nil })
		}},
		{"priv-other-root", "F7", needOther, "look into the root directory of a process of another container", func(e *env) error {
			return onOther(e, func(pid int) error {
				_, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", pid))
				return err
			})
		}},
		{"net-uring-tcp", "N1", "", "connect by io_uring", func(e *env) error {
			return netTCP("127.0.0.1", 0, func(at netip.AddrPort) error { return e.byUring("uringconnect", at) })
		}},
		{"net-sqpoll", "P6", "", "have the kernel's thread of an io_uring send", func(e *env) error {
			return netUDP("127.0.0.1", func(at netip.AddrPort) error { return e.byUring("sqpollsend", at) })
		}},
		{"file-sqpoll", "P6", "", "have the kernel's thread of an io_uring write", func(e *env) error {
			if err := e.start(command{path: prim, args: []string{prim, "sqpollwrite", e.auth(), planted}, want: "uid=uring"}); err != nil {
				return err
			}
			return e.authorised()
		}},
		{"keys-sqpoll", "P6", "", "have the kernel's thread of an io_uring read the key", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "sqpoll", e.key()}, want: "PRIVATE KEY"})
		}},
		{"n2-client-proxy", "N2", "", "an SSH client whose connection another program makes, as by ProxyCommand", clientByProxy},
		{"n2-server-inetd", "N2", "", "an SSH server that is given an accepted connection, as by inetd", serverByInetd},
	}
}

// giveMemfd gives program the path of a memfd with what from holds.
func giveMemfd(e *env, from, program string) error {
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		return untried(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	data, err := os.ReadFile(from)
	if err == nil {
		_, err = f.Write(data)
	}
	if err != nil {
		return untried(err)
	}
	return e.start(command{path: program, args: []string{program, "/proc/self/fd/3"}, files: []*os.File{f}})
}

// poke replaces the first instructions of the program's mapping, and puts them back.
func poke(pid int) error {
	at, err := mapping(pid, "r-xp")
	if err != nil {
		return err
	}
	if err := unix.PtraceAttach(pid); err != nil {
		return err
	}
	var st unix.WaitStatus
	if _, err := unix.Wait4(pid, &st, 0, nil); err != nil {
		return untried(err)
	}
	_, err = unix.PtracePokeText(pid, at, []byte(code()))
	return err
}

// writeVM writes to the child's stack.
func writeVM(pid int) error {
	at, err := mapping(pid, "[stack]")
	if err != nil {
		return err
	}
	b := []byte("code")
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	_, err = unix.ProcessVMWritev(pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: at, Len: len(b)}}, 0)
	return err
}

// mapping returns where the first mapping of a process begins whose line has what.
func mapping(pid int, what string) (uintptr, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, what) {
			continue
		}
		var from uintptr
		_, err := fmt.Sscanf(line, "%x-", &from)
		return from, untried(err)
	}
	return 0, untried(fmt.Errorf("process %d has no mapping %s", pid, what))
}

func e9Input(e *env) error {
	r, w, err := os.Pipe()
	if err != nil {
		return untried(err)
	}
	defer r.Close()
	_, err = w.WriteString("echo uid=script\n")
	if err = errors.Join(err, w.Close()); err != nil {
		return untried(err)
	}
	return e.start(command{path: "/bin/sh", args: []string{"sh", "/proc/self/fd/3"}, files: []*os.File{r}})
}

func e10FD(e *env) error {
	p, err := e.write("script", "#!/bin/sh\necho uid=script\n")
	if err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	return e.execFD(f, true)
}

// inMountsOf acts in the mount namespace of a process.
func inMountsOf(pid int, act func() error) error {
	return inMounts(func() (int, error) {
		return unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}, act)
}

// firstMounts goes from the own mount namespace back to the oldest.
func firstMounts() (int, error) {
	// NS_MNT_GET_PREV of include/uapi/linux/nsfs.h; before 6.18 its number alone counts.
	const previous, anyType = 0x8010b70c, 0x8010000c
	fd, err := unix.Open("/proc/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, untried(err)
	}
	for n := 0; ; n++ {
		var info [16]byte
		next, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), previous, uintptr(unsafe.Pointer(&info)))
		if errno == unix.EPERM {
			next, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), anyType, uintptr(unsafe.Pointer(&info)))
		}
		switch {
		case errno == 0:
		case errno == unix.ENOENT && n > 0:
			return fd, nil
		case errno == unix.ENOTTY, errno == unix.ENOENT:
			return -1, untried(errors.Join(errno, unix.Close(fd)))
		default:
			return -1, errors.Join(errno, unix.Close(fd))
		}
		if err := unix.Close(fd); err != nil {
			return -1, untried(err)
		}
		fd = int(next)
	}
}

// inMounts acts in the mount namespace that open returns, by a thread that ends there.
func inMounts(open func() (int, error), act func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return untried(err)
			}
			fd, err := open()
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
				return err
			}
			return act()
		}()
	}()
	return <-done
}

// i1Setns executes by descriptor what was dropped in the container.
func i1Setns(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	return inMountsOf(os.Getppid(), func() error {
		return e.start(command{path: "/proc/self/fd/3", args: []string{"x"}, files: []*os.File{f}})
	})
}

// i2Born writes to no cgroup.procs.
func i2Born(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	return withCgroups(e, func(tree string) error {
		dir, err := os.Open(tree)
		if err != nil {
			return untried(err)
		}
		defer dir.Close()
		return e.start(command{path: p, args: []string{"x"}, sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}})
	})
}

func filePidfd(e *env) error {
	f, err := e.openedBefore()
	if err != nil {
		return err
	}
	c := exec.Command("/bin/sleep", "100")
	c.ExtraFiles = []*os.File{f}
	err = c.Start()
	if err = errors.Join(err, f.Close()); err != nil {
		return untried(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	if err := e.turn(); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, 3, 0)
	if err != nil {
		return err
	}
	return e.plantBy(os.NewFile(uintptr(fd), "fetched"))
}

// byUring has prim send to a port of 127.0.0.1.
func (e *env) byUring(act string, at netip.AddrPort) error {
	return e.start(command{path: prim, args: []string{prim, act, strconv.Itoa(int(at.Port()))}, want: "uid=uring"})
}

func clientByProxy(*env) error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return untried(err)
	}
	defer l.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return untried(err)
	}
	defer w.Close()
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return untried(err)
	}
	proxy, err := os.StartProcess(busybox, []string{"nc", host, port}, &os.ProcAttr{Files: []*os.File{r, nil, nil}})
	_ = r.Close()
	if err == nil {
		_, err = w.WriteString(version)
	}
	if err != nil {
		return untried(err)
	}
	got, err := firstDialled(l)
	_ = proxy.Kill()
	_, _ = proxy.Wait()
	return verdict(got, err)
}

func serverByInetd(*env) error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return untried(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return untried(err)
	}
	defer client.Close()
	served, err := l.AcceptTCP()
	if err != nil {
		return untried(err)
	}
	f, err := served.File()
	if err = errors.Join(err, served.Close()); err != nil {
		return untried(err)
	}
	server, err := os.StartProcess(busybox, []string{"printf", strings.ReplaceAll(version, "\r\n", `\r\n`)}, &os.ProcAttr{Files: []*os.File{f, f, nil}})
	_ = f.Close()
	if err != nil {
		return untried(err)
	}
	got, err := readVersion(client)
	_, _ = server.Wait()
	return verdict(got, err)
}
