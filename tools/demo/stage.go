package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// The images.
const (
	imageApp    = "demo/app:1"    // a program, for everybody and for uid 1000
	imageSSH    = "demo/ssh:1"    // an SSH server
	imageClient = "demo/client:1" // the same content under another digest: it may connect to one address
)

// Addresses of the SSH target: those of the engine's ends of two bridges, in a network
// namespace without a way out. The ranges are for documentation (RFC 5737).
const (
	allowedNet, allowedAddr     = "198.51.100.0/24", "198.51.100.1"
	forbiddenNet, forbiddenAddr = "203.0.113.0/24", "203.0.113.1"
	serverAddr                  = "198.51.100.22"
	oddPort                     = "8443"
)

// clientPolicy is an exception for one image, named by its content.
const clientPolicy = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: client-to-backup
spec:
  selector:
    imageDigest: %s
  loosen: true
  mode: enforce
  ssh:
    client:
      to: ["` + allowedAddr + `:22"]
`

// stage is what the scenes are played on.
type stage struct {
	lab     *lab.Lab
	engine  *lab.Engine
	other   *lab.Engine // outside the scope
	agent   *lab.Agent
	status  *lab.Status
	target  *lab.SSHTarget
	short   bool
	client  string // policy text
	started int    // containers, for unique names

	login, elsewhere *lab.Login // two sessions of the third user, while the gate's scenes are played

	receiver *lab.Receiver // of OpenTelemetry; nil: it is not built

	scan scans // while the scenes about images are played
	load loads // while those about a full node are

	noAgentSince time.Time // when the agent was killed
}

func setUp(ctx context.Context, l *lab.Lab, o options) (*stage, error) {
	s := &stage{lab: l, short: o.short}
	var err error
	if s.engine, err = l.StartEngine(ctx, "main"); err != nil {
		return nil, err
	}
	if s.other, err = l.StartEngine(ctx, "other"); err != nil {
		return nil, err
	}
	tree := ""
	if !s.short {
		tree, err = l.SSHTree(ctx)
		if errors.Is(err, lab.ErrNoPackages) {
			fmt.Fprintf(os.Stderr, "%v: the SSH scenes are played by a program that speaks the protocol's first lines\n", err)
		} else if err != nil {
			return nil, err
		}
	}
	if s.target, err = s.engine.StartSSHTarget(ctx, tree, "22", oddPort); err != nil {
		return nil, err
	}
	if err := s.images(ctx, tree); err != nil {
		return nil, err
	}
	if err := s.networks(ctx); err != nil {
		return nil, err
	}
	return s, s.startAgent(ctx)
}

func (s *stage) images(ctx context.Context, tree string) error {
	actor, err := s.lab.Actor(ctx)
	if err != nil {
		return err
	}
	app := []lab.File{
		lab.Program("bin/actor", actor),
		{Name: "bin/asroot", Mode: 0o4755, Body: actor}, // setuid
		{Name: "tmp/", Mode: 0o1777},
		{Name: "opt/app/", Mode: 0o755, UID: 1000},
		{Name: "opt/app/tool", Mode: 0o755, UID: 1000, Body: actor},
	}
	// No USER: like most images, it would start as root.
	for _, e := range []*lab.Engine{s.engine, s.other} {
		if err := e.Import(ctx, imageApp, app, `ENTRYPOINT ["/bin/actor"]`); err != nil {
			return err
		}
	}
	if !s.target.Real {
		if err := s.engine.Import(ctx, imageSSH, app, "USER 1000", `ENTRYPOINT ["/bin/actor"]`); err != nil {
			return err
		}
		return s.engine.Import(ctx, imageClient, app, "USER 1000", `ENTRYPOINT ["/bin/actor"]`, "LABEL role=client")
	}
	bb, err := lab.Busybox()
	if err != nil {
		return err
	}
	files := append(lab.SSHFiles(s.target.HostKey, bb), lab.Program("usr/bin/actor", actor))
	sshd, err := os.ReadFile(s.lab.Path("main", "target", "usr/sbin/sshd"))
	if err != nil {
		return err
	}
	files = append(files, lab.Program("usr/sbin/webserver", sshd))
	if err := s.engine.ImportTar(ctx, imageSSH, tree, files, "USER 1000", `ENTRYPOINT ["/bin/actor"]`); err != nil {
		return err
	}
	return s.engine.ImportTar(ctx, imageClient, tree, files, "USER 1000", `ENTRYPOINT ["/bin/actor"]`, "LABEL role=client")
}

func (s *stage) networks(ctx context.Context) error {
	for _, n := range [][3]string{{"allowed", allowedNet, allowedAddr}, {"forbidden", forbiddenNet, forbiddenAddr}} {
		if r := s.engine.Docker(ctx, "network", "create", "--subnet", n[1], "--gateway", n[2], n[0]); r.Code != 0 {
			return r.Err()
		}
	}
	return nil
}

func (s *stage) startAgent(ctx context.Context) error {
	digest, err := s.engine.Digest(ctx, imageClient)
	if err != nil {
		return err
	}
	s.client = fmt.Sprintf(clientPolicy, digest)
	flags, err := s.collect()
	if err != nil {
		return err
	}
	if s.agent, err = s.lab.NewAgent(ctx, lab.AgentOptions{
		Name: "agent", Engine: s.engine, Flags: append(flags, "--gate-mode", "0666", // for users of no group
			"--authz-plugin", pluginSocket(s.lab)), // asked only while the daemon is told to
	}); err != nil {
		return err
	}
	hardened, err := s.lab.ShippedPolicy("hardened.yaml")
	if err != nil {
		return err
	}
	if err := errors.Join(s.agent.SetPolicy("hardened.yaml", hardened), s.agent.SetPolicy("client.yaml", s.client)); err != nil {
		return err
	}
	if err := s.agent.Start(ctx); err != nil {
		return err
	}
	return s.look(ctx)
}

// look reads the agent's status, for the levels.
func (s *stage) look(ctx context.Context) error {
	st, err := s.agent.Status(ctx)
	if err != nil {
		return err
	}
	s.status = st
	return nil
}

// company starts the containers that stay up and are entered: one of the application,
// as uid 1000, and one with an SSH client, bound to its policy before it starts.
func (s *stage) company(ctx context.Context) error {
	if r := s.engine.Docker(ctx, "rm", "-f", "web", "client"); r.Code != 0 && ctx.Err() != nil {
		return ctx.Err()
	}
	if r := s.engine.Docker(ctx, "run", "-d", "--name", "web", "-u", "1000", imageApp, "wait"); r.Code != 0 {
		return r.Err()
	}
	if r := s.engine.Docker(ctx, "create", "--name", "client", "--network", "allowed", imageClient, "wait"); r.Code != 0 {
		return r.Err()
	}
	// The engine tells of a container as it is created, so a start right after would
	// do too, nearly always.
	lab.Await(ctx, 2*time.Second, func() bool { return s.agent.Belay(ctx, "explain", "client").Code == 0 })
	if r := s.engine.Docker(ctx, "start", "client"); r.Code != 0 {
		return r.Err()
	}
	return nil
}

// run plays in a new container.
func (s *stage) run(ctx context.Context, args ...string) lab.Result {
	return s.engine.Docker(ctx, append([]string{"run", "--rm", "--name", s.name()}, args...)...)
}

// name returns the name for the next container of [stage.run].
func (s *stage) name() string {
	s.started++
	return s.last()
}

// last returns the name of the last container of [stage.run].
func (s *stage) last() string { return fmt.Sprintf("demo-%d", s.started) }

// enter plays in a container that runs.
func (s *stage) enter(ctx context.Context, user, name string, args ...string) lab.Result {
	return s.engine.Docker(ctx, append([]string{"exec", "-u", user, name}, args...)...)
}
