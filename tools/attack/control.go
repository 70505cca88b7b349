package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// pathAttacks get at protected files by paths that are hard to judge: F4 to F7.
func pathAttacks() []attack {
	return []attack{
		{"file-deep", "F4", "", "remove a file 100 directories deep in the tree", fileDeep},
		{"file-chroot", "F5", "", "read the key below a root and in namespaces of one's own", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "chrootread", e.home, "/.ssh/id_rsa"}, want: "PRIVATE KEY"})
		}},
		{"file-copyup", "F6", "", "read the key after it was copied to the writable layer", fileCopyUp},
		{"file-proccwd", "F7", "", "read the key by /proc/self/cwd", fileProcCwd},
	}
}

// fileDeep makes the directories itself: to make is not what the rule denies.
func fileDeep(e *env) error {
	dir := e.inTree("")
	for range 100 {
		dir = filepath.Join(dir, "a-long-directory-name")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	return os.Remove(file)
}

func fileCopyUp(e *env) error {
	if err := os.Chmod(e.key(), 0o640); err != nil {
		return err
	}
	return readKey(e.key())
}

func fileProcCwd(e *env) error {
	if err := os.Chdir(filepath.Dir(e.key())); err != nil {
		return untried(err)
	}
	return readKey("/proc/self/cwd/" + filepath.Base(e.key()))
}

// controlAttacks open what steers the kernel, and write nothing: P2 and P5.
func controlAttacks() []attack {
	return []attack{
		{"priv-modprobe", "P2", needRoot, "open the path of modprobe for writing", func(*env) error {
			return openForWriting("/proc/sys/kernel/modprobe")
		}},
		{"priv-binfmt", "P2", needAdmin, "mount binfmt_misc and open its register", func(e *env) error {
			return openMounted(e, "binfmt_misc", "register")
		}},
		{"priv-sysfs", "P2", needAdmin, "mount sysfs and open a setting for writing", func(e *env) error {
			return openMounted(e, "sysfs", "kernel/mm/transparent_hugepage/enabled", "kernel/profiling", "kernel/uevent_seqnum", "power/state")
		}},
		{"priv-kexec", "P5", needBoot, "load a kernel to boot into", func(*env) error {
			// No segments: nothing is loaded, but the call comes to where an image would be.
			_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0)
			if errno == unix.ENOSYS {
				return untried(errno)
			}
			if errno != 0 {
				return reached(errno)
			}
			return nil
		}},
		{"priv-devmem", "P5", needRawIO, "open the memory of the machine", privDevMem},
	}
}

// openMounted mounts a file system of the kernel's and opens the first of files that is there.
func openMounted(e *env, kind string, files ...string) error {
	dir := e.path("mounted")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return untried(err)
	}
	if err := unix.Mount("none", dir, kind, 0, ""); err != nil {
		return untried(fmt.Errorf("mount %s: %w", kind, err))
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	for _, f := range files {
		if st, err := os.Stat(filepath.Join(dir, f)); err == nil && st.Mode()&0o200 != 0 {
			return openForWriting(filepath.Join(dir, f))
		}
	}
	return untried(errors.New("nothing to write: " + strings.Join(files, ", ")))
}

func privDevMem(e *env) error {
	path := e.path("mem")
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))); err != nil {
		return untried(err)
	}
	f, err := os.Open(path)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return untried(err)
	}
	if err != nil {
		return err
	}
	return f.Close()
}
