package peer

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/testneed"
)

func TestPidfdError(t *testing.T) {
	for _, tt := range []struct {
		err   error
		ended bool
	}{
		{nil, false},
		{unix.ENOPROTOOPT, false}, // a kernel before 6.5
		{unix.EINVAL, true},       // a reaped peer, 6.5 to 6.14
		{unix.ESRCH, true},
		{unix.ENODATA, true},
		{unix.EMFILE, true},
	} {
		if err := pidfdError(tt.err); errors.Is(err, ErrEnded) != tt.ended || (err != nil) != tt.ended {
			t.Errorf("%v: got %v, ended %v is wanted", tt.err, err, tt.ended)
		}
	}
}

// playGone connects and ends.
func playGone(path string) int {
	if _, err := net.Dial("unix", path); err != nil {
		return 1
	}
	return 0
}

// endedPeer returns a connection whose peer has ended and was reaped, and its number.
func endedPeer(t *testing.T) (*net.UnixConn, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), playEnv+"=gone:"+path)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, cmd.Process.Pid
}

// procOf is a procfs in which a number is a process of the host's that started at a time.
func procOf(t *testing.T, pid int, start string) string {
	t.Helper()
	proc := t.TempDir()
	dir := filepath.Join(proc, strconv.Itoa(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cgroup": "0::/\n", "stat": strconv.Itoa(pid) + " (sh) S 1 " + strings.Repeat("0 ", 17) + start + " 0\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return proc
}

// A peer that was reaped before it was looked at is nobody, also if its number is a process of
// the host's again.
func TestReapedPeer(t *testing.T) {
	server, pid := endedPeer(t)
	raw, err := server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var has error
	if err := raw.Control(func(fd uintptr) {
		var pidfd int
		if pidfd, has = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); has == nil {
			unix.Close(pidfd)
		}
	}); err != nil {
		t.Fatal(err)
	}
	testneed.Need(t, "peerpidfd", !errors.Is(has, unix.ENOPROTOOPT), "SO_PEERPIDFD is there since Linux 6.5")
	id := Identifier{Proc: procOf(t, pid, "99"), userNS: func(string) (userNS, error) { return userNS{}, nil }}
	if sub, err := id.Of(server); !errors.Is(err, ErrUnknown) || !errors.Is(err, ErrEnded) || sub.Kind != apicall.Nobody {
		t.Errorf("got %+v, %v, want nobody (SO_PEERPIDFD: %v)", sub, err, has)
	}
}

// accepted is a connection of which it is kept who was at its other end.
type accepted struct {
	*net.UnixConn
	sub apicall.Subject
	err error
}

func (a *accepted) Accepted() (apicall.Subject, error) { return a.sub, a.err }

// A process that is not the one that was accepted is nobody, whatever the kernel can say of it.
func TestAccepted(t *testing.T) {
	_, server := pair(t)
	var id Identifier
	c := &accepted{UnixConn: server}
	if c.sub, c.err = id.Of(server); c.err != nil {
		t.Fatal(c.err)
	}
	if got, err := id.Of(c); err != nil || got.PIDStart != c.sub.PIDStart || got.Kind != c.sub.Kind {
		t.Errorf("the same: got %+v, %v", got, err)
	}
	c.sub.PIDStart--
	if got, err := id.Of(c); !errors.Is(err, ErrUnknown) || !errors.Is(err, ErrEnded) || got.Kind != apicall.Nobody {
		t.Errorf("another process: got %+v, %v, want nobody", got, err)
	}
	c.sub.PIDStart++
	c.err = ErrEnded
	if got, err := id.Of(c); !errors.Is(err, ErrEnded) || got.Kind != apicall.Nobody {
		t.Errorf("it was nobody when it was accepted: got %+v, %v, want nobody", got, err)
	}
}
