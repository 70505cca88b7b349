// Package lab builds a private place on this machine where real containers run under
// a real agent: container engines in network namespaces of their own, images made from
// nothing, agents, and the tidying up of all of it.
//
// It owns what lies below the directory of a [Lab], the processes that it started and
// the cgroups that bear the lab's name, and touches nothing else of the host: no
// running engine, no bridge, no firewall rule. It never ends a process that it did not
// start. It is used by tools/demo and test/e2e and linked into no product binary. Row:
// test support of commands.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options says what a lab is built from. Zero values have the defaults that the fields
// name.
type Options struct {
	// Name starts the names of the lab's directory and cgroups; "lab".
	Name string
	// TempDir is where the lab's directory is made; the system's, or where that is on
	// an overlay, which cannot carry the engine's own, another that is not.
	TempDir string
	// CacheDir keeps what is slow to make between runs: $BELAY_CACHE, or belay below
	// the user's cache directory.
	CacheDir string
	// Source is the root of the module, from which missing binaries are built; the
	// nearest go.mod above the working directory.
	Source string
	// BinDir holds belay-agent and belay; the folder of the running program if they are
	// beside it, or else they are built from Source.
	BinDir string
	// Actor is the program that plays in the containers; $BELAY_LAB_ACTOR, or actor
	// beside the running program, or else it is built from Source.
	Actor string
	// Docker and Dockerd are the engine's programs; see [Options.engine].
	Docker, Dockerd string
	// Backend is the agent's; "auto".
	Backend string
	// Log receives a line for each slow step; nil discards them.
	Log io.Writer
}

// Lab is one private place. Close it. Its methods may be called by one goroutine at a
// time, Close by any.
type Lab struct {
	// Dir holds everything; it goes with the lab.
	Dir string
	// Name is unique on this machine; cgroups of the lab's engines start with it.
	Name string
	opts Options

	// mu guards what follows.
	mu     sync.Mutex
	undo   []func() error // newest last
	closed bool
}

// New makes an empty lab.
//
// Errors: without root; if a program that it needs is missing, with how to get it.
func New(opts Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("containers, cgroups and BPF programs need root: run it with sudo")
	}
	if err := opts.fill(); err != nil {
		return nil, err
	}
	var r [4]byte
	_, _ = rand.Read(r[:]) // never fails: crypto/rand
	name := "belay-" + opts.Name + "-" + hex.EncodeToString(r[:])
	dir := filepath.Join(opts.TempDir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	l := &Lab{Dir: dir, Name: name, opts: opts}
	// Pushed first, so that it runs last, when nobody uses what it removes.
	l.push(l.scrub)
	return l, nil
}

func (o *Options) fill() error {
	if o.Name == "" {
		o.Name = "lab"
	}
	if o.TempDir == "" {
		o.TempDir = tempDir()
	}
	if o.CacheDir == "" {
		o.CacheDir = os.Getenv("BELAY_CACHE")
	}
	if o.CacheDir == "" {
		d, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find a cache directory: %w; set BELAY_CACHE", err)
		}
		o.CacheDir = filepath.Join(d, "belay")
	}
	if o.Source == "" {
		o.Source = moduleRoot()
	}
	if o.Actor == "" {
		o.Actor = os.Getenv("BELAY_LAB_ACTOR")
	}
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		if o.BinDir == "" && isFile(dir, "belay-agent") && isFile(dir, "belay") {
			o.BinDir = dir
		}
		if o.Actor == "" && isFile(dir, "actor") {
			o.Actor = filepath.Join(dir, "actor")
		}
	}
	if o.Backend == "" {
		o.Backend = "auto"
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o.engine()
}

func isFile(dir, name string) bool {
	st, err := os.Stat(filepath.Join(dir, name))
	return err == nil && st.Mode().IsRegular()
}

// tempDir returns the first of the usual places that is not on an overlay.
func tempDir() string {
	for _, d := range []string{os.TempDir(), "/var/tmp", "/tmp/vm", "/run"} {
		var st unix.Statfs_t
		if unix.Statfs(d, &st) == nil && st.Type != unix.OVERLAYFS_SUPER_MAGIC {
			return d
		}
	}
	return os.TempDir()
}

// moduleRoot returns the nearest folder with a go.mod at or above the working
// directory; the working directory if there is none.
func moduleRoot() string {
	wd, err := os.Getwd()
	if err != nil {
		return "."
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return wd
		}
	}
}

func (l *Lab) logf(format string, args ...any) {
	fmt.Fprintf(l.opts.Log, format+"\n", args...)
}

// Path returns a path below the lab's directory.
func (l *Lab) Path(elem ...string) string {
	return filepath.Join(append([]string{l.Dir}, elem...)...)
}

// Backend returns the backend that agents are asked for.
func (l *Lab) Backend() string { return l.opts.Backend }

// push adds a step of the tidying up. It runs before those pushed earlier.
func (l *Lab) push(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undo = append(l.undo, f)
}

// Close ends everything that the lab started and removes everything that it made.
// Every step is tried, whatever the others came to. A second call does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	undo := l.undo
	l.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// Await calls ok every 50 ms until it returns true, and returns false when timeout or
// ctx ends first.
func Await(ctx context.Context, timeout time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		if ok() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// Kernel returns the running kernel's release, or "unknown".
func Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// tail returns the last lines of a file, for the one who reads an error.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
