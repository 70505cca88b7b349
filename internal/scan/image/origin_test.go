package image

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

func TestOrigin(t *testing.T) {
	const debian = `{"created_by":"/bin/sh -c #(nop) ADD file:0 in / "},{"created_by":"/bin/sh -c #(nop)  CMD [\"bash\"]","empty_layer":true}`
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, tt := range []struct {
		name, config string
		layers       int
		want         *inventory.ClaimedBase
		made         []string
	}{
		{"nothing", `{}`, 2, nil, []string{"", ""}},
		{"two images", `{"history":[` + debian + `,{"created_by":"RUN /bin/sh -c apt-get install curl # buildkit"},{"created_by":"ENV A=b","empty_layer":true},{"created_by":"CMD [\"app\"]","empty_layer":true}]}`, 2,
			&inventory.ClaimedBase{Layers: 1}, []string{"ADD file:0 in /", "RUN /bin/sh -c apt-get install curl"}},
		{"a base alone", `{"history":[` + debian + `]}`, 1, nil, []string{"ADD file:0 in /"}},
		{"three images", `{"history":[` + debian + `,{"created_by":"RUN a"},{"created_by":"CMD [\"x\"]","empty_layer":true},{"created_by":"RUN b"}]}`, 3,
			&inventory.ClaimedBase{Layers: 2}, []string{"ADD file:0 in /", "RUN a", "RUN b"}},
		{"of fewer layers", `{"history":[` + debian + `,{"created_by":"RUN a"}]}`, 3, nil, []string{"", "", ""}},
		{"of more layers", `{"history":[` + debian + `,{"created_by":"RUN a"}]}`, 1, nil, []string{""}},
		{"labels", `{"config":{"Labels":{"org.opencontainers.image.base.name":"docker.io/library/debian:12","org.opencontainers.image.base.digest":"` + digest + `"}}}`, 1,
			&inventory.ClaimedBase{Name: "docker.io/library/debian:12", Digest: digest}, []string{""}},
		{"a digest that is none", `{"config":{"Labels":{"org.opencontainers.image.base.digest":"md5:0"}}}`, 1, nil, []string{""}},
		{"a build argument", `{"history":[{"created_by":"|2 NPM=hunter2 B=1 /bin/sh -c make all"}]}`, 1, nil, []string{"/bin/sh -c make all"}},
		{"a user and password", `{"history":[{"created_by":"RUN curl -u bob:hunter2 https://x"}]}`, 1, nil, []string{"(not shown: it has what looks like a secret)"}},
		{"a password in an address", `{"history":[{"created_by":"RUN git clone https://bob:hunter2@x/y"}]}`, 1, nil, []string{"(not shown: it has what looks like a secret)"}},
		{"a header", `{"history":[{"created_by":"RUN wget --header 'Authorization: Bearer abc' https://x"}]}`, 1, nil, []string{"(not shown: it has what looks like a secret)"}},
		{"an option", `{"history":[{"created_by":"RUN docker login --password hunter2 x"}]}`, 1, nil, []string{"(not shown: it has what looks like a secret)"}},
		{"what may be one", `{"history":[{"created_by":"RUN apt-get install -y passwd && adduser -u 1000 bob"}]}`, 1, nil, []string{"(not shown: it has what looks like a secret)"}},
		{"plain", `{"history":[{"created_by":"RUN apt-get install -y --no-install-recommends curl https://x/y@1"}]}`, 1, nil, []string{"RUN apt-get install -y --no-install-recommends curl https://x/y@1"}},
		{"a secret", `{"history":[{"created_by":"RUN NPM_TOKEN=hunter2hunter2 npm ci"}]}`, 1, nil, []string{"(not shown: it has what looks like a secret)"}},
		{"broken labels", `{"config":{"Labels":7},"history":[{"created_by":"RUN a"}]}`, 1, nil, []string{"RUN a"}},
	} {
		m := &manifest{layers: make([]manifestLayer, tt.layers)}
		m.origin([]byte(tt.config))
		var made []string
		for _, l := range m.layers {
			made = append(made, l.createdBy)
		}
		if fmt.Sprint(m.base) != fmt.Sprint(tt.want) || !slices.Equal(made, tt.made) {
			t.Errorf("%s: got %+v %q, want %+v %q", tt.name, m.base, made, tt.want, tt.made)
		}
	}
	long, err := json.Marshal(map[string]any{"history": []any{map[string]string{"created_by": "RUN " + strings.Repeat("\u00e9", 1000)}}})
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest{layers: make([]manifestLayer, 1)}
	m.origin(long)
	res := inventory.Result{Schema: inventory.Schema, Layers: []inventory.Layer{{CreatedBy: m.layers[0].createdBy}}}
	if err := res.Check(); err != nil || len(m.layers[0].createdBy) > maxCreatedBy+4 {
		t.Errorf("a long command: %d bytes, %v", len(m.layers[0].createdBy), err)
	}
}

// memory is an archive of small files.
type memory map[string][]byte

func (m memory) small(name string) ([]byte, error) {
	if b, ok := m[name]; ok {
		return b, nil
	}
	return nil, os.ErrNotExist
}

func (memory) each(map[string]bool, func(string, Content) error) error { return nil }

// FuzzOrigin: any bytes as a configuration, as the manifest of an archive, and as the index and the
// manifest of a layout.
func FuzzOrigin(f *testing.F) {
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["sha256:x"]},"history":[{"created_by":"RUN y"}]}`)
	docker := []byte(`[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`)
	name := func(b []byte) string { return "blobs/sha256/" + strings.TrimPrefix(digestOf(b), "sha256:") }
	index := func(b []byte) []byte {
		return fmt.Appendf(nil, `{"manifests":[{"digest":%q,"annotations":{"org.opencontainers.image.ref.name":"a"}}]}`, digestOf(b))
	}
	oci := fmt.Appendf(nil, `{"config":{"digest":%q},"layers":[{"digest":%q}],"annotations":{"org.opencontainers.image.base.name":"b"}}`, digestOf(config), digestOf(nil))
	f.Add([]byte(`{"config":{"Labels":{"a":"b"}},"history":[{"created_by":"CMD x","empty_layer":true},{"created_by":"RUN y"}]}`))
	f.Add(config)
	f.Add(docker)
	f.Add(oci)
	f.Add(index(oci))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../../x"},{"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for kind, a := range map[string]memory{
			"configuration": {"manifest.json": docker, "c": b},
			"manifest.json": {"manifest.json": b, "c": config},
			"index.json":    {"index.json": b, name(oci): oci, name(config): config},
			"manifest":      {"index.json": index(b), name(b): b, name(config): config},
			"both":          {"manifest.json": docker, "c": config, "index.json": b, name(oci): oci, name(config): config},
		} {
			m, err := findImage(a, "")
			if err != nil {
				continue
			}
			res := inventory.Result{Schema: inventory.Schema, ImageID: m.imageID, Digest: m.digest, Platform: m.platform, Tags: m.tags, Base: m.base, Misconfigurations: m.faults}
			for _, l := range m.layers {
				res.Layers = append(res.Layers, inventory.Layer{DiffID: l.diffID, CreatedBy: l.createdBy})
			}
			if len(res.Layers) > inventory.MaxLayers || len(res.Tags) > inventory.MaxLayers || len(res.Misconfigurations) > inventory.MaxMisconfigurations {
				continue // an image of too many is refused when it is read
			}
			if err := res.Check(); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			if !sha256Digest.MatchString(m.imageID) {
				t.Errorf("%s: the image %q", kind, m.imageID)
			}
		}
	})
}
