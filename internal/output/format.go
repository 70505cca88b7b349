package output

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/belay-project/belay/internal/journal"
)

// encode returns a record as one line of JSON without its line feed. The record leaves the
// host: what looks like a secret in its arguments is hidden.
type encode func(r *journal.Record) ([]byte, error)

func encoderOf(format, version string) (encode, error) {
	switch format {
	case FormatBelay:
		return func(r *journal.Record) ([]byte, error) { return journal.Encode(journal.WithoutSecrets(r)) }, nil
	case FormatOCSF:
		return func(r *journal.Record) ([]byte, error) { return ocsf(r, version) }, nil
	case FormatECS:
		return func(r *journal.Record) ([]byte, error) { return ecs(r, version) }, nil
	}
	return nil, fmt.Errorf("format %q", format)
}

// outgoing returns a record as it leaves the host, and its own JSON. One that was too long for
// that is cut in what is mapped, too.
func outgoing(r *journal.Record) (*journal.Record, []byte, error) {
	r = journal.WithoutSecrets(r)
	raw, err := journal.Encode(r)
	if err != nil || !bytes.Contains(raw, []byte(`"`+journal.FlagTrimmed+`"`)) {
		return r, raw, err
	}
	cut := new(journal.Record)
	if err := json.Unmarshal(raw, cut); err != nil {
		return nil, nil, fmt.Errorf("read a cut record: %w", err)
	}
	return cut, raw, nil
}

// UID names a record for good: it is the same in the journal, in every output and after a
// replay, so that a receiver can tell what it has already.
func UID(r *journal.Record) string { return fmt.Sprintf("%s:%d", r.BootID, r.Seq) }
