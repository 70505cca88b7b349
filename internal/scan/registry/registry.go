// Package registry fetches images of registries: manifests and blobs as streams, for a
// scanner that has no network. It resolves names, signs in with the credentials of the
// Docker client's configuration, retries, and resumes a blob where it broke off.
//
// It owns its connections until [Client.Close]. It keeps nothing on disk and reads no
// image: of what a registry sends it parses lists of names alone, and manifests where it looks
// for bills that are attached; the digest of an image is that of the bytes that came. Row: adapter.
package registry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Options says how to reach registries. The zero value is ready.
type Options struct {
	// Insecure lets the registry speak plain HTTP or show a certificate that nobody vouches
	// for. A registry on a loopback address may speak plain HTTP without it.
	Insecure bool
	// Mirrors are HOST=MIRROR: images of HOST are looked for at MIRROR (host[:port] and maybe
	// a path before their name) first.
	Mirrors []string
	// Every is the least time between two requests; 0 is none.
	Every time.Duration
	// Authorization is shown to the registry of an image in the place of stored credentials:
	// "Basic BASE64" or "Bearer TOKEN", as HTTP has it. With mirrors it is refused.
	Authorization string
	// UserAgent is what requests say who they are.
	UserAgent string
}

// ErrNotFound says that a registry has no such image.
var ErrNotFound = errors.New("the registry has no such image, or shows it to nobody without signing in ('docker login')")

// Bounds on what registries send.
const (
	maxManifest = 4 << 20
	maxList     = 16 << 20
	maxNames    = 1_000_000
	maxEmpty    = 100 // pages without a name, one after the other
)

// Client talks to registries. Safe for concurrent use.
type Client struct {
	o      Options
	strict *http.Transport
	loose  *http.Transport // for the registry itself, where Insecure is set
	// silence is how long a body may bring no byte.
	silence time.Duration

	mu   sync.Mutex // guards what follows
	next time.Time  // when the next request may go out
	auth map[string]http.RoundTripper
}

// New returns a client. It does no I/O.
func New(o Options) *Client {
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: time.Minute,
		ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 1 << 20,
		// A layer is what it is: what a server packs on top must not change its digest.
		DisableCompression: true,
	}
	loose := tr.Clone()
	loose.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for, for this registry alone
	return &Client{o: o, strict: tr, loose: loose, silence: time.Minute, auth: map[string]http.RoundTripper{}}
}

// Close ends idle connections.
func (c *Client) Close() {
	c.strict.CloseIdleConnections()
	c.loose.CloseIdleConnections()
}

// guard sends requests as far as they may go out: plain HTTP only to a registry that was named
// insecure, or between loopback addresses. One elsewhere must not lead to what listens there.
type guard struct {
	c    *Client
	host string // of the registry
}

// RoundTrip implements [http.RoundTripper].
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	loose := g.c.o.Insecure && r.URL.Host == g.host
	home := loopback((&url.URL{Host: g.host}).Hostname()) && loopback(r.URL.Hostname())
	if r.URL.Scheme != "https" && !loose && !home {
		return nil, fmt.Errorf("%s: %w", r.URL.Host, errPlain)
	}
	if err := g.c.wait(r.Context()); err != nil {
		return nil, err
	}
	tr := g.c.strict
	if loose {
		tr = g.c.loose
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	resp, err := tr.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &heardBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, silence: g.c.silence}
	return resp, nil
}

// heardBody is a body whose sender must not fall silent.
type heardBody struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence time.Duration
}

// errSilent is what a read ends with; what can be asked for again then is.
var errSilent = fmt.Errorf("the registry fell silent: %w", io.ErrUnexpectedEOF)

// Read implements [io.Reader]. Only the sender is timed, not who reads.
func (b *heardBody) Read(p []byte) (int, error) {
	t := time.AfterFunc(b.silence, func() { b.cancel(errSilent) })
	n, err := b.ReadCloser.Read(p)
	t.Stop()
	if err != nil && errors.Is(context.Cause(b.ctx), errSilent) {
		err = errSilent
	}
	return n, err
}

// Close implements [io.Closer].
func (b *heardBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// errPlain says that a host would be asked without encryption.
var errPlain = errors.New("it is to be asked by plain HTTP: --insecure allows that for the registry you name")

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// wait keeps requests apart.
func (c *Client) wait(ctx context.Context) error {
	if c.o.Every <= 0 {
		return nil
	}
	c.mu.Lock()
	now := time.Now()
	at := c.next
	if at.Before(now) {
		at = now
	}
	c.next = at.Add(c.o.Every)
	c.mu.Unlock()
	return pause(ctx, at.Sub(now))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// client returns an HTTP client that is signed in to a registry for one scope.
func (c *Client) client(ctx context.Context, reg name.Registry, target authn.Resource, scope string) (*http.Client, error) {
	key := reg.RegistryStr() + " " + scope
	c.mu.Lock()
	rt := c.auth[key]
	c.mu.Unlock()
	if rt == nil {
		auth, err := c.credentials(ctx, target)
		if err != nil {
			return nil, fmt.Errorf("find credentials for %s: %w", reg.RegistryStr(), err)
		}
		base := transport.NewUserAgent(guard{c, reg.RegistryStr()}, c.o.UserAgent)
		err = retry(ctx, func() (time.Duration, error) {
			rt, err = transport.NewWithContext(ctx, reg, auth, base, []string{scope})
			return 0, temporary(err)
		})
		if err != nil {
			return nil, fmt.Errorf("sign in to %s: %w", reg.RegistryStr(), err)
		}
		c.mu.Lock()
		c.auth[key] = rt
		c.mu.Unlock()
	}
	return &http.Client{Transport: rt}, nil
}

// credentials returns those that were given, or else those of the Docker client's configuration.
func (c *Client) credentials(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	if c.o.Authorization == "" {
		return authn.Resolve(ctx, authn.DefaultKeychain, target)
	}
	if len(c.o.Mirrors) > 0 {
		return nil, errors.New("credentials for one registry are not shown to its mirrors")
	}
	scheme, value, _ := strings.Cut(c.o.Authorization, " ")
	value = strings.TrimSpace(value)
	switch {
	case strings.EqualFold(scheme, "Bearer") && value != "":
		return authn.FromConfig(authn.AuthConfig{RegistryToken: value}), nil
	case strings.EqualFold(scheme, "Basic"):
		b, err := base64.StdEncoding.DecodeString(value)
		user, password, ok := strings.Cut(string(b), ":")
		if err == nil && ok {
			return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
		}
	}
	return nil, errors.New("the credentials that were given are neither Basic nor Bearer")
}

// place is one repository of one registry.
type place struct {
	repo name.Repository
	http *http.Client // nil: not signed in yet
}

func (c *Client) place(ctx context.Context, repo name.Repository) (place, error) {
	h, err := c.client(ctx, repo.Registry, repo, repo.Scope(transport.PullScope))
	return place{repo, h}, err
}

func (p place) url(parts ...string) string {
	u := url.URL{Scheme: p.repo.Scheme(), Host: p.repo.RegistryStr(), Path: "/v2/" + p.repo.RepositoryStr() + "/" + strings.Join(parts, "/")}
	return u.String()
}

// Image is an image that was found in a registry.
type Image struct {
	Name   string // with its registry
	Digest string // of its manifest or index
	root   []byte
	client *Client
	places []place // where its blobs may be
}

// manifestTypes are the forms of manifests that are read.
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// Image finds REGISTRY/REPOSITORY[:TAG][@DIGEST], as the Docker client reads names: a name
// without a registry is one of docker.io, one without a tag has the tag latest. With a digest the
// tag does not matter.
//
// Errors: [ErrNotFound]; a sentence for a name that is none; those of the network.
func (c *Client) Image(ctx context.Context, ref string) (*Image, error) {
	r, err := c.parse(ref)
	if err != nil {
		return nil, err
	}
	repos, err := c.repositories(r.Context())
	if err != nil {
		return nil, err
	}
	img := &Image{Name: r.Name(), client: c}
	var failed error
	for _, repo := range repos {
		if img.root != nil { // asked only for what the first does not have
			img.places = append(img.places, place{repo: repo})
			continue
		}
		p, err := c.place(ctx, repo)
		if err == nil {
			img.root, err = p.manifest(ctx, r.Identifier())
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", repo.Name(), err))
			continue
		}
		img.places = append(img.places, p)
	}
	if img.root == nil {
		return nil, failed
	}
	img.Digest = digestOf(img.root)
	if d, ok := r.(name.Digest); ok && d.DigestStr() != img.Digest {
		return nil, fmt.Errorf("%s has the digest %s: the registry sent something else", ref, img.Digest)
	}
	return img, nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// names says how names of registries are read, mirrors' too.
func (c *Client) names() []name.Option {
	if c.o.Insecure {
		return []name.Option{name.Insecure}
	}
	return nil
}

func (c *Client) parse(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref, c.names()...)
	if err != nil {
		return nil, fmt.Errorf("%q is no name of an image: want REGISTRY/REPOSITORY[:TAG][@DIGEST]: %w", ref, err)
	}
	return r, nil
}

// repositories returns where a repository may be: its mirrors, then itself.
func (c *Client) repositories(repo name.Repository) ([]name.Repository, error) {
	var out []name.Repository
	for _, m := range c.o.Mirrors {
		host, mirror, ok := strings.Cut(m, "=")
		if !ok || host == "" || mirror == "" {
			return nil, fmt.Errorf("the mirror %q: want HOST=MIRROR, as docker.io=mirror.example", m)
		}
		reg, err := name.NewRegistry(host)
		if err != nil {
			return nil, fmt.Errorf("the mirror %q: %w", m, err)
		}
		if reg.RegistryStr() != repo.RegistryStr() {
			continue
		}
		at, err := name.NewRepository(strings.TrimSuffix(mirror, "/")+"/"+repo.RepositoryStr(), c.names()...)
		if err != nil {
			return nil, fmt.Errorf("the mirror %q: %w", m, err)
		}
		out = append(out, at)
	}
	return append(out, repo), nil
}

// manifest fetches a manifest or an index by tag or digest.
func (p place) manifest(ctx context.Context, tag string) ([]byte, error) {
	var b []byte
	err := p.get(ctx, request{url: p.url("manifests", tag), accept: manifestTypes}, func(r *http.Response) (err error) {
		b, err = inventory.ReadAll(r.Body, maxManifest)
		return err
	})
	return b, err
}

// Fetch returns what a scanner asked for, as a stream. It implements target.Blobs.
//
// What is asked for is bound to the image's repository; whether the bytes have that digest is
// for the scanner to see. Errors: [ErrNotFound], those of the network.
func (i *Image) Fetch(ctx context.Context, a inventory.Ask) (io.ReadCloser, error) {
	if a.Manifest && a.Digest == i.Digest {
		return io.NopCloser(strings.NewReader(string(i.root))), nil
	}
	var failed error
	for _, p := range i.places {
		rc, err := i.client.fetch(ctx, p, a)
		if err == nil {
			return rc, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", p.repo.Name(), err))
	}
	return nil, failed
}

// Has reports whether the image's repository, or a mirror of it, has a blob and gives it to who is
// signed in, without fetching it.
func (i *Image) Has(ctx context.Context, digest string) bool {
	for _, p := range i.places {
		if p.http == nil {
			var err error
			if p, err = i.client.place(ctx, p.repo); err != nil {
				continue
			}
		}
		if p.has(ctx, digest) == nil {
			return true
		}
	}
	return false
}

// Registry is the host that the image was named with.
func (i *Image) Registry() string {
	host, _, _ := strings.Cut(i.Name, "/")
	return host
}

func (c *Client) fetch(ctx context.Context, p place, a inventory.Ask) (io.ReadCloser, error) {
	if p.http == nil {
		var err error
		if p, err = c.place(ctx, p.repo); err != nil {
			return nil, err
		}
	}
	if !a.Manifest {
		return p.blob(ctx, a.Digest)
	}
	b, err := p.manifest(ctx, a.Digest)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(string(b))), nil
}
