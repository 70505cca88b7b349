package agent

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
)

// The socket that systemd is left with is the gate's, and takes connections.
func TestStoreSockets(t *testing.T) {
	dir := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	s, err := proxy.Listen(proxy.Options{Upstream: filepath.Join(dir, "none"), Socket: filepath.Join(dir, "docker.sock"), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	if err := storeSockets(s); err != nil {
		t.Fatal(err)
	}
	s.Close() // the agent ends; the file stays
	text, oob := make([]byte, 256), make([]byte, 256)
	_ = notify.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err := notify.ReadFrom(text)
	if err != nil || string(text[:n]) != "FDSTOREREMOVE=1\nFDNAME=belay-gate" {
		t.Fatalf("first: got %q, %v", text[:n], err)
	}
	n, on, _, _, err := notify.ReadMsgUnix(text, oob)
	if err != nil || !strings.HasPrefix(string(text[:n]), "FDSTORE=1\n") {
		t.Fatalf("got %q, %v", text[:n], err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil || len(msgs) != 1 {
		t.Fatal(msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "gate")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatalf("nobody listens between two agents: %v", err)
	}
	defer c.Close()
	next, err := proxy.Listen(proxy.Options{Upstream: filepath.Join(dir, "none"), Socket: filepath.Join(dir, "docker.sock"), Inherited: []net.Listener{l}})
	if err != nil {
		t.Fatalf("the next agent: %v", err)
	}
	next.Close()
}

// A gate that cannot open at first keeps the socket that it was handed: whoever connects waits for the try that can.
func TestGateOpensLater(t *testing.T) {
	dir := t.TempDir()
	path, inTheWay := filepath.Join(dir, "docker.sock"), filepath.Join(dir, "engine")
	handed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	handed.SetUnlinkOnClose(false)
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(journal.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	defer handed.Close()
	a := &Agent{
		cfg:    Config{DockerHost: "unix://" + filepath.Join(inTheWay, "docker.sock"), GateSocket: path},
		health: health.New(nil), journal: j, log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	defer run.Wait()
	defer cancel()
	run.Go(func() { a.runGate(ctx, []net.Listener{handed}, 10*time.Millisecond) })
	within := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // runGate tells nobody
			if time.Now().After(end) {
				c, _ := a.health.Component("gate")
				t.Fatalf("%s: the gate is %s, %s", what, c.State, c.Reason)
			}
		}
	}
	within("tries", func() bool { return a.health.Counter("gate_shut").Load() > 1 })
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the socket is closed by the failure: %v", err)
	}
	defer c.Close()
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	within("opens", func() bool { g, _ := a.health.Component("gate"); return g.State == health.OK })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = c.Write([]byte("no request\r\n\r\n"))
	if n, err := c.Read(make([]byte, 64)); n == 0 {
		t.Errorf("who waited got no answer: %v", err)
	}
}

func TestGateMode(t *testing.T) {
	for s, want := range map[string]os.FileMode{"": 0o660, "0666": 0o666, "600": 0o600} {
		if got, err := gateMode(s); err != nil || got != want {
			t.Errorf("gateMode(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"rw", "1777", "9"} {
		if got, err := gateMode(s); err == nil {
			t.Errorf("gateMode(%q) = %v, want an error", s, got)
		}
	}
}
