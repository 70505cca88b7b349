package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func TestAnswers(t *testing.T) {
	want := &fakeAgent{
		status: &Status{
			Version: "1.2.3", PID: 7, Started: someTime, Enforcing: true, Backend: "lsm",
			Levels:   []Level{{Rule: "exec.asRoot", Level: "prevent", Note: "n"}},
			Policies: PolicySet{Dir: "/p", Policies: []PolicyStatus{{Name: "hardened", Line: 3}}},
			Failures: map[string]uint64{"map_full": 2},
			Health:   health.Snapshot{State: health.OK, Components: []health.Component{{Name: "enforce", State: health.OK}}},
			Canary:   &Canary{Time: someTime, Denied: true, Count: 4},
		},
		containers: []Container{{ID: "3f2a", Name: "web\n1", Armed: someTime}, {ID: "77"}},
		explain:    map[string]*Explanation{"web 1&x": explanation()},
		set:        &PolicySet{Dir: "/p", Revision: "r", Loaded: someTime},
	}
	c := serve(t, want)
	ctx := t.Context()

	st, err := c.Status(ctx)
	if diff := cmp.Diff(want.status, st); err != nil || diff != "" {
		t.Errorf("Status: error %v, (-want +got):\n%s", err, diff)
	}
	cs, err := c.Containers(ctx)
	if diff := cmp.Diff(want.containers, cs); err != nil || diff != "" {
		t.Errorf("Containers: error %v, (-want +got):\n%s", err, diff)
	}
	e, err := c.Explain(ctx, "web 1&x")
	if diff := cmp.Diff(want.explain["web 1&x"], e); err != nil || diff != "" {
		t.Errorf("Explain: error %v, (-want +got):\n%s", err, diff)
	}
	set, err := c.Reload(ctx)
	if diff := cmp.Diff(want.set, set); err != nil || diff != "" {
		t.Errorf("Reload: error %v, (-want +got):\n%s", err, diff)
	}
}

func TestNoContainersIsAList(t *testing.T) {
	c := serve(t, &fakeAgent{})
	resp := get(t, c, http.MethodGet, "/v1/containers", "")
	if body := text(t, resp); body != "[]\n" {
		t.Errorf("got %q, want an empty list", body)
	}
}

func TestAgentErrors(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		status int
	}{
		{"any", errors.New("read map: no"), http.StatusInternalServerError},
		{"not found", fmt.Errorf("x: %w", ErrNotFound), http.StatusNotFound},
		{"ambiguous", fmt.Errorf("x: %w", ErrAmbiguous), http.StatusConflict},
		{"policies", fmt.Errorf("reload: %w", policy.Errors{{File: "a.yaml", Line: 1, Msg: "m"}, {File: "b.yaml", Msg: "n"}}), http.StatusUnprocessableEntity},
		{"own", &Error{Status: http.StatusTeapot, Message: "t"}, http.StatusTeapot},
		{"too slow", context.DeadlineExceeded, http.StatusGatewayTimeout},
		{"stopping", context.Canceled, http.StatusServiceUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, &fakeAgent{err: tt.err})
			_, err := c.Reload(t.Context())
			var got *Error
			if !errors.As(err, &got) || got.Status != tt.status || got.Message != tt.err.Error() {
				t.Errorf("got %#v, want status %d and message %q", err, tt.status, tt.err)
			}
			for _, sentinel := range []error{ErrNotFound, ErrAmbiguous} {
				if got, want := errors.Is(err, sentinel), errors.Is(tt.err, sentinel); got != want {
					t.Errorf("errors.Is(%v) = %v on the client's side, want %v", sentinel, got, want)
				}
			}
		})
	}
}

func TestExplainUnknown(t *testing.T) {
	c := serve(t, &fakeAgent{})
	_, err := c.Explain(t.Context(), "nobody")
	if !errors.Is(err, ErrNotFound) || err.Error() != "no such container: nobody" {
		t.Errorf("got %v, want the agent's own words and ErrNotFound", err)
	}
}

func TestBadRequests(t *testing.T) {
	c := serve(t, &fakeAgent{status: &Status{}})
	tests := []struct {
		name, method, target, body string
		status                     int
		want                       string // part of the error
	}{
		{"no such path", "GET", "/v2/status", "", 404, "/v2/status"},
		{"method", "POST", "/v1/status", "", 405, "use GET"},
		{"reload by GET", "GET", "/v1/reload", "", 405, "use POST"},
		{"unknown parameter", "GET", "/v1/events?denial=1", "", 400, `"denial"`},
		{"twice", "GET", "/v1/explain?container=a&container=b", "", 400, "more than once"},
		{"bad escape", "GET", "/v1/explain?container=%zz", "", 400, "query"},
		{"no container", "GET", "/v1/explain", "", 400, "container"},
		{"long container", "GET", "/v1/explain?container=" + strings.Repeat("a", 600), "", 400, "container"},
		{"since", "GET", "/v1/events?since=yesterday", "", 400, "RFC 3339"},
		{"follow", "GET", "/v1/events?follow=maybe", "", 400, "neither true nor false"},
		{"denials", "GET", "/v1/events?denials=2", "", 400, "neither true nor false"},
		{"headers", "GET", "/v1/status?" + strings.Repeat("a", 64<<10), "", 431, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := get(t, c, tt.method, tt.target, tt.body)
			body := text(t, resp)
			if resp.StatusCode != tt.status || !strings.Contains(body, strings.ReplaceAll(tt.want, `"`, `\"`)) {
				t.Errorf("got %d %q, want %d with %q", resp.StatusCode, body, tt.status, tt.want)
			}
			if tt.want != "" && (!strings.HasPrefix(body, `{"error":"`) || resp.Header.Get("Content-Type") != "application/json") {
				t.Errorf("got %q as %q, want an error in JSON", body, resp.Header.Get("Content-Type"))
			}
		})
	}
}

func TestEvents(t *testing.T) {
	a := &fakeAgent{
		query:   make(chan journal.ReadOptions, 1),
		records: []*journal.Record{record(1, verdict.Denied), record(2, verdict.Allowed)},
	}
	c := serve(t, a)
	want := journal.ReadOptions{Since: someTime.Add(time.Nanosecond), Denials: true}
	var got []*journal.Record
	err := c.Events(t.Context(), want, func(r *journal.Record) error { got = append(got, r); return nil })
	if diff := cmp.Diff(a.records, got); err != nil || diff != "" {
		t.Errorf("error %v, records (-want +got):\n%s", err, diff)
	}
	if q := next(t, a.query); !q.Since.Equal(want.Since) || q.Follow || !q.Denials {
		t.Errorf("the agent was asked %+v, want %+v", q, want)
	}
}

func TestEventsErrors(t *testing.T) {
	broken := errors.New("read journal: no")
	stop := errors.New("enough")
	tests := []struct {
		name string
		a    *fakeAgent
		emit error
		want string
		n    int
	}{
		{"none", &fakeAgent{}, nil, "", 0},
		{"before the first record", &fakeAgent{err: broken}, nil, broken.Error(), 0},
		{"after some", &fakeAgent{err: broken, records: []*journal.Record{record(1, "")}}, nil, broken.Error(), 1},
		{"of the caller", &fakeAgent{records: []*journal.Record{record(1, ""), record(2, "")}}, stop, stop.Error(), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			err := serve(t, tt.a).Events(t.Context(), journal.ReadOptions{}, func(*journal.Record) error { n++; return tt.emit })
			if got := fmt.Sprint(err); got != tt.want && !(err == nil && tt.want == "") || n != tt.n {
				t.Errorf("got %v after %d records, want %q after %d", err, n, tt.want, tt.n)
			}
		})
	}
}

// TestFollow wants each record at once, not when a buffer is full, and a stream that
// outlives the time of an ordinary request.
func TestFollow(t *testing.T) {
	path := socketPath(t)
	s := listen(t, &fakeAgent{records: []*journal.Record{record(1, verdict.Denied)}}, path)
	s.timeout = 100 * time.Millisecond
	stop := start(t, s)
	got := make(chan *journal.Record, 1)
	done := make(chan error, 1)
	go func() {
		done <- NewClient(path).Events(t.Context(), journal.ReadOptions{Follow: true}, func(r *journal.Record) error { got <- r; return nil })
	}()
	next(t, got)
	select {
	case err := <-done:
		t.Fatalf("the stream ended before the agent did: %v", err)
	case <-time.After(4 * s.timeout):
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := next(t, done); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the agent's end: got %v, want ErrNotRunning", err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	a := &fakeAgent{query: make(chan journal.ReadOptions, 1)}
	c := serve(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Events(ctx, journal.ReadOptions{Follow: true}, nil) }()
	next(t, a.query)
	cancel()
	if err := next(t, done); err != nil {
		t.Errorf("got %v, want nil: it was asked to end", err)
	}
}

func TestEventStreamsAreBounded(t *testing.T) {
	path := socketPath(t)
	s := listen(t, &fakeAgent{}, path)
	start(t, s)
	for range maxEventStreams {
		s.streams <- struct{}{}
	}
	err := NewClient(path).Events(t.Context(), journal.ReadOptions{}, nil)
	var got *Error
	if !errors.As(err, &got) || got.Status != http.StatusServiceUnavailable {
		t.Errorf("got %v, want status 503", err)
	}
}

func TestSlowAgent(t *testing.T) {
	path := socketPath(t)
	s := listen(t, &fakeAgent{block: true}, path)
	s.timeout = 200 * time.Millisecond
	start(t, s)
	_, err := NewClient(path).Status(t.Context())
	var got *Error
	if !errors.As(err, &got) || got.Status != http.StatusGatewayTimeout {
		t.Errorf("got %v, want status 504", err)
	}
}

// TestSilentClient connects and says nothing: it must not hold its place for long.
func TestSilentClient(t *testing.T) {
	path := socketPath(t)
	s := listen(t, &fakeAgent{}, path)
	s.timeout = 100 * time.Millisecond
	start(t, s)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /v1/status HTTP/1.1\r\n")
	if err := c.SetReadDeadline(time.Now().Add(2 * headerTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the server did not hang up: %v", err)
	}
}

func TestRunCuts(t *testing.T) {
	// A follower that does not read does not keep the agent from stopping.
	path := socketPath(t)
	a := &fakeAgent{query: make(chan journal.ReadOptions, 1)}
	for range 5000 { // more than a socket buffer takes
		a.records = append(a.records, record(1, verdict.Denied))
	}
	stop := start(t, listen(t, a, path))
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /v1/events?follow HTTP/1.1\r\nHost: agent\r\n\r\n")
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	next(t, a.query)
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestClientWithoutAgent(t *testing.T) {
	path := socketPath(t)
	_, err := NewClient(path).Status(t.Context())
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("no socket: got %v, want ErrNotRunning with the path", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = NewClient(path).Status(t.Context())
	if !errors.Is(err, ErrNotRunning) {
		t.Errorf("stale socket: got %v, want ErrNotRunning", err)
	}
}

func TestClientOfSomethingElse(t *testing.T) {
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/containers" {
			w.WriteHeader(http.StatusBadGateway)
		}
		fmt.Fprint(w, "<html>")
	})}
	go h.Serve(l)
	defer h.Close()
	c := NewClient(path)
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "/v1/status") {
		t.Errorf("got %v, want an error about the answer", err)
	}
	if _, err := c.Containers(t.Context()); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("got %v, want the status", err)
	}
	if err := c.Events(t.Context(), journal.ReadOptions{}, nil); err == nil || !strings.Contains(err.Error(), "decode a record") {
		t.Errorf("got %v, want an error about the record", err)
	}
}

func get(t *testing.T, c *Client, method, target, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://agent"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// canaryAgent runs canaries on demand.
type canaryAgent struct {
	*fakeAgent
	canary *Canary
}

func (f canaryAgent) RunCanary(ctx context.Context) (*Canary, error) { return f.canary, f.wait(ctx) }

func TestRunCanary(t *testing.T) {
	failed := &Canary{Time: someTime, Error: "it ran", Count: 2, Failed: 1}
	for _, want := range []*Canary{{Time: someTime, Denied: true, Count: 1}, failed} {
		got, err := serve(t, canaryAgent{&fakeAgent{}, want}).RunCanary(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("canary (-want +got):\n%s", d)
		}
	}
	_, err := serve(t, canaryAgent{&fakeAgent{err: errors.New("no cgroup")}, failed}).RunCanary(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no cgroup") {
		t.Errorf("got error %v, want the agent's", err)
	}
	// An agent that cannot must not look like one whose canary was denied.
	if got, err := serve(t, &fakeAgent{}).RunCanary(t.Context()); err == nil {
		t.Errorf("an agent without a canary answered %+v", got)
	}
}
