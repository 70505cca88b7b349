package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/attest"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Attachment is a bill of materials, or statements of a supplier (VEX), that somebody attached to
// an image. Whoever may push to the repository can attach one: what is signed is for who has a key to see.
type Attachment struct {
	Digest string `json:"digest"` // of its blob
	// Form is that of the document, which in a statement is the predicate: cyclonedx, spdx, openvex, or in-toto: a statement that holds
	// one of the first two.
	Form string `json:"form"`
	From string `json:"from"` // referrers, tag (of referrers), or attestation (of BuildKit)
	// Statement says that the document is within a statement of in-toto, and Envelope that this is in a
	// signed envelope (DSSE).
	Statement bool `json:"-"`
	Envelope  bool `json:"envelope,omitempty"`
}

// VEX reports whether it holds statements of a supplier, and no bill.
func (a *Attachment) VEX() bool { return a.Form == formOpenVEX }

// Where an [Attachment] was found.
const (
	fromReferrers   = "referrers"
	fromTag         = "tag"
	fromAttestation = "attestation"
)

// Bounds on what is attached to one image.
const (
	maxReferrers   = 1_000    // that are listed
	maxReferPages  = 16       // of the list
	maxAttached    = 32       // whose manifests are fetched
	maxLayers      = 64       // of one of them that are looked at
	maxAttachment  = 64 << 20 // bytes of a bill
	maxVEX         = 8 << 20  // bytes of statements
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeEmpty      = "application/vnd.oci.empty.v1+json"
	typeInToto     = attest.TypeInToto
	predicateType  = "in-toto.io/predicate-type"
	referenceType  = "vnd.docker.reference.type"
	referenceTo    = "vnd.docker.reference.digest"
	referenceValue = "attestation-manifest"
)

const formOpenVEX = "openvex"

// forms are the forms of documents by their media types. Sources: cyclonedx.org/specification,
// IANA's registration of application/spdx+json, openvex.dev.
var forms = map[string]string{
	"application/vnd.cyclonedx+json": "cyclonedx", "application/spdx+json": "spdx", "text/spdx+json": "spdx",
	"application/vnd.openvex+json": formOpenVEX,
}

// predicates are the forms by the beginnings of predicate types.
var predicates = []struct{ begin, form string }{
	{"https://spdx.dev/Document", "in-toto"}, {"https://cyclonedx.org/bom", "in-toto"}, {"https://openvex.dev/ns", formOpenVEX},
}

// Where the type of a predicate is told: BuildKit's, cosign's of old, and Sigstore's bundles'.
var predicateNotes = []string{predicateType, "predicateType", "dev.sigstore.bundle.predicateType"}

// PredicateForm is the form of an [Attachment] by the type of a statement's predicate; empty for what is
// none that is read.
func PredicateForm(predicateType string) string {
	for _, p := range predicates {
		if rest, ok := strings.CutPrefix(predicateType, p.begin); ok && (rest == "" || rest[0] == '/') {
			return p.form
		}
	}
	return ""
}

func predicateForm(annotations ...map[string]string) string {
	for _, m := range annotations {
		for _, note := range predicateNotes {
			if f := PredicateForm(m[note]); f != "" {
				return f
			}
		}
	}
	return ""
}

// envelopes reports whether a media type is that of signed envelopes, alone or in a bundle.
func envelopes(mediaType string) bool {
	return mediaType == attest.TypeEnvelope || strings.HasPrefix(mediaType, attest.TypeBundle)
}

// refDescriptor is what of a descriptor is looked at. Source: OCI image specification,
// descriptor.md; BuildKit, docs/attestations/attestation-storage.md.
type refDescriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Digest       string            `json:"digest"`
	Annotations  map[string]string `json:"annotations"`
	Platform     *struct {
		OS, Architecture, Variant string
	} `json:"platform"`
}

// refManifest is an index, a list of referrers, or a manifest of what is attached.
type refManifest struct {
	ArtifactType string            `json:"artifactType"`
	Manifests    []refDescriptor   `json:"manifests"`
	Config       refDescriptor     `json:"config"`
	Layers       []refDescriptor   `json:"layers"`
	Subject      refDescriptor     `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// attachment is what a layer of a manifest holds; its form is empty for what is none that is read.
func (d *refDescriptor) attachment(artifactType string, manifest map[string]string) (a Attachment) {
	a.Digest = d.Digest
	if a.Form = cmp.Or(forms[d.MediaType], forms[artifactType]); a.Form != "" {
		return a
	}
	switch {
	case d.MediaType == typeInToto:
		a.Statement = true
	case envelopes(d.MediaType) || envelopes(artifactType):
		a.Statement, a.Envelope = true, true
	default:
		return a
	}
	a.Form = predicateForm(d.Annotations, manifest)
	return a
}

// Attached finds the bills of materials, and the statements of suppliers, of an image for a platform (os/arch[/variant]; empty is
// this host's): BuildKit's attestations in its index, and those that refer to its manifest or its
// index, by the API of referrers or, where the registry has none, by the tag that stands in for
// it; and last those under the tags where cosign kept attestations before there were referrers. manifest is the digest of the image's manifest for the platform. The first of the list is
// the most certain to be about it.
//
// Errors: those of the network; an index without the platform; more than can be looked through.
func (i *Image) Attached(ctx context.Context, platform string) (manifest string, list []Attachment, err error) {
	var root refManifest
	if err := json.Unmarshal(i.root, &root); err != nil {
		return "", nil, fmt.Errorf("read the manifest of %s: %w", i.Name, err)
	}
	manifest = i.Digest
	if len(root.Manifests) > 0 {
		if manifest, err = choosePlatform(root.Manifests, platform); err != nil {
			return "", nil, err
		}
	}
	look := &attachedTo{img: i, seen: map[string]bool{}}
	for _, d := range root.Manifests {
		if d.Annotations[referenceType] == referenceValue && d.Annotations[referenceTo] == manifest {
			if err := look.take(ctx, d, fromAttestation, ""); err != nil {
				return "", nil, err
			}
		}
	}
	for _, subject := range slices.Compact([]string{manifest, i.Digest}) {
		if err := look.referrers(ctx, subject); err != nil {
			return "", nil, fmt.Errorf("what is attached to %s: %w", subject, err)
		}
	}
	for _, subject := range slices.Compact([]string{manifest, i.Digest}) {
		if err := look.cosign(ctx, subject); err != nil {
			return "", nil, fmt.Errorf("what cosign attached to %s: %w", subject, err)
		}
	}
	return manifest, look.list, nil
}

// choosePlatform returns the digest of the image in an index that is for a platform. An index
// within the index is not looked into.
func choosePlatform(list []refDescriptor, want string) (string, error) {
	images := slices.DeleteFunc(slices.Clone(list), func(d refDescriptor) bool {
		return d.Platform != nil && d.Platform.OS == "unknown" || d.Annotations[referenceType] != ""
	})
	if len(images) == 1 && (want == "" || images[0].Platform == nil) {
		want = "any"
	}
	if want == "" {
		want = "linux/" + runtime.GOARCH
	}
	for _, d := range images {
		p := ""
		if d.Platform != nil {
			p = strings.TrimSuffix(d.Platform.OS+"/"+d.Platform.Architecture+"/"+d.Platform.Variant, "/")
		}
		if (want == "any" || p == want || strings.HasPrefix(p, want+"/")) && sha256Digest.MatchString(d.Digest) {
			return d.Digest, nil
		}
	}
	return "", fmt.Errorf("the image's index has none for %s: choose with --platform", want)
}

// attachedTo is one [Image.Attached].
type attachedTo struct {
	img     *Image
	seen    map[string]bool // manifests
	fetched int
	list    []Attachment
}

// take looks into the manifest of what may be a bill. subject is what it must refer to; empty
// where an index says so.
func (a *attachedTo) take(ctx context.Context, d refDescriptor, from, subject string) error {
	if a.seen[d.Digest] || !sha256Digest.MatchString(d.Digest) {
		return nil
	}
	a.seen[d.Digest] = true
	if a.fetched++; a.fetched > maxAttached {
		return fmt.Errorf("more than %d manifests of what may be bills of materials", maxAttached)
	}
	b, err := a.img.whole(ctx, inventory.Ask{Digest: d.Digest, Manifest: true}, maxManifest)
	if err != nil {
		return err
	}
	var m refManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("read the manifest %s: %w", d.Digest, err)
	}
	if subject != "" && m.Subject.Digest != subject {
		return nil // the list says that it is about this image, and it says that it is not
	}
	return a.layers(&m, from)
}

// layers takes what a manifest holds.
func (a *attachedTo) layers(m *refManifest, from string) error {
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("a manifest of %d documents, more than %d", len(m.Layers), maxLayers)
	}
	artifact, notes := cmp.Or(m.ArtifactType, m.Config.MediaType), m.Annotations
	if len(m.Layers) != 1 {
		artifact, notes = "", nil // which of them they are about is not told
	}
	for _, l := range m.Layers {
		if doc := l.attachment(artifact, notes); doc.Form != "" && sha256Digest.MatchString(l.Digest) {
			doc.From = from
			a.list = append(a.list, doc)
		}
	}
	return nil
}

// cosign takes what lies under the tag that cosign makes of a digest. Source: cosign, specs/ATTESTATION_SPEC.md.
func (a *attachedTo) cosign(ctx context.Context, subject string) error {
	var failed error
	for _, p := range a.img.places {
		if p.http == nil {
			var err error
			if p, err = a.img.client.place(ctx, p.repo); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
		}
		b, err := p.manifest(ctx, strings.Replace(subject, ":", "-", 1)+".att")
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		var m refManifest
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err == nil {
			return a.layers(&m, fromTag)
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", p.repo.Name(), err))
	}
	return failed
}

// referrers takes what refers to a subject.
func (a *attachedTo) referrers(ctx context.Context, subject string) error {
	list, from, err := a.listed(ctx, subject)
	if err != nil {
		return err
	}
	for _, d := range list {
		// Some registries name the type of the configuration, and not that of the manifest.
		if t := d.ArtifactType; forms[t] == "" && !envelopes(t) && t != typeInToto && t != typeEmpty && t != "" {
			continue
		}
		if err := a.take(ctx, d, from, subject); err != nil {
			return err
		}
	}
	return nil
}

// listed lists what refers to a subject, at the first place that answers. Source: OCI
// distribution specification, "Listing Referrers" and "Referrers Tag Schema".
func (a *attachedTo) listed(ctx context.Context, subject string) (list []refDescriptor, from string, err error) {
	var failed error
	for _, p := range a.img.places {
		if p.http == nil {
			if p, err = a.img.client.place(ctx, p.repo); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
		}
		list, err := p.referrers(ctx, subject)
		if err == nil {
			return list, fromReferrers, nil
		}
		if !noSuchAPI(err) {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.repo.Name(), err))
			continue
		}
		b, err := p.manifest(ctx, strings.Replace(subject, ":", "-", 1))
		if errors.Is(err, ErrNotFound) {
			return nil, fromTag, nil // nothing is attached
		}
		var m refManifest
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err == nil && len(m.Manifests) > maxReferrers {
			err = fmt.Errorf("more than %d referrers", maxReferrers)
		}
		if err == nil {
			return m.Manifests, fromTag, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", p.repo.Name(), err))
	}
	return nil, "", failed
}

// noSuchAPI reports whether a registry has no API of referrers.
func noSuchAPI(err error) bool {
	s, ok := errors.AsType[*StatusError](err)
	return ok && slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest, http.StatusNotImplemented}, s.Status)
}

// referrers lists what refers to a subject by the API, all its pages.
func (p place) referrers(ctx context.Context, subject string) ([]refDescriptor, error) {
	var out []refDescriptor
	at := p.url("referrers", subject)
	for range maxReferPages {
		var m refManifest
		next := ""
		err := p.get(ctx, request{url: at, accept: []string{typeIndex}}, func(r *http.Response) error {
			b, err := inventory.ReadAll(r.Body, maxManifest)
			if err != nil {
				return err
			}
			if next, err = following(r); err != nil {
				return err
			}
			return json.Unmarshal(b, &m)
		})
		if err != nil {
			return nil, err
		}
		if out = append(out, m.Manifests...); len(out) > maxReferrers {
			return nil, fmt.Errorf("more than %d referrers", maxReferrers)
		}
		if next == "" {
			return out, nil
		}
		at = next
	}
	return nil, fmt.Errorf("more than %d pages of referrers", maxReferPages)
}

// Bill fetches what is attached, and holds it to its digest.
//
// Errors: [inventory.ErrTooLarge] beyond 64 MiB, or 8 MiB of VEX; bytes of another digest; those of the network.
func (i *Image) Bill(ctx context.Context, a Attachment) ([]byte, error) {
	limit := int64(maxAttachment)
	if a.VEX() {
		limit = maxVEX
	}
	return i.whole(ctx, inventory.Ask{Digest: a.Digest}, limit)
}

// whole fetches a manifest or a blob of at most limit bytes.
func (i *Image) whole(ctx context.Context, ask inventory.Ask, limit int64) ([]byte, error) {
	r, err := i.Fetch(ctx, ask)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := inventory.ReadAll(r, limit)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", ask.Digest, err)
	}
	if got := digestOf(b); got != ask.Digest {
		return nil, fmt.Errorf("what the registry sent for %s has the digest %s: it is damaged or forged", ask.Digest, got)
	}
	return b, nil
}
