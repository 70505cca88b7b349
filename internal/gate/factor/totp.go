package factor

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"time"
)

const (
	// secretBytes is the length that RFC 4226, section 4, recommends: that of the hash.
	secretBytes = 20
	// Digits is the length of a code.
	Digits = 6
	// Period is how long a code is shown.
	Period = 30 * time.Second
	// skewSteps is how many periods a clock may be ahead or behind: RFC 6238, section 5.2,
	// recommends one.
	skewSteps = 1
)

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// step returns the number of the period that a time is in; RFC 6238, section 4.2.
func step(at time.Time) int64 { return at.Unix() / int64(Period/time.Second) }

// codeAt computes a one-time password: HOTP of RFC 4226, section 5.3, of the period's number,
// with HMAC-SHA-1, which is what every authenticator has.
func codeAt(secret []byte, step int64, digits int) string {
	mac := hmac.New(sha1.New, secret)
	_ = binary.Write(mac, binary.BigEndian, step) // a hash takes all
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	mod := uint32(1)
	for range digits {
		mod *= 10
	}
	return fmt.Sprintf("%0*d", digits, n%mod)
}

// CodeAt returns the code that an authenticator with this secret, as base32, shows at a time.
//
// Errors: if the secret is not base32.
func CodeAt(secret string, at time.Time) (string, error) {
	b, err := base32Text.DecodeString(secret)
	if err != nil {
		return "", fmt.Errorf("the secret is not base32: %w", err)
	}
	return codeAt(b, step(at), Digits), nil
}

// matchStep returns the period whose code was given, within the skew of now. All are
// compared, each in constant time.
func matchStep(secret []byte, code string, now time.Time) (int64, bool) {
	found, at := 0, int64(0)
	for d := int64(-skewSteps); d <= skewSteps; d++ {
		s := step(now) + d
		same := subtle.ConstantTimeCompare([]byte(codeAt(secret, s, Digits)), []byte(code))
		at = int64(subtle.ConstantTimeSelect(same, int(s), int(at)))
		found |= same
	}
	return at, found == 1
}

// isCode tells whether text has the form of a one-time password; else it is taken for a
// recovery code.
func isCode(text string) bool {
	if len(text) != Digits {
		return false
	}
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: crypto/rand
	return b
}

// keyURI is what authenticators read from a QR code.
//
// Source: https://github.com/google/google-authenticator/wiki/Key-Uri-Format.
func keyURI(issuer, account, secret string) string {
	u := url.URL{
		Scheme: "otpauth", Host: "totp", Path: "/" + issuer + ":" + account,
		RawQuery: "secret=" + secret + "&issuer=" + url.PathEscape(issuer),
	}
	return u.String()
}
