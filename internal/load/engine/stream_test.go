package engine

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slow is a body that moves, slower than a stream may stand still as a whole.
type slow struct {
	n    int
	wait time.Duration
}

func (s *slow) Read(p []byte) (int, error) {
	if s.n--; s.n < 0 {
		return 0, io.EOF
	}
	time.Sleep(s.wait)
	p[0] = 'x'
	return 1, nil
}

// TestStalled: an engine that accepts and does not answer, answers half, takes half, or takes all and says nothing, does
// not keep a move for ever. One that is slow may be.
func TestStalled(t *testing.T) {
	const stall = 300 * time.Millisecond
	ended := make(chan struct{})
	var now atomic.Value // what the engine does
	now.Store("")
	hang := func(r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}
	e, err := open(t, opened(func(w http.ResponseWriter, r *http.Request) {
		mode := now.Load()
		switch {
		case mode == "no answer":
			hang(r)
		case mode == "working": // it answers at length, or goes on
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(2 * stall)
			if r.Method == "POST" {
				for range 2 {
					_, _ = io.WriteString(w, `{"status":"Extracting"}`)
					_ = http.NewResponseController(w).Flush()
					time.Sleep(2 * stall)
				}
			}
		case mode == "half":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			hang(r)
		case mode == "taken":
			_, _ = io.Copy(io.Discard, r.Body)
			hang(r)
		case r.Method == "PUT":
			_, _ = io.Copy(io.Discard, r.Body)
		default:
			for range 5 {
				time.Sleep(stall / 3)
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
			}
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(ended) }) // before the server waits for its handlers
	e.stall, e.work = stall, 10*stall
	read := func() error {
		b, err := e.Archive(t.Context(), "c", "/v")
		if err != nil {
			return err
		}
		defer b.Close()
		_, err = io.Copy(io.Discard, b)
		return err
	}
	for _, m := range []string{"no answer", "half"} {
		if now.Store(m); !errors.Is(read(), errStalled) {
			t.Errorf("read, %s: not ended", m)
		}
	}
	for _, m := range []string{"no answer", "taken"} {
		now.Store(m)
		var body io.Reader = strings.NewReader("x")
		if m == "no answer" {
			body = &slow{n: 1 << 30, wait: 0}
		}
		if err := e.Extract(t.Context(), "c", "/", io.LimitReader(body, 64<<20)); !errors.Is(err, errStalled) {
			t.Errorf("write, %s: %v", m, err)
		}
	}
	now.Store("working")
	if err := e.Extract(t.Context(), "c", "/", strings.NewReader("x")); err != nil {
		t.Errorf("what was written goes to the disk: %v", err)
	}
	if err := e.Pull(t.Context(), "web:1"); err != nil {
		t.Errorf("a large layer is unpacked: %v", err)
	}
	if _, err := e.Load(t.Context(), strings.NewReader("x")); err != nil {
		t.Errorf("a large layer is loaded: %v", err)
	}
	now.Store("")
	if err := read(); err != nil {
		t.Errorf("a slow read: %v", err)
	}
	if err := e.Extract(t.Context(), "c", "/", &slow{n: 5, wait: stall / 3}); err != nil {
		t.Errorf("a slow write: %v", err)
	}
}

// asked notes the largest part that it is asked for.
type asked struct{ left, most int }

func (a *asked) Read(p []byte) (int, error) {
	a.most = max(a.most, len(p))
	n := min(a.left, len(p))
	if a.left -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// opened is an engine that says what it is asked when it is opened, and leaves the rest to rest.
func opened(rest http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/version"):
			_, _ = io.WriteString(w, `{"ApiVersion":"1.44"}`)
		case strings.HasSuffix(r.URL.Path, "/info"):
			_, _ = io.WriteString(w, `{}`)
		default:
			rest(w, r)
		}
	})
}

// TestLargeParts: what is sent goes in large parts, all of it.
func TestLargeParts(t *testing.T) {
	const size = 3*streamBuffer + 1
	var got int64
	e, err := open(t, opened(func(_ http.ResponseWriter, r *http.Request) {
		got, _ = io.Copy(io.Discard, r.Body)
	}))
	if err != nil {
		t.Fatal(err)
	}
	body := &asked{left: size}
	if err := e.Extract(t.Context(), "c", "/", body); err != nil || got != size {
		t.Fatalf("got %d bytes, %v", got, err)
	}
	if body.most != streamBuffer {
		t.Errorf("parts of %d bytes", body.most)
	}
}

// TestTreeDigest: a gate's answer may take as long as it tells how far it is; one that stops, ends early or is no answer is an error.
func TestTreeDigest(t *testing.T) {
	const stall = 300 * time.Millisecond
	const want = "sha256-sum:00:1"
	for _, c := range []struct{ name, answer, says string }{
		{"slow", strings.Repeat("{\"bytes\":1}\n|", 6) + "{\"digest\":\"" + want + "\"}\n", ""},
		{"stalled", "{\"bytes\":1}\n||||||||||||", errStalled.Error()},
		{"cut", "{\"bytes\":1}\n", "unexpected EOF"},
		{"an error", "{\"error\":\"too deep\"}\n", "the gate says: too deep"},
		{"no JSON", "what?\n", "read the answer"},
		{"without an end", strings.Repeat("x", maxDigestLine+1), "token too long"},
		{"none", "", "it is not there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := open(t, opened(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case c.answer == "" || r.URL.Path != "/belay/v1/containers/c/digest" || r.URL.Query().Get("path") != "/v":
					w.WriteHeader(http.StatusNotFound)
				default:
					for part := range strings.SplitSeq(c.answer, "|") {
						_, _ = io.WriteString(w, part)
						_ = http.NewResponseController(w).Flush()
						time.Sleep(stall / 3)
					}
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			e.stall = stall
			got, err := e.TreeDigest(t.Context(), "c", "/v")
			switch {
			case c.says == "" && (got != want || err != nil):
				t.Errorf("got %s, %v", got, err)
			case c.says != "" && (err == nil || c.name == "none" && !errors.Is(err, ErrNotFound) || c.name != "none" && !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %s, %v, want %s", got, err, c.says)
			}
		})
	}
}
