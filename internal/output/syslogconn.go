package output

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

const (
	recentFor  = 10 * time.Second // how old what is sent again may be
	recentMost = 2048             // records that may be sent again
	heardMost  = 64 << 10         // bytes that a receiver may say, which has nothing to say
	piece      = 256 << 10        // bytes of one write, about
)

var errBroken = errors.New("the receiver has ended the connection")

// connection sends records over TCP or TLS. Syslog has no receipts: a receiver that dies takes
// along what it had not read. So a batch counts as sent when the receiver's machine has it, and
// what was sent in the last seconds before a connection broke is sent again over the next one:
// the records' ids tell which came twice.
type connection struct {
	messenger
	network, addr string
	tls           *tls.Config // nil: none
	resent        *atomic.Uint64

	conn   net.Conn      // nil: none
	raw    *net.TCPConn  // below conn
	ended  chan struct{} // closed once the receiver has ended conn
	recent []recent      // sent over conn, or over the one that broke, the oldest first
	out    []byte
}

type recent struct {
	at time.Time
	r  *journal.Record
}

func (s *connection) send(ctx context.Context, batch []*journal.Record) error {
	if s.conn != nil && s.isEnded() {
		if err := s.hangUp(); err != nil {
			return err
		}
	}
	again := 0
	if s.conn == nil {
		s.expire()
		if err := s.dial(ctx); err != nil {
			return err
		}
		again = len(s.recent)
	}
	refused, why := 0, error(nil)
	s.out = s.out[:0]
	add := func(r *journal.Record) error {
		out, err := s.frame(s.out, r)
		if err != nil {
			refused, why = refused+1, err
			return nil
		}
		if s.out = out; len(s.out) < piece {
			return nil
		}
		return s.write(ctx)
	}
	for _, old := range s.recent[:again] {
		if err := add(old.r); err != nil {
			return err
		}
	}
	framed := make([]*journal.Record, 0, len(batch))
	for _, r := range batch {
		had := refused
		if err := add(r); err != nil {
			return err
		}
		if refused == had {
			framed = append(framed, r)
		}
	}
	if err := s.write(ctx); err != nil {
		return err
	}
	if err := s.arrived(ctx); err != nil {
		return errors.Join(err, s.hangUp())
	}
	s.resent.Add(uint64(again)) //nolint:gosec // a length
	s.keep(framed)
	if refused > 0 {
		return &pump.Partly{Refused: refused, Err: fmt.Errorf("%d records have no JSON form: %w", refused, why)}
	}
	return nil
}

// dial connects, and listens for the end of the connection.
func (s *connection) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, s.network, s.addr)
	if err != nil {
		return err
	}
	raw, ok := c.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("a connection of type %T", c), c.Close())
	}
	if s.tls != nil {
		t := tls.Client(c, s.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return errors.Join(err, c.Close())
		}
		c = t
	}
	ended := make(chan struct{})
	s.conn, s.raw, s.ended = c, raw, ended
	go func() {
		defer close(ended)
		b := make([]byte, 512)
		for heard := 0; heard < heardMost; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			heard += n
		}
	}()
	return nil
}

func (s *connection) isEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// write writes out. A receiver that takes nothing for a while is given up.
func (s *connection) write(ctx context.Context) error {
	if len(s.out) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, s.hangUp())
	}
	err := s.conn.SetWriteDeadline(deadline(ctx))
	raw := s.raw
	stop := context.AfterFunc(ctx, func() { _ = raw.SetWriteDeadline(time.Now()) })
	defer stop()
	if err == nil {
		_, err = s.conn.Write(s.out)
	}
	s.out = s.out[:0]
	if err != nil {
		return errors.Join(err, s.hangUp())
	}
	return nil
}

// arrived waits until the receiver's machine has acknowledged what was written: the queue of the
// socket is empty. Source: SIOCOUTQ, tcp(7).
func (s *connection) arrived(ctx context.Context) error {
	rc, err := s.raw.SyscallConn()
	if err != nil {
		return err
	}
	until := deadline(ctx)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		var left int
		var ioerr error
		if err := rc.Control(func(fd uintptr) { left, ioerr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return err
		}
		if ioerr != nil {
			return fmt.Errorf("read what is on the way: %w", ioerr)
		}
		// Asked in this order: a connection that was reset has an empty queue, too.
		if s.isEnded() {
			return errBroken
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(until) {
			return errors.New("the receiver's machine does not acknowledge what was sent")
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-s.ended:
			t.Stop()
			return errBroken
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// keep notes what was sent, for a connection that breaks.
func (s *connection) keep(batch []*journal.Record) {
	now := time.Now()
	for _, r := range batch {
		s.recent = append(s.recent, recent{now, r})
	}
	s.expire()
}

// expire forgets what is too old, or too much, to be sent again.
func (s *connection) expire() {
	i, now := max(0, len(s.recent)-recentMost), time.Now()
	for i < len(s.recent) && now.Sub(s.recent[i].at) > recentFor {
		i++
	}
	n := copy(s.recent, s.recent[i:])
	clear(s.recent[n:])
	s.recent = s.recent[:n]
}

// hangUp closes the connection. What was sent over it of late stays noted.
func (s *connection) hangUp() error {
	if s.conn == nil {
		return nil
	}
	c := s.conn
	s.conn = nil
	// The end of a connection that has ended is no news.
	_ = c.Close()
	<-s.ended
	return nil
}

func (s *connection) close() error { return s.hangUp() }
