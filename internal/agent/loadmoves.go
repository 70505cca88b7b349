package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/load/carry"
	loadplan "github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/telemetry"
)

// openMoves reads the cordon and the ledger of moves. Neither keeps the agent from enforcing.
func (a *Agent) openMoves() {
	a.nodes.a = a
	if err := a.cordon.open(a.cfg.StateDir); err != nil {
		a.log.Error("the cordon cannot be read; the node takes no new containers", attr.Error, err.Error())
	}
	spawn.RemoveLeft(moverLimits.Kind)
	var err error
	a.carrier, err = carry.Open(carry.Options{
		File: a.cfg.moveLedger(), StateDir: a.cfg.StateDir, Policies: a.loadPolicies, Over: a.overCap, State: a.nodes.state,
		From: a.moveFrom, Run: a.runMover, NoMover: a.cfg.Mover == "none", Tell: a.tellMove, Health: a.health, Log: a.log,
	})
	if err != nil {
		a.carrier = nil
		a.health.SetFailed("load_moves", err.Error())
		a.log.Error("the ledger of moves cannot be read; nothing is moved", attr.Error, err.Error())
	}
}

func (a *Agent) loadPolicies() []*policy.LoadPolicy {
	if set := a.policies.current(); set != nil {
		return set.LoadPolicies()
	}
	return nil
}

// overCap reports whether the node is over a cap of a policy.
func (a *Agent) overCap(name string) bool {
	return slices.ContainsFunc(a.watcher.Caps(), func(c load.CapStatus) bool { return c.Policy == name && c.State == "over" })
}

// moveFrom is the engine as a mover reaches it. Where the engine asks the authorisation plugin, only
// what comes through the gate passes.
func (a *Agent) moveFrom() string {
	if a.tickets != nil {
		return "unix://" + a.cfg.GateSocket
	}
	return a.cfg.DockerHost
}

var errNoMover = errors.New("there is no mover: belay is neither beside belay-agent nor in /usr/bin; fix: install it, or name it with --mover")

func (c *Config) moverPath() (string, error) {
	switch c.Mover {
	case "none":
		return "", errors.New("nothing is moved by this agent (--mover none)")
	case "":
		places := []string{"/usr/bin/belay"}
		if self, err := os.Executable(); err == nil {
			places = []string{filepath.Join(filepath.Dir(self), "belay"), places[0]}
		}
		for _, p := range places {
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
				return p, nil
			}
		}
		return "", errNoMover
	}
	return c.Mover, nil
}

// moverLimits are a mover's own: what it copies must not cost the gate's answers, and its end not be the agent's.
var moverLimits = spawn.Limits{Kind: "belay-move-", MemoryMax: 256 << 20, Processors: 1}

// leaveGrace is how long a leave may take, when the agent ends, to take back what it has asked for: nobody
// looks after it until the next.
const leaveGrace = 10 * time.Second

// runMover runs belay with arguments until it has ended. It ends with the agent, and its
// journal tells the next how far it had come, and the traces which steps it took.
func (a *Agent) runMover(ctx context.Context, id string, args []string) (err error) {
	path, err := a.cfg.moverPath()
	if err != nil {
		return err
	}
	op := telemetry.Begin("move", map[string]string{"belay.move.id": id})
	defer func() {
		steps, serr := carry.Steps(a.cfg.movesDir(), id, op.Start, time.Now())
		if serr != nil && err == nil {
			a.log.Warn("the steps of a move are not in its trace", attr.Error, serr.Error())
		}
		for _, s := range steps {
			op.Stages = append(op.Stages, telemetry.Stage{Name: s.Name, Start: s.Begin, End: s.End, Err: s.Err})
		}
		a.telemetry.Did(op.Done(err))
	}()
	// The kernel ends a child with the thread that started it, not with the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	limits := moverLimits
	if args[0] == "load" {
		limits.Grace = leaveGrace
	}
	err = spawn.CommandIn(ctx, limits, path, args, nil, 0)
	exit, ok := errors.AsType[*spawn.ExitError](err)
	switch {
	case !ok:
		return err
	case exit.Stderr == "":
		return &carry.MoverError{Status: exit.Code, Text: err.Error()}
	}
	return &carry.MoverError{Status: exit.Code, Text: lastError(exit.Stderr)}
}

// followLoad keeps the cordon in step with the caps, until ctx ends.
func (a *Agent) followLoad(ctx context.Context) {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		a.stepCordon()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (a *Agent) stepCordon() {
	ps := a.loadPolicies()
	begun, ended := a.cordon.follow(a.watcher.Caps(), ps)
	does := slices.IndexFunc(ps, func(p *policy.LoadPolicy) bool { return p.Spec.Does(policy.LoadCordon) })
	var p *policy.LoadPolicy
	if does >= 0 {
		p = ps[does]
	}
	switch {
	case begun:
		a.tellCordon("cordoned", "the node takes no new containers: "+a.cordon.why(), "policy", p)
	case ended:
		a.tellCordon("uncordoned", "the node takes new containers again: it is below its caps", "policy", p)
	}
	switch {
	case does >= 0 && !a.cfg.gate():
		a.health.SetDegraded("load_cordon", "a LoadPolicy cordons, and there is no gate that could refuse containers; fix: leave out --gate-socket none")
		a.ungated = true
	case a.ungated:
		a.health.SetOK("load_cordon")
		a.ungated = false
	}
}

func (a *Agent) tellCordon(event, text, by string, p *policy.LoadPolicy) {
	al := &load.Alert{Event: event, Cap: "cordon", Time: time.Now(), Message: text}
	if p != nil {
		al.Policy, al.Revision = p.Name, p.Revision
	}
	r := a.loadRecord(al)
	r.Load.By = by
	a.journal.Append(r)
	a.notifier.Offer(al, p)
}

// tellMove puts what became of a plan or move into the journal, and has administrators told.
func (a *Agent) tellMove(n carry.Note) {
	al := &load.Alert{Event: n.Event, Policy: n.Policy, Cap: "moves", Time: n.Time, Message: n.Text}
	var p *policy.LoadPolicy
	for _, q := range a.loadPolicies() {
		if q.Name == n.Policy {
			p, al.Revision = q, q.Revision
		}
	}
	if n.Container != "" {
		al.Container = &load.Subject{ID: ident.ContainerID(n.Container), Name: n.Name}
	}
	r := a.loadRecord(al)
	r.Load.Plan, r.Load.Move, r.Load.To, r.Load.By = n.Plan, n.Move, n.To, n.By
	a.journal.Append(r)
	if !n.Also {
		a.notifier.Offer(al, p)
	}
}

var _ control.LoadManager = (*Agent)(nil)

// LoadNode implements [control.LoadManager].
func (a *Agent) LoadNode(ctx context.Context) (*loadplan.Description, error) {
	return a.nodes.describe(ctx, "", nil)
}

// LoadState implements [control.LoadManager].
func (a *Agent) LoadState(ctx context.Context, name string) (*loadplan.State, error) {
	ps := slices.DeleteFunc(a.loadPolicies(), func(p *policy.LoadPolicy) bool { return !p.Spec.Plans() || name != "" && p.Name != name })
	switch {
	case len(ps) == 0 && name != "":
		return nil, &control.Error{Status: 404, Message: fmt.Sprintf("no LoadPolicy %q with the action propose or migrate is in force", name)}
	case len(ps) == 0:
		return nil, &control.Error{Status: 404, Message: "no LoadPolicy with the action propose or migrate is in force, so no container is movable and there is no target; fix: apply one (docs/load-policy.md), or describe nodes in a file (--file)"}
	case len(ps) > 1:
		return nil, &control.Error{Status: 409, Message: fmt.Sprintf("several LoadPolicies plan moves; fix: name one, such as --policy %s", ps[0].Name)}
	}
	s, self, err := a.nodes.state(ctx, ps[0])
	if err != nil {
		return nil, err
	}
	s.Sources = []string{self}
	if a.carrier != nil {
		s.History = append(s.History, a.carrier.History(self)...)
	}
	return s, nil
}

// LoadMoves implements [control.LoadManager].
func (a *Agent) LoadMoves(context.Context) (*control.LoadMoves, error) {
	out := &control.LoadMoves{Cordon: a.cordon.why(), Plans: []control.LoadPlan{}, Moves: []control.LoadMove{}, NoPlan: map[string]string{}}
	if a.carrier == nil {
		return out, nil
	}
	s := a.carrier.Status()
	out.NoPlan = s.NoPlan
	for i := range s.Proposals {
		q := &s.Proposals[i]
		p := control.LoadPlan{ID: q.ID, Policy: q.Policy, Made: q.Made, State: q.State, Because: q.Because, By: q.By, Decided: q.Decided, Reason: q.Reason, Moves: []control.LoadPlanned{}}
		for _, m := range q.Moves {
			p.Moves = append(p.Moves, control.LoadPlanned{Names: m.Names, To: m.To, Why: m.Why, Move: m.Move, Skipped: m.Skipped, Held: m.Held})
		}
		out.Plans = append(out.Plans, p)
	}
	for i := range s.Moves {
		m := &s.Moves[i]
		mv := control.LoadMove{
			ID: m.ID, Plan: m.Proposal, Policy: m.Policy, Name: m.Name, To: m.To, Began: m.Began, Ended: m.Ended, Outcome: cmp.Or(m.Outcome, "under way"),
			Step: m.Step, Error: m.Error,
		}
		for _, w := range m.With {
			mv.With = append(mv.With, w.Name)
		}
		out.Moves = append(out.Moves, mv)
	}
	return out, nil
}

// LoadDecide implements [control.LoadManager].
func (a *Agent) LoadDecide(_ context.Context, who *control.Caller, q *control.LoadRequest) error {
	if a.carrier == nil {
		return &control.Error{Status: 503, Message: "the ledger of moves cannot be read: see belay status"}
	}
	_, err := a.carrier.Decide(q.Plan, q.Approve, callerName(who), q.Reason)
	switch {
	case errors.Is(err, carry.ErrNoPlan):
		return &control.Error{Status: 404, Message: err.Error()}
	case errors.Is(err, carry.ErrDecided):
		return &control.Error{Status: 409, Message: err.Error()}
	}
	return err
}

// LoadCordon implements [control.LoadManager].
func (a *Agent) LoadCordon(_ context.Context, who *control.Caller, q *control.LoadRequest) error {
	if q.Cordon && !a.cfg.gate() {
		return &control.Error{Status: 409, Message: "there is no gate that could refuse containers; fix: leave out --gate-socket none"}
	}
	by := callerName(who)
	var h *handCordon
	event, text := "uncordoned", "the cordon by hand was lifted by "+by
	if q.Cordon {
		h = &handCordon{By: by, Since: time.Now(), Reason: q.Reason}
		event = "cordoned"
	}
	if err := a.cordon.set(h); err != nil {
		return err
	}
	if q.Cordon {
		text = "the node takes no new containers: " + a.cordon.why()
	}
	a.tellCordon(event, text, by, nil)
	return nil
}

// callerName says who decided, for records and messages.
func callerName(who *control.Caller) string {
	name := cmp.Or(who.Subject.Name, "uid "+strconv.Itoa(int(who.Subject.UID)))
	if who.LoginUID != nil && *who.LoginUID != who.Subject.UID {
		name += fmt.Sprintf(" (login uid %d)", *who.LoginUID)
	}
	return name
}

// lastError returns what a mover said last: after lines of progress, why it failed.
func lastError(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	for i, line := range slices.Backward(lines) {
		if rest, ok := strings.CutPrefix(line, "belay: "); ok {
			return strings.Join(append([]string{rest}, lines[i+1:]...), "; ")
		}
	}
	return lines[len(lines)-1]
}
