package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

func read(text string) (*Request, *Reader, error) {
	r := NewReader(strings.NewReader(text))
	var q Request
	err := r.ReadRequest(&q, DefaultHeadBytes)
	return &q, r, err
}

func TestReadRequest(t *testing.T) {
	q, r, err := read("POST /v1.41/exec/x/start?a=b&c=d HTTP/1.1\r\nHost: d\r\nUPGRADE: tcp\r\nConnection: Keep-Alive, Upgrade\r\nContent-Length: 2\r\nX-A:  b \r\n\r\n{}rest")
	if err != nil {
		t.Fatal(err)
	}
	if q.Method != "POST" || q.Path != "/v1.41/exec/x/start" || q.RawQuery != "a=b&c=d" || q.Upgrade != "tcp" || q.Framing.Length != 2 || q.Get("X-A") != "b" {
		t.Errorf("got %+v", q)
	}
	if got := string(r.Buffered()); got != "{}rest" {
		t.Errorf("left %q", got)
	}
}

func TestReadRequestRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, code string }{
		{"two spaces", "GET  / HTTP/1.1\r\nHost: d\r\n\r\n", "bad_version"},
		{"tab", "GET\t/ HTTP/1.1\r\nHost: d\r\n\r\n", "bad_request_line"},
		{"three parts and one", "GET / x HTTP/1.1\r\nHost: d\r\n\r\n", "bad_version"},
		{"fragment", "GET /#x HTTP/1.1\r\nHost: d\r\n\r\n", "bad_target"},
		{"byte above ASCII", "GET /\xc3\xa9 HTTP/1.1\r\nHost: d\r\n\r\n", "bad_target"},
		{"star", "OPTIONS * HTTP/1.1\r\nHost: d\r\n\r\n", "bad_target"},
		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: d\r\n\r\n", "bad_version"},
		{"CR in a value", "GET / HTTP/1.1\r\nHost: d\r\nX: a\rb\r\n\r\n", "bad_line_end"},
		{"NUL in a value", "GET / HTTP/1.1\r\nHost: d\r\nX: a\x00b\r\n\r\n", "bad_field"},
		{"no colon", "GET / HTTP/1.1\r\nHost: d\r\nX\r\n\r\n", "bad_field"},
		{"LF LF", "GET / HTTP/1.1\nHost: d\n\n", "bad_line_end"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: d\r\nHost: e\r\n\r\n", "repeated_field"},
		{"length with sign", "POST / HTTP/1.1\r\nHost: d\r\nContent-Length: +1\r\n\r\n", "bad_length"},
		{"list of lengths", "POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 1, 1\r\n\r\n", "bad_length"},
		{"long length", "POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 9999999999999999999\r\n\r\n", "bad_length"},
		{"upgrade without connection", "GET / HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n\r\n", "bad_upgrade"},
		{"trailer", "GET / HTTP/1.1\r\nHost: d\r\nTrailer: X\r\n\r\n", "bad_field"},
		{"many fields", "GET / HTTP/1.1\r\nHost: d\r\n" + strings.Repeat("Accept: a\r\n", 101) + "\r\n", "head_too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := read(c.text)
			var we *Error
			if !errors.As(err, &we) || we.Code != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
	if _, _, err := read("GET / HT"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a head: %v", err)
	}
	if _, _, err := read(""); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
}

func TestBody(t *testing.T) {
	for _, c := range []struct {
		name, text, want, rest string
		f                      Framing
		bad                    bool
	}{
		{name: "counted", text: "helloGET", want: "hello", rest: "GET", f: Framing{Length: 5}},
		{name: "chunked", text: "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET", want: "abc0123456789", rest: "GET", f: Framing{Chunked: true}},
		{name: "cut", text: "hel", f: Framing{Length: 5}, bad: true},
		{name: "cut chunk", text: "5\r\nhel", f: Framing{Chunked: true}, bad: true},
		{name: "extension", text: "3;a\r\nabc\r\n0\r\n\r\n", f: Framing{Chunked: true}, bad: true},
		{name: "trailer", text: "0\r\nA: b\r\n\r\n", f: Framing{Chunked: true}, bad: true},
		{name: "size with sign", text: "-3\r\nabc\r\n0\r\n\r\n", f: Framing{Chunked: true}, bad: true},
		{name: "size too large", text: "fffffffffffffffff\r\n", f: Framing{Chunked: true}, bad: true},
		{name: "bare LF", text: "3\nabc\n0\n\n", f: Framing{Chunked: true}, bad: true},
		{name: "longer than its size", text: "3\r\nabcd\r\n0\r\n\r\n", f: Framing{Chunked: true}, bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(strings.NewReader(c.text))
			b := NewBody(r, c.f)
			got, err := io.ReadAll(&b)
			if c.bad {
				if err == nil {
					t.Errorf("got %q, want an error", got)
				}
				return
			}
			rest, rerr := io.ReadAll(r)
			if err != nil || rerr != nil || string(got) != c.want || string(rest) != c.rest || !b.Done() {
				t.Errorf("got %q, rest %q, %v", got, rest, err)
			}
		})
	}
}

// The scanner finds the same end as the body's reader, however the bytes are cut.
func TestScannerAgrees(t *testing.T) {
	text := []byte("3\r\nabc\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n")
	for step := 1; step <= len(text); step++ {
		s := NewScanner(Framing{Chunked: true})
		all := append(bytes.Clone(text), "GET"...)
		n := 0
		for off := 0; off < len(all) && !s.Done(); off += step {
			m, err := s.Scan(all[off:min(off+step, len(all))])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if n != len(text) || !s.Done() {
			t.Errorf("step %d: end at %d, want %d", step, n, len(text))
		}
	}
}

// FuzzReadRequest: what is taken, net/http takes too, and reads in the same way.
func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("POST /v1.41/containers/create?name=a HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))
	f.Add([]byte("GET /a?b HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		var q Request
		if r.ReadRequest(&q, DefaultHeadBytes) != nil {
			return
		}
		their, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			// It parses targets, which the gate leaves to its router, and hosts, which it drops.
			if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "Host") {
				return
			}
			t.Fatalf("we take %q, net/http says %v", b, err)
		}
		if their.Method != q.Method || their.RequestURI != q.Target {
			t.Fatalf("%q: we read %s %s, net/http %s %s", b, q.Method, q.Target, their.Method, their.RequestURI)
		}
		ours := NewBody(r, q.Framing)
		got, err := io.ReadAll(&ours)
		if err != nil {
			return
		}
		want, err := io.ReadAll(their.Body)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q: body %q, net/http %q (%v)", b, got, want, err)
		}
	})
}

// FuzzReadResponse: the end of an answer is where net/http sees it.
func FuzzReadResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		var p Response
		if r.ReadResponse(&p, "GET") != nil {
			return
		}
		r.Consume(len(p.Raw))
		rest := bytes.Clone(r.Buffered())
		s := NewScanner(p.Framing)
		n, err := s.Scan(rest)
		if err != nil || !s.Done() || s.Forever() {
			return
		}
		body := NewBody(NewReader(bytes.NewReader(rest[:n])), p.Framing)
		if _, err := io.ReadAll(&body); err != nil && !p.Framing.Chunked {
			t.Fatalf("%q: the scanner's end is not the body's: %v", b, err)
		}
	})
}

func FuzzChunks(f *testing.F) {
	f.Add("hello", 2)
	f.Fuzz(func(t *testing.T, text string, step int) {
		if step <= 0 || len(text) > 1<<16 {
			return
		}
		var wire strings.Builder
		for off := 0; off < len(text); off += step {
			part := text[off:min(off+step, len(text))]
			wire.WriteString(strconv.FormatInt(int64(len(part)), 16) + "\r\n" + part + "\r\n")
		}
		wire.WriteString("0\r\n\r\n")
		b := NewBody(NewReader(strings.NewReader(wire.String())), Framing{Chunked: true})
		if got, err := io.ReadAll(&b); err != nil || string(got) != text {
			t.Fatalf("got %q, %v, want %q", got, err, text)
		}
		s := NewScanner(Framing{Chunked: true})
		if n, err := s.Scan([]byte(wire.String() + "x")); err != nil || n != wire.Len() {
			t.Fatalf("the scanner's end is %d, %v, want %d", n, err, wire.Len())
		}
	})
}

// What was looked at is still there to be read.
func TestPeek(t *testing.T) {
	for _, c := range []struct {
		name, body string
		f          Framing
		want       string
	}{
		{"counted", "abcdefghij", Framing{Length: 10}, "abcdefghij"},
		{"short", "ab", Framing{Length: 2}, "ab"},
		{"chunked", "1\r\na\r\n5\r\nbcdef\r\n0\r\n\r\n", Framing{Chunked: true}, "abcdef"},
		{"none", "", Framing{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Reader
			r.Reset(iotest.OneByteReader(strings.NewReader(c.body)))
			b := NewBody(&r, c.f)
			got, err := b.Peek(4)
			if err != nil || string(got) != c.want[:min(4, len(c.want))] {
				t.Errorf("ahead: %q, %v", got, err)
			}
			if b.Done() != (c.want == "") {
				t.Errorf("done is %v", b.Done())
			}
			if all, err := io.ReadAll(&b); err != nil || string(all) != c.want || !b.Done() || b.Total != int64(len(c.want)) {
				t.Errorf("got %q, %v, done %v, %d in all", all, err, b.Done(), b.Total)
			}
		})
	}
	var r Reader
	r.Reset(strings.NewReader("a"))
	b := NewBody(&r, Framing{Length: 10})
	if _, err := b.Peek(4); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that breaks off: %v", err)
	}
}
