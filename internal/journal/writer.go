package journal

import (
	"context"
	"errors"
	"maps"
	"os"
	"time"
)

// lossEvery is how often a loss is written as a record while losses go on.
const lossEvery = time.Second

// writeLoop moves records from the queue to the files.
func (j *Journal) writeLoop(ctx context.Context) {
	again := time.NewTicker(lossEvery)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.closing:
			return
		case <-j.wake:
		case <-again.C:
		}
		j.wmu.Lock()
		if j.events.f != nil {
			j.drain(false) // counted and published there
		}
		j.wmu.Unlock()
		j.mu.Lock()
		left := len(j.pending) > 0
		j.mu.Unlock()
		if left {
			again.Reset(lossEvery)
		} else {
			again.Stop()
		}
	}
}

// syncLoop makes written records durable. It is apart from the writer so that a slow
// disk delays the sync and not the records: one sync covers all that was written
// before it.
func (j *Journal) syncLoop(ctx context.Context) {
	t := time.NewTimer(j.opt.FlushEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.dirty:
		}
		t.Reset(j.opt.FlushEvery)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-j.big:
		}
		j.syncOut()
	}
}

// syncOut syncs what is written by now, without keeping the writer from writing.
func (j *Journal) syncOut() {
	var fs []file
	j.wmu.Lock()
	for _, g := range []*ring{j.events, j.denials} {
		if f, ok := g.dirty(); ok {
			fs = append(fs, f)
		}
	}
	j.syncing = len(fs) > 0
	j.wmu.Unlock()
	for _, f := range fs {
		err := f.Sync()
		if errors.Is(err, os.ErrClosed) {
			continue // rotated meanwhile, and synced for it
		}
		if j.synced(err) != nil {
			j.publishError(err)
		}
	}
	j.wmu.Lock()
	j.syncing = false
	j.wmu.Unlock()
}

// synced counts the outcome of a sync.
func (j *Journal) synced(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Syncs++
	if err != nil {
		j.stats.SyncErrors++
	}
	return err
}

// drain writes all that is queued. j.wmu is held. With final it reports losses even
// if it did so a moment ago.
func (j *Journal) drain(final bool) error {
	err := j.writeLoss(final)
	for {
		j.mu.Lock()
		j.batch = j.queue.take(j.batch[:0])
		j.mu.Unlock()
		if len(j.batch) == 0 {
			break
		}
		err = errors.Join(err, j.writeBatch())
	}
	j.publish(err)
	if j.events.unsynced+j.denials.unsynced > 0 {
		poke(j.dirty)
	}
	if j.events.unsynced+j.denials.unsynced >= int64(j.opt.FlushBytes) {
		poke(j.big)
	}
	return err
}

// writeBatch writes j.batch to both rings.
func (j *Journal) writeBatch() error {
	var out outcome
	for i, r := range j.batch {
		j.batch[i] = nil
		body, err := j.enc.Encode(r)
		if err != nil {
			out.err = err
			j.lose(CauseEncode, 1)
			continue
		}
		out.records++
		out.event(j.events.add(body, r.Seq))
		if r.Denial() || r.Kind == KindLoss {
			out.denial(j.denials.add(body, r.Seq))
		}
	}
	out.event(j.events.commit())
	out.denial(j.denials.commit())
	j.count(out)
	return out.err
}

// outcome is what became of a batch.
type outcome struct {
	records          int
	lost, lostDenial int
	full             bool
	err              error // one is enough: a batch that meets a full disk meets it many times
}

func (o *outcome) event(lost int, err error) {
	o.lost += lost
	o.note(err)
}

func (o *outcome) denial(lost int, err error) {
	o.lostDenial += lost
	o.note(err)
}

func (o *outcome) note(err error) {
	if err != nil {
		o.err = err
		o.full = o.full || noSpace(err)
	}
}

func (j *Journal) count(o outcome) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Written += uint64(o.records - o.lost)
	if o.lost > 0 {
		cause := CauseWriteError
		if o.full {
			cause = CauseDiskFull
		}
		j.loseLocked(cause, uint64(o.lost))
	}
	if o.lostDenial > 0 {
		j.loseLocked(CauseDenialCopy, uint64(o.lostDenial))
	}
}

// writeLoss turns the losses since the last time into a record, in both rings. If
// that cannot be written either, they stay for the next time.
func (j *Journal) writeLoss(final bool) error {
	now := time.Now()
	j.mu.Lock()
	if len(j.pending) == 0 || !final && now.Sub(j.lastLoss) < lossEvery {
		j.mu.Unlock()
		return nil
	}
	lost := maps.Clone(j.pending)
	j.stats.Seq++
	seq := j.stats.Seq
	j.mu.Unlock()
	j.lastLoss = now

	r := &Record{
		Schema: Schema, BootID: j.opt.BootID, Seq: seq, Time: j.opt.Now().UTC(), Host: j.opt.Host,
		Kind: KindLoss, Message: "the journal lost records", Lost: lost,
	}
	body, err := j.enc.Encode(r)
	if err != nil {
		return err
	}
	if j.opt.Tap != nil {
		j.opt.Tap(r)
	}
	before, err := j.events.add(body, seq)
	after, cerr := j.events.commit()
	err = errors.Join(err, cerr)
	if before+after > 0 {
		return err
	}
	j.mu.Lock()
	j.stats.Written++
	for cause, k := range lost {
		if j.pending[cause] -= k; j.pending[cause] == 0 {
			delete(j.pending, cause)
		}
	}
	j.mu.Unlock()
	var out outcome
	out.denial(j.denials.add(body, r.Seq))
	out.denial(j.denials.commit())
	j.count(out)
	return errors.Join(err, out.err)
}

// publish copies the writer's figures to where Stats reads them. j.wmu is held, or
// the journal not yet shared.
func (j *Journal) publish(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &j.stats
	s.Bytes = j.events.bytes() + j.denials.bytes()
	s.Removed = j.events.removed + j.denials.removed
	s.SyncErrors += j.events.takeSyncErrors() + j.denials.takeSyncErrors()
	s.EventsHead, s.DenialsHead = j.events.head.String(), j.denials.head.String()
	if err != nil {
		s.LastError = err.Error()
	}
}

func (j *Journal) publishError(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.LastError = err.Error()
}
