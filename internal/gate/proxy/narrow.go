package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/wire"
)

// passFiltered reads the answer whole, and sends what the caller may see of it.
func (x *exchange) passFiltered(f filter) (bool, error) {
	if x.dec.Scope.Filter && x.req.Call.Action == eventsAction {
		return x.passEvents()
	}
	b := x.b
	head := append([]byte(nil), x.resp.Raw...)
	framing := x.resp.Framing
	b.r.Consume(len(head))
	defer x.shown.leave()
	src := wire.NewBody(&b.r, framing)
	if err := x.narrow(f, &src, head); err != nil {
		return false, x.unfiltered(err)
	}
	x.shown.keep(cap(x.c.out))
	if _, err := x.sendHeld(); err != nil {
		return false, err
	}
	return framing.Chunked || framing.Length >= 0, nil
}

// narrow reads the answer whole and puts head and what is left of it into the connection's
// buffer.
func (x *exchange) narrow(f filter, src io.Reader, head []byte) error {
	c := x.c
	in, kept := scratch.Get().(*[]byte), scratch.Get().(*[]byte)
	defer scratch.Put(in)
	defer scratch.Put(kept)
	body, out, early, paid := (*in)[:0], []byte(nil), -1, 0
	apply := func() (err error) {
		// What is left of it, and that with a head.
		if n := len(body); n > freeAnswer && n > paid {
			if !x.growShown(2 * (n - paid)) {
				return errNoRoom
			}
			paid = n
		}
		out, err = f(x, (*kept)[:0], body)
		return err
	}
	for end := false; !end; {
		// The end of a message comes some time after the end of what it says: that time is used.
		if early < 0 && isWhole(body) && len(x.b.r.Buffered()) == 0 {
			early = len(body)
			if apply() != nil {
				out = nil
			}
		}
		var err error
		if body, end, err = readMore(src, body, c.s.o.Limits.FilterBytes, freeAnswer, x.growShown); err != nil {
			return err
		}
	}
	if out == nil || early != len(body) {
		if err := apply(); err != nil {
			return err
		}
	}
	x.resp.Raw = head
	c.out = x.resp.AppendHead(c.out[:0], false, string(appendLength(nil, int64(len(out)))))
	c.out = append(c.out, out...)
	return nil
}

// isWhole tells whether what came of an answer looks like all of it: the daemon ends what it
// says with a line end.
func isWhole(b []byte) bool {
	n := len(b)
	return n > 2 && b[n-1] == '\n' && (b[n-2] == ']' || b[n-2] == '}')
}

// sendHeld sends what is in the connection's buffer. A client that takes its time with much
// of it must not keep others from theirs.
func (x *exchange) sendHeld() (int, error) {
	c := x.c
	if x.shown.n == 0 {
		return c.nc.Write(c.out)
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.o.Limits.TakeTime))
	defer func() { _ = c.nc.SetWriteDeadline(time.Time{}) }()
	return c.nc.Write(c.out)
}

// scratch holds bodies while they are filtered; larger ones are not kept.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 32<<10); return &b }}

// unfiltered answers in place of what cannot be filtered.
func (x *exchange) unfiltered(err error) error {
	if errors.Is(err, errNoRoom) {
		x.c.s.counts.noRoom.Add(1)
		x.c.answer(&refusal{status: http.StatusTooManyRequests, cause: "memory", retryAfter: true, msg: "belay: too many large answers are under way"}, true)
		return fmt.Errorf("filter: %w", err)
	}
	x.c.s.counts.unfiltered.Add(1)
	x.c.s.o.Log.Error("an answer could not be filtered and is withheld", attr.Error, err.Error())
	x.c.answer(&refusal{status: http.StatusBadGateway, cause: "unfiltered", msg: "belay: the daemon's answer could not be filtered"}, true)
	return fmt.Errorf("filter: %w", err)
}
