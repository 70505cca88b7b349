package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/scan/attest"
	"github.com/belay-project/belay/internal/scan/registry"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// attachedMode is the value of --attached-sbom.
type attachedMode string

const (
	attachedIgnore  attachedMode = "ignore"
	attachedUse     attachedMode = "use"
	attachedCompare attachedMode = "compare"
)

func (m *attachedMode) String() string { return string(*m) }
func (m *attachedMode) Type() string   { return "ignore|use|compare" }

func (m *attachedMode) Set(s string) error {
	switch v := attachedMode(s); v {
	case attachedIgnore, attachedUse, attachedCompare:
		*m = v
		return nil
	}
	return errors.New("want ignore, use or compare")
}

// addAttached adds the flags about what is attached to an image in a registry.
func (f *scanFlags) addAttached(fl *pflag.FlagSet) {
	f.attachedVEX = attachedVEXIgnore
	fl.Var(&f.attached, "attached-sbom", "what becomes of a bill of materials that is attached to an image in a registry")
	fl.Var(&f.attachedVEX, "attached-vex", "what becomes of statements of suppliers (OpenVEX) that are attached to an image in a registry")
	fl.StringArrayVar(&f.keyFiles, "attestation-key", nil, "`file` of a public key (PEM, ECDSA or Ed25519): of what is attached only that counts which is signed with it; may be repeated")
}

// checkAttached reads the keys.
func (f *scanFlags) checkAttached() (err error) {
	if f.keys, err = attest.ReadKeys(f.keyFiles...); err != nil {
		return fmt.Errorf("--attestation-key: %w", err)
	}
	asked := f.attached == attachedUse || f.attached == attachedCompare || f.attachedVEX == attachedVEXUse
	if len(f.keys) > 0 && !asked {
		return badUsage("--attestation-key is about what is attached to an image: say --attached-sbom or --attached-vex too")
	}
	return nil
}

// scanAttached has an opened target read, or the bill that is attached to it, or both.
func (t *terminal) scanAttached(ctx context.Context, f *scanFlags, name string, tgt *target.Target, db *vulndb.DB) (*report.Scan, error) {
	if f.attached != attachedUse && f.attached != attachedCompare {
		return t.scanOpened(ctx, f, name, tgt, db)
	}
	bill, err := t.attachedBill(ctx, f, name)
	if err != nil {
		return nil, fmt.Errorf("--attached-sbom: %w", err)
	}
	if bill == nil {
		with := ""
		if len(f.keys) > 0 {
			with = " and is signed with a key of --attestation-key"
		}
		fmt.Fprintf(t.err, "! no bill of materials that can be read%s is attached to %s: the image is read alone\n", with, clean(name))
		return t.scanOpened(ctx, f, name, tgt, db)
	}
	if f.attached == attachedUse {
		s := bill
		if db != nil {
			m, err := match(ctx, db, s.Inventory, f.Timeout)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			st := db.Status()
			s = report.New(name, t.now(), s.Inventory, &report.Database{Built: st.Built, AsOf: st.AsOf, Records: st.Records}, &m)
			s.Attached = bill.Attached
		}
		s.Attached.Used = true
		return s, nil
	}
	s, err := t.scanOpened(ctx, f, name, tgt, db)
	if err != nil {
		return nil, err
	}
	if s.Inventory.Digest != bill.Inventory.Digest {
		return nil, fmt.Errorf("--attached-sbom: the bill is about %s, and the image that was read is %s", bill.Inventory.Digest, s.Inventory.Digest)
	}
	s.Attached = bill.Attached
	s.Attached.Packages = report.Compare(bill, s).Packages
	return s, nil
}

// attachments is what is attached to one image.
type attachments struct {
	img      *registry.Image
	manifest string // digest of the image's manifest for the platform
	list     []registry.Attachment
}

// attachedTo lists what is attached to the image that was opened.
func (f *scanFlags) attachedTo(ctx context.Context, name string) (*attachments, error) {
	if f.attachments != nil {
		return f.attachments, nil
	}
	img := f.registry.found
	if img == nil {
		return nil, fmt.Errorf("%s is no image of a registry: name one with registry:", name)
	}
	manifest, list, err := img.Attached(ctx, f.Platform)
	if err != nil {
		return nil, err
	}
	f.attachments = &attachments{img, manifest, list}
	return f.attachments, nil
}

// errPassedOver says that a document is not taken, which is no fault of the scan: with keys, what is
// not signed with one of them counts as not attached.
var errPassedOver = errors.New("passed over")

// open fetches a document, and with keys verifies it. Of one that was verified, and of VEX, it
// returns what is in the envelope or statement.
func (a *attachments) open(ctx context.Context, doc registry.Attachment, keys []attest.Key) (b []byte, key string, err error) {
	if len(keys) > 0 && !doc.Envelope {
		return nil, "", errPassedOver
	}
	if b, err = a.img.Bill(ctx, doc); err != nil {
		return nil, "", err
	}
	if len(keys) == 0 && !doc.VEX() {
		return b, "", nil // for the sandbox, as it is
	}
	if doc.Envelope {
		e, err := attest.Open(b, keys)
		if err != nil && len(keys) > 0 {
			return nil, "", errPassedOver // of somebody else, whatever it is
		}
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", doc.Digest, err)
		}
		b, key = e.Payload, e.Key
	}
	if !doc.Statement {
		return b, key, nil
	}
	s, err := attest.ReadStatement(b)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", doc.Digest, err)
	}
	err = s.About(a.manifest, a.img.Digest)
	if f := registry.PredicateForm(s.PredicateType); err == nil && f != doc.Form {
		err = fmt.Errorf("it is attached as %s, and its predicate is %.100q", doc.Form, s.PredicateType)
	}
	if err != nil {
		if key != "" {
			return nil, "", errPassedOver // signed, and brought here from another image, or as something else
		}
		return nil, "", fmt.Errorf("%s: %w", doc.Digest, err)
	}
	if doc.VEX() {
		b = s.Predicate
	}
	return b, key, nil
}

// bill returns the first bill that is taken; nil if there is none.
func (a *attachments) bill(ctx context.Context, keys []attest.Key) (b []byte, found *report.Attached, err error) {
	n := 0
	for _, doc := range a.list {
		if doc.VEX() {
			continue
		}
		if n++; found != nil {
			continue
		}
		if n > maxVerified {
			return nil, nil, fmt.Errorf("none of the first %d bills is signed with a key of --attestation-key", maxVerified)
		}
		got, key, err := a.open(ctx, doc, keys)
		if errors.Is(err, errPassedOver) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		b, found = got, &report.Attached{Digest: doc.Digest, Form: doc.Form, From: doc.From, Envelope: doc.Envelope, Key: key}
	}
	if found != nil {
		found.Others = n - 1
	}
	return b, found, nil
}

// maxVerified bounds how many documents are fetched to look for one that is signed.
const maxVerified = 64

// attachedBill returns what the bill lists that is attached to the image; nil if there is none.
func (t *terminal) attachedBill(ctx context.Context, f *scanFlags, name string) (*report.Scan, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	a, err := f.attachedTo(ctx, name)
	if err != nil {
		return nil, err
	}
	b, found, err := a.bill(ctx, f.keys)
	if err != nil || found == nil {
		return nil, err
	}
	tgt, err := target.OpenBill(b)
	if err != nil {
		return nil, err
	}
	defer tgt.Close()
	s, err := t.scanOpened(ctx, f, "the bill "+found.Digest, tgt, nil)
	if err != nil {
		return nil, err
	}
	if d := s.Inventory.Digest; d != "" && d != a.manifest && d != a.img.Digest {
		return nil, fmt.Errorf("the bill %s says that it is about %s, and is attached to %s", found.Digest, d, a.manifest)
	}
	// Whose it is says the registry, and not the bill.
	s.Target, s.Inventory.ImageID, s.Inventory.Digest = name, "", a.manifest
	s.Attached = found
	return s, nil
}

// signature says what is known of the signature of a bill.
func signature(a *report.Attached) string {
	switch {
	case a.Key != "":
		return "which is signed with the key " + clean(a.Key)
	case a.Envelope:
		return "whose signature was not verified"
	}
	return "which is not signed"
}

// writeAttached tells what became of a bill that is attached.
func (t *terminal) writeAttached(s *report.Scan) {
	a := s.Attached
	if a == nil {
		return
	}
	others := ""
	if a.Others > 0 {
		others = fmt.Sprintf("; %s attached too, and not used", count(a.Others, "other is", "others are"))
	}
	if a.Used {
		fmt.Fprintf(t.out, "packages are those of the attached bill of materials %s (%s, %s), %s; the image was not read%s\n", clean(a.Digest), a.Form, a.From, signature(a), others)
		return
	}
	if len(a.Packages) == 0 {
		fmt.Fprintf(t.out, "the attached bill of materials %s (%s, %s) lists the same packages%s\n", clean(a.Digest), a.Form, a.From, others)
		return
	}
	fmt.Fprintf(t.out, "the attached bill of materials %s (%s, %s) does not list the same packages%s:\n", clean(a.Digest), a.Form, a.From, others)
	tb := t.table("", "KIND", "PACKAGE", "IN THE BILL", "IN THE IMAGE")
	for _, c := range a.Packages {
		tb.row(plain(c.Kind), plain(c.Name), plain(orDash(strings.Join(c.Old, ", "))), plain(orDash(strings.Join(c.New, ", "))))
	}
	tb.writeTo(t.out)
}
