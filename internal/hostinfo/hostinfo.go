// Package hostinfo says which machine this is and which boot of it: boot ID,
// hostname, kernel release, and where its cgroups are mounted.
//
// It owns no state, caches nothing and reads files of /proc. It never
// decides anything by the kernel's release: what a kernel can do is probed. It
// imports the standard library only (bottom row).
package hostinfo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrFormat is returned for a file that does not hold what its man page says.
var ErrFormat = errors.New("unexpected format")

// maxFile bounds what is read of a file. The longest value is a hostname or
// release of 64 bytes (__NEW_UTS_LEN in include/uapi/linux/utsname.h).
const maxFile = 256

// Host reads facts about a machine. The zero value reads this one.
type Host struct {
	// Proc is where procfs is mounted. Default: /proc. Tests, and an agent in a
	// container that sees its host's procfs elsewhere, set it.
	Proc string
}

// Info is all that [Host] knows.
type Info struct {
	BootID        string
	Hostname      string
	KernelRelease string
}

// Info returns all facts at once.
//
// Errors: those of the methods below; the first one ends it.
func (h Host) Info() (Info, error) {
	var i Info
	var err error
	if i.BootID, err = h.BootID(); err != nil {
		return Info{}, err
	}
	if i.Hostname, err = h.Hostname(); err != nil {
		return Info{}, err
	}
	if i.KernelRelease, err = h.KernelRelease(); err != nil {
		return Info{}, err
	}
	return i, nil
}

// BootID returns the identifier of this boot: a random UUID in lower case, another
// one after each boot and the same in every container of the host.
//
// Source: /proc/sys/kernel/random/boot_id; see random(4).
// Errors: *[os.PathError] if unreadable; [ErrFormat] if it is no UUID.
// Safe for concurrent use.
func (h Host) BootID() (string, error) {
	s, err := h.line("sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	if !isUUID(s) {
		return "", fmt.Errorf("boot ID %q: want a UUID: %w", s, ErrFormat)
	}
	return s, nil
}

// Hostname returns the name of the machine as this process's UTS namespace has it:
// in a container without --uts=host that is the container's.
//
// Source: /proc/sys/kernel/hostname; see uts_namespaces(7).
// Errors: *[os.PathError] if unreadable; [ErrFormat] if empty.
// Safe for concurrent use.
func (h Host) Hostname() (string, error) { return h.line("sys/kernel/hostname") }

// KernelRelease returns what uname -r prints, such as 6.12.57+deb13-amd64.
//
// Source: /proc/sys/kernel/osrelease; see proc_sys_kernel(5).
// Errors: *[os.PathError] if unreadable; [ErrFormat] if empty.
// Safe for concurrent use.
func (h Host) KernelRelease() (string, error) { return h.line("sys/kernel/osrelease") }

func (h Host) proc() string {
	if h.Proc == "" {
		return "/proc"
	}
	return h.Proc
}

// line returns the only line of a file below procfs.
func (h Host) line(name string) (string, error) {
	f, err := os.Open(filepath.Join(h.proc(), name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b strings.Builder
	n, err := io.Copy(&b, io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	s := strings.TrimSuffix(b.String(), "\n")
	if n > maxFile || s == "" || strings.ContainsAny(s, "\n\x00") {
		return "", fmt.Errorf("%s: want one line of 1 to %d bytes: %w", f.Name(), maxFile, ErrFormat)
	}
	return s, nil
}

// isUUID reports whether s has the form 8-4-4-4-12 of lower-case hex digits.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if dash != (c == '-') || !dash && !hex {
			return false
		}
	}
	return true
}
