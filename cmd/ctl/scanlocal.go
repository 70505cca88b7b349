package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/target"
)

// Stores of this host, as --store names them.
const (
	storeAny        = "any"
	storeDocker     = "docker"
	storeContainerd = "containerd"
)

// openLocal opens what is on this host: a file, a directory, an image or a container of
// Docker's own store, or one of containerd's.
//
// A Docker that was moved to containerd's store keeps its former one: a name that both have
// is refused, since the former image may be another.
func openLocal(ctx context.Context, f *scanFlags, name string) (*target.Target, error) {
	var tgt *target.Target
	err := error(target.ErrNotFound)
	switch f.store {
	case storeAny, storeDocker:
		tgt, err = target.Open(ctx, name, f.Options)
	case storeContainerd:
	default:
		return nil, badUsage("--store %s: want any, docker or containerd", f.store)
	}
	if f.store == storeDocker || err != nil && !errors.Is(err, target.ErrNotFound) {
		return tgt, err
	}
	if _, e := os.Stat(name); e == nil && err == nil {
		return tgt, nil // a file or a directory
	}
	other, cerr := openContainerd(ctx, f, name)
	switch {
	case errors.Is(cerr, target.ErrNotFound):
		return tgt, err
	case err != nil: // not in Docker's own store
		return other, cerr
	case cerr != nil:
		tgt.Close()
		return nil, fmt.Errorf("it is in Docker's own store, and in containerd's: %w; choose one with --store", cerr)
	}
	tgt.Close()
	other.Close()
	return nil, errors.New("it is in Docker's own store and in containerd's: choose one with --store docker or --store containerd")
}

// openContainerd opens an image or a container of a containerd of this host.
//
// Errors: [target.ErrNotFound] also where there is no containerd, unless one was named.
func openContainerd(ctx context.Context, f *scanFlags, name string) (*target.Target, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	sockets := containerd.Sockets
	if f.containerd != "" {
		sockets = []string{f.containerd}
	}
	id, err := target.DockerContainer(f.DockerRoot, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, socket := range sockets {
		tgt, err := openIn(ctx, socket, f.namespace, name, id)
		switch {
		case errors.Is(err, containerd.ErrNotFound):
		case f.containerd == "" && f.store != storeContainerd && errors.Is(err, containerd.ErrUnreachable):
		default:
			return tgt, err
		}
	}
	return nil, target.ErrNotFound
}

func openIn(ctx context.Context, socket, namespace, name, id string) (*target.Target, error) {
	s, err := containerd.Open(ctx, socket, namespace)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	digest, err := s.Image(ctx, name)
	if err == nil {
		return target.OpenBlobs(s, digest)
	}
	if !errors.Is(err, containerd.ErrNotFound) {
		return nil, err
	}
	dirs, id, err := s.Container(ctx, name, id)
	if err != nil {
		return nil, err
	}
	tgt, err := target.OpenLayers(ctx, dirs)
	if err == nil {
		tgt.Container, _ = ident.ParseContainerID(id) // of others the kernel's records have no name
	}
	return tgt, err
}
