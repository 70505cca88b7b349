package enforce

import (
	"errors"
	"fmt"
	"io"
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

func hookTime(path string) (t HookTime, err error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	info, err := l.Info()
	if err != nil {
		return t, err
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	st, err := prog.Stats()
	if err != nil {
		return t, err
	}
	return HookTime{Runs: st.RunCount, Total: st.Runtime}, nil
}
