package factor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	magic = "BELAYF1\n"
	// maxFileBytes is more than ten times the longest record.
	maxFileBytes = 16 << 10
	headBytes    = len(magic) + keyIDBytes
)

var (
	errFormat   = errors.New("it is not a file of enrolment, or damaged")
	errOtherKey = errors.New("it was sealed with another key")
	errForged   = errors.New("it was changed, or is another user's")
)

// record is what is kept of one user.
type record struct {
	UID        uint32    `json:"uid"`
	Secret     []byte    `json:"secret"`
	Enrolled   time.Time `json:"enrolled"`
	EnrolledBy uint32    `json:"enrolledBy"`
	// LastStep is the period of the last code that was taken: it and all before are used up.
	LastStep int64    `json:"lastStep"`
	Salt     []byte   `json:"salt"`
	Recovery [][]byte `json:"recovery"` // hashes of the codes that are left
	// Fails counts refused codes for the delays. Refused counts those since the last that
	// was taken, for the user to see.
	Fails       int       `json:"fails"`
	Refused     int       `json:"refused"`
	LockedUntil time.Time `json:"lockedUntil"`
}

// clone returns a copy that shares nothing that is changed.
func (r *record) clone() *record {
	c := *r
	c.Recovery = append([][]byte(nil), r.Recovery...)
	return &c
}

// seal encrypts a record: magic, the key's name, nonce, ciphertext. The head and the uid are
// authenticated, so that a file is of no use under another name.
func (k *Key) seal(r *record) ([]byte, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode an enrolment: %w", err)
	}
	out := append([]byte(magic), k.id[:]...)
	nonce := random(k.aead.NonceSize())
	ad := additional(out, r.UID)
	return k.aead.Seal(append(out, nonce...), nonce, plain, ad), nil
}

// open decrypts and checks the record of a user.
func (k *Key) open(uid uint32, file []byte) (*record, error) {
	n := k.aead.NonceSize()
	switch {
	case len(file) > maxFileBytes, len(file) < headBytes+n+k.aead.Overhead(), !bytes.HasPrefix(file, []byte(magic)):
		return nil, errFormat
	case !bytes.Equal(file[len(magic):headBytes], k.id[:]):
		return nil, errOtherKey
	}
	head, nonce, box := file[:headBytes:headBytes], file[headBytes:headBytes+n], file[headBytes+n:]
	plain, err := k.aead.Open(nil, nonce, box, additional(head, uid))
	if err != nil {
		return nil, errForged
	}
	return parseRecord(uid, plain)
}

func additional(head []byte, uid uint32) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(head), uid)
}

// parseRecord reads a record strictly. Only this package writes any.
func parseRecord(uid uint32, plain []byte) (*record, error) {
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	r := new(record)
	if err := dec.Decode(r); err != nil {
		return nil, errFormat // whose text could quote the secret
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errFormat
	}
	ok := r.UID == uid && len(r.Secret) == secretBytes && len(r.Salt) == saltBytes && len(r.Recovery) <= recoveryCodes &&
		r.LastStep >= 0 && r.Fails >= 0 && r.Fails <= maxFails && r.Refused >= 0 && !r.Enrolled.IsZero()
	for _, h := range r.Recovery {
		ok = ok && len(h) == 32
	}
	if !ok {
		return nil, errFormat
	}
	return r, nil
}
