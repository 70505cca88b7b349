package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// MaxRecordBytes bounds a record's JSON. What the kernel side sends cannot reach it
// (2.3 KiB of text, at most six bytes of JSON for each); a container's labels can,
// and they are chosen by whoever created it. A longer record is cut, never dropped:
// else a container with long labels would leave no trace.
const MaxRecordBytes = 16 << 10

// Limits of a record that was too long.
const (
	trimmedText  = 512 // bytes of each text
	trimmedItems = 16  // entries of each list
)

// Encoder turns many records into JSON, in one buffer. Make one with [NewEncoder]. Not safe for
// concurrent use.
type Encoder struct {
	line []byte // of a record that is made without enc
	buf  bytes.Buffer
	enc  *json.Encoder
}

// NewEncoder returns an encoder.
func NewEncoder() *Encoder {
	e := new(Encoder)
	e.enc = json.NewEncoder(&e.buf)
	e.enc.SetEscapeHTML(false) // paths and arguments stay readable
	return e
}

// Encode returns r as the JSON of [Schema], cut at [MaxRecordBytes] as the journal's own
// lines are. r is not changed.
//
// Errors: r has no JSON form, such as a year beyond 9999.
func Encode(r *Record) ([]byte, error) { return NewEncoder().Encode(r) }

// Encode returns what [Encode] does, valid until the next call.
func (e *Encoder) Encode(r *Record) ([]byte, error) {
	b, err := e.json(r)
	if err != nil || len(b) <= MaxRecordBytes {
		return b, err
	}
	t := trim(r)
	if b, err = e.json(t); err != nil || len(b) <= MaxRecordBytes {
		return b, err
	}
	trimTexts(t)
	return e.json(t)
}

func (e *Encoder) json(r *Record) ([]byte, error) {
	e.buf.Reset()
	if b, ok := appendRecord(e.line[:0], r); ok {
		e.line = b
		return b, nil
	}
	if err := e.enc.Encode(r); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return bytes.TrimSuffix(e.buf.Bytes(), []byte{'\n'}), nil
}

// trim returns a copy of r without what users choose freely: labels and arguments.
func trim(r *Record) *Record {
	t := *r
	t.Flags = append(slices.Clone(r.Flags), FlagTrimmed)
	if r.Container != nil {
		c := *r.Container
		c.Labels = nil
		t.Container = &c
	}
	if r.Process != nil {
		p := *r.Process
		p.ArgsTruncated = p.ArgsTruncated || len(p.Args) > 0
		p.Args = nil
		t.Process = &p
	}
	return &t
}

// trimTexts shortens, in place, every text and list of a record that [trim] made.
func trimTexts(t *Record) {
	cut := func(ss ...*string) {
		for _, s := range ss {
			*s = (*s)[:min(len(*s), trimmedText)]
		}
	}
	cut(&t.BootID, &t.Host, (*string)(&t.Kind), &t.Event, &t.Hook, (*string)(&t.Decision), &t.Level, (*string)(&t.Backend), &t.Message)
	t.Flags = slices.Clone(t.Flags[max(0, len(t.Flags)-trimmedItems):])
	for i := range t.Flags {
		cut(&t.Flags[i])
	}
	if len(t.Lost) > trimmedItems {
		t.Lost = nil
	}
	if c := t.Container; c != nil {
		cut((*string)(&c.ID), &c.Name, &c.Image, &c.Digest, &c.Class)
	}
	if t.Policy != nil {
		p := *t.Policy
		cut(&p.Name, &p.Revision, &p.Rule, &p.Mode)
		t.Policy = &p
	}
	if t.Object != nil {
		o := *t.Object
		o.PathTruncated = o.PathTruncated || len(o.Path) > trimmedText
		cut(&o.Type, &o.Path, (*string)(&o.Layer), &o.Addr, &o.LocalAddr, &o.Protocol)
		t.Object = &o
	}
	if t.API != nil {
		a := *t.API
		cut(&a.Action, &a.Method, &a.Path, &a.CallerKind, &a.Caller, &a.Remote, &a.Cause, &a.TraceParent)
		a.Resources, a.Checks = nil, nil
		t.API = &a
	}
	if t.Factor != nil {
		f := *t.Factor
		cut(&f.Event, &f.User, &f.Session, &f.Elevation, &f.Target, &f.Cause)
		f.Actions = nil
		t.Factor = &f
	}
	if p := t.Process; p != nil {
		cut(&p.Comm, &p.Cwd)
		p.Ancestors = slices.Clone(p.Ancestors[:min(len(p.Ancestors), trimmedItems)])
		for i := range p.Ancestors {
			cut(&p.Ancestors[i].Comm)
		}
		if p.Executable != nil {
			x := *p.Executable
			x.PathTruncated = x.PathTruncated || len(x.Path) > trimmedText
			cut(&x.Path, (*string)(&x.Layer))
			p.Executable = &x
		}
	}
}
