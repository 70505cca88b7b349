package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/proxy"
)

// gateName is what the gate's sockets are called among systemd's.
const gateName = "belay-gate"

// storeGate leaves the gate's sockets with systemd, which gives them back to the next
// agent: a client that connects in between waits and is not refused.
//
// Source: FDSTORE=1 of sd_notify(3); the unit needs FileDescriptorStoreMax.
func (a *Agent) storeGate(s *proxy.Server) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return // nobody keeps them
	}
	if err := storeSockets(s); err != nil {
		a.log.Warn("the gate's socket is not kept over a restart", attr.Error, err.Error())
	}
}

// forgetGate has systemd close what it holds of the gate.
func (a *Agent) forgetGate() {
	if err := forgetSockets(); err != nil {
		a.log.Warn("a socket that is not the gate's any more stays open", attr.Error, err.Error())
	}
}

func storeSockets(s *proxy.Server) error {
	files, err := s.Files()
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		defer f.Close()
		raw, err := f.SyscallConn()
		if err != nil {
			return fmt.Errorf("copy of the gate's socket: %w", err)
		}
		// Not File.Fd, which would make the gate's own socket blocking too.
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return fmt.Errorf("copy of the gate's socket: %w", err)
		}
	}
	// The store has few places, and what an agent before has left there may be dead.
	if err := forgetSockets(); err != nil || len(fds) == 0 {
		return err
	}
	if err := notifySystemd("FDSTORE=1\nFDNAME="+gateName, fds...); err != nil {
		return fmt.Errorf("leave the gate's socket with systemd: %w", err)
	}
	return nil
}

func forgetSockets() error {
	if err := notifySystemd("FDSTOREREMOVE=1\nFDNAME=" + gateName); err != nil {
		return fmt.Errorf("have systemd forget the former gate's socket: %w", err)
	}
	return nil
}

// notifySystemd sends a state, with copies of descriptors, to the service manager, if there is one: sd_notify(3).
func notifySystemd(state string, fds ...int) error {
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return nil
	}
	// net's connected datagram sockets send no descriptors.
	to, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer unix.Close(to)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(to, []byte(state), rights, &unix.SockaddrUnix{Name: addr}, 0); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
