package agent

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/belay-project/belay/internal/apicall"
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
		levels: func() map[verdict.Rule]verdict.Level { return a.levels }, elevated: a.elevatedFor,
	}
	a.manager.undoUnfinished()
	return nil
}

// elevatedFor tells whether a user of this host has shown a second factor for an action, in
// the login session that it calls from. A session that cannot be known has no elevation.
func (a *Agent) elevatedFor(sub *apicall.Subject, action string) bool {
	if sub.Kind != apicall.User || !a.elevations.Any(sub.UID) {
		return false
	}
	id := &peer.Identifier{Workload: gateWorkload{a}}
	session, err := id.Session(sub)
	if err != nil {
		a.log.Warn("the login session of a caller is not known: no elevation counts", attr.PID, sub.PID, attr.Error, err.Error())
		return false
	}
	_, ok := a.elevations.Covering(sub.UID, session, action, nil, time.Now())
	return ok
}

func (a *Agent) manageOptions() *control.ManageOptions {
	id := &peer.Identifier{Workload: gateWorkload{a}}
	return &control.ManageOptions{Manager: a.manager, Identify: id.Of, Login: id.Login, Screen: a.manager.screen, Admit: a.manager.admit}
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
