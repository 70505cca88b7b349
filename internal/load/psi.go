package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/policy"
)

// psiWindow is the window of the triggers: who lacks CAP_SYS_RESOURCE may only have one that is
// a multiple of two seconds. Source: kernel/sched/psi.c, psi_trigger_create.
const psiWindow = 2 * time.Second

// pressureFile returns the file of a kind of pressure below proc.
func pressureFile(kind string) string { return filepath.Join("pressure", kind) }

// Pressure returns for how long since the boot some task of the node has waited, by what for: cpu,
// memory, io. What this kernel does not tell of is left out.
func Pressure(proc string) map[string]time.Duration {
	waited := map[string]time.Duration{}
	for _, kind := range psiKinds {
		b, err := os.ReadFile(filepath.Join(proc, pressureFile(kind)))
		if us, ok := psiTotal(b); err == nil && ok {
			waited[kind] = time.Duration(us) * time.Microsecond //nolint:gosec // of less than a million years
		}
	}
	return waited
}

// triggers have the kernel tell at once when pressure passes a cap within psiWindow, in place
// of at the next sample. They own a goroutine. A nil one does nothing.
type triggers struct {
	fds  []int
	stop [2]int // a pipe that ends the goroutine
	wg   sync.WaitGroup
}

// openTriggers opens a trigger for each pressure that has a cap, at the lowest of them.
//
// Errors: those of a kernel that has no triggers; pressure is sampled all the same.
func openTriggers(proc string, ps []*policy.LoadPolicy, pressed func()) (*triggers, error) {
	lowest := map[string]int{}
	for _, p := range ps {
		for _, c := range p.Spec.Caps {
			if kind, ok := strings.CutPrefix(c.Name, "psi."); ok && (lowest[kind] == 0 || c.Percent < lowest[kind]) {
				lowest[kind] = c.Percent
			}
		}
	}
	if len(lowest) == 0 {
		return nil, nil //nolint:nilnil // there is nothing to be told of
	}
	t := new(triggers)
	var errs []error
	for kind, percent := range lowest {
		fd, err := openTrigger(filepath.Join(proc, pressureFile(kind)), percent)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.fds = append(t.fds, fd)
	}
	if len(t.fds) == 0 {
		return nil, errors.Join(errs...)
	}
	if err := unix.Pipe2(t.stop[:], unix.O_CLOEXEC); err != nil {
		t.closeFiles()
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	t.wg.Go(func() { t.wait(pressed) })
	return t, errors.Join(errs...)
}

func openTrigger(path string, percent int) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s for a trigger: %w", path, err)
	}
	window := psiWindow.Microseconds()
	if _, err := unix.Write(fd, fmt.Appendf(nil, "some %d %d\x00", window*int64(percent)/100, window)); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("ask %s for a trigger: %w", path, err)
	}
	return fd, nil
}

// wait calls pressed for each trigger, until the pipe is closed. The kernel fires a trigger
// once in a window at most.
func (t *triggers) wait(pressed func()) {
	fds := []unix.PollFd{{Fd: int32(t.stop[0])}} //nolint:gosec // a descriptor
	for _, fd := range t.fds {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLPRI}) //nolint:gosec // a descriptor
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return // it samples on
		}
		if fds[0].Revents != 0 {
			return
		}
		for i := 1; i < len(fds); i++ {
			if fds[i].Revents&unix.POLLPRI != 0 {
				pressed()
			}
			if fds[i].Revents&unix.POLLERR != 0 { // it has gone away
				fds[i].Fd = -1
			}
		}
	}
}

func (t *triggers) closeFiles() {
	for _, fd := range t.fds {
		unix.Close(fd)
	}
}

// close ends the goroutine and closes the triggers.
func (t *triggers) close() {
	if t == nil {
		return
	}
	unix.Close(t.stop[1])
	t.wg.Wait()
	unix.Close(t.stop[0])
	t.closeFiles()
}
