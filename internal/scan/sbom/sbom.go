// Package sbom reads bills of materials, CycloneDX and SPDX 2 in JSON, as inventories.
//
// All input is hostile: the file is read as a stream, an entry at a time, with bounds on its
// size and on each list; what an entry says that cannot become a package is a note, never
// silence. It owns no state and does no I/O but on the reader it is given. Row: core.
package sbom

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Bounds of a bill.
const (
	maxBytes   = 64 << 20
	maxEntries = 500_000 // components, packages and relationships, nested ones too
	maxDepth   = 64      // of components within components
	maxNesting = 1_000   // of values that are passed over
)

const typeInToto = "application/vnd.in-toto+json"

// ErrNotSBOM is returned for JSON that is no bill of materials that we read.
var ErrNotSBOM = errors.New("this JSON is no bill of materials: want CycloneDX, or SPDX 2.2 or 2.3")

// Looks reports whether a file that begins so can be a bill of materials: it is JSON.
func Looks(begin []byte) bool {
	begin = bytes.TrimPrefix(begin, []byte("\ufeff"))
	begin = bytes.TrimLeft(begin, " \t\r\n")
	return len(begin) > 0 && begin[0] == '{'
}

// Read reads a bill of materials, or a statement of in-toto with one as its predicate, also within
// a signed envelope (DSSE) or a bundle of Sigstore's, of which no signature is looked at. The
// inventory has one layer, which stands for all; its digest is that of what a statement is about.
//
// Errors: [ErrNotSBOM], [inventory.ErrTooLarge], those of encoding/json, the error of
// stopped, and a sentence for what is beyond a bound.
func Read(r io.Reader, stopped func() error) (*inventory.Result, error) {
	return read(r, stopped, false)
}

// read is Read; what is in an envelope is none itself.
func read(r io.Reader, stopped func() error, enveloped bool) (*inventory.Result, error) {
	b := &bill{enveloped: enveloped, stopped: stopped, notes: map[string]int{}, seen: map[inventory.Package]bool{}, subjects: map[string]bool{}}
	limited := &io.LimitedReader{R: r, N: maxBytes + 1}
	d := json.NewDecoder(skipMark(limited))
	d.UseNumber()
	err := b.object(d, b.top)
	if err == nil {
		if _, e := d.Token(); !errors.Is(e, io.EOF) {
			err = errors.New("there is something behind it")
		}
	}
	switch {
	case limited.N <= 0:
		return nil, fmt.Errorf("a bill of materials: %w: %d bytes", inventory.ErrTooLarge, maxBytes)
	case err != nil:
		return nil, fmt.Errorf("read the bill of materials: %w", err)
	case b.payload != "":
		return b.open()
	case (b.cyclonedx == "") == (b.spdx == ""):
		return nil, ErrNotSBOM
	case b.spdx != "" && !strings.HasPrefix(b.spdx, "SPDX-2."):
		return nil, fmt.Errorf("%w, not %.40q", ErrNotSBOM, b.spdx)
	case b.cyclonedx != "" && b.cyclonedx != "CycloneDX":
		return nil, fmt.Errorf("%w, not %.40q", ErrNotSBOM, b.cyclonedx)
	}
	return b.result(), nil
}

// open reads what is in an envelope.
func (b *bill) open() (*inventory.Result, error) {
	if b.cyclonedx != "" || b.spdx != "" || b.statement {
		return nil, fmt.Errorf("%w, but one and a signed envelope at once", ErrNotSBOM)
	}
	if b.payloadType != typeInToto {
		return nil, fmt.Errorf("%w: it is a signed envelope around %.100q", ErrNotSBOM, b.payloadType)
	}
	// The standard alphabet or that of URLs, as DSSE demands. What verifies envelopes links a
	// network (crypto/x509), which the scanner must not.
	payload, err := base64.StdEncoding.DecodeString(b.payload)
	if err != nil {
		payload, err = base64.URLEncoding.DecodeString(b.payload)
	}
	if err != nil {
		return nil, fmt.Errorf("read the payload of the signed envelope: %w", err)
	}
	b.payload = ""
	return read(bytes.NewReader(payload), b.stopped, true)
}

// skipMark takes away a byte order mark.
func skipMark(r io.Reader) io.Reader {
	var begin [3]byte
	n, _ := io.ReadFull(r, begin[:]) // an error comes again
	if string(begin[:n]) == "\ufeff" {
		n = 0
	}
	return io.MultiReader(bytes.NewReader(begin[:n]), r)
}

// bill is one [Read].
type bill struct {
	stopped         func() error
	cyclonedx, spdx string // the format's own name, once it was seen
	entries         int
	os              inventory.OS // of an entry that is an operating system
	imageID         string
	found           []entry
	notes           map[string]int
	list            []inventory.Note
	seen            map[inventory.Package]bool
	statement       bool            // it is a statement of in-toto, around the bill
	within          bool            // the statement's predicate is being read
	subjects        map[string]bool // digests of what the statement is about
	enveloped       bool            // it was in an envelope
	payloadType     string          // of an envelope
	payload         string          // in base64
}

// entry is a package before it is known of which distribution the whole is.
type entry struct {
	pkg inventory.Package
	os  inventory.OS // as its package URL has it
}

// object reads an object, and calls member for each of its names; it reads the value.
func (b *bill) object(d *json.Decoder, member func(d *json.Decoder, name string) error) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return fmt.Errorf("%v where an object should be", t)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return errors.New("a member without a name")
		}
		if err := member(d, name); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// top reads one member of the document.
func (b *bill) top(d *json.Decoder, name string) error {
	switch name {
	case "_type":
		var t string
		err := d.Decode(&t)
		b.statement = b.statement || strings.HasPrefix(t, "https://in-toto.io/Statement/")
		return err
	case "subject":
		if b.statement && !b.within {
			return each(b, d, b.subject)
		}
	case "predicate":
		if b.statement && !b.within {
			b.within = true
			err := b.object(d, b.top)
			b.within = false
			return err
		}
	case "dsseEnvelope":
		if !b.enveloped && !b.within {
			return b.object(d, b.envelope)
		}
	case "payload", "payloadType":
		if !b.enveloped && !b.within {
			return b.envelope(d, name)
		}
	case "bomFormat":
		return d.Decode(&b.cyclonedx)
	case "spdxVersion":
		return d.Decode(&b.spdx)
	case "metadata":
		return b.metadata(d)
	case "components":
		return each(b, d, func(c *component) error { return b.component(c, 0) })
	case "compositions":
		return each(b, d, func(c *composition) error {
			if strings.HasPrefix(c.Aggregate, "incomplete") {
				b.note("", "the bill of materials says that it is incomplete")
			}
			return nil
		})
	case "packages":
		return each(b, d, b.spdxPackage)
	case "relationships":
		return each(b, d, func(r *relationship) error {
			if r.Type == "CONTAINS" && r.Related == "NOASSERTION" {
				b.note("", "the bill of materials says that it is incomplete")
			}
			return nil
		})
	}
	return skip(d)
}

// envelope reads one member of a signed envelope. Source: DSSE 1.0, envelope.md.
func (b *bill) envelope(d *json.Decoder, name string) error {
	switch {
	case name == "payload" && b.payload != "", name == "payloadType" && b.payloadType != "":
		return errors.New("a signed envelope that says twice what it holds")
	case name == "payload":
		return d.Decode(&b.payload)
	case name == "payloadType":
		return d.Decode(&b.payloadType)
	}
	return skip(d)
}

// subject is one thing that a statement of in-toto is about. Source: in-toto attestation
// framework, spec/v1/statement.md.
type subject struct {
	Digest map[string]string `json:"digest"`
}

func (b *bill) subject(s *subject) error {
	if d := "sha256:" + s.Digest["sha256"]; sha256Digest.MatchString(d) {
		b.subjects[d] = true
	}
	return nil
}

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// each decodes a list, an element at a time.
func each[T any](b *bill, d *json.Decoder, fn func(*T) error) error {
	t, err := d.Token()
	if err != nil || t == nil {
		return err // null is an empty list
	}
	if t != json.Delim('[') {
		return fmt.Errorf("%v where a list should be", t)
	}
	for d.More() {
		if err := b.count(); err != nil {
			return err
		}
		v := new(T)
		if err := d.Decode(v); err != nil {
			return err
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func (b *bill) count() error {
	if b.entries++; b.entries > maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if b.entries%1024 == 0 {
		return b.stopped()
	}
	return nil
}

// skip reads a value and forgets it, whatever its size.
func skip(d *json.Decoder) error {
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxNesting {
				return fmt.Errorf("values within values, more than %d deep", maxNesting)
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// note says what of the bill could not become a package.
func (b *bill) note(where, text string) {
	if i, ok := b.notes[text]; ok {
		b.list[i].Count++
		return
	}
	if len(b.list) >= inventory.MaxNotes-1 {
		const more = "more could not be read for other reasons"
		if i, ok := b.notes[more]; ok {
			b.list[i].Count++
			return
		}
		text = more
	}
	b.notes[text] = len(b.list)
	b.list = append(b.list, inventory.Note{Path: inventory.Cut(where), Text: inventory.Cut(text), Count: 1})
}

// result makes the inventory: what is of another distribution than the whole cannot be
// matched, since advisories are for releases.
func (b *bill) result() *inventory.Result {
	res := &inventory.Result{Schema: inventory.Schema, ImageID: b.imageID, OS: b.os, Layers: []inventory.Layer{{Entries: b.entries}}}
	if res.OS.ID == "" {
		for _, e := range b.found {
			if e.os.ID != "" && e.os.VersionID != "" {
				res.OS = e.os
				break
			}
		}
	}
	for _, e := range b.found {
		other := inventory.OfDistribution(e.pkg.Kind) &&
			(e.os.ID != "" && e.os.ID != res.OS.ID || e.os.VersionID != "" && !sameRelease(e.os.VersionID, res.OS.VersionID))
		if other {
			b.note(e.pkg.Name, "a package of another release than the rest of the bill, "+inventory.Cut(strings.TrimSpace(e.os.ID+" "+e.os.VersionID)))
			continue
		}
		res.Packages = append(res.Packages, e.pkg)
	}
	if len(b.found) == 0 && len(b.list) == 0 {
		b.note("", "the bill of materials lists no packages")
	}
	res.Notes = b.list
	for d := range b.subjects {
		if len(b.subjects) == 1 { // of several nobody knows which is meant
			res.Digest = d
		}
	}
	return res
}

// sameRelease reports whether one of two versions of a system is the other, or a point
// release of it: 12 and 12.5.
func sameRelease(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+".") && b != "" || strings.HasPrefix(b, a+".") && a != ""
}
