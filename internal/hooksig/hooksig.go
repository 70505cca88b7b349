// Package hooksig signs what is sent to webhooks, so that a receiver knows who sent it and
// when. It owns no state. Row: vocabulary; standard library only.
package hooksig

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// The fields of a delivery.
const (
	// HeaderSignature is "sha256=" and, in hex, HMAC-SHA256 with the webhook's secret of the value
	// of [HeaderTimestamp], a dot, and the body.
	HeaderSignature = "X-Belay-Signature"
	HeaderTimestamp = "X-Belay-Timestamp" // Unix time of the try, in seconds
	HeaderDelivery  = "X-Belay-Delivery"  // names what is delivered; the same for all tries
)

// Sign returns the value of [HeaderSignature].
func Sign(secret []byte, timestamp string, body []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(timestamp + "."))
	m.Write(body)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}
