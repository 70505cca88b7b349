// Package survive puts an agent through what happens to it on a bad day: it is killed
// again and again, its memory runs out, its disk is full, its files are broken, its engine
// is restarted, its policies are absurd. What must hold throughout: nothing that is
// forbidden runs, and what is wrong is said.
//
// It owns one lab (see tools/lab): an engine, an agent under the shipped policy
// hardened.yaml. Where numbers count its containers are tools/ctr's, in a cgroup of the
// lab's. Row: end-to-end tests.
package survive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

const image = "survive/app:1"

type world struct {
	lab    *lab.Lab
	engine *lab.Engine
	agent  *lab.Agent
	scope  string // of the containers of ctr
	rootfs string // of the same
	err    error  // why there is no world
}

var shared world

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) (code int) {
	if docker, _ := lab.HasEngine(); os.Geteuid() != 0 || !docker || os.Getenv("BELAY_E2E") == "" {
		return m.Run() // the tests say what they need
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	calm := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "interrupted; tidying up")
		if shared.lab != nil {
			fmt.Fprintln(os.Stderr, shared.lab.Close())
		}
		os.Exit(130)
	})
	defer calm()
	shared.err = shared.build(ctx)
	code = m.Run()
	if shared.lab == nil {
		return code
	}
	if err := shared.lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "tidying up:", err)
		code = max(code, 1)
	}
	if left := shared.lab.Leftovers(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind: %q\n", left)
		code = max(code, 1)
	}
	return code
}

func (w *world) build(ctx context.Context) (err error) {
	if w.lab, err = lab.New(lab.Options{
		Name: "survive", Log: os.Stderr,
		BinDir: os.Getenv("BELAY_BIN"), Backend: os.Getenv("BELAY_TEST_BACKEND"), TempDir: os.Getenv("BELAY_TEST_TMP"),
	}); err != nil {
		return err
	}
	if w.engine, err = w.lab.StartEngine(ctx, "main"); err != nil {
		return err
	}
	actor, err := w.lab.Actor(ctx)
	if err != nil {
		return err
	}
	if err := w.engine.Import(ctx, image, []lab.File{lab.Program("bin/actor", actor), {Name: "out/", Mode: 0o777}}, `ENTRYPOINT ["/bin/actor"]`); err != nil {
		return err
	}
	w.scope, w.rootfs = "/"+w.lab.Name+"-ctr", w.lab.Path("root")
	if out, err := exec.CommandContext(ctx, ctrBin(), "mkroot", "-bin", filepath.Dir(ctrBin()), w.rootfs).CombinedOutput(); err != nil {
		return fmt.Errorf("ctr mkroot: %w: %s", err, out)
	}
	if w.agent, err = w.newAgent(ctx, "agent"); err != nil {
		return err
	}
	return w.agent.Start(ctx)
}

// newAgent makes an agent that watches the lab's containers under hardened.yaml.
func (w *world) newAgent(ctx context.Context, name string, flags ...string) (*lab.Agent, error) {
	a, err := w.lab.NewAgent(ctx, lab.AgentOptions{Name: name, Engine: w.engine, Scopes: []string{w.scope}, Flags: flags})
	if err != nil {
		return nil, err
	}
	hardened, err := w.lab.ShippedPolicy("hardened.yaml")
	if err != nil {
		return nil, err
	}
	return a, a.SetPolicy("hardened.yaml", hardened)
}

func ctrBin() string { return filepath.Join(os.Getenv("BELAY_BIN"), "ctr") }

// need returns the world, or skips, or fails if it should be there. The shared agent runs
// when the test begins and when it has ended.
func need(t *testing.T) *world {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "containers, cgroups and BPF programs need it")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	if shared.err != nil {
		t.Fatalf("set up: %v", shared.err)
	}
	shared.restore(t)
	t.Cleanup(func() { shared.restore(t) })
	return &shared
}

func (w *world) restore(t *testing.T) {
	t.Helper()
	if w.agent.PID() != 0 {
		return
	}
	if err := w.agent.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatalf("the agent does not start again: %v", err)
	}
}

// ctr runs tools/ctr.
func (w *world) ctr(ctx context.Context, args ...string) (code int, out string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, ctrBin(), args...)
	b, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return -1, err.Error()
	}
	code = cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return code, strings.TrimSpace(string(b))
}

// run runs a command in a fresh container of ctr's.
func (w *world) run(ctx context.Context, flags []string, command ...string) (id string, code int, out string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	id = hex.EncodeToString(b[:])
	args := slices.Concat([]string{"run", "--state", w.lab.Path("ctr"), "--cgroup-parent", w.scope, "--rootfs", w.rootfs, "--id", id}, flags, []string{"--"}, command)
	code, out = w.ctr(ctx, args...)
	return id, code, out
}

// asUser is what an allowed container of ctr's has.
var asUser = []string{"--uid", "1000"}

// enforced fails if root runs in a new container, or a user does not.
func (w *world) enforced(t *testing.T, when string) {
	t.Helper()
	if _, code, out := w.run(t.Context(), nil, "/bin/id"); code == 0 || strings.Contains(out, "uid=") {
		t.Errorf("%s, root runs in a new container: exit %d: %s", when, code, out)
	}
	if _, code, out := w.run(t.Context(), asUser, "/bin/id"); code != 0 {
		t.Errorf("%s, a user's program does not run: exit %d: %s", when, code, out)
	}
}

// docker runs a docker command that must succeed.
func (w *world) docker(t *testing.T, args ...string) string {
	t.Helper()
	r := w.engine.Docker(t.Context(), args...)
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	return strings.TrimSpace(r.Stdout)
}

// count reads how often to repeat something.
func count(t *testing.T, env string, def int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1", env, s)
	}
	return n
}
