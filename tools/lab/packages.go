package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ErrNoPackages says that the distribution's packages could not be had: no apt, no
// network and nothing cached.
var ErrNoPackages = errors.New("the distribution's packages cannot be had here")

// SSHTree returns a tar archive with the distribution's OpenSSH server and client and
// the libraries that they need. It is made once and kept in the cache.
//
// Errors: [ErrNoPackages].
func (l *Lab) SSHTree(ctx context.Context) (string, error) {
	return l.cached("openssh.tar", func(dir string) error { return l.unpackSSH(ctx, dir) })
}

// stressPackages are stress-ng and what it is linked with, of Debian 12: its recursive dependencies have drivers
// of graphics too.
var stressPackages = []string{
	"stress-ng", "libapparmor1", "libbsd0", "libc6", "libcrypt1", "libdrm2", "libegl1", "libexpat1", "libffi8", "libgbm1", "libgcc-s1", "libgles2", "libglvnd0", "libipsec-mb1",
	"libjpeg62-turbo", "libjudydebian1", "libkmod2", "liblzma5", "libmd0", "libsctp1", "libssl3", "libstdc++6", "libwayland-server0", "libxxhash0", "libzstd1", "zlib1g",
}

// StressTree returns a tar archive with the distribution's stress-ng and the libraries that
// it needs. It is made once and kept in the cache.
//
// Errors: [ErrNoPackages].
func (l *Lab) StressTree(ctx context.Context) (string, error) {
	return l.cached("stress.tar", func(dir string) error {
		return l.unpack(ctx, dir, stressPackages, "/usr/bin/stress-ng --version")
	})
}

// QuietTree returns a tar archive with a small Debian that has nginx, PostgreSQL and
// Python. It is made once, which takes minutes, and kept in the cache.
//
// Errors: [ErrNoPackages].
func (l *Lab) QuietTree(ctx context.Context) (string, error) {
	return l.cached("quiet.tar", func(dir string) error {
		bin, err := exec.LookPath("debootstrap")
		if err != nil {
			return fmt.Errorf("%w: debootstrap is missing: apt-get install debootstrap", ErrNoPackages)
		}
		l.logf("building a Debian tree with nginx, PostgreSQL and Python; this takes some minutes, once")
		cmd := exec.CommandContext(ctx, bin, "--variant=minbase", "--include=nginx-light,postgresql-15,python3-minimal", "bookworm", dir)
		if r := run(cmd); r.Code != 0 {
			return fmt.Errorf("%w: debootstrap: exit status %d: %s", ErrNoPackages, r.Code, lastLine(r.Text()))
		}
		var errs []error
		for _, d := range []string{"var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"} {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, d)))
		}
		return errors.Join(errs...)
	})
}

// NodeTree returns a tar archive with modules of Node.js as npm installs them below /app,
// in versions that have known flaws. It is made once and kept in the cache; no script of theirs runs.
//
// Errors: [ErrNoPackages].
func (l *Lab) NodeTree(ctx context.Context) (string, error) {
	return l.cached("node.tar", func(dir string) error {
		bin, err := exec.LookPath("npm")
		if err != nil {
			return fmt.Errorf("%w: npm is missing", ErrNoPackages)
		}
		app := filepath.Join(dir, "app")
		if err := os.Mkdir(app, 0o755); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, bin, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier",
			"--cache", l.Path("npm"), "--prefix", app, "axios@0.21.0", "lodash@4.17.15")
		if r := run(cmd); r.Code != 0 {
			return fmt.Errorf("%w: npm: exit status %d: %s", ErrNoPackages, r.Code, lastLine(r.Text()))
		}
		return nil
	})
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// cached returns the archive of the cache, and makes it from the directory that fill
// fills if it is not there. The rename is last: half an archive is never found.
func (l *Lab) cached(name string, fill func(dir string) error) (string, error) {
	path := filepath.Join(l.opts.CacheDir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(l.opts.CacheDir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	dir := l.Path("tree-" + name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", err
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(tmp)
	// Device nodes are the engine's to make.
	cmd := exec.Command("tar", "-C", dir, "--numeric-owner", "--one-file-system", "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "-cf", tmp, ".")
	if r := run(cmd); r.Code != 0 {
		return "", r.Err()
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", err
	}
	return path, removeTree(dir)
}

// unpackSSH unpacks OpenSSH and its libraries without installing anything.
func (l *Lab) unpackSSH(ctx context.Context, dir string) error {
	names, err := sshPackages(ctx)
	if err != nil {
		return err
	}
	// Old servers do not know -V: only the loader's failure counts.
	return l.unpack(ctx, dir, names, "/usr/sbin/sshd -V", "/usr/bin/ssh -V")
}

// unpack unpacks packages of the distribution below a directory, and tries commands in it.
func (l *Lab) unpack(ctx context.Context, dir string, names []string, commands ...string) error {
	l.logf("fetching %d of the distribution's packages (not installed, only unpacked)", len(names))
	debs := l.Path("debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	download := func() Result {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, names...)...)
		cmd.Dir = debs
		return run(cmd)
	}
	if download().Code != 0 { // the lists may be old: what they name is gone
		run(exec.CommandContext(ctx, "apt-get", "-q", "update"))
		if r := download(); r.Code != 0 {
			return fmt.Errorf("%w: apt-get download: %s", ErrNoPackages, lastLine(r.Text()))
		}
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if r := run(exec.CommandContext(ctx, "dpkg", "-x", f, dir)); r.Code != 0 {
			return r.Err()
		}
	}
	if err := errors.Join(usrMerge(dir), os.RemoveAll(filepath.Join(dir, "usr/share")), os.RemoveAll(debs)); err != nil {
		return err
	}
	for _, c := range commands {
		args := strings.Fields(c)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Chroot: dir}, "/"
		if r := run(cmd); r.Code == 127 || r.Code < 0 {
			return fmt.Errorf("unpacked %s does not run: %w", args[0], r.Err())
		}
	}
	return nil
}

// sshPackages returns OpenSSH and what it needs as shared libraries; the scripts and
// interpreters that packages also depend on are for their installation.
func sshPackages(ctx context.Context) ([]string, error) {
	list := func() Result {
		return run(exec.CommandContext(ctx, "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests",
			"--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", "openssh-server", "openssh-client"))
	}
	r := list()
	if r.Code != 0 {
		run(exec.CommandContext(ctx, "apt-get", "-q", "update"))
		if r = list(); r.Code != 0 {
			return nil, fmt.Errorf("%w: apt-cache: %s", ErrNoPackages, lastLine(r.Text()))
		}
	}
	var names []string
	for line := range strings.Lines(r.Stdout) {
		name := strings.TrimSpace(line)
		if strings.HasPrefix(line, " ") || strings.HasPrefix(name, "<") || strings.Contains(name, ":") {
			continue
		}
		if name == "openssh-server" || name == "openssh-client" || name == "zlib1g" || strings.HasPrefix(name, "lib") && !buildTime(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func buildTime(pkg string) bool {
	for _, p := range []string{"libpam-", "libperl", "libdebconf", "libtext", "liblocale", "libgcc", "libsemanage", "libsepol", "libpython", "libgdbm", "libdb5", "libnss-", "libsystemd-shared", "libapparmor", "libcryptsetup", "libdevmapper", "libip4tc", "libkmod", "libfdisk", "libmount", "libblkid", "libuuid", "libsmartcols", "libdbus", "libexpat"} {
		if strings.HasPrefix(pkg, p) {
			return true
		}
	}
	return false
}

// usrMerge makes /bin, /sbin, /lib and /lib64 links into /usr, as an installed system
// has them; packages of a release may still ship files in the old places.
func usrMerge(dir string) error {
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		old, merged := filepath.Join(dir, d), filepath.Join(dir, "usr", d)
		if err := os.MkdirAll(merged, 0o755); err != nil {
			return err
		}
		if st, err := os.Lstat(old); err == nil && st.IsDir() {
			if r := run(exec.Command("cp", "-a", old+"/.", merged)); r.Code != 0 {
				return r.Err()
			}
			if err := os.RemoveAll(old); err != nil {
				return err
			}
		}
		if err := os.Symlink("usr/"+d, old); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
