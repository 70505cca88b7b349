package dockerapi

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/moby/moby/api/types/network"
)

// Limits bounds what a request may make us hold. The zero value of a field means its
// default.
type Limits struct {
	BodyBytes  int // of a JSON body; default 4 MiB, the daemon's own limit for its plugins
	QueryBytes int // of the raw query; default 64 KiB
	Depth      int // of nested JSON values; default 20 (a deep request of the API has 9)
	Keys       int // JSON keys and array elements in all; default 20,000
}

func (l Limits) bodyBytes() int  { return orDefault(l.BodyBytes, 4<<20) }
func (l Limits) queryBytes() int { return orDefault(l.QueryBytes, 64<<10) }
func (l Limits) depth() int      { return orDefault(l.Depth, 20) }
func (l Limits) keys() int       { return orDefault(l.Keys, 20_000) }

func orDefault(v, def int) int {
	if v <= 0 {
		return def
	}
	return v
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	boolNode
	numberNode
	stringNode
	arrayNode
	objectNode
	writtenNode // text is what it was encoded to; nothing in it changes any more
)

var kindNames = [...]string{"null", "a boolean", "a number", "a string", "an array", "an object", "encoded"}

// node is one JSON value that has passed the strict reading. It keeps what the caller
// said and no more: fields that were not there are not written either, so that a
// daemon of any version reads what the caller meant it to.
type node struct {
	kind nodeKind
	text string // decoded string, number as written, "true" or "false"
	keys []string
	kids []*node // values of keys, or elements
}

func (n *node) get(key string) *node {
	if n == nil || n.kind != objectNode {
		return nil
	}
	for i, k := range n.keys {
		if k == key {
			return n.kids[i]
		}
	}
	return nil
}

func (n *node) set(key string, v *node) {
	for i, k := range n.keys {
		if k == key {
			n.kids[i] = v
			return
		}
	}
	n.keys = append(n.keys, key)
	n.kids = append(n.kids, v)
}

// object returns the object at key and makes it if it is missing or null.
func (n *node) object(key string) *node {
	if o := n.get(key); o != nil && o.kind == objectNode {
		return o
	}
	o := &node{kind: objectNode}
	n.set(key, o)
	return o
}

func textNode(s string) *node { return &node{kind: stringNode, text: s} }
func intNode(v int64) *node   { return &node{kind: numberNode, text: strconv.FormatInt(v, 10)} }
func boolNodeOf(v bool) *node { return &node{kind: boolNode, text: strconv.FormatBool(v)} }

// reader is one strict pass over a JSON text, guided by a schema.
type reader struct {
	raw     string
	pos     int
	depth   int
	left    int // keys and elements
	max     int // depth
	path    []step
	slab    []node
	drop    bool // unknown fields are dropped and recorded
	dropped []string
}

// readJSON reads one JSON value and nothing else. at is the path of the value in
// messages.
func readJSON(raw []byte, s *schema, opt Options, at string) (*node, []string, error) {
	r := &reader{left: opt.Limits.keys(), max: opt.Limits.depth(), drop: opt.DropUnknown, path: make([]step, 0, 12)}
	if at != "" {
		r.path = append(r.path, step{key: at})
	}
	if len(raw) > opt.Limits.bodyBytes() {
		return nil, nil, errorf(413, CodeBodyTooLarge, at, "more than %d bytes", opt.Limits.bodyBytes())
	}
	if bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")) {
		return nil, nil, r.fail(CodeBadUTF8, "starts with a byte order mark")
	}
	if !utf8.Valid(raw) {
		return nil, nil, r.fail(CodeBadUTF8, "is not UTF-8")
	}
	r.raw = string(raw) // once: every string in the tree is a piece of it
	r.space()
	n, err := r.value(s)
	if err != nil {
		return nil, nil, err
	}
	r.space()
	if r.pos != len(raw) {
		return nil, nil, r.fail(CodeTrailingData, "has something after its JSON value")
	}
	return n, r.dropped, nil
}

func (r *reader) fail(code, format string, args ...any) *Error {
	return badRequest(code, r.where(), format, args...)
}

// step is a part of the path to a value: a key, or an element of an array.
type step struct {
	key   string
	index int
	elem  bool
}

// where writes the path down.
func (r *reader) where() string {
	var b strings.Builder
	for i, s := range r.path {
		switch {
		case s.elem:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case i > 0:
			b.WriteString("." + s.key)
		default:
			b.WriteString(s.key)
		}
	}
	return b.String()
}

// node returns a new node. They are made many at a time: a body has hundreds.
func (r *reader) node(kind nodeKind) *node {
	if len(r.slab) == cap(r.slab) {
		r.slab = make([]node, 0, min(max(2*cap(r.slab), 8), 128))
	}
	r.slab = append(r.slab, node{kind: kind})
	return &r.slab[len(r.slab)-1]
}

func (r *reader) textNode(kind nodeKind, text string) *node {
	n := r.node(kind)
	n.text = text
	return n
}

func (r *reader) space() {
	for r.pos < len(r.raw) {
		switch r.raw[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

func (r *reader) peek() byte {
	if r.pos < len(r.raw) {
		return r.raw[r.pos]
	}
	return 0
}

// value reads a value of schema s. A nil s takes anything and checks no names: it is
// for what is dropped.
func (r *reader) value(s *schema) (*node, error) {
	switch c := r.peek(); {
	case c == '{':
		return r.nested(s, (*reader).object)
	case c == '[':
		return r.nested(s, (*reader).array)
	case c == '"':
		return r.stringValue(s)
	case c == '-' || c >= '0' && c <= '9':
		return r.number(s)
	case c == 't':
		return r.literal("true", boolNode, s)
	case c == 'f':
		return r.literal("false", boolNode, s)
	case c == 'n':
		return r.literal("null", nullNode, s)
	}
	return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", r.pos)
}

func (r *reader) nested(s *schema, read func(*reader, *schema) (*node, error)) (*node, error) {
	if r.depth++; r.depth > r.max {
		return nil, r.fail(CodeTooDeep, "is nested deeper than %d", r.max)
	}
	r.pos++
	n, err := read(r, s)
	r.depth--
	return n, err
}

func (r *reader) count() error {
	if r.left--; r.left < 0 {
		return r.fail(CodeTooManyKeys, "has too many keys or elements")
	}
	return nil
}

func (r *reader) mismatch(s *schema, kind nodeKind) error {
	return r.fail(CodeWrongType, "is %s; the API has %s here", kindNames[kind], s.name)
}

func (r *reader) literal(word string, kind nodeKind, s *schema) (*node, error) {
	if !strings.HasPrefix(r.raw[r.pos:], word) {
		return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", r.pos)
	}
	r.pos += len(word)
	// null is taken everywhere: for every type of the daemon it means "not said".
	if kind == boolNode && s != nil && s.shape != boolShape && s.shape != anyShape {
		return nil, r.mismatch(s, kind)
	}
	return r.textNode(kind, word), nil
}

func (r *reader) array(s *schema) (*node, error) {
	var elem *schema
	switch {
	case s == nil:
	case s.shape == arrayShape:
		elem = s.elem
	case s.shape == anyShape:
		elem = s
	default:
		return nil, r.mismatch(s, arrayNode)
	}
	n := r.node(arrayNode)
	r.space()
	if r.peek() == ']' {
		r.pos++
		return n, nil
	}
	for i := 0; ; i++ {
		if err := r.count(); err != nil {
			return nil, err
		}
		r.path = append(r.path, step{index: i, elem: true})
		r.space()
		kid, err := r.value(elem)
		if err != nil {
			return nil, err
		}
		r.path = r.path[:len(r.path)-1]
		n.kids = append(n.kids, kid)
		r.space()
		switch r.peek() {
		case ',':
			r.pos++
		case ']':
			r.pos++
			return n, nil
		default:
			return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", r.pos)
		}
	}
}

func (r *reader) object(s *schema) (*node, error) {
	if s != nil && s.shape != structShape && s.shape != mapShape && s.shape != anyShape {
		return nil, r.mismatch(s, objectNode)
	}
	n := r.node(objectNode)
	seen := keySet{}
	r.space()
	if r.peek() == '}' {
		r.pos++
		return n, nil
	}
	for {
		if err := r.count(); err != nil {
			return nil, err
		}
		r.space()
		if r.peek() != '"' {
			return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", r.pos)
		}
		key, err := r.str()
		if err != nil {
			return nil, err
		}
		r.space()
		if r.peek() != ':' {
			return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", r.pos)
		}
		r.pos++
		r.space()
		r.path = append(r.path, step{key: key})
		if err := r.member(n, &seen, s, key); err != nil {
			return nil, err
		}
		r.path = r.path[:len(r.path)-1]
		r.space()
		switch r.peek() {
		case ',':
			r.pos++
		case '}':
			r.pos++
			return n, nil
		default:
			return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", r.pos)
		}
	}
}

// member reads the value of key into n.
func (r *reader) member(n *node, seen *keySet, s *schema, key string) error {
	sub, keep := s, true
	switch {
	case s == nil || s.shape == anyShape:
	case s.shape == mapShape:
		sub = s.elem
		if s.portKeys {
			port, err := network.ParsePort(key)
			if err != nil {
				return r.fail(CodeBadValue, "is no port")
			}
			key = port.String() // "80", "80/TCP" and "80/tcp" are one key to the daemon
		}
	default:
		i, ok := s.byName[key]
		if !ok {
			return r.unknown(s, seen, key)
		}
		sub, keep = s.fields[i].s, !s.fields[i].drop
	}
	if !seen.add(key) {
		return r.fail(CodeDuplicateKey, "appears twice")
	}
	kid, err := r.value(sub)
	if err != nil || !keep {
		return err
	}
	n.keys = append(n.keys, key)
	n.kids = append(n.kids, kid)
	return nil
}

// unknown handles a key that is no field of the struct. One that folds to a field is
// that field to the daemon, and is refused under every option. One whose value is
// null says nothing to any daemon: some clients write every field they know.
func (r *reader) unknown(s *schema, seen *keySet, key string) error {
	if name, ok := s.folded[foldName(key)]; ok {
		return r.fail(CodeWrongCase, "must be written %q", name)
	}
	if !seen.add(key) {
		return r.fail(CodeDuplicateKey, "appears twice")
	}
	kid, err := r.value(nil)
	if err != nil {
		return err
	}
	if kid.kind == nullNode {
		return nil
	}
	if !r.drop {
		return r.fail(CodeUnknownField, "is no field of this request in any API version from 1.%d to 1.%d", MinMinor, MaxMinor)
	}
	r.dropped = append(r.dropped, r.where())
	return nil
}

// keySet finds duplicates without a map as long as there are few keys.
type keySet struct {
	few  [16]string
	n    int
	many map[string]struct{}
}

func (k *keySet) add(key string) bool {
	if k.many == nil {
		for _, s := range k.few[:k.n] {
			if s == key {
				return false
			}
		}
		if k.n < len(k.few) {
			k.few[k.n] = key
			k.n++
			return true
		}
		k.many = make(map[string]struct{}, 4*len(k.few))
		for _, s := range k.few {
			k.many[s] = struct{}{}
		}
	}
	if _, ok := k.many[key]; ok {
		return false
	}
	k.many[key] = struct{}{}
	return true
}
