// Package output sends the records of the journal to files, standard output, syslog and
// webhooks, as Belay's own JSON or in the words of OCSF or ECS.
//
// An [Outputs] owns a bounded queue for each output, their connections and files, and the
// counts of what became of each record. It never decides, and nobody waits for it: what it
// cannot take or send is dropped and counted by cause, and the journal has it still. A nil
// *Outputs has none. Row: adapter.
package output

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// component is the outputs' name in health.
const component = "outputs"

// maxOutputs bounds what the queues can hold in memory.
const maxOutputs = 8

// Options configures [Open]. Health and Log are required.
type Options struct {
	Specs   []string // as [Parse] reads them
	Version string   // of the program, for receivers
	Health  *health.Registry
	Log     *slog.Logger
	Pump    pump.Options  // bounds of each queue; zero fields have their defaults
	Stop    time.Duration // how long what waits may take to be sent at the end; 5 s
	Stdout  *os.File      // of outputs to standard output; nil: the program's own
}

// sink writes records somewhere. One goroutine uses it.
type sink interface {
	// send sends a batch. What is left of it by a [pump.Partly], or all of it after another error, is sent again.
	send(ctx context.Context, batch []*journal.Record) error
	// close gives back what send has opened.
	close() error
}

// Outputs sends. Make it with [Open], and run it with [Outputs.Run]. Safe for concurrent use.
type Outputs struct {
	o    Options
	list []*output
	sum  sync.Mutex // held while health is told, before an output's mu: what is told last must be what holds
}

// output is one of them.
type output struct {
	spec   Spec
	name   string
	pump   *pump.Pump[*journal.Record]
	sink   sink
	resent atomic.Uint64
	set    *Outputs

	mu      sync.Mutex // guards the fields below
	trouble string     // what went wrong last; "": it works
	since   time.Time  // of trouble
	logged  time.Time
}

// Open makes the outputs that the specs ask for, and nil if they ask for none. It connects to
// nobody and opens no file: an output that is away at the start is one that comes back.
//
// Errors: a spec that has no meaning; two of one target; a secret or a certificate that cannot
// be read.
func Open(o Options) (*Outputs, error) {
	if len(o.Specs) == 0 {
		return nil, nil //nolint:nilnil // none is a value of its own
	}
	if o.Health == nil || o.Log == nil {
		return nil, errors.New("output: Options.Health and Options.Log are required")
	}
	if len(o.Specs) > maxOutputs {
		return nil, fmt.Errorf("%d outputs: want at most %d", len(o.Specs), maxOutputs)
	}
	if o.Stop <= 0 {
		o.Stop = 5 * time.Second
	}
	s := &Outputs{o: o}
	seen := map[string]bool{}
	for _, text := range o.Specs {
		spec, err := Parse(text)
		if err != nil {
			return nil, err
		}
		if seen[spec.key()] {
			return nil, fmt.Errorf("output %s is given twice: give each target once", spec.Name())
		}
		seen[spec.key()] = true
		out, err := s.open(spec)
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", spec.Name(), err)
		}
		s.list = append(s.list, out)
	}
	o.Health.SetOK(component)
	return s, nil
}

func (s *Outputs) open(spec Spec) (*output, error) {
	out := &output{spec: spec, name: spec.Name(), set: s}
	var err error
	if out.sink, err = newSink(spec, &s.o, &out.resent); err != nil {
		return nil, err
	}
	po := s.o.Pump
	if po.Linger == 0 && spec.Kind != KindWebhook {
		po.Linger = 100 * time.Millisecond // only requests are dear
	}
	out.pump = pump.New(po, out.sink.send, out.told)
	exposed := spec.exposed()
	if w, ok := out.sink.(*webhook); ok { // its URL may be from a file
		exposed = w.exposed()
	}
	if exposed {
		s.o.Log.Warn("events go to another machine without TLS: whoever is on the way reads them", attr.Addr, out.name)
	}
	return out, nil
}

func newSink(spec Spec, o *Options, resent *atomic.Uint64) (sink, error) {
	enc, err := encoderOf(spec.Format, o.Version)
	if err != nil {
		return nil, err
	}
	switch spec.Kind {
	case KindStdout:
		return newStdout(o.Stdout, enc)
	case KindFile:
		return newFile(spec, enc), nil
	case KindSyslog:
		return newSyslog(spec, enc, resent)
	case KindWebhook:
		return newWebhook(spec, enc, o.Version)
	}
	return nil, fmt.Errorf("kind %q", spec.Kind)
}

// Take sees a record of the journal. It never waits, and does not change r. Denials and what
// else is urgent may use a quarter of each queue that others may not.
func (s *Outputs) Take(r *journal.Record) {
	if s == nil {
		return
	}
	for _, out := range s.list {
		if r.Urgent() {
			out.pump.Offer(r)
		} else {
			out.pump.OfferOrdinary(r)
		}
	}
}

// Has tells whether there is an output of that kind.
func (s *Outputs) Has(kind string) bool {
	if s == nil {
		return false
	}
	for _, out := range s.list {
		if out.spec.Kind == kind {
			return true
		}
	}
	return false
}

// stuckTime is how long an output may take to give up once it must.
const stuckTime = time.Second

// Run sends until ctx ends, and then for at most Options.Stop what waits. No goroutine of s is left when it
// returns, but those that a reader of standard output or a dead file system keeps in a write.
func (s *Outputs) Run(ctx context.Context) {
	if s == nil {
		return
	}
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(s.o.Stop, cancel) })
	defer stop()
	var wg sync.WaitGroup
	for _, out := range s.list {
		wg.Go(func() {
			out.pump.Run(ctx, last)
			if err := out.sink.close(); err != nil {
				s.o.Log.Warn("an output was not closed well", attr.Addr, out.name, attr.Error, err.Error())
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-last.Done():
	}
	select {
	case <-done:
	case <-time.After(stuckTime):
		s.o.Log.Warn("the agent ends while an output is still being written: its file system or its reader does not answer")
	}
}

// Status is what one output did since the start. Offered is Sent, what was dropped, and what
// waits or is under way.
type Status struct {
	Name    string            `json:"name"` // without credentials
	Format  string            `json:"format"`
	Offered uint64            `json:"offered"`
	Sent    uint64            `json:"sent"`
	Resent  uint64            `json:"resent,omitempty"` // once more, after a connection had broken
	Queued  int               `json:"queued"`
	Dropped map[string]uint64 `json:"dropped"`         // by cause
	Error   string            `json:"error,omitempty"` // why nothing is sent now
	Since   time.Time         `json:"since,omitzero"`  // of the error
}

// Status tells of all outputs, in the order of the specs.
func (s *Outputs) Status() []Status {
	if s == nil {
		return nil
	}
	var all []Status
	for _, out := range s.list {
		out.mu.Lock()
		st := Status{Name: out.name, Format: out.spec.Format, Error: out.trouble, Since: out.since}
		out.mu.Unlock()
		// In this order, so that Offered is never less than the rest.
		st.Dropped, st.Sent, st.Resent, st.Queued = out.pump.Drops(), out.pump.Sent(), out.resent.Load(), out.pump.Waiting()
		st.Offered = out.pump.Offered()
		all = append(all, st)
	}
	return all
}

// logEvery bounds how often an output that is away is in the log.
const logEvery = time.Minute

// told keeps health and the log in step with how an output does.
func (out *output) told(err error) {
	const longest = 512
	out.mu.Lock()
	was := out.trouble
	quiet := true
	switch {
	case err == nil:
		out.trouble, out.since = "", time.Time{}
	default:
		msg := err.Error()
		out.trouble = msg[:min(len(msg), longest)] // the receiver may have chosen it
		if was == "" {
			out.since = time.Now()
		}
		if quiet = time.Since(out.logged) < logEvery; !quiet {
			out.logged = time.Now()
		}
	}
	now := out.trouble
	out.mu.Unlock()
	if now == "" && was == "" {
		return
	}
	out.set.tell()
	switch {
	case now == "":
		out.set.o.Log.Info("an output works again", attr.Addr, out.name)
	case !quiet:
		out.set.o.Log.Warn("an output does not take records; the journal has them", attr.Addr, out.name, attr.Error, now)
	}
}

// tell sums the outputs up for health.
func (s *Outputs) tell() {
	s.sum.Lock()
	defer s.sum.Unlock()
	for _, out := range s.list {
		out.mu.Lock()
		trouble := out.trouble
		out.mu.Unlock()
		if trouble != "" {
			s.o.Health.SetDegraded(component, out.name+": "+trouble)
			return
		}
	}
	s.o.Health.SetOK(component)
}

// progress is how far one send has come in its batch.
type progress struct {
	done, refused int   // done: with those that were refused
	why           error // of the last that was refused
}

// refuse counts the next record as one that never can be sent.
func (p *progress) refuse(err error) {
	p.done++
	p.refused++
	p.why = err
}

// end is what a send of n records returns, which goes no further for err; nil: all are done with.
func (p *progress) end(n int, err error) error {
	switch {
	case err != nil:
		return &pump.Partly{Refused: p.refused, Left: n - p.done, Err: err}
	case p.refused > 0:
		return &pump.Partly{Refused: p.refused, Err: fmt.Errorf("%d records were not taken: %w", p.refused, p.why)}
	}
	return nil
}
