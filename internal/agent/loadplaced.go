package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/load/place"
	loadplan "github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/sandbox/spawn"
)

// Bounds of the answer of what places containers: a unit is some 100 bytes a container.
const (
	placedTime = 40 * time.Second
	maxPlaced  = 4 << 20
)

// placed asks what an orchestrator has placed on this node. The mover's program does: it links what
// speaks to orchestrators.
func (a *Agent) placed(ctx context.Context, o *policy.Orchestrator) ([]place.Unit, error) {
	path, err := a.cfg.moverPath()
	if err != nil {
		return nil, err
	}
	// The kernel ends a child with the thread that started it, not with the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	args := append([]string{"load", "leave", "-o", "json"}, o.Arguments(a.moveFrom())...)
	out, err := spawn.OutputIn(ctx, moverLimits, path, args, maxPlaced, placedTime)
	if exit, ok := errors.AsType[*spawn.ExitError](err); ok && exit.Stderr != "" {
		err = errors.New(lastError(exit.Stderr))
	}
	if err != nil {
		return nil, err
	}
	var us []place.Unit
	if err := json.Unmarshal(out, &us); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return us, nil
}

// orchestrated tells a description of this node what an orchestrator says of its containers, and
// returns the orchestrator as a planner sees it. One that cannot be asked takes nothing.
func orchestrated(self *loadplan.Node, kind string, us []place.Unit, err error, now time.Time) loadplan.Node {
	at := loadplan.Node{Name: kind, Places: true, Accepts: true, Seen: now}
	if err != nil {
		at.Accepts, at.Refuses = false, "it cannot be asked: "+err.Error()
	}
	for i := range self.Containers {
		c := &self.Containers[i]
		j := slices.IndexFunc(us, func(u place.Unit) bool { return slices.Contains(u.Containers, c.ID) })
		if j < 0 {
			c.Other = append(slices.Clip(c.Other), kind+" has not placed it, or cannot be asked, and this policy moves nothing else")
			continue
		}
		u := &us[j]
		c.Placed = &loadplan.Placed{Unit: u.ID, Name: u.Name, Stays: u.Stays}
		if u.Owner != "" {
			c.Placed.Name = u.Owner
		}
		c.Life.Arrived = u.Arrived
	}
	return at
}
