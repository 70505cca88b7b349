package workload

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/client"
)

// boundedClient returns an HTTP client that speaks over a Unix socket and gives
// up on bodies larger than the bounds of this package: the engine's client reads
// an answer whole, and its size is chosen by whoever may create containers.
func boundedClient(socket string) (c *http.Client, closeIdle func()) {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{Transport: boundedTransport{tr}, CheckRedirect: client.CheckRedirect}, tr.CloseIdleConnections
}

type boundedTransport struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	b := &boundedBody{body: resp.Body, limit: maxReplyBytes, what: req.URL.Path}
	switch {
	case strings.HasSuffix(req.URL.Path, "/events"):
		b.limit, b.perLine = maxEventBytes, true
	case strings.HasSuffix(req.URL.Path, "/containers/json"):
		b.limit = maxListBytes
	}
	resp.Body = b
	return resp, nil
}

// boundedBody fails with ErrTooLarge past limit bytes: of the whole body, or of
// one line of it.
type boundedBody struct {
	body    io.ReadCloser
	limit   int
	perLine bool
	what    string
	n       int
}

// Read implements [io.Reader].
func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.over(p[:n]) {
		return 0, fmt.Errorf("%s: more than %d bytes: %w", b.what, b.limit, ErrTooLarge)
	}
	return n, err
}

// over counts chunk, and reports whether the body or a line of it passes the limit.
func (b *boundedBody) over(chunk []byte) bool {
	if b.perLine {
		// The engine ends each event with a newline, and JSON has none inside a string.
		for {
			i := bytes.IndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			if b.n+i > b.limit {
				return true
			}
			b.n, chunk = 0, chunk[i+1:]
		}
	}
	b.n += len(chunk)
	return b.n > b.limit
}

// Close implements [io.Closer].
func (b *boundedBody) Close() error { return b.body.Close() }
