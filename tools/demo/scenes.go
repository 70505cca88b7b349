package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// want is what a scene expects.
type want int

const (
	runs     want = iota // the act takes place
	denied               // it does not, and is recorded as denied
	reported             // it takes place, and is recorded as one that would be denied
)

func (w want) String() string { return [...]string{"runs", "denied", "reported"}[w] }

// scene is one act.
type scene struct {
	name  string
	tried string // as a person would type it
	want  want
	rule  string // that forbids it; empty if none does
	ran   string // in the output if and only if the act took place
	short bool   // is played with --short too
	// where is the container that records name; empty: the scene's own.
	where string
	// blind: no agent runs, so records are looked for later.
	blind bool
	// gate: the gate denies it. rule is then the action, or a part of its name, and the record
	// names the caller and not a container.
	gate bool
	act  func(ctx context.Context, s *stage) lab.Result
}

// phase is a group of scenes under the same conditions.
type phase struct {
	title, mode string
	short       bool
	prepare     func(ctx context.Context, s *stage) error
	finish      func(ctx context.Context, s *stage) error
	// only says why this machine cannot play the phase, "" if it can; nil: it can.
	only   func(s *stage) string
	scenes []scene
}

// phases is the whole play.
var phases = []phase{
	{title: "Root", mode: "enforce", short: true, prepare: func(ctx context.Context, s *stage) error { return s.company(ctx) }, scenes: rootScenes(denied)},
	{title: "Only what the image holds may run", mode: "enforce", short: true, scenes: driftScenes(denied)},
	{title: "SSH, played by uid 1000", mode: "enforce", short: true, scenes: sshScenes(denied)},
	kernelRulesPhase,
	{title: "Docker's API through the gate: alice (uid 20001) creates, bob (uid 20002) starts, carol (uid 20003) enters", mode: "enforce", short: true, prepare: openGate, finish: closeGate, scenes: gateScenes},
	pluginPhase,
	{title: "One policy, both doors: a check of the gate holds in the kernel too", mode: "enforce", short: true, prepare: openBothDoors, finish: closeBothDoors, scenes: bothDoorsScenes},
	{title: "A second Docker Engine outside the scope", mode: "none", short: true, scenes: []scene{{
		name: "root there", tried: "docker -H other run app", want: runs, ran: "ran hello uid=0", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.other.Docker(ctx, "run", "--rm", imageApp, "say", "hello")
		},
	}, {
		name: "a dropped program there", tried: "docker -H other run app drop /tmp/x", want: runs, ran: "ran dropped",
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.other.Docker(ctx, "run", "--rm", imageApp, "drop", "/tmp/x")
		},
	}}},
	{title: "The agent is killed with -9: no agent runs", mode: "enforce", short: true, prepare: killAgent, scenes: survivalScenes},
	{title: "A new agent takes over", mode: "enforce", short: true, prepare: adopt, scenes: adoptionScenes},
	{title: "The same acts in audit mode", mode: "audit", short: true, prepare: audit, scenes: auditScenes()},
	loadPhase,
	imagesPhase,
	telemetryPhase,
}

func rootScenes(forbidden want) []scene {
	return []scene{
		{
			name: "an image that starts as root", tried: "docker run app", want: forbidden, rule: "exec.asRoot", ran: "ran hello uid=0", short: true,
			act: func(ctx context.Context, s *stage) lab.Result { return s.run(ctx, imageApp, "say", "hello") },
		},
		{
			name: "the same image as uid 1000", tried: "docker run -u 1000 app", want: runs, ran: "ran hello uid=1000", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.run(ctx, "-u", "1000", imageApp, "say", "hello")
			},
		},
		{
			name: "root into a running container", tried: "docker exec -u 0 web …", want: forbidden, rule: "exec.asRoot", ran: "ran hello uid=0", where: "web", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "0", "web", "/bin/actor", "say", "hello")
			},
		},
		{
			name: "uid 1000 into a running container", tried: "docker exec -u 1000 web …", want: runs, ran: "ran hello uid=1000",
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "web", "/bin/actor", "say", "hello")
			},
		},
		{
			name: "a setuid-root program", tried: "uid 1000 runs /bin/asroot (mode 4755)", want: forbidden, rule: "exec.asRoot", ran: "euid=0", where: "web", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "web", "/bin/actor", "spawn", "/bin/asroot", "say", "setuid")
			},
		},
	}
}

func driftScenes(forbidden want) []scene {
	return []scene{
		{
			name: "a program of the image", tried: "/opt/app/tool", want: runs, ran: "ran tool uid=1000",
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "web", "/bin/actor", "spawn", "/opt/app/tool", "say", "tool")
			},
		},
		{
			name: "a program written after the start", tried: "cp … /tmp/x && /tmp/x", want: forbidden, rule: "exec.drift", ran: "ran dropped", where: "web", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "web", "/bin/actor", "drop", "/tmp/x")
			},
		},
		{
			name: "a program renamed over the image's", tried: "mv /opt/app/tool.new /opt/app/tool; …", want: forbidden, rule: "exec.drift", ran: "ran renamed", where: "web",
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "web", "/bin/actor", "rename", "/opt/app/tool")
			},
		},
		{
			name: "a program that exists in memory only", tried: "memfd_create + execveat", want: forbidden, rule: "exec.memfd", ran: "ran memfd", where: "web", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.enter(ctx, "1000", "web", "/bin/actor", "memfd")
			},
		},
	}
}

func sshScenes(forbidden want) []scene {
	return []scene{
		{
			name: "an SSH server on port 2222", tried: "sshd -p 2222, asked from another container", want: forbidden, rule: "ssh.server", ran: "got SSH-", where: "sshd",
			act: func(ctx context.Context, s *stage) lab.Result { return s.server(ctx, "sshd", "/usr/sbin/sshd") },
		},
		{
			name: "the same server under another name", tried: "webserver -p 2222 (a copy of sshd)", want: forbidden, rule: "ssh.server", ran: "got SSH-", where: "renamed", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.server(ctx, "renamed", "/usr/sbin/webserver")
			},
		},
		{
			name: "an SSH client to an allowed address", tried: "ssh guest@" + allowedAddr, want: runs, ran: "welcome", short: true,
			act: func(ctx context.Context, s *stage) lab.Result { return s.ssh(ctx, allowedAddr, "22") },
		},
		{
			name: "an SSH client to a forbidden address", tried: "ssh guest@" + forbiddenAddr, want: forbidden, rule: "ssh.client", ran: "welcome", where: "client", short: true,
			act: func(ctx context.Context, s *stage) lab.Result { return s.ssh(ctx, forbiddenAddr, "22") },
		},
		{
			name: "there on another port, by its protocol", tried: "ssh -p " + oddPort + " guest@" + forbiddenAddr, want: forbidden, rule: "ssh.client", ran: "welcome", where: "client",
			act: func(ctx context.Context, s *stage) lab.Result { return s.ssh(ctx, forbiddenAddr, oddPort) },
		},
	}
}

var survivalScenes = []scene{
	{
		name: "root in a new container", tried: "docker run app", want: denied, rule: "exec.asRoot", ran: "ran hello uid=0", short: true, blind: true,
		act: func(ctx context.Context, s *stage) lab.Result { return s.run(ctx, imageApp, "say", "hello") },
	},
	{
		name: "root into a running container", tried: "docker exec -u 0 web …", want: denied, rule: "exec.asRoot", ran: "ran hello uid=0", short: true, blind: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.enter(ctx, "0", "web", "/bin/actor", "say", "hello")
		},
	},
	{
		name: "a program written after the start", tried: "cp … /tmp/y && /tmp/y", want: denied, rule: "exec.drift", ran: "ran dropped", blind: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.enter(ctx, "1000", "web", "/bin/actor", "drop", "/tmp/y")
		},
	},
	{
		name: "uid 1000 in a new container", tried: "docker run -u 1000 app", want: runs, ran: "ran hello uid=1000", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.run(ctx, "-u", "1000", imageApp, "say", "hello")
		},
	},
}

var adoptionScenes = []scene{
	{
		name: "it adopts what the first one left", tried: "belay status", want: runs, ran: "adopted", short: true,
		act: func(_ context.Context, s *stage) lab.Result {
			if s.status.Adopted {
				return lab.Result{Stdout: "adopted"}
			}
			return lab.Result{Code: 1, Stdout: "started afresh"}
		},
	},
	{
		name: "and reports what was denied meanwhile", tried: "belay events --denials", want: runs, ran: "denials since",
		act: denialsMeanwhile,
	},
	{
		name: "root into a running container", tried: "docker exec -u 0 web …", want: denied, rule: "exec.asRoot", ran: "ran hello uid=0", where: "web", short: true,
		act: func(ctx context.Context, s *stage) lab.Result {
			return s.enter(ctx, "0", "web", "/bin/actor", "say", "hello")
		},
	},
}

func auditScenes() []scene {
	var out []scene
	for _, group := range [][]scene{rootScenes(reported), driftScenes(reported), sshScenes(reported)} {
		for _, sc := range group {
			if sc.want == reported {
				// In audit nothing differs by the kind of act: one will do.
				sc.short = sc.short && sc.rule == "exec.drift"
				out = append(out, sc)
			}
		}
	}
	return out
}

func killAgent(_ context.Context, s *stage) error {
	s.noAgentSince = time.Now()
	return s.agent.Kill()
}

func adopt(ctx context.Context, s *stage) error {
	if err := s.agent.Start(ctx); err != nil {
		return err
	}
	return s.look(ctx)
}

func denialsMeanwhile(ctx context.Context, s *stage) lab.Result {
	var n int
	lab.Await(ctx, 5*time.Second, func() bool {
		all, err := s.agent.Denials(ctx, s.noAgentSince)
		n = len(all)
		return err == nil && n >= 2
	})
	if n < 2 {
		return lab.Result{Code: 1, Stdout: fmt.Sprintf("%d denials in the journal, want 2 or more", n)}
	}
	return lab.Result{Stdout: fmt.Sprintf("%d denials since the kill are in the journal", n)}
}

// audit replaces the policies by the shipped audit-floor.yaml, as an operator would.
func audit(ctx context.Context, s *stage) error {
	text, err := s.lab.ShippedPolicy("audit-floor.yaml")
	if err != nil {
		return err
	}
	err = errors.Join(s.agent.SetPolicy("audit-floor.yaml", text), s.agent.SetPolicy("hardened.yaml", ""), s.agent.SetPolicy("client.yaml", ""))
	if err != nil {
		return err
	}
	return s.agent.AwaitPolicies(ctx, 10*time.Second, "audit-floor")
}

// server starts an SSH server as uid 1000 and asks it for its first line from another
// container. The container of the server is taken away afterwards.
func (s *stage) server(ctx context.Context, name, program string) lab.Result {
	s.engine.Docker(ctx, "rm", "-f", name)
	args := []string{"run", "-d", "--name", name, "--network", "allowed", "--ip", serverAddr}
	if s.target.Real {
		args = append(args, "--entrypoint", program, imageSSH, "-D", "-e", "-p", "2222", "-f", "/dev/null", "-h", "/home/app/host_key", "-o", "UsePAM=no", "-o", "PidFile=none")
	} else {
		args = append(args, imageSSH, "sshd", "0.0.0.0:2222")
	}
	started := s.engine.Docker(ctx, args...)
	defer s.engine.Docker(context.WithoutCancel(ctx), "rm", "-f", name)
	var r lab.Result
	lab.Await(ctx, 6*time.Second, func() bool {
		if s.engine.Docker(ctx, "inspect", "-f", "{{.State.Running}}", name).Stdout != "true\n" {
			code := strings.TrimSpace(s.engine.Docker(ctx, "inspect", "-f", "{{.State.ExitCode}}", name).Stdout)
			r = started
			fmt.Sscan(code, &r.Code)
			return true
		}
		// Asked by a container: packets of the host are nobody's.
		r = s.enter(ctx, "1000", "client", "/bin/actor", "dial", serverAddr+":2222")
		return !strings.Contains(r.Text(), "connection refused") // it takes a moment to listen
	})
	return r
}

// ssh logs in at the target and says hello.
func (s *stage) ssh(ctx context.Context, addr, port string) lab.Result {
	if !s.target.Real {
		return s.enter(ctx, "1000", "client", "/bin/actor", "ssh", addr+":"+port)
	}
	// A client whose first line is swallowed waits for ever.
	return s.enter(ctx, "1000", "client", "/usr/bin/busybox", "timeout", "5", "/usr/bin/ssh", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ConnectTimeout=4", "-o", "LogLevel=ERROR", "-p", port, "guest@"+addr, "echo", "welcome")
}
