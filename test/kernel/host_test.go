// Package kernel plays attacks and ordinary work in real containers against the real
// kernel side, for one backend: enforced, an attack must be stopped at the level that
// the backend promises; audited, it must win and be reported; ordinary work must cause
// no record at all.
//
// Containers are started by tools/ctr, which does what runc does in milliseconds, so
// the suite also runs in virtual machines. Row: tests.
package kernel

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// host is this machine with Belay on it. One for the whole suite: attaching takes
// seconds under emulation.
type host struct {
	kernel *enforce.Enforcer
	opts   enforce.Options
	scope  string
	dir    string
	rootfs string
	cancel context.CancelFunc
	done   chan error

	// mu guards events.
	mu     sync.Mutex
	events []*enforce.Event
}

var (
	theHost *host
	hostErr error
)

func TestMain(m *testing.M) {
	if os.Args[0] == enforce.CanaryArg0 {
		os.Exit(enforce.CanaryExit)
	}
	if os.Geteuid() == 0 && bin("ctr") != "" {
		theHost, hostErr = openHost()
	}
	code := m.Run()
	if theHost != nil {
		if err := theHost.close(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// bin returns the path of a helper built by tools/ci/build-test.sh, empty if it is not
// there.
func bin(name string) string {
	dir := os.Getenv("BELAY_BIN")
	if dir == "" {
		return ""
	}
	p := filepath.Join(dir, name)
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	return p
}

func get(tb testing.TB) *host {
	tb.Helper()
	testneed.Need(tb, "root", os.Geteuid() == 0, "the suite loads BPF programs and starts containers")
	testneed.Need(tb, "ctr", bin("ctr") != "", "run make build-test, and set BELAY_BIN to the bin folder (tools/ci/native.sh does)")
	if hostErr != nil {
		tb.Fatal(hostErr)
	}
	return theHost
}

// inFullGuests skips t in a guest of make test, where a processor is emulated. It runs natively there, and
// in the guests of make test-full.
func inFullGuests(tb testing.TB) {
	tb.Helper()
	testneed.Need(tb, "full-matrix", !reduced(), "make test-full; natively it runs in make test too")
}

func reduced() bool { return os.Getenv("BELAY_MATRIX") == "reduced" }

func mustPolicies(yaml string) *policy.Set {
	ps, err := policy.Parse("test.yaml", []byte(yaml))
	if err != nil {
		panic(err)
	}
	set, err := policy.NewSet(ps)
	if err != nil {
		panic(err)
	}
	return set
}

func openHost() (*host, error) {
	dir, err := os.MkdirTemp("", "belay-kernel-")
	if err != nil {
		return nil, err
	}
	h := &host{dir: dir, scope: fmt.Sprintf("/belay-k%08x", rand.Uint32()), rootfs: filepath.Join(dir, "root"), done: make(chan error, 1)}
	if out, err := exec.Command(bin("ctr"), "mkroot", "-bin", filepath.Dir(bin("ctr")), h.rootfs).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ctr mkroot: %w: %s", err, out)
	}
	empty, err := policy.NewSet(nil)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if os.Getenv("BELAY_TEST_QUIET") != "" {
		log = slog.New(slog.DiscardHandler)
	}
	h.opts = enforce.Options{
		PinDir: filepath.Join(dir, "bpf"), SetsFile: filepath.Join(dir, "sets.json"), Backend: os.Getenv("BELAY_TEST_BACKEND"), Scopes: []string{h.scope},
		Floor: empty.Floor(), Build: empty.Effective(policy.Subject{Class: policy.ClassBuild}), Log: log,
	}
	if h.kernel, err = enforce.Open(h.opts); err != nil {
		return nil, errors.Join(err, enforce.Unload(h.opts.PinDir))
	}
	h.listen()
	return h, nil
}

func (h *host) listen() {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	k := h.kernel
	go func() {
		h.done <- k.Run(ctx, func(ev *enforce.Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, ev)
		})
	}()
}

// die is the agent's death: nobody reads, nobody holds a handle. The pins stay.
func (h *host) die() error {
	h.cancel()
	return errors.Join(<-h.done, h.kernel.Close())
}

func (h *host) close() error {
	err := errors.Join(h.die(), enforce.Unload(h.opts.PinDir))
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		_ = syscall.Rmdir(filepath.Join(root, h.scope)) // one of them is not the v2 hierarchy
	}
	return errors.Join(err, os.RemoveAll(h.dir))
}

// enact makes policies the floor.
func (h *host) enact(tb testing.TB, yaml string) {
	tb.Helper()
	set := mustPolicies(yaml)
	if err := h.kernel.SetFloor(set.Floor(), set.Effective(policy.Subject{Class: policy.ClassBuild})); err != nil {
		tb.Fatal(err)
	}
	if _, err := h.kernel.SetHelpers(nil); err != nil {
		tb.Fatal(err)
	}
	if err := h.kernel.LookBack(); err != nil { // as Run does, a moment later
		tb.Fatal(err)
	}
}

// result is how a command in a container ended.
type result struct {
	code int // exit status; 128+n for signal n; 126: could not be executed
	out  string
	id   string
}

func (r result) String() string { return fmt.Sprintf("exit %d: %s", r.code, strings.TrimSpace(r.out)) }

func newID() string {
	var b [32]byte
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(b[:])
}

// run runs a command in a fresh container. flags come before "--", command after it.
func (h *host) run(tb testing.TB, flags []string, command ...string) result {
	tb.Helper()
	id := newID()
	args := slices.Concat([]string{"run", "--state", filepath.Join(h.dir, "ctr"), "--cgroup-parent", h.scope, "--rootfs", h.rootfs, "--id", id}, flags, []string{"--"}, command)
	r := h.ctr(tb, args)
	r.id = id
	return r
}

func (h *host) exec(tb testing.TB, id string, flags []string, command ...string) result {
	tb.Helper()
	return h.ctr(tb, slices.Concat([]string{"exec", "--state", filepath.Join(h.dir, "ctr"), "--id", id}, flags, []string{"--"}, command))
}

func (h *host) remove(tb testing.TB, id string) {
	tb.Helper()
	if r := h.ctr(tb, []string{"rm", "--state", filepath.Join(h.dir, "ctr"), "--id", id}); r.code != 0 {
		tb.Errorf("ctr rm: %v", r)
	}
}

func (h *host) ctr(tb testing.TB, args []string) result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, bin("ctr"), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		tb.Fatalf("ctr %v: %v", args, err)
	}
	r := result{code: cmd.ProcessState.ExitCode(), out: out.String()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.code = 128 + int(ws.Signal())
	}
	return r
}

// take returns the records of a container's denials, waiting a moment for the ring.
func (h *host) take(id string, rule verdict.Rule) []*enforce.Event {
	var found []*enforce.Event
	for range 500 {
		h.mu.Lock()
		found = found[:0]
		for _, ev := range h.events {
			if string(ev.Container) == id && ev.Rule != verdict.RuleNone && (rule == verdict.RuleNone || ev.Rule == rule) {
				found = append(found, ev)
			}
		}
		h.mu.Unlock()
		if len(found) > 0 {
			return found
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the ring has no other signal
	}
	return nil
}

// gone tells whether the end of a container was seen, so that all its records are in.
func (h *host) gone(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.events, func(ev *enforce.Event) bool {
		return string(ev.Container) == id && ev.Type == enforce.EventGone
	})
}

// none fails if a container caused a record of a denial.
func (h *host) none(tb testing.TB, id string) {
	tb.Helper()
	for range 300 {
		if h.gone(id) {
			break
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the ring has no other signal
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range h.events {
		if string(ev.Container) == id && ev.Rule != verdict.RuleNone {
			tb.Errorf("unexpected record: %s %s %s %s %s %v", ev.Decision, ev.Rule, ev.Hook, ev.Exe, ev.Object, ev.Args)
		}
	}
}
