package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/output"
)

// anchorEvery is the time between two anchors of a journal that grows.
const anchorEvery = time.Minute

// anchorComponent is the anchors' name in health.
const anchorComponent = "anchor"

// anchorOTLP and anchorNone are, besides kinds of outputs, what Config.Anchor may name.
const (
	anchorOTLP = "otlp"
	anchorNone = "none"
)

// anchorPlaces are what may hold the anchors: what leaves this host.
var anchorPlaces = []string{anchorOTLP, output.KindSyslog, output.KindWebhook}

// checkAnchor decides whether the journal is anchored, and makes sure that what is to hold the
// anchors gets records at all. It runs after the outputs and telemetry are open.
func (a *Agent) checkAnchor() error {
	if len(a.cfg.Anchor) == 0 {
		a.anchoring = slices.ContainsFunc(anchorPlaces, a.sendsTo)
	}
	for _, to := range a.cfg.Anchor {
		switch {
		case to == anchorNone && len(a.cfg.Anchor) == 1:
			return nil
		case to == anchorNone:
			return fmt.Errorf("--anchor %s: it stands alone; fix: leave out it, or the others", to)
		case !slices.Contains(anchorPlaces, to):
			return fmt.Errorf("--anchor %q: want otlp, syslog, webhook or none: what stays on this host proves nothing against its root", to)
		case !a.sendsTo(to) && to == anchorOTLP:
			return errors.New("--anchor otlp: no logs are sent to a collector; fix: give --otlp-endpoint")
		case !a.sendsTo(to):
			return fmt.Errorf("--anchor %s: there is no such output; fix: give --output %s:...", to, to)
		}
		a.anchoring = true
	}
	if a.anchoring && a.records != a.cfg.journalDir() {
		// Its heads would never be found in the journal that is looked at later.
		a.anchoring = false
		a.health.SetDegraded(anchorComponent, "the journal is in the run directory until the next start: it is not anchored")
		a.log.Error("the journal is not anchored: the state directory takes none", attr.Dir, a.cfg.journalDir())
	}
	return nil
}

// sendsTo tells whether one of anchorPlaces gets the journal's records.
func (a *Agent) sendsTo(place string) bool {
	if place == anchorOTLP {
		return a.telemetry.SendsLogs()
	}
	return a.outputs.Has(place)
}

// keepAnchored anchors at once, and then each minute in which the journal grew, until ctx ends.
func (a *Agent) keepAnchored(ctx context.Context) {
	t := time.NewTicker(anchorEvery)
	defer t.Stop()
	for {
		a.anchor()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// anchor appends the heads of the journal to it, and so to all outputs, unless nothing came
// since the last time.
func (a *Agent) anchor() {
	if !a.anchoring || a.journal.Stats().Seq == a.anchored {
		return
	}
	heads, err := a.journal.Anchor()
	if err != nil {
		a.health.Counter("anchors_failed").Add(1)
		a.health.SetDegraded(anchorComponent, "the heads of the journal cannot be noted while it is not written whole: "+err.Error())
		return
	}
	r := &journal.Record{BootID: a.host.BootID, Host: a.host.Hostname, Time: time.Now(), Kind: journal.KindAnchor, Anchor: &heads}
	a.journal.Append(r)
	a.anchored = r.Seq
	a.health.SetOK(anchorComponent)
}
