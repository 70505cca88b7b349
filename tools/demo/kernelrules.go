package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// guardedPolicy is for one container by its name: its program stays as the image has it, and it
// reaches one address. The way to the engine is closed by the shipped policy already.
const guardedPolicy = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: demo-guarded
spec:
  selector:
    name: guarded
  mode: enforce
  files:
    readOnly: [/opt/app]
  network:
    egress:
      default: deny
      allow:
        - {to: [` + allowedAddr + `], ports: [` + oddPort + `], protocol: tcp}
`

var kernelRulesPhase = phase{
	title: "Files, the network and the way out", mode: "enforce", short: true, prepare: openKernelRules, finish: closeKernelRules,
	scenes: []scene{
		{
			name: "a file of its own data", tried: "echo >/tmp/note", want: runs, ran: "ran touch",
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "guarded", "/bin/actor", "touch", "/tmp/note")
			},
		},
		{
			name: "its program, which is its own file", tried: "echo >/opt/app/tool", want: denied, rule: "files", ran: "ran touch", where: "guarded", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "guarded", "/bin/actor", "touch", "/opt/app/tool")
			},
		},
		{
			name: "the address that it may reach", tried: "nc " + allowedAddr + " " + oddPort, want: runs, ran: "got SSH-", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "guarded", "/bin/actor", "dial", allowedAddr+":"+oddPort)
			},
		},
		{
			name: "another address", tried: "nc " + forbiddenAddr + " " + oddPort, want: denied, rule: "network.egress", ran: "got SSH-", where: "guarded", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "guarded", "/bin/actor", "dial", forbiddenAddr+":"+oddPort)
			},
		},
		{
			name: "the engine's socket, which it was given", tried: "docker run -v …/docker.sock:/var/run/docker.sock app, GET /version", want: denied, rule: "guard.sockets", ran: "ApiVersion", short: true,
			act: engineFromInside,
		},
	},
}

func openKernelRules(ctx context.Context, s *stage) error {
	if err := s.agent.SetPolicy("guarded.yaml", guardedPolicy); err != nil {
		return err
	}
	if err := s.agent.AwaitPolicies(ctx, 10*time.Second, "client-to-backup,demo-guarded,hardened"); err != nil {
		return err
	}
	if r := s.engine.Docker(ctx, "run", "-d", "--name", "guarded", "-u", "1000", "--network", "allowed", imageApp, "wait"); r.Code != 0 {
		return r.Err()
	}
	return nil
}

func closeKernelRules(ctx context.Context, s *stage) error {
	if r := s.engine.Docker(ctx, "rm", "-f", "guarded"); r.Code != 0 {
		return r.Err()
	}
	if err := s.agent.SetPolicy("guarded.yaml", ""); err != nil {
		return err
	}
	return s.agent.AwaitPolicies(ctx, 10*time.Second, "client-to-backup,hardened")
}

// engineFromInside asks the engine as a container that has its socket, and the group for it.
func engineFromInside(ctx context.Context, s *stage) lab.Result {
	st, err := os.Stat(s.engine.Socket)
	if err != nil {
		return lab.Result{Code: 1, Stderr: err.Error()}
	}
	gid := st.Sys().(*syscall.Stat_t).Gid
	return s.run(ctx, "-u", "1000", "--group-add", fmt.Sprint(gid), "-v", s.engine.Socket+":/var/run/docker.sock", imageApp, "api", "GET", "/version")
}
