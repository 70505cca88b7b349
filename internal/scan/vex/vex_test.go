package vex

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/package-url/packageurl-go"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/testneed"
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
		{Package: 0, IDs: []string{"CVE-1", "GHSA-1"}, Fixed: "2", State: vulndb.StateFixed}, {Package: 1, IDs: []string{"ALSA-1"}, About: []string{"CVE-4", "CVE-5"}}, {Package: 2, IDs: []string{"CVE-3"}, Ignored: "so", Fixed: "2"},
	}
	res := image()
	s := &Scan{Target: "registry.example/App:1.0", Time: time.Unix(1, 0), Inventory: res, Findings: findings, PackageURL: func(i int) string { return purls[i] }, Tool: "belay"}
	for _, id := range []string{imageDigest, ""} {
		res.ImageID = id
		var b bytes.Buffer
		if err := Write(&b, s); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), `"description": "about CVE-4, CVE-5"`) {
			t.Errorf("what an advisory is about is missing in %s", b.String())
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

// TestSuppliers: distributions say what they say by the code name of a release, the source
// package, and, Red Hat, a platform that has only a CPE. What is not certainly about a
// package leaves its finding as it is.
func TestSuppliers(t *testing.T) {
	jammy := inventory.OS{ID: "ubuntu", VersionID: "22.04"}
	rhel := inventory.OS{ID: "rhel", VersionID: "8.9"}
	curl := inventory.Package{Kind: inventory.KindDeb, Name: "libcurl4", Version: "7.81.0-1ubuntu1.24", Arch: "amd64", Source: "curl", SourceVersion: "7.81.0-1ubuntu1.24"}
	doc := inventory.Package{Kind: inventory.KindDeb, Name: "libcurl4-doc", Version: "7.81.0-1ubuntu1.24", Arch: "all", Source: "curl", SourceVersion: "7.81.0-1ubuntu1.24"}
	sudo := inventory.Package{Kind: inventory.KindRPM, Name: "sudo", Version: "1.9.5p2-1.el8_9", Arch: "x86_64", Source: "sudo", SourceVersion: "1.9.5p2-1.el8_9"}
	bind := inventory.Package{Kind: inventory.KindRPM, Name: "bind", Version: "32:9.11-1.el8", Arch: "x86_64"}
	fixed := func(purl string) string {
		return openvex(about("CVE-1", `{"@id":"`+purl+`"}`, `"status":"fixed"`))
	}
	const ubuntu = "pkg:deb/ubuntu/libcurl4@7.81.0-1ubuntu1.24"
	const source = "pkg:deb/ubuntu/curl@7.81.0-1ubuntu1.24?arch=source&distro="
	const eight = "cpe:/o:redhat:enterprise_linux:8::baseos"
	const sudo8 = "pkg:rpm/redhat/sudo@1.9.5p2-1.el8_9?arch=x86_64"
	for _, tt := range []struct {
		name, text string
		os         inventory.OS
		pkg        inventory.Package
		want       bool
	}{
		{"by code name", fixed(ubuntu + "?arch=amd64&distro=jammy"), jammy, curl, true},
		{"another release", fixed(ubuntu + "?arch=amd64&distro=noble"), jammy, curl, false},
		{"no code name", fixed(ubuntu + "?distro=x"), jammy, curl, false},
		{"no release", fixed(ubuntu + "?distro=x"), inventory.OS{ID: "ubuntu"}, curl, false},
		{"the code name of another distribution", fixed("pkg:deb/debian/libcurl4@7.81.0-1ubuntu1.24?distro=jammy"), inventory.OS{ID: "debian", VersionID: "22.04"}, curl, false},
		{"another architecture", fixed(ubuntu + "?arch=arm64&distro=jammy"), jammy, curl, false},
		{"a package for all architectures", fixed("pkg:deb/ubuntu/libcurl4-doc@7.81.0-1ubuntu1.24?arch=riscv64&distro=jammy"), jammy, doc, true},
		{"the source", fixed(source + "jammy"), jammy, curl, true},
		{"the source in another release", fixed(source + "focal"), jammy, curl, false},
		{"another version of the source", fixed("pkg:deb/ubuntu/curl@7.81.0-1ubuntu1.25?arch=source&distro=jammy"), jammy, curl, false},
		{"the source's name is no binary's", fixed("pkg:deb/ubuntu/libcurl4@7.81.0-1ubuntu1.24?arch=source&distro=jammy"), jammy, curl, false},
		{"no source known", openvex(about("CVE-1", `{"@id":"pkg:deb/ubuntu/x?arch=source"}`, never)), jammy, inventory.Package{Kind: inventory.KindDeb, Name: "x"}, false},
		{"a subscriber's build", fixed(source + "esm-infra/jammy"), jammy, curl, true},
		{"any subscriber's build", openvex(about("CVE-1", `{"@id":"pkg:deb/ubuntu/curl?arch=source&distro=esm-infra/jammy"}`, never)), jammy, curl, false},
		{"another archive", fixed(source + "ppa/jammy"), jammy, curl, false},

		{"Red Hat", redHat(eight, sudo8), rhel, sudo, true},
		{"Red Hat, CPE 2.3", redHat("cpe:2.3:o:redhat:enterprise_linux:8:*:*:*:*:*:*:*", sudo8), rhel, sudo, true},
		{"another release of Red Hat", redHat("cpe:/o:redhat:enterprise_linux:9::baseos", sudo8), rhel, sudo, false},
		{"a release that begins alike", redHat("cpe:/o:redhat:enterprise_linux:8::baseos", sudo8), inventory.OS{ID: "rhel", VersionID: "80.1"}, sudo, false},
		{"a rebuild of Red Hat's", redHat(eight, sudo8), inventory.OS{ID: "rocky", VersionID: "8.9"}, sudo, false},
		{"extended support", redHat("cpe:/o:redhat:rhel_eus:8.9::baseos", sudo8), rhel, sudo, false},
		{"any release", redHat("cpe:/o:redhat:enterprise_linux", sudo8), rhel, sudo, false},
		{"another vendor", redHat("cpe:/o:else:enterprise_linux:8", sudo8), rhel, sudo, false},
		{"another version", redHat(eight, "pkg:rpm/redhat/sudo@1.9.5p2-2.el8_9?arch=x86_64"), rhel, sudo, false},
		{"a module", redHat(eight, sudo8+"&rpmmod=sudo:1"), rhel, sudo, false},
		{"the source of Red Hat's", redHat(eight, "pkg:rpm/redhat/sudo@1.9.5p2-1.el8_9?arch=src"), rhel, sudo, false},
		{"an epoch", redHat(eight, "pkg:rpm/redhat/bind@9.11-1.el8?epoch=32"), rhel, bind, true},
		{"no epoch is zero", redHat(eight, "pkg:rpm/redhat/bind@9.11-1.el8"), rhel, bind, false},
		{"an epoch in any version", openvex(about("CVE-1", `{"@id":"pkg:rpm/rhel/bind?epoch=32"}`, never)), rhel, bind, true},
		{"another epoch in any version", openvex(about("CVE-1", `{"@id":"pkg:rpm/rhel/sudo?epoch=32"}`, never)), rhel, sudo, false},
		{"an epoch of Debian's stands in the version", fixed(ubuntu + "?epoch=2"), jammy, curl, false},
		{"in any version", strings.Replace(redHat(eight, "pkg:rpm/redhat/sudo"), `{"fixed":["P:C"]}`, `{"known_not_affected":["P:C"]},"flags":[{"label":"component_not_present","product_ids":["P:C"]}]`, 1), rhel, sudo, false},
		{"no package of Red Hat's", redHat(eight, "pkg:npm/sudo@1.9.5p2-1.el8_9"), rhel, inventory.Package{Kind: "npm", Name: "sudo", Version: "1.9.5p2-1.el8_9"}, false},
		{"installed with the platform", strings.Replace(redHat(eight, sudo8), "default_component_of", "installed_with", 1), rhel, sudo, false},
		{"the platform itself", strings.Replace(redHat(eight, sudo8), `["P:C"]`, `["P"]`, 1), rhel, sudo, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ignores(t, tt.text, tt.os, tt.pkg); got != tt.want {
				t.Errorf("ignored %v, want %v", got, tt.want)
			}
		})
	}
}

// redHat is a document in the form of Red Hat's: a platform with a CPE, and a package in it.
func redHat(cpe, purl string) string {
	return `{"document":{"category":"csaf_vex","csaf_version":"2.0","title":"t","publisher":{"name":"vendor"},"tracking":{"id":"T-1","status":"final","current_release_date":"2026-01-01T00:00:00Z"}},
		"product_tree":{"branches":[{"category":"vendor","name":"v","branches":[
			{"category":"product_name","name":"p","product":{"product_id":"P","name":"p","product_identification_helper":{"cpe":"` + cpe + `"}}},
			{"category":"product_version","name":"c","product":{"product_id":"C","name":"c","product_identification_helper":{"purl":"` + purl + `"}}}]}],
			"relationships":[{"category":"default_component_of","product_reference":"C","relates_to_product_reference":"P","full_product_name":{"product_id":"P:C","name":"x"}}]},
		"vulnerabilities":[{"cve":"CVE-1","product_status":{"fixed":["P:C"]}}]}`
}

// ignores reports whether a document has a finding in a package ignored.
func ignores(t *testing.T, text string, o inventory.OS, p inventory.Package) bool {
	t.Helper()
	d := new(Documents).With(nil)
	if err := d.Add("x", []byte(text)); err != nil {
		t.Fatal(err)
	}
	findings := []vulndb.Finding{{IDs: []string{"CVE-1", "CVE-2023-38545"}}}
	d.Apply(findings, &inventory.Result{OS: o, Packages: []inventory.Package{p}}, func(int) string { return purlOf(o, &p) })
	return findings[0].Ignored != ""
}

// purlOf is the package URL that report.PURL, which this row cannot import, gives a package of a distribution.
func purlOf(o inventory.OS, p *inventory.Package) string {
	if !inventory.OfDistribution(p.Kind) {
		return packageurl.NewPackageURL(p.Kind, "", p.Name, p.Version, nil, "").ToString()
	}
	q := map[string]string{"arch": p.Arch}
	if o.VersionID != "" {
		q["distro"] = o.ID + "-" + o.VersionID
	}
	version := p.Version
	if epoch, rest, ok := strings.Cut(version, ":"); ok && p.Kind == inventory.KindRPM {
		version, q["epoch"] = rest, epoch
	}
	return packageurl.NewPackageURL(p.Kind, o.ID, p.Name, version, packageurl.QualifiersFromMap(q), "").ToString()
}

// TestUbuntu reads a file as Ubuntu publishes it.
func TestUbuntu(t *testing.T) {
	text := ofArchive(t, testneed.ScanData(t, "fixtures/vunnel-provider-fixtures.tgz"), "ubuntu/test-fixtures/vex/cve/2023/CVE-2023-38545.json")
	for _, tt := range []struct {
		release, name, source, version, arch string
		want                                 bool
	}{
		{"22.04", "libcurl4", "curl", "7.81.0-1ubuntu1.24", "amd64", true},
		{"22.04", "libcurl4-doc", "curl", "7.81.0-1ubuntu1.24", "all", true},
		{"22.04", "not-listed", "curl", "7.81.0-1ubuntu1.24", "amd64", true}, // by its source
		{"22.04", "libcurl4", "curl", "7.81.0-1ubuntu1.13", "amd64", false},
		{"24.04", "libcurl4", "curl", "7.81.0-1ubuntu1.24", "amd64", false},
	} {
		p := inventory.Package{Kind: inventory.KindDeb, Name: tt.name, Version: tt.version, Arch: tt.arch, Source: tt.source, SourceVersion: tt.version}
		if got := ignores(t, text, inventory.OS{ID: "ubuntu", VersionID: tt.release}, p); got != tt.want {
			t.Errorf("%+v: ignored %v", tt, got)
		}
	}
}

// ofArchive returns the file of a gzipped tar whose name ends so.
func ofArchive(t *testing.T, archive, name string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if strings.HasSuffix(h.Name, name) {
			b, err := inventory.ReadAll(r, maxBytes)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(openvex(about("CVE-1", appWith, never))))
	f.Add([]byte(csafDoc(`"known_not_affected":["APP:LIB"]`, `,"flags":[{"label":"component_not_present","product_ids":["APP:LIB"]}]`)))
	f.Add([]byte(redHat("cpe:/o:redhat:enterprise_linux:8", "pkg:rpm/redhat/sudo@1-1.el8")))
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

// TestManyProducts: a supplier's statement may name tens of thousands of products, each asked about each finding. What
// another package is called is enough to know.
func TestManyProducts(t *testing.T) {
	m := newMatcher(image(), func(i int) string { return purls[i] })
	// A map of so many qualifiers is not on the stack: one that is made shows.
	const qualifiers = "?arch=source&distro=bookworm&a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8"
	for _, name := range []string{"pkg:deb/debian/other@1", "pkg:deb/debian/bsdutils@9"} {
		p, err := parseProduct(name + qualifiers)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { m.matches(&p, 0) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}
