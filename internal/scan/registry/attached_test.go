package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// attacher pushes an image and what is attached to it.
type attacher struct {
	t    *testing.T
	host string
}

func newAttacher(t *testing.T, api bool, wrap func(http.Handler) http.Handler) *attacher {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	h := ggcr.New(ggcr.WithReferrersSupport(api), ggcr.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &attacher{t, strings.TrimPrefix(s.URL, "http://")}
}

func (a *attacher) blob(mediaType string, b []byte, more map[string]any) map[string]any {
	a.t.Helper()
	put(a.t, http.MethodPost, "http://"+a.host+"/v2/app/blobs/uploads/?digest="+digest(b), "application/octet-stream", b)
	return describe(mediaType, b, more)
}

func describe(mediaType string, b []byte, more map[string]any) map[string]any {
	d := map[string]any{"mediaType": mediaType, "digest": digest(b), "size": len(b)}
	for k, v := range more {
		d[k] = v
	}
	return d
}

// manifest pushes a manifest, by its digest or a tag, and describes it.
func (a *attacher) manifest(tag, mediaType string, m, more map[string]any) map[string]any {
	a.t.Helper()
	m["schemaVersion"], m["mediaType"] = 2, mediaType
	b, err := json.Marshal(m)
	if err != nil {
		a.t.Fatal(err)
	}
	if tag == "" {
		tag = digest(b)
	}
	put(a.t, http.MethodPut, "http://"+a.host+"/v2/app/manifests/"+tag, mediaType, b)
	return describe(mediaType, b, more)
}

const typeManifest = "application/vnd.oci.image.manifest.v1+json"

// image pushes an image for amd64 with, if statement is not empty, an attestation of BuildKit.
func (a *attacher) image(statement string) (manifest map[string]any) {
	a.t.Helper()
	config := a.blob("application/vnd.oci.image.config.v1+json", []byte(`{}`), nil)
	manifest = a.manifest("", typeManifest, map[string]any{"config": config, "layers": []any{}}, map[string]any{"platform": map[string]string{"os": "linux", "architecture": "amd64"}})
	list := []any{manifest}
	if statement != "" {
		l := a.blob(typeInToto, []byte(statement), map[string]any{"annotations": map[string]string{predicateType: "https://spdx.dev/Document"}})
		other := a.blob(typeInToto, []byte("{}"), map[string]any{"annotations": map[string]string{predicateType: "https://slsa.dev/provenance/v0.2"}})
		list = append(list, a.manifest("", typeManifest, map[string]any{"config": config, "layers": []any{other, l}}, map[string]any{
			"platform":    map[string]string{"os": "unknown", "architecture": "unknown"},
			"annotations": map[string]string{referenceType: referenceValue, referenceTo: manifest["digest"].(string)},
		}))
	}
	a.manifest("1", typeIndex, map[string]any{"manifests": list}, nil)
	return manifest
}

// attach attaches a bill to a manifest.
func (a *attacher) attach(to map[string]any, artifactType string, b []byte, layerType string) map[string]any {
	a.t.Helper()
	empty := a.blob("application/vnd.oci.empty.v1+json", []byte(`{}`), nil)
	return a.manifest("", typeManifest, map[string]any{
		"artifactType": artifactType, "config": empty, "layers": []any{a.blob(layerType, b, nil)}, "subject": to,
	}, map[string]any{"artifactType": artifactType})
}

func (a *attacher) attached() (list []Attachment, bill string, err error) {
	a.t.Helper()
	c := New(Options{})
	defer c.Close()
	img, err := c.Image(a.t.Context(), a.host+"/app:1")
	if err != nil {
		a.t.Fatal(err)
	}
	_, list, err = img.Attached(a.t.Context(), "linux/amd64")
	if err != nil || len(list) == 0 {
		return list, "", err
	}
	b, err := img.Bill(a.t.Context(), list[0])
	return list, string(b), err
}

// TestAttached: bills are found by the API of referrers, by the tag that stands in for it, and
// in an index, and nothing else is taken for one.
func TestAttached(t *testing.T) {
	t.Run("referrers", func(t *testing.T) {
		a := newAttacher(t, true, nil)
		m := a.image("")
		a.attach(m, "application/vnd.dev.cosign.signature", []byte("sig"), "application/octet-stream")
		a.attach(m, "application/vnd.cyclonedx+json", []byte(`{"bomFormat":"CycloneDX"}`), "application/octet-stream")
		list, bill, err := a.attached()
		if err != nil || len(list) != 1 || list[0].Form != "cyclonedx" || list[0].From != fromReferrers || bill != `{"bomFormat":"CycloneDX"}` {
			t.Errorf("got %+v, %q, %v", list, bill, err)
		}
	})
	t.Run("tag", func(t *testing.T) {
		a := newAttacher(t, false, nil)
		m := a.image("")
		if list, _, err := a.attached(); err != nil || len(list) != 0 {
			t.Errorf("nothing is attached: %+v, %v", list, err)
		}
		d := a.attach(m, "application/spdx+json", []byte(`{"spdxVersion":"SPDX-2.3"}`), "application/spdx+json")
		a.manifest(strings.Replace(m["digest"].(string), ":", "-", 1), typeIndex, map[string]any{"manifests": []any{d}}, nil)
		list, bill, err := a.attached()
		if err != nil || len(list) != 1 || list[0].Form != "spdx" || list[0].From != fromTag || !strings.Contains(bill, "SPDX-2.3") {
			t.Errorf("got %+v, %q, %v", list, bill, err)
		}
	})
	t.Run("attestation", func(t *testing.T) {
		a := newAttacher(t, true, nil)
		a.image(`{"predicate":{}}`)
		list, bill, err := a.attached()
		if err != nil || len(list) != 1 || list[0].Form != "in-toto" || list[0].From != fromAttestation || bill != `{"predicate":{}}` {
			t.Errorf("got %+v, %q, %v", list, bill, err)
		}
	})
}

func TestChoosePlatform(t *testing.T) {
	one, two := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	amd := fmt.Sprintf(`{"digest":%q,"platform":{"os":"linux","architecture":"amd64"}}`, one)
	arm := fmt.Sprintf(`{"digest":%q,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}`, two)
	unknown := fmt.Sprintf(`{"digest":%q,"platform":{"os":"unknown","architecture":"unknown"}}`, two)
	for _, tt := range []struct{ list, platform, want string }{
		{amd + "," + arm, "linux/arm/v7", two}, {amd + "," + arm, "linux/arm", two}, {amd + "," + arm, "linux/amd64", one}, {amd + "," + arm, "linux/am", ""},
		{amd + "," + unknown, "", one}, {amd, "linux/s390x", ""}, {fmt.Sprintf(`{"digest":%q}`, one), "linux/s390x", one}, {unknown, "", ""},
		{`{"digest":"../x","platform":{"os":"linux","architecture":"amd64"}}`, "linux/amd64", ""},
	} {
		var list []refDescriptor
		if err := json.Unmarshal([]byte("["+tt.list+"]"), &list); err != nil {
			t.Fatal(err)
		}
		if got, err := choosePlatform(list, tt.platform); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %s: %q, %v, want %q", tt.platform, tt.list, got, err, tt.want)
		}
	}
}

// TestAttachedHostile: lists that lie, are long or never end, and bytes that are others.
func TestAttachedHostile(t *testing.T) {
	var manifest string
	answer := func(list string, link bool) func(http.Handler) http.Handler {
		n := 0
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/referrers/") {
					h.ServeHTTP(w, r)
					return
				}
				if n++; link {
					w.Header().Set("Link", fmt.Sprintf("<%s?page=%d>; rel=\"next\"", r.URL.Path, n))
				}
				io.WriteString(w, strings.ReplaceAll(list, "MANIFEST", manifest))
			})
		}
	}
	entry := `{"artifactType":"application/spdx+json","digest":"MANIFEST"}`
	var many []string
	for i := range maxAttached + 1 {
		many = append(many, fmt.Sprintf(`{"artifactType":"application/spdx+json","digest":"sha256:%064x"}`, i))
	}
	for name, tt := range map[string]struct {
		list string
		link bool
		want string
	}{
		"no JSON":                  {"<html>", false, "invalid character"},
		"one that is not there":    {`{"manifests":[` + many[0] + `]}`, false, "no such image"},
		"no digest":                {`{"manifests":[{"artifactType":"application/spdx+json","digest":"../x"}]}`, false, ""},
		"the image itself":         {`{"manifests":[` + entry + `]}`, false, ""},
		"a list without an end":    {`{"manifests":[]}`, true, "more than 16 pages"},
		"a long list":              {`{"manifests":[` + strings.Repeat(entry+",", maxReferrers) + entry + `]}`, false, "more than 1000"},
		"a list of more than fits": {`{"manifests":[` + strings.Repeat(" ", maxManifest) + `]}`, false, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttacher(t, true, answer(tt.list, tt.link))
			manifest = a.image("")["digest"].(string)
			list, _, err := a.attached()
			if len(list) != 0 || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %+v, %v, want %q", list, err, tt.want)
			}
		})
	}
	t.Run("other bytes", func(t *testing.T) {
		a := newAttacher(t, true, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest([]byte("good"))) {
					io.WriteString(w, "evil")
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		a.attach(a.image(""), "application/spdx+json", []byte("good"), "application/spdx+json")
		if _, bill, err := a.attached(); err == nil || !strings.Contains(err.Error(), "forged") {
			t.Errorf("got %q, %v", bill, err)
		}
	})
	t.Run("of another image", func(t *testing.T) {
		a := newAttacher(t, false, nil)
		m := a.image("")
		d := a.attach(describe(typeManifest, []byte("another"), nil), "application/spdx+json", []byte("x"), "application/spdx+json")
		a.manifest(strings.Replace(m["digest"].(string), ":", "-", 1), typeIndex, map[string]any{"manifests": []any{d}}, nil)
		if list, _, err := a.attached(); err != nil || len(list) != 0 {
			t.Errorf("got %+v, %v", list, err)
		}
	})
}

// TestAttachedForms: statements of suppliers and signed envelopes are told from each other and from
// what is none that is read, by what their manifests say of them.
func TestAttachedForms(t *testing.T) {
	const bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
	a := newAttacher(t, true, nil)
	m := a.image("")
	empty := a.blob(typeEmpty, []byte(`{}`), nil)
	put := func(artifactType, layerType, predicate string, n int) {
		t.Helper()
		notes := map[string]string{"dev.sigstore.bundle.predicateType": predicate}
		a.manifest("", typeManifest, map[string]any{
			"artifactType": artifactType, "config": empty, "annotations": notes, "subject": m,
			"layers": []any{a.blob(layerType, fmt.Appendf(nil, "%d", n), nil)},
		}, map[string]any{"artifactType": artifactType, "annotations": notes})
	}
	put("application/vnd.openvex+json", "application/octet-stream", "", 1)
	put(bundle, bundle, "https://openvex.dev/ns/v0.2.0", 2)
	put(bundle, bundle, "https://cyclonedx.org/bom/v1.5", 3)
	put(bundle, bundle, "https://slsa.dev/provenance/v1", 4)
	put(bundle, bundle, "https://openvex.dev/nsx", 5)
	put("application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.dev.cosign.simplesigning.v1+json", "https://openvex.dev/ns", 6)
	a.manifest(strings.Replace(m["digest"].(string), ":", "-", 1)+".att", typeManifest, map[string]any{"config": empty, "layers": []any{
		a.blob("application/vnd.dsse.envelope.v1+json", []byte("7"), map[string]any{"annotations": map[string]string{"predicateType": "https://spdx.dev/Document"}}),
		a.blob("application/vnd.dsse.envelope.v1+json", []byte("8"), nil),
	}}, nil)
	list, _, err := a.attached()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Attachment{}
	for _, d := range list {
		got[d.Digest] = d
	}
	want := map[string]Attachment{}
	for n, d := range map[string]Attachment{
		"1": {Form: formOpenVEX, From: fromReferrers},
		"2": {Form: formOpenVEX, From: fromReferrers, Statement: true, Envelope: true},
		"3": {Form: "in-toto", From: fromReferrers, Statement: true, Envelope: true},
		"7": {Form: "in-toto", From: fromTag, Statement: true, Envelope: true},
	} {
		d.Digest = digest([]byte(n))
		want[d.Digest] = d
	}
	if len(list) != len(want) {
		t.Errorf("%d documents, want %d", len(list), len(want))
	}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("got %+v, want %+v", got[k], w)
		}
	}
}
