package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The attacks on files that get at them by something other than a path: a descriptor, a
// handle, a mapping, or what another process hands over.

// fileACL lets user 1 write a file. The form is that of posix_acl_xattr_header and _entry in
// the kernel's include/uapi/linux/posix_acl_xattr.h.
func fileACL(e *env) error {
	const (
		version                              = 2
		userObj, user, groupObj, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
		none                                 = ^uint32(0)
	)
	acl := binary.LittleEndian.AppendUint32(nil, version)
	for _, a := range []struct {
		tag, perm uint16
		id        uint32
	}{{userObj, 6, none}, {user, 6, 1}, {groupObj, 0, none}, {mask, 6, none}, {other, 0, none}} {
		acl = binary.LittleEndian.AppendUint16(acl, a.tag)
		acl = binary.LittleEndian.AppendUint16(acl, a.perm)
		acl = binary.LittleEndian.AppendUint32(acl, a.id)
	}
	err := unix.Setxattr(e.auth(), "system.posix_acl_access", acl, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return untried(err)
	}
	return err
}

func fileExchange(e *env) error {
	from := filepath.Join(e.home, "photo")
	if err := os.WriteFile(from, []byte(planted), 0o600); err != nil {
		return untried(err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, e.auth(), unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return e.authorised()
}

// plantBy appends to authorized_keys by a descriptor.
func (e *env) plantBy(f *os.File) error {
	_, err := f.WriteString(planted)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return e.authorised()
}

func fileFD(e *env) error {
	r, err := os.Open(e.auth())
	if err != nil {
		return untried(err)
	}
	defer r.Close()
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", r.Fd()), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	return e.plantBy(w)
}

func fileHandle(e *env) error {
	dir, err := os.Open(e.home)
	if err != nil {
		return untried(err)
	}
	defer dir.Close()
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, e.key(), 0)
	if err != nil {
		return untried(err)
	}
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), handle, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "by handle")
	defer f.Close()
	return readOpen(f)
}

// readOpen wants the private key from f.
func readOpen(f *os.File) error {
	buf := make([]byte, 4096)
	n, err := f.ReadAt(buf, 0)
	if n == 0 {
		return err
	}
	if !strings.Contains(string(buf[:n]), "PRIVATE KEY") {
		return untried(fmt.Errorf("%s holds no key", f.Name()))
	}
	return nil
}

func fileCopyRange(e *env) error {
	to, err := os.Create(filepath.Join(e.home, "photo")) //nolint:forbidigo // in the attacker's own folder
	if err != nil {
		return untried(err)
	}
	defer to.Close()
	from, err := os.Open(e.key())
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, 4096, 0); err != nil {
		return err
	}
	return readOpen(to)
}

func fileSplice(e *env) error {
	r, w, err := os.Pipe()
	if err != nil {
		return untried(err)
	}
	defer r.Close()
	_, err = w.WriteString(planted)
	if err = errors.Join(err, w.Close()); err != nil {
		return untried(err)
	}
	f, err := os.OpenFile(e.auth(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := unix.Splice(int(r.Fd()), nil, int(f.Fd()), nil, len(planted), 0); err != nil {
		return err
	}
	return e.authorised()
}

// openedBefore opens authorized_keys for writing and waits for the rule.
func (e *env) openedBefore() (*os.File, error) {
	f, err := os.OpenFile(e.auth(), os.O_RDWR, 0)
	if err == nil {
		err = f.Truncate(4096) // what is mapped must be there
	}
	if err != nil {
		return nil, untried(err)
	}
	return f, nil
}

func fileMmap(e *env) error {
	f, err := e.openedBefore()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.turn(); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, planted)
	if err := unix.Munmap(m); err != nil {
		return untried(err)
	}
	return e.authorised()
}

func fileMprotect(e *env) error {
	f, err := e.openedBefore()
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	if err := unix.Mprotect(m, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	copy(m, planted)
	if err := unix.Munmap(m); err != nil {
		return untried(err)
	}
	return e.authorised()
}

func fileReceive(e *env) error {
	f, err := e.openedBefore()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	one, room := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, flags, _, err := unix.Recvmsg(pair[1], one, room, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	if flags&unix.MSG_CTRUNC != 0 || n == 0 { // what a denied descriptor leaves: unix(7)
		return fmt.Errorf("%w: the descriptor was kept back", errRefused)
	}
	msgs, err := unix.ParseSocketControlMessage(room[:n])
	if err != nil || len(msgs) != 1 {
		return untried(fmt.Errorf("control messages: %d, %w", len(msgs), err))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return untried(fmt.Errorf("descriptors: %d, %w", len(fds), err))
	}
	return e.plantBy(os.NewFile(uintptr(fds[0]), "received"))
}
