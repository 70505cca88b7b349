package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// useTime bounds a look at a container's processes, each of which may keep it waiting, and the
// question to the agent.
const useTime = 5 * time.Second

// usesOf returns what is seen of the packages of a running container: by a look at its
// processes now, and by those that the agent has taken since it was started. Nil if it does
// not run.
func (t *terminal) usesOf(ctx context.Context, id ident.ContainerID, res *inventory.Result) []inventory.Use {
	ctx, cancel := context.WithTimeout(ctx, useTime)
	defer cancel()
	pids, err := inuse.Proc{}.Processes()
	if err != nil || len(pids[id]) == 0 {
		return nil
	}
	var seen inuse.Seen
	if u, err := t.client().ContainerUse(ctx, string(id)); err == nil && u.ID == string(id) {
		seen = u.Seen
	}
	looked := make(chan *inuse.Look, 1)
	go func() { looked <- inuse.Proc{}.Look(pids[id], t.now()) }() // the process ends before it, at worst
	select {
	case l := <-looked:
		seen.Add(l)
	case <-ctx.Done():
		seen.Unread++
	}
	return inuse.NewIndex(res).Uses(&seen)
}

// attachUses puts them onto the findings and orders these by urgency.
func attachUses(s *report.Scan, uses []inventory.Use) {
	if uses == nil {
		return
	}
	for i := range s.Findings {
		s.Findings[i].Use = &uses[s.Findings[i].Package]
	}
	slices.SortStableFunc(s.Findings, func(a, b vulndb.Finding) int { return a.Urgency(&b) })
}

// useText is a use in a table.
func useText(u *inventory.Use) string {
	if u == nil {
		return "-"
	}
	text := u.String()
	if u.State == inventory.NotSeen {
		text = "not seen since " + u.Since.UTC().Format("01-02 15:04")
	}
	return cmp.Or(text, inventory.UseUnknown)
}

// useLine says what the column is from.
func useLine(s *report.Scan) string {
	i := slices.IndexFunc(s.Findings, func(f vulndb.Finding) bool { return f.Use != nil && f.Use.Looks > 0 })
	if i < 0 {
		return ""
	}
	u := s.Findings[i].Use
	return "in use as seen in " + count(u.Looks, "look", "looks") + " at its processes since " + u.Since.UTC().Format(time.DateTime) + " UTC; what was not seen may be in use all the same"
}
