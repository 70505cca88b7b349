package factor

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"strings"
)

const (
	recoveryCodes = 10
	// recoveryBytes is the randomness of one code: 80 bits cannot be searched, not even
	// with the file and its key, so that one round of a hash is enough to keep them.
	recoveryBytes = 10
	recoveryChars = 16 // in base32
	saltBytes     = 16
)

// newRecoveryCodes returns codes for people and the hashes that are kept of them.
func newRecoveryCodes(salt []byte) (codes []string, hashes [][]byte) {
	for range recoveryCodes {
		c := strings.ToLower(base32Text.EncodeToString(random(recoveryBytes)))
		hashes = append(hashes, recoveryHash(salt, c))
		codes = append(codes, c[:4]+"-"+c[4:8]+"-"+c[8:12]+"-"+c[12:])
	}
	return codes, hashes
}

func recoveryHash(salt []byte, code string) []byte {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(code))
	return mac.Sum(nil)
}

// plainRecovery takes from a recovery code what people put between its letters.
func plainRecovery(text string) string {
	return strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(text))
}

// matchRecovery returns the index of the hash of a code, -1 if there is none. All are
// compared, each in constant time.
func matchRecovery(salt []byte, hashes [][]byte, text string) int {
	code := plainRecovery(text)
	if len(code) != recoveryChars {
		return -1
	}
	sum, at := recoveryHash(salt, code), -1
	for i, h := range hashes {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum, h), i, at)
	}
	return at
}
