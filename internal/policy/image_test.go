package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
)

var imageNow = time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)

func imagePolicy(name, spec string) string {
	return "apiVersion: belay.dev/v1\nkind: ImagePolicy\nmetadata: {name: " + name + "}\nspec:\n" + spec
}

func imageSet(t *testing.T, docs ...string) *Set {
	t.Helper()
	d, err := ParseAll("image.yaml", []byte(strings.Join(docs, "---\n")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Set()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// an image that is scanned, complete and without a finding
func cleanImage() *Image {
	return &Image{
		ID: "sha256:" + strings.Repeat("a", 64), Asked: "shop:1", Names: []string{"shop:1"},
		Digests:     []string{"registry.example.com/shop@sha256:" + strings.Repeat("b", 64)},
		ConfigKnown: true, Created: imageNow.Add(-24 * time.Hour), User: "1000",
		Scan: ImageScan{At: imageNow.Add(-time.Hour), Database: imageNow.Add(-time.Hour), Complete: true},
	}
}

func TestImageDecide(t *testing.T) {
	critical := ImageFinding{IDs: []string{"CVE-2026-1", "GHSA-1"}, Severity: inventory.SeverityCritical, Fixed: "2", Package: "libssl3", Source: "openssl", Version: "1"}
	advisory := ImageFinding{IDs: []string{"ALSA-1"}, About: []string{"CVE-2", "CVE-3"}, Severity: inventory.SeverityHigh, Package: "kernel", Version: "1"}
	with := func(fs ...ImageFinding) func(*Image) { return func(i *Image) { i.Scan.Findings = fs } }
	tests := []struct {
		name, spec string
		change     func(*Image)
		rule       string // "" is allowed
	}{
		{"registry", "registries: [registry.example.com/**]", nil, ""},
		{"another registry", "registries: [registry.example.com/**]", func(i *Image) { i.Digests = []string{"evil.example.com/shop@sha256:1"} }, "registries"},
		{"a tag is no registry", "registries: [registry.example.com/**]", func(i *Image) { i.Digests = nil; i.Asked = "registry.example.com/shop:1"; i.Names = []string{i.Asked} }, "registries"},
		{"a host that begins alike", "registries: [registry.example.com/**]", func(i *Image) { i.Digests = []string{"registry.example.com.evil.org/a@sha256:1"} }, "registries"},
		{"pull of a name", "registries: [registry.example.com/**]\n  nonRoot: true", func(i *Image) { *i = Image{Pull: true, Asked: "registry.example.com/x/y:1"} }, ""},
		{"pull from elsewhere", "registries: [registry.example.com/**]", func(i *Image) { *i = Image{Pull: true, Asked: "nginx"} }, "registries"},
		{"digest", "digests: [\"sha256:" + strings.Repeat("b", 64) + "\"]", nil, ""},
		{"id", "digests: [\"sha256:" + strings.Repeat("a", 64) + "\"]", nil, ""},
		{"another digest", "digests: [\"sha256:" + strings.Repeat("c", 64) + "\"]", nil, "digests"},
		{"age", "maxAge: 48h", nil, ""},
		{"too old", "maxAge: 23h", nil, "maxAge"},
		{"no age", "maxAge: 23h", func(i *Image) { i.Created = time.Time{} }, "maxAge"},
		{"made in the future", "maxAge: 48h", func(i *Image) { i.Created = imageNow.Add(61 * time.Minute) }, "maxAge"},
		{"made by a clock that is ahead", "maxAge: 48h", func(i *Image) { i.Created = imageNow.Add(59 * time.Minute) }, ""},
		{"user", "nonRoot: true", nil, ""},
		{"no user", "nonRoot: true", func(i *Image) { i.User = "" }, "nonRoot"},
		{"root by number", "nonRoot: true", func(i *Image) { i.User = "00:5" }, "nonRoot"},
		{"root by name", "nonRoot: true", func(i *Image) { i.User = "root:app" }, "nonRoot"},
		{"configuration unknown", "nonRoot: true", func(i *Image) { i.ConfigKnown = false }, "configuration"},
		{"no secret", "secretsInEnv: deny", func(i *Image) { i.Env = []string{"PATH=/bin", "DB_PASSWORD_FILE=/run/x", "TOKEN="} }, ""},
		{"secret by name", "secretsInEnv: deny", func(i *Image) { i.Env = []string{"DB_PASSWORD=hunter2"} }, "secretsInEnv"},
		{"secret by value", "secretsInEnv: deny", func(i *Image) { i.Env = []string{"X=ghp_0123456789abcdef"} }, "secretsInEnv"},
		{"clean", "findings: [{severity: low}]", nil, ""},
		{"finding", "findings: [{severity: high}]", with(critical), "findings[0]"},
		{"lower finding", "findings: [{severity: critical}]", with(ImageFinding{IDs: []string{"x"}, Severity: inventory.SeverityHigh}), ""},
		{"nobody has rated it", "findings: [{severity: high}]", with(ImageFinding{IDs: []string{"x"}}), "findings[0]"},
		{"no fix", "findings: [{severity: high, fixable: true}]", with(ImageFinding{IDs: []string{"x"}, Severity: inventory.SeverityCritical}), ""},
		{"exploited", "findings: [{name: kev, exploited: true}]", with(ImageFinding{IDs: []string{"x"}, Exploited: true}), "kev"},
		{"by source package", "findings: [{packages: [openssl]}]", with(critical), "findings[0]"},
		{"EPSS", "findings: [{epss: \">=0.1\"}]", with(ImageFinding{IDs: []string{"x"}, EPSS: 0.1}), "findings[0]"},
		{"EPSS below", "findings: [{epss: \">=0.1\"}]", with(ImageFinding{IDs: []string{"x"}, EPSS: 0.0999}), ""},
		{"EPSS not above", "findings: [{epss: \">0.1\"}]", with(ImageFinding{IDs: []string{"x"}, EPSS: 0.1}), ""},
		{"nobody has estimated it", "findings: [{epss: \">=0.9\"}]", with(ImageFinding{IDs: []string{"x"}}), "findings[0]"},
		{"EPSS and severity", "findings: [{epss: \">=0.1\", severity: critical}]", with(ImageFinding{IDs: []string{"x"}, EPSS: 0.9, Severity: inventory.SeverityHigh}), ""},
		{"in use", "findings: [{inUse: true}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.InUse}}), "findings[0]"},
		{"not seen in use", "findings: [{severity: low, inUse: true}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.NotSeen}}), ""},
		{"not seen, another rule", "findings: [{inUse: true}, {severity: high}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.NotSeen}}), "findings[1]"},
		{"listening", "findings: [{listening: true}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.InUse, Listening: []string{"tcp 0.0.0.0:1"}}}), "findings[0]"},
		{"not listening", "findings: [{listening: true}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.InUse, SocketsKnown: true}}), ""},
		{"reachable", "findings: [{reachable: true}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.InUse, Reachable: []string{"tcp 0.0.0.0:1->1"}}}), "findings[0]"},
		{"listening and not reachable", "findings: [{reachable: true}]", with(ImageFinding{IDs: []string{"x"}, Use: inventory.Use{State: inventory.InUse, SocketsKnown: true, PortsKnown: true, Listening: []string{"tcp 0.0.0.0:1"}}}), ""},
		{"functions present", "findings: [{symbols: [present]}]", with(ImageFinding{IDs: []string{"x"}, Symbols: inventory.SymbolsPresent}), "findings[0]"},
		{"functions absent", "findings: [{severity: low, symbols: [present, unknown]}]", with(ImageFinding{IDs: []string{"x"}, Symbols: inventory.SymbolsAbsent}), ""},
		{"functions unknown", "findings: [{symbols: [present, unknown]}]", with(ImageFinding{IDs: []string{"x"}, Symbols: inventory.SymbolsUnknown}), "findings[0]"},
		{"functions unknown, present asked", "findings: [{symbols: [present]}]", with(ImageFinding{IDs: []string{"x"}, Symbols: inventory.SymbolsUnknown}), ""},
		{"nobody says of functions", "findings: [{symbols: [unknown]}]", with(ImageFinding{IDs: []string{"x"}}), "findings[0]"},
		{"functions not asked about", "findings: [{severity: low}]", with(ImageFinding{IDs: []string{"x"}, Symbols: inventory.SymbolsAbsent}), "findings[0]"},
		{"functions present, too low", "findings: [{severity: high, symbols: [present]}]", with(ImageFinding{IDs: []string{"x"}, Severity: inventory.SeverityLow, Symbols: inventory.SymbolsPresent}), ""},
		{"no secret in files", "secrets: none", nil, ""},
		{"secret in a file", "secrets: none", secretsIn("secret-in-file"), "secrets"},
		{"a weak one", "secrets: none", func(i *Image) { secretsIn("secret-in-file")(i); i.Scan.Secrets[0].Weak = true }, ""},
		{"as many as may be", "secrets: {secret-in-file: 2}", secretsIn("secret-in-file", "secret-in-file"), ""},
		{"more than may be", "secrets: {secret-in-file: 2}", secretsIn("secret-in-file", "secret-in-file", "secret-in-file"), "secrets"},
		{"of another kind", "secrets: {secret-in-file: 2}", secretsIn("secret-in-lower-layer"), "secrets"},
		{"not searched", "secrets: none", func(i *Image) { i.Scan.Unsearched = "too large: etc/x" }, "incomplete"},
		{"not searched, allowed", "secrets: none\n  incomplete: allow", func(i *Image) { i.Scan.Unsearched = "too large: etc/x" }, ""},
		{"secrets, unscanned", "secrets: none", func(i *Image) { i.Scan = ImageScan{} }, "unscanned"},
		{"secrets need no database", "secrets: none", func(i *Image) { i.Scan.Database = time.Time{} }, ""},
		{"other package", "findings: [{packages: [curl*]}]", with(critical), ""},
		{"grace", "findings: [{severity: high, grace: 72h}]", func(i *Image) { f := critical; f.FirstSeen = imageNow.Add(-71 * time.Hour); with(f)(i) }, ""},
		{"grace is over", "findings: [{severity: high, grace: 72h}]", func(i *Image) { f := critical; f.FirstSeen = imageNow.Add(-72 * time.Hour); with(f)(i) }, "findings[0]"},
		{"grace of a first time in the future", "findings: [{severity: high, grace: 72h}]", func(i *Image) { f := critical; f.FirstSeen = imageNow.Add(61 * time.Minute); with(f)(i) }, "findings[0]"},
		{"grace of a clock that was ahead", "findings: [{severity: high, grace: 72h}]", func(i *Image) { f := critical; f.FirstSeen = imageNow.Add(59 * time.Minute); with(f)(i) }, ""},
		{"grace without a first time", "findings: [{severity: high, grace: 72h}]", with(critical), "findings[0]"},
		{"waived by an alias", "findings: [{severity: high}]\n  exceptions: [{vulnerability: GHSA-1, until: 2026-03-08, reason: T-1}]", with(critical), ""},
		{"an advisory waived", "findings: [{severity: high}]\n  exceptions: [{vulnerability: ALSA-1, until: 2026-03-08, reason: T-1}]", with(advisory), ""},
		{"an advisory of two, one waived", "findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-2, until: 2026-03-08, reason: T-1}]", with(advisory), "findings[0]"},
		{"an advisory of two, both waived", "findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-2, until: 2026-03-08, reason: T-1}, {vulnerability: CVE-3, until: 2026-03-08, reason: T-1}]", with(advisory), ""},
		{"an advisory of two, one too long", "findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-2, until: 2026-03-08, reason: T-1}, {vulnerability: CVE-3, until: 2026-03-07, reason: T-1}]", with(advisory), "findings[0]"},
		{"waived too long", "findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-2026-1, until: 2026-03-07, reason: T-1}]", with(critical), "findings[0]"},
		{"waived for another image", "findings: [{severity: high}]\n  exceptions: [{packages: [openssl], images: [\"sha256:" + strings.Repeat("c", 64) + "\"], until: 2026-03-09, reason: T-1}]", with(critical), "findings[0]"},
		{"waived for the image", "findings: [{severity: high}]\n  exceptions: [{packages: [openssl], images: [\"sha256:" + strings.Repeat("b", 64) + "\"], until: 2026-03-09, reason: T-1}]", with(critical), ""},
		{"unscanned", "findings: [{severity: high}]", func(i *Image) { i.Scan = ImageScan{} }, "unscanned"},
		{"unscanned allowed", "findings: [{severity: high}]\n  unscanned: allow", func(i *Image) { i.Scan = ImageScan{} }, ""},
		{"scan failed", "findings: [{severity: high}]\n  unscanned: scan", func(i *Image) { i.Scan = ImageScan{Tried: true, Err: "x"} }, "unscanned"},
		{"scan failed, fallback", "findings: [{severity: high}]\n  unscanned: scan\n  fallback: allow", func(i *Image) { i.Scan = ImageScan{Tried: true} }, ""},
		{"old scan", "scanned: {required: true, maxAge: 30m}", nil, "scanned.maxAge"},
		{"scan of the future", "scanned: {required: true, maxAge: 30m}", func(i *Image) { i.Scan.At = imageNow.Add(61 * time.Minute) }, "scanned.maxAge"},
		{"scan of a clock that was ahead", "scanned: {required: true, maxAge: 30m}", func(i *Image) { i.Scan.At = imageNow.Add(59 * time.Minute) }, ""},
		{"scan of the future, of any age", "scanned: {required: true}", func(i *Image) { i.Scan.At = imageNow.Add(61 * time.Minute) }, ""},
		{"no database", "findings: [{severity: high}]", func(i *Image) { i.Scan.Database = time.Time{} }, "database"},
		{"old database", "findings: [{severity: high}]\n  databaseMaxAge: 30m", nil, "databaseMaxAge"},
		{"database of the future", "findings: [{severity: high}]\n  databaseMaxAge: 30m", func(i *Image) { i.Scan.Database = imageNow.Add(61 * time.Minute) }, "databaseMaxAge"},
		{"database of a clock that is ahead", "findings: [{severity: high}]\n  databaseMaxAge: 30m", func(i *Image) { i.Scan.Database = imageNow.Add(59 * time.Minute) }, ""},
		{"database of the future, of any age", "findings: [{severity: high}]", func(i *Image) { i.Scan.Database = imageNow.Add(61 * time.Minute) }, ""},
		{"incomplete", "findings: [{severity: high}]", func(i *Image) { i.Scan.Complete = false }, "incomplete"},
		{"incomplete allowed", "findings: [{severity: high}]\n  incomplete: allow", func(i *Image) { i.Scan.Complete = false }, ""},
		{"not selected", "selector: {images: [other]}\n  nonRoot: true", func(i *Image) { i.User = "" }, ""},
		{"selected by another of its names", "selector: {images: [other]}\n  nonRoot: true", func(i *Image) { i.User = ""; i.Names = []string{"shop:1", "other:3"} }, "nonRoot"},
		{"label", "selector: {labels: {tier: web}}\n  nonRoot: true", func(i *Image) { i.User = ""; i.Labels = map[string]string{"tier": "web"} }, "nonRoot"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, mode := range []string{"enforce", "audit"} {
				img := cleanImage()
				if tt.change != nil {
					tt.change(img)
				}
				d := imageSet(t, imagePolicy("p", "  mode: "+mode+"\n  "+tt.spec+"\n")).Images().Decide(img, imageNow)
				want := ExpectAllowed
				if tt.rule != "" {
					if want = ExpectDenied; mode == "audit" {
						want = ExpectWouldDeny
					}
				}
				if d.Word() != want || d.Rule != tt.rule {
					t.Errorf("%s: got %s by %q (%s), want %s by %q", mode, d.Word(), d.Rule, d.Reason, want, tt.rule)
				}
			}
		})
	}
}

func secretsIn(kinds ...string) func(*Image) {
	return func(i *Image) {
		for _, k := range kinds {
			i.Scan.Secrets = append(i.Scan.Secrets, ImageSecret{Kind: k, What: "a private key", Where: "root/key:1"})
		}
	}
}

// TestImageNoDatabase: a refusal for the lack of a database says whether there is one.
// TestImageClockBehind: a clock that is behind the making of what the host has, as after a boot without a battery
// for it, makes nothing be of the future. Ages are by the least that it can be; only a database does not vouch for itself.
func TestImageClockBehind(t *testing.T) {
	built := imageNow.Add(-72 * time.Hour)
	finding := ImageFinding{IDs: []string{"CVE-1"}, Severity: inventory.SeverityHigh, Package: "a", Version: "1"}
	for _, tt := range []struct {
		name, spec string
		at         time.Time // of the image, its scan and its finding's first sight
		rule       string
	}{
		{"image made since", "maxAge: 48h", imageNow, ""},
		{"old image", "maxAge: 48h", built.Add(-49 * time.Hour), "maxAge"},
		{"scan since", "scanned: {required: true, maxAge: 48h}", imageNow, ""},
		{"old scan", "scanned: {required: true, maxAge: 48h}", built.Add(-49 * time.Hour), "scanned.maxAge"},
		{"grace since", "findings: [{severity: high, grace: 48h}]", imageNow, ""},
		{"grace that is over", "findings: [{severity: high, grace: 48h}]", built.Add(-49 * time.Hour), "findings[0]"},
		{"exception that has ended", "findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-1, until: 2026-03-01, reason: x}]", built, "findings[0]"},
		{"database", "findings: [{severity: high, grace: 48h}]\n  databaseMaxAge: 48h", imageNow, "databaseMaxAge"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := cleanImage()
			img.NotBefore, img.Created, img.Scan.At, img.Scan.Database = built, tt.at, tt.at, built
			finding.FirstSeen = tt.at
			img.Scan.Findings = []ImageFinding{finding}
			d := imageSet(t, imagePolicy("p", "  mode: enforce\n  "+tt.spec+"\n")).Images().Decide(img, time.Unix(0, 0))
			if d.Rule != tt.rule || d.Allowed != (tt.rule == "") {
				t.Errorf("got %+v, want rule %q", d, tt.rule)
			}
		})
	}
}

// TestImageFuture: whoever is refused for a time in the future is told that a clock is wrong.
func TestImageFuture(t *testing.T) {
	img := cleanImage()
	img.Created, img.Scan.At = imageNow.Add(48*time.Hour), imageNow.Add(48*time.Hour)
	img.Scan.Findings = []ImageFinding{{IDs: []string{"CVE-1"}, Severity: inventory.SeverityHigh, Package: "a", Version: "1", FirstSeen: imageNow.Add(48 * time.Hour)}}
	for _, spec := range []string{"maxAge: 48h", "scanned: {required: true, maxAge: 30m}", "findings: [{severity: high, grace: 72h}]"} {
		d := imageSet(t, imagePolicy("p", "  mode: enforce\n  "+spec+"\n")).Images().Decide(img, imageNow)
		if d.Allowed || !strings.Contains(d.Reason+strings.Join(d.Details, ""), "a clock was wrong") {
			t.Errorf("%s: got %+v", spec, d)
		}
	}
}

func TestImageNoDatabase(t *testing.T) {
	for unmatched, want := range map[string]string{
		"":                "the host has no vulnerability database; fix: belay db update",
		"it has format 3": "the vulnerability database is of no use for it: it has format 3",
	} {
		img := cleanImage()
		img.Scan.Database, img.Scan.Unmatched = time.Time{}, unmatched
		d := imageSet(t, imagePolicy("p", "  mode: enforce\n  findings: [{severity: high}]\n")).Images().Decide(img, imageNow)
		if d.Word() != ExpectDenied || d.Rule != "database" || !strings.Contains(d.Reason, want) {
			t.Errorf("%q: %s by %q: %s", unmatched, d.Word(), d.Rule, d.Reason)
		}
	}
}

// What a rule about use does not know it reports, in enforce mode too; a rule that is met for
// certain, and one of another policy, denies beside it and is the one that is named.
func TestImageUseUnknown(t *testing.T) {
	for _, tt := range []struct {
		name string
		docs []string
		use  inventory.Use
		word string
		rule string
	}{
		{"nobody looked", []string{"  mode: enforce\n  findings: [{name: used, inUse: true}]\n"}, inventory.Use{}, ExpectWouldDeny, "used"},
		{"stated as unknown", []string{"  mode: enforce\n  findings: [{name: used, inUse: true}]\n"}, inventory.Use{State: inventory.UseUnknown}, ExpectWouldDeny, "used"},
		{"sockets were not read", []string{"  mode: enforce\n  findings: [{name: l, listening: true}]\n"}, inventory.Use{State: inventory.InUse}, ExpectWouldDeny, "l"},
		{"ports are not known", []string{"  mode: enforce\n  findings: [{name: r, reachable: true}]\n"},
			inventory.Use{State: inventory.InUse, SocketsKnown: true, Listening: []string{"tcp 0.0.0.0:1"}}, ExpectWouldDeny, "r"},
		{"a later rule is met", []string{"  mode: enforce\n  findings: [{name: used, inUse: true}, {name: high, severity: high}]\n"}, inventory.Use{}, ExpectDenied, "high"},
		{"a later policy is", []string{"  mode: enforce\n  priority: 1\n  findings: [{name: used, inUse: true}]\n", "  mode: enforce\n  findings: [{name: high, severity: high}]\n"}, inventory.Use{}, ExpectDenied, "high"},
		{"another condition is not met", []string{"  mode: enforce\n  findings: [{name: used, inUse: true, exploited: true}]\n"}, inventory.Use{}, ExpectAllowed, ""},
	} {
		var docs []string
		for i, spec := range tt.docs {
			docs = append(docs, imagePolicy(fmt.Sprint("p", i), spec))
		}
		img := cleanImage()
		img.Scan.Findings = []ImageFinding{{IDs: []string{"x"}, Severity: inventory.SeverityHigh, Use: tt.use}}
		if d := imageSet(t, docs...).Images().Decide(img, imageNow); d.Word() != tt.word || d.Rule != tt.rule {
			t.Errorf("%s: got %s by %q (%s), want %s by %q", tt.name, d.Word(), d.Rule, d.Reason, tt.word, tt.rule)
		}
		img.Scan.Complete = false
		if d := imageSet(t, docs[0]).Images().Decide(img, imageNow); d.Word() != ExpectDenied {
			t.Errorf("%s, incomplete: got %s by %q, want it denied", tt.name, d.Word(), d.Rule)
		}
	}
}

// The zero decision denies, deny wins, and the first in total order is named.
func TestImageOrder(t *testing.T) {
	if d := (ImageDecision{}); d.Allowed || d.Word() != ExpectDenied {
		t.Error("the zero decision allows")
	}
	root := cleanImage()
	root.User = ""
	s := imageSet(t, imagePolicy("b", "  mode: enforce\n  nonRoot: true\n"), imagePolicy("a", "  mode: enforce\n  nonRoot: true\n"),
		imagePolicy("c", "  mode: enforce\n  priority: -1\n  maxAge: 1000h\n"), imagePolicy("z", "  mode: audit\n  priority: 5\n  nonRoot: true\n"))
	if d := s.Images().Decide(root, imageNow); d.Allowed || d.Policy != "a" {
		t.Errorf("got %+v", d)
	}
	scan := imageSet(t, imagePolicy("b", "  mode: enforce\n  scanned: {required: true}\n  unscanned: scan\n  deadline: 30s\n"),
		imagePolicy("a", "  mode: audit\n  scanned: {required: true}\n  unscanned: scan\n  fallback: allow\n"))
	img := cleanImage()
	img.Scan = ImageScan{}
	if d := scan.Images().Decide(img, imageNow); !d.Scan || d.Deadline != DefaultDeadline || d.Allowed {
		t.Errorf("unscanned: %+v", d)
	}
	if !scan.Images().NeedScan() || s.Images().NeedScan() || (&Set{}).Images().Any() {
		t.Error("NeedScan or Any")
	}
	aged := imageSet(t, imagePolicy("a", "  mode: enforce\n  scanned: {required: true, maxAge: 168h}\n"), imagePolicy("b", "  mode: audit\n  scanned: {required: true, maxAge: 24h}\n"), imagePolicy("c", "  mode: enforce\n  nonRoot: true\n"))
	if got, none := aged.Images().ScanMaxAge(), scan.Images().ScanMaxAge(); got != 24*time.Hour || none != 0 {
		t.Errorf("the least age of scans is %v and %v", got, none)
	}
}

func TestImageParseErrors(t *testing.T) {
	for _, tt := range []struct{ spec, want string }{
		{"  mode: enforce\n", "demands nothing"},
		{"  nonRoot: true\n", "spec.mode is missing"},
		{"  mode: enforce\n  nonRoot: false\n", "no meaning"},
		{"  mode: enforce\n  nonRoot: true\n  unscanned: deny\n", "unscanned says nothing"},
		{"  mode: enforce\n  scanned: {required: true}\n  deadline: 3s\n", "without unscanned: scan"},
		{"  mode: enforce\n  scanned: {required: true}\n  unscanned: scan\n  deadline: 1h\n", "from 1s to 2m0s"},
		{"  mode: enforce\n  findings: [{grace: 3h}]\n", "which findings"},
		{"  mode: enforce\n  findings: [{severity: hihg}]\n", "did you mean high?"},
		{"  mode: enforce\n  findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-1, reason: x}]\n", "until is missing"},
		{"  mode: enforce\n  findings: [{severity: high}]\n  exceptions: [{vulnerability: CVE-1, until: 2026-01-01}]\n", "reason is missing"},
		{"  mode: enforce\n  findings: [{severity: high}]\n  exceptions: [{until: 2026-01-01, reason: x}]\n", "waives every finding"},
		{"  mode: enforce\n  findings: [{severity: high}]\n  exceptions: [{vulnerability: \"CVE-*\", until: 2026-01-01, reason: x}]\n", "not the name of one"},
		{"  mode: enforce\n  findings: [{severity: high}]\n  exceptions: [{packages: [openssl], images: [trusted/**], until: 2026-01-01, reason: x}]\n", "write the image's digest"},
		{"  mode: enforce\n  findings: [{name: a, severity: high}, {name: a, severity: low}]\n", "already defined at line"},
		{"  mode: enforce\n  findings: [{epss: 0.5}]\n", "in quotes"},
		{"  mode: enforce\n  findings: [{epss: \"<0.5\"}]\n", "must be a bound"},
		{"  mode: enforce\n  findings: [{epss: \">1\"}]\n", "must be a bound"},
		{"  mode: enforce\n  findings: [{epss: \">=NaN\"}]\n", "must be a bound"},
		{"  mode: enforce\n  findings: [{inUse: false}]\n", "no meaning"},
		{"  mode: enforce\n  findings: [{symbols: [presnt]}]\n", "did you mean present?"},
		{"  mode: enforce\n  findings: [{symbols: absent}]\n", "must be a list"},
		{"  mode: enforce\n  findings: [{symbols: [absent, absent]}]\n", "listed twice"},
		{"  mode: enforce\n  secrets: deny\n", "must be none"},
		{"  mode: enforce\n  secrets: {}\n", "names no kind"},
		{"  mode: enforce\n  secrets: {secret-in-fiel: 1}\n", "did you mean secret-in-file?"},
		{"  mode: enforce\n  secrets: {secret-in-file: -1}\n", "whole number from 0"},
		{"  mode: enforce\n  digests: [abc]\n", "not an image digest"},
		{"  mode: enforce\n  severity: high\n", "move it to spec.findings[]"},
	} {
		_, err := ParseAll("image.yaml", []byte(imagePolicy("p", tt.spec)))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "image.yaml:") {
			t.Errorf("%q: got %v, want %q with its line", tt.spec, err, tt.want)
		}
	}
}

// The normal form is the same policy again, and the reference names every field and has
// documents that are accepted.
func TestImageReference(t *testing.T) {
	src, err := os.ReadFile("../../docs/image-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range imageHome {
		if !strings.Contains(string(src), "`"+name+"`") && !strings.Contains(string(src), "`"+name+":") {
			t.Errorf("field %s is not documented", name)
		}
	}
	// The table of words names fields that are there (that all words are in it, a test of scan/accept says).
	_, table, _ := strings.Cut(string(src), "| Word of the expression |")
	table, _, _ = strings.Cut(table, "\n\n")
	named := 0
	for _, m := range regexp.MustCompile("`(?:(findings|exceptions)\\[\\]\\.)?([a-zA-Z]+)`").FindAllStringSubmatch(fieldColumn(table), -1) {
		home := "spec"
		if m[1] != "" {
			home += "." + m[1] + "[]"
		}
		if at := imageHome[m[2]]; at != home && m[2] != "packages" { // of two homes
			t.Errorf("%s is no field, there is %q", m[0], at)
		}
		named++
	}
	if named < 10 {
		t.Errorf("the table of words names %d fields", named)
	}
	parsed := 0
	for _, block := range strings.Split(string(src), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		if !strings.Contains(block, "apiVersion:") {
			continue
		}
		tests, docs, err := ParseTests("image-policy.md", []byte(block))
		if err != nil {
			t.Errorf("example:\n%s\n%v", block, err)
		}
		for _, p := range docs.Images {
			again, err := ParseAll("canonical", p.Canonical())
			if err != nil || len(again.Images) != 1 || again.Images[0].Revision != p.Revision {
				t.Errorf("canonical:\n%s\n%v", p.Canonical(), err)
			}
		}
		parsed += len(docs.Images) + len(tests)
	}
	if parsed < 3 {
		t.Errorf("got %d whole examples, want at least 3", parsed)
	}
}

// fieldColumn is the second column of a table.
func fieldColumn(table string) string {
	var out strings.Builder
	for line := range strings.SplitSeq(table, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.HasPrefix(line, "| `") {
			out.WriteString(cells[2])
		}
	}
	return out.String()
}

// Every ImagePolicy that ships audits, and has images that it reports and such that it lets
// pass, in policies/tests under its own name; enforced it denies what it reports.
func TestShippedImagePolicies(t *testing.T) {
	files, err := filepath.Glob("../../policies/image-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got no shipped ImagePolicies, %v", err)
	}
	for _, file := range files {
		base := filepath.Base(file)
		src, err := os.ReadFile("../../policies/tests/" + base)
		if err != nil {
			t.Fatal("add what this policy must report and what it must let pass: ", err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests, _, err := ParseTests(base, src)
		if err != nil {
			t.Fatal(err)
		}
		set := imageSet(t, string(text))
		hard := imageSet(t, strings.Replace(string(text), "mode: audit", "mode: enforce", 1))
		seen := map[string]int{}
		for _, test := range tests {
			for _, r := range test.Images {
				d := set.Images().Decide(&r.Image, r.At)
				if differs := r.Differs(&d); len(differs) > 0 {
					t.Errorf("%s: %s (%s)", r.Name, strings.Join(differs, "; "), d.Reason)
				}
				e := hard.Images().Decide(&r.Image, r.At)
				if want := strings.Replace(d.Word(), ExpectWouldDeny, ExpectDenied, 1); e.Word() != want {
					t.Errorf("%s enforced: got %s, want %s", r.Name, e.Word(), want)
				}
				seen[d.Word()]++
			}
		}
		if seen[ExpectAllowed] == 0 || seen[ExpectWouldDeny] == 0 || seen[ExpectDenied] != 0 {
			t.Errorf("%s: got %v, want images that are reported and such that are let pass", base, seen)
		}
	}
}

func TestImageDetailsAreBounded(t *testing.T) {
	img := cleanImage()
	for i := range 1000 {
		img.Scan.Findings = append(img.Scan.Findings, ImageFinding{IDs: []string{fmt.Sprint("CVE-", i)}, Severity: inventory.SeverityHigh})
	}
	d := imageSet(t, imagePolicy("p", "  mode: enforce\n  findings: [{severity: high}]\n")).Images().Decide(img, imageNow)
	if len(d.Details) != maxDetails || !strings.Contains(d.Reason, "1000 findings") || slices.Contains(d.Details, "") {
		t.Errorf("got %+v", d)
	}
}

// FuzzParseImage: what is accepted is the same policy again by its normal form, and judges.
func FuzzParseImage(f *testing.F) {
	for _, spec := range []string{
		"  mode: enforce\n  registries: [a/**]\n  nonRoot: true\n", "  mode: enforce\n  secrets: {secret-in-file: 3}\n  findings: [{epss: \">0.10\", reachable: true, symbols: [present, unknown]}]\n", "  mode: audit\n  findings: [{severity: high, packages: [a*], grace: 3h}]\n  unscanned: scan\n",
		"  mode: enforce\n  findings: [{symbols: [present, unknown]}]\n",
		"  mode: enforce\n  scanned: {required: true, maxAge: 3h}\n  exceptions: [{vulnerability: CVE-1, until: 2026-01-01, reason: x}]\n",
	} {
		f.Add([]byte(imagePolicy("p", spec)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := ParseAll("f", data)
		if err != nil {
			return
		}
		set, err := docs.Set()
		if err != nil {
			return
		}
		for _, p := range docs.Images {
			again, err := ParseAll("canonical", p.Canonical())
			if err != nil || len(again.Images) != 1 || again.Images[0].Revision != p.Revision {
				t.Fatalf("%s\n%v", p.Canonical(), err)
			}
		}
		if d := set.Images().Decide(cleanImage(), imageNow); !d.Allowed && d.Policy == "" {
			t.Fatalf("denied by nobody: %+v", d)
		}
	})
}
