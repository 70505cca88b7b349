package inventory

import (
	"encoding/binary"
	"fmt"
)

// Lend is what the scanner asks its caller for where it may not look itself: to open, for reading,
// one thing below a directory of its job that is another user's alone. It has no capability that
// would let it. A question is one message of a socket; so is the answer, an error of the kernel (0:
// none) and, without one, a descriptor: of a regular file or a directory, or one of a symbolic link
// that opens nothing (open(2), O_PATH).
type Lend struct {
	// Input counts the inputs of the job, from 0.
	Input int
	// Path is below it; "." is the directory itself.
	Path string
}

// Sizes of messages in bytes, of a question at most.
const (
	MaxLend    = 2 + MaxText
	LendAnswer = 4
)

// Append appends the question's message to b.
func (l Lend) Append(b []byte) ([]byte, error) {
	if l.Input < 0 || l.Input > MaxLayers || l.Path == "" || len(l.Path) > MaxText {
		return nil, fmt.Errorf("input %d, a path of %d bytes: %w", l.Input, len(l.Path), ErrTooLarge)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(l.Input)), l.Path...), nil
}

// ReadLend reads a question's message, as bytes of an enemy.
func ReadLend(b []byte) (Lend, error) {
	if len(b) <= 2 || len(b) > MaxLend {
		return Lend{}, fmt.Errorf("a question of the scanner of %d bytes", len(b))
	}
	return Lend{Input: int(binary.BigEndian.Uint16(b)), Path: string(b[2:])}, nil
}
