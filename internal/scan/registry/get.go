package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// request is one GET or HEAD.
type request struct {
	method string // GET if empty
	url    string
	accept []string
	from   int64 // the first byte that is wanted
	// moved takes an answer that leads elsewhere for one that is there.
	moved bool
}

// StatusError is an answer of a registry that is none of those asked for.
type StatusError struct {
	Status int
	URL    string
}

func (e *StatusError) Error() string {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("%s: the registry answers %d: sign in with 'docker login', or ask for the right to pull", e.URL, e.Status)
	case http.StatusNotFound:
		return e.URL + ": " + ErrNotFound.Error()
	case http.StatusTooManyRequests:
		return e.URL + ": the registry takes no more requests for now (429): sign in, or wait"
	}
	return fmt.Sprintf("%s: the registry answers %d", e.URL, e.Status)
}

// Is makes a 404 an [ErrNotFound].
func (e *StatusError) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// errTemporary wraps what may go better another time.
type errTemporary struct{ error }

func (e errTemporary) Unwrap() error { return e.error }

// temporary marks errors that are worth another try.
func temporary(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var t *transport.Error
	if errors.As(err, &t) && (t.Temporary() || t.StatusCode >= 500 || t.StatusCode == http.StatusTooManyRequests) {
		return errTemporary{err}
	}
	return err
}

// unreachable marks errors of the network that are worth another try: not those that will
// be the same.
func unreachable(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || ctx.Err() != nil || errors.Is(err, errPlain) {
		return err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return err
	}
	return errTemporary{err}
}

// Tries and pauses between them. A server may ask for more of a pause, up to maxPause.
const (
	tries      = 6
	firstPause = 500 * time.Millisecond
	maxPause   = time.Minute
)

// retry calls fn until it succeeds, fails for good, or has failed too often. after is how long a
// server asks to be left alone.
func retry(ctx context.Context, fn func() (after time.Duration, err error)) error {
	wait := firstPause
	for n := 1; ; n++ {
		after, err := fn()
		var t errTemporary
		if err == nil || !errors.As(err, &t) || n == tries {
			return err
		}
		if err := pause(ctx, max(min(after, maxPause), wait/2+rand.N(wait/2+1))); err != nil {
			return errors.Join(err, t.error)
		}
		wait *= 2
	}
}

// send makes a request and returns an answer of 200 or 206.
func (p place) send(ctx context.Context, q request) (*http.Response, error) {
	var out *http.Response
	err := retry(ctx, func() (time.Duration, error) {
		method := q.method
		if method == "" {
			method = http.MethodGet
		}
		r, err := http.NewRequestWithContext(ctx, method, q.url, nil)
		if err != nil {
			return 0, err
		}
		for _, a := range q.accept {
			r.Header.Add("Accept", a)
		}
		if q.from > 0 {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-", q.from))
		}
		res, err := p.http.Do(r) //nolint:bodyclose // the caller closes it
		if err != nil {
			return 0, unreachable(ctx, err)
		}
		switch {
		case res.StatusCode == http.StatusOK, res.StatusCode == http.StatusPartialContent && q.from > 0:
			out = res
			return 0, nil
		case q.moved && res.StatusCode >= 300 && res.StatusCode < 400:
			out = res
			return 0, nil
		}
		io.CopyN(io.Discard, res.Body, 64<<10)
		res.Body.Close()
		failed := &StatusError{Status: res.StatusCode, URL: q.url}
		if res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 || res.StatusCode == http.StatusRequestTimeout {
			return retryAfter(res), errTemporary{failed}
		}
		return 0, failed
	})
	return out, err
}

// retryAfter is how long a server asks to be left alone (RFC 9110, 10.2.3).
func retryAfter(r *http.Response) time.Duration {
	text := r.Header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n < 1<<20 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return time.Until(t)
	}
	return 0
}

// get makes a request and hands its answer to fn; one that breaks off is asked for again.
func (p place) get(ctx context.Context, q request, fn func(*http.Response) error) error {
	return retry(ctx, func() (time.Duration, error) {
		r, err := p.send(ctx, q)
		if err != nil {
			var t errTemporary
			if errors.As(err, &t) {
				err = t.error // it was tried often enough
			}
			return 0, err
		}
		defer r.Body.Close()
		if err := fn(r); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return 0, errTemporary{err}
			}
			return 0, err
		}
		return 0, nil
	})
}

// has asks whether a blob is there for who is signed in, without fetching it.
func (p place) has(ctx context.Context, digest string) error {
	stay := *p.http
	stay.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p.http = &stay
	return p.get(ctx, request{method: http.MethodHead, url: p.url("blobs", digest), moved: true}, func(*http.Response) error { return nil })
}

// blob opens a blob; the stream goes on where it broke off.
func (p place) blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	url := p.url("blobs", digest)
	b := &blob{url: url, send: func(from int64) (*http.Response, error) { return p.send(ctx, request{url: url, from: from}) }}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// blob is a stream that is asked for again from where it broke off.
type blob struct {
	send   func(from int64) (*http.Response, error)
	url    string
	body   io.ReadCloser
	at     int64 // how much was read
	size   int64 // -1 if it was not said
	breaks int   // since the last byte
}

// open asks for what follows.
func (b *blob) open() error {
	r, err := b.send(b.at)
	if err != nil {
		return err
	}
	switch {
	case b.at == 0:
		b.size = r.ContentLength
	case r.StatusCode == http.StatusOK:
		// It sends all of it again: the bytes are the same, or the scanner sees that the digest is not.
		if _, err := io.CopyN(io.Discard, r.Body, b.at); err != nil {
			r.Body.Close()
			return err
		}
	case !strings.HasPrefix(r.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.at)):
		r.Body.Close()
		return fmt.Errorf("%s: asked for what follows byte %d, the registry sends %q", b.url, b.at, r.Header.Get("Content-Range"))
	}
	b.body = r.Body
	return nil
}

// Read implements [io.Reader].
func (b *blob) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.at += int64(n)
	if n > 0 {
		b.breaks = 0
	}
	if err == nil || errors.Is(err, io.EOF) && (b.size < 0 || b.at >= b.size) {
		return n, err
	}
	if b.breaks++; b.breaks >= tries {
		return n, fmt.Errorf("%s broke off after %d bytes: %w", b.url, b.at, err)
	}
	b.body.Close()
	if again := b.open(); again != nil {
		return n, fmt.Errorf("%s broke off after %d bytes (%w), and then: %w", b.url, b.at, err, again)
	}
	return n, nil
}

// Close implements [io.Closer].
func (b *blob) Close() error { return b.body.Close() }
