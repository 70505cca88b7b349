// Package secret finds secrets in files: private keys, tokens whose issuers document how
// they begin, and passwords in files that are made to hold them.
//
// It owns no state, does no I/O but on the bytes that it is given, and never returns a
// value: a [Match] says what kind of secret is on which line. It guesses: a secret of a
// form that it does not know passes, and what looks like one may be none. Content is
// hostile: the time taken is linear in its length. Row: core.
package secret

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Match is a secret that was found.
type Match struct {
	// What it is, with no more of its value than its issuer puts before every one.
	What string
	Line int // from 1
	// Weak says that it is of little use alone: a key behind a passphrase, or a hash.
	Weak bool
}

// MaxBytes bounds a file that is searched, and maxMatches what is told of one.
const (
	MaxBytes   = 4 << 20
	maxMatches = 16
)

// packaged are folders of packages, whose files are published anyway: keys and tokens in
// them are examples and tests. What lies in usr is of the distribution, but local and src.
var packaged = []string{
	"bin/", "boot/", "dev/", "lib/", "lib32/", "lib64/", "libx32/", "proc/", "sbin/", "sys/", "usr/",
	"var/cache/", "var/lib/apt/", "var/lib/dpkg/", "var/lib/rpm/", "nix/store/", "etc/ssl/certs/", "etc/pki/ca-trust/",
}

// own are folders below the former that hold what is no distribution's.
var own = []string{"usr/local/", "usr/src/", "usr/share/nginx/html/"}

// foreign are folders within those again that hold packages of languages.
var foreign = []string{"usr/local/lib/", "usr/local/lib64/", "usr/local/go/", "usr/local/include/", "usr/local/share/"}

// foreignParts are names of folders with packages of languages, wherever they lie.
var foreignParts = []string{"node_modules", "site-packages", "dist-packages", "gems", "testdata"}

// opaqueEnds are endings of names of files that are no text.
var opaqueEnds = []string{
	".7z", ".a", ".bz2", ".class", ".db", ".eot", ".gif", ".gz", ".ico", ".jar", ".jpeg", ".jpg", ".mo", ".mp3", ".mp4", ".o", ".otf",
	".pdf", ".png", ".pyc", ".so", ".svg", ".tgz", ".ttf", ".war", ".webp", ".woff", ".woff2", ".xz", ".zip", ".zst",
}

// Wants reports whether a file at a path, from the image's root without a leading slash,
// is of those that are searched; for any size.
func Wants(name string) bool {
	has := func(list []string) bool {
		return slices.ContainsFunc(list, func(dir string) bool { return strings.HasPrefix(name, dir) })
	}
	if has(packaged) && (!has(own) || has(foreign)) {
		return false
	}
	if slices.Contains(opaqueEnds, strings.ToLower(path.Ext(name))) {
		return false
	}
	for dir := range strings.SplitSeq(path.Dir(name), "/") {
		if slices.Contains(foreignParts, dir) {
			return false
		}
	}
	return true
}

// Text reports whether the beginning of a file is that of a text: one without a zero byte.
func Text(head []byte) bool { return bytes.IndexByte(head[:min(len(head), 512)], 0) < 0 }

// Find returns the secrets in a file, by line, at most 16; more reports that there are more.
func Find(name string, b []byte) (list []Match, more bool) {
	if !Text(b) {
		return nil, false
	}
	found := append(keys(b), tokensIn(b)...)
	found = append(found, inPlace(name, b)...)
	slices.SortStableFunc(found, func(x, y hit) int { return x.at - y.at })
	line, from := 1, 0
	for _, h := range found {
		line += bytes.Count(b[from:h.at], []byte("\n"))
		from = h.at
		// One value may be found by its form and by its place.
		if n := len(list); n > 0 && list[n-1].Line == line {
			continue
		}
		if len(list) == maxMatches {
			return list, true
		}
		list = append(list, Match{What: h.what, Line: line, Weak: h.weak})
	}
	return list, false
}

// hit is a secret at a place of the content.
type hit struct {
	what string
	at   int
	weak bool
}

const (
	pemBegin = "-----BEGIN "
	pemKey   = "PRIVATE KEY-----"
	pgpKey   = "PGP PRIVATE KEY BLOCK-----"
	pemEnd   = "-----END "
	// maxLabel and maxKey bound what is looked at behind a beginning, in bytes.
	maxLabel = 64
	maxKey   = 32 << 10
	minKey   = 40 // of Base64: an Ed25519 key in PKCS #8 has 64
)

// keys finds private keys in PEM, also where line ends are written as \n, as in JSON.
// Source: RFC 7468; RFC 9580, section 6.2; OpenSSH, PROTOCOL.key.
func keys(b []byte) []hit {
	var out []hit
	for from := 0; len(out) <= maxMatches; {
		i := bytes.Index(b[from:], []byte(pemBegin))
		if i < 0 {
			return out
		}
		at := from + i
		from = at + len(pemBegin)
		label := b[from:min(from+maxLabel, len(b))]
		end, what := bytes.Index(label, []byte(pemKey)), ""
		switch {
		case bytes.HasPrefix(label, []byte(pgpKey)):
			end, what = len(pgpKey), "a private key of OpenPGP"
		case end < 0:
			continue
		default:
			what = "a private key"
			if kind := strings.TrimSpace(string(label[:end])); slices.Contains(keyKinds, kind) {
				what += " (" + kind + ")"
			} else if kind != "" {
				continue
			}
			end += len(pemKey)
		}
		body := b[from+end : min(from+end+maxKey, len(b))]
		// The next dashes are those of its end, or this is a heading without a key: code that
		// reads keys, or a text about them.
		stop := bytes.Index(body, []byte("-----"))
		if stop < 0 || !bytes.HasPrefix(body[stop:], []byte(pemEnd)) || base64Bytes(body[:stop]) < minKey {
			continue
		}
		body = body[:stop]
		weak := bytes.Contains(label[:end], []byte("ENCRYPTED")) || bytes.Contains(body, []byte("Proc-Type: 4,ENCRYPTED")) ||
			bytes.HasPrefix(label, []byte("OPENSSH")) && !bytes.Contains(joined(body), []byte("AAAABG5vbmU")) // the cipher "none"
		if weak {
			what += ", behind a passphrase"
		}
		out = append(out, hit{what, at, weak})
		from += end + stop
	}
	return out
}

// keyKinds are the words before PRIVATE KEY that there are.
var keyKinds = []string{"RSA", "EC", "DSA", "OPENSSH", "ED25519", "ENCRYPTED", "SSH2 ENCRYPTED"}

// base64Bytes counts the bytes of Base64 in the lines of a key.
func base64Bytes(b []byte) int {
	n := 0
	for line := range bytes.Lines(bytes.ReplaceAll(b, []byte(`\n`), []byte("\n"))) {
		line = bytes.TrimSpace(line)
		if len(line) < 16 || bytes.ContainsFunc(line, func(r rune) bool { return !isBase64(r) }) {
			continue
		}
		n += len(line)
	}
	return n
}

// joined is the head of a key without white space.
func joined(b []byte) []byte {
	return bytes.Join(bytes.Fields(bytes.ReplaceAll(b[:min(len(b), 160)], []byte(`\n`), []byte(" "))), nil)
}

func isBase64(r rune) bool {
	return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("+/=", r)
}

func shown(prefix, what string, n int) string {
	return fmt.Sprintf("%s (%s..., %d characters)", what, prefix, n)
}
