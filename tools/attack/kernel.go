package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// kernelAttacks are played against rules that ship (policies/baseline.yaml, strict.yaml), where
// the families above have none that shows the rule alone.
func kernelAttacks() []attack {
	return []attack{
		{"file-plant", "F2", needRoot, "make a file in a directory of the system", filePlant},
		{"file-shadow", "F3", needRoot, "read a file that only root may", fileShadow},
		{"priv-kcore", "P5", needRawIO, "open the kernel's memory as a file", func(*env) error {
			f, err := os.Open("/proc/kcore")
			if errors.Is(err, os.ErrNotExist) {
				return untried(err)
			}
			if err != nil {
				return err
			}
			return f.Close()
		}},
		{"priv-setgid", "P7", "", "a setgid-root program", func(e *env) error {
			return e.start(command{path: "/bin/sgid-id", args: []string{"id"}, want: "egid=0 "})
		}},
		{"priv-chroot", "P8", needRoot, "use a capability: change the root directory", func(e *env) error { return unix.Chroot(e.dir) }},
		{"priv-fibmap", "P8", needRawIO, "use a capability: ask where on its disk a file is", privFibmap},
	}
}

// filePlant makes the directory where there is none, before the rule.
func filePlant(e *env) error {
	if err := os.MkdirAll(e.at, 0o755); err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.at, "planted"), []byte("x"), 0o600)
}

// fileShadow reads --at, which it makes before the rule.
func fileShadow(e *env) error {
	if st, err := os.Stat(e.at); err == nil && st.IsDir() {
		e.at = filepath.Join(e.at, "shadow")
	}
	if err := os.WriteFile(e.at, []byte("root:x:1::::::\n"), 0o600); err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	_, err := os.ReadFile(e.at)
	return err
}

// privFibmap takes any answer of the file system's for a win; the kernel asks for the capability first.
func privFibmap(*env) error {
	const fibmap = 1 // _IO(0x00, 1): include/uapi/linux/fs.h
	f, err := os.Open("/bin/id")
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	return reached(unix.IoctlSetPointerInt(int(f.Fd()), fibmap, 0))
}
