package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/stock"
	"github.com/belay-project/belay/internal/verdict"
	"github.com/belay-project/belay/internal/workload"
)

// Images implements [control.Agent].
func (a *Agent) Images(ctx context.Context) ([]control.Image, error) {
	ids := map[string]bool{}
	for _, c := range a.binder.registry.List() {
		if c.ImageDigest != "" {
			ids[c.ImageDigest] = true
			a.images.learn(ctx, c.Runtime, c.ImageDigest)
		}
	}
	for _, s := range a.images.keeper.List() {
		ids[s.ID] = true
	}
	var out []control.Image
	for id := range ids {
		if len(a.images.said(id)) == 0 {
			a.images.learn(ctx, workload.RuntimeDocker, id)
		}
		line, _ := a.images.line(id, id)
		out = append(out, line)
	}
	slices.SortFunc(out, func(x, y control.Image) int {
		return cmp.Or(-cmp.Compare(x.Running, y.Running), strings.Compare(strings.Join(x.Names, " "), strings.Join(y.Names, " ")), strings.Compare(x.ID, y.ID))
	})
	return out, nil
}

// line describes an image, and what is decided of it under the name by which it is asked for.
func (im *images) line(id, asked string) (control.Image, policy.ImageDecision) {
	s, _ := im.keeper.State(id)
	line := control.Image{
		ID: id, Names: im.names(id), Scanned: s.At, Queued: s.Queued, Error: s.Err, OS: s.OS, Packages: s.Count,
		Findings: map[string]int{}, Complete: s.Complete, Database: s.Database, UsedBy: []string{},
	}
	for i := range s.Findings {
		f := &s.Findings[i]
		line.Findings[f.Severity.String()]++
		if f.Fixed != "" {
			line.Fixable++
		}
		if f.Exploited {
			line.Exploited++
		}
	}
	for _, c := range im.users(id, false) {
		line.UsedBy = append(line.UsedBy, cmp.Or(c.Name, c.ID.Short()))
		if c.State == workload.StateRunning {
			line.Running++
		}
	}
	if !im.rules().Any() {
		return line, policy.ImageDecision{Allowed: true, Reason: "there is no image policy"}
	}
	d := im.unknown(errors.New("it has no such image any more"))
	for i, img := range im.said(id) { // a denial, if its containers of one runtime may not start
		if one := im.rules().Decide(im.facts(img, asked, nil), time.Now()); i == 0 || d.Allowed && !one.Allowed {
			d = one
		}
	}
	line.Decision, line.Policy, line.Rule = d.Word(), d.Policy, d.Rule
	return line, d
}

// ExplainImage implements [control.Agent].
func (a *Agent) ExplainImage(ctx context.Context, ref string) (*control.ImageExplanation, error) {
	img, err := a.images.ask(ctx, workload.RuntimeDocker, ref)
	if errors.Is(err, workload.ErrNoImage) {
		return nil, fmt.Errorf("%q: %w", ref, control.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	line, d := a.images.line(img.ID, ref)
	e := &control.ImageExplanation{
		Image: line, Judged: a.images.rules().Any(), Reason: d.Reason, Details: d.Details, Expired: d.Expired,
		Notes: []string{}, List: []control.ImageFinding{}, Level: a.levels[verdict.RulePathDeny].String(),
	}
	s, _ := a.images.keeper.State(img.ID)
	e.Notes = notesOf(&s)
	list := a.uses.attach(img.ID, s.Findings)
	slices.SortStableFunc(list, func(x, y policy.ImageFinding) int { return x.Urgency(&y) })
	for i := range list {
		f := &list[i]
		e.List = append(e.List, control.ImageFinding{
			IDs: f.IDs, About: f.About, Severity: f.Severity.String(), Package: f.Package, Version: f.Version, Fixed: f.Fixed, Exploited: f.Exploited,
			EPSS: f.EPSS, Use: f.Use, Symbols: f.Symbols, FirstSeen: f.FirstSeen,
		})
	}
	return e, nil
}

func notesOf(s *stock.State) []string {
	out := []string{}
	for _, n := range s.Notes {
		text := n.Text
		if n.Path != "" {
			text += ": " + n.Path
		}
		if n.Count > 1 {
			text += fmt.Sprintf(", and %d more", n.Count-1)
		}
		out = append(out, text)
	}
	return out
}
