package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

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
		fmt.Fprintf(t.err, "! no bill of materials that can be read is attached to %s: the image is read alone\n", clean(name))
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
			s = report.New(name, t.now(), s.Inventory, &report.Database{Built: st.Built, Records: st.Records}, &m)
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

// attachedBill returns what the bill lists that is attached to the image; nil if there is none.
func (t *terminal) attachedBill(ctx context.Context, f *scanFlags, name string) (*report.Scan, error) {
	img := f.registry.found
	if img == nil {
		return nil, fmt.Errorf("%s is no image of a registry: name one with registry:", name)
	}
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	manifest, list, err := img.Attached(ctx, f.Platform)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	b, err := img.Bill(ctx, list[0])
	if err != nil {
		return nil, err
	}
	tgt, err := target.OpenBill(b)
	if err != nil {
		return nil, err
	}
	defer tgt.Close()
	s, err := t.scanOpened(ctx, f, "the bill "+list[0].Digest, tgt, nil)
	if err != nil {
		return nil, err
	}
	if d := s.Inventory.Digest; d != "" && d != manifest && d != img.Digest {
		return nil, fmt.Errorf("the bill %s says that it is about %s, and is attached to %s", list[0].Digest, d, manifest)
	}
	// Whose it is says the registry, and not the bill.
	s.Target, s.Inventory.ImageID, s.Inventory.Digest = name, "", manifest
	s.Attached = &report.Attached{Digest: list[0].Digest, Form: list[0].Form, From: list[0].From, Others: len(list) - 1}
	return s, nil
}

// writeAttached tells what became of a bill that is attached.
func (t *terminal) writeAttached(s *report.Scan) {
	a := s.Attached
	if a == nil {
		return
	}
	others := ""
	if a.Others > 0 {
		others = fmt.Sprintf("; %s attached too, and not looked at", count(a.Others, "other is", "others are"))
	}
	if a.Used {
		fmt.Fprintf(t.out, "packages are those of the attached bill of materials %s (%s, %s), which is not signed; the image was not read%s\n", clean(a.Digest), a.Form, a.From, others)
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
