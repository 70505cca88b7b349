package main

import (
	"context"
	"errors"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// openBothDoors leaves the kernel without a rule on root, so that what is seen is the
// access policy's own: two containers of one kind, made at two doors.
func openBothDoors(ctx context.Context, s *stage) error {
	err := errors.Join(s.agent.SetPolicy("hardened.yaml", ""), s.agent.SetPolicy("access.yaml", accessPolicy))
	if err != nil {
		return err
	}
	if err := s.agent.AwaitPolicies(ctx, 10*time.Second, "client-to-backup,demo-maker,demo-starter,demo-third"); err != nil {
		return err
	}
	if !lab.Await(ctx, 20*time.Second, func() bool { return s.through(ctx, maker, "ps").Code == 0 }) {
		return s.through(ctx, maker, "ps").Err()
	}
	if r := s.engine.Docker(ctx, "run", "-d", "--name", "raw", "-u", "1000", imageApp, "wait"); r.Code != 0 {
		return r.Err()
	}
	return nil
}

func closeBothDoors(ctx context.Context, s *stage) error {
	s.engine.Docker(ctx, "rm", "-f", "raw", "both")
	hardened, err := s.lab.ShippedPolicy("hardened.yaml")
	if err != nil {
		return err
	}
	if err := s.agent.SetPolicy("hardened.yaml", hardened); err != nil {
		return err
	}
	return closeGate(ctx, s)
}

// bothDoorsScenes are about a check that holds at the API and in the kernel.
var bothDoorsScenes = []scene{
	{
		name: "one made at the gate, as uid 1000", tried: "alice$ docker run -d --name both -u 1000 app", want: runs, ran: "started", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, maker, "run", "-d", "--name", "both", "-u", "1000", imageApp, "wait"), "started")
		},
	},
	{
		name: "uid 1000 enters it on the raw socket", tried: "root# docker exec -u 1000 both …", want: runs, ran: "ran hello uid=1000", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.enter(ctx, "1000", "both", "/bin/actor", "say", "hello")
		},
	},
	{
		name: "root on the raw socket dies in the kernel", tried: "root# docker exec -u 0 both …", want: denied, rule: "exec.asRoot", ran: "ran hello uid=0", where: "both", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.enter(ctx, "0", "both", "/bin/actor", "say", "hello")
		},
	},
	{
		name: "one made on the raw socket is as it was", tried: "root# docker exec -u 0 raw …", want: runs, ran: "ran hello uid=0", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.enter(ctx, "0", "raw", "/bin/actor", "say", "hello")
		},
	},
}
