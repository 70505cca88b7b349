package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/load/carry"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/telemetry"
)

// tell sends what a command did to the collector that the OTEL_* variables name, below the span
// that TRACEPARENT names. Whatever becomes of that, the command ends as it would.
func (t *terminal) tell(ctx context.Context, d *telemetry.Doing, err error) {
	if _, usage := errors.AsType[usageError](err); usage {
		return // nothing was done
	}
	op := d.Done(err)
	op.TraceParent = os.Getenv("TRACEPARENT")
	host, _ := hostinfo.Host{}.Info() // what cannot be read is empty
	o := telemetry.Options{Service: "belay", Version: version, Host: host.Hostname, BootID: host.BootID, Log: slog.New(slog.DiscardHandler)}
	if err := telemetry.Report(context.WithoutCancel(ctx), o, op); err != nil {
		fmt.Fprintln(t.err, "! the trace of this was not sent: "+clean(err.Error()))
	}
}

// notDone is the error of a scan that was not done: that an image does not pass is none.
func notDone(err error) error {
	if _, verdict := errors.AsType[statusError](err); verdict {
		return nil
	}
	return err
}

// moving runs a move, or a part of one, and tells of the steps that it took.
func (t *terminal) moving(cmd *cobra.Command, f *moveFlags, run func(*move.Mover) (*move.Journal, error)) (*move.Journal, error) {
	tell, end := t.moveProgress(t.meter())
	m, dir, err := t.mover(cmd, f, tell)
	if err != nil {
		return nil, err
	}
	since := t.now()
	d := telemetry.Begin("move", map[string]string{})
	j, err := run(m)
	end()
	if j != nil {
		d.Attributes["belay.move.id"] = j.ID
		steps, serr := carry.Steps(dir, j.ID, since, t.now())
		if serr != nil {
			fmt.Fprintln(t.err, "! the steps of the move are not in its trace: "+clean(serr.Error()))
		}
		for _, s := range steps {
			d.Stages = append(d.Stages, telemetry.Stage{Name: s.Name, Start: s.Begin, End: s.End, Err: s.Err})
		}
	}
	t.tell(cmd.Context(), d, err)
	return j, err
}

// maxToldImages bounds the stages of a scan of registries.
const maxToldImages = 1000

// told notes an image of a registry that was scanned, or could not be.
func (s *sweep) told(ref string, since time.Time, err error) {
	if len(s.doing.Stages) < maxToldImages {
		s.doing.Stages = append(s.doing.Stages, telemetry.Stage{
			Name: "image", Start: since, End: time.Now(), Attributes: map[string]string{"belay.scan.target": ref}, Err: err,
		})
	}
}
