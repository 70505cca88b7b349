package report

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

// cycloneDXSchema compiles the published schema of CycloneDX 1.6, which lies in the module that we write
// with, beside those that it refers to.
func cycloneDXSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	testneed.Need(t, "go", err == nil, "the schema lies in a module's folder, and go does not tell where")
	dir := filepath.Join(strings.TrimSpace(string(out)), "schema")
	c := jsonschema.NewCompiler()
	for name, file := range map[string]string{"bom-1.6": "bom-1.6.schema.json", "spdx": "spdx.schema.json", "jsf-0.82": "jsf-0.82.schemax.json"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("http://cyclonedx.org/schema/"+name+".schema.json", doc); err != nil {
			t.Fatal(err)
		}
	}
	c.AssertFormat()
	s, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCycloneDXSchema: what is written is CycloneDX 1.6 by its published schema, whatever an image says.
func TestCycloneDXSchema(t *testing.T) {
	schema := cycloneDXSchema(t)
	bill := New("app:1", time.Unix(0, 0), &inventory.Result{
		Schema: inventory.Schema, ImageID: "sha256:" + strings.Repeat("a", 64), Digest: "sha256:" + strings.Repeat("b", 64), Tags: []string{"app:1"},
		OS: inventory.OS{ID: "debian", VersionID: "12", Pretty: "Debian"}, Layers: []inventory.Layer{{DiffID: "sha256:" + strings.Repeat("c", 64), CreatedBy: "RUN x"}},
		Packages: []inventory.Package{
			{Kind: inventory.KindDeb, Name: "bsdutils", Version: "1:2.38.1-5", Source: "util-linux", SourceVersion: "2.38.1-5", Arch: "amd64", Path: "var/lib/dpkg/status"},
			{Kind: inventory.KindRPM, Name: "a", Version: "1:1"}, {Kind: inventory.KindJava, Name: "g:a", Version: "1", Path: "a.jar"},
			{Kind: inventory.KindNPM, Name: "@s/a", Version: "1", Locked: true}, {Kind: inventory.KindPython, Name: "A_b", Version: "1", Owner: "python3-a"},
		},
	}, nil, nil)
	empty := New("", time.Unix(0, 0), &inventory.Result{Schema: inventory.Schema}, nil, nil)
	for name, s := range map[string]*Scan{"with findings": example(), "bill": bill, "empty": empty} {
		var b bytes.Buffer
		if err := s.WriteCycloneDX(&b, "1"); err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(&b)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %#v", name, err)
		}
		// The schema is one that holds.
		doc.(map[string]any)["bomFormat"], doc.(map[string]any)["version"] = "other", json.Number("0")
		if schema.Validate(doc) == nil {
			t.Errorf("%s: another format passes too", name)
		}
	}
}
