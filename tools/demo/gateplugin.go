package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/tools/lab"
)

// pluginPhase plays the gate's second front end: the daemon itself refuses what has not come
// through the gate. It is played on the first engine, which asks the plugin only meanwhile.
var pluginPhase = phase{
	title: "The daemon asks Belay's plugin: its own socket is no way around the gate", mode: "enforce", short: true,
	prepare: setPlugin, finish: takePlugin,
	scenes: []scene{
		{
			name: "a privileged container through the gate", tried: "alice$ docker create --privileged -u 1000 app", want: denied, gate: true, rule: "container.create", ran: "created", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return said(s.through(ctx, maker, "create", "--privileged", "-u", "1000", imageApp, "wait"), "created")
			},
		},
		{
			name: "the same by root at the daemon's socket", tried: "root# docker -H (the daemon's) create --privileged …", want: denied, gate: true, rule: "container.create", ran: "created", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return said(s.engine.Docker(ctx, "create", "--privileged", "-u", "1000", imageApp, "wait"), "created")
			},
		},
		{
			name: "to take the plugin away there", tried: "root# docker -H (the daemon's) plugin disable -f belay", want: denied, gate: true, rule: "plugin.disable", ran: "disabled",
			act: func(ctx context.Context, s *stage) lab.Result {
				return said(s.engine.Docker(ctx, "plugin", "disable", "-f", s.lab.Name), "disabled")
			},
		},
		{
			name: "what is allowed, through the gate", tried: "alice$ docker create --name ticket -u 1000 app", want: runs, ran: "created", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return said(s.through(ctx, maker, "create", "--name", "ticket", "-u", "1000", imageApp, "wait"), "created")
			},
		},
	},
}

// pluginSpec is the file through which the daemon finds the plugin, in one of its fixed
// places. The name is the lab's, which no other plugin has.
func pluginSpec(l *lab.Lab) string { return filepath.Join("/etc/docker/plugins", l.Name+".spec") }

func pluginSocket(l *lab.Lab) string { return l.Path("plugin", l.Name+".sock") }

// setPlugin puts the access policies in force, and then has the daemon ask the plugin.
func setPlugin(ctx context.Context, s *stage) error {
	if err := openGate(ctx, s); err != nil {
		return err
	}
	spec := pluginSpec(s.lab)
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(spec, []byte("unix://"+pluginSocket(s.lab)), 0o644); err != nil {
		return err
	}
	if err := s.configure(`{"authorization-plugins": ["` + s.lab.Name + `"]}`); err != nil {
		return err
	}
	if !lab.Await(ctx, 30*time.Second, func() bool { return strings.Contains(s.engine.Docker(ctx, "ps").Stderr, "belay:") }) {
		return fmt.Errorf("the daemon does not ask the plugin: %w", s.engine.Docker(ctx, "ps").Err())
	}
	return nil
}

// takePlugin undoes setPlugin, whatever of it was done.
func takePlugin(ctx context.Context, s *stage) error {
	err := s.configure("{}")
	if err == nil && !lab.Await(ctx, 30*time.Second, func() bool { return s.engine.Docker(ctx, "ps").Code == 0 }) {
		err = fmt.Errorf("the daemon still asks the plugin: %w", s.engine.Docker(ctx, "ps").Err())
	}
	s.engine.Docker(ctx, "rm", "-f", "ticket")
	return errors.Join(err, removeSpec(s.lab), closeGate(ctx, s))
}

// removeSpec is also for a demo that ends early.
func removeSpec(l *lab.Lab) error {
	spec := pluginSpec(l)
	if err := os.Remove(spec); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(spec)) // if nothing else is in it
	return nil
}

// configure writes the engine's daemon.json and has it read.
func (s *stage) configure(text string) error {
	if err := os.WriteFile(s.lab.Path("main", "daemon.json"), []byte(text), 0o600); err != nil {
		return err
	}
	raw, err := os.ReadFile(s.lab.Path("main", "docker.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("the daemon's pid file: %w", err)
	}
	return unix.Kill(pid, unix.SIGHUP)
}
