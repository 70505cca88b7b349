package sbom

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// purl is a package URL, taken apart. Namespace and Name are decoded.
type purl struct {
	Type, Namespace, Name, Version string
	Qualifiers                     map[string]string
}

// maxQualifiers bounds the qualifiers of a package URL.
const maxQualifiers = 32

var errPURL = errors.New("it is no package URL")

// parsePURL reads a package URL from its right end to its left, as
// https://github.com/package-url/purl-spec/blob/main/PURL-SPECIFICATION.rst says. It is our
// own since the scanner links nothing that links net.
func parsePURL(text string) (purl, error) {
	if len(text) > inventory.MaxText {
		return purl{}, fmt.Errorf("%w: it has more than %d bytes", errPURL, inventory.MaxText)
	}
	rest, ok := strings.CutPrefix(text, "pkg:")
	if !ok {
		return purl{}, fmt.Errorf("%w: it does not begin with pkg", errPURL)
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	var p purl
	if p.Type, rest, ok = strings.Cut(strings.Trim(rest, "/"), "/"); !ok || p.Type == "" {
		return purl{}, fmt.Errorf("%w: it has no type or no name", errPURL)
	}
	p.Type = strings.ToLower(p.Type)
	var err error
	// An @ before the last slash is the scope of an npm package that was not encoded.
	if i := strings.LastIndexByte(rest, '@'); i > strings.LastIndexByte(rest, '/') {
		if p.Version, err = unescape(rest[i+1:]); err != nil {
			return purl{}, err
		}
		rest = rest[:i]
	}
	var parts []string
	for part := range strings.SplitSeq(strings.Trim(rest, "/"), "/") {
		if part == "" {
			continue
		}
		if part, err = unescape(part); err != nil {
			return purl{}, err
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 || parts[len(parts)-1] == "" {
		return purl{}, fmt.Errorf("%w: it has no name", errPURL)
	}
	p.Name = parts[len(parts)-1]
	p.Namespace = strings.Join(parts[:len(parts)-1], "/")
	p.Qualifiers, err = qualifiers(query)
	return p, err
}

func qualifiers(query string) (map[string]string, error) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key == "" || value == "" {
			continue
		}
		value, err := unescape(value)
		if err != nil {
			return nil, err
		}
		key = strings.ToLower(key)
		if _, twice := out[key]; twice || len(out) >= maxQualifiers {
			return nil, fmt.Errorf("%w: a qualifier is there twice, or there are too many", errPURL)
		}
		out[key] = value
	}
	return out, nil
}

// unescape decodes percent signs, and nothing else: a plus is a plus.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return sound(s)
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("%w: a percent sign that encodes nothing", errPURL)
		}
		hi, lo := digit(s[i+1]), digit(s[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("%w: a percent sign that encodes nothing", errPURL)
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return sound(b.String())
}

func sound(s string) (string, error) {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("%w: it is no UTF-8", errPURL)
	}
	return s, nil
}

func digit(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }
