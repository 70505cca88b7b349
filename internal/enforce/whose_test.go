package enforce

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/testneed"
)

// The labels and containers are read from maps of this kernel.
func TestTaskContainer(t *testing.T) {
	needBPF(t)
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	e := &Enforcer{maps: map[string]*ebpf.Map{}, root: cgroupRoot{dir: t.TempDir()}}
	for _, name := range []string{kernelMapBlTasks, kernelMapBlContainers} {
		m, err := ebpf.NewMap(spec.Maps[name])
		if errors.Is(err, ebpf.ErrNotSupported) {
			testneed.Need(t, "bpf", false, err.Error())
		}
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		e.maps[name] = m
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	const name = "docker-" // of a cgroup
	id := ident.ContainerID(strings.Repeat("5a", 32))
	dir := e.root.dir + "/" + name + string(id) + ".scope"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cgroup, err := cgroupID(dir)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(what string, want ident.ContainerID, labelled bool) {
		t.Helper()
		if got, ok, err := e.TaskContainer(pidfd); err != nil || got != want || ok != labelled {
			t.Errorf("%s: got %q, %v, %v", what, got, ok, err)
		}
	}
	label := func(state kernelBlState) {
		t.Helper()
		if err := e.maps[kernelMapBlTasks].Put(int32(pidfd), &kernelBlTask{Container: uint64(cgroup), State: uint8(state)}); err != nil {
			t.Fatal(err)
		}
	}
	ask("no label", "", false)
	label(kernelBlStateBL_ENTERING)
	ask("entering", "", false)
	label(kernelBlStateBL_ARMED)
	ask("a container that is gone", "", true)
	path := "/" + name + string(id) + ".scope"
	if e.IsOwnCgroup(id, path) {
		t.Error("a cgroup that only has the name is the container's")
	}
	c := kernelBlContainer{}
	if c.Id, err = id.Bytes(); err != nil {
		t.Fatal(err)
	}
	if err := e.maps[kernelMapBlContainers].Put(uint64(cgroup), &c); err != nil {
		t.Fatal(err)
	}
	ask("armed", id, true)
	if !e.IsOwnCgroup(id, path) || e.IsOwnCgroup(ident.ContainerID(strings.Repeat("5b", 32)), path) || e.IsOwnCgroup(id, "/../x") {
		t.Error("the container's own cgroup is not known, or another's is")
	}
	unix.Close(pidfd)
	if _, _, err := e.TaskContainer(pidfd); err == nil {
		t.Error("no process: no error")
	}
	if pidfd, err = unix.PidfdOpen(os.Getpid(), 0); err != nil { // for the deferred close
		t.Fatal(err)
	}
}
