package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// manifest is an image as it was found in an archive.
type manifest struct {
	imageID, digest, platform string
	tags                      []string
	layers                    []manifestLayer // lowest first
	faults                    []inventory.Misconfiguration
	unread                    string // why its configuration could not be looked at
	base                      *inventory.ClaimedBase
}

type manifestLayer struct {
	name      string // in the archive
	diffID    string
	createdBy string
}

// check compares the digest of what was read with the image's word.
func (l manifestLayer) check(digest string) error {
	if digest != l.diffID {
		return fmt.Errorf("the layer %s has the digest %s, its image says %s: the archive is damaged or forged", l.name, digest, l.diffID)
	}
	return nil
}

// config is what an image's configuration has for us. Source: OCI image
// specification, config.md.
type config struct {
	OS, Architecture, Variant string
	RootFS                    struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// descriptor names a blob. Source: OCI image specification, descriptor.md.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Platform    *platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

type platform struct {
	OS, Architecture, Variant string
}

func (p platform) String() string {
	return strings.TrimSuffix(strings.Join([]string{p.OS, p.Architecture, p.Variant}, "/"), "/")
}

// findImage reads manifest.json of "docker save", or else index.json of an OCI layout.
func findImage(a archive, want string) (*manifest, error) {
	b, err := a.small("manifest.json")
	if err == nil {
		m, err := dockerImage(a, b)
		if err != nil {
			return nil, err
		}
		return m, agree(a, m)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	b, err = a.small("index.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotImage
	}
	if err != nil {
		return nil, err
	}
	return ociImage(a, b, want)
}

// agree holds an archive with both manifests, as newer engines save it, to one image.
func agree(a archive, m *manifest) error {
	b, err := a.small("index.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parts := strings.SplitN(m.platform, "/", 3) // without the variant, which indexes may leave out
	other, err := ociImage(a, b, strings.Join(parts[:min(len(parts), 2)], "/"))
	if err != nil {
		return fmt.Errorf("the archive has manifest.json and index.json, and of the latter: %w", err)
	}
	if other.imageID != m.imageID {
		return fmt.Errorf("manifest.json is about the image %s, index.json about %s: the archive is damaged or forged", m.imageID, other.imageID)
	}
	return nil
}

// dockerImage reads a docker-archive. Source: moby, image/spec/v1.2.md, "Combined
// Image JSON + Filesystem Changeset Format".
func dockerImage(a archive, b []byte) (*manifest, error) {
	var list []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("the archive has %d images: save one alone", len(list))
	}
	b, err := a.small(path.Clean(list[0].Config))
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	m := &manifest{imageID: digestOf(b), tags: list[0].RepoTags}
	for i := range m.tags {
		m.tags[i] = inventory.Cut(m.tags[i])
	}
	return m, m.configure(b, list[0].Layers)
}

// configure adds what the configuration says; names are the layers' names in the archive.
func (m *manifest) configure(b []byte, names []string) error {
	diffIDs, err := m.about(b)
	if err != nil {
		return err
	}
	if len(diffIDs) != len(names) {
		return fmt.Errorf("the image has %d layers and %d digests of layers", len(names), len(diffIDs))
	}
	for i, n := range names {
		m.layers = append(m.layers, manifestLayer{name: path.Clean(n), diffID: inventory.Cut(diffIDs[i])})
	}
	m.origin(b)
	return nil
}

// about adds what the configuration says of all but layers, and returns the digests of these.
func (m *manifest) about(b []byte) (diffIDs []string, err error) {
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	m.faults, m.unread = faults(b)
	m.platform = inventory.Cut(platform{c.OS, c.Architecture, c.Variant}.String())
	return c.RootFS.DiffIDs, nil
}

// ociImage walks from an index to one manifest.
func ociImage(a archive, index []byte, want string) (*manifest, error) {
	var tags []string
	for range maxIndex {
		d, err := choose(index, want)
		if err != nil {
			return nil, err
		}
		if tag := d.Annotations["org.opencontainers.image.ref.name"]; tag != "" {
			tags = append(tags, inventory.Cut(tag))
		}
		b, err := manifestBlob(a, d.Digest)
		if err != nil {
			return nil, err
		}
		var m struct {
			Manifests []json.RawMessage `json:"manifests"`
			Config    descriptor        `json:"config"`
			Layers    []descriptor      `json:"layers"`
			Notes     map[string]string `json:"annotations"`
		}
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", d.Digest, err)
		}
		if len(m.Manifests) > 0 {
			index = b
			continue
		}
		out := &manifest{digest: d.Digest, imageID: m.Config.Digest, tags: tags}
		b, err = blob(a, m.Config.Digest)
		if err != nil {
			return nil, fmt.Errorf("read the image's configuration: %w", err)
		}
		var names []string
		for _, l := range m.Layers {
			name, err := blobName(l.Digest)
			if err != nil {
				return nil, err
			}
			names = append(names, name)
		}
		if err := out.configure(b, names); err != nil {
			return nil, err
		}
		out.claim(m.Notes)
		return out, nil
	}
	return nil, fmt.Errorf("the image's index leads to more than %d indexes", maxIndex)
}

// choose takes the one manifest of an index that fits the platform.
func choose(index []byte, want string) (descriptor, error) {
	var ix struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(index, &ix); err != nil {
		return descriptor{}, fmt.Errorf("read the image's index: %w", err)
	}
	// Attestations of BuildKit have the platform unknown/unknown.
	list := slices.DeleteFunc(ix.Manifests, func(d descriptor) bool {
		return d.Platform != nil && d.Platform.OS == "unknown"
	})
	if len(list) == 1 && want == "" {
		return list[0], nil
	}
	explicit := want != ""
	if !explicit {
		want = "linux/" + runtime.GOARCH
	}
	var have []string
	for _, d := range list {
		if d.Platform == nil {
			if len(list) == 1 {
				return d, nil // an index around the one that names platforms
			}
			continue
		}
		p := d.Platform.String()
		if p == want || strings.HasPrefix(p, want+"/") {
			return d, nil
		}
		have = append(have, p)
	}
	if len(have) == 0 && len(list) > 1 {
		return descriptor{}, fmt.Errorf("the layout has %d images: keep one", len(list))
	}
	return descriptor{}, fmt.Errorf("the image is not there for %s, only for %.500s: choose with --platform", want, strings.Join(have, ", "))
}

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func blobName(digest string) (string, error) {
	if !sha256Digest.MatchString(digest) {
		return "", fmt.Errorf("the digest %.100q is no sha256", digest)
	}
	return "blobs/sha256/" + digest[len("sha256:"):], nil
}

// manifestBlob is blob for a manifest or an index.
func manifestBlob(a archive, digest string) ([]byte, error) {
	m, ok := a.(manifests)
	if !ok {
		return blob(a, digest)
	}
	if _, err := blobName(digest); err != nil {
		return nil, err
	}
	b, err := m.manifest(digest)
	if err != nil {
		return nil, err
	}
	if got := digestOf(b); got != digest {
		return nil, fmt.Errorf("the manifest %s has the digest %s: it is damaged or forged", digest, got)
	}
	return b, nil
}

// blob reads a small blob and holds it to its digest.
func blob(a archive, digest string) ([]byte, error) {
	name, err := blobName(digest)
	if err != nil {
		return nil, err
	}
	b, err := a.small(name)
	if err != nil {
		return nil, err
	}
	if got := digestOf(b); got != digest {
		return nil, fmt.Errorf("the blob %s has the digest %s", digest, got)
	}
	return b, nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
