package sbom

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/package-url/packageurl-go"

	"github.com/belay-project/belay/internal/scan/inventory"
)

func running() error { return nil }

func summary(res *inventory.Result) (out []string) {
	for _, p := range res.Packages {
		s := p.Kind + " " + p.Name + " " + p.Version
		if p.Source != "" {
			s += " of " + p.Source + " " + p.SourceVersion
		}
		if p.Path != "" {
			s += " in " + p.Path
		}
		out = append(out, s)
	}
	return out
}

func notes(res *inventory.Result) string {
	var out []string
	for _, n := range res.Notes {
		out = append(out, fmt.Sprintf("%s (%s, %d)", n.Text, n.Path, n.Count))
	}
	return strings.Join(out, "; ")
}

// Bills as belay, Syft and Trivy write them, cut down to what we read.
const (
	cycloneDX = `{"components":[
		{"type":"library","name":"bsdutils","version":"1:2.38.1-5","purl":"pkg:deb/debian/bsdutils@1%3A2.38.1-5?arch=amd64&distro=debian-12&upstream=util-linux%402.38.1-5"},
		{"type":"library","name":"libblkid1","version":"2.38.1-5","purl":"pkg:deb/debian/libblkid1@2.38.1-5?arch=amd64&distro=debian-12.5",
		 "properties":[{"name":"aquasecurity:trivy:SrcName","value":"util-linux"},{"name":"aquasecurity:trivy:SrcVersion","value":"2.38.1"},{"name":"aquasecurity:trivy:SrcRelease","value":"5"}]},
		{"type":"library","name":"github.com/Masterminds/semver","version":"v3.0.0","purl":"pkg:golang/github.com/masterminds/semver@v3.0.0",
		 "properties":[{"name":"syft:location:0:path","value":"/usr/bin/app"}]},
		{"type":"library","group":"@s","name":"scoped","version":"3.0.0","purl":"pkg:npm/%40s/scoped@3.0.0","components":[
			{"type":"library","name":"inner","version":"1.0.0","purl":"pkg:npm/inner@1.0.0"}]},
		{"type":"library","name":"stdlib","version":"go1.22.1","purl":"pkg:golang/stdlib@go1.22.1"},
		{"type":"operating-system","name":"debian","version":"12"},
		{"type":"application","name":"package-lock.json"},
		{"type":"file","name":"/bin/sh"}],
		"vulnerabilities":[{"id":"CVE-1","affects":[{"ref":"x"}]}],
		"metadata":{"component":{"type":"container","name":"image","version":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
		"bomFormat":"CycloneDX","specVersion":"1.6"}`
	spdxDoc = `{"spdxVersion":"SPDX-2.3","packages":[
		{"name":"image","primaryPackagePurpose":"CONTAINER","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:oci/image"}]},
		{"name":"musl","versionInfo":"1.2.4-r2","sourceInfo":"acquired from lib/apk/db/installed, layer 1","externalRefs":[
			{"referenceType":"cpe23Type","referenceLocator":"cpe:2.3:a:musl"},{"referenceType":"purl","referenceLocator":"pkg:apk/alpine/musl@1.2.4-r2?distro=3.18.4"}]},
		{"name":"bash","versionInfo":"5.1.8-6.el9","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:rpm/almalinux/bash@5.1.8-6.el9?epoch=1&distro=almalinux-9.4"}]}],
		"relationships":[{"spdxElementId":"SPDXRef-DOCUMENT","relatedSpdxElement":"SPDXRef-image","relationshipType":"DESCRIBES"}]}`
)

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name, text, os, notes string
		want                  []string
	}{
		{"CycloneDX", cycloneDX, "debian 12", "", []string{
			"deb bsdutils 1:2.38.1-5 of util-linux 2.38.1-5", "deb libblkid1 2.38.1-5 of util-linux 2.38.1-5",
			"golang github.com/Masterminds/semver v3.0.0 in usr/bin/app", "npm @s/scoped 3.0.0", "npm inner 1.0.0", "golang stdlib 1.22.1",
		}},
		// Packages of another distribution cannot be matched by the first one's advisories.
		{"SPDX", spdxDoc, "alpine 3.18.4", "a package of another release than the rest of the bill, almalinux 9.4 (bash, 1)", []string{
			"apk musl 1.2.4-r2 of musl 1.2.4-r2 in lib/apk/db/installed",
		}},
		{"byte order mark", "\ufeff" + `{"bomFormat":"CycloneDX","components":[{"purl":"pkg:npm/a@1"}]}`, "", "", []string{"npm a 1"}},
		{"nothing in it", `{"bomFormat":"CycloneDX","components":null}`, "", "the bill of materials lists no packages (, 1)", nil},
		{"what has no package URL", `{"bomFormat":"CycloneDX","components":[{"type":"library","name":"openssl","version":"1"},{"type":"application","name":"x","version":"1"}]}`,
			"", "an entry of the bill without a package URL (openssl, 2)", nil},
		{"a broken package URL", `{"bomFormat":"CycloneDX","components":[{"name":"x","purl":"pkg:npm/a@%zz"}]}`, "",
			"an entry of the bill with a broken package URL: it is no package URL: a percent sign that encodes nothing (x, 1)", nil},
		{"a type that is not known", `{"bomFormat":"CycloneDX","components":[{"name":"x","purl":"pkg:swift/x/y@1"}]}`, "", "packages of type swift are not known (x, 1)", nil},
		{"no version", `{"bomFormat":"CycloneDX","components":[{"name":"x","purl":"pkg:npm/x"}]}`, "", "a npm package without a version in its package URL (x, 1)", nil},
		{"a huge version", `{"bomFormat":"CycloneDX","components":[{"name":"x","purl":"pkg:npm/x@` + strings.Repeat("1", 300) + `"}]}`, "", "a package with a version of more than 256 bytes (x, 1)", nil},
		{"incomplete", `{"bomFormat":"CycloneDX","compositions":[{"aggregate":"incomplete"}],"components":[{"purl":"pkg:npm/a@1"}]}`, "", "the bill of materials says that it is incomplete (, 1)", []string{"npm a 1"}},
		{"incomplete SPDX", `{"spdxVersion":"SPDX-2.3","relationships":[{"relationshipType":"CONTAINS","relatedSpdxElement":"NOASSERTION"}]}`, "", "the bill of materials says that it is incomplete (, 1)", nil},
		{"two systems", `{"bomFormat":"CycloneDX","components":[{"type":"operating-system","name":"debian","version":"12"},{"type":"operating-system","name":"alpine","version":"3.18"},{"purl":"pkg:apk/alpine/musl@1?distro=3.18"}]}`,
			"debian 12", "a second operating system: packages of distributions are taken for those of the first (alpine, 1); a package of another release than the rest of the bill, alpine 3.18 (musl, 1)", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, err := Read(strings.NewReader(tt.text), running)
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(res); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got := strings.TrimSpace(res.OS.ID + " " + res.OS.VersionID); got != tt.os || notes(res) != tt.notes {
				t.Errorf("on %q, notes %q; want %q, %q", got, notes(res), tt.os, tt.notes)
			}
			if err := res.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadBroken(t *testing.T) {
	stop := errors.New("stopped")
	for _, tt := range []struct{ name, text, want string }{
		{"another JSON", `{"a":1}`, "no bill of materials"},
		{"both", `{"bomFormat":"CycloneDX","spdxVersion":"SPDX-2.3"}`, "no bill of materials"},
		{"another format", `{"bomFormat":"Cyclone"}`, "no bill of materials"},
		{"SPDX 3", `{"spdxVersion":"SPDX-3.0"}`, "no bill of materials"},
		{"cut off", cycloneDX[:len(cycloneDX)-40], "EOF"},
		{"something behind", `{"bomFormat":"CycloneDX"}{}`, "behind"},
		{"a list", `[]`, "object"},
		{"deep", `{"x":` + strings.Repeat("[", 100_000), "deep"},
		{"deep components", `{"components":[` + strings.Repeat(`{"components":[`, 100), "EOF"},
		{"components in components", `{"components":[` + strings.Repeat(`{"components":[`, 100) + strings.Repeat(`]}`, 100) + `],"bomFormat":"CycloneDX"}`, "deep"},
		{"too large", `{"x":"` + strings.Repeat("x", maxBytes), "larger than"},
		{"too many", `{"components":[` + strings.Repeat("{},", maxEntries) + `{}]}`, "more than"},
	} {
		if res, err := Read(strings.NewReader(tt.text), running); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, %+v, want %q", tt.name, err, res, tt.want)
		}
	}
	if _, err := Read(strings.NewReader(`{"components":[`+strings.Repeat("{},", 5000)), func() error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v, want that it stops", err)
	}
}

// TestPURL: the parser agrees with the library that the rest of the program uses.
func TestPURL(t *testing.T) {
	for _, s := range []string{
		"pkg:deb/debian/bsdutils@1:2.38.1-5?distro=debian-12", "pkg:npm/%40s/scoped@3.0.0", "pkg:golang/github.com/a/b@v1.0.0%2Bincompatible#sub/dir",
		"pkg:pypi/six@1.16.0", "pkg:rpm/almalinux/libstdc%2B%2B@11.4.1-2?epoch=1&arch=x86_64", "pkg:generic/x",
	} {
		agree(t, s)
	}
	if p, err := parsePURL("pkg:npm/@s/scoped"); err != nil || p.Namespace != "@s" || p.Name != "scoped" || p.Version != "" {
		t.Errorf("a scope that is not encoded: %v, %+v", err, p)
	}
	for _, s := range []string{"", "pkg:", "pkg:npm", "pkg:npm/", "npm/a@1", "pkg:npm/a@%", "pkg:npm/a@%f", "pkg:npm/%ff@1", "pkg:npm/%00@1", "pkg:npm/a?x=1&X=2", "pkg:npm/" + strings.Repeat("a", 5000)} {
		if p, err := parsePURL(s); err == nil {
			t.Errorf("%.60q is read as %+v", s, p)
		}
	}
}

func agree(t *testing.T, s string) {
	t.Helper()
	want, err := packageurl.FromString(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePURL(s)
	if err != nil || got.Type != want.Type || got.Namespace != want.Namespace || got.Name != want.Name || got.Version != want.Version {
		t.Errorf("%s: %v, %+v, want %+v", s, err, got, want)
	}
	for _, q := range want.Qualifiers {
		if got.Qualifiers[q.Key] != q.Value {
			t.Errorf("%s: qualifier %s is %q, want %q", s, q.Key, got.Qualifiers[q.Key], q.Value)
		}
	}
}

func envelope(payloadType, payload string) string {
	return fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"keyid":"","sig":"eA=="}]}`, payloadType, base64.StdEncoding.EncodeToString([]byte(payload)))
}

// TestEnvelope: a bill in a signed envelope, or a bundle around one, is read as the statement in it;
// nothing is both.
func TestEnvelope(t *testing.T) {
	digest := strings.Repeat("a", 64)
	statement := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + digest + `"}}],"predicateType":"https://cyclonedx.org/bom","predicate":` + cycloneDX + `}`
	want, err := Read(strings.NewReader(statement), running)
	if err != nil {
		t.Fatal(err)
	}
	sealed := envelope(typeInToto, statement)
	for name, text := range map[string]string{"an envelope": sealed, "a bundle": `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":` + sealed + `}`} {
		got, err := Read(strings.NewReader(text), running)
		if err != nil || got.Digest != "sha256:"+digest || len(got.Packages) != len(want.Packages) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, tt := range map[string]struct{ text, want string }{
		"within another":  {envelope(typeInToto, sealed), "no bill of materials"},
		"another type":    {envelope("text/plain", cycloneDX), "around \"text/plain\""},
		"no base64":       {`{"payloadType":"application/vnd.in-toto+json","payload":"?"}`, "payload of the signed envelope"},
		"two payloads":    {`{"payload":"e30=","payload":"e30="}`, "says twice"},
		"and a bill":      {`{"bomFormat":"CycloneDX","components":[],` + sealed[1:], "at once"},
		"another's bill":  {envelope(typeInToto, `{"_type":"https://in-toto.io/Statement/v1","predicate":{}}`), "no bill of materials"},
		"beside a bundle": {`{"payload":"e30=","dsseEnvelope":` + sealed + `}`, "says twice"},
	} {
		if res, err := Read(strings.NewReader(tt.text), running); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v, want %q", name, res, err, tt.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(cycloneDX)
	f.Add(spdxDoc)
	f.Add(envelope(typeInToto, `{"_type":"https://in-toto.io/Statement/v1","predicate":`+cycloneDX+`}`))
	f.Fuzz(func(t *testing.T, text string) {
		res, err := Read(strings.NewReader(text), running)
		if err != nil {
			return
		}
		if err := res.Check(); err != nil {
			t.Errorf("an inventory that its reader refuses: %v", err)
		}
		if len(res.Packages) == 0 && len(res.Notes) == 0 {
			t.Error("nothing was found, and nothing is said of it")
		}
	})
}

func FuzzPURL(f *testing.F) {
	f.Add("pkg:deb/debian/bsdutils@1:2.38.1-5?distro=debian-12#x")
	f.Add("pkg:npm/%40s/scoped@3.0.0")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parsePURL(s); err == nil && (p.Type == "" || p.Name == "") {
			t.Errorf("%q is read as %+v", s, p)
		}
	})
}
