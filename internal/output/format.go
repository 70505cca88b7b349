package output

import (
	"fmt"

	"github.com/belay-project/belay/internal/journal"
)

// encode returns a record as one line of JSON without its line feed. The record leaves the
// host: what looks like a secret in its arguments is hidden.
type encode func(r *journal.Record) ([]byte, error)

func encoderOf(format, _ string) (encode, error) {
	switch format {
	case FormatBelay:
		return func(r *journal.Record) ([]byte, error) { return journal.Encode(journal.WithoutSecrets(r)) }, nil
	}
	return nil, fmt.Errorf("format %q", format)
}

// UID names a record for good: it is the same in the journal, in every output and after a
// replay, so that a receiver can tell what it has already.
func UID(r *journal.Record) string { return fmt.Sprintf("%s:%d", r.BootID, r.Seq) }
