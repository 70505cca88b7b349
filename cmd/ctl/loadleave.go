package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/load/leave"
	loadplace "github.com/belay-project/belay/internal/load/place"
	"github.com/belay-project/belay/internal/load/swarm"
)

// leaveFlags are the flags of belay load leave.
type leaveFlags struct {
	dir, id, resume string
	at              leave.Where
	within          time.Duration
}

func loadLeaveCommand(t *terminal) *cobra.Command {
	f := &leaveFlags{}
	cmd := &cobra.Command{
		Use:   "leave [UNIT] --orchestrator swarm",
		Short: "Have what an orchestrator placed here leave this node; needs no agent",
		Long: `leave asks the orchestrator of this node to run a unit elsewhere, and waits until it is
ready there and gone here. Where it goes is the orchestrator's to say. Without UNIT it
lists what is here and why it would stay. UNIT is a name, an ID, or the ID of a container.

Of Docker Swarm a unit is all tasks of one service that are on this node. The service gets
a placement constraint that this node does not meet, so that Swarm replaces those tasks
alone, in the order and with the checks of the service's update settings; when they have
left, the constraint is taken out again. A service that is down while its one task is
replaced has the update order stop-first; docker service update --update-order start-first
changes that. What fails is taken back, and what is not done within the time of --within.

One whose process has ended is carried on by the agent, or with --resume.`,
		Example: `  belay load leave --orchestrator swarm
  belay load leave web --orchestrator swarm
  belay load leave web --orchestrator swarm --manager unix:///run/manager1.sock --within 5m`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1 || len(args) == 1 && f.resume != "":
				return errors.New("want at most one UNIT, and none with --resume")
			case f.resume == "" && f.at.Kind == "":
				return errors.New("want --orchestrator swarm")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range []*string{&f.at.Manager.CAFile, &f.at.Manager.CertFile, &f.at.Manager.KeyFile, &f.dir} {
				if *p == "" {
					continue
				}
				abs, err := filepath.Abs(*p) // the journal is read from elsewhere
				if err != nil {
					return fmt.Errorf("%s: %w", *p, err)
				}
				*p = abs
			}
			if len(args) == 0 && f.resume == "" {
				return t.listUnits(cmd.Context(), f.at)
			}
			o := leave.Options{Dir: f.dir, Open: openPlacer, Now: t.now, Progress: func(text string) { fmt.Fprintln(t.err, clean(text)) }}
			if f.resume != "" {
				return t.left(leave.Resume(cmd.Context(), o, f.resume))
			}
			return t.left(leave.Begin(cmd.Context(), o, cmp.Or(f.id, newLeaveID()), args[0], f.at, f.within))
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.at.Kind, "orchestrator", "", "`what` places containers here: swarm")
	fl.StringVar(&f.at.Engine.URL, "engine", "unix:///var/run/docker.sock", "`address` of this node's engine")
	fl.StringVar(&f.at.Manager.URL, "manager", "", "`address` of a manager of the swarm, where this node is none")
	fl.StringVar(&f.at.Manager.CAFile, "tlscacert", "", "`file` with the authority that signed the certificate of --manager")
	fl.StringVar(&f.at.Manager.CertFile, "tlscert", "", "`file` with our certificate for --manager")
	fl.StringVar(&f.at.Manager.KeyFile, "tlskey", "", "`file` with its key")
	fl.DurationVar(&f.within, "within", 15*time.Minute, "`time` that it may take")
	fl.StringVar(&f.resume, "resume", "", "go on with the leave of this `ID`")
	fl.StringVar(&f.dir, "state-dir", "/var/lib/belay/moves", "`directory` of the journals of moves")
	fl.StringVar(&f.id, "id", "", "`ID` of the leave, 16 hexadecimal digits; for who starts this command")
	if err := fl.MarkHidden("id"); err != nil {
		panic(err) // it is there
	}
	return cmd
}

func newLeaveID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// openPlacer opens what places containers.
func openPlacer(ctx context.Context, at leave.Where) (loadplace.Placer, func(), error) {
	if at.Kind != "swarm" {
		return nil, nil, fmt.Errorf("--orchestrator %q: want swarm", at.Kind)
	}
	s, err := swarm.Open(ctx, at.Engine, at.Manager)
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

func (t *terminal) listUnits(ctx context.Context, at leave.Where) error {
	p, closeIt, err := openPlacer(ctx, at)
	if err != nil {
		return err
	}
	defer closeIt()
	us, err := p.Units(ctx)
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(us)
	}
	if len(us) == 0 {
		fmt.Fprintln(t.out, "nothing is placed on this node")
		return nil
	}
	tb := t.table("", "UNIT", "CONTAINERS", "LEAVES")
	for i := range us {
		may := cell{"yes", green}
		if us[i].Stays != "" {
			may = cell{"no: " + us[i].Stays, yellow}
		}
		tb.row(plain(us[i].Name), plain(fmt.Sprint(len(us[i].Containers))), may)
	}
	tb.writeTo(t.out)
	return nil
}

// left shows what a leave came to.
func (t *terminal) left(j *leave.Journal, err error) error {
	if j == nil {
		return err
	}
	if t.output == formatJSON {
		return errors.Join(t.writeJSON(j), err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "leave %s: %s is %s\n", j.ID, clean(j.Name), j.Phase)
	return nil
}
