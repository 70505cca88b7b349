package output

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// stuck is a file on a file system whose server is gone: no write comes back, and nothing ends it.
type stuck struct{ in, end chan struct{} }

func (s stuck) send(context.Context, []*journal.Record) error {
	close(s.in)
	<-s.end
	return errors.New("gone")
}
func (stuck) close() error { return nil }

// TestEndIsSoon: an output whose receiver takes nothing holds up the agent's end no longer than is promised.
func TestEndIsSoon(t *testing.T) {
	var log syncBuffer
	each := quick
	each.Batch = 1 // a socket takes a few records: a batch of more is sent in part, which nobody is told of while it waits
	open := func(spec string) *Outputs {
		t.Helper()
		all, err := Open(Options{Specs: []string{spec}, Stop: 100 * time.Millisecond, Pump: each, Health: health.New(nil), Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	path := filepath.Join(t.TempDir(), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}) // nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	full := open("syslog:" + path)
	held := open("file:/nowhere/x")
	s := stuck{make(chan struct{}), make(chan struct{})}
	held.list[0].pump = pump.New(quick, s.send, held.list[0].told)
	for _, tt := range []struct {
		name string
		all  *Outputs
		held func()
		left bool // a write that nothing ends
	}{
		{"a full socket", full, func() {
			waitFor(t, "the socket to be full", func() bool { return full.Status()[0].Sent > 0 })
			time.Sleep(50 * time.Millisecond)
		}, false},
		{"a dead file system", held, func() { <-s.in }, true},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { tt.all.Run(ctx); close(ended) }()
		for _, r := range records(3000) {
			tt.all.Take(r)
		}
		tt.held()
		cancel()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the agent would not stop", tt.name)
		}
		if said := strings.Contains(log.String(), "still being written"); said != tt.left {
			t.Errorf("%s: a write was left behind: %v, want %v: %s", tt.name, said, tt.left, log.String())
		}
	}
	close(s.end)
}

// TestResentCountsOnce: a record without a JSON form that is sent again with a later batch is no part of that.
func TestResentCountsOnce(t *testing.T) {
	s := &server{t: t, addr: "127.0.0.1:0", got: newReceived()}
	s.start()
	defer s.kill()
	spec, err := Parse("syslog:tcp://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	enc := belay(t)
	out := &output{}
	sink, err := newSyslog(spec, func(r *journal.Record) ([]byte, error) {
		if r.Seq == 2 {
			return nil, errors.New("no JSON form")
		}
		return enc(r)
	}, &out.resent)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.close()
	partly := new(pump.Partly)
	if err := sink.send(t.Context(), records(3)); !errors.As(err, &partly) || partly.Refused != 1 {
		t.Errorf("the batch itself: %v", err)
	}
	if err := sink.(*connection).hangUp(); err != nil {
		t.Fatal(err)
	}
	if err := sink.send(t.Context(), []*journal.Record{record(4)}); err != nil || out.resent.Load() != 2 {
		t.Errorf("after the connection had broken: %v, sent %d again, want 2", err, out.resent.Load())
	}
}

// TestHealthOfTwo: health is degraded while an output is in trouble, whatever another one has to tell at that moment.
func TestHealthOfTwo(t *testing.T) {
	reg := health.New(nil)
	all, err := Open(Options{Specs: []string{"file:/nowhere/a", "file:/nowhere/b"}, Health: reg, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	a, b := all.list[0], all.list[1]
	for range 200 { // telling takes longer, so that the two do it at a time
		all.list = append(all.list, &output{})
	}
	for i := range 2000 {
		a.told(errors.New("away"))
		b.told(nil)
		var wg sync.WaitGroup
		wg.Go(func() { b.told(errors.New("away too")) })
		wg.Go(func() { a.told(nil) })
		wg.Wait()
		if got := reg.Snapshot().State; got != health.Degraded {
			t.Fatalf("round %d: health is %v while an output is in trouble", i, got)
		}
	}
}
