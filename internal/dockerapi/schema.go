package dockerapi

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/moby/moby/api/types/network"
)

// shape is what a JSON value must look like for a Go type of the daemon.
type shape uint8

const (
	anyShape    shape = iota
	stringShape       // string kinds, []byte, text unmarshalers, time.Time
	boolShape
	intShape
	floatShape
	arrayShape
	mapShape
	structShape
)

// schema is a shape with its parts. It is made once per type and never changed.
type schema struct {
	shape shape
	name  string // of the Go type, for messages
	// intShape
	bits     int
	unsigned bool
	// arrayShape, mapShape
	elem *schema
	// lone says that a string may stand for an array of one, as command lines did
	// in old API versions; it is written as an array.
	lone bool
	// portKeys says that keys of the map are ports, which have many spellings.
	portKeys bool
	// structShape
	fields []field
	byName map[string]int
	folded map[string]string // folded name -> name
}

type field struct {
	name string
	s    *schema
	drop bool // sent by clients, read by no daemon: dropped
}

var (
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
	timeType = reflect.TypeFor[time.Time]()
	portType = reflect.TypeFor[network.Port]()
)

// schemaCache holds *schema by reflect.Type: the fixed types of the routes, so it is
// bounded by the table.
var schemaCache sync.Map

// schemaOf returns the schema of a type that a route decodes into.
func schemaOf(t reflect.Type) *schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := schemaCache.Load(t); ok {
		return s.(*schema)
	}
	s := buildSchema(t, map[reflect.Type]*schema{})
	actual, _ := schemaCache.LoadOrStore(t, s)
	return actual.(*schema)
}

// buildSchema follows the rules of encoding/json for field names and embedding. busy
// holds the types being built: a recursive type refers to itself.
func buildSchema(t reflect.Type, busy map[reflect.Type]*schema) *schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := busy[t]; ok {
		return s
	}
	s := &schema{name: t.String()}
	if t == timeType || reflect.PointerTo(t).Implements(textType) {
		s.shape = stringShape
		return s
	}
	switch t.Kind() {
	case reflect.String:
		s.shape = stringShape
	case reflect.Bool:
		s.shape = boolShape
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.shape, s.bits = intShape, t.Bits()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.shape, s.bits, s.unsigned = intShape, t.Bits(), true
	case reflect.Float32, reflect.Float64:
		s.shape = floatShape
	case reflect.Slice, reflect.Array:
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
			s.shape = stringShape // base64
			break
		}
		s.shape, s.elem = arrayShape, buildSchema(t.Elem(), busy)
	case reflect.Map:
		s.shape, s.elem = mapShape, buildSchema(t.Elem(), busy)
		s.portKeys = t.Key() == portType
	case reflect.Struct:
		busy[t] = s
		s.shape, s.byName, s.folded = structShape, map[string]int{}, map[string]string{}
		s.addStruct(t, busy)
		s.addLegacy(t, busy)
	default:
		s.shape = anyShape
	}
	return s
}

func (s *schema) addStruct(t reflect.Type, busy map[reflect.Type]*schema) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			ft := f.Type
			for ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct {
				s.addStruct(ft, busy)
				s.addLegacy(ft, busy)
				continue
			}
		}
		if name == "" {
			name = f.Name
		}
		s.add(field{name: name, s: buildSchema(f.Type, busy)})
	}
}

func (s *schema) add(f field) {
	if _, ok := s.byName[f.name]; ok {
		return // the outer field wins, as in encoding/json
	}
	s.byName[f.name] = len(s.fields)
	s.folded[foldName(f.name)] = f.name
	s.fields = append(s.fields, f)
}

// addLegacy adds what older daemons read at this type and the current type has not.
func (s *schema) addLegacy(t reflect.Type, busy map[reflect.Type]*schema) {
	for i := range legacyFields {
		l := &legacyFields[i]
		switch {
		case l.in != t:
		case l.lone:
			s.fields[s.byName[l.name]].s = &schema{shape: arrayShape, name: "[]string", elem: textSchema, lone: true}
		default:
			s.add(field{name: l.name, s: buildSchema(l.typ, busy), drop: l.ignored})
		}
	}
}

var (
	textSchema  = &schema{shape: stringShape, name: "string"}
	textsSchema = &schema{shape: arrayShape, name: "[]string", elem: textSchema}
	boolSchema  = &schema{shape: boolShape, name: "bool"}
)

// foldName folds a key as encoding/json does when it looks for a field: two keys with
// the same fold are one field to the daemon.
func foldName(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		b.WriteRune(foldRune(r))
	}
	return b.String()
}

// foldRune returns the smallest rune of r's simple folding orbit.
func foldRune(r rune) rune {
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}

// String shows the schema's type, for tests and messages.
func (s *schema) String() string { return fmt.Sprintf("%s(%d)", s.name, s.shape) }
