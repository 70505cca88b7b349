package agent

import (
	"fmt"
	"path/filepath"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/revision"
	"github.com/belay-project/belay/internal/verdict"
)

// openManager opens the history of the policies, and undoes a change that an agent left
// half made, before the policies are read.
func (a *Agent) openManager() error {
	history, err := revision.Open(a.cfg.historyDir())
	if err != nil {
		// It does not keep the agent from enforcing, as that of the journal does not.
		a.log.Error("the state directory takes no history of policies; it goes to the run directory until the next start", attr.Error, err.Error())
		a.health.SetDegraded("policy_history", err.Error())
		if history, err = revision.Open(filepath.Join(a.cfg.RunDir, "policy-history")); err != nil {
			return err
		}
	} else {
		a.health.SetOK("policy_history")
	}
	a.manager = &manager{
		policies: a.policies, history: history, reload: a.load, record: a.Record, note: a.note, log: a.log,
		levels: func() map[verdict.Rule]verdict.Level { return a.levels },
	}
	a.manager.undoUnfinished()
	return nil
}

func (a *Agent) manageOptions() *control.ManageOptions {
	id := &peer.Identifier{Workload: gateWorkload{a}}
	return &control.ManageOptions{Manager: a.manager, Identify: id.Of, Screen: a.manager.screen}
}

// listenUsers opens the socket for others than root.
func (a *Agent) listenUsers() (*control.Server, error) {
	o := control.Options{Path: a.cfg.UsersSocket(), Manage: a.manageOptions(), UsersOnly: true, Log: a.log}
	if a.cfg.UsersGroup != "*" {
		gid, err := groupID(a.cfg.UsersGroup)
		if err != nil {
			return nil, err
		}
		if gid == 0 {
			return nil, fmt.Errorf("--users-group %s: that is the group of root, which needs none", a.cfg.UsersGroup)
		}
		o.GID = gid
	}
	return control.Listen(nil, o)
}
