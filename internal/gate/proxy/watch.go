package proxy

import (
	"errors"
	"io"
	"os"
	"strconv"
	"time"
)

// watcher is the goroutine that reads the client's side while the answer is under way:
// first what is left of its body, which goes to the daemon, then its next sign of life.
type watcher struct {
	done chan struct{}
	sent bool // the whole body went to the daemon
	gone bool // the client has ended its side, or is unreachable
}

// watch starts the watcher of this exchange. Until unwatch nobody else reads from the
// client.
func (x *exchange) watch() {
	w := &watcher{done: make(chan struct{}), sent: x.stream == nil}
	x.w = w
	go func() {
		defer close(w.done)
		if x.stream != nil {
			if !x.sendBody(w) {
				return
			}
		}
		if x.tunnels() || len(x.c.r.Buffered()) > 0 {
			return // what comes next is the stream's, or the next request
		}
		err := x.c.r.Fill(x.c.s.o.Limits.HeadBytes)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		w.gone = true
		if x.makes() {
			return // what the daemon makes all the same is bound first: nothing else would know it
		}
		x.b.nc.Close()
	}()
}

// unwatch ends the watcher and returns whether the request went to the daemon whole.
func (x *exchange) unwatch() (sent bool) {
	w := x.w
	if w == nil {
		return true
	}
	x.w = nil
	select {
	case <-w.done:
	default:
		_ = x.c.nc.SetReadDeadline(past)
		if !w.finished() && x.stream != nil {
			// It may be writing to a daemon that does not read any more.
			_ = x.b.nc.SetWriteDeadline(past)
		}
		<-w.done
	}
	_ = x.c.nc.SetReadDeadline(time.Time{})
	_ = x.b.nc.SetWriteDeadline(time.Time{})
	x.c.gone = x.c.gone || w.gone
	x.bodyRead = w.sent
	return w.sent
}

func (w *watcher) finished() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// sendBody passes the client's body on in the gate's own framing. It returns false if
// it did not get to the end.
func (x *exchange) sendBody(w *watcher) bool {
	c, b := x.c, x.b
	if c.req.Continue {
		if _, err := c.nc.Write([]byte(goOn)); err != nil {
			w.gone = true
			b.nc.Close()
			return false
		}
	}
	p, ok := buffers.Get().(*[]byte)
	if !ok {
		return false
	}
	defer buffers.Put(p)
	const room = 16 // for a chunk's size and line ends, written with it at once
	buf := *p
	for {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.s.o.Limits.SendTime))
		n, err := x.stream.Read(buf[room : len(buf)-2])
		if n > 0 {
			if _, werr := b.nc.Write(frame(buf, room, n, x.length < 0)); werr != nil {
				return false // the daemon has heard enough; its answer says why
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			w.gone = !errors.Is(err, os.ErrDeadlineExceeded)
			b.nc.Close()
			return false
		}
	}
	if x.length < 0 {
		if _, err := b.nc.Write([]byte("0\r\n\r\n")); err != nil {
			return false
		}
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	w.sent = true
	return true
}

// frame returns n bytes at buf[room:] as they are, or as a chunk.
func frame(buf []byte, room, n int, chunked bool) []byte {
	if !chunked {
		return buf[room : room+n]
	}
	var size [16]byte
	line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
	start := room - len(line)
	copy(buf[start:], line)
	copy(buf[room+n:], "\r\n")
	return buf[start : room+n+2]
}
