package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// verbAttacks do what a rule denies by another verb, or to the same object by another name that came
// from outside: a mount, a volume, a directory that the runtime has left open.
func verbAttacks() []attack {
	return []attack{
		{"e1-volume", "E1", needVolume, "a program of a directory of the host, which is a volume", func(e *env) error { return e.exec(e.owned) }},
		{"e1-volume-twice", "E1", needTwice, "a program written to a volume and executed where that is mounted read-only", func(e *env) error {
			if _, err := e.dropIn(e.home, e.target, "dropped"); err != nil {
				return err
			}
			return e.exec(filepath.Join(e.at, "dropped"))
		}},
		{"file-openat2", "E12", "", "open the key by openat2", func(e *env) error {
			fd, err := unix.Openat2(unix.AT_FDCWD, e.key(), &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC})
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fd), e.key())
			defer f.Close()
			return readOpen(f)
		}},
		{"file-int80", "E12", "", "open the key by the 32-bit system call table", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "int80open", e.key()}, want: "PRIVATE KEY"})
		}},
		{"file-cover", "F1", needAdmin, "bind another file over one of the tree", fileCover},
		{"file-rmdir", "F1", "", "remove a directory of the tree", func(e *env) error {
			dir := e.inTree("dir") // to make it is not what the rule denies
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.Remove(dir)
		}},
		{"file-clone", "F2", "", "write by sharing another file's blocks (FICLONE)", func(e *env) error {
			return onAuth(e, func(to, from int) error { return unix.IoctlFileClone(to, from) })
		}},
		{"file-fallocate", "F2", "", "write zeros by fallocate", func(e *env) error {
			return onAuth(e, func(to, _ int) error {
				return unix.Fallocate(to, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
			})
		}},
		{"file-sendfile", "F2", "", "write by sendfile", func(e *env) error {
			return onAuth(e, func(to, from int) error {
				_, err := unix.Sendfile(to, from, nil, len(planted))
				return err
			})
		}},
		{"priv-devices", "F7", needAdmin, "open the list of devices that a cgroup may use for writing", privDevices},
		{"priv-procfs", "P2", needAdmin, "mount another proc and open its core_pattern for writing", func(e *env) error {
			return openMounted(e, "proc", "sys/kernel/core_pattern")
		}},
		{"host-mounted", "P3", needHost, "open core_pattern for writing where the runtime was led to mount it (CVE-2025-31133)", func(e *env) error {
			return openForWriting(e.at)
		}},
		{"host-cwd", "P3", needHost, "open a program of the engine for writing from a working directory that the runtime left open (CVE-2024-21626)", func(*env) error {
			return openForWriting(filepath.Join("..", hostRuntime))
		}},
		{"host-cwd-exec", "P3", needHost, "execute a program of the host from there", func(e *env) error {
			return e.start(command{path: filepath.Join("..", hostRuntime), args: []string{"x", "list"}, want: "NAME"})
		}},
		{"net-mptcp", "N1", "", "connect by MPTCP", func(*env) error {
			return netTCP("127.0.0.1", 0, func(at netip.AddrPort) error { return dialBy(unix.AF_INET, unix.IPPROTO_MPTCP, inet4(at)) })
		}},
		{"net-sctp", "N1", "", "send by SCTP without connect", func(*env) error { return netBy(unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP) }},
		{"net-udplite", "N1", "", "send by UDP-Lite without connect", func(*env) error { return netBy(unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE) }},
		{"net-vsock", "N1", "", "make a socket to the hypervisor", family(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
		{"net-netlink", "N1", "", "make a netlink socket", family(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
		{"net-alg", "N1", "", "make a socket of the kernel's cryptography", family(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	}
}

// fileCover wins when the name shows what was put over the file, which itself stays as it is.
func fileCover(e *env) error {
	p, err := e.write("cover", planted)
	if err != nil {
		return err
	}
	if err := unix.Mount(p, e.auth(), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(e.auth(), unix.MNT_DETACH) }()
	return e.authorised()
}

// onAuth acts on authorized_keys, opened for writing, and a file of the attacker's.
func onAuth(e *env, act func(to, from int) error) error {
	p, err := e.write("from", planted)
	if err != nil {
		return err
	}
	from, err := os.Open(p)
	if err != nil {
		return untried(err)
	}
	defer from.Close()
	to, err := os.OpenFile(e.auth(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer to.Close()
	err = act(int(to.Fd()), int(from.Fd()))
	for _, none := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL} {
		if errors.Is(err, none) {
			return untried(err)
		}
	}
	return err
}

// privDevices takes the hierarchy of version 1 that has the devices, or makes it.
func privDevices(e *env) error {
	dir := e.path("devices")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return untried(err)
	}
	if err := unix.Mount("none", dir, "cgroup", 0, "devices"); err != nil {
		return untried(fmt.Errorf("mount cgroup devices: %w", err))
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	return openForWriting(filepath.Join(dir, "devices.allow"))
}

// netBy sends by a protocol with UDP's ports, or with others, to a peer of its own.
func netBy(kind, protocol int) error {
	at := netAddr("127.0.0.1", 0)
	var fds [2]int
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return untried(err)
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	err := unix.Bind(fds[0], inet4(at))
	if err == nil && kind == unix.SOCK_SEQPACKET {
		err = unix.Listen(fds[0], 1)
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fds[1], unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1})
	}
	if err != nil {
		return untried(err)
	}
	if err := unix.Sendto(fds[1], []byte("x"), 0, inet4(at)); errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("%w: no answer", errRefused)
	} else if err != nil {
		return err
	}
	if n, _, err := unix.Recvfrom(fds[0], make([]byte, 16), 0); err != nil || n < 1 {
		return fmt.Errorf("%w: nothing arrived: %w", errRefused, err)
	}
	return nil
}

// family makes a socket, if the kernel has its family.
func family(of, kind, protocol int) func(*env) error {
	return func(*env) error {
		err := makeSocket(of, kind, protocol)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return untried(err)
		}
		return err
	}
}
