package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Blobs is an image that is not on this host: what a scanner asks for is fetched.
type Blobs interface {
	// Fetch returns a manifest or a blob. It need not be the one that was asked for: the
	// scanner compares digests.
	Fetch(ctx context.Context, a inventory.Ask) (io.ReadCloser, error)
}

// OpenBlobs returns the target that is the image root (the digest of its manifest or index)
// of blobs.
func OpenBlobs(blobs Blobs, root string) (*Target, error) {
	t := &Target{job: inventory.Job{Source: inventory.SourceAsked, Root: root}}
	if err := t.serve(blobs); err != nil {
		return nil, err
	}
	return t, nil
}

// serve gives t a server of blobs. It closes t where it fails.
func (t *Target) serve(blobs Blobs) error {
	answers, answer, err := os.Pipe()
	if err != nil {
		t.Close()
		return err
	}
	asks, ask, err := os.Pipe()
	if err != nil {
		answers.Close()
		answer.Close()
		t.Close()
		return err
	}
	t.server = &server{blobs: blobs, asks: asks, answer: answer}
	t.add(answers, inventory.Input{})
	t.job.AskFD = firstFD + len(t.files)
	t.files = append(t.files, ask)
	return nil
}

// server answers one scanner.
type server struct {
	blobs  Blobs
	asks   *os.File
	answer *os.File
	layers *layerReader // nil: what layers hold is not kept
	watch  *watch
}

func (s *server) close() {
	s.asks.Close()
	s.answer.Close()
}

// start answers in a goroutine. stop ends that and waits for it; the server cannot be used
// again. A nil server does nothing.
func (s *server) start(ctx context.Context) (stop func()) {
	if s == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(ctx)
	}()
	return func() {
		cancel()
		s.close() // a read or write that waits for a scanner that is gone ends
		<-done
	}
}

// serve answers until the scanner has gone, has asked what is no question, or too often.
// What is wrong is said to the scanner, whose result says it.
func (s *server) serve(ctx context.Context) {
	for n := 0; ; n++ {
		a, err := inventory.ReadAsk(s.asks)
		if err == nil && n >= inventory.MaxAsks {
			err = fmt.Errorf("the scanner asks for more than %d blobs", inventory.MaxAsks)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				inventory.WriteFailure(s.answer, err)
			}
			s.close()
			return
		}
		if err := s.one(ctx, a); err != nil {
			s.close()
			return
		}
	}
}

func (s *server) one(ctx context.Context, a inventory.Ask) error {
	if a.Layer {
		if s.layers == nil {
			return inventory.WriteAnswer(s.answer, bytes.NewReader(nil))
		}
		b, err := s.layers.holds(ctx, s.blobs, s.watch, a.Digest)
		if err != nil {
			return inventory.WriteFailure(s.answer, err)
		}
		if len(b) > 0 {
			s.watch.kept(a.Digest)
		}
		return inventory.WriteAnswer(s.answer, bytes.NewReader(b))
	}
	r, err := s.watch.fetch(ctx, s.blobs, a)
	if err != nil {
		return inventory.WriteFailure(s.answer, err)
	}
	defer r.Close()
	return inventory.WriteAnswer(s.answer, r)
}
