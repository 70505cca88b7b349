package target

import (
	"crypto/sha256"
	"encoding/hex"
)

// chainID folds the digests of layers into the name of the topmost one's content.
func chainID(diffIDs []string) string {
	chain := diffIDs[0]
	for _, d := range diffIDs[1:] {
		sum := sha256.Sum256([]byte(chain + " " + d))
		chain = "sha256:" + hex.EncodeToString(sum[:])
	}
	return chain
}
