package main

import (
	"errors"
	"fmt"
	"log/syslog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/gate/takeover"
)

// takeoverOptions are what both commands have in common.
func (t *terminal) takeoverOptions(timeout time.Duration) (takeover.Options, error) {
	if os.Geteuid() != 0 {
		return takeover.Options{}, errors.New("this changes units of the host and needs root: sudo belay ...")
	}
	// Of a terminal, or a reader, that is gone: the daemon is stopped in between.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTOU)
	self, err := os.Executable()
	if err != nil {
		return takeover.Options{}, fmt.Errorf("find this program, which the rollback's timer starts: %w", err)
	}
	return takeover.Options{
		Command: self,
		Timeout: timeout,
		Say:     func(s string) { fmt.Fprintln(t.out, clean(s)) },
		Journal: func(s string) { t.hostLog(s) },
	}, nil
}

// hostLog writes a line into the host's own log, which is there before and after the agent. A host
// without one has what the command prints.
func (t *terminal) hostLog(line string) {
	w, err := syslog.New(syslog.LOG_AUTHPRIV|syslog.LOG_NOTICE, "belay")
	if err != nil {
		return
	}
	defer w.Close()
	_ = w.Notice(fmt.Sprintf("%s (uid %d, pid %d)", clean(line), os.Getuid(), os.Getpid()))
}

func enableGateCommand(t *terminal) *cobra.Command {
	var dryRun, restart bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "enable-gate",
		Short: "Put the gate in front of this host's Docker daemon",
		Long: `enable-gate moves the daemon's own socket to where only root comes and gives its
usual place, with the same group and mode, to the gate. It needs systemd,
docker.socket and a running agent. Containers go on running where the daemon has
live-restore; without it the command refuses, or goes on if told to.

If the engine does not answer through the gate within --timeout, all is changed back.
If this command is killed meanwhile a timer does that, and so does a reboot.

docs/gate.md has the steps by hand. "belay disable-gate" takes it away.`,
		Example: `  belay enable-gate --dry-run
  belay enable-gate
  belay enable-gate --restart-containers --timeout 3m`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.textOnly(cmd); err != nil && !dryRun {
				return err
			}
			opts, err := t.takeoverOptions(timeout)
			if err != nil {
				return err
			}
			opts.RestartContainers = restart
			h := takeover.New(opts)
			if !dryRun {
				return h.Enable(cmd.Context())
			}
			p, err := h.Plan(cmd.Context())
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(p)
			}
			t.writePlan(p)
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
	cmd.Flags().BoolVar(&restart, "restart-containers", false, "go on though containers stop with the daemon")
	cmd.Flags().DurationVar(&timeout, "timeout", 90*time.Second, "how long each unit and the engine may take")
	return cmd
}

func (t *terminal) writePlan(p *takeover.Plan) {
	if p.Enabled {
		fmt.Fprintln(t.out, "the gate is in front of the daemon already: nothing to do")
		return
	}
	for i, s := range p.Steps {
		fmt.Fprintf(t.out, "%d. %s\n", i+1, s)
	}
	switch n := count(len(p.Running), "container runs", "containers run"); {
	case p.LiveRestore:
		fmt.Fprintf(t.out, "%s, and go on running: the daemon has live-restore\n", n)
	case len(p.Running) > 0:
		fmt.Fprintf(t.out, "%s, and stop when the daemon restarts: it has no live-restore; those with a restart policy come back\n", n)
	}
}

func disableGateCommand(t *terminal) *cobra.Command {
	var unconfirmed, restart bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "disable-gate",
		Short: "Give the Docker daemon its own socket back",
		Long: `disable-gate removes what "belay enable-gate" wrote and starts the daemon at its
usual place. Enforcement in the kernel goes on. If daemon.json names the
plugin it refuses, with the gate in place or without: take the plugin out first.
It refuses too where containers would stop with the daemon (no live-restore),
unless told --restart-containers. If it is killed a timer goes on.`,
		Example: `  belay disable-gate
  belay disable-gate --restart-containers`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.textOnly(cmd); err != nil {
				return err
			}
			opts, err := t.takeoverOptions(timeout)
			if err != nil {
				return err
			}
			opts.RestartContainers = restart
			return takeover.New(opts).Disable(cmd.Context(), unconfirmed)
		},
	}
	cmd.Flags().BoolVar(&unconfirmed, "if-unconfirmed", false, "only if enable-gate or disable-gate has not ended (their timer)")
	cmd.Flags().BoolVar(&restart, "restart-containers", false, "go on though containers stop with the daemon")
	cmd.Flags().DurationVar(&timeout, "timeout", takeover.UndoTimeout, "how long each unit and the engine may take")
	return cmd
}
