package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/belay-project/belay/internal/scan/vex"
)

// attachedVEXMode is the value of --attached-vex.
type attachedVEXMode string

const (
	attachedVEXIgnore attachedVEXMode = "ignore"
	attachedVEXUse    attachedVEXMode = "use"
)

func (m *attachedVEXMode) String() string { return string(*m) }
func (m *attachedVEXMode) Type() string   { return "ignore|use" }

func (m *attachedVEXMode) Set(s string) error {
	switch v := attachedVEXMode(s); v {
	case attachedVEXIgnore, attachedVEXUse:
		*m = v
		return nil
	}
	return errors.New("want ignore or use")
}

// takeAttachedVEX adds the statements that are attached to the image to those of --vex.
func (t *terminal) takeAttachedVEX(ctx context.Context, f *scanFlags, name string, rules *scanRules) error {
	if f.attachedVEX != attachedVEXUse {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	docs, taken, passed, err := f.attachedStatements(ctx, name)
	if err != nil {
		return fmt.Errorf("--attached-vex: %w", err)
	}
	switch {
	case taken == 0 && passed == 0:
		fmt.Fprintf(t.err, "! no VEX is attached to %s\n", clean(name))
	case len(f.keys) == 0:
		fmt.Fprintf(t.err, "! %s of VEX attached to %s: whoever may push there can attach it, and no signature was verified (--attestation-key)\n",
			count(taken, "document", "documents"), clean(name))
	case passed > 0:
		fmt.Fprintf(t.err, "! %s of VEX attached to %s not signed with a key of --attestation-key, and not used\n", count(passed, "document", "documents"), clean(name))
	}
	rules.vex = rules.vex.With(docs)
	return nil
}

// attachedStatements reads the statements that are attached.
func (f *scanFlags) attachedStatements(ctx context.Context, name string) (docs *vex.Documents, taken, passed int, err error) {
	a, err := f.attachedTo(ctx, name)
	if err != nil {
		return nil, 0, 0, err
	}
	docs = new(vex.Documents).With(nil)
	for _, doc := range a.list {
		if !doc.VEX() {
			continue
		}
		if taken+passed >= maxVerified {
			return nil, 0, 0, fmt.Errorf("more than %d documents are attached", maxVerified)
		}
		b, _, err := a.open(ctx, doc, f.keys)
		if errors.Is(err, errPassedOver) {
			passed++
			continue
		}
		if err != nil {
			return nil, 0, 0, err
		}
		if err := docs.Add("attached "+doc.Digest, b); err != nil {
			return nil, 0, 0, err
		}
		taken++
	}
	return docs, taken, passed, nil
}
