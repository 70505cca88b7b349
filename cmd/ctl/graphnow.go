package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/verdict"
)

// connections adds the TCP connections of this host's containers.
func (t *terminal) connections(ctx context.Context, b *graphBuilder) error {
	if os.Geteuid() != 0 {
		return errors.New("--now reads which sockets containers hold, which is root's")
	}
	list, err := t.client().Containers(ctx)
	if err != nil {
		return err
	}
	b.unit = "connections"
	return b.connections(list, inuse.Proc{}, t.now())
}

// connections adds those of containers of the agent's list.
func (b *graphBuilder) connections(list []control.Container, proc inuse.Proc, now time.Time) error {
	processes, err := proc.Processes()
	if err != nil {
		return err
	}
	ends, running := map[ident.ContainerID]graphEnd{}, map[ident.ContainerID][]int{}
	for _, c := range list {
		id := ident.ContainerID(c.ID)
		if pids := processes[id]; len(pids) > 0 {
			ends[id], running[id] = graphEnd{nodeContainer, c.ID, cmp.Or(c.Name, id.Short())}, pids
		}
	}
	all, whole := proc.Connections(running)
	b.unread = b.unread || !whole
	for _, c := range all {
		k := graphKey{from: ends[c.Container], act: "connected", decision: verdict.Allowed}
		switch remote := c.Remote.Addr().String(); {
		case c.Peer == c.Container:
			continue
		case c.Peer != "" && c.Accepted:
			continue // the other end is counted
		case c.Peer != "":
			k.to = ends[c.Peer]
		case c.Accepted:
			k.from, k.to = graphEnd{nodePeer, remote, remote}, k.from
		default:
			to := c.Remote.String() + "/tcp"
			k.to = graphEnd{nodeAddress, to, to}
		}
		b.count(k, now)
	}
	return nil
}
