package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder reads the nodes of one document. It goes on after an error, so that a
// person sees all that is wrong at once.
type decoder struct {
	file  string
	errs  Errors
	lines map[string]int
	nodes map[string]*yaml.Node // field to its value, for errors found later
	home  map[string]string     // where a field of this kind of document belongs
}

// maxErrors bounds what is kept of a hostile file.
const maxErrors = 100

func (d *decoder) fail(n *yaml.Node, fix, format string, args ...any) {
	e := &Error{File: d.file, Msg: fmt.Sprintf(format, args...), Fix: fix}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	switch {
	case len(d.errs) < maxErrors:
		d.errs = append(d.errs, e)
	case len(d.errs) == maxErrors:
		e.Msg, e.Fix = "too many errors, the rest is not shown", "mend the ones above first"
		d.errs = append(d.errs, e)
	}
}

// failAt reports an error at a field that was read before.
func (d *decoder) failAt(field, fix, format string, args ...any) {
	d.fail(d.nodes[field], fix, format, args...)
}

// field is one key that an object may have.
type field struct {
	name     string
	required bool
	read     func(v *yaml.Node, at string)
}

// checkShape refuses what makes a document mean something else than what a reader
// of it sees, or cost more than its size. It reports whether n can be decoded.
func (d *decoder) checkShape(n *yaml.Node, depth int) bool {
	if depth > maxDepth {
		d.fail(n, "no policy field nests this deep", "nested deeper than %d levels", maxDepth)
		return false
	}
	if n.Kind == yaml.AliasNode {
		d.fail(n, "write the value out", "YAML aliases (*%s) are not accepted in policies", short(n.Value))
		return false
	}
	ok := true
	if n.Anchor != "" {
		d.fail(n, "delete &"+short(n.Anchor)+" and write each value out", "YAML anchors are not accepted in policies")
		ok = false
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.fail(n, "delete the tag", "YAML tags (%s) are not accepted in policies", short(n.Tag))
		ok = false
	}
	for _, c := range n.Content {
		ok = d.checkShape(c, depth+1) && ok
	}
	return ok
}

// pairs calls f for each key of a mapping, in order, and reports keys that are not
// text, merge keys and keys that are there twice.
func (d *decoder) pairs(n *yaml.Node, at string, f func(k, v *yaml.Node)) bool {
	if n.Kind != yaml.MappingNode {
		d.fail(n, "indent its fields below it", "%s must be a mapping, got %s", at, describe(n))
		return false
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch first, dup := seen[k.Value]; {
		case k.Kind == yaml.ScalarNode && k.Tag == "!!merge":
			d.fail(k, "write the fields out", "YAML merge keys (<<) are not accepted in policies")
		case k.Kind != yaml.ScalarNode || k.Tag != "!!str":
			d.fail(k, "quote it if it is meant as text", "a key of %s must be text, got %s", at, describe(k))
		case dup:
			d.fail(k, "keep one of the two", "%s is set twice in %s, first at line %d", quote(k.Value), at, first)
		default:
			seen[k.Value] = k.Line
			f(k, v)
		}
	}
	return true
}

// object reads a mapping whose keys are known.
func (d *decoder) object(n *yaml.Node, at string, fields []field) {
	got := map[string]bool{}
	ok := d.pairs(n, at, func(k, v *yaml.Node) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == k.Value })
		if i < 0 {
			d.unknownField(k, at, fields)
			return
		}
		got[k.Value] = true
		name := joinField(at, k.Value)
		d.lines[strings.TrimPrefix(name, "spec.")] = k.Line
		d.nodes[name] = v
		if isNull(v) {
			d.fail(k, "give it a value or delete the line", "%s has no value", name)
			return
		}
		fields[i].read(v, name)
	})
	for _, f := range fields {
		if ok && f.required && !got[f.name] {
			d.fail(n, "add "+f.name+":", "%s is missing", joinField(at, f.name))
		}
	}
}

func (d *decoder) unknownField(k *yaml.Node, at string, fields []field) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	home, known := d.home[k.Value]
	guess, near := closest(k.Value, names)
	fix := "use one of " + strings.Join(names, ", ")
	switch {
	case known && home != listed(at):
		fix = "move it to " + home
	case near:
		fix = "did you mean " + guess + "?"
	}
	d.fail(k, fix, "unknown field %s in %s", quote(k.Value), at)
}

// listed returns the name of a field without the numbers of list entries.
func listed(at string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(at, "[")
		if b.WriteString(before); !ok {
			return b.String()
		}
		_, at, _ = strings.Cut(rest, "]")
		b.WriteString("[]")
	}
}

// joinField names a field for a message; "document" is the top, which has no name.
func joinField(at, name string) string {
	if at == topLevel {
		return name
	}
	return at + "." + name
}

func (d *decoder) str(dst *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		switch {
		case n.Kind != yaml.ScalarNode:
			d.fail(n, "", "%s must be text, got %s", at, describe(n))
		case n.Tag != "!!str":
			d.fail(n, "put it in quotes: "+strconv.Quote(short(n.Value)), "%s must be text, got %s", at, describe(n))
		case n.Value == "":
			d.fail(n, "give it a value or delete the line", "%s is empty", at)
		default:
			*dst = n.Value
		}
	}
}

// enum reads one of a few words.
func (d *decoder) enum(words []string, set func(string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && slices.Contains(words, n.Value) {
			set(n.Value)
			return
		}
		fix := "write " + oneOf(words)
		if g, ok := closest(n.Value, words); ok && n.Kind == yaml.ScalarNode {
			fix = "did you mean " + g + "?"
		}
		d.fail(n, fix, "%s must be %s, got %s", at, oneOf(words), describe(n))
	}
}

func (d *decoder) value(dst *Value, vs ...Value) func(*yaml.Node, string) {
	words := make([]string, len(vs))
	for i, v := range vs {
		words[i] = string(v)
	}
	return d.enum(words, func(s string) { *dst = Value(s) })
}

func (d *decoder) boolean(dst *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.fail(n, "write true or false", "%s must be true or false, got %s", at, describe(n))
			return
		}
		*dst = strings.EqualFold(n.Value, "true")
	}
}

func (d *decoder) integer(dst *int, lo, hi int) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		// ParseInt in base 10 only: 010 and 0x10 mean different things to different readers.
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || v < int64(lo) || v > int64(hi) ||
			strconv.FormatInt(v, 10) != n.Value {
			d.fail(n, "", "%s must be a whole number from %d to %d, got %s", at, lo, hi, describe(n))
			return
		}
		*dst = int(v)
	}
}

func (d *decoder) duration(dst *time.Duration, lo, hi time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		v, err := time.ParseDuration(n.Value)
		switch {
		case n.Kind == yaml.ScalarNode && n.Tag == "!!int":
			d.fail(n, "write the unit: "+short(n.Value)+"s", "%s has no unit", at)
		case n.Kind != yaml.ScalarNode || n.Tag != "!!str" || err != nil:
			d.fail(n, "write a number with a unit, such as 30s or 2m", "%s must be a duration, got %s", at, describe(n))
		case v < lo || v > hi:
			d.fail(n, "", "%s must be from %s to %s, got %s", at, lo, hi, quote(n.Value))
		default:
			*dst = v
		}
	}
}

// stringMap reads a mapping of text to text whose keys are the operator's own.
func (d *decoder) stringMap(dst *map[string]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		m := map[string]string{}
		d.pairs(n, at, func(k, v *yaml.Node) {
			if k.Value == "" {
				d.fail(k, "", "a key of %s is empty", at)
				return
			}
			if v.Kind != yaml.ScalarNode || v.Tag != "!!str" {
				d.fail(v, "put the value in quotes", "%s[%s] must be text, got %s", at, short(k.Value), describe(v))
				return
			}
			m[k.Value] = v.Value
		})
		if len(m) > 0 {
			*dst = m
		}
	}
}

// list reads a non-empty sequence of texts without repetition; add parses one and
// returns what is wrong with it.
func (d *decoder) list(limit int, whenEmpty string, add func(s string) (msg, fix string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		switch {
		case n.Kind != yaml.SequenceNode:
			d.fail(n, "write it as a list: one \"- entry\" a line", "%s must be a list, got %s", at, describe(n))
			return
		case len(n.Content) == 0:
			d.fail(n, "delete the field or fill the list", "%s is an empty list: %s", at, whenEmpty)
			return
		case len(n.Content) > limit:
			d.fail(n, "", "%s has %d entries, more than %d", at, len(n.Content), limit)
			return
		}
		seen := make(map[string]int, len(n.Content))
		for i, c := range n.Content {
			where := fmt.Sprintf("%s[%d]", at, i)
			var s string
			before := len(d.errs)
			if d.str(&s)(c, where); len(d.errs) > before || s == "" {
				continue
			}
			if first, dup := seen[s]; dup {
				d.fail(c, "delete one of the two", "%s: %s is listed twice, first at line %d", where, quote(s), first)
				continue
			}
			seen[s] = c.Line
			if msg, fix := add(s); msg != "" {
				d.fail(c, fix, "%s: %s", where, msg)
			}
		}
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe says what a node is, for "want this, got that".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return "nothing"
		case "!!int", "!!float":
			return "the number " + short(n.Value)
		case "!!bool":
			return "the boolean " + short(n.Value)
		}
		return quote(n.Value)
	}
	return "something else"
}

func quote(s string) string { return strconv.Quote(short(s)) }

// short keeps hostile text from flooding a terminal.
func short(s string) string {
	const limit = 120
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}
