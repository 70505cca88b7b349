package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/load/plan"
)

// fakeLoad is an agent that plans moves, and notes what was decided.
type fakeLoad struct {
	fakeAgent
	decided []LoadRequest
}

func (f *fakeLoad) LoadNode(context.Context) (*plan.Description, error) {
	return &plan.Description{Schema: plan.DescriptionSchema}, nil
}

func (f *fakeLoad) LoadState(_ context.Context, name string) (*plan.State, error) {
	if name == "none" {
		return nil, &Error{Status: http.StatusNotFound, Message: "no such LoadPolicy"}
	}
	return &plan.State{Sources: []string{"a" + name}, Limits: plan.DefaultLimits(), Windows: []plan.Window{{Days: [7]bool{1: true}, From: 60, To: 120}}}, nil
}

func (f *fakeLoad) LoadMoves(context.Context) (*LoadMoves, error) {
	return &LoadMoves{Cordon: "full"}, nil
}

func (f *fakeLoad) LoadDecide(_ context.Context, _ *Caller, q *LoadRequest) error {
	f.decided = append(f.decided, *q)
	return nil
}

func (f *fakeLoad) LoadCordon(_ context.Context, _ *Caller, q *LoadRequest) error {
	f.decided = append(f.decided, *q)
	return nil
}

func serveLoad(t *testing.T, sub apicall.Subject) (*Client, *fakeLoad) {
	t.Helper()
	f := &fakeLoad{}
	path := socketPath(t)
	s, err := Listen(f, Options{Path: path, GID: os.Getegid(), Manage: &ManageOptions{Identify: func(net.Conn) (apicall.Subject, error) { return sub, nil }}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	return NewClient(path), f
}

// TestLoadMoves: what is asked comes through whole, and root of the host decides.
func TestLoadMoves(t *testing.T) {
	c, f := serveLoad(t, apicall.Subject{Kind: apicall.User})
	if s, err := c.LoadState(t.Context(), "x"); err != nil || s.Sources[0] != "ax" || s.Limits != plan.DefaultLimits() || s.Windows[0].To != 120 || !s.Windows[0].Days[1] {
		t.Errorf("state: %+v, %v", s, err)
	}
	if _, err := c.LoadState(t.Context(), "none"); err == nil || !strings.Contains(err.Error(), "no such LoadPolicy") {
		t.Errorf("state of none: %v", err)
	}
	if d, err := c.LoadNode(t.Context()); err != nil || d.Schema != plan.DescriptionSchema {
		t.Errorf("node: %+v, %v", d, err)
	}
	if m, err := c.LoadMoves(t.Context()); err != nil || m.Cordon != "full" {
		t.Errorf("moves: %+v, %v", m, err)
	}
	if err := errors.Join(c.LoadDecide(t.Context(), &LoadRequest{Plan: "ab", Approve: true}), c.LoadCordon(t.Context(), &LoadRequest{Cordon: true, Reason: "disks"})); err != nil || len(f.decided) != 2 {
		t.Errorf("decided %+v, %v", f.decided, err)
	}
	for _, body := range []string{`{"plan":"a","force":true}`, `{} {}`, ``, `{"reason":"` + strings.Repeat("x", maxReason+1) + `"}`} {
		if resp := get(t, c, http.MethodPost, "/v1/load/decide", body); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%.40s: %d", body, resp.StatusCode)
		}
	}
}

// TestLoadDecisionsAreRoots: whoever may open the socket looks, and root of the host decides.
func TestLoadDecisionsAreRoots(t *testing.T) {
	for name, sub := range map[string]apicall.Subject{
		"user": {Kind: apicall.User, UID: 1000, Name: "alice"}, "root of a container": {Kind: apicall.Container, UID: 0, ContainerID: "a"}, "nobody": {},
	} {
		c, f := serveLoad(t, sub)
		for _, err := range []error{c.LoadDecide(t.Context(), &LoadRequest{Plan: "ab", Approve: true}), c.LoadCordon(t.Context(), &LoadRequest{})} {
			if !errors.Is(err, ErrForbidden) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if len(f.decided) > 0 {
			t.Errorf("%s decided %+v", name, f.decided)
		}
	}
}
