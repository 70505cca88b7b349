package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"time"
)

// A line of a segment is, byte for byte and with no space anywhere else,
//
//	{"h":"<64 hex>","r":<record>}     an event
//	{"h":"<64 hex>","s":<header>}     the first line of a segment
//
// where h = SHA-256(previous h, 32 bytes || the letter r or s || the bytes of the
// object). The letter keeps a record from being passed off as a header. The form is
// strict so that two readers can never disagree about what was hashed.
const (
	tagRecord  = 'r'
	tagSegment = 's'

	linePrefix = `{"h":"`
	lineMiddle = `","r":` // with either tag
	lineMinLen = len(linePrefix) + 2*sha256.Size + len(lineMiddle) + len("{}") + len("}")
)

// SegmentSchema is the version of a segment's header and of the chain.
const SegmentSchema = "belay.dev/journal/v1"

// maxLine bounds a line when read. The writer stays far below it: see
// [MaxRecordBytes] and trimTexts.
const maxLine = 1 << 20

type digest [sha256.Size]byte

func (d digest) String() string { return hex.EncodeToString(d[:]) }

// parseDigest accepts lower case only: one digest has one spelling.
func parseDigest(s []byte) (d digest, ok bool) {
	if len(s) != 2*len(d) {
		return d, false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return d, false
		}
	}
	_, err := hex.Decode(d[:], s)
	return d, err == nil
}

// header is the object of a segment's first line.
type header struct {
	Schema  string    `json:"schema"`
	Ring    string    `json:"ring"`
	Segment uint64    `json:"segment"`
	Prev    string    `json:"prev"` // last h of the segment before; 64 zeros: there was none
	BootID  string    `json:"bootId"`
	Created time.Time `json:"created"`
}

// chain computes digests without allocating. Not safe for concurrent use.
type chain struct{ h hash.Hash }

func newChain() chain { return chain{sha256.New()} }

func (c chain) link(prev digest, tag byte, body []byte) (d digest) {
	c.h.Reset()
	c.h.Write(prev[:])
	c.h.Write([]byte{tag})
	c.h.Write(body)
	c.h.Sum(d[:0])
	return d
}

// lineLen returns the length of a line with a body of n bytes, line feed included.
func lineLen(n int) int { return lineMinLen - len("{}") + n + 1 }

func appendLine(dst []byte, d digest, tag byte, body []byte) []byte {
	dst = append(dst, linePrefix...)
	dst = hex.AppendEncode(dst, d[:])
	dst = append(dst, '"', ',', '"', tag, '"', ':')
	dst = append(dst, body...)
	return append(dst, '}', '\n')
}

// parseLine takes a line without its line feed apart. body aliases line.
func parseLine(line []byte) (d digest, tag byte, body []byte, ok bool) {
	if len(line) < lineMinLen || string(line[:len(linePrefix)]) != linePrefix {
		return d, 0, nil, false
	}
	rest := line[len(linePrefix):]
	if d, ok = parseDigest(rest[:2*len(d)]); !ok {
		return d, 0, nil, false
	}
	rest = rest[2*len(d):]
	tag = rest[3]
	if tag != tagRecord && tag != tagSegment || string(rest[:3]) != lineMiddle[:3] || string(rest[4:6]) != lineMiddle[4:] {
		return d, 0, nil, false
	}
	body, last := rest[6:len(rest)-1], rest[len(rest)-1]
	if last != '}' || body[0] != '{' || !json.Valid(body) {
		return d, 0, nil, false
	}
	return d, tag, body, true
}
