package enforce

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/belay-project/belay/internal/ident"
)

// TaskContainer returns the container whose label the process of a pidfd has: for good, whatever
// cgroup it is in now. The id is empty for a step of a build, and for a container whose cgroup is gone.
// A process without a label may still be in a container's cgroup.
//
// Errors: one if the labels cannot be read.
func (e *Enforcer) TaskContainer(pidfd int) (id ident.ContainerID, labelled bool, err error) {
	var t kernelBlTask
	switch err := e.maps[kernelMapBlTasks].Lookup(int32(pidfd), &t); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("read the label of a task: %w", err)
	}
	if t.State != uint8(kernelBlStateBL_ARMED) {
		return "", false, nil
	}
	var c kernelBlContainer
	switch err := e.maps[kernelMapBlContainers].Lookup(t.Container, &c); {
	case errors.Is(err, ebpf.ErrKeyNotExist), err == nil && c.Class == uint8(kernelBlClassBL_CLASS_BUILD):
		return "", true, nil
	case err != nil:
		return "", false, fmt.Errorf("read a container: %w", err)
	}
	return ident.ContainerIDFromBytes(c.Id), true, nil
}

// IsOwnCgroup reports whether the cgroup at a path of /proc/PID/cgroup is that of a container, and
// not one that was made inside of another and bears its name.
func (e *Enforcer) IsOwnCgroup(id ident.ContainerID, path string) bool {
	key, err := id.Bytes()
	if err != nil {
		return false
	}
	at, err := cgroupID(filepath.Join(e.root.dir, filepath.Join("/", path)))
	if err != nil {
		return false
	}
	var c kernelBlContainer
	return e.maps[kernelMapBlContainers].Lookup(uint64(at), &c) == nil && c.Id == key
}
