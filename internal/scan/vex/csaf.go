package vex

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"
)

// The parts of CSAF 2.0 that its VEX profile is made of. Source:
// https://docs.oasis-open.org/csaf/csaf/v2.0/os/csaf-v2.0-os.html, sections 3.2 and 4.5.
type (
	csaf struct {
		Document struct {
			Category string `json:"category"`
			Version  string `json:"csaf_version"`
			Title    string `json:"title"`
			Tracking struct {
				ID      string    `json:"id"`
				Status  string    `json:"status"`
				Current time.Time `json:"current_release_date"`
			} `json:"tracking"`
			Publisher struct {
				Name string `json:"name"`
			} `json:"publisher"`
		} `json:"document"`
		Tree struct {
			Branches      []csafBranch       `json:"branches"`
			Products      []csafProduct      `json:"full_product_names"`
			Groups        []csafGroup        `json:"product_groups"`
			Relationships []csafRelationship `json:"relationships"`
		} `json:"product_tree"`
		Vulnerabilities []csafFlaw `json:"vulnerabilities"`
	}
	csafBranch struct {
		Branches []csafBranch `json:"branches"`
		Product  *csafProduct `json:"product"`
	}
	csafProduct struct {
		ID     string `json:"product_id"`
		Helper struct {
			PURL string `json:"purl"`
			CPE  string `json:"cpe"`
		} `json:"product_identification_helper"`
	}
	csafGroup struct {
		ID       string   `json:"group_id"`
		Products []string `json:"product_ids"`
	}
	csafRelationship struct {
		Category  string      `json:"category"`
		Product   csafProduct `json:"full_product_name"`
		Reference string      `json:"product_reference"`
		RelatesTo string      `json:"relates_to_product_reference"`
	}
	csafFlaw struct {
		CVE string `json:"cve"`
		IDs []struct {
			Text string `json:"text"`
		} `json:"ids"`
		Status  map[string][]string `json:"product_status"`
		Flags   []csafReason        `json:"flags"`
		Threats []csafReason        `json:"threats"`
	}
	csafReason struct {
		Label    string   `json:"label"`    // of flags
		Category string   `json:"category"` // of threats
		Details  string   `json:"details"`
		Products []string `json:"product_ids"`
		Groups   []string `json:"group_ids"`
	}
)

// csafStates is what the lists of section 3.2.3.9 say; recommended says nothing of it.
var csafStates = map[string]status{
	"known_not_affected": notAffected, "fixed": fixed, "first_fixed": fixed, "under_investigation": investigating,
	"known_affected": affected, "first_affected": affected, "last_affected": affected, "recommended": "",
}

// maxBranches bounds the depth of a product tree, maxTree its products, and maxReasons the
// products that the reasons of one vulnerability name by groups.
const (
	maxBranches = 64
	maxTree     = 1_000_000
	maxReasons  = 10_000_000
)

func parseCSAF(b []byte) ([]*statement, error) {
	var doc csaf
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read CSAF: %w", err)
	}
	h := &doc.Document
	switch {
	case h.Version != "2.0" || h.Category != "csaf_vex":
		return nil, fmt.Errorf("it is CSAF %.20q of category %.40q, want 2.0 and csaf_vex", h.Version, h.Category)
	case h.Tracking.Status != "final" && h.Tracking.Status != "interim":
		return nil, fmt.Errorf("the document's status is %.40q, want final or interim", h.Tracking.Status)
	case h.Tracking.Current.IsZero() || h.Publisher.Name == "":
		return nil, errors.New("the document has no publisher or no current_release_date")
	}
	tree, err := doc.products()
	if err != nil {
		return nil, err
	}
	groups := map[string][]string{}
	for _, g := range doc.Tree.Groups {
		groups[g.ID] = append(groups[g.ID], g.Products...)
	}
	var out []*statement
	for i := range doc.Vulnerabilities {
		list, err := doc.Vulnerabilities[i].statements(tree, groups)
		if err != nil {
			return nil, fmt.Errorf("vulnerability %d: %w", i+1, err)
		}
		for _, s := range list {
			s.at, s.where = h.Tracking.Current, fmt.Sprintf("vulnerability %d of %s, %s", i+1, h.Publisher.Name, h.Tracking.ID)
		}
		out = append(out, list...)
	}
	return out, nil
}

// products returns the products of the tree by their names in it. One without a package
// URL, or that of an image without a digest, is nil: nothing is matched with it, unless it
// is a package of a platform that has a CPE alone.
func (doc *csaf) products() (map[string]*product, error) {
	tree := map[string]*product{}
	platforms := map[string]string{} // releases of Red Hat Enterprise Linux
	add := func(p *csafProduct) error {
		if _, twice := tree[p.ID]; twice || p.ID == "" {
			return fmt.Errorf("the product tree has %.100q twice, or a product without a name", p.ID)
		}
		if len(tree) >= maxTree {
			return fmt.Errorf("the product tree has more than %d products", maxTree)
		}
		tree[p.ID] = nil
		if p.Helper.PURL == "" {
			platforms[p.ID] = rhelRelease(p.Helper.CPE)
			return nil
		}
		q, err := parseProduct(p.Helper.PURL)
		if errors.Is(err, errNoDigest) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("product %.100q: %w", p.ID, err)
		}
		tree[p.ID] = &q
		return nil
	}
	var walk func(list []csafBranch, depth int) error
	walk = func(list []csafBranch, depth int) error {
		if depth > maxBranches {
			return fmt.Errorf("the product tree is more than %d deep", maxBranches)
		}
		for i := range list {
			if list[i].Product != nil {
				if err := add(list[i].Product); err != nil {
					return err
				}
			}
			if err := walk(list[i].Branches, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(doc.Tree.Branches, 0); err != nil {
		return nil, err
	}
	for i := range doc.Tree.Products {
		if err := add(&doc.Tree.Products[i]); err != nil {
			return nil, err
		}
	}
	for i := range doc.Tree.Relationships {
		r := &doc.Tree.Relationships[i]
		if err := add(&r.Product); err != nil {
			return nil, err
		}
		if err := r.join(tree, platforms); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// join makes a product of a component in another: it is matched where both are, so both need
// a package URL. A package of Red Hat's in a release of its system needs that release, and
// its version: that names one build.
func (r *csafRelationship) join(tree map[string]*product, platforms map[string]string) error {
	part, ok := tree[r.Reference]
	whole, also := tree[r.RelatesTo]
	if !ok || !also {
		return fmt.Errorf("the relationship %.100q is of a product that the tree does not have before it", r.Product.ID)
	}
	tree[r.Product.ID] = nil // a package URL of its own would not say in what it is
	if part == nil || part.purl == nil || part.release != "" || len(part.parts) > 0 {
		return nil
	}
	release := platforms[r.RelatesTo]
	switch u := part.purl; {
	case whole != nil && whole.release == "" && len(whole.parts) == 0:
		tree[r.Product.ID] = &product{purl: whole.purl, digest: whole.digest, parts: []product{*part}}
	case release != "" && r.Category == "default_component_of" && u.Type == packageurl.TypeRPM && u.Namespace == "rhel" && u.Version != "":
		tree[r.Product.ID] = &product{purl: u, release: release}
	}
	return nil
}

// rhelRelease returns the release of Red Hat Enterprise Linux that a CPE of either form
// names, or nothing: cpe:/o:redhat:enterprise_linux:8::baseos is 8.
func rhelRelease(cpe string) string {
	rest, ok := strings.CutPrefix(cpe, "cpe:/")
	if !ok {
		rest, _ = strings.CutPrefix(cpe, "cpe:2.3:")
	}
	f := strings.Split(rest, ":") // part, vendor, product, version and what follows it
	if len(f) < 4 || f[0] != "o" && f[0] != "a" || f[1] != "redhat" || f[2] != "enterprise_linux" || strings.Trim(f[3], "0123456789") != "" {
		return ""
	}
	return f[3]
}

// statements makes a statement of each product of each list: reasons are by product.
func (v *csafFlaw) statements(tree map[string]*product, groups map[string][]string) ([]*statement, error) {
	var ids []string
	if v.CVE != "" {
		ids = append(ids, v.CVE)
	}
	for _, id := range v.IDs {
		if id.Text != "" {
			ids = append(ids, id.Text)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("it has neither a CVE nor another identifier")
	}
	why, err := v.reasons(groups)
	if err != nil {
		return nil, err
	}
	said := map[string]status{}
	var out []*statement
	lists := make([]string, 0, len(v.Status))
	for list := range v.Status {
		lists = append(lists, list)
	}
	slices.Sort(lists)
	for _, list := range lists {
		st, known := csafStates[list]
		if !known {
			return nil, fmt.Errorf("there is no product status %.40q", list)
		}
		for _, id := range v.Status[list] {
			p, ok := tree[id]
			if !ok {
				return nil, fmt.Errorf("the product %.100q is not in the product tree", id)
			}
			if st == "" {
				continue
			}
			// Section 6.1.6: a product has one status.
			if old, twice := said[id]; twice && old != st {
				return nil, fmt.Errorf("the product %.100q is both %s and %s", id, old, st)
			}
			said[id] = st
			if st == notAffected && why[id] == "" {
				return nil, fmt.Errorf("the product %.100q is not affected, and neither a flag nor an impact says why", id)
			}
			if p == nil {
				continue
			}
			s := &statement{ids: ids, products: []product{*p}, status: st}
			if st == notAffected {
				s.why = why[id]
			}
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("the product %.100q: %w", id, err)
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// reasons returns why each product is not affected.
//
// Errors: groups that name more than [maxReasons] products in all.
func (v *csafFlaw) reasons(groups map[string][]string) (map[string]string, error) {
	labels, texts := map[string]string{}, map[string]string{}
	steps := 0
	each := func(r *csafReason, fn func(id string)) {
		for _, g := range r.Groups {
			steps += len(groups[g])
		}
		if steps > maxReasons {
			return
		}
		for _, id := range r.Products {
			fn(id)
		}
		for _, g := range r.Groups {
			for _, id := range groups[g] {
				fn(id)
			}
		}
	}
	for i := range v.Flags {
		if r := &v.Flags[i]; slices.Contains(justifications, r.Label) {
			each(r, func(id string) { labels[id] = r.Label })
		}
	}
	for i := range v.Threats {
		if r := &v.Threats[i]; r.Category == "impact" {
			each(r, func(id string) { texts[id] = r.Details })
		}
	}
	if steps > maxReasons {
		return nil, fmt.Errorf("its reasons are about groups with more than %d products in all", maxReasons)
	}
	out := map[string]string{}
	for _, m := range []map[string]string{labels, texts} {
		for id := range m {
			out[id] = because(labels[id], texts[id])
		}
	}
	return out, nil
}
