package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inventory"
	scantarget "github.com/belay-project/belay/internal/scan/target"
)

// scanStored has the sandboxed scanner read an image, by its digest, where this host keeps it: in
// Docker's overlay2 store, or else in the store of the containerd that is followed or of one in the
// usual places, which is also that of newer Docker engines.
func (a *Agent) scanStored(ctx context.Context, id string, o scantarget.Options) (*inventory.Result, error) {
	t, err := scantarget.OpenImage(ctx, id, o)
	if errors.Is(err, scantarget.ErrNotFound) {
		t, err = a.openStored(ctx, id, err)
	}
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return scantarget.Scan(ctx, t, o)
}

// openStored opens an image in a containerd's store.
//
// Errors: missing, if none has it; what a containerd said that could have it.
func (a *Agent) openStored(ctx context.Context, id string, missing error) (*scantarget.Target, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	sockets := containerd.Sockets
	if a.cfg.Containerd != "" && !slices.Contains(sockets, a.cfg.Containerd) {
		sockets = append([]string{a.cfg.Containerd}, sockets...)
	}
	for _, socket := range sockets {
		t, err := openInStore(ctx, socket, id)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, containerd.ErrNotFound) && !errors.Is(err, containerd.ErrUnreachable) {
			missing = errors.Join(missing, err)
		}
	}
	return nil, missing
}

func openInStore(ctx context.Context, socket, id string) (*scantarget.Target, error) {
	s, err := containerd.Open(ctx, socket, "")
	if err != nil {
		return nil, err
	}
	defer s.Close() // blobs are files: they can still be opened
	digest, err := s.Image(ctx, id)
	if err != nil {
		return nil, err
	}
	return scantarget.OpenBlobs(s, digest)
}
