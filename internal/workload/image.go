package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
)

// Image is what an engine says about one of its images: what its author has put into its
// configuration, and under which names the engine knows it.
type Image struct {
	ID      string   // "sha256:..."
	Names   []string // "repository:tag"
	Digests []string // "repository@sha256:...", of registries
	// Manifest is the digest of the one manifest that the engine has of the image, of which an index has
	// one for each platform; empty: it is not known.
	Manifest string
	Created  time.Time
	User     string
	Env      []string // NAME=value
	// Unread is why Manifest, Created, User and Env are not known; nil: they are.
	Unread error
}

// ErrNoImage is returned for an image that the engine does not have.
var ErrNoImage = errors.New("the engine has no such image")

// Bounds of what is kept of one image: its author chooses it.
const (
	maxImageNames = 256
	maxImageEnv   = 1024
	maxEnvBytes   = 4096
)

// Image asks the engine about an image, by ID or name.
//
// Errors: [ErrNoImage]; that of ctx; those of the connection.
func (d *Docker) Image(ctx context.Context, ref string) (Image, error) {
	e, _, done, err := d.dial(ctx)
	if err != nil {
		return Image{}, err
	}
	defer done()
	de, ok := e.(*dockerEngine)
	if !ok {
		return Image{}, fmt.Errorf("inspect image: %T is no Docker Engine", e)
	}
	var opts []client.ImageInspectOption
	if versions.GreaterThanOrEqualTo(de.cli.ClientVersion(), "1.48") { // older engines do not tell
		opts = append(opts, client.ImageInspectWithManifests(true))
	}
	img, err := de.cli.ImageInspect(ctx, ref, opts...)
	switch {
	case cerrdefs.IsNotFound(err):
		return Image{}, fmt.Errorf("%.120q: %w", ref, ErrNoImage)
	case err != nil:
		return Image{}, fmt.Errorf("inspect image: %w", err)
	}
	out := Image{ID: img.ID, Names: img.RepoTags, Digests: img.RepoDigests}
	// A time that cannot be read is none: rules on age refuse then.
	out.Created, _ = time.Parse(time.RFC3339Nano, img.Created)
	if c := img.Config; c != nil {
		out.User, out.Env = c.User, c.Env
	}
	out.Manifest, out.Unread = manifestHere(img.Manifests)
	return out.Bounded()
}

// manifestHere returns the digest of the one manifest of an image that an engine has; empty of the
// older store, which knows none.
//
// Errors: there are several.
func manifestHere(list []imageapi.ManifestSummary) (digest string, err error) {
	n := 0
	for i := range list {
		m := &list[i]
		if m.Kind == imageapi.ManifestKindImage && (m.Available || m.ImageData != nil && m.ImageData.Size.Unpacked > 0) {
			digest = m.ID
			n++
		}
	}
	if n > 1 {
		return "", fmt.Errorf("it is here for %d platforms, and which of them a container runs is not known: keep one", n)
	}
	return digest, nil
}

// Bounded returns the image within the bounds of this package.
//
// Errors: it has too many names, or an ID that is none.
func (i Image) Bounded() (Image, error) {
	if len(i.Names) > maxImageNames || len(i.Digests) > maxImageNames {
		// Policies select by names: one that is left out could be the one that counts.
		return Image{}, fmt.Errorf("inspect image: it has more than %d names; fix: untag some", maxImageNames)
	}
	id := validDigest(i.ID)
	if id == "" {
		return Image{}, fmt.Errorf("inspect image: the engine gives %.120q for its ID", i.ID)
	}
	out := Image{ID: id, Names: bounded(i.Names), Digests: bounded(i.Digests), Manifest: validDigest(i.Manifest), Created: i.Created, User: clip(i.User, maxNameBytes), Unread: i.Unread}
	for _, v := range i.Env[:min(len(i.Env), maxImageEnv)] {
		out.Env = append(out.Env, v[:min(len(v), maxEnvBytes)])
	}
	return out, nil
}

func bounded(list []string) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool {
		return len(s) > maxImageBytes || strings.HasPrefix(s, "<none>")
	})
	return list
}
