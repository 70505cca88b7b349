package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/testneed"
)

func TestParseBind(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     bind
		wantErr  bool
	}{
		{name: "read-write", in: "/a:/b", want: bind{src: "/a", dst: "/b"}},
		{name: "read-only", in: "/a:/b:ro", want: bind{src: "/a", dst: "/b", readOnly: true}},
		{name: "relative source", in: "a:/b", want: bind{src: "a", dst: "/b"}},
		{name: "relative destination", in: "/a:b", wantErr: true},
		{name: "no destination", in: "/a", wantErr: true},
		{name: "other option", in: "/a:/b:rw", wantErr: true},
		{name: "shared", in: "/a:/b:rshared", want: bind{src: "/a", dst: "/b", shared: true}},
		{name: "no source", in: ":/b", wantErr: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseBind(tt.in)
			if (err != nil) != tt.wantErr {
				t.Fatalf("parseBind(%q) error = %v, want error %v", tt.in, err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(bind{})); diff != "" {
				t.Errorf("parseBind(%q) (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func TestParseRunRefuses(t *testing.T) {
	id := strings.Repeat("a", 64)
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"no command", []string{"--rootfs", "/r"}},
		{"no rootfs", []string{"--", "true"}},
		{"short id", []string{"--rootfs", "/r", "--id", "abc", "--", "true"}},
		{"upper-case id", []string{"--rootfs", "/r", "--id", strings.ToUpper(id), "--", "true"}},
		{"colon in rootfs", []string{"--rootfs", "/r:x", "--", "true"}},
		{"other net", []string{"--rootfs", "/r", "--net", "bridge", "--", "true"}},
		{"unknown capability", []string{"--rootfs", "/r", "--cap-add", "FLY", "--", "true"}},
		{"bad bind", []string{"--rootfs", "/r", "--bind", "x", "--", "true"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseRun(tt.args)
			se, ok := errors.AsType[*statusError](err)
			if !ok || se.status != exitUsage {
				t.Errorf("parseRun(%q) = %v, want a usage error", tt.args, err)
			}
		})
	}
}

func TestCapMask(t *testing.T) {
	// The CapEff that /proc/self/status shows in a container of Docker's.
	const docker = 0xa80425fb
	for _, tt := range []struct {
		name string
		add  []string
		want uint64
	}{
		{"default", nil, docker},
		{"one more", []string{"sys_admin"}, docker | 1<<21},
		{"with prefix", []string{"CAP_BPF"}, docker | 1<<39},
		{"all", []string{"ALL"}, 1<<41 - 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := capMask(tt.add)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("capMask(%v) = %#x, want %#x", tt.add, got, tt.want)
			}
		})
	}
}

// lab is a built ctr, a root file system of busybox and a place for state.
type lab struct{ ctr, rootfs, state, parent string }

func newLab(t *testing.T) *lab {
	t.Helper()
	testneed.Need(t, "root", os.Geteuid() == 0, "containers are made by root")
	root, err := cgroupRoot()
	testneed.Need(t, "cgroup2", err == nil, "no cgroup v2 tree")
	busybox, err := exec.LookPath("busybox")
	testneed.Need(t, "busybox", err == nil, "apt-get install busybox-static")
	dir := t.TempDir()
	// User 100000 of --userns must be able to walk here.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	l := &lab{ctr: filepath.Join(dir, "ctr"), rootfs: filepath.Join(dir, "rootfs"), state: filepath.Join(dir, "state"), parent: "belay-" + newID()[:12]}
	cmd := exec.Command("go", "build", "-o", l.ctr, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := copyFile(busybox, filepath.Join(l.rootfs, "bin/busybox")); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "sleep", "cat", "true", "id", "kill", "touch"} {
		if err := os.Symlink("busybox", filepath.Join(l.rootfs, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(root, l.parent)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cgroup %s is left behind (%v)", l.parent, err)
		}
		if _, err := os.Stat(l.state); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state is left behind (%v)", err)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil || bytes.Contains(mounts, []byte(dir)) {
			t.Errorf("mounts are left behind (%v)", err)
		}
	})
	return l
}

// do runs ctr and returns what it printed and its status.
func (l *lab) do(verb string, args ...string) (string, int) {
	head := []string{verb, "--state", l.state}
	if verb == "run" {
		head = append(head, "--rootfs", l.rootfs, "--cgroup-parent", l.parent)
	}
	cmd := exec.Command(l.ctr, append(head, args...)...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func TestRun(t *testing.T) {
	l := newLab(t)
	id := newID()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		args       []string
		wantStatus int
		want       string
	}{
		{"status", []string{"--", "sh", "-c", "exit 3"}, 3, ""},
		{"killed", []string{"--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137, ""},
		{"first in its PID namespace", []string{"--", "sh", "-c", "echo $$"}, 0, "1\n"},
		{"user", []string{"--uid", "1000", "--", "id"}, 0, "uid=1000 gid=1000"},
		{"user namespace", []string{"--userns", "--", "cat", "/proc/self/uid_map"}, 0, "100000"},
		{"cgroup", []string{"--id", id, "--", "cat", "/proc/self/cgroup"}, 0, "0::/" + l.parent + "/" + id + "\n"},
		{"born in the cgroup", []string{"--clone-into-cgroup", "--id", id, "--", "cat", "/proc/self/cgroup"}, 0, "0::/" + l.parent + "/" + id + "\n"},
		{"cgroup name", []string{"--cgroup-name", "docker-" + id + ".scope", "--", "cat", "/proc/self/cgroup"}, 0, "/docker-" + id + ".scope\n"},
		{"host name", []string{"--id", id, "--", "cat", "/proc/sys/kernel/hostname"}, 0, id[:12] + "\n"},
		{"the host's name", []string{"--uts", "host", "--", "cat", "/proc/sys/kernel/hostname"}, 0, host + "\n"},
		{"capabilities", []string{"--", "sh", "-c", "cat /proc/self/status"}, 0, "CapEff:\t00000000a80425fb"},
		{"no capabilities", []string{"--uid", "7", "--", "cat", "/proc/self/status"}, 0, "CapPrm:\t0000000000000000"},
		{"no such program", []string{"--", "/nope"}, exitNoExec, "ctr: exec /nope: no such file or directory\n"},
		{"not executable", []string{"--bind", "/etc/passwd:/p", "--", "/p"}, exitNoExec, "ctr: exec /p: permission denied\n"},
		{"read-only bind", []string{"--bind", "/etc:/mnt:ro", "--", "touch", "/mnt/x"}, 1, "Read-only file system"},
		{"tmpfs", []string{"--tmpfs", "/t", "--", "touch", "/t/x"}, 0, ""},
		{"leak", []string{"--leak", "/etc/ssl", "--", "cat", "../hostname"}, 0, ""},
		{"missing bind", []string{"--bind", "/no/such:/mnt", "--", "true"}, exitSetup, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, status := l.do("run", tt.args...)
			if status != tt.wantStatus || !strings.Contains(out, tt.want) {
				t.Errorf("ctr run %q: status %d, printed %q; want %d, %q", tt.args, status, out, tt.wantStatus, tt.want)
			}
		})
	}
}

func TestExec(t *testing.T) {
	for _, userns := range []bool{false, true} {
		t.Run(map[bool]string{false: "host users", true: "user namespace"}[userns], func(t *testing.T) {
			l := newLab(t)
			args := []string{"--detach", "--", "sleep", "1000"}
			if userns {
				args = append([]string{"--userns"}, args...)
			}
			out, status := l.do("run", args...)
			if status != 0 {
				t.Fatalf("start: %s", out)
			}
			id := strings.TrimSpace(out)
			testExec(t, l, id)
			if out, status := l.do("rm", "--id", id); status != 0 {
				t.Errorf("rm: %s", out)
			}
		})
	}
}

func testExec(t *testing.T, l *lab, id string) {
	t.Helper()
	for _, tt := range []struct {
		name       string
		args       []string
		wantStatus int
		want       string
	}{
		{"status", []string{"--", "sh", "-c", "exit 5"}, 5, ""},
		{"killed", []string{"--", "sh", "-c", "kill -9 $$"}, 137, ""},
		{"user", []string{"--uid", "1000", "--", "id"}, 0, "uid=1000 gid=1000"},
		{"root", []string{"--", "id"}, 0, "uid=0 gid=0"},
		{"born in the cgroup", []string{"--clone-into-cgroup", "--", "cat", "/proc/self/cgroup"}, 0, "/" + id + "\n"},
		{"sees the first process", []string{"--", "cat", "/proc/1/cmdline"}, 0, "sleep\x001000"},
		{"same cgroup", []string{"--", "cat", "/proc/self/cgroup"}, 0, "/" + id + "\n"},
		{"no such program", []string{"--", "/nope"}, exitNoExec, "ctr: exec /nope: no such file or directory\n"},
		{"cover", []string{"--cover", "/proc/self/comm:/proc/version", "--", "cat", "/proc/version"}, 0, "cat\n"},
		{"bad cover", []string{"--cover", "x", "--", "true"}, exitUsage, "want SRC:DST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, status := l.do("exec", slices.Concat([]string{"--id", id[:16]}, tt.args)...)
			if status != tt.wantStatus || !strings.Contains(out, tt.want) {
				t.Errorf("ctr exec %q: status %d, printed %q; want %d, %q", tt.args, status, out, tt.wantStatus, tt.want)
			}
		})
	}
	if out, status := l.do("exec", "--id", "zz", "--", "id"); status != exitSetup || !strings.Contains(out, "0 match") {
		t.Errorf("exec in no container: status %d, printed %q", status, out)
	}
}
