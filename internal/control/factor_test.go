package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// fakeFactor says who asked.
type fakeFactor struct{ caller chan FactorCaller }

func (f *fakeFactor) Enrol(_ context.Context, c *FactorCaller, q *EnrolRequest) (*Enrolment, error) {
	f.caller <- *c
	return &Enrolment{ID: "e", User: q.User}, nil
}

func (f *fakeFactor) Confirm(context.Context, *FactorCaller, *ConfirmRequest) (*Enrolled, error) {
	return nil, &Error{Status: http.StatusForbidden, Message: "the code is wrong"}
}

func (f *fakeFactor) Remove(context.Context, *FactorCaller, *RemoveRequest) (*Removed, error) {
	return &Removed{UID: 7}, nil
}

func (f *fakeFactor) Elevate(_ context.Context, _ *FactorCaller, q *ElevateRequest) (*Elevation, error) {
	return &Elevation{ID: "1", Actions: q.Actions, Target: q.Target, Expires: someTime.Add(q.For)}, nil
}

func (f *fakeFactor) Drop(_ context.Context, _ *FactorCaller, q *DropRequest) (*Dropped, error) {
	return &Dropped{Elevations: make([]Elevation, len(q.IDs))}, nil
}

func (f *fakeFactor) Factors(context.Context, *FactorCaller) (*Factors, error) {
	return &Factors{Key: "file"}, nil
}

// self is this process, as a user of the host.
func self(net.Conn) (apicall.Subject, error) {
	return apicall.Subject{Kind: apicall.User, UID: 1000, Name: "alice", PID: int32(os.Getpid())}, nil
}

func startFactor(t *testing.T, identify func(net.Conn) (apicall.Subject, error), refused func(*FactorCaller, string, string)) (*FactorClient, *fakeFactor, string) {
	t.Helper()
	f := &fakeFactor{caller: make(chan FactorCaller, 100)}
	path := filepath.Join(filepath.Dir(socketPath(t)), FactorSocketName)
	s, err := ListenFactor(f, FactorOptions{Path: path, identify: identify, Refused: refused})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return NewFactorClient(path), f, path
}

func TestFactorCalls(t *testing.T) {
	c, f, path := startFactor(t, self, nil)
	if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v; want 0666: every user of the host may ask", st.Mode(), err)
	}
	e, err := c.Enrol(t.Context(), &EnrolRequest{User: "bob"})
	if err != nil || e.ID != "e" || e.User != "bob" {
		t.Errorf("enrol: %+v, %v", e, err)
	}
	if got := <-f.caller; got.UID != 1000 || got.Name != "alice" || got.PID != int32(os.Getpid()) {
		t.Errorf("caller %+v", got)
	}
	if _, err := c.Confirm(t.Context(), &ConfirmRequest{}); err == nil || err.Error() != "the code is wrong" {
		t.Errorf("confirm: %v", err)
	}
	if r, err := c.Remove(t.Context(), &RemoveRequest{}); err != nil || r.UID != 7 {
		t.Errorf("remove: %+v, %v", r, err)
	}
	el, err := c.Elevate(t.Context(), &ElevateRequest{For: time.Minute, Actions: []string{"exec"}, Target: "web"})
	if err != nil || !el.Expires.Equal(someTime.Add(time.Minute)) || el.Target != "web" || len(el.Actions) != 1 {
		t.Errorf("elevate: %+v, %v", el, err)
	}
	if d, err := c.Drop(t.Context(), &DropRequest{IDs: []string{"1", "2"}}); err != nil || len(d.Elevations) != 2 {
		t.Errorf("drop: %+v, %v", d, err)
	}
	if l, err := c.Factors(t.Context()); err != nil || l.Key != "file" {
		t.Errorf("list: %+v, %v", l, err)
	}
}

// Whoever is in a container is refused before anything is read, and so is who is not known.
func TestFactorRefusesStrangers(t *testing.T) {
	id := strings.Repeat("a", 64)
	for _, tt := range []struct {
		name string
		sub  apicall.Subject
		err  error
		want string
	}{
		{"container", apicall.Subject{Kind: apicall.Container, UID: 0, ContainerID: id}, nil, "a process in a container has no second factor"},
		{"unknown", apicall.Subject{}, errors.New("who is calling is unknown"), "unknown"},
		{"nobody", apicall.Subject{}, nil, "unknown"},
		{"certificate", apicall.Subject{Kind: apicall.Certificate, CN: "x"}, nil, "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			told := make(chan string, 1)
			c, f, _ := startFactor(t, func(net.Conn) (apicall.Subject, error) { return tt.sub, tt.err },
				func(_ *FactorCaller, container, _ string) { told <- container })
			_, err := c.Enrol(t.Context(), &EnrolRequest{})
			if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusForbidden || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want 403 and %q", err, tt.want)
			}
			if len(f.caller) > 0 {
				t.Error("the agent was asked")
			}
			if got := <-told; got != tt.sub.ContainerID {
				t.Errorf("noted container %q", got)
			}
		})
	}
}

func TestFactorIsStrict(t *testing.T) {
	c, _, _ := startFactor(t, self, nil)
	for _, tt := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"unknown field", "POST", "/v1/factor/elevate", `{"code":"1","uid":0}`, 400},
		{"no body", "POST", "/v1/factor/elevate", ``, 400},
		{"two documents", "POST", "/v1/factor/elevate", `{}{}`, 400},
		{"too long", "POST", "/v1/factor/elevate", `{"code":"` + strings.Repeat("1", 8<<10) + `"}`, 400},
		{"method", "GET", "/v1/factor/list", ``, 405},
		{"query", "POST", "/v1/factor/list?uid=0", `{}`, 400},
		{"the control socket's calls are not here", "POST", "/v1/reload", `{}`, 404},
		{"nor its status", "GET", "/v1/status", ``, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://agent"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != tt.want || !strings.HasPrefix(string(b), `{"error":"`) {
				t.Errorf("got %d %q, %v, want %d with an error", r.StatusCode, b, err, tt.want)
			}
		})
	}
}

// One user cannot keep the agent busy, nor take all connections.
func TestFactorLimits(t *testing.T) {
	c, _, path := startFactor(t, self, nil)
	limited := false
	for range factorBurst + 5 {
		_, err := c.Factors(t.Context())
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusTooManyRequests {
			limited = true
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !limited {
		t.Error("the rate of one user has no bound")
	}
	closed := 0
	for range maxPerUser + 3 {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := nc.Read(make([]byte, 1)); errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			closed++
		}
	}
	if closed < 3 {
		t.Errorf("%d of %d connections were closed, want 3 or more", closed, maxPerUser+3)
	}
}
