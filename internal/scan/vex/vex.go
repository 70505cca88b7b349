// Package vex reads statements of suppliers on whether a vulnerability matters in their
// products (VEX), in the forms OpenVEX 0.2 and CSAF 2.0, and marks findings by them.
//
// A statement hides nothing: a finding that is said not to matter is marked as ignored, with
// what the statement says. Files are read strictly; what cannot be understood is an error, and
// products are matched by package URL or by the image's digest alone, never by a name. It owns
// no state. Row: adapter.
package vex

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// maxBytes bounds a file.
const maxBytes = 64 << 20

// status is what a statement says.
type status string

// The states of VEX. Source: CISA, "Minimum Requirements for Vulnerability Exploitability
// eXchange (VEX)", 2023.
const (
	notAffected   status = "not_affected"
	affected      status = "affected"
	fixed         status = "fixed"
	investigating status = "under_investigation"
)

// justifications are why a product may not be affected; both forms have the same five.
var justifications = []string{
	"component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
	"vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist",
}

// statement is one statement of either form, about any of its products.
type statement struct {
	ids      []string
	products []product
	status   status
	why      string // for not_affected: a justification, a text, or both
	at       time.Time
	where    string // file and number
}

// product is what a statement is about: a package, or an image and, if there are any,
// packages in it.
type product struct {
	purl    *purl
	release string // of Red Hat Enterprise Linux, such as 8, that purl is of; empty: any system
	digest  string // sha256:..., of an image
	parts   []product
}

// purl is a package URL that a product is matched by.
type purl struct {
	packageurl.PackageURL
	want map[string]string // its qualifiers
	// source says that it names a source package of Debian or Ubuntu, and so all that is built from it.
	source bool
}

func newPURL(u packageurl.PackageURL) *purl {
	want := u.Qualifiers.Map()
	return &purl{u, want, u.Type == packageurl.TypeDebian && want["arch"] == "source"}
}

// Documents are the statements of all files.
type Documents struct {
	Digest [sha256.Size]byte // of all texts, in their order
	list   []*statement
	used   map[*statement]bool
}

// Read reads files of either form.
//
// Errors name the file, and the statement in it.
func Read(paths ...string) (*Documents, error) {
	d := new(Documents).With(nil)
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return nil, err
		}
		b, err := inventory.ReadAll(f, maxBytes)
		f.Close()
		if err == nil {
			err = d.parse(p, b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return d, nil
}

// Add reads a document of either form that is no file; name says where it is from.
func (d *Documents) Add(name string, b []byte) error {
	if len(b) > maxBytes {
		return fmt.Errorf("%s: %w", name, inventory.ErrTooLarge)
	}
	if err := d.parse(name, b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// With returns the statements of both, of which either may be nil.
func (d *Documents) With(other *Documents) *Documents {
	out := &Documents{used: map[*statement]bool{}}
	for _, o := range []*Documents{d, other} {
		if o != nil {
			out.Digest = inventory.Chain(out.Digest, o.Digest[:])
			out.list = append(out.list, o.list...)
		}
	}
	return out
}

// parse adds the statements of one file.
func (d *Documents) parse(name string, b []byte) error {
	var form struct {
		Context  string          `json:"@context"`
		Document json.RawMessage `json:"document"`
	}
	if err := json.Unmarshal(b, &form); err != nil {
		return fmt.Errorf("want OpenVEX 0.2 or CSAF 2.0 in JSON: %w", err)
	}
	var list []*statement
	var err error
	switch {
	case form.Context != "" && form.Document == nil:
		list, err = parseOpenVEX(b)
	case form.Context == "" && form.Document != nil:
		list, err = parseCSAF(b)
	default:
		err = errors.New("want OpenVEX 0.2 (with @context) or CSAF 2.0 (with document)")
	}
	for _, s := range list {
		s.where = name + ", " + s.where
	}
	d.Digest = inventory.Chain(d.Digest, b)
	d.list = append(d.list, list...)
	return err
}

// Apply marks the findings that statements say do not matter, with why. Of several
// statements about one finding the newest holds, and of those of one time the worst.
// packageURL gives that of a package; res is the whole inventory. The notes are lines
// for a person: statements that match nothing are one line.
func (d *Documents) Apply(findings []vulndb.Finding, res *inventory.Result, packageURL func(i int) string) (notes []string) {
	m := newMatcher(res, packageURL)
	byID := map[string][]*statement{}
	for _, s := range d.list {
		for _, id := range s.ids {
			byID[id] = append(byID[id], s)
		}
	}
	for i := range findings {
		f := &findings[i]
		best := d.decide(f, byID, m)
		if best == nil || f.Ignored != "" || best.status != notAffected && best.status != fixed {
			continue
		}
		f.Ignored = "VEX: " + strings.ReplaceAll(string(best.status), "_", " ")
		if best.why != "" {
			f.Ignored += ", " + best.why
		}
		f.Ignored += " (" + best.where + ")"
	}
	if n := len(d.list) - len(d.used); n > 0 {
		notes = append(notes, fmt.Sprintf("%d of %d VEX statements are about no finding of this target", n, len(d.list)))
	}
	return notes
}

// decide returns the statement that holds for a finding, or nil. For an advisory one has to hold for each flaw that it is
// about: it is the worst of them.
func (d *Documents) decide(f *vulndb.Finding, byID map[string][]*statement, m *matcher) (worst *statement) {
	worst = d.newest(f.IDs, f.Package, byID, m)
	open := false // of all flaws the statements are of use
	for i, flaw := range f.About {
		s := d.newest(slices.Concat(f.IDs, []string{flaw}), f.Package, byID, m)
		switch {
		case s == nil:
			open = true
		case worst == nil || i == 0 || s.status.badness() > worst.status.badness():
			worst = s
		}
	}
	if open {
		return nil
	}
	return worst
}

// newest returns the statement that holds for a package and the flaw of any of these names, or nil.
func (d *Documents) newest(ids []string, pkg int, byID map[string][]*statement, m *matcher) (best *statement) {
	for _, id := range ids {
		for _, s := range byID[id] {
			if !m.matchesAny(s.products, pkg) {
				continue
			}
			d.used[s] = true
			if best == nil || cmp.Or(s.at.Compare(best.at), cmp.Compare(s.status.badness(), best.status.badness())) > 0 {
				best = s
			}
		}
	}
	return best
}

// badness orders what contradicts at one time.
func (s status) badness() int {
	return slices.Index([]status{fixed, notAffected, investigating, affected}, s)
}

// matcher knows the packages of one inventory by their package URLs.
type matcher struct {
	res    *inventory.Result
	purls  []packageurl.PackageURL
	paths  map[string][]int // packages by the file that told of them
	inFile map[inFile]bool
}

// inFile asks whether a file told of a product.
type inFile struct {
	p    *product
	path string
}

func newMatcher(res *inventory.Result, packageURL func(i int) string) *matcher {
	m := &matcher{res: res, paths: map[string][]int{}, inFile: map[inFile]bool{}}
	for i := range res.Packages {
		u, err := packageurl.FromString(packageURL(i))
		if err != nil {
			// A package whose name makes no package URL: no statement can name it.
			u = packageurl.PackageURL{}
		}
		m.purls = append(m.purls, u)
		m.paths[res.Packages[i].Path] = append(m.paths[res.Packages[i].Path], i)
	}
	return m
}

func (m *matcher) matchesAny(products []product, i int) bool {
	for n := range products {
		if m.matches(&products[n], i) {
			return true
		}
	}
	return false
}

// matches reports whether a product is package i of the image, as a part of the image or of
// a program in it, or the image as a whole.
func (m *matcher) matches(p *product, i int) bool {
	part := len(p.parts) == 0 || slices.ContainsFunc(p.parts, func(q product) bool { return m.is(q.purl, i) })
	if !part || p.release != "" && !m.onRHEL(p.release) {
		return false
	}
	if p.digest != "" {
		return p.digest == m.res.Digest || p.digest == m.res.ImageID
	}
	if len(p.parts) == 0 {
		return m.is(p.purl, i)
	}
	// A part of a product that is a package itself, such as a Go program: both are told of
	// by one file. A database of a distribution is no such file: it tells of all.
	pkg := &m.res.Packages[i]
	if inventory.OfDistribution(pkg.Kind) || pkg.Path == "" {
		return false
	}
	// An image may have a great many packages in one file: each is asked once.
	k := inFile{p, pkg.Path}
	yes, ok := m.inFile[k]
	if !ok {
		yes = slices.ContainsFunc(m.paths[pkg.Path], func(j int) bool { return m.is(p.purl, j) })
		m.inFile[k] = yes
	}
	return yes
}

// onRHEL reports whether the image is of that release of Red Hat Enterprise Linux.
func (m *matcher) onRHEL(release string) bool {
	major, _, _ := strings.Cut(m.res.OS.VersionID, ".")
	return m.res.OS.ID == "rhel" && major == release
}

// is reports whether package i is the one that u names: the version and the qualifiers
// that u has not may be any.
func (m *matcher) is(u *purl, i int) bool {
	p := &m.purls[i]
	if u == nil || p.Name == "" || u.Type != p.Type || u.Namespace != p.Namespace {
		return false
	}
	name, version := p.Name, p.Version
	if u.source {
		name, version = m.res.Packages[i].Source, m.res.Packages[i].SourceVersion
	}
	if u.Name != name || u.Version != "" && u.Version != version {
		return false
	}
	have := p.Qualifiers.Map()
	// In a version of RPM, no epoch is the epoch 0: another is another version.
	build := u.Type == packageurl.TypeRPM && u.Version != ""
	if build && cmp.Or(u.want["epoch"], "0") != cmp.Or(have["epoch"], "0") {
		return false
	}
	for key, value := range u.want {
		if build && key == "epoch" {
			continue
		}
		if value != have[key] && !u.allows(key, value, have[key]) {
			return false
		}
	}
	return true
}

// allows reports whether two values of a qualifier that differ say the same.
func (u *purl) allows(key, value, have string) bool {
	switch {
	case u.Type != packageurl.TypeDebian:
		return false
	case key == "arch":
		return value == "source" || have == "all" // one build for all architectures
	case key == "distro":
		// esm-infra/focal is an archive for subscribers: which build is meant, the version says.
		if archive, release, ok := strings.Cut(value, "/"); ok && strings.HasPrefix(archive, "esm-") && u.Version != "" {
			value = release
		}
		o, ok := inventory.Release(value)
		return ok && have == o.ID+"-"+o.VersionID
	}
	return false
}

// errNoDigest says that a product is an image by its name alone.
var errNoDigest = errors.New("an image without a digest as its version: anybody can give an image that name")

// parseProduct reads a package URL as a product: that of an image needs its digest.
func parseProduct(text string) (product, error) {
	u, err := packageurl.FromString(text)
	if err != nil {
		return product{}, fmt.Errorf("the package URL %.100q: %w", text, err)
	}
	if u.Name == "" {
		return product{}, fmt.Errorf("the package URL %.100q has no name", text)
	}
	if u.Subpath != "" {
		return product{}, fmt.Errorf("the package URL %.100q is about a part of a package: findings are about whole ones", text)
	}
	if u.Type == packageurl.TypeRPM && u.Namespace == "redhat" {
		u.Namespace = "rhel" // the name that the system itself has, in os-release
	}
	if u.Type != packageurl.TypeOCI && u.Type != packageurl.TypeDocker {
		return product{purl: newPURL(u)}, nil
	}
	if !isDigest(u.Version) {
		return product{}, fmt.Errorf("the package URL %.100q: %w", text, errNoDigest)
	}
	return product{digest: u.Version}, nil
}

func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

// check fails for a statement that says too little to go by.
func (s *statement) check() error {
	switch s.status {
	case notAffected:
		if strings.TrimSpace(s.why) == "" {
			return errors.New("not_affected needs a justification or an impact statement")
		}
	case fixed:
		// Without a version every version would be the fixed one.
		for _, p := range s.products {
			if !p.exact() {
				return errors.New("fixed needs a version or a digest in each product")
			}
		}
	case affected, investigating:
	default:
		return fmt.Errorf("there is no status %.40q: want not_affected, affected, fixed or under_investigation", s.status)
	}
	if len(s.ids) == 0 || len(s.products) == 0 {
		return errors.New("it names no vulnerability, or no product")
	}
	return nil
}

// exact reports whether a product is one version.
func (p *product) exact() bool {
	if p.digest != "" {
		return true
	}
	if p.purl == nil || p.purl.Version == "" {
		return false
	}
	return !slices.ContainsFunc(p.parts, func(q product) bool { return !q.exact() })
}
