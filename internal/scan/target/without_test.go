package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/sandbox"
	"github.com/belay-project/belay/internal/testneed"
)

// bareKernel is the name under which this test's program becomes the scanner beside it, on a kernel
// that answers as if it had no Landlock.
const bareKernel = "scanner-on-a-kernel-without-landlock"

// onBareKernel makes landlock_create_ruleset(2) fail as on a kernel without it and becomes the scanner.
func onBareKernel() error {
	runtime.LockOSThread() // the filter is this thread's, and exec leaves no other
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load}, // the number of the call
		{Code: equal, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(os.Args[0]), "belay-scanner")
	return fmt.Errorf("become %s: %w", next, syscall.Exec(next, []string{next}, os.Environ()))
}

// TestWithoutAPiece: where the kernel lacks a piece of the sandbox nothing is read, and the error names
// it and the flag; with the flag the result names what is lost.
func TestWithoutAPiece(t *testing.T) {
	real, err := filepath.Abs(scanner(t))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bare := filepath.Join(dir, bareKernel)
	if err := errors.Join(os.Symlink(self, bare), os.Symlink(real, filepath.Join(dir, "belay-scanner"))); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), []byte("Package: a\nStatus: install ok installed\nVersion: 1\n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	try := func(without ...string) (lost []string, packages int, err error) {
		tgt, err := Open(t.Context(), root, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer tgt.Close()
		res, err := Scan(t.Context(), tgt, Options{Scanner: bare, Without: without})
		if err != nil {
			return nil, 0, err
		}
		return res.Sandbox.Lost, len(res.Packages), nil
	}
	_, _, err = try()
	if failed, ok := errors.AsType[*FailedError](err); !ok || !strings.Contains(failed.Text, `"landlock" cannot be had here`) || !strings.Contains(failed.Text, "--sandbox-without landlock") {
		t.Errorf("without Landlock and without the flag: %v", err)
	}
	if _, _, err = try(sandbox.PieceSeccomp); err == nil {
		t.Error("another piece was given up, and it went on without Landlock")
	}
	lost, packages, err := try(sandbox.PieceLandlock)
	if err != nil || packages != 1 || !slices.Contains(lost, sandbox.PieceLandlock) {
		t.Errorf("with the flag: %d packages, lost %v, %v", packages, lost, err)
	}
	t.Run("unprivileged", func(t *testing.T) {
		testneed.Need(t, "unprivileged", os.Geteuid() != 0, "root has a cgroup of its own for the scanner")
		if !slices.Contains(lost, sandbox.PieceCgroup) {
			t.Errorf("an unprivileged scan has no cgroup, and lost %v", lost)
		}
	})
}
