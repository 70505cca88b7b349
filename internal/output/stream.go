package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
)

// writeTime is how long somebody may take to take a batch.
const writeTime = 10 * time.Second

// stdout writes lines to standard output. Whoever reads that may stop doing so: the write is in
// a goroutine of its own, which stays in it, and no batch is written twice.
type stdout struct {
	f    *os.File
	enc  encode
	wait time.Duration
	busy chan wrote      // the outcome of the write under way; nil: there is none
	of   *journal.Record // first record of it
	ends []int           // where its first line begins, and where that of each record ends; one with no JSON form has none
	torn bool            // what was written ends within a line
	progress
}

// wrote is how many bytes were written.
type wrote struct {
	n   int
	err error
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
	return s.end(len(batch), err)
}

// begin starts the write of a batch.
func (s *stdout) begin(batch []*journal.Record) {
	var buf []byte
	if s.torn {
		buf = append(buf, '\n')
	}
	s.of, s.ends, s.progress = batch[0], append(s.ends[:0], len(buf)), progress{}
	for _, r := range batch {
		if line, err := s.enc(r); err != nil {
			s.why = err
		} else {
			buf = append(append(buf, line...), '\n')
		}
		s.ends = append(s.ends, len(buf))
	}
	busy := make(chan wrote, 1)
	s.busy = busy
	go func() {
		n, err := s.f.Write(buf)
		busy <- wrote{n, err}
	}()
}

// count tells how far a write of n bytes has come.
func (s *stdout) count(n int) {
	for i, end := range s.ends[1:] {
		if end > n {
			break
		}
		s.done++
		if end == s.ends[i] {
			s.refused++
		}
	}
	if n > 0 {
		s.torn = n != s.ends[s.done]
	}
}

// outcome waits for the write under way; waited says why it still is.
func (s *stdout) outcome(ctx context.Context) (err, waited error) {
	t := time.NewTimer(s.wait)
	defer t.Stop()
	select {
	case w := <-s.busy:
		s.busy = nil
		s.count(w.n)
		return w.err, nil
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
