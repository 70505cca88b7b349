package output

import (
	"context"
	"errors"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
)

// Replay sends records to one output once more, one batch after the other, for who can wait. One
// goroutine uses it.
type Replay struct{ out *output }

// OpenReplay opens the output that the only one of Options.Specs names. It connects to nobody yet.
// Options.Health may be nil.
//
// Errors: as those of [Open].
func OpenReplay(o Options) (*Replay, error) {
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if len(o.Specs) != 1 {
		return nil, errors.New("want one output")
	}
	s, err := Open(o)
	if err != nil {
		return nil, err
	}
	return &Replay{s.list[0]}, nil
}

// Name is the output's, without credentials.
func (r *Replay) Name() string { return r.out.name }

// Deliver sends records in their order, and returns when they were sent or dropped: the counts tell.
func (r *Replay) Deliver(ctx context.Context, batch []*journal.Record) {
	r.out.pump.Deliver(ctx, batch)
}

// Sent returns how many records were sent.
func (r *Replay) Sent() uint64 { return r.out.pump.Sent() }

// Drops returns how many were not, by cause.
func (r *Replay) Drops() map[string]uint64 { return r.out.pump.Drops() }

// Trouble is why the last try failed, or empty.
func (r *Replay) Trouble() string {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	return r.out.trouble
}

// Close ends the connection, or closes the file.
func (r *Replay) Close() error { return r.out.sink.close() }
