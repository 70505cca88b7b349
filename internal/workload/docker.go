package workload

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/belay-project/belay/internal/ident"
)

// DefaultDockerHost is where Docker Engine listens unless told otherwise.
const DefaultDockerHost = "unix:///var/run/docker.sock"

// DockerOptions configures [NewDocker]. The zero value is usable.
type DockerOptions struct {
	// Host is the engine's address, "unix:///path"; empty means [DefaultDockerHost].
	// Only Unix sockets are accepted: what is enforced here runs here.
	Host string
	// ImageCache is the number of images whose digests are remembered; 0 means 512.
	ImageCache int
	// Sign puts on a request what the engine's authorisation plugin asks for; nil: nothing.
	// target is what follows the method in the request line.
	Sign func(h http.Header, method, target string)
	// Log receives connects and failures; nil discards them.
	Log *slog.Logger
}

// Docker is the [Source] for Docker Engine, API 1.40 and newer (the version is
// negotiated at each connect, so an engine may be upgraded beneath it).
type Docker struct {
	f      *follower
	socket string
	host   string
	sign   func(h http.Header, method, target string)
	// images holds, per image ID, the digests that name the image. An image ID is the
	// digest of content, so an entry can lack a digest but never hold a wrong one.
	images *lru.Cache[string, []string]
}

// NewDocker returns a source that follows the engine at o.Host. It does no I/O.
//
// Errors: a host that is not a Unix socket.
func NewDocker(o DockerOptions) (*Docker, error) {
	if o.Host == "" {
		o.Host = DefaultDockerHost
	}
	if o.ImageCache <= 0 {
		o.ImageCache = 512
	}
	socket, ok := strings.CutPrefix(o.Host, "unix://")
	if !ok || !strings.HasPrefix(socket, "/") {
		return nil, fmt.Errorf("docker host %q: only local engines are followed; use unix:///path/to/docker.sock", o.Host)
	}
	images, err := lru.New[string, []string](o.ImageCache)
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	d := &Docker{socket: socket, host: o.Host, sign: o.Sign, images: images}
	d.f = newFollower(RuntimeDocker, o.Host, o.Log, d.dial)
	return d, nil
}

// ForgetImages empties the cache of what images are called. Safe for concurrent use.
func (d *Docker) ForgetImages() { d.images.Purge() }

// Run implements [Source].
func (d *Docker) Run(ctx context.Context, emit func(Change)) error { return d.f.run(ctx, emit) }

// Status implements [Source].
func (d *Docker) Status() Status { return d.f.status() }

func (d *Docker) dial(ctx context.Context) (engine, string, func(), error) {
	httpClient, closeIdle := boundedClient(d.socket)
	if d.sign != nil {
		httpClient.Transport = signer{httpClient.Transport, d.sign}
	}
	cli, err := client.New(client.WithHost(d.host), client.WithHTTPClient(httpClient), client.WithUserAgent("belay-agent"))
	if err != nil {
		return nil, "", nil, fmt.Errorf("docker client: %w", err)
	}
	// A first request without negotiation would speak the newest version, which an old
	// engine refuses; so the ping must succeed.
	pctx, cancel := context.WithTimeout(ctx, d.f.t.get)
	defer cancel()
	if _, err := cli.Ping(pctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		closeIdle()
		return nil, "", nil, fmt.Errorf("ping docker: %w", err)
	}
	return &dockerEngine{cli: cli, d: d}, cli.ClientVersion(), closeIdle, nil
}

// signer signs each request on its way.
type signer struct {
	next http.RoundTripper
	sign func(h http.Header, method, target string)
}

// RoundTrip implements [http.RoundTripper]. It changes a copy: the request is its caller's.
func (s signer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	s.sign(r.Header, r.Method, r.URL.RequestURI())
	return s.next.RoundTrip(r)
}

// dockerEngine is one connection to an engine.
type dockerEngine struct {
	cli *client.Client
	d   *Docker
}

// detailBudget bounds what a listing may spend on questions about single
// containers and images.
const detailBudget = 3 * time.Second

// Watch implements engine.
func (e *dockerEngine) Watch(ctx context.Context, since time.Time, ready func(), sink func(event)) error {
	ctx, cancel := context.WithCancel(ctx)
	// The engine answers before it has subscribed (20.10: daemon router, getEvents), so
	// the stream starts a moment ago and repeats what may have slipped in between.
	res := e.cli.Events(ctx, client.EventsListOptions{
		Since: fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()),
		Filters: client.Filters{}.Add("type", "container", "image").
			Add("event", "create", "start", "die", "rename", "destroy", "delete", "tag", "untag", "pull", "push", "load", "import"),
	})
	defer func() {
		cancel()
		for range res.Err { // closed when the client's goroutine has ended
		}
	}()
	select {
	case err := <-res.Err:
		return streamEnd(err)
	default:
	}
	ready()
	for {
		select {
		case err := <-res.Err:
			return streamEnd(err)
		case m := <-res.Messages:
			if m.Type == events.ImageEventType {
				e.forgetImage(m)
				continue
			}
			if ev, ok := dockerEvent(m); ok {
				sink(ev)
			}
		}
	}
}

func streamEnd(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// forgetImage drops what an image event may have made incomplete.
func (e *dockerEngine) forgetImage(m events.Message) {
	if validDigest(m.Actor.ID) != "" {
		e.d.images.Remove(m.Actor.ID)
		return
	}
	e.d.images.Purge() // the event names the image by reference (pull, push)
}

func dockerEvent(m events.Message) (event, bool) {
	if m.Type != events.ContainerEventType {
		return event{}, false
	}
	id, err := ident.ParseContainerID(m.Actor.ID)
	if err != nil {
		return event{}, false
	}
	// The engine writes name and image after the labels, so a label cannot fake them.
	ev := event{
		ref: ref{id: id}, at: time.Unix(0, m.TimeNano),
		name: clip(strings.TrimPrefix(m.Actor.Attributes["name"], "/"), maxNameBytes), image: clip(m.Actor.Attributes["image"], maxImageBytes),
	}
	switch m.Action {
	case events.ActionCreate:
		ev.kind = evCreate
	case events.ActionStart:
		ev.kind = evStart
	case events.ActionDie:
		ev.kind = evStop
	case events.ActionRename:
		ev.kind = evRename
	case events.ActionDestroy:
		ev.kind = evDestroy
	default:
		return event{}, false
	}
	return ev, true
}

// clip returns a copy of s, or "" if s is longer than n: see boundLabels.
func clip(s string, n int) string {
	if len(s) > n {
		return ""
	}
	return strings.Clone(s)
}

// List implements engine. It asks the engine's listing, which works on a snapshot
// and takes no container's lock, and then only for what that does not tell.
func (e *dockerEngine) List(ctx context.Context) ([]Container, error) {
	res, err := e.cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, err
	}
	bctx, cancel := context.WithTimeout(ctx, detailBudget)
	defer cancel()
	out := make([]Container, 0, len(res.Items))
	for _, sum := range res.Items {
		c, ok := fromSummary(sum)
		if !ok {
			e.d.f.count(func(s *Status) { s.InvalidIDs++ })
			continue
		}
		if full, err := e.Detail(bctx, c); err == nil {
			c = full
		}
		out = append(out, c)
	}
	return out, nil
}

// Get implements engine. It does not inspect: the engine holds a container's
// lock while it starts it, and "docker run" starts right after the create event,
// so an inspect would often answer only when the program already runs.
func (e *dockerEngine) Get(ctx context.Context, r ref) (Container, error) {
	res, err := e.cli.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: client.Filters{}.Add("id", string(r.id)),
	})
	if err != nil {
		return Container{}, err
	}
	for _, sum := range res.Items {
		if sum.ID != string(r.id) {
			continue
		}
		c, ok := fromSummary(sum)
		if !ok {
			break
		}
		if digests, ok := e.d.images.Get(c.ImageDigest); ok && !unresolved(c) {
			c.ImageDigests, c.Partial = mergeDigests(c.ImageDigests, digests), false
		}
		return c, nil
	}
	return Container{}, errGone
}

// Detail implements detailer. It fills what a listing does not tell: the reference
// the container was created from where its tag has moved since, and the image's
// digests.
func (e *dockerEngine) Detail(ctx context.Context, c Container) (Container, error) {
	if unresolved(c) {
		res, err := e.cli.ContainerInspect(ctx, string(c.ID), client.ContainerInspectOptions{})
		switch {
		case cerrdefs.IsNotFound(err):
			return c, errGone
		case err != nil:
			return c, fmt.Errorf("inspect container: %w", err)
		}
		if res.Container.Config != nil && res.Container.Config.Image != "" {
			c.Image = res.Container.Config.Image
		}
	}
	digests, err := e.imageDigests(ctx, c.ImageDigest)
	if err != nil {
		return c, err
	}
	c.ImageDigests, c.Partial = mergeDigests(c.ImageDigests, digests), false
	return c, nil
}

// imageDigests returns the digests that name an image, from the cache if it can.
func (e *dockerEngine) imageDigests(ctx context.Context, id string) ([]string, error) {
	if id == "" {
		return []string{}, nil
	}
	if digests, ok := e.d.images.Get(id); ok {
		return digests, nil
	}
	img, err := e.cli.ImageInspect(ctx, id)
	switch {
	case cerrdefs.IsNotFound(err): // removed by force under its container
		e.d.images.Add(id, []string{})
		return []string{}, nil
	case err != nil:
		return nil, fmt.Errorf("inspect image: %w", err)
	}
	digests := []string{img.ID}
	for _, r := range img.RepoDigests {
		if _, d, ok := strings.Cut(r, "@"); ok {
			digests = append(digests, d)
		}
	}
	if img.Descriptor != nil {
		digests = append(digests, img.Descriptor.Digest.String())
	}
	digests = mergeDigests(digests)
	e.d.images.Add(id, digests)
	return digests, nil
}

// unresolved reports that the engine shows an image ID in place of the reference:
// the tag points elsewhere by now, or there never was one.
func unresolved(c Container) bool {
	return strings.HasPrefix(c.Image, sha256Prefix) || c.Image == "" ||
		isHexPrefix(c.Image) && strings.HasPrefix(c.ImageDigest, sha256Prefix+c.Image)
}

func fromSummary(sum container.Summary) (Container, bool) {
	id, err := ident.ParseContainerID(sum.ID)
	if err != nil {
		return Container{}, false
	}
	c := Container{
		ID: id, Runtime: RuntimeDocker, Name: primaryName(sum.Names), Image: sum.Image,
		ImageDigest: validDigest(sum.ImageID), Labels: sum.Labels, Namespace: sum.Labels[labelPodNamespace], // by cri-dockerd
		State: dockerState(sum.State), Created: time.Unix(sum.Created, 0),
		Partial: true,
	}
	c.ImageDigests = mergeDigests([]string{c.ImageDigest}, descriptorDigest(sum.ImageManifestDescriptor))
	return c, true
}

func descriptorDigest(d *ocispec.Descriptor) []string {
	if d == nil {
		return nil
	}
	return []string{d.Digest.String()}
}

// primaryName picks the container's own name: the others are those that links
// give it ("/web/db").
func primaryName(names []string) string {
	for _, n := range names {
		if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

func dockerState(s container.ContainerState) State {
	switch s {
	case container.StateCreated:
		return StateCreated
	case container.StateRunning, container.StatePaused:
		return StateRunning
	case container.StateRestarting, container.StateRemoving, container.StateExited, container.StateDead:
		return StateStopped
	}
	// An unknown word must not hide processes.
	return StateRunning
}
