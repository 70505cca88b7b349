package node

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// chroot starts programs of the host in its root.
type chroot struct{ root string }

func (c chroot) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Path, cmd.Err = name, nil // it is there in the host's root, and not in ours
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root}
	// systemctl takes a chroot for the making of an image, and does nothing there, unless told.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_IGNORE_CHROOT=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out[:min(len(out), 2000)]))
	}
	return nil
}
