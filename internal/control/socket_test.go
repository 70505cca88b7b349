package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSocketMode(t *testing.T) {
	path := socketPath(t)
	listen(t, &fakeAgent{}, path)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), fs.ModeSocket|0o660; got != want {
		t.Errorf("got mode %v, want %v", got, want)
	}
}

func TestListenRefuses(t *testing.T) {
	inUse := func(err error) bool { return errors.Is(err, ErrInUse) }
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    func(error) bool
	}{
		{"another agent", func(t *testing.T, path string) { listen(t, &fakeAgent{}, path) }, inUse},
		{"a live socket without a lock", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, inUse},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, func(err error) bool { return strings.Contains(err.Error(), "no socket") }},
		{"a link", func(t *testing.T, path string) {
			if err := os.Symlink("/nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, func(err error) bool { return strings.Contains(err.Error(), "no socket") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socketPath(t)
			tt.prepare(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Listen(&fakeAgent{}, Options{Path: path, GID: os.Getegid()})
			if err == nil {
				s.Close()
				t.Fatal("Listen took it")
			}
			if !tt.want(err) {
				t.Errorf("got %v", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is not there any more (%v)", err)
			}
		})
	}
}

func TestListenReplacesStale(t *testing.T) {
	path := socketPath(t)
	for _, stale := range []string{path, path + newSuffix} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	start(t, listen(t, &fakeAgent{status: &Status{PID: 7}}, path))
	if st, err := NewClient(path).Status(t.Context()); err != nil || st.PID != 7 {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestRunRemovesSocket(t *testing.T) {
	path := socketPath(t)
	first := listen(t, &fakeAgent{}, path)
	if err := start(t, first)(); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	listen(t, &fakeAgent{}, path)
	// Closing twice must not remove what is another's by now.
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the second agent's socket is gone: %v", err)
	}
}

func TestListenPathTooLong(t *testing.T) {
	_, err := Listen(&fakeAgent{}, Options{Path: "/tmp/" + strings.Repeat("x", 100)})
	if err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
}

func TestPeerCheck(t *testing.T) {
	const own, group = 990, 800
	tests := []struct {
		name string
		p    peer
		gid  int
		ok   bool
	}{
		{"root", peer{uid: 0}, group, true},
		{"the agent's user", peer{uid: own, gid: own}, group, true},
		{"group", peer{uid: 1000, gid: group}, group, true},
		{"supplementary group", peer{uid: 1000, gid: 1000, groups: []uint32{4, group}}, group, true},
		{"stranger", peer{uid: 1000, gid: 1000, groups: []uint32{4}}, group, false},
		{"group root is no group", peer{uid: 1000, gid: 0, groups: []uint32{0}}, 0, false},
		{"unknown", peer{err: errors.New("no")}, group, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.p.check(own, tt.gid); (err == nil) != tt.ok {
				t.Errorf("got %v, want access %v", err, tt.ok)
			}
		})
	}
}

func TestReadPeer(t *testing.T) {
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := readPeer(s)
	want := peer{pid: int32(os.Getpid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	want.groups = []uint32{}
	for _, g := range groups {
		want.groups = append(want.groups, uint32(g))
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(peer{})); diff != "" {
		t.Errorf("peer (-want +got):\n%s", diff)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := readPeer(a); got.err == nil {
		t.Error("a connection that is no unix socket has a peer")
	}
}

func TestStrangerIsRefused(t *testing.T) {
	s := listen(t, &fakeAgent{status: &Status{}}, socketPath(t))
	for _, p := range []peer{{uid: 54321, gid: 54321}, {err: errors.New("no")}} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, p), http.MethodGet, "/v1/status", nil)
		s.handler().ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || !strings.HasPrefix(w.Body.String(), `{"error":"`) {
			t.Errorf("%+v: got %d %q, want 403 with an error", p, w.Code, w.Body)
		}
	}
}
