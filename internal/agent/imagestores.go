package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/stock"
	scantarget "github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/workload"
)

// scanStored has the sandboxed scanner read an image, by its digest, where this host keeps it: in
// Docker's own store, or else in the store of the containerd that is followed or of one in the
// usual places, which is also that of newer Docker engines.
func (a *Agent) scanStored(ctx context.Context, id string, o scantarget.Options) (*inventory.Result, error) {
	t, err := scantarget.OpenImage(ctx, id, o)
	if missing := err; errors.Is(missing, scantarget.ErrNotFound) {
		t, _, err = a.openStored(ctx, id, missing, onePlatform)
		// No store said anything else, which would be joined.
		if _, other := errors.AsType[scantarget.OtherDriverError](missing); err == missing && !other { //nolint:errorlint // that very one
			err = fmt.Errorf("%w: %w", stock.ErrGone, missing)
		}
	}
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return scantarget.Scan(ctx, t, o)
}

// lookImage asks the engine about an image, and containerd, if it is followed, about one that the
// engine does not have, or cannot tell of now. About images of containerd's own containers it asks
// containerd alone.
func (a *Agent) lookImage(ctx context.Context, runtime, ref string) (workload.Image, error) {
	docker := a.docker
	if runtime == workload.RuntimeContainerd {
		docker = nil
	}
	err := fmt.Errorf("%.120q: %w", ref, workload.ErrNoImage)
	if docker != nil && a.cfg.Containerd == "" {
		return docker.Image(ctx, ref)
	}
	if docker != nil {
		// An engine that hangs leaves containerd the other half.
		asked, cancel := context.WithTimeout(ctx, lookTime/2)
		var img workload.Image
		img, err = docker.Image(asked, ref)
		cancel()
		if err == nil {
			return img, nil
		}
	}
	about, missing := a.describeStored(ctx, ref)
	switch {
	case errors.Is(missing, containerd.ErrNotFound):
		return workload.Image{}, err
	case missing != nil && errors.Is(err, workload.ErrNoImage):
		return workload.Image{}, missing
	case missing != nil:
		return workload.Image{}, errors.Join(err, missing)
	}
	return workload.Image{
		ID: about.ID, Names: about.Names, Digests: about.Digests, Manifest: about.Manifest,
		Created: about.Config.Created, User: about.Config.User, Env: about.Config.Env, Unread: about.Unread,
	}.Bounded()
}

func (a *Agent) describeStored(ctx context.Context, ref string) (*containerd.About, error) {
	s, err := containerd.Open(ctx, a.cfg.Containerd, "")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Describe(ctx, ref)
}

// openStored opens an image in a containerd's store, if accept has nothing against it, and returns its digest.
//
// Errors: missing, if none has it; what a containerd said that could have it.
func (a *Agent) openStored(ctx context.Context, ref string, missing error, accept func(context.Context, *containerd.Store, string) error) (*scantarget.Target, string, error) {
	sockets := containerd.Sockets
	if a.cfg.Containerd != "" && !slices.Contains(sockets, a.cfg.Containerd) {
		sockets = append([]string{a.cfg.Containerd}, sockets...)
	}
	for _, socket := range sockets {
		asked, cancel := context.WithTimeout(ctx, lookTime) // one that hangs leaves the others theirs
		t, digest, err := openInStore(asked, socket, ref, accept)
		cancel()
		if err == nil {
			return t, digest, nil
		}
		if !errors.Is(err, containerd.ErrNotFound) && !errors.Is(err, containerd.ErrUnreachable) {
			missing = errors.Join(missing, err)
		}
	}
	return nil, "", missing
}

func openInStore(ctx context.Context, socket, ref string, accept func(context.Context, *containerd.Store, string) error) (*scantarget.Target, string, error) {
	s, err := containerd.Open(ctx, socket, "")
	if err != nil {
		return nil, "", err
	}
	defer s.Close() // blobs are files: they can still be opened
	digest, err := s.Image(ctx, ref)
	if err != nil {
		return nil, "", err
	}
	if err := accept(ctx, s, digest); err != nil {
		return nil, "", err
	}
	t, err := scantarget.OpenBlobs(s, digest)
	return t, digest, err
}

// onePlatform refuses an image that is here for several platforms: what is known of an image is kept
// by its ID, which is that of all of them, and a container can be of any.
func onePlatform(ctx context.Context, s *containerd.Store, digest string) error {
	n, err := s.Platforms(ctx, digest)
	if err == nil && n != 1 {
		err = fmt.Errorf("%s is here for %d platforms, and which of them a container runs is not known: keep one", digest, n)
	}
	return err
}

// anyPlatform is for scans that name theirs.
func anyPlatform(context.Context, *containerd.Store, string) error { return nil }
