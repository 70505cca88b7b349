package wire

import (
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
)

// Request is the head of one request. Its strings live as long as wanted.
type Request struct {
	Method string // one of RFC 9110's that Docker knows: GET, HEAD, POST, PUT, DELETE, OPTIONS
	// Target is path and query as sent; Path and RawQuery are its parts.
	Target, Path, RawQuery string
	Fields                 []Field
	Framing                Framing
	// Close: the client wants no further request on this connection.
	Close bool
	// Upgrade is the protocol that the client wants to change to, in lower case.
	Upgrade string
	// Continue: the client waits for 100 (Continue) before it sends the body.
	Continue bool
	// Origin: a browser says so.
	Origin string
}

// Get returns the value of a field by its canonical name; "" without.
func (q *Request) Get(name string) string {
	for i := range q.Fields {
		if q.Fields[i].Name == name {
			return q.Fields[i].Value
		}
	}
	return ""
}

// Lookup returns the value of a field by its canonical name, and whether there is one.
func (q *Request) Lookup(name string) (value string, ok bool) {
	for i := range q.Fields {
		if q.Fields[i].Name == name {
			return q.Fields[i].Value, true
		}
	}
	return "", false
}

// Header fills h, which is cleared before, with the fields.
func (q *Request) Header(h http.Header) {
	clear(h)
	for i := range q.Fields {
		h[q.Fields[i].Name] = append(h[q.Fields[i].Name], q.Fields[i].Value)
	}
}

// repeatable fields may come more than once: they say what a client can read, and what
// the session of a build offers.
func repeatable(name string) bool {
	return name == "Accept" || name == "Accept-Encoding" || name == "Accept-Language" ||
		strings.HasPrefix(name, "X-Docker-Expose-Session-")
}

const maxFields = 100

// ReadRequest reads a head and consumes it.
//
// Errors: *[Error] for what is refused; [ErrHTTP2]; [io.EOF] if the client ended the
// connection before the first byte; others of the source.
func (r *Reader) ReadRequest(q *Request, limit int) error {
	*q = Request{Fields: q.Fields[:0]}
	head, err := r.head(limit)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(head, preface) {
		return ErrHTTP2
	}
	if e := parseRequest(head, q); e != nil {
		return e
	}
	r.Consume(len(head))
	return nil
}

func parseRequest(head []byte, q *Request) *Error {
	line, rest, err := nextLine(head)
	if err != nil {
		return err
	}
	if err := requestLine(line, q); err != nil {
		return err
	}
	s := seen{length: -1}
	for {
		if line, rest, err = nextLine(rest); err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		name, value, err := fieldLine(line)
		if err != nil {
			return err
		}
		if len(q.Fields) == maxFields {
			return &Error{Status: 431, Code: CodeHeadTooLarge, Msg: "the request has too many header fields"}
		}
		f := Field{Name: canonical(name), Value: string(value)}
		if q.has(f.Name) && !repeatable(f.Name) {
			return bad("repeated_field", "the header %s comes more than once", f.Name)
		}
		q.Fields = append(q.Fields, f)
		if err := s.take(f, value, q); err != nil {
			return err
		}
	}
	return s.finish(q)
}

func (q *Request) has(name string) bool {
	for i := range q.Fields {
		if q.Fields[i].Name == name {
			return true
		}
	}
	return false
}

func requestLine(line []byte, q *Request) *Error {
	method, rest, ok1 := bytes.Cut(line, []byte{' '})
	target, proto, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 {
		return bad("bad_request_line", "the request line is not METHOD PATH HTTP/1.1")
	}
	if q.Method = knownMethod(method); q.Method == "" {
		return &Error{Status: 405, Code: "bad_method", Msg: "Docker's API has no such method"}
	}
	switch string(proto) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		return &Error{Status: 505, Code: "bad_version", Msg: "HTTP/1.0 is not spoken here: use HTTP/1.1"}
	default:
		return &Error{Status: 505, Code: "bad_version", Msg: "only HTTP/1.1 is spoken here"}
	}
	if len(target) == 0 || target[0] != '/' {
		return bad("bad_target", "the request target is not a path (requests to proxies are not accepted)")
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' || c == '\\' {
			return bad("bad_target", "the request target has a byte %#x", c)
		}
	}
	q.Target = string(target)
	q.Path, q.RawQuery, _ = strings.Cut(q.Target, "?")
	return nil
}

func knownMethod(m []byte) string {
	switch string(m) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "HEAD":
		return "HEAD"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	}
	return ""
}

// seen is what the fields of one head say of the message itself.
type seen struct {
	host, chunked, te, upgrade bool
	length                     int64
	protocol                   string
}

func (s *seen) take(f Field, value []byte, q *Request) *Error {
	switch f.Name {
	case "Host":
		s.host = true
	case "Content-Length":
		n, ok := digits(value)
		if !ok {
			return bad("bad_length", "the Content-Length is not a number")
		}
		s.length = n
	case "Transfer-Encoding":
		s.te = true
		s.chunked = strings.EqualFold(f.Value, "chunked")
	case "Connection":
		return s.connection(f.Value, q)
	case "Upgrade":
		s.protocol = strings.ToLower(f.Value)
	case "Expect":
		if !strings.EqualFold(f.Value, "100-continue") {
			return &Error{Status: 417, Code: "bad_expect", Msg: "the expectation is not 100-continue"}
		}
		q.Continue = true
	case "Origin":
		q.Origin = f.Value
	case "Trailer", "Te", "Http2-Settings", "Keep-Alive", "Proxy-Connection":
		if f.Name == "Te" || f.Name == "Keep-Alive" || f.Name == "Http2-Settings" {
			return nil // they are about this connection, and go no further
		}
		return bad("bad_field", "the header %s is not accepted", f.Name)
	}
	return nil
}

// connection reads the field that names others as being about this connection only.
// Naming any other would be a way to take it out of the request.
func (s *seen) connection(v string, q *Request) *Error {
	for opt := range strings.SplitSeq(v, ",") {
		switch strings.ToLower(strings.Trim(opt, " \t")) {
		case "", "keep-alive", "te":
		case "close":
			q.Close = true
		case "upgrade":
			s.upgrade = true
		case "http2-settings": // of an upgrade to h2c, which is the daemon's to answer
		default:
			return bad("bad_connection", "the header Connection names a field that is not about the connection")
		}
	}
	return nil
}

func (s *seen) finish(q *Request) *Error {
	switch {
	case !s.host:
		return bad("no_host", "the request has no Host header")
	case s.te && !s.chunked:
		return &Error{Status: 501, Code: "bad_transfer_encoding", Msg: "the Transfer-Encoding is not chunked"}
	case s.te && s.length >= 0:
		return bad("smuggling", "the request has a Content-Length and a Transfer-Encoding")
	case s.upgrade != (s.protocol != ""):
		return bad("bad_upgrade", "Connection and Upgrade contradict each other")
	}
	q.Upgrade = s.protocol
	q.Framing = Framing{Length: max(0, s.length), Chunked: s.chunked}
	if q.Continue && q.Framing.Empty() {
		q.Continue = false
	}
	return nil
}

// canonical returns a name in canonical form, without allocation for usual ones.
func canonical(name []byte) string {
	switch string(name) {
	case "Host", "host":
		return "Host"
	case "User-Agent", "user-agent":
		return "User-Agent"
	case "Accept-Encoding", "accept-encoding":
		return "Accept-Encoding"
	case "Accept":
		return "Accept"
	case "Content-Type", "content-type":
		return "Content-Type"
	case "Content-Length", "content-length":
		return "Content-Length"
	case "Connection", "connection":
		return "Connection"
	case "Transfer-Encoding", "transfer-encoding":
		return "Transfer-Encoding"
	}
	return textproto.CanonicalMIMEHeaderKey(string(name))
}
