// Package e2e plays user stories against a real Docker Engine and the real kernel, one
// file a story. It needs root and Docker; where they are missing its tests say so.
//
// It owns one lab (see tools/lab) for the length of the run: an engine, an agent under
// the shipped policy hardened.yaml, and a few images. Row: end-to-end tests.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// image holds the actor in several places; without USER it starts as root.
const image = "e2e/app:1"

// world is what the tests share. A test that changes the policies or the agent puts
// them back.
type world struct {
	lab    *lab.Lab
	engine *lab.Engine
	agent  *lab.Agent
	err    error // why there is none
}

var shared world

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) (code int) {
	if docker, _ := lab.HasEngine(); os.Geteuid() != 0 || !docker {
		return m.Run() // the tests say what they need
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// An interrupt must not leave an engine behind; go test would end us at once.
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

func (w *world) build(ctx context.Context) error {
	opts := lab.Options{
		Name: "e2e", Log: os.Stderr,
		BinDir: os.Getenv("BELAY_BIN"), Backend: os.Getenv("BELAY_TEST_BACKEND"), TempDir: os.Getenv("BELAY_TEST_TMP"),
	}
	l, err := lab.New(opts)
	if err != nil {
		return err
	}
	w.lab = l
	if w.engine, err = l.StartEngine(ctx, "main"); err != nil {
		return err
	}
	actor, err := l.Actor(ctx)
	if err != nil {
		return err
	}
	bb, err := lab.Busybox()
	if err != nil {
		return err
	}
	err = w.engine.Import(ctx, image, []lab.File{
		lab.Program("bin/actor", actor), lab.Program("bin/forbidden", actor), lab.Program("bin/busybox", bb),
		{Name: "bin/sh", Mode: 0o777, Link: "busybox"},
		{Name: "bin/asroot", Mode: 0o4755, Body: actor}, // setuid
		{Name: "tmp/", Mode: 0o1777},
		{Name: "out/", Mode: 0o777},
	}, `ENTRYPOINT ["/bin/actor"]`)
	if err != nil {
		return err
	}
	hardened, err := l.ShippedPolicy("hardened.yaml")
	if err != nil {
		return err
	}
	if w.agent, err = l.NewAgent(ctx, lab.AgentOptions{Name: "agent", Engine: w.engine, Flags: []string{"--users-group", "*"}}); err != nil {
		return err
	}
	if err := w.agent.SetPolicy("hardened.yaml", hardened); err != nil {
		return err
	}
	return w.agent.Start(ctx)
}

// need returns the shared world, or skips, or fails if it should be there.
func need(t *testing.T) *world {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "containers, cgroups and BPF programs need it")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	if shared.err != nil {
		t.Fatalf("set up: %v", shared.err)
	}
	return &shared
}

// docker runs a docker command that must succeed.
func (w *world) docker(t *testing.T, args ...string) string {
	t.Helper()
	r := w.engine.Docker(t.Context(), args...)
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	return r.Stdout
}

// up starts a container that stays, and takes it away at the end of the test.
func (w *world) up(t *testing.T, name string, args ...string) {
	t.Helper()
	w.docker(t, append([]string{"run", "-d", "--name", name}, args...)...)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context()) // the test's own has ended
		if r := w.engine.Docker(ctx, "rm", "-f", name); r.Code != 0 {
			t.Errorf("clean up: %v", r.Err())
		}
	})
}

// policy puts a policy file in force until the end of the test.
func (w *world) policy(t *testing.T, file, text, names string) {
	t.Helper()
	if err := w.agent.SetPolicy(file, text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(w.agent.SetPolicy(file, ""), w.agent.AwaitPolicies(ctx, 10*time.Second, "hardened")); err != nil {
			t.Error(err)
		}
	})
	if err := w.agent.AwaitPolicies(t.Context(), 10*time.Second, names); err != nil {
		t.Fatal(err)
	}
}

// denials returns what was denied since a time in the containers of these names.
func (w *world) denials(t *testing.T, since time.Time, names ...string) []string {
	t.Helper()
	all, err := w.agent.Denials(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		for _, n := range names {
			if e.Container.Name == n || e.Container.Name == "" {
				out = append(out, fmt.Sprintf("%s %s of %s by %s in %q (%s)", e.Decision, e.Policy.Rule, e.Process.Executable.Path, e.Process.Comm, e.Container.Name, e.Hook))
				break
			}
		}
	}
	return out
}

// refused tells whether a command of docker ended as a denied exec does: with an error,
// or killed.
func refused(r lab.Result) bool {
	return r.Code == 137 || r.Code != 0 && strings.Contains(r.Text(), "peration not permitted")
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
