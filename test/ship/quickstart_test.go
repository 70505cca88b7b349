package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// TestQuickStart: the commands of the quick start, as the page has them, in a Debian with an engine; then the package
// is purged, and nothing is left. systemd does not run there: the test starts the agent by its unit.
func TestQuickStart(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0 && os.Getenv("BELAY_E2E") != "", "needs root and BELAY_E2E=1: make test-e2e")
	has, why := lab.HasEngine()
	testneed.Need(t, "docker", has, why)
	bin := os.Getenv("BELAY_BIN")
	testneed.Need(t, "bin", bin != "", "BELAY_BIN names no directory of built programs: make build")
	lines := linesFor(t, "TestQuickStart")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	tree, err := tool(ctx, nil, "tools/package/root.sh")
	exit, failed := errors.AsType[*exec.ExitError](err)
	testneed.Need(t, "debian-root", !failed || exit.ExitCode() != 3, fmt.Sprint(err))
	if err != nil {
		t.Fatal(err)
	}

	l, err := lab.New(lab.Options{Name: "start", Log: os.Stderr, BinDir: bin, TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("tidying up:", err)
		}
	})
	engine, err := l.StartEngine(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := lab.Busybox()
	testneed.Need(t, "busybox", err == nil, fmt.Sprint(err))
	// The page's image comes from a registry; this one has the name and what the page runs of it.
	if err := engine.Import(ctx, "debian:12", []lab.File{
		lab.Program("bin/busybox", busybox), {Name: "bin/sleep", Link: "busybox"}, {Name: "bin/id", Link: "busybox"},
	}, "ENV PATH=/bin"); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, l, tree, engine)
	h.fetchPackage(t, ctx, bin)
	before := h.files(t)

	var said result
	var denied time.Duration // from the page's first command to its first denial
	begin := time.Now()
	play(t, lines, func(line string) result {
		return h.sh(ctx, strings.ReplaceAll(line, "_amd64", "_"+runtime.GOARCH))
	}, func(n int, r result) {
		if said = r; n == 0 {
			h.startAgent(t, ctx, engine.Scope)
		}
		if denied == 0 && isDenied(lines[n]) {
			denied = time.Since(begin)
		}
	})
	t.Logf("quick start: a root exec is denied after %s", denied.Round(time.Millisecond))
	if denied == 0 || denied > 2*time.Minute {
		t.Errorf("a root exec is denied after %s, want two minutes at most", denied)
	}
	if !strings.Contains(said.text, "exec.asRoot") {
		t.Errorf("no record of the denial: %s", said.text)
	}

	h.stopAgent(t)
	if r := h.sh(ctx, "docker rm -f first && install -D /dev/null /var/cache/belay/layers/kept && apt purge -y belay"); r.code != 0 {
		t.Fatalf("purge: exit status %d: %s", r.code, r.text)
	}
	h.agent = nil // there is nothing of it to take away
	if after := h.files(t); before != after {
		t.Errorf("the purge left or took something: %s", changes(before, after))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(h.root+"/run/belay")) {
		t.Errorf("the purge left a mount below /run/belay (%v)", err)
	}
}

// tool runs a program of the tree and returns the last line that it prints.
func tool(ctx context.Context, env []string, name string, args ...string) (string, error) {
	top, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(top, name), args...)
	cmd.Dir, cmd.Env = top, append(os.Environ(), env...)
	endWhole(cmd)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", name, err, stderr.String())
	}
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:], nil
}

// endWhole has what a command has started end with it, when its time is over.
func endWhole(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
}

// host is a copy of a Debian root that is mounted as a host's would be, with the engine of a lab.
type host struct {
	root string
	log  string // of the agent

	agent *os.Process   // nil before startAgent
	ended chan struct{} // closed when it has ended
	err   error         // set before that
}

func newHost(t *testing.T, l *lab.Lab, tree string, engine *lab.Engine) *host {
	t.Helper()
	h := &host{root: l.Path("host"), log: l.Path("agent.log")}
	rw := l.Path("rw")
	mount := func(from, to, kind string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(from, to, kind, flags, data); err != nil {
			t.Fatalf("mount %s on %s: %v", from, to, err)
		}
	}
	made := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	made(errors.Join(os.Mkdir(h.root, 0o755), os.Mkdir(rw, 0o755)))
	mount("rw", rw, "tmpfs", 0, "mode=755")
	made(errors.Join(os.Mkdir(rw+"/upper", 0o755), os.Mkdir(rw+"/work", 0o755)))
	mount("host", h.root, "overlay", 0, "lowerdir="+tree+",upperdir="+rw+"/upper,workdir="+rw+"/work")
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		mount(dir, h.root+dir, "", unix.MS_BIND|unix.MS_REC, "")
		// What is taken away here again is not taken away from the machine.
		mount("", h.root+dir, "", unix.MS_SLAVE|unix.MS_REC, "")
	}
	mount("run", h.root+"/run", "tmpfs", 0, "mode=755")
	made(os.WriteFile(h.root+"/run/docker.sock", nil, 0o600))
	mount(engine.Socket, h.root+"/run/docker.sock", "", unix.MS_BIND, "")
	t.Cleanup(func() { // before the lab's tidying up, which unmounts
		if h.agent == nil {
			return
		}
		h.stopAgent(t)
		if r := h.sh(context.Background(), "belay-agent run --unload"); r.code != 0 {
			t.Errorf("unload: exit status %d: %s", r.code, r.text)
		}
	})
	return h
}

// fetchPackage builds the package of the programs in bin and puts it where the page has the reader be.
func (h *host) fetchPackage(t *testing.T, ctx context.Context, bin string) {
	t.Helper()
	programs, dist := t.TempDir(), t.TempDir()
	if err := os.Symlink(bin, filepath.Join(programs, runtime.GOARCH)); err != nil {
		t.Fatal(err)
	}
	if _, err := tool(ctx, []string{"DIST=" + dist, "BELAY_PROGRAMS=" + programs}, "tools/package/build.sh", runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	debs, err := filepath.Glob(filepath.Join(dist, "belay_*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages %q: %v", debs, err)
	}
	raw, err := os.ReadFile(debs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.root, "root", filepath.Base(debs[0])), raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// command is a line of bash of root's on the host.
func (h *host) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", line)
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Chroot: h.root}, "/root"
	endWhole(cmd)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	return cmd
}

func (h *host) sh(ctx context.Context, line string) result {
	out, err := h.command(ctx, line).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return result{exit.ExitCode(), string(out)}
	}
	if err != nil {
		return result{-1, string(out) + err.Error()}
	}
	return result{0, string(out)}
}

var execStart = regexp.MustCompile(`(?m)^ExecStart=(.+)$`)

// startAgent does what systemd does for the unit, and waits until the agent enforces. The scope keeps it to the
// containers of this test's engine.
func (h *host) startAgent(t *testing.T, ctx context.Context, scope string) {
	t.Helper()
	unit, err := os.ReadFile(h.root + "/usr/lib/systemd/system/belay-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	start := execStart.FindSubmatch(unit)
	if start == nil {
		t.Fatal("the unit starts nothing")
	}
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := h.command(context.WithoutCancel(ctx), "set -a; . /etc/belay/agent.conf; exec "+string(start[1]))
	cmd.Env = append(cmd.Env, "BELAY_GATE_FLAGS=--cgroup-scope "+scope)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.agent, h.ended = cmd.Process, make(chan struct{})
	go func() {
		defer close(h.ended)
		h.err = cmd.Wait()
	}()
	enforces := false
	lab.Await(ctx, 5*time.Minute, func() bool {
		enforces = h.sh(ctx, "belay status").code == 0
		return enforces || isClosed(h.ended)
	})
	if !enforces {
		said, _ := os.ReadFile(h.log) // what failed is the message
		t.Fatalf("the agent does not enforce: %s", said)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stopAgent is systemctl stop: what is in the kernel stays.
func (h *host) stopAgent(t *testing.T) {
	t.Helper()
	if err := h.agent.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-h.ended:
	case <-time.After(time.Minute): // as systemd, which is a unit's last word
		t.Error("the agent does not end")
		_ = h.agent.Kill() // it may have ended just now
		<-h.ended
	}
	if h.err != nil {
		t.Errorf("the agent: %v", h.err)
	}
}

// files lists what a package may leave nothing of; apt's and dpkg's own logs, lists and backups change by themselves.
func (h *host) files(t *testing.T) string {
	t.Helper()
	r := h.sh(t.Context(), `apt-get -qq check; find / /run -xdev \( -path /root -o -path /tmp -o -path /var/log -o \( -path '/var/cache/*' ! -path /var/cache/belay ! -path '/var/cache/belay/*' \) -o -path '/var/lib/dpkg/*-old' -o -path /var/lib/dpkg/triggers \
		-o -path /var/lib/apt \) -prune -o -printf '%p %y %m %U:%G %l\n' | sort`)
	if r.code != 0 {
		t.Fatal(r.text)
	}
	return r.text
}

// changes names the lines that only one of two lists has.
func changes(before, after string) string {
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	left := slices.DeleteFunc(slices.Clone(is), func(l string) bool { return slices.Contains(was, l) })
	took := slices.DeleteFunc(was, func(l string) bool { return slices.Contains(is, l) })
	return fmt.Sprintf("left %q, took %q", left, took)
}
