package agent

import (
	"context"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/output"
	"github.com/belay-project/belay/internal/scan/stock"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
)

// openTelemetry opens what the configuration and the OTEL_* variables ask for. Settings that
// are wrong keep the agent from starting, since nobody would miss what is never sent.
func (a *Agent) openTelemetry() error {
	c := &a.cfg.Telemetry
	var err error
	a.telemetry, err = telemetry.Open(context.Background(), telemetry.Options{
		Endpoint: c.Endpoint, Protocol: c.Protocol, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, Prometheus: c.Prometheus,
		Version: a.cfg.Version, Host: a.host.Hostname, BootID: a.host.BootID, Observe: a.observed, Health: a.health, Log: a.log,
		Enforcing: func() bool {
			ok, _ := a.enforcing()
			return a.opened.Load() && ok
		},
	})
	return err
}

// openOutputs opens what the configuration asks for; settings that are wrong keep the agent from
// starting, as those of telemetry do.
func (a *Agent) openOutputs() error {
	var err error
	a.outputs, err = output.Open(output.Options{Specs: a.cfg.Outputs, Version: a.cfg.Version, Health: a.health, Log: a.log})
	return err
}

// tap is what sees the journal's records; nil: nobody does.
func (a *Agent) tap() func(*journal.Record) {
	switch {
	case a.outputs == nil && a.telemetry == nil:
		return nil
	case a.outputs == nil:
		return a.telemetry.Take
	case a.telemetry == nil:
		return a.outputs.Take
	}
	return func(r *journal.Record) {
		a.telemetry.Take(r)
		a.outputs.Take(r)
	}
}

// runTelemetry sends until the function that it returns is called, which waits until what
// is left is sent or given up.
func (a *Agent) runTelemetry(ctx context.Context) (stop func()) {
	if a.telemetry == nil {
		return func() {}
	}
	a.opened.Store(true)
	return untilStopped(ctx, a.telemetry.Run)
}

// runOutputs is runTelemetry for the outputs.
func (a *Agent) runOutputs(ctx context.Context) (stop func()) {
	if a.outputs == nil {
		return func() {}
	}
	return untilStopped(ctx, a.outputs.Run)
}

// untilStopped runs something past the end of ctx, until the function that it returns is called.
func untilStopped(ctx context.Context, run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// outputStatus is what `belay status` tells of the outputs.
func (a *Agent) outputStatus() []control.OutputStatus {
	var out []control.OutputStatus
	for _, s := range a.outputs.Status() {
		out = append(out, control.OutputStatus(s))
	}
	return out
}

// observed is the agent's state for metrics.
func (a *Agent) observed() telemetry.Observed {
	if !a.opened.Load() {
		return telemetry.Observed{}
	}
	o := telemetry.Observed{Levels: map[string]verdict.Level{}, Counters: map[string]uint64{}, Journal: a.journal.Stats()}
	for _, c := range a.health.Snapshot().Counters {
		o.Counters[c.Name] = c.Value
	}
	o.Backend = a.kernel.Backend()
	o.Enforcing = a.policed()
	for rule, l := range a.levels {
		o.Levels[rule.String()] = l
	}
	if failures, err := a.kernel.Failures(); err == nil {
		o.Kernel = failures
	}
	for _, m := range a.kernel.MapFill() {
		o.Maps = append(o.Maps, telemetry.MapFill{Name: m.Name, Used: m.Used, Max: m.Max})
		if m.Name == "bl_containers" {
			o.Containers = m.Used
		}
	}
	o.Loads, o.Pressure = a.loadLevels(), load.Pressure("/proc")
	for _, s := range a.outputs.Status() {
		o.Outputs = append(o.Outputs, telemetry.OutputCount{Name: s.Name, Sent: s.Sent, Queued: s.Queued, Dropped: s.Dropped})
	}
	if c := a.own.cap; c != nil {
		o.Own = telemetry.OwnCaps{Memory: a.own.memory.Load(), MemoryMax: c.Memory, Step: uint8(a.own.at())}
	}
	for _, s := range a.images.keeper.List() {
		o.Scans = append(o.Scans, telemetry.ImageAge{ID: s.ID, At: s.At})
		if s.Database.After(o.Database) {
			o.Database = s.Database
		}
	}
	return o
}

// scanTimed tells of a scan of an image of this host.
func (a *Agent) scanTimed(s stock.Timing) {
	a.telemetry.Did(telemetry.Operation{
		Name: "scan", Start: s.Start, End: s.End, Err: s.Err, Attributes: map[string]string{"belay.image.id": s.ID},
		Stages: []telemetry.Stage{{Name: "read", Start: s.Start, End: s.Read}, {Name: "match", Start: s.Read, End: s.End}},
	})
}
