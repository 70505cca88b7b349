package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// testNow is the moment at which all scripts run.
var testNow = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"belay": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(run(ctx, &terminal{
			in: os.Stdin, out: os.Stdout, err: os.Stderr,
			now: func() time.Time { return testNow }, colours: wantColours(os.Stdout),
			screen: isScreen(os.Stdin) && isScreen(os.Stdout),
		}, os.Args[1:]))
	}})
}

// TestScripts runs testdata/*.txtar. With -update what they compare with is written
// anew.
func TestScripts(t *testing.T) { runScripts(t, "testdata") }

// TestScreens runs testdata/screen/*.txtar, in which a command has a terminal.
func TestScreens(t *testing.T) {
	_, err := exec.LookPath("tmux")
	testneed.Need(t, "tmux", err == nil, "it is the terminal: apt-get install tmux")
	runScripts(t, "testdata/screen")
}

func runScripts(t *testing.T, dir string) {
	t.Helper()
	update := flag.Lookup("update").Value.String() == "true" // of depstest
	if update && os.Getenv("CI") != "" {
		t.Fatal("-update is refused in CI: what a command prints is reviewed like code")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		UpdateScripts:       update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("TERM", "xterm")
			// Short, because the kernel bounds the path of a socket.
			run, err := os.MkdirTemp("", "belay")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(run) })
			env.Setenv("RUN", run)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fakeagent":  fakeAgent,
			"journal":    writeJournal,
			"fakefactor": fakeFactor,
			"faketokens": fakeTokens,
		},
	})
}

// fakeAgent serves the files of a folder on $RUN/control.sock until the script ends.
func fakeAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fakeagent DIR")
	}
	s, err := control.Listen(fileAgent{ts.MkAbs(args[0])}, control.Options{
		Path: filepath.Join(ts.Getenv("RUN"), control.SocketName), GID: os.Getegid(),
		Manage: &control.ManageOptions{
			Manager:  fileManager{ts.MkAbs(args[0])},
			Identify: func(net.Conn) (apicall.Subject, error) { return apicall.Subject{Kind: apicall.User, UID: 1000}, nil },
		},
	})
	ts.Check(err)
	serve(ts, "fake agent", s.Run)
}

// fileAgent answers with the files of a folder: status.json, containers.json,
// explain-NAME.json, reload.json or the policy that reload.yaml is, and events.jsonl.
type fileAgent struct{ dir string }

func readAnswer[T any](f fileAgent, name string) (*T, error) {
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	v := new(T)
	return v, json.Unmarshal(b, v)
}

func (f fileAgent) Status(context.Context) (*control.Status, error) {
	return readAnswer[control.Status](f, "status.json")
}

func (f fileAgent) Containers(context.Context) ([]control.Container, error) {
	cs, err := readAnswer[[]control.Container](f, "containers.json")
	if err != nil {
		return nil, err
	}
	return *cs, nil
}

func (f fileAgent) Explain(_ context.Context, ref string) (*control.Explanation, error) {
	if strings.HasPrefix("77aa", ref) {
		return nil, fmt.Errorf("%w: the beginning of an ID, %q", control.ErrAmbiguous, ref)
	}
	e, err := readAnswer[control.Explanation](f, "explain-"+filepath.Base(ref)+".json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", control.ErrNotFound, ref)
	}
	return e, err
}

func (f fileAgent) Load(context.Context) (*control.LoadStatus, error) {
	return readAnswer[control.LoadStatus](f, "load.json")
}

func (f fileAgent) Images(context.Context) ([]control.Image, error) {
	list, err := readAnswer[[]control.Image](f, "images.json")
	if err != nil {
		return nil, err
	}
	return *list, nil
}

func (f fileAgent) ContainerUse(_ context.Context, ref string) (*control.ContainerUse, error) {
	return nil, fmt.Errorf("%q: %w", ref, control.ErrNotFound)
}

func (f fileAgent) ExplainImage(_ context.Context, ref string) (*control.ImageExplanation, error) {
	e, err := readAnswer[control.ImageExplanation](f, "explain-image-"+filepath.Base(ref)+".json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", control.ErrNotFound, ref)
	}
	return e, err
}

func (f fileAgent) Reload(context.Context, *control.Caller) (*control.PolicySet, error) {
	if _, err := policy.ParseFiles(filepath.Join(f.dir, "reload.yaml")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return readAnswer[control.PolicySet](f, "reload.json")
}

func (f fileAgent) Events(ctx context.Context, q journal.ReadOptions, emit func(*journal.Record) error) error {
	file, err := os.Open(filepath.Join(f.dir, "events.jsonl"))
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		r := new(journal.Record)
		if err := json.Unmarshal(lines.Bytes(), r); err != nil {
			return err
		}
		if r.Time.Before(q.Since) || q.Denials && !r.Denial() {
			continue
		}
		if err := emit(r); err != nil {
			return err
		}
	}
	if q.Follow {
		<-ctx.Done()
	}
	return lines.Err()
}

// fileManager answers with policies.json, history.json and change.json, and writes
// what it was asked for into asked.json.
type fileManager struct{ dir string }

func (f fileManager) Policies(_ context.Context, _ *control.Caller, q control.PolicyQuery) (*control.PolicyList, error) {
	l, err := readAnswer[control.PolicyList](fileAgent(f), "policies.json")
	if err != nil || q.Name == "" {
		return l, err
	}
	l.Policies = slices.DeleteFunc(l.Policies, func(p control.ManagedPolicy) bool {
		return p.Name != q.Name || q.Revision != 0 && p.Revision > q.Revision
	})
	if len(l.Policies) == 0 {
		return nil, fmt.Errorf("%w: %s", control.ErrNoPolicy, q.Name)
	}
	l.Policies = l.Policies[len(l.Policies)-1:]
	return l, nil
}

func (f fileManager) History(_ context.Context, _ *control.Caller, name string) (*control.History, error) {
	if name == "secret" {
		return nil, fmt.Errorf("%w: policy.history of secret is denied: no rule allows it", control.ErrForbidden)
	}
	return readAnswer[control.History](fileAgent(f), "history.json")
}

func (f fileManager) Change(_ context.Context, _ *control.Caller, c *control.ChangeRequest) (*control.ChangeResult, error) {
	asked, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "asked.json"), asked, 0o600); err != nil {
		return nil, err
	}
	for i := range c.Files {
		if _, err := policy.ParseAll(c.Files[i].Name, []byte(c.Files[i].Text)); err != nil {
			return nil, err
		}
	}
	res, err := readAnswer[control.ChangeResult](fileAgent(f), "change.json")
	if err == nil && c.DryRun {
		res.DryRun, res.Revision = true, 0
	}
	return res, err
}

// writeJournal writes a journal with three records and, with a file, their anchor into both.
func writeJournal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: journal DIR [FILE]")
	}
	j, err := journal.Open(journal.Options{Dir: ts.MkAbs(args[0]), BootID: "boot", Host: "host"})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	for range 3 {
		j.Append(&journal.Record{Kind: journal.KindExec, Time: testNow, Decision: verdict.Denied})
	}
	ts.Check(j.Flush())
	if len(args) == 2 {
		a, err := j.Anchor()
		ts.Check(err)
		r := &journal.Record{Kind: journal.KindAnchor, Time: testNow, Anchor: &a}
		j.Append(r)
		line, err := journal.Encode(r)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), append(line, '\n'), 0o600))
	}
	cancel()
	ts.Check(<-done)
	ts.Check(j.Close())
}

// serve runs a server until the end of the script.
func serve(ts *testscript.TestScript, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("%s: %v", name, err)
		}
	})
}
