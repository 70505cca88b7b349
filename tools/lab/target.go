package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SSHTarget is an SSH server for clients to reach. It runs beside the containers, in
// the engine's network, and no policy is meant for it.
type SSHTarget struct {
	// Real: it is OpenSSH, and lets user guest in without a password. Otherwise it is
	// the actor, which speaks the first lines only.
	Real bool
	// HostKey is a key of a real server, for others to use.
	HostKey []byte
}

const sshPasswd = `root:x:0:0:root:/root:/bin/sh
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
app:x:1000:1000::/home/app:/bin/sh
guest::1001:1001::/:/bin/sh
`

const sshGroup = "root:x:0:\napp:x:1000:\nguest:x:1001:\nnogroup:x:65534:\n"

// SSHFiles are what an image of the SSH tree needs besides the packages' files.
func SSHFiles(hostKey, busybox []byte) []File {
	return []File{
		{Name: "etc/passwd", Mode: 0o644, Body: []byte(sshPasswd)},
		{Name: "etc/group", Mode: 0o644, Body: []byte(sshGroup)},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "home/app/", Mode: 0o755, UID: 1000},
		{Name: "home/app/host_key", Mode: 0o600, UID: 1000, Body: hostKey},
		Program("usr/bin/busybox", busybox),
		{Name: "usr/bin/sh", Mode: 0o777, Link: "busybox"},
	}
}

// StartSSHTarget starts a server on the ports. With a tree (see [Lab.SSHTree]) it is a
// real one.
func (e *Engine) StartSSHTarget(ctx context.Context, tree string, ports ...string) (*SSHTarget, error) {
	t := &SSHTarget{Real: tree != ""}
	start := e.actorTarget
	if t.Real {
		start = func(ctx context.Context, ports []string) (*Process, error) { return e.realTarget(ctx, t, tree, ports) }
	}
	p, err := start(ctx, ports)
	if err == nil {
		err = p.ready(ctx, 30*time.Second, func() bool {
			return !slices.ContainsFunc(ports, func(port string) bool { return !e.answers("127.0.0.1:" + port) })
		})
	}
	if err != nil {
		return nil, fmt.Errorf("SSH target: %w", err)
	}
	return t, nil
}

// actorTarget returns the last of the processes.
func (e *Engine) actorTarget(ctx context.Context, ports []string) (p *Process, err error) {
	if _, err := e.lab.Actor(ctx); err != nil {
		return nil, err
	}
	for _, port := range ports {
		cmd := exec.Command(e.lab.opts.Actor, "sshd", "0.0.0.0:"+port)
		if p, err = e.lab.start(e.name+"/target-"+port, cmd, e.ns); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (e *Engine) realTarget(ctx context.Context, t *SSHTarget, tree string, ports []string) (*Process, error) {
	root := e.lab.Path(e.name, "target")
	for _, d := range []string{"run/sshd", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	if r := run(exec.CommandContext(ctx, "tar", "-C", root, "-xf", tree)); r.Code != 0 {
		return nil, r.Err()
	}
	// A mount of its own: a temporary directory may be mounted nodev.
	if err := unix.Mount("dev", filepath.Join(root, "dev"), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount %s/dev: %w", root, err)
	}
	if err := unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return nil, fmt.Errorf("make /dev/null: %w", err)
	}
	bb, err := Busybox()
	if err != nil {
		return nil, err
	}
	if err := writeFiles(root, SSHFiles(nil, bb)); err != nil {
		return nil, err
	}
	jail := &syscall.SysProcAttr{Chroot: root}
	keygen := exec.CommandContext(ctx, "/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/key")
	keygen.SysProcAttr, keygen.Dir = jail, "/"
	if r := run(keygen); r.Code != 0 {
		return nil, r.Err()
	}
	if t.HostKey, err = os.ReadFile(filepath.Join(root, "etc/ssh/key")); err != nil {
		return nil, err
	}
	args := []string{"-D", "-e", "-f", "/dev/null", "-h", "/etc/ssh/key", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "PermitEmptyPasswords=yes"}
	for _, p := range ports {
		args = append(args, "-p", p)
	}
	cmd := exec.Command("/usr/sbin/sshd", args...)
	cmd.SysProcAttr, cmd.Dir, cmd.Env = &syscall.SysProcAttr{Chroot: root}, "/", []string{"PATH=/usr/bin:/usr/sbin"}
	return e.lab.start(e.name+"/sshd", cmd, e.ns)
}

// writeFiles puts files into a directory that becomes a root.
func writeFiles(root string, files []File) error {
	for _, f := range files {
		p := filepath.Join(root, f.Name)
		var err error
		switch {
		case strings.HasSuffix(f.Name, "/"):
			err = os.MkdirAll(p, 0o755)
		case f.Link != "":
			err = os.Symlink(f.Link, p)
		default:
			err = os.WriteFile(p, f.Body, os.FileMode(f.Mode)&os.ModePerm)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answers tells whether something listens at an address of the engine's network.
func (e *Engine) answers(addr string) bool {
	host, port, _ := strings.Cut(addr, ":")
	var sa unix.SockaddrInet4
	if _, err := fmt.Sscanf(host+" "+port, "%d.%d.%d.%d %d", &sa.Addr[0], &sa.Addr[1], &sa.Addr[2], &sa.Addr[3], &sa.Port); err != nil {
		return false
	}
	return e.ns.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &sa)
	}) == nil
}
