package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fileAttacks change what a read-only tree holds, here ~/.ssh: files, F1 to F3. Those of
// keyAttacks are played against the same tree.
func fileAttacks() []attack {
	return []attack{
		{"file-create", "F2", "", "make a file in the tree", fileCreate},
		{"file-mkdir", "F2", "", "make a directory in the tree", func(e *env) error { return os.Mkdir(e.inTree("d"), 0o700) }},
		{"file-mknod", "F2", "", "make a FIFO in the tree", func(e *env) error { return unix.Mknod(e.inTree("p"), unix.S_IFIFO|0o600, 0) }},
		{"file-symlink", "F1", "", "make a symbolic link in the tree", func(e *env) error { return os.Symlink("/", e.inTree("l")) }},
		{"file-tmpfile", "F2", "", "give a file without a name one in the tree", fileTmp},
		{"file-unlink", "F1", "", "remove a file of the tree", func(e *env) error { return os.Remove(e.auth()) }},
		{"file-chmod", "F1", "", "change the mode of a file of the tree", func(e *env) error { return os.Chmod(e.auth(), 0o640) }},
		{"file-fchmod", "F1", "", "the same by a descriptor", fileFchmod},
		{"file-chown", "F1", "", "change the owner of a file of the tree", func(e *env) error { return os.Chown(e.auth(), os.Getuid(), os.Getgid()) }},
		{"file-xattr", "F1", "", "set an extended attribute of a file of the tree", fileXattr},
		{"file-trunc", "F2", "", "truncate by an open for reading", fileTrunc},
		{"file-renamedir", "F1", needVolume, "rename the tree itself", func(e *env) error { return os.Rename(e.inTree(""), filepath.Join(e.home, "old")) }},
		{"file-into", "F1", "", "rename a file of another directory into the tree", fileInto},
		{"file-acl", "F1", "", "give another user an ACL on a file of the tree", fileACL},
		{"file-exchange", "F1", "", "swap a file with one of the tree", fileExchange},
		{"file-fd", "F7", "", "write by /proc/self/fd of a descriptor for reading", fileFD},
		{"file-handle", "F3", needHandle, "read the key by open_by_handle_at", fileHandle},
		{"file-bind", "F1", "", "write through a bind mount of the tree, in namespaces of its own", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "bindwrite", e.inTree(""), e.dir, filepath.Base(e.auth())}, want: "uid=bind"})
		}},
		{"file-uring", "P6", "", "write by io_uring", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "uringwrite", e.auth(), planted}, want: "uid=uring"})
		}},
		{"file-copyrange", "F3", needVolume, "read the key by copy_file_range", fileCopyRange},
		{"file-splice", "F2", "", "write by splice from a pipe", fileSplice},
		{"file-mmap", "F3", "", "store through a shared mapping of a descriptor opened before the rule", fileMmap},
		{"file-mprotect", "F3", "", "the same, made writable after it was mapped", fileMprotect},
		{"file-receive", "F3", "", "write by a descriptor that comes over a socket, opened before the rule", fileReceive},
		{"file-fdroot", "F7", "", "by /proc/self/root", func(e *env) error { return os.WriteFile("/proc/self/root"+e.inTree("new"), nil, 0o600) }},
	}
}

func (e *env) inTree(name string) string { return filepath.Join(e.home, ".ssh", name) }

func fileCreate(e *env) error { return os.WriteFile(e.inTree("new"), []byte("x"), 0o600) }

func fileTmp(e *env) error {
	fd, err := unix.Open(e.home, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(fd)
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, e.inTree("new"), unix.AT_SYMLINK_FOLLOW)
}

func fileFchmod(e *env) error {
	f, err := os.Open(e.auth())
	if err != nil {
		return untried(err)
	}
	return errors.Join(f.Chmod(0o640), f.Close())
}

func fileXattr(e *env) error {
	err := unix.Setxattr(e.auth(), "user.belay", []byte("x"), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return untried(err)
	}
	return err
}

func fileTrunc(e *env) error {
	fd, err := unix.Open(e.auth(), unix.O_RDONLY|unix.O_TRUNC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func fileInto(e *env) error {
	from := filepath.Join(e.home, "photo")
	if err := os.WriteFile(from, []byte("x"), 0o600); err != nil {
		return untried(err)
	}
	return os.Rename(from, e.inTree("photo"))
}
