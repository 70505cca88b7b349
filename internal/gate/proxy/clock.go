package proxy

import (
	"context"
	"time"
)

// tick is how often the gate looks for connections whose time is up and for answers that
// take long. It bounds how exact those times are.
const tick = 100 * time.Millisecond

// keepTime ends what has waited too long, until ctx ends. A timer for each request would
// wake threads that have nothing to do.
func (s *Server) keepTime(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	var late []*conn
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			late = s.late(late[:0], now)
			for _, c := range late {
				c.overtime(now)
			}
			clear(late)
		}
	}
}

// late returns the connections that have to be looked at.
func (s *Server) late(dst []*conn, now time.Time) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		due, asked := c.due.Load(), c.asked.Load()
		if due != 0 && now.UnixNano() > due || asked != 0 && now.UnixNano()-asked > int64(tick) {
			dst = append(dst, c)
		}
	}
	return dst
}

func (c *conn) overtime(now time.Time) {
	if due := c.due.Load(); due != 0 && now.UnixNano() > due {
		_ = c.nc.SetReadDeadline(past)
		return
	}
	// The answer takes long: from here on somebody looks whether the client still waits.
	c.watching.Lock()
	defer c.watching.Unlock()
	if c.asked.Swap(0) != 0 {
		c.x.watch()
	}
}
