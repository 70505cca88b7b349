// Package takeover puts the gate in the place of a Docker daemon's socket on a host that
// systemd runs, and takes it away again: drop-ins move the daemon's own socket to where only root
// comes, and the agent offers the gate at the old name with the old group and mode.
//
// It owns the two drop-ins and the record of what it did (gate.json in the state directory).
// Whatever goes wrong ends with the daemon at its old place: the drop-ins are below /run until the
// engine has answered through the gate, so that a reboot undoes them, and a timer of systemd
// undoes them if this process cannot. It never edits daemon.json and stops no container. Row: feature.
package takeover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/daemonjson"
)

// Where the sockets are, on a host whose root is Options.Root.
const (
	Socket   = "/run/docker.sock"
	Upstream = "/run/docker-upstream/docker.sock"
	plugin   = "/run/docker/plugins/belay.sock"
)

// The units that are changed, and the one that undoes a takeover.
const (
	dockerUnit   = "docker.service"
	socketUnit   = "docker.socket"
	agentUnit    = "belay-agent.service"
	rollbackUnit = "belay-gate-rollback"
)

var (
	// ErrNotPossible is returned if the host is not one that can be changed so; nothing was.
	ErrNotPossible = errors.New("the gate cannot be moved on this host by this command")
	// ErrRolledBack is returned if the engine did not answer through the gate and is where it was.
	ErrRolledBack = errors.New("rolled back: the daemon has its own socket again")
)

// UndoTimeout is how long each wait of an undo may take. The daemon's start waits for that of the agent, for which the
// unit has five minutes, and there is nothing to go back to.
const UndoTimeout = 10 * time.Minute

// carryOnAfter is when the timer of a [Host.Disable] looks whether that has ended.
const carryOnAfter = 2 * time.Minute

// forever is no bound of a wait.
const forever = 1<<63 - 1

// Options say which host is changed and how.
type Options struct {
	Root     string // prefix of every path; empty for the host itself
	StateDir string // where gate.json is kept (default /var/lib/belay)
	// Command is this program's path: what the rollback's timer starts.
	Command string
	// Timeout bounds each wait: for a unit, and for the engine's answer (default 90 s).
	Timeout time.Duration
	// RestartContainers goes on though containers stop with the daemon.
	RestartContainers bool
	// Say is told each step as it is done; Journal the few facts that the host's log should keep.
	Say, Journal func(string)
}

// Host is one host whose gate is moved.
type Host struct {
	opts    Options
	sys     system
	byTimer bool // the timer has started this process
}

// New returns a host. It does nothing yet.
func New(opts Options) *Host {
	if opts.Timeout <= 0 {
		opts.Timeout = 90 * time.Second
	}
	if opts.StateDir == "" {
		opts.StateDir = "/var/lib/belay"
	}
	if opts.Say == nil {
		opts.Say = func(string) {}
	}
	if opts.Journal == nil {
		opts.Journal = func(string) {}
	}
	return &Host{opts: opts, sys: commands{}}
}

// Plan is what [Host.Enable] would do, and what it found.
type Plan struct {
	Enabled     bool     `json:"enabled"` // nothing is left to do
	Group       string   `json:"group"`   // of the daemon's socket, and then of the gate's
	Mode        string   `json:"mode"`
	LiveRestore bool     `json:"liveRestore"`
	Running     []string `json:"running"` // IDs of containers
	Steps       []string `json:"steps"`
}

// Plan looks at the host and changes nothing. Errors: [ErrNotPossible] with what stands in the way.
func (h *Host) Plan(ctx context.Context) (*Plan, error) {
	st, err := h.readState()
	if err != nil {
		return nil, err
	}
	if st.Phase == phaseEnabled && h.inPlace(persistent, st.files()) {
		return &Plan{Enabled: true, Group: st.Group, Mode: st.Mode}, nil
	}
	if err := h.possible(ctx); err != nil {
		return nil, err
	}
	p := &Plan{}
	if p.Group, p.Mode, err = h.socketAccess(); err != nil {
		return nil, err
	}
	e := engine{h.path(Socket)}
	if p.LiveRestore, err = e.liveRestore(ctx); err != nil {
		return nil, fmt.Errorf("%w: the daemon does not answer at %s: %w", ErrNotPossible, Socket, err)
	}
	if p.Running, err = e.running(ctx); err != nil {
		return nil, err
	}
	p.Steps = []string{
		fmt.Sprintf("start the timer %s, which undoes everything after %s", rollbackUnit, h.rollbackAfter()),
		fmt.Sprintf("write %s: the daemon listens at %s, for root only", h.dropIn(volatile, socketUnit), Upstream),
		fmt.Sprintf("write %s: the gate listens at %s, group %s, mode %s", h.dropIn(volatile, agentUnit), Socket, p.Group, p.Mode),
		"systemctl daemon-reload; stop docker.socket docker.service; restart belay-agent.service; start docker.socket docker.service",
		fmt.Sprintf("ask the engine through the gate, for at most %s; undo everything if it does not answer", h.opts.Timeout),
		fmt.Sprintf("keep the drop-ins in %s and stop the timer", persistent),
	}
	return p, nil
}

// Enable puts the gate in front of the daemon. Doing it twice is doing it once.
//
// Errors: [ErrNotPossible] if nothing was changed, [ErrRolledBack] if all was changed back; any other
// says what is left and how to get out.
func (h *Host) Enable(ctx context.Context) error {
	unlock, err := h.lock(ctx, true, h.opts.Timeout)
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.undoHalf(ctx); err != nil {
		return err
	}
	p, err := h.Plan(ctx)
	if err != nil {
		return err
	}
	if p.Enabled {
		if err := h.healthy(ctx); err != nil {
			return fmt.Errorf("the gate is in place and the engine does not answer through it: %w; `belay disable-gate` takes it away", err)
		}
		h.opts.Say("the gate is in front of the daemon already, and the engine answers through it")
		return nil
	}
	if n := len(p.Running); n > 0 && !p.LiveRestore && !h.opts.RestartContainers {
		return stopsContainers(n)
	}
	st := state{Phase: phaseEnabling, Since: time.Now().UTC(), Group: p.Group, Mode: p.Mode, Running: p.Running}
	if err := h.take(ctx, st); err != nil {
		h.opts.Journal("the gate could not be put in front of Docker, undoing it: " + err.Error())
		h.opts.Say("undoing it: " + err.Error())
		// The caller may be gone (an interrupt); the daemon's socket must come back all the same.
		if uerr := h.patient().undo(context.WithoutCancel(ctx)); uerr != nil {
			return errors.Join(err, uerr)
		}
		return fmt.Errorf("%w: %w", ErrRolledBack, err)
	}
	h.opts.Journal("the gate is in front of Docker: " + Socket + " is the gate's, the daemon's own is " + Upstream)
	h.report(ctx, p)
	return nil
}

// take does the steps of a plan, up to where nothing is left to undo.
func (h *Host) take(ctx context.Context, st state) error {
	if err := h.writeState(st); err != nil {
		return err
	}
	if err := h.armTimer(ctx, h.rollbackAfter()); err != nil {
		return err
	}
	h.opts.Say(fmt.Sprintf("a timer undoes everything after %s", h.rollbackAfter()))
	if err := h.writeDropIns(volatile, st.files()); err != nil {
		return err
	}
	h.opts.Say("moving the daemon's socket to " + Upstream)
	for _, args := range [][]string{
		{"daemon-reload"}, {"stop", socketUnit, dockerUnit}, {"restart", agentUnit}, {"start", socketUnit, dockerUnit},
	} {
		if err := h.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	if err := h.healthy(ctx); err != nil {
		return err
	}
	if g, m, err := h.socketAccess(); err != nil || g != st.Group || m != st.Mode {
		return fmt.Errorf("the gate's socket has group %q and mode %q instead of %q and %q: %w", g, m, st.Group, st.Mode, errOrNone(err))
	}
	h.opts.Say("the engine answers through the gate")
	if err := h.writeDropIns(persistent, st.files()); err != nil {
		return err
	}
	st.Phase = phaseEnabled
	if err := h.writeState(st); err != nil {
		return err
	}
	// From here on nothing may end in an undo: the drop-ins of /etc are the same as those of /run.
	if err := errors.Join(h.removeDropIns(volatile), h.systemctl(ctx, "daemon-reload")); err != nil {
		h.opts.Say("left behind until the next reboot: " + err.Error())
	}
	h.disarmTimer(ctx)
	return nil
}

func errOrNone(err error) error {
	if err == nil {
		return errors.New("clients that used it could not, or others could")
	}
	return err
}

// report tells which containers the restart of the daemon cost.
func (h *Host) report(ctx context.Context, p *Plan) {
	now, err := engine{h.path(Upstream)}.running(ctx)
	if err != nil {
		h.opts.Say("which containers run now could not be asked: " + err.Error())
		return
	}
	var gone []string
	for _, id := range p.Running {
		if !slices.Contains(now, id) {
			gone = append(gone, id[:min(len(id), 12)])
		}
	}
	if len(gone) > 0 {
		h.opts.Say(fmt.Sprintf("%d of %d containers do not run any more: %s", len(gone), len(p.Running), strings.Join(gone, " ")))
		return
	}
	h.opts.Say(fmt.Sprintf("all %d containers kept running", len(p.Running)))
}

// Disable gives the daemon its own socket back. Doing it twice is doing it once.
//
// unconfirmed is how the timer calls it: a takeover that has succeeded stays, and one that was begun, or is being undone by
// a process that ended, is undone. Errors: the daemon asks the plugin (see docs/gate.md), whether the gate is in front of it or not;
// containers would stop ([ErrNotPossible], nothing was changed); the daemon does not answer at its old place.
func (h *Host) Disable(ctx context.Context, unconfirmed bool) error {
	h.byTimer = unconfirmed
	wait := h.opts.Timeout
	if unconfirmed { // it is not started again
		wait = forever
	}
	unlock, err := h.lock(ctx, h.anyDropIn(), wait)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := h.readState()
	if err != nil && !unconfirmed {
		h.opts.Say("going on without the record: " + err.Error())
	}
	if unconfirmed && (err != nil || st.Phase == "" || st.Phase == phaseEnabled) {
		return nil
	}
	gone := h.engineGone(ctx)
	if !gone && h.asksPlugin() {
		return fmt.Errorf(`%s has belay in "authorization-plugins", and without the gate the plugin refuses every request: `+
			"take it out, systemctl reload docker, and call this again", daemonjson.Path)
	}
	if st.Phase == "" && !h.anyDropIn() {
		h.opts.Say("the gate is not in front of the daemon")
		return nil
	}
	if gone {
		return h.forget(ctx)
	}
	if h.recordOnly(ctx) {
		return h.dropRecord(ctx, st)
	}
	if !unconfirmed {
		if err := h.containersLive(ctx); err != nil {
			return err
		}
		h.armCarryOn(ctx)
	}
	if err := h.undo(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	h.opts.Journal("the gate is no more in front of Docker: " + Socket + " is the daemon's")
	return nil
}

// undoHalf undoes what an earlier run has begun and not ended.
func (h *Host) undoHalf(ctx context.Context) error {
	st, err := h.readState()
	if err != nil || st.Phase == "" || st.Phase == phaseEnabled {
		return err
	}
	if h.recordOnly(ctx) {
		return h.dropRecord(ctx, st)
	}
	if err := h.containersLive(ctx); err != nil {
		return err
	}
	h.opts.Say("an earlier run did not end: undoing it first")
	h.armCarryOn(ctx)
	return h.patient().undo(context.WithoutCancel(ctx))
}

// armCarryOn sets the timer of an undo: the daemon is stopped in between, and whoever ends this process must not leave it so.
func (h *Host) armCarryOn(ctx context.Context) {
	if !h.systemd() {
		return
	}
	if err := h.armTimer(ctx, carryOnAfter); err != nil {
		h.opts.Say("going on without a timer: " + err.Error())
	}
}

// recordOnly tells whether the record is all that is left, of a run before a reboot: the daemon is where it was.
func (h *Host) recordOnly(ctx context.Context) bool {
	if h.anyDropIn() {
		return false
	}
	if _, err := os.Lstat(h.path(Upstream)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err := engine{h.path(Socket)}.get(ctx, "/_ping")
	return err == nil
}

// dropRecord ends what recordOnly found. An undo that was killed may have the agent still to start.
func (h *Host) dropRecord(ctx context.Context, st state) error {
	h.opts.Say("only the record of an earlier run is left: the daemon is at " + Socket)
	if st.Phase == phaseDisabling && h.systemd() {
		if err := h.systemctl(ctx, "start", agentUnit); err != nil {
			h.opts.Say("the agent did not start; what it pinned is still enforced: " + err.Error())
		}
	}
	h.disarmTimer(ctx)
	return h.removeState()
}

// patient is h with the waits of an undo.
func (h *Host) patient() *Host {
	p := *h
	p.opts.Timeout = max(h.opts.Timeout, UndoTimeout)
	return &p
}

// containersLive returns [ErrNotPossible] if containers run that would stop with the daemon, or if that cannot be told, and nobody has
// said that they may. A daemon that nobody listens for does not run.
func (h *Host) containersLive(ctx context.Context) error {
	if h.opts.RestartContainers || !h.systemd() || h.idle(ctx, dockerUnit) {
		return nil // a unit that does not run stops nothing
	}
	for _, socket := range []string{Upstream, Socket} {
		e := engine{h.path(socket)}
		live, err := e.liveRestore(ctx)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err == nil && live {
			return nil
		}
		var running []string
		if err == nil {
			running, err = e.running(ctx)
		}
		if err != nil {
			return fmt.Errorf("%w: whether containers would stop cannot be told: %w; pass --restart-containers", ErrNotPossible, err)
		}
		if len(running) > 0 {
			return stopsContainers(len(running))
		}
		return nil
	}
	return nil
}

func stopsContainers(n int) error {
	return fmt.Errorf("%w: the daemon has to be restarted once, and without live-restore that stops its %d running containers; "+
		`set "live-restore": true in /etc/docker/daemon.json and systemctl reload docker, or pass --restart-containers`, ErrNotPossible, n)
}

// undo takes the drop-ins away and starts the daemon where it was. Each step is tried whatever
// became of the one before: the daemon's socket is what counts.
func (h *Host) undo(ctx context.Context) error {
	st, _ := h.readState()
	st.Phase = phaseDisabling
	errs := []error{h.writeState(st), h.removeDropIns(volatile), h.removeDropIns(persistent)}
	if !h.systemd() {
		h.opts.Say("systemd does not run here: the drop-ins are removed, and nothing is restarted")
		return errors.Join(append(errs, h.removeState())...)
	}
	h.opts.Say("giving the daemon its socket back")
	errs = append(errs, h.systemctl(ctx, "daemon-reload"),
		h.systemctl(ctx, "stop", socketUnit, dockerUnit),
		// Not restart: a stop gives up the gate's socket, which a restart keeps.
		h.systemctl(ctx, "stop", agentUnit))
	h.removeMoved()
	errs = append(errs, h.systemctl(ctx, "start", socketUnit, dockerUnit))
	if err := h.systemctl(ctx, "start", agentUnit); err != nil {
		h.opts.Say("the agent did not start; what it pinned is still enforced: " + err.Error())
	}
	if err := h.answers(ctx, Socket); err != nil {
		errs = append(errs, fmt.Errorf("the daemon does not answer at %s: %w; see journalctl -u docker", Socket, err))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the gate is not wholly taken away: %w", err)
	}
	h.opts.Say("the daemon answers at " + Socket)
	h.disarmTimer(ctx)
	return h.removeState()
}

// forget takes the gate away on a host whose Docker was removed: nobody is to be given a socket back.
func (h *Host) forget(ctx context.Context) error {
	h.opts.Say("Docker is not installed any more: the drop-ins are removed, and no daemon is started")
	err := errors.Join(h.removeDropIns(volatile), h.removeDropIns(persistent), h.systemctl(ctx, "daemon-reload"),
		h.systemctl(ctx, "stop", agentUnit)) // see undo: a restart would keep the gate's socket
	h.removeMoved()
	if err := h.systemctl(ctx, "start", agentUnit); err != nil {
		h.opts.Say("the agent did not start; what it pinned is still enforced: " + err.Error())
	}
	if err != nil {
		return fmt.Errorf("the gate is not wholly taken away: %w", err)
	}
	h.disarmTimer(ctx)
	return h.removeState()
}
