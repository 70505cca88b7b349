package enforce

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// A container whose processes are all in cgroups below its own, as under systemd or a nested
// engine, has a first process all the same.
func TestFirstPID(t *testing.T) {
	self, parent := os.Getpid(), os.Getppid()
	for _, c := range []struct {
		name  string
		procs map[string]string // by cgroup
		want  int
	}{
		{"its own", map[string]string{".": fmt.Sprintln(self)}, self},
		{"nested", map[string]string{".": "", "init.scope": "", "system.slice/a.service": fmt.Sprintln(self)}, self},
		{"the lowest", map[string]string{".": fmt.Sprintln(max(self, parent)), "a": fmt.Sprintln(min(self, parent))}, min(self, parent)},
		{"one that ended, and one of another namespace", map[string]string{".": "4194305\n0\n", "a": fmt.Sprintln(self)}, self},
		{"none", map[string]string{".": "", "a": ""}, 0},
	} {
		dir := t.TempDir()
		for name, text := range c.procs {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name, "cgroup.procs"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := firstPID(dir); err != nil || got != c.want {
			t.Errorf("%s: %d, %v, want %d", c.name, got, err, c.want)
		}
	}
	if got, err := firstPID(filepath.Join(t.TempDir(), "gone")); got != 0 || err != nil {
		t.Errorf("a cgroup that is gone: %d, %v", got, err)
	}
}

// A process that is on its way into a container is not the container's first, though it is still in
// the host's pid namespace.
func TestFirstPIDEntering(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "it makes namespaces")
	inside := exec.Command("sleep", "100")
	inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = inside.Process.Kill()
		_ = inside.Wait()
	}()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d\n%d\n", os.Getpid(), inside.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := firstPID(dir); err != nil || got != inside.Process.Pid {
		t.Errorf("got %d, %v, want %d", got, err, inside.Process.Pid)
	}
}

// The process that a nested container calls pid 1 is not the outer container's first.
func TestPIDNamespaces(t *testing.T) {
	for text, want := range map[string][2]int{
		"NSpid:\t900\n": {1, 1}, "NSpid:\t900\t1\n": {2, 0}, "NSpid:\t901\t7\n": {2, 1}, "NSpid:\t902\t8\t1\n": {3, 0}, "Name:\tx\n": {0, 1},
	} {
		file := filepath.Join(t.TempDir(), "status")
		if err := os.WriteFile(file, []byte("State:\tS\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		if depth, first := pidNamespaces(file); depth != want[0] || first != want[1] {
			t.Errorf("%q: %d deep, first %d, want %v", text, depth, first, want)
		}
	}
	if depth, _ := pidNamespaces(filepath.Join(t.TempDir(), "none")); depth != 0 {
		t.Errorf("a process that ended is %d deep", depth)
	}
}

// Containers of an agent that noted no listens count as having listened.
func TestNotesListens(t *testing.T) {
	dir := t.TempDir()
	if notesListens(dir) {
		t.Error("a layout without links notes listens")
	}
	links := filepath.Join(dir, "links", "gen-1")
	if err := os.MkdirAll(links, 0o700); err != nil {
		t.Fatal(err)
	}
	add := func(name string) {
		if err := os.WriteFile(filepath.Join(links, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if add("bl_lsm_listen"); notesListens(dir) {
		t.Error("another hook counts as the one that notes")
	}
	add("bl_lsm_note_listen")
	if !notesListens(dir) {
		t.Error("the hook is not found")
	}
}
