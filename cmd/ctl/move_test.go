package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/move"
)

// TestMoveStatus: where it is the target that keeps a move from being begun, the exit status says so. The agent goes by it.
func TestMoveStatus(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/version":
			_, _ = io.WriteString(w, `{"ApiVersion": "1.44", "MinAPIVersion": "1.24"}`)
		case strings.HasSuffix(r.URL.Path, "/info"):
			_, _ = io.WriteString(w, `{"ID": "a"}`)
		default:
			http.Error(w, `{"message": "no such container: target: web"}`, http.StatusNotFound)
		}
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	here, none := "unix://"+l.Addr().String(), "unix://"+filepath.Join(dir, "none.sock")
	for _, c := range []struct {
		from, to string
		more     []string
		want     int
	}{
		{from: here, to: none, want: exitTarget},
		{from: here, to: none, more: []string{"--dry-run"}, want: exitTarget},
		{from: none, to: here, want: exitFailed},
		{from: here, to: here, want: exitFailed}, // it has no such container
	} {
		args := append([]string{"move", "web", "--from", c.from, "--to", c.to, "--state-dir", dir}, c.more...)
		if got := run(t.Context(), &terminal{in: strings.NewReader(""), out: io.Discard, err: io.Discard, now: time.Now}, args); got != c.want {
			t.Errorf("%v: exit status %d, want %d", args, got, c.want)
		}
	}
}

// TestGroupPlan: the plan of a group says what each of it takes.
func TestGroupPlan(t *testing.T) {
	var out strings.Builder
	tm := &terminal{out: &out, now: time.Now}
	tm.writeMovePlan(&move.Plan{Name: "db", Stateful: true, ImageName: "db:1", Steps: move.Steps(true), With: []*move.Plan{{Name: "agent", ImageName: "agent:1"}}})
	for _, want := range []string{"db, agent can be moved, as one, with volumes", "container  db", "image      db:1", "container  agent", "image      agent:1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
