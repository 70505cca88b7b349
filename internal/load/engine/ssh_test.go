package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestParseSSH(t *testing.T) {
	for _, c := range []struct {
		url  string
		want sshAddress
	}{
		{"ssh://b.example", sshAddress{host: "b.example", socket: gateSocket}},
		{"ssh://mover@b:2222", sshAddress{"mover", "b", "2222", gateSocket}},
		{"ssh://mover@b/run/docker.sock", sshAddress{"mover", "b", "", "/run/docker.sock"}},
		{"ssh://[2001:db8::1]:22/run/d.sock", sshAddress{"", "2001:db8::1", "22", "/run/d.sock"}},
	} {
		if got, err := parseSSH(c.url); err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v, want %+v", c.url, got, err, c.want)
		}
	}
}

// refusedSSH are addresses of which ssh would make something else than the operator, or nothing.
var refusedSSH = []string{
	"", "ssh://", "b", "tcp://b:1", "ssh:b", "ssh://@b", "ssh://u@", "ssh:///run/docker.sock", "SSH://b",
	"ssh://-oProxyCommand=touch+x", "ssh://-b", "ssh://-u@b", "ssh://u@-b", "ssh://u:secret@b", "ssh://u@v@b",
	"ssh://b c", " ssh://b", "ssh://b\n", "ssh://b\n/run/s", "ssh://b\x00", "ssh://b%20c", "ssh://%h", "ssh://`id`", "ssh://$(id)", "ssh://b;id", "ssh://b|id", "ssh://b'", "ssh://u\"@b", "ssh://bücher",
	"ssh://b:0", "ssh://b:65536", "ssh://b:", "ssh://b:22:22", "ssh://b:-1", "ssh://2001:db8::1", "ssh://[b]", "ssh://[::1", "ssh://[fe80::1%25eth0]",
	"ssh://b/", "ssh://b/run/", "ssh://b//run/s", "ssh://b/run/../s", "ssh://b/run/a:b", "ssh://b/run/a b", "ssh://b/run/%d", "ssh://b/run/${HOME}", "ssh://b/run/~", "ssh://b/run/a\\b", "ssh://b?x", "ssh://b#x", "ssh://b/s?x",
}

func TestParseSSHRefuses(t *testing.T) {
	for _, url := range refusedSSH {
		if a, err := parseSSH(url); err == nil {
			t.Errorf("%q: taken for %+v", url, a)
		}
	}
}

// FuzzParseSSH holds what is taken to what ssh makes of its arguments: each part is one word, none is an option, the host is the last.
func FuzzParseSSH(f *testing.F) {
	for _, url := range append(refusedSSH, "ssh://b", "ssh://u@b:22/run/docker.sock", "ssh://[::1]") {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		a, err := parseSSH(url)
		if err != nil {
			return
		}
		for _, part := range []string{a.user, a.host, a.port, a.socket} {
			if strings.HasPrefix(part, "-") || strings.ContainsAny(part, " \t\r\n\x00%$`'\"\\;|&<>(){}*?~!#=,@") {
				t.Errorf("%q: a part is %q", url, part)
			}
		}
		if !filepath.IsAbs(a.socket) || strings.Contains(a.socket, ":") {
			t.Errorf("%q: the socket is %q", url, a.socket)
		}
		if args := a.args("/tmp/d"); args[len(args)-2] != "--" || args[len(args)-1] != a.host || a.host == "" {
			t.Errorf("%q: %q", url, args)
		}
	})
}

// fakeSSH forwards its socket to a server, as ssh does, until it is broken or ended.
type fakeSSH struct {
	to   string
	says string // in its log, before it ends without forwarding

	mu     sync.Mutex // of what follows
	dirs   []string
	broken context.CancelFunc
	runs   int // that have not ended
}

func (f *fakeSSH) run(ctx context.Context, args []string) error {
	dir := filepath.Dir(args[slices.Index(args, "-E")+1])
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.dirs, f.broken, f.runs = append(f.dirs, dir), cancel, f.runs+1
	says := f.says
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.runs--
		f.mu.Unlock()
	}()
	if says != "" {
		if err := os.WriteFile(filepath.Join(dir, "log"), []byte(says), 0o600); err != nil {
			return err
		}
		return errors.New("exit status 255")
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		here, err := l.Accept()
		if err != nil {
			return err
		}
		there, err := net.Dial("unix", f.to)
		if err != nil {
			return errors.Join(err, here.Close())
		}
		stop := context.AfterFunc(ctx, func() { here.Close(); there.Close() })
		wg.Go(func() { _, _ = io.Copy(there, here); there.Close() })
		wg.Go(func() { _, _ = io.Copy(here, there); here.Close(); stop() })
	}
}

func (f *fakeSSH) state() (dirs []string, broken context.CancelFunc, runs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.dirs), f.broken, f.runs
}

func serveSSH(t *testing.T) *fakeSSH {
	t.Helper()
	t.Setenv("TMPDIR", "/tmp") // that of a test may be too long
	h, _ := fake(t, map[string]string{"GET /version": `{"ApiVersion": "1.41"}`, "GET /v1.41/info": `{"ID": "there"}`, "GET /v1.41/images/json": `[{"Id": "one"}]`})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return &fakeSSH{to: l.Addr().String()}
}

var overSSH = Address{URL: "ssh://mover@b:2222"}

func TestSSH(t *testing.T) {
	f := serveSSH(t)
	e, err := OpenSSH(t.Context(), overSSH, f.run)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	dirs, broken, _ := f.state()
	if len(dirs) != 1 || e.Info.ID != "there" {
		t.Fatalf("ssh ran %d times, and %q answers", len(dirs), e.Info.ID)
	}
	if st, err := os.Stat(dirs[0]); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("others may reach the socket: %v, %v", st, err)
	}

	// What has broken is started again by the next that is asked, which does not fail.
	broken()
	for _, _, runs := f.state(); runs > 0; _, _, runs = f.state() {
		time.Sleep(time.Millisecond)
	}
	_, err = e.Images(t.Context())
	again, _, runs := f.state()
	if err != nil || len(again) != 2 || runs != 1 {
		t.Fatalf("ssh ran %d times, %d run, %v", len(again), runs, err)
	}
	if _, err := os.Stat(dirs[0]); !os.IsNotExist(err) {
		t.Errorf("the first one's directory is left: %v", err)
	}

	e.Close()
	if _, _, runs := f.state(); runs != 0 {
		t.Error("ssh runs on")
	}
	if _, err := os.Stat(again[1]); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
	if _, err := e.Images(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("it is opened again: %v", err)
	}
}

func TestSSHFails(t *testing.T) {
	for _, c := range []struct {
		name, says, want string
		gone             bool
	}{
		{"unknown host key", "No ED25519 host key is known for b and you have requested strict checking.\r\nHost key verification failed.\r\n", "strict checking.; Host key verification failed.", false},
		{"not let in", "mover@b: Permission denied (publickey).\r\n", "Permission denied (publickey)", false},
		{"nobody there", "ssh: connect to host b port 2222: No route to host\r\n", "No route to host", true},
		{"no such host", "ssh: Could not resolve hostname b: Name or service not known\r\n", "Could not resolve", true},
		{"somebody who says that nobody is there", "Received disconnect: ssh: connect to host b port 2222: \r\n", "Received disconnect", false},
		{"control characters", "\x1b[2Ja\tb\r\n", "[2Jab", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serveSSH(t)
			f.says = c.says
			_, err := OpenSSH(t.Context(), overSSH, f.run)
			if err == nil || !strings.Contains(err.Error(), c.want) || MayBeGone(err) != c.gone {
				t.Errorf("got %v, which may be gone: %v; want %q, %v", err, MayBeGone(err), c.want, c.gone)
			}
			dirs, _, runs := f.state()
			if len(dirs) != 1 || runs != 0 {
				t.Errorf("ssh ran %d times, %d run", len(dirs), runs)
			}
			for _, d := range dirs {
				if _, err := os.Stat(d); !os.IsNotExist(err) {
					t.Errorf("its directory is left: %v", err)
				}
			}
		})
	}
}

// Who gives no ssh runs none, as the agent.
func TestSSHIsGiven(t *testing.T) {
	_, errOpen := Open(t.Context(), overSSH)
	_, errNode := Node(t.Context(), overSSH, nil)
	for _, err := range []error{errOpen, errNode} {
		if err == nil || !strings.Contains(err.Error(), "ssh is run by belay move alone") {
			t.Errorf("got %v", err)
		}
	}
}

// Arguments cannot be undone by the user's configuration, of which ssh takes what is not given.
func TestSSHArguments(t *testing.T) {
	a, err := parseSSH(overSSH.URL)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%q", a.args("/tmp/d"))
	for _, want := range []string{
		`"-N" "-T"`, `"-o" "BatchMode=yes"`, `"-o" "StrictHostKeyChecking=yes"`, `"-o" "ExitOnForwardFailure=yes"`, `"-o" "StreamLocalBindMask=0177"`, `"-o" "ControlPath=none"`,
		`"-l" "mover" "-p" "2222" "-L" "/tmp/d/s:/run/belay/docker.sock" "--" "b"]`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}
