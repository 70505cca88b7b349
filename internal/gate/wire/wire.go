// Package wire reads and writes HTTP/1.1 as the gate speaks it: more strictly than
// servers do, so that nothing is left that two readers could take in two ways.
//
// What a client sends is refused unless it has one meaning: lines end in CR LF, a
// field name is a token followed by a colon at once, a body has one length, a header
// that matters comes once. What the daemon answers is read with the same care, but
// its bytes are passed on as they are.
//
// It owns the buffers of its readers and nothing else. It never decides, never opens
// a connection, and imports the standard library only (row: core).
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// DefaultHeadBytes bounds a request's head. Docker's largest fields, the registry
// credentials of a build, take some kilobytes.
const DefaultHeadBytes = 64 << 10

// minBuffer holds the head of every usual request and of small answers.
const minBuffer = 4 << 10

// Error is a message that was refused, with the status that says so.
type Error struct {
	Status int
	Code   string // stable: "bad_request_line", "smuggling", ...
	Msg    string
}

// Error returns the message.
func (e *Error) Error() string { return e.Msg }

func bad(code, format string, args ...any) *Error {
	return &Error{Status: 400, Code: code, Msg: fmt.Sprintf(format, args...)}
}

// CodeHeadTooLarge is the code of a head that is longer than its bound.
const CodeHeadTooLarge = "head_too_large"

// ErrHTTP2 is returned for the connection preface of HTTP/2 with prior knowledge.
var ErrHTTP2 = errors.New("the client speaks HTTP/2")

// Reader is a buffer in front of a connection that can show a whole head at once.
type Reader struct {
	// Initial is the size of the first buffer; 4 KiB.
	Initial int

	src  io.Reader
	buf  []byte
	r, w int
}

// NewReader returns a reader of src.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

func (r *Reader) initial() int { return max(minBuffer, r.Initial) }

// Reset makes r read from src and forget what it holds.
func (r *Reader) Reset(src io.Reader) { r.src, r.r, r.w = src, 0, 0 }

// Buffered returns what was read and not consumed. It is valid until the next call.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Consume takes n bytes off the buffer, which must hold them.
func (r *Reader) Consume(n int) {
	r.r += n
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
}

// Shrink gives back a buffer that a large head has made large.
func (r *Reader) Shrink() {
	if r.r == r.w && cap(r.buf) > 2*r.initial() {
		r.buf, r.r, r.w = nil, 0, 0
	}
}

// Fill waits until at least one more byte is buffered, up to limit in all.
//
// Errors: those of the source; [io.EOF] at its end.
func (r *Reader) Fill(limit int) error {
	if r.w == len(r.buf) {
		switch {
		case r.r > 0:
			copy(r.buf, r.buf[r.r:r.w])
			r.w -= r.r
			r.r = 0
		case len(r.buf) >= limit:
			return io.ErrShortBuffer
		default:
			grown := make([]byte, min(max(r.initial(), 2*len(r.buf)), max(limit, minBuffer)))
			copy(grown, r.buf[:r.w])
			r.buf = grown
		}
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Read implements [io.Reader]. Large reads pass the buffer by when it is empty.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r < r.w {
		n := copy(p, r.buf[r.r:r.w])
		r.Consume(n)
		return n, nil
	}
	return r.src.Read(p)
}

// readByte returns the next byte.
func (r *Reader) readByte() (byte, error) {
	if r.r == r.w {
		if err := r.Fill(minBuffer); err != nil {
			return 0, err
		}
	}
	c := r.buf[r.r]
	r.Consume(1)
	return c, nil
}

var (
	crlfcrlf = []byte("\r\n\r\n")
	lflf     = []byte("\n\n")
	preface  = []byte("PRI * HTTP/2.0\r\n\r\n")
)

// head returns a whole head with its empty line, not consumed. At the end of the
// source before the first byte the error is [io.EOF], later [io.ErrUnexpectedEOF].
func (r *Reader) head(limit int) ([]byte, error) {
	from := 0
	for {
		b := r.buf[r.r:r.w]
		if i := bytes.Index(b[from:], crlfcrlf); i >= 0 {
			end := from + i + 4
			if end > limit {
				return nil, &Error{Status: 431, Code: CodeHeadTooLarge, Msg: "request header fields are too large"}
			}
			return b[:end], nil
		}
		// A head that ends otherwise would keep us waiting for the rest of it.
		if bytes.Contains(b[max(0, from-1):], lflf) {
			return nil, bad("bad_line_end", "lines of a request head end in CR LF")
		}
		from = max(0, len(b)-3)
		if len(b) >= limit {
			return nil, &Error{Status: 431, Code: CodeHeadTooLarge, Msg: "request header fields are too large"}
		}
		if err := r.Fill(limit); err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// Field is one header field. Its name is in canonical form.
type Field struct{ Name, Value string }

// Framing says where a message's body ends.
type Framing struct {
	Length  int64 // -1: not known
	Chunked bool
}

// Empty tells whether there is no body.
func (f Framing) Empty() bool { return !f.Chunked && f.Length == 0 }

// isToken marks tchar of RFC 9110, 5.6.2.
var isToken = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

// fieldLine splits one line, without its end, and trims the value.
func fieldLine(line []byte) (name, value []byte, err *Error) {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return nil, nil, bad("bad_field", "a header line has no name")
	}
	for _, c := range line[:i] {
		if !isToken[c] {
			return nil, nil, bad("bad_field", "a header name has a byte %#x", c)
		}
	}
	value = bytes.Trim(line[i+1:], " \t")
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, bad("bad_field", "the header %s has a control character", line[:i])
		}
	}
	return line[:i], value, nil
}

// nextLine returns the line at the beginning of b without its CR LF, and the rest. A
// bare CR or LF in it is an error.
func nextLine(b []byte) (line, rest []byte, err *Error) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
		return nil, nil, bad("bad_line_end", "lines of a head end in CR LF")
	}
	return b[:i-1], b[i+1:], nil
}

// digits reads a Content-Length: decimal digits and nothing else.
func digits(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	n := int64(0)
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
