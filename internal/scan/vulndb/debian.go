package vulndb

import "strings"

// Debian's order is asked for thousands of times per image, and the library's way of
// asking (which parses both sides each time) is 40 times as dear as this one. Texts
// that Debian's policy does not allow stay with the library, so that there is one
// answer; a fuzzer holds the two together.

// debianVersion is a version split as Debian does.
//
// Source: Debian Policy, 5.6.12 "Version".
type debianVersion[T string | []byte] struct{ epoch, upstream, revision T }

// splitDebian splits a version. ok is false for one that the policy does not allow.
func splitDebian[T string | []byte](s T) (v debianVersion[T], ok bool) {
	colon, dash := -1, -1
	for i := range len(s) {
		switch c := s[i]; {
		case isDigit(c), 'a' <= c|0x20 && c|0x20 <= 'z', c == '.', c == '+', c == '~':
		case c == '-':
			dash = i
		case c == ':' && colon < 0 && dash < 0:
			colon = i
		default:
			return v, false
		}
	}
	end := len(s)
	if dash >= 0 {
		v.revision, end = s[dash+1:], dash
		if len(v.revision) == 0 {
			return v, false
		}
	}
	if colon >= 0 {
		v.epoch = s[:colon]
		if len(v.epoch) == 0 || len(v.epoch) > 9 {
			return v, false
		}
		for i := range len(v.epoch) {
			if !isDigit(v.epoch[i]) {
				return v, false
			}
		}
	}
	v.upstream = s[colon+1 : end]
	return v, len(v.upstream) > 0 && isDigit(v.upstream[0])
}

// compareDebian orders two versions; ok is false if one is not of the allowed form.
func compareDebian(a debianVersion[string], b []byte) (n int, ok bool) {
	w, ok := splitDebian(b)
	if !ok {
		return 0, false
	}
	if n = compareRuns(a.epoch, w.epoch); n != 0 {
		return n, true
	}
	if n = compareRuns(a.upstream, w.upstream); n != 0 {
		return n, true
	}
	return compareRuns(a.revision, w.revision), true
}

// compareRuns compares runs of other characters and of digits in turn.
func compareRuns(a string, b []byte) int {
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		for i < len(a) && !isDigit(a[i]) || j < len(b) && !isDigit(b[j]) {
			x, y := 0, 0
			if i < len(a) {
				x = debianOrder(a[i])
			}
			if j < len(b) {
				y = debianOrder(b[j])
			}
			if x != y {
				return sign(x - y)
			}
			i, j = i+1, j+1
		}
		for i < len(a) && a[i] == '0' {
			i++
		}
		for j < len(b) && b[j] == '0' {
			j++
		}
		first := 0
		for i < len(a) && isDigit(a[i]) && j < len(b) && isDigit(b[j]) {
			if first == 0 {
				first = int(a[i]) - int(b[j])
			}
			i, j = i+1, j+1
		}
		switch {
		case i < len(a) && isDigit(a[i]):
			return 1
		case j < len(b) && isDigit(b[j]):
			return -1
		case first != 0:
			return sign(first)
		}
	}
	return 0
}

// debianOrder is a character's weight: a tilde is before the end, letters before others.
func debianOrder(c byte) int {
	switch {
	case isDigit(c):
		return 0
	case c == '~':
		return -1
	case 'a' <= c|0x20 && c|0x20 <= 'z':
		return int(c)
	}
	return int(c) + 256
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// isDebian reports whether an ecosystem orders versions as Debian does.
func isDebian(ecosystem string) bool {
	base, _, _ := strings.Cut(ecosystem, ":")
	return base == "Debian" || base == "Ubuntu"
}
