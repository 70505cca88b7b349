package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	sdklog "go.opentelemetry.io/otel/sdk/log"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// Replay sends records to a collector once more, as the logs that they were, one batch after the
// other, for who can wait. It makes no spans and no metrics. One goroutine uses it.
type Replay struct {
	o        Options
	exporter sdklog.Exporter
	pump     *pump.Pump[*journal.Record]
	sink     *logSink // of the boot below
	boot     bootKey
	trouble  atomic.Value // string
}

// bootKey names what the resource of a log says.
type bootKey struct{ host, boot string }

// OpenReplay opens the way to the collector that the options and the OTEL_* variables name. It
// connects to nobody yet. Options.Health may be nil.
//
// Errors: they name none; settings that have no meaning; a certificate that cannot be read.
func OpenReplay(ctx context.Context, o Options) (*Replay, error) {
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	p, err := o.plan()
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if p.otlp[logs] == "" {
		return nil, errors.New("no collector is named; fix: give --otlp-endpoint URL, or set OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	r := &Replay{o: o}
	if r.exporter, err = o.logExporter(ctx, p); err != nil {
		return nil, describe(logs, err)
	}
	r.pump = pump.New(o.pump(o.Batch), r.send, func(err error) {
		msg := ""
		if err != nil {
			msg = describe(logs, err).Error()
		}
		r.trouble.Store(msg)
	})
	return r, nil
}

// Deliver sends records in their order, and returns when they were sent or dropped: the counts tell.
func (r *Replay) Deliver(ctx context.Context, batch []*journal.Record) {
	for len(batch) > 0 {
		k, n := bootKey{batch[0].Host, batch[0].BootID}, 1
		for n < len(batch) && (bootKey{batch[n].Host, batch[n].BootID}) == k {
			n++
		}
		r.pump.Deliver(ctx, batch[:n])
		batch = batch[n:]
	}
}

// send sends records of one boot. The resource says of which, as it did when they were sent first.
func (r *Replay) send(ctx context.Context, batch []*journal.Record) error {
	if k := (bootKey{batch[0].Host, batch[0].BootID}); r.sink == nil || r.boot != k {
		o := r.o
		o.Host, o.BootID = k.host, k.boot
		res, err := o.resource(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", pump.ErrRefused, err)
		}
		r.sink, r.boot = newLogSink(r.exporter, sdklog.WithResource(res)), k
	}
	entries := make([]entry, len(batch))
	for i, rec := range batch {
		entries[i].r = rec
	}
	return r.sink.send(ctx, entries)
}

// Sent returns how many records the collector took.
func (r *Replay) Sent() uint64 { return r.pump.Sent() }

// Drops returns how many it did not, by cause.
func (r *Replay) Drops() map[string]uint64 { return r.pump.Drops() }

// Trouble is why the last try failed, or empty.
func (r *Replay) Trouble() string {
	s, _ := r.trouble.Load().(string)
	return s
}

// Close ends the connection.
func (r *Replay) Close() error { return r.exporter.Shutdown(context.Background()) }
