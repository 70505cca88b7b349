package inventory

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Ask is what the scanner asks its caller for while it reads an image that is not on this
// host: one blob, by its digest. The caller fetches; the scanner has no network.
type Ask struct {
	// Digest is "sha256:" and 64 hexadecimal digits.
	Digest string
	// Manifest says that it is a manifest or an index, which registries keep apart.
	Manifest bool
	// Layer asks for what the layer holds that the blob is, as a scanner has written it: an
	// empty answer has the scanner read the blob itself.
	Layer bool
}

// askSize is the length of an [Ask] on the wire: a letter, 64 digits, a line's end. A pipe
// takes that as one piece (pipe(7), PIPE_BUF).
const askSize = 1 + 64 + 1

// MaxAsks bounds how often one scan may ask: manifests, a configuration, and each layer
// for what it holds and for two passes.
const MaxAsks = 3*MaxLayers + 16

// Write writes the question.
func (a Ask) Write(w io.Writer) error {
	digits, ok := strings.CutPrefix(a.Digest, "sha256:")
	if !ok || !isDigits(digits) {
		return fmt.Errorf("the digest %.100q is no sha256", a.Digest)
	}
	kind := "b"
	switch {
	case a.Manifest:
		kind = "m"
	case a.Layer:
		kind = "l"
	}
	_, err := io.WriteString(w, kind+digits+"\n")
	return err
}

// ReadAsk reads a question of a scanner, as bytes of an enemy. Errors: [io.EOF] at the end.
func ReadAsk(r io.Reader) (Ask, error) {
	var b [askSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Ask{}, err
	}
	digits := string(b[1 : askSize-1])
	if b[0] != 'm' && b[0] != 'b' && b[0] != 'l' || b[askSize-1] != '\n' || !isDigits(digits) {
		return Ask{}, fmt.Errorf("a question of the scanner that is none: %.80q", b[:])
	}
	return Ask{Digest: "sha256:" + digits, Manifest: b[0] == 'm', Layer: b[0] == 'l'}, nil
}

func isDigits(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// An answer is pieces, each with its length before it (big-endian uint32); a length of 0
// ends it, and askFailed stands before the length and text of an error.
const (
	askPiece  = 64 << 10
	askFailed = 1<<32 - 1
	askText   = 1 << 10
)

// WriteAnswer writes all of r as one answer, and the error of r where it breaks off. The
// error returned is that of w.
func WriteAnswer(w io.Writer, r io.Reader) error {
	b := make([]byte, 4+askPiece)
	for {
		n, err := r.Read(b[4:])
		if n > 0 {
			binary.BigEndian.PutUint32(b, uint32(n))
			if _, err := w.Write(b[:4+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			_, err = w.Write(make([]byte, 4))
			return err
		}
		if err != nil {
			return WriteFailure(w, err)
		}
	}
}

// WriteFailure writes an answer, or its end, that is an error.
func WriteFailure(w io.Writer, failure error) error {
	text := failure.Error()
	text = text[:min(len(text), askText)]
	b := binary.BigEndian.AppendUint32(nil, askFailed)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	_, err := w.Write(append(b, text...))
	return err
}

// Answer reads one answer: it ends with [io.EOF] where the answer does. [Answer.Drain]
// before the next question.
type Answer struct {
	r    *bufio.Reader
	left uint32 // of the current piece
	err  error
}

// NewAnswer returns a reader of the answer that comes next from r.
func NewAnswer(r *bufio.Reader) *Answer { return &Answer{r: r} }

// Read implements [io.Reader].
func (a *Answer) Read(p []byte) (int, error) {
	if a.err == nil && a.left == 0 {
		a.err = a.next()
	}
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.r.Read(p[:min(len(p), int(a.left))])
	a.left -= uint32(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // an answer has an end of its own
	}
	a.err = err
	return n, err
}

func (a *Answer) next() error {
	n, err := a.number()
	switch {
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	case n == askFailed:
		if n, err = a.number(); err != nil || n > askText {
			return fmt.Errorf("an answer that broke off: %w", errors.Join(err))
		}
		text := make([]byte, n)
		if _, err := io.ReadFull(a.r, text); err != nil {
			return err
		}
		return errors.New(string(text))
	case n > askPiece:
		return fmt.Errorf("an answer with a piece of %d bytes", n)
	}
	a.left = n
	return nil
}

func (a *Answer) number() (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(a.r, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// Drain reads to the end of the answer, and returns the error it ends with, if any.
func (a *Answer) Drain() error {
	_, err := io.Copy(io.Discard, a)
	return err
}
