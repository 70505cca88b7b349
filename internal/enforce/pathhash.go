package enforce

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// sip is the Go twin of struct bl_sip in bpf/pure/path.h, where the construction is
// explained: SipHash-1-3 with a 128-bit result over the components of a path.
type sip [4]uint64

func newSip(k0, k1 uint64) sip {
	return sip{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
}

func (s *sip) round() {
	v0, v1, v2, v3 := s[0], s[1], s[2], s[3]
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	s[0], s[1], s[2], s[3] = v0, v1, v2, v3
}

func (s *sip) word(w uint64) {
	s[3] ^= w
	s.round()
	s[0] ^= w
}

// name takes in one component of 1 to 255 bytes.
func (s *sip) name(n string) {
	var buf [256]byte
	length := copy(buf[:255], n)
	for i := 0; i < length; i += 8 {
		s.word(binary.LittleEndian.Uint64(buf[i:]))
	}
	s.word(uint64(length) | 0x2f<<56)
}

func (s sip) sum() [2]uint64 {
	var h [2]uint64
	s[2] ^= 0xee
	s.round()
	s.round()
	s.round()
	h[0] = s[0] ^ s[1] ^ s[2] ^ s[3]
	s[1] ^= 0xdd
	s.round()
	s.round()
	s.round()
	h[1] = s[0] ^ s[1] ^ s[2] ^ s[3]
	return h
}

// hashPath returns the hash of an absolute, clean path; "/" is the root directory.
func hashPath(k0, k1 uint64, path string) [2]uint64 {
	s := newSip(k0, k1)
	for c := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if c != "" {
			s.name(c)
		}
	}
	return s.sum()
}
