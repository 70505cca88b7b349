package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
)

func TestCommand(t *testing.T) {
	if err := Command(t.Context(), "/bin/sh", []string{"-c", `read a; test "$a $1" = "hello x" && test -z "$HOME"`, "sh", "x"}, []byte("hello\n"), time.Minute); err != nil {
		t.Error(err)
	}
	err := Command(t.Context(), "/bin/sh", []string{"-c", "echo bad >&2; exit 3"}, nil, time.Minute)
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Stderr != "bad" {
		t.Errorf("got %v", err)
	}
	err = Command(t.Context(), "/bin/sh", []string{"-c", "for i in 1 2 3 4 5 6 7 8 9; do printf '%1000d\n' $i; done >&2; echo why >&2; exit 1"}, nil, time.Minute)
	if exit, ok := errors.AsType[*ExitError](err); !ok || !strings.HasSuffix(exit.Stderr, "9\nwhy") || len(exit.Stderr) > maxStderr {
		t.Errorf("after much progress: %v", err)
	}
	start := time.Now()
	err = Command(t.Context(), "/bin/sh", []string{"-c", "sleep 100 & sleep 100"}, nil, 200*time.Millisecond)
	if _, ok := errors.AsType[*LimitError](err); !ok || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
	if err := Command(t.Context(), "/bin/sh", []string{"-c", "sleep 0.3"}, nil, 0); err != nil {
		t.Errorf("without a timeout: %v", err)
	}
	for _, path := range []string{"sh", "/bin", "/nowhere/at/all"} {
		if err := Command(t.Context(), path, nil, nil, time.Minute); err == nil {
			t.Errorf("%s was run", path)
		}
	}
}

// TestGrace: a program that has some may see to what it was at; one that takes longer is killed.
func TestGrace(t *testing.T) {
	done := filepath.Join(t.TempDir(), "done")
	for _, tt := range []struct {
		name, trap string
		grace      time.Duration
		want       bool
	}{
		{"none", "echo > " + done + "; exit", 0, false},
		{"some", "echo > " + done + "; exit", time.Minute, true},
		{"too little", "", 200 * time.Millisecond, false},
	} {
		_ = os.Remove(done)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := CommandIn(ctx, Limits{Grace: tt.grace}, "/bin/sh", []string{"-c", "trap '" + tt.trap + "' TERM; while :; do sleep 0.05; done"}, nil, 0)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v after %s", tt.name, err, time.Since(began))
		}
		if _, err := os.Stat(done); (err == nil) != tt.want {
			t.Errorf("%s: done %v", tt.name, err == nil)
		}
	}
}

func TestOutputIn(t *testing.T) {
	for _, tt := range []struct {
		script, want string
		err          error
	}{{"echo hello", "hello\n", nil}, {"printf 12345678901234567", "", ErrOutput}, {"while :; do echo 1; done", "", ErrOutput}} {
		got, err := OutputIn(t.Context(), Limits{}, "/bin/sh", []string{"-c", tt.script}, 16, time.Minute)
		if tt.err == nil && string(got) != tt.want || len(got) > 16 || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v", tt.script, got, err)
		}
	}
}

// TestCommandUntrusted: a program that another user could have changed is not run.
func TestCommandUntrusted(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "a file of root is made")
	path := filepath.Join(t.TempDir(), "mail")
	for _, mode := range []os.FileMode{0o775, 0o757} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		err := Command(t.Context(), path, nil, nil, time.Minute)
		if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "chmod go-w "+path) {
			t.Errorf("%o: got %v", mode, err)
		}
	}
}

// TestCommandIn: a program with limits of its own is in a cgroup of its own, which goes with it, and its end at the
// limit is its own.
func TestCommandIn(t *testing.T) {
	probe, err := newCgroup("belay-unit-", 64<<20, 0, false)
	testneed.Need(t, "root", err == nil, "a cgroup with a memory cap is made")
	_, err = os.Stat(filepath.Join(probe.dir, "cgroup.kill"))
	kills := err == nil
	probe.remove()
	l := Limits{Kind: "belay-unit-", MemoryMax: 64 << 20, Processors: 2}
	err = CommandIn(t.Context(), l, "/bin/sh", []string{"-c", `cat /proc/self/cgroup >&2; exit 1`}, nil, time.Minute)
	if exit, ok := errors.AsType[*ExitError](err); !ok || probe.v2 && !strings.Contains(exit.Stderr, "/belay-unit-") { // version 1: it is moved once it runs
		t.Errorf("got %v", err)
	}
	err = CommandIn(t.Context(), l, "/bin/sh", []string{"-c", `x=x; while :; do x=$x$x; done`}, nil, time.Minute)
	if limit, ok := errors.AsType[*LimitError](err); !ok || limit.What != "memory" {
		t.Errorf("got %v", err)
	}
	if kills { // a child in a session of its own
		if err := CommandIn(t.Context(), l, "/bin/sh", []string{"-c", `setsid sleep 100 >/dev/null 2>&1 &`}, nil, time.Minute); err != nil {
			t.Error(err)
		}
	}
	for _, root := range []string{cgroupRoot, cgroupMemory} {
		if left, err := filepath.Glob(filepath.Join(root, "belay-unit-*")); err != nil || len(left) > 0 {
			t.Errorf("left %q, %v", left, err)
		}
	}
	// What a killed caller left is removed, with what runs there.
	left, err := newCgroup("belay-unit-", 64<<20, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("/bin/sleep", "100")
	if kills {
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer child.Process.Kill()
		if err := left.add(child.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	var others []string // of a maker that lives, and of somebody else
	for _, name := range []string{"1-abcdefabcdef", "a-main"} {
		dir := filepath.Join(filepath.Dir(left.dir), "belay-unit-"+name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dir)
		others = append(others, dir)
	}
	RemoveLeft("belay-unit-")
	for _, dir := range others {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if kills && child.Wait() == nil {
		t.Error("what runs there was not killed")
	}
	if _, err := os.Stat(left.dir); err == nil {
		t.Error("a cgroup of nobody stays")
	}
}

// TestCommandUnprotected: what keeps the caller from being killed for memory is not the program's.
func TestCommandUnprotected(t *testing.T) {
	own, err := os.ReadFile(oomScore("self"))
	if err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(oomScore("self"), []byte("-900"), 0)
	testneed.Need(t, "cap-sys-resource", err == nil, fmt.Sprint("protection from the kernel's killer is given: ", err))
	t.Cleanup(func() {
		if err := os.WriteFile(oomScore("self"), own, 0); err != nil {
			t.Error(err)
		}
	})
	for caller, want := range map[string]string{"-900": "0", "300": "300"} {
		if err := os.WriteFile(oomScore("self"), []byte(caller), 0); err != nil {
			t.Fatal(err)
		}
		err := Command(t.Context(), "/bin/sh", []string{"-c", "sleep 0.3; cat /proc/$$/oom_score_adj >&2; exit 1"}, nil, time.Minute)
		if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Stderr != want {
			t.Errorf("of a caller with %s: got %v, want %s", caller, err, want)
		}
	}
}
