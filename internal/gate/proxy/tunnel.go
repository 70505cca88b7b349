package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords is how long a client may take to end its side after the daemon has ended
// its own: the daemon is not waiting for it any more.
const lastWords = 10 * time.Second

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// copyBuffer is as large as a unix socket's send buffer is by half, so that one read
// takes what one write of the other side left.
const copyBuffer = 64 << 10

// streamBuffers are those of raw streams, which have two each for as long as they are open.
var streamBuffers = sync.Pool{New: func() any { b := make([]byte, streamBuffer); return &b }}

const streamBuffer = 16 << 10

// tunnel carries bytes both ways until both sides have ended. The end of one side is
// passed on as such: `docker run -i` ends its input and waits for the output. There is
// no time limit: a quiet stream is not a dead one.
func tunnel(client net.Conn, early []byte, daemon *net.UnixConn, ahead []byte) {
	var ended atomic.Bool // the client has ended its side in order
	stop := hangup(client, &ended, func() { daemon.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := carry(daemon, client, early)
		if err == nil {
			_ = daemon.CloseWrite()
			ended.Store(true)
			return
		}
		// The client is gone, or the daemon reads no more. In the first case nobody waits
		// for the daemon's words.
		if !errors.Is(err, errWrite) {
			daemon.Close()
		}
	}()
	err := carry(client, daemon, ahead)
	if errors.Is(err, errWrite) {
		daemon.Close() // the client is gone
	}
	if cw, ok := client.(closeWriter); !ok || cw.CloseWrite() != nil {
		client.Close()
	}
	_ = client.SetReadDeadline(time.Now().Add(lastWords))
	<-done
	daemon.Close()
}

// hangupCheck is how often a client that has ended its side is asked whether it still
// listens.
const hangupCheck = 5 * time.Second

// hangup calls gone when a client that has ended its side is gone altogether: without
// something to write to it nobody would notice, and a quiet container writes nothing.
func hangup(client net.Conn, ended *atomic.Bool, gone func()) (stop func()) {
	sc, ok := client.(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() {}
	}
	// mu guards timer and stopped.
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		if ended.Load() && hungUp(raw) {
			gone()
			return
		}
		timer.Reset(hangupCheck)
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(hangupCheck, check)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

func hungUp(raw syscall.RawConn) bool {
	gone := false
	err := raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// errWrite is wrapped by errors of the writing side.
var errWrite = errors.New("write")

// carry copies first and then src to dst until src ends.
func carry(dst, src net.Conn, first []byte) error {
	if len(first) > 0 {
		if _, err := dst.Write(first); err != nil {
			return errors.Join(errWrite, err)
		}
	}
	if handled, err := spliceAll(dst, src); handled {
		return err
	}
	buf, ok := streamBuffers.Get().(*[]byte)
	if !ok {
		return errors.New("no buffer")
	}
	defer streamBuffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				return errors.Join(errWrite, werr)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// spliceAll moves all of src to dst within the kernel, where both are sockets of a kind
// for which that pays. It returns false if it has not begun.
func spliceAll(_, _ net.Conn) (bool, error) { return false, nil }
