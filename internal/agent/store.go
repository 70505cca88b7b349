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
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return
	}
	if err := storeSockets(addr, s); err != nil {
		a.log.Warn("the gate's socket is not kept over a restart", attr.Error, err.Error())
	}
}

func storeSockets(addr string, s *proxy.Server) error {
	// net's connected datagram sockets send no descriptors.
	to, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer unix.Close(to)
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
	// What an agent before has left there may be dead, and the store has few places.
	if err := unix.Sendmsg(to, []byte("FDSTOREREMOVE=1\nFDNAME="+gateName), nil, &unix.SockaddrUnix{Name: addr}, 0); err != nil {
		return fmt.Errorf("have systemd forget the former gate's socket: %w", err)
	}
	err = unix.Sendmsg(to, []byte("FDSTORE=1\nFDNAME="+gateName), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: addr}, 0)
	if err != nil {
		return fmt.Errorf("leave the gate's socket with systemd: %w", err)
	}
	return nil
}
