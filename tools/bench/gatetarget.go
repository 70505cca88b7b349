package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/policy"
)

// gateRole is the argument by which this program starts itself as what is measured.
const gateRole = "gate-target"

// child starts this program as a target. It ends with stop.
func (b *bench) child(args ...string) (cmd *exec.Cmd, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.Command(self, args...)
	cmd.Stderr = b.log
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return cmd, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}, nil
}

// gateTarget serves as the floor or the gate until ctx ends.
func gateTarget(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return errors.New("want KIND SOCKET UPSTREAM POLICY")
	}
	kind, socket, upstream, file := args[0], args[1], args[2], args[3]
	if kind == "floor" {
		return floor(ctx, socket, upstream)
	}
	set, err := policy.ParseFiles(file)
	if err != nil {
		return err
	}
	rules := proxy.RulesOf(set)
	s, err := proxy.Listen(proxy.Options{Upstream: upstream, Socket: socket, Policies: func() proxy.Rules { return rules }, Workload: hostOnly{}})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Run(ctx)
}

// floor copies bytes both ways, with a connection to the daemon for each of a client.
func floor(ctx context.Context, socket, upstream string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer c.Close()
			d, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: upstream, Net: "unix"})
			if err != nil {
				fmt.Fprintln(os.Stderr, "floor:", err)
				return
			}
			defer d.Close()
			var wg sync.WaitGroup
			for _, p := range [][2]*net.UnixConn{{c, d}, {d, c}} {
				wg.Go(func() { _, _ = io.Copy(p[0], p[1]); _ = p[0].CloseWrite() })
			}
			wg.Wait()
		}()
	}
}
