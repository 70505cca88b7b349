package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/load/kube"
	"github.com/belay-project/belay/internal/load/leave"
	loadplace "github.com/belay-project/belay/internal/load/place"
	"github.com/belay-project/belay/internal/load/swarm"
)

// leaveFlags are the flags of belay load leave.
type leaveFlags struct {
	stateDir, id, resume string
	cordon, uncordon     bool
	at                   leave.Where
	within               time.Duration
}

func loadLeaveCommand(t *terminal) *cobra.Command {
	f := &leaveFlags{}
	cmd := &cobra.Command{
		Use:   "leave [UNIT] --orchestrator swarm|kubernetes",
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

Of Kubernetes a unit is a pod, NAMESPACE/NAME. It is evicted, if disruption budgets let
it, and has left once its controller has another that is ready on another node. That
cannot be taken back. With --cordon first the scheduler does not put it here again.

--cordon has nothing new be placed here, and --uncordon ends that; a cordon of somebody
else stays.

One whose process has ended is carried on by the agent, or with --resume: what was asked
is seen through or taken back, and nothing is asked afresh. --manager is another manager
for it, and --orchestrator has all flags replace what its journal says of its place.`,
		Example: `  belay load leave --orchestrator swarm
  belay load leave web --orchestrator swarm
  belay load leave web --orchestrator swarm --manager unix:///run/manager1.sock --within 5m
  belay load leave shop/web-7c9f --orchestrator kubernetes --kubeconfig belay.conf`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1 || len(args) == 1 && f.resume != "":
				return errors.New("want at most one UNIT, and none with --resume")
			case (f.cordon || f.uncordon) && (f.cordon == f.uncordon || len(args) > 0 || f.resume != ""):
				return errors.New("want --cordon or --uncordon, and nothing else to do")
			case f.resume == "" && f.at.Kind == "":
				return errors.New("want --orchestrator swarm or kubernetes")
			case f.at.Kind != "" && f.at.Kind != "swarm" && f.at.Kind != "kubernetes":
				return fmt.Errorf("--orchestrator %q: want swarm or kubernetes", f.at.Kind)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range []*string{&f.at.Manager.CAFile, &f.at.Manager.CertFile, &f.at.Manager.KeyFile, &f.at.Cluster.Kubeconfig} {
				if *p == "" {
					continue
				}
				abs, err := filepath.Abs(*p) // the journal is read from elsewhere
				if err != nil {
					return fmt.Errorf("%s: %w", *p, err)
				}
				*p = abs
			}
			if f.at.Kind == "kubernetes" {
				if err := nameNode(&f.at.Cluster); err != nil {
					return err
				}
			}
			if f.cordon || f.uncordon {
				return t.cordonAt(cmd.Context(), f.at, f.cordon)
			}
			if len(args) == 0 && f.resume == "" {
				return t.listUnits(cmd.Context(), f.at)
			}
			dir, err := movesOf(cmd, f.stateDir)
			if err != nil {
				return err
			}
			o := leave.Options{Dir: dir, Open: openPlacer, Now: t.now, Progress: func(text string) { fmt.Fprintln(t.err, clean(text)) }}
			if f.resume != "" {
				return t.left(leave.Resume(cmd.Context(), o, f.resume, f.at))
			}
			return t.left(leave.Begin(cmd.Context(), o, cmp.Or(f.id, newLeaveID()), args[0], f.at, f.within))
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.at.Kind, "orchestrator", "", "`what` places containers here: swarm or kubernetes")
	fl.StringVar(&f.at.Engine.URL, "engine", "unix:///var/run/docker.sock", "`address` of this node's engine")
	fl.StringVar(&f.at.Manager.URL, "manager", "", "`address` of a manager of the swarm, where this node is none")
	fl.StringVar(&f.at.Manager.CAFile, "tlscacert", "", "`file` with the authority that signed the certificate of --manager")
	fl.StringVar(&f.at.Manager.CertFile, "tlscert", "", "`file` with our certificate for --manager")
	fl.StringVar(&f.at.Manager.KeyFile, "tlskey", "", "`file` with its key")
	fl.StringVar(&f.at.Cluster.Kubeconfig, "kubeconfig", "", "`file` of the cluster (default: this pod's service account)")
	fl.StringVar(&f.at.Cluster.Node, "node", "", "`name` of this node (default: $NODE_NAME, or the host's)")
	fl.BoolVar(&f.cordon, "cordon", false, "have nothing new be placed here")
	fl.BoolVar(&f.uncordon, "uncordon", false, "end --cordon")
	fl.BoolVar(&f.at.Cluster.SoleReplicas, "sole-replicas", false, "let pods leave that nobody would serve for meanwhile")
	fl.BoolVar(&f.at.Cluster.DespiteDescheduler, "despite-descheduler", false, "evict though the cluster has a descheduler")
	fl.DurationVar(&f.within, "within", 15*time.Minute, "`time` that it may take")
	fl.StringVar(&f.resume, "resume", "", "go on with the leave of this `ID`")
	stateDirFlag(fl, &f.stateDir)
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
	switch at.Kind {
	case "swarm":
	case "kubernetes":
		p, err := openCluster(at.Cluster)
		return p, func() {}, err
	default:
		return nil, nil, fmt.Errorf("--orchestrator %q: want swarm or kubernetes", at.Kind)
	}
	s, err := swarm.Open(ctx, at.Engine, at.Manager)
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

func openCluster(c leave.Cluster) (*kube.Placer, error) {
	boot, err := hostinfo.Host{}.BootID()
	if err != nil {
		return nil, err
	}
	return kube.Open(kube.Options{Kubeconfig: c.Kubeconfig, Node: c.Node, BootID: boot, SoleReplicas: c.SoleReplicas, DespiteDescheduler: c.DespiteDescheduler})
}

// nameNode gives this node its name where no flag does: the kubelet's default is the host's.
func nameNode(c *leave.Cluster) error {
	c.Node = cmp.Or(c.Node, os.Getenv("NODE_NAME"))
	if c.Node != "" {
		return nil
	}
	name, err := hostinfo.Host{}.Hostname()
	c.Node = strings.ToLower(name)
	return err
}

// cordonAt has nothing new be placed on this node, or ends that.
func (t *terminal) cordonAt(ctx context.Context, at leave.Where, on bool) error {
	p, closeIt, err := openPlacer(ctx, at)
	if err != nil {
		return err
	}
	defer closeIt()
	if err := p.Cordon(ctx, on); err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(map[string]bool{"cordoned": on})
	}
	if on {
		fmt.Fprintln(t.out, "nothing new is placed on this node")
	} else {
		fmt.Fprintln(t.out, "this node is not kept free by belay any more")
	}
	return nil
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
