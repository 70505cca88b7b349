package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/sandbox/spawn"
)

// moveFlags are the flags of belay move.
type moveFlags struct {
	stateDir string
	hook     string
	id       string // of the move, from who started this one
	from, to engine.Address
	dryRun   bool
	s        move.Settings
}

func moveCommand(t *terminal) *cobra.Command {
	f := &moveFlags{}
	cmd := &cobra.Command{
		Use:   "move CONTAINER... --to ENGINE",
		Short: "Move a container, or several as one, to another Docker engine; needs no agent",
		Long: `move makes a container again on another engine, from the same image and with the same
configuration, and stops it here. What cannot be moved is refused, with all reasons.

A container without volumes goes on here until the copy there is healthy and --hook has
brought it the traffic. One with volumes is stopped before they are copied, and its copy
starts once both sides have been compared: there is never more than one writer.

Several containers move as one: they may need each other, by a namespace, volumes, links
or a network of their own. Each step is done for all of them before the next one begins,
and if one fails all go back. They start in the order in which they are named, but for
those that need another, which start after it. There is one ID for all.

The source is kept, stopped and renamed, for the time of --keep; its volumes stay also
after that. If a step fails, what was done is taken back and the source serves on. A move
whose process ended is carried on with "resume" or taken back with "abort": its journal,
below --state-dir, knows how far it had come. What is movable and what each step does is
in docs/moving.md.

Over ssh:// the host's own ssh forwards the socket of the target, Belay's gate if none is
named after the host (/run/belay/docker.sock). ssh asks nothing: it has to know the host's
key, and to have one that it is let in by.

The hook is a program of root's, with its first arguments. It gets hand-over or hand-back
as the last one and the addresses of both sides as JSON on its standard input.`,
		Example: `  belay move web --to tcp://b:2376 --tlscacert ca.pem --tlscert c.pem --tlskey k.pem --dry-run
  belay move web --to ssh://mover@b.example --dry-run
  belay move web --to unix:///run/b.sock --hook "/usr/local/bin/lb web" --drain 30s
  belay move db --to unix:///run/b.sock --copy-volumes
  belay move db exporter --to unix:///run/b.sock --copy-volumes`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("want one CONTAINER, or several that move as one")
			case f.to.URL == "":
				return errors.New("want --to unix:///path, tcp://host:port or ssh://[user@]host")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return t.move(cmd, args, f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.to.URL, "to", "", "`engine` to move to: tcp://host:port, ssh://[user@]host or unix:///path")
	fl.StringVar(&f.to.CAFile, "tlscacert", "", "`file` with the authority that signed the certificate of --to")
	fl.StringVar(&f.to.CertFile, "tlscert", "", "`file` with our certificate for --to")
	fl.StringVar(&f.to.KeyFile, "tlskey", "", "`file` with its key")
	fl.StringVar(&f.from.URL, "from", "unix:///var/run/docker.sock", "`engine` that has the container, unix:///path")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, or why not, and change nothing")
	fl.BoolVar(&f.s.CopyVolumes, "copy-volumes", false, "stop it, copy its local volumes and compare them")
	fl.BoolVar(&f.s.LoseLayer, "lose-layer", false, "leave behind what it has written to its own layer and in memory")
	fl.BoolVar(&f.s.LoseAttributes, "lose-attributes", false, "leave behind ACLs and extended attributes of files in its volumes")
	fl.BoolVar(&f.s.SplitNetworks, "split-networks", false, "leave the other containers of its networks behind")
	fl.BoolVar(&f.s.Compose, "compose", false, "move it though compose made it, and may make it again here")
	fl.StringVar(&f.s.Image, "image", "auto", "`how` the image comes there: auto (pulled, else sent), pull or stream")
	fl.StringVar(&f.hook, "hook", "", "`program` with arguments that takes the traffic there, or back")
	fl.DurationVar(&f.s.Drain, "drain", 0, "`time` in which a source without volumes goes on after the hand-over")
	fl.DurationVar(&f.s.Healthy, "healthy", 5*time.Minute, "`time` in which the copy has to be healthy")
	fl.DurationVar(&f.s.Settle, "settle", 10*time.Second, "`time` that a copy without a health check has to run")
	fl.DurationVar(&f.s.Keep, "keep", 24*time.Hour, "`time` for which the stopped source is kept; 0 removes it at once")
	fl.StringVar(&f.id, "id", "", "`ID` of the move, 16 hexadecimal digits; for who starts this command")
	if err := fl.MarkHidden("id"); err != nil {
		panic(err) // it is there
	}
	stateDirFlag(cmd.PersistentFlags(), &f.stateDir)
	cmd.AddCommand(t.moveResume(f), t.moveAbort(f), t.moveFinish(f), t.moveList(f))
	return cmd
}

func stateDirFlag(fl *pflag.FlagSet, dir *string) {
	fl.StringVar(dir, "state-dir", "/var/lib/belay", "the agent's `directory` of state; journals of moves are in moves below it")
}

// movesOf returns the directory of the journals of moves. A state directory that was named has to be
// there: else a wrong name looks like a host without moves.
func movesOf(cmd *cobra.Command, stateDir string) (string, error) {
	if _, err := os.Stat(stateDir); err != nil && cmd.Flags().Changed("state-dir") {
		return "", fmt.Errorf("--state-dir: %w; fix: name the agent's directory of state", err)
	}
	abs, err := filepath.Abs(stateDir) // the journal is read from elsewhere
	if err != nil {
		return "", fmt.Errorf("--state-dir: %w", err)
	}
	below := movesdir.Below(abs)
	if filepath.Base(abs) == filepath.Base(below) {
		// What scripts named, and an agent of an earlier version names.
		if _, err := os.Stat(below); errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("--state-dir %s: that is the journals' own directory; fix: name the one above it, %s", abs, filepath.Dir(abs))
		}
	}
	return below, nil
}

// mover returns a mover, and the directory of its journals.
func (t *terminal) mover(cmd *cobra.Command, f *moveFlags, tell func(move.Event)) (m *move.Mover, dir string, err error) {
	if dir, err = movesOf(cmd, f.stateDir); err != nil {
		return nil, "", err
	}
	return move.New(move.Options{Dir: dir, ID: f.id, RunHook: spawn.Command, SSH: runSSH, Progress: tell, Now: t.now}), dir, nil
}

// runSSH runs OpenSSH's client, which has the user's own configuration, keys and known hosts.
func runSSH(ctx context.Context, args []string) error {
	err := spawn.Command(ctx, "/usr/bin/ssh", args, nil, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; fix: install OpenSSH's client", err)
	}
	return err
}

// withMover runs a command on one move.
func (t *terminal) withMover(f *moveFlags, do func(ctx context.Context, m *move.Mover, id string) (*move.Journal, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return t.moved(t.moving(cmd, f, func(m *move.Mover) (*move.Journal, error) { return do(cmd.Context(), m, args[0]) }))
	}
}

// moveProgress writes a line for each step, and below it how many bytes were copied, by a meter or else a line a second; end takes
// the meter's away.
func (t *terminal) moveProgress(m *meter) (tell func(move.Event), end func()) {
	var last time.Time
	var mu sync.Mutex // what sends a request's body tells too, in a goroutine of its own
	tell = func(e move.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.CopiedBytes {
			text := fmt.Sprintf("    %s: %s", clean(e.Text), bytesText(e.Bytes))
			if e.Total > 0 {
				text += " of about " + bytesText(e.Total)
			}
			if m != nil {
				m.show("%s", text)
			} else if t.now().Sub(last) >= time.Second {
				last = t.now()
				fmt.Fprintln(t.err, text)
			}
			return
		}
		m.end()
		what := string(e.Step)
		if e.Back {
			what = "back"
		}
		fmt.Fprintf(t.err, "%s: %s\n", what, clean(e.Text))
	}
	return tell, func() {
		mu.Lock()
		defer mu.Unlock()
		m.end()
	}
}

func (f *moveFlags) complete() error {
	if !strings.HasPrefix(f.from.URL, "unix://") {
		return badUsage("--from %q: want unix:///path: a move is made on the host that has the container", f.from.URL)
	}
	if err := f.to.Check(); err != nil {
		return badUsage("--to %s: %w", f.to.URL, err)
	}
	if err := f.s.Check(); err != nil {
		return usageError{err}
	}
	for _, p := range []*string{&f.to.CAFile, &f.to.CertFile, &f.to.KeyFile} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p) // the journal is read from elsewhere
		if err != nil {
			return fmt.Errorf("%s: %w", *p, err)
		}
		*p = abs
	}
	if f.s.Hook = strings.Fields(f.hook); len(f.s.Hook) > 0 && !filepath.IsAbs(f.s.Hook[0]) {
		return badUsage("--hook %q: want an absolute path", f.s.Hook[0])
	}
	return nil
}

func (t *terminal) move(cmd *cobra.Command, containers []string, f *moveFlags) error {
	if err := f.complete(); err != nil {
		return err
	}
	ctx := cmd.Context()
	if !f.dryRun {
		j, err := t.moving(cmd, f, func(m *move.Mover) (*move.Journal, error) {
			return m.Move(ctx, containers[0], f.from, f.to, f.s, containers[1:]...)
		})
		return t.moved(j, notBegun(j, err))
	}
	tell, _ := t.moveProgress(nil)
	m, _, err := t.mover(cmd, f, tell)
	if err != nil {
		return err
	}
	p, err := m.Look(ctx, containers[0], f.from, f.to, f.s, containers[1:]...)
	if refused, ok := errors.AsType[*move.RefusedError](err); ok && t.output == formatJSON {
		if err := t.writeJSON(map[string]any{"container": refused.Container, "movable": false, "refusals": refused.Refusals}); err != nil {
			return err
		}
		if refused.Target {
			return statusError{exitTarget, quietError{err}}
		}
		return quietError{err}
	}
	if err != nil {
		return notBegun(nil, err)
	}
	if t.output == formatJSON {
		return t.writeJSON(struct {
			Movable bool `json:"movable"`
			*move.Plan
		}{true, p})
	}
	t.writeMovePlan(p)
	return nil
}

// exitTarget is the exit status of a move that was not begun for a reason of the target's. The agent goes by it.
const exitTarget = 3

// notBegun gives the error of a move that has no journal its exit status.
func notBegun(j *move.Journal, err error) error {
	if j == nil && move.ByTarget(err) {
		return statusError{exitTarget, err}
	}
	return err
}

func (t *terminal) writeMovePlan(p *move.Plan) {
	kind := "without volumes: it goes on here until the copy has its traffic"
	switch group := len(p.With) > 0; {
	case group && p.Stateful:
		kind = "as one, with volumes: all are stopped while those are copied"
	case group:
		kind = "as one, without volumes: they go on here until the copies have their traffic"
	case p.Stateful:
		kind = "with volumes: it is stopped while they are copied"
	}
	names := p.Name
	for _, w := range p.With {
		names += ", " + w.Name
	}
	fmt.Fprintf(t.out, "%s can be moved, %s\n", clean(names), kind)
	tb := t.table("  ")
	for _, m := range append([]*move.Plan{p}, p.With...) {
		if len(p.With) > 0 {
			tb.row(plain("container"), plain(m.Name))
		}
		tb.row(plain("image"), plain(m.ImageName))
		for _, v := range m.Volumes {
			what := v.Name
			if v.Anonymous {
				what += " (anonymous)"
			}
			tb.row(plain("volume"), plain(what+" at "+v.Destination))
		}
		for _, n := range m.Networks {
			tb.row(plain("network"), plain(n))
		}
		for _, port := range m.Ports {
			tb.row(plain("port"), plain(port))
		}
	}
	for _, n := range p.Notes {
		tb.row(plain("note"), plain(n))
	}
	var steps []string
	for _, s := range p.Steps {
		steps = append(steps, string(s))
	}
	tb.row(plain("steps"), plain(strings.Join(steps, ", ")))
	tb.writeTo(t.out)
}

// moved shows what a move came to.
func (t *terminal) moved(j *move.Journal, err error) error {
	if j == nil {
		return err
	}
	if t.output == formatJSON {
		if werr := t.writeJSON(j); werr != nil {
			return werr
		}
		return err
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "move %s: %s is %s\n", j.ID, clean(j.Names()), j.Phase)
	if j.Phase == move.Kept {
		fmt.Fprintf(t.out, "  the source is kept, stopped, until %s; then: belay move finish %s\n", j.KeepUntil.Format(time.DateTime), j.ID)
	}
	for _, l := range j.LeftBehind {
		fmt.Fprintf(t.out, "  left: %s\n", clean(l))
	}
	return nil
}

func oneMove(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("want the ID of one move: see belay move list")
	}
	return nil
}

func (t *terminal) moveResume(f *moveFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "resume ID",
		Short: "Carry on a move whose process ended, or that could not go on",
		Long: `resume carries a move on from the step that its journal names, or goes on taking it back.
Of a move that is done it removes the kept source, if its time is over.`,
		Example: `  belay move resume 0b51f1d3a2c4e687`,
		Args:    oneMove,
		RunE: t.withMover(f, func(ctx context.Context, m *move.Mover, id string) (*move.Journal, error) {
			return m.Resume(ctx, id)
		}),
	}
}

func (t *terminal) moveAbort(f *moveFlags) *cobra.Command {
	var may move.Allow
	cmd := &cobra.Command{
		Use:   "abort ID",
		Short: "Take a move back: the source serves again, the copy goes",
		Long: `abort removes the copy from the target and starts the source again, with its name and its
restart policy. A move that is done is taken back too, as long as its source is kept.

If the container has volumes and its copy has taken over, what the copy has written would
not be in the source: that takes --lose-writes. The copy's volumes stay on the target.

A container without volumes goes back also while the target does not answer; what is left
there is removed when it does. One with volumes stays stopped then: its copy may run. If
that host has burnt down, --target-gone goes back all the same: you vouch that it never
runs the copy again. Nothing can check that, and nothing there is stopped: should the host
come back, two instances write, each to its own volumes.`,
		Example: `  belay move abort 0b51f1d3a2c4e687
  belay move abort --lose-writes --target-gone 0b51f1d3a2c4e687`,
		Args: oneMove,
		RunE: t.withMover(f, func(ctx context.Context, m *move.Mover, id string) (*move.Journal, error) {
			return m.Abort(ctx, id, may)
		}),
	}
	cmd.Flags().BoolVar(&may.LoseWrites, "lose-writes", false, "go back to the source without what the copy has written")
	cmd.Flags().BoolVar(&may.TargetGone, "target-gone", false, "vouch that the lost target never runs the copy again")
	return cmd
}

func (t *terminal) moveFinish(f *moveFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "finish ID",
		Short: "Remove the kept source of a move that is done, now",
		Long: `finish removes the stopped source of a move before the time of --keep is over, after which
the move cannot be taken back. Volumes of the source stay.`,
		Example: `  belay move finish 0b51f1d3a2c4e687`,
		Args:    oneMove,
		RunE: t.withMover(f, func(ctx context.Context, m *move.Mover, id string) (*move.Journal, error) {
			return m.Finish(ctx, id)
		}),
	}
}

func (t *terminal) moveList(f *moveFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the moves that were begun on this host",
		Long: `list shows each move with how far it has come: "moving" and "going back" are under way or
have stopped, and want resume or abort; "moved" keeps its source.`,
		Example: `  belay move list
  belay move list -o json | jq -r '.[] | select(.phase == "moving") | .id'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := movesOf(cmd, f.stateDir)
			if err != nil {
				return err
			}
			list, err := move.List(dir)
			if t.output == formatJSON {
				if list == nil {
					list = []*move.Journal{}
				}
				return errors.Join(t.writeJSON(list), err)
			}
			if len(list) == 0 && err == nil {
				fmt.Fprintln(t.out, "no moves")
				return nil
			}
			tb := t.table("", "MOVE", "CONTAINER", "TO", "STATE", "STEP", "BEGAN", "ERROR")
			for _, j := range list {
				state := cell{string(j.Phase), yellow}
				if j.Phase == move.Kept || j.Phase == move.Finished || j.Phase == move.RolledBack {
					state = plain(string(j.Phase))
				}
				tb.row(plain(j.ID), plain(j.Names()), plain(j.To.URL), state, plain(string(j.Step)), plain(t.ago(j.Began)), plain(orDash(j.Error)))
			}
			tb.writeTo(t.out)
			return err
		},
	}
}
