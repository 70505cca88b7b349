package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

var someTime = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// fakeAgent answers what it is given.
type fakeAgent struct {
	images     []Image
	status     *Status
	containers []Container
	explain    map[string]*Explanation
	set        *PolicySet
	who        *Caller // of the last reload
	records    []*journal.Record
	query      chan journal.ReadOptions // each query of Events
	err        error                    // of every answer; after the records, of Events
	block      bool                     // until the request ends
}

func (f *fakeAgent) wait(ctx context.Context) error {
	if f.block {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.err
}

func (f *fakeAgent) Status(ctx context.Context) (*Status, error) { return f.status, f.wait(ctx) }

func (f *fakeAgent) Containers(ctx context.Context) ([]Container, error) {
	return f.containers, f.wait(ctx)
}

func (f *fakeAgent) Explain(_ context.Context, ref string) (*Explanation, error) {
	if e := f.explain[ref]; e != nil {
		return e, nil
	}
	return nil, &lookupError{ref}
}

// lookupError has a message of its own, as that of the container registry has.
type lookupError struct{ ref string }

func (e *lookupError) Error() string { return "no such container: " + e.ref }
func (e *lookupError) Unwrap() error { return ErrNotFound }

func (f *fakeAgent) ContainerUse(ctx context.Context, ref string) (*ContainerUse, error) {
	return nil, errors.Join(f.wait(ctx), fmt.Errorf("%q: %w", ref, ErrNotFound))
}

func (f *fakeAgent) Images(ctx context.Context) ([]Image, error) { return f.images, f.wait(ctx) }

func (f *fakeAgent) ExplainImage(_ context.Context, ref string) (*ImageExplanation, error) {
	for _, i := range f.images {
		if i.ID == ref {
			return &ImageExplanation{Image: i}, nil
		}
	}
	return nil, ErrNotFound
}

func (f *fakeAgent) Reload(ctx context.Context, who *Caller) (*PolicySet, error) {
	f.who = who
	return f.set, f.wait(ctx)
}

func (f *fakeAgent) Events(ctx context.Context, q journal.ReadOptions, emit func(*journal.Record) error) error {
	if f.query != nil {
		f.query <- q
	}
	for _, r := range f.records {
		if err := emit(r); err != nil {
			return err
		}
	}
	if q.Follow {
		<-ctx.Done()
		return nil
	}
	return f.err
}

func record(seq uint64, d verdict.Decision) *journal.Record {
	return &journal.Record{
		Schema: journal.Schema, BootID: "b", Seq: seq, Time: someTime, Host: "h",
		Kind: journal.KindExec, Decision: d, Container: &journal.Container{Name: "web-1"},
	}
}

func explanation() *Explanation {
	return &Explanation{
		Container: Container{ID: "3f2a", Name: "web-1", Policies: []string{"hardened"}, Armed: someTime},
		Revision:  "abc",
		Lines: []policy.Line{
			{Rule: verdict.RuleDrift, Mode: verdict.ModeAudit, Value: "deny", Policy: "hardened", File: "h.yaml", Line: 7, Why: "the only policy that sets it"},
			{Rule: verdict.RuleBPF, Mode: verdict.ModeEnforce, Value: "allow", Why: "no policy sets it"},
		},
		Levels: []Level{{Rule: "exec.drift", Level: "prevent"}},
	}
}

func socketPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), SocketName)
}

func listen(t *testing.T, a Agent, path string) *Server {
	t.Helper()
	s, err := Listen(a, Options{Path: path, GID: os.Getegid()})
	if err != nil {
		t.Fatalf("Listen: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// start runs s until the test ends or stop is called, which returns Run's error.
func start(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() error {
		cancel()
		select {
		case err := <-done:
			done <- nil
			return err
		case <-time.After(10 * time.Second):
			return errors.New("Run did not end")
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return stop
}

func serve(t *testing.T, a Agent) *Client {
	t.Helper()
	path := socketPath(t)
	start(t, listen(t, a, path))
	return NewClient(path)
}

// next returns what comes through ch, and does not wait for ever.
func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("waited in vain")
		panic("not reached")
	}
}
