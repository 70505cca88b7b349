// Package attest reads signed envelopes (DSSE) around statements of in-toto, also within the
// bundles of Sigstore, and verifies them with given public keys.
//
// It owns no state and does no I/O but reading key files. Certificates, transparency logs and
// timestamps are not looked at: a key that was given is the only thing that counts. Row: core.
package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Media types. Sources: DSSE 1.0, envelope.md; in-toto attestation framework, spec/v1; cosign, specs/BUNDLE_SPEC.md.
const (
	TypeEnvelope = "application/vnd.dsse.envelope.v1+json"
	TypeBundle   = "application/vnd.dev.sigstore.bundle." // begins them
	TypeInToto   = "application/vnd.in-toto+json"
)

// Bounds on an envelope and a key file.
const (
	maxSignatures = 64
	maxKeys       = 64
	maxKeyFile    = 64 << 10
	maxSubjects   = 1_000
)

var (
	// ErrNoEnvelope says that a document is no signed envelope.
	ErrNoEnvelope = errors.New("it is no signed envelope (DSSE)")
	// ErrUnverified says that an envelope has no signature of any of the given keys.
	ErrUnverified = errors.New("it has no signature of any of the keys that were given")
)

// Key verifies envelopes.
type Key struct {
	// ID is the digest of the key in DER, as openssl pkey -pubin -outform der | sha256sum has it.
	ID     string
	verify func(message, signature []byte) bool
}

// ReadKeys reads public keys in PEM ("PUBLIC KEY"), ECDSA or Ed25519, one or more a file.
//
// Errors name the file.
func ReadKeys(paths ...string) ([]Key, error) {
	var out []Key
	for _, p := range paths {
		b, err := readKeyFile(p)
		if err != nil {
			return nil, err
		}
		before := len(out)
		for {
			var block *pem.Block
			if block, b = pem.Decode(b); block == nil {
				break
			}
			k, err := parseKey(block)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			out = append(out, k)
		}
		if len(out) == before || len(bytes.TrimSpace(b)) > 0 {
			return nil, fmt.Errorf("%s: want public keys in PEM alone, \"BEGIN PUBLIC KEY\"", p)
		}
	}
	if len(out) > maxKeys {
		return nil, fmt.Errorf("%d keys, more than %d", len(out), maxKeys)
	}
	return out, nil
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func parseKey(block *pem.Block) (Key, error) {
	if block.Type != "PUBLIC KEY" {
		return Key{}, fmt.Errorf("it has %q, want \"PUBLIC KEY\"", block.Type)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("read the public key: %w", err)
	}
	sum := sha256.Sum256(block.Bytes)
	k := Key{ID: "sha256:" + hex.EncodeToString(sum[:])}
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		k.verify = func(m, sig []byte) bool { return ed25519.Verify(pub, m, sig) }
	case *ecdsa.PublicKey:
		k.verify = func(m, sig []byte) bool { return verifyECDSA(pub, m, sig) }
	default:
		return Key{}, fmt.Errorf("the key is a %T, want ECDSA or Ed25519", pub)
	}
	return k, nil
}

// verifyECDSA takes SHA-256, which cosign signs with whatever the curve, and the hash of the curve's size.
func verifyECDSA(pub *ecdsa.PublicKey, m, sig []byte) bool {
	short := sha256.Sum256(m)
	if ecdsa.VerifyASN1(pub, short[:], sig) {
		return true
	}
	switch size := pub.Curve.Params().BitSize; {
	case size > 384:
		long := sha512.Sum512(m)
		return ecdsa.VerifyASN1(pub, long[:], sig)
	case size > 256:
		long := sha512.Sum384(m)
		return ecdsa.VerifyASN1(pub, long[:], sig)
	}
	return false
}

// Envelope is an envelope whose signatures were looked at as far as there were keys.
type Envelope struct {
	Payload []byte // a statement of in-toto
	// Key is the ID of the key that signed it; empty: no key was given, and nothing is known of it.
	Key string
}

// envelope is DSSE's form. Source: secure-systems-lab/dsse, envelope.md.
type envelope struct {
	PayloadType string `json:"payloadType"`
	Payload     string `json:"payload"`
	Signatures  []struct {
		Sig string `json:"sig"`
	} `json:"signatures"`
}

// Open reads an envelope, or a bundle around one. With keys one of them must have signed it.
//
// Errors: [ErrNoEnvelope]; [ErrUnverified]; a payload of another type.
func Open(b []byte, keys []Key) (*Envelope, error) {
	var doc struct {
		envelope
		Inner *envelope `json:"dsseEnvelope"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoEnvelope, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is something behind it", ErrNoEnvelope)
	}
	e := &doc.envelope
	if doc.Inner != nil {
		if e.Payload != "" || e.PayloadType != "" {
			return nil, fmt.Errorf("%w, but one within another", ErrNoEnvelope)
		}
		e = doc.Inner
	}
	if e.PayloadType == "" || e.Payload == "" {
		return nil, ErrNoEnvelope
	}
	if e.PayloadType != TypeInToto {
		return nil, fmt.Errorf("the envelope holds %.100q, want %s", e.PayloadType, TypeInToto)
	}
	payload, err := decode64(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("the envelope's payload: %w", err)
	}
	out := &Envelope{Payload: payload}
	if len(keys) == 0 {
		return out, nil
	}
	if len(e.Signatures) > maxSignatures {
		return nil, fmt.Errorf("the envelope has %d signatures, more than %d", len(e.Signatures), maxSignatures)
	}
	message := pae(e.PayloadType, payload)
	for _, s := range e.Signatures {
		sig, err := decode64(s.Sig)
		if err != nil {
			continue // of somebody else, in another form
		}
		for _, k := range keys {
			if k.verify(message, sig) {
				out.Key = k.ID
				return out, nil
			}
		}
	}
	return nil, ErrUnverified
}

// pae is what is signed. Source: DSSE, protocol.md, "Signature Definition".
func pae(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// decode64 takes the standard alphabet or that of URLs, as DSSE demands.
func decode64(s string) ([]byte, error) {
	if b, err := base64.StdEncoding.DecodeString(s); err == nil {
		return b, nil
	}
	return base64.URLEncoding.DecodeString(s)
}

// Statement is a statement of in-toto about images and the like.
type Statement struct {
	PredicateType string
	Digests       map[string]bool // sha256:..., of what it is about
	Predicate     json.RawMessage
}

// ReadStatement reads a statement. Source: in-toto attestation framework, spec/v1/statement.md.
func ReadStatement(b []byte) (*Statement, error) {
	var s struct {
		Type          string          `json:"_type"`
		PredicateType string          `json:"predicateType"`
		Predicate     json.RawMessage `json:"predicate"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read the statement: %w", err)
	}
	if !strings.HasPrefix(s.Type, "https://in-toto.io/Statement/") || s.PredicateType == "" || len(s.Predicate) == 0 {
		return nil, fmt.Errorf("the document of type %.100q is no statement of in-toto", s.Type)
	}
	if len(s.Subject) > maxSubjects {
		return nil, fmt.Errorf("the statement is about %d things, more than %d", len(s.Subject), maxSubjects)
	}
	out := &Statement{PredicateType: s.PredicateType, Predicate: s.Predicate, Digests: map[string]bool{}}
	for _, sub := range s.Subject {
		if d := sub.Digest["sha256"]; d != "" {
			out.Digests["sha256:"+d] = true
		}
	}
	return out, nil
}

// About fails unless the statement is about one of the digests.
func (s *Statement) About(digests ...string) error {
	for _, d := range digests {
		if s.Digests[d] {
			return nil
		}
	}
	return fmt.Errorf("the statement says that it is not about %s, to which it is attached", strings.Join(digests, " or "))
}
