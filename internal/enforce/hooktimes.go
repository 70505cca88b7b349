package enforce

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// HookTime is how often a hook's program has run and how long in all, while the kernel
// counted: the time of the call and of reading the clock is in it.
type HookTime struct {
	Name  string // the kernel's, as in health and events
	Runs  uint64
	Total time.Duration
}

// CountHookTimes makes the kernel count the time of every BPF program of the host until
// the result is closed. That costs each run of a program two reads of the clock.
//
// Source: BPF_ENABLE_STATS, bpf(2), since 5.8.
func CountHookTimes() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("count the time of BPF programs: %w", err)
	}
	return c, nil
}

// HookTimes returns the counts of the programs that are pinned below pinDir, in the
// order of attachment. It may be another process's pins: tools/bench reads an agent's.
func HookTimes(pinDir string) ([]HookTime, error) {
	var out []HookTime
	for _, h := range hooks {
		paths, err := filepath.Glob(filepath.Join(pinDir, "abi-*", "links", "gen-*", h.program))
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			t, err := hookTime(p)
			if err != nil {
				return nil, fmt.Errorf("time of hook %s: %w", h.name, err)
			}
			t.Name = h.name
			out = append(out, t)
		}
	}
	return out, nil
}

func hookTime(path string) (HookTime, error) {
	_, st, err := pinnedStats(path)
	if err != nil {
		return HookTime{}, err
	}
	return HookTime{Runs: st.RunCount, Total: st.Runtime}, nil
}

// pinnedStats returns the program of a pinned link, and what the kernel counts of it.
func pinnedStats(path string) (id ebpf.ProgramID, st *ebpf.ProgramStats, err error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	info, err := l.Info()
	if err != nil {
		return 0, nil, err
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	st, err = prog.Stats()
	return info.Program, st, err
}

// Skips is how often the kernel has left out a program since it was loaded.
type Skips struct {
	Program ebpf.ProgramID
	Times   uint64
}

// Skipped returns the hooks, by name, at which the kernel has left out our program. It does so while another run of the program
// is under way on the processor, of a task that was preempted in its midst. What the program would have judged passed.
// Tracepoints that fire in interrupts too are not among them: there the run that is left out is the interrupt's.
//
// Source: recursion_misses of struct bpf_prog_info, since 5.12.
func (e *Enforcer) Skipped() (map[string]Skips, error) {
	e.attachMu.Lock()
	defer e.attachMu.Unlock()
	out := map[string]Skips{}
	for _, h := range e.attached {
		if h.interrupts {
			continue
		}
		id, st, err := pinnedStats(filepath.Join(e.links, h.program))
		switch {
		case errors.Is(err, fs.ErrNotExist): // the canary's to find
		case err != nil:
			return nil, fmt.Errorf("count the runs of hook %s that were left out: %w", h.name, err)
		case st.RecursionMisses > 0:
			out[h.name] = Skips{id, st.RecursionMisses}
		}
	}
	return out, nil
}
