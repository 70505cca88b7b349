package vex

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const openVEXContext = "https://openvex.dev/ns/v0.2.0"

// The form of OpenVEX. Source: openvex/spec, OPENVEX-SPEC.md, version 0.2.0. All fields are
// here, so that those that are not known are refused.
type (
	openVEX struct {
		Context     string             `json:"@context"`
		ID          string             `json:"@id"`
		Author      string             `json:"author"`
		Role        string             `json:"role,omitempty"`
		Timestamp   *time.Time         `json:"timestamp"`
		LastUpdated *time.Time         `json:"last_updated,omitempty"`
		Version     json.Number        `json:"version"`
		Tooling     string             `json:"tooling,omitempty"`
		Statements  []openVEXStatement `json:"statements"`
	}
	openVEXStatement struct {
		ID            string           `json:"@id,omitempty"`
		Version       json.Number      `json:"version,omitempty"`
		Vulnerability openVEXFlaw      `json:"vulnerability"`
		Timestamp     *time.Time       `json:"timestamp,omitempty"`
		LastUpdated   *time.Time       `json:"last_updated,omitempty"`
		Products      []openVEXProduct `json:"products"`
		Status        status           `json:"status"`
		Supplier      string           `json:"supplier,omitempty"`
		StatusNotes   string           `json:"status_notes,omitempty"`
		Justification string           `json:"justification,omitempty"`
		Impact        string           `json:"impact_statement,omitempty"`
		Action        string           `json:"action_statement,omitempty"`
		ActionTime    *time.Time       `json:"action_statement_timestamp,omitempty"`
	}
	openVEXFlaw struct {
		ID          string   `json:"@id,omitempty"`
		Name        string   `json:"name"`
		Description string   `json:"description,omitempty"`
		Aliases     []string `json:"aliases,omitempty"`
	}
	openVEXProduct struct {
		ID          string            `json:"@id,omitempty"`
		Identifiers map[string]string `json:"identifiers,omitempty"`
		Hashes      map[string]string `json:"hashes,omitempty"`
		Parts       []openVEXProduct  `json:"subcomponents,omitempty"`
	}
)

func parseOpenVEX(b []byte) ([]*statement, error) {
	var doc openVEX
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read OpenVEX: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the document")
	}
	if doc.Context != openVEXContext {
		return nil, fmt.Errorf("the context is %.80q, want %s", doc.Context, openVEXContext)
	}
	if doc.Author == "" || doc.Timestamp == nil {
		return nil, errors.New("the document has no author or no timestamp")
	}
	var out []*statement
	for i := range doc.Statements {
		s, err := doc.statement(&doc.Statements[i])
		if err != nil {
			return nil, fmt.Errorf("statement %d: %w", i+1, err)
		}
		s.where = fmt.Sprintf("statement %d of %s", i+1, doc.Author)
		out = append(out, s)
	}
	return out, nil
}

func (doc *openVEX) statement(v *openVEXStatement) (*statement, error) {
	s := &statement{status: v.Status, at: *doc.Timestamp}
	// A statement inherits the time of its document (section "Statement Inheritance").
	for _, at := range []*time.Time{v.Timestamp, v.LastUpdated} {
		if at != nil {
			s.at = *at
		}
	}
	for _, id := range append([]string{v.Vulnerability.Name}, v.Vulnerability.Aliases...) {
		if id == "" {
			return nil, errors.New("a vulnerability without a name")
		}
		s.ids = append(s.ids, id)
	}
	if v.Status != notAffected && v.Justification != "" {
		return nil, errors.New("a justification is for not_affected alone")
	}
	if v.Justification != "" && !slices.Contains(justifications, v.Justification) {
		return nil, fmt.Errorf("there is no justification %.80q: want one of %s", v.Justification, strings.Join(justifications, ", "))
	}
	s.why = because(v.Justification, v.Impact)
	for i := range v.Products {
		p, err := v.Products[i].product(true)
		if err != nil {
			return nil, fmt.Errorf("product %d: %w", i+1, err)
		}
		s.products = append(s.products, p)
	}
	return s, s.check()
}

// because joins a label and a text.
func because(label, text string) string {
	label = strings.ReplaceAll(label, "_", " ")
	text = strings.Join(strings.Fields(text), " ")
	if label != "" && text != "" {
		return label + ": " + text
	}
	return label + text
}

func (v *openVEXProduct) product(top bool) (product, error) {
	var p product
	var err error
	text := v.Identifiers["purl"]
	if text == "" && strings.HasPrefix(v.ID, "pkg:") {
		text = v.ID
	}
	switch digits := v.Hashes["sha-256"]; {
	case text != "":
		p, err = parseProduct(text)
	case isDigest("sha256:" + strings.ToLower(digits)):
		p.digest = "sha256:" + strings.ToLower(digits)
	default:
		err = errors.New("it has neither a package URL nor a sha-256 hash, by which products are matched")
	}
	if err != nil {
		return p, err
	}
	if !top && p.purl == nil {
		return p, errors.New("a subcomponent is a package, and has a package URL")
	}
	if !top && len(v.Parts) > 0 {
		return p, errors.New("subcomponents have no subcomponents")
	}
	for i := range v.Parts {
		q, err := v.Parts[i].product(false)
		if err != nil {
			return p, fmt.Errorf("subcomponent %d: %w", i+1, err)
		}
		p.parts = append(p.parts, q)
	}
	return p, nil
}
