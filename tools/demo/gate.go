package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/belay-project/belay/internal/gate/factor"
	"github.com/belay-project/belay/tools/lab"
)

// Three users of the host. They need no names: the gate knows them by the kernel's record
// of who connected.
const (
	maker   = 20001 // creates and starts
	starter = 20002 // starts
	third   = 20003 // enters, with a second factor
)

// accessPolicy says what they may do. Whom it does not name is denied, and nobody else
// calls the gate here.
const accessPolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: demo-maker}
spec:
  mode: enforce
  subjects: {uids: ["20001"]}
  rules:
    - {name: look, effect: allow, actions: [system.ping, system.version, image.inspect, container.inspect, container.list]}
    - {name: create, effect: allow, actions: [container.create], checks: [notRoot, notPrivileged, noHostNamespaces, noSocketMounts, {hostMounts: {allow: [/srv]}}]}
    - {name: run, effect: allow, actions: [container.start, container.wait, container.attach, container.logs]}
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: demo-starter}
spec:
  mode: enforce
  subjects: {uids: ["20002"]}
  rules:
    - {name: start, effect: allow, actions: [system.ping, system.version, container.inspect, container.list, container.start]}
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: demo-third}
spec:
  mode: enforce
  subjects: {uids: ["20003"]}
  rules:
    - {name: look, effect: allow, actions: [system.ping, system.version, container.inspect, container.list]}
    - {name: enter, effect: allow, actions: ["container.exec*"], require: secondFactor}
`

// through runs a docker command as a user, at the gate's socket.
func (s *stage) through(ctx context.Context, uid uint32, args ...string) lab.Result {
	return s.engine.Client(s.lab.Path("agent", "run", "docker.sock"), uid).Docker(ctx, args...)
}

// openGate puts the access policies in force, and lets the users reach the socket.
func openGate(ctx context.Context, s *stage) error {
	for _, dir := range []string{s.lab.Path(), s.lab.Path("agent"), s.lab.Path("agent", "run")} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
	}
	if err := s.agent.SetPolicy("access.yaml", accessPolicy); err != nil {
		return err
	}
	if err := s.agent.AwaitPolicies(ctx, 10*time.Second, "client-to-backup,hardened,demo-maker,demo-starter,demo-third"); err != nil {
		return err
	}
	socket := filepath.Join(s.lab.Path("agent", "run"), "docker.sock")
	if !lab.Await(ctx, 20*time.Second, func() bool { return s.through(ctx, maker, "ps").Code == 0 }) {
		return fmt.Errorf("the gate at %s does not answer: %w", socket, s.through(ctx, maker, "ps").Err())
	}
	for _, l := range []**lab.Login{&s.login, &s.elsewhere} {
		var err error
		if *l, err = s.agent.Login(ctx, s.engine, third); err != nil {
			return err
		}
	}
	if !lab.Await(ctx, 20*time.Second, func() bool { return s.login.Run("belay elevate --list").Code == 0 }) {
		return fmt.Errorf("second factors are not taken: %s", s.login.Run("belay elevate --list").Text())
	}
	return nil
}

// elevate enrols the third user, as root hands out second factors, and shows the second code
// in one of two login sessions. The secret is the user's authenticator here.
func elevate(ctx context.Context, s *stage) error {
	var e struct{ ID, Secret string }
	r := s.agent.Belay(ctx, "enroll", "--user", fmt.Sprint(third), "-o", "json")
	if r.Code != 0 {
		return r.Err()
	}
	if err := json.Unmarshal([]byte(r.Stdout), &e); err != nil {
		return fmt.Errorf("answer of belay enroll: %w", err)
	}
	first, err := factor.CodeAt(e.Secret, time.Now())
	if err != nil {
		return err
	}
	root, err := s.agent.Login(ctx, s.engine, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	if r := root.Run(fmt.Sprintf("echo %s | belay enroll --user %d --confirm %s", first, third, e.ID)); r.Code != 0 {
		return fmt.Errorf("first code: %s", r.Text())
	}
	// The first is used up. One that is a period early is taken: clocks differ.
	next, err := factor.CodeAt(e.Secret, time.Now().Add(factor.Period))
	if err != nil {
		return err
	}
	if r := s.login.Run("echo " + next + " | belay elevate --for 5m --action exec --target made"); r.Code != 0 {
		return fmt.Errorf("belay elevate: %s", r.Text())
	}
	return nil
}

// closeGate takes the access policies away again. That the last is gone is believed when a
// person says so.
func closeGate(ctx context.Context, s *stage) error {
	if err := s.agent.SetPolicy("access.yaml", ""); err != nil {
		return err
	}
	err := errors.Join(s.login.Close(), s.elsewhere.Close())
	if r := s.agent.Belay(ctx, "policy", "reload"); r.Code != 0 {
		err = errors.Join(err, r.Err())
	}
	s.engine.Docker(ctx, "rm", "-f", "made")
	return errors.Join(err, s.agent.AwaitPolicies(ctx, 10*time.Second, "client-to-backup,hardened"))
}

// gateScenes are about who may call Docker's API, and with what.
var gateScenes = []scene{
	{
		name: "a user creates a container", tried: "alice$ docker create --name made -u 1000 app", want: runs, ran: "created", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, maker, "create", "--name", "made", "-u", "1000", imageApp, "wait"), "created")
		},
	},
	{
		name: "but may not delete it", tried: "alice$ docker rm made", want: denied, gate: true, rule: "container.delete", ran: "gone", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, maker, "rm", "made"), "gone")
		},
	},
	{
		name: "nor create one as root", tried: "alice$ docker create app (the image starts as root)", want: denied, gate: true, rule: "container.create", ran: "created", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, maker, "create", imageApp, "wait"), "created")
		},
	},
	{
		name: "nor a privileged one", tried: "alice$ docker create --privileged -u 1000 app", want: denied, gate: true, rule: "container.create", ran: "created",
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, maker, "create", "--privileged", "-u", "1000", imageApp, "wait"), "created")
		},
	},
	{
		name: "nor one that mounts the host's root", tried: "alice$ docker create -v /:/host -u 1000 app", want: denied, gate: true, rule: "container.create", ran: "created",
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, maker, "create", "-v", "/:/host", "-u", "1000", imageApp, "wait"), "created")
		},
	},
	{
		name: "another user starts it", tried: "bob$ docker start made", want: runs, ran: "started", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, starter, "start", "made"), "started")
		},
	},
	{
		name: "but may not enter it", tried: "bob$ docker exec made …", want: denied, gate: true, rule: "container.exec", ran: "ran hello", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.through(ctx, starter, "exec", "made", "/bin/actor", "say", "hello")
		},
	},
	{
		name: "nor push a file into it", tried: "bob$ docker cp /etc/hostname made:/tmp/", want: denied, gate: true, rule: "container.copy", ran: "copied",
		act: func(ctx context.Context, s *stage) lab.Result {
			return said(s.through(ctx, starter, "cp", "/etc/hostname", "made:/tmp/"), "copied")
		},
	},
	{
		name: "a third needs a second factor to enter", tried: "carol$ docker exec made …", want: denied, gate: true, rule: "container.exec", ran: "ran hello", short: true,
		act: func(_ context.Context, s *stage) lab.Result {
			return s.login.Run("docker exec made /bin/actor say hello")
		},
	},
	{
		name: "after belay elevate it enters", tried: "carol$ belay elevate --action exec --target made; docker exec made …", want: runs, ran: "ran hello", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			if err := elevate(ctx, s); err != nil {
				return lab.Result{Code: 1, Stderr: err.Error()}
			}
			return s.login.Run("docker exec made /bin/actor say hello")
		},
	},
	{
		name: "but not from another login session", tried: "carol, elsewhere$ docker exec made …", want: denied, gate: true, rule: "container.exec", ran: "ran hello", short: true,
		act: func(_ context.Context, s *stage) lab.Result {
			return s.elsewhere.Run("docker exec made /bin/actor say hello")
		},
	},
}

// said replaces the output of a command that went well by a word.
func said(r lab.Result, word string) lab.Result {
	if r.Code == 0 {
		r.Stdout, r.Stderr = word+"\n", ""
	}
	return r
}
