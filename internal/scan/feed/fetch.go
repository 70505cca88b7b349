package feed

import (
	"context"
	"crypto/md5" //nolint:gosec // the bucket's own checksum, against accidents
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Patience of downloads.
const (
	tries      = 3
	firstByte  = 30 * time.Second
	silence    = time.Minute // without a byte
	maxHops    = 5
	maxTagText = 256
)

// errSame says that what is there is what would come.
var errSame = errors.New("not changed")

// StatusError is an answer of a server that is not what was asked for.
type StatusError struct {
	URL  string
	Code int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answers %d %s", e.URL, e.Code, http.StatusText(e.Code))
}

// checksumError says that a download is not what its server says it is.
type checksumError struct{ what string }

func (e *checksumError) Error() string { return "the " + e.what + " is not the one the server names" }

type client struct{ http.Client }

// newClient makes a client that speaks TLS, and plain HTTP only to this very host: what
// it gets decides what counts as vulnerable.
func newClient(base *url.URL) (*client, error) {
	if err := allowed(base); err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: firstByte, TLSHandshakeTimeout: firstByte,
		DisableCompression: true, // checksums are of what is stored
		ForceAttemptHTTP2:  true, MaxResponseHeaderBytes: 64 << 10,
	}
	return &client{http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= maxHops {
			return fmt.Errorf("more than %d redirects", maxHops)
		}
		return allowed(r.URL)
	}}}, nil
}

func allowed(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s: want https; plain http is for a server at 127.0.0.1 only", u.Redacted())
}

// answer is what a server says of a file.
type answer struct {
	etag     string
	modified time.Time
}

// get reads one file, again if the network or the server fails. read is called anew for
// each try.
//
// Errors: errSame if its ETag is the one given, [*StatusError], those of read.
func (u *update) get(ctx context.Context, address, etag string, read func(io.Reader) error) (a answer, err error) {
	h := http.Header{}
	if etag != "" {
		h.Set("If-None-Match", etag)
	}
	err = u.again(ctx, func() error {
		return u.ask(ctx, address, h, func(r *http.Response, body io.Reader) (err error) {
			a = answerOf(r)
			sum := newSums(r.Header)
			counted := &countReader{r: io.TeeReader(io.LimitReader(body, maxList), sum), n: &u.rep.Bytes}
			if err := read(counted); err != nil {
				return err
			}
			if sum.wanted() {
				// A list is read as far as it is news; only a whole one has a checksum.
				if n, _ := io.ReadFull(counted, make([]byte, 1)); n == 0 {
					return sum.check()
				}
			}
			return nil
		})
	})
	return a, err
}

// file downloads one file to path: to a file beside it first, from where a former try
// has stopped, and in its place when it has the server's checksum and check takes it.
func (u *update) file(ctx context.Context, address, path, etag string, check func(string) error) (a answer, err error) {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return a, err
	}
	defer f.Close()
	tag := readState(part + ".state").List
	err = u.again(ctx, func() error {
		a, err = u.part(ctx, address, f, &tag, etag, part+".state")
		return err
	})
	if errors.Is(err, errSame) {
		return a, errors.Join(err, os.Remove(part))
	}
	if err != nil {
		return a, err
	}
	defer os.Remove(part + ".state")
	if err := check(part); err != nil {
		return a, errors.Join(err, os.Remove(part))
	}
	if err := errors.Join(f.Sync(), os.Rename(part, path)); err != nil {
		return a, err
	}
	if !a.modified.IsZero() {
		return a, os.Chtimes(path, a.modified, a.modified)
	}
	return a, nil
}

// part gets what is missing of a file. tag is the ETag of what is there already.
func (u *update) part(ctx context.Context, address string, f *os.File, tag *string, same, statePath string) (a answer, err error) {
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return a, err
	}
	h := http.Header{}
	if have > 0 && *tag != "" {
		h.Set("Range", fmt.Sprintf("bytes=%d-", have))
		h.Set("If-Range", *tag)
	} else if same != "" {
		h.Set("If-None-Match", same)
	}
	err = u.ask(ctx, address, h, func(r *http.Response, body io.Reader) error {
		a = answerOf(r)
		if r.StatusCode == http.StatusPartialContent {
			if !strings.HasPrefix(r.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)) {
				return errors.Join(errors.New("the server answers with another part of the file than asked for"), f.Truncate(0))
			}
		} else {
			if have, err = f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			if err := f.Truncate(0); err != nil {
				return err
			}
			*tag = ""
			if !strings.HasPrefix(a.etag, "W/") {
				*tag = a.etag
			}
			if err := saveTag(statePath, *tag); err != nil {
				return err
			}
		}
		done, all := have, int64(-1)
		if r.ContentLength >= 0 {
			all = have + r.ContentLength
		}
		counted := readerFunc(func(p []byte) (int, error) {
			n, err := body.Read(p)
			done += int64(n)
			u.far(done, all, false)
			return n, err
		})
		n, err := io.Copy(f, io.LimitReader(counted, maxArchive-have+1))
		u.rep.Bytes += n
		if err != nil {
			return err
		}
		if have+n > maxArchive {
			return errors.Join(fmt.Errorf("the file has more than %d bytes", int64(maxArchive)), f.Truncate(0))
		}
		if err := whole(f, r.Header); err != nil {
			return errors.Join(err, f.Truncate(0))
		}
		return nil
	})
	if s, ok := errors.AsType[*StatusError](err); ok && s.Code == http.StatusRequestedRangeNotSatisfiable {
		return a, errors.Join(err, f.Truncate(0))
	}
	return a, err
}

// whole checks a file by the checksums that its server has named.
func whole(f *os.File, h http.Header) error {
	sum := newSums(h)
	if !sum.wanted() {
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	return sum.check()
}

// again calls try until it succeeds or three times, with pauses, if what failed may
// succeed later.
func (u *update) again(ctx context.Context, try func() error) (err error) {
	pause := u.Retry
	if pause <= 0 {
		pause = time.Second
	}
	for i := range tries {
		if err = try(); err == nil || !passing(err) || ctx.Err() != nil {
			return err
		}
		if i == tries-1 {
			break
		}
		u.say("%v; once more", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause << i):
		}
	}
	return fmt.Errorf("after %d tries: %w", tries, err)
}

// passing reports whether an error may not come again.
func passing(err error) bool {
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.Code >= 500 || s.Code == http.StatusTooManyRequests || s.Code == http.StatusRequestTimeout || s.Code == http.StatusRequestedRangeNotSatisfiable
	}
	_, net := errors.AsType[net.Error](err)
	_, sum := errors.AsType[*checksumError](err)
	return net || sum || errors.Is(err, io.ErrUnexpectedEOF)
}

// ask makes one request and hands its body over, for as long as bytes come.
func (u *update) ask(ctx context.Context, address string, h http.Header, read func(*http.Response, io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	if err := allowed(req.URL); err != nil {
		return err
	}
	req.Header = h.Clone()
	r, err := u.client.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	switch r.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		if h.Get("Range") == "" {
			return &StatusError{address, r.StatusCode}
		}
	case http.StatusNotModified:
		return errSame
	default:
		return &StatusError{address, r.StatusCode}
	}
	quiet := time.AfterFunc(silence, func() { cancel(io.ErrUnexpectedEOF) })
	defer quiet.Stop()
	err = read(r, readerFunc(func(p []byte) (int, error) {
		n, err := r.Body.Read(p)
		quiet.Reset(silence)
		return n, err
	}))
	if err != nil && errors.Is(context.Cause(ctx), io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: no byte in %s: %w", address, silence, io.ErrUnexpectedEOF)
	}
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type countReader struct {
	r io.Reader
	n *int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	*c.n += int64(n)
	return n, err
}

func answerOf(r *http.Response) (a answer) {
	if a.etag = r.Header.Get("ETag"); len(a.etag) > maxTagText {
		a.etag = ""
	}
	a.modified, _ = http.ParseTime(r.Header.Get("Last-Modified"))
	return a
}

// sums are the checksums that Google's storage names in x-goog-hash.
//
// Source: https://cloud.google.com/storage/docs/xml-api/reference-headers.
type sums struct {
	want map[string]string
	crc  hash.Hash32
	md5  hash.Hash
}

func newSums(h http.Header) *sums {
	s := &sums{want: map[string]string{}, crc: crc32.New(crc32.MakeTable(crc32.Castagnoli)), md5: md5.New()} //nolint:gosec // see the import
	for _, line := range h.Values("X-Goog-Hash") {
		for part := range strings.SplitSeq(line, ",") {
			if name, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && (name == "crc32c" || name == "md5") {
				s.want[name] = value
			}
		}
	}
	return s
}

func (s *sums) wanted() bool { return len(s.want) > 0 }

func (s *sums) Write(p []byte) (int, error) {
	s.crc.Write(p)
	s.md5.Write(p)
	return len(p), nil
}

func (s *sums) check() error {
	for name, got := range map[string][]byte{"crc32c": s.crc.Sum(nil), "md5": s.md5.Sum(nil)} {
		if want, ok := s.want[name]; ok && want != base64.StdEncoding.EncodeToString(got) {
			return &checksumError{name + " " + strconv.Quote(base64.StdEncoding.EncodeToString(got))}
		}
	}
	return nil
}
