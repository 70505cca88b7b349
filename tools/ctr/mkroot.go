package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// appID is the user and group of /home/app.
const appID = 1000

// rootFile is one file of the test root, a copy with an inode of its own.
type rootFile struct {
	from, to string // from: a file of the folder of built programs
	mode     uint32
	uid      int
	caps     uint64 // file capabilities, permitted and effective
}

// rootFiles are the programs of tools/attack and where an image has them. id is a
// static program that prints its credentials.
var rootFiles = []rootFile{
	{from: "attack", to: "bin/attack", mode: 0o755},
	{from: "prim", to: "bin/prim", mode: 0o755},
	{from: "first", to: "bin/first", mode: 0o755},
	{from: "id", to: "bin/id", mode: 0o755},
	{from: "id", to: "bin/suid-id", mode: 0o4755},
	{from: "id", to: "bin/sgid-id", mode: 0o2755},
	{from: "id", to: "bin/cap-id", mode: 0o755, caps: 1 << unix.CAP_NET_RAW},
	{from: "id", to: "bin/cap-setuid", mode: 0o755, caps: 1 << unix.CAP_SETUID},
	{from: "id", to: "usr/sbin/sshd", mode: 0o755},
	{from: "id", to: "home/app/bin/id", mode: 0o755, uid: appID},
	{from: "dyn-id", to: "bin/dyn-id", mode: 0o755},
	{from: "dlrun", to: "bin/dlrun", mode: 0o755},
	{from: "evil.so", to: "usr/lib/evil.so", mode: 0o755},
}

// A root is a root file system being made.
type root struct {
	dir   string
	shift int // added to every owner, for containers with a user namespace
}

func cmdMkroot(args []string) error {
	fs := flag.NewFlagSet("ctr mkroot", flag.ContinueOnError)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	busybox := fs.String("busybox", "/bin/busybox", "static busybox for the shell and its like")
	bin := fs.String("bin", filepath.Dir(self), "folder with what tools/attack/build.sh made")
	shift := fs.Int("shift", 0, "add to every owner; 100000 for containers run with --userns")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return &statusError{exitUsage, "mkroot wants one directory"}
	}
	if os.Geteuid() != 0 {
		return errors.New("mkroot needs root: it sets owners, a setuid bit and file capabilities")
	}
	// The modes below are meant as written.
	unix.Umask(0)
	r := &root{dir: fs.Arg(0), shift: *shift}
	if err := r.skeleton(); err != nil {
		return err
	}
	if err := r.busybox(*busybox); err != nil {
		return err
	}
	for _, f := range rootFiles {
		if err := r.install(filepath.Join(*bin, f.from), f); err != nil {
			return err
		}
	}
	return r.libraries(filepath.Join(*bin, "dyn-id"))
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

func (r *root) skeleton() error {
	for _, d := range []struct {
		name string
		mode os.FileMode
		uid  int
	}{
		{"", 0o755, 0},
		{"bin", 0o755, 0},
		{"dev", 0o755, 0},
		{"etc", 0o755, 0},
		{"home", 0o755, 0},
		{"lib", 0o755, 0},
		{"lib64", 0o755, 0},
		{"proc", 0o555, 0},
		{"root", 0o700, 0},
		{"run", 0o755, 0},
		{"sys", 0o555, 0},
		{"tmp", 0o777 | os.ModeSticky, 0},
		{"usr", 0o755, 0},
		{"usr/bin", 0o755, 0},
		{"usr/lib", 0o755, 0},
		{"usr/sbin", 0o755, 0},
		{"var", 0o755, 0},
		{"home/app", 0o755, appID},
		{"home/app/bin", 0o755, appID},
		{"home/app/.ssh", 0o700, appID},
	} {
		if err := os.MkdirAll(r.path(d.name), 0o755); err != nil {
			return err
		}
		if err := os.Lchown(r.path(d.name), d.uid+r.shift, d.uid+r.shift); err != nil {
			return err
		}
		if err := os.Chmod(r.path(d.name), d.mode); err != nil {
			return err
		}
	}
	// Built of parts, so that no scanner takes this file for a leaked key.
	key := "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nnot a key\n-----END OPENSSH " + "PRIVATE KEY-----\n"
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
		uid        int
	}{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n", 0o644, 0},
		{"etc/group", "root:x:0:\napp:x:1000:\n", 0o644, 0},
		{"home/app/.ssh/id_rsa", key, 0o600, appID},
		{"home/app/.ssh/id_rsa.pub", "ssh-rsa AAAA app@image\n", 0o644, appID},
		{"home/app/.ssh/authorized_keys", "ssh-rsa AAAA owner@image\n", 0o600, appID},
	} {
		if err := os.WriteFile(r.path(f.name), []byte(f.text), f.mode); err != nil {
			return err
		}
		if err := os.Lchown(r.path(f.name), f.uid+r.shift, f.uid+r.shift); err != nil {
			return err
		}
	}
	return nil
}

// busybox installs it and a symbolic link for each applet, but for those of which the
// image has a program of its own.
func (r *root) busybox(from string) error {
	if err := r.install(from, rootFile{to: "bin/busybox", mode: 0o755}); err != nil {
		return err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	proc, err := os.StartProcess(from, []string{"busybox", "--list"}, &os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}})
	_ = w.Close()
	if err != nil {
		return err
	}
	var list strings.Builder
	if _, err := io.Copy(&list, io.LimitReader(out, 1<<16)); err != nil {
		return err
	}
	if _, err := proc.Wait(); err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(list.String()) {
		if applet == "busybox" || applet == "id" {
			continue
		}
		if err := os.Symlink("busybox", r.path("bin/"+applet)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// install copies from to f.to. Owner, mode and capabilities are set in this order: the
// kernel takes setuid bits and capabilities away when the owner changes.
func (r *root) install(from string, f rootFile) error {
	to := r.path(f.to)
	if err := copyFile(from, to); err != nil {
		return fmt.Errorf("install %s: %w", f.to, err)
	}
	if err := os.Lchown(to, f.uid+r.shift, f.uid+r.shift); err != nil {
		return err
	}
	if err := unix.Chmod(to, f.mode); err != nil {
		return fmt.Errorf("chmod %s: %w", to, err)
	}
	if f.caps == 0 {
		return nil
	}
	if err := unix.Setxattr(to, "security.capability", capXattr(f.caps), 0); err != nil {
		return fmt.Errorf("set file capabilities of %s: %w", to, err)
	}
	return nil
}

// capXattr is struct vfs_cap_data, revision 2, effective; see
// include/uapi/linux/capability.h.
func capXattr(mask uint64) []byte {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint32(b, 0x02000000|1)
	binary.LittleEndian.PutUint32(b[4:], uint32(mask))
	binary.LittleEndian.PutUint32(b[12:], uint32(mask>>32))
	return b
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// Removed, not overwritten: it may be running.
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// libraries installs the dynamic loader of the program from, where it asks for it, and
// the libraries it needs beside where this host has them.
func (r *root) libraries(from string) error {
	f, err := elf.Open(from)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	defer f.Close()
	interp := ""
	if s := f.Section(".interp"); s != nil {
		data, err := s.Data()
		if err != nil {
			return err
		}
		interp = strings.TrimRight(string(data), "\x00")
	}
	if interp == "" {
		return fmt.Errorf("%s is not dynamic", from)
	}
	if err := r.install(interp, rootFile{to: interp, mode: 0o755}); err != nil {
		return err
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(interp)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		// Debian keeps the loader and the C library in one folder.
		from := filepath.Join(filepath.Dir(real), lib)
		to := filepath.Join("/lib", filepath.Base(filepath.Dir(real)), lib)
		if err := r.install(from, rootFile{to: to, mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}
