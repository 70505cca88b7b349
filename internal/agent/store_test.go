package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/gate/proxy"
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
	if err := storeSockets(filepath.Join(dir, "notify"), s); err != nil {
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
