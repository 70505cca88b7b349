package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"
)

// errStalled is the cause of a stream's end on which nothing moved: an engine that accepts and does not answer, with
// its storage frozen or its host half dead, is kept alive by TCP for ever.
var errStalled = errors.New("nothing has moved on the stream")

// stream is [Engine.send] for bytes that take as long as they take, as long as they move. With works the engine has
// workTime before it answers, once it has all it needs; and between two parts of an answer that is its progress.
func (e *Engine) stream(ctx context.Context, what, method, path string, q url.Values, body io.Reader, kind string, works bool) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{stall: cmp.Or(e.stall, stallAfter), what: what, ctx: ctx, cancel: cancel}
	w.work = w.stall
	if works {
		w.work = cmp.Or(e.work, workTime)
	}
	w.idle = w.work
	if method == "GET" {
		w.idle = w.stall // what is received is the thing itself
	}
	first := w.work
	if body != nil {
		first = w.stall
		body = &watchedBody{body, w}
	}
	w.timer = time.AfterFunc(first, func() { cancel(errStalled) })
	answer, err := e.send(ctx, what, method, path, q, body, kind)
	if err != nil {
		err = w.explain(err)
		w.end()
		return nil, err
	}
	return &watchedAnswer{answer, w}, nil
}

// watch ends a stream on which nothing moves.
type watch struct {
	stall, work time.Duration
	idle        time.Duration // between two parts of the answer
	what        string
	timer       *time.Timer
	ctx         context.Context //nolint:containedctx // of the one stream
	cancel      context.CancelCauseFunc
}

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain says that it was the watch that ended the stream.
func (w *watch) explain(err error) error {
	if err != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		return fmt.Errorf("%s: %w for %s or more", w.what, errStalled, w.stall)
	}
	return err
}

// streamBuffer is how much is moved at one time: a volume goes through four processes, and what each call costs counts.
const streamBuffer = 256 << 10

// watchedBody is what is sent.
type watchedBody struct {
	io.Reader
	w *watch
}

// Read implements [io.Reader].
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	switch {
	case err != nil:
		b.w.timer.Reset(b.w.work) // the engine's turn
	case n > 0:
		b.w.timer.Reset(b.w.stall)
	}
	return n, err
}

// WriteTo implements [io.WriterTo], which net/http copies by, and has a small buffer otherwise.
func (b *watchedBody) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{b}, make([]byte, streamBuffer))
}

// watchedAnswer is what is received.
type watchedAnswer struct {
	io.ReadCloser
	w *watch
}

// Read implements [io.Reader].
func (a *watchedAnswer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	switch {
	case err != nil:
		a.w.timer.Stop()
		if !errors.Is(err, io.EOF) {
			err = a.w.explain(err)
		}
	case n > 0:
		a.w.timer.Reset(a.w.idle)
	}
	return n, err
}

// Close ends the stream.
func (a *watchedAnswer) Close() error {
	defer a.w.end()
	return a.ReadCloser.Close()
}
