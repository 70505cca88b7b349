package wire

import (
	"bytes"
	"strings"
)

// Response is the head of an answer of the daemon.
type Response struct {
	Status int
	// Raw is the head as it came, with its empty line. It is valid until the reader is
	// used again.
	Raw     []byte
	Framing Framing // Length -1 and not Chunked: the body ends with the connection
	// Hops: the head has fields that are about the daemon's connection only.
	Hops        bool
	Close       bool
	Upgrade     bool
	ContentType string
}

// maxResponseHead bounds a head that the daemon sends. Docker puts the result of a
// stat into a header, and labels of engines into others.
const maxResponseHead = 256 << 10

// ReadResponse reads the head of the answer to a request of this method. It stays in
// the buffer until it is consumed: len(p.Raw) bytes. An interim answer other than
// 101 is skipped.
//
// Errors: *[Error] for a head that cannot be read; those of the source, [io.EOF] before
// the first byte.
func (r *Reader) ReadResponse(p *Response, method string) error {
	for {
		*p = Response{}
		head, err := r.head(maxResponseHead)
		if err != nil {
			return err
		}
		if e := parseResponse(head, p, method); e != nil {
			return e
		}
		if p.Status >= 200 || p.Status == 101 {
			return nil
		}
		r.Consume(len(head))
	}
}

func parseResponse(head []byte, p *Response, method string) *Error {
	p.Raw = head
	line, rest, err := nextLine(head)
	if err != nil {
		return badAnswer("a line of its head does not end in CR LF")
	}
	// HTTP/1.1 200 OK
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) && !bytes.HasPrefix(line, []byte("HTTP/1.0 ")) {
		return badAnswer("its first line is none of HTTP/1.1")
	}
	n, ok := digits(line[9:12])
	if !ok || n < 100 || n > 599 || len(line) > 12 && line[12] != ' ' {
		return badAnswer("its status is no number")
	}
	p.Status, p.Close = int(n), line[7] == '0'
	length := int64(-1)
	for {
		if line, rest, err = nextLine(rest); err != nil {
			return badAnswer("a line of its head does not end in CR LF")
		}
		if len(line) == 0 {
			break
		}
		name, value, err := fieldLine(line)
		if err != nil {
			return badAnswer(err.Msg)
		}
		switch {
		case fold(name, "Content-Length"):
			if n, ok = digits(value); !ok || length >= 0 && n != length {
				return badAnswer("its Content-Length is no number")
			}
			length = n
		case fold(name, "Transfer-Encoding"):
			if !fold(value, "chunked") {
				return badAnswer("its Transfer-Encoding is not chunked")
			}
			p.Framing.Chunked = true
		case fold(name, "Connection"):
			p.Hops = true
			v := strings.ToLower(string(value))
			p.Close = p.Close || strings.Contains(v, "close")
			p.Upgrade = strings.Contains(v, "upgrade")
		case fold(name, "Keep-Alive"):
			p.Hops = true
		case fold(name, "Content-Type"):
			p.ContentType = contentType(value)
		}
	}
	p.frame(length, method)
	return nil
}

func (p *Response) frame(length int64, method string) {
	switch {
	case method == "HEAD", p.Status == 204, p.Status == 304, p.Status == 101:
		p.Framing = Framing{}
	case p.Framing.Chunked:
		p.Framing.Length = -1
	default:
		p.Framing.Length = length
	}
}

func badAnswer(why string) *Error {
	return &Error{Status: 502, Code: "bad_answer", Msg: "the Docker daemon's answer cannot be read: " + why}
}

// fold compares without regard to the case of ASCII letters; want has none but ASCII.
func fold(b []byte, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i, c := range b {
		w := want[i]
		if c == w {
			continue
		}
		if c|0x20 != w|0x20 || c|0x20 < 'a' || c|0x20 > 'z' {
			return false
		}
	}
	return true
}

func contentType(v []byte) string {
	if string(v) == "application/json" {
		return "application/json"
	}
	return string(v)
}

// Fields calls f for each field of the head, in order.
func (p *Response) Fields(f func(name, value []byte)) {
	_, rest, err := nextLine(p.Raw)
	for err == nil {
		var line []byte
		if line, rest, err = nextLine(rest); err != nil || len(line) == 0 {
			return
		}
		name, value, e := fieldLine(line)
		if e != nil {
			return
		}
		f(name, value)
	}
}

// AppendHead appends the head without what is about the daemon's connection, and
// without the body's framing if framed is false; extra is put at its end and holds
// whole lines.
func (p *Response) AppendHead(dst []byte, framed bool, extra string) []byte {
	i := bytes.IndexByte(p.Raw, '\n')
	dst = append(dst, "HTTP/1.1"...)
	dst = append(dst, p.Raw[8:i+1]...)
	p.Fields(func(name, value []byte) {
		switch {
		case fold(name, "Connection"), fold(name, "Keep-Alive"):
			return
		case !framed && (fold(name, "Content-Length") || fold(name, "Transfer-Encoding") || fold(name, "Trailer")):
			return
		}
		dst = append(dst, name...)
		dst = append(dst, ": "...)
		dst = append(dst, value...)
		dst = append(dst, "\r\n"...)
	})
	dst = append(dst, extra...)
	return append(dst, "\r\n"...)
}
