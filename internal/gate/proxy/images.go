package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/gate/wire"
)

// images remembers what the daemon said of images by the names that requests use: to
// ask takes longer than all else that the gate does about a create. It believes itself
// only while it hears the daemon's events about images, and forgets everything at each of
// them and at each call of the gate's own that can change an image.
//
// A name can be moved between the question and the create, with or without this: so the
// image that a new container was judged by is in its label [policy.ImageLabel], and compared
// before it starts.
type images struct {
	// mu guards what follows.
	mu     sync.Mutex
	live   bool   // the events are being heard
	turn   uint64 // counts what made us forget
	byName map[string]*found
}

const (
	maxImages = 512
	// maxImageBytes bounds what is remembered of one: its author chose the labels. One that
	// is larger is asked for each time.
	maxImageBytes = 8 << 10
)

// get returns what is known of an image, and the turn to give to put.
func (m *images) get(name string) (*found, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.live {
		return nil, m.turn
	}
	return m.byName[name], m.turn
}

// put remembers an answer to a question that was asked at turn.
func (m *images) put(name string, f *found, turn uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.live || m.turn != turn || len(m.byName) >= maxImages || len(name)+f.bytes() > maxImageBytes {
		return
	}
	if m.byName == nil {
		m.byName = map[string]*found{}
	}
	m.byName[name] = f
}

// bytes is how much text there is in what is known of an image.
func (f *found) bytes() int {
	n := len(f.ID) + len(f.Image) + len(f.ImageID) + len(f.User)
	for _, s := range f.Names {
		n += len(s)
	}
	for k, v := range f.Labels {
		n += len(k) + len(v)
	}
	return n
}

// forget drops all answers; live says whether events are heard from here on.
func (m *images) forget(live func(before bool) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn++
	clear(m.byName)
	m.live = live(m.live)
}

// ForgetImages empties the cache of what the daemon said of images. Safe for concurrent use.
func (s *Server) ForgetImages() { s.images.forget(asBefore) }

func asBefore(live bool) bool { return live }

// changesImages tells whether a call can give an image's name to another image.
func changesImages(action string) bool {
	switch action {
	case "image.build", "image.pull", "image.import", "image.load", "image.tag", "image.delete", "image.prune", "image.commit",
		"build.session", "build.grpc", "plugin.install":
		return true
	}
	return false
}

const imageEvents = `/events?filters=%7B%22type%22%3A%5B%22image%22%5D%7D`

// watchImages hears the daemon's events about images until ctx ends.
func (s *Server) watchImages(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.hearImages(ctx)
		s.images.forget(func(bool) bool { return false })
		if err != nil && ctx.Err() == nil {
			s.o.Log.Debug("events about images ended", attr.Error, err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

// settle is how long the daemon may take from its answer to its subscription: 20.10 answers
// first.
const settle = time.Second

func (s *Server) hearImages(ctx context.Context) error {
	b, err := s.up.dial()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { b.nc.Close() })
	defer stop()
	defer b.nc.Close()
	s.learn(ctx) // it may be another daemon than before
	defer s.about.Store(nil)
	head := append(s.up.appendHead(nil, http.MethodGet, imageEvents, ticket.None, nil), "\r\n"...)
	if _, err := b.nc.Write(head); err != nil {
		return err
	}
	var resp wire.Response
	if err := b.r.ReadResponse(&resp, http.MethodGet); err != nil {
		return err
	}
	if resp.Status != http.StatusOK {
		return errors.New("the daemon gives no events")
	}
	body := wire.NewBody(&b.r, resp.Framing)
	b.r.Consume(len(resp.Raw))
	var ended atomic.Bool
	heard := time.AfterFunc(settle, func() { s.images.forget(func(bool) bool { return !ended.Load() }) })
	defer func() {
		ended.Store(true)
		heard.Stop()
	}()
	buf := make([]byte, 4<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			s.images.forget(asBefore)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// image asks what an image's name stands for.
func (s *Server) image(ctx context.Context, name string) (*found, error) {
	f, turn := s.images.get(name)
	if f != nil {
		return f, nil
	}
	f, err := s.findImage(ctx, name)
	if err == nil {
		s.images.put(name, f, turn)
	}
	return f, err
}
