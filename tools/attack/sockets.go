package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// socketAttacks connect to a socket of the container engine that is in the container:
// guard.sockets, P4.
func socketAttacks() []attack {
	return []attack{
		{"sock-connect", "P4", needSocket, "connect to the engine's socket", func(e *env) error { return talkTo(e.sock) }},
		{"sock-procroot", "P4", needSocket, "by /proc/self/root", func(e *env) error { return talkTo("/proc/self/root" + e.sock) }},
		{"sock-symlink", "P4", needSocket, "by a symbolic link", sockSymlink},
		{"sock-hardlink", "P4", needSocket, "by a hard link of another name", sockHardlink},
		{"sock-rename", "P4", needSocket, "after a rename", sockRename},
		{"sock-abstract", "P4", needAbstract, "connect to an abstract socket of the engine's", func(e *env) error { return talkTo(e.sock) }},
	}
}

// talkTo wins if what listens has read a byte and answers.
func talkTo(path string) error {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return untried(err)
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil {
		return untried(fmt.Errorf("%s does not answer: %w", path, err))
	}
	return nil
}

func sockSymlink(e *env) error {
	if err := os.Symlink(e.sock, e.path("x")); err != nil {
		return untried(err)
	}
	return talkTo(e.path("x"))
}

func sockHardlink(e *env) error {
	to := filepath.Join(filepath.Dir(e.sock), "x.sock")
	if err := os.Link(e.sock, to); err != nil {
		return untried(err)
	}
	defer os.Remove(to)
	return talkTo(to)
}

func sockRename(e *env) error {
	to := filepath.Join(filepath.Dir(e.sock), "y.sock")
	if err := os.Rename(e.sock, to); err != nil {
		return untried(err)
	}
	defer func() { _ = os.Rename(to, e.sock) }()
	return talkTo(to)
}
