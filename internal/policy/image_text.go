package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// String says which images the selector is for.
func (s *ImageSelector) String() string {
	var parts []string
	if len(s.Images) > 0 {
		parts = append(parts, "image="+strings.Join(s.Images, ","))
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		parts = append(parts, "label:"+k+"="+s.Labels[k])
	}
	if len(parts) == 0 {
		return "every image"
	}
	return strings.Join(parts, " and ")
}

// Rules lists what the policy demands, each as "rule=value".
func (s *ImageSpec) Rules() []string {
	var out []string
	add := func(on bool, format string, args ...any) {
		if on {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(len(s.Registries) > 0, "registries=%d", len(s.Registries))
	add(len(s.Digests) > 0, "digests=%d", len(s.Digests))
	add(s.MaxAge > 0, "maxAge=%s", days(s.MaxAge))
	add(s.NonRoot, "nonRoot")
	add(s.SecretsInEnv, "secretsInEnv=deny")
	if s.Secrets != nil {
		out = append(out, "secrets="+s.Secrets.String())
	}
	add(s.Scanned, "scanned")
	add(s.DatabaseMaxAge > 0, "databaseMaxAge=%s", days(s.DatabaseMaxAge))
	for i := range s.Findings {
		out = append(out, fmt.Sprintf("%s=%q", s.Findings[i].Name, s.Findings[i].String()))
	}
	add(s.Unscanned != "", "unscanned=%s", s.Unscanned)
	add(len(s.Exceptions) > 0, "exceptions=%d", len(s.Exceptions))
	return out
}

// ImageTestKind is the kind of documents that hold images and what is expected of policies.
const ImageTestKind = "ImageTest"

// ImageRequest is one image, written down, and what is to become of it.
type ImageRequest struct {
	Name  string
	Line  int
	Image Image
	At    time.Time // zero: the moment of the test
	// Decision is what must come of it; Policy and Rule are not looked at if they are empty.
	Decision, Policy, Rule string
}

// Differs lists in what a decision is not what was expected.
func (r *ImageRequest) Differs(d *ImageDecision) []string {
	var out []string
	for _, w := range [][3]string{{"decision", r.Decision, d.Word()}, {"policy", r.Policy, d.Policy}, {"rule", r.Rule, d.Rule}} {
		if w[1] != "" && w[1] != w[2] {
			out = append(out, fmt.Sprintf("%s: want %s, got %q", w[0], w[1], w[2]))
		}
	}
	return out
}

func (d *decoder) imageTest(root *yaml.Node) *AccessTest {
	t := &AccessTest{File: d.file, Line: root.Line}
	any := func(string) (msg, fix string) { return "", "" }
	d.object(root, topLevel, []field{
		{"apiVersion", true, d.enum([]string{APIVersion}, func(string) {})},
		{"kind", true, d.enum([]string{ImageTestKind}, func(string) {})},
		{"metadata", true, func(n *yaml.Node, at string) { d.metadata(n, at, &t.Name, new(map[string]string)) }},
		{"spec", true, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"policies", false, d.texts(&t.Policies, maxRuleList, any)},
				{"images", true, d.each(maxRequests, func(n *yaml.Node, at string) { t.Images = append(t.Images, d.imageRequest(n, at)) })},
			})
		}},
	})
	return t
}

func (d *decoder) imageRequest(n *yaml.Node, at string) ImageRequest {
	r := ImageRequest{Line: n.Line, Image: Image{ConfigKnown: true}}
	img, sc := &r.Image, &r.Image.Scan
	any := func(string) (msg, fix string) { return "", "" }
	sc.Complete = true
	d.object(n, at, []field{
		{"name", true, d.str(&r.Name)},
		{"at", false, d.moment(&r.At)},
		{"image", false, d.str(&img.Asked)},
		{"id", false, d.text(&img.ID, checkDigest)},
		{"names", false, d.texts(&img.Names, maxRuleList, any)},
		{"digests", false, d.texts(&img.Digests, maxRuleList, any)},
		{"labels", false, d.stringMap(&img.Labels)},
		{"pull", false, d.boolean(&img.Pull)},
		{"created", false, d.moment(&img.Created)},
		{"user", false, d.str(&img.User)},
		{"env", false, d.texts(&img.Env, maxRuleList, any)},
		{"scanned", false, d.moment(&sc.At)},
		{"tried", false, d.boolean(&sc.Tried)},
		{"database", false, d.moment(&sc.Database)},
		{"complete", false, d.boolean(&sc.Complete)},
		{"findings", false, d.each(maxRequests, func(n *yaml.Node, at string) {
			var f ImageFinding
			var id string
			d.object(n, at, []field{
				{"id", true, d.str(&id)},
				{"severity", false, d.enum([]string{"unknown", "negligible", "low", "medium", "high", "critical"}, func(w string) {
					f.Severity, _ = inventory.ParseSeverity(w)
				})},
				{"package", true, d.str(&f.Package)},
				{"source", false, d.str(&f.Source)},
				{"version", false, d.str(&f.Version)},
				{"fixed", false, d.str(&f.Fixed)},
				{"exploited", false, d.boolean(&f.Exploited)},
				{"epss", false, d.share(&f.EPSS)},
				{"use", false, d.enum([]string{inventory.InUse, inventory.NotSeen, inventory.UseUnknown}, func(w string) { f.Use.State = w })},
				{"listening", false, func(n *yaml.Node, at string) { d.endpoint(&f.Use.Listening)(n, at) }},
				{"reachable", false, func(n *yaml.Node, at string) { d.endpoint(&f.Use.Reachable)(n, at); f.Use.PortsKnown = true }},
				{"symbols", false, d.enum(inventory.SymbolStates, func(w string) { f.Symbols = w })},
				{"firstSeen", false, d.moment(&f.FirstSeen)},
			})
			f.Use.SocketsKnown = f.Use.State != ""
			f.IDs = []string{id}
			sc.Findings = append(sc.Findings, f)
		})},
		{"secrets", false, d.each(maxRequests, func(n *yaml.Node, at string) {
			var s ImageSecret
			d.object(n, at, []field{
				{"kind", true, d.enum(SecretKinds, func(w string) { s.Kind = w })},
				{"what", false, d.str(&s.What)},
				{"where", true, d.str(&s.Where)},
				{"weak", false, d.boolean(&s.Weak)},
			})
			sc.Secrets = append(sc.Secrets, s)
		})},
		{"unsearched", false, d.str(&sc.Unsearched)},
		{"expect", true, func(n *yaml.Node, at string) {
			words := d.enum([]string{ExpectAllowed, ExpectDenied, ExpectWouldDeny}, func(w string) { r.Decision = w })
			if n.Kind != yaml.MappingNode {
				words(n, at)
				return
			}
			d.object(n, at, []field{{"decision", true, words}, {"policy", false, d.str(&r.Policy)}, {"rule", false, d.str(&r.Rule)}})
		}},
	})
	return r
}
