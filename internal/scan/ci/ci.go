// Package ci is the agent's API for build pipelines and registries: a scan of an image is
// asked for, waits in a bounded queue, is made by the same sandboxed scanner as every other,
// and its verdict is fetched, streamed or sent to a webhook.
//
// It owns the queue, the folder of results and the deliveries to webhooks. Results outlive the
// agent; what was not over has failed then, and a scan that is not known any more has no
// verdict, which is no pass. It reads no image, fetches none and decides on no caller: functions that it is given do. What
// callers, registries and receivers of webhooks send is bounded. Row: feature.
package ci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ratelimit"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// SocketName is the name of the API's socket in the agent's run directory.
const SocketName = "scans.sock"

// The actions that access policies are asked about.
const (
	ActCreate = "scan.create" // of an image
	// ActAccept: to send what findings do not count in the verdict, asked beside ActCreate.
	ActAccept = "scan.accept"
	ActNotify = "scan.notify" // a registry tells of an image that was pushed
	ActRead   = "scan.read"   // of one scan
	ActList   = "scan.list"
)

// Access decides who may do what; internal/agent implements it with the access policies.
type Access interface {
	// Ask returns nil if the caller may, else an error that wraps [ErrDenied], and records
	// what is to be recorded.
	Ask(sub *apicall.Subject, action string, facts apicall.Facts, res ...apicall.Resource) error
	// Grants tells whether the caller may do an action at all, whatever it is about, and records
	// nothing: Ask tells whether it may be done.
	Grants(sub *apicall.Subject, action string) bool
	// Sees tells whether the caller may read a scan, and records nothing.
	Sees(sub *apicall.Subject, res apicall.Resource) bool
}

// Images reads images; internal/agent implements it with the sandboxed scanner.
type Images interface {
	// Local has an image of this host read, by ID or name, and returns its ID.
	//
	// Errors: [ErrNoImage].
	Local(ctx context.Context, ref, platform string) (*inventory.Result, string, error)
	// Remote has an image of a registry fetched and read, and returns its digest there.
	// authority is a registry's Authorization, or "" for the agent's own credentials.
	Remote(ctx context.Context, ref, platform, authority string) (*inventory.Result, string, error)
	// Match looks an inventory up in the vulnerability database.
	Match(ctx context.Context, res *inventory.Result) (*report.Database, *vulndb.Matches, error)
}

var (
	// ErrDenied: no policy lets the caller do it.
	ErrDenied = errors.New("denied")
	// ErrNoImage: this host has no such image.
	ErrNoImage = errors.New("this host has no such image")
)

// Options says what a service works with. Access, Images, Identify and Dir are required; for
// the others zero values have the defaults that the fields name.
type Options struct {
	Access   Access
	Images   Images
	Identify func(net.Conn) (apicall.Subject, error) // who is at the other end
	// Verify returns the name of a bearer token that is valid; nil: none is.
	Verify func(secret string, now time.Time) (string, error)
	// Dir holds scans and their results, those of an earlier agent too.
	Dir string
	// Registries are the hosts (with port, if they have one) that images may be fetched from;
	// "*" is all, none: images of this host only.
	Registries []string
	// WebhookHosts are the hosts (with port, or for every port without one) that may be told of
	// results; "*" is all with TLS, none: no webhook.
	WebhookHosts []string
	Version      string
	// Database tells of which time the vulnerability database is; nil: nobody knows.
	Database func() (time.Time, error)

	Workers     int           // scans at a time; 1
	ScanTimeout time.Duration // of one scan with fetching and matching; 20 min
	MaxQueue    int           // scans that wait; 256
	MaxPending  int           // of them, and running, of one caller; 32
	MaxKept     int           // results that are kept; 500
	MaxPerOwner int           // of one caller; 100
	MaxBytes    int64         // of all results; 256 MiB
	KeepFor     time.Duration // 24 h
	Burst, Rate float64       // requests of one caller: at once, and in a second; 60 and 4

	// retry is the time to the next try of a delivery, by how many there were.
	retry  []time.Duration
	Now    func() time.Time
	Health *health.Registry
	Log    *slog.Logger
}

func (o *Options) fill() error {
	if o.Access == nil || o.Images == nil || o.Identify == nil || o.Dir == "" {
		return errors.New("ci: Access, Images, Identify and Dir are required")
	}
	def := func(to *int, n int) {
		if *to <= 0 {
			*to = n
		}
	}
	def(&o.Workers, 1)
	def(&o.MaxQueue, 256)
	def(&o.MaxPending, 32)
	def(&o.MaxKept, 500)
	def(&o.MaxPerOwner, 100)
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.ScanTimeout <= 0 {
		o.ScanTimeout = 20 * time.Minute
	}
	if o.KeepFor <= 0 {
		o.KeepFor = 24 * time.Hour
	}
	if o.Burst <= 0 || o.Rate <= 0 {
		o.Burst, o.Rate = 60, 4
	}
	if o.retry == nil {
		o.retry = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Service answers the API. Make one with [Open].
type Service struct {
	o       Options
	rates   *ratelimit.Buckets
	guesses *ratelimit.Buckets
	streams chan struct{} // a token for each event stream
	reads   chan struct{} // a token for each result that is in memory
	larges  chan struct{} // a token for each large request that is read
	hooks   chan struct{} // a token for each delivery
	wg      sync.WaitGroup
	wake    chan struct{}

	// mu guards what follows.
	mu    sync.Mutex
	jobs  map[string]*job
	queue []*job
	bytes int64
	open  map[string]int // event streams and deliveries, by caller
	ended bool           // no delivery starts any more
}

// Bounds of all callers together.
const (
	maxStreams   = 64
	maxReads     = 1
	maxLarges    = 1
	maxHooks     = 16
	maxOwnOpen   = 8 // event streams, or deliveries, of one caller
	sweepEvery   = time.Minute
	shutdownTime = 2 * time.Second
)

// Open makes the folder of results, or takes over what an earlier agent has left there.
func Open(o Options) (*Service, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if err := openDir(o.Dir); err != nil {
		return nil, err
	}
	s := &Service{
		o: o, rates: ratelimit.New(o.Burst, o.Rate), guesses: ratelimit.New(10, 0.1), streams: make(chan struct{}, maxStreams),
		reads: make(chan struct{}, maxReads), larges: make(chan struct{}, maxLarges), hooks: make(chan struct{}, maxHooks), wake: make(chan struct{}, 1),
		jobs: map[string]*job{}, open: map[string]int{},
	}
	return s, s.restore()
}

// Run scans, and answers on the listeners, until ctx ends, then returns nil. It closes the
// listeners. A listener that fails ends it with an error.
func (s *Service) Run(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for range s.o.Workers {
		wg.Go(func() { s.work(ctx) })
	}
	wg.Go(func() { s.sweep(ctx) })
	failed := make(chan error, len(listeners))
	h := s.server(ctx)
	for _, l := range listeners {
		wg.Go(func() {
			if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve the scan API on %s: %w", l.Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer stop()
	if h.Shutdown(late) != nil {
		h.Close()
	}
	wg.Wait()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Service) sweep(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.mu.Lock()
			s.evict()
			s.mu.Unlock()
		}
	}
}

func (s *Service) count(name string) { s.o.Health.Counter("scan_api_" + name).Add(1) }

// take counts something that a caller has open; false: it has too many.
func (s *Service) take(key string, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.open[key] >= most {
		return false
	}
	s.open[key]++
	return true
}

func (s *Service) leave(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key]--; s.open[key] <= 0 {
		delete(s.open, key)
	}
}
