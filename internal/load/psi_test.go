package load

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
)

const pressure = "/proc/pressure/memory"

// TestTriggerWithoutPrivilege: the window is one that whoever lacks CAP_SYS_RESOURCE may have, as kernels go by that
// (Linux 6.5). A window of a second, which they may not have, shows that the capability is gone.
func TestTriggerWithoutPrivilege(t *testing.T) {
	var window, second error
	unprivileged(t, func() {
		var fd int
		if fd, window = openTrigger(pressure, 50); window == nil {
			unix.Close(fd)
		}
		if fd, second = unix.Open(pressure, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); second == nil {
			_, second = unix.Write(fd, []byte("some 500000 1000000\x00"))
			unix.Close(fd)
		}
	})
	if errors.Is(second, os.ErrNotExist) || errors.Is(second, os.ErrPermission) || errors.Is(second, unix.EOPNOTSUPP) {
		testneed.Need(t, "psi", false, "triggers without privileges, Linux 6.5: "+second.Error())
	}
	if !errors.Is(second, unix.EINVAL) {
		t.Errorf("a window of a second: got %v; want EINVAL", second)
	}
	if window != nil {
		t.Error(window)
	}
}

// unprivileged does something in a thread without CAP_SYS_RESOURCE, which ends with it.
func unprivileged(t *testing.T, do func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		h := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		err := unix.Capget(h, &caps[0])
		if err == nil {
			caps[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
			err = unix.Capset(h, &caps[0])
		}
		if err == nil {
			do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestTriggersWithoutPressure: a kernel that tells of no pressure is an error, and no caps on it are none.
func TestTriggersWithoutPressure(t *testing.T) {
	capped := []*policy.LoadPolicy{{Spec: policy.LoadSpec{Caps: []policy.Cap{{Name: "psi.memory", Percent: 50}}}}}
	for _, c := range []struct {
		name string
		ps   []*policy.LoadPolicy
		err  error
	}{{"a cap", capped, os.ErrNotExist}, {"none", nil, nil}} {
		tr, err := openTriggers(filepath.Join(t.TempDir(), "proc"), c.ps, func() {})
		if tr != nil || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, %v", c.name, tr, err)
		}
	}
}
