package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/distribution/reference"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// About is what the store knows of an image.
type About struct {
	ID    string   // the digest of its manifest or index
	Names []string // in all namespaces
	// Digests are "repository@sha256:...", of the registries that it was pulled from or pushed
	// to: a name that somebody gave it makes none.
	Digests []string
	// Manifest is the digest of the manifest that is here: of an index, that of the one platform that
	// was pulled, which may be another tomorrow.
	Manifest string
	Config   Config
	// Unread is why Manifest and Config are not known; nil: they are.
	Unread error
}

// Config is what an image's author has put into its configuration.
type Config struct {
	Created time.Time // zero: it does not say
	User    string
	Env     []string // NAME=value
}

const (
	// documentBytes bounds an index, a manifest or a configuration.
	documentBytes = 4 << 20
	// sourceLabel begins the label by which whoever pulls says what a blob was pulled from: a registry
	// in its name, repositories in its value (containerd, docs/content-flow.md).
	sourceLabel = "containerd.io/distribution.source."
)

// Describe tells what the store knows of an image, by a name as [Store.Image] takes it.
//
// Errors: those of [Store.Image].
func (s *Store) Describe(ctx context.Context, name string) (*About, error) {
	a := &About{}
	var err error
	if a.ID, a.Names, err = s.one(ctx, name); err != nil {
		return nil, err
	}
	if a.Digests, err = s.sources(ctx, a.ID, a.Names); err != nil {
		return nil, err
	}
	a.Manifest, a.Config, a.Unread = s.config(ctx, a.ID)
	return a, nil
}

// sources returns under which names registries know a digest. The labels leave a registry's port
// out: names of the image have it.
func (s *Store) sources(ctx context.Context, digest string, names []string) ([]string, error) {
	found := map[string]bool{}
	for _, ns := range s.namespaces {
		info, err := contentapi.NewContentClient(s.conn).Info(in(ctx, ns), &contentapi.InfoRequest{Digest: digest})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask containerd's namespace %s where %s is from: %w", ns, digest, err)
		}
		for key, value := range info.GetInfo().GetLabels() {
			host, ok := strings.CutPrefix(key, sourceLabel)
			if !ok || host == "" {
				continue
			}
			for repo := range strings.SplitSeq(value, ",") {
				for _, r := range withPorts(host, repo, names) {
					found[r+"@"+digest] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// withPorts returns the repository as the names of the image have it that are of it, or else as it is.
func withPorts(host, repo string, names []string) (out []string) {
	if repo == "" {
		return nil
	}
	for _, name := range names {
		ref, err := reference.ParseNamed(name)
		if err != nil || reference.Path(ref) != repo {
			continue
		}
		domain := reference.Domain(ref)
		if port := strings.TrimPrefix(domain, host); domain == host+port && (port == "" || port[0] == ':') {
			out = append(out, domain+"/"+repo)
		}
	}
	if len(out) == 0 {
		out = []string{host + "/" + repo}
	}
	return out
}

// entry is a descriptor, as far as it is looked at.
type entry struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Platform  struct {
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

func (e *entry) isIndex() bool {
	return strings.Contains(e.MediaType, "index") || strings.Contains(e.MediaType, "list")
}

// document reads a document of the store. Its author chooses what it says, and the digest that it
// says it.
func (s *Store) document(ctx context.Context, digest string, v any) error {
	r, err := s.Fetch(ctx, inventory.Ask{Digest: digest})
	if err != nil {
		return err
	}
	defer r.Close()
	text, err := inventory.ReadAll(r, documentBytes)
	if err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	if sum := sha256.Sum256(text); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return fmt.Errorf("%s in containerd's store has other bytes than its digest says", digest)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	return nil
}

// present returns the manifests of an image that are in the store: its own, or those of its index.
func (s *Store) present(ctx context.Context, digest string) ([]entry, error) {
	var index struct {
		Manifests []entry `json:"manifests"`
	}
	if err := s.document(ctx, digest, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) == 0 {
		return []entry{{Digest: digest}}, nil
	}
	var out []entry
	for _, m := range index.Manifests {
		if m.Platform.Architecture == "unknown" { // an attestation
			continue
		}
		b, err := s.Fetch(ctx, inventory.Ask{Digest: m.Digest})
		if errors.Is(err, fs.ErrNotExist) {
			continue // of a platform that was not pulled
		}
		if err != nil { // it may be the one that runs
			return nil, err
		}
		b.Close()
		out = append(out, m)
	}
	return out, nil
}

// Platforms returns for how many platforms an image is in the store. One index within another counts
// as two: which one runs is not known then either.
func (s *Store) Platforms(ctx context.Context, digest string) (int, error) {
	list, err := s.present(ctx, digest)
	n := len(list)
	for i := range list {
		if list[i].isIndex() {
			n++
		}
	}
	return n, err
}

// config reads the configuration of an image that is here for one platform, and tells which manifest
// that is.
func (s *Store) config(ctx context.Context, digest string) (string, Config, error) {
	list, err := s.present(ctx, digest)
	if err != nil {
		return "", Config{}, err
	}
	if len(list) != 1 || list[0].isIndex() {
		return "", Config{}, fmt.Errorf("%s is here for %d platforms, and which of them a container runs is not known: keep one", digest, len(list))
	}
	var manifest struct {
		Config entry `json:"config"`
	}
	if err := s.document(ctx, list[0].Digest, &manifest); err != nil {
		return "", Config{}, err
	}
	// A manifest of another form names none, and one of an artifact has none of an image.
	if manifest.Config.Digest == "" {
		return "", Config{}, errors.New("its manifest names no configuration")
	}
	var c struct {
		RootFS  json.RawMessage `json:"rootfs"`
		Created *time.Time      `json:"created"`
		Config  struct {
			User string   `json:"User"`
			Env  []string `json:"Env"`
		} `json:"config"`
	}
	if err := s.document(ctx, manifest.Config.Digest, &c); err != nil {
		return "", Config{}, err
	}
	if len(c.RootFS) == 0 {
		return "", Config{}, fmt.Errorf("%s is no configuration of an image: it names no layers", manifest.Config.Digest)
	}
	out := Config{User: c.Config.User, Env: c.Config.Env}
	if c.Created != nil {
		out.Created = *c.Created
	}
	return list[0].Digest, out, nil
}
