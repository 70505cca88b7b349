package output

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/hooksig"
	"github.com/belay-project/belay/internal/journal"
)

const (
	requestTime = 10 * time.Second
	maxBody     = 512 << 10 // bytes of one request, unless one record is longer
	minSecret   = 16
	maxSecret   = 256
)

// webhook posts records to a URL, signed.
type webhook struct {
	url             *url.URL
	version, format string
	secret          []byte
	client          *http.Client
	enc             encode
	now             func() time.Time
	body            []byte
	most            int // records of one request; 0: as many as fit
	progress
}

func newWebhook(spec Spec, enc encode, version string) (*webhook, error) {
	target := spec.Target
	if path, ok := strings.CutPrefix(target, "@"); ok {
		b, err := readSecret(path, 4096)
		if err != nil {
			return nil, fmt.Errorf("the file with the URL: %w", err)
		}
		target = string(b)
	}
	u, err := webhookURL(target, true)
	if err != nil {
		return nil, err
	}
	secret, err := readSecret(spec.SecretFile, maxSecret)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("secret: want %d to %d bytes in %s", minSecret, maxSecret, spec.SecretFile)
	}
	config, err := clientTLS(&spec)
	if err != nil {
		return nil, err
	}
	return &webhook{
		url: u, version: version, format: spec.Format, secret: secret, enc: enc, now: time.Now,
		// No proxy of the environment, and no redirect: records go where the operator said.
		client: &http.Client{
			Timeout: requestTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				TLSHandshakeTimeout: requestTime, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 1, IdleConnTimeout: time.Minute, TLSClientConfig: config,
			},
		},
	}, nil
}

// exposed tells whether events leave this machine without TLS.
func (s *webhook) exposed() bool { return s.url.Scheme == "http" && !loopback(s.url.Host) }

// readSecret reads a file that others may not read, without the line feed at its end.
func readSecret(path string, longest int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case fi.Mode().Perm()&0o027 != 0:
		return nil, fmt.Errorf("%s has mode %04o: others could read or change it; fix: chmod 0600 %s", path, fi.Mode().Perm(), path)
	case fi.Size() > longest+2:
		return nil, fmt.Errorf("%s has more than %d bytes", path, longest)
	}
	b, err := io.ReadAll(io.LimitReader(f, longest+2))
	b = bytes.TrimRight(b, "\r\n")
	if err == nil && int64(len(b)) > longest {
		err = fmt.Errorf("%s has more than %d bytes", path, longest)
	}
	return b, err
}

// send posts a batch, in parts if it is large. A part that was taken is not posted again. What a
// receiver refuses for good is posted in halves, so that one record that it cannot take, or a bound
// lower than ours, takes no others along.
func (s *webhook) send(ctx context.Context, batch []*journal.Record) error {
	s.progress = progress{}
	for s.done < len(batch) {
		n := s.fill(batch[s.done:])
		if n == 0 {
			continue
		}
		final, err := s.post(ctx)
		switch {
		case err == nil:
			s.done += n
			s.most *= 2
		case final && n > 1:
			s.most = n / 2
		case final:
			s.refuse(err)
		default:
			return s.end(len(batch), err)
		}
	}
	return s.end(len(batch), nil)
}

// fill makes the body of as many records as fit, and tells how many that are.
func (s *webhook) fill(batch []*journal.Record) (n int) {
	s.body = fmt.Appendf(s.body[:0], `{"schema":%q,"format":%q,"events":[`, journal.WebhookSchema, s.format)
	for _, r := range batch {
		line, err := s.enc(r)
		if err != nil {
			if n == 0 {
				s.refuse(err)
				return 0
			}
			break // it is the first of the next part
		}
		if n > 0 && (len(s.body)+len(line) > maxBody || n == s.most) {
			break
		}
		if n > 0 {
			s.body = append(s.body, ',')
		}
		s.body = append(s.body, line...)
		n++
	}
	s.body = append(s.body, "]}"...)
	return n
}

// finals are the answers that are about what was sent, which another try does not change. All
// others may be of a receiver that is being set up or mended: RFC 9110, 15.
var finals = []int{
	http.StatusBadRequest, http.StatusLengthRequired, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong,
	http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge,
}

// post sends the body. An error never has the URL, which may be a credential.
func (s *webhook) post(ctx context.Context) (final bool, err error) {
	// The body is copied: a transport may read it for a moment after it has returned.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String(), bytes.NewReader(slices.Clone(s.body)))
	if err != nil {
		return true, errors.New("its URL cannot be used")
	}
	stamp := strconv.FormatInt(s.now().Unix(), 10)
	id := sha256.Sum256(s.body)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "belay/"+s.version)
	req.Header.Set(hooksig.HeaderDelivery, hex.EncodeToString(id[:16]))
	req.Header.Set(hooksig.HeaderTimestamp, stamp)
	req.Header.Set(hooksig.HeaderSignature, hooksig.Sign(s.secret, stamp, s.body))
	resp, err := s.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return false, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // what it says is of no use
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	return slices.Contains(finals, resp.StatusCode), fmt.Errorf("it answered %d", resp.StatusCode)
}

func (s *webhook) close() error {
	s.client.CloseIdleConnections()
	return nil
}
