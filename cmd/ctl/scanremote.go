package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/scan/registry"
	"github.com/belay-project/belay/internal/scan/target"
)

// registryPrefix says that a name is one of a registry and nothing on this host.
const registryPrefix = "registry:"

// registryFlags are how to reach registries.
type registryFlags struct {
	registry.Options
	found *registry.Image // that was opened last
}

func (f *registryFlags) add(fl *pflag.FlagSet) {
	fl.BoolVar(&f.Insecure, "insecure", false, "let the registry speak plain HTTP or show a certificate that nobody vouches for; on a loopback address HTTP needs no flag")
	fl.StringSliceVar(&f.Mirrors, "mirror", nil, "look for images of a registry at another first: `HOST=MIRROR`, as docker.io=mirror.example")
}

func (f *registryFlags) client() *registry.Client {
	o := f.Options
	o.UserAgent = "belay/" + version
	return registry.New(o)
}

// openTarget opens what is on this host, or else, where the name says so, an image of a
// registry.
func openTarget(ctx context.Context, f *scanFlags, name string) (*target.Target, error) {
	ref, remote := strings.CutPrefix(name, registryPrefix)
	if remote || f.remote {
		return openRemote(ctx, &f.registry, ref)
	}
	tgt, err := openLocal(ctx, f, name)
	if !errors.Is(err, target.ErrNotFound) {
		return tgt, err
	}
	if !namesRegistry(name) {
		return nil, fmt.Errorf("%w; for an image of a registry say %s%s", err, registryPrefix, name)
	}
	here := "it is not on this host"
	if other, ok := errors.AsType[target.OtherDriverError](err); ok {
		here = other.Error()
	}
	if tgt, err = openRemote(ctx, &f.registry, name); err != nil {
		return nil, fmt.Errorf("%s, and in its registry: %w", here, err)
	}
	return tgt, nil
}

func openRemote(ctx context.Context, f *registryFlags, ref string) (*target.Target, error) {
	img, err := f.client().Image(ctx, ref)
	if err != nil {
		return nil, err
	}
	f.found = img
	return target.OpenBlobs(img, img.Digest)
}

// namesRegistry reports whether a name begins with the host of a registry: a misspelt name
// of this host must not be asked for elsewhere. The rule is that of the Docker client: the
// first part has a dot or a port, or is localhost.
func namesRegistry(name string) bool {
	host, rest, ok := strings.Cut(name, "/")
	if !ok || rest == "" || strings.HasPrefix(host, ".") || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return false
	}
	_, err := os.Lstat(host) // a path below a folder that is there
	return errors.Is(err, os.ErrNotExist)
}
