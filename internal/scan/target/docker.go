package target

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// ErrNotFound says that a name is no file, no directory, and nothing that is kept in a
// store of this host.
var ErrNotFound = errors.New("there is no such file or directory, and no such image or container in the local stores of Docker and containerd that can be read here (they are root's); save it with 'docker save' and scan the file")

const (
	defaultDockerRoot = "/var/lib/docker"
	maxState          = 4 << 20 // of a file of the daemon's state
)

var (
	hexID   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	cacheID = regexp.MustCompile(`^[0-9a-z-]{1,128}$`)
)

// driver is one of Docker's storage drivers.
type driver struct {
	name string
	// dir is the directory of a layer or of a container, its name in the place of the star.
	dir string
	// merged says that a directory has what those below it have too, and nothing marks what it hides.
	merged bool
}

// drivers are those whose layers are directories. Source: moby, daemon/graphdriver.
var drivers = []driver{{"overlay2", "overlay2/*/diff", false}, {"vfs", "vfs/dir/*", true}}

// store is the data of a Docker daemon with one driver. Source: moby,
// daemon/internal/layer/filestore.go and image/fs.go.
type store struct {
	root string
	driver
}

func (s store) path(parts ...string) string {
	return filepath.Join(append([]string{s.root, "image", s.name}, parts...)...)
}

func (s store) file(parts ...string) ([]byte, error) {
	f, err := os.Open(s.path(parts...))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return inventory.ReadAll(f, maxState)
}

// layer returns the directory of a layer or a container.
func (s store) layer(name string) string {
	return filepath.Join(s.root, strings.Replace(s.dir, "*", name, 1))
}

// kept is what a name means in one store.
type kept struct {
	store
	imageID, chain, upper string
	containerID           ident.ContainerID // "": it is an image
}

func openDocker(ctx context.Context, name, root string) (*Target, error) {
	list, err := lookUp(name, cmp.Or(root, defaultDockerRoot))
	if err != nil {
		return nil, err
	}
	for _, k := range list {
		t, e := k.target(ctx)
		if e == nil {
			return t, nil
		}
		err = cmp.Or(err, fmt.Errorf("open the layers of %s: %w", name, e))
		if !errors.Is(e, fs.ErrNotExist) {
			break // else another store may have what is gone from this one
		}
	}
	return nil, err
}

func (k *kept) target(ctx context.Context) (*Target, error) {
	t := &Target{Container: k.containerID, job: inventory.Job{Source: inventory.SourceOverlay, ImageID: k.imageID}}
	var err error
	if k.merged {
		t.job.Source = inventory.SourceRootfs
		err = k.openMerged(t)
	} else {
		err = k.open(ctx, t, k.chain, k.upper)
	}
	if err == nil && k.upper == "" { // a container has a configuration of its own
		var f *os.File
		if f, err = os.Open(k.path("imagedb", "content", "sha256", strings.TrimPrefix(k.imageID, "sha256:"))); err == nil {
			t.add(f, inventory.Input{Config: true})
		}
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// lookUp finds the stores that have an image or a container, of which the first is to be asked first. A
// daemon that was moved to another driver keeps what it had with the former.
//
// Errors: [ErrNotFound], with a sentence for a driver without directories; a sentence for a name of two
// images; that of a store, if no other has the name.
func lookUp(name, root string) (found []*kept, err error) {
	for _, d := range drivers {
		k := &kept{store: store{root, d}}
		e := k.find(name)
		switch {
		case errors.Is(e, fs.ErrNotExist) || errors.Is(e, fs.ErrPermission):
			// To others than root the store is as if it were not there: a registry may have the name.
		case e != nil:
			err = cmp.Or(err, e)
		case len(found) > 0 && found[0].imageID != k.imageID:
			return nil, fmt.Errorf("%q is another image in Docker's store with the driver %s than with %s: name it by its ID", name, d.name, found[0].name)
		default:
			found = append(found, k)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(filepath.Join(root, "image"))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	for _, e := range list {
		known := slices.ContainsFunc(drivers, func(d driver) bool { return d.name == e.Name() })
		if k := (kept{store: store{root, driver{name: e.Name()}}}); !known && k.find(name) == nil {
			return nil, OtherDriverError{name, e.Name()}
		}
	}
	return nil, fmt.Errorf("%q: %w", name, ErrNotFound)
}

// OtherDriverError is [ErrNotFound] of what is kept where it is not read: somebody else may have it.
type OtherDriverError struct{ name, driver string }

func (e OtherDriverError) Error() string {
	return fmt.Sprintf("Docker keeps %q with its storage driver %.40q, whose layers are not read in place: 'docker save' an image, 'docker export' a container, and scan the file", e.name, e.driver)
}

func (e OtherDriverError) Unwrap() error { return ErrNotFound }

// find sets the image's ID, its topmost chain ID, and for a container the directory of its own layer.
func (k *kept) find(name string) (err error) {
	k.imageID, err = k.image(name)
	if err == nil {
		k.chain, err = k.topmost(k.imageID)
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	id, err := k.container(name)
	if err != nil {
		return err
	}
	parent, err := k.file("layerdb", "mounts", id, "parent")
	if err != nil {
		return err
	}
	mount, err := k.file("layerdb", "mounts", id, "mount-id")
	if err != nil || !cacheID.Match(mount) {
		return errors.Join(err, fmt.Errorf("container %s has a mount %.100q", id, mount))
	}
	k.imageID, k.chain, k.upper, k.containerID = "", string(parent), k.layer(string(mount)), ident.ContainerID(id)
	return nil
}

// image resolves a reference, an ID or the beginning of one of at least 12 digits.
func (s store) image(name string) (string, error) {
	id := strings.TrimPrefix(name, "sha256:")
	if hexID.MatchString(id) {
		_, err := os.Stat(s.path("imagedb", "content", "sha256", id))
		return "sha256:" + id, err
	}
	b, err := s.file("repositories.json")
	if err != nil {
		return "", err
	}
	var repos struct{ Repositories map[string]map[string]string }
	if err := json.Unmarshal(b, &repos); err != nil {
		return "", fmt.Errorf("read the Docker store's repositories.json: %w", err)
	}
	ref := strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
	if !strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") && !strings.Contains(ref, "@") {
		ref += ":latest"
	}
	var found []string
	for _, tags := range repos.Repositories {
		for tag, id := range tags {
			if !hexID.MatchString(strings.TrimPrefix(id, "sha256:")) {
				continue // the ID becomes a path
			}
			if tag == ref {
				return id, nil
			}
			if len(name) >= 12 && strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), name) && !slices.Contains(found, id) {
				found = append(found, id)
			}
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return "", fs.ErrNotExist
}

// topmost returns the chain ID of an image's topmost layer: it follows from the digests
// of its layers (OCI image specification, config.md, "Layer ChainID").
func (s store) topmost(imageID string) (string, error) {
	b, err := s.file("imagedb", "content", "sha256", strings.TrimPrefix(imageID, "sha256:"))
	if err != nil {
		return "", err
	}
	var c struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return "", fmt.Errorf("read the configuration of %s: %w", imageID, err)
	}
	if n := len(c.RootFS.DiffIDs); n == 0 || n > inventory.MaxLayers {
		return "", fmt.Errorf("image %s has %d layers", imageID, n)
	}
	return chainID(c.RootFS.DiffIDs), nil
}

// container resolves a container's ID or name by the daemon's own files.
func (s store) container(name string) (string, error) {
	list, err := os.ReadDir(filepath.Join(s.root, "containers"))
	if err != nil {
		return "", fs.ErrNotExist
	}
	var found []string
	for _, e := range list {
		id := e.Name()
		if !hexID.MatchString(id) {
			continue
		}
		if id == name {
			return id, nil
		}
		if len(name) >= 12 && strings.HasPrefix(id, name) {
			found = append(found, id)
			continue
		}
		f, err := os.Open(filepath.Join(s.root, "containers", id, "config.v2.json"))
		if err != nil {
			continue
		}
		b, err := inventory.ReadAll(f, maxState)
		f.Close()
		var c struct{ Name string }
		if err == nil && json.Unmarshal(b, &c) == nil && c.Name == "/"+name {
			found = append(found, id)
		}
	}
	if len(found) != 1 {
		return "", fs.ErrNotExist
	}
	return found[0], nil
}

// open opens the layers from the lowest to chain, and a container's own on top.
func (s store) open(ctx context.Context, t *Target, chain, upper string) error {
	type unpacked struct{ path, diffID string }
	var dirs []unpacked
	for chain != "" {
		id := strings.TrimPrefix(chain, "sha256:")
		if !hexID.MatchString(id) || len(dirs) > inventory.MaxLayers {
			return fmt.Errorf("the layer %.100q, number %d", chain, len(dirs))
		}
		dir, err := s.cached(id)
		if err != nil {
			return err
		}
		diff, err := s.file("layerdb", "sha256", id, "diff")
		if err != nil {
			return err
		}
		dirs = append(dirs, unpacked{dir, string(diff)})
		parent, err := s.file("layerdb", "sha256", id, "parent")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		chain = string(parent)
	}
	slices.Reverse(dirs)
	if upper != "" {
		dirs = append(dirs, unpacked{path: upper})
	}
	for _, d := range dirs {
		if err := t.overlay(ctx, d.path, d.diffID); err != nil {
			return err
		}
	}
	return nil
}

// cached returns the directory of the layer whose chain ID has these digits.
func (s store) cached(id string) (string, error) {
	cache, err := s.file("layerdb", "sha256", id, "cache-id")
	if err != nil || !cacheID.Match(cache) {
		return "", errors.Join(err, fmt.Errorf("layer %s has the directory %.100q", id, cache))
	}
	return s.layer(string(cache)), nil
}

// openMerged opens the one directory that has all of an image or a container.
func (k *kept) openMerged(t *Target) error {
	dir, id := k.upper, strings.TrimPrefix(k.chain, "sha256:")
	if dir == "" {
		if !hexID.MatchString(id) {
			return fmt.Errorf("the layer %.100q", k.chain)
		}
		var err error
		if dir, err = k.cached(id); err != nil {
			return err
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	t.add(f, inventory.Input{})
	return nil
}

// overlay adds a layer that lies unpacked, above those before it.
func (t *Target) overlay(ctx context.Context, dir, diffID string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	t.add(f, inventory.Input{DiffID: diffID})
	t.job.Inputs[len(t.job.Inputs)-1].Opaque, err = opaque(ctx, f)
	return err
}

// OpenLayers opens the directories of an overlay file system, the lowest first.
//
// Errors: those of the directories, which are mostly root's alone; that of ctx.
func OpenLayers(ctx context.Context, dirs []string) (*Target, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	t := &Target{job: inventory.Job{Source: inventory.SourceOverlay}}
	for _, d := range dirs {
		if err := t.overlay(ctx, d, ""); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

// DockerContainer returns the ID of a container that the Docker daemon whose data is below
// root has by that name or ID, whatever store its images are in; root is /var/lib/docker if empty.
//
// Errors: [fs.ErrNotExist].
func DockerContainer(root, name string) (id string, err error) {
	return store{root: cmp.Or(root, defaultDockerRoot)}.container(name)
}
