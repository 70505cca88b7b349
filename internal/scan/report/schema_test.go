package report

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif" // has the schema of SARIF
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/testneed"
)

// moduleFile returns a file of a module that is in go.mod.
func moduleFile(t *testing.T, module, name string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	testneed.Need(t, "go", err == nil, "the schema lies in a module's folder, and go does not tell where")
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compiled is the schema at a URL, which files have by their URLs.
func compiled(t *testing.T, url string, files map[string][]byte) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	for at, b := range files {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(at, doc); err != nil {
			t.Fatal(err)
		}
	}
	c.AssertFormat()
	s, err := c.Compile(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cycloneDXSchema is the published one of CycloneDX 1.6, which lies in the module that we write with,
// beside those that it refers to.
func cycloneDXSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	const base = "http://cyclonedx.org/schema/"
	files := map[string][]byte{}
	for name, file := range map[string]string{"bom-1.6": "bom-1.6.schema.json", "spdx": "spdx.schema.json", "jsf-0.82": "jsf-0.82.schemax.json"} {
		files[base+name+".schema.json"] = moduleFile(t, "github.com/CycloneDX/cyclonedx-go", "schema/"+file)
	}
	return compiled(t, base+"bom-1.6.schema.json", files)
}

// sarifSchema is that of OASIS, which go-sarif has as a constant.
func sarifSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	src := moduleFile(t, "github.com/owenrumney/go-sarif/v3", "pkg/report/v210/sarif/schema.go")
	f, err := parser.ParseFile(token.NewFileSet(), "schema.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && v.Names[0].Name == "schema" && len(v.Values) == 1 {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				text, err = strconv.Unquote(lit.Value)
			}
		}
		return true
	})
	if err != nil || text == "" {
		t.Fatalf("no schema in go-sarif: %v", err)
	}
	const at = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	return compiled(t, at, map[string][]byte{at: []byte(text)})
}

// ownSchema is one of testdata, written from a format's specification.
func ownSchema(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return compiled(t, "file:///"+name, map[string][]byte{"file:///" + name: b})
}

// TestSchemas: what is written is of its format by a schema, whatever an image says.
func TestSchemas(t *testing.T) {
	bill := New("app:1", time.Unix(0, 0), &inventory.Result{
		Schema: inventory.Schema, ImageID: "sha256:" + strings.Repeat("a", 64), Digest: "sha256:" + strings.Repeat("b", 64), Tags: []string{"app:1"},
		OS: inventory.OS{ID: "debian", VersionID: "12", Pretty: "Debian"}, Layers: []inventory.Layer{{DiffID: "sha256:" + strings.Repeat("c", 64), CreatedBy: "RUN x"}},
		Packages: []inventory.Package{
			{Kind: inventory.KindDeb, Name: "bsdutils", Version: "1:2.38.1-5", Source: "util-linux", SourceVersion: "2.38.1-5", Arch: "amd64", Path: "var/lib/dpkg/status"},
			{Kind: inventory.KindRPM, Name: "a", Version: "1:1"}, {Kind: inventory.KindJava, Name: "g:a", Version: "1", Path: "a.jar"},
			{Kind: inventory.KindNPM, Name: "@s/a", Version: "1", Locked: true}, {Kind: inventory.KindPython, Name: "A_b", Version: "1", Owner: "python3-a"},
		},
	}, nil, nil)
	faults := example()
	faults.Findings[0].Symbols, faults.Findings[0].Known = &vulndb.Symbols{State: inventory.SymbolsPresent, Names: []string{"x.example/a.F"}}, true
	faults.Findings[0].Use = &inventory.Use{State: inventory.InUse, Executed: time.Unix(2, 0)}
	faults.Misconfigurations = []inventory.Misconfiguration{
		{ID: inventory.FileSecret, Path: "a:b/" + evil, Where: "a:b/" + evil + ":3", Text: evil, Known: true},
		{ID: inventory.ConfigSecretEnv, Where: "TOKEN", Text: "a secret", Ignored: evil}, {ID: inventory.ConfigRootUser},
	}
	nameless := example()
	nameless.Target, nameless.Inventory.OS, nameless.Inventory.Packages[1] = "", inventory.OS{}, inventory.Package{Kind: inventory.KindGo, Name: "x.example/a"}
	advisory := example()
	advisory.Findings[0].About = []string{"CVE-2024-1", evil}
	scans := map[string]*Scan{
		"advisory":      advisory,
		"with findings": example(), "with faults": faults, "bill": bill, "nameless": nameless,
		"empty": New("", time.Unix(0, 0), &inventory.Result{Schema: inventory.Schema}, nil, nil),
	}
	for _, form := range []struct {
		name   string
		schema func(t *testing.T) *jsonschema.Schema
		write  func(s *Scan, w io.Writer, version string) error
	}{
		{"CycloneDX", cycloneDXSchema, (*Scan).WriteCycloneDX},
		{"SARIF", sarifSchema, (*Scan).WriteSARIF},
		{"SPDX", func(t *testing.T) *jsonschema.Schema { return ownSchema(t, "spdx-2.3.schema.json") }, (*Scan).WriteSPDX},
		{"GitLab", func(t *testing.T) *jsonschema.Schema { return ownSchema(t, "gitlab-15.0.6.schema.json") }, (*Scan).WriteGitLab},
	} {
		t.Run(form.name, func(t *testing.T) {
			schema := form.schema(t)
			for name, s := range scans {
				var b bytes.Buffer
				if err := form.write(s, &b, "1"); err != nil {
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
				doc.(map[string]any)["another"] = "field"
				if schema.Validate(doc) == nil {
					t.Errorf("%s: a field that the form has not passes too", name)
				}
			}
		})
	}
}
