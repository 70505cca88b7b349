package wire

import (
	"errors"
	"io"
)

// Body reads the body of one message and stops at its end. The zero value is empty.
type Body struct {
	r    *Reader
	left int64 // of the body, or of the chunk
	kind bodyKind
	// first: no chunk was read yet, so that no line end of one before is due.
	first bool
	err   error
	ahead []byte // read by Peek, and not yet by Read
	// Total counts the bytes of the body so far.
	Total int64
}

type bodyKind uint8

const (
	noBody bodyKind = iota
	counted
	chunked
	untilClose
)

// NewBody returns the body of a message whose head was read from r.
func NewBody(r *Reader, f Framing) Body {
	switch {
	case f.Chunked:
		return Body{r: r, kind: chunked, first: true}
	case f.Length < 0:
		return Body{r: r, kind: untilClose}
	case f.Length > 0:
		return Body{r: r, kind: counted, left: f.Length}
	}
	return Body{}
}

// Done tells whether the body was read to its end.
func (b *Body) Done() bool {
	return len(b.ahead) == 0 && (b.kind == noBody || errors.Is(b.err, io.EOF))
}

// Peek returns the first n bytes of a body of which nothing was read yet, all of a
// shorter one, and leaves them to be read.
//
// Errors: as those of Read, without [io.EOF].
func (b *Body) Peek(n int) ([]byte, error) {
	head := make([]byte, n)
	got := 0
	for got < n {
		m, err := b.read(head[got:])
		got += m
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	b.ahead = head[:got]
	return b.ahead, nil
}

// Read implements [io.Reader]. It returns [io.EOF] at the end of the body, and
// [io.ErrUnexpectedEOF] if the connection ends before.
func (b *Body) Read(p []byte) (n int, err error) {
	if len(b.ahead) > 0 {
		n = copy(p, b.ahead)
		b.ahead = b.ahead[n:]
		return n, nil
	}
	return b.read(p)
}

func (b *Body) read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	switch b.kind {
	case noBody:
		return 0, io.EOF
	case untilClose:
		n, err = b.r.Read(p)
	default:
		n, err = b.counted(p)
	}
	b.Total += int64(n)
	b.err = err
	return n, err
}

func (b *Body) counted(p []byte) (int, error) {
	if b.left == 0 {
		if b.kind == counted {
			return 0, io.EOF
		}
		size, err := b.r.chunkSize(b.first)
		if err != nil {
			return 0, unexpected(err)
		}
		b.first, b.left = false, size
		if size == 0 {
			if err := b.r.lastLine(); err != nil {
				return 0, unexpected(err)
			}
			return 0, io.EOF
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if err != nil {
		return n, unexpected(err)
	}
	if b.kind == counted && b.left == 0 {
		b.err = io.EOF
	}
	return n, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

var errChunk = bad("bad_chunk", "the chunked body is malformed")

// chunkSize reads the line that a chunk begins with. Extensions are refused: they
// mean nothing to anybody but a smuggler.
func (r *Reader) chunkSize(first bool) (int64, error) {
	if !first {
		if err := r.crlf(); err != nil {
			return 0, err
		}
	}
	var size int64
	for i := 0; ; i++ {
		c, err := r.readByte()
		if err != nil {
			return 0, err
		}
		v, ok := hexDigit(c)
		if !ok {
			if i == 0 || c != '\r' {
				return 0, errChunk
			}
			if c, err = r.readByte(); err != nil {
				return 0, err
			}
			if c != '\n' {
				return 0, errChunk
			}
			return size, nil
		}
		if i == 15 {
			return 0, errChunk
		}
		size = size<<4 | int64(v)
	}
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func (r *Reader) crlf() error {
	for _, want := range []byte("\r\n") {
		c, err := r.readByte()
		if err != nil {
			return err
		}
		if c != want {
			return errChunk
		}
	}
	return nil
}

// lastLine reads the line after the last chunk. Trailers are refused.
func (r *Reader) lastLine() error { return r.crlf() }

// Scanner finds the end of a body in bytes that are passed on as they are, framing
// included.
type Scanner struct {
	state scanState
	left  int64
	n     int // digits of the present size
}

type scanState uint8

const (
	scanDone scanState = iota
	scanCounted
	scanForever
	scanSize
	scanExt
	scanSizeLF
	scanData
	scanDataCR
	scanDataLF
	scanTrailer   // at the beginning of a line after the last chunk
	scanTrailLine // in such a line
	scanEndLF
)

// NewScanner returns a scanner of a body with this framing.
func NewScanner(f Framing) Scanner {
	switch {
	case f.Chunked:
		return Scanner{state: scanSize}
	case f.Length < 0:
		return Scanner{state: scanForever}
	case f.Length > 0:
		return Scanner{state: scanCounted, left: f.Length}
	}
	return Scanner{}
}

// Done tells whether the end was seen.
func (s *Scanner) Done() bool { return s.state == scanDone }

// Forever tells whether the body has no end but the connection's.
func (s *Scanner) Forever() bool { return s.state == scanForever }

// Scan returns how many bytes of p belong to the body.
//
// Errors: *[Error] if the framing is broken.
func (s *Scanner) Scan(p []byte) (int, error) {
	i := 0
	for i < len(p) && s.state != scanDone {
		switch s.state {
		case scanForever:
			return len(p), nil
		case scanCounted, scanData:
			n := min(int64(len(p)-i), s.left)
			i += int(n)
			if s.left -= n; s.left > 0 {
				return i, nil
			}
			if s.state == scanCounted {
				s.state = scanDone
			} else {
				s.state = scanDataCR
			}
		default:
			if err := s.step(p[i]); err != nil {
				return i, err
			}
			i++
		}
	}
	return i, nil
}

var errScan = badAnswer("its chunks are malformed")

func (s *Scanner) step(c byte) error {
	want := func(w byte, next scanState) error {
		if c != w {
			return errScan
		}
		s.state = next
		return nil
	}
	switch s.state {
	case scanSize:
		if v, ok := hexDigit(c); ok && s.n < 15 {
			s.left, s.n = s.left<<4|int64(v), s.n+1
			return nil
		}
		if s.n == 0 || c != '\r' && c != ';' && c != ' ' {
			return errScan
		}
		if s.state = scanExt; c == '\r' {
			s.state = scanSizeLF
		}
	case scanExt:
		if c == '\r' {
			s.state = scanSizeLF
		}
	case scanSizeLF:
		s.n = 0
		if s.left == 0 {
			return want('\n', scanTrailer)
		}
		return want('\n', scanData)
	case scanDataCR:
		return want('\r', scanDataLF)
	case scanDataLF:
		return want('\n', scanSize)
	case scanTrailer:
		if s.state = scanTrailLine; c == '\r' {
			s.state = scanEndLF
		}
	case scanTrailLine:
		if c == '\n' {
			s.state = scanTrailer
		}
	case scanEndLF:
		return want('\n', scanDone)
	}
	return nil
}
