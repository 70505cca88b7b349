package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Artifact is something else than an image that a registry keeps: one blob, with types of its own.
// Source: OCI image specification 1.1, manifest.md, "Guidelines for Artifact Usage".
type Artifact struct {
	Type        string // artifactType of the manifest
	LayerType   string // media type of the blob
	Annotations map[string]string
	Digest      string // of the manifest
	Size        int64  // of the blob
	blob        string // its digest
	img         *Image
}

// ErrOtherArtifact says that what a name leads to is something else than what was asked for.
var ErrOtherArtifact = errors.New("it is another artifact")

// ErrDamaged says that bytes are not those of the digest that they were asked for by.
var ErrDamaged = errors.New("it is damaged, cut off or forged")

const maxArtifact = 1 << 30

// empty is the configuration of an artifact that has none.
var empty = []byte("{}")

// artifactManifest is the manifest of an artifact.
type artifactManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        artifactBlob      `json:"config"`
	Layers        []artifactBlob    `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type artifactBlob struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// typeOCIManifest is the one form that artifacts have.
var typeOCIManifest = manifestTypes[2]

// parseStrict reads HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST; nothing is left to be guessed.
func (c *Client) parseStrict(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref, append(c.names(), name.StrictValidation)...)
	if err != nil {
		return nil, fmt.Errorf("%q: want HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST: %w", ref, err)
	}
	return r, nil
}

// Artifact finds an artifact of these types, at HOST/REPOSITORY:TAG or @DIGEST.
//
// Errors: [ErrOtherArtifact]; [ErrNotFound]; those of the network.
func (c *Client) Artifact(ctx context.Context, ref, artifactType, layerType string) (*Artifact, error) {
	if _, err := c.parseStrict(ref); err != nil {
		return nil, err
	}
	img, err := c.Image(ctx, ref)
	if err != nil {
		return nil, err
	}
	var m artifactManifest
	if err := json.Unmarshal(img.root, &m); err != nil {
		return nil, fmt.Errorf("read the manifest of %s: %w", ref, err)
	}
	if m.ArtifactType != artifactType {
		return nil, fmt.Errorf("%s has the type %.100q, want %s: %w", ref, m.ArtifactType, artifactType, ErrOtherArtifact)
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != layerType {
		return nil, fmt.Errorf("%s has not one blob of the type %s, as its type promises: %w", ref, layerType, ErrOtherArtifact)
	}
	l := m.Layers[0]
	if !sha256Digest.MatchString(l.Digest) || l.Size < 0 || l.Size > maxArtifact {
		return nil, fmt.Errorf("the blob of %s has the digest %.100q and %d bytes: %w", ref, l.Digest, l.Size, ErrOtherArtifact)
	}
	return &Artifact{Type: artifactType, LayerType: layerType, Annotations: m.Annotations, Digest: img.Digest, Size: l.Size, blob: l.Digest, img: img}, nil
}

// Copy writes the blob to w. After an error what was written is worth nothing.
//
// Errors: [ErrDamaged]; those of w and the network.
func (a *Artifact) Copy(ctx context.Context, w io.Writer) error {
	r, err := a.img.Fetch(ctx, inventory.Ask{Digest: a.blob})
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, a.Size+1))
	if err != nil {
		return fmt.Errorf("fetch %s: %w", a.blob, err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); n != a.Size || got != a.blob {
		return fmt.Errorf("the registry sent %d bytes with the digest %s for %s of %d bytes: %w", n, got, a.blob, a.Size, ErrDamaged)
	}
	return nil
}

// Push puts an artifact with one blob at HOST/REPOSITORY:TAG and returns the digest of its manifest.
// Equal artifacts have equal digests.
//
// Errors: a name with a digest; those of the network. What was pushed of it is in nobody's way.
func (c *Client) Push(ctx context.Context, ref string, a Artifact, blob []byte) (digest string, err error) {
	r, err := c.parseStrict(ref)
	if err != nil {
		return "", err
	}
	tag, ok := r.(name.Tag)
	if !ok {
		return "", fmt.Errorf("%q: a digest is what comes of it; want HOST/REPOSITORY:TAG", ref)
	}
	if len(blob) > maxArtifact {
		return "", fmt.Errorf("an artifact of %d bytes, more than %d", len(blob), maxArtifact)
	}
	repo := tag.Context()
	h, err := c.client(ctx, repo.Registry, repo, repo.Scope(transport.PushScope))
	if err != nil {
		return "", err
	}
	p := place{repo, h}
	m := artifactManifest{
		SchemaVersion: 2, MediaType: typeOCIManifest, ArtifactType: a.Type, Annotations: a.Annotations,
		Config: artifactBlob{typeEmpty, digestOf(empty), int64(len(empty))},
		Layers: []artifactBlob{{a.LayerType, digestOf(blob), int64(len(blob))}},
	}
	for _, b := range [][]byte{empty, blob} {
		if err := p.upload(ctx, b); err != nil {
			return "", fmt.Errorf("push to %s: %w", ref, err)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	_, err = p.write(ctx, http.MethodPut, p.url("manifests", tag.TagStr()), typeOCIManifest, text, http.StatusCreated)
	if err != nil {
		return "", fmt.Errorf("push to %s: %w", ref, err)
	}
	return digestOf(text), nil
}

// upload puts a blob there, unless it is. Source: OCI distribution specification, "POST then PUT".
func (p place) upload(ctx context.Context, b []byte) error {
	if err := p.has(ctx, digestOf(b)); err == nil || !errors.Is(err, ErrNotFound) {
		return err
	}
	at, err := p.write(ctx, http.MethodPost, p.url("blobs", "uploads")+"/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	if at == nil {
		return errors.New("the registry does not say where to put a blob")
	}
	q := at.Query()
	q.Set("digest", digestOf(b))
	at.RawQuery = q.Encode()
	_, err = p.write(ctx, http.MethodPut, at.String(), "application/octet-stream", b, http.StatusCreated)
	return err
}

// write makes a request with a body and returns where its answer leads; nil if nowhere.
func (p place) write(ctx context.Context, method, address, contentType string, body []byte, want int) (at *url.URL, err error) {
	err = retry(ctx, func() (time.Duration, error) {
		r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		res, err := p.http.Do(r)
		if err != nil {
			return 0, unreachable(ctx, err)
		}
		defer res.Body.Close()
		io.CopyN(io.Discard, res.Body, 64<<10) //nolint:errcheck // the connection is used again, or is not
		if res.StatusCode != want {
			failed := &StatusError{Status: res.StatusCode, URL: method + " " + address}
			if res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 {
				return retryAfter(res), errTemporary{failed}
			}
			return 0, failed
		}
		if res.Header.Get("Location") != "" {
			at, err = res.Location()
		}
		return 0, err
	})
	if t, ok := errors.AsType[errTemporary](err); ok {
		err = t.error // it was tried often enough
	}
	return at, err
}
