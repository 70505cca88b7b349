package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// evil has what XML cannot hold, what ends its elements, and what terminals obey.
const evil = "a]]></failure><x y=\"z\">&\x00\x01\x1b[2J\u009b\ufffe\u202e"

// example is a scan of two packages, of which one has a flaw, with hostile texts.
func example() *Scan {
	res := &inventory.Result{
		Schema: inventory.Schema, ImageID: "sha256:" + strings.Repeat("a", 64), OS: inventory.OS{ID: "debian", VersionID: "12"}, Layers: []inventory.Layer{{}},
		Packages: []inventory.Package{
			{Kind: inventory.KindDeb, Name: "bsdutils", Version: "1:2.38.1-5", Source: "util-linux", SourceVersion: "2.38.1-5", Path: "var/lib/dpkg/status"},
			{Kind: inventory.KindNPM, Name: evil, Version: "1.0.0", Path: "x/" + evil},
		},
		Notes: []inventory.Note{{Path: evil, Text: "was not read", Count: 2}},
	}
	m := &vulndb.Matches{Findings: []vulndb.Finding{
		{Package: 1, IDs: []string{"CVE-2024-1", "GHSA-x"}, Severity: vulndb.SeverityHigh, State: vulndb.StateFixed, Fixed: "1.0.1", Summary: evil},
		{Package: 1, IDs: []string{"CVE-2024-2"}, State: vulndb.StateAffected, Ignored: evil},
	}}
	return New(evil, time.Unix(1, 5), res, &Database{Records: 1}, m)
}

func TestJUnit(t *testing.T) {
	for _, tt := range []struct {
		name     string
		verdict  Verdict
		failures int
	}{
		{"fails, incomplete", Verdict{Fails: map[int]bool{0: true}}, 2},
		{"incomplete is allowed", Verdict{Fails: map[int]bool{0: true}, AllowIncomplete: true}, 1},
		{"nothing fails", Verdict{AllowIncomplete: true}, 0},
		{"not looked for", Verdict{Incomplete: evil}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			s := example()
			s.Complete = s.Complete || tt.verdict.Incomplete != ""
			if err := s.WriteJUnit(&b, tt.verdict); err != nil {
				t.Fatal(err)
			}
			var got junitSuites
			if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
				t.Fatalf("%v in\n%s", err, b.String())
			}
			cases, failures, skipped := 0, 0, 0
			for _, c := range got.Suites[0].Cases {
				cases++
				if c.Failure != nil {
					failures++
				}
				if c.Skipped != nil {
					skipped++
				}
			}
			// Two findings, the package without any, and that all was read.
			if cases != 4 || failures != tt.failures || got.Failures != failures || got.Tests != cases || got.Skipped != skipped || skipped == 0 {
				t.Errorf("%d cases, %d failures, %d skipped, sums %+v", cases, failures, skipped, got.junitSums)
			}
			if strings.ContainsAny(b.String(), "\x00\x1b\u009b\u202e\ufffe") || strings.Contains(b.String(), "<x") {
				t.Errorf("a hostile name broke out:\n%s", b.String())
			}
		})
	}
}

// TestSPDX: every field that SPDX 2.3 requires is there, and every reference leads to
// something. Source: schemas/spdx-schema.json of spdx/spdx-spec, version 2.3.
func TestSPDX(t *testing.T) {
	var b bytes.Buffer
	if err := example().WriteSPDX(&b, "1"); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	required(t, doc, "SPDXID", "creationInfo", "dataLicense", "name", "spdxVersion", "documentNamespace")
	required(t, doc["creationInfo"].(map[string]any), "created", "creators")
	if doc["SPDXID"] != "SPDXRef-DOCUMENT" || doc["spdxVersion"] != "SPDX-2.3" || doc["dataLicense"] != "CC0-1.0" || !strings.Contains(doc["comment"].(string), "was not read") {
		t.Errorf("document %v", doc)
	}
	ids := map[any]bool{"SPDXRef-DOCUMENT": true, "NOASSERTION": true}
	for _, p := range doc["packages"].([]any) {
		p := p.(map[string]any)
		required(t, p, "SPDXID", "downloadLocation", "name")
		if id := p["SPDXID"].(string); !regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`).MatchString(id) || ids[id] {
			t.Errorf("the identifier %q is no good, or there twice", id)
		}
		ids[p["SPDXID"]] = true
		refs, _ := p["externalRefs"].([]any)
		for _, r := range refs {
			required(t, r.(map[string]any), "referenceCategory", "referenceLocator", "referenceType")
		}
	}
	for _, r := range doc["relationships"].([]any) {
		r := r.(map[string]any)
		required(t, r, "spdxElementId", "relatedSpdxElement", "relationshipType")
		if !ids[r["spdxElementId"]] || !ids[r["relatedSpdxElement"]] {
			t.Errorf("a relationship to nothing: %v", r)
		}
	}
	for _, part := range []string{"pkg:deb/debian/bsdutils@1:2.38.1-5?distro=debian-12&upstream=util-linux%402.38.1-5", "https://osv.dev/vulnerability/CVE-2024-1"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is missing in\n%s", part, b.String())
		}
	}
}

func required(t *testing.T, object map[string]any, names ...string) {
	t.Helper()
	for _, n := range names {
		if v, ok := object[n]; !ok || v == "" || v == nil {
			t.Errorf("the field %s is missing in %v", n, object)
		}
	}
}

// TestGitLab: the fields that version 15.0.6 of the schema requires.
func TestGitLab(t *testing.T) {
	s := example()
	s.Findings[0].Summary = strings.Repeat("ü", gitlabMaxDescription)
	s.Findings = append(s.Findings, s.Findings[0])
	var b bytes.Buffer
	if err := s.WriteGitLab(&b, "1"); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	required(t, doc, "version", "vulnerabilities", "scan")
	scan := doc["scan"].(map[string]any)
	required(t, scan, "analyzer", "scanner", "type", "start_time", "end_time", "status", "messages")
	required(t, scan["scanner"].(map[string]any), "id", "name", "version", "vendor")
	ids := map[any]bool{}
	for _, v := range doc["vulnerabilities"].([]any) {
		v := v.(map[string]any)
		required(t, v, "id", "identifiers", "location", "name", "severity", "description")
		if ids[v["id"]] {
			t.Errorf("the identifier %v is there twice", v["id"])
		}
		ids[v["id"]] = true
		if n := len([]rune(v["description"].(string))); n > gitlabMaxDescription {
			t.Errorf("a description of %d characters", n)
		}
		loc := v["location"].(map[string]any)
		required(t, loc, "dependency", "operating_system", "image")
		required(t, loc["dependency"].(map[string]any), "package", "version")
		for _, i := range v["identifiers"].([]any) {
			required(t, i.(map[string]any), "type", "name", "value")
		}
	}
	if len(ids) != 3 || !strings.Contains(b.String(), "Ignored: ") {
		t.Errorf("%d findings, want 3, one of them ignored", len(ids))
	}
}

// TestAdvisoryForms: each form that has a place for it names the flaws that an advisory is about, and takes none for the
// advisory's own name.
func TestAdvisoryForms(t *testing.T) {
	s := example()
	s.Findings = []vulndb.Finding{{Package: 0, IDs: []string{"ALSA-1"}, About: []string{"CVE-2024-1", "CVE-2024-2"}, State: vulndb.StateFixed}}
	for _, tt := range []struct {
		form  string
		write func(w io.Writer) error
		want  []string
	}{
		{"CycloneDX", func(w io.Writer) error { return s.WriteCycloneDX(w, "1") }, []string{`"name": "belay:about", "value": "CVE-2024-1" }, { "name": "belay:about", "value": "CVE-2024-2"`}},
		{"GitLab", func(w io.Writer) error { return s.WriteGitLab(w, "1") }, []string{`"name": "ALSA-1"`, `"type": "cve", "name": "CVE-2024-1", "value": "CVE-2024-1"`, `"name": "CVE-2024-2"`}},
		{"Harbor", func(w io.Writer) error { return s.WriteHarbor(w, "1", HarborArtifact{}) }, []string{`"id":"ALSA-1"`, `"about":"CVE-2024-1, CVE-2024-2"`}},
		{"SARIF", func(w io.Writer) error { return s.WriteSARIF(w, "1") }, []string{"ALSA-1, CVE-2024-1, CVE-2024-2"}},
	} {
		var b bytes.Buffer
		if err := tt.write(&b); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(strings.Fields(b.String()), " ")
		for _, part := range tt.want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %s is missing in %s", tt.form, part, got)
			}
		}
		if strings.Contains(got, `"references": [`) {
			t.Errorf("%s: the flaws pass for other names of the advisory: %s", tt.form, got)
		}
	}
	s.Findings[0].About = slices.Repeat([]string{"CVE-2024-1"}, 500)
	if g := s.gitlabFinding(&s.Findings[0]); len(g.Identifiers) != 1+maxFlaws {
		t.Errorf("GitLab: %d identifiers, want %d", len(g.Identifiers), 1+maxFlaws)
	}
}

// TestSARIF: what SARIF 2.1.0 requires (sections 3.13, 3.14, 3.19, 3.27) is there, every result leads to its rule and to
// a place, and no two have the same fingerprint, by which code hosts drop one.
func TestSARIF(t *testing.T) {
	s := example()
	s.Inventory.Packages = append(s.Inventory.Packages,
		inventory.Package{Kind: inventory.KindNPM, Name: "a", Version: "1.0.0", Path: "package-lock.json"},
		inventory.Package{Kind: inventory.KindNPM, Name: "a", Version: "2.0.0", Path: "package-lock.json"},
		inventory.Package{Kind: inventory.KindNPM, Name: "of a bill", Version: "1.0.0"})
	for i := 2; i < 5; i++ {
		s.Findings = append(s.Findings, vulndb.Finding{Package: i, IDs: []string{"CVE-2024-1"}})
	}
	s.Misconfigurations = []inventory.Misconfiguration{
		{ID: inventory.FileSecret, Path: "a:b/" + evil, Where: "a:b/" + evil + ":3", Text: evil},
		{ID: inventory.ConfigSecretEnv, Where: "TOKEN", Text: "a secret"}, {ID: inventory.FileSecret, Path: "c", Where: "c:4"},
	}
	var b bytes.Buffer
	if err := s.WriteSARIF(&b, "1"); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	required(t, doc, "version", "runs")
	if doc["version"] != "2.1.0" || len(doc["runs"].([]any)) != 1 {
		t.Fatalf("version %v, runs %v", doc["version"], doc["runs"])
	}
	run := doc["runs"].([]any)[0].(map[string]any)
	driver := run["tool"].(map[string]any)["driver"].(map[string]any)
	required(t, driver, "name", "version", "rules")
	rules, names := driver["rules"].([]any), map[any]bool{}
	for _, r := range rules {
		r := r.(map[string]any)
		required(t, r, "id", "shortDescription", "properties")
		required(t, r["shortDescription"].(map[string]any), "text")
		if names[r["id"]] {
			t.Errorf("the rule %v is there twice", r["id"])
		}
		names[r["id"]] = true
		if u, ok := r["helpUri"].(string); ok && !absolute(u) {
			t.Errorf("the help of %v is at %q", r["id"], u)
		}
	}
	prints := map[string]bool{}
	for _, r := range run["results"].([]any) {
		r := r.(map[string]any)
		required(t, r, "ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints")
		required(t, r["message"].(map[string]any), "text")
		if n := int(r["ruleIndex"].(float64)); n < 0 || n >= len(rules) || rules[n].(map[string]any)["id"] != r["ruleId"] {
			t.Errorf("the rule %v of %v, of %d", r["ruleIndex"], r["ruleId"], len(rules))
		}
		if !slices.Contains([]any{"none", "note", "warning", "error"}, r["level"]) {
			t.Errorf("the level %v", r["level"])
		}
		place := r["locations"].([]any)[0].(map[string]any)["physicalLocation"].(map[string]any)
		uri, _ := place["artifactLocation"].(map[string]any)["uri"].(string)
		if u, err := url.Parse(uri); err != nil || uri == "" || u.IsAbs() || u.Host != "" {
			t.Errorf("%v: the place %q, %v", r["message"], uri, err)
		}
		if line := place["region"].(map[string]any)["startLine"].(float64); line < 1 {
			t.Errorf("line %v", line)
		}
		for name, print := range r["partialFingerprints"].(map[string]any) {
			if key := fmt.Sprint(name, print); prints[key] {
				t.Errorf("the fingerprint %q is there twice", key)
			} else {
				prints[key] = true
			}
		}
	}
	if len(rules) != 4 || len(prints) != 8 {
		t.Errorf("%d rules and %d fingerprints, want 4 and 8", len(rules), len(prints))
	}
}

func absolute(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.IsAbs()
}

// TestRead: what was written is read, and what is out of bounds is not.
func TestRead(t *testing.T) {
	s := example()
	s.Inventory.Packages[1].Name, s.Inventory.Packages[1].Path = "p", "q" // JSON has no invalid UTF-8
	good, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if !IsReport(good[:HeadBytes]) || IsReport([]byte(`{"bomFormat":"CycloneDX"}`)) {
		t.Error("a report is not told from a bill of materials")
	}
	got, err := Read(bytes.NewReader(good))
	if err != nil || len(got.Findings) != 2 || got.Complete || got.Findings[0].Severity != vulndb.SeverityHigh {
		t.Errorf("%v: %+v", err, got)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"another schema", Schema, "belay.dev/scan/v9", "scan again"},
		{"a package that is not there", `"package":1`, `"package":7`, "no package"},
		{"a negative package", `"package":1`, `"package":-1`, "no package"},
		{"a finding without a name", `"ids":["CVE-2024-2"]`, `"ids":[]`, "no name"},
		{"findings from nowhere", `"database":{`, `"other":{`, "no database"},
		{"no inventory", `"inventory":{`, `"other":{`, "no inventory"},
		{"a layer that is not there", `"layer":0`, `"layer":3`, "layer 3"},
		{"no JSON", `{"schema"`, `{schema`, "want a report"},
	} {
		if _, err := Read(strings.NewReader(strings.ReplaceAll(string(good), tt.old, tt.new))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	lies := strings.Replace(string(good), `"complete":false`, `"complete":true`, 1)
	if got, err := Read(strings.NewReader(lies)); err != nil || got.Complete {
		t.Errorf("%v: a report with notes says that it is complete, and is believed", err)
	}
}

// TestCompare: packages by kind and name, findings one to one.
func TestCompare(t *testing.T) {
	pkg := func(name, version, path string) inventory.Package {
		return inventory.Package{Kind: inventory.KindNPM, Name: name, Version: version, Path: path}
	}
	find := func(i int, ids ...string) vulndb.Finding { return vulndb.Finding{Package: i, IDs: ids} }
	scan := func(packages []inventory.Package, findings ...vulndb.Finding) *Scan {
		return New("x", time.Unix(1, 0), &inventory.Result{Packages: packages}, &Database{}, &vulndb.Matches{Findings: findings})
	}
	before := scan([]inventory.Package{pkg("a", "1", "p"), pkg("b", "1", "p"), pkg("c", "1", "p"), pkg("d", "1", "p")},
		find(0, "CVE-1", "GHSA-1"), find(1, "CVE-2"), find(2, "CVE-3"))
	after := scan([]inventory.Package{pkg("a", "2", "p"), pkg("a", "2", "q"), pkg("b", "1", "elsewhere"), pkg("e", "1", "p"), pkg("d", "1", "p")},
		find(0, "GHSA-1"), find(1, "GHSA-1"), find(2, "CVE-2"), find(4, "CVE-4"))
	d := Compare(before, after)
	var got []string
	for _, c := range d.Packages {
		got = append(got, c.Change+" "+c.Name+" "+strings.Join(c.Old, ",")+">"+strings.Join(c.New, ","))
	}
	if want := "changed a 1>2,2|removed c 1>|added e >1"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// The second copy of a, and the flaw of d, are new; that of c is gone.
	if len(d.Added) != 2 || d.Added[0].Index != 1 || d.Added[1].IDs[0] != "CVE-4" || len(d.Gone) != 1 || d.Gone[0].IDs[0] != "CVE-3" {
		t.Errorf("new %+v, gone %+v", d.Added, d.Gone)
	}
	b, err := json.Marshal(d)
	if err != nil || !strings.Contains(string(b), `"package":{"kind":"npm","name":"d"`) {
		t.Errorf("%v: %s", err, b)
	}
	before.Database = nil
	if d := Compare(before, after); d.Matched || len(d.Added)+len(d.Gone) != 0 {
		t.Error("findings are compared with what was not matched")
	}
}
