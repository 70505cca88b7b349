package agent

import (
	"fmt"
	"net"
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
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer c.Close()
	files, err := s.Files()
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := c.WriteMsgUnix([]byte("FDSTORE=1\nFDNAME="+gateName), unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("leave the gate's socket with systemd: %w", err)
	}
	return nil
}
