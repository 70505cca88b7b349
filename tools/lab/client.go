package lab

import (
	"context"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Client runs the docker command against another socket than the engine's own, such as
// a gate's, as some user of the host.
type Client struct {
	// Env is added to the command's environment.
	Env []string

	e      *Engine
	socket string
	uid    uint32
	bin    string
}

// Client returns a client of the socket, with the engine's own docker command.
func (e *Engine) Client(socket string, uid uint32) *Client {
	return &Client{e: e, socket: socket, uid: uid, bin: e.lab.opts.Docker}
}

// With returns the client with another docker command.
func (c *Client) With(bin string) *Client {
	d := *c
	d.bin = bin
	return &d
}

// Command returns a docker command that is not started yet.
func (c *Client) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(slices.DeleteFunc(slices.Clone(c.e.env), func(kv string) bool {
		return c.uid != 0 && !strings.HasPrefix(kv, "PATH=") // the directories are root's
	}), "DOCKER_HOST=unix://"+c.socket)
	if c.uid != 0 {
		cmd.Env = append(cmd.Env, "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
	}
	cmd.Dir = "/"
	cmd.Env = append(cmd.Env, c.Env...)
	return cmd
}

// Docker runs a docker command.
func (c *Client) Docker(ctx context.Context, args ...string) Result {
	return c.DockerIn(ctx, nil, args...)
}

// DockerIn is [Client.Docker] with standard input.
func (c *Client) DockerIn(ctx context.Context, in io.Reader, args ...string) Result {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	cmd := c.Command(ctx, args...)
	cmd.Stdin = in
	cmd.WaitDelay = 2 * time.Second
	return run(cmd)
}
