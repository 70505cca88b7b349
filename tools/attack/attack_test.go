package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"EPERM", unix.EPERM, true},
		{"EACCES in a path error", &os.PathError{Op: "fork/exec", Path: "/x", Err: unix.EACCES}, true},
		{"killed", fmt.Errorf("%w: killed", errRefused), true},
		{"EPERM of a preparation", untried(unix.EPERM), false},
		{"no such file", unix.ENOENT, false},
		{"other", errors.New("other"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := refused(tt.err); got != tt.want {
				t.Errorf("refused(%v) = %v, want %v", tt.err, got, tt.want)
			}
		})
	}
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range attacks() {
		if seen[a.name] {
			t.Errorf("two attacks are named %s", a.name)
		}
		seen[a.name] = true
		if a.about == "" || a.id == "" {
			t.Errorf("%s has no id or no description", a.name)
		}
	}
}

// The page of what became of each has a row for every attack, of its technique.
func TestOnPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/bypass-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks() {
		if !strings.Contains(string(page), "\n| "+a.id+" | "+a.name+" | "+a.about) {
			t.Errorf("docs/bypass-matrix.md has no row of %s %s, %s: give it a case in test/kernel and run make attack", a.id, a.name, a.about)
		}
	}
}

// lab is what tools/attack/build.sh and ctr mkroot make.
type lab struct{ bin, rootfs, state string }

func newLab(t *testing.T) *lab {
	t.Helper()
	testneed.Need(t, "root", os.Geteuid() == 0, "containers are made by root")
	_, err := exec.LookPath("cc")
	testneed.Need(t, "cc", err == nil, "apt-get install gcc libc6-dev")
	busybox, err := exec.LookPath("busybox")
	testneed.Need(t, "busybox", err == nil, "apt-get install busybox-static")
	dir := t.TempDir()
	l := &lab{bin: filepath.Join(dir, "bin"), rootfs: filepath.Join(dir, "rootfs"), state: filepath.Join(dir, "state")}
	if out, err := exec.Command("./build.sh", l.bin).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	if out, err := exec.Command(filepath.Join(l.bin, "ctr"), "mkroot", "--busybox", busybox, l.rootfs).CombinedOutput(); err != nil {
		t.Fatalf("mkroot: %v\n%s", err, out)
	}
	return l
}

// play runs one attack in a container of its own and returns what it printed and its
// status.
func (l *lab) play(t *testing.T, a attack, args ...string) (string, int) {
	t.Helper()
	all := []string{"run", "--rootfs", l.rootfs, "--state", l.state, "--cgroup-parent", "belay-attack-test"}
	var words []string
	switch a.needs {
	case needRoot:
	case needBPF:
		all = append(all, "--cap-add", "SYS_ADMIN", "--cap-add", "BPF")
	case needAdmin:
		all = append(all, "--cap-add", "SYS_ADMIN")
	case needBoot:
		all = append(all, "--cap-add", "SYS_BOOT")
	case needRawIO:
		all = append(all, "--cap-add", "SYS_RAWIO")
	case needModule:
		all = append(all, "--cap-add", "SYS_MODULE")
	case needRaw:
		all = append(all, "--cap-add", "NET_RAW")
	case needNetAdmin:
		all = append(all, "--cap-add", "NET_ADMIN")
	case needPerf:
		all = append(all, "--cap-add", "PERFMON", "--cap-add", "SYS_ADMIN")
	case needHostPID:
		all = append(all, "--cap-add", "SYS_PTRACE", "--cap-add", "SYS_NICE", "--pid", "host")
	case needResource:
		all = append(all, "--cap-add", "SYS_RESOURCE")
	case needHostNS:
		all = append(all, "--net", "host", "--ipc", "host", "--uts", "host")
	case needAbstract:
		all = append(all, "--net", "host")
		words = []string{"--sock", abstract(t)}
	case needOther:
		all = append(all, "--cap-add", "SYS_PTRACE", "--cap-add", "SYS_NICE", "--pid", "host")
		words = []string{"--pid", strconv.Itoa(l.other(t))}
	case needJoin:
		all = append(all, "--cap-add", "SYS_ADMIN", "--pid", "host")
		words = []string{"--pid", strconv.Itoa(l.other(t))}
	case needEnter:
		all = append(all, "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_CHROOT", "--cap-add", "SYS_PTRACE", "--pid", "host")
	case needSocket:
		all = append(all, "--bind", answering(t)+":/run/engine")
	case needVolume, needHandle, needTwice, needMove:
		home := filepath.Join(t.TempDir(), "home")
		if out, err := exec.Command("cp", "-a", filepath.Join(l.rootfs, "home/app"), home).CombinedOutput(); err != nil {
			t.Fatalf("copy the home: %v\n%s", err, out)
		}
		all = append(all, "--bind", home+":/home/app")
		switch a.needs {
		case needHandle:
			all = append(all, "--cap-add", "DAC_READ_SEARCH")
		case needMove:
			all = append(all, "--cap-add", "SYS_ADMIN")
		case needTwice:
			all, words = append(all, "--bind", home+":/twice:ro", "--uid", "1000"), []string{"--at", "/twice"}
		default:
			all = append(all, "--uid", "1000")
		}
	default:
		all = append(all, "--uid", "1000")
	}
	all = slices.Concat(all, args, []string{"--", "/bin/attack", "--count", "5"}, words, []string{a.name})
	cmd := exec.Command(filepath.Join(l.bin, "ctr"), all...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// other starts another container and returns its process, as the host numbers it.
func (l *lab) other(t *testing.T) int {
	t.Helper()
	out, err := exec.Command(filepath.Join(l.bin, "ctr"), "run", "--rootfs", l.rootfs, "--state", l.state, "--cgroup-parent", "belay-attack-test",
		"--pid", "host", "--detach", "--", "/bin/sleep", "100").Output()
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(filepath.Join(l.bin, "ctr"), "rm", "--state", l.state, "--id", id).CombinedOutput(); err != nil {
			t.Errorf("ctr rm: %v: %s", err, out)
		}
	})
	var st struct{ PID int }
	b, err := os.ReadFile(filepath.Join(l.state, id, "state.json"))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil || st.PID == 0 {
		t.Fatalf("the other container's process: %d, %v", st.PID, err)
	}
	return st.PID
}

// abstract returns the name of an abstract socket on which somebody answers.
func abstract(t *testing.T) string {
	t.Helper()
	name := "@belay-attack-test-" + strconv.Itoa(os.Getpid())
	answer(t, name)
	return name
}

// answering returns a folder with a docker.sock on which somebody answers.
func answering(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	answer(t, filepath.Join(dir, "docker.sock"))
	return dir
}

// answer answers whoever connects to a unix socket.
func answer(t *testing.T, name string) {
	t.Helper()
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 512))
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			c.Close()
		}
	}()
}

const noInt80 = "a kernel and a hypervisor with the 32-bit entry (CONFIG_IA32_EMULATION)"

// kernelHas names what some attacks need of the kernel.
var kernelHas = map[string]string{
	"priv-kexec":             "a kernel with CONFIG_KEXEC",
	"priv-modprobe":          "a kernel with CONFIG_MODULES",
	"priv-binfmt":            "a kernel with CONFIG_BINFMT_MISC",
	"priv-sysfs":             "a kernel with a setting in sysfs that can be written",
	"priv-devmem":            "a kernel with CONFIG_DEVMEM",
	"priv-kcore":             "a kernel with CONFIG_PROC_KCORE",
	"priv-releaseagent":      "a kernel with cgroups of version 1",
	"priv-notify":            "a kernel with cgroups of version 1",
	"priv-other-pull-nested": "a cgroup v2 hierarchy",
	"priv-other-pull":        "a cgroup v2 hierarchy",
	"priv-setns-ioctl":       "Linux 6.12",
	"priv-ueventhelper":      "a kernel with CONFIG_UEVENT_HELPER",
	"priv-hostuser":          "CAP_SYS_RESOURCE",
	"file-flags":             "a file system with inode flags",
	"host-runtime-flags":     "a file system with inode flags",
	"priv-cgroup":            "a cgroup v2 hierarchy",
	"net-left":               "a cgroup v2 hierarchy",
	"net-left-born":          "a cgroup v2 hierarchy",
	"net-left-socket":        "a cgroup v2 hierarchy",
	"i2-child":               "a cgroup v2 hierarchy",
	"i2-leave":               "a cgroup v2 hierarchy",
	"i2-rmdir":               "a cgroup v2 hierarchy",
	"i2-rmdir-uring":         "a cgroup v2 hierarchy",
	"i2-born":                "a cgroup v2 hierarchy",
	"i2-other":               "a cgroup v2 hierarchy",
	"file-clone":             "a file system whose files can share blocks",
	"file-fallocate":         "a file system whose files can have holes",
	"priv-devices":           "a kernel with cgroups of version 1",
	"e8-uffd":                "a kernel with CONFIG_USERFAULTFD",
	"net-sctp":               "a kernel with SCTP",
	"net-udplite":            "a kernel with UDP-Lite",
	"net-vsock":              "a kernel with CONFIG_VSOCKETS",
	"net-alg":                "a kernel with CONFIG_CRYPTO_USER_API",
	"net-mptcp":              "a kernel with CONFIG_MPTCP",

	"n2-client-left": "a cgroup v2 hierarchy",
	"n2-server-left": "a cgroup v2 hierarchy",
}

// TestUnguarded shows that each attack is a real one: with nothing in its way it wins.
func TestUnguarded(t *testing.T) {
	l := newLab(t)
	for _, a := range attacks() {
		// test/kernel has the device, and the host.
		if a.needs == needPeer || a.needs == needPeerRaw || strings.HasPrefix(a.name, "host-") {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			out, status := l.play(t, a)
			family := a.name == "net-pppox" || a.name == "net-rds" || a.name == "net-listen-sctp"
			testneed.Need(t, "families", !family || status != exitUntried, "a kernel with PPPoE, RDS and SCTP")
			testneed.Need(t, "x32", a.needs != needX32 || status != exitUntried, "a kernel with CONFIG_X86_X32")
			testneed.Need(t, "binfmt_misc", a.needs != needBinfmt || status != exitUntried, "a handler for this attack on the host; the suite in test/kernel registers one")
			testneed.Need(t, "userns", status != exitUntried || !strings.Contains(out, "namespaces are off"), "user namespaces are off on this host")
			testneed.Need(t, "int80", !strings.Contains(a.name, "int80") || status != exitUntried, noInt80)
			testneed.Need(t, "sysrq", a.name != "priv-sysrq" || status != exitUntried, "a kernel with CONFIG_MAGIC_SYSRQ")
			if kind := kernelHas[a.name]; kind != "" {
				testneed.Need(t, "attack-"+a.name, status != exitUntried, kind)
			}
			testneed.Need(t, "sys-resource", a.needs != needResource || status != 125, "CAP_SYS_RESOURCE, which this machine does not give to root")
			testneed.Need(t, "modules", a.needs != needModule || status != exitUntried, "a kernel with loadable modules")
			testneed.Need(t, "io_uring", !strings.Contains(a.name, "uring") && !strings.Contains(a.name, "sqpoll") || status != exitUntried, "io_uring is off on this host")
			if status != exitWon || !strings.Contains(out, "WON") {
				t.Errorf("status %d, printed %q", status, out)
			}
		})
	}
}

// TestUserns plays what depends on owners in a container with a user namespace.
func TestUserns(t *testing.T) {
	l := newLab(t)
	l.rootfs += "-shifted"
	out, err := exec.Command(filepath.Join(l.bin, "ctr"), "mkroot", "--shift", "100000", l.rootfs).CombinedOutput()
	if err != nil {
		t.Fatalf("mkroot: %v\n%s", err, out)
	}
	// User 100000 must be able to walk to the root file system.
	if err := os.Chmod(filepath.Dir(filepath.Dir(l.rootfs)), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks() {
		if a.name != "e1-copy" && a.name != "p7-setuid" && a.name != "p7-root" && a.name != "keys-read" {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			if out, status := l.play(t, a, "--userns"); status != exitWon {
				t.Errorf("status %d, printed %q", status, out)
			}
		})
	}
}

// TestNoexec shows that the attacks that execute a file of their own tell a denial from
// a success: on a noexec mount the kernel itself denies them.
func TestNoexec(t *testing.T) {
	l := newLab(t)
	denied := map[string]bool{
		"e1-copy": true, "e5-loader": true, "e5-mmap": true, "e6-preload": true, "e6-dlopen": true,
		"e7-tmpfile": true, "e7-deleted": true, "e8-mprotect": true, "e8-wx": true, "e10-script": true,
		"e10-interp": true, "e10-chain": true, "e12-execveat": true, "e12-int80": true, "e14-retry": true,
		"e15-first": true, "i1-namespaces": true, "e11-race": true, "e13-args": true,
	}
	for _, a := range attacks() {
		if !denied[a.name] {
			continue
		}
		delete(denied, a.name)
		t.Run(a.name, func(t *testing.T) {
			out, status := l.play(t, a, "--tmpfs", "/tmp:noexec")
			testneed.Need(t, "int80", !strings.Contains(a.name, "int80") || status != exitUntried, noInt80)
			if status != exitRefused || !strings.Contains(out, "refused") {
				t.Errorf("status %d, printed %q", status, out)
			}
		})
	}
	if len(denied) > 0 {
		t.Errorf("no such attacks: %v", denied)
	}
}
