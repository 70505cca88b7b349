package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// writeTime is how long somebody may take to take a batch.
const writeTime = 10 * time.Second

// stdout writes lines to standard output. Whoever reads that may stop doing so: the write is in
// a goroutine of its own, which stays in it, and no batch is written twice.
type stdout struct {
	f    *os.File
	enc  encode
	wait time.Duration
	busy chan error      // the outcome of the write under way; nil: there is none
	of   *journal.Record // first record of it
	lost int             // records of it with no JSON form
	why  error
}

// newStdout takes a copy of the descriptor: a broken pipe as descriptor 1 would end the program
// by a signal (os/signal, "SIGPIPE"), and one of another number is an error.
func newStdout(f *os.File, enc encode) (*stdout, error) {
	if f == nil {
		f = os.Stdout
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("copy standard output: %w", err)
	}
	return &stdout{f: os.NewFile(uintptr(fd), "standard output"), enc: enc, wait: writeTime}, nil
}

var errStdout = errors.New("standard output takes nothing: its reader does not read")

func (s *stdout) send(ctx context.Context, batch []*journal.Record) error {
	if s.busy != nil && s.of != batch[0] { // the one before was given up, and is still being written
		if _, err := s.outcome(ctx); err != nil {
			return err
		}
	}
	if s.busy == nil {
		s.begin(batch)
	}
	err, waited := s.outcome(ctx)
	if waited != nil {
		return waited
	}
	if err == nil && s.lost > 0 {
		return &pump.Partly{Refused: s.lost, Err: s.why}
	}
	return err
}

// begin starts the write of a batch.
func (s *stdout) begin(batch []*journal.Record) {
	var buf []byte
	s.of, s.lost = batch[0], 0
	for _, r := range batch {
		line, err := s.enc(r)
		if err != nil {
			s.lost++
			s.why = err
			continue
		}
		buf = append(append(buf, line...), '\n')
	}
	busy := make(chan error, 1)
	s.busy = busy
	go func() {
		_, err := s.f.Write(buf)
		busy <- err
	}()
}

// outcome waits for the write under way; waited says why it still is.
func (s *stdout) outcome(ctx context.Context) (err, waited error) {
	t := time.NewTimer(s.wait)
	defer t.Stop()
	select {
	case err = <-s.busy:
		s.busy = nil
		return err, nil
	case <-t.C:
		return nil, errStdout
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// close leaves the descriptor to a write that is stuck in it.
func (s *stdout) close() error {
	if s.busy != nil {
		return errStdout
	}
	return s.f.Close()
}
