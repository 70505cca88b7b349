package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// MaxRecordBytes bounds a record's JSON. What the kernel side sends cannot reach it
// (2.3 KiB of text, at most six bytes of JSON for each); a container's labels can,
// and they are chosen by whoever created it. A longer record is cut, never dropped:
// else a container with long labels would leave no trace.
const MaxRecordBytes = 16 << 10

// Limits of a record that was too long; half of them if that is too long still, and so on.
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
	for text, items := trimmedText, trimmedItems; ; text, items = text/2, items/2 {
		if b, err = e.json(shorten(t, text, items)); err != nil || len(b) <= MaxRecordBytes || text == 0 {
			return b, err
		}
	}
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

// shorten returns a copy of a record that [trim] made, with at most so many bytes of each text and entries
// of each list.
func shorten(t *Record, text, items int) *Record {
	s := *t
	s.Flags = t.Flags[:len(t.Flags)-1] // without FlagTrimmed, which stays whole
	cut(reflect.ValueOf(&s).Elem(), text, items)
	s.Flags = append(s.Flags, FlagTrimmed)
	if o := s.Object; o != nil {
		o.PathTruncated = o.PathTruncated || len(o.Path) < len(t.Object.Path)
	}
	if p := s.Process; p != nil && p.Executable != nil {
		x := p.Executable
		x.PathTruncated = x.PathTruncated || len(x.Path) < len(t.Process.Executable.Path)
	}
	return &s
}

// cut shortens every text and list below v. What v refers to is copied first.
func cut(v reflect.Value, text, items int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String()[:min(v.Len(), text)])
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		c := reflect.New(v.Type().Elem())
		c.Elem().Set(v.Elem())
		cut(c.Elem(), text, items)
		v.Set(c)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			cut(v.Field(i), text, items)
		}
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		c := reflect.MakeSlice(v.Type(), min(v.Len(), items), min(v.Len(), items))
		reflect.Copy(c, v)
		for i := range c.Len() {
			cut(c.Index(i), text, items)
		}
		v.Set(c)
	case reflect.Map:
		if v.Len() > items {
			v.SetZero()
			return
		}
		c := reflect.MakeMap(v.Type())
		for k, e := range v.Seq2() {
			short := reflect.New(k.Type()).Elem()
			short.Set(k)
			cut(short, text, items)
			c.SetMapIndex(short, e)
		}
		if !v.IsNil() {
			v.Set(c)
		}
	}
}
