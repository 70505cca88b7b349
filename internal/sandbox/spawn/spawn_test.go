package spawn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// escapeEnv names tools/escape for a test that cannot build it.
const escapeEnv = "BELAY_TEST_BUILT_ESCAPE"

var buildEscape = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(escapeEnv); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "belay-escape")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "escape")
	cmd := exec.Command("go", "build", "-o", path, "github.com/belay-project/belay/tools/escape")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := buildEscape(); err == nil && os.Getenv(escapeEnv) == "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// escape runs tools/escape with a directory that holds the file "in" and the link
// "out" to what is outside.
func escape(t *testing.T, mode string, o Options) (Report, error) {
	t.Helper()
	path, err := buildEscape()
	if err != nil {
		t.Fatalf("build tools/escape: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("fine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.Path, o.Args, o.Files = path, []string{mode}, []*os.File{f}
	if o.Idle {
		o.Args = append(o.Args, "idle")
	}
	o.Input = func(bool) ([]byte, error) { return nil, nil }
	if o.MemoryMax == 0 {
		o.MemoryMax = 64 << 20
	}
	if o.Output == nil {
		o.Output = func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		}
	}
	rep, err := Run(t.Context(), o)
	if exit, ok := errors.AsType[*ExitError](err); ok && strings.Contains(exit.Stderr, "cannot be had here") {
		testneed.Need(t, "landlock", false, exit.Stderr)
	}
	if err != nil && os.Getenv(bareEnv) == "" {
		testneed.Need(t, "cgroup-memory", !strings.Contains(err.Error(), `"cgroup" cannot be had here`), err.Error())
	}
	return rep, err
}

// TestEscape: a process that was taken over tries to get out, and ordinary work goes
// on as before.
func TestEscape(t *testing.T) {
	var got map[string]string
	rep, err := escape(t, "report", Options{Output: func(r io.Reader) error { return json.NewDecoder(r).Decode(&got) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from outside: %+v", rep)
	if len(got) < 35 {
		t.Errorf("%d tries, want all of them: %v", len(got), got)
	}
	for what, was := range got {
		switch {
		case what == "ordinary: read" && was != "fine", what == "ordinary: threads" && was != "ok":
			t.Errorf("%s gives %q", what, was)
		case strings.HasPrefix(what, "ordinary"):
		case was != "operation not permitted" && was != "permission denied":
			t.Errorf("%s: %s, want a refusal by the sandbox", what, was)
		}
	}
}

func TestMemoryCap(t *testing.T) {
	_, err := escape(t, "eat", Options{Timeout: time.Minute})
	limit, ok := errors.AsType[*LimitError](err)
	if !ok || limit.What != "memory" || limit.Cap != "64 MiB" {
		t.Errorf("a process that takes all memory: %v, want a memory cap of 64 MiB", err)
	}
}

// TestMemoryCapWithoutCgroup is the cap that unprivileged users have.
func TestMemoryCapWithoutCgroup(t *testing.T) {
	_, err := escape(t, "eat", Options{Timeout: time.Minute, MemoryMax: -1, Without: []string{"cgroup"}})
	limit, ok := errors.AsType[*LimitError](err)
	if !ok || limit.What != "memory" {
		t.Errorf("a process that takes all memory: %v, want a memory cap", err)
	}
}

// TestThreadCap: a process that makes threads without end takes none of its host's.
func TestThreadCap(t *testing.T) {
	breed := func(t *testing.T) {
		var said []byte
		rep, err := escape(t, "breed", Options{Timeout: time.Minute, Output: func(r io.Reader) (err error) {
			said, err = io.ReadAll(io.LimitReader(r, 100))
			return err
		}})
		testneed.Need(t, "userns", rep.Namespaces || rep.Cgroup, "a cgroup, or a user namespace of its own")
		limit, ok := errors.AsType[*LimitError](err)
		if !ok || limit.What != "thread" || limit.Cap != "64" {
			t.Errorf("a process that makes threads without end: %q, %v, want a cap of 64 threads", said, err)
		}
	}
	t.Run("as it is", breed)
	t.Run("unprivileged", func(t *testing.T) {
		if os.Geteuid() == 0 {
			again(t, "^TestThreadCap$/^unprivileged$", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
			return
		}
		breed(t)
	})
}

// again runs a test once more in a process of its own, and skips where that is skipped.
func again(t *testing.T, test string, attr *syscall.SysProcAttr) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	escape, err := buildEscape()
	if err != nil {
		t.Fatalf("build tools/escape: %v", err)
	}
	dir, err := os.MkdirTemp("", "again") // that of a test is its user's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	copied := map[string]string{self: filepath.Join(dir, "spawn.test"), escape: filepath.Join(dir, "escape")}
	for from, to := range copied {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), copied[self], "-test.v", "-test.run", test)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = dir, append(os.Environ(), "TMPDIR="+dir, escapeEnv+"="+copied[escape]), attr
	out, err := cmd.CombinedOutput()
	testneed.Need(t, "userns", err != nil || !strings.Contains(string(out), "--- SKIP"), string(out))
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
}

// bareEnv says what a test that runs [again] is not to have.
const bareEnv = "BELAY_TEST_BARE"

// TestWithoutAPiece: root, who can have namespaces and cgroups everywhere but on a kernel that lacks them, does
// not start the program without them, unless that was said. One who may not make any has them where they are given.
func TestWithoutAPiece(t *testing.T) {
	bare := os.Getenv(bareEnv)
	if bare == "" {
		testneed.Need(t, "root", os.Geteuid() == 0, "it is about root")
		c, err := newCgroup("belay-scan-", 64<<20, maxThreads, false)
		testneed.Need(t, "cgroup-memory", err == nil, fmt.Sprint(err))
		c.remove()
		for _, piece := range []string{"namespaces", "cgroup", "privilege"} {
			t.Run(piece, func(t *testing.T) {
				t.Setenv(bareEnv, piece)
				again(t, "^TestWithoutAPiece$", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
			})
		}
		t.Run("user namespace", func(t *testing.T) { // as of a user's unshare -r
			t.Setenv(bareEnv, "host")
			nobody := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}
			again(t, "^TestWithoutAPiece$", &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER, UidMappings: nobody, GidMappings: nobody, Credential: &syscall.Credential{NoSetGroups: true},
			})
		})
		return
	}
	if bare == "host" {
		if rep, err := escape(t, "report", Options{}); err != nil || rep != (Report{Namespaces: true}) {
			t.Errorf("got %+v, %v, want it to run without a cgroup, and to say so", rep, err)
		}
		return
	}
	if err := makeBare(bare); err != nil {
		t.Fatal(err)
	}
	for _, without := range [][]string{nil, {bare}} {
		want := bare == "cgroup" && without == nil
		if err := Probe(without); (err != nil) != want || want && !strings.Contains(err.Error(), "no such file") {
			t.Errorf("looked at beforehand, without %q: %v", without, err)
		}
	}
	rep, err := escape(t, "report", Options{})
	if bare == "privilege" {
		if err != nil || rep != (Report{}) {
			t.Errorf("got %+v, %v, want it to run without either, and to say so", rep, err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), "--sandbox-without "+bare) {
		t.Errorf("without it and without the flag: %+v, %v", rep, err)
	}
	another := map[string]string{"namespaces": "cgroup", "cgroup": "namespaces"}[bare]
	if _, err := escape(t, "report", Options{Without: []string{another}}); err == nil {
		t.Error("another piece was given up, and it went on")
	}
	rep, err = escape(t, "report", Options{Without: []string{bare}})
	if want := (Report{Namespaces: bare != "namespaces", Cgroup: bare != "cgroup"}); err != nil || rep != want {
		t.Errorf("with the flag: got %+v, %v, want %+v", rep, err, want)
	}
}

// makeBare takes something from this process, which is in a mount namespace of its own.
func makeBare(of string) error {
	switch of {
	case "cgroup":
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return unix.Mount("none", cgroupRoot, "tmpfs", 0, "")
	case "namespaces":
		runtime.LockOSThread() // the filter is of this thread, which starts the program
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jf: 3},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // the lower half of its first argument
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_NEWNET, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	default: // as root of a container
		runtime.LockOSThread()
		hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(hdr, &caps[0]); err != nil {
			return err
		}
		caps[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		caps[0].Permitted &^= 1 << unix.CAP_SYS_ADMIN
		if err := makeBare("cgroup"); err != nil {
			return err
		}
		return unix.Capset(hdr, &caps[0])
	}
}

func TestTimeCap(t *testing.T) {
	start := time.Now()
	_, err := escape(t, "spin", Options{Timeout: 500 * time.Millisecond})
	limit, ok := errors.AsType[*LimitError](err)
	if !ok || limit.What != "time" || limit.Cap != "500ms" {
		t.Errorf("a process that never ends: %v, want a time cap of 500ms", err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %s to end it", d)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	path, err := buildEscape()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	_, err = Run(ctx, Options{
		Path: path, Args: []string{"spin"}, Files: []*os.File{dir}, Without: []string{"cgroup"},
		Input:  func(bool) ([]byte, error) { return nil, nil },
		Output: func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the caller's own deadline", err)
	}
}

var errEnough = errors.New("enough")

// TestFlood: a reader that has had enough ends the writer.
func TestFlood(t *testing.T) {
	_, err := escape(t, "flood", Options{Timeout: time.Minute, Output: func(r io.Reader) error {
		io.CopyN(io.Discard, r, 1<<20)
		return errEnough
	}})
	if !errors.Is(err, errEnough) {
		t.Errorf("got %v, want the reader's error", err)
	}
	_, err = escape(t, "stderr", Options{Timeout: time.Minute})
	if exit, ok := errors.AsType[*ExitError](err); !ok || len(exit.Stderr) > maxStderr {
		t.Errorf("a flood of errors: %v, want at most %d bytes of it", err, maxStderr)
	}
}

func TestRelativePath(t *testing.T) {
	if _, err := Run(t.Context(), Options{Path: "belay-scanner"}); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("a relative path: %v, want a refusal", err)
	}
}
