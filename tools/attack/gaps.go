package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gapAttacks go where a rule ends: another container, a namespace that is the host's, a descriptor
// that is older than the rule, an act that has no hook.
func gapAttacks() []attack {
	return []attack{
		{"priv-releaseagent", "P2", needAdmin, "open the release_agent of a cgroup hierarchy for writing", privReleaseAgent},
		{"priv-notify", "P2", needAdmin, "open notify_on_release of a cgroup hierarchy that was mounted with a release_agent", privNotify},
		{"priv-ueventhelper", "P2", needAdmin, "open the path of the kernel's uevent helper for writing", func(e *env) error {
			if err := openForWriting("/proc/sys/kernel/hotplug"); err == nil || refused(err) {
				return err
			}
			return openMounted(e, "sysfs", "kernel/uevent_helper")
		}},
		{"priv-hostnet", "P2", needHostNS, "open a setting of the host's network namespace for writing", settingOf("/proc/sys/net/ipv4/ip_forward")},
		{"priv-hostipc", "P2", needHostNS, "open a setting of the host's IPC namespace for writing", settingOf("/proc/sys/kernel/shmmax")},
		{"priv-hostname", "P2", needHostNS, "open the host's name for writing", settingOf("/proc/sys/kernel/hostname")},
		{"priv-hostuser", "P2", needResource, "open a limit of the host's user namespace for writing", privHostUser},
		{"priv-other-ptrace", "P5", needOther, "trace a process of another container", func(e *env) error { return onOther(e, attach) }},
		{"priv-other-mem", "P5", needOther, "open the memory of a process of another container", func(e *env) error { return onOther(e, readMemory) }},
		{"priv-other-vm", "P5", needOther, "read a process of another container by process_vm_readv", func(e *env) error { return onOther(e, readVM) }},
		{"priv-other-signal", "P5", needOther, "signal a process of another container", func(e *env) error {
			return onOther(e, func(pid int) error { return unix.Kill(pid, 0) })
		}},
		{"priv-other-sched", "P5", needOther, "give a process of another container another scheduler", func(e *env) error { return onOther(e, schedule) }},
		{"priv-other-ioprio", "P5", needOther, "give a process of another container another I/O priority", func(e *env) error { return onOther(e, ioPriority) }},
		{"priv-other-oom", "P5", needOther, "write to oom_score_adj of a process of another container", func(e *env) error { return onOther(e, killFirst) }},
		{"priv-other-sigio", "P5", needOther, "have a process of another container sent a signal when something can be read (F_SETOWN)", func(e *env) error { return onOther(e, sigio) }},
		{"priv-other-pull", "P5", needJoin, "move a process of another container to the own cgroup", privPull(os.OpenFile)},
		{"priv-other-pull-nested", "P5", needJoin, "the same, the file opened in a PID namespace of one's own", privPull(openNested)},
		{"priv-setattr", "F5", needAdmin, "change the flags of a mount by mount_setattr", privSetAttr},
		{"priv-setattr-high", "F5", needAdmin, "the same, the call's number with bits that the kernel takes no notice of", privSetAttrHigh},
		{"priv-clonetree", "F5", needAdmin, "clone a tree of mounts and use it by its descriptor alone", privCloneTree},
		{"priv-detached", "F5", needAdmin, "make a file system and use it by its descriptor alone", privDetached},
		{"file-oldread", "F3", "", "read the key by a descriptor opened before the rule", fileOldRead},
		{"file-oldwrite", "F3", "", "write by a descriptor opened before the rule", fileOldWrite},
		{"file-olduring", "F3", "", "write a file that an io_uring took over before the rule", fileOldURing},
		{"file-move", "F1", needMove, "read the key after its volume was moved (MS_MOVE)", fileMove},
		{"file-oldtrunc", "F2", "", "truncate by a descriptor opened before the rule", fileOldTruncate},
		{"file-utimes", "F2", "", "set the times of a file of the tree", func(e *env) error { return os.Chtimes(e.auth(), time.Unix(1, 0), time.Unix(1, 0)) }},
		{"file-flags", "F2", "", "set an inode flag of a file of the tree", fileFlags},
		{"net-packet-early", "N1", needRaw, "send a frame by a packet socket made before the rule", netPacketEarly},
		{"net-left", "N1", needAdmin, "send from the root of the cgroup tree", netLeft},
		{"net-left-born", "N1", needAdmin, "send from a process that is born in the root of the cgroup tree", netLeftBorn},
		{"net-other-loopback", "N1", needEnter, "send to the host's loopback by a socket made in the host's network namespace", netOtherLoopback},
		{"net-left-socket", "N1", needAdmin, "send from the root of the cgroup tree, by a socket made before", netLeftSocket},
	}
}

// privReleaseAgent takes a hierarchy of version 1 that is there, or else makes one without a controller.
func privReleaseAgent(e *env) error {
	options, err := hierarchy()
	if err != nil {
		return untried(err)
	}
	return inHierarchy(e, options, "release_agent")
}

// privNotify makes a hierarchy: of one that is there the option is ignored.
func privNotify(e *env) error {
	return inHierarchy(e, "none,name=belay-notify,release_agent=/nowhere", "notify_on_release")
}

// hierarchy names one of version 1, as mount options.
func hierarchy() (string, error) {
	options := "none,name=belay-attack"
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[1] != "" {
			options = f[1]
			if strings.HasPrefix(options, "name=") {
				options = "none," + options
			}
		}
	}
	return options, nil
}

func inHierarchy(e *env, options, file string) error {
	dir := e.path("v1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return untried(err)
	}
	if err := unix.Mount("none", dir, "cgroup", 0, options); err != nil {
		return untried(fmt.Errorf("mount cgroup %s: %w", options, err))
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	return openForWriting(filepath.Join(dir, file))
}

// settingOf opens a setting, and writes nothing.
func settingOf(path string) func(*env) error {
	return func(*env) error { return openForWriting(path) }
}

// privHostUser: without CAP_SYS_RESOURCE the mode of the file refuses it.
func privHostUser(*env) error {
	if err := openForWriting("/proc/sys/user/max_user_namespaces"); errors.Is(err, unix.EACCES) {
		return untried(err)
	} else if err != nil {
		return err
	}
	return nil
}

// onOther acts on --pid.
func onOther(e *env, act func(pid int) error) error {
	if e.pid <= 0 {
		return untried(errors.New("--pid is wanted"))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return act(e.pid)
}

func attach(pid int) error {
	if err := unix.PtraceAttach(pid); err != nil {
		return err
	}
	var st unix.WaitStatus
	_, err := unix.Wait4(pid, &st, 0, nil)
	return untried(errors.Join(err, unix.PtraceDetach(pid)))
}

// readVM reads the beginning of the program's mapping.
func readVM(pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	var from uintptr
	if _, err := fmt.Sscanf(string(maps), "%x-", &from); err != nil {
		return untried(err)
	}
	var b [4]byte
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	_, err = unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: from, Len: len(b)}}, 0)
	return err
}

// schedule asks for what the task has already: SCHED_OTHER.
func schedule(pid int) error {
	var param [1]int32
	_, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(pid), 0, uintptr(unsafe.Pointer(&param)))
	if errno != 0 {
		return errno
	}
	return nil
}

func ioPriority(pid int) error {
	const process, bestEffort4 = 1, 2<<13 | 4 // include/uapi/linux/ioprio.h
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, process, uintptr(pid), bestEffort4)
	if errno != 0 {
		return errno
	}
	return nil
}

// killFirst writes what is there already: who is killed when memory is short.
func killFirst(pid int) error {
	name := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	score, err := os.ReadFile(name)
	if err != nil {
		return untried(err)
	}
	return os.WriteFile(name, score, 0)
}

func privSetAttr(*env) error { return setAttr(unix.SYS_MOUNT_SETATTR) }

// privSetAttrHigh: of a call's number x86 looks at 32 bits.
func privSetAttrHigh(*env) error { return setAttr(1<<32 | unix.SYS_MOUNT_SETATTR) }

func setAttr(call uintptr) error {
	attr, path := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODIRATIME}, []byte("/proc\x00")
	_, _, errno := unix.Syscall6(call, uintptr(unix.AT_FDCWD&(1<<64-1)), uintptr(unsafe.Pointer(&path[0])), 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS:
		return untried(errno)
	}
	return errno
}

func privCloneTree(*env) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func privDetached(*env) error {
	fs, err := unix.Fsopen("tmpfs", 0)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	m, err := unix.Fsmount(fs, 0, 0)
	if err != nil {
		return err
	}
	defer unix.Close(m)
	fd, err := unix.Openat(m, "file", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func fileOldRead(e *env) error {
	f, err := os.Open(e.key())
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	if err := e.turn(); err != nil {
		return err
	}
	return readOpen(f)
}

// oldAuth opens authorized_keys before the rule.
func oldAuth(e *env) (*os.File, error) {
	f, err := os.OpenFile(e.auth(), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, untried(err)
	}
	return f, e.turn()
}

func fileOldWrite(e *env) error {
	f, err := oldAuth(e)
	if err != nil {
		return err
	}
	return e.plantBy(f)
}

// fileOldURing: the file is no descriptor any more.
func fileOldURing(e *env) error {
	if err := e.start(command{path: prim, args: []string{prim, "uringheld", e.auth(), planted, e.wait}, want: "uid=uring"}); err != nil {
		return err
	}
	return e.authorised()
}

func fileOldTruncate(e *env) error {
	f, err := oldAuth(e)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(0), f.Close())
}

// fileFlags sets the flag that a file is no part of a backup, which its owner may.
func fileFlags(e *env) error { return setFlag(e.auth()) }

func setFlag(path string) error {
	const noDump = 0x40 // FS_NODUMP_FL of include/uapi/linux/fs.h
	f, err := os.Open(path)
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, noDump)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		return untried(err)
	}
	return err
}

// netPacketEarly sends to the loopback device.
func netPacketEarly(e *env) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(fd)
	if err := e.turn(); err != nil {
		return err
	}
	const lo, ipv4 = 1, 0x0008 // ETH_P_IP in network byte order
	return unix.Sendto(fd, make([]byte, 20), 0, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: lo, Halen: 6})
}

// netLeft sends to a peer that was there before it left.
func netLeft(e *env) error {
	return netUDP("127.0.0.1", func(at netip.AddrPort) error {
		return inCgroup(e, toRoot, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err // the act: who has left makes no socket
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, []byte("x"), 0, inet4(at))
		})
	})
}

// netLeftBorn has a child start in the root of the tree: nobody writes to cgroup.procs.
func netLeftBorn(e *env) error {
	return withCgroups(e, func(tree string) error {
		dir, err := os.Open(tree)
		if err != nil {
			return untried(err)
		}
		defer dir.Close()
		return netUDP("127.0.0.1", func(at netip.AddrPort) error {
			c := exec.Command("/proc/self/exe", "ask", at.String())
			c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
			if err := c.Run(); c.ProcessState == nil {
				return untried(err)
			}
			return nil // nobody answers: whether it has sent, the peer says
		})
	})
}

// netLeftSocket takes its socket along.
func netLeftSocket(e *env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(fd)
	return netUDP("127.0.0.1", func(at netip.AddrPort) error {
		return inCgroup(e, toRoot, func() error { return unix.Sendto(fd, []byte("x"), 0, inet4(at)) })
	})
}

// netOtherLoopback sends from its own network namespace, by a thread that ends there.
func netOtherLoopback(*env) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			own, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return untried(err)
			}
			defer own.Close()
			theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
			if err != nil {
				return untried(err)
			}
			defer theirs.Close()
			if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
				return untried(err)
			}
			return netUDP("127.0.0.1", func(at netip.AddrPort) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return untried(err)
				}
				defer unix.Close(fd)
				if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
					return untried(err)
				}
				return unix.Sendto(fd, []byte("x"), 0, inet4(at))
			})
		}()
	}()
	return <-done
}

// privPull takes the process back to where it was.
func privPull(open func(name string, flag int, perm os.FileMode) (*os.File, error)) func(*env) error {
	return func(e *env) error {
		return onOther(e, func(pid int) error {
			return inCgroupTree(e, func(tree string) error {
				own, err := procsOf(tree, "self")
				if err != nil {
					return untried(err)
				}
				was, err := procsOf(tree, strconv.Itoa(pid))
				if err != nil {
					return untried(err)
				}
				f, err := open(own, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				if _, err := f.WriteString(strconv.Itoa(pid)); err != nil {
					return err
				}
				return untried(os.WriteFile(was, []byte(strconv.Itoa(pid)), 0))
			})
		})
	}
}

// procsOf names the list of tasks of a process's cgroup.
func procsOf(tree, pid string) (string, error) {
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(tree, name, "cgroup.procs"), nil
		}
	}
	return "", errors.New("no cgroup of version 2")
}

// openNested has a child open a file for writing, the first process of a PID namespace, and takes the
// descriptor from it.
func openNested(name string, _ int, _ os.FileMode) (*os.File, error) {
	c := exec.Command("/bin/sh", "-c", "exec 3>"+name+" && echo && read x")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	in, err1 := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	if err := errors.Join(err1, err2, c.Start()); err != nil {
		return nil, untried(err)
	}
	defer func() { _, _ = in.Close(), c.Wait() }()
	if n, _ := out.Read(make([]byte, 1)); n == 0 {
		return nil, fmt.Errorf("%w: the child cannot open it", errRefused)
	}
	child, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		return nil, untried(err)
	}
	defer unix.Close(child)
	fd, err := unix.PidfdGetfd(child, 3, 0)
	if err != nil {
		return nil, untried(err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fileMove leaves the volume where it was.
func fileMove(e *env) error {
	to := e.path("moved")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return untried(err)
	}
	if err := unix.Mount(e.home, to, "", unix.MS_MOVE, ""); err != nil {
		return untried(err)
	}
	defer func() { _ = unix.Mount(to, e.home, "", unix.MS_MOVE, "") }()
	_, err := os.ReadFile(filepath.Join(to, ".ssh/id_rsa"))
	return err
}
