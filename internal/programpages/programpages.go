// Package programpages gives the memory of a process's own program back: what its start needed, and what
// comes after does not. It owns nothing and keeps nothing. Row: vocabulary.
package programpages

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Drop unmaps those pages of this process's own program that nothing can have written: most were read by
// the start alone. What is used again is mapped again from the page
// cache, so nothing is lost but a minor fault for each.
//
// Source: madvise(2), MADV_DONTNEED; proc_pid_smaps(5).
func Drop() error {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	spans, err := cleanSpans(f, exe)
	if err != nil {
		return err
	}
	for _, s := range spans {
		if _, _, no := syscall.Syscall(syscall.SYS_MADVISE, s.start, s.end-s.start, syscall.MADV_DONTNEED); no != 0 {
			err = errors.Join(err, fmt.Errorf("give back %x-%x of the program: %w", s.start, s.end, no))
		}
	}
	return err
}

// span is a range of addresses of this process, its end excluded.
type span struct{ start, end uintptr }

// cleanSpans returns the mappings of file in a listing of smaps that are read-only and of which no
// page was ever changed (as a loader's relocations would): their content is the file's.
func cleanSpans(smaps io.Reader, file string) (clean []span, err error) {
	var s span
	ours := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 3 && f[0] == "Anonymous:":
			if ours && f[1] == "0" {
				clean = append(clean, s)
			}
			ours = false
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"):
			low, high, _ := strings.Cut(f[0], "-")
			start, err1 := strconv.ParseUint(low, 16, 64)
			end, err2 := strconv.ParseUint(high, 16, 64)
			if err := errors.Join(err1, err2); err != nil {
				return nil, fmt.Errorf("read a mapping: %w", err)
			}
			s = span{uintptr(start), uintptr(end)}
			ours = (f[1] == "r--p" || f[1] == "r-xp") && strings.Join(f[5:], " ") == file
		}
	}
	return clean, lines.Err()
}
