package target

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// bareKernel begins the names under which this test's program becomes the scanner beside it, on a kernel
// that answers as if it had not the piece of the sandbox that follows.
const bareKernel = "scanner-on-a-kernel-without-"

// bareCalls are the system calls that a kernel without a piece does not have.
var bareCalls = map[string]uint32{inventory.PieceLandlock: unix.SYS_LANDLOCK_CREATE_RULESET, inventory.PieceSeccomp: unix.SYS_SECCOMP}

// onBareKernel makes a system call fail as on a kernel without it and becomes the scanner.
func onBareKernel(call uint32) error {
	runtime.LockOSThread() // the filter is this thread's, and exec leaves no other
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load}, // the number of the call
		{Code: equal, K: call, Jf: 1},
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
	for piece, another := range map[string]string{inventory.PieceLandlock: inventory.PieceSeccomp, inventory.PieceSeccomp: inventory.PieceLandlock} {
		t.Run(piece, func(t *testing.T) { withoutAPiece(t, piece, another) })
	}
}

func withoutAPiece(t *testing.T, piece, another string) {
	t.Helper()
	real, err := filepath.Abs(scanner(t))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bare := filepath.Join(dir, bareKernel+piece)
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
	if failed, ok := errors.AsType[*FailedError](err); !ok || !strings.Contains(failed.Text, fmt.Sprintf("%q cannot be had here", piece)) || !strings.Contains(failed.Text, "--sandbox-without "+piece) {
		t.Errorf("without it and without the flag: %v", err)
	}
	if _, _, err = try(another); err == nil {
		t.Error("another piece was given up, and it went on")
	}
	lost, packages, err := try(piece)
	if err != nil || packages != 1 || !slices.Contains(lost, piece) {
		t.Errorf("with the flag: %d packages, lost %v, %v", packages, lost, err)
	}
	t.Run("unprivileged", func(t *testing.T) {
		if os.Geteuid() == 0 { // root has a cgroup of its own for the scanner
			asNobody(t, self, real, piece)
			return
		}
		if !slices.Contains(lost, inventory.PieceCgroup) {
			t.Errorf("an unprivileged scan has no cgroup, and lost %v", lost)
		}
	})
}

// scannerEnv names the scanner for a test that can build none.
const scannerEnv = "BELAY_TEST_BUILT_SCANNER"

// asNobody runs the test of a piece once more, as a user without any right.
func asNobody(t *testing.T, self, scanner, piece string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	copied := map[string]string{}
	for name, from := range map[string]string{"target.test": self, "belay-scanner": scanner} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		copied[name] = filepath.Join(dir, name)
		if err := os.WriteFile(copied[name], b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), copied["target.test"], "-test.v", "-test.run", "^TestWithoutAPiece$/^"+piece+"$")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir, scannerEnv+"="+copied["belay-scanner"])
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestWithoutAPiece/"+piece+"/unprivileged") {
		t.Errorf("as a user without rights: %v\n%s", err, out)
	}
}
