package workload

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/moby/moby/client"

	"github.com/belay-project/belay/internal/ident"
)

// Port is a port of a container that the engine publishes on the host.
type Port struct {
	Proto   string         // tcp, udp, sctp
	Host    netip.AddrPort // on which it is published
	Private uint16         // in the container
}

// maxPorts bounds those of one container.
const maxPorts = 4096

// Ports returns the published ports of a running container; host says that it has the host's
// own network, and publishes none.
//
// It lists and does not inspect: see Get. Errors: the container is not there, or has the
// network of another container, whose ports are not known to be meant; those of the
// connection.
func (d *Docker) Ports(ctx context.Context, id ident.ContainerID) (list []Port, host bool, err error) {
	e, _, done, err := d.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	defer done()
	de, ok := e.(*dockerEngine)
	if !ok {
		return nil, false, fmt.Errorf("list ports: %T is no Docker Engine", e)
	}
	res, err := de.cli.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("id", string(id))})
	if err != nil {
		return nil, false, fmt.Errorf("list ports: %w", err)
	}
	for _, sum := range res.Items {
		if sum.ID != string(id) {
			continue
		}
		switch mode := sum.HostConfig.NetworkMode; {
		case mode == "host":
			return nil, true, nil
		case strings.HasPrefix(mode, "container:"):
			return nil, false, fmt.Errorf("list ports: container %s has the network of another", id.Short())
		}
		for _, p := range sum.Ports[:min(len(sum.Ports), maxPorts)] {
			if p.PublicPort == 0 {
				continue // exposed, and not published
			}
			ip := p.IP.Unmap()
			if !ip.IsValid() {
				ip = netip.IPv4Unspecified() // the engine names none: on all
			}
			list = append(list, Port{p.Type, netip.AddrPortFrom(ip, p.PublicPort), p.PrivatePort})
		}
		return list, false, nil
	}
	return nil, false, fmt.Errorf("list ports: container %s: %w", id.Short(), errGone)
}
