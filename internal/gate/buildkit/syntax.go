package buildkit

import (
	"fmt"
	"strings"

	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/protobuf/proto"
)

// dockerfileDir is the name under which the engine's own frontend asks the client for the
// Dockerfile (github.com/moby/buildkit, frontend/dockerui).
const dockerfileDir = "dockerfile"

// maxHeads bounds the files of one transfer whose beginnings are looked at.
const maxHeads = 1 << 12

// plainFiles changes a transfer of files so that none of them names a frontend. The daemon
// takes a file's first lines for directives; `# syntax=` in one has it run another frontend.
// The equals sign of such a line becomes a space: the line is a comment then, the file is as
// long as before.
type plainFiles struct {
	heads map[uint32]*head // by the file's number in the transfer
}

// packet changes one message of the client's.
func (p *plainFiles) packet(raw []byte) ([]byte, error) {
	var m fstypes.Packet
	if err := decode(raw, &m); err != nil {
		return nil, err
	}
	if m.Type != fstypes.Packet_PACKET_DATA || len(m.Data) == 0 {
		return raw, nil
	}
	h := p.heads[m.ID]
	if h == nil {
		if len(p.heads) >= maxHeads {
			return nil, fmt.Errorf("%w: more than %d files beside a Dockerfile", ErrMessage, maxHeads)
		}
		if p.heads == nil {
			p.heads = map[uint32]*head{}
		}
		h = &head{}
		p.heads[m.ID] = h
	}
	if err := h.scan(m.Data); err != nil {
		return nil, err
	}
	return proto.Marshal(&m)
}

// head follows the beginning of a file: lines that are empty or comments. It takes for a
// directive whatever any version of BuildKit takes for one (frontend/dockerfile/parser,
// directives.go: "#" and "//", any space, the word in any case; a byte order mark and a line
// "#!" before), and a little more.
type head struct {
	state headState
	word  [len("syntax") + 1]byte // letters and digits of the line so far, one too many at most
	n     int
}

type headState uint8

const (
	lineStart headState = iota // only space was seen in this line
	inWord                     // in a comment, before its first equals sign
	inRest                     // in a comment, after it
	inBody                     // behind the head
)

// scan follows b, and changes the equals sign of a syntax line in it.
func (h *head) scan(b []byte) error {
	for i, c := range b {
		switch {
		case h.state == inBody:
			return nil
		case c == '\n':
			h.state, h.n = lineStart, 0
		case h.state == lineStart:
			switch {
			case c == '#' || c == '/':
				h.state = inWord
			case c == '{': // a syntax in JSON, or no Dockerfile at all
				return fmt.Errorf("%w: a Dockerfile that begins with {: the frontend that it may name is not allowed", ErrMessage)
			case c > ' ' && c < 0x80: // bytes of no ASCII may be a byte order mark or a space
				h.state = inBody
			}
		case h.state == inWord && c == '=':
			if h.n == len("syntax") && strings.EqualFold(string(h.word[:h.n]), "syntax") {
				b[i] = ' '
			}
			h.state = inRest
		case h.state == inWord && isAlnum(c) && h.n < len(h.word):
			h.word[h.n] = c
			h.n++
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
