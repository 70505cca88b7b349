package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// execAttacks are about which file is executed: E1 to E15, and I1.
func execAttacks() []attack {
	return []attack{
		{"e1-copy", "E1", "", "a copy of a program under another name", e1Copy},
		{"e1-rename", "E1", "", "a program renamed", e1Rename},
		{"e2-procroot", "E2", "", "by /proc/self/root", func(e *env) error { return e.exec("/proc/self/root" + e.target) }},
		{"e2-dotdot", "E2", "", "by a path with ..", func(e *env) error { return e.exec("/tmp/.." + e.target) }},
		{"e2-fd", "E2", "", "by /proc/self/fd", e2FD},
		{"e2-bind", "E2", "", "by a bind mount in a user namespace", func(e *env) error { return e.exec(prim, "bindalias", e.dir, e.target) }},
		{"e3-symlink", "E3", "", "by a symbolic link of another name", e3Symlink},
		{"e3-hardlink", "E3", "", "by a hard link of another name", e3Hardlink},
		{"e4-applet", "E4", "", "busybox told to be id", func(e *env) error { return e.exec(busybox, "id") }},
		{"e4-argv0", "E4", "", "busybox under the name id", func(e *env) error { return e.start(command{path: busybox, args: []string{"id"}}) }},
		{"e4-symlink", "E4", "", "a link of one's own to busybox", e4Symlink},
		{"e5-loader", "E5", "", "a dropped program run by ld.so", e5Loader},
		{"e5-mmap", "E5", "", "a dropped file mapped executable", func(e *env) error { return mapCode(e, "mmap") }},
		{"e6-preload", "E6", "", "a dropped library by LD_PRELOAD", e6Preload},
		{"e6-dlopen", "E6", "", "a dropped library by dlopen", e6Dlopen},
		{"e7-memfd", "E7", "", "a memfd by its /proc path", func(e *env) error { return e7Memfd(e, false) }},
		{"e7-fexecve", "E7", "", "a memfd by fexecve", func(e *env) error { return e7Memfd(e, true) }},
		{"e7-tmpfile", "E7", "", "a file that never had a name", e7TmpFile},
		{"e7-deleted", "E7", "", "a file that has no name any more", e7Deleted},
		{"e7-shm", "E7", "", "a file of /dev/shm", e7Shm},
		{"e8-mprotect", "E8", "", "a dropped file mapped, then made executable", func(e *env) error { return mapCode(e, "mprotect") }},
		{"e8-wx", "E8", "", "the same from a writable mapping", func(e *env) error { return mapCode(e, "wx") }},
		{"e9-shell", "E9", "", "a dropped script given to the image's shell", e9Shell},
		{"e10-script", "E10", "", "a dropped #! script", e10Script},
		{"e10-interp", "E10", "", "a script with a dropped interpreter", e10Interp},
		{"e10-chain", "E10", "", "a script whose interpreter is a script", e10Chain},
		{"e10-binfmt", "E10", needBinfmt, "a dropped file that binfmt_misc gives to a program of the image", e10Binfmt},
		{"e12-execveat", "E12", "", "a dropped program by execveat", e12Execveat},
		{"e12-int80", "E12", "", "by the 32-bit system call table", func(e *env) error { return dropAndRun(e, prim, "int80") }},
		{"e12-x32", "E12", needX32, "by the x32 system call table", func(e *env) error { return dropAndRun(e, prim, "x32") }},
		{"e14-retry", "E14", "", "the same denied program again and again", e14Retry},
		{"e15-first", "E15", "", "does a killed program run its first instructions?", e15First},
		{"i1-namespaces", "I1", "", "a dropped program in new user, mount and PID namespaces", i1Namespaces},
		{"i1-mount", "I1", "", "a dropped program on a tmpfs mounted just now", func(e *env) error { return e.exec(prim, "mountdrop", e.dir, e.target) }},
	}
}

func e1Copy(e *env) error { return dropAndRun(e) }

// dropAndRun drops a copy of the target and executes it, as the last argument of
// launcher if there is one.
func dropAndRun(e *env, launcher ...string) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	return e.exec(append(launcher, p)...)
}

func e1Rename(e *env) error {
	to := filepath.Join(filepath.Dir(e.owned), "renamed")
	if err := os.Rename(e.owned, to); err != nil {
		return untried(err)
	}
	return e.exec(to)
}

func e2FD(e *env) error {
	fd, err := unix.Open(e.target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	f := os.NewFile(uintptr(fd), e.target)
	defer f.Close()
	return e.start(command{path: "/proc/self/fd/3", args: []string{"x"}, files: []*os.File{f}})
}

func e3Symlink(e *env) error {
	if err := os.Symlink(e.target, e.path("alias")); err != nil {
		return untried(err)
	}
	return e.exec(e.path("alias"))
}

// e3Hardlink links a file of the attacker's own: fs.protected_hardlinks allows no other.
func e3Hardlink(e *env) error {
	to := filepath.Join(filepath.Dir(e.owned), "linked")
	if err := os.Link(e.owned, to); err != nil {
		return untried(err)
	}
	return e.exec(to)
}

func e4Symlink(e *env) error {
	if err := os.Symlink(busybox, e.path("id")); err != nil {
		return untried(err)
	}
	return e.exec(e.path("id"))
}

// loader returns the dynamic loader of the image.
func loader() string {
	if runtime.GOARCH == "arm64" {
		return "/lib/ld-linux-aarch64.so.1"
	}
	return "/lib64/ld-linux-x86-64.so.2"
}

func e5Loader(e *env) error {
	p, err := e.drop(dynamic, "dropped")
	if err != nil {
		return err
	}
	return e.exec(loader(), p)
}

// code returns the machine code of a function that returns 42.
func code() string {
	if runtime.GOARCH == "arm64" {
		return "\x40\x05\x80\x52\xc0\x03\x5f\xd6"
	}
	return "\xb8\x2a\x00\x00\x00\xc3"
}

func mapCode(e *env, how string) error {
	p, err := e.write("code", code()+strings.Repeat("\x00", 4096))
	if err != nil {
		return err
	}
	return e.exec(prim, how, p)
}

func e6Preload(e *env) error {
	p, err := e.drop("/usr/lib/evil.so", "evil.so")
	if err != nil {
		return err
	}
	return e.start(command{
		path: dynamic, args: []string{"id"}, env: []string{"LD_PRELOAD=" + p}, want: "uid=loaded",
	})
}

func e6Dlopen(e *env) error {
	p, err := e.drop("/usr/lib/evil.so", "evil.so")
	if err != nil {
		return err
	}
	return e.exec("/bin/dlrun", p)
}

// execFD executes the program in f, which has no path of its own.
func (e *env) execFD(f *os.File, byCall bool) error {
	c := command{path: "/proc/self/fd/3", args: []string{"x"}, files: []*os.File{f}}
	if byCall {
		c.path, c.args = prim, []string{prim, "fexecve", "3", "x"}
	}
	return e.start(c)
}

func (e *env) fill(f *os.File) error {
	data, err := os.ReadFile(e.target)
	if err == nil {
		_, err = f.Write(data)
	}
	return untried(err)
}

func e7Memfd(e *env, byCall bool) error {
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		return untried(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if err := e.fill(f); err != nil {
		return err
	}
	return e.execFD(f, byCall)
}

func e7TmpFile(e *env) error {
	const flags = unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC
	fd, err := unix.Open(e.dir, flags, 0o755)
	if errors.Is(err, unix.EOPNOTSUPP) {
		fd, err = unix.Open("/dev/shm", flags, 0o755) // Linux 6.1's overlay has none
	}
	if err != nil {
		return untried(err)
	}
	w := os.NewFile(uintptr(fd), "tmpfile")
	err = e.fill(w)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	// A file that is open for writing cannot be executed.
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err = errors.Join(err, w.Close()); err != nil {
		return untried(err)
	}
	defer r.Close()
	return e.execFD(r, true)
}

func e7Deleted(e *env) error {
	p, err := e.drop(e.target, "deleted")
	if err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	if err := os.Remove(p); err != nil {
		return untried(err)
	}
	return e.execFD(f, true)
}

func e7Shm(e *env) error {
	dir, err := os.MkdirTemp("/dev/shm", "attack-")
	if err != nil {
		return untried(err)
	}
	defer os.RemoveAll(dir)
	p, err := e.dropIn(dir, e.target, "dropped")
	if err != nil {
		return err
	}
	return e.exec(p)
}

func e9Shell(e *env) error {
	p, err := e.write("script", "echo uid=script\n")
	if err != nil {
		return err
	}
	return e.exec("/bin/sh", p)
}

func e10Script(e *env) error {
	p, err := e.write("script", "#!/bin/sh\necho uid=script\n")
	if err != nil {
		return err
	}
	return e.exec(p)
}

func e10Interp(e *env) error {
	interp, err := e.drop(busybox, "sh")
	if err != nil {
		return err
	}
	p, err := e.write("script", "#!"+interp+"\necho uid=interp\n")
	if err != nil {
		return err
	}
	return e.exec(p)
}

func e10Chain(e *env) error {
	inner, err := e.write("inner", "#!/bin/sh\necho uid=chain\n")
	if err != nil {
		return err
	}
	p, err := e.write("outer", "#!"+inner+"\n")
	if err != nil {
		return err
	}
	return e.exec(p)
}

// e10Binfmt executes a file that no loader knows, but for a handler that the host has for
// names which end in .belay-attack; the handler's interpreter must be the target.
func e10Binfmt(e *env) error {
	p, err := e.write("dropped.belay-attack", "of no format\n")
	if err != nil {
		return err
	}
	return e.exec(p)
}

func e12Execveat(e *env) error {
	if _, err := e.drop(e.target, "dropped"); err != nil {
		return err
	}
	return e.exec(prim, "execveat", e.dir, "dropped")
}

func e14Retry(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	for i := range e.count {
		err = e.exec(p)
		if err == nil || !refused(err) {
			if err == nil && i > 0 {
				fmt.Fprintf(os.Stdout, "passed at try %d\n", i+1)
			}
			return err
		}
	}
	return fmt.Errorf("%d times, the last: %w", e.count, err)
}

// e15First looks at what a program has done, not at whether its parent saw it fail.
func e15First(e *env) error {
	p, err := e.drop("/bin/first", "dropped")
	if err != nil {
		return err
	}
	mark := e.path("mark")
	for range e.count {
		_, err = output(command{path: p, args: []string{"first", mark}})
		if _, serr := os.Stat(mark); serr == nil {
			return nil
		}
		if err == nil {
			return untried(errors.New("the program ran and made no file"))
		}
	}
	return fmt.Errorf("%d times, the last: %w", e.count, err)
}

// i1Namespaces keeps its user ID in the new user namespace: what is executed is a
// dropped file, but no root.
func i1Namespaces(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	return e.start(command{path: p, args: []string{"id"}, sys: userns(os.Getuid(), unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC)})
}
