package dockerapi

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

func (r *reader) stringValue(s *schema) (*node, error) {
	text, err := r.str()
	if err != nil {
		return nil, err
	}
	switch {
	case s == nil, s.shape == stringShape, s.shape == anyShape:
		return r.textNode(stringNode, text), nil
	case s.shape == arrayShape && s.lone:
		n := r.node(arrayNode)
		n.kids = []*node{r.textNode(stringNode, text)}
		return n, nil
	}
	return nil, r.mismatch(s, stringNode)
}

// str reads a string that starts at the quote. What Go's decoder would mend (a lone
// surrogate becomes U+FFFD) and what C code would cut (NUL) is refused.
func (r *reader) str() (string, error) {
	start := r.pos + 1
	for i := start; i < len(r.raw); i++ {
		switch c := r.raw[i]; {
		case c == '"':
			r.pos = i + 1
			return r.raw[start:i], nil
		case c == '\\':
			return r.escaped(start, i)
		case c < 0x20:
			return "", r.fail(CodeBadJSON, "has a control character in a string at byte %d", i)
		}
	}
	return "", r.fail(CodeBadJSON, "has a string without end")
}

func (r *reader) escaped(start, i int) (string, error) {
	b := append(make([]byte, 0, 2*(i-start)+32), r.raw[start:i]...)
	for i < len(r.raw) {
		c := r.raw[i]
		switch {
		case c == '"':
			r.pos = i + 1
			return string(b), nil
		case c < 0x20:
			return "", r.fail(CodeBadJSON, "has a control character in a string at byte %d", i)
		case c != '\\':
			b = append(b, c)
			i++
			continue
		}
		if i+1 >= len(r.raw) {
			break
		}
		if e := unescaped(r.raw[i+1]); e != 0 {
			b = append(b, e)
			i += 2
			continue
		}
		code, next, ok := r.unicodeEscape(i)
		if !ok {
			return "", r.fail(CodeBadUTF8, "has a bad escape at byte %d", i)
		}
		b = utf8.AppendRune(b, code)
		i = next
	}
	return "", r.fail(CodeBadJSON, "has a string without end")
}

// unescaped returns what a one-letter escape stands for, 0 if it is none.
func unescaped(c byte) byte {
	switch c {
	case '"', '\\', '/':
		return c
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return 0
}

// unicodeEscape reads \uXXXX at i, and the second half of a surrogate pair.
func (r *reader) unicodeEscape(i int) (code rune, next int, ok bool) {
	code, ok = r.hex4(i)
	if !ok || code == 0 {
		return 0, 0, false
	}
	next = i + 6
	if utf16.IsSurrogate(code) {
		low, ok := r.hex4(next)
		if !ok {
			return 0, 0, false
		}
		code = utf16.DecodeRune(code, low)
		if code == utf8.RuneError {
			return 0, 0, false
		}
		next += 6
	}
	return code, next, true
}

func (r *reader) hex4(i int) (rune, bool) {
	if i+6 > len(r.raw) || r.raw[i] != '\\' || r.raw[i+1] != 'u' {
		return 0, false
	}
	var v rune
	for _, c := range []byte(r.raw[i+2 : i+6]) {
		d := unhex(c)
		if d < 0 {
			return 0, false
		}
		v = v<<4 | rune(d)
	}
	return v, true
}

// number reads a number. Where the daemon's field is an integer only an integer of
// its range is taken, in the one spelling that has no other.
func (r *reader) number(s *schema) (*node, error) {
	start := r.pos
	i, integer, ok := scanNumber(r.raw, start)
	if !ok {
		return nil, r.fail(CodeBadJSON, "is not JSON at byte %d", i)
	}
	text := r.raw[start:i]
	r.pos = i
	if s == nil {
		return r.textNode(numberNode, text), nil
	}
	switch s.shape {
	case intShape:
		if !integer || text == "-0" {
			return nil, r.fail(CodeBadNumber, "is not a whole number")
		}
		var err error
		if s.unsigned {
			_, err = strconv.ParseUint(text, 10, s.bits)
		} else {
			_, err = strconv.ParseInt(text, 10, s.bits)
		}
		if err != nil {
			return nil, r.fail(CodeBadNumber, "is out of the range of %s", s.name)
		}
	case floatShape, anyShape:
		if _, err := strconv.ParseFloat(text, 32); err != nil {
			return nil, r.fail(CodeBadNumber, "is out of range")
		}
	default:
		return nil, r.mismatch(s, numberNode)
	}
	return r.textNode(numberNode, text), nil
}

// scanNumber follows the grammar of RFC 8259 and returns the end of the number.
func scanNumber(raw string, i int) (end int, integer, ok bool) {
	digits := func() bool {
		from := i
		for i < len(raw) && raw[i] >= '0' && raw[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(raw) && raw[i] == '-' {
		i++
	}
	lead := i
	if !digits() || raw[lead] == '0' && i > lead+1 {
		return i, false, false
	}
	integer = true
	if i < len(raw) && raw[i] == '.' {
		i++
		integer = false
		if !digits() {
			return i, false, false
		}
	}
	if i < len(raw) && (raw[i] == 'e' || raw[i] == 'E') {
		i++
		integer = false
		if i < len(raw) && (raw[i] == '+' || raw[i] == '-') {
			i++
		}
		if !digits() {
			return i, false, false
		}
	}
	return i, integer, true
}

const hexDigits = "0123456789abcdef"

// appendJSON writes n in our own encoding: no space, one spelling for each string.
func appendJSON(b []byte, n *node) []byte {
	switch n.kind {
	case stringNode:
		return appendQuoted(b, n.text)
	case arrayNode:
		b = append(b, '[')
		for i, kid := range n.kids {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, kid)
		}
		return append(b, ']')
	case objectNode:
		b = append(b, '{')
		for i, kid := range n.kids {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendQuoted(b, n.keys[i]), ':')
			b = appendJSON(b, kid)
		}
		return append(b, '}')
	case nullNode:
		return append(b, "null"...)
	}
	return append(b, n.text...)
}

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}
