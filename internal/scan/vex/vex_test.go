package vex

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

var imageDigest = "sha256:" + strings.Repeat("ab", 32)

var purls = []string{
	"pkg:deb/debian/bsdutils@1:2.38.1-5?distro=debian-12", "pkg:golang/example.com/app@v1.0.0", "pkg:golang/example.com/lib@v0.1.0", "pkg:golang/example.com/lib@v0.1.0",
}

// image has a package of a distribution, a Go program with a library, and another with it.
func image() *inventory.Result {
	return &inventory.Result{ImageID: imageDigest, Packages: []inventory.Package{
		{Kind: inventory.KindDeb, Path: "var/lib/dpkg/status", Name: "bsdutils"}, {Kind: inventory.KindGo, Path: "bin/app", Name: "example.com/app"},
		{Kind: inventory.KindGo, Path: "bin/app", Name: "example.com/lib"}, {Kind: inventory.KindGo, Path: "bin/other", Name: "example.com/lib"},
	}}
}

// apply returns which of one finding in each package are ignored, as digits, and why.
func apply(t *testing.T, files ...string) (got, why string, err error) {
	t.Helper()
	var paths []string
	for i, text := range files {
		p := filepath.Join(t.TempDir(), fmt.Sprintf("%d.json", i))
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	d, err := Read(paths...)
	if err != nil {
		return "", "", err
	}
	var findings []vulndb.Finding
	for i := range purls {
		findings = append(findings, vulndb.Finding{Package: i, IDs: []string{"CVE-1", "GHSA-1"}})
	}
	d.Apply(findings, image(), func(i int) string { return purls[i] })
	for _, f := range findings {
		if f.Ignored != "" {
			got, why = got+fmt.Sprint(f.Package), f.Ignored
		}
	}
	return got, why, nil
}

func openvex(statements ...string) string {
	return `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"x","author":"me","timestamp":"2026-01-01T00:00:00Z","version":1,"statements":[` + strings.Join(statements, ",") + `]}`
}

func about(id, product, rest string) string {
	return `{"vulnerability":{"name":"` + id + `"},"products":[` + product + `],` + rest + `}`
}

const (
	never   = `"status":"not_affected","justification":"vulnerable_code_not_present"`
	bsd     = `{"@id":"pkg:deb/debian/bsdutils@1:2.38.1-5"}`
	lib     = `{"@id":"pkg:golang/example.com/lib@v0.1.0"}`
	appWith = `{"@id":"pkg:golang/example.com/app","subcomponents":[{"@id":"pkg:golang/example.com/lib"}]}`
)

func TestOpenVEX(t *testing.T) {
	oci := `"pkg:oci/app@` + strings.ReplaceAll(imageDigest, ":", "%3A") + `"`
	other := `"pkg:oci/app@sha256%3A` + strings.Repeat("0", 64) + `"`
	for _, tt := range []struct{ name, text, want, why string }{
		{"a package", openvex(about("CVE-1", bsd, never)), "0", "VEX: not affected, vulnerable code not present ("},
		{"by an alias", openvex(about("GHSA-1", bsd, never)), "0", ""},
		{"another flaw", openvex(about("CVE-2", bsd, never)), "", ""},
		{"another version", openvex(about("CVE-1", `{"@id":"pkg:deb/debian/bsdutils@9"}`, never)), "", ""},
		{"another release", openvex(about("CVE-1", `{"@id":"pkg:deb/debian/bsdutils@1:2.38.1-5?distro=debian-13"}`, never)), "", ""},
		{"another distribution", openvex(about("CVE-1", `{"@id":"pkg:deb/ubuntu/bsdutils"}`, never)), "", ""},
		{"by identifiers", openvex(about("CVE-1", `{"@id":"x","identifiers":{"purl":"pkg:deb/debian/bsdutils"}}`, never)), "0", ""},
		{"a library everywhere", openvex(about("CVE-1", lib, never)), "23", ""},
		{"a library in one program", openvex(about("CVE-1", appWith, never)), "2", ""},
		{"the whole image", openvex(about("CVE-1", `{"@id":`+oci+`}`, never)), "0123", ""},
		{"a package in the image", openvex(about("CVE-1", `{"@id":`+oci+`,"subcomponents":[`+bsd+`]}`, never)), "0", ""},
		{"another image", openvex(about("CVE-1", `{"@id":`+other+`}`, never)), "", ""},
		{"by a hash", openvex(about("CVE-1", `{"@id":"x","hashes":{"sha-256":"`+strings.Repeat("AB", 32)+`"}}`, never)), "0123", ""},
		{"affected", openvex(about("CVE-1", bsd, `"status":"affected","action_statement":"update"`)), "", ""},
		{"fixed", openvex(about("CVE-1", bsd, `"status":"fixed"`)), "0", "VEX: fixed ("},
		{"impact", openvex(about("CVE-1", bsd, `"status":"not_affected","impact_statement":"not\ncalled"`)), "0", "not affected, not called"},
		{"the newest holds", openvex(about("CVE-1", bsd, never+`,"timestamp":"2025-01-01T00:00:00Z"`), about("CVE-1", bsd, `"status":"affected"`)), "", ""},
		{"the newest holds, whatever the order", openvex(about("CVE-1", bsd, never+`,"timestamp":"2026-02-01T00:00:00Z"`), about("CVE-1", bsd, `"status":"affected"`)), "0", ""},
		{"at one time the worst", openvex(about("CVE-1", bsd, `"status":"under_investigation"`), about("CVE-1", bsd, never)), "", ""},
	} {
		got, why, err := apply(t, tt.text)
		if err != nil || got != tt.want || !strings.Contains(why, tt.why) {
			t.Errorf("%s: %v, ignored %q (%s), want %q (%s)", tt.name, err, got, why, tt.want, tt.why)
		}
	}
	newer := strings.Replace(openvex(about("CVE-1", bsd, `"status":"affected"`)), "2026-01-01", "2026-03-01", 1)
	if got, _, err := apply(t, openvex(about("CVE-1", bsd, never)), newer); err != nil || got != "" {
		t.Errorf("two files: %v, ignored %q, want that the newer says it is affected", err, got)
	}
}

// TestAdvisory: of an advisory of several flaws what is said of one is not said of all.
func TestAdvisory(t *testing.T) {
	const affected = `"status":"affected","action_statement":"update"`
	for _, tt := range []struct{ name, text, why string }{
		{"its name", openvex(about("ALSA-1", bsd, never)), "VEX: not affected"},
		{"one of its flaws", openvex(about("CVE-1", bsd, never)), ""},
		{"each of them", openvex(about("CVE-1", bsd, never), about("CVE-2", bsd, `"status":"fixed"`)), "VEX: not affected"},
		{"one of them affects", openvex(about("CVE-1", bsd, never), about("CVE-2", bsd, affected)), ""},
		{"its name, and one of them affects", openvex(about("ALSA-1", bsd, never), about("CVE-2", bsd, affected)), ""},
		{"one of them for another package", openvex(about("CVE-1", bsd, never), about("CVE-2", lib, never)), ""},
	} {
		var d Documents
		if err := d.Add("f", []byte(tt.text)); err != nil {
			t.Fatal(err)
		}
		findings := []vulndb.Finding{{IDs: []string{"ALSA-1"}, About: []string{"CVE-1", "CVE-2"}}}
		d.With(nil).Apply(findings, image(), func(i int) string { return purls[i] })
		if got := findings[0].Ignored; (got == "") != (tt.why == "") || !strings.Contains(got, tt.why) {
			t.Errorf("%s: ignored %q, want %q", tt.name, got, tt.why)
		}
	}
}

func TestOpenVEXBroken(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"another version", strings.Replace(openvex(), "v0.2.0", "v0.9.0", 1), "the context is"},
		{"a field that there is not", strings.Replace(openvex(), `"author"`, `"autor":"x","author"`, 1), "unknown field"},
		{"no author", strings.Replace(openvex(), `"me"`, `""`, 1), "no author"},
		{"no reason", openvex(about("CVE-1", bsd, `"status":"not_affected"`)), "statement 1: not_affected needs"},
		{"a reason that there is not", openvex(about("CVE-1", bsd, `"status":"not_affected","justification":"because"`)), "no justification"},
		{"a reason for another status", openvex(about("CVE-1", bsd, `"status":"affected","justification":"vulnerable_code_not_present"`)), "for not_affected alone"},
		{"a status that there is not", openvex(about("CVE-1", bsd, `"status":"fine"`)), "no status"},
		{"no products", openvex(`{"vulnerability":{"name":"CVE-1"},` + never + `}`), "no product"},
		{"no name", openvex(about("", bsd, never)), "without a name"},
		{"a product by name alone", openvex(about("CVE-1", `{"@id":"app"}`, never)), "neither a package URL"},
		{"an image by name alone", openvex(about("CVE-1", `{"@id":"pkg:oci/app"}`, never)), "digest"},
		{"fixed in all versions", openvex(about("CVE-1", `{"@id":"pkg:deb/debian/bsdutils"}`, `"status":"fixed"`)), "fixed needs a version"},
		{"fixed in all versions of a part", openvex(about("CVE-1", `{"@id":"pkg:golang/example.com/app@v1","subcomponents":[{"@id":"pkg:golang/a/b"}]}`, `"status":"fixed"`)), "fixed needs a version"},
		{"a part of a package", openvex(about("CVE-1", `{"@id":"pkg:golang/example.com/lib@v0.1.0#sub"}`, never)), "part of a package"},
		{"parts of parts", openvex(about("CVE-1", `{"@id":"pkg:a/b","subcomponents":[{"@id":"pkg:a/b","subcomponents":[`+bsd+`]}]}`, never)), "have no subcomponents"},
		{"something behind", openvex() + "{}", "invalid character"},
		{"neither form", `{}`, "want OpenVEX"},
		{"no JSON", `x`, "want OpenVEX"},
	} {
		if _, _, err := apply(t, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func csafDoc(status, more string) string {
	return `{"document":{"category":"csaf_vex","csaf_version":"2.0","title":"t","publisher":{"name":"vendor"},"tracking":{"id":"T-1","status":"final","current_release_date":"2026-01-01T00:00:00Z"}},
		"product_tree":{"branches":[{"category":"vendor","name":"v","branches":[{"category":"product_version","name":"1","product":{"product_id":"BSD","name":"b",
			"product_identification_helper":{"purl":"pkg:deb/debian/bsdutils@1:2.38.1-5"}}}]}],
			"full_product_names":[{"product_id":"APP","name":"a","product_identification_helper":{"purl":"pkg:golang/example.com/app@v1.0.0"}},{"product_id":"NAME","name":"n"},
				{"product_id":"LIB","name":"l","product_identification_helper":{"purl":"pkg:golang/example.com/lib@v0.1.0"}},
				{"product_id":"IMG","name":"i","product_identification_helper":{"purl":"pkg:oci/app"}}],
			"product_groups":[{"group_id":"G","product_ids":["BSD"]}],
			"relationships":[{"category":"default_component_of","product_reference":"LIB","relates_to_product_reference":"APP","full_product_name":{"product_id":"APP:LIB","name":"x"}},
				{"category":"default_component_of","product_reference":"LIB","relates_to_product_reference":"NAME","full_product_name":{"product_id":"NAME:LIB","name":"x"}}]},
		"vulnerabilities":[{"cve":"CVE-1","product_status":{` + status + `}` + more + `}]}`
}

func TestCSAF(t *testing.T) {
	flag := func(ids string) string {
		return `,"flags":[{"label":"component_not_present","product_ids":[` + ids + `]}]`
	}
	for _, tt := range []struct{ name, text, want, err string }{
		{"a package", csafDoc(`"known_not_affected":["BSD"]`, flag(`"BSD"`)), "0", ""},
		{"by a group and an impact", csafDoc(`"known_not_affected":["BSD"]`, `,"threats":[{"category":"impact","details":"not called","group_ids":["G"]}]`), "0", ""},
		{"a library in one program", csafDoc(`"known_not_affected":["APP:LIB"]`, flag(`"APP:LIB"`)), "2", ""},
		// A product without a package URL could be anything: nothing is matched with it.
		{"a library in what has no package URL", csafDoc(`"known_not_affected":["NAME:LIB","NAME","IMG"]`, flag(`"NAME:LIB","NAME","IMG"`)), "", ""},
		{"fixed", csafDoc(`"fixed":["LIB"]`, ""), "23", ""},
		{"affected", csafDoc(`"known_affected":["BSD"],"recommended":["LIB"]`, ""), "", ""},
		{"no reason", csafDoc(`"known_not_affected":["BSD"]`, ""), "", "says why"},
		{"a reason for another", csafDoc(`"known_not_affected":["BSD"]`, flag(`"APP"`)), "", "says why"},
		{"a threat that is no impact", csafDoc(`"known_not_affected":["BSD"]`, `,"threats":[{"category":"exploit_status","details":"x","product_ids":["BSD"]}]`), "", "says why"},
		{"both", csafDoc(`"known_not_affected":["BSD"],"known_affected":["BSD"]`, flag(`"BSD"`)), "", "is both"},
		{"a product that is not there", csafDoc(`"fixed":["X"]`, ""), "", "not in the product tree"},
		{"a status that there is not", csafDoc(`"fine":["BSD"]`, ""), "", "no product status"},
		{"another category", strings.Replace(csafDoc("", ""), "csaf_vex", "csaf_base", 1), "", "want 2.0 and csaf_vex"},
		{"a draft", strings.Replace(csafDoc("", ""), "final", "draft", 1), "", "want final or interim"},
		{"a product twice", strings.Replace(csafDoc("", ""), `"product_id":"NAME"`, `"product_id":"BSD"`, 1), "", "twice"},
		{"huge groups", strings.Replace(csafDoc(`"known_not_affected":["BSD"]`, `,"flags":[{"label":"component_not_present","group_ids":["G"`+strings.Repeat(`,"G"`, 5000)+`]}]`),
			`"product_ids":["BSD"]`, `"product_ids":["BSD"`+strings.Repeat(`,"BSD"`, 5000)+`]`, 1), "", "in all"},
		{"a relationship to nothing", strings.Replace(csafDoc("", ""), `"product_reference":"LIB"`, `"product_reference":"X"`, 1), "", "does not have before it"},
	} {
		got, _, err := apply(t, tt.text)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || got != tt.want {
			t.Errorf("%s: %v, ignored %q, want %q, %q", tt.name, err, got, tt.err, tt.want)
		}
	}
}

// TestWrite: what is written is read again, and nobody is told that nothing matters.
func TestWrite(t *testing.T) {
	findings := []vulndb.Finding{
		{Package: 0, IDs: []string{"CVE-1", "GHSA-1"}, Fixed: "2", State: vulndb.StateFixed}, {Package: 1, IDs: []string{"CVE-2"}}, {Package: 2, IDs: []string{"CVE-3"}, Ignored: "so", Fixed: "2"},
	}
	res := image()
	s := &Scan{Target: "registry.example/App:1.0", Time: time.Unix(1, 0), Inventory: res, Findings: findings, PackageURL: func(i int) string { return purls[i] }, Tool: "belay"}
	for _, id := range []string{imageDigest, ""} {
		res.ImageID = id
		var b bytes.Buffer
		if err := Write(&b, s); err != nil {
			t.Fatal(err)
		}
		list, err := parseOpenVEX(b.Bytes())
		if err != nil || len(list) != 3 || list[0].status != affected || list[1].status != investigating || list[2].status != investigating {
			t.Fatalf("%v: %+v in\n%s", err, list, b.String())
		}
		if list[0].products[0].digest != id || !json.Valid(b.Bytes()) {
			t.Errorf("product %+v, want the image %q", list[0].products[0], id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(openvex(about("CVE-1", appWith, never))))
	f.Add([]byte(csafDoc(`"known_not_affected":["APP:LIB"]`, `,"flags":[{"label":"component_not_present","product_ids":["APP:LIB"]}]`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &Documents{used: map[*statement]bool{}}
		if err := d.parse("x", b); err != nil {
			return
		}
		for _, s := range d.list {
			if err := s.check(); err != nil {
				t.Errorf("a statement that says too little: %v", err)
			}
		}
		d.Apply([]vulndb.Finding{{IDs: []string{"CVE-1"}}}, image(), func(i int) string { return purls[i] })
	})
}
