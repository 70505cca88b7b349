package policy

import (
	"path"
	"strconv"
	"strings"
)

// matchText reports whether pattern names all of s: * is any text, dots and slashes
// included. It does not allocate; its time is at most len(pattern) * len(s).
func matchText(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func matchAnyText(patterns []string, s string) bool {
	for _, p := range patterns {
		if matchText(p, s) {
			return true
		}
	}
	return false
}

func isGlob(s string) bool { return strings.Contains(s, "*") }

// checkTextGlob says what keeps s from being a name or a glob of names.
func checkTextGlob(s string) (msg, fix string) {
	switch {
	case len(s) > maxGlob:
		return "the pattern is too long", ""
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return quote(s) + " has a control character", "delete it"
	case strings.ContainsAny(s, "?\\") || globBrackets(s):
		return quote(s) + " has a wildcard other than *", "use * for any text"
	}
	return "", ""
}

func checkImagePattern(s string) (msg, fix string) {
	if _, digest, ok := strings.Cut(s, "@"); ok {
		return checkDigest(digest)
	}
	return checkGlob(s)
}

func checkRuleName(s string) (msg, fix string) {
	if !isDNSLabel(s) {
		return quote(s) + " is not a DNS label", "use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
	}
	return "", ""
}

func checkContainerID(s string) (msg, fix string) {
	if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return quote(s) + " is not a container's full id", "write all 64 hex digits, as docker inspect shows"
	}
	return "", ""
}

// checkDefaultUser accepts what is surely not root: a number above 0, with a group if
// wanted. What a name stands for is the image's choice.
func checkDefaultUser(s string) (msg, fix string) {
	user, group, hasGroup := strings.Cut(s, ":")
	if isUID(user) && (!hasGroup || isUID(group)) {
		return "", ""
	}
	return quote(s) + " is not surely a user other than root", `write numbers: "65534:65534"`
}

// isUID reports whether s is a number from 1 to what engines accept at most, 2^31-1
// (github.com/moby/sys/user), in its one spelling.
func isUID(s string) bool {
	n, err := strconv.ParseInt(s, 10, 32)
	return err == nil && n > 0 && strconv.FormatInt(n, 10) == s
}

// checkRoot accepts an absolute, clean directory of the host.
func checkRoot(s string) (msg, fix string) {
	if strings.ContainsAny(s, "*?") || globBrackets(s) {
		return quote(s) + " is a pattern; a root is one directory, with all below it", "write the directory"
	}
	return checkPath(s)
}

// under reports whether file is dir or lies below it; both clean and absolute.
func under(dir, file string) bool { return file == dir || below(dir, file) }

// overlaps reports whether one of the two contains the other.
func overlaps(a, b string) bool { return under(a, b) || under(b, a) }

func isCleanAbs(s string) bool { return strings.HasPrefix(s, "/") && path.Clean(s) == s }
